"""CIFAR-10 with published weights: thin residual networks, fine-tuned on these images, then erased (chapters 08, 09).

    python -m engramlib.lab.studies thin                              # trains; checkpoints after every epoch
    python -m engramlib.lab.studies thin --record                     # data/runs/cifar10-thin.json: Fig. 4
    python -m engramlib.lab.studies thin --what frontier --record     # data/runs/cifar10-thin-frontier.json
    python -m engramlib.lab.studies thin --what table2 --record       # data/runs/cifar10-thin-table2.json

In the rows `seed` is the number of the network in `NETWORKS`: 20, 32, 44 layers, whose weights were trained apart.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib.lab import training
from engramlib.lab.data import ImageData, Split, cifar10
from engramlib.lab.models import zoo
from engramlib.lab.models.zoo.vision import Normalised
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import recording
from engramlib.lab.studies import unlearning as comparison
from engramlib.lab.studies.cifar import FORGET, PAIRS, RCOND, chosen_settings, class_accuracy, compared, erasure, slug
from engramlib.lab.studies.classwise import moments_by_class
from engramlib.lab.training import PHOTOS, augmented
from engramlib.lab.unlearning import controls
from engramlib.lab.unlearning import vision as unlearning
from engramlib.lab.unlearning.method import Method, Settings
from engramlib.lab.unlearning.vision import Problem
from engramlib.lab.unlearning.vision.engrams import refit_statistics

# ---------------------------------------------------------------------------------------------------- networks


class Thin(nn.Module):
    """A published thin ResNet as the studies need it: `fc` reads what `features` gives. Pixels in [0, 1] in."""

    def __init__(self, published: Normalised) -> None:
        super().__init__()
        self.register_buffer("mean", published.mean)
        self.register_buffer("std", published.std)
        self.body = published.network
        self.fc = self.body.linear
        self.body.linear = nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        """The pooled last layer, N x 64."""
        return self.body((x - self.mean) / self.std)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


@dataclass(frozen=True)
class Network:
    """A depth, and how it is trained: with published weights for a few epochs, or from scratch without a class.

    `seen`: training images a class that edits and baselines may use; `tested`: test images a class of the heatmap.
    """

    depth: int
    epochs: int = 2
    lr: float = 0.03
    scratch_epochs: int = 12
    scratch_lr: float = 0.2
    batch_size: int = 128
    weight_decay: float = 5e-4
    seen: int = 300
    tested: int = 500

    @property
    def name(self) -> str:
        return f"resnet{self.depth}"

    def published(self) -> Thin:
        """With the weights of its publication."""
        return Thin(zoo.cifar_resnet(self.depth))

    def fresh(self, seed: int) -> Thin:
        """With first weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Thin(zoo.thin_resnet(self.depth))


# About equal minutes for each: three epochs, two, one.
NETWORKS = (Network(20, epochs=3), Network(32), Network(44, epochs=1))
CONTROLS = (0, 3, 8)  # erased classes of the first network whose engram has a random edit beside it
COMPENSATED_CLASSES = ((0, 3, 8), (0,), (0,))  # erased with the compensated edit in each network: up to a minute each


def trained(
    network: Network, data: ImageData, seed: int = 0, *, without: int | None = None, progress: bool | None = None
) -> tuple[nn.Module, training.History]:
    """The published network after a few epochs on `data.train`; or, from scratch, one that never saw a class.

    The second call reads the checkpoint. Raises `ValueError` where it was written with other settings or images.
    """
    model = network.published() if without is None else network.fresh(seed)
    part = "all" if without is None else f"without{without}"
    if without is not None:
        data = replace(data, train=data.train.where(data.train.y != without))
    history = training.train_classifier(
        model,
        data,
        epochs=network.epochs if without is None else network.scratch_epochs,
        lr=network.lr if without is None else network.scratch_lr,
        batch_size=network.batch_size,
        weight_decay=network.weight_decay,
        recipe=PHOTOS,
        seed=seed,
        checkpoint=training.checkpoints() / f"{slug(data.name)}-thin-{network.name}-{part}-seed{seed}.pt",
        progress=progress,
    )
    return model, history


