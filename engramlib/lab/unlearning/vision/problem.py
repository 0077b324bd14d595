"""What every method is given: the model, the data, which classes go, and how much may be computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from engramlib.lab.data import ImageData, Split
from engramlib.lab.training import AUGMENTATIONS
from engramlib.lab.training.precision import arithmetic
from engramlib.lab.unlearning.base import BaseProblem, Memo

if TYPE_CHECKING:
    from engramlib.lab.unlearning.method import Method


@dataclass(frozen=True, eq=False)
class Problem(BaseProblem):
    """`model` was trained on `data` and should forget the classes `forget`.

    `seed` fixes every random choice of a method. `epochs`: gradient methods make that many passes over the part of the
    training images that they use (kept, forgotten or both), in batches of about `batch_size`.
    `fresh(seed)` makes an untrained network of the same architecture and `training` holds the arguments of
    `train_classifier` (epochs, lr, batch_size, ...); only `retrain` needs the two.
    `rcond` is the cut of the engram methods (see `el.extract`); the paper has 1e-6. Pooled features of a convolutional
    network have one very large eigenvalue, so a cut of 1e-3 would remove what tells the classes apart.
    `mixed`: bfloat16 arithmetic and channels-last images in the gradient methods and in scoring, about twice as fast
    for convolutions on a recent CPU. Second moments are always summed from full precision.
    `augment`: what the network's training did to its images (`Recipe.augment`). Whatever trains, or estimates
    BatchNorm's statistics anew, then sees such images too; second moments and scores are of the images as they are.
    Everything runs on the device of the model's parameters.

    Raises `ValueError` for classes that the data do not have, or if no class would be kept.
    """

    model: nn.Module
    data: ImageData
    forget: tuple[int, ...]
    seed: int = 0
    epochs: int = 2
    batch_size: int = 64
    fresh: Callable[[int], nn.Module] | None = None
    training: Mapping[str, object] = field(default_factory=dict)
    rcond: float = 1e-4
    mixed: bool = False
    augment: str | None = None
    _memo: Memo = field(default_factory=Memo, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.forget, int):
            raise ValueError(f"Problem: forget is a tuple of classes; write forget=({self.forget},).")
        object.__setattr__(self, "forget", tuple(sorted({int(c) for c in self.forget})))
        if not self.forget or any(not 0 <= c < self.data.n_classes for c in self.forget):
            raise ValueError(
                f"Problem: forget={self.forget}, but {self.data.name} has the classes 0 to {self.data.n_classes - 1}."
            )
        if len(self.forget) == self.data.n_classes:
            raise ValueError("Problem: forget names every class; at least one must be kept.")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"Problem: {name} must be at least 1, got {getattr(self, name)}.")
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"Problem: augment must be one of {AUGMENTATIONS}, got {self.augment!r}.")

    @property
    def methods(self) -> Mapping[str, Method]:
        """Every method of this room, by name."""
        from engramlib.lab.unlearning.vision.registry import METHODS  # whose methods import this module

        return METHODS

    def __len__(self) -> int:
        return len(self.data.train)

    @property
    def kept(self) -> tuple[int, ...]:
        """The classes that stay."""
        return tuple(c for c in range(self.data.n_classes) if c not in self.forget)

    def is_forget(self, y: Tensor) -> Tensor:
        """For each label, whether its class is to go."""
        return torch.isin(y, torch.tensor(self.forget, device=y.device))

    def forget_split(self, name: str | Split) -> Split:
        """The images of a split whose class is to go."""
        part = self.data.split(name)
        return part.where(self.is_forget(part.y))

    def keep_split(self, name: str | Split) -> Split:
        """The images of a split whose class stays."""
        part = self.data.split(name)
        return part.where(~self.is_forget(part.y))

    def rows(self, which: str) -> Tensor:
        """Row numbers of the training images: "forget", "keep" or "all". Rows, so that no image is copied."""
        gone = self.is_forget(self.data.train.y)
        chosen = {"forget": gone, "keep": ~gone, "all": torch.ones_like(gone)}[which]
        return chosen.nonzero().squeeze(1).cpu()

    def batches(self, rows: Tensor, passes: int, *, stream: int = 0) -> Iterator[Tensor]:
        """`rows` in a new random order for each pass, in batches of nearly equal size: BatchNorm minds a batch of one.

        `self.steps(rows)` batches a pass, none larger than `batch_size`.
        """
        generator = self.generator(stream)
        for _ in range(passes):
            order = rows[torch.randperm(len(rows), generator=generator)]
            yield from order.tensor_split(self.steps(rows))

    def steps(self, rows: Tensor) -> int:
        """Number of batches in a pass over `rows`."""
        return -(-len(rows) // self.batch_size)

    def precision(self) -> AbstractContextManager:
        """The arithmetic of a forward pass: bfloat16 if `mixed`, whatever autocast the caller stands in."""
        return arithmetic(self.device, mixed=self.mixed)

    @torch.no_grad()
    def logits(self, model: nn.Module, x: Tensor, *, batch_size: int = 1024) -> Tensor:
        """The outputs of a model in evaluation mode, float32 on the CPU. `model` is left in that mode."""
        model.eval()
        with self.precision():
            return torch.cat([model(part.to(self.device)).float().cpu() for part in x.split(batch_size)])

    def accuracies(self, model: nn.Module, split: str = "val") -> tuple[float, float]:
        """(share of right answers on the images of the forgotten classes, and on those of all others), for one split.

        Raises `FloatingPointError` if the model answers with something that is no number.
        """
        part = self.data.split(split)
        logits = self.logits(model, part.x)
        if not torch.isfinite(logits).all():
            raise FloatingPointError(f"the outputs on {split} are not finite.")
        right, gone = logits.argmax(1) == part.y.cpu(), self.is_forget(part.y.cpu())
        return float(right[gone].double().mean()), float(right[~gone].double().mean())
