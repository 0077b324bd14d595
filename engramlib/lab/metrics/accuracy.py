"""Accuracies before and after unlearning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from engramlib.lab.data import ImageData, Split
from engramlib.lab.training import accuracy


def erased_and_kept(
    model: nn.Module, data: ImageData, forget: Sequence[int], split: str = "test"
) -> tuple[float, float]:
    """(accuracy on the images of the classes `forget`, accuracy on all others), for one split."""
    part, gone = data.split(split), which(data, forget, split)
    return tuple(accuracy(model, part.x[mask], part.y[mask]) for mask in (gone, ~gone))


@dataclass(frozen=True)
class ToW:
    """`forget`, `retain` and `test` are 1 - |accuracy - accuracy of the retrained model|; `value` is their product."""

    forget: float
    retain: float
    test: float

    @property
    def value(self) -> float:
        return self.forget * self.retain * self.test


def tow(model: nn.Module, retrained: nn.Module, data: ImageData, forget: Sequence[int]) -> ToW:
    """Tug of war: how close three accuracies come to those of a model that was trained without the classes `forget`.

    ToW = Π (1 - |acc - acc_retrained|) over the forget set and the retain set, both training images, and the test
    images of the kept classes (a class that was never trained on has no test accuracy to match: including it would
    count the forget set twice). In [0, 1]; 1 = like the retrained model. Source: Zhao et al. 2024 (NeurIPS,
    arXiv:2406.01257); the paper's Table 2 and chapter 09. Cost: two forward passes over training and test images.
    """
    gone, kept_test = which(data, forget, "train"), ~which(data, forget, "test")
    parts = (data.train.where(gone), data.train.where(~gone), data.test.where(kept_test))
    return ToW(*(1 - abs(accuracy(model, p.x, p.y) - accuracy(retrained, p.x, p.y)) for p in parts))


def which(data: ImageData, forget: Sequence[int], split: str | Split) -> torch.Tensor:
    """For each image of a split, whether its class is one of `forget`. Raises `ValueError` for unknown classes."""
    forget = [forget] if isinstance(forget, int) else list(forget)
    if not forget or any(not 0 <= c < data.n_classes for c in forget) or len(set(forget)) >= data.n_classes:
        raise ValueError(
            f"forget must name some, not all, of the classes 0 to {data.n_classes - 1} of {data.name}; got {forget}."
        )
    y = data.split(split).y
    return torch.isin(y, torch.tensor(forget, device=y.device))
