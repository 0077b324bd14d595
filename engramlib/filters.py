"""The estimator with any filter of the target's share: W⁺ = ΔW Σ^½ f(S) Σ^(-½)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engramlib._progress import track
from engramlib.engram import Engram
from engramlib.estimator import Deltas, as_engram, fitting_layers, sharing_groups
from engramlib.moments import Moments
from engramlib.spectral import Cut, Filter, filtered


def extract_filtered(
    model: nn.Module,
    target: Moments,
    reference: Moments,
    *,
    filter: Filter | None = None,
    cut: Cut | None = None,
    base: Mapping[str, Tensor] | nn.Module | None = None,
) -> Engram:
    """The engram of a target under a filter f of its share s: W⁺ = ΔW Σ^½ f(S) Σ^(-½), layer by layer.

    With ``filter=None`` it is :func:`engramlib.extract` (and with ``specificity(λ)`` its weighted form) as long as
    the cut leaves out only directions without data; what happens otherwise stands at
    :func:`engramlib.spectral.filtered`.

    Args:
        model, target, reference, base: as in :func:`engramlib.extract`.
        filter: a function of the tensor of shares, such as ``spectral.threshold(0.5)``; None = f(s) = s.
        cut: what of Σ is inverted, such as ``spectral.ridge(1e-3)``; None = ``spectral.relative(1e-6)``. It is given
            the number of columns of both moments.

    Returns:
        Engram: as :func:`engramlib.extract`.

    Raises:
        ValueError: as :func:`engramlib.extract` and :func:`engramlib.spectral.target_share` (names the layer).

    Cost: two factorisations (≈ 18 d³) per distinct pair of Σ. Source: Eq. 3 is f(s) = s; the family is ours;
    chapter 03.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from engramlib import Moments, extract
        >>> from engramlib.spectral import specificity
        >>> model, x = nn.Linear(4, 3, bias=False), torch.randn(50, 4).double()
        >>> target, reference = (Moments({"": part.T @ part}, {"": len(part)}) for part in (x[:20], x[20:]))
        >>> mine = extract_filtered(model, target, reference, filter=specificity(3))
        >>> torch.allclose(mine[""].weight, extract(model, target, reference, specificity=3)[""].weight, atol=1e-6)
        True
    """
    layers = fitting_layers(model, {"target": target, "reference": reference})
    deltas = Deltas(base)
    found: dict[str, Tensor] = {}
    for names in track(sharing_groups(target, reference), desc="extracting"):
        plus, minus = target[names[0]], reference[names[0]]
        matrices = [deltas.of(layers[name], plus) for name in names]
        count = target.count[names[0]] + reference.count[names[0]]
        # One factorisation for all layers that read the same inputs: their weights are stacked into one tall matrix.
        heights = [matrix.shape[-2] for matrix in matrices]
        try:
            tall = filtered(torch.cat(matrices, dim=-2), plus, minus, filter=filter, cut=cut, count=count)
        except ValueError as error:
            raise ValueError(f"layer {names[0]!r}: {error}") from error
        found.update(zip(names, tall.split(heights, dim=-2), strict=True))
    return as_engram(layers, target, found)
