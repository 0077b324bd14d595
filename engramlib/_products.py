"""Σ += XᵀX: where it is made, in which precision, and only half of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import torch
from torch import Tensor

from engramlib._files import on_disk
from engramlib.lowrank import LowRank, exactly, rows_for

# Σ is symmetric: only blocks of rows on and right of the diagonal are multiplied and kept, which halves the work of a
# full product, and the memory. A Σ with fewer inputs than that is one tensor, as everything with groups is.
BLOCK = {"cpu": 128, "cuda": 1024}
# Rows of a product: few enough for float32 to add up, and for patches to stay in the cache.
ROWS = 4096
# Products of float32 columns are made in float32, and added up in float64, where Σ is in blocks. This part of the
# largest eigenvalue such a sum (or one in float32) still tells from zero; see :func:`in_float32`.
RESOLVED = 5e-7
# Outside of these sizes squares leave the range of float32.
_RANGE = (1e-12, 1e15)


class Half:
    """A symmetric (d, d) matrix as its blocks of rows, each from the diagonal on, one after the other in ``flat``.

    Attributes:
        flat: all entries, in one tensor of one dimension.
        width: d.
        block: rows of a block.
        is_gram: whether it is known to be a sum of x xᵀ, because it was made as one.
        is_rounded: whether products in float32 are in it.
        rows: X of few rows with XᵀX = Σ, for who multiplies with Σ; None = not known (:func:`remember`).
    """

    ndim = 2
    rows: Tensor | None = None

    def __init__(self, flat: Tensor, width: int, block: int, is_gram: bool = True, is_rounded: bool = False) -> None:
        self.flat, self.width, self.block, self.is_gram, self.is_rounded = flat, width, block, is_gram, is_rounded
        self.shape, self.dtype, self.device = torch.Size((width, width)), flat.dtype, flat.device

    def like(self, flat: Tensor, is_gram: bool = True) -> Half:
        """Other entries in the same order."""
        return Half(flat, self.width, self.block, self.is_gram and is_gram, self.is_rounded)

    def blocks(self) -> Iterator[tuple[int, int, Tensor]]:
        """(start, stop, the rows from start to stop of the columns from start on)."""
        place = 0
        for start in range(0, self.width, self.block):
            stop = min(start + self.block, self.width)
            size = (stop - start) * (self.width - start)
            yield start, stop, self.flat[place : place + size].view(stop - start, self.width - start)
            place += size

    def whole(self, dtype: torch.dtype | None = None) -> Tensor:
        """The (d, d) matrix, exactly symmetric whatever order the sums were made in."""
        full = self.flat.new_empty(self.shape, dtype=dtype)
        for start, stop, rows in self.blocks():
            full[start:stop, start:] = rows
            full[stop:, start:stop] = rows[:, stop - start :].T
            mirror(full[start:stop, start:stop])
        return full

    def diagonal(self, dim1: int = -2, dim2: int = -1) -> Tensor:
        return torch.cat([rows.diagonal() for _, _, rows in self.blocks()])

    def to(self, where: str | torch.device | torch.dtype) -> Half:
        return self.like(self.flat.to(where))

    def clone(self) -> Half:
        return self.like(self.flat.clone())


Symmetric: TypeAlias = "Tensor | Half | LowRank"


def as_tensor(sigma: Symmetric) -> Tensor:
    """Σ as one (d, d) matrix."""
    return sigma.whole() if isinstance(sigma, (Half, LowRank)) else sigma


def entries(sigma: Tensor | Half) -> Tensor:
    """What is in memory of Σ."""
    return sigma.flat if isinstance(sigma, Half) else sigma


def nbytes(sigma: Symmetric) -> int:
    """How much that is."""
    more = sigma.rows.nbytes if isinstance(sigma, Half) and sigma.rows is not None else 0
    return sigma.nbytes if isinstance(sigma, LowRank) else entries(sigma).nbytes + more


def resolved(sigma: Symmetric) -> float:
    """What part of the largest eigenvalue a sum still tells from zero."""
    return RESOLVED if sigma.dtype == torch.float32 or (isinstance(sigma, Half) and sigma.is_rounded) else 0.0


def joined(a: Symmetric, b: Symmetric, sign: float = 1) -> Symmetric:
    """a + b, a − b, or a and a multiple of b; half or low rank if both are; on the device of a."""
    if isinstance(a, LowRank) or isinstance(b, LowRank):
        if sign < 0:
            raise ValueError(
                "moments of low rank add, but what the rows left out cannot be subtracted: collect target and reference"
                " apart, each with rank=, instead of total - part"
            )
        if isinstance(a, LowRank) and isinstance(b, LowRank) and sign == 1:
            return a.joined(b)
        return as_tensor(a) + sign * as_tensor(b).to(a.device)
    b = b.to(a.device)
    if isinstance(a, Half) and isinstance(b, Half) and a.block == b.block:
        result = a.like(torch.add(a.flat, b.flat, alpha=sign), is_gram=b.is_gram and sign > 0)
        result.is_rounded |= b.is_rounded
        return result
    return torch.add(as_tensor(a), as_tensor(b), alpha=sign)


def total(parts: Iterable[Symmetric]) -> Tensor:
    """The sum of some Σ as one (d, d) matrix in float64, on the device of the first."""
    known: Iterable[Tensor | Half] = (part.whole() if isinstance(part, LowRank) else exactly(part) for part in parts)
    first, *rest = known
    if isinstance(first, Half) and not rest:
        return first.whole(torch.float64)
    result: Symmetric = first.to(torch.float64) if first.dtype != torch.float64 else first.clone()
    for part in rest:
        if isinstance(result, Half) and isinstance(part, Half) and result.block == part.block:
            result.flat += part.flat.to(result.device)
        else:
            result = joined(result, part)
    return as_tensor(result)


# ------------------------------------------------------------------------------------------------------------ products


def works_at(x: Tensor, sigma: Symmetric) -> torch.device:
    """Where products of ``x`` are made: where it is, except on Apple's GPUs, which have no float64."""
    return sigma.device if x.device.type == "mps" else x.device


