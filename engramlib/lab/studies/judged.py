"""Attributes of photographs, edited and judged by a network (Figs. 7, 8, 15): chapter 12, and the recorded run.

    python -m engramlib.lab.studies judged --record                # CelebA, three seeds; resumes if it was cut off
    python -m engramlib.lab.studies judged --data faces --record   # drawn faces, where the truth is known as well

Nobody has a photograph of the same person at the same moment without glasses. So a second network, the **judge**,
looks: it learns all attributes from photographs that the autoencoder never saw, and from unedited drawings of them; its
photographs are not those of the test. One autoencoder and one judge a seed. Faces of one split, for an attribute:

- *bearers* have it, their *twins* (for each bearer the two that agree with it in most other attributes) have it not;
- *others*: faces that lack it, whoever they are. Their own photograph is what an edit should leave.

Every row of `study` "edits" says what one edit does:

    visible      how often the judge gives a bearer the higher score than a twin that is drawn unedited; .5: cannot tell
    done         what is gone of that: (before - visible) / (before - .5); 1 = a bearer cannot be told from a twin,
                 more = it shows less of the attribute than a twin
    added        the same for twins that are edited, against themselves unedited: (share above - .5) / (before - .5)
    damage       mean squared error to the photograph on others, as a multiple of the unedited one
    recognised   chance that of a hundred unedited drawings a bearer's own is the nearest, by the judge's features with
                 what they say of the edited attributes taken out; `pixels`: by pixels
    kept         share of the other attributes on which the judge's verdict on a bearer stays

each of `done`, `added` with `_low`, `_high`: the middle 95 % over resampled faces. Drawn faces have rows of `study`
"truth" as well: the scores of `attributes`, by the renderer's own pictures. They say what a judge's verdict is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import engramlib as el
from engramlib.lab.data import AttributeData, AttributeSplit, FaceData, celeba, faces
from engramlib.lab.models import WAE, wae
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import attributes, recording
from engramlib.lab.studies.attributes import Draw, edit, moments_of, part, through
from engramlib.lab.training import loop
from engramlib.lab.training.autoencoder import reconstruct, reconstruction_error, train_autoencoder
from engramlib.lab.training.modes import evaluating
from engramlib.lab.training.precision import arithmetic
from engramlib.lab.unlearning.controls import random_subspace

SHARES = (5, 2, 1)  # of eight training images: the autoencoder's, the judge's, and more for the test
TWINS, GALLERY, RESAMPLED = 2, 100, 200
ALPHAS = (-2 / 3, -1 / 3, 0.0, 1 / 3, 2 / 3, 1.0, 4 / 3)  # the paper's
BUDGETS = {"gentle": 1.2, "chosen": 1.5}  # damage on validation faces, as for the drawn faces of chapter 12
READ = 0.75  # an attribute counts where the judge reads it this well (as `visible`) off unedited drawings


@dataclass(frozen=True, kw_only=True)
class Settings(recording.Settings):
    """Everything that decides the numbers, except the seed. `judge_...`: the judge's training.

    `mirrored`: the autoencoder and the moments see every image and its mirror image; twice as many columns.
    `most`: bearers, twins and others of a split, at most so many of each.
    """

    attributes: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    widths: tuple[int, ...]
    latent: int
    batch_size: int = 32
    rcond: float = 1e-3
    lams: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0)
    alphas: tuple[float, ...] = (1.0, 2.0, 3.0)
    layers: tuple[str, ...] = ("all",)
    mirrored: bool = False
    most: Mapping[str, int] = field(default_factory=lambda: {"val": 40, "test": 80})
    judge_widths: tuple[int, ...] = (24, 48, 96, 128)
    judge_epochs: int = 10
    judge_lr: float = 3e-3


CELEBA = Settings(
    attributes=("Goatee", "Eyeglasses", "Wearing_Hat", "Bangs"),
    pairs=(("Eyeglasses", "Wearing_Hat"), ("Goatee", "Bangs")),
    widths=(32, 64, 128, 64),
    latent=128,
    epochs=8,
    lr=2e-3,
    mirrored=True,
)
FACES = replace(
    CELEBA,
    attributes=("goatee", "glasses", "hat", "bangs"),
    pairs=(("glasses", "hat"), ("goatee", "bangs")),
    widths=(24, 48, 64),
    latent=64,
    epochs=12,
    lr=4e-3,
    mirrored=False,
    judge_epochs=6,
)


@dataclass(frozen=True)
class Parts:
    """Who learns and who is tested: the autoencoder's data (with `val` and `test`), and the judge's photographs."""

    data: AttributeData
    judge: AttributeSplit


def parts_of(data: AttributeData, *, mirrored: bool = False) -> Parts:
    """The training images in eighths (`SHARES`), in order; no image serves two purposes. `mirrored`: see `Settings`."""
    n = len(data.train)
    place = torch.arange(n) * sum(SHARES) // n
    own, judged, spare = (
        data.train.where((place >= low) & (place < low + share))
        for low, share in zip((0, SHARES[0], SHARES[0] + SHARES[1]), SHARES, strict=True)
    )
    fields = ("x", "attributes", "identity")
    test = AttributeSplit(*(torch.cat([getattr(spare, f), getattr(data.test, f)]) for f in fields))
    if mirrored:
        own = AttributeSplit(torch.cat([own.x, own.x.flip(3)]), own.attributes.repeat(2, 1), own.identity.repeat(2, 1))
    return Parts(replace(data, train=own, test=test), judged)


def train(data: AttributeData, settings: Settings, seed: int, *, device: str | torch.device = "cpu") -> WAE:
    """The Wasserstein autoencoder of `settings` on `data.train`, in bfloat16: half the time on processors that have it.

    A decoder at zero draws the mean training image.
    """
    x = data.train.x
    model = wae(data.image_shape, settings.widths, latent=settings.latent, mean=x.mean(0), seed=seed).to(device)
    model = model.to(memory_format=torch.channels_last)
    train_autoencoder(model, x, **settings.training, seed=seed, mixed=True)
    return model.to(memory_format=torch.contiguous_format)


# -------------------------------------------------------------------------------------------------------- the judge


class Judge(nn.Module):
    """A convolutional network that reads all attributes off an image: logits N x k. Input in [0, 1]."""

    def __init__(self, image_shape: Sequence[int], widths: Sequence[int], n_attributes: int, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        blocks: list[nn.Module] = []
        for before, after in zip((image_shape[0], *widths), widths, strict=False):
            blocks += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            blocks += [nn.MaxPool2d(2)]
        side = [n // 2 ** len(widths) for n in image_shape[1:]]
        self.body = nn.Sequential(
            *blocks, nn.Flatten(), nn.Dropout(0.4), nn.Linear(widths[-1] * side[0] * side[1], 128), nn.ReLU()
        )
        self.head = nn.Linear(128, n_attributes)

    def features(self, x: Tensor) -> Tensor:
        """N x 128: what the logits are read from."""
        return self.body(4 * (x - self.mean))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def train_judge(
    split: AttributeSplit,
    settings: Settings,
    seed: int,
    *,
    model: WAE | None = None,
    device: str | torch.device = "cpu",
) -> Judge:
    """A judge, taught on photographs and, given the autoencoder, on its unedited drawings of them: it has to read both.

    Flipped, shifted, lighter and darker ones count as well. Adam, one cycle; binary cross-entropy of all attributes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean = split.x.mean((0, 2, 3), keepdim=True)
        judge = Judge(split.x.shape[1:], settings.judge_widths, split.attributes.shape[1], mean)
    judge = judge.to(device).to(memory_format=torch.channels_last)
    x = split.x if model is None else torch.cat([split.x, reconstruct(model, split.x).clamp(0, 1)])
    x, y = x.to(device), split.attributes.repeat(len(x) // len(split), 1).to(device).float()
    size = min(settings.batch_size, len(x))
    steps, epochs, lr = len(x) // size, settings.judge_epochs, settings.judge_lr
    optimiser = torch.optim.AdamW(judge.parameters(), lr, weight_decay=1e-3)

    def batches(epochs: int, order: torch.Generator) -> Iterable[Tensor]:
        return (rows for rows in loop.shuffled(len(x), size, epochs, order) if len(rows) == size)

    def step(rows: Tensor) -> tuple[Tensor, Tensor]:
        with arithmetic(device, mixed=True):
            logits = judge(_varied(x[rows]))
        loss = F.binary_cross_entropy_with_logits(logits.float(), y[rows])
        return loss, loss

    history = loop.History()

    def close(means: list[float]) -> str:
        history.loss.append(means[0])
        return f"loss {means[0]:.3f}"

    loop.loop(
        judge,
        history,
        who="train_judge",
        epochs=epochs,
        steps=steps,
        seed=seed,
        batches=batches,
        step=step,
        close=close,
        optimiser=optimiser,
        schedule=torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=epochs * steps),
    )
    return judge


