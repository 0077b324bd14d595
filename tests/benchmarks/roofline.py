# ruff: noqa: E501, a table
"""How far each step is from what the machine could do: max(operations / rate, bytes / bandwidth).

Counted is what the task needs by the cheapest way we know, not what our code happens to do:

| step | operations | bytes |
|---|---|---|
| forward | 2 · n · out · d for each matrix, 4 · n · t · d for attention, in float32 | weights and activations once |
| collect | n · d · (d + 1) for each distinct input: half of XᵀX, in float64; and the forward pass | X read, Σ read and written once a batch |
| extract | ΔW Σ⁺: 2 · out · d²; and Σ: d³/3 and 2 · out · d² to solve, or where directions are cut 9 · d³, 2 · d³ and 2 · out · d² | two Σ read, W read, W⁺ written |
| edit | none | W and W⁺ read, W written |

n counts columns (tokens, patches), d is the width of Σ. The rates are those of large products and of a large copy, in
the same run. Convolutions are counted patch by patch; correlations need fewer operations, so they may lie above 100 %.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import engramlib as el
from tests.benchmarks.models import Scene
from tests.benchmarks.steps import Steps
from tests.benchmarks.timing import Task, digits, interleaved, threads

SIDE = {"cpu": 1024, "cuda": 8192}  # of the products that measure the machine
COPIED = {"cpu": 2**26, "cuda": 2**28}  # numbers of the copy: 256 MB is more than any cache


@dataclass(frozen=True)
class Work:
    """Operations by precision, and bytes."""

    float32: float = 0.0
    float64: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.float32 + other.float32, self.float64 + other.float64, self.bytes + other.bytes)

    def seconds(self, rates: dict[str, float]) -> float:
        """The least that this machine can take: arithmetic or memory, whichever takes longer."""
        arithmetic = self.float32 / rates["float32"] + self.float64 / rates["float64"]
        return max(arithmetic, self.bytes / rates["bytes"])


def forward(model: nn.Module, run: Any) -> Work:
    """A forward pass, counted by torch; weights read once."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return Work(float32=counter.get_total_flops(), bytes=sum(p.numel() * p.element_size() for p in model.parameters()))


def collect(moments: el.Moments, batches: int = 1) -> Work:
    """The sums alone. Layers that share a Σ share its price."""
    work = Work()
    for name, sigma in _distinct(moments).items():
        d, groups, n = sigma.shape[-1], sigma[..., 0, 0].numel(), moments.count[name]
        work += Work(float64=groups * n * d * (d + 1), bytes=groups * (4 * n * d + 16 * d * d * batches))
    return work


def extract(model: nn.Module, moments: el.Moments, rcond: float = 1e-6) -> Work:
    """One engram of the layers of ``moments``, those of target and reference together."""
    modules, work = dict(model.named_modules()), Work()
    for sigma in _distinct(moments).values():
        d, groups = sigma.shape[-1], sigma[..., 0, 0].numel()
        rows = sum(_height(modules, other, groups) for other, s in moments.items() if s is sigma)
        values = torch.linalg.eigvalsh(sigma)
        cut = bool((values[..., 0] <= rcond * values[..., -1]).any())
        solve = 11 * d**3 + 2 * rows * d**2 if cut else d**3 / 3 + 2 * rows * d**2
        work += Work(float64=groups * (solve + 2 * rows * d**2), bytes=groups * (16 * d * d + 8 * rows * d))
    return work


def edit(engram: el.Engram) -> Work:
    """One edit in place."""
    return Work(bytes=12 * sum(t.numel() for entry in engram.values() for t in entry if t is not None))


def _height(modules: dict[str, nn.Module], name: str, groups: int) -> int:
    """Rows of a layer's W, in each group."""
    if name in modules:
        module = modules[name]
        out = getattr(module, "out_features", getattr(module, "out_channels", getattr(module, "nf", None)))
        assert out is not None, name
        return int(out) // groups
    attention = modules[name.rpartition(".")[0]]  # a projection of nn.MultiheadAttention
    assert isinstance(attention, nn.MultiheadAttention), name
    return attention.embed_dim


def _distinct(moments: el.Moments) -> dict[str, torch.Tensor]:
    """The first layer's name of each distinct Σ."""
    found: dict[int, str] = {}
    for name, sigma in moments.items():
        found.setdefault(id(sigma), name)
    return {name: moments[name] for name in found.values()}


def machine(device: str = "cpu") -> tuple[dict[str, Task], dict[str, float]]:
    """Tasks that measure the machine, and what each does: operations, or bytes read and written."""
    kind = device.partition(":")[0]
    side, tasks, work = SIDE[kind], {}, {}
    for name in ("float32", "float64", "bfloat16"):
        x = torch.randn(side, side, device=device).to(getattr(torch, name))
        out = torch.empty_like(x)
        tasks[name] = lambda x=x, out=out: torch.mm(x, x, out=out)
        work[name] = 2.0 * side**3
    source = torch.ones(COPIED[kind], device=device)
    target = torch.empty_like(source)
    tasks["bytes"] = lambda: target.copy_(source)
    work["bytes"] = 2.0 * source.numel() * source.element_size()
    return tasks, work


def measure(scene: Scene, device: str, thread_count: int, rounds: int) -> dict[str, Any]:
    """Each step's time beside its limit, with the machine's rates measured in the same rounds."""
    with threads(thread_count):
        steps = Steps(scene)
        rulers, done = machine(device)
        passes, solves = steps.passes(), steps.solves()
        tasks = rulers | {name: passes[name] for name in ("forward", "collect", "edit in place")}
        tasks["extract"] = solves["extract"]
        steps.edit_in_place()
        timed = el.collect(steps.model, scene.timed, layers=scene.case.layers, forward=scene.call)
        once, engram = forward(steps.model, steps.forward), edit(steps.engram)
        need = {
            "forward": once,
            "collect": once + collect(timed, len(scene.timed)),
            "extract": extract(steps.model, steps.total),
            "edit in place": engram + engram,
        }
        seconds = {name: statistics.median(s) for name, s in interleaved(tasks, rounds, device).items()}
    rates = {name: done[name] / seconds[name] for name in done}
    rows = [
        {
            "step": step,
            "seconds": digits(seconds[step]),
            "Gflop float32": digits(work.float32 / 1e9),
            "Gflop float64": digits(work.float64 / 1e9),
            "GB": digits(work.bytes / 1e9),
            "bound": "memory" if work.bytes / rates["bytes"] >= work.seconds(rates) else "arithmetic",
            "share": digits(work.seconds(rates) / seconds[step], 3),
        }
        for step, work in need.items()
    ]
    return {
        "title": scene.case.title,
        "note": scene.case.note,
        "threads": thread_count,
        "rates": {name: digits(rate) for name, rate in rates.items()},
        "rows": rows,
    }
