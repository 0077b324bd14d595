"""Engrams as unlearning: no gradient, one pass over the data, one factorisation for all settings that share a λ."""

from __future__ import annotations

from torch import nn

import engramlib as el
from engramlib import language
from engramlib.lab.unlearning.method import Method
from engramlib.lab.unlearning.text.problem import Problem
from engramlib.layers import supported_layers, tied_to_embeddings

# What of the model is edited. Expressions for the names of Llama, Mistral, Qwen, Gemma; any other expression works too.
LAYERS = {
    "all": None,  # every supported layer, without an output layer that is tied to the embedding
    "blocks": r".*\.(q|k|v|o|gate|up|down)_proj",  # all but the output layer
    "write": r".*\.(v|o|up|down)_proj",  # what is carried over, without what decides where to look: Q, K, gate
    "mlp": r".*\.(up|down)_proj",  # of that, the MLPs' part
}


def engram(problem: Problem, *, alpha: float, layers: str = "all") -> nn.Module:
    """Subtract the engram of the answers to forget, with the same strength in every layer.

    Update: W <- W - α W Σ⁺(Σ⁺ + Σ⁻)†, Σ⁺ summed over the answers' tokens of the forget set, Σ⁻ over those of the
    retained questions. Trained: nothing, closed form; one pass over the data and one factorisation serve all α.
    `layers`: a key of `LAYERS`, or an expression for `el.collect`. `problem.rcond` is the cut. Source: Kwon et al. 2026
    (ICML, arXiv:2606.14997), there with α = .6. Grid: nine α.
    """
    return edited(problem, extracted(problem, 1.0, layers), alpha)


def engram_norm(problem: Problem, *, alpha: float, layers: str = "all") -> nn.Module:
    """Subtract the engram, more of it from layers that hold more of it (the paper's α_W-Norm).

    Update: W_ℓ <- W_ℓ - α s_ℓ W_ℓ⁺, s_ℓ = r_ℓ / max r, r_ℓ = ‖W_ℓ⁺‖/‖W_ℓ‖, W⁺ as in `engram`, as are the rest and the
    source; there α = 1. Trained: nothing. Grid: nine α.
    """
    return edited(problem, extracted(problem, 1.0, layers).norm_weighted(), alpha)


def engram_lambda(problem: Problem, *, alpha: float, specificity: float, layers: str = "all") -> nn.Module:
    """α_W-Norm with a weight on what must stay, and a choice of layers.

    Update: that of `engram_norm` with W⁺ = W Σ⁺(Σ⁺ + λΣ⁻)†, λ = `specificity`. Trained: nothing. Source: Kwon et al.
    2026 (ICML, arXiv:2606.14997) for the estimator and the strengths; λ and the choice of layers are ours. Grid: three
    λ for each of three sets of layers, each with an α of its own: an engram gets smaller as λ grows, and strengths are
    relative to the layer that holds most.
    """
    return edited(problem, extracted(problem, specificity, layers).norm_weighted(), alpha)


def extracted(problem: Problem, specificity: float, layers: str) -> el.Engram:
    """The engram of the forget set against the retained questions, once for all settings."""
    chosen = LAYERS.get(layers, layers)
    plus, minus = problem.moments(None if layers in LAYERS else chosen)
    how = {"specificity": specificity, "rcond": problem.rcond}
    found = problem.once(
        ("engram", float(specificity), None if layers in LAYERS else chosen),
        lambda: el.extract(problem.model, plus, minus, **how),
    )
    return found if chosen is None or layers not in LAYERS else found.select(chosen)


def edited(problem: Problem, engram: el.Engram, alpha: float = 1.0) -> nn.Module:
    """A copy without the engram. An output layer that is tied to the embedding is untied first, if it has a part."""
    tied = tied_to_embeddings(problem.model, supported_layers(problem.model))
    if any(name in engram for name in tied):
        return el.ablate(language.untie(problem.model), engram, alpha, inplace=True)
    return el.ablate(problem.model, engram, alpha)


METHODS = (
    Method(
        "engram",
        "Engram, uniform",
        "Kwon et al. 2026, arXiv:2606.14997",
        tuple({"alpha": alpha} for alpha in (0.4, 0.6, 0.8, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0)),
        engram,
    ),
    Method(
        "engram_norm",
        "Engram, α_W-Norm",
        "Kwon et al. 2026, arXiv:2606.14997",
        tuple({"alpha": alpha} for alpha in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)),
        engram_norm,
    ),
    Method(
        "engram_lambda",
        "Engram, λ and layers",
        "Kwon et al. 2026, arXiv:2606.14997",
        tuple(
            {"alpha": alpha, "specificity": lam, "layers": layers}
            for layers, alphas in (("all", (4.0, 9.0, 23.0)), ("write", (4.5, 9.0, 24.0)), ("mlp", (2.2, 4.5, 14.0)))
            for alpha, lam in zip(alphas, (1.0, 3.0, 10.0), strict=True)
        ),
        engram_lambda,
    ),
)