def _varied(x: Tensor) -> Tensor:
    """Flipped, shifted by up to three pixels, lighter or darker."""
    draw = partial(torch.rand, len(x), 1, 1, 1, device=x.device)
    x = torch.where(draw() < 0.5, x.flip(3), x).roll(torch.randint(-3, 4, (2,)).tolist(), (2, 3))
    return x * (0.8 + 0.4 * draw()) + 0.2 * (draw() - 0.5)


# -------------------------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class Verdict:
    """What a judge says of N images: logits N x k, and features N x 128 that say nothing of the edited attributes."""

    logits: Tensor
    features: Tensor


@torch.no_grad()
def look(judge: Judge, x: Tensor, edited: Sequence[int], *, batch_size: int = 256) -> Verdict:
    """`edited`: the columns whose directions are taken out of the features, which then are scaled to length 1."""
    device = judge.mean.device
    with evaluating(judge):
        with arithmetic(device, mixed=True):  # as it was trained
            parts = [judge.features(b.to(device)).float() for b in x.clamp(0, 1).split(batch_size)]
        features = torch.cat(parts)
        logits = judge.head(features).double().cpu()
    basis = torch.linalg.qr(judge.head.weight[list(edited)].double().T.cpu()).Q
    features = features.double().cpu()
    return Verdict(logits, F.normalize(features - features @ basis @ basis.T, dim=1))


