"""Processes that are killed while they save: every file is a complete version, nothing is lost or counted twice.

Kills come at random times, and at random lines of what runs while a file is written (of the package, and of the parts
of Python and safetensors below it), where a random time would seldom fall. SIGKILL cannot be caught: whatever the
process had open stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import engramlib as el
from engramlib.lab.records import runs

BELOW = ("/engramlib/", "/pathlib.py", "/tempfile.py", "/safetensors/", "/json/", "/contextlib.py", "/codecs.py")


class Killer:
    """Kills its own process at the k-th line that is executed."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        return self.local if any(part in frame.f_code.co_filename for part in BELOW) else None

    def local(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.local


def killed(work: Callable[[int], None], *, after: float | None = None, at: int | None = None) -> tuple[list[int], bool]:
    """Run ``work(pipe)`` in a forked process, and kill it; the numbers that it wrote, and whether it was killed.

    ``after`` seconds from the first number on, or ``at`` a line.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            if at is not None:
                sys.settrace(Killer(at))
            work(writing)
            code = 0
        except BaseException:
            sys.settrace(None)
            Path("/tmp/engram-kills.log").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    os.close(writing)
    first = os.read(reading, 9)
    if after is not None:
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    rest = b""
    while part := os.read(reading, 65536):
        rest += part
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("the process failed by itself: see /tmp/engram-kills.log")
    return [int(word) for word in (first + rest).decode().split("\n")[:-1]], os.WIFSIGNALED(status)


def _say(pipe: int, number: int) -> None:
    os.write(pipe, f"{number}\n".encode())


# ------------------------------------------------------------------------------------ statistics, saved as they grow


def moments(kills: int, rng: random.Random, folder: Path) -> dict[str, Any]:
    """A process collects batch after batch, adds, and saves to one path; killed, the next one goes on from the file."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(8, 6)
    path, one = folder / "moments", el.collect(model, [x])
    with contextlib.suppress(FileNotFoundError):
        path.unlink()

    def work(pipe: int) -> None:
        total = el.Moments.load(path) if path.exists() else None
        while True:
            part = el.collect(model, [x])
            total = part if total is None else total + part
            total.save(path)
            _say(pipe, total.count["0"] // len(x))

    wrong, version = [], 0
    for number in range(kills):
        how = {"after": rng.uniform(0, 0.06)} if number % 2 else {"at": rng.randrange(4000)}
        said, _ = killed(work, **how)
        try:
            found = el.Moments.load(path) if path.exists() else None
        except ValueError as error:
            wrong.append(f"kill {number} {how}: {error}")
            break
        now = 0 if found is None else found.count["0"] // len(x)
        last = said[-1] if said else version
        if not last <= now <= last + 1 or said != list(range(version + 1, version + 1 + len(said))):
            wrong.append(f"kill {number} {how}: version {version} before, {said[-3:]} said, {now} in the file")
        for name in found or ():
            if found.count[name] != now * len(x) or not torch.allclose(found[name], now * one[name], rtol=1e-9):
                wrong.append(f"kill {number} {how}: layer {name!r} is not {now} times the batch")
        version = now
    return {"kills": kills, "versions": version, "wrong": wrong}


# -------------------------------------------------------------------------------------------------------- recorded runs


def recorded(kills: int, rng: random.Random, folder: Path) -> dict[str, Any]:
    """A recorded run of many parts, killed and begun again until it ends; then the next one."""
    wrong, number, finished, parts = [], 0, 0, 12
    while number < kills:
        name = f"killed-{finished}"

        def work(pipe: int, name: str = name) -> None:
            with runs.record(name, config={"a": 1}, seeds=range(parts), folder=folder) as run:
                for seed in run.seeds:
                    if not run.done(seed=seed):
                        run.add([{"seed": seed, "value": seed**2}, {"seed": seed, "value": -seed}], seed=seed)
                        _say(pipe, seed)

        said: list[int] = []
        while True:
            how = {"after": rng.uniform(0, 0.03)} if number % 2 else {"at": rng.randrange(6000)}
            try:
                more, stopped = killed(work, **how)
            except RuntimeError as error:
                wrong.append(f"kill {number} {how}: {error}")
                return {"kills": number, "runs": finished, "wrong": wrong}
            if repeated := set(more) & set(said):
                wrong.append(f"kill {number} {how}: {name}: parts {sorted(repeated)} were lost, and made again")
            said += more
            number += stopped
            if (folder / f"{name}.json").exists():
                break
        rows = runs.load(name, folder=folder).rows
        expected = [{"seed": seed, "value": v} for seed in range(parts) for v in (seed**2, -seed)]
        if sorted(map(str, rows)) != sorted(map(str, expected)):
            wrong.append(f"{name}: {len(rows)} rows, not the {len(expected)} of its parts")
        finished += 1
    return {"kills": number, "runs": finished, "wrong": wrong}


def main(kills: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """``kills`` of each."""
    rng = random.Random(seed)
    return {"moments": moments(kills, rng, folder), "recorded runs": recorded(kills, rng, folder)}


if __name__ == "__main__":
    import json
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(main(int(sys.argv[1]), Path(temporary)), indent=1))
