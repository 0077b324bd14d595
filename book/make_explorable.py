"""Make what the explorables compute with: `python book/make_explorable.py` writes to book/_static/explorables.

digits-data.js    a network of 64-64-64-10, its ten engrams, 500 test images: what the landing page carries
more-data.js      the spectrum that its first layer sees, and what ten edits do at every cut; two clouds
facts.json        the numbers in the captions

and to book/stills what a page without JavaScript, and paper, show: digits.html, cut.html, clouds.html.

Training is fixed by a seed, but its last bits differ from one machine to the next. So the network is rounded to what
the file can hold first, and its engrams are those of the rounded network: tests/book/test_explorables.py takes the
network out of the file and finds the same engrams again, on any machine.
"""

from __future__ import annotations

import gzip
import json
import math
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from drawn_digits import draw
from torch import Tensor, nn
from torch.nn import functional as F

import engramlib as el
from engramlib.lab import data as datasets
from engramlib.lab import models, plots, training

OUT = Path(__file__).parent / "_static" / "explorables"
STILLS = Path(__file__).parent / "stills"
SIZES = [64, 64, 64, 10]
SEED, EPOCHS, LR, BATCH = 0, 20, 5e-3, 128
SHIFTED, DRAWN = 3, 300  # moved copies of every training image; drawings of each digit
RCOND = 1e-3  # chapter 00's cut
CUTS = [round(-7 + 0.25 * i, 2) for i in range(27)]  # log10 of rcond: 1e-7 to 10^-0.5
SHOWN = 7  # the digit whose image the second explorable follows


# --- the network -------------------------------------------------------------------------------------------------


def moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """The images a little shifted (up to half a pixel), wider or narrower, and with a thicker or thinner pen."""
    n = len(x)
    shift = 2 * torch.rand(n, 2, generator=generator) - 1
    width = 0.85 + 0.3 * torch.rand(n, generator=generator)
    ink = 0.7 + 0.7 * torch.rand(n, 1, generator=generator)
    turn = torch.zeros(n, 2, 3)
    turn[:, 0, 0], turn[:, 1, 1] = width, 1
    turn[:, 0, 2], turn[:, 1, 2] = 0.15 * shift[:, 0], 0.075 * shift[:, 1]
    grid = F.affine_grid(turn, [n, 1, 8, 8], align_corners=False)
    return (F.grid_sample(x.view(n, 1, 8, 8), grid, align_corners=False).view(n, 64) * ink).clamp(0, 1)


@cache
def training_images() -> tuple[Tensor, Tensor]:
    """The book's 1,000 training images, moved copies of them, and drawings made by a program."""
    train, generator = datasets.digits().flat().train, torch.Generator().manual_seed(SEED)
    drawn, names = draw(DRAWN, SEED + 1)
    x = [train.x, *(moved(train.x, generator) for _ in range(SHIFTED)), torch.tensor(drawn, dtype=torch.float32)]
    return torch.cat(x), torch.cat([*([train.y] * (SHIFTED + 1)), torch.tensor(names)])


def trained() -> nn.Sequential:
    """The network, in float32, before it is rounded."""
    x, y = training_images()
    model, order = models.mlp(SIZES, seed=SEED), torch.Generator().manual_seed(SEED)
    optimiser = torch.optim.Adam(model.parameters(), lr=LR)
    steps = EPOCHS * math.ceil(len(x) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=order).split(BATCH):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def engrams_of(model: nn.Module, rcond: float = RCOND) -> dict[int, el.Engram]:
    """The ten engrams, each digit against the other nine."""
    return el.extract_all(model, moments_of(model), rcond=rcond)


def moments_of(model: nn.Module, real: bool = False) -> dict[int, el.Moments]:
    """Of all images that it was trained on, or of the 1,000 real ones."""
    x, y = training_images()
    if real:
        x, y = x[:1000], y[:1000]
    return el.collect_by_concept(model, zip(x.split(512), y.split(512), strict=True), lambda batch: batch[1])


# --- one character a number --------------------------------------------------------------------------------------

# A weight is one of 93 steps and stands in the file as one printable character: gzip then stores it in six bits. In
# memory it is an int8. Base64 of all 255 steps would be 26 kB more, for answers that differ on one image in 200.
LEVELS = 46
ALPHABET = "".join(chr(c) for c in range(32, 127) if c not in (34, 92))  # all printable but the quote and the backslash
NUMBER = {c: i for i, c in enumerate(ALPHABET)}


