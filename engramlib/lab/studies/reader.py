"""The digit reader of Part I: trained alike in every chapter, and what is left of it after ten edits, one a digit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib.lab import models, training
from engramlib.lab.data import ImageData, Split

SIZES = (64, 256, 256, 10)


def trained(
    data: ImageData, seed: int, *, sizes: Sequence[int] = SIZES, epochs: int = 20, bias: bool = True
) -> nn.Module:
    """A network of `models.mlp` (fc1, fc2, ...) that learned to read `data`; `seed` fixes its start and its order."""
    model = models.mlp(list(sizes), seed=seed, bias=bias)
    training.train_classifier(model, data, epochs=epochs, lr=1e-3, batch_size=64, seed=seed)
    return model


def joined(layer) -> Tensor:
    """[W b], out x (in + 1), in float64: of a layer of a network, or of a layer of an engram."""
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().double()


def erased_and_kept(
    model: nn.Module, engrams: Mapping[int, el.Engram], split: Split, alpha: float = 1.0
) -> tuple[float, float]:
    """Ten edits, one engram each: mean accuracy on the class that is erased, and on all others.

    W − α W⁺ in every layer of the engram. Raises `ValueError` if a class of `split` has no engram.
    """
    n = int(split.y.max()) + 1
    if set(engrams) != set(range(n)):
        raise ValueError(f"erased_and_kept: engrams of {sorted(engrams)}, images of the classes 0 to {n - 1}.")
    each = torch.stack(
        [training.class_accuracy(el.ablate(model, engrams[c], alpha), split.x, split.y, n) for c in range(n)]
    )
    own = each.diagonal()
    return float(own.mean()), float((each.sum() - own.sum()) / (n * (n - 1)))
