"""Where the price of an edit comes from, and the estimator that pays less: chapter 18, and its recorded run.

    python -m engramlib.lab.studies compensated --record     # images and authors, resumes; three to five seeds
    python -m engramlib.lab.studies compensated --record --rule   # settings without a grid, three to eight seeds

A `Knife` is one way to cut: the paper's edit ("plain") or `el.erase` ("compensated"), with λ, α and the cut. Flat rows,
one for each network, seed, split, knife and group of classes that is erased together:

    study "frontier": network, seed, split, how, lam, alpha, rcond, group, left, kept, before

`left` = accuracy on the erased group, `kept` = mean accuracy on the other groups, `before` = the same before the edit.
Choose on the split "val", report "test": `chosen` does the first, `per_seed` the second.

    study "rule": network, seed, how, lam, alpha, group, left, kept, before, left_foreseen, moved_foreseen: for each λ
        of `LAMBDAS`, α where the foreseen response is smallest (`Subject.foreseen`); test images
    study "language": seed, method, settings, role ("rehearsal" or "forget10"), left, kept, chosen: whole answers
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import engramlib as el
from engramlib import analysis, language
from engramlib.lab.data import ImageData, Split, digits, shapes
from engramlib.lab.metrics import timed
from engramlib.lab.models import mlp as mlp_of
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import convnet, forgetting, mlp, recording, transformer
from engramlib.lab.training import class_accuracy, train_classifier
from engramlib.lab.unlearning import text as unlearning
from engramlib.lab.unlearning import vision
from engramlib.lab.unlearning.text.engrams import LAYERS
from engramlib.layers import find_layers
from engramlib.running import evaluating

GOAL = 0.05  # of the erased group at most this much may be left, on validation images


@dataclass(frozen=True)
class Knife:
    """One way to cut. `how`: "plain", W − αW⁺ in every layer at once; "refitted", the same and BatchNorm's statistics
    estimated anew; "compensated", `el.erase`; "leace", an affine map in front of the last layer, nothing to choose."""

    how: str = "plain"
    lam: float = 1.0
    alpha: float = 1.0
    rcond: float = 1e-6

    def __str__(self) -> str:
        if self.how == "leace":
            return "nothing to choose"
        return f"λ = {self.lam:g}, α = {self.alpha:g}, cut {self.rcond:g}"


# Nine tries each. The plain edit may choose its cut, since that is what mends it (chapter 03); ours has the paper's.
PLAIN = tuple(
    Knife("plain", lam, alpha, rcond)
    for rcond in (1e-6, 1e-4, 1e-3)
    for lam, alpha in ((1.0, 1.0), (3.0, 1.5), (10.0, 3.0))
)
COMPENSATED = tuple(
    Knife("compensated", lam, alpha)
    for lam, alphas in ((1.0, (1.0, 1.25, 1.5)), (3.0, (1.5, 2.0, 2.5)), (10.0, (2.0, 3.0, 4.0)))
    for alpha in alphas
)


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained network, its images, and the groups of classes that are erased together.

    `flat`: an image is a row of pixels. `batch_size`: of the passes.
    """

    model: nn.Module
    data: ImageData
    seed: int
    groups: tuple[tuple[int, ...], ...]
    flat: bool = False
    batch_size: int = 256
    _kept: dict = field(default_factory=dict, init=False, repr=False)

    def images(self, part: Split, group: int | None = None, *, others: bool = False) -> list[Tensor]:
        """Batches of the images of a group, or of all others; of all where `group` is None."""
        if group is not None:
            inside = torch.isin(part.y, torch.tensor(self.groups[group], device=part.y.device))
            part = part.where(~inside if others else inside)
        return list((part.x.flatten(1) if self.flat else part.x).split(self.batch_size))

    def moments(self) -> dict[int, el.Moments]:
        """Group -> moments of its training images, collected once."""
        if "moments" not in self._kept:
            self._kept["moments"] = {
                group: el.collect(self.model, self.images(self.data.train, group)) for group in range(len(self.groups))
            }
        return self._kept["moments"]

    def engrams(self, lam: float, rcond: float) -> dict[int, el.Engram]:
        """Group -> engram, computed once for each λ and cut."""
        if (lam, rcond) not in self._kept:
            self._kept[lam, rcond] = el.extract_all(self.model, self.moments(), specificity=lam, rcond=rcond)
        return self._kept[lam, rcond]

    def foreseen(self, group: int, lam: float, rcond: float = 1e-6) -> analysis.Foresight:
        """What subtracting the group's engram will do to the layers' responses, on validation images: no labels but
        the group's, no edit, no answer."""
        if "validation" not in self._kept:
            self._kept["validation"] = {
                g: el.collect(self.model, self.images(self.data.val, g)) for g in range(len(self.groups))
            }
        held: dict[int, el.Moments] = self._kept["validation"]
        others = [moments for g, moments in held.items() if g != group]
        rest = sum(others[1:], others[0])
        engram = self.engrams(lam, rcond)[group]
        return analysis.overall(analysis.foresee(self.model, engram, held[group], rest))

    def without(self, group: int, knife: Knife, *, reference: Iterable[Tensor] | None = None) -> nn.Module:
        """A copy without a group. `reference`: batches to keep instead of the others' training images, as a control."""
        if knife.how == "leace":
            data = self.data.flat() if self.flat else self.data
            net = self.model if hasattr(self.model, "features") else WithFeatures(self.model)
            return vision.apply("leace", vision.Problem(net, data, self.groups[group], seed=self.seed), {}).model
        if knife.how == "compensated":
            keep = self.images(self.data.train, group, others=True) if reference is None else list(reference)
            return el.erase(
                self.model,
                self.images(self.data.train, group),
                keep,
                alpha=knife.alpha,
                specificity=knife.lam,
                rcond=knife.rcond,
            )
        if reference is not None:
            plus, minus = self.moments()[group], el.collect(self.model, list(reference))
            engram = el.extract(self.model, plus, minus, specificity=knife.lam, rcond=knife.rcond)
        else:
            engram = self.engrams(knife.lam, knife.rcond)[group]
        edited = el.ablate(self.model, engram, knife.alpha)
        if knife.how == "refitted":
            update_bn(self.images(self.data.train, group, others=True), edited.eval())
        return edited

    def accuracy(self, model: nn.Module, split: str) -> Tensor:
        """Accuracy of each group, [groups]."""
        part = self.data.split(split)
        x = part.x.flatten(1) if self.flat else part.x
        each = class_accuracy(model, x, part.y, self.data.n_classes)
        return torch.stack([each[list(group)].mean() for group in self.groups])


