"""A progress bar that knows when to be silent."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

TICK = 1.0  # seconds between two looks at the clock
_open: list[_Ticker] = []  # the notebook's bar, while it runs


def wanted() -> bool:
    """Whether somebody watches: a terminal or a notebook, and neither ``CI`` nor ``ENGRAM_PROGRESS=0`` is set.

    A notebook shows one bar at a time, the outermost: two of plain text would write over each other.
    """
    if os.environ.get("ENGRAM_PROGRESS") == "0" or os.environ.get("CI") or _open:
        return False
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def length(iterable: Iterable[T]) -> int | None:
    """``len(iterable)`` where it has one: a DataLoader over an ``IterableDataset`` has a ``len`` that raises."""
    try:
        return len(iterable)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def track(iterable: Iterable[T], *, desc: str, total: int | None = None, delay: float = 2.0) -> Iterator[T]:
    """Iterate with a bar that appears only after ``delay`` seconds, so that short passes stay quiet.

    In a notebook it also appears, and its clock runs, while a single step takes long.
    """
    if not wanted():
        return iter(iterable)
    from tqdm import tqdm  # imported late: `import engramlib` costs torch and nothing else

    shell = _shell()
    if shell is None:
        return iter(tqdm(iterable, desc=desc, total=total, delay=delay, leave=False))
    return _ticking(iterable, desc, total, delay, shell)


def _shell():
    """IPython's shell where this is a notebook's kernel."""
    return sys.modules["IPython"].get_ipython() if {"ipykernel", "IPython"} <= set(sys.modules) else None


def _ticking(iterable: Iterable[T], desc: str, total: int | None, delay: float, shell) -> Iterator[T]:
    from tqdm import tqdm

    if not wanted():  # another bar has been opened since
        yield from iterable
        return
    ticker = _Ticker(tqdm(iterable, desc=desc, total=total, delay=delay, leave=False), delay)
    # A loop that an error cut short is not closed by Python as long as somebody may look at the traceback.
    shell.events.register("post_run_cell", ticker.close)
    try:
        yield from ticker.bar
    finally:
        ticker.close()
        shell.events.unregister("post_run_cell", ticker.close)


class _Ticker(threading.Thread):
    """Draws a bar once a second until it is closed."""

    def __init__(self, bar, delay: float) -> None:
        super().__init__(daemon=True)
        self.bar, self.delay, self.stopped = bar, delay, threading.Event()
        _open.append(self)
        self.start()

    def run(self) -> None:
        wait = self.delay
        while not self.stopped.wait(wait):
            wait = TICK
            self.bar.refresh()

    def close(self, *_) -> None:
        """Stop drawing and wipe the bar off; harmless when repeated."""
        self.stopped.set()
        if self in _open:
            self.join()
            _open.remove(self)
            self.bar.last_print_t = self.bar._time()  # so that tqdm wipes off what only the clock drew
        self.bar.close()
