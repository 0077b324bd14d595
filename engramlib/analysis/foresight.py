"""What subtracting αW⁺ will do to each layer's response, before anything is edited: a parabola in α, from moments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from torch import Tensor, nn

from engramlib._fitting import fitting_layers, is_absorbed
from engramlib.engram import Engram
from engramlib.moments import Moments


@dataclass(frozen=True)
class Foresight:
    """What is foreseen of W − αW⁺ in one layer, or on average over layers, as functions of α.

    Attributes:
        overlap: tr(W Σ⁺ W⁺ᵀ) / tr(W Σ⁺ Wᵀ).
        size: tr(W⁺ Σ⁺ W⁺ᵀ) / tr(W Σ⁺ Wᵀ): the square of how large the engram's answer to the target is.
        spill: tr(W⁺ Σ⁻ W⁺ᵀ) / tr(W Σ⁻ Wᵀ): the same on what stays.
    """

    overlap: float
    size: float
    spill: float

    @property
    def alpha(self) -> float:
        """The α that leaves least of the target's response, overlap / size; 0 where the engram says nothing."""
        return self.overlap / self.size if self.size > 0 else 0.0

    def left(self, alpha: float) -> float:
        """‖(W − αW⁺)X⁺‖² / ‖WX⁺‖² = 1 − 2α·overlap + α²·size: what is left of the response to the target."""
        return 1 - 2 * _number(alpha) * self.overlap + alpha**2 * self.size

    def moved(self, alpha: float) -> float:
        """‖αW⁺X⁻‖² / ‖WX⁻‖² = α²·spill: how far the response to what stays will move."""
        return _number(alpha) ** 2 * self.spill


def foresee(model: nn.Module, engram: Engram, target: Moments, reference: Moments) -> dict[str, Foresight]:
    """What W − αW⁺ will do to each layer's response, for every α, from moments alone; nothing is edited or run.

    Give it moments of data that the engram was *not* extracted from, else ``left`` flatters it: at a fine cut W⁺
    knows its own columns by heart. :func:`overall` puts layers together; its ``.alpha`` is a strength without a grid.
    A bias that moments leave out (mode "keep", transposed convolutions) is no part of a response.

    Each layer is taken by itself, as if those below were not edited. So ``moved`` foretells the order of what different
    edits of one network cost the others; what is left of the *answers* it does not foretell (chapter 18).

    Args:
        model: the network that the engram is of, unedited.
        engram: W⁺, with any specificity and cut.
        target: moments of X⁺; more layers than the engram's do no harm.
        reference: moments of what must stay, of the same layers.

    Returns:
        Layer -> :class:`Foresight`, in the engram's order. A layer that answers one of the two with zeros everywhere
        has nothing to lose there: its numbers are 0.

    Raises:
        TypeError: not an engram, or not moments. ValueError: layers without moments, moments of another model, another
            bias mode, or NaN.

    Cost: three products of out × d × d a layer, in float64. Source: this book's own; chapter 18.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import engramlib as el
        >>> model, x = nn.Linear(2, 2, bias=False), torch.eye(2)
        >>> plus, minus = el.collect(model, [x[:1]] * 10), el.collect(model, [x[1:]] * 10)
        >>> seen = foresee(model, el.extract(model, plus, minus), plus, minus)[""]
        >>> round(seen.alpha, 3), round(seen.left(1.0), 3), round(seen.moved(1.0), 3)
        (1.0, 0.0, 0.0)
    """
    if not isinstance(engram, Engram):
        raise TypeError(f"engram: expected an Engram, got {type(engram).__name__}")
    for argument, moments in (("target", target), ("reference", reference)):
        if not isinstance(moments, Moments):
            raise TypeError(f"{argument}: expected Moments, got {type(moments).__name__}")
        if missing := [name for name in engram if name not in moments]:
            raise ValueError(f"{argument}: no moments of layer {missing[0]!r}, which the engram edits")
    names = list(engram)
    target, reference = target.select(names), reference.select(names)
    layers = fitting_layers(model, {"target": target, "reference": reference})
    found = {}
    for name in names:
        layer, entry, sigma = layers[name], engram[name], target.stored(name)
        absorbed = is_absorbed(layer, sigma)
        if entry.weight.shape != layer.weight.shape or (entry.bias is not None) != absorbed:
            raise ValueError(f"engram: layer {name!r} has another shape, or another bias mode than the moments")
        w = layer.matrix(layer.weight, layer.bias if absorbed else None)
        plus = layer.matrix(entry.weight, entry.bias if absorbed else None).to(w.device)
        own, others = target[name].to(w), reference[name].to(w)
        whole, kept = _inner(w, own, w), _inner(w, others, w)
        parts = (
            (_inner(w, own, plus), whole),
            (_inner(plus, own, plus), whole),
            (_inner(plus, others, plus), kept),
        )
        if not all(math.isfinite(value) for pair in parts for value in pair):
            raise ValueError(f"layer {name!r}: its weight, its engram or its moments have NaN or infinite entries")
        found[name] = Foresight(*(value / of if of > 0 else 0.0 for value, of in parts))
    return found


def overall(layers: Mapping[str, Foresight]) -> Foresight:
    """The mean over layers, each counting alike whatever the size of its answers; ``.alpha`` is one α for all of them.

    Raises ``ValueError`` if there are none.
    """
    if not isinstance(layers, Mapping) or not layers:
        raise ValueError("layers: expected what `foresee` returns, of at least one layer")
    each = list(layers.values())
    if wrong := [part for part in each if not isinstance(part, Foresight)]:
        raise TypeError(f"layers: expected a Foresight for each layer, got {type(wrong[0]).__name__}")
    return Foresight(*(sum(getattr(part, name) for part in each) / len(each) for name in ("overlap", "size", "spill")))


def _inner(a: Tensor, sigma: Tensor, b: Tensor) -> float:
    """tr(A Σ Bᵀ), summed over the groups of a grouped convolution."""
    return float(((a @ sigma) * b).sum())


def _number(alpha: float) -> float:
    if not isinstance(alpha, Real) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise ValueError(f"alpha: expected a finite number, got {alpha!r}")
    return float(alpha)
