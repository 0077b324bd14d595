"""Σ += XᵀX: where it is made, in which precision, and only half of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

# Σ is symmetric: only blocks on and above the diagonal are multiplied, which halves the work of a full product.
BLOCK = {"cpu": 128, "cuda": 1024}


def works_at(x: Tensor, sigma: Tensor) -> torch.device:
    """Where products of ``x`` are made: where it is, except on Apple's GPUs, which have no float64."""
    return sigma.device if x.device.type == "mps" else x.device


def add_outer(sigma: Tensor, columns: Tensor, absorbed: bool) -> None:
    """Σ += XᵀX on and above the block diagonal, for X with a column per row."""
    device = works_at(columns, sigma)
    if device == sigma.device:
        add_product(sigma, columns, absorbed)
        return
    part = torch.zeros_like(sigma, device=device)
    add_product(part, columns, absorbed)
    sigma += part.to(sigma.device)


def add_product(sigma: Tensor, columns: Tensor, absorbed: bool) -> None:
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
    if sigma.ndim == 3:
        sigma.baddbmm_(x.mT, x)
        return
    block = BLOCK.get(sigma.device.type, 512)
    for start in range(0, sigma.shape[-1], block):
        stop = start + block
        sigma[start:stop, start:].addmm_(x[:, start:stop].T, x[:, start:])


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