@dataclass
class Rounded:
    """Matrices in few bits: row r of matrix m is `codes[m][r] * 2 ** (-exponents[m][r] / 8)`, codes from -46 to 46."""

    codes: list[np.ndarray]
    exponents: list[np.ndarray]

    def __add__(self, other: Rounded) -> Rounded:
        return Rounded(self.codes + other.codes, self.exponents + other.exponents)

    def matrices(self) -> list[np.ndarray]:
        pairs = zip(self.codes, self.exponents, strict=True)
        return [codes * 2.0 ** (-k.astype(float)[:, None] / 8) for codes, k in pairs]


def rounded(matrices: list[np.ndarray]) -> Rounded:
    """Each row gets the smallest scale among 2^(-k/8), k = 0 ... 92, at which its largest entry fits."""
    codes, exponents = [], []
    for m in matrices:
        top = np.maximum(np.abs(m).max(1), 2.0**-24)
        k = np.clip(np.floor(8 * np.log2(LEVELS / top)), 0, 2 * LEVELS)
        codes.append(np.clip(np.rint(m / 2.0 ** (-k[:, None] / 8)), -LEVELS, LEVELS).astype(np.int8))
        exponents.append(k.astype(np.int8))
    return Rounded(codes, exponents)


def of_network(model: nn.Sequential) -> list[np.ndarray]:
    """[W b] of each layer."""
    layers = [m for m in model if isinstance(m, nn.Linear)]
    return [torch.cat([m.weight, m.bias[:, None]], 1).detach().double().numpy() for m in layers]


def of_engram(engram: el.Engram) -> list[np.ndarray]:
    return [torch.cat([part.weight, part.bias[:, None]], 1).double().numpy() for part in engram.values()]