# ---------------------------------------------------------------------------------------------- the compensated edit

TARGET, REFERENCE = 150, 60  # training images of the erased class, and of each other, that `el.erase` reads
COMPENSATED = tuple(
    {"specificity": lam, "alpha": alpha}
    for lam, alphas in ((1.0, (1.0, 1.5)), (3.0, (1.5, 2.0)), (10.0, (2.0, 4.0)))
    for alpha in alphas
)


def compensate(problem: Problem, *, alpha: float, specificity: float) -> nn.Module:
    """`el.erase`: layer by layer, each solved on what the layers below it now give it; chapter 18.

    Update: that of `el.erase`. It reads `TARGET` images of the class and `REFERENCE` of each other one, augmented as
    `problem.augment` says, and λ is scaled as if it had read as many of each. BatchNorm: evaluation mode, untouched.
    Trained: nothing. Source: this book, chapter 18. Grid: three λ times two α.
    """
    some, draws = problem.data.train.sample(TARGET, problem.seed), problem.generator(stream=6)
    gone = problem.is_forget(some.y)
    target, rest = some.where(gone), some.where(~gone).sample(REFERENCE, problem.seed)
    batches = [augmented(part.x.to(problem.device), problem.augment, draws).split(128) for part in (target, rest)]
    balance = len(target) / len(problem.forget) * len(problem.kept) / len(rest)
    return el.erase(
        problem.model, *map(list, batches), alpha=alpha, specificity=specificity * balance, rcond=problem.rcond
    )


METHOD = Method("compensated", "Engram, compensated", "this book, chapter 18", COMPENSATED[:1], compensate)


def problem_of(network: Network, data: ImageData, model: nn.Module, seed: int, forget: int = FORGET) -> Problem:
    """Forget a class, with `network.seen` training images a class, one pass over them, in bfloat16."""
    some = replace(data, train=data.train.sample(network.seen))
    how = {"rcond": RCOND, "mixed": PHOTOS.mixed, "augment": PHOTOS.augment}
    return Problem(model, some, (forget,), seed=seed, epochs=1, **how)


def moments_of(problem: Problem, *, augment: bool = True) -> dict[int, el.Moments]:
    """Class -> moments of the problem's training images, as training showed them, or as they are."""
    part = problem.data.train
    if augment:
        part = Split(augmented(part.x, problem.augment, problem.generator(stream=7)), part.y)
    return moments_by_class(problem.model, part, batch_size=128)


def _sum(moments: Iterable[el.Moments]) -> el.Moments:
    first, *others = moments
    return sum(others, first)


# ------------------------------------------------------------------------------------------------------- studies


def base(network: Network, data: ImageData, seed: int) -> list[Row]:
    """Accuracy by class of the published network on these images, and after fine-tuning; validation and test images."""
    model, history = trained(network, data)
    rows = []
    for stage, net, seconds in (("published", network.published(), 0.0), ("fine-tuned", model, history.seconds)):
        problem = problem_of(network, data, net, seed)
        facts = {"study": "base", "seed": seed, "depth": network.depth, "stage": stage, "training_s": seconds}
        for split in ("val", "test"):
            each = class_accuracy(replace(problem, data=replace(data, test=data.split(split))), net)
            rows += [{**facts, "split": split, "tested": c, "accuracy": a} for c, a in enumerate(each)]
    return rows


