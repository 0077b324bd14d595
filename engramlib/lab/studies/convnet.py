"""A convolutional network forgets one class at a time (Fig. 4): chapter 08, and its recorded run, 10 to 100 classes.

    python -m engramlib.lab.studies convnet --record        # shapes, three seeds; resumes if it was cut off

Every function returns flat rows, one for each (erased class, tested class, split), which `effects`, `over_seeds`
and `matrix` of `studies.classwise` average:

    study, seed, norm, lam, alpha, layers, erased, tested, split, before, after
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import engramlib as el
from engramlib._progress import track
from engramlib.lab import metrics, models
from engramlib.lab.data import ImageData, Split
from engramlib.lab.data.shapes import shapes
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import recording
from engramlib.lab.studies.classwise import over_seeds
from engramlib.lab.training import Recipe, class_accuracy, train_classifier
from engramlib.lab.unlearning.controls import random_subspace, same_norm
from engramlib.lab.unlearning.vision import Problem
from engramlib.lab.unlearning.vision.engrams import last_layers, refit_statistics

NORMS = ("frozen", "refitted", "folded")  # what may happen to BatchNorm's statistics


@dataclass(frozen=True, kw_only=True)
class Settings(recording.Settings):
    """Everything that decides the numbers, except the seed and the data."""

    widths: tuple[int, ...] = (16, 32)
    epochs: int = 8
    lr: float = 6e-3
    refit_images: int = 40  # kept images a class from which running statistics are estimated anew
    parts: tuple[int, ...] = (5, 20)  # moments of the first so many images a class are kept apart


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained network and what its layers saw of each class. Everything is computed once, when it is asked for."""

    model: nn.Module
    data: ImageData
    seed: int
    settings: Settings = Settings()  # noqa: B008 - frozen
    _kept: dict = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def folded(self) -> nn.Module:
        return fold_batchnorm(self.model)

    def _parts(self, folded: bool = False) -> dict[int, dict[int, el.Moments]]:
        """Number of images a class -> class -> moments.

        One pass serves both networks: the folded one's convolutions read the same patches, and a one for their bias.
        """
        if "folded" not in self._kept:
            self._kept["folded"] = moments_by_size(self.folded, self.data.train, self.settings.parts)
            self._kept["as trained"] = {
                size: {c: _inner(self.model, found) for c, found in by_class.items()}
                for size, by_class in self._kept["folded"].items()
            }
        return self._kept["folded" if folded else "as trained"]

    @property
    def moments(self) -> dict[int, el.Moments]:
        """Class -> moments of all its training images."""
        return self._parts()[max(self._parts())]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of images a class for which there are moments."""
        return tuple(self._parts())

    def engrams(
        self, *, lam: float = 1.0, folded: bool = False, images: int | None = None, rcond: float | None = None
    ) -> dict[int, el.Engram]:
        """Class -> engram, λ = `lam`; of the folded network, or from the first `images` of each class only."""
        rcond = self.settings.rcond if rcond is None else rcond
        key = (float(lam), folded, images, rcond)
        if key not in self._kept:
            parts, model = self._parts(folded), self.folded if folded else self.model
            moments = parts[max(parts) if images is None else images]
            self._kept[key] = el.extract_all(model, moments, specificity=lam, rcond=rcond)
        return self._kept[key]

    def without(
        self,
        erased: int,
        *,
        norm: str = "frozen",
        lam: float = 1.0,
        alpha: float = 1.0,
        layers: str = "all",
        images: int | None = None,
        rcond: float | None = None,
    ) -> nn.Module:
        """The network without a class. `norm`: BatchNorm's statistics stay "frozen", are "refitted" on kept images
        after the edit, or are "folded" into the convolutions before it, where their shift is a bias and part of W.
        `layers`: "all", the "late" half or the "last" quarter. `images`: from so many of each class; `rcond`: the cut.
        The result has the layers of `model` whatever `norm` is.
        """
        if norm not in NORMS:
            raise ValueError(f"without: norm must be one of {', '.join(NORMS)}, got {norm!r}.")
        found = self.engrams(lam=lam, folded=norm == "folded", images=images, rcond=rcond)
        engram = last_layers(found[erased], layers)
        if norm == "folded":
            return unfold_batchnorm(el.ablate(self.folded, engram, alpha), self.model)
        edited = el.ablate(self.model, engram, alpha)
        return self.refitted(edited, erased) if norm == "refitted" else edited

    def refitted(self, model: nn.Module, erased: int) -> nn.Module:
        """`model` itself, with running statistics of a few hundred kept images."""
        few = replace(self.data, train=self._few)
        problem = Problem(model, few, (erased,), seed=self.seed, batch_size=256)
        return refit_statistics(problem, model)

    @cached_property
    def _few(self) -> Split:
        return self.data.train.sample(self.settings.refit_images, self.seed)

    def accuracy(self, model: nn.Module, split: str = "test") -> torch.Tensor:
        """Accuracy of each class, [n_classes]."""
        part = self.data.split(split)
        return class_accuracy(model, part.x, part.y, self.data.n_classes)

    @cached_property
    def before(self) -> dict[str, list[float]]:
        """Accuracy of each class as trained, for validation and test images."""
        return {split: self.accuracy(self.model, split).tolist() for split in ("val", "test")}


def trained(data: ImageData, seed: int, settings: Settings = Settings()) -> Subject:  # noqa: B008 - frozen
    """A residual network of `settings`, trained on `data.train`. `seed`: first weights and order of the batches."""
    model = models.resnet(settings.widths, n_classes=data.n_classes, seed=seed)
    model.to(memory_format=torch.channels_last)  # the same network, a tenth faster on a CPU
    train_classifier(model, data, **settings.training, seed=seed, recipe=Recipe(schedule="onecycle"), validate=False)
    return Subject(model, data, seed, settings)


def moments_by_size(model: nn.Module, part: Split, sizes: Sequence[int] = ()) -> dict[int, dict[int, el.Moments]]:
    """Number of images a class -> class -> moments of its first so many images; the largest number is all there are.

    One pass for all of them: moments add, so the first 50 are the first 20 and the next 30.
    """
    rows = {int(c): (part.y == c).nonzero().squeeze(1) for c in part.y.unique()}
    everything = min(len(r) for r in rows.values())
    marks = [0, *sorted(s for s in sizes if s < everything), max(len(r) for r in rows.values())]
    pieces = [(c, k, r[a:b]) for c, r in rows.items() for k, (a, b) in enumerate(zip(marks, marks[1:], strict=False))]
    keys = {(c, k): number for number, (c, k, _) in enumerate(pieces)}
    batches = [(part.x[r], torch.full((len(r),), keys[c, k])) for c, k, r in pieces if len(r)]
    found = el.collect_by_concept(model, batches, lambda batch: batch[1])
    return {
        mark: {c: sum(found[keys[c, j]] for j in range(k + 1) if keys[c, j] in found) for c in rows}
        for k, mark in enumerate(marks[1:])
    }


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy that computes the same in evaluation mode, with each BatchNorm multiplied into the convolution before it.

    With γ, β, μ, σ² = BatchNorm's weight, bias, running mean and variance (plus its epsilon), the convolution's weight
    becomes γW/σ and it gets the bias β − γμ/σ. A convolution and its BatchNorm have to follow each other in the order
    of names, as in torchvision's residual blocks. Raises `ValueError` if a BatchNorm does not fit its convolution.
    """
    folded = copy.deepcopy(model).eval()
    for owner, conv, norm in _pairs(folded):
        setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())
    return folded


