"""Methods that teach wrong labels for what should go."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from engramlib._progress import track
from engramlib.lab.unlearning.method import EPOCHS, Method, square
from engramlib.lab.unlearning.vision.descent import cross_entropy, descend, images
from engramlib.lab.unlearning.vision.problem import Problem


def random_labels(problem: Problem, *, lr: float) -> nn.Module:
    """Each image of the forget set gets the label of a kept class, drawn once, at random; then train on everything.

    Loss: CE on kept images with their labels and forget images with theirs, shuffled together. Trained: everything.
    BatchNorm: training mode. Source: Golatkar et al. 2020 (CVPR, arXiv:1911.04933); Graves et al. 2021 (AAAI,
    arXiv:2010.10981). Grid: three learning rates times three numbers of epochs.
    """
    return descend(problem, "all", cross_entropy, lr=lr, labels=relabelled(problem), desc="random_labels")


def salun(problem: Problem, *, lr: float, share: float) -> nn.Module:
    """Random labels, but only the weights that matter for the forget set may move.

    Mask: the `share` of all parameters with the largest |∂CE(forget)/∂θ| at the original weights, ranked over the
    whole network, gradient in evaluation mode. Loss: that of `random_labels`. Trained: the masked weights. BatchNorm:
    training mode, so running statistics move even where its weights do not. Source: Fan et al. 2024 (ICLR,
    arXiv:2310.12508), whose default share is .5. Grid: three shares, three learning rates and three
    numbers of epochs, in a Latin square.
    """
    found = problem.once("saliency", lambda: saliency(problem))
    labels = relabelled(problem)
    return descend(problem, "all", cross_entropy, lr=lr, labels=labels, mask=top_share(found, share), desc="salun")


def relabelled(problem: Problem) -> Tensor:
    """The training labels, with those of the forget set replaced by random kept classes."""
    labels = problem.data.train.y.clone()
    rows = problem.rows("forget").to(labels.device)
    draws = torch.randint(len(problem.kept), (len(rows),), generator=problem.generator(stream=2))
    labels[rows] = torch.tensor(problem.kept)[draws].to(labels)
    return labels


def saliency(problem: Problem) -> dict[str, Tensor]:
    """|∂ mean CE(forget) / ∂θ| for every trainable parameter, at the original weights, in evaluation mode."""
    model = copy.deepcopy(problem.model).eval()
    data, rows = problem.data.train, problem.rows("forget")
    for picked in track(problem.batches(rows, 1), desc="saliency", total=problem.steps(rows)):
        with problem.precision():
            loss = cross_entropy(model, *images(problem, data.x, data.y, picked))
        (loss * len(picked) / len(rows)).backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.abs()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def top_share(values: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Boolean masks of the entries that are among the largest `share` of all entries of all tensors together."""
    if not 0 < share <= 1:
        raise ValueError(f"top_share: share must be in (0, 1], got {share}.")
    flat = torch.cat([value.flatten() for value in values.values()])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.topk(max(1, round(share * len(flat)))).indices] = True
    parts = chosen.split([value.numel() for value in values.values()])
    return {name: part.view_as(value) for (name, value), part in zip(values.items(), parts, strict=True)}


METHODS = (
    Method(
        "random_labels",
        "Random Label",
        "Golatkar et al. 2020, arXiv:1911.04933",
        square(lr=(0.002, 0.006, 0.02), epochs=EPOCHS),
        random_labels,
    ),
    Method(
        "salun",
        "SalUn",
        "Fan et al. 2024, arXiv:2310.12508",
        square(lr=(0.003, 0.01, 0.03), share=(0.1, 0.3, 0.5), epochs=EPOCHS),
        salun,
    ),
)