def heatmap(network: Network, data: ImageData, seed: int) -> list[Row]:
    """Each class erased in turn at α = λ = 1 and the paper's cut, Σ of augmented images: rows as in `cifar.heatmap`.

    `edit`: "plain", all BatchNorm as it is; "plain, refitted"; and for some classes of the first network "random, equal
    effect", a random part of the weights, as large on the data.
    """
    model, problem = _subject(network, data, seed)
    before = class_accuracy(problem, model)
    moments = moments_of(problem)
    total, engrams = _sum(moments.values()), el.extract_all(model, moments, rcond=RCOND)
    rows: list[Row] = []
    for erased, engram in engrams.items():
        one = replace(problem, forget=(erased,))
        edits = {
            "plain": el.ablate(model, engram),
            "plain, refitted": refit_statistics(one, el.ablate(model, engram)),
        }
        if seed == 0 and erased in CONTROLS:
            draw = controls.random_subspace(model, engram, 1000 * seed + erased, moments=total)
            edits["random, equal effect"] = el.ablate(model, draw)
        for edit, edited in edits.items():
            rows += _heat(network, problem, seed, before, edited, erased, edit=edit, lam=1.0, alpha=1.0)
    return rows


def chosen_edit(network: Network, data: ImageData, seed: int, setting: Settings, images: str) -> list[Row]:
    """Each class erased with the (λ, α) that `chosen` found, refitted; Σ of "augmented" images, or of "plain" ones."""
    model, problem = _subject(network, data, seed)
    before = class_accuracy(problem, model)
    moments = moments_of(problem, augment=images == "augmented")
    total = _sum(moments.values())
    rows: list[Row] = []
    for erased, own in moments.items():
        engram = el.extract(model, own, total - own, specificity=setting["lam"], rcond=RCOND)
        edited = refit_statistics(replace(problem, forget=(erased,)), el.ablate(model, engram, setting["alpha"]))
        facts = {"edit": "chosen", "images": images, "lam": setting["lam"], "alpha": setting["alpha"]}
        rows += _heat(network, problem, seed, before, edited, erased, **facts)
    return rows


def _subject(network: Network, data: ImageData, seed: int, forget: int = FORGET) -> tuple[nn.Module, Problem]:
    model, _ = trained(network, data)
    return model, problem_of(network, replace(data, test=data.test.sample(network.tested)), model, seed, forget)


def frontier(network: Network, data: ImageData, seed: int, how: str) -> list[Row]:
    """Erased against kept accuracy against what a probe still reads, for one class, of the engrams of `PAIRS`.

    On a part of the images: 200 a class of validation to choose with, 400 of test to report. `how`: "plain"; or
    "compensated", and then of the pairs of `COMPENSATED`, with BatchNorm's statistics as they are.
    """
    model, _ = trained(network, data)
    few = replace(data, val=data.val.sample(200), test=data.test.sample(400))
    problem = problem_of(network, few, model, seed)
    facts = {"study": "frontier", "seed": seed, "depth": network.depth}
    if how == "compensated":
        return [
            {**facts, "how": how, "lam": lam, "alpha": alpha, "refitted": False, **erasure(problem, edited)}
            for lam, alpha in (tuple(settings.values()) for settings in COMPENSATED)
            for edited in [compensate(problem, specificity=lam, alpha=alpha)]
        ]
    rows = [{**facts, "how": "nothing", "lam": 1.0, "alpha": 0.0, "refitted": False, **erasure(problem, model)}]
    moments = moments_of(problem)
    plus, minus = moments[FORGET], _sum(m for c, m in moments.items() if c != FORGET)
    for lam, alpha in PAIRS:
        engram = el.extract(model, plus, minus, specificity=lam, rcond=RCOND)
        for refitted in (False, True):
            edited = el.ablate(model, engram, alpha)
            if refitted:
                refit_statistics(problem, edited)
            found = {"how": "plain", "lam": lam, "alpha": alpha, "refitted": refitted}
            rows.append({**facts, **found, **erasure(problem, edited)})
    return rows


def compensated(network: Network, data: ImageData, seed: int, setting: Settings, erased: int) -> list[Row]:
    """A class erased with the compensated edit, `chosen` on the first network; rows as of `heatmap`."""
    model, problem = _subject(network, data, seed, erased)
    edited = compensate(problem, specificity=setting["lam"], alpha=setting["alpha"])
    found = {"edit": "compensated", "lam": setting["lam"], "alpha": setting["alpha"]}
    return _heat(network, problem, seed, class_accuracy(problem, model), edited, erased, **found)


