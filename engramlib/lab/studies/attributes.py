"""Attributes of generated faces, taken away and put on by weight arithmetic (Figs. 7, 8 and 15): chapter 12.

The renderer knows each face without its glasses. So an edit is scored against the picture that it should have drawn:

- `inside`: mean squared error on the pixels that the attribute touches; it should fall.
- `outside`: the same on all other pixels; it should stay.

Faces that should not change (they lack the attribute that is taken away) are scored the same way, against themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib._progress import track
from engramlib.lab.data import AttributeData, AttributeSplit, FaceData
from engramlib.lab.models import WAE, wae
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import recording
from engramlib.lab.training.autoencoder import reconstruct, train_autoencoder
from engramlib.lab.unlearning.controls import random_subspace

Draw = Callable[[Tensor], Tensor]  # images in, pictures out


@dataclass(frozen=True, kw_only=True)
class Settings(recording.Settings):
    """Everything that decides the numbers, except the seed."""

    widths: tuple[int, ...]
    latent: int
    batch_size: int = 16
    rcond: float = 1e-3


LAPTOP = Settings(widths=(24, 48, 64), latent=64, epochs=8, lr=4e-3)  # 24 x 24; chosen on validation faces
PAPER = Settings(widths=(32, 64, 128), latent=64, epochs=20, lr=2e-3, batch_size=32)  # 64 x 64


def train(data: AttributeData, settings: Settings, seed: int, *, device: str | torch.device = "cpu") -> WAE:
    """The Wasserstein autoencoder of `settings` on `data.train`; a decoder at zero draws the mean training image."""
    x = data.train.x
    model = wae(data.image_shape, settings.widths, latent=settings.latent, mean=x.mean(0), seed=seed).to(device)
    train_autoencoder(model, x, **settings.training, seed=seed)
    return model


def moments_of(
    model: nn.Module, data: AttributeData, attributes: Sequence[str], split: str | AttributeSplit = "train"
) -> dict[str, tuple[el.Moments, el.Moments]]:
    """What each layer saw of the images with an attribute, and of those without: one pass for all attributes.

    Sums add, so it is enough to collect every combination of `attributes` by itself. Name a handful, not CelebA's
    forty: there would be as many combinations as images.
    """
    columns = torch.tensor([data.column(a) for a in attributes])
    place = 2 ** torch.arange(len(attributes))
    found = el.collect_by_concept(model, data.batches(split), lambda batch: (batch[1].cpu()[:, columns] * place).sum(1))
    parts = {}
    for attribute, bit in zip(attributes, place.tolist(), strict=True):
        sides = [[m for combination, m in found.items() if bool(combination & bit) == has] for has in (True, False)]
        if not all(sides):
            raise ValueError(f"moments_of: all or none of the images have {attribute!r}; there is nothing to compare.")
        parts[attribute] = tuple(sum(side[1:], start=side[0]) for side in sides)
    return parts


def part(model: WAE, engram: el.Engram, layers: str) -> el.Engram:
    """The engram in `layers`: "all", "encoder" (with `to_code`), or the name of one layer."""
    names = [*model.encoder, "to_code"] if layers == "encoder" else [layers]
    return engram if layers == "all" else engram.select(names)


# ------------------------------------------------------------------------------------------------------- scoring


@dataclass(frozen=True)
class Task:
    """Images, the pictures that an edit should make of them, and the pixels that differ because of the attribute."""

    x: Tensor
    wanted: Tensor
    mask: Tensor  # N x H x W booleans

    def errors(self, drawn: Tensor) -> tuple[float, float]:
        """Mean squared error of the pictures `drawn`, inside the mask and outside it, all images together."""
        square = (drawn.double().cpu() - self.wanted.double().cpu()).square().mean(1)
        mask = self.mask.cpu()
        return float(square[mask].mean()), float(square[~mask].mean())

    def recognised(self, drawn: Tensor) -> float:
        """Share of the pictures that look more like their own wanted picture than like any other one's."""
        apart = torch.cdist(drawn.flatten(1).cpu(), self.wanted.flatten(1).cpu())
        return float((apart.argmin(1) == torch.arange(len(drawn))).double().mean())


