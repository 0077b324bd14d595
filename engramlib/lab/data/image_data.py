"""The one shape every image data set comes in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch

SPLITS = ("train", "val", "test")


class DatasetUnavailable(RuntimeError):
    """A data set cannot be read and cannot be fetched. The message says what was tried and what to do."""


@dataclass(frozen=True)
class Split:
    """Inputs `x` (N first) and integer labels `y` (N)."""

    x: torch.Tensor
    y: torch.Tensor

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"Split: x has {len(self.x)} rows but y has {len(self.y)} labels; they must match.")

    def __len__(self) -> int:
        return len(self.y)

    def where(self, mask: torch.Tensor) -> Split:
        """The examples for which the boolean `mask` is true."""
        return Split(self.x[mask], self.y[mask])

    def sample(self, per_class: int, seed: int = 0) -> Split:
        """`per_class` examples of each class, drawn without replacement; all of a class that has no more."""
        if per_class < 1:
            raise ValueError(f"sample: per_class must be at least 1, got {per_class}.")
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(seed)).to(self.y.device)
        rows = [order[self.y[order] == label][:per_class] for label in self.y.unique()]
        rows = torch.cat(rows).sort().values
        return Split(self.x[rows], self.y[rows])


T = TypeVar("T")


@dataclass(frozen=True)
class Splits(Generic[T]):
    """Classified images, split three ways. Fit on `train`, choose settings on `val`, report `test`.

    Where the classes form groups, `superclasses` names the groups and `superclass_of[c]` is the group of class c.
    """

    name: str
    classes: Sequence[str]
    image_shape: tuple[int, int, int]
    train: T
    val: T
    test: T
    superclasses: Sequence[str] = ()
    superclass_of: Sequence[int] = ()

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    def split(self, name: str | T) -> T:
        """The split called `name`; a split passes through."""
        if not isinstance(name, str):
            return name
        if name not in SPLITS:
            raise ValueError(f"{self.name} has no split {name!r}; choose from {', '.join(SPLITS)}.")
        return getattr(self, name)


@dataclass(frozen=True)
class ImageData(Splits[Split]):
    """Images in memory. `x` is N x channels x height x width in [0, 1], or N x d after `flat()`; `image_shape` stays,
    so that a flat image can still be drawn.
    """

    def batches(self, split: str | Split = "train", size: int = 256) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """`(x, y)` batches in order. A list of views: it has a length and can be run through twice."""
        if size < 1:
            raise ValueError(f"batches: size must be at least 1, got {size}.")
        part = self.split(split)
        return list(zip(part.x.split(size), part.y.split(size), strict=True))

    def flat(self) -> ImageData:
        """The same data with each image as one row: N x d."""
        return self._each(lambda s: Split(s.x.flatten(1), s.y))

    def to(self, device: str | torch.device) -> ImageData:
        return self._each(lambda s: Split(s.x.to(device), s.y.to(device)))

    def fingerprint(self) -> str:
        """Sixteen hex digits that change when any label or pixel does. About a second for MNIST."""
        digest = hashlib.sha256(repr((self.name, list(self.classes))).encode())
        for name in SPLITS:
            part = self.split(name)
            for tensor in (part.x, part.y):
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _each(self, change) -> ImageData:
        return replace(self, **{name: change(self.split(name)) for name in SPLITS})
