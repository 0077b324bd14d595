"""CIFAR-10: residual networks trained once and kept, then erased, compared and doubted (chapters 08 and 09).

    python -m engramlib.lab.studies cifar --network resnet10             # in the background: hours on two cores
    python -m engramlib.lab.studies cifar --network resnet10 --record    # data/runs/cifar10-resnet10.json

Training writes a checkpoint after every epoch, recording a part after every seed and study: both resume.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from torch import nn

import engramlib as el
from engramlib.lab import metrics, models, training
from engramlib.lab.data import ImageData, cifar10
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import recording
from engramlib.lab.studies import unlearning as comparison
from engramlib.lab.studies.classwise import moments_by_class
from engramlib.lab.training import PHOTOS, Recipe
from engramlib.lab.unlearning import vision as unlearning
from engramlib.lab.unlearning.vision.engrams import LAYERS, last_layers, refit_statistics

EDIT = ("lam", "alpha", "layers", "refitted")  # what tells two rows of `frontier` apart
FORGET = 0  # airplane: the paper's Table 2
RCOND = 1e-6  # the paper's


@dataclass(frozen=True)
class Network:
    """What is trained, and how. `seen`: training images a class that the edits and the baselines may use."""

    name: str
    widths: tuple[int, ...]
    blocks: int
    epochs: int
    lr: float = 0.1
    batch_size: int = 128
    weight_decay: float = 5e-4
    recipe: Recipe = PHOTOS
    seen: int = 1000

    def fresh(self, seed: int) -> models.ResNet:
        return models.resnet(self.widths, self.blocks, seed=seed)

    @property
    def training(self) -> dict[str, object]:
        """The arguments of `train_classifier`."""
        names = ("epochs", "lr", "batch_size", "weight_decay", "recipe")
        return {name: getattr(self, name) for name in names}


NETWORKS = {
    "resnet10": Network("resnet10", (32, 64, 128, 256), 1, epochs=8),
    "resnet18": Network("resnet18", (64, 128, 256, 512), 2, epochs=8),
}
PAIRS = ((1.0, 0.6), (1.0, 1.0), (1.0, 1.5), (3.0, 1.5), (3.0, 2.0), (3.0, 3.0), (10.0, 2.0), (10.0, 4.0))  # (λ, α)
# Chapter 09 at the paper's scale: what `record` compares, trained on the spot.
SETTING = comparison.Setting(
    cifar10,
    NETWORKS["resnet10"].widths,
    NETWORKS["resnet10"].training,
    forget=(FORGET,),
    batch_size=64,
    rcond=RCOND,
    mixed=True,
)
STUDIES = {"resnet10": ("base", "heatmap", "frontier", "statistics", "unlearning"), "resnet18": ("base", "heatmap")}


# ---------------------------------------------------------------------------------------------------- training


def trained(
    network: Network, data: ImageData, seed: int, *, without: int | None = None, progress: bool | None = None
) -> tuple[nn.Module, training.History]:
    """The network trained on all of `data.train`, or on all but the class `without` (the retrained reference).

    The second call reads the checkpoint, which is named after the data: those from JPEG files are others. Raises
    `ValueError` where it was written with other settings, images or first weights.
    """
    model = network.fresh(seed)
    part = "all" if without is None else f"without{without}"
    if without is not None:
        data = replace(data, train=data.train.where(data.train.y != without))
    history = training.train_classifier(
        model,
        data,
        seed=seed,
        **network.training,
        checkpoint=training.checkpoints() / f"{slug(data.name)}-{network.name}-{part}-seed{seed}.pt",
        progress=progress,
    )
    return model, history


def slug(name: str) -> str:
    """ "CIFAR-10 (JPEG)" -> "cifar-10-jpeg" """
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))


# ------------------------------------------------------------------------------------------- reading a recorded run


def points_lost(run: runs.Run, found: Iterable[Row]) -> list[float]:
    """Points that the nine others lose, test images, a number a row of `frontier` or `statistics`."""
    kept = {row["seed"]: row["test_kept"] for row in marks(run)["as trained"]}
    return [100 * (kept[row["seed"]] - row["test_kept"]) for row in found]


def left_and_lost(run: runs.Run, *, layers: str = "all", refitted: bool = False, **knobs: float) -> tuple[float, float]:
    """Of one edit of `frontier` (`lam`, `alpha`): what is left of the class, and `points_lost`; means over networks."""
    found = run.where(study="frontier", layers=layers, refitted=refitted, **knobs)
    if not found:
        raise ValueError(f"left_and_lost: no edit with {knobs}; recorded pairs (λ, α) are {PAIRS}.")
    return fmean(row["test_erased"] for row in found), fmean(points_lost(run, found))


def marks(run: runs.Run) -> dict[str, list[Row]]:
    """The rows of `statistics` that nothing was done to: "as trained", and "retrained" without the class."""
    wanted = {"study": "statistics", "alpha": 0.0, "statistics": "kept"}
    return {
        name: run.where(without=without, **wanted) for name, without in (("as trained", None), ("retrained", FORGET))
    }


def wishes(run: runs.Run, found: Sequence[Row]) -> tuple[list[float], list[float], list[float]]:
    """What is left of the class, what the others lose (points), what a probe reads; one number a row."""
    return [row["test_erased"] for row in found], points_lost(run, found), [row["probe_erased"] for row in found]


def best_edit(run: runs.Run, *, refitted: bool) -> dict[str, object]:
    """The edit of `frontier` with the best score on validation images, mean over the networks.

    Score = (1 - left) x (1 - |change on the others|), the one by which every method of chapter 09 is chosen.
    """
    kept = {row["seed"]: row["val_kept"] for row in marks(run)["as trained"]}
    scored = [
        {**r, "score": (1 - r["val_erased"]) * (1 - abs(r["val_kept"] - kept[r["seed"]]))}
        for r in run.where(study="frontier", refitted=refitted)
    ]
    best = max(runs.mean_sd(scored, "score", by=EDIT), key=lambda line: line["mean"])
    return {knob: best[knob] for knob in EDIT}


# ----------------------------------------------------------------------------------------------------- studies


def base(network: Network, data: ImageData, seed: int) -> list[Row]:
    """Accuracy of the trained and, where there is one, of the retrained network, class by class."""
    rows = []
    for without in (None, FORGET):
        if without is not None and "unlearning" not in STUDIES[network.name]:
            continue
        model, history = trained(network, data, seed, without=without)
        problem = _problem(network, data, model, seed)
        facts = {"study": "base", "seed": seed, "without": without, "training_s": history.seconds}
        for tested, value in enumerate(class_accuracy(problem, model)):
            rows.append({**facts, "split": "test", "tested": tested, "accuracy": value})
    return rows


def heatmap(network: Network, data: ImageData, seed: int) -> list[Row]:
    """Each class erased in turn, from all layers: as the paper has it, and with BatchNorm's statistics refitted.

    Rows as in `studies.mlp`: `erased`, `tested`, `before`, `after`; `edit` names how. "chosen": the (α, λ) that
    `deep` chose for `FORGET`, used for every class, statistics refitted.
    """
    model, _ = trained(network, data, seed)
    problem = _problem(network, data, model, seed)
    before = class_accuracy(problem, model)
    moments = _moments(problem)
    total = sum(moments.values())
    problem.once(("moments", None), lambda: {1: moments[FORGET], 0: total - moments[FORGET]})  # for `deep`
    plain = el.extract_all(model, moments, rcond=RCOND)
    chosen = deep(problem) if "unlearning" in STUDIES[network.name] else None
    rows: list[Row] = []
    for erased, engram in plain.items():
        one = replace(problem, forget=(erased,))
        edits = {"plain": el.ablate(model, engram), "plain, refitted": refit_statistics(one, el.ablate(model, engram))}
        used = dict.fromkeys(edits, (1.0, 1.0))
        if chosen is not None:
            how = {"specificity": chosen["specificity"], "rcond": RCOND}
            stronger = el.extract(model, moments[erased], total - moments[erased], **how)
            used["chosen"] = (chosen["specificity"], chosen["alpha"])
            edits["chosen"] = refit_statistics(one, el.ablate(model, stronger, chosen["alpha"]))
        for edit, edited in edits.items():
            after = class_accuracy(problem, edited)
            facts = {"study": "heatmap", "seed": seed, "split": "test", "edit": edit, "erased": erased}
            facts |= dict(zip(("lam", "alpha"), used[edit], strict=True))
            rows += [
                {**facts, "tested": c, "before": b, "after": a}
                for c, (b, a) in enumerate(zip(before, after, strict=True))
            ]
    return rows


def frontier(network: Network, data: ImageData, seed: int) -> list[Row]:
    """Erased against kept accuracy against what a probe still reads, over λ, α, the layers and BatchNorm's statistics.

    On a part of the images: 200 validation and 400 test images a class; 300 a class for statistics and probe.
    """
    model, _ = trained(network, data, seed)
    moments = _moments(_problem(network, data, model, seed))
    rest = sum(m for c, m in moments.items() if c != FORGET)
    problem = _in_part(network, data, model, seed)
    rows: list[Row] = []
    engrams = {
        lam: el.extract(model, moments[FORGET], rest, specificity=lam, rcond=RCOND) for lam in {lam for lam, _ in PAIRS}
    }
    for lam, alpha in PAIRS:
        for layers in LAYERS:
            part = last_layers(engrams[lam], layers)
            for refit in (False, True):
                edited = el.ablate(model, part, alpha)
                if refit:
                    refit_statistics(problem, edited)
                facts = {"lam": lam, "alpha": alpha, "layers": layers, "refitted": refit}
                rows.append({"study": "frontier", "seed": seed, **facts, **erasure(problem, edited)})
    return rows


def statistics(network: Network, data: ImageData, seed: int) -> list[Row]:
    """Which images should BatchNorm's running statistics come from? On the images of `frontier`, all layers edited.

    `statistics`: "kept", as training left them; "plain" or "augmented", anew from the kept training images as they are
    or as training showed them. `alpha` 0: no edit, the probe's upper mark. The rows with `without` = `FORGET` are the
    retrained network, its lower mark.
    """
    model, _ = trained(network, data, seed)
    retrained, _ = trained(network, data, seed, without=FORGET)
    problem = _in_part(network, data, model, seed)
    moments = _moments(_problem(network, data, model, seed))
    rest = sum(m for c, m in moments.items() if c != FORGET)
    rows: list[Row] = []
    for lam, alpha in ((1.0, 0.0), (1.0, 1.0), (10.0, 4.0)):
        engram = el.extract(model, moments[FORGET], rest, specificity=lam, rcond=RCOND)
        for source in ("kept", "plain", "augmented"):
            edited = el.ablate(model, engram, alpha)
            if source != "kept":
                seen = replace(problem, augment=problem.augment if source == "augmented" else None)
                refit_statistics(seen, edited)
            facts = {"lam": lam, "alpha": alpha, "statistics": source, "without": None}
            rows.append({"study": "statistics", "seed": seed, **facts, **erasure(problem, edited)})
    facts = {"lam": 1.0, "alpha": 0.0, "statistics": "kept", "without": FORGET}
    return [*rows, {"study": "statistics", "seed": seed, **facts, **erasure(problem, retrained)}]


def compare(network: Network, data: ImageData, seed: int, settings: dict[str, dict]) -> list[Row]:
    """Every entrant of `studies.unlearning` on one network, with settings chosen on the validation images of seed 0.

    `settings`: entrant -> settings, filled on the first call (seed 0) by tuning; later calls apply them.
    """
    model, _ = trained(network, data, seed)
    retrained, history = trained(network, data, seed, without=FORGET)
    problem = _problem(network, data, model, seed)
    rows = [compared(problem, retrained, "original", model, {"settings": {}, "seconds": 0.0, "passes": 0.0})]
    cost = {"settings": {}, "seconds": history.seconds, "passes": float(network.epochs)}
    rows.append(compared(problem, retrained, "retrain", retrained, cost))
    for name, entrant in comparison.ENTRANTS.items():
        if name == "retrain":
            continue
        grid = (settings[name],) if name in settings else entrant.settings
        tuned = unlearning.tune(entrant.method, problem, grid=grid)
        settings.setdefault(name, dict(tuned.settings))
        cost = {"settings": dict(tuned.settings), "seconds": tuned.seconds_per_run, "passes": tuned.passes}
        if len(grid) > 1:
            cost |= {"tuning_seconds": tuned.seconds, "edges": dict(tuned.edges)}
        rows.append(compared(problem, retrained, name, tuned.model, cost))
    return rows


def compared(problem: unlearning.Problem, retrained: nn.Module, name: str, edited: nn.Module, cost: Row) -> Row:
    """One row of `compare`: what `studies.unlearning` measures, validation accuracies and the few-shot read-out.

    `cost`: settings, seconds and passes over the data of a run; where they were chosen also the seconds of that, and
    which of them lie at an edge of the grid.
    """
    measured = comparison.measure(problem, edited, retrained)
    erased, kept = problem.accuracies(edited, "val")
    few = metrics.few_shot(edited, problem.data, problem.forget, ks=(1, 4, 16))
    return {
        "study": "unlearning",
        "seed": problem.seed,
        "method": name,
        **cost,
        "val_erased": erased,
        "val_kept": kept,
        **measured,
        **{f"few_shot_{k}": a for k, a in zip(few.ks, few.erased, strict=True)},
    }


def deep(problem: unlearning.Problem) -> dict:
    """The (α, λ) for all layers, statistics refitted, with the best validation score."""
    entrant = comparison.ENTRANTS["engram_bn_all"]
    return dict(unlearning.tune(entrant.method, problem, grid=entrant.settings).settings)


def erasure(problem: unlearning.Problem, edited: nn.Module) -> Row:
    """Accuracies on validation and test images, and what a probe still reads."""
    with problem.precision():
        found = metrics.probe(edited, problem.data, problem.forget, per_class=300)
    accuracies = {split: problem.accuracies(edited, split) for split in ("val", "test")}
    named = {
        f"{split}_{what}": v
        for split, pair in accuracies.items()
        for what, v in zip(("erased", "kept"), pair, strict=True)
    }
    return {**named, "probe_erased": found.erased, "probe_kept": found.kept, "probe_auc": found.auc}


def _problem(network: Network, data: ImageData, model: nn.Module, seed: int) -> unlearning.Problem:
    """Forget airplanes, with `network.seen` training images a class, one pass over them, in bfloat16."""
    some = replace(data, train=data.train.sample(network.seen))
    how = {"rcond": RCOND, "mixed": network.recipe.mixed, "augment": network.recipe.augment}
    return unlearning.Problem(model, some, (FORGET,), seed=seed, epochs=1, **how)


def _in_part(network: Network, data: ImageData, model: nn.Module, seed: int) -> unlearning.Problem:
    """The problem on few images: 200 a class to choose with, 400 to report, 300 for statistics and probe."""
    few = replace(data, val=data.val.sample(200), test=data.test.sample(400))
    return _problem(replace(network, seen=min(network.seen, 300)), few, model, seed)


def _moments(problem: unlearning.Problem) -> dict[int, el.Moments]:
    return moments_by_class(problem.model, problem.data.train, batch_size=128)


def class_accuracy(problem: unlearning.Problem, model: nn.Module) -> list[float]:
    """Accuracy on the test images of each class, in the arithmetic of the problem."""
    x, y = problem.data.test.x, problem.data.test.y.cpu()
    return training.by_class(problem.logits(model, x).argmax(1) == y, y, problem.data.n_classes).tolist()


# ------------------------------------------------------------------------------------------------ command line


PARTS = {"base": base, "heatmap": heatmap, "frontier": frontier, "statistics": statistics}


def record(network: Network, data: ImageData, *, seeds: int, overwrite: bool, restart: bool) -> None:
    """Write `data/runs/cifar10-<network>.json`, study by study; resumes where it was cut off."""

    def parts(recorder: runs.Recorder) -> Iterator[recording.Part]:
        for study in STUDIES[network.name]:
            for seed in recorder.seeds:

                def rows(study: str = study, seed: int = seed) -> list[Row]:
                    if study == "unlearning":
                        return compare(network, data, seed, chosen_settings(recorder.rows))
                    return PARTS[study](network, data, seed)

                yield {"study": study, "seed": seed}, rows

    recording.write(
        f"cifar10-{network.name}",
        parts,
        config={"network": asdict(network), "forget": FORGET, "rcond": RCOND},
        seeds=range(seeds),
        data=data,
        overwrite=overwrite,
        restart=restart,
    )


def chosen_settings(rows: Sequence[Row]) -> dict[str, dict]:
    """The settings that seed 0 chose, out of its rows; empty before."""
    return {row["method"]: row["settings"] for row in runs.select(rows, {"study": "unlearning", "seed": 0})}


def main(argv: Sequence[str] | None = None) -> int:
    options = recording.parser("cifar", __doc__, "cifar10-<network>", seeds=3)
    options.add_argument("--network", choices=NETWORKS, default="resnet10")
    options.add_argument("--base-only", action="store_true", help="do not train the networks without the forget class")
    args = options.parse_args(argv)
    data, network = cifar10(), NETWORKS[args.network]
    if args.record:
        record(network, data, seeds=args.seeds, overwrite=args.overwrite, restart=args.restart)
        return 0
    for seed in range(args.seeds):
        for without in (None,) if args.base_only else (None, FORGET):
            _, history = trained(network, data, seed, without=without)
            print(f"{network.name} seed {seed} without {without}: {history}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
