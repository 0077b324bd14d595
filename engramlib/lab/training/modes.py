"""Models in evaluation mode, for as long as somebody measures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; every module has its own mode again on leaving, also by an error.

    The method's `engramlib.running.evaluating` does more (no hook is skipped, nothing compiled), which costs time and
    which accuracies do not need.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
