"""Where a data set is looked for, and where it may be downloaded to."""

from __future__ import annotations

import os
from pathlib import Path


def folders(root: str | Path | None) -> list[Path]:
    """`root` alone where it is given, else the environment variable `ENGRAM_DATA`, then `~/.cache/engramlib`."""
    if root is not None:
        return [Path(root).expanduser()]
    named = os.environ.get("ENGRAM_DATA")
    cache = Path("~/.cache/engramlib").expanduser()
    return [Path(named).expanduser(), cache] if named else [cache]


def writable(folder: Path) -> bool:
    """Whether `folder` is, or could be made, a place to write to."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return existing.is_dir() and os.access(existing, os.W_OK)
