"""Studies of erased classes: the moments they begin with, and the averages of class-wise rows they end with.

A row is one class erased, another tested: it has `study`, `seed`, `split`, `erased`, `tested`, `before`, `after` and
the settings that led to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

import torch
from torch import nn

import engramlib as el
from engramlib.lab.data import Split
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row

BY = ("lam", "alpha")


def moments_by_class(
    model: nn.Module, split: Split, *, batch_size: int = 512, flat: bool = False, **how: object
) -> dict[int, el.Moments]:
    """What each layer saw of each class of `split`, in one pass. `flat`: an image is a row; `how`: see `el.collect`."""
    x = split.x.flatten(1) if flat else split.x
    batches = list(zip(x.split(batch_size), split.y.split(batch_size), strict=True))
    return el.collect_by_concept(model, batches, lambda batch: batch[1], **how)


def effects(rows: Iterable[Row], by: Sequence[str] = BY) -> list[Row]:
    """Per seed and combination of `by`, the means over the erased classes.

    `erased` = accuracy left on the erased class; `others` = accuracy on the other classes; `others_loss` = what they
    lost; `erased_max`, `others_loss_max` = the worst single class. Mix no splits or studies: select them first.
    """
    out = []
    for facts, own, others in own_and_others(rows, by):
        losses = [r["before"] - r["after"] for r in others]
        out.append(
            {
                **facts,
                "erased": fmean(r["after"] for r in own),
                "erased_max": max(r["after"] for r in own),
                "others": fmean(r["after"] for r in others),
                "others_loss": fmean(losses),
                "others_loss_max": max(losses),
            }
        )
    return out


def over_seeds(rows: Iterable[Row], by: Sequence[str] = BY) -> list[Row]:
    """Mean and sd over the seeds of the `effects` of `rows`, one line for each combination of `by`, in order.

    Each line has `erased`, `others` and `others_loss`, and `erased_sd` and so on (None with one seed).
    """
    return mean_sd_lines(effects(rows, by), ("erased", "others", "others_loss"), by)


def matrix(rows: Iterable[Row], n_classes: int) -> torch.Tensor:
    """(n + 1) x n accuracies for `plots.class_heatmap`: first row before, then one row a class erased; mean over seeds.

    Give it rows of one study, λ, α and split.
    """
    total = torch.zeros(n_classes + 1, n_classes, dtype=torch.float64)
    count = torch.zeros_like(total)
    for row in rows:
        for line, value in ((0, row["before"]), (row["erased"] + 1, row["after"])):
            total[line, row["tested"]] += value
            count[line, row["tested"]] += 1
    return total / count


def summary(rows: Iterable[Row], by: Sequence[str] = ()) -> dict[tuple, Row]:
    """`over_seeds` as a mapping: values of `by` -> line. Without `by` there is one line, `summary(rows)[()]`."""
    return {tuple(line[b] for b in by): line for line in over_seeds(rows, by=by)}


def each_seed(rows: Iterable[Row], value: str, times: float = 1.0) -> list[float]:
    """A value of `effects` over all erased classes, one number a seed."""
    return [times * line[value] for line in effects(rows, by=())]


def as_trained(rows: Iterable[Row]) -> list[float]:
    """Accuracy before any edit, mean over the classes, one number a seed."""
    return [line["mean"] for line in runs.mean_sd(rows, "before", by=("seed",))]


def pair(line: Row, value: str, *, digits: int = 2, times: float = 1.0) -> str:
    """A value of a line of `over_seeds` as text, mean ± sd; the mean alone where there is one seed.

    >>> pair({"erased": 0.0412, "erased_sd": 0.0103}, "erased")
    '0.04 ± 0.01'
    >>> pair({"others_loss": 0.078, "others_loss_sd": None}, "others_loss", digits=1, times=100)
    '7.8'
    """
    mean, sd = line[value], line.get(f"{value}_sd")
    return f"{times * mean:.{digits}f}" + ("" if sd is None else f" ± {times * sd:.{digits}f}")


def class_losses(rows: Iterable[Row], n_classes: int) -> torch.Tensor:
    """[seeds, classes]: what each class loses, mean over the edits that do not mean it."""
    losses = [{**r, "loss": r["before"] - r["after"]} for r in rows if r["erased"] != r["tested"]]
    lines = {
        (line["seed"], line["tested"]): line["mean"] for line in runs.mean_sd(losses, "loss", by=("seed", "tested"))
    }
    seeds = dict.fromkeys(seed for seed, _ in lines)
    return torch.tensor([[lines[seed, c] for c in range(n_classes)] for seed in seeds])


def own_and_others(rows: Iterable[Row], by: Sequence[str]) -> list[tuple[Row, list[Row], list[Row]]]:
    """For each seed and combination of `by`: (those facts, rows of the erased classes, rows of the others).

    Raises `ValueError` for rows of several studies or splits, whose mean would mean nothing.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["seed"], *(row.get(b) for b in by)), []).append(row)
    if len({(row["study"], row["split"]) for group in groups.values() for row in group}) > 1:
        raise ValueError("rows of several studies or splits; choose one of each with runs.select first.")
    return [
        (
            dict(zip(("seed", *by), key, strict=True)),
            [r for r in group if r["erased"] == r["tested"]],
            [r for r in group if r["erased"] != r["tested"]],
        )
        for key, group in groups.items()
    ]


def mean_sd_lines(per_seed: Sequence[Row], values: Sequence[str], by: Sequence[str]) -> list[Row]:
    """`runs.mean_sd` of several values: one line for each combination of `by`, with `value` and `value_sd`."""
    lines: dict[tuple, Row] = {}
    for value in values:
        for found in runs.mean_sd(per_seed, value, by=by):
            line = lines.setdefault(tuple(found[b] for b in by), {b: found[b] for b in by})
            line |= {value: found["mean"], f"{value}_sd": found["sd"]}
    return list(lines.values())
