"""Damaged and foreign files, read: no crash, nothing executed, and no error but ValueError or FileNotFoundError.

A child process reads them, with little memory, so that a crash of the interpreter is seen and not suffered. A file that
is still read (the flipped bit was one of a number) must have given what a file can give: finite numbers.
"""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import engramlib as el

MARK = "executed"
BATCH = 1500
MEMORY = 8 * 2**30  # bytes of addresses: torch alone maps a few


class Bomb:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.mark, "w"))


def originals(folder: Path) -> list[bytes]:
    """Files that are whole: moments that share, of groups, of one layer; an engram with and without biases."""
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)).double()
    sigma, group = x.T @ x, torch.stack([x[:, :2].T @ x[:, :2]] * 2)
    whole = [
        el.Moments({"q": sigma, "k": sigma, "conv": group}, {"q": 20, "k": 20, "conv": 20}),
        el.Moments({"": sigma.float()}, {"": 20}),
        el.Engram({"a": (x[:3], x[0, :3]), "b": (x[:2].float(), None)}, {"a": 2.0}),
    ]
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    whole.append(el.collect(model, [x.float()]))
    paths = [folder / f"whole{number}" for number in range(len(whole))]
    for path, what in zip(paths, whole, strict=True):
        what.save(path)
    return [path.read_bytes() for path in paths]


# ---------------------------------------------------------------------------------------------------------- mutations


def truncated(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw))]


def flipped(raw: bytes, rng: random.Random) -> bytes:
    out, last = bytearray(raw), rng.choice([8, 8 + struct.unpack("<Q", raw[:8])[0], len(raw)])
    for _ in range(rng.randint(1, 16)):
        out[rng.randrange(last)] ^= 1 << rng.randrange(8)
    return bytes(out)


def oversized(raw: bytes, rng: random.Random) -> bytes:
    length = struct.unpack("<Q", raw[:8])[0]
    odd = [
        2**64 - 1,
        2**63,
        2**32,
        2**31,
        len(raw),
        len(raw) - 8,
        length + rng.randint(1, 99),
        length - 1,
        0,
        1,
        100 << 20,
    ]
    return struct.pack("<Q", rng.choice(odd)) + raw[8:]


def spliced(raw: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(raw)) for _ in range(2))
    return rng.choice([raw[:a] + raw[b:], raw[:b] + raw[a:], raw[:a] + rng.randbytes(b - a) + raw[b:], raw + raw])


ODD: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**70, -(2**63), 1.5, 1e400, float("nan"), "", "x", "F64", "BOOL", "F8_E4M3",
    [], [0], [-1, 5], [5, 5], [2**62, 2**62], [2**33, 2**33], {}, {"a": 1}, [[]] * 3, "\x00", "é" * 300, "[" * 3000,
]  # fmt: skip


def edited(raw: bytes, rng: random.Random) -> bytes:
    """The JSON inside, some of its values, names and entries changed, and the lengths right."""
    (length,) = struct.unpack("<Q", raw[:8])
    outer = json.loads(raw[8 : 8 + length])
    inner = json.loads(outer["__metadata__"]["header"])
    for _ in range(rng.randint(1, 3)):
        _change(rng.choice([outer, inner, inner, outer.get("__metadata__")]), rng)
    if isinstance(outer.get("__metadata__"), dict) and rng.random() < 0.9:
        outer["__metadata__"]["header"] = json.dumps(inner)
    text = json.dumps(outer).encode() + b" " * rng.randrange(9)
    return struct.pack("<Q", len(text)) + text + raw[8 + length :]


def _odd(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(ODD))  # some are changed in their turn


def _change(node: Any, rng: random.Random) -> None:
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.75:
            node = node[key]
            continue
        what = rng.randrange(4)
        if what == 0:
            del node[key]
        elif what == 1 and isinstance(node, dict):
            node[str(_odd(rng))] = node.pop(key)
        elif what == 2 and isinstance(node, list):
            node.append(_odd(rng))
        else:
            node[key] = _odd(rng)
        return


