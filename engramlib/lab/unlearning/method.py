"""One interface for every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from engramlib.lab.precision import arithmetic
from engramlib.lab.unlearning.base import BaseProblem

TRIES = 9  # settings of every method that has something to tune
Settings = Mapping[str, object]


@dataclass(frozen=True)
class Method:
    """A way to forget. `update(problem, **settings)` returns a new model and leaves `problem.model` as it was.
    Whatever autocast the caller stands in, a method computes in float32, or as the problem's `mixed` says.

    `name` is its key in `METHODS`, `label` what a table prints, `cites` its source. `grid` holds the settings that
    `tune` tries: `TRIES` of them, or one where there is nothing to tune. The grids for images were laid
    out on validation images of `digits` and `shapes`, those for language on a rehearsal (see `unlearning.language`).
    """

    name: str
    label: str
    cites: str
    grid: tuple[Settings, ...]
    update: Callable[..., nn.Module]

    def __post_init__(self) -> None:
        if len(self.grid) not in (1, TRIES):
            raise ValueError(f"Method {self.name}: a grid has {TRIES} settings, or 1; this one has {len(self.grid)}.")

    @property
    def tuned(self) -> bool:
        """Whether there is anything to tune."""
        return len(self.grid) > 1

    def run(self, problem: BaseProblem, **settings: object) -> nn.Module:
        """The model that forgot, in evaluation mode. The model of the problem and torch's random state stay.

        Raises `FloatingPointError` if the settings broke the model: a weight or a running statistic that is no number.
        """
        devices = [problem.device] if problem.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), arithmetic(problem.device):
            torch.manual_seed(problem.seed)
            model = self.update(problem, **settings).eval()
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise FloatingPointError(f"{self.name}: {name!r} is not finite with {settings}.")
        return model