def network(matrices: list[np.ndarray], dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """The network with these [W b]."""
    model = models.mlp(SIZES).to(dtype)
    for layer, m in zip([m for m in model if isinstance(m, nn.Linear)], matrices, strict=True):
        layer.weight.data, layer.bias.data = torch.tensor(m[:, :-1], dtype=dtype), torch.tensor(m[:, -1], dtype=dtype)
    return model.eval()


def engram(matrices: list[np.ndarray]) -> el.Engram:
    names = [name for name, part in models.mlp(SIZES).named_children() if isinstance(part, nn.Linear)]
    pairs = zip(names, matrices, strict=True)
    return el.Engram({name: (torch.tensor(m[:, :-1]), torch.tensor(m[:, -1])) for name, m in pairs})


def written(name: str, value: dict) -> str:
    """A script that leaves `value` where the others find it: it also loads from file://, where fetch may not."""
    return f"/* Made by book/make_explorable.py. */\nglobalThis.{name} = {json.dumps(value, separators=(',', ':'))};\n"


def read(path: Path) -> dict:
    """What `written` wrote."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text[text.index("{") : text.rindex(";")])


def packed(these: Rounded, x: Tensor, y: Tensor) -> dict:
    """What digits-data.js holds: the network and ten engrams, three matrices each, row by row; images; labels."""
    codes = np.concatenate([c.reshape(-1) for c in these.codes]).astype(int) + LEVELS
    return {
        "sizes": SIZES,
        "codes": "".join(ALPHABET[i] for i in codes),
        "exponents": "".join(ALPHABET[i] for i in np.concatenate(these.exponents)),
        "images": "".join("abcdefghijklmnopq"[round(16 * v)] for v in x.reshape(-1).tolist()),  # a letter a pixel
        "labels": "".join(map(str, y.tolist())),
    }


def unpacked(data: dict) -> tuple[Rounded, Tensor, Tensor]:
    """What `packed` was given; images in float64."""
    shapes = [(out, d + 1) for d, out in zip(SIZES[:-1], SIZES[1:], strict=True)] * 11
    codes = np.array([NUMBER[c] - LEVELS for c in data["codes"]], np.int8)
    exponents = np.array([NUMBER[c] for c in data["exponents"]], np.int8)
    ends, rows = np.cumsum([a * b for a, b in shapes])[:-1], np.cumsum([a for a, _ in shapes])[:-1]
    parts = [part.reshape(shape) for part, shape in zip(np.split(codes, ends), shapes, strict=True)]
    x = torch.tensor([ord(c) - 97 for c in data["images"]], dtype=torch.float64).view(-1, 64) / 16
    return Rounded(parts, np.split(exponents, rows)), x, torch.tensor([int(c) for c in data["labels"]])


def networks(these: Rounded) -> tuple[nn.Sequential, list[el.Engram]]:
    """The network and its ten engrams, in float64."""
    m = these.matrices()
    return network(m[:3]), [engram(m[3 + 3 * c : 6 + 3 * c]) for c in range(10)]


# --- what the edits do ------------------------------------------------------------------------------------------


def hidden(model: nn.Module, x: Tensor) -> np.ndarray:
    """What the last layer sees."""
    with torch.no_grad():
        return getattr(model, "model", model)[:-1](x).numpy()


def readouts(features: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Two linear readouts of features, (d + 1, 10) each: ridge regression on the digits as 0 and 1.

    The first is fitted to the images with odd numbers, to be judged on the even ones; the second the other way round.
    """
    h = np.concatenate([features, np.ones((len(features), 1))], 1)
    ridge = 1e-3 * (h**2).sum() / 2 / h.shape[1]
    found = []
    for fold in (0, 1):
        a, target = h[1 - fold :: 2], np.eye(10)[y[1 - fold :: 2]]
        found.append(np.linalg.solve(a.T @ a + ridge * np.eye(a.shape[1]), a.T @ target))
    return found


def found_by(readouts: list[np.ndarray], features: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of each digit's images that the readouts find, each on the images that it was not fitted to."""
    h = np.concatenate([features, np.ones((len(features), 1))], 1)
    answers = np.zeros(len(y), int)
    for fold in (0, 1):
        answers[fold::2] = (h[fold::2] @ readouts[fold]).argmax(1)
    return np.array([(answers[y == c] == c).mean() for c in range(10)])


def measured(these: Rounded, x: Tensor, y: Tensor) -> dict:
    """Accuracy of every digit for the network and the ten edits, by its answers and by the two readouts."""
    model, engrams = networks(these)
    names = y.numpy()
    before = readouts(hidden(model, x), names)
    rows = []
    for net in (model, *(el.ablate(model, e) for e in engrams)):
        h = hidden(net, x)
        own = training.class_accuracy(net, x, y, 10).tolist()
        rows.append((own, found_by(before, h, names).tolist(), found_by(readouts(h, names), h, names).tolist()))
    answers, old, new = (np.array([row[i] for row in rows]) for i in range(3))
    erased = np.eye(10, dtype=bool)
    pixels = found_by(readouts(x.numpy(), names), x.numpy(), names)
    luck = hidden(models.mlp(SIZES, seed=SEED + 100).double(), x)  # a network that never learned
    drawn, drawn_y = (torch.tensor(a) for a in draw(50, SEED + 2))
    nets = (model, *(el.ablate(model, e) for e in engrams))
    drawings = np.array([training.class_accuracy(net, drawn, drawn_y, 10).tolist() for net in nets])
    return {
        "base": float(answers[0].mean()),
        "erased": float(answers[1:][erased].mean()),
        "others": float(answers[1:][~erased].mean()),
        "old": float(old[1:][erased].mean()),
        "new": float(new[1:][erased].mean()),
        "new_base": float(new[0].mean()),
        "pixels": float(pixels.mean()),
        "untrained": float(found_by(readouts(luck, names), luck, names).mean()),
        "drawn": float(drawings[0].mean()),
        "drawn_erased": float(drawings[1:][erased].mean()),
        "drawn_others": float(drawings[1:][~erased].mean()),
        "accuracy": answers.round(3).tolist(),
        "accuracy_old": old.round(3).tolist(),
        "accuracy_new": new.round(3).tolist(),
    }


PAIR = (4, 9)  # the two digits of chapter 04's plane
STEPS = [-1 + 0.5 * k for k in range(9)]


def on_the_plane(these: Rounded, x: Tensor, y: Tensor) -> dict:
    """Accuracy on the 4, on the 9 and on the other eight, for every pair of strengths in STEPS; rows: of the 9."""
    model, engrams = networks(these)
    first, second = PAIR
    found: dict[str, list[list[float]]] = {"first": [], "second": [], "others": []}
    for b in STEPS:
        rows: dict[str, list[float]] = {name: [] for name in found}
        for a in STEPS:
            own = training.class_accuracy(el.ablate(model, a * engrams[first] + b * engrams[second]), x, y, 10)
            rows["first"].append(float(own[first]))
            rows["second"].append(float(own[second]))
            rows["others"].append(float((own.sum() - own[first] - own[second]) / 8))
        for name, row in rows.items():
            found[name].append([round(v, 3) for v in row])
    return found


def corners(plane: dict) -> dict:
    """What the caption says of the plane: the other eight with both erased and with both at 3, and what is left."""
    one, far = STEPS.index(1.0), STEPS.index(3.0)
    return {
        "pair_left": (plane["first"][one][one] + plane["second"][one][one]) / 2,
        "pair_others": plane["others"][one][one],
        "pair_far": plane["others"][far][far],
    }


def at_every_cut(model: nn.Sequential, x: Tensor, y: Tensor) -> dict:
    """The spectrum of what the first layer sees of the real training images, and what erasing does, for every cut.

    `model` in float32. `left`, `kept`: (cuts, 10), accuracy on the erased digit and mean accuracy on the other nine.
    `parts`: what P+ keeps of one image at each cut, 64 numbers.
    """
    moments = moments_of(model, real=True)
    sigma = {c: m["fc1"].double() for c, m in moments.items()}
    total = sum(sigma.values())
    values = torch.linalg.eigvalsh(total).flip(0)
    values = (values / values[0]).clamp_min(1e-12)
    image = x[y == SHOWN][0].float()
    seen = torch.cat([image, torch.ones(1)]).double()
    left, kept, parts = [], [], []
    for cut in CUTS:
        engrams = el.extract_all(model, moments, rcond=10**cut)
        edits = [el.ablate(model, engrams[c]) for c in range(10)]
        a = np.array([training.class_accuracy(edit, x.float(), y, 10).tolist() for edit in edits])
        own = a.diagonal()
        left.append(own.round(3).tolist())
        kept.append(((a.sum(1) - own) / 9).round(3).tolist())
        inverse = torch.linalg.pinv(total, rtol=10**cut, hermitian=True)
        parts.append((sigma[SHOWN] @ inverse @ seen)[:64].numpy().round(2).tolist())
    return {
        "cuts": CUTS,
        "spectrum": values.log10().numpy().round(3).tolist(),
        "directions": [int((values > 10**cut).sum()) for cut in CUTS],
        "left": left,
        "kept": kept,
        "image": image.numpy().round(4).tolist(),
        "parts": parts,
    }


def two_clouds(n: int = 40) -> list[list[list[float]]]:
    """Two sets of points around zero, each with second moment I: the page turns, stretches and moves them."""
    rng = np.random.default_rng(SEED)
    clouds = []
    for _ in range(2):
        z = rng.normal(size=(n, 2))
        z = z - z.mean(0)
        z = z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / n)).T
        clouds.append(z.round(3).tolist())
    return clouds


