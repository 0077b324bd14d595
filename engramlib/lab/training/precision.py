"""Arithmetic that does not depend on where it is called from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def arithmetic(device: torch.device | str, *, mixed: bool = False) -> Iterator[None]:
    """bfloat16 products if `mixed`, else float32, whatever autocast the caller stands in; for whatever trains.

    `torch.autocast` keeps the bfloat16 copies of the weights until its outermost block is left. If weights move inside
    the block, the copies do not: the network goes on answering, and descending, as it was at first. So no copy is
    used here, and none that an outer block has kept is left for what comes after. A backward pass takes the arithmetic
    of where it stands: let the whole loop stand in `arithmetic(device)`, and in a second one, `mixed`, the forward
    pass alone.
    """
    try:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=mixed, cache_enabled=False):
            yield
    finally:
        torch.clear_autocast_cache()
