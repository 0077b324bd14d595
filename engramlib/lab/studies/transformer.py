"""Groups of classes erased from a vision transformer, whole or matrix by matrix: chapter 11 and the paper's Fig. 12.

    data, model = transformer.dataset(SHAPES), ...
    engrams = transformer.group_engrams(model, data, rcond=SHAPES.rcond)
    rows = transformer.erase(model, engrams, data, seed=0)   # one row a group erased and a group tested

Rows fit `effects`, `over_seeds` and `matrix` of `studies.classwise`. For those who have the images
`python -m engramlib.lab.studies transformer --record` erases 50 groups from ViT-B/16 on ImageNet, and writes
data/runs/vit-imagenet.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib._progress import track
from engramlib.lab import metrics
from engramlib.lab.data import ImageData, imagenet, shapes
from engramlib.lab.data.imagenet import LazyImageData
from engramlib.lab.models import from_torchvision, vit
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import recording
from engramlib.lab.studies.classwise import effects
from engramlib.lab.training import Recipe, by_class, predict, train_classifier
from engramlib.lab.unlearning import controls, vision
from engramlib.lab.unlearning.vision import Problem
from engramlib.layers import find_layers
from engramlib.running import evaluating

Data = ImageData | LazyImageData

# The kinds of matrices of a vision transformer, as expressions for layer names.
KINDS = {
    "patch embedding": "conv_proj",
    "queries": r".*\.q_proj",
    "keys": r".*\.k_proj",
    "values": r".*\.v_proj",
    "attention out": r".*\.out_proj",
    "MLP up": r".*mlp\.0",
    "MLP down": r".*mlp\.3",
    "classifier": "fc",
}


@dataclass(frozen=True, kw_only=True)
class Settings(recording.Settings):
    """Everything that decides the numbers, except the seed."""

    n_super: int = 8
    n_sub: int = 2
    per_class: int = 100
    dim: int = 48
    depth: int = 2
    heads: int = 3
    mlp_dim: int = 96
    epochs: int = 12
    lr: float = 4e-3
    rcond: float = 1e-4  # chosen on validation images; between the paper's 1e-6 and 1e-3 little changes here

    @property
    def training(self) -> dict[str, object]:
        return super().training | {"recipe": Recipe(schedule="onecycle")}


SHAPES = Settings()
LARGER = Settings(n_super=10, per_class=400, dim=96, depth=4, heads=6, mlp_dim=192, epochs=40, lr=1e-3)


def dataset(settings: Settings) -> ImageData:
    """Generated shapes: the superclass is the group that is erased together."""
    return shapes(settings.n_super, settings.n_sub, per_class=settings.per_class)


def fresh(settings: Settings, device: str | torch.device = "cpu") -> Callable[[int], nn.Module]:
    """A function of a seed that makes the untrained network."""

    def make(seed: int) -> nn.Module:
        sizes = {key: getattr(settings, key) for key in ("dim", "depth", "heads", "mlp_dim")}
        return vit(**sizes, n_classes=settings.n_super * settings.n_sub, seed=seed).to(device)

    return make


def train(data: ImageData, settings: Settings, seed: int, *, device: str | torch.device = "cpu") -> nn.Module:
    """The network of `settings`, trained. `seed` fixes the weights and the order of the batches."""
    model = fresh(settings, device)(seed)
    train_classifier(model, data, seed=seed, validate=False, **settings.training)
    return model


# ------------------------------------------------------------------------------------------------ measuring


def class_accuracy(model: nn.Module, data: Data, split: str = "test") -> Tensor:
    """Share of right answers for each class, [n_classes]. Reads batch by batch, so that ImageNet fits."""
    found = [(predict(model, x), y.cpu()) for x, y in data.batches(split, 512)]
    answers, y = (torch.cat(part) for part in zip(*found, strict=True))
    return by_class(answers == y, y, data.n_classes)


def by_group(per_class: Tensor, data: Data) -> Tensor:
    """Mean over the classes of each superclass, [n_groups]."""
    groups = torch.tensor(data.superclass_of)
    total = torch.zeros(len(data.superclasses), dtype=per_class.dtype).index_add_(0, groups, per_class)
    return total / torch.bincount(groups)


# ------------------------------------------------------------------------------------------------ erasing


def moments_by_group(model: nn.Module, data: Data, split: object = "train", **options: object) -> dict[int, el.Moments]:
    """What each matrix saw of each superclass, in one pass. `options`: those of `el.collect_by_concept`."""
    groups = torch.tensor(data.superclass_of)
    batches = data.batches(split, 256)
    return el.collect_by_concept(model, batches, lambda batch: groups.to(batch[1].device)[batch[1]], **options)


def group_engrams(
    model: nn.Module, data: Data, *, split: object = "train", specificity: float = 1.0, rcond: float = 1e-6
) -> dict[int, el.Engram]:
    """One engram a superclass; that is the sum of its classes' engrams where λ = 1."""
    return el.extract_all(model, moments_by_group(model, data, split), specificity=specificity, rcond=rcond)