# --- small multiples, for pages without JavaScript ---------------------------------------------------------------

BLUE, ORANGE = plots.COLOURS[0], plots.COLOURS[1]


def svg(width: int, height: int, alt: str, body: str, kind: str = "") -> str:
    """A drawing that takes the page's ink. `kind` = its class, by which touch-cut.js finds it."""
    name = f' class="{kind}"' if kind else ""
    return (
        f'<svg{name} xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{alt}" font-family="sans-serif" font-size="12">{body}</svg>'
    )


def panels(svgs: list[str]) -> str:
    return (
        '<div class="engram-panels">\n' + "\n".join(f'<div class="engram-panel">{s}</div>' for s in svgs) + "\n</div>\n"
    )


def still_of_digits(facts: dict) -> str:
    """Eleven networks, ten bars each; a line where a new readout of the last hidden layer stands."""
    drawn = []
    for row in range(11):
        title = f"without {row - 1}" if row else "as trained"
        parts = [f'<text x="0" y="12" fill="currentColor">{title}</text>']
        for c in range(10):
            value, new = facts["accuracy"][row][c], facts["accuracy_new"][row][c]
            colour, x = (ORANGE if c == row - 1 else BLUE), 13 * c
            parts.append(
                f'<rect x="{x}" y="{80 - 60 * value:.1f}" width="10" height="{60 * value:.1f}" fill="{colour}"/>'
            )
            parts.append(
                f'<path d="M{x - 1} {80 - 60 * new:.1f}h12" stroke="currentColor" stroke-width="1.5"/>'
                f'<text x="{x + 5}" y="93" text-anchor="middle" fill="currentColor">{c}</text>'
            )
        own = "" if not row else f": {facts['accuracy'][row][row - 1]:.0%} of the {row - 1}s read"
        drawn.append(svg(130, 96, f"Accuracy of ten digits, {title}{own}.", "".join(parts)))
    return panels(drawn)


