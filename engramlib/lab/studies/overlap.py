"""Who else suffers when one class goes (Figs. 13, 14): chapter 10, and the recorded run on generated shapes.

    python -m engramlib.lab.studies overlap --record        # a hundred classes, and the recolouring; resumes

Matrices are n x n: row = the class erased, column = the class tested. A drop is positive where something was lost.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

import engramlib as el
from engramlib._progress import track
from engramlib.lab.data import ImageData, Split, shapes
from engramlib.lab.models import resnet
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import classwise, recording
from engramlib.lab.training import Recipe, by_class, predict, train_classifier
from engramlib.lab.training.modes import evaluating
from engramlib.lab.unlearning.vision import Problem
from engramlib.lab.unlearning.vision.engrams import refit_statistics
from engramlib.layers import supported_layers

READ_OUTS = ("accuracy", "survivors", "margin")


@dataclass(frozen=True, kw_only=True)
class Settings(recording.Settings):
    """What decides the numbers, except the seed. Adam with one cycle that peaks at `lr`."""

    n_super: int = 5
    n_sub: int = 4
    per_class: int = 150
    widths: tuple[int, ...] = (8, 16, 32)
    epochs: int = 8
    lr: float = 1e-2


LAPTOP = Settings()
HUNDRED = Settings(n_super=10, n_sub=10, per_class=100, widths=(16, 32, 64))


def data_of(settings: Settings) -> ImageData:
    return shapes(settings.n_super, settings.n_sub, per_class=settings.per_class)


def train(data: ImageData, settings: Settings, seed: int, *, device: str | torch.device = "cpu") -> nn.Module:
    """The residual network of `settings`. `seed` fixes the weights and the order of the images."""
    model = resnet(settings.widths, n_classes=data.n_classes, seed=seed).to(device)
    train_classifier(model, data, **settings.training, seed=seed, recipe=Recipe(schedule="onecycle"), validate=False)
    return model


# What each layer saw of each class; summed in float32, which is enough for a cut of 1e-4.
moments_by_class = partial(classwise.moments_by_class, batch_size=256, dtype=torch.float32)


# ---------------------------------------------------------------------------------------------------- kinds of pairs


def pairs(data: ImageData) -> dict[str, Tensor]:
    """The ordered pairs of different classes of `shapes`, by what the two have in common: name -> n x n, boolean.

    "shape and colour" and "shape" are pairs inside a superclass; "material" (texture and colour), "colour" and
    "nothing" are pairs across superclasses. Every pair is in exactly one of the five.
    """
    words = [name.split() for name in data.classes]  # texture, colour, shape
    texture, colour, shape = (
        torch.tensor([[a[i] == b[i] for b in words] for a in words], dtype=torch.bool) for i in range(3)
    )
    apart = ~torch.eye(len(words), dtype=torch.bool)
    return {
        "shape and colour": shape & colour & apart,
        "shape": shape & ~colour,
        "material": ~shape & colour & texture,
        "colour": ~shape & colour & ~texture,
        "nothing": ~shape & ~colour,
    }


def same_superclass(superclass_of: Sequence[int]) -> Tensor:
    """n x n, boolean: two different classes of one superclass."""
    groups = torch.as_tensor(superclass_of)
    return (groups[:, None] == groups[None]) & ~torch.eye(len(groups), dtype=torch.bool)


# ---------------------------------------------------------------------------------------------------- erasing


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    """The outputs in evaluation mode, float32 on the CPU."""
    device = next(model.parameters()).device
    with evaluating(model):
        return torch.cat([model(part.to(device)).float().cpu() for part in x.split(128)])


def erase_each(
    model: nn.Module,
    engrams: Mapping[int, el.Engram],
    x: Tensor,
    *,
    alpha: float = 1.0,
    refit_on: ImageData | None = None,
) -> Tensor:
    """Logits on `x` after each class was erased on its own: k x N x n, one slice an engram, in their order.

    `refit_on`: data whose kept training images set BatchNorm's running statistics anew after each edit.
    """
    out = []
    for erased in engrams:
        edited = el.ablate(model, engrams[erased], alpha)
        if refit_on is not None:
            refit_statistics(Problem(model, refit_on, (erased,), batch_size=256), edited)
        out.append(logits(edited, x))
    return torch.stack(out)


def forbid(outputs: Tensor, classes: int | Sequence[int]) -> Tensor:
    """The outputs with some answers forbidden: a copy with -∞ there."""
    outputs = outputs.clone()
    outputs[:, classes] = -torch.inf
    return outputs


def accuracy(outputs: Tensor, y: Tensor) -> Tensor:
    """Accuracy within each class, [n]."""
    return by_class(outputs.argmax(1) == y, y, outputs.shape[1])


def margin(outputs: Tensor, y: Tensor, without: int) -> Tensor:
    """How far the right answer leads, for each image, [N], in units of the spread of the image's own logits.

    The right logit minus the largest other one, the logit of class `without` left out, over the standard deviation of
    the logits of that image. The unit matters: an edit makes all logits smaller, and that alone changes no answer.
    """
    rows = torch.arange(len(y))
    others = forbid(outputs, without)
    others[rows, y] = -torch.inf
    return (outputs[rows, y] - others.amax(1)) / outputs.std(1)


def drops(before: Tensor, after: Tensor, y: Tensor, erased: Sequence[int] | None = None) -> dict[str, Tensor]:
    """What each class lost, k x n, by three read-outs; `before` is N x n, `after` k x N x n; `erased` = 0 .. k-1.

    "accuracy": share answered rightly. "survivors": the same, with the erased answer forbidden before *and* after, so
    that a class gains nothing from the loss of a rival. "margin": see `margin`. NaN where tested = erased, except for
    "accuracy".
    """
    n = before.shape[1]
    whole, found = accuracy(before, y), {name: [] for name in READ_OUTS}
    for a, edited in zip(range(len(after)) if erased is None else erased, after, strict=True):
        nan = torch.zeros(n, dtype=torch.float64).index_fill_(0, torch.tensor([a]), torch.nan)
        found["accuracy"].append(whole - accuracy(edited, y))
        found["survivors"].append(accuracy(forbid(before, a), y) - accuracy(forbid(edited, a), y) + nan)
        keep = y != a
        lost = margin(before[keep], y[keep], a) - margin(edited[keep], y[keep], a)
        found["margin"].append(by_class(lost, y[keep], n) + nan)
    return {name: torch.stack(rows) for name, rows in found.items()}


# ---------------------------------------------------------------------------------------------------- similarity


def similarities(
    model: nn.Module, moments: Mapping[int, el.Moments], engrams: Mapping[int, el.Engram], data: ImageData
) -> dict[str, Tensor]:
    """How alike two classes are to the network *before* any edit, n x n each: training images, validation answers.

    - "class means": cosine of the class means in the penultimate layer.
    - "moments, first/middle/last": tr(Σ_a Σ_b) / (‖Σ_a‖ ‖Σ_b‖), the cosine of two second moments, in three layers.
    - "moments, all": the mean over all layers.
    - "engrams": cosine ⟨W_a⁺, W_b⁺⟩, mean over the layers.
    - "share taken": ⟨W_a⁺ X_b, W X_b⟩ / ‖W X_b‖², mean over the layers; how much of b's signal the engram of a is.
    - "confusion": share of the images of b that the network calls a.
    - "same superclass": 1 or 0.
    """
    n, names = data.n_classes, list(engrams[0])
    means = _class_means(model, data)
    found = {"class means": _cosines(means)}
    overlap = [_cosines(torch.stack([moments[c][name].double().flatten() for c in range(n)])) for name in names]
    for word, at in (("first", 0), ("middle", len(names) // 2), ("last", -1)):
        found[f"moments, {word}"] = overlap[at]
    found["moments, all"] = torch.stack(overlap).mean(0)
    found["engrams"] = torch.stack(
        [_cosines(torch.stack([engrams[c][name].weight.double().flatten() for c in range(n)])) for name in names]
    ).mean(0)
    found["share taken"] = torch.stack([_share_taken(model, moments, engrams, name) for name in names]).mean(0)
    found["confusion"] = confusion(model, data.val, n).T
    found["same superclass"] = same_superclass(data.superclass_of).double()
    return found


def confusion(model: nn.Module, split: Split, n: int) -> Tensor:
    """n x n: of the images of a class (row), the share that gets each answer (column)."""
    counts = torch.zeros(n, n, dtype=torch.float64)
    counts.index_put_((split.y, predict(model, split.x)), torch.ones(len(split), dtype=torch.float64), accumulate=True)
    return counts / counts.sum(1, keepdim=True)


def _cosines(rows: Tensor) -> Tensor:
    rows = rows / rows.norm(dim=1, keepdim=True)
    return rows @ rows.T


@torch.no_grad()
def _class_means(model: nn.Module, data: ImageData) -> Tensor:
    device = next(model.parameters()).device
    features = torch.cat([model.features(x.to(device)).cpu() for x, _ in data.batches("train", 256)]).double()
    return torch.stack([features[data.train.y == c].mean(0) for c in range(data.n_classes)])


def _share_taken(model: nn.Module, moments: Mapping[int, el.Moments], engrams: Mapping, name: str) -> Tensor:
    layer = supported_layers(model)[name]
    absorbed = engrams[0][name].bias is not None
    own = layer.matrix(layer.module.weight.detach(), layer.module.bias.detach() if absorbed else None).double()
    cut = torch.stack([layer.matrix(*engrams[a][name]).double().flatten() for a in range(len(engrams))])
    seen = [own @ moments[b][name].double() for b in range(len(engrams))]  # W Σ_b
    size = torch.stack([(part * own).sum() for part in seen])
    return cut @ torch.stack([part.flatten() for part in seen]).T / size


# ---------------------------------------------------------------------------------------------------- statistics


def rank_correlations(similarity: Tensor, drop: Tensor, among: Tensor | None = None) -> Tensor:
    """Spearman's ρ between similarity and drop over the kept classes, one for each erased class, [n].

    Inside one row, how hard a class is to erase, or how strong its edit is, plays no part. `among`: n x n, boolean, the
    pairs to rank (default: all pairs of different classes). A row in which everything ties ranks nothing: ρ = 0.
    """
    from scipy.stats import rankdata

    among = ~torch.eye(len(drop), dtype=torch.bool) if among is None else among
    rho = []
    for a, chosen in enumerate(among):
        ranks = [rankdata(matrix[a][chosen].numpy()) for matrix in (similarity, drop)]
        x, y = (r - r.mean() for r in ranks)
        size = np.sqrt((x @ x) * (y @ y))
        rho.append(x @ y / size if size > 0 else 0.0)
    return torch.tensor(rho)


def per_erased(matrices: Sequence[Tensor], mask: Tensor) -> np.ndarray:
    """seeds x erased classes: the mean of `matrix[a, mask[a]]`. NaN where a class has no such pair.

    Matrices and mask may hold the rows of some erased classes only, the same ones.
    """
    with np.errstate(invalid="ignore"):
        sums = np.array([[float(m[a][mask[a]].sum()) for a in range(len(mask))] for m in matrices])
        return sums / mask.sum(1).numpy()


def interval(values: np.ndarray, *, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): a 95 % bootstrap interval for the mean of seeds x erased classes.

    The unit is the erased class: classes are drawn anew with replacement, and so are seeds, the same classes for every
    seed. Pairs are not drawn: all pairs of one erased class share one edit. With three seeds the spread between
    seeds is known poorly, and the interval is, if anything, too narrow. It speaks for classes like these; where several
    of them share what varies, a material, take `interval_of_units`.
    """
    values = np.asarray(values, dtype=float)
    values = values[:, ~np.isnan(values).any(0)]
    n_seeds, n_classes = values.shape
    generator = np.random.default_rng(seed)
    classes = generator.integers(0, n_classes, (draws, n_classes))
    chosen = generator.integers(0, n_seeds, (draws, n_seeds))
    means = values[chosen[:, :, None], classes[:, None, :]].mean((1, 2))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def interval_of_units(values: np.ndarray, unit_of: Sequence[int]) -> tuple[float, float, float]:
    """(mean, low, high): Student's 95 % interval over units that several erased classes share, a material for instance.

    `values`: seeds x erased classes (NaN where there is none), `unit_of` the unit of each of these classes. Each unit
    counts once, with the mean over its classes and over the seeds, which share images and materials. With few units
    the interval is wide, as it should be: classes of one material are not independent of each other.
    """
    return student([float(v) for v in of_units(values, unit_of)])


