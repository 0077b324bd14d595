"""Every way to forget on the same networks: settings chosen on one, applied to the others, all measured (chapter 09).

    problems = [study.problem(study.SHAPES, data, seed) for seed in range(3)]
    found = study.run("salun", problems)             # one Tuned a network; the first chose the settings
    study.measure(problems[0], found[0].model, retrained[0].model)

The rows have the columns of the study "unlearning" in `data/runs/cifar10-resnet10.json` (`studies.cifar`).
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

import engramlib as el
from engramlib.lab import metrics, models, training
from engramlib.lab.data import ImageData, shapes
from engramlib.lab.records.runs import Row
from engramlib.lab.training import Recipe
from engramlib.lab.unlearning import controls
from engramlib.lab.unlearning import vision as unlearning
from engramlib.lab.unlearning.method import Settings
from engramlib.lab.unlearning.vision import Problem, Tuned
from engramlib.lab.unlearning.vision.engrams import last_layers


@dataclass(frozen=True)
class Setting:
    """Data, network, and how much a method may compute: `epochs` passes in batches of `batch_size`."""

    data: Callable[[], ImageData]
    widths: tuple[int, ...]
    training: Mapping[str, object] = field(default_factory=dict)
    forget: tuple[int, ...] = (0,)  # the class of Table 2
    epochs: int = 1
    batch_size: int = 32
    rcond: float = 1e-4
    mixed: bool = False


SHAPES = Setting(
    lambda: shapes(per_class=80),
    (16, 32),
    {"epochs": 10, "lr": 1e-2, "batch_size": 64, "recipe": Recipe(schedule="onecycle")},
    forget=(0,),  # the class of Table 2; the grids were laid out on class 3
)


def problem(setting: Setting, data: ImageData, seed: int, device: torch.device | str = "cpu") -> Problem:
    """A network trained on all of `data`, and what every method needs to make it forget."""

    def fresh(seed: int) -> nn.Module:
        model = models.resnet(setting.widths, n_classes=data.n_classes, seed=seed)
        return model.to(memory_format=torch.channels_last)  # the same numbers, a fifth faster on a CPU

    model = fresh(seed).to(device)
    training.train_classifier(model, data, seed=seed, validate=False, **setting.training)
    return Problem(
        model.eval(),
        data,
        setting.forget,
        seed=seed,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        fresh=fresh,
        training=setting.training,
        rcond=setting.rcond,
        mixed=setting.mixed,
        augment=getattr(setting.training.get("recipe"), "augment", None),
    )


# ------------------------------------------------------------------------------------------------- who takes part


@dataclass(frozen=True)
class Entrant:
    """A method with the settings that it may choose from. `grid` None: the method's own.

    `kind`: "reference", "trains" (gradients), "reads out" (nothing before the classifier changes) or "edits".
    """

    method: str
    label: str
    kind: str
    grid: tuple[Settings, ...] | None = None

    @property
    def settings(self) -> tuple[Settings, ...]:
        return unlearning.METHODS[self.method].grid if self.grid is None else self.grid


ENTRANTS: dict[str, Entrant] = {
    "retrain": Entrant("retrain", "Retrain", "reference"),
    "finetune": Entrant("finetune", "Fine-tune", "trains"),
    "neggrad": Entrant("neggrad", "NegGrad", "trains"),
    "neggrad_plus": Entrant("neggrad_plus", "NegGrad+", "trains"),
    "l1_sparse": Entrant("l1_sparse", "l1-Sparse", "trains"),
    "random_labels": Entrant("random_labels", "Random Label", "trains"),
    "salun": Entrant("salun", "SalUn", "trains"),
    "logit_mask": Entrant("logit_mask", "Masked logit", "reads out"),
    "engram_classifier": Entrant("engram_classifier", "Engram, fc only", "reads out"),
    "leace": Entrant("leace", "LEACE", "reads out"),
    "engram_plain": Entrant("engram_plain", "Engram, α = 1", "edits"),
    "engram_06": Entrant("engram", "Engram, α = .6", "edits", ({"alpha": 0.6, "specificity": 1.0, "layers": "all"},)),
    "engram": Entrant("engram", "Engram, chosen", "edits"),
    "engram_bn": Entrant("engram_bn", "… refitted", "edits"),
    "engram_bn_all": Entrant(
        "engram_bn",
        "… all layers",
        "edits",
        tuple(s for s in unlearning.METHODS["engram_bn"].grid if s["layers"] == "all"),
    ),
}


def run(name: str, problems: Sequence[Problem]) -> list[Tuned]:
    """An entrant on every network. The first problem's validation images choose the settings; the others use them.

    Cost: the whole grid once, and one run on each other problem.
    """
    entrant = ENTRANTS[name]
    first = unlearning.tune(entrant.method, problems[0], grid=entrant.settings)
    return [first, *(unlearning.apply(entrant.method, other, first.settings) for other in problems[1:])]


# ------------------------------------------------------------------------------------------------- what is measured


def measure(problem: Problem, model: nn.Module, retrained: nn.Module) -> Row:
    """One network after unlearning, beside the one that was retrained without the classes; on test images.

    `test_erased`, `test_kept`, `tow` and its factors, `probe_erased` (what a linear probe of the features recalls),
    `relearn_needed` (images that bring the class back, None if `relearn_limit` do not; `relearn_kept`: how right the
    others are then), `membership_auc`, and beside each of these three the smallest difference that so many images show
    (`probe_resolution`, `membership_resolution`, `relearn_earliest` to `relearn_latest`). `images`: test images of the
    class. `probe_lost` and `probe_gained`: how
    many of them the original's probe reads and this one does not, and the other way round; `features_moved`: whether
    any feature changed at all.
    `separability` and `clustering` (of the first 4,000 test images), `cka_original`, `cka_retrained`. What belongs to
    the original and the retrained network is computed once a problem; the arithmetic is `problem.precision()`, that of
    relearning float32. Cost: about a third of a second for 1,200 images of 16 x 16.
    """
    with problem.precision():
        return _measure(problem, model, retrained)


def _measure(problem: Problem, model: nn.Module, retrained: nn.Module) -> Row:
    data, forget, key = problem.data, problem.forget, ("reference", id(retrained))
    reference = problem.once(key, lambda: _Reference(problem, retrained))
    erased, kept, accuracies = _accuracies(problem, model)
    factors = [1 - abs(a - b) for a, b in zip(accuracies, reference.accuracies, strict=True)]
    probe = metrics.probe(model, data, forget)
    relearned = metrics.relearn(model, data, forget, before=reference.before)
    member = metrics.membership(model, data, forget)
    read = list(zip(reference.probe.right, probe.right, strict=True))
    seen, y = metrics.features(model, data.test.x), data.test.y.cpu()
    some = slice(4000)  # two fits that grow faster than the number of images
    return {
        "test_erased": erased,
        "test_kept": kept,
        "tow": math.prod(factors),
        **dict(zip(("tow_forget", "tow_retain", "tow_test"), factors, strict=True)),
        "probe_erased": probe.erased,
        "probe_kept": probe.kept,
        "probe_resolution": probe.resolution,
        "probe_lost": sum(a and not b for a, b in read),
        "probe_gained": sum(b and not a for a, b in read),
        "images": len(read),
        "features_moved": not torch.equal(seen, reference.original),
        "relearn_needed": relearned.needed,
        "relearn_earliest": relearned.earliest,
        "relearn_latest": relearned.latest,
        "relearn_limit": relearned.seen[-1],
        "relearn_kept": relearned.kept,
        "membership_auc": member.auc,
        "membership_resolution": member.resolution,
        "separability": metrics.separability(seen[some], problem.is_forget(y[some])),
        "clustering": metrics.clustering(seen[some], y[some]),
        "cka_original": metrics.linear_cka(seen, reference.original),
        "cka_retrained": metrics.linear_cka(seen, reference.features),
    }


class _Reference:
    """What every row is compared with. Holds the retrained network, so that its id stays its own."""

    def __init__(self, problem: Problem, retrained: nn.Module) -> None:
        x = problem.data.test.x
        self.retrained = retrained
        self.original, self.features = (metrics.features(m, x) for m in (problem.model, retrained))
        self.before = _accuracies(problem, problem.model)[0]
        self.probe = metrics.probe(problem.model, problem.data, problem.forget)
        self.accuracies = _accuracies(problem, retrained)[2]


def _accuracies(problem: Problem, model: nn.Module) -> tuple[float, float, tuple[float, float, float]]:
    """(erased, kept) on test images, and the three of ToW: forget set, retain set, kept test images."""
    right, gone = {}, {}
    for name in ("train", "test"):
        part = problem.data.split(name)
        right[name] = (training.predict(model, part.x) == part.y.cpu()).double()
        gone[name] = problem.is_forget(part.y.cpu())
    pairs = [(name, mask) for name in ("train", "test") for mask in (gone[name], ~gone[name])]
    forget, retain, erased, kept = (float(right[name][mask].mean()) for name, mask in pairs)
    return erased, kept, (forget, retain, kept)


SILENT = 0.10  # at most so much of the class is left in the answers
HARDLY = 1 / 3  # of what the retrained network's probe reads less, a mask's may read less


def less_read(rows: Sequence[Row], name: str, *, images: int | None = None) -> metrics.resolution.Interval:
    """How much less of the class a probe reads after an entrant than in the original, over networks and images (95 %).

    Rows of `measure` say how many images changed sides. Rows of a run that kept shares only (CIFAR-10, recorded in
    November 2026) have a wider interval; there `images` says how many test images of the class there were.
    """
    mine, original = ([row for row in rows if row["method"] == method] for method in (name, "original"))
    if "probe_lost" in mine[0]:
        sides = ([row[key] for row in mine] for key in ("probe_lost", "probe_gained"))
        return metrics.resolution.paired(*sides, _n(mine, images))
    shares = ([row["probe_erased"] for row in side] for side in (original, mine))
    return metrics.resolution.unpaired(*shares, _n(mine, images))


def verdict(rows: Sequence[Row], name: str, *, images: int | None = None) -> str:
    """ "only masks", "forgets", or "open": what the rows of `measure` show of an entrant, over networks and images.

    Only masks: the class is gone from the answers, and a probe reads hardly less of it than before. Forgets: gone too,
    and a probe reads clearly less. Each part must hold for the whole 95 % interval (`metrics.resolution`) of the mean
    over other networks and other images, or else it is open. "Hardly" and "clearly": under and above a third of what
    the retrained networks' probe reads less. Where no feature changed on any network, a probe cannot read less, and no
    interval is needed. `images`: see `less_read`.

    Ask it of every entrant, of those that train as of those that edit.
    """
    mine = [row for row in rows if row["method"] == name]
    if not metrics.resolution.interval([row["test_erased"] for row in mine], _n(mine, images)).below(SILENT):
        return "open"
    if not any(row.get("features_moved", True) for row in mine):
        return "only masks"
    bound = HARDLY * less_read(rows, "retrain", images=images).mean
    less = less_read(rows, name, images=images)
    return "only masks" if less.below(bound) else "forgets" if less.above(bound) else "open"


def _n(rows: Sequence[Row], images: int | None) -> int:
    """The number of test images of the class."""
    n = rows[0].get("images", images)
    if n is None:
        raise ValueError("these rows do not say how many test images of the class there were: name `images`.")
    return n


# ------------------------------------------------------------------------------------- reading what was measured


def column(rows: Sequence[Row], method: str, key: str) -> list:
    """The values of one column of the rows of `measure`, one a seed."""
    return [row[key] for row in rows if row["method"] == method]


def images_needed(rows: Sequence[Row], method: str) -> str:
    """Images to relearn, one number a network: "8, 12, > 80" (> 80: all of them were not enough)."""
    pairs = zip(*(column(rows, method, key) for key in ("relearn_needed", "relearn_limit")), strict=True)
    return ", ".join(f"> {limit}" if needed is None else f"{needed:g}" for needed, limit in pairs)


def typical_images(rows: Sequence[Row], method: str) -> float:
    """The middle number of images to relearn; not reached counts as infinitely many."""
    return statistics.median_low(math.inf if k is None else k for k in column(rows, method, "relearn_needed"))


def back_sooner(rows: Sequence[Row], method: str, than: str = "retrain") -> bool:
    """Whether on every network the class is back before `than` could have it, as far as so many test images tell."""
    ranges = zip(column(rows, method, "relearn_latest"), column(rows, than, "relearn_earliest"), strict=True)
    return all(last is not None and (first is None or last < first) for last, first in ranges)


def best_by(tuned: Tuned, key: str) -> dict[object, float]:
    """Value of a setting -> the best validation score among the tries that have it, in order of the values."""
    tried: list[Row] = [dict(row) for row in tuned.tried]
    values = sorted({row[key] for row in tried})
    return {value: max(row["score"] for row in tried if row[key] == value) for value in values}


def steps(name: str, tuned: Tuned, problem: Problem) -> int | None:
    """Gradient steps of the chosen setting; None where nothing is trained."""
    epochs = tuned.settings.get("epochs")
    return epochs * problem.steps(problem.rows(_READS.get(name, "all"))) if epochs else None


_READS = {"neggrad": "forget", "finetune": "keep", "neggrad_plus": "keep", "l1_sparse": "keep"}


# ------------------------------------------------------------------------------------------------------------- controls


def control_edits(problem: Problem, moments: Mapping[int, el.Moments]) -> dict[str, nn.Module]:
    """The plain engram of the forgotten class (α = λ = 1, all layers), and edits that must not do what it does.

    Random parts of the weights of the same norm and of the same effect on the data; the engram of a class of another
    shape; that of the sibling, same shape, other material (`shapes` with two materials). `moments`: by class.
    """
    (target,), model, n = problem.forget, problem.model, problem.data.n_classes
    every = el.extract_all(model, moments, rcond=problem.rcond)
    own, total = every[target], sum(moments.values())
    norm = controls.random_subspace(model, own, problem.seed)
    effect = controls.random_subspace(model, own, problem.seed, moments=total)
    return {
        "nothing": model,
        "its engram": el.ablate(model, own),
        "random, equal norm": el.ablate(model, norm),
        "random, equal effect": el.ablate(model, effect),
        "a stranger's engram": el.ablate(model, every[(target + 5) % n]),
        "the sibling's engram": el.ablate(model, every[target ^ 1]),
    }


def every_class(problem: Problem, moments: Mapping[int, el.Moments], settings: Settings) -> list[Row]:
    """Every class erased with one setting of the engram (`alpha`, `specificity`, `layers`), test images.

    Rows: seed, class, left (accuracy on it), loss (mean over the others, a share).
    """
    data, model = problem.data, problem.model
    engrams = el.extract_all(model, moments, specificity=settings["specificity"], rcond=problem.rcond)
    before = training.class_accuracy(model, data.test.x, data.test.y, data.n_classes)
    rows = []
    for c, engram in engrams.items():
        edited = el.ablate(model, last_layers(engram, settings["layers"]), settings["alpha"])
        after = training.class_accuracy(edited, data.test.x, data.test.y, data.n_classes)
        loss = float((before - after)[torch.arange(data.n_classes) != c].mean())
        rows.append({"seed": problem.seed, "class": c, "left": float(after[c]), "loss": loss})
    return rows


def passes(name: str, problem: Problem, settings: Settings, *, per_class: int = 8) -> float:
    """Floating-point operations of a run, as a multiple of one forward pass over all training images.

    Counted on `per_class` images a class, in batches that are smaller by as much: everything that is counted grows
    with the number of images.
    """
    method, data = unlearning.METHODS[ENTRANTS[name].method], problem.data
    share = per_class * data.n_classes / len(data.train)
    small = replace(
        problem,  # with nothing memoised
        data=replace(data, train=data.train.sample(per_class), val=data.val.sample(1)),
        training={**problem.training, "epochs": 1},
        batch_size=max(2, round(problem.batch_size * share)),
    )
    with torch.no_grad():
        forward = metrics.flops(lambda: problem.model(small.data.train.x.to(problem.device)))
    times = problem.training.get("epochs", 1) if method.name == "retrain" else 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "too little data")  # they are counted, not used
        return times * metrics.flops(lambda: method.run(small, **settings)) / forward
