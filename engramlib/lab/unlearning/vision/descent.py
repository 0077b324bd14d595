"""The one loop behind all gradient methods."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engramlib._progress import track
from engramlib.lab.training import augmented
from engramlib.lab.unlearning.vision.problem import Problem

Loss = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


def descend(
    problem: Problem,
    which: str,
    loss: Loss,
    *,
    lr: float,
    labels: Tensor | None = None,
    weight_decay: float = 0.0,
    mask: Mapping[str, Tensor] | None = None,
    desc: str = "unlearning",
) -> nn.Module:
    """A copy of the problem's model after `problem.epochs` passes of SGD (momentum .9, constant lr) over some images.

    `which`: "forget", "keep" or "all" training images. `loss(model, x, y, progress)`: what is minimised, with
    progress from 0 to 1. `labels` replaces those of the training set. `mask`: parameter name -> boolean tensor; only
    parameters where it is true move. BatchNorm is in training mode, as in the code released with the papers, and
    images are augmented as `problem.augment` says.

    Raises `FloatingPointError` as soon as the loss is no number.
    """
    model = copy.deepcopy(problem.model).train()
    data = problem.data.train
    if problem.mixed and data.x.ndim == 4:
        model.to(memory_format=torch.channels_last)
    rows = problem.rows(which)
    y = data.y if labels is None else labels
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.SGD(named.values(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    steps, draws = problem.epochs * problem.steps(rows), problem.generator(stream=3)
    for step, picked in enumerate(track(problem.batches(rows, problem.epochs), desc=desc, total=steps)):
        with problem.precision():
            value = loss(model, *images(problem, data.x, y, picked, draws), step / steps)
        if not torch.isfinite(value):
            raise FloatingPointError(f"{desc}: the loss became {value.item()} in step {step + 1}; lower lr.")
        optimiser.zero_grad()
        value.backward()
        for name, chosen in (mask or {}).items():
            if named[name].grad is not None:
                named[name].grad *= chosen
        optimiser.step()
    return model


def images(
    problem: Problem, x: Tensor, y: Tensor, rows: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """A batch on the problem's device; with a `generator`, as the network's training showed such images."""
    batch = x[rows.to(x.device)].to(problem.device)
    if generator is not None:
        batch = augmented(batch, problem.augment, generator)
    if problem.mixed and batch.ndim == 4:
        batch = batch.contiguous(memory_format=torch.channels_last)
    return batch, y[rows.to(y.device)].to(problem.device)


def forget_batches(problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the forget set without end, in an order of their own."""
    data, rows, draws = problem.data.train, problem.rows("forget"), problem.generator(stream=4)
    while True:
        for picked in problem.batches(rows, 1000, stream=1):
            yield images(problem, data.x, data.y, picked, draws)


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor, progress: float = 0.0) -> Tensor:
    """The loss that the model was trained with."""
    return F.cross_entropy(model(x).float(), y)
