"""The command line of every study that can be recorded, and the loop that resumes.

python -m engramlib.lab.studies NAME [--data ...] [--seeds N] [--record [--overwrite] [--restart]]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row

Summary = dict[str, list[Row]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every study of trained networks decides beside the seed: the training, and the cut. A study adds its own."""

    epochs: int
    lr: float
    batch_size: int = 64
    rcond: float = 1e-4

    @property
    def training(self) -> dict[str, Any]:
        """Arguments of `train_classifier` and its kin."""
        return {"epochs": self.epochs, "lr": self.lr, "batch_size": self.batch_size}


def device() -> str:
    """What a study runs on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def parser(study: str, doc: str, writes: str, *, seeds: int | None = None) -> argparse.ArgumentParser:
    """The options of all studies; `seeds` None = the study fixes them. `writes`: the name of the recorded run."""
    options = argparse.ArgumentParser(prog=f"python -m engramlib.lab.studies {study}", description=doc.splitlines()[0])
    if seeds is not None:
        options.add_argument("--seeds", type=int, default=seeds, help="how many, starting at 0")
    options.add_argument("--record", action="store_true", help=f"write data/runs/{writes}.json")
    options.add_argument("--overwrite", action="store_true", help="replace a finished recorded run")
    options.add_argument("--restart", action="store_true", help="do not resume a run that was cut off")
    return options


Part = tuple[Row, Callable[[], list[Row]]]
"""What a part is called, its facts, and what makes its rows."""


def write(
    name: str,
    parts: Iterable[Part] | Callable[[runs.Recorder], Iterable[Part]],
    *,
    config: Mapping[str, object],
    seeds: Sequence[int],
    data: object,
    overwrite: bool = False,
    restart: bool = False,
    summary: Callable[[list[Row]], object] | None = None,
) -> runs.Recorder:
    """Record every part that is not there yet; `summary` of all rows is kept with them.

    `parts`: or a function of the recorder, for parts that read in its rows what earlier ones chose.
    """
    recorder = runs.record(name, config=dict(config), seeds=seeds, data=data, overwrite=overwrite, restart=restart)
    with recorder as recording:
        for facts, rows in parts(recording) if callable(parts) else parts:
            if not recording.done(**facts):
                recording.add(rows(), **facts)
        if summary is not None:
            recording.summary = summary(recording.rows)
    return recording


def record(name: str, parts: Any, args: argparse.Namespace, **how: Any) -> runs.Recorder:
    """`write` with what the command line says of an earlier recording."""
    return write(name, parts, overwrite=args.overwrite, restart=args.restart, **how)


def by_seed(
    study: str,
    doc: str,
    choices: Mapping[str, tuple[Callable[[], object], Any]],
    run: Callable[..., list[Row]],
    summary: Callable[[list[Row]], Summary],
    argv: Sequence[str] | None,
    *,
    seeds: int,
) -> int:
    """A whole command line: `run(data, settings, seed, device=...)` for each seed, printed or recorded.

    `choices`: the value of `--data` -> (loader, settings); the first is the default.
    """
    options = parser(study, doc, f"{study}-<data>", seeds=seeds)
    options.add_argument("--data", choices=list(choices), default=next(iter(choices)))
    args = options.parse_args(argv)
    load, settings = choices[args.data]
    data = load()

    def rows(seed: int) -> list[Row]:
        return run(data, settings, seed, device=device())

    if args.record:
        parts = [({"seed": seed}, lambda seed=seed: rows(seed)) for seed in range(args.seeds)]
        how: dict[str, Any] = {"config": {"settings": asdict(settings)}, "seeds": range(args.seeds), "data": data}
        show(record(f"{study}-{args.data}", parts, args, summary=summary, **how).summary)
    else:
        show(summary([row for seed in range(args.seeds) for row in rows(seed)]))
    return 0


def show(summary: Summary) -> None:
    """Print a summary, a line a row."""
    for study, lines in summary.items():
        print(study)
        for line in lines:
            print("  " + "  ".join(f"{k} {v}" for k, v in line.items()))