def _inner(model: nn.Module, folded: el.Moments) -> el.Moments:
    """Moments of the folded network without the rows and columns of biases that `model` does not have."""
    parts = {}
    for name, sigma in folded.items():
        layer = model.get_submodule(name)
        inputs = layer.weight[0].numel() + (layer.bias is not None)
        parts[name] = sigma[:inputs, :inputs].contiguous()
    return el.Moments(parts, folded.count)


def unfold_batchnorm(folded: nn.Module, like: nn.Module) -> nn.Module:
    """The inverse: a copy of `like`, the network before `fold_batchnorm`, that computes what `folded` does.

    Convolutions have no bias again: a change of it has gone into BatchNorm's β. γ, μ and σ are those of `like`. Raises
    `ValueError` where γ = 0, because such a channel cannot carry a weight.
    """
    model = copy.deepcopy(like).eval()
    with torch.no_grad():
        for owner, conv, norm in _pairs(model):
            found = folded.get_submodule(_path(model, owner, conv))
            bn = getattr(owner, norm)
            scale = bn.weight / (bn.running_var + bn.eps).sqrt()
            if (scale == 0).any():
                raise ValueError(f"unfold_batchnorm: a channel of {_path(model, owner, norm)} has the weight 0.")
            getattr(owner, conv).weight.copy_(found.weight / scale.view(-1, 1, 1, 1))
            bn.bias.copy_(found.bias + scale * bn.running_mean)
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                module.load_state_dict(folded.get_submodule(name).state_dict())
    return model