def tasks(data: FaceData, split: str, attribute: str, *, most: int | None = None) -> dict[str, Task]:
    """Three questions about one attribute: take it away ("remove"), "leave" faces without it alone, "add" it.

    `most`: that many faces of each kind at most.
    """
    everyone = data.split(split)
    has = data.has(attribute, everyone)
    bearer, lacking = (everyone.where(side) for side in (has, ~has))
    if most is not None:
        bearer, lacking = (p.where(torch.arange(len(p)) < most) for p in (bearer, lacking))
    without, with_it = data.counterfactual(bearer, attribute), data.counterfactual(lacking, attribute, present=True)
    masks = data.attribute_mask(bearer, attribute), data.attribute_mask(lacking, attribute)
    return {
        "remove": Task(bearer.x, without, masks[0]),
        "leave": Task(lacking.x, lacking.x, masks[1]),
        "add": Task(lacking.x, with_it, masks[1]),
    }


def score(draw: Draw, questions: Mapping[str, Task], **facts: object) -> list[Row]:
    """One row a question: `inside` and `outside` of what `draw` makes of the images, and who is `recognised`."""
    drawn: dict[int, Tensor] = {}  # "leave" and "add" are about the same faces
    rows = []
    for name, question in questions.items():
        if id(question.x) not in drawn:
            drawn[id(question.x)] = draw(question.x)
        pictures = drawn[id(question.x)]
        inside, outside = question.errors(pictures)
        known = question.recognised(pictures)
        rows.append({**facts, "question": name, "inside": inside, "outside": outside, "recognised": known})
    return rows


def best(model: nn.Module, questions: Mapping[str, Task], **facts: object) -> list[Row]:
    """As `score`, of the best this network can draw: its reconstructions of the very pictures that are wanted."""
    rows = []
    for name, question in questions.items():
        drawn = reconstruct(model, question.wanted)
        rows += score(lambda _, drawn=drawn: drawn, {name: question}, **facts)
    return rows


def edit(model: nn.Module, engram: el.Engram, alpha: float = 1.0) -> Draw:
    """Images to what the model draws of them without α times the engram. The model itself stays as it is."""

    def draw(x: Tensor) -> Tensor:
        with el.edited(model, -alpha * engram):
            return reconstruct(model, x)

    return draw


def frontier(
    model: WAE,
    moments: Mapping[str, tuple[el.Moments, el.Moments]],
    questions: Mapping[str, Mapping[str, Task]],
    *,
    lams: Sequence[float] = (1.0,),
    alphas: Sequence[float] = (1.0,),
    layers: Sequence[str] = ("all",),
    rcond: float = 1e-3,
    **facts: object,
) -> list[Row]:
    """The scores of every (attribute, λ, layers, α)."""
    rows: list[Row] = []
    for attribute, task in questions.items():
        for lam in lams:
            engram = el.extract(model, *moments[attribute], specificity=lam, rcond=rcond)
            for where in layers:
                for alpha in alphas:
                    knobs = {"attribute": attribute, "lam": float(lam), "layers": where, "alpha": float(alpha)}
                    rows += score(edit(model, part(model, engram, where), alpha), task, **facts, **knobs)
    return rows


def relative(rows: Iterable[Row], unedited: Iterable[Row], best: Iterable[Row]) -> list[Row]:
    """`rows` with `went`, `way` and `outside_times`, by what the same network draws unedited, and at best.

    `went` = by how much the error inside the attribute fell, `way` = by how much it can fall in this network: see
    `pooled`. `outside_times` = error outside, as a multiple of the unedited one.
    """
    key = ("seed", "attribute", "question")
    start, goal = ({tuple(r[k] for k in key): r for r in found} for found in (unedited, best))
    out = []
    for row in rows:
        a, b = (found[tuple(row[k] for k in key)] for found in (start, goal))
        found = {"went": a["inside"] - row["inside"], "way": a["inside"] - b["inside"]}
        out.append({**row, **found, "outside_times": row["outside"] / a["outside"]})
    return out


def pooled(rows: Iterable[Row], by: Sequence[str] = ()) -> dict[tuple, float]:
    """How far edits went, of `relative` rows, for each combination of `by`: what errors fell together over their way.

    0 = as unedited, 1 = as good as the network can draw, negative = worse than doing nothing. Errors are added up
    before they are divided: a ratio of a short way has no lower bound, and one of them could decide a mean of ratios.
    """
    sums: dict[tuple, list[float]] = {}
    for row in rows:
        total = sums.setdefault(tuple(row[b] for b in by), [0.0, 0.0])
        total[0] += row["went"]
        total[1] += row["way"]
    return {key: went / way if way else float("nan") for key, (went, way) in sums.items()}


Questions = Mapping[str, Mapping[str, Task]]


