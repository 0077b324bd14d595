"""An autoencoder forgets one digit at a time (Fig. 5): chapter 12, and the recorded MNIST run.

    python -m engramlib.lab.studies autoencoder --record    # MNIST, three seeds; resumes if it was cut off

Every function returns flat rows, one for each (erased class, tested class, split):

    study, seed, layers, lam, alpha, gain, erased, tested, split, before, after, blank, and control

`before`/`after` = mean squared error per pixel of the reconstructions of class `tested` before and after class
`erased` was ablated; `blank` = the same for empty paper, which is what a decoder at zero draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib.lab.data import ImageData, Split, digits, mnist
from engramlib.lab.models import ConvAutoencoder, conv_autoencoder
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import recording
from engramlib.lab.studies.classwise import mean_sd_lines, moments_by_class, own_and_others
from engramlib.lab.training.autoencoder import reconstruct, reconstruction_error, train_autoencoder
from engramlib.lab.unlearning.controls import random_subspace, same_norm

ALL, ENCODER = "all", "encoder"


@dataclass(frozen=True, kw_only=True)
class Settings(recording.Settings):
    """Everything that decides the numbers, except the seed. `per_class`: images a class of each split; None = all."""

    widths: tuple[int, ...]
    batch_size: int = 32
    rcond: float = 1e-3
    lams: tuple[float, ...] = (1.0, 3.0, 10.0)
    alphas: tuple[float, ...] = (1.0, 1.5, 2.0)
    layers: tuple[str, ...] = (ALL, ENCODER)
    per_class: Mapping[str, int] | None = None


# The paper gives the depth and the data; the rest is ours, chosen on validation images.
DIGITS = Settings(widths=(16, 32, 64), epochs=20, lr=1e-2, alphas=(1.0, 2.0))
MNIST = Settings(widths=(16, 32, 64), epochs=3, lr=6e-3, per_class={"train": 2000, "val": 100, "test": 300})


def sized(data: ImageData, settings: Settings) -> ImageData:
    """`data` with `settings.per_class` images a class of each split, the same for every seed."""
    if settings.per_class is None:
        return data
    return replace(data, **{name: getattr(data, name).sample(n, seed=0) for name, n in settings.per_class.items()})


def train(data: ImageData, settings: Settings, seed: int, *, device: str | torch.device = "cpu") -> ConvAutoencoder:
    """The autoencoder of `settings`, trained on `data.train`. `seed` fixes the weights and the order of the batches."""
    model = conv_autoencoder(data.image_shape, settings.widths, seed=seed).to(device)
    train_autoencoder(model, data.train.x, **settings.training, seed=seed)
    return model


def part(model: ConvAutoencoder, engram: el.Engram, layers: str) -> el.Engram:
    """The engram in `layers`: "all", "encoder", or the name of one layer."""
    return engram if layers == ALL else engram.select(model.encoder if layers == ENCODER else [layers])


def frontier(
    model: ConvAutoencoder,
    data: ImageData,
    *,
    seed: int,
    rcond: float = 1e-3,
    lams: Sequence[float] = (1.0,),
    alphas: Sequence[float] = (1.0,),
    layers: Sequence[str] = (ALL,),
    splits: Sequence[str] = ("val", "test"),
    moments: dict[int, el.Moments] | None = None,
) -> list[Row]:
    """Erase each class in turn, for every λ, α and set of layers. Choose on `val`, report `test`."""
    moments = moments or moments_by_class(model, data.train)
    known = _known(model, data, splits)
    rows: list[Row] = []
    for lam in lams:
        engrams = el.extract_all(model, moments, specificity=lam, rcond=rcond)
        for where in layers:
            for alpha in alphas:
                facts = {
                    "study": "frontier",
                    "seed": seed,
                    "layers": where,
                    "lam": float(lam),
                    "alpha": float(alpha),
                    "gain": 1.0,
                }
                for erased, engram in engrams.items():
                    with el.edited(model, -alpha * part(model, engram, where)):
                        rows += _rows({**facts, "erased": erased}, known, _errors(model, data, splits))
    return rows


def shares(
    model: ConvAutoencoder,
    data: ImageData,
    *,
    seed: int,
    rcond: float = 1e-3,
    lams: Sequence[float] = (1.0,),
    moments: dict[int, el.Moments] | None = None,
) -> list[Row]:
    """Is what the others lose the target's share of common directions? α = 1, all layers, test images.

    Along directions that all images use alike, W⁺ is s/(s + λ(1 - s)) of W in every layer, with s = n⁺/(n⁺ + n⁻). If
    that were all that happens to the others, their pictures would only become fainter, by `predicted`
    = (1 - that) ^ number of layers, and dividing each layer by 1 - that would repair them.

    `shrink` = the factor that fits best: others' pictures after ≈ shrink · before, least squares, about `mean`.
    `rescaled` = the others' error after the one output factor that suits the true images best: what no scalar can
    undo. `repaired` = their error after every edited weight was divided by 1 - that. `others`, `before`: as they are.
    """
    moments = moments or moments_by_class(model, data.train)
    x, y, ground = data.test.x.cpu(), data.test.y.cpu(), model.mean.cpu()
    before = reconstruct(model, x)
    rows: list[Row] = []
    for lam in lams:
        for erased, engram in el.extract_all(model, moments, specificity=lam, rcond=rcond).items():
            share = float((data.train.y == erased).double().mean())
            common = share / (share + lam * (1 - share))
            others = y != erased
            with el.edited(model, -1.0 * engram):
                after = reconstruct(model, x)
                weights = el.Engram({name: _weights(model, name, engram) for name in engram})
                with el.edited(model, (1 / (1 - common) - 1) * weights):
                    repaired = reconstruct(model, x)
            old, new, true = (t[others] - ground for t in (before, after, x))
            rows.append(
                {
                    "study": "shares",
                    "seed": seed,
                    "lam": float(lam),
                    "erased": erased,
                    "predicted": (1 - common) ** len(engram),
                    "shrink": float((old * new).sum() / (old * old).sum()),
                    "before": _mse(before[others], x[others]),
                    "others": _mse(after[others], x[others]),
                    "rescaled": _mse(new * (new * true).sum() / (new * new).sum(), true),
                    "repaired": _mse(repaired[others], x[others]),
                }
            )
    return rows


def controls(
    model: ConvAutoencoder,
    data: ImageData,
    *,
    seed: int,
    rcond: float = 1e-3,
    lam: float = 1.0,
    alpha: float = 1.0,
    splits: Sequence[str] = ("test",),
    moments: dict[int, el.Moments] | None = None,
) -> list[Row]:
    """Edits beside each engram that must not single out the class; `control` names them.

    Random subspaces as large in the weights ("equal norm") or as large on the data ("equal effect"), and the engram of
    as many images under shuffled labels, same norm per layer.
    """
    moments = moments or moments_by_class(model, data.train)
    engrams = el.extract_all(model, moments, specificity=lam, rcond=rcond)
    everything = sum(moments.values())
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed)).to(data.train.y.device)
    shuffled = moments_by_class(model, Split(data.train.x, data.train.y[order]))
    strangers = el.extract_all(model, shuffled, specificity=lam, rcond=rcond)
    known = _known(model, data, splits)
    facts = {"study": "controls", "seed": seed, "layers": ALL, "lam": float(lam), "alpha": float(alpha), "gain": 1.0}
    rows: list[Row] = []
    for erased, engram in engrams.items():
        draw = 1000 * seed + erased
        edits = {
            "random subspace, equal norm": random_subspace(model, engram, draw),
            "random subspace, equal effect": random_subspace(model, engram, draw, moments=everything),
            "random examples": same_norm(strangers[erased], engram),
        }
        for control, edit in edits.items():
            with el.edited(model, -alpha * edit):
                rows += _rows({**facts, "control": control, "erased": erased}, known, _errors(model, data, splits))
    return rows


def retrained(
    data: ImageData, settings: Settings, *, seed: int, erased: int, device: str | torch.device = "cpu"
) -> list[Row]:
    """What a network that never saw class `erased` makes of every class: what forgetting would have to come to."""
    model = train(replace(data, train=data.train.where(data.train.y != erased)), settings, seed, device=device)
    errors = _errors(model, data, ("test",))["test"]
    return [
        {"study": "retrained", "seed": seed, "erased": erased, "tested": c, "split": "test", "after": float(e)}
        for c, e in enumerate(errors)
    ]


def run(data: ImageData, settings: Settings, seed: int, *, device: str | torch.device = "cpu") -> list[Row]:
    """All parts of the study for one network."""
    data = sized(data, settings)
    model = train(data, settings, seed, device=device)
    moments = moments_by_class(model, data.train)
    how = {"seed": seed, "rcond": settings.rcond, "moments": moments}
    return [
        *frontier(model, data, lams=settings.lams, alphas=settings.alphas, layers=settings.layers, **how),
        *controls(model, data, **how),
        *shares(model, data, lams=settings.lams, **how),
        *retrained(data, settings, seed=seed, erased=7, device=device),
    ]


def effects(rows: Iterable[Row], by: Sequence[str] = ("layers", "lam", "alpha")) -> list[Row]:
    """Mean and sd over seeds, of means over the erased classes: one line for each combination of `by`, in order.

    `target`, `others` = error on the erased class and on the others after the edit, `target_before`, `others_before`;
    `lost`, `others_lost` = the share of the picture that is lost, (after - before) / (blank - before): 1 = as good as
    empty paper; `ratio` = rise of the target / rise of the others. Each with `..._sd`.
    """
    per_seed = []
    for line, own, others in own_and_others(rows, by):
        for name, found in (("target", own), ("others", others)):
            line[name] = fmean(r["after"] for r in found)
            line[f"{name}_before"] = fmean(r["before"] for r in found)
            line[f"{name}_lost"] = fmean(lost(r) for r in found)
        rise = line["others"] - line["others_before"]
        line["ratio"] = (line["target"] - line["target_before"]) / rise if rise > 0 else float("inf")
        per_seed.append(line)
    values = ("target", "others", "target_before", "others_before", "target_lost", "others_lost", "ratio")
    return mean_sd_lines(per_seed, values, by)


def each_seed(rows: Sequence[Row], value: str) -> list[float] | None:
    """A value of `effects`, one number a network; None where there are no rows."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    return [effects([row for row in rows if row["seed"] == seed], by=())[0][value] for seed in seeds] or None


