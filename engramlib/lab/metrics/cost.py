"""What it costs: seconds, floating-point operations, memory."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
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
    return sum(operations(run).values())


def operations(run: Callable[[], object]) -> dict[str, int]:
    """`flops` by kind of operation, under torch's names: "mm" for products, "addmm_" for those added up in place."""
    with FlopCounterMode(display=False, custom_mapping=_IN_PLACE) as counter:
        run()
    return {str(kind).split(".")[-1]: int(n) for kind, n in counter.get_flop_counts().get("Global", {}).items()}


def _added(total: Sequence[int], a: Sequence[int], b: Sequence[int], *_: object, **__: object) -> int:
    """Operations of `total += a @ b`, from the shapes, batched or not."""
    return 2 * math.prod(a) * b[-1]


# Not in the table of torch's counter, which passes over what it does not know.
_IN_PLACE = {torch.ops.aten.addmm_: _added, torch.ops.aten.baddbmm_: _added}


class PeakMemory(TorchDispatchMode):
    """`with PeakMemory() as memory: ...`, then `memory.peak`: bytes of the tensors made in the block, at their most.

    Tensors that were there before do not count, and storage that several share counts once. It sees what torch
    allocates, on every device, but not the scratch space inside one operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if (key := storage._cdata) not in self._live:
                    self._live[key] = storage.nbytes()
                    self._now += storage.nbytes()
                    self.peak = max(self.peak, self._now)
                    weakref.finalize(storage, self._gone, key)
        return out

    def _gone(self, key: int) -> None:
        self._now -= self._live.pop(key)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
