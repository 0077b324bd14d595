"""The work that `scale --processes` divides, and what one process of it does. It imports torch and the method alone.

torchrun --nproc_per_node 2 -m engramlib.lab.studies.divided FOLDER BATCHES
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib import distributed

WORK = {"blocks": 4, "hidden": 256, "intermediate": 688}  # the MLPs of a small Llama
TOKENS = 512  # of a batch


def workload(batches: int) -> tuple[nn.Module, list[Tensor]]:
    """The MLPs of four blocks with fresh weights, and columns for them."""
    d, m = WORK["hidden"], WORK["intermediate"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(d, m), nn.SiLU(), nn.Linear(m, d)) for _ in range(WORK["blocks"])]
    draw = torch.Generator().manual_seed(0)
    return nn.Sequential(*layers), [torch.randn(TOKENS, d, generator=draw) for _ in range(batches)]


def fingerprint() -> str:
    """Sixteen hex digits of the first batch; the others follow from the same generator."""
    _, (first,) = workload(1)
    return hashlib.sha256(first.numpy().tobytes()).hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> int:
    folder, batches = sys.argv[1:] if argv is None else argv
    torch.set_num_threads(1)
    with distributed.started(timeout=120) as number:
        model, data = workload(int(batches))
        began, cpu = time.perf_counter(), time.process_time()
        share = list(distributed.share(data))
        mine = el.collect(model, share) if share else None
        worked = time.process_time() - cpu
        found = distributed.all_reduce(mine, timeout=120)
        row = {
            "process": number,
            "batches": len(share),
            "cpu_collect": worked,
            "cpu_send": time.process_time() - cpu - worked,
            "wall": time.perf_counter() - began,
            "bytes": found.nbytes,
        }
        if number == 0:
            found.save(Path(folder) / "sum.safetensors")
        (Path(folder) / f"{number}.json").write_text(json.dumps(row), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
