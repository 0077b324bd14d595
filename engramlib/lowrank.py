"""Σ as a few rows and a diagonal: what there is to keep where d × d is too much."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

# Rows that wait for a shrinking, at least: one of a few rows costs as much time as one of many.
_ROOM = 64
_FLOOR = 1e-12  # of the largest eigenvalue: what an unused input counts as, whatever the cut


class LowRank:
    """A sum Σ = Σᵢ xᵢ xᵢᵀ kept as Σ̂ = BᵀB + diag(t): ``rank`` = ℓ rows B, and the exact diagonal of Σ.

    Rows come and go by Frequent Directions: columns are appended until there are 2ℓ rows (ℓ + 64 at least); then
    B = USVᵀ becomes √(S² − δ) Vᵀ with δ = σ²_{ℓ+1}, which leaves ℓ. The sum of all δ is ``error``, a certificate:

        0 ≼ Σ − BᵀB ≼ error · I,    error ≤ ‖A − A_k‖_F² / (ℓ + 1 − k) for every k ≤ ℓ,

    A the matrix of all columns, A_k its best approximation of rank k. What B lost of each variance is put back as
    t = diag(Σ) − diag(BᵀB) ≥ 0, so that no input looks unused that is not; ‖Σ − Σ̂‖₂ ≤ error as well. Up to ℓ columns
    nothing is lost. Rounding is not in ``error``: rows in float32 resolve 1e-7 of the largest eigenvalue or so.

    Such sums add (:meth:`joined`): rows are appended and shrunk, and errors add. The certificate holds for the union,
    and so does the second bound if the sums were collected with the same ℓ. They do not subtract.

    Args:
        width: d.
        rank: ℓ, 1 to d.
        dtype: of the rows.

    Cost: a column costs about 12 ℓd operations and 70 ℓ²; ``dtype`` bytes of 2ℓd while it grows, of ℓd afterwards
    (:meth:`settled`), and 8d. Source: Liberty 2013, Ghashami et al. 2016 (both bounds; mergeable); chapter 21.

    Example:
        >>> import torch
        >>> x = torch.randn(300, 12, dtype=torch.float64) @ torch.diag(0.5 ** torch.arange(12).double())
        >>> kept = LowRank(12, 4, torch.float64)
        >>> kept.add(x[:100]), kept.add(x[100:])
        (None, None)
        >>> gap = torch.linalg.matrix_norm(x.T @ x - kept.whole(), 2)
        >>> tail = (torch.linalg.svdvals(x)[2:] ** 2).sum() / (4 + 1 - 2)
        >>> bool(gap <= kept.error <= tail), torch.allclose(kept.whole().diagonal(), (x**2).sum(0))
        (True, True)
    """

    ndim = 2

    def __init__(
        self, width: int, rank: int, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> None:
        if not 1 <= rank <= width:
            raise ValueError(f"rank: expected 1 to {width} rows for columns of height {width}, got {rank}")
        self.rank, self.error = rank, 0.0
        self.rows = torch.empty(0, width, dtype=dtype, device=device)
        self.variances = torch.zeros(width, dtype=torch.float64, device=device)

    @classmethod
    def of(cls, rows: Tensor, variances: Tensor, rank: int, error: float) -> LowRank:
        """One that was kept elsewhere. Raises ``ValueError`` for parts that cannot be one."""
        d = variances.shape[-1]
        new = cls(d, rank, rows.dtype, rows.device)
        fits = rows.ndim == 2 and variances.shape == (d,) and rows.shape[1] == d and len(rows) <= rank
        if not fits or not (rows.isfinite().all() and variances.isfinite().all() and 0 <= error < math.inf):
            raise ValueError("a low-rank Σ of parts that do not fit, or are not finite")
        if bool((variances - rows.double().square().sum(0) < -1e-4 * variances.amax()).any()):
            raise ValueError("a low-rank Σ whose rows are larger than its variances")
        new.rows, new.variances, new.error = rows, variances, error
        return new

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.variances), len(self.variances)))

    @property
    def dtype(self) -> torch.dtype:
        return self.rows.dtype

    @property
    def device(self) -> torch.device:
        return self.rows.device

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.variances.nbytes

    @property
    def tail(self) -> Float[Tensor, " d"]:
        """t, the part of each variance that the rows do not have."""
        return (self.variances - self.rows.double().square().sum(0)).clamp_min(0)

    def diagonal(self, dim1: int = -2, dim2: int = -1) -> Tensor:
        return self.variances

    def whole(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "d d"]:
        """Σ̂ as one matrix."""
        rows = self.rows.double()
        return (rows.T @ rows + torch.diag(self.tail)).to(dtype)

    def _like(self, rows: Tensor, variances: Tensor) -> LowRank:
        new = LowRank(len(variances), self.rank, rows.dtype, rows.device)
        new.rows, new.variances, new.error = rows, variances, self.error
        return new

    def to(self, device: str | torch.device) -> LowRank:
        return self._like(self.rows.to(device), self.variances.to(device))

    def clone(self) -> LowRank:
        return self._like(self.rows.clone(), self.variances.clone())

    def add(self, columns: Float[Tensor, "n d"], absorbed: bool = False) -> None:
        """Σ += XᵀX, a column per row of ``columns``; ``absorbed``: with a 1 behind each."""
        room, many = max(self.rank, _ROOM), len(columns) >= 4 * columns.shape[-1]
        for part in columns.split(len(columns) if many and columns.shape[-1] <= 2 * _ROOM else room):
            x = part.to(self.device)
            if absorbed:
                x = torch.cat([x, x.new_ones(len(x), 1)], 1)
            self.variances += x.double().square().sum(0)
            self.rows = torch.cat([self.rows, x.to(self.dtype)])
            if len(self.rows) >= self.rank + room:
                self._shrink()

    def joined(self, *others: LowRank) -> LowRank:
        """The sum of all, with the largest rank of them, shrunk once."""
        new = self.clone()
        new.rank = max(self.rank, *(other.rank for other in others))
        new.rows = torch.cat([self.rows, *(other.rows.to(self.rows) for other in others)])
        for other in others:
            new.variances += other.variances.to(self.device)
            new.error += other.error
        return new.settled()

    def settled(self) -> LowRank:
        """Itself, with no more than ``rank`` rows: it will not grow for now.

        Raises ``ValueError`` if columns were outside the range of the rows' precision.
        """
        if bool(self.variances.isfinite().all()) and not bool(self.rows.isfinite().all()):
            raise ValueError(f"columns are outside the range of {self.dtype}: take exact=True")
        if len(self.rows) > self.rank:
            self._shrink()
        return self

    def compressed(self, rank: int) -> LowRank:
        """The same with fewer rows. The error of the shrinking is added."""
        new = self.clone()
        new.rank = min(rank, self.rank)
        return new.settled()

    def _shrink(self) -> None:
        x = self.rows.double()
        narrow = len(x) > x.shape[1]
        gram = x.T @ x if narrow else x @ x.T
        if not bool(gram.isfinite().all()):  # a NaN, which who adds up the columns will speak of
            self.rows = self.rows[: self.rank]
            return
        values, vectors = torch.linalg.eigh(gram)
        values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
        cut = values[self.rank] if len(values) > self.rank else values.new_zeros(())
        if bool(cut <= 1e-14 * values[0]):  # what rounding leaves of a direction that no column used
            cut = torch.zeros_like(cut)
        kept = values[: self.rank] - cut
        kept = kept[kept > 1e-14 * values[0]]
        turned = vectors[:, : len(kept)].T
        turned = (
            turned * kept.sqrt().unsqueeze(1) if narrow else turned @ x * (kept / values[: len(kept)]).sqrt()[:, None]
        )
        turned[:, self.variances == 0] = 0.0  # an input that no column used, to the last bit
        self.rows = turned.to(self.dtype).contiguous()
        self.error += float(cut)


def truncated(sigma: Float[Tensor, "d d"], rank: int, dtype: torch.dtype = torch.float32) -> LowRank:
    """The ``rank`` largest eigenvalues of a Σ with their eigenvectors; ``error`` is the next eigenvalue.

    No other Σ̂ of this rank has a smaller error. But it needs Σ first: this is for what is kept, not for what is
    collected. 9 d³ operations.
    """
    new = LowRank(sigma.shape[-1], rank, dtype, sigma.device)
    values, vectors = torch.linalg.eigh(sigma.double())
    values = values.clamp_min(0)
    new.rows = (values[-rank:].sqrt() * vectors[:, -rank:]).T.to(dtype).contiguous()
    new.variances = sigma.diagonal().double().clone()
    new.error = float(values[-rank - 1]) if rank < len(values) else 0.0
    return new


def rows_for(rank: int | float, width: int) -> int | None:
    """How many rows ``rank`` is for columns of height ``width``; None = as many would take more than Σ itself.

    A whole number is ℓ. A number below 1 is a share of the bytes of half of Σ in float64, 4d(d + 1): rows in float32
    and the diagonal in float64 take 4ℓd + 8d.
    """
    rows = int(rank * (width + 1) - 2) if isinstance(rank, float) else rank
    return max(1, rows) if 1 <= max(1, rows) < width - 2 else None


def check_rank(rank: int | float | None) -> None:
    """Raise ``ValueError`` or ``TypeError`` for what is no number of rows and no share of the memory."""
    if rank is None:
        return
    if isinstance(rank, bool) or not isinstance(rank, (int, float)):
        raise TypeError(f"rank: expected a number of rows, a share of the memory, or None, got {rank!r}")
    if not (rank >= 1 if isinstance(rank, int) else 0 < rank < 1):
        raise ValueError(f"rank: expected a whole number of rows >= 1, or a share between 0 and 1, got {rank!r}")


def pays(sums: Iterable[object]) -> bool:
    """Whether a solution with these Σ is cheaper by their rows than by writing them out: all low rank, few rows."""
    parts = list(sums)
    few = [part for part in parts if isinstance(part, LowRank)]
    return len(few) == len(parts) and 2 * sum(len(part.rows) for part in few) <= few[0].shape[0]


def remember(sigma: Any, parts: list[Tensor], count: int, absorbed: bool) -> None:
    """Keep the columns, given as rows, beside a half-stored Σ, if they are all that it was made of, and few.

    At most an eighth of the width: an eighth of the memory of Σ more (in float64), and products with Σ in half of the
    time at least (:class:`Few`). What changes Σ forgets them; so do arithmetic, files and copies.
    """
    if hasattr(sigma, "rows") and not isinstance(sigma, LowRank) and sum(map(len, parts)) == count <= sigma.width // 8:
        rows = torch.cat(parts).to(sigma.device)
        sigma.rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1) if absorbed else rows


def exactly(sigma: Any) -> Any:
    """A half-stored Σ made in float64 of the columns that are kept beside it; any other as it is.

    So that the Σ of all concepts is the sum of what :class:`Few` multiplies with, and engrams add up to the weights.
    """
    if isinstance(sigma, (Tensor, LowRank)) or sigma.rows is None:
        return sigma
    x, made = sigma.rows.double(), sigma.like(torch.empty_like(sigma.flat, dtype=torch.float64))
    for start, stop, rows in made.blocks():
        rows.copy_(x[:, start:stop].T @ x[:, start:])
    return made


class Few:
    """Σ = XᵀX of few rows X as a factor: ΣM = Q (R X M), with QR = Xᵀ and Q orthonormal.

    W ΣM = (WQ)(R X M) then, two products with few rows where it takes two with d. R X M is ΣM in another basis, so
    rounding it is no worse than rounding ΣM, which (W Xᵀ)(X M) would be where Σ is ill-conditioned.
    """

    def __init__(self, rows: Tensor, matrix: Tensor) -> None:
        rows = rows.to(matrix.device, torch.float64)
        self.q, self.r = torch.linalg.qr(rows.mT)
        self.part = self.r @ (rows.to(matrix) @ matrix).double()

    def engram(self, delta: Tensor, dtype: torch.dtype, response: bool) -> tuple[Tensor, float]:
        """W ΣM, with products in ``dtype``, and ‖W X‖² where that is asked for."""
        seen = delta.to(dtype) @ self.q.to(dtype)
        return seen @ self.part.to(dtype), float((seen.double() @ self.r).square().sum()) if response else 0.0


class Factored:
    """M ↦ M Σ̂†, with Σ̂ = CᵀC + diag(t) a weighted sum of low-rank Σ, at one cut; no d × d matrix is made.

    By Woodbury's identity, Σ̂⁻¹ = T − TCᵀ(1 + CTCᵀ)⁻¹CT, T = diag(t)⁻¹. Where t is below the cut, rcond · λ_max, the
    cut takes its place: a ridge, and only there. Where all of t is, the rows are all there is, and the pseudo-inverse
    is the estimator's own, V s⁻² Vᵀ over the eigenvalues s² of CᵀC above the cut.

    Args:
        parts: (weight, Σ).
        units: lengths of the working coordinates that the cut is measured in; None = as they are.

    Cost: n²d + n³/3 (or 9 n³), n the number of all rows; products with M cost 4 nd a row of it.
    """

    def __init__(self, parts: Sequence[tuple[float, LowRank]], rcond: float, units: Tensor | None = None) -> None:
        rows = torch.cat([math.sqrt(weight) * part.rows.double() for weight, part in parts])
        zero = torch.zeros_like(parts[0][1].variances)
        tail = sum((weight * part.tail for weight, part in parts), zero)
        scaled, lifted = (rows, tail) if units is None else (rows * units, tail * units.square())
        values, vectors = torch.linalg.eigh(scaled @ scaled.T)
        largest = float(values[-1:].clamp_min(0).sum() + lifted.amax())
        self.left: Tensor | None = None
        if units is None and float(lifted.amax()) <= max(rcond, _FLOOR) * largest:
            kept = values > max(rcond, _FLOOR) * largest
            basis = (vectors[:, kept].T @ rows) / values[kept].sqrt().unsqueeze(1)
            self.basis = basis / values[kept].sqrt().unsqueeze(1)
            return
        lifted = lifted.clamp_min(max(rcond, _FLOOR) * largest + torch.finfo(torch.float64).tiny)
        self.left = (lifted if units is None else lifted / units.square()).reciprocal()
        inner = rows * self.left
        factor = torch.linalg.cholesky(torch.eye(len(rows)).to(rows) + inner @ rows.T)
        self.basis = torch.linalg.solve_triangular(factor, inner, upper=False)

    def engram(self, delta: Float[Tensor, "out d"], plus: LowRank) -> Float[Tensor, "out d"]:
        """W⁺ = ΔW Σ̂⁺ Σ̂†."""
        rows = plus.rows.double()
        matrix = (delta @ rows.T) @ rows + delta * plus.tail
        through = (matrix @ self.basis.T) @ self.basis
        return through if self.left is None else matrix * self.left - through


def engrams(
    deltas: Mapping[str, Tensor],
    stored: Mapping[Any, Any],
    targets: Sequence[Any],
    lams: Sequence[float],
    rconds: Sequence[float],
    units: Callable[[Tensor], Tensor | None],
) -> Iterator[tuple[float, float, Any, str, Tensor]]:
    """(λ, cut, target, layer, W⁺) from Σ of low rank, of layers that share them; see :class:`Factored`.

    ``units`` makes D of the variances (:func:`engramlib.spectral.units_from`).
    """
    shared: dict[float, Factored] = {}
    for lam in lams:
        for target in targets:
            weights = [(1.0 if key == target else lam, sigma) for key, sigma in stored.items() if key == target or lam]
            for rcond in rconds:
                if lam != 1 or rcond not in shared:  # at λ = 1 all targets have one inverse
                    lengths = torch.stack([weight * sigma.variances for weight, sigma in weights]).sum(0)
                    shared[rcond] = Factored(weights, rcond, units(lengths))
                for name, delta in deltas.items():
                    yield lam, rcond, target, name, shared[rcond].engram(delta, stored[target])
