"""Two methods that edit weights with a formula: unified concept editing, and task arithmetic."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib import language
from engramlib._fitting import Deltas, as_engram, fitting_layers, sharing_groups
from engramlib.lab.unlearning.method import Method, square
from engramlib.lab.unlearning.text.answers import check_idk
from engramlib.lab.unlearning.text.descent import Turn, answer_nll, descend
from engramlib.lab.unlearning.text.engrams import LAYERS, edited
from engramlib.lab.unlearning.text.problem import EPOCHS, Pair, Problem
from engramlib.running import evaluating, to_device

TARGETS = ("idk", "zero")


def uce(problem: Problem, *, keep: float, layers: str = "all", target: str = "idk") -> nn.Module:
    """Give the columns of the answers to forget the outputs of "I don't know", and retained columns their own.

    Update: in each layer, W <- (Σ_f v* cᵀ + κ W Σ_k c cᵀ + ρ W) (Σ_f c cᵀ + κ Σ_k c cᵀ + ρ I)⁻¹, the minimiser of
    Σ_f ‖W'c - v*‖² + κ Σ_k ‖W'c - Wc‖² + ρ ‖W' - W‖². c are the columns that the layer reads at the answers' tokens of
    the forget set (f) and of the retained questions (k), κ = `keep`, ρ = `problem.rcond` times the largest eigenvalue.
    `target`: "idk" = v* = W c̄, c̄ the mean column at the tokens of "That is not known." and the like (all of
    `problem.idk`, as answers to the questions to forget), as the paper goes to a neutral concept; "zero" = v* = 0.
    With target zero and κ = λ this is W - W Σ⁺(Σ⁺ + λΣ⁻ + ρI)⁻¹, the engram at α = 1 with a ridge for its cut; so zero
    is not on the grid. Trained: nothing, closed form; biases stay. `layers`: a key of `LAYERS`, or an expression; the
    paper edits keys and values of cross-attention. Source: Gandikota et al. 2024 (WACV, arXiv:2308.14761), Eq. 7. Grid:
    three κ times three sets of layers.

    Raises `ValueError` for another target, or for layers that are no modules of their own (experts of a mixture).
    """
    if target not in TARGETS:
        raise ValueError(f"uce: target must be one of {', '.join(TARGETS)}, got {target!r}.")
    chosen = LAYERS.get(layers, layers)
    plus, minus = problem.moments(chosen, bias="keep")
    means = problem.once(("idk columns", chosen), lambda: _columns(problem, plus)) if target == "idk" else {}
    found, known, deltas = {}, fitting_layers(problem.model, {"forget": plus, "retain": minus}), Deltas(None)
    for names in sharing_groups(plus, minus):
        sigma = plus[names[0]].double()
        total = sigma + keep * minus[names[0]].double()
        ridge = problem.rcond * torch.linalg.eigvalsh(total)[-1]
        total = total + ridge * torch.eye(len(total)).to(total)
        if means:
            neutral, summed = means[names[0]]
            sigma = sigma - torch.outer(neutral, summed)  # what stays of W Σ_f once W c̄ is put in its place
        share = torch.linalg.solve(total, sigma.mT).mT
        for name in names:
            found[name] = deltas.of(known[name], plus[name]).double() @ share
    return edited(problem, as_engram(known, plus, found))


def _columns(problem: Problem, moments: el.Moments) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer -> (mean column at the tokens of "I don't know", sum of the columns at those of the answers to forget)."""
    check_idk(problem)
    idk = [(prompt, " " + sentence) for sentence in problem.idk for prompt, _ in problem.forget_pairs]
    said, forgotten = _sums(problem, idk, list(moments)), _sums(problem, problem.forget_pairs, list(moments))
    return {name: (said[name][0] / said[name][1], forgotten[name][0]) for name in moments}


def _sums(problem: Problem, pairs: list[Pair], names: list[str]) -> dict[str, tuple[Tensor, int]]:
    """Layer -> (sum of the columns that it reads at the answers' tokens, their number), float64."""
    modules = dict(problem.model.named_modules())
    missing = [name for name in names if name not in modules]
    if missing:
        raise ValueError(f"uce: {missing[0]!r} is no module of its own; choose others with layers.")
    sums: dict[str, Tensor] = {}
    rows: Tensor | None = None
    count = 0

    def hook(name: str):
        def add(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            column = args[0][rows].double().sum(0)
            sums[name] = sums[name] + column if name in sums else column

        return add

    handles = [modules[name].register_forward_pre_hook(hook(name)) for name in names]
    try:
        with evaluating(problem.model), torch.no_grad():
            for batch in language.batches(problem.tokenizer, pairs, batch_size=4 * problem.batch_size, eos=problem.eos):
                batch = to_device(batch, problem.device)
                rows = language.answer_rows(batch, shift=problem.shift)
                count += int(rows.sum())
                problem.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    finally:
        for handle in handles:
            handle.remove()
    return {name: (total, count) for name, total in sums.items()}


def task_arithmetic(problem: Problem, *, lr: float, alpha: float) -> nn.Module:
    """Learn the answers to forget a little more, and go the other way.

    Update: θ <- θ - α (θ_f - θ), θ_f = the model after further training on the forget set: `problem.epochs` passes with
    NLL(forget). Trained: everything, once for each learning rate and number of epochs; α costs nothing. No retained
    question is looked at. Source: Ilharco et al. 2023 (ICLR, arXiv:2212.04089), "forgetting via negation". Grid: three
    learning rates, three α and three numbers of epochs, in a Latin square.
    """

    def loss(model: nn.Module, turn: Turn) -> Tensor:
        return answer_nll(model, turn.forget)

    further = problem.once(
        ("further", lr, problem.epochs), lambda: descend(problem, loss, lr=lr, desc="task arithmetic")
    )
    model, learned = copy.deepcopy(problem.model), dict(further.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= alpha * (learned[name] - parameter)
    return model


METHODS = (
    Method(
        "uce",
        "UCE",
        "Gandikota et al. 2024, arXiv:2308.14761",
        tuple({"keep": keep, "layers": layers} for layers in ("all", "write", "mlp") for keep in (0.3, 0.6, 1.0)),
        uce,
    ),
    Method(
        "task_arithmetic",
        "Task Arithmetic",
        "Ilharco et al. 2023, arXiv:2212.04089",
        square(lr=(1e-4, 2e-4, 3e-4), alpha=(2.0, 4.0, 6.0), epochs=EPOCHS),
        task_arithmetic,
    ),
)