def frontier(
    subject: Subject,
    knives: Sequence[Knife],
    *,
    network: str,
    splits: Sequence[str] = ("val", "test"),
    groups: Sequence[int] | None = None,
) -> list[Row]:
    """Rows of the study "frontier": every knife on every group (or on some)."""
    before = {split: subject.accuracy(subject.model, split) for split in splits}
    rows = []
    for knife in knives:
        for group in range(len(subject.groups)) if groups is None else groups:
            edited = subject.without(group, knife)
            for split in splits:
                rows.append(
                    {
                        "study": "frontier",
                        "network": network,
                        "seed": subject.seed,
                        "split": split,
                        **asdict(knife),
                        "group": group,
                        **_left_and_kept(subject.accuracy(edited, split), before[split], group),
                    }
                )
    return rows


MANY = tuple(
    Knife("plain", lam, alpha, rcond)
    for rcond in (1e-6, 1e-4, 1e-3)
    for lam in (1.0, 3.0, 10.0)
    for alpha in (1.0, 1.5, 2.0, 3.0)
)  # gentle to rough


def foretold(subjects: Sequence[Subject], knife: Knife, groups: Sequence[int]) -> tuple[float, float, float]:
    """(left, moved, size) of a plain edit before it is made, mean over subjects and groups: `Subject.foreseen` at the
    knife's α, and α‖W⁺‖/‖W‖ over the layers."""
    each = []
    for subject in subjects:
        for group in groups:
            seen = subject.foreseen(group, knife.lam, knife.rcond)
            norms = subject.engrams(knife.lam, knife.rcond)[group].relative_norms()
            size = knife.alpha * fmean(norms.values())
            each.append((seen.left(knife.alpha), seen.moved(knife.alpha), size))
    left, moved, size = (fmean(values) for values in zip(*each, strict=True))
    return left, moved, size


LAMBDAS = (1.0, 3.0, 10.0, 30.0)