def group_engrams_in_turn(
    model: nn.Module, data: Data, *, split: object = "train", rcond: float = 1e-6
) -> Iterator[tuple[int, el.Engram]]:
    """The same at λ = 1, one after another: two Σ in memory instead of one a group, for one more pass over the data.

    ViT-B/16 has 1.1 GB of Σ; fifty groups would have 54.
    """
    part, groups = data.split(split), torch.tensor(data.superclass_of)
    total = el.collect(model, data.batches(part, 256))
    for group in range(len(data.superclasses)):
        plus = el.collect(model, data.batches(part.where(groups[part.y.cpu()] == group), 256))
        yield group, el.extract(model, plus, total - plus, rcond=rcond)


def erase(
    model: nn.Module,
    engrams: Mapping[int, el.Engram] | Iterator[tuple[int, el.Engram]],
    data: Data,
    *,
    seed: int,
    alpha: float = 1.0,
    layers: str | Sequence[str] | None = None,
    split: str = "test",
    before: Tensor | None = None,
    facts: Mapping[str, object] | None = None,
) -> list[Row]:
    """Subtract each engram in turn, only from the chosen `layers`, and test every superclass.

    `before` = `by_group(class_accuracy(model, ...), ...)` where it is known already. `facts` go into every row.
    """
    if before is None:
        before = by_group(class_accuracy(model, data, split), data)
    fixed = {"study": "groups", "seed": seed, "split": split, "alpha": float(alpha), **(facts or {})}
    rows: list[Row] = []
    for group, engram in engrams.items() if isinstance(engrams, Mapping) else engrams:
        part = engram if layers is None else engram.select(layers)
        with el.edited(model, -alpha * part):  # no copy of the model for each of hundreds of edits
            after = by_group(class_accuracy(model, data, split), data)
        rows += [
            {**fixed, "erased": group, "tested": tested, "before": float(before[tested]), "after": float(value)}
            for tested, value in enumerate(after)
        ]
    return rows


def erase_from_each(
    models: Sequence[nn.Module],
    edits: Sequence[Mapping[int, el.Engram]],
    data: Data,
    *,
    before: Sequence[Tensor],
    chosen: Mapping[int, Sequence[int]] | None = None,
    **how: object,
) -> list[Row]:
    """`erase` from several networks; the seed is a network's number. `chosen`: seed -> groups, None = all.

    `before`: accuracy by group of each network on the split that `how` names ("test" if it names none).
    """
    rows: list[Row] = []
    for seed, (model, found) in enumerate(zip(models, edits, strict=True)):
        which = found if chosen is None else {group: found[group] for group in chosen[seed]}
        rows += erase(model, which, data, seed=seed, before=before[seed], **how)
    return rows


def problem(
    model: nn.Module,
    data: ImageData,
    group: int,
    settings: Settings,
    *,
    seed: int,
    device: str | torch.device = "cpu",
) -> Problem:
    """What every way to forget (`lab.unlearning.vision`) needs to make `model` forget a group."""
    forget = tuple(c for c, g in enumerate(data.superclass_of) if g == group)
    how = {"fresh": fresh(settings, device), "training": settings.training, "rcond": settings.rcond}
    return Problem(model, data, forget=forget, seed=seed, **how)


def without(engram: el.Engram, layers: str | Sequence[str]) -> el.Engram:
    """All of an engram but its part in `layers`."""
    inner = set(engram.select(layers))
    return el.Engram({name: engram[name] for name in engram if name not in inner})


