"""What `Method`, `tune` and `apply` ask of a problem, whatever the model is."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from engramlib.lab.unlearning.passes import Read, reading

if TYPE_CHECKING:
    from engramlib.lab.unlearning.method import Method

T = TypeVar("T")


class Memo:
    """Results that several settings share, with what the first one paid for them: seconds, and data that it read."""

    def __init__(self) -> None:
        self.results: dict[Hashable, tuple[object, float, Read]] = {}
        self.saved = 0.0
        self.read = Read()


class BaseProblem(ABC):
    """A model that should forget something, and a way to score what came of it.

    A subclass is a frozen dataclass with the fields `model`, `seed` and `_memo`, and says what `accuracies` are.
    """

    model: nn.Module
    seed: int
    _memo: Memo

    @abstractmethod
    def accuracies(self, model: nn.Module) -> tuple[float, float]:
        """(share of right answers about what should go, about what should stay), on what settings are chosen with.

        Raises `FloatingPointError` if the model answers with something that is no number.
        """

    @property
    @abstractmethod
    def methods(self) -> Mapping[str, Method]:
        """Every way to make such a model forget, by name."""

    def goal(self) -> float:
        """What a model gets right of what should go if it never learned it, from 0 to 1: what forgetting aims at.

        0 for classes: who was never taught one does not answer it.
        """
        return 0.0

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def generator(self, stream: int = 0) -> torch.Generator:
        """A random generator on the CPU, fixed by `seed`; another `stream`, other numbers."""
        return torch.Generator().manual_seed(8 * self.seed + stream)

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """`compute()` the first time, its result from then on: what the settings of a method share.

        `tune` adds the seconds and the passes that were saved to a setting's own, so that each row says what the
        setting costs alone. Do not nest: the inner result would be charged once only.
        """
        if key in self._memo.results:
            result, seconds, read = self._memo.results[key]
            self._memo.saved += seconds
            self._memo.read += read
            return result
        started = time.perf_counter()
        with reading(self.model) as read:
            result = compute()
        self._memo.results[key] = (result, time.perf_counter() - started, read)
        return result

    @property
    def saved_seconds(self) -> float:
        """What `once` has saved so far."""
        return self._memo.saved

    @property
    def saved_reading(self) -> Read:
        """The data that did not have to be read because of `once`, so far."""
        return replace(self._memo.read)

    @abstractmethod
    def __len__(self) -> int:
        """How many examples a pass over the training data has, to forget and to keep."""

    def lasting(self, epochs: int) -> BaseProblem:
        """The same problem with another number of `epochs`; what is shared stays shared."""
        found = replace(self, epochs=epochs)  # type: ignore[type-var]  # subclasses are dataclasses
        object.__setattr__(found, "_memo", self._memo)
        return found