def ruled(subject: Subject, *, network: str, groups: Sequence[int] | None = None) -> list[Row]:
    """Rows of the study "rule": for each λ the α that is foreseen to leave least, cut as it is by both knives."""
    before = subject.accuracy(subject.model, "test")
    rows = []
    for group in range(len(subject.groups)) if groups is None else groups:
        for lam in LAMBDAS:
            seen = subject.foreseen(group, lam)
            facts = {"left_foreseen": seen.left(seen.alpha), "moved_foreseen": seen.moved(seen.alpha)}
            for how in ("plain", "compensated"):
                knife = Knife(how, lam, seen.alpha)
                after = subject.accuracy(subject.without(group, knife), "test")
                said = {"study": "rule", "network": network, "seed": subject.seed, "group": group}
                rows.append({**said, **asdict(knife), **facts, **_left_and_kept(after, before, group)})
    return rows


def within(rows: Sequence[Row], budget: float) -> list[Row]:
    """Of each network, seed, group and knife the row of the smallest λ that is foreseen to move what stays by at most
    `budget`; of the largest λ where none is."""
    found: dict[tuple, Row] = {}
    for row in sorted(rows, key=lambda row: row["lam"]):
        key = tuple(row[name] for name in ("network", "seed", "group", "how"))
        if key not in found or found[key]["moved_foreseen"] > budget:
            found[key] = row
    return list(found.values())


def _left_and_kept(after: Tensor, before: Tensor, group: int) -> Row:
    others = torch.arange(len(after)) != group
    return {"left": float(after[group]), "kept": float(after[others].mean()), "before": float(before[others].mean())}


def per_seed(
    rows: Iterable[Row], knife: Knife, key: str, *, split: str = "test", network: str | None = None
) -> list[float]:
    """One number a seed: the mean over the groups. `key`: "left", "kept", or "price" (before − kept)."""
    wanted = {"split": split, **asdict(knife)} | ({} if network is None else {"network": network})
    found: dict[int, list[float]] = {}
    for row in runs.select(rows, wanted):
        value = row["before"] - row["kept"] if key == "price" else row[key]
        found.setdefault(row["seed"], []).append(value)
    return [fmean(values) for _, values in sorted(found.items())]


def chosen(rows: Sequence[Row], knives: Sequence[Knife], *, goal: float = GOAL) -> Knife:
    """On validation images: of the knives that leave at most `goal`, the one that keeps most; else who leaves least."""
    found = {
        knife: tuple(fmean(per_seed(rows, knife, key, split="val")) for key in ("left", "kept")) for knife in knives
    }
    enough = [knife for knife, (left, _) in found.items() if left <= goal]
    if enough:
        return max(enough, key=lambda knife: found[knife][1])
    return min(found, key=lambda knife: found[knife][0])


def drift(subject: Subject, edited: nn.Module, group: int, *, split: str = "val") -> dict[str, float]:
    """Layer -> how far what it reads has moved on the images that stay, ‖X̃ − X‖ / ‖X‖; under "answer" the output."""
    images = subject.images(subject.data.split(split), group, others=True)
    seen = [_read(model, images) for model in (subject.model, edited)]
    return {name: float((seen[1][name] - x).norm() / x.norm()) for name, x in seen[0].items()}


def _read(model: nn.Module, images: Sequence[Tensor]) -> dict[str, Tensor]:
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        layer.module.register_forward_pre_hook(
            lambda _, args, name=name: seen.setdefault(name, []).append(args[0].detach())
        )
        for name, layer in find_layers(model).items()
    ]
    try:
        with evaluating(model), torch.no_grad():
            answers = [model(x) for x in images]
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat([part.flatten(1) for part in parts]).double() for name, parts in seen.items()} | {
        "answer": torch.cat(answers).double()
    }


