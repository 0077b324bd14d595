"""A table of bad inputs: for every public function, what must happen when it is given something odd.

A row is a call, and either the error that it must raise (its type, a word of the culprit and a word of the remedy in
the message) or what must be right instead. Whatever happens, the model is afterwards as before, to the last bit.
``tests/test_bad_inputs.py`` makes one test of each row; the page *How it was tested* lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import engramlib as el


@dataclass(frozen=True)
class Raises:
    """An error: its type, and expressions that the message matches: what is wrong, what would be right."""

    error: type[BaseException]
    culprit: str
    remedy: str


@dataclass(frozen=True)
class Gives:
    """No error: what is right, in words, and a function that checks it: (result, scene) -> whether."""

    words: str
    check: Callable[[Any, Scene], Any]
    warns: str | None = None  # an expression that a warning's message matches; None = no warning, "" = as it likes


@dataclass(frozen=True)
class Row:
    function: str
    given: str
    call: Callable[[Scene], Any]
    must: Raises | Gives
    model: Callable[[], nn.Module] | None = None  # another model than the small network
    edits: bool = False  # the call is meant to change the model

    def __str__(self) -> str:
        return f"{self.function}: {self.given}"


@dataclass
class Scene:
    """What a row's call finds: a model, and what belongs to the small network (a multilayer perceptron, 6-8-5-3)."""

    model: nn.Module
    path: Any  # an empty folder
    seen: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def mlp(self) -> nn.Module:
        return small()

    @cached_property
    def x(self) -> Tensor:
        return torch.randn(40, 6, generator=torch.Generator().manual_seed(1))

    @cached_property
    def y(self) -> Tensor:
        return torch.arange(40) % 3

    @cached_property
    def target(self) -> el.Moments:
        return el.collect(self.mlp, [self.x[:15]])

    @cached_property
    def reference(self) -> el.Moments:
        return el.collect(self.mlp, [self.x[15:]])

    @cached_property
    def by_concept(self) -> dict[int, el.Moments]:
        return el.collect_by_concept(self.mlp, [(self.x, self.y)], lambda batch: batch[1])

    @cached_property
    def engram(self) -> el.Engram:
        return el.extract(self.mlp, self.target, self.reference)

    def prepare(self) -> None:
        """Make everything now, so that the state before the call is the state of the call alone."""
        for name in ("x", "y", "target", "reference", "by_concept", "engram"):
            getattr(self, name)


def small() -> nn.Sequential:
    """The small network, always with the same weights; nobody's random numbers are used up."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


def made(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A model with fixed weights, nobody's random numbers used up."""

    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build()

    return make


def table() -> list[Row]:
    """Every row, in the order of the package."""
    from tests.bad_inputs import collecting, discovering, editing, erasing, estimating, judging, keeping, learning, text

    rows = [
        row
        for part in (keeping, collecting, estimating, editing, erasing, learning, discovering, judging, text)
        for row in part.ROWS
    ]
    names = [str(row) for row in rows]
    assert len(set(names)) == len(names), "two rows are called the same"
    return rows
