"""An engram of a Hugging Face model, collected by as many processes as there are: for `torchrun`, and for SLURM.

    torchrun --nproc_per_node 8 -m engramlib.lab.studies.launch \\
        --model meta-llama/Llama-3.1-8B --forget forget.jsonl --retain retain.jsonl --shift \\
        --rank 0.1 --resume /scratch/run7 --out engram.safetensors

A file has one JSON object a line: {"prompt": ..., "answer": ...}, of which the answer's tokens count, or {"text": ...}.
Each process loads the whole model, reads its share of the items, and the first one extracts and saves. A run that was
killed and is started again goes on where it was. `engram.sbatch`, beside this file, does so on two nodes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib import distributed, language

SBATCH = Path(__file__).with_name("engram.sbatch")


def options() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="-m engramlib.lab.studies.launch", description=__doc__.splitlines()[0])
    found.add_argument("--model", required=True, help="a name of the Hugging Face hub, or a folder")
    found.add_argument("--forget", type=Path, required=True, help="JSON lines: what to forget")
    found.add_argument("--retain", type=Path, required=True, help="JSON lines: what to keep")
    found.add_argument("--out", type=Path, required=True, help="where the engram goes (safetensors)")
    found.add_argument("--layers", default=r".*_proj", help=r"an expression; .*\.(q|k|gate)_proj for Q, K, gate")
    found.add_argument("--rank", type=float, help="rows of each Σ, or below 1 a share of its bytes; else it is whole")
    found.add_argument("--specificity", type=float, default=1.0)
    found.add_argument("--rcond", type=float, default=1e-6)
    found.add_argument("--shift", action="store_true", help="read where answers are predicted")
    found.add_argument("--batch-size", type=int, default=8)
    found.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    found.add_argument("--resume", type=Path, help="a folder for partial sums that all processes see")
    found.add_argument("--every", type=int, default=100, help="batches between two partial sums")
    found.add_argument("--timeout", type=float, default=1800.0, help="seconds until a lost process is an error")
    return found


def items(path: Path) -> list[Any]:
    """The items of a file. Raises `ValueError` with the line that is none."""
    found: list[Any] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found.append(row["text"] if "text" in row else (row["prompt"], row["answer"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path}:{number}: expected {{"prompt", "answer"}} or {{"text"}}: {error!r}') from error
    if not found:
        raise ValueError(f"{path} has no items")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    args = options().parse_args(argv)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with distributed.started(timeout=args.timeout) as number:
        device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(device).eval()
        rank = None if args.rank is None else args.rank if args.rank < 1 else int(args.rank)

        def forward(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
            model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

        def moments(path: Path, side: str) -> el.Moments:
            batches = language.batches(tokenizer, items(path), batch_size=args.batch_size)
            return distributed.collect(
                model,
                distributed.share(batches),
                timeout=args.timeout,
                resume=None if args.resume is None else args.resume / side,
                every=args.every,
                run=f"{args.model} {path}",
                layers=args.layers,
                rows=partial(language.answer_rows, shift=args.shift),
                forward=forward,
                rank=rank,
            )

        target, reference = moments(args.forget, "forget"), moments(args.retain, "retain")
        if number == 0:
            engram = el.extract(model, target, reference, specificity=args.specificity, rcond=args.rcond)
            engram.save(args.out)
            print(f"{args.out}: {engram}, of {distributed.size()} processes and {target.nbytes / 1e9:.3g} GB a side")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