def above(high: Tensor, low: Tensor) -> Tensor:
    """How often an entry of `high` exceeds one of `low`, ties half: the area under the curve. Last dimension: images.

    .5 = cannot be told apart, 1 = always. By ranks, so for a few thousand resamplings at once as well.
    """
    order = low.sort(-1).values.contiguous()
    less = torch.searchsorted(order, high.contiguous())
    more = torch.searchsorted(order, high.contiguous(), right=True)
    return (less + more).double().mean(-1) / (2 * low.shape[-1])


def twins_of(split: AttributeSplit, bearers: Tensor, lacking: Tensor, column: int, k: int = TWINS) -> Tensor:
    """For each bearer the `k` lacking faces that agree with it in most attributes but `column`: row numbers, n x k."""
    rest = [i for i in range(split.attributes.shape[1]) if i != column]
    a, b = (split.attributes[rows][:, rest].float() for rows in (bearers, lacking))
    apart = torch.cdist(a, b, p=1) + 1e-6 * torch.arange(len(b))  # ties: the first
    return lacking[apart.topk(min(k, len(b)), largest=False).indices]


@dataclass(frozen=True)
class Case:
    """One attribute's faces of a split: row numbers of `bearers`, `twins` (n x k) and `others`."""

    column: int
    bearers: Tensor
    twins: Tensor
    others: Tensor


def cases(data: AttributeData, split: str, attributes: Sequence[str], most: int) -> dict[str, Case]:
    """`most` bearers and others of each attribute at most."""
    part, found = data.split(split), {}
    for name in attributes:
        has = data.has(name, split)
        bearers, lacking = has.nonzero()[:most, 0], (~has).nonzero()[:, 0]
        column = data.column(name)
        found[name] = Case(column, bearers, twins_of(part, bearers, lacking, column), lacking[:most])
    return found