class WithFeatures(nn.Module):
    """A multilayer perceptron whose last hidden layer is `features` and whose last one is `fc`; weights are shared."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net, self.fc = net, net[-1]

    def features(self, x: Tensor) -> Tensor:
        return self.net[:-1](x)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def never(subject: Subject, group: int) -> nn.Module:
    """The digit network, trained without the group: what a network looks like that cannot have the memory."""
    data = subject.data.flat()
    part = data.train.where(~torch.isin(data.train.y, torch.tensor(subject.groups[group])))
    net = mlp_of(mlp.DIGITS.sizes, seed=subject.seed)
    train_classifier(net, replace(data, train=part), **mlp.DIGITS.training, seed=subject.seed, validate=False)
    return net


def ratio(depth: int, width: int = 128) -> float:
    """Time of the compensated edit over that of the plain one, from batches to the edited copy, on a network of `depth`
    layers. The first call of anything is slow, so both run twice."""
    luck = torch.Generator().manual_seed(0)
    net = mlp_of([width] * (depth + 1), seed=0)
    gone, stay = (torch.randn(count, 128, width, generator=luck) for count in (4, 16))

    def plain() -> None:
        el.ablate(net, el.extract(net, el.collect(net, list(gone)), el.collect(net, list(stay))))

    def compensated() -> None:
        el.erase(net, list(gone), list(stay))

    seconds = []
    for way in (plain, compensated, plain, compensated):
        with timed() as clock:
            way()
        seconds.append(clock.seconds)
    return seconds[3] / seconds[2]


# ----------------------------------------------------------------------------------------------------- networks


def of_digits(seed: int) -> Subject:
    """The digit network of the first chapters, on split `seed` of the digits."""
    data = digits(seed)
    model = mlp.train(data, mlp.DIGITS, seed)
    return Subject(model, data, seed, tuple((c,) for c in range(10)), flat=True)


def of_shapes(seed: int) -> Subject:
    """The small ResNet of chapter 08; its BatchNorm's statistics stay as they are, or are refitted."""
    data = shapes(per_class=120)
    return Subject(convnet.trained(data, seed).model, data, seed, tuple((c,) for c in range(data.n_classes)))


def of_vit(seed: int) -> Subject:
    """The vision transformer of chapter 11; two classes are erased together."""
    data = transformer.dataset(transformer.SHAPES)
    of = data.superclass_of
    groups = tuple(tuple(c for c in range(len(of)) if of[c] == g) for g in range(len(data.superclasses)))
    return Subject(transformer.train(data, transformer.SHAPES, seed), data, seed, groups)


# How to make it, how many seeds, and which groups are erased in the recording; None: all.
NETWORKS: dict[str, tuple[Callable[[int], Subject], int, tuple[int, ...] | None]] = {
    "digits": (of_digits, 5, None),
    "shapes": (of_shapes, 3, (0, 2, 4, 6)),
    "vit": (of_vit, 3, (0, 2, 4, 6)),
}


# ------------------------------------------------------------------------------------------------------ language


