"""The target's share of each direction, and the estimators that are a filter of it: W⁺ = ΔW Σ^½ f(S) Σ^(-½)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from engramlib._fitting import Deltas, as_engram, fitting_layers, is_absorbed, sharing_groups
from engramlib._progress import track
from engramlib.analysis.cuts import Cut, check_square, or_default
from engramlib.engram import Engram
from engramlib.moments import Moments
from engramlib.spectral import scaled, units_of

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class TargetShare:
    """The joint spectrum of Σ⁺ and Σ = Σ⁺ + Σ⁻: what part of each whitened direction is the target's.

    With Σ^(-½) the inverse root on the kept directions, S = Σ^(-½) Σ⁺ Σ^(-½) has eigenvectors uᵢ and eigenvalues
    sᵢ ∈ [0, 1]. Column i of ``patterns`` is Σ^½ uᵢ, row i of ``readouts`` is uᵢᵀ Σ^(-½); readouts @ patterns = I, and

        Σ⁺ = patterns diag(s) patternsᵀ,   Σ⁻ = patterns diag(1 − s) patternsᵀ

    (on the kept directions): after one change of basis, target and reference are both diagonal.

    Attributes:
        shares: s, shape (k,), largest first.
        patterns: shape (d, k).
        readouts: shape (k, d).
    """

    shares: Float[Tensor, " k"]
    patterns: Float[Tensor, "d k"]
    readouts: Float[Tensor, "k d"]

    @property
    def rank(self) -> int:
        """k, the number of directions above the cut."""
        return len(self.shares)

    @property
    def owned(self) -> float:
        """Σᵢ sᵢ = tr P⁺: how many directions the target owns, each counted by its share; between 0 and k."""
        return float(self.shares.sum())

    def projection(self, filter: Filter | None = None) -> Float[Tensor, "d d"]:
        """P = Σ^½ f(S) Σ^(-½); with ``filter=None``, f(s) = s and P = P⁺, the soft projection of the paper."""
        return (self.patterns * apply_filter(filter, self.shares)) @ self.readouts


def target_share(
    plus: Float[Tensor, "d d"], minus: Float[Tensor, "d d"], *, cut: Cut | None = None, count: int | None = None
) -> TargetShare:
    """The target's share s of each whitened direction: eigenvalues of S = Σ^(-½) Σ⁺ Σ^(-½), Σ = Σ⁺ + Σ⁻.

    s = 1: only the target uses the direction; 0: only the reference; a direction that all data use alike has the
    target's share of the data, n⁺/(n⁺ + n⁻). Unlike the eigenvalues of Σ⁺, s does not change when the
    inputs are scaled or mixed: Σ± → MΣ±Mᵀ leaves it as it is, for any invertible M.

    Args:
        plus: Σ⁺, symmetric positive semi-definite, shape (d, d). For a grouped convolution, one group.
        minus: Σ⁻ of the same shape.
        cut: what of Σ is inverted; None = ``relative(1e-6)``. See :class:`Cut`.
        count: number of columns behind Σ, for :func:`edge`.

    Returns:
        TargetShare: without any direction (rank 0) if the cut leaves none.

    Raises:
        ValueError: shapes that differ or are not square, NaN, or a Σ⁻ that is not positive semi-definite (shares
            outside [0, 1] by more than rounding: was the target not contained in the total?).

    Cost: two eigenvalue decompositions, about 18 d³, and 24 d² bytes, in float64. Source: Eq. 3, read in whitened
    coordinates (a generalised eigenvalue problem); chapter 03.

    Example:
        >>> import torch
        >>> plus, minus = torch.diag(torch.tensor([4.0, 1.0, 0.0])), torch.diag(torch.tensor([0.0, 3.0, 5.0]))
        >>> [round(s, 6) for s in target_share(plus, minus).shares.tolist()]
        [1.0, 0.25, 0.0]
    """
    check_square(plus, "plus")
    check_square(minus, "minus")
    if plus.shape != minus.shape:
        raise ValueError(f"plus and minus differ in shape: {tuple(plus.shape)} and {tuple(minus.shape)}")
    plus, minus = plus.double(), minus.double().to(plus.device)
    values, vectors = torch.linalg.eigh(plus + minus)
    worked = or_default(cut)(values, count)
    kept = worked > 0
    if not kept.any():  # a layer that saw nothing, or nothing above the noise: no directions, and engrams of zero
        d = len(values)
        return TargetShare(values.new_zeros(0), values.new_zeros(d, 0), values.new_zeros(0, d))
    root = worked[kept].sqrt()
    basis = vectors[:, kept]
    whiten = basis / root  # (d, k)
    shares, turn = torch.linalg.eigh(whiten.T @ plus @ whiten)
    # Rounding in Σ, whose products may have been made in float32, is amplified by 1/λ in whitened coordinates.
    slack = min(0.05, 1e-7 + 1e-8 * float(values[-1].clamp_min(0) / worked[kept].amin()))
    if shares[0] < -slack or shares[-1] > 1 + slack:
        raise ValueError(
            f"plus and minus: shares from {float(shares[0]):.3g} to {float(shares[-1]):.3g}, outside [0, 1]:"
            " one of them is not a second moment (was the target contained in the total it was subtracted from?)"
        )
    shares, turn = shares.flip(0).clamp(0, 1), turn.flip(1)
    return TargetShare(shares, (basis * root) @ turn, turn.T @ whiten.T)


# ------------------------------------------------------------------------------------------------- filters of the share

Filter: TypeAlias = "Callable[[Tensor], Tensor]"


def specificity(lam: float) -> Filter:
    """f(s) = s/(s + λ(1 − s)): the estimator with specificity λ. λ = 1 is f(s) = s, the paper.

    λ = ``inf`` keeps only what nobody else uses, s = 1 (to 1e-9): the hard constraint W⁺X⁻ = 0. λ = 0 keeps all of
    every direction that the target uses at all (s above 1e-9). Raises ``ValueError`` unless λ >= 0. Chapter 03.

    Example:
        >>> import torch
        >>> specificity(3)(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.2500, 1.0000])
    """
    if not isinstance(lam, (int, float)) or math.isnan(lam) or lam < 0:
        raise ValueError(f"lam: expected a number >= 0 or float('inf'), got {lam!r}")
    if math.isinf(lam):
        return lambda s: (s >= 1 - 1e-9).to(s.dtype)
    if lam == 0:
        return lambda s: (s > 1e-9).to(s.dtype)
    return lambda s: s / (s + lam * (1 - s))


def threshold(at: float = 0.5) -> Filter:
    """f(s) = 1 where s >= ``at``, else 0: an all-or-nothing share, and P is a true (oblique) projection, P² = P.

    Raises ``ValueError`` unless 0 < at <= 1. Chapter 03.

    Example:
        >>> import torch
        >>> threshold(0.5)(torch.tensor([0.2, 0.5, 0.9]))
        tensor([0., 1., 1.])
    """
    if not (isinstance(at, (int, float)) and 0 < at <= 1):
        raise ValueError(f"at: expected a number in (0, 1], got {at!r}")
    return lambda s: (s >= at).to(s.dtype)


def apply_filter(filter: Filter | None, shares: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """f(s), checked: a filter must return one finite number per share. ``None`` = f(s) = s."""
    if filter is None:
        return shares
    if not callable(filter):
        raise TypeError(f"filter: expected a function of the shares, got {type(filter).__name__}")
    passed = filter(shares)
    if not isinstance(passed, Tensor) or passed.shape != shares.shape or not torch.isfinite(passed).all():
        raise ValueError(f"filter: expected {len(shares)} finite numbers back, one per share")
    return passed.to(shares.dtype)


def filtered(
    weight: Float[Tensor, "*groups out d"],
    plus: Float[Tensor, "*groups d d"],
    minus: Float[Tensor, "*groups d d"],
    *,
    filter: Filter | None = None,
    cut: Cut | None = None,
    count: int | None = None,
) -> Float[Tensor, "*groups out d"]:
    """W⁺ = W Σ^½ f(S) Σ^(-½): one formula, an estimator for each filter f.

    f(s) = s is the paper's W Σ⁺ Σ†; f(s) = s/(s + λ(1 − s)) its weighted form; 1 − f gives the rest, and the two add up
    to W on the kept directions.

    Directions below the cut are taken out of W first: at f(s) = s the answer is exactly ``extract`` of W Π, Π the
    projector on the kept directions. Where the cut leaves out only directions without data, that is ``extract`` of
    W. A cut through real data leaves the two apart by W (I − Π) Σ⁺ Σ†.

    Args:
        weight: W (or ΔW) as a matrix, (out, d) or (groups, out, d), [W b] if the moments absorbed the bias.
        plus, minus, cut, count: as in :func:`target_share`; with groups, (groups, d, d).
        filter: f, a function of the tensor s; None = f(s) = s.

    Returns:
        Tensor: float64, the shape of ``weight``.

    Raises and cost: as :func:`target_share`. Source: Eq. 3 (f(s) = s); the family is ours; chapter 03.

    Example:
        >>> import torch
        >>> w, x = torch.randn(2, 4).double(), torch.randn(30, 4).double()
        >>> plus, minus = x[:10].T @ x[:10], x[10:].T @ x[10:]
        >>> torch.allclose(filtered(w, plus, minus), w @ plus @ torch.linalg.inv(plus + minus))
        True
    """
    if weight.ndim not in (2, 3) or weight.ndim != plus.ndim or weight.shape[-1] != plus.shape[-1]:
        raise ValueError(f"weight of shape {tuple(weight.shape)} does not act on moments of shape {tuple(plus.shape)}")
    if weight.ndim == 3:
        if not len(weight) == len(plus) == len(minus):
            raise ValueError("weight, plus and minus: expected the same number of groups")
        parts = zip(weight, plus, minus, strict=True)
        return torch.stack([filtered(w, a, b, filter=filter, cut=cut, count=count) for w, a, b in parts])
    share = target_share(plus, minus, cut=cut, count=count)
    return ((weight.to(plus.device).double() @ share.patterns) * apply_filter(filter, share.shares)) @ share.readouts


def _tells_ends(filter: Filter | None) -> bool:
    """Whether a filter jumps where the share is next to 0 or 1, as that of the hard constraint does."""
    ends = apply_filter(filter, torch.tensor([0.0, 1e-4, 1 - 1e-4, 1.0], dtype=torch.float64))
    return bool((ends[1] - ends[0]).abs() > 0.1) or bool((ends[3] - ends[2]).abs() > 0.1)


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
    :func:`engramlib.analysis.filtered`.

    Args:
        model, target, reference, base: as in :func:`engramlib.extract`.
        filter: a function of the tensor of shares, such as ``analysis.threshold(0.5)``; None = f(s) = s.
        cut: what of Σ is inverted, such as ``analysis.ridge(1e-3)``; None = ``analysis.relative(1e-6)``. It is given
            the number of columns of both moments.

    Returns:
        Engram: as :func:`engramlib.extract`.

    Raises:
        ValueError: as :func:`engramlib.extract` and :func:`engramlib.analysis.target_share` (names the layer). Warns of
            a filter that tells shares of 1 or 0 from their neighbours, as λ = ∞ does, if the moments are rounded.

    Cost: two factorisations (≈ 18 d³) per distinct pair of Σ. Source: Eq. 3 is f(s) = s; the family is ours;
    chapter 03.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from engramlib import Moments, extract
        >>> from engramlib.analysis import specificity
        >>> model, x = nn.Linear(4, 3, bias=False), torch.randn(50, 4).double()
        >>> target, reference = (Moments({"": part.T @ part}, {"": len(part)}) for part in (x[:20], x[20:]))
        >>> mine = extract_filtered(model, target, reference, filter=specificity(3))
        >>> torch.allclose(mine[""].weight, extract(model, target, reference, specificity=3)[""].weight, atol=1e-6)
        True
    """
    layers = fitting_layers(model, {"target": target, "reference": reference})
    if any(own.resolved for m in (target, reference) for own in m.identity.values()) and _tells_ends(filter):
        warnings.warn(
            "filter: it tells a share of 1 from one of .9999 (or 0 from .0001), which these moments do not: products or"
            " sums in float32 are in them. Take collect(..., exact=True)",
            stacklevel=2,
        )
    deltas = Deltas(base)
    found: dict[str, Tensor] = {}
    for names in track(sharing_groups(target, reference), desc="extracting"):
        plus, minus = target[names[0]], reference[names[0]]
        matrices = [deltas.of(layers[name], plus) for name in names]
        count = target.count[names[0]] + reference.count[names[0]]
        # One factorisation for all layers that read the same inputs: their weights are stacked into one tall matrix.
        heights = [matrix.shape[-2] for matrix in matrices]
        # The constant of a bias has no unit of its own: as in `extract`, a far-off one is measured in the inputs'.
        total = plus.double() + minus.to(plus.device).double()
        units = units_of(total, None) if is_absorbed(layers[names[0]], plus) else None
        own = torch.ones_like(total[..., :1, :]) if units is None else units.unsqueeze(-2)
        try:
            parts = scaled(plus.double(), units), scaled(minus.to(plus.device).double(), units)
            tall = filtered(torch.cat(matrices, dim=-2) / own, *parts, filter=filter, cut=cut, count=count) * own
        except ValueError as error:
            raise ValueError(f"layer {names[0]!r}: {error}") from error
        found.update(zip(names, tall.split(heights, dim=-2), strict=True))
    return as_engram(layers, target, found)