def matrix_by_matrix(
    models: Sequence[nn.Module],
    edits: Sequence[Mapping[int, el.Engram]],
    data: Data,
    *,
    before: Sequence[Tensor],
    chosen: Mapping[int, Sequence[int]],
    totals: Sequence[el.Moments],
) -> list[Row]:
    """For each of `KINDS`: the edit of this kind of matrix "only", of "all but" it, and a "random" part of it that has
    an equal effect on the data (`totals`: moments of all data, one a network). α = 1; the rows of `erase`, with `kind`,
    `edit`, and where it is "only" the mean relative `norm` ‖W⁺‖/‖W‖ of each erased group's engram there.
    """
    rows: list[Row] = []
    for kind, layers in track(KINDS.items(), desc="kinds of matrices"):
        for seed, model in enumerate(models):
            found = {group: edits[seed][group] for group in chosen[seed]}
            parts = {group: engram.select(layers) for group, engram in found.items()}
            random = {
                g: controls.random_subspace(model, e, seed=100 * seed + g, moments=totals[seed])
                for g, e in parts.items()
            }
            tries = {"only": parts, "all but": {g: without(e, layers) for g, e in found.items()}, "random": random}
            for edit, engrams in tries.items():
                facts = {"kind": kind, "edit": edit}
                some = erase(model, engrams, data, seed=seed, before=before[seed], facts=facts)
                if edit == "only":
                    norms = {g: fmean(e.relative_norms().values()) for g, e in parts.items()}
                    some = [row | {"norm": norms[row["erased"]]} for row in some]
                rows += some
    return rows


def price_of_norms(
    models: Sequence[nn.Module],
    edits: Sequence[Mapping[int, el.Engram]],
    data: Data,
    *,
    before: Sequence[Tensor],
    chosen: Mapping[int, Sequence[int]],
) -> list[Row]:
    """What the kept groups lose (points) with LayerNorms as they are and with `frozen_norms`, for two edits.

    "engram": each chosen group's; "shrinking": every matrix smaller by the share of a group, no direction.
    Rows: seed, edit, frozen, loss.
    """
    rows: list[Row] = []
    n = len(data.superclasses)
    for seed, model in enumerate(models):
        tries = [("shrinking", shrink(model, 1 / n), None)]
        tries += [("engram", edits[seed][group], group) for group in chosen[seed]]
        for edit, engram, gone in tries:
            edited, kept = el.ablate(model, engram), [g for g in range(n) if g != gone]
            for frozen in (False, True):
                with frozen_norms(edited, model) if frozen else nullcontext():
                    change = before[seed] - by_group(class_accuracy(edited, data), data)
                rows.append({"seed": seed, "edit": edit, "frozen": frozen, "loss": 100 * float(change[kept].mean())})
    return rows


def residue(problems: Sequence[Problem], methods: Mapping[str, tuple[str, dict] | None]) -> list[Row]:
    """What is left behind each method, on test images: method -> (name, settings), or None for no edit.

    Rows: method, seed, left, kept (accuracy), probe (recall on the features), shows (its resolution), right (which of
    the group's images it names), needs (images that bring half of it back; None if all of them do not), kept_then (the
    others' accuracy when it is back: where that has fallen, the count says little about a memory).
    """
    rows: list[Row] = []
    for p in problems:
        start = metrics.erased_and_kept(p.model, p.data, p.forget)[0]
        for method, how in track(methods.items(), desc="methods"):
            edited = p.model if how is None else vision.apply(how[0], p, how[1]).model
            left, kept = metrics.erased_and_kept(edited, p.data, p.forget)
            probe = metrics.probe(edited, p.data, p.forget)
            back = None if how is None else metrics.relearn(edited, p.data, p.forget, before=start)
            facts = {"method": method, "seed": p.seed, "left": left, "kept": kept}
            facts |= {"needs": back and back.needed, "kept_then": back and back.kept}
            rows.append(facts | {"probe": probe.erased, "shows": probe.resolution, "right": probe.right})
    return rows