def choose(lines: Sequence[Row], budget: float) -> Row:
    """Of the lines of `effects` that cost the others at most `budget` of their pictures the one that costs the target
    most. Raises `ValueError` where none keeps to the budget.
    """
    allowed = [line for line in lines if line["others_lost"] <= budget]
    if not allowed:
        raise ValueError(f"choose: no setting costs the others as little as {budget:g}.")
    return max(allowed, key=lambda line: line["target_lost"])


def lost(row: Row) -> float:
    """Share of the picture that an edit costs: 0 = as good as before, 1 = as bad as empty paper; may exceed 1."""
    return (row["after"] - row["before"]) / (row["blank"] - row["before"])


def matrix(rows: Iterable[Row], n_classes: int, value: str = "lost") -> Tensor:
    """n x n, row = class erased, column = class tested; mean over seeds. `value`: "lost", or "rise" in error."""
    total = torch.zeros(n_classes, n_classes, dtype=torch.float64)
    count = torch.zeros_like(total)
    for row in rows:
        at = row["erased"], row["tested"]
        total[at] += lost(row) if value == "lost" else row["after"] - row["before"]
        count[at] += 1
    return total / count


def _weights(model: nn.Module, name: str, engram: el.Engram) -> tuple[Tensor, Tensor | None]:
    """The parameters of a layer that the engram has a part of."""
    layer = model.get_submodule(name)
    return layer.weight.detach().clone(), None if engram[name].bias is None else layer.bias.detach().clone()


