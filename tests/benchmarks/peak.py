"""How much memory a call needs at most."""

from __future__ import annotations

import gc
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch


def peak(task: Callable[[], object], device: str = "cpu") -> float:
    """MB that the process had at most during the task, less what it had before."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = task()
        del result
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    before = _reset()
    result = task()
    after = _highest()
    del result
    return max(0, after - before) / 1e6


def _reset() -> int:
    """Bytes in use now; from here on the highest is counted anew, where the system can do that (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return _highest()


def _highest() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(entry: str) -> int:
    found = re.search(rf"^{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    if found is None:
        raise OSError(f"no {entry} in /proc/self/status")
    return int(found[1]) * 1024