class Bench:
    """Scores edits of one autoencoder on the faces of one split, before its own unedited drawings of them."""

    def __init__(
        self, model: WAE, judge: Judge, data: AttributeData, split: str, attributes: Sequence[str], most: int
    ) -> None:
        self.judge, self.data = judge, data
        self.x = data.split(split).x.cpu()
        self.labels = data.split(split).attributes
        self.edited = [data.column(name) for name in attributes]
        self.cases = cases(data, split, attributes, most)
        self.photographs = self.look(self.x)
        self.drawn = reconstruct(model, self.x)
        self.seen = self.look(self.drawn)
        # A verdict is "yes" as often as the label is: the judge's own threshold is made for sharp photographs.
        share = self.labels.double().mean(0)
        self.cut = torch.stack([self.seen.logits[:, i].quantile(1 - q) for i, q in enumerate(share.tolist())])
        read = self.readable(self.seen)
        self.read = [i for i, value in read.items() if value >= READ and i not in self.edited]
        self.squares = (self.drawn - self.x).double().square().flatten(1).mean(1)

    def look(self, x: Tensor) -> Verdict:
        return look(self.judge, x, self.edited)

    def readable(self, seen: Verdict) -> dict[int, float]:
        """Column -> how often the judge scores a face with the attribute above one without."""
        found = {}
        for i in range(self.labels.shape[1]):
            has = self.labels[:, i]
            if has.any() and not has.all():
                found[i] = float(above(seen.logits[has, i], seen.logits[~has, i]))
        return found

    def before(self, name: str, seen: Verdict | None = None) -> float:
        """`visible` of the unedited drawings, or of what was `seen` instead."""
        case, logits = self.cases[name], (seen or self.seen).logits[:, self.cases[name].column]
        return float(above(logits[case.bearers], logits[case.twins.flatten()]))

    def score(self, draw: Draw, name: str, **facts: object) -> Row:
        """The row of one edit for one attribute (see the module)."""
        case = self.cases[name]
        pool = case.twins.unique()
        pictures = draw(self.x[torch.cat([case.bearers, pool, case.others])])
        mine, theirs, rest = pictures.split([len(case.bearers), len(pool), len(case.others)])
        seen, them = self.look(mine), self.look(theirs)
        place = torch.searchsorted(pool, case.twins)  # pool is sorted
        plain = self.seen.logits[:, case.column]
        table = {
            "old": plain[case.bearers],
            "new": seen.logits[:, case.column],
            "twins": plain[case.twins],
            "worn": them.logits[:, case.column][place],
        }
        square = (rest - self.x[case.others]).double().square().flatten(1).mean(1)
        row = {
            **_gone(table),
            "damage": float(square.mean() / self.squares[case.others].mean()),
            "recognised": self._recognised(seen.features, self.seen.features, case.bearers),
            "pixels": self._recognised(mine.flatten(1), self.drawn.flatten(1), case.bearers),
            "kept": self._kept(seen.logits, case.bearers),
        }
        return {**facts, "attribute": name, **{key: round(value, 5) for key, value in row.items()}}

    def _recognised(self, queries: Tensor, gallery: Tensor, own: Tensor) -> float:
        """Chance that none of GALLERY - 1 others, drawn at random, is nearer than a query's own."""
        apart = torch.cdist(queries.float(), gallery.float())
        mine = apart.gather(1, own[:, None])
        closer = (apart < mine).double().sum(1) / (len(gallery) - 1)
        return float((1 - closer).pow(GALLERY - 1).mean())

    def _kept(self, logits: Tensor, rows: Tensor) -> float:
        if not self.read:
            return float("nan")
        now, then = (values[:, self.read] > self.cut[self.read] for values in (logits, self.seen.logits[rows]))
        return float((now == then).double().mean())

    def shifts(self, draw: Draw, name: str, **facts: object) -> list[Row]:
        """What else an edit changes: mean shift of each logit on bearers, in sd of it over unedited drawings."""
        case = self.cases[name]
        moved = (self.look(draw(self.x[case.bearers])).logits - self.seen.logits[case.bearers]).mean(0)
        moved = moved / self.seen.logits.std(0)
        return [
            {**facts, "attribute": name, "other": other, "shift": round(float(moved[i]), 4)}
            for i, other in enumerate(self.data.attributes)
            if i in self.read or i == case.column
        ]

    def instrument(self) -> list[Row]:
        """What the judge can see: of photographs and of unedited drawings, against anybody and against twins."""
        rows, sources = [], {"photographs": self.photographs, "drawings": self.seen}
        for name, case in self.cases.items():
            for source, seen in sources.items():
                row = {"anybody": self.readable(seen)[case.column], "twins": self.before(name, seen)}
                known = self._recognised(seen.features[case.bearers], self.seen.features, case.bearers)
                kept = self._kept(seen.logits[case.bearers], case.bearers)
                rows.append({"attribute": name, "source": source, **row, "recognised": known, "kept": kept})
        strangers = torch.arange(len(self.x)).roll(1)
        kept = self._kept(self.seen.logits[strangers], torch.arange(len(self.x)))
        return [*rows, {"attribute": "", "source": "strangers", "kept": kept, "read": len(self.read)}]


