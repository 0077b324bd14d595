"""Peak memory of a step, in a process of its own: ``python -m tests.benchmarks.memory llama --quick``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

import engramlib as el
from tests.benchmarks import conv
from tests.benchmarks.models import Scene, cases
from tests.benchmarks.peak import peak
from tests.benchmarks.steps import Steps

SHRINK = 4  # of the number of images, in a quick run
ROOT = Path(__file__).resolve().parents[2]
# What is larger than 64 kB goes back to the system when it is freed, so that a step finds nothing of the last one.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measure(name: str, quick: bool, device: str) -> Any:
    """MB above what was there before the step, step by step."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", name, "--device", device, *["--quick"] * quick]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | MALLOC, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"memory of {name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def weigh(steps: Steps, device: str) -> list[dict[str, Any]]:
    passes, solves = steps.passes(), steps.solves()
    tasks = {name: passes[name] for name in ("forward", "collect", "collect 10 concepts", "edit in place")}
    tasks |= {name: solves[name] for name in ("extract", "extract 10 concepts")}
    tasks["sweep"] = steps.sweeps()["sweep"]
    if steps.scene.language:
        tasks["forget"] = steps.forgets()["forget"]
    for group in steps.beside().values():
        tasks |= {name: task for name, task in group.items() if name.startswith("theirs: ") and "10" not in name}
    steps.engram, steps.minus  # noqa: B018, made now and not while something is weighed
    sizes: dict[str, float] = {
        "collect": _bytes(
            el.collect(steps.model, steps.scene.timed, layers=steps.case.layers, forward=steps.scene.call)
        ),
        "collect 10 concepts": sum(map(_bytes, steps.few[10].values())),
        "extract": _engram_bytes(steps.engram),
        "extract 10 concepts": 10 * _engram_bytes(el.extract(steps.model, steps.few[10][0], steps.few[10][1])),
    }
    tasks["forward"]()
    sizes = {name: round(size / 1e6, 1) for name, size in sizes.items()}
    return [
        {"step": name, "MB": round(peak(task, device), 1), "result MB": sizes.get(name)} for name, task in tasks.items()
    ]


def _bytes(moments: el.Moments) -> int:
    return moments.nbytes  # as they are kept: asking for a Σ would write it out


def _engram_bytes(engram: el.Engram) -> int:
    return sum(t.numel() * t.element_size() for entry in engram.values() for t in entry if t is not None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    parser.add_argument("model", help="its name, or conv")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if args.model == "conv":
        found: Any = conv.weigh(args.device, SHRINK if args.quick else 1)
    else:
        case = cases(args.quick)[args.model]
        found = {"title": case.title, "rows": weigh(Steps(Scene(case, args.device)), args.device)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
