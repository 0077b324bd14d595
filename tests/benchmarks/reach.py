"""What the issue asks for that no other part measures: importing, forgetting at SmolLM2's shape, bytes of a concept.

In a process of its own each, one thread: ``python -m tests.benchmarks.reach forget``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from typing import Any

import torch

import engramlib as el
from tests.benchmarks import data
from tests.benchmarks.memory import MALLOC, ROOT
from tests.benchmarks.models import Scene, cases
from tests.benchmarks.peak import peak
from tests.benchmarks.timing import digits

NAMES = ("import", "concepts", "forget")
ITEMS, LENGTH, CONCEPTS = 160, 64, 20
IMPORT = "import torch, time; start = time.perf_counter(); import engramlib; print(time.perf_counter() - start)"


def measure(name: str, quick: bool, rounds: int) -> Any:
    if name == "import":  # as installed, compiled before: by the first round, which does not count
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        command = [sys.executable, "-c", IMPORT]
        run = [subprocess.check_output(command, cwd=ROOT, env=env, text=True) for _ in range(rounds + 1)]
        return {"seconds": digits(statistics.median(map(float, run[1:]))), "rounds": rounds}
    command = [sys.executable, "-m", "tests.benchmarks.reach", name, *["--quick"] * quick]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | MALLOC, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def concepts(scene: Scene) -> dict[str, Any]:
    """Moments of 20 concepts in one pass: the peak with sums in float32, and the bytes of one in both precisions."""
    label = scene.grouped(CONCEPTS)

    how = {"layers": scene.case.layers, "forward": scene.call}

    def collected() -> dict[int, el.Moments]:
        return el.collect_by_concept(scene.model, scene.all, label, dtype=torch.float32, **how)

    one = {}
    for dtype in (torch.float32, torch.float64):
        size = el.collect(scene.model, scene.all[:1], dtype=dtype, **how).nbytes
        one[str(dtype).removeprefix("torch.")] = round(size / 1e6, 1)
    return {"concepts": CONCEPTS, "MB": round(peak(collected)), "MB of one": one}


def forget(scene: Scene) -> dict[str, Any]:
    """``el.forget`` of a tenth of 160 texts, beside a forward pass over them."""
    size = scene.case.batch
    texts = data.texts(scene.x)
    gone, rest = texts[: len(texts) // 10], texts[len(texts) // 10 :]

    def task() -> Any:
        return el.forget(scene.model, data.words, gone, rest, layers=scene.case.layers, batch_size=size)

    mb = peak(task)
    start = time.perf_counter()
    task()
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    with torch.no_grad():
        for batch in scene.all:
            scene.call(scene.model, batch)
    forward = time.perf_counter() - start
    return {
        "items": len(texts),
        "tokens": scene.x.numel(),
        "seconds": digits(seconds),
        "forward": digits(forward),
        "MB": round(mb),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.reach", description=__doc__)
    parser.add_argument("name", choices=NAMES[1:])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    case = cases(args.quick)["smollm2"]
    length = 8 if args.quick else LENGTH
    scene = Scene(replace(case, size=length, examples=ITEMS, batch=16, timed=10, concepts=(1, CONCEPTS)))
    print(json.dumps({"concepts": concepts, "forget": forget}[args.name](scene)))


if __name__ == "__main__":
    main()
