"""A progress bar that knows when to be silent."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

TICK = 1.0  # seconds between two looks at the clock
_open: list[_Ticker] = []  # the notebook's bar, while it runs


def wanted() -> bool:
    """Whether somebody watches: a terminal or a notebook, and no switch says otherwise.

    The switches: ``ENGRAM_PROGRESS=0``, ``CI``, tqdm's own ``TQDM_DISABLE=1`` and the Hub's
    ``HF_HUB_DISABLE_PROGRESS_BARS=1``. A notebook shows one bar at a time, the outermost: two of plain text would write
    over each other.
    """
    off = any(map(_on, ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS")))
    if off or os.environ.get("ENGRAM_PROGRESS") == "0" or os.environ.get("CI") or _open:
        return False
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _on(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "off", "no")


def length(batches: Iterable[object]) -> int | None:
    """How many there are, or None if nobody knows: a DataLoader over an IterableDataset has a len() that raises."""
    try:
        return len(batches)  # type: ignore[arg-type]
    except Exception:  # whatever it is, only a bar would have shown it
        return None


def track(iterable: Iterable[T], *, desc: str, total: int | None = None, delay: float = 2.0) -> Iterator[T]:
    """Iterate with a bar that appears only after ``delay`` seconds, so that short passes stay quiet.

    In a notebook it also appears, and its clock runs, while a single step takes long.
    """
    if not wanted():
        return iter(iterable)
    total = length(iterable) if total is None else total
    shell = _shell()
    if shell is None:
        return iter(_bar(iterable, desc, total, delay))
    return _ticking(iterable, desc, total, delay, shell)


def _bar(iterable: Iterable[T], desc: str, total: int | None, delay: float) -> Any:
    from tqdm import tqdm  # imported late: `import engramlib` costs torch and nothing else

    # What is not passed on is tqdm's own default, which its TQDM_... variables set.
    ours = {k: v for k, v in {"delay": delay, "leave": False}.items() if f"TQDM_{k.upper()}" not in os.environ}
    return tqdm(
        iter(iterable), desc=desc, total=total, **ours
    )  # an iterator: tqdm would ask the others for their len()


def _shell() -> Any:
    """IPython's shell where this is a notebook's kernel."""
    return sys.modules["IPython"].get_ipython() if {"ipykernel", "IPython"} <= set(sys.modules) else None


def _ticking(iterable: Iterable[T], desc: str, total: int | None, delay: float, shell: Any) -> Iterator[T]:
    if not wanted():  # another bar has been opened since
        yield from iterable
        return
    bar = _bar(iterable, desc, total, delay)
    if bar.disable:  # by a switch of tqdm's: such a bar has no clock to draw
        yield from bar
        return
    ticker = _Ticker(bar, bar.delay)
    # A loop that an error cut short is not closed by Python as long as somebody may look at the traceback.
    shell.events.register("post_run_cell", ticker.close)
    try:
        yield from ticker.bar
    finally:
        ticker.close()
        shell.events.unregister("post_run_cell", ticker.close)


class _Ticker(threading.Thread):
    """Draws a bar once a second until it is closed."""

    def __init__(self, bar: Any, delay: float) -> None:
        super().__init__(daemon=True)
        self.bar, self.delay, self.stopped = bar, delay, threading.Event()
        _open.append(self)
        self.start()

    def run(self) -> None:
        wait = self.delay
        while not self.stopped.wait(wait):
            wait = TICK
            self.bar.refresh()

    def close(self, *_: object) -> None:
        """Stop drawing and wipe the bar off; harmless when repeated."""
        self.stopped.set()
        if self in _open:
            self.join()
            _open.remove(self)
            self.bar.last_print_t = self.bar._time()  # so that tqdm wipes off what only the clock drew
        self.bar.close()
