"""What every chapter starts with, and the few lines that every chapter ends with."""

from __future__ import annotations

import os
import platform
import random
import statistics
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

import engramlib
from engramlib._progress import track
from engramlib.lab.records.scoreboard import RESULTS

T = TypeVar("T")
SCALES = ("laptop", "paper")


@dataclass(frozen=True)
class Lab:
    """Where this chapter runs. `scale` picks sizes, never another algorithm."""

    scale: str
    device: torch.device
    seed: int

    def pick(self, *, laptop: T, paper: T) -> T:
        """The value for the scale of this run: `epochs = lab.pick(laptop=20, paper=60)`."""
        return paper if self.scale == "paper" else laptop

    def track(self, steps: Iterable[T], desc: str) -> Iterator[T]:
        """Go through `steps` with a progress bar, for loops over five seconds: `for s in lab.track(seeds, "networks")`.

        The bar comes after two seconds, and only where somebody watches: not on the pages of the book.
        """
        return track(steps, desc=desc)


def setup(seed: int = 0) -> Lab:
    """Seed python, numpy and torch, set the figure style, and say in one line where the chapter runs.

    The environment variable `ENGRAM_SCALE` chooses the scale: "laptop" (the default: two CPU cores, no network)
    or "paper" (the paper's data and models).
    """
    scale = os.environ.get("ENGRAM_SCALE") or "laptop"
    if scale not in SCALES:
        raise ValueError(f"ENGRAM_SCALE is {scale!r}; set it to 'laptop' or 'paper', or leave it unset.")
    from engramlib.lab.teaching import advice

    advice.show_after_errors()
    advice.check_data_folder()
    advice.check_packages()
    import numpy as np

    from engramlib.lab import plots
    from engramlib.lab.plots.figure import display_html

    # transformers asks for notebook widgets when it is imported; a chapter's bars do without.
    warnings.filterwarnings("ignore", message="IProgress not found")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if scale == "laptop":
        _one_thread()
    plots.style()
    display_html(plots.css(), fallback="")
    lab = Lab(scale, torch.device("cuda" if torch.cuda.is_available() else "cpu"), seed)
    device = torch.cuda.get_device_name() if lab.device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    print(
        f"scale: {scale} · device: {device} · seed: {seed} · "
        f"Python {platform.python_version()} · torch {torch.__version__} · engramlib {engramlib.__version__}"
    )
    return lab


def _one_thread() -> None:
    """Small networks run faster on one thread, and a machine that is busy otherwise slows them down ten-fold."""
    from threadpoolctl import threadpool_limits  # comes with scikit-learn; numpy's and scipy's threads

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
        threadpool_limits(limits=1)


def say(text: str, *, results: Mapping[str, object] | None = None) -> None:
    """Show `text` as Markdown: a sentence of prose whose numbers come from the run.

    `results` = numbers that the replication scoreboard reads (a name and one number a seed); they are not shown.
    """
    from IPython.display import display

    bundle = {RESULTS: as_results(results)} if results else {}
    display({"text/markdown": text, "text/plain": text, **bundle}, raw=True)


def pm(values: float | Iterable[float], digits: int = 3) -> str:
    """Mean ± standard deviation (n - 1) of the values, one a seed. One value alone has no spread; none is empty.

    >>> pm([0.027, 0.031, 0.035])
    '0.031 ± 0.004'
    >>> pm([0.5]), pm([])
    ('0.500', '')
    """
    numbers = _numbers(values)
    if not numbers:
        return ""
    mean = f"{statistics.fmean(numbers):.{digits}f}"
    return mean if len(numbers) == 1 else f"{mean} ± {statistics.stdev(numbers):.{digits}f}"


def _numbers(values: float | Iterable[float]) -> list[float]:
    several = isinstance(values, Iterable) and getattr(values, "ndim", 1)
    return [float(v) for v in values] if several else [float(values)]


COLUMNS = {"what": "", "published": "published", "recorded": "recorded real-data run", "this_run": "this run"}


def replication_table(rows: Sequence[Mapping[str, object]], caption: str, *, digits: int = 3) -> None:
    """Show `published | recorded real-data run | this run`, one row a quantity.

    Each row is a dict: `what` (a name), and any of `published`, `recorded`, `this_run`, each a number, a text, or
    one number a seed (shown as mean ± sd, with `digits` of the row or of the table). What is missing or None stays an
    empty cell, never a guess. A number is handed over as a number: what stands in a text is not read by the scoreboard.
    """
    from IPython.display import display

    from engramlib.lab import plots

    html = plots.table_html(replication_rows(rows, digits=digits), caption, columns=list(COLUMNS.values()))
    found = as_results({str(row["what"]): row.get("this_run") for row in rows})
    display({"text/html": html, "text/plain": caption, RESULTS: found}, raw=True)


def as_results(values: Mapping[str, object]) -> dict[str, list[float] | str]:
    """Numbers as JSON: a list with one number a seed, or the text that is shown; what is missing is left out.

    >>> as_results({"erased": torch.tensor([0.25, 0.5]), "ratio": 2, "worst": "", "best": "0.91"})
    {'erased': [0.25, 0.5], 'ratio': [2.0], 'best': '0.91'}
    """
    found: dict[str, list[float] | str] = {}
    for name, value in values.items():
        if value is None or isinstance(value, str):
            if value:
                found[name] = value
        elif numbers := _numbers(value):
            found[name] = numbers
    return found


def replication_rows(rows: Sequence[Mapping[str, object]], *, digits: int = 3) -> list[dict[str, str]]:
    """The cells of `replication_table`, as text."""
    table = []
    for row in rows:
        unknown = set(row) - {*COLUMNS, "digits"}
        if unknown or "what" not in row:
            raise ValueError(
                f"replication_table: a row has the keys {sorted(row)}; use 'what' and any of {sorted(COLUMNS)[:-1]}."
            )
        own = row.get("digits", digits)
        table.append({title: _cell(row.get(key), own) for key, title in COLUMNS.items()})
    return table


def _cell(value: object, digits: int) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return pm(value, digits)