def forget(
    problem: unlearning.Problem, *, alpha: float, specificity: float, layers: str = "write", retained: int | None = None
) -> nn.Module:
    """`el.erase` on a problem of language: answers' tokens to forget, against those of (at most `retained`) others.

    `layers`: a key of `LAYERS`. Where fewer columns are kept than the widest layer reads inputs, it warns.
    """
    keep = problem.retain_pairs
    if retained is not None and retained < len(keep):
        keep = keep[:: max(1, len(keep) // retained)][:retained]

    def batches(pairs: Sequence[tuple[str, str]]) -> list[Mapping[str, Tensor]]:
        return list(language.batches(problem.tokenizer, pairs, batch_size=4 * problem.batch_size, eos=problem.eos))

    def forward(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
        model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    return el.erase(
        problem.model,
        batches(problem.forget_pairs),
        batches(keep),
        alpha=alpha,
        specificity=specificity,
        rcond=problem.rcond,
        layers=LAYERS[layers] or LAYERS["blocks"],
        rows=lambda batch: language.answer_rows(batch, shift=problem.shift),
        forward=forward,
    )


# Nine tries each; the plain ones are those of chapter 13's table (`unlearning.METHODS["engram_lambda"]`).
TRIES = tuple(
    {"specificity": lam, "alpha": alpha, "layers": "write"}
    for lam, alphas in ((3.0, (3.0, 4.5, 6.0)), (10.0, (9.0, 12.0, 15.0)), (30.0, (22.0, 28.0, 34.0)))
    for alpha in alphas
)
LEFT = 0.10  # of the answers at most, on the rehearsal


def language_choice(case: forgetting.Case, method: str) -> list[Row]:
    """Rows of the study "language" on the rehearsal: nine tries, the one marked that keeps most at `LEFT`."""
    problem = case.problem(rehearsal=True)
    tries = unlearning.METHODS["engram_lambda"].grid if method == "plain" else TRIES
    rows = [_language_row(problem, case.seed, method, "rehearsal", settings) for settings in tries]
    enough = [row for row in rows if row["left"] <= LEFT]
    best = max(enough, key=lambda row: row["kept"]) if enough else min(rows, key=lambda row: row["left"])
    return [{**row, "chosen": row is best} for row in rows]


def _language_row(problem: unlearning.Problem, seed: int, method: str, role: str, settings: Mapping) -> Row:
    if method == "plain":
        model = unlearning.METHODS["engram_lambda"].run(problem, **settings)
    else:
        model = forget(problem, **settings)
    left, kept = problem.accuracies(model)
    facts = {"study": "language", "seed": seed, "method": method, "role": role, "settings": dict(settings)}
    return {**facts, "left": left, "kept": kept, "chosen": role != "rehearsal"}


# -------------------------------------------------------------------------------------------------- command line


def knives_for(network: str) -> tuple[Knife, ...]:
    """What is tried on a network: where there is BatchNorm, the plain edit may refit it."""
    refitted = tuple(Knife("refitted", k.lam, k.alpha, k.rcond) for k in PLAIN) if network == "shapes" else ()
    return (*PLAIN, *refitted, *COMPENSATED)


def main(argv: Sequence[str] | None = None) -> int:
    options = recording.parser("compensated", __doc__, "compensated-networks")
    options.add_argument("--rule", action="store_true", help="record compensated-rule instead")
    args = options.parse_args(argv)
    most = max(count for _, count, _ in NETWORKS.values())
    if args.rule and not args.record:
        options.error("--rule is only recorded; add --record")

    def rows(network: str, seed: int) -> list[Row]:
        make, _, groups = NETWORKS[network]
        return frontier(make(seed), knives_for(network), network=network, groups=groups)

    def of_images() -> Iterator[recording.Part]:
        for network, (_, count, _) in NETWORKS.items():
            for seed in range(count):
                yield {"network": network, "seed": seed}, partial(rows, network, seed)

    if args.rule:
        seeds = range(CALIBRATION.stop)
        ways: dict[str, Any] = {"lambdas": LAMBDAS, "calibration": list(CALIBRATION), "digits": asdict(mlp.DIGITS)}
        ways["vit"] = asdict(transformer.SHAPES)
        recording.record("compensated-rule", _of_the_rule(), args, config=ways, seeds=seeds, data=digits())
        return 0
    if not args.record:
        recording.show({"frontier": [row for _, make in list(of_images())[:1] for row in make()]})
        return 0

    def parts(recorder: runs.Recorder) -> Iterator[recording.Part]:
        yield from of_images()
        yield from _of_authors(recorder)

    config: dict[str, Any] = {"goal": GOAL, "left": LEFT}
    config |= {"digits": asdict(mlp.DIGITS), "vit": asdict(transformer.SHAPES)}
    recording.record("compensated-networks", parts, args, config=config, seeds=range(most), data=digits())
    return 0


CALIBRATION = range(5, 8)  # splits of the digits on which a budget is chosen; they are reported nowhere


def _of_the_rule() -> Iterator[recording.Part]:
    for network, (make, count, groups) in NETWORKS.items():
        for seed in (*range(count), *(CALIBRATION if network == "digits" else ())):

            def rows(network: str = network, make: Any = make, seed: int = seed, groups: Any = groups) -> list[Row]:
                return ruled(make(seed), network=network, groups=groups)

            yield {"network": network, "seed": seed}, rows


def _of_authors(recorder: runs.Recorder) -> Iterator[recording.Part]:
    """The rehearsal of seed 0 chooses, then every seed forgets with what was chosen."""
    case = cache(partial(forgetting.case, "authors"))

    def apply(method: str, seed: int) -> list[Row]:
        wanted = {"study": "language", "role": "rehearsal", "method": method, "chosen": True}
        (best,) = runs.select(recorder.rows, wanted)
        return [_language_row(case(seed).problem(), seed, method, "forget10", best["settings"])]

    for method in ("plain", "compensated"):
        facts = {"network": "authors", "method": method}
        yield {**facts, "role": "rehearsal"}, lambda method=method: language_choice(case(0), method)
        for seed in range(3):
            yield {**facts, "role": "forget10", "seed": seed}, partial(apply, method, seed)


if __name__ == "__main__":
    raise SystemExit(main())