def _heat(
    network: Network,
    problem: Problem,
    seed: int,
    before: Sequence[float],
    edited: nn.Module,
    erased: int,
    **how: object,
) -> list[Row]:
    facts = {"study": "heatmap", "seed": seed, "depth": network.depth, "split": "test", **how, "erased": erased}
    after = class_accuracy(problem, edited)
    return [{**facts, "tested": c, "before": b, "after": a} for c, (b, a) in enumerate(zip(before, after, strict=True))]


def chosen(rows: Iterable[Row], how: str, **where: object) -> Row:
    """The setting of `frontier` with the best score on validation images: λ, α, refitted.

    Score = (1 - left) x (1 - |change on the others|), the one by which every method of chapter 09 is chosen.
    """
    rows = list(rows)
    kept = {row["seed"]: row["val_kept"] for row in runs.select(rows, {"study": "frontier", "how": "nothing"})}
    names = ("lam", "alpha", "refitted")
    tries: dict[tuple, list[float]] = {}
    for row in runs.select(rows, {"study": "frontier", "how": how, **where}):
        value = (1 - row["val_erased"]) * (1 - abs(row["val_kept"] - kept[row["seed"]]))
        tries.setdefault(tuple(row[name] for name in names), []).append(value)
    if not tries:
        raise ValueError(f"chosen: no row of the frontier has how={how!r} with {where}.")
    return dict(zip(names, max(tries, key=lambda key: fmean(tries[key])), strict=True))


# ------------------------------------------------------------------------------------------------------- Table 2

ENTRANTS: dict[str, comparison.Entrant] = {
    **comparison.ENTRANTS,
    "compensated": comparison.Entrant("compensated", "… compensated", "edits", COMPENSATED),
}


TESTED = 400  # validation images a class that choose, and test images a class that report


def table2(network: Network, data: ImageData, seed: int) -> Mapping[str, object]:
    """What every entrant needs, once: the problem (moments of augmented images in it), and the retrained network."""
    model, _ = trained(network, data, seed)
    retrained, history = trained(network, data, seed, without=FORGET)
    some = replace(data, val=data.val.sample(TESTED), test=data.test.sample(TESTED))
    problem = problem_of(network, some, model, seed)

    def both() -> dict[int, el.Moments]:
        moments = moments_of(problem)
        return {1: moments[FORGET], 0: _sum(m for c, m in moments.items() if c != FORGET)}

    problem.once(("moments", None), both)
    return {"problem": problem, "retrained": retrained, "seconds": history.seconds}


def entrant(
    name: str,
    problem: Problem,
    retrained: nn.Module,
    seconds: float,
    network: Network,
    settings: Settings | None = None,
) -> list[Row]:
    """One row: an entrant with `settings`, or those that validation images choose; measured as in `cifar.compare`."""
    if name in ("original", "retrain"):
        model, passes = (problem.model, 0.0) if name == "original" else (retrained, float(network.scratch_epochs))
        cost = {"settings": {}, "seconds": 0.0 if name == "original" else seconds, "passes": passes}
        return [compared(problem, retrained, name, model, cost)]
    method = METHOD if name == "compensated" else ENTRANTS[name].method
    grid = ENTRANTS[name].settings if settings is None else (settings,)
    tuned = unlearning.tune(method, problem, grid=grid)
    cost = {"settings": dict(tuned.settings), "seconds": tuned.seconds_per_run, "passes": tuned.passes}
    if len(grid) > 1:
        cost |= {"tuning_seconds": tuned.seconds, "edges": dict(tuned.edges)}
    return [compared(problem, retrained, name, tuned.model, cost)]


# ------------------------------------------------------------------------------------------------ command line