def by_share(
    model: nn.Module, data: Data, sets: Sequence[Sequence[int]], *, seed: int, rcond: float = 1e-6
) -> list[Row]:
    """Subtract the engrams of several classes at once (λ = 1), one row a set.

    `share` of the classes, accuracy left on them (`erased`), and what the others lose (`loss`).
    """
    start = class_accuracy(model, data)
    found = el.collect_by_concept(model, data.batches("train", 256), lambda batch: batch[1])
    single = el.extract_all(model, found, rcond=rcond)
    rows: list[Row] = []
    for gone in sets:
        kept = [c for c in range(data.n_classes) if c not in gone]
        with el.edited(model, -1.0 * sum(single[c] for c in gone)):
            now = class_accuracy(model, data)
        erased, loss = float(now[list(gone)].mean()), float((start - now)[kept].mean())
        rows.append({"seed": seed, "share": len(gone) / data.n_classes, "erased": erased, "loss": loss})
    return rows


def shrink(model: nn.Module, share: float, layers: str | Sequence[str] | None = None) -> el.Engram:
    """An "engram" that has no direction: W⁺ = share · W, what a direction that all share would lose."""
    entries = {}
    for name, layer in find_layers(model, layers).items():
        weight, bias = layer.module.weight, layer.module.bias
        entries[name] = (share * weight.detach(), None if bias is None else share * bias.detach())
    return el.Engram(entries)


@contextmanager
def frozen_norms(edited: nn.Module, original: nn.Module) -> Iterator[None]:
    """Inside the block every LayerNorm of `edited` uses the means and variances that `original` has on the same images.

    A LayerNorm computes them anew for each token, so it can undo a change of scale. Taking that away shows what it
    repairs. The two networks must be of one architecture; `original` runs once for each call of `edited`.
    """
    norms = {name: m for name, m in edited.named_modules() if isinstance(m, nn.LayerNorm)}
    known: dict[str, tuple[Tensor, Tensor]] = {}

    def remember(name: str):
        def hook(module: nn.LayerNorm, args: tuple[Tensor]) -> None:
            known[name] = args[0].mean(-1, keepdim=True), args[0].var(-1, unbiased=False, keepdim=True)

        return hook

    def normalise(name: str):
        def hook(module: nn.LayerNorm, args: tuple[Tensor], output: Tensor) -> Tensor:
            mean, variance = known[name]
            return (args[0] - mean) * (variance + module.eps).rsqrt() * module.weight + module.bias

        return hook

    def run_original(module: nn.Module, args: tuple[Tensor]) -> None:
        with torch.no_grad():
            original(*args)

    handles = [edited.register_forward_pre_hook(run_original)]
    try:
        for name, module in norms.items():
            handles.append(original.get_submodule(name).register_forward_pre_hook(remember(name)))
            handles.append(module.register_forward_hook(normalise(name)))
        with evaluating(original):
            yield
    finally:
        for handle in handles:
            handle.remove()


# ------------------------------------------------------------------------------------------------ ImageNet


def main(argv: Sequence[str] | None = None) -> int:
    options = recording.parser("transformer", __doc__, "vit-imagenet")
    options.add_argument("--per-class", type=int, default=50, help="training images a class for Σ")
    options.add_argument("--rcond", type=float, default=1e-6, help="the cut; the paper's is 1e-6")
    args = options.parse_args(argv)
    from torchvision.models import ViT_B_16_Weights, vit_b_16

    data = imagenet()
    model = from_torchvision(vit_b_16(weights=ViT_B_16_Weights.IMAGENET1K_V1)).eval().to(recording.device())

    def rows() -> list[Row]:
        few = data.train.sample(args.per_class)
        engrams = dict(group_engrams_in_turn(model, data, split=few, rcond=args.rcond))
        found = erase(model, engrams, data, seed=0, facts={"layers": "all"})
        return found + erase(
            model, engrams, data, seed=0, layers=[r"mlp.0", "mlp.3", "fc"], facts={"layers": "MLPs and classifier"}
        )

    def summary(rows: list[Row]) -> recording.Summary:
        return {"groups": effects(rows, by=("layers",))}

    if args.record:
        settings = {"per_class": args.per_class, "rcond": args.rcond, "model": "ViT-B/16, IMAGENET1K_V1"}
        how = {"config": {"settings": settings}, "seeds": [0], "data": data, "summary": summary}
        recording.record("vit-imagenet", [({"seed": 0}, rows)], args, **how)
    else:
        recording.show(summary(rows()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
