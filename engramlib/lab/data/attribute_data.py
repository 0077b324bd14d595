"""Images with binary attributes instead of classes: what `faces` and `celeba` return."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from engramlib.lab.data.image_data import SPLITS


@dataclass(frozen=True)
class AttributeSplit:
    """Images `x`, N x channels x height x width in [0, 1], and `attributes`, N x k booleans.

    `identity`, N x m in [0, 1], is everything else about a generated image; N x 0 for photographs.
    """

    x: torch.Tensor
    attributes: torch.Tensor
    identity: torch.Tensor

    def __post_init__(self) -> None:
        if not len(self.x) == len(self.attributes) == len(self.identity):
            raise ValueError(
                f"AttributeSplit: x, attributes and identity have {len(self.x)}, {len(self.attributes)} and "
                f"{len(self.identity)} rows; they must match."
            )

    def __len__(self) -> int:
        return len(self.x)

    def where(self, mask: torch.Tensor) -> AttributeSplit:
        """The examples for which the boolean `mask` is true."""
        return AttributeSplit(self.x[mask], self.attributes[mask], self.identity[mask])


Data = TypeVar("Data", bound="AttributeData")


@dataclass(frozen=True)
class AttributeData:
    """Images with binary attributes, split three ways. Fit on `train`, choose settings on `val`, report `test`."""

    name: str
    attributes: Sequence[str]
    image_shape: tuple[int, int, int]
    train: AttributeSplit
    val: AttributeSplit
    test: AttributeSplit

    def column(self, attribute: str) -> int:
        """The number of `attribute`: its column in `attributes`."""
        if attribute not in self.attributes:
            raise ValueError(f"{self.name} has no attribute {attribute!r}; choose from {', '.join(self.attributes)}.")
        return list(self.attributes).index(attribute)

    def has(self, attribute: str, split: str | AttributeSplit = "train") -> torch.Tensor:
        """Which images of the split have the attribute, N booleans."""
        return self.split(split).attributes[:, self.column(attribute)]

    def split(self, name: str | AttributeSplit) -> AttributeSplit:
        """The split called `name`; an `AttributeSplit` passes through."""
        if isinstance(name, AttributeSplit):
            return name
        if name not in SPLITS:
            raise ValueError(f"{self.name} has no split {name!r}; choose from {', '.join(SPLITS)}.")
        return getattr(self, name)

    def batches(
        self, split: str | AttributeSplit = "train", size: int = 256
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """`(x, attributes)` batches in order. A list of views: it has a length and can be run through twice.

        For `el.collect(..., rows=lambda batch: batch[1][:, data.column("glasses")])`.
        """
        if size < 1:
            raise ValueError(f"batches: size must be at least 1, got {size}.")
        part = self.split(split)
        return list(zip(part.x.split(size), part.attributes.split(size), strict=True))

    def to(self: Data, device: str | torch.device) -> Data:
        return replace(
            self,
            **{
                name: AttributeSplit(*(t.to(device) for t in (part.x, part.attributes, part.identity)))
                for name, part in ((name, self.split(name)) for name in SPLITS)
            },
        )

    def fingerprint(self) -> str:
        """Sixteen hex digits that change when any pixel or attribute does."""
        digest = hashlib.sha256(repr((self.name, list(self.attributes))).encode())
        for part in map(self.split, SPLITS):
            for tensor in (part.x, part.attributes):
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