def marks(
    models: Sequence[nn.Module], data: FaceData, attributes: Sequence[str], split: str, *, most: int | None = None
) -> tuple[Questions, list[Row], list[Row]]:
    """(attribute -> `tasks`, rows of the unedited drawings, rows of the `best` ones): what `relative` compares with."""
    asked = {name: tasks(data, split, name, most=most) for name in attributes}
    unedited: list[Row] = []
    goal: list[Row] = []
    for seed, model in enumerate(models):
        for name, questions in asked.items():
            facts = {"seed": seed, "attribute": name}
            unedited += score(partial(reconstruct, model), questions, **facts)
            goal += best(model, questions, **facts)
    return asked, unedited, goal


def through(model: WAE, move: Callable[[Tensor], Tensor]) -> Draw:
    """Images to what the model draws of their codes after `move`, which gets and returns codes in float64."""

    @torch.no_grad()
    def draw(x: Tensor) -> Tensor:
        code = move(model.encode(x.to(next(model.parameters()).device)).double())
        return model.decode(code.float()).cpu()

    return draw


def compare(
    models: Sequence[WAE],
    moments: Sequence[Mapping[str, tuple[el.Moments, el.Moments]]],
    asked: Questions,
    settled: Mapping[str, tuple[str, float, float]],
    code_maps: Callable[[WAE, str], Mapping[str, Callable[[Tensor], Tensor]]],
    *,
    rcond: float,
) -> list[Row]:
    """The scores of every edit of every attribute; `method` names it.

    For each (layers, λ, α) of `settled`: "engram, NAME" subtracts, "added, NAME" adds. Beside the setting "chosen":
    "random part", as large on the data, and "other attribute", the engram of the attribute before. And what
    `code_maps(model, attribute)` does to codes, under the names it gives.
    """
    rows: list[Row] = []
    names = list(asked)
    for seed, model in enumerate(track(models, desc="networks")):
        known: dict[tuple[str, float], el.Engram] = {}
        for i, name in enumerate(names):
            edits: dict[str, Draw] = {}
            for label, (where, lam, alpha) in settled.items():
                for attribute in (name, names[i - 1]):
                    if (attribute, lam) not in known:
                        sides = moments[seed][attribute]
                        known[attribute, lam] = el.extract(model, *sides, specificity=lam, rcond=rcond)
                engram = part(model, known[name, lam], where)
                edits[f"engram, {label}"] = edit(model, engram, alpha)
                edits[f"added, {label}"] = edit(model, engram, -alpha)
                if label == "chosen":
                    dice = random_subspace(model, engram, 10 * seed + i, moments=sum(moments[seed][name]))
                    edits["random part"] = edit(model, dice, alpha)
                    edits["other attribute"] = edit(model, part(model, known[names[i - 1], lam], where), alpha)
            edits |= {method: through(model, move) for method, move in code_maps(model, name).items()}
            for method, draw in edits.items():
                rows += score(draw, asked[name], seed=seed, attribute=name, method=method)
    return rows


@torch.no_grad()
def moves(model: WAE, engram: el.Engram, data: FaceData, attribute: str) -> Row:
    """How an edit of `to_code` (α = 1) moves the codes of the test faces that have the attribute.

    `cos`: cosine of the mean move with the attribute vector (mean code with minus mean code without, training faces);
    `common`: the mean's part of the move, ‖mean‖² / mean ‖move‖². What is left differs from face to face.
    """
    device = next(model.parameters()).device
    x = data.test.x[data.has(attribute, "test")].to(device)
    before = model.encode(x)
    with el.edited(model, -1.0 * engram.select(["to_code"])):
        move = (before - model.encode(x)).double()
    z, own = model.encode(data.train.x.to(device)).double(), data.has(attribute)
    d = z[own].mean(0) - z[~own].mean(0)
    alike = torch.cosine_similarity(move.mean(0), d, dim=0)
    common = move.mean(0).square().sum() / move.square().sum(1).mean()
    return {"cos": float(alike), "common": float(common)}


def weighted(
    moments: tuple[el.Moments, el.Moments], frequency: float, counts: tuple[int, int]
) -> tuple[el.Moments, el.Moments]:
    """The moments as they would be if a share `frequency` of the images had the attribute, for `counts` images."""
    factor = frequency / (1 - frequency) * counts[1] / counts[0]
    target, reference = moments
    return el.Moments({name: factor * target[name] for name in target}, target.count), reference
