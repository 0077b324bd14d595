"""What the method costs, as ratios measured in one run: `python -m engramlib.lab.benchmark`.

Tasks are timed in turn, best of several rounds, and each time is divided by another from the same run; so the table
means something on any machine. If the authors' package (`pip install ai-engram`) is there, it is measured beside ours.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable

import torch
from torch import nn

import engramlib as el
from engramlib._products import add_outer

ROUNDS = 5


def best_of(tasks: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds of each task: the best of `rounds`, taken in turn so that a busy moment hits all alike."""
    for task in tasks.values():
        task()
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def llama(width: int = 256, layers: int = 2) -> nn.Module:
    """A small Llama built from a config, without weights to download."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=512,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def language(
    concepts: int = 10, examples: int = 40, tokens: int = 128, rounds: int = 3
) -> list[tuple[str, float, str]]:
    """Collecting and extracting for `concepts` concepts of a small Llama; rows (what, ratio, to what)."""
    model = llama()
    ids = torch.randint(0, 512, (examples, tokens), generator=torch.Generator().manual_seed(0))
    concept = torch.arange(examples) % concepts
    batches = [{"input_ids": part} for part in ids.split(8)]
    labels = iter(())

    def label(_: object) -> torch.Tensor:
        return next(labels)

    def collect() -> dict[int, el.Moments]:
        nonlocal labels
        labels = iter(concept.split(8))
        return el.collect_by_concept(model, batches, label)

    @torch.no_grad()
    def forward() -> None:
        for batch in batches:
            model(**batch)

    moments = collect()
    total = sum(moments.values())
    tasks = {
        "forward": forward,
        "collect": lambda: el.collect(model, batches),
        "collect in float32": lambda: el.collect(model, batches, dtype=torch.float32),
        "collect by concept": collect,
        "extract all": lambda: el.extract_all(model, moments),
        "extract one by one": lambda: [el.extract(model, m, total - m) for m in moments.values()],
    }
    if theirs := importlib.util.find_spec("engram"):
        from engram import EditorConfig, EngramEditor

        editor = EngramEditor(model, EditorConfig())
        parts = [[{"input_ids": ids[concept == c]}] for c in range(concepts)]
        whole = {"batch_fn": lambda batch: batch}  # their batches are tuples unless told otherwise
        their_total = editor.collect_statistics(batches, **whole)
        their_parts = [editor.collect_statistics(part, **whole) for part in parts]
        tasks["ai-engram collect"] = lambda: editor.collect_statistics(batches, **whole)
        tasks["ai-engram extract"] = lambda: [editor.compute_engram_weights(p, their_total) for p in their_parts]
    seconds = best_of(tasks, rounds=rounds)
    one, forward_time = seconds["extract all"], seconds["forward"]
    rows = [
        ("collect", seconds["collect"] / forward_time, "a forward pass"),
        (f"collect {concepts} concepts at once", seconds["collect by concept"] / forward_time, "a forward pass"),
        (f"extract {concepts} concepts one by one", seconds["extract one by one"] / one, "all at once"),
    ]
    if theirs:
        for ours in ("collect", "collect in float32"):  # theirs is float32
            rows.append(("ai-engram: collect", seconds["ai-engram collect"] / seconds[ours], f"our {ours}"))
        ratio = seconds["ai-engram extract"] / one
        rows.append((f"ai-engram: extract {concepts} concepts", ratio, "ours, all at once"))
    return rows


def products(rows: int = 8192, width: int = 1408) -> list[tuple[str, float, str]]:
    """The symmetric product that collecting is made of, against plain products of the same data."""
    x, wide = torch.randn(rows, width), torch.randn(rows, width).double()
    sums = {dtype: torch.zeros(width, width, dtype=dtype) for dtype in (torch.float32, torch.float64)}
    seconds = best_of(
        {
            "plain float32": lambda: x.T @ x,
            "plain float64": lambda: wide.T @ wide,
            "ours float32": lambda: add_outer(sums[torch.float32], x, False),
            "ours float64": lambda: add_outer(sums[torch.float64], wide, False),
        }
    )
    return [
        (f"{name} product, {rows} x {width}", seconds[name] / seconds["plain float32"], "the plain float32 product")
        for name in list(seconds)[1:]
    ]


def main() -> None:
    """Print the table."""
    for what, ratio, to in [*products(), *language()]:
        print(f"{what:44s} {ratio:6.2f} x {to}")


if __name__ == "__main__":
    main()