def zeros(
    width: int,
    groups: int | None,
    dtype: torch.dtype,
    device: torch.device,
    rank: int | float | None = None,
    folder: str | None = None,
    exact: bool = False,
) -> Symmetric:
    """An empty sum; of ``rank`` rows where that is less, or in a file of ``folder`` (on the CPU)."""
    if rank is not None and groups is None and (rows := rows_for(rank, width)) is not None:
        return LowRank(width, rows, torch.float64 if exact else torch.float32, device)
    if groups is None and width > (block := BLOCK.get(device.type, 512)):
        length = sum((min(s + block, width) - s) * (width - s) for s in range(0, width, block))
        if folder is not None:
            return Half(on_disk(folder, length, dtype), width, block)
        return Half(torch.zeros(length, dtype=dtype, device=device), width, block)
    return torch.zeros((width, width) if groups is None else (groups, width, width), dtype=dtype, device=device)


def add_outer(sigma: Symmetric, columns: Tensor, absorbed: bool, exact: bool = False, fits: bool = False) -> None:
    """Σ += XᵀX on and above the block diagonal, for X with a column per row, and a 1 behind it if ``absorbed``.

    ``exact``: products are made in the precision of the sums whatever their width. ``fits``: the columns are entries of
    what is :func:`in_range`.
    """
    if isinstance(sigma, LowRank):
        sigma.add(columns, absorbed)
        return
    device = works_at(columns, sigma)
    part = sigma
    if isinstance(sigma, Half):
        sigma.rows = None
    if device != sigma.device:
        nothing = torch.zeros_like(entries(sigma), device=device)
        part = sigma.like(nothing) if isinstance(sigma, Half) else nothing
    add_product(part, columns, absorbed, exact, fits)
    if part is not sigma:
        entries(sigma).add_(entries(part).to(sigma.device))
        if isinstance(sigma, Half) and isinstance(part, Half):
            sigma.is_rounded |= part.is_rounded