AXIS = (22, 30)  # of the two panels of the spectrum: where 10^0 stands, and how far a power of ten is


def height(log: float) -> float:
    """Where a cut stands in the two panels of the spectrum."""
    return AXIS[0] - log * AXIS[1]


def still_of_cut(more: dict) -> str:
    """The spectrum, and beside it what is left of the erased and of the other digits, on one vertical axis."""
    powers = ["1", *(f"10<tspan dy='-5' font-size='9'>−{k}</tspan>" for k in range(1, 8))]
    axis = "".join(
        f'<path d="M40 {height(-k):.0f}h280" stroke="currentColor" stroke-opacity=".18"/>'
        f'<text x="34" y="{height(-k) + 4:.0f}" text-anchor="end" fill="currentColor">{power}</text>'
        for k, power in enumerate(powers)
    )
    dots = "".join(
        f'<circle cx="{44 + 4.2 * i:.1f}" cy="{height(max(v, -7.4)):.1f}" r="2.6" fill="{BLUE}"/>'
        for i, v in enumerate(more["spectrum"])
    )
    foot = '<text x="180" y="262" text-anchor="middle" fill="currentColor">{}</text>'
    left = svg(
        324, 270, "Eigenvalues of the second moment of the digits, from the largest down over seven powers of ten.",
        axis + dots + foot.format("the 65 directions, by eigenvalue"), "touch-spectrum",
    )  # fmt: skip
    marks = []
    for name, colour in (("kept", BLUE), ("left", ORANGE)):
        for cut, values in zip(more["cuts"], more[name], strict=True):
            marks += [
                f'<circle cx="{40 + 280 * v:.1f}" cy="{height(cut):.1f}" r="1.6" fill="{colour}" fill-opacity=".45"/>'
                for v in values
            ]
        path = "L".join(
            f"{40 + 280 * float(np.mean(values)):.1f} {height(cut):.1f}"
            for cut, values in zip(more["cuts"], more[name], strict=True)
        )
        marks.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
    ticks = "".join(
        f'<text x="{40 + 280 * v:.0f}" y="246" text-anchor="middle" fill="currentColor">{v:g}</text>'
        for v in (0, 0.5, 1)
    )
    right = svg(
        324, 270, "Accuracy on the erased digit and on the other nine, for every cut.",
        axis + "".join(marks) + ticks + foot.format("accuracy: erased digit (orange), the others (blue)"), "touch-left",
    )  # fmt: skip
    return panels([left, right])


# Where the page starts: angle in degrees, length and width of each cloud, its middle.
CLOUDS = (
    {"angle": 60, "size": [1.0, 0.22], "middle": [0.5, 0.9]},
    {"angle": 10, "size": [1.0, 0.22], "middle": [1.2, 0.2]},
)


def placed(points: list[list[float]], angle: float, size: list[float], middle: list[float]) -> np.ndarray:
    turn = math.radians(angle)
    c, s = math.cos(turn), math.sin(turn)
    return np.array(points) * size @ np.array([[c, s], [-s, c]]) + middle


def still_of_clouds(more: dict) -> str:
    """The two clouds as they are, and the answers of a layer W = I after the edit, for three λ."""
    target, other = (torch.tensor(placed(p, **how)) for p, how in zip(more["clouds"], CLOUDS, strict=True))
    layer = nn.Sequential(nn.Linear(2, 2, bias=False)).double()
    layer[0].weight.data = torch.eye(2, dtype=torch.float64)

    def panel(title: str, a: np.ndarray, b: np.ndarray) -> str:
        x, y = (lambda v: 80 + 34 * v), (lambda v: 92 - 34 * v)
        axes = '<path d="M4 92H156M80 20V164" stroke="currentColor" stroke-opacity=".3"/>'
        dots = "".join(
            f'<circle cx="{x(p):.1f}" cy="{y(q):.1f}" r="2.2" fill="{colour}"/>'
            for cloud, colour in ((b, BLUE), (a, ORANGE))
            for p, q in cloud.tolist()
        )
        name = f'<text x="80" y="13" text-anchor="middle" fill="currentColor">{title}</text>'
        return svg(160, 168, f"Two clouds of points, {title}.", axes + dots + name)

    drawn = [panel("as they are", target, other)]
    for lam in (0.1, 1.0, 10.0):
        moments = [el.collect(layer, [cloud], bias="keep") for cloud in (target, other)]
        edited = el.ablate(layer, el.extract(layer, *moments, specificity=lam))
        with torch.no_grad():
            drawn.append(panel(f"answers, λ = {lam:g}", edited(target), edited(other)))
    return panels(drawn)


