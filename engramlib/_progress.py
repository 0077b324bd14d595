"""A progress bar that knows when to be silent."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def wanted() -> bool:
    """Whether somebody watches: a terminal or a notebook, and neither ``CI`` nor ``ENGRAM_PROGRESS=0`` is set."""
    if os.environ.get("ENGRAM_PROGRESS") == "0" or os.environ.get("CI"):
        return False
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def track(iterable: Iterable[T], *, desc: str, total: int | None = None, delay: float = 2.0) -> Iterator[T]:
    """Iterate with a bar that appears only after ``delay`` seconds, so that short passes stay quiet."""
    if not wanted():
        return iter(iterable)
    from tqdm import tqdm  # imported late: `import engramlib` costs torch and nothing else

    return iter(tqdm(iterable, desc=desc, total=total, delay=delay, leave=False))