def record(data: ImageData, networks: Sequence[Network], *, overwrite: bool, restart: bool) -> None:
    """Write `data/runs/cifar10-thin.json`: accuracies, and every class erased in turn."""

    def parts(recorder: runs.Recorder) -> Iterator[recording.Part]:
        for seed, network in enumerate(networks):
            yield {"study": "base", "seed": seed}, lambda k=seed, n=network: base(n, data, k)
            yield {"study": "heatmap", "seed": seed}, lambda k=seed, n=network: heatmap(n, data, k)

    _write("cifar10-thin", parts, data, networks, overwrite=overwrite, restart=restart)


def record_frontier(data: ImageData, networks: Sequence[Network], *, overwrite: bool, restart: bool) -> None:
    """Write `data/runs/cifar10-thin-frontier.json`; the first network chooses the settings of all."""

    def parts(recorder: runs.Recorder) -> Iterator[recording.Part]:
        for how in ("plain", "compensated"):
            yield {"study": "frontier", "how": how}, lambda how=how: frontier(networks[0], data, 0, how)
        best = chosen(recorder.rows, "plain", refitted=True)
        gentle = chosen(recorder.rows, "compensated")
        for (seed, network), classes in zip(enumerate(networks), COMPENSATED_CLASSES, strict=False):
            for c in classes:
                part = {"study": "compensated", "seed": seed, "erased": c}
                yield part, lambda k=seed, n=network, c=c: compensated(n, data, k, gentle, c)
        for images in ("augmented", "plain"):
            yield {"study": "chosen", "images": images}, lambda i=images: chosen_edit(networks[0], data, 0, best, i)

    _write("cifar10-thin-frontier", parts, data, networks, overwrite=overwrite, restart=restart)


def _write(name: str, parts: Any, data: ImageData, networks: Sequence[Network], **how: bool) -> None:
    config = {"networks": [asdict(network) for network in networks], "rcond": RCOND, "forget": FORGET}
    config |= {"compensated": {"target": TARGET, "reference": REFERENCE}}
    recording.write(name, parts, config=config, seeds=range(len(networks)), data=data, **how)


def record_table2(data: ImageData, network: Network, *, seeds: int, overwrite: bool, restart: bool) -> None:
    """Write `data/runs/cifar10-thin-table2.json`, an entrant a part; the first seed chooses the settings."""

    def parts(recorder: runs.Recorder) -> Iterator[recording.Part]:
        for seed in recorder.seeds:
            shared: dict[str, object] = {}
            for name in ("original", "retrain", *(n for n in ENTRANTS if n != "retrain")):

                def rows(name: str = name, seed: int = seed, shared: dict = shared) -> list[Row]:
                    if not shared:
                        shared.update(table2(network, data, seed))
                    first = {} if seed == 0 else chosen_settings(recorder.rows)
                    return entrant(name, network=network, settings=first.get(name), **shared)

                yield {"method": name, "seed": seed}, rows

    config = {"network": asdict(network), "rcond": RCOND, "forget": FORGET, "tested": TESTED}
    config |= {"compensated": {"target": TARGET, "reference": REFERENCE}}
    how = {"config": config, "seeds": range(seeds), "data": data}
    recording.write("cifar10-thin-table2", parts, overwrite=overwrite, restart=restart, **how)


def main(argv: Sequence[str] | None = None) -> int:
    options = recording.parser("thin", __doc__, "cifar10-thin", seeds=1)
    options.add_argument("--what", choices=("fig4", "frontier", "table2"), default="fig4", help="what is recorded")
    args = options.parse_args(argv)
    data, first = cifar10(), NETWORKS[0]
    how = {"overwrite": args.overwrite, "restart": args.restart}
    if args.record and args.what == "table2":
        record_table2(data, first, seeds=args.seeds, **how)
    elif args.record:
        (record if args.what == "fig4" else record_frontier)(data, NETWORKS, **how)
    else:
        jobs = [(network, 0, None) for network in NETWORKS]
        jobs += [(first, seed, without) for seed in range(args.seeds) for without in (FORGET, None)]
        for network, seed, without in jobs:
            _, history = trained(network, data, seed, without=without)
            print(f"{network.name} seed {seed} without {without}: {history}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