def _mse(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double().cpu()).square().mean())


def _errors(model: nn.Module, data: ImageData, splits: Sequence[str]) -> dict[str, Tensor]:
    parts = {name: getattr(data, name) for name in splits}
    return {name: reconstruction_error(model, p.x, p.y, data.n_classes) for name, p in parts.items()}


def _known(model: ConvAutoencoder, data: ImageData, splits: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Errors before the edit, and of empty paper."""
    found = {}
    for name, before in _errors(model, data, splits).items():
        split = getattr(data, name)
        paper = (split.x - model.mean.to(split.x.device)).double().square().flatten(1).mean(1)
        blank = torch.stack([paper[split.y == c].mean() for c in range(data.n_classes)])
        found[name] = {"before": before, "blank": blank.cpu()}
    return found


def _rows(facts: Row, known: dict[str, dict[str, Tensor]], after: dict[str, Tensor]) -> list[Row]:
    return [
        {
            **facts,
            "tested": c,
            "split": split,
            "before": float(known[split]["before"][c]),
            "after": float(errors[c]),
            "blank": float(known[split]["blank"][c]),
        }
        for split, errors in after.items()
        for c in range(len(errors))
    ]


def _summary(rows: list[Row]) -> dict[str, list[Row]]:
    """`effects` on the test split, and the means of `shares`."""
    found = {
        "frontier": effects(runs.select(rows, {"study": "frontier", "split": "test"})),
        "controls": effects(runs.select(rows, {"study": "controls", "split": "test"}), by=("control",)),
    }
    names = ("predicted", "shrink", "before", "others", "rescaled", "repaired")
    known = runs.select(rows, {"study": "shares"})
    means = {name: runs.mean_sd(known, name, by=("lam",)) for name in names}
    found["shares"] = [
        {"lam": line["lam"], **{name: means[name][i]["mean"] for name in names}}
        for i, line in enumerate(means["shrink"])
    ]
    return {
        s: [{k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()} for line in lines]
        for s, lines in found.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    choices = {"mnist": (mnist, MNIST), "digits": (digits, DIGITS)}
    return recording.by_seed("autoencoder", __doc__, choices, run, _summary, argv, seeds=3)


if __name__ == "__main__":
    raise SystemExit(main())
