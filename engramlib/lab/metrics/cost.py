"""What it costs: seconds, and floating-point operations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Timer:
    """`seconds` of wall time, once the block is over."""

    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Timer]:
    """Wall time of a block: `with timed() as t: ...`, then `t.seconds`. Waits for the GPU at both ends."""
    timer = Timer()
    _wait()
    started = time.perf_counter()
    try:
        yield timer
    finally:
        _wait()
        timer.seconds = time.perf_counter() - started


def flops(run: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention while `run()` runs.

    A product of m x k and k x n counts 2 m k n; backward passes count too, and so do products that are added to a sum
    in place, as second moments are. Counted by torch's `FlopCounterMode`, which leaves out what is linear in the data
    (activations, normalisation) and factorisations (an eigendecomposition of a d x d matrix is about 9 d³).
    """
    with FlopCounterMode(display=False, custom_mapping=_IN_PLACE) as counter:
        run()
    return int(counter.get_total_flops())


def _added(total: Sequence[int], a: Sequence[int], b: Sequence[int], *_: object, **__: object) -> int:
    """Operations of `total += a @ b`, from the shapes, batched or not."""
    return 2 * math.prod(a) * b[-1]


# Not in the table of torch's counter, which passes over what it does not know.
_IN_PLACE = {torch.ops.aten.addmm_: _added, torch.ops.aten.baddbmm_: _added}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