def _pairs(model: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """(module that owns both, name of a convolution, name of its BatchNorm)."""
    found = []
    for owner in model.modules():
        before: str | None = None
        for name, child in owner.named_children():
            if isinstance(child, nn.Conv2d):
                before = name
            elif isinstance(child, nn.BatchNorm2d):
                if before is None or getattr(owner, before).out_channels != child.num_features:
                    raise ValueError(f"fold_batchnorm: no convolution stands before {name!r}.")
                found.append((owner, before, name))
                before = None
    return found


def _path(model: nn.Module, owner: nn.Module, name: str) -> str:
    return next(f"{path}.{name}" if path else name for path, module in model.named_modules() if module is owner)


def scaled(model: nn.Module, factor: float) -> nn.Module:
    """A copy with the weights (and biases) of every convolution and linear layer multiplied by `factor`."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for module in copied.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                for parameter in module.parameters(recurse=False):
                    parameter.mul_(factor)
    return copied


def erase(
    subject: Subject, erased: Sequence[int] | None = None, *, splits: Sequence[str] = ("test",), **how: object
) -> list[Row]:
    """Erase each class of `erased` (all of them if None) with `how` of `Subject.without`."""
    rows: list[Row] = []
    for c in range(subject.data.n_classes) if erased is None else erased:
        rows += measured(subject, subject.without(c, **how), c, splits=splits, **how)
    return rows


def measured(
    subject: Subject, model: nn.Module, erased: int, *, splits: Sequence[str] = ("test",), **facts: object
) -> list[Row]:
    """The rows of one edited network."""
    facts = {
        "study": "convnet",
        "seed": subject.seed,
        "norm": "frozen",
        "lam": 1.0,
        "alpha": 1.0,
        "layers": "all",
        **facts,
    }
    return [
        {**facts, "erased": erased, "tested": tested, "split": split, "before": before, "after": after}
        for split in splits
        for tested, (before, after) in enumerate(
            zip(subject.before[split], subject.accuracy(model, split).tolist(), strict=True)
        )
    ]


def controls(subject: Subject, erased: Sequence[int] | None = None) -> list[Row]:
    """Edits beside each engram (α = λ = 1, statistics frozen) that must not single out the class.

    "random, equal effect": `controls.random_subspace`, as large on the data. "shuffled labels": the engram of as
    many images of all classes, same norm a layer.
    """
    train = subject.data.train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(subject.seed))
    shuffled = Split(train.x, train.y[order]).sample(subject.settings.refit_images, subject.seed)
    strangers = moments_by_size(subject.model, shuffled)
    strangers = el.extract_all(subject.model, strangers[max(strangers)], rcond=subject.settings.rcond)
    total = sum(subject.moments.values())
    rows: list[Row] = []
    for c in range(subject.data.n_classes) if erased is None else erased:
        engram, draw = subject.engrams()[c], 1000 * subject.seed + c
        edits = {
            "random, equal effect": random_subspace(subject.model, engram, draw, moments=total),
            "shuffled labels": same_norm(strangers[c], engram),
        }
        for control, edit in edits.items():
            rows += measured(subject, el.ablate(subject.model, edit), c, control=control)
    return rows


# ----------------------------------------------------------------------------------------- what chapter 08 asks of them


def every(subjects: Iterable[Subject], part: Callable[..., list[Row]], *args: object, **how: object) -> list[Row]:
    """The rows of one part of the study for all networks: `every(subjects, erase, lam=3.0)`."""
    return [row for subject in track(subjects, desc="networks") for row in part(subject, *args, **how)]


def shares(subject: Subject) -> list[Row]:
    """What share of each layer's response each engram takes, on its own class ("target") and on the others ("kept").

    Rows: seed, side, layer, share = <W⁺X, WX> / ‖WX‖² (`metrics.share_taken`); α = λ = 1.
    """
    rows: list[Row] = []
    total = sum(subject.moments.values())
    for c, engram in subject.engrams().items():
        own = subject.moments[c]
        for side, moments in (("target", own), ("kept", total - own)):
            found = metrics.share_taken(subject.model, engram, moments)
            rows += [{"seed": subject.seed, "side": side, "layer": n, "share": v} for n, v in found.items()]
    return rows


def smaller(subject: Subject, n_classes: Sequence[int] = (10, 20, 50, 100)) -> list[Row]:
    """No engram: every weight times 1 - 1/C, for each number C of classes. `erased` is -1, nobody."""
    return [row for n in n_classes for row in measured(subject, scaled(subject.model, 1 - 1 / n), -1, n_classes=n)]


def scale_alone(subject: Subject, erased: Sequence[int], factor: float = 0.9) -> dict[str, list[Row]]:
    """No engram: weights times `factor`, under each way to treat BatchNorm (`NORMS`), and "no edit, refitted"."""
    small = scaled(subject.model, factor)
    found = {
        "frozen": measured(subject, small, erased[0]),
        "folded": measured(subject, scaled(subject.folded, factor), erased[0]),
        "refitted": [],
        "no edit, refitted": [],
    }
    for c in erased:
        for name, model in (("refitted", small), ("no edit, refitted", subject.model)):
            found[name] += measured(subject, subject.refitted(copy.deepcopy(model), c), c)
    return found


def at_equal_erasure(
    subjects: Sequence[Subject], erased: Sequence[int], tries: Mapping[float, Sequence[float]]
) -> dict[float, tuple[float, list[Row]]]:
    """λ -> (α, test rows): for each λ the first of its α that leaves, on validation images, no more than α = λ = 1.

    A milder edit costs less, whatever makes it mild; so prices are compared where as much is gone. A λ none of whose
    α goes so far is left out.
    """
    goal = over_seeds(every(subjects, erase, erased, splits=("val",)), ("lam",))[0]["erased"]
    found: dict[float, tuple[float, list[Row]]] = {}
    for lam, alphas in tries.items():
        for alpha in alphas:
            how = {"lam": lam, "alpha": alpha}
            if over_seeds(every(subjects, erase, erased, splits=("val",), **how), ("lam",))[0]["erased"] <= goal:
                found[lam] = alpha, every(subjects, erase, erased, **how)
                break
    return found


def choose(lines: Sequence[Row], left: float = 0.08) -> Row:
    """The cheapest line of those that leave no more than `left`; where none does, the one that leaves least."""
    least = min(line["erased"] for line in lines)
    return min((s for s in lines if s["erased"] <= max(left, least)), key=lambda s: s["others_loss"])


def residue(subjects: Sequence[Subject], edits: Mapping[str, Sequence[nn.Module]], erased: int) -> list[Row]:
    """Three more looks at networks without a class, one edited network a subject; test images.

    `probe` (recall of a new linear classifier on the features), `right` (which of the class's test images it names),
    `four` (accuracy that four images of each class give back to the last layer), `back` (`metrics.Relearned`).
    """
    rows: list[Row] = []
    for edit, networks in track(edits.items(), desc="edits"):
        for subject, network in zip(subjects, networks, strict=True):
            how = (network, subject.data, (erased,))
            probe = metrics.probe(*how)
            rows.append(
                {
                    "edit": edit,
                    "seed": subject.seed,
                    "probe": probe.erased,
                    "right": probe.right,
                    "four": metrics.few_shot(*how, ks=(4,)).erased[0],
                    "back": metrics.relearn(*how, before=subject.before["test"][erased]),
                }
            )
    return rows


# ------------------------------------------------------------------------------------- the recorded run: 10 to 100

CLASSES = {10: (5, 2), 20: (10, 2), 50: (10, 5), 100: (10, 10)}  # classes -> superclasses, subclasses
RECIPES = {10: {"epochs": 14}, 20: {"epochs": 12}, 50: {"epochs": 12}, 100: {"epochs": 12}}
ERASED = 5  # classes erased in each network, spread over all


def by_classes(n_classes: int, seed: int, *, per_class: int = 60) -> list[Row]:
    """A network for `n_classes` shapes; five of them erased in turn with statistics frozen and refitted, and only its
    weights made smaller by the share of one class; α = λ = 1.
    """
    data = shapes(*CLASSES[n_classes], per_class=per_class)
    settings = replace(Settings(), **RECIPES[n_classes], refit_images=20, parts=())
    subject = trained(data, seed, settings)
    chosen = [n_classes * i // ERASED for i in range(ERASED)]
    rows = [r for norm in ("frozen", "refitted") for r in erase(subject, chosen, norm=norm)]
    smaller = scaled(subject.model, 1 - 1 / n_classes)
    rows += measured(subject, smaller, -1, norm="scale only")
    rows += measured(subject, subject.refitted(smaller, chosen[0]), -1, norm="scale only, refitted")
    return [{**row, "study": "classes", "n_classes": n_classes} for row in rows]


def main(argv: Sequence[str] | None = None) -> int:
    args = recording.parser("convnet", __doc__, "shapes-classes", seeds=3).parse_args(argv)
    parts = [
        ({"classes": n, "seed": seed}, partial(by_classes, n, seed)) for n in CLASSES for seed in range(args.seeds)
    ]
    if not args.record:
        _print([row for _, rows in parts for row in rows()])
        return 0
    config = {"settings": asdict(Settings()), "classes": CLASSES, "recipes": RECIPES, "erased": ERASED}
    how = {"config": config, "seeds": range(args.seeds), "data": shapes()}
    _print(recording.record("shapes-classes", parts, args, **how).rows)
    return 0


def _print(rows: list[Row]) -> None:
    for norm in dict.fromkeys(row["norm"] for row in rows):
        if not norm.startswith("scale"):
            for line in over_seeds(runs.select(rows, {"norm": norm}), ("n_classes", "norm")):
                print({name: round(v, 4) if isinstance(v, float) else v for name, v in line.items()}, file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
