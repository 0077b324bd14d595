"""Cuts: rules for what of Σ is inverted, and what each of them keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engramlib.spectral import check_rcond

if TYPE_CHECKING:
    from jaxtyping import Float


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
    if min(count, dimension) < 1:
        raise ValueError(f"count, dimension: expected numbers of columns and rows >= 1, got {count} and {dimension}")
    smaller = min(count, dimension)
    beta = smaller / max(count, dimension)
    noise = float(values.double().median()) / _bulk_median(beta)  # max(n, d) · σ²
    return noise * (1 + math.sqrt(beta)) ** 2 * (1 + smaller ** (-2 / 3))


def _bulk_median(beta: float) -> float:
    """Median of the Marchenko-Pastur law of ratio β <= 1 and variance 1."""
    # x = 1 + β - 2√β cos θ turns the square-root ends of the density into a smooth integrand.
    theta = torch.linspace(0, math.pi, 20001, dtype=torch.float64, device="cpu")
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
    check_square(sigma, "sigma")
    values = torch.linalg.eigvalsh(sigma.double()).clamp_min(0)
    if cuts is None:
        cuts = [relative(), relative(len(values) * 1.19e-7), energy()] + ([edge()] if count else []) + [ridge()]
    rows: list[dict[str, str | int | float]] = []
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
    if not len(values) or not values.isfinite().all() or values.amax() <= 0 or values.amin() < -1e-9 * values.amax():
        raise ValueError("values: expected eigenvalues >= 0, at least one above zero")
    p = values.clamp_min(0) / values.clamp_min(0).sum()
    return float(torch.special.entr(p).sum().exp())


def or_default(cut: Cut | None) -> Cut:
    if cut is None:
        return relative()
    if not isinstance(cut, Cut):
        raise TypeError(f"cut: expected a Cut such as cuts.relative(1e-6), got {cut!r}")
    return cut


def check_square(matrix: Tensor, argument: str) -> None:
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        shape = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
        raise ValueError(
            f"{argument}: expected a square matrix (d, d), got {shape}; a grouped layer: one group at a time"
        )
    if not torch.isfinite(matrix).all():
        raise ValueError(f"{argument}: NaN or infinite entries")
