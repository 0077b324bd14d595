"""One interface for every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from engramlib.lab.training.precision import arithmetic
from engramlib.lab.unlearning.base import BaseProblem

TRIES = 9  # settings of every method that has something to tune
EPOCHS = (1, 2, 4)  # passes over images that a method which trains may choose from
Settings = Mapping[str, object]


def square(**levels: Sequence[object]) -> tuple[dict[str, object], ...]:
    """Nine settings out of three levels each of two or three choices. Of three: a Latin square, so that every pair of
    levels of any two choices is tried once.

    >>> [tuple(s.values()) for s in square(lr=(1, 2, 3), share=(1, 2, 3), epochs=(1, 2, 3))][:4]
    [(1, 1, 3), (1, 2, 1), (1, 3, 2), (2, 1, 1)]
    """
    names, values = list(levels), list(levels.values())
    if len(names) not in (2, 3) or any(len(v) != 3 for v in values):
        raise ValueError("square: two or three choices of three levels each.")
    picks = [(i, j, (i + j - 1) % 3)[: len(names)] for i in range(3) for j in range(3)]
    return tuple({n: v[k] for n, v, k in zip(names, values, pick, strict=True)} for pick in picks)


@dataclass(frozen=True)
class Method:
    """A way to forget. `update(problem, **settings)` returns a new model and leaves `problem.model` as it was.
    Whatever autocast the caller stands in, a method computes in float32, or as the problem's `mixed` says.

    `name` is its key in `METHODS`, `label` what a table prints, `cites` its source. `grid` holds the settings that
    `tune` tries: `TRIES` of them, or one where there is nothing to tune. How long to train is a setting like the
    others: `epochs` stands in the grid of every method that trains, and takes the place of the problem's. The grids for
    images were laid out on validation images of `digits` and `shapes`, those for language on a rehearsal (see
    `unlearning.text`).
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
    def trains(self) -> bool:
        """Whether it makes passes over the data with gradients, and so has `epochs` to choose."""
        return any("epochs" in settings for settings in self.grid)

    @property
    def tuned(self) -> bool:
        """Whether there is anything to tune."""
        return len(self.grid) > 1

    def run(self, problem: BaseProblem, **settings: object) -> nn.Module:
        """The model that forgot, in evaluation mode. The model of the problem and torch's random state stay.

        `epochs` among the settings: that many passes instead of `problem.epochs`; a `TypeError` where nothing is
        trained. Raises `FloatingPointError` if the settings broke the model: a weight or a running statistic that is no
        number.
        """
        if "epochs" in settings:
            if not self.trains:
                raise TypeError(f"{self.name} trains nothing: it takes no epochs.")
            problem = problem.lasting(settings.pop("epochs"))
        devices = [problem.device] if problem.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), arithmetic(problem.device):
            torch.manual_seed(problem.seed)
            model = self.update(problem, **settings).eval()
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise FloatingPointError(f"{self.name}: {name!r} is not finite with {settings}.")
        return model