def foreign(raw: bytes, rng: random.Random) -> bytes:
    """Other formats, pickles that would write a file among them."""
    mark = str(Path(tempfile.gettempdir()) / f"{MARK}-{os.getpid()}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        kind = rng.randrange(8)
        if kind == 0:
            return pickle.dumps(Bomb(mark), protocol=rng.randrange(6))
        if kind == 1:
            torch.save({"a": torch.ones(2), "b": Bomb(mark)}, path)
        elif kind == 2:
            torch.save(Bomb(mark), path, _use_new_zipfile_serialization=False)
        elif kind == 3:
            with zipfile.ZipFile(path, "w") as out:
                out.writestr("data.pkl", pickle.dumps(Bomb(mark)))
        elif kind == 4:
            return b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + pickle.dumps(
                Bomb(mark)
            )
        elif kind == 5:
            text = pickle.dumps(Bomb(mark))
            return struct.pack("<Q", len(text)) + text + raw
        elif kind == 6:
            return rng.choice(
                [b"", b"\n", b"{}", b"\x89PNG\r\n", b"GGUF", b"\x1f\x8b", b"PK\x03\x04", b"import os"]
            ) + rng.randbytes(rng.randrange(99))
        else:
            return rng.randbytes(rng.randrange(5000))
        return path.read_bytes()


MUTATIONS = {f.__name__: f for f in (truncated, flipped, oversized, spliced, edited, foreign)}
SHARES = {"truncated": 15, "flipped": 25, "oversized": 10, "spliced": 15, "edited": 30, "foreign": 5}

# ------------------------------------------------------------------------------------------------------------ reading


def read(seed: int, count: int) -> dict[str, Any]:
    """Make and read ``count`` files; how each kind of file came out, and what is wrong."""
    rng, outcomes, wrong = random.Random(seed), Counter(), []
    mark = Path(tempfile.gettempdir()) / f"{MARK}-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        path, whole = Path(folder) / "file.safetensors", originals(Path(folder))
        for number in range(count):
            kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
            path.write_bytes(MUTATIONS[kind](rng.choice(whole), rng))
            reader = rng.choice([el.Moments, el.Engram])
            try:
                problem = _unsound(reader.load(path))
                outcomes[f"{kind}: read"] += 1
            except (ValueError, FileNotFoundError) as error:
                problem = None if path.name in str(error) else f"an error that does not name the file: {error}"
                outcomes[f"{kind}: refused"] += 1
            except BaseException as error:
                problem = f"{type(error).__name__}: {error}"
            if mark.exists():
                mark.unlink()
                problem = "it was executed"
            if problem:
                wrong.append(f"seed {seed}, file {number}, {kind}, {reader.__name__}: {problem}"[:300])
    return {"files": count, "outcomes": dict(outcomes), "wrong": wrong}


def _unsound(found: el.Moments | el.Engram) -> str | None:
    repr(found)
    tensors = list(found.values()) if isinstance(found, el.Moments) else [t for e in found.values() for t in e]
    if not all(t is None or bool(torch.isfinite(t).all()) for t in tensors):
        return "it was read, with numbers that are not finite"
    if isinstance(found, el.Moments) and not all(0 <= found.count[name] < math.inf for name in found):
        return "it was read, with a negative count"
    return None


def main(files: int, seed: int = 0) -> dict[str, Any]:
    """Read ``files`` files in child processes."""
    outcomes, wrong, done = Counter(), [], 0
    while done < files:
        count = min(BATCH, files - done)
        command = [sys.executable, "-m", "tests.campaign.fuzz", str(seed + done), str(count)]
        child = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
        if child.returncode:
            wrong.append(f"seed {seed + done}: the process ended with {child.returncode}: {child.stderr[-300:]}")
        else:
            report = json.loads(child.stdout.splitlines()[-1])
            outcomes.update(report["outcomes"])
            wrong += report["wrong"]
        done += count
    return {"files": done, "outcomes": dict(sorted(outcomes.items())), "wrong": wrong}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(json.dumps(read(int(sys.argv[1]), int(sys.argv[2]))))
