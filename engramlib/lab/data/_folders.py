"""Where a data set is looked for, and where it may be downloaded to or unpacked."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from engramlib.lab.data.image_data import DatasetUnavailable


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


def unpacked(what: str, archive: Path) -> Path:
    """The zip's folder in the cache: unpacked beside its name, and renamed when complete."""
    target = Path("~/.cache/engramlib").expanduser() / archive.stem
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    side = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        with zipfile.ZipFile(archive) as files:
            files.extractall(side)  # zipfile leaves no name outside of `side`
        inner = list(side.iterdir())
        (inner[0] if len(inner) == 1 and inner[0].is_dir() else side).replace(target)
    except (OSError, zipfile.BadZipFile) as error:
        if not target.is_dir():  # another process was faster otherwise
            raise DatasetUnavailable(f"{what}: {archive} cannot be unpacked ({error}). Fetch it again.") from error
    finally:
        shutil.rmtree(side, ignore_errors=True)
    return target