def add_product(sigma: Tensor | Half, columns: Tensor, absorbed: bool, exact: bool = False, fits: bool = False) -> None:
    if not exact and isinstance(sigma, Half) and in_float32(columns, sigma):
        for x in columns.split(ROWS):
            _add_float32(sigma, x.to(sigma.device, torch.float32), absorbed, fits)
        return
    *groups, n, d = columns.shape
    # A copy in the layout that the columns come in (patches lie side by side, tokens below each other).
    wide = columns.stride(-2) == 1 and columns.stride(-1) != 1
    shape = (*groups, d + absorbed, n) if wide else (*groups, n, d + absorbed)
    if absorbed:
        x = torch.empty(shape, dtype=sigma.dtype, device=sigma.device)
        x = x.mT if wide else x
        x[..., :d] = columns
        x[..., d] = 1.0
    elif wide:
        x = columns.mT.to(sigma.device, sigma.dtype, memory_format=torch.contiguous_format).mT
    else:
        x = columns.to(sigma.device, sigma.dtype)
    if isinstance(sigma, Half):
        for start, stop, rows in sigma.blocks():
            rows.addmm_(x[:, start:stop].T, x[:, start:])
    elif sigma.ndim == 3:
        sigma.baddbmm_(x.mT, x)
    else:
        sigma.addmm_(x.T, x)


def add_whole(sigma: Tensor | Half, part: Tensor) -> None:
    """Σ += a symmetric matrix that was made elsewhere."""
    if isinstance(sigma, Half):
        sigma.rows = None
        sigma.is_rounded |= part.dtype != sigma.dtype
        for start, stop, rows in sigma.blocks():
            rows += part[start:stop, start:].to(rows.device)
    else:
        sigma += part.to(sigma.device)


def in_range(x: Tensor) -> bool:
    """Whether squares of the largest entries stay in the range of float32."""
    return _RANGE[0] < float(largest(x)) < _RANGE[1]


def all_finite(x: Tensor) -> bool:
    """Whether there is no NaN or infinity, in a tenth of the time of looking at each; a sum is finite only then."""
    if not (x.is_floating_point() and x.numel()) or (x.itemsize >= 4 and bool(x.sum().isfinite())):
        return True
    return bool(largest(x).isfinite())


def largest(x: Tensor) -> Tensor:
    """The largest absolute entry; NaN if there is one."""
    low, high = (x.mT if x.ndim > 1 and x.stride(-2) == 1 else x).aminmax()  # in order, or it makes a copy first
    return torch.maximum(-low, high)


def in_float32(columns: Tensor, sigma: Symmetric) -> bool:
    """Whether products of these columns are made in float32, in half of the time.

    That rounds each entry by a few 1e-7 of √(Σᵢᵢ Σⱼⱼ), at random, and moves eigenvalues by less than ``RESOLVED`` of
    the largest (``tests/test_products.py``, on eight kinds of data): less than the default cut of 1e-6.
    """
    fits = columns.dtype in (torch.float32, torch.bfloat16, torch.float16) and isinstance(sigma, Half)
    return fits and sigma.dtype == torch.float64


def _add_float32(sigma: Half, x: Tensor, absorbed: bool, fits: bool) -> None:
    sigma.is_rounded = True
    scale: Tensor | None = None
    if not fits and (x.device.type != "cpu" or not in_range(x)):
        # By a power of two, which rounds nothing; zeros and NaN stay what they are.
        scale = torch.exp2(-torch.floor(torch.log2(largest(x).double().clamp(1e-38, 3e38))))
        x = x * scale.float()
    d = x.shape[-1]
    for start, stop, rows in sigma.blocks():
        last = min(stop, d)
        if start < last:
            product = x[:, start:last].T @ x[:, start:]
            rows[: last - start, : d - start] += product if scale is None else product.double() / scale.square()
        if absorbed:
            ones = x[:, start:last].sum(0, dtype=torch.float64)
            ones = torch.cat([ones if scale is None else ones / scale, ones.new_full((1,), len(x))])
            rows[:, -1] += ones[: stop - start]


def mirror(sigma: Tensor) -> None:
    """Copy what is above the diagonal below it: exact symmetry, whatever order the sums were made in."""
    upper = sigma.triu(1)
    sigma.triu_().add_(upper.mT)


@contextmanager
def full_precision() -> Iterator[None]:
    """Products inside the block are made in the precision of their operands: no autocast, no TF32."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if (before := torch.get_float32_matmul_precision()) != "highest":
            stack.callback(torch.set_float32_matmul_precision, before)
            torch.set_float32_matmul_precision("highest")
        yield