def still_of_plane(plane: dict) -> str:
    """Three heatmaps of the plane: a cell is as blue as its digits are read; the square has the four of chapter 04."""
    side, left, top = 15, 26, 20
    drawn = []
    for name, title in (("first", "the 4"), ("second", "the 9"), ("others", "the other eight")):
        cells = "".join(
            f'<rect x="{left + side * i}" y="{top + side * (len(STEPS) - 1 - j)}" width="{side - 1}" '
            f'height="{side - 1}" fill="{BLUE}" fill-opacity="{value:.2f}"/>'
            for j, row in enumerate(plane[name])
            for i, value in enumerate(row)
        )
        marks = "".join(
            f'<text x="{left + side * (i + 0.5):g}" y="{top + side * len(STEPS) + 12}" text-anchor="middle" '
            f'fill="currentColor">{label}</text>'
            f'<text x="{left - 5}" y="{top + side * (len(STEPS) - i - 0.5) + 4:g}" text-anchor="end" '
            f'fill="currentColor">{label}</text>'
            for i, label in ((0, "−1"), (2, "0"), (4, "1"), (8, "3"))
        )
        x0, y0 = left + side * 2, top + side * (len(STEPS) - 1 - 4)
        square = (
            f'<path d="M{x0} {y0}h{3 * side - 1}v{3 * side - 1}h-{3 * side - 1}z" fill="none" stroke="{ORANGE}" '
            'stroke-width="2"/>'
        )
        names = (
            f'<text x="{left}" y="12" fill="currentColor">{title}</text>'
            f'<text x="{left + side * 4.5:g}" y="{top + side * len(STEPS) + 26}" text-anchor="middle" '
            'fill="currentColor">α of the 4 (up: α of the 9)</text>'
        )
        alt = f"Accuracy on {title} for nine by nine strengths of the two engrams, from -1 to 3."
        drawn.append(
            svg(left + side * len(STEPS) + 34, top + side * len(STEPS) + 32, alt, cells + square + marks + names)
        )
    return panels(drawn)


# --- the command --------------------------------------------------------------------------------------------------


def main() -> int:
    torch.set_num_threads(1)
    test = datasets.digits().flat().test
    whole = rounded(of_network(trained()))
    model = network(whole.matrices(), torch.float32)
    engrams = engrams_of(model)
    whole = whole + rounded([m for c in range(10) for m in of_engram(engrams[c])])
    x, y = test.x.double(), test.y
    facts = measured(whole, x, y)
    more = at_every_cut(model, x, y) | {"axis": AXIS, "clouds": two_clouds(), "places": CLOUDS}
    facts["cut"] = {
        str(cut): [float(np.mean(more["left"][i])), float(np.mean(more["kept"][i])), more["directions"][i]]
        for i, cut in enumerate(CUTS)
    }
    facts["plane"] = on_the_plane(whole, x, y)
    facts |= corners(facts["plane"])
    OUT.mkdir(exist_ok=True)
    STILLS.mkdir(exist_ok=True)
    files = {
        OUT / "digits-data.js": written("ENGRAM_DIGITS", packed(whole, x, y)),
        OUT / "more-data.js": written("ENGRAM_MORE", more),
        OUT / "facts.json": json.dumps(facts, indent=1) + "\n",
        STILLS / "digits.html": still_of_digits(facts),
        STILLS / "cut.html": still_of_cut(more),
        STILLS / "clouds.html": still_of_clouds(more),
        STILLS / "plane.html": still_of_plane(facts["plane"]),
    }
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
        size = len(gzip.compress(text.encode(), 9)) / 1e3
        print(f"wrote {path.relative_to(Path(__file__).parent)}: {size:.1f} kB gzipped")
    print({key: value for key, value in facts.items() if isinstance(value, float)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
