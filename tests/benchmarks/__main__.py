"""The benchmark: ``make bench``, or ``python -m tests.benchmarks [PARTS]``. About 35 minutes on two cores.

Measures the parts named (all of them without a name), writes each into ``data/benchmarks.json`` when it is finished,
and the page ``book/how-fast.md`` from that. A run that was cut off goes on where it stopped. Every part says which run
it comes from, and every ratio is of times from one part. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engramlib.lab.records import runs
from tests.benchmarks import conv, growth, memory, page, peer, reach, roofline, steps
from tests.benchmarks.models import Scene, cases
from tests.benchmarks.timing import ROUNDS

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "data" / "benchmarks.json"
PARTS = ("steps", "memory", "conv", "growth", "roofline", "reach")
ROOFS = ("mlp", "resnet18", "vit", "llama")
Part = tuple[str, Callable[[], Any]]


def plan(
    parts: list[str], quick: bool, device: str, thread_counts: list[int], rounds: int, only: list[str] | None = None
) -> Iterator[Part]:
    """What is to be measured: its key in the record, and the call that measures it; of all models, or ``only`` some."""
    most = max(thread_counts)
    models = {name: case for name, case in cases(quick).items() if not only or name in only}
    if "steps" in parts:
        for count in thread_counts:
            for name, case in models.items():
                if count == most or not case.most_threads:
                    if count != most:  # a hundred concepts take a third of the time: once is enough
                        case = replace(case, concepts=tuple(n for n in case.concepts if n < 100))
                    yield f"steps/{name}/{count}", lambda c=case, n=count: steps.measure(c, device, n, rounds)
    if "memory" in parts:
        for name in (*models, *["conv"] * (not only)):
            yield f"memory/{name}", lambda name=name: memory.measure(name, quick, device)
    if "conv" in parts:
        for count in thread_counts:
            shrink = memory.SHRINK if quick else 1
            yield f"conv/{count}", lambda n=count, s=shrink: conv.measure(device, n, rounds, s)
    if "growth" in parts:
        for axis in growth.axes(quick):
            yield f"growth/{axis}/{most}", lambda a=axis: growth.measure(a, device, most, rounds, quick)
    if "roofline" in parts:
        for name in (name for name in ROOFS if name in models):
            yield (
                f"roofline/{name}/{most}",
                lambda c=models[name]: roofline.measure(Scene(c, device), device, most, rounds),
            )
    if "reach" in parts:
        for name in reach.NAMES:
            yield f"reach/{name}", lambda name=name: reach.measure(name, quick, rounds)


class Record:
    """``runs``: id -> where and how. ``parts``: key -> its run and what was found; written one by one."""

    def __init__(self, path: Path, settings: dict[str, Any], restart: bool) -> None:
        self.path = path
        self.data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": {}, "parts": {}}
        here = runs._session()
        same = {"settings": settings, "torch": torch.__version__, "commit": here["commit"], "finished": False}
        last = next(reversed(self.data["runs"]), None)
        mine = last and {name: self.data["runs"][last].get(name) for name in same}
        if last is None or restart or mine != same:
            last = str(1 + max(map(int, self.data["runs"]), default=0))
            versions = {"peer": peer.version(), "most threads": os.cpu_count(), "load": os.getloadavg()[0]}
            self.data["runs"][last] = here | same | versions
        self.run = last

    def has(self, key: str) -> bool:
        return self.data["parts"].get(key, {}).get("run") == self.run

    def add(self, key: str, found: Any, seconds: float) -> None:
        self.data["parts"].pop(key, None)
        self.data["parts"][key] = {"run": self.run, "seconds": round(seconds, 1), "found": found}
        self.write()

    def finish(self, whole: set[str] | None) -> None:
        """The run came to its end; if it was of everything, what older runs left is dropped."""
        if whole is not None:
            self.data["parts"] = {key: part for key, part in self.data["parts"].items() if key in whole}
        used = {part["run"] for part in self.data["parts"].values()}
        self.data["runs"] = {name: run for name, run in self.data["runs"].items() if name in used}
        if self.run in used:
            self.data["runs"][self.run]["finished"] = True
        self.write()

    def write(self) -> None:
        """Whole or not at all."""
        beside = self.path.with_suffix(".tmp")
        beside.write_text(dumped(self.data) + "\n", encoding="utf-8")
        os.replace(beside, self.path)


def dumped(value: Any, indent: str = "") -> str:
    """JSON in which what holds only numbers and words stands on one line."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(part, (dict, list)) for part in inner):
        return json.dumps(value, ensure_ascii=False)
    deeper = indent + " "
    if isinstance(value, dict):
        lines = [f"{deeper}{json.dumps(key)}: {dumped(part, deeper)}" for key, part in value.items()]
    else:
        lines = [deeper + dumped(part, deeper) for part in value]
    ends = "{}" if isinstance(value, dict) else "[]"
    return f"{ends[0]}\n" + ",\n".join(lines) + f"\n{indent}{ends[1]}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small models, to see that it runs: no numbers to quote")
    parser.add_argument("--device", default="cpu", help="cuda: the same tables on a GPU, in _build/benchmarks-cuda.md")
    parser.add_argument("--models", nargs="+", choices=list(cases()), help="only these, of steps, memory and roofline")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 and 2; on a GPU: 1")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, quick: 2")
    parser.add_argument("--restart", action="store_true", help="do not go on with a run that was cut off")
    parser.add_argument("--page", action="store_true", help="only write the page again, from the last record")
    parser.add_argument("--record", type=Path, help="another file; the page is then written beside it")
    args = parser.parse_args(arguments)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    if args.record is None:
        args.record = RECORD if args.device == "cpu" else ROOT / "_build" / f"benchmarks-{args.device}.json"
    args.record.parent.mkdir(exist_ok=True)
    if not args.page:
        measure(args)
    record = json.loads(args.record.read_text(encoding="utf-8"))
    if args.record == RECORD:
        written = page.write(record)
    else:
        written = args.record.with_suffix(".md")
        written.write_text(page.text(record), encoding="utf-8")
    print(f"wrote {written}")
    return 0


def measure(args: argparse.Namespace) -> None:
    counts = sorted(set(args.threads or ([1] if args.device.startswith("cuda") else [1, 2])))
    args.rounds = args.rounds or (2 if args.quick else ROUNDS)
    settings = {"quick": args.quick, "device": args.device, "threads": counts, "rounds": args.rounds}
    os.environ["TQDM_DISABLE"] = "1"  # bars cost time, ours and theirs
    warnings.simplefilter("ignore")  # of too few data: these are random networks
    if peer.version() is None:
        print("ai-engram is not installed (make bench does that): nothing is measured beside it", flush=True)
    record, start = Record(args.record, settings, args.restart), time.perf_counter()
    todo = list(plan(args.parts or list(PARTS), args.quick, args.device, counts, args.rounds, args.models))
    for number, (key, part) in enumerate(todo, start=1):
        if record.has(key):
            print(f"{number}/{len(todo)} {key}: measured before", flush=True)
            continue
        began = time.perf_counter()
        found = part()
        record.add(key, found, time.perf_counter() - began)
        print(f"{number}/{len(todo)} {key}: {time.perf_counter() - began:.0f} s", flush=True)
    record.finish(None if args.parts or args.models else {key for key, _ in todo})
    print(f"{time.perf_counter() - start:.0f} s, recorded in {args.record}")


if __name__ == "__main__":
    sys.exit(main())
