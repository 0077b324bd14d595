"""A multilayer perceptron forgets one class at a time (Fig. 11): chapter 07, and the recorded MNIST run.

    python -m engramlib.lab.studies mlp --record            # MNIST, five seeds; resumes if it was cut off

Every function returns flat rows, one for each (erased class, tested class, split):

    study, seed, bias, rcond, lam, alpha, erased, tested, split, before, after, and per_class or control

`before`/`after` = accuracy on class `tested` before and after class `erased` was ablated. `runs.mean_sd` averages them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

import engramlib as el
from engramlib.lab.data import ImageData, Split, digits, mnist
from engramlib.lab.models import mlp
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import classwise, recording
from engramlib.lab.studies.classwise import over_seeds
from engramlib.lab.training import class_accuracy, train_classifier
from engramlib.lab.unlearning.controls import mask_class, random_subspace, same_norm


@dataclass(frozen=True, kw_only=True)
class Settings(recording.Settings):
    """Everything that decides the numbers, except the seed. `bias`: "keep" or "absorb", as in `el.collect`."""

    sizes: tuple[int, ...]
    model_bias: bool
    bias: str
    rcond: float = 1e-6  # the paper's cut
    lams: tuple[float, ...] = (1.0, 3.0, 10.0)
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
    rconds: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
    per_class: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000)


# The paper's network. Nothing is known to us about how it was trained; these reach its accuracy.
MNIST = Settings(sizes=(784, 500, 100, 10), model_bias=False, bias="keep", epochs=10, lr=1e-3, batch_size=128)
# A thousand images do not fill 64 pixels evenly: a wider cut keeps rarely used directions out of the engram.
DIGITS = Settings(
    sizes=(64, 256, 256, 10),
    model_bias=True,
    bias="absorb",
    epochs=20,
    lr=1e-3,
    batch_size=64,
    rcond=1e-3,  # chosen on validation images, see `cuts`
    per_class=(5, 10, 20, 50, 100),
)


def train(data: ImageData, settings: Settings, seed: int, *, device: str | torch.device = "cpu") -> nn.Sequential:
    """The network of `settings`, trained on `data.train`. `seed` fixes the weights and the order of the batches."""
    model = mlp(settings.sizes, bias=settings.model_bias, seed=seed).to(device)
    train_classifier(model, data.flat(), **settings.training, seed=seed, validate=False)
    return model


# What each layer saw of each class of a split.
moments_by_class = partial(classwise.moments_by_class, batch_size=1024, flat=True)


def frontier(
    model: nn.Module,
    data: ImageData,
    *,
    seed: int,
    bias: str = "absorb",
    rcond: float = 1e-6,
    lams: Sequence[float] = (1.0,),
    alphas: Sequence[float] = (1.0,),
    splits: Sequence[str] = ("val", "test"),
) -> list[Row]:
    """Erase each class in turn, for every specificity λ and strength α. Choose on `val`, report `test`."""
    moments = moments_by_class(model, data.train, bias=bias)
    before = _accuracies(model, data, splits)
    rows: list[Row] = []
    for lam in lams:
        engrams = el.extract_all(model, moments, specificity=lam, rcond=rcond)
        for alpha in alphas:
            facts = {
                "study": "frontier",
                "seed": seed,
                "bias": bias,
                "rcond": rcond,
                "lam": float(lam),
                "alpha": float(alpha),
            }
            for erased, engram in engrams.items():
                after = _accuracies(el.ablate(model, engram, alpha), data, splits)
                rows += _rows({**facts, "erased": erased}, before, after)
    return rows


def cuts(
    model: nn.Module,
    data: ImageData,
    *,
    seed: int,
    rconds: Sequence[float],
    bias: str = "absorb",
    splits: Sequence[str] = ("val", "test"),
) -> list[Row]:
    """Erase each class at λ = α = 1 with several cuts: which directions count as too small to be trusted?"""
    rows: list[Row] = []
    for rcond in rconds:
        rows += frontier(model, data, seed=seed, bias=bias, rcond=rcond, splits=splits)
    return [{**row, "study": "cuts"} for row in rows]


def sample_sizes(
    model: nn.Module,
    data: ImageData,
    *,
    seed: int,
    per_class: Sequence[int],
    bias: str = "absorb",
    rcond: float = 1e-6,
    lam: float = 1.0,
    alpha: float = 1.0,
    splits: Sequence[str] = ("test",),
) -> list[Row]:
    """Erase each class with moments of only `per_class` training images a class, drawn anew for each seed."""
    before = _accuracies(model, data, splits)
    rows: list[Row] = []
    for n in per_class:
        moments = moments_by_class(model, data.train.sample(n, seed=seed), bias=bias)
        facts = {
            "study": "samples",
            "seed": seed,
            "bias": bias,
            "rcond": rcond,
            "lam": float(lam),
            "alpha": float(alpha),
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "too little data")  # how little is too little is the question
            engrams = el.extract_all(model, moments, specificity=lam, rcond=rcond)
        for erased, engram in engrams.items():
            after = _accuracies(el.ablate(model, engram, alpha), data, splits)
            rows += _rows({**facts, "per_class": n, "erased": erased}, before, after)
    return rows


def controls(
    model: nn.Module,
    data: ImageData,
    *,
    seed: int,
    bias: str = "absorb",
    rcond: float = 1e-6,
    lam: float = 1.0,
    alpha: float = 1.0,
    splits: Sequence[str] = ("test",),
) -> list[Row]:
    """Edits beside each engram that must not single out the class, or only seem to; `control` names them.

    - "random subspace, equal norm" and "..., equal effect": `controls.random_subspace`, as large in the weights or
      as large on the data.
    - "random examples": the engram of as many images under shuffled labels, same norm per layer.
    - "masked logit": no weight changes, the class is never answered. Looks perfect here, and is no erasure.
    """
    moments = moments_by_class(model, data.train, bias=bias)
    engrams = el.extract_all(model, moments, specificity=lam, rcond=rcond)
    everything = sum(moments.values())
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed)).to(data.train.y.device)
    shuffled = moments_by_class(model, Split(data.train.x, data.train.y[order]), bias=bias)
    strangers = el.extract_all(model, shuffled, specificity=lam, rcond=rcond)
    before = _accuracies(model, data, splits)
    rows: list[Row] = []
    for erased, engram in engrams.items():
        draw = 1000 * seed + erased
        edits = {
            "random subspace, equal norm": el.ablate(model, random_subspace(model, engram, draw), alpha),
            "random subspace, equal effect": el.ablate(
                model, random_subspace(model, engram, draw, moments=everything), alpha
            ),
            "random examples": el.ablate(model, same_norm(strangers[erased], engram), alpha),
            "masked logit": mask_class(model, erased),
        }
        facts = {
            "study": "controls",
            "seed": seed,
            "bias": bias,
            "rcond": rcond,
            "lam": float(lam),
            "alpha": float(alpha),
        }
        for control, edited in edits.items():
            after = _accuracies(edited, data, splits)
            rows += _rows({**facts, "control": control, "erased": erased}, before, after)
    return rows


def run(data: ImageData, settings: Settings, seed: int, *, device: str | torch.device = "cpu") -> list[Row]:
    """Train one network and do all three studies on it."""
    model = train(data, settings, seed, device=device)
    how = {"seed": seed, "bias": settings.bias, "rcond": settings.rcond}
    rows = frontier(model, data, **how, lams=settings.lams, alphas=settings.alphas)
    rows += cuts(model, data, seed=seed, bias=settings.bias, rconds=settings.rconds)
    for rcond in (1e-6, 1e-3):  # the paper's cut, and a wide one
        rows += sample_sizes(model, data, seed=seed, bias=settings.bias, rcond=rcond, per_class=settings.per_class)
    return rows + controls(model, data, **how)


def _accuracies(model: nn.Module, data: ImageData, splits: Sequence[str]) -> dict[str, list[float]]:
    parts = {name: data.split(name) for name in splits}
    return {n: class_accuracy(model, p.x.flatten(1), p.y, data.n_classes).tolist() for n, p in parts.items()}


def _rows(facts: Row, before: dict[str, list[float]], after: dict[str, list[float]]) -> list[Row]:
    return [
        {**facts, "tested": tested, "split": split, "before": before[split][tested], "after": value}
        for split, values in after.items()
        for tested, value in enumerate(values)
    ]


STUDIES = {
    "frontier": ("lam", "alpha"),
    "cuts": ("rcond",),
    "samples": ("rcond", "per_class"),
    "controls": ("control",),
}


def _summary(rows: list[Row]) -> dict[str, list[Row]]:
    """`over_seeds` of every study, on the test split."""
    found = {s: over_seeds(runs.select(rows, {"study": s, "split": "test"}), by) for s, by in STUDIES.items()}
    return {s: [_rounded(line, by=STUDIES[s]) for line in lines] for s, lines in found.items()}


def _rounded(line: Row, by: Sequence[str]) -> Row:
    return {k: v if k in by or v is None else round(v, 4) for k, v in line.items()}


def main(argv: Sequence[str] | None = None) -> int:
    choices = {"mnist": (mnist, MNIST), "digits": (digits, DIGITS)}
    return recording.by_seed("mlp", __doc__, choices, run, _summary, argv, seeds=5)


if __name__ == "__main__":
    raise SystemExit(main())
