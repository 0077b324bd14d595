"""Times of things that are compared, taken in turn: A B A B.

A ratio means something only if its two times come from the same minutes of the same machine. pytest-benchmark and
``torch.utils.benchmark`` time one thing to its end and then the next, so a machine that slows down in between (heat,
another program) changes the ratio; hence these few lines.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

Task = Callable[[], object]
ROUNDS = 5
SHORTEST = 2e-3  # seconds: what takes less is repeated within a round


def interleaved(
    tasks: Mapping[str, Task], rounds: int = ROUNDS, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each task in each of ``rounds`` rounds; a round runs every task once, in the order given.

    One more round comes first and is not counted: it allocates, plans and compiles, and tells which tasks are so short
    that a round repeats them.
    """
    repeats = {}
    for name, task in tasks.items():
        first = _seconds(task, 1, device, clock)
        if first < SHORTEST:  # the first call says little about so short a task
            first = _seconds(task, 1, device, clock)
        repeats[name] = max(1, min(200, round(SHORTEST / max(first, 1e-7))))
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        gc.collect()
        for name, task in tasks.items():
            seconds[name].append(_seconds(task, repeats[name], device, clock))
    return seconds


def _seconds(task: Task, repeats: int, device: str, clock: Callable[[], float]) -> float:
    wait(device)
    start = clock()
    for _ in range(repeats):
        task()
    wait(device)
    return (clock() - start) / repeats


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def ratio(seconds: Mapping[str, list[float]], name: str, beside: str) -> dict[str, Any]:
    """How many times as long as ``beside``: the median of the rounds' own ratios, and their quartiles."""
    each = [a / b for a, b in zip(seconds[name], seconds[beside], strict=True)]
    low, _, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return {
        "ratio": digits(statistics.median(each)),
        "low": digits(low),
        "high": digits(high),
        "seconds": digits(statistics.median(seconds[name])),
        "rounds": len(each),
    }


def digits(value: float, significant: int = 4) -> float:
    """What a record keeps of a number."""
    return float(f"{value:.{significant}g}")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch on ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
