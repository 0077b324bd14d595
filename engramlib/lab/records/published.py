"""Numbers that others published, as data with their source.

`get("fig11").values["erased"]` is what the paper reports; `names()` lists what there is. None means: not known
to us. The files are `data/published/<name>.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from engramlib.lab.records.runs import data_dir


@dataclass(frozen=True)
class Source:
    """Where a number stands. `note` says how it was made and what to beware of."""

    where: str
    arxiv: str | None
    note: str

    def __str__(self) -> str:
        if self.arxiv is None or self.arxiv in self.where:
            return self.where
        return f"{self.where}, arXiv:{self.arxiv}"


@dataclass(frozen=True)
class Published:
    """One published figure or table. `values` keeps the nesting of the file."""

    name: str
    title: str
    values: dict[str, Any]
    source: Source


def names() -> list[str]:
    """The names that `get` knows."""
    return sorted(path.stem for path in (data_dir() / "published").glob("*.json"))


def get(name: str) -> Published:
    """The published numbers called `name`, for example "fig11" or "table2". Raises `KeyError` for an unknown name."""
    if name not in (known := names()):
        raise KeyError(f"no published numbers called {name!r}; there are: {', '.join(known)}.")
    raw = json.loads((data_dir() / "published" / f"{name}.json").read_text(encoding="utf-8"))
    return Published(name, raw["title"], raw["values"], Source(**raw["source"]))
