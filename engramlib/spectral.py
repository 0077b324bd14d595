"""One factorisation per distinct Σ: the pseudo-inverse, what counts as zero, the target's share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Spectrum:
    """Eigenvalues and eigenvectors of a symmetric positive semi-definite Σ, with everything below a cut taken as zero.

    The cut is relative: eigenvalues at or below ``rcond`` · λ_max are treated as exactly zero, in Σ† as well. It is a
    regulariser, not a detail: without it, directions in which the data hardly vary are amplified by up to 1/λ_min.

    Args:
        sigma: symmetric, shape (d, d) or (groups, d, d). Computed in float64 whatever its dtype.
        rcond: relative cut in [0, 1). 1e-6 is the paper's.
        scale: what the cut is relative to; None = the largest eigenvalue of Σ (of each group).

    Cost: about 9 d³ floating-point operations, 8 d² bytes. Source: Section 5 (numerics) of the paper; chapter 03.

    Example:
        >>> import torch
        >>> sigma = torch.diag(torch.tensor([4.0, 1.0, 1e-9], dtype=torch.float64))
        >>> spectrum = Spectrum(sigma)
        >>> int(spectrum.rank), torch.allclose(spectrum.pinv(), torch.diag(torch.tensor([0.25, 1.0, 0.0]).double()))
        (2, True)
    """

    def __init__(self, sigma: Float[Tensor, "*groups d d"], rcond: float = 1e-6, scale: Tensor | None = None) -> None:
        check_rcond(rcond)
        values, self.vectors = torch.linalg.eigh(sigma.double())
        largest = values[..., -1:].clamp_min(0) if scale is None else scale
        self.kept: Tensor = (values > rcond * largest) & (values > 0)
        self.values: Float[Tensor, "*groups d"] = torch.where(self.kept, values, 0.0)

    @property
    def rank(self) -> Int[Tensor, "*groups"]:
        """Number of eigenvalues above the cut."""
        return self.kept.sum(-1)

    def pinv(self) -> Float[Tensor, "*groups d d"]:
        """Σ†."""
        inverse = torch.where(self.kept, 1.0 / torch.where(self.kept, self.values, 1.0), 0.0)
        if self.vectors.ndim == 2:  # multiply only by the eigenvectors that count
            basis = self.vectors[:, self.kept]
            return (basis * inverse[self.kept]) @ basis.T
        return (self.vectors * inverse.unsqueeze(-2)) @ self.vectors.mT

    def null_basis(self) -> Float[Tensor, "d k"]:
        """Orthonormal basis of the null space of Σ (one group only): the directions below the cut."""
        return self.vectors[:, ~self.kept]


def check_rcond(rcond: float) -> None:
    """Raise ``ValueError`` unless 0 <= rcond < 1."""
    if not (isinstance(rcond, Real) and 0 <= rcond < 1):
        raise ValueError(f"rcond: expected a number in [0, 1), got {rcond!r}")


# ------------------------------------------------------------------------------------------ cuts: what of Σ is inverted


@dataclass(frozen=True)
class Cut:
    """A rule for what of Σ is inverted: eigenvalues in, the eigenvalues to work with out; 0 = left out.

    A cut is called with the eigenvalues of one Σ, in increasing order, and with its number of columns. Make one with
    :func:`relative` (the default everywhere), :func:`energy`, :func:`edge` or :func:`ridge`, or write
    ``Cut("mine", rule)``.

    Args:
        name: what tables call it.
        rule: ``rule(values, count)``, two arguments: values (d,), count an integer or None; returns (d,).

    Source: Section 5 (numerics) of the paper; chapter 03.
    """

    name: str
    rule: Callable[[Tensor, int | None], Tensor]

    def __call__(self, values: Float[Tensor, " d"], count: int | None = None) -> Float[Tensor, " d"]:
        worked = self.rule(values.clamp_min(0), count)
        if not isinstance(worked, Tensor) or worked.shape != values.shape:
            raise ValueError(f"cut {self.name!r}: expected {len(values)} eigenvalues back, got {worked!r:.60}")
        if not torch.isfinite(worked).all() or (worked < 0).any():
            raise ValueError(f"cut {self.name!r}: returned a negative or infinite eigenvalue")
        return worked


def relative(rcond: float = 1e-6) -> Cut:
    """Leave out eigenvalues at or below ``rcond`` · λ_max: the paper's cut, and the default of the package.

    Why the default: it needs no count of independent columns, it is the same for Σ and 1000 Σ, and float64 sums hold
    eigenvalues down to about 1e-15 λ_max, so that at 1e-6 what is kept is data and not rounding. Chapter 03 shows the
    others beside it. Raises ``ValueError`` unless 0 <= rcond < 1.

    Example:
        >>> import torch
        >>> relative(0.1)(torch.tensor([0.1, 1.0, 4.0]))
        tensor([0., 1., 4.])
    """
    check_rcond(rcond)
    return Cut(f"relative {rcond:g}", lambda values, count: _above(values, rcond * values.amax()))


def energy(share: float = 0.999) -> Cut:
    """Keep the fewest largest eigenvalues that hold ``share`` of the trace, Σ‖x‖².

    It asks how much of the data is kept, not how well Σ can be inverted: a large mean takes most of the trace, and
    then few directions stay. Raises ``ValueError`` unless 0 < share <= 1.

    Example:
        >>> import torch
        >>> energy(0.9)(torch.tensor([1.0, 2.0, 7.0]))
        tensor([0., 2., 7.])
    """
    if not (isinstance(share, (int, float)) and 0 < share <= 1):
        raise ValueError(f"share: expected a number in (0, 1], got {share!r}")

    def rule(values: Tensor, count: int | None) -> Tensor:
        above = values.sum() - values.cumsum(0)  # what the larger ones hold without this one
        # At share = 1 rounding must not decide: every positive eigenvalue is needed.
        needed = values > 0 if share == 1 else above < share * values.sum()
        return torch.where(needed & (values > 0), values, 0.0)

    return Cut(f"energy {share:g}", rule)


def edge() -> Cut:
    """Leave out what n columns of pure noise would show: eigenvalues inside the Marchenko-Pastur bulk.

    If the columns were independent noise of variance σ², the eigenvalues of Σ/n would fill, for large n and d, the
    interval σ²(1 ± √β)² with β = d/n. σ² is read off the median eigenvalue, divided by the median of the
    Marchenko-Pastur law; the cut is nσ²(1 + √β)² · (1 + d^(-2/3)), the last factor for the fluctuation of the largest
    one. With n < d the n non-zero eigenvalues follow the law of the transposed matrix. Directions without any data
    (below 1e-12 λ_max) do not count.

    It keeps what stands out of noise of equal variance in every direction. A layer's input is not that: its small
    eigenvalues fall off smoothly, and columns of one image or sentence are not independent, so n is too large. Take
    it as a second opinion.

    Raises ``ValueError`` if the count is missing. Source: Marchenko and Pastur (1967); the median estimate of σ is
    Gavish and Donoho's (2014); chapter 03.
    """

    def rule(values: Tensor, count: int | None) -> Tensor:
        if count is None or count < 1:
            raise ValueError(f"count: the random-matrix edge needs the number of columns, got {count!r}")
        live = values[values > 1e-12 * values.amax()]
        if not len(live):
            return torch.zeros_like(values)
        return _above(values, bulk_edge(live, count, len(live) if count >= len(live) else len(values)))

    return Cut("edge", rule)


def ridge(strength: float = 1e-3) -> Cut:
    """Add γ = ``strength`` · (mean eigenvalue) to every eigenvalue instead of cutting: Σ + γI.

    It is the same as γ isotropic columns more in the reference, so every share shrinks: s ≤ λ/(λ + γ), smoothly, and
    the smallest directions most. Raises ``ValueError`` unless strength > 0.

    Example:
        >>> import torch
        >>> ridge(0.5)(torch.tensor([0.0, 2.0, 4.0]))
        tensor([1., 3., 5.])
    """
    if not (isinstance(strength, (int, float)) and 0 < strength < math.inf):
        raise ValueError(f"strength: expected a positive number, got {strength!r}")
    return Cut(f"ridge {strength:g}", lambda values, count: values + strength * values.mean())


def bulk_edge(values: Float[Tensor, " k"], count: int, dimension: int) -> float:
    """Upper edge of the Marchenko-Pastur bulk that fits the median of ``values``, with the margin of :func:`edge`.

    Args:
        values: the non-zero eigenvalues of Σ = XXᵀ (a sum), any order.
        count: n, the number of columns of X.
        dimension: d, the number of rows of X.

    Cost: a median and a one-dimensional integral. Source: Marchenko and Pastur (1967); chapter 03.
    """
    smaller = min(count, dimension)
    beta = smaller / max(count, dimension)
    noise = float(values.double().median()) / _bulk_median(beta)  # max(n, d) · σ²
    return noise * (1 + math.sqrt(beta)) ** 2 * (1 + smaller ** (-2 / 3))


def _bulk_median(beta: float) -> float:
    """Median of the Marchenko-Pastur law of ratio β <= 1 and variance 1."""
    # x = 1 + β - 2√β cos θ turns the square-root ends of the density into a smooth integrand.
    theta = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
    x = 1 + beta - 2 * math.sqrt(beta) * theta.cos()
    density = theta.sin().square() / x.clamp_min(1e-300)
    mass = torch.cumulative_trapezoid(density, theta)
    return float(x[1:][int(torch.searchsorted(mass, mass[-1] / 2))])


def _above(values: Tensor, threshold: Tensor | float) -> Tensor:
    return torch.where((values > threshold) & (values > 0), values, 0.0)


def compare_cuts(
    sigma: Float[Tensor, "d d"], count: int | None = None, cuts: Sequence[Cut] | None = None
) -> list[dict[str, str | int | float]]:
    """What each cut keeps of Σ: one row per cut, ready for a table.

    Args:
        sigma: symmetric, shape (d, d).
        count: number of columns; without it the default list leaves :func:`edge` out.
        cuts: which cuts; None = relative 1e-6 (the default), relative d·1.19e-7, energy 0.999, edge, ridge 1e-3.

    Returns:
        list of dicts: ``cut``; ``kept``, the number of eigenvalues that are inverted, of ``dimension``;
        ``threshold``, the smallest original eigenvalue among them over λ_max; ``energy``, their share of the trace;
        ``condition``, largest over smallest of the eigenvalues that are worked with (after the ridge). No kept
        direction: the last two are 0 and 1.

    Raises:
        ValueError: Σ that is not square, or a count that a cut needs and does not get.

    Cost: one eigenvalue decomposition, about 3 d³. Source: Section 5 (numerics) of the paper; chapter 03.

    Example:
        >>> import torch
        >>> sigma = torch.diag(torch.tensor([1e-8, 1.0, 99.0], dtype=torch.float64))
        >>> [(row["cut"], row["kept"]) for row in compare_cuts(sigma, cuts=[relative(), energy(0.9), ridge()])]
        [('relative 1e-06', 2), ('energy 0.9', 1), ('ridge 0.001', 3)]
    """
    _check_square(sigma, "sigma")
    values = torch.linalg.eigvalsh(sigma.double()).clamp_min(0)
    if cuts is None:
        cuts = [relative(), relative(len(values) * 1.19e-7), energy()] + ([edge()] if count else []) + [ridge()]
    rows = []
    for cut in cuts:
        worked = cut(values, count)
        kept, total = worked > 0, float(values.sum())
        some = bool(kept.any())
        rows.append(
            {
                "cut": cut.name,
                "kept": int(kept.sum()),
                "dimension": len(values),
                "threshold": float(values[kept].amin() / values.amax()) if some and total else 0.0,
                "energy": float(values[kept].sum()) / total if total else 0.0,
                "condition": float(worked[kept].amax() / worked[kept].amin()) if some else 1.0,
            }
        )
    return rows


def effective_rank(values: Float[Tensor, " d"]) -> float:
    """exp(entropy) of ``values`` divided by their sum: how many equal values would be as spread out.

    k equal values and zeros give k. Raises ``ValueError`` for negative values (beyond rounding) or none above zero.
    Source: Roy and Vetterli (2007); chapters 03 and 05.

    Example:
        >>> import torch
        >>> round(effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])), 6)
        3.0
    """
    values = values.double()
    if not len(values) or values.amax() <= 0 or values.amin() < -1e-9 * values.amax():
        raise ValueError("values: expected eigenvalues >= 0, at least one above zero")
    p = values.clamp_min(0) / values.clamp_min(0).sum()
    return float(torch.special.entr(p).sum().exp())


# --------------------------------------------------------------------------------- the target's share of each direction


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
    _check_square(plus, "plus")
    _check_square(minus, "minus")
    if plus.shape != minus.shape:
        raise ValueError(f"plus and minus differ in shape: {tuple(plus.shape)} and {tuple(minus.shape)}")
    plus, minus = plus.double(), minus.double().to(plus.device)
    values, vectors = torch.linalg.eigh(plus + minus)
    worked = _default(cut)(values, count)
    kept = worked > 0
    if not kept.any():  # a layer that saw nothing, or nothing above the noise: no directions, and engrams of zero
        d = len(values)
        return TargetShare(values.new_zeros(0), values.new_zeros(d, 0), values.new_zeros(0, d))
    root = worked[kept].sqrt()
    basis = vectors[:, kept]
    whiten = basis / root  # (d, k)
    shares, turn = torch.linalg.eigh(whiten.T @ plus @ whiten)
    # Rounding in Σ is amplified by 1/λ in whitened coordinates.
    slack = 1e-7 + 1e-13 * float(values[-1].clamp_min(0) / worked[kept].amin())
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


def _default(cut: Cut | None) -> Cut:
    if cut is None:
        return relative()
    if not isinstance(cut, Cut):
        raise TypeError(f"cut: expected a Cut such as spectral.relative(1e-6), got {cut!r}")
    return cut


def _check_square(matrix: Tensor, argument: str) -> None:
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        shape = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
        raise ValueError(
            f"{argument}: expected a square matrix (d, d), got {shape}; a grouped layer: one group at a time"
        )
    if not torch.isfinite(matrix).all():
        raise ValueError(f"{argument}: NaN or infinite entries")