def _gone(table: Mapping[str, Tensor], seed: int = 0) -> dict[str, float]:
    """`visible`, `before`, `done`, `added` of the judge's scores, the last two with the middle 95 % over faces.

    `table`: scores of bearers unedited ("old") and edited ("new"), n; of twins unedited and edited ("worn"), n x k.
    A bearer is drawn again with its twins.
    """
    n = len(table["old"])
    again = torch.randint(n, (RESAMPLED, n), generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([torch.arange(n)[None], again])
    old, new, twins, worn = (table[key][rows].flatten(1) for key in ("old", "new", "twins", "worn"))
    before, visible, put = above(old, twins), above(new, twins), above(worn, twins)
    way = (before - 0.5).clamp_min(0.02)  # a judge that cannot see has no way to go
    found = {"before": float(before[0]), "visible": float(visible[0])}
    for name, value in (("done", (before - visible) / way), ("added", (put - 0.5) / way)):
        low, high = value[1:].quantile(torch.tensor([0.025, 0.975], dtype=value.dtype))
        found |= {name: float(value[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


# ----------------------------------------------------------------------------------------------------------- edits


@torch.no_grad()
def code_maps(model: WAE, data: AttributeData, attribute: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """The two older edits, of codes: subtract the attribute vector d, or as much of it as a face shows (chapter 12)."""
    device = next(model.parameters()).device
    z = torch.cat([model.encode(x.to(device)) for x, _ in data.batches()]).double()
    has = data.has(attribute).to(device)
    without = z[~has].mean(0)
    d = z[has].mean(0) - without
    centred = z - z.mean(0)
    w = torch.linalg.solve(centred.T @ centred / len(z), d)
    w = w / (w @ d)
    return {
        "attribute vector": lambda c: c - d,
        "code eraser": lambda c: c - ((c - without) @ w)[:, None] * d,
        "vector added": lambda c: c + d,
    }


def pick(rows: Sequence[Row], limit: float) -> tuple[str, float, float]:
    """(layers, λ, α): the most done over the attributes, ways added up, for a mean damage of at most `limit`.

    An attribute that is more than gone counts as gone. The gentlest setting where none keeps to the limit.
    """
    capped = [{**row, "done": min(row["done"], 1.0)} for row in rows]
    done, damage = pooled(capped, "done", KNOBS), means(rows, "damage", KNOBS)
    allowed = [key for key in done if damage[key] <= limit] or [min(damage, key=damage.__getitem__)]
    return max(allowed, key=done.__getitem__)


KNOBS = ("layers", "lam", "alpha")


def means(rows: Iterable[Row], value: str, by: Sequence[str]) -> dict[tuple, float]:
    """Mean of `value` for each combination of `by`."""
    return {tuple(s[b] for b in by): s["mean"] for s in runs.mean_sd(list(rows), value, by=by)}


def pooled(rows: Iterable[Row], value: str, by: Sequence[str] = ()) -> dict[tuple, float]:
    """`done` or `added` over several attributes: what was gone, added up, over the ways, before - .5, added up."""
    sums: dict[tuple, list[float]] = {}
    for row in rows:
        total, way = sums.setdefault(tuple(row[b] for b in by), [0.0, 0.0]), max(row["before"] - 0.5, 0.02)
        total[0] += row[value] * way
        total[1] += way
    return {key: went / way for key, (went, way) in sums.items()}


def counted(rows: Sequence[Row]) -> list[Row]:
    """Rows of attributes that the judge reads off unedited drawings: `before` is at least `READ`, over the seeds."""
    read = {name for (name,), before in means(rows, "before", ("attribute",)).items() if before >= READ}
    return [row for row in rows if row["attribute"] in read]


def each_seed(rows: Iterable[Row], value: str) -> list[float]:
    """One number a network, over the attributes: `pooled` for `done` and `added`, the mean of other values."""
    found = (pooled if value in ("done", "added") else means)(rows, value, ("seed",))
    return [found[key] for key in sorted(found)]


def run(data: AttributeData, settings: Settings, seed: int, *, device: str | torch.device = "cpu") -> list[Row]:
    """All parts of the study for one autoencoder and one judge."""
    shares, names = parts_of(data, mirrored=settings.mirrored), settings.attributes
    data = shares.data
    model = train(data, settings, seed, device=device)
    judge = train_judge(shares.judge, settings, 1000 + seed, model=model, device=device)
    moments = moments_of(model, data, names)
    val, test = (Bench(model, judge, data, split, names, most) for split, most in settings.most.items())

    engrams: dict[tuple[str, float], el.Engram] = {}

    def engram_of(name: str, lam: float, where: str) -> el.Engram:
        if (name, lam) not in engrams:
            engrams[name, lam] = el.extract(model, *moments[name], specificity=lam, rcond=settings.rcond)
        return part(model, engrams[name, lam], where)

    rows: list[Row] = [{"study": "network", "seed": seed, **_network(model, data, shares)}]
    rows += [{"study": "instrument", "seed": seed, **row} for row in test.instrument()]

    tried = [
        val.score(
            edit(model, engram_of(name, lam, where), alpha),
            name,
            **{"study": "frontier", "seed": seed, "layers": where, "lam": lam, "alpha": alpha},
        )
        for where in settings.layers
        for lam in settings.lams
        for alpha in settings.alphas
        for name in names
    ]
    settled = {"paper's": ("all", 1.0, 1.0)} | {label: pick(tried, limit) for label, limit in BUDGETS.items()}
    rows += tried

    facts: dict[str, Any] = {"study": "edits", "seed": seed}
    marks = attributes.marks([model], data, names, "test", most=100) if isinstance(data, FaceData) else None
    by_truth: list[Row] = []
    for i, name in enumerate(names):
        drawn: dict[str, Draw] = {"nothing": partial(reconstruct, model)}
        for label, (where, lam, alpha) in settled.items():
            e = engram_of(name, lam, where)
            drawn[f"engram, {label}"] = edit(model, e, alpha)
            if label != "gentle":
                drawn[f"added, {label}"] = edit(model, e, -alpha)
                dice = random_subspace(model, e, 10 * seed + i, moments=sum(moments[name]))
                drawn[f"random part, {label}"] = edit(model, dice, alpha)
                drawn[f"other attribute, {label}"] = edit(model, engram_of(names[i - 1], lam, where), alpha)
        drawn |= {method: through(model, move) for method, move in code_maps(model, data, name).items()}
        for method, draw in drawn.items():
            where, lam, alpha = settled.get(method.rpartition(", ")[2], ("", 0.0, 0.0))
            rows.append(test.score(draw, name, **facts, method=method, layers=where, lam=lam, alpha=alpha))
            if marks:
                by_truth += attributes.score(draw, marks[0][name], seed=0, attribute=name, method=method)
        for method in ("engram, paper's", "engram, chosen", "code eraser"):
            rows += test.shifts(drawn[method], name, study="shifts", seed=seed, method=method)
        known = {0.0: drawn["nothing"], 1.0: drawn["engram, paper's"]}
        for alpha in ALPHAS:
            draw = known.get(alpha) or edit(model, engram_of(name, 1.0, "all"), alpha)
            rows.append(test.score(draw, name, study="strengths", seed=seed, alpha=round(alpha, 4)))

    if marks:
        rows += [{**row, "study": "truth", "seed": seed} for row in attributes.relative(by_truth, *marks[1:])]

    where, lam, alpha = settled["chosen"]
    for a, b in settings.pairs:
        one, two = (engram_of(name, lam, where) for name in (a, b))
        for what, e in {"A": one, "B": two, "A + B": one + two, "A - B": one + -1.0 * two}.items():
            how = {"study": "two", "seed": seed, "pair": f"{a}, {b}", "subtracted": what}
            rows += [test.score(edit(model, e, alpha), name, **how) for name in (a, b)]
    return rows


def _network(model: WAE, data: AttributeData, shares: Parts) -> Row:
    still = data.train.x.mean(0)
    return {
        "train": len(data.train),
        "judge": len(shares.judge),
        "val": len(data.val),
        "test": len(data.test),
        "error_train": reconstruction_error(model, data.train.x[:1000]),
        "error": reconstruction_error(model, data.test.x),
        "error_mean_face": float((data.test.x - still).square().mean()),
    }


def summary(rows: list[Row]) -> dict[str, list[Row]]:
    """The edits of the test faces, over the attributes: mean over the seeds."""
    edits = runs.select(rows, {"study": "edits"})
    found = {value: pooled(edits, value, ("method",)) for value in ("done", "added")}
    known = ["damage", "recognised", "pixels"]
    known += ["kept"] * any(row["kept"] is not None and math.isfinite(row["kept"]) for row in edits)
    found |= {value: means(edits, value, ("method",)) for value in known}
    return {"edits": [{"method": k[0], **{v: round(found[v][k], 3) for v in found}} for k in found["done"]]}


def main(argv: Sequence[str] | None = None) -> int:
    choices = {"celeba": (celeba, CELEBA), "faces": (partial(faces, 8000, size=32), FACES)}
    return recording.by_seed("judged", __doc__, choices, run, summary, argv, seeds=3)


if __name__ == "__main__":
    raise SystemExit(main())
