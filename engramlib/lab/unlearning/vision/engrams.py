"""Engrams as unlearning: no gradient, one pass over the data."""

from __future__ import annotations

import math

from torch import nn
from torch.optim.swa_utils import update_bn  # resets, averages over the batches, restores momentum

import engramlib as el
from engramlib._progress import track
from engramlib.lab.unlearning.method import Method
from engramlib.lab.unlearning.vision.descent import images
from engramlib.lab.unlearning.vision.problem import Problem

# What of the network is edited: the last share of its convolutions and linear layers, in their order.
LAYERS = {"all": 1.0, "late": 0.5, "last": 0.25}


def engram(problem: Problem, *, alpha: float, specificity: float, layers: str = "all") -> nn.Module:
    """Subtract the engram of the forget classes, with strength, specificity and layers chosen on validation images.

    Update: W <- W - α W Σ⁺(Σ⁺ + λΣ⁻)†, Σ⁺ of the forget images and Σ⁻ of the kept ones, both from the training set;
    biases are part of W. `layers`: "all" convolutions and linear layers, the "late" half or the "last" quarter of them.
    Trained: nothing, closed form; one pass over the data and one factorisation per λ serve all settings. BatchNorm:
    evaluation mode, untouched. `problem.rcond` is the cut. Source: Kwon et al. 2026 (ICML, arXiv:2606.14997); λ and the
    choice of layers are ours. Grid: three pairs (α, λ), α larger where λ is (an engram gets smaller as λ grows), times
    three sets of layers.
    """
    plus, minus = _moments(problem, None)
    key = ("engram", float(specificity), problem.rcond)
    how = {"specificity": specificity, "rcond": problem.rcond}
    found = problem.once(key, lambda: el.extract(problem.model, plus, minus, **how))
    return el.ablate(problem.model, last_layers(found, layers), alpha)


def last_layers(engram: el.Engram, layers: str) -> el.Engram:
    """The engram of "all" layers, the "late" half or the "last" quarter of them."""
    if layers not in LAYERS:
        raise ValueError(f"engram: layers must be one of {', '.join(LAYERS)}, got {layers!r}.")
    names = list(engram)[-math.ceil(LAYERS[layers] * len(engram)) :]
    return el.Engram({name: engram[name] for name in names}, engram.norms)  # exact names, where `select` takes suffixes


def engram_plain(problem: Problem) -> nn.Module:
    """The paper's estimator as it stands: α = 1, λ = 1, all convolutions and linear layers.

    Update, source and the rest as `engram`. Grid: one setting, nothing is tuned.
    """
    return engram(problem, alpha=1.0, specificity=1.0)


def engram_classifier(problem: Problem, *, alpha: float, specificity: float) -> nn.Module:
    """The engram of the classifier `fc` alone: every feature stays, so this is a control like `logit_mask`.

    Update, source and the rest as `engram`. Grid: three α times three λ.
    """
    if not isinstance(getattr(problem.model, "fc", None), nn.Linear):
        raise ValueError("engram_classifier: the model needs a linear layer .fc.")
    plus, minus = _moments(problem, "fc")
    found = el.extract(problem.model, plus, minus, specificity=specificity, rcond=problem.rcond)
    return el.ablate(problem.model, found, alpha)


def engram_bn(problem: Problem, *, alpha: float, specificity: float, layers: str = "all") -> nn.Module:
    """The engram, and then BatchNorm's running statistics anew from the kept images.

    A running mean describes the pre-activations of the unedited weights. An engram takes a share of what all classes
    have in common out of every layer, and evaluation with the old mean shifts every channel. The methods that train
    get new statistics for free. Re-estimating alone, without an engram, erases nothing.

    Update: that of `engram`, then one forward pass over the kept training images; statistics are plain averages over
    the batches. Trained: nothing. BatchNorm: training mode in that pass, evaluation mode for everything else; a model
    without BatchNorm stays as `engram` made it. Source: ours; statistics after an edit of the weights go back to
    Izmailov et al. 2018 (UAI, arXiv:1803.05407). Grid: that of `engram`.
    """
    model = engram(problem, alpha=alpha, specificity=specificity, layers=layers)
    return refit_statistics(problem, model)


def refit_statistics(problem: Problem, model: nn.Module) -> nn.Module:
    """Running means and variances of every BatchNorm layer of `model`, in place, from the kept training images.

    They are augmented as `problem.augment` says: the weights behind a BatchNorm layer were fitted to the statistics of
    such images, and those of plain photographs differ (black margins) enough to cost points without any edit.
    """
    data, rows, draws = problem.data.train, problem.rows("keep"), problem.generator(stream=5)
    picks = track(problem.batches(rows, 1), desc="running statistics", total=problem.steps(rows))
    update_bn((images(problem, data.x, data.y, picked, draws)[0] for picked in picks), model.eval())
    return model


def _moments(problem: Problem, layers: str | None) -> tuple[el.Moments, el.Moments]:
    """(Σ⁺, Σ⁻) of the training images, collected once for all settings."""

    def collect() -> dict[int, el.Moments]:
        batches = problem.data.batches("train", 256)
        return el.collect_by_concept(problem.model, batches, lambda b: problem.is_forget(b[1]).long(), layers=layers)

    moments = problem.once(("moments", layers), collect)
    return moments[1], moments[0]


_GRID = tuple(
    {"alpha": alpha, "specificity": lam, "layers": layers}
    for layers in LAYERS
    for alpha, lam in ((1.5, 1.0), (2.0, 3.0), (4.0, 10.0))
)

METHODS = (
    Method(
        "engram_classifier",
        "Engram, classifier only",
        "control",
        tuple({"alpha": alpha, "specificity": lam} for lam in (0.3, 1.0, 3.0) for alpha in (1.0, 1.5, 2.0)),
        engram_classifier,
    ),
    Method("engram_plain", "Engram, α = λ = 1", "Kwon et al. 2026, arXiv:2606.14997", ({},), engram_plain),
    Method("engram", "Engram", "Kwon et al. 2026, arXiv:2606.14997", _GRID, engram),
    Method("engram_bn", "Engram, BatchNorm refitted", "ours", _GRID, engram_bn),
)
