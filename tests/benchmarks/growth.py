"""How collecting and extracting grow: exponents of a power law, fitted by least squares on logarithmic scales."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from scipy.stats import linregress

import engramlib as el
from tests.benchmarks.models import LLAMA, Case, Scene, llama
from tests.benchmarks.timing import Task, digits, interleaved, threads

STEPS = ("forward", "collect", "extract")


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """The exponent of seconds = constant · size^exponent, and its standard error."""
    if len(sizes) < 3:
        raise ValueError(f"an exponent and its error need three sizes, got {list(sizes)}")
    found = linregress([math.log(s) for s in sizes], [math.log(s) for s in seconds])
    return float(found.slope), float(found.stderr)


def block(width: int, blocks: int, examples: int = 128, length: int = 16, concepts: int = 2) -> Case:
    """A Llama of that width and depth."""
    heads = max(1, width // 64)
    return Case(
        "", lambda: llama(width, blocks, heads, heads, width * 11 // 4), "texts", length, examples, examples, 1,
        layers=LLAMA, concepts=(concepts,),
    )  # fmt: skip


def axes(quick: bool) -> dict[str, tuple[list[int], Callable[[int], Case]]]:
    """What grows -> the sizes, and the model and data of each."""
    if quick:
        return {
            "width": ([64, 128, 192], lambda n: block(n, 1)),
            "tokens": ([512, 1024, 2048], lambda n: block(64, 1, n // 16)),
            "layers": ([1, 2, 4], lambda n: block(64, n)),
            "concepts": ([2, 8, 32], lambda n: block(64, 1, concepts=n)),
        }
    return {
        "width": ([256, 384, 512, 640, 768], lambda n: block(n, 1)),
        "tokens": ([1024, 2048, 4096, 8192], lambda n: block(256, 2, n // 16)),
        "layers": ([1, 2, 4, 8], lambda n: block(256, n)),
        "concepts": ([2, 5, 10, 20, 50, 100], lambda n: block(256, 1, concepts=n)),
    }


def measure(axis: str, device: str, thread_count: int, rounds: int, quick: bool) -> dict[str, Any]:
    """Seconds at each size, all sizes in turn, and the exponents."""
    sizes, make = axes(quick)[axis]
    with threads(thread_count):
        tasks: dict[str, Task] = {}
        for size in sizes:
            tasks |= {f"{step} {size}": task for step, task in _tasks(Scene(make(size), device)).items()}
        seconds = interleaved(tasks, rounds, device)
    found: dict[str, Any] = {"axis": axis, "sizes": sizes, "threads": thread_count, "steps": {}}
    for step in STEPS:
        medians = [statistics.median(seconds[f"{step} {size}"]) for size in sizes]
        exponent, error = fit(sizes, medians)
        found["steps"][step] = {
            "seconds": list(map(digits, medians)),
            "exponent": digits(exponent, 3),
            "error": digits(error, 2),
        }
    return found


def _tasks(scene: Scene) -> dict[str, Task]:
    """Of as many concepts as the case has: one pass collects all of them, one call extracts all of them."""
    model, label = scene.model, scene.grouped(scene.concepts)

    def collect() -> dict[int, el.Moments]:
        return el.collect_by_concept(model, scene.timed, label, layers=scene.case.layers, forward=scene.call)

    moments = collect()

    def forward() -> None:
        for batch in scene.timed:
            scene.call(model, batch)

    return {"forward": forward, "collect": collect, "extract": lambda: el.extract_all(model, moments)}