def of_units(values: np.ndarray, unit_of: Sequence[int]) -> np.ndarray:
    """The mean of each unit, in the order of their numbers; see `interval_of_units`."""
    units, values = np.asarray(unit_of), np.asarray(values, dtype=float)
    return np.array([np.nanmean(values[:, units == unit]) for unit in np.unique(units)])


def student(means: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): Student's 95 % interval of the mean of independent numbers.

    >>> [round(v, 1) for v in student([1.0, 2.0, 3.0])]
    [2.0, -0.5, 4.5]
    """
    from scipy.stats import t

    mean, n = float(np.mean(means)), len(means)
    half = float(t.ppf(0.975, n - 1) * np.std(means, ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def own_control(rows: Sequence[Row], kinds: Mapping[str, Tensor], n_sub: int) -> list[float]:
    """For each material, what its classes lose when another shape in it goes, beyond what they lose when another
    shape in another texture of its colour goes; points, out of the rows of a "heatmap" (one α, one norm).

    The same classes are tested both times, so a texture that loses whatever is erased does not count.
    """
    n = len(kinds["material"])
    points = torch.zeros(n, n, dtype=torch.float64)
    for row in rows:
        points[row["erased"]] += torch.tensor(row["points"], dtype=torch.float64)
    points /= len({row["seed"] for row in rows})
    tested = torch.arange(n) % n_sub
    means = [[float(points[kinds[k] & (tested == m)].mean()) for k in ("material", "colour")] for m in range(n_sub)]
    return [own - other for own, other in means]


def permutation_test(
    drop: Tensor, groups: Sequence[int], *, draws: int = 5000, seed: int = 0
) -> tuple[float, np.ndarray, float]:
    """Do classes of one group lose more than others? (difference, its values under shuffled groups, p).

    difference = mean drop inside a group minus mean drop across groups. Shuffling hands the group labels to the
    classes at random: the drops, and all that makes one class fragile, stay as they are. One-sided;
    p = (1 + how many shuffles reach the difference) / (1 + draws).
    """
    values = drop.double().numpy().copy()
    np.fill_diagonal(values, 0.0)
    labels, n = np.asarray(groups), len(groups)

    def difference(groups: np.ndarray) -> float:
        inside = groups[:, None] == groups[None]
        total, pairs_inside = values[inside].sum(), inside.sum() - n
        return total / pairs_inside - (values.sum() - total) / (n * n - n - pairs_inside)

    generator = np.random.default_rng(seed)
    found = difference(labels)
    null = np.array([difference(generator.permutation(labels)) for _ in range(draws)])
    return float(found), null, float((1 + (null >= found - 1e-12).sum()) / (1 + draws))


def binned(
    similarity: Sequence[Tensor], drop: Sequence[Tensor], edges: Sequence[float], **options
) -> list[dict[str, float]]:
    """Mean drop of the pairs whose similarity lies in each bin, with `interval`s; one line a bin.

    Bins as in `np.digitize`. Erased classes without a pair in a bin do not count there.
    """
    lines = []
    apart = ~torch.eye(len(drop[0]), dtype=torch.bool)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        masks = [(s >= low) & (s < high) & apart for s in similarity]
        sums = np.array([[float(d[a][m[a]].sum()) for a in range(len(m))] for d, m in zip(drop, masks, strict=True)])
        counts = np.array([m.sum(1).numpy() for m in masks])
        at = float(torch.cat([s[m] for s, m in zip(similarity, masks, strict=True)]).mean())
        mean, least, most = _ratio_interval(sums, counts, **options)
        lines.append({"similarity": at, "mean": mean, "low": least, "high": most, "pairs": int(counts.sum())})
    return lines


def _ratio_interval(
    sums: np.ndarray, counts: np.ndarray, draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    generator = np.random.default_rng(seed)
    n_seeds, n_classes = sums.shape
    at = (
        generator.integers(0, n_seeds, (draws, n_seeds))[:, :, None],
        generator.integers(0, n_classes, (draws, n_classes))[:, None, :],
    )
    sizes = counts[at].sum((1, 2))
    means = sums[at].sum((1, 2))[sizes > 0] / sizes[sizes > 0]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(sums.sum() / counts.sum()), float(low), float(high)


# ---------------------------------------------------------------------------------------------------- interventions


def reweight(reference: el.Moments, part: el.Moments, weight: float) -> el.Moments:
    """Σ⁻ + (weight - 1) Σ_part: `part`, which the reference contains once, counts `weight` times in it.

    0 leaves it out; the counts stay those of the reference.
    """
    if weight < 0:
        raise ValueError(f"reweight: weight must not be negative, got {weight}.")
    sigma = {name: reference[name].double() + (weight - 1) * part[name].double() for name in reference}
    return el.Moments(sigma, reference.count)


def partner(kinds: Mapping[str, Tensor], a: int, kind: str) -> int:
    """A class that shares `kind` with `a`: the first one after it."""
    n = len(kinds[kind])
    found = next((c % n for c in range(a + 1, a + n) if kinds[kind][a, c % n]), None)
    if found is None:
        raise ValueError(f"partner: class {a} shares {kind!r} with nobody.")
    return found


def protect(
    model: nn.Module,
    moments: Mapping[int, el.Moments],
    data: ImageData,
    erased: Sequence[int],
    weights: Sequence[float],
    *,
    rcond: float,
) -> dict[tuple[str, float], dict[str, list[float]]]:
    """Erase classes with one other class weighted in the reference, Σ⁻ = Σ_j w_j Σ_j (α = λ = 1, all layers).

    (who is protected, weight) -> "left" of the erased class, what its "twin" (same shape and colour) and a "stranger"
    (nothing in common) lose among survivors; shares, one number an erased class, test images. At weight 1 both
    protections are the same edit, computed once.
    """
    kinds, total = pairs(data), sum(moments.values())
    found: dict[tuple[str, float], dict[str, list[float]]] = {}
    for who in ("twin", "stranger"):
        for weight in weights:
            if (who, weight) == ("stranger", 1.0):
                found[who, weight] = found["twin", weight]
                continue
            seen: dict[str, list[float]] = {"left": [], "twin": [], "stranger": []}
            for a in erased:
                trio = {"twin": partner(kinds, a, "shape and colour"), "stranger": partner(kinds, a, "nothing")}
                reference = reweight(total - moments[a], moments[trio[who]], weight)
                edited = el.ablate(model, el.extract(model, moments[a], reference, rcond=rcond))
                rows = torch.isin(data.test.y, torch.tensor([a, *trio.values()]))
                x, y = data.test.x[rows], data.test.y[rows]
                after = logits(edited, x)
                lost = drops(logits(model, x), after[None], y, [a])["survivors"][0]
                seen["left"].append(float(accuracy(after, y)[a]))
                for name, c in trio.items():
                    seen[name].append(float(lost[c]))
            found[who, weight] = seen
    return found


def together(model: nn.Module, engrams: Mapping[int, el.Engram], data: ImageData, groups: Sequence[Sequence[int]]):
    """Sets of classes erased at once (α = λ = 1): groups x 3 of what is left of them, what the others lose, and what
    they lose among survivors (the erased answers forbidden before and after); shares, test images.
    """
    x, y = data.test.x, data.test.y
    before, rows = logits(model, x), []
    for group in groups:
        after = logits(el.ablate(model, sum(engrams[c] for c in group)), x)
        kept = [c for c in range(data.n_classes) if c not in group]
        own = accuracy(after, y)
        alone = accuracy(forbid(before, group), y) - accuracy(forbid(after, group), y)
        rows.append([float(v.mean()) for v in (own[group], (accuracy(before, y) - own)[kept], alone[kept])])
    return np.array(rows)


def left_of(after: Sequence[Tensor], y: Tensor, classes: Sequence[int]) -> list[float]:
    """Accuracy left on the erased class, one number a network. `after`: logits of `erase_each` for these classes."""
    return [float(np.mean([float(accuracy(z, y)[a]) for a, z in zip(classes, one, strict=True)])) for one in after]


def others_lose(found: Sequence[Mapping[str, Tensor]], classes: Sequence[int]) -> list[float]:
    """Mean loss of the others in points, one number a network. `found`: the `drops` for these classes."""
    n = found[0]["accuracy"].shape[1]
    apart = ~torch.eye(n, dtype=torch.bool)[list(classes)]
    return [100 * float(d["accuracy"][apart].mean()) for d in found]


def score(
    model: nn.Module, engrams: Mapping[int, el.Engram], data: ImageData, *, alpha: float, refit: bool = True
) -> tuple[float, float, float]:
    """(left, the others' loss, score) of erasing each of `engrams` on its own, on validation images.

    score = (1 - left) x (1 - |loss|), as in chapter 09; `refit` sets BatchNorm's statistics anew on `data.train`.
    """
    val, classes = data.val, list(engrams)
    after = erase_each(model, engrams, val.x, alpha=alpha, refit_on=data if refit else None)
    lost = drops(logits(model, val.x), after, val.y, classes)["accuracy"]
    apart = ~torch.eye(data.n_classes, dtype=torch.bool)[classes]
    (left,) = left_of([after], val.y, classes)
    kept = float(np.mean([float(row[others].mean()) for row, others in zip(lost, apart, strict=True)]))
    return left, kept, (1 - left) * (1 - abs(kept))


def where_lost(before: Tensor, after: Tensor, y: Tensor, kinds: Mapping[str, Tensor], kind: str) -> dict[str, int]:
    """Images of partners of a `kind` that were read rightly and are not any more: "lost", how many of them; of these,
    called the other texture of their own shape and colour ("to the twin"), called the erased class ("to the erased").

    `after`: k x N x n of `erase_each` for classes 0 .. k-1.
    """
    twin = kinds["shape and colour"].int().argmax(1)
    found = {"lost": 0, "to the twin": 0, "to the erased": 0}
    for a, z in enumerate(after):
        answer = z.argmax(1)
        fell = (before.argmax(1) == y) & (answer != y) & kinds[kind][a][y]
        found["lost"] += int(fell.sum())
        found["to the twin"] += int((answer[fell] == twin[y[fell]]).sum())
        found["to the erased"] += int((answer[fell] == a).sum())
    return found


# ------------------------------------------------------------------------------- reading the recorded hundred classes


def by_material(
    run: runs.Run, kind: str, *, alpha: float = 1.0, read_out: str = "accuracy", n_sub: int = 10
) -> list[float]:
    """Points that partners of a `kind` lose when a class goes, one number for each material of the erased class."""
    rows = run.where(study="pairs", norm="as trained", kind=kind, alpha=alpha)
    found = [row | {"material": row["erased"] % n_sub} for row in rows]
    return [100 * line["mean"] for line in runs.mean_sd(found, read_out, by=("material",))]


def each_network(run: runs.Run, value: str, **wanted: object) -> list[float]:
    """The mean of a column over the rows that are `wanted`, one number a recorded network."""
    return [line["mean"] for line in runs.mean_sd(run.where(**wanted), value, by=("seed",))]


def points_matrix(run: runs.Run, n: int = 100, **wanted: object) -> Tensor:
    """Points lost, erased x tested, mean over the recorded networks, of a "heatmap" with statistics as trained."""
    rows = run.where(study="heatmap", norm="as trained", **wanted)
    total = torch.zeros(n, n, dtype=torch.float64)
    for row in rows:
        total[row["erased"]] += torch.tensor(row["points"], dtype=torch.float64)
    return total / len({row["seed"] for row in rows})


def by_second_factor(matrix: Tensor, n_sub: int) -> Tensor:
    """A matrix over classes in another order: all shapes of the first material, then of the second, and so on."""
    order = torch.arange(len(matrix)).reshape(-1, n_sub).T.reshape(-1)
    return matrix[order][:, order]


def recoloured(data: ImageData, superclasses: Sequence[int]) -> ImageData:
    """`shapes` with red and green swapped in the green classes of some superclasses: there, all classes are red.

    The intervention: what told those siblings apart, besides their texture, is gone. The other superclasses keep every
    pixel. Names stay.
    """
    chosen = [c for c, name in enumerate(data.classes) if data.superclass_of[c] in superclasses and " green " in name]

    def swap(split: Split) -> Split:
        x, rows = split.x.clone(), torch.isin(split.y, torch.tensor(chosen))
        x[rows] = x[rows][:, [1, 0, 2]]
        return Split(x, split.y)

    return replace(data, train=swap(data.train), val=swap(data.val), test=swap(data.test))


# ---------------------------------------------------------------------------------------------------- the recorded run
NORMS = ("as trained", "refitted")  # BatchNorm's running statistics
ALPHAS = (1.0, 2.0)  # of the hundred classes: at 1 half of the erased class is left


def hundred(settings: Settings, seed: int, *, device: str | torch.device = "cpu") -> list[Row]:
    """Every class of one network erased on its own, at λ = 1, α of `ALPHAS`, BatchNorm as trained and refitted.

    Rows, told apart by `study`:
    "heatmap": one an erased class; `points` = what each class lost, in whole points of accuracy, and `left`.
    "pairs": one an erased class and kind of pair; the mean drop by each read-out.
    "ranks": one a similarity and read-out; `rho` = mean over the erased classes of Spearman's ρ.
    "accuracy": before any edit.
    """
    data = data_of(settings)
    model = train(data, settings, seed, device=device)
    moments = moments_by_class(model, data.train)
    engrams = el.extract_all(model, moments, rcond=settings.rcond)
    alike, kinds, test = similarities(model, moments, engrams, data), pairs(data), data.test
    before = logits(model, test.x)
    rows: list[Row] = [{"study": "accuracy", "seed": seed, "before": accuracy(before, test.y).mean()}]
    few = replace(data, train=data.train.sample(10))
    for alpha, norm in itertools.product(ALPHAS, NORMS):
        facts = {"seed": seed, "norm": norm, "alpha": alpha}
        lost: dict[str, list[Tensor]] = {name: [] for name in READ_OUTS}
        for erased in track(range(data.n_classes), desc=f"erasing ({norm})"):
            one, on = {erased: engrams[erased]}, few if norm == "refitted" else None
            after = erase_each(model, one, test.x, alpha=alpha, refit_on=on)
            drop = {name: rows_[0] for name, rows_ in drops(before, after, test.y, [erased]).items()}
            for name in READ_OUTS:
                lost[name].append(drop[name])
            left = accuracy(after[0], test.y)[erased]
            points = [round(100 * float(v)) for v in drop["accuracy"]]
            rows.append({"study": "heatmap", **facts, "erased": erased, "left": left, "points": points})
            for kind, mask in kinds.items():
                if mask[erased].any():
                    means = {name: drop[name][mask[erased]].mean() for name in READ_OUTS}
                    rows.append({"study": "pairs", **facts, "erased": erased, "kind": kind, **means})
        for read_out, values in lost.items():
            matrix = torch.stack(values)
            for name, similarity in alike.items():
                rho = rank_correlations(similarity, matrix).mean()
                rows.append({"study": "ranks", **facts, "similarity": name, "read_out": read_out, "rho": rho})
    return rows


def recolouring(settings: Settings, seed: int, *, device: str | torch.device = "cpu") -> list[Row]:
    """Does overlap cause the drop? Two superclasses lose what told their siblings apart; the others keep every pixel.

    Two networks with the same first weights and the same order of images: one on `shapes`, one on `recoloured` shapes
    (which two superclasses changes with `seed`). Rows: for each world, whether the superclass is one of the two
    (`treated`), and kind of sibling ("shape" = they had different colours, "shape and colour"): the mean drop of a
    sibling by each read-out, and `taken`, the mean "share taken".
    """
    data = data_of(settings)
    n = settings.n_super
    chosen = (seed % n, (seed + 2) % n)
    treated = torch.tensor([group in chosen for group in data.superclass_of])
    rows: list[Row] = []
    for world, images in (("original", data), ("recoloured", recoloured(data, chosen))):
        model = train(images, settings, seed, device=device)
        moments = moments_by_class(model, images.train)
        engrams = el.extract_all(model, moments, rcond=settings.rcond)
        taken = similarities(model, moments, engrams, images)["share taken"]
        before = logits(model, images.test.x)
        few = replace(images, train=images.train.sample(50))
        for norm in NORMS:
            after = erase_each(model, engrams, images.test.x, refit_on=few if norm == "refitted" else None)
            lost = drops(before, after, images.test.y)
            for kind in ("shape", "shape and colour"):
                for which in (True, False):
                    mask = pairs(data)[kind] & (treated == which)[:, None]
                    facts = {"study": "recolouring", "seed": seed, "world": world, "norm": norm}
                    facts |= {"kind": kind, "treated": which, "taken": taken[mask].mean()}
                    rows.append(facts | {name: lost[name][mask].mean() for name in READ_OUTS})
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    options = recording.parser("overlap", __doc__, "overlap-shapes")
    args = options.parse_args(argv)
    if not args.record:
        options.error("this study is only recorded; add --record")
    parts = [
        ({"study": study.__name__, "seed": seed}, partial(study, settings, seed, device=recording.device()))
        for study, settings, seeds in ((recolouring, LAPTOP, range(5)), (hundred, HUNDRED, range(3)))
        for seed in seeds
    ]

    def summary(rows: list[Row]) -> dict[str, list[Row]]:
        found = runs.select(rows, {"study": "pairs"})
        return {name: runs.mean_sd(found, name, by=("alpha", "norm", "kind")) for name in READ_OUTS}

    config = {"hundred": {**asdict(HUNDRED), "alphas": ALPHAS}, "recolouring": asdict(LAPTOP)}
    how = {"config": config, "seeds": range(5), "data": data_of(HUNDRED), "summary": summary}
    recording.record("overlap-shapes", parts, args, **how)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
