"""What an attacker brings back from an edited network, and the rule that judges it: chapter 17, on digits.

Every attack is done to the edited network, to one that was retrained without the memory, and to one on which it must
work. `judge` then says "protected", "not" or "not resolved". One number a unit: a `Case` is a network on its own split
and the digit that it forgets, so that networks, images and digits vary together. Attacks:

    relearned   a few images, the answer's row begun anew, everything trained; recall on images that nobody showed
    reads       a new classifier on what a layer says, linear or not, from a few labelled images
    quantised   weights rounded to 8 or 4 bits
    guessed     an engram added back, with random strengths for each layer: the best of so many on the images shown
    undone      the edit's own formula inverted, layer by layer, for somebody who has images like those that were used

`studies.erasure` does the same to language models.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import engramlib as el
from engramlib.lab import metrics, models
from engramlib.lab.data import ImageData, Split, digits
from engramlib.lab.metrics import resolution
from engramlib.lab.metrics.representation import logistic, standardised
from engramlib.lab.metrics.resolution import Interval
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import compensated, mlp, recording
from engramlib.lab.training import train_classifier
from engramlib.lab.unlearning import vision
from engramlib.layers import find_layers
from engramlib.running import evaluating

# ------------------------------------------------------------------------------------------------------- the rule

SHARE = 0.2  # of what an attack gets where the memory is, an edit that protects lets it get at most a fifth
OUTCOMES = ("protected", "not", "not resolved")


@dataclass(frozen=True)
class Verdict:
    """`leak`: what the attack gets from the edited model more than from the retrained one. `power`: what it gets more
    from a model on which it must work. `outcome`: one of `OUTCOMES`; `blunt`: the attack itself shows nothing.
    """

    outcome: str
    leak: Interval
    power: Interval
    blunt: bool = False

    @property
    def share(self) -> float:
        """Of what the attack gets where the memory is, how much it gets here: 0 as in the retrained model, 1 all."""
        return self.leak.mean / self.power.mean

    def __str__(self) -> str:
        if self.blunt:
            return "not resolved: blunt"
        low, high = (edge / self.power.mean for edge in (self.leak.low, self.leak.high))
        return f"{self.outcome}: {self.share:.2f} ({low:.2f} to {high:.2f})".replace("-", "−")


def judge(leak: Interval, power: Interval, *, share: float = SHARE) -> Verdict:
    """What follows from two intervals, and nothing else.

    "protected": even the upper end of `leak` is at most `share` of the lower end of `power`. "not": even the lower end
    of `leak` is at least `share` of the upper end of `power`. Everything else is "not resolved", and so is an attack
    whose `power` may be nothing: it is blunt.

    >>> from engramlib.lab.metrics.resolution import Interval as I
    >>> power = I(0.9, 0.8, 1.0)
    >>> [judge(leak, power).outcome for leak in (I(0.05, -0.1, 0.15), I(0.5, 0.3, 0.7), I(0.2, 0.1, 0.3))]
    ['protected', 'not', 'not resolved']
    >>> print(judge(I(0.0, -0.1, 0.1), I(0.1, -0.1, 0.3)))
    not resolved: blunt
    """
    if not 0 < share < 1:
        raise ValueError(f"judge: share must be between 0 and 1, got {share}.")
    if not power.low > 0:
        return Verdict("not resolved", leak, power, blunt=True)
    if leak.high <= share * power.low:
        return Verdict("protected", leak, power)
    return Verdict("not" if leak.low >= share * power.high else "not resolved", leak, power)


def over_units(edited: Sequence[float], control: Sequence[float], works: Sequence[float]) -> Verdict:
    """`judge` where each unit (network, images, digit) varies in everything: Student's interval of the differences."""
    leak, power = (
        resolution.of_mean([a - b for a, b in zip(found, control, strict=True)]) for found in (edited, works)
    )
    return judge(leak, power)


# --------------------------------------------------------------------------------------------- attacks on weights


def quantised(model: nn.Module, bits: int) -> nn.Module:
    """A copy with the weights of each linear layer rounded to the nearest of 2^bits − 1 steps, one scale a row.

    w → s · round(w / s) with s = max|row| / (2^(bits−1) − 1), the plainest way there is ("absmax"); biases,
    embeddings and a tied output layer stay. Raises `ValueError` for fewer than 2 bits.
    """
    if bits < 2:
        raise ValueError(f"quantised: at least 2 bits, got {bits}.")
    model = copy.deepcopy(model)
    with torch.no_grad():
        for layer in _linear(model):
            step = _step(layer.weight, bits)
            layer.weight.copy_(step * (layer.weight / step).round())
    return model


def hidden_in_the_grid(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], *, bits: int, steps: int = 20, reach: float = 0.4
) -> nn.Module:
    """An edit that rounding must undo: a model that was rounded before, moved by less than half a step.

    Sign descent on `loss` from `quantised(model, bits)`; no weight leaves its step by more than `reach` < 1/2, and the
    largest of each row, which sets the scale, stays. So `quantised(..., bits)` of the result is where it began.
    """
    if not 0 < reach < 0.5:
        raise ValueError(f"hidden_in_the_grid: reach must lie between 0 and half a step, got {reach}.")
    model = quantised(model, bits).eval()
    layers = _linear(model)
    start = [layer.weight.detach().clone() for layer in layers]
    rooms = [reach * _step(w, bits) * (w.abs() < w.abs().amax(1, keepdim=True)) for w in start]
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(model), [layer.weight.requires_grad_() for layer in layers])
        with torch.no_grad():
            for layer, w, room, gradient in zip(layers, start, rooms, gradients, strict=True):
                moved = layer.weight - 0.2 * room * gradient.sign()
                layer.weight.copy_(moved.clamp(w - room, w + room))
    return model


def _linear(model: nn.Module) -> list[nn.Linear]:
    tied = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return [m for m in model.modules() if isinstance(m, nn.Linear) and id(m.weight) not in tied]


def _step(weight: Tensor, bits: int) -> Tensor:
    return weight.detach().abs().amax(1, keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)


def guessed(
    model: nn.Module,
    engram: el.Engram,
    loss: Callable[[nn.Module], float],
    *,
    draws: int = 100,
    reach: float = 4.0,
    seed: int = 0,
) -> nn.Module:
    """A copy with `engram` added back, each layer with a strength drawn from [−reach, reach]: of `draws` guesses, and
    of none at all, the one with the smallest `loss`, which is of what the attacker has. The audit drew a hundred.
    """
    random, names = torch.Generator().manual_seed(seed), list(engram)
    best = loss(model), dict.fromkeys(names, 0.0)
    for _ in range(draws):
        scales = reach * (2 * torch.rand(len(names), generator=random, dtype=torch.float64) - 1)
        strengths = dict(zip(names, scales.tolist(), strict=True))
        with el.edited(model, engram.scaled(strengths)) as tried:
            best = min(best, (loss(tried), strengths), key=lambda found: found[0])
    return el.inject(model, engram.scaled(best[1]))


def undone(
    model: nn.Sequential,
    gone: Tensor,
    stay: Tensor,
    *,
    alpha: float,
    lam: float = 1.0,
    rcond: float = 1e-6,
    compensated: bool = False,
    many: int = 0,
) -> nn.Sequential:
    """A copy with the edit taken back by its own formula, W = W' M⁻¹ in one layer after the other.

    The plain edit has M = I − αP with P = Σ⁺(Σ⁺ + λΣ⁻)†, the compensated one M = I + [(1−α)A⁺ + λA⁻ − B]B† (chapter
    18). Each layer is given what the layers below say once *they* are restored, and,
    for the compensated edit, what they say as they are: so with the images that were used every layer is exact, unless
    M has no inverse (then least squares). `gone`, `stay`: what the attacker has for X⁺ and X⁻; `many`: for how many
    images the former stand (0: for themselves). For networks whose layers run one after the other.
    """
    whole, model = model, copy.deepcopy(model)
    weights = {"+": (many or len(gone)) / len(gone), "-": lam}
    for name, layer in find_layers(model).items():
        now, before = ({s: _reads(net, name, x) for s, x in (("+", gone), ("-", stay))} for net in (whole, model))
        now = now if compensated else before
        cross = {s: w * before[s].mT @ now[s] for s, w in weights.items()}
        total = sum(w * now[s].mT @ now[s] for s, w in weights.items())
        bracket = (1 - alpha) * cross["+"] + cross["-"] - total
        change = torch.eye(len(total), dtype=total.dtype) + bracket @ el.spectral.Spectrum(total, rcond).pinv()
        own = layer.matrix(layer.module.weight.detach(), layer.module.bias.detach()).double()
        restored = torch.linalg.lstsq(change.mT, own.mT, driver="gelsd").solution.mT
        weight, bias = layer.parameters(restored, True)
        with torch.no_grad():
            layer.module.weight.copy_(weight)
            layer.module.bias.copy_(bias)
    return model


@torch.no_grad()
def _reads(model: nn.Sequential, name: str, x: Tensor) -> Tensor:
    """What a layer reads, and a one for its bias: images × (d + 1)."""
    for child, layer in model.named_children():
        if child == name:
            return torch.cat([x, torch.ones(len(x), 1)], 1).double()
        x = layer(x)
    raise ValueError(f"undone: {name!r} is not a layer of a plain sequence.")


# --------------------------------------------------------------------------------------------------------- digits

UNITS = tuple(enumerate((7, 4, 1, 9, 2, 3, 0, 5, 6, 8)))  # (network and split, the digit that it forgets)
FEW = 2  # images of each digit that an attacker has
STEPS = 10  # of relearning


@dataclass(frozen=True, eq=False)
class Case:
    """A network, the digit that it is to forget, and the same network trained without it.

    `strange`: images of a digit that neither has seen, where there is one; see `stranger` and `newcomer`.
    """

    subject: compensated.Subject
    digit: int
    retrained: nn.Sequential
    strange: ImageData | None = None
    _kept: dict = field(default_factory=dict, init=False, repr=False)

    @property
    def model(self) -> Any:
        return self.subject.model

    @property
    def group(self) -> int:
        """The digit's place among the subject's groups."""
        return self.subject.groups.index((self.digit,))

    def split(self, name: str, *, gone: bool | None = None) -> Split:
        """Flat images of a split; of the digit, or of the others."""
        part = self.subject.data.split(name)
        part = Split(part.x.flatten(1), part.y)
        return part if gone is None else part.where((part.y == self.digit) == gone)

    def few(self, k: int = FEW, *, draw: int = 0, stranger: bool = False) -> Split:
        """`k` training images of every digit. `stranger`: in place of the digit that went, what nobody has seen."""
        found = self.split("train").sample(k, seed=1000 * self.subject.seed + draw)
        if not stranger:
            return found
        new = self.stranger("train").sample(k, seed=1000 * self.subject.seed + draw)
        rest = found.where(found.y != self.digit)
        return Split(torch.cat([rest.x, new.x]), torch.cat([rest.y, new.y]))

    def stranger(self, name: str) -> Split:
        """What no network has seen, under the label of the digit: `strange`, or a 4 on its side (a 7, if 4 went)."""
        if self.strange is None:
            part = self.subject.data.split(name)
            x = part.x[part.y == (7 if self.digit == 4 else 4)].rot90(1, (2, 3))
        else:
            x = self.strange.split(name).x
        return Split(x.flatten(1), torch.full((len(x),), self.digit))

    def engram(self, lam: float, rcond: float) -> el.Engram:
        return self.subject.engrams(lam, rcond)[self.group]

    def answered(self, model: nn.Module, split: str = "test") -> float:
        """`back` of the network's own answers."""
        part = self.split(split)
        return back(_answers(model, part.x), part, self.digit)

    def asked(self, model: nn.Module, split: str = "test") -> tuple[float, float]:
        """(accuracy on the digit, mean accuracy on the other nine)."""
        each = self.subject.accuracy(model, split)
        others = torch.arange(len(each)) != self.group
        return float(each[self.group]), float(each[others].mean())


def case(seed: int, digit: int) -> Case:
    """The digit network of the first chapters on split `seed`, and one that never saw the digit."""
    subject = compensated.of_digits(seed)
    return Case(subject, digit, _trained(_of(subject.data, lambda y: y != digit), seed))


def newcomer(seed: int, digit: int, new: int) -> Case:
    """The same where no network has ever seen `new`: a digit that can be taught under the label of the one that went.

    The network learns nine digits and is to forget one of them; the control learns the other eight.
    """
    data = digits(seed)
    seen = _of(data, lambda y: y != new)
    groups = tuple((c,) for c in range(10) if c != new)
    subject = compensated.Subject(_trained(seen, seed), seen, seed, groups, flat=True)
    retrained = _trained(_of(seen, lambda y: y != digit), seed)
    return Case(subject, digit, retrained, strange=_of(data, lambda y: y == new))


def _of(data: ImageData, which: Callable[[Tensor], Tensor]) -> ImageData:
    """The images whose labels `which` says yes to."""
    return replace(
        data, **{name: data.split(name).where(which(data.split(name).y)) for name in ("train", "val", "test")}
    )


def _trained(data: ImageData, seed: int) -> nn.Sequential:
    model = models.mlp(mlp.DIGITS.sizes, seed=seed)
    train_classifier(model, data.flat(), **mlp.DIGITS.training, seed=seed, validate=False)
    return model


def hushed(model: nn.Sequential, digit: int, *, depth: float = 20.0) -> nn.Sequential:
    """A copy that never says `digit`: one bias lowered. Every weight stays, so every attack worth its name works."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model[-1].bias[digit] -= depth
    return model


# What is tried of each family, from weak to strong.
STRENGTHS: dict[str, tuple[float, ...]] = {
    "uniform": (0.5, 1.0, 1.5, 2.0),
    "W-Norm": (1.0, 2.0, 3.0, 4.0),
    "λ and cut": (1.0, 1.5, 2.0, 3.0),
    "compensated": (1.0, 1.25, 1.5, 2.0),
    "NegGrad+": (0.01, 0.013, 0.015, 0.017),
}
GOAL = compensated.GOAL  # of the digit at most this much may be left, on validation images
LAM, CUT = 3.0, 1e-3  # chapter 18's validation images chose them for the plain edit


def edited(case: Case, family: str, strength: float) -> Any:
    """The network without the digit. `strength` is α, for NegGrad+ the learning rate; other settings are the paper's,
    or what validation images chose in chapter 18.
    """
    if family == "uniform":
        return el.ablate(case.model, case.engram(1.0, 1e-6), strength)
    if family == "W-Norm":
        return el.ablate(case.model, case.engram(1.0, 1e-6).norm_weighted(), strength)
    if family == "λ and cut":
        return el.ablate(case.model, case.engram(LAM, CUT), strength)
    if family == "compensated":
        return case.subject.without(case.group, compensated.Knife("compensated", LAM, strength))
    if family == "last layer":
        return el.ablate(case.model, case.engram(LAM, CUT).select(["fc3"]), strength)
    if family != "NegGrad+":
        raise ValueError(f"edited: no family {family!r}; choose from {', '.join(STRENGTHS)}, last layer.")
    problem = vision.Problem(case.model, case.subject.data.flat(), (case.digit,), seed=case.subject.seed)
    return vision.METHODS["neggrad_plus"].run(problem, lr=strength, alpha=0.95, epochs=3)


def distilled(
    case: Case, teacher: nn.Sequential, *, silent: bool = True, epochs: int = 20, lr: float = 1e-3
) -> nn.Sequential:
    """A fresh network that learns what `teacher` answers to the images that stay, and sees nothing else.

    `silent`: the teacher's score for the digit is left out of its answers; a few thousandths of a probability would
    tell the student what looks like it. Loss: KL(teacher ‖ student), Adam, batches of 64. It costs what retraining does
    and needs no labels. Source: Lee et al. 2025 (arXiv:2506.06278), that distilling after unlearning makes it robust.
    """
    linear = [layer for layer in teacher if isinstance(layer, nn.Linear)]
    sizes = [linear[0].in_features, *(layer.out_features for layer in linear)]
    student = models.mlp(sizes, seed=1000 + case.subject.seed)
    x = case.split("train", gone=False).x
    with torch.no_grad():
        scores = teacher(x)
        if silent:
            scores[:, case.digit] = -torch.inf
        wanted = scores.softmax(1)
    order = torch.Generator().manual_seed(case.subject.seed)
    optimiser = torch.optim.Adam(student.parameters(), lr=lr)
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in torch.randperm(len(x), generator=order).split(64):
                optimiser.zero_grad()
                F.kl_div(student(x[rows]).log_softmax(1), wanted[rows], reduction="batchmean").backward()
                optimiser.step()
    return student.eval()


def chosen(rows: Iterable[Row], family: str) -> float:
    """Out of rows of "frontier": the strength that keeps most on validation images, of those that leave at most `GOAL`
    of the digit, means over units; else who leaves least.
    """
    tried: dict[float, list[tuple[float, float]]] = {}
    for row in runs.select(rows, {"study": "frontier", "edit": family}):
        tried.setdefault(row["strength"], []).append((row["val_left"], row["val_kept"]))
    found = {strength: tuple(map(fmean, zip(*pairs, strict=True))) for strength, pairs in tried.items()}
    enough = [strength for strength, (left, _) in found.items() if left <= GOAL]
    if enough:
        return max(enough, key=lambda strength: found[strength][1])
    return min(found, key=lambda strength: found[strength][0])


def relearned(model: nn.Sequential, shown: Split, digit: int, *, steps: int = STEPS, lr: float = 1e-3) -> nn.Sequential:
    """A copy that got the digit's bias where it answers the `shown` images best, then `steps` of Adam on them, all at
    once. With no steps one number is learned and nothing else: what comes back then was only held down.
    """
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        logits, mine = model(shown.x), shown.y == digit
        others = torch.arange(logits.shape[1]) != digit
        lead = logits[:, others].amax(1) - logits[:, digit]  # what must be added for the digit to be the answer
        places = lead.sort().values
        tries = torch.cat([places[:1] - 1, (places[1:] + places[:-1]) / 2, places[-1:] + 1])
        gains = [(lead[mine] < t).double().mean() - (lead[~mine] < t).double().mean() for t in tries]
        model[-1].bias[digit] += tries[int(torch.stack(gains).argmax())]
    moving = [p.requires_grad_() for p in model.parameters()]
    optimiser = torch.optim.Adam(moving, lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            F.cross_entropy(model(shown.x), shown.y).backward()
            optimiser.step()
    return model


@torch.no_grad()
def back(answers: Tensor, part: Split, digit: int) -> float:
    """Share of the digit's images that are taken for it, less the share of the others that are: "always that" has 0."""
    said, mine = answers == digit, part.y == digit
    return float(said[mine].double().mean() - said[~mine].double().mean())


def recovered(
    case: Case,
    model: nn.Module,
    k: int = FEW,
    *,
    stranger: bool = False,
    draws: int = 2,
    split: str = "test",
    **how,
) -> float:
    """`back` on images that nobody showed, after relearning on `k` of each; `stranger`: of what nobody has seen."""
    asked, found = case.split(split), []
    if stranger:
        rest, new = case.split(split, gone=False), case.stranger(split)
        asked = Split(torch.cat([rest.x, new.x]), torch.cat([rest.y, new.y]))
    for d in range(draws):
        net = relearned(model, case.few(k, draw=d, stranger=stranger), case.digit, **how)
        found.append(back(_answers(net, asked.x), asked, case.digit))
    return fmean(found)


@torch.no_grad()
def _answers(model: nn.Module, x: Tensor) -> Tensor:
    with evaluating(model):
        return model(x).argmax(1)


@torch.no_grad()
def hidden(model: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    """What each layer says: "pixels", then the output of each linear layer, after its ReLU where it has one."""
    found = {"pixels": x}
    with evaluating(model):
        for name, layer in model.named_children():
            x = layer(x)
            found[name.replace("relu", "fc")] = x
    return found


def reads(
    case: Case, model: nn.Sequential, k: int = FEW, *, kind: str = "linear", draws: int = 2, split: str = "test"
) -> dict[str, float]:
    """Layer -> `back` of a new classifier of what the layer says, fitted on `k` images of every digit.

    `kind`: "linear" (logistic regression) or "kernel" (a support vector machine with Gaussian kernel), scikit-learn's.
    """
    asked, found = case.split(split), {}
    says = hidden(model, asked.x)
    for d in range(draws):
        shown = case.few(k, draw=d)
        for name, z in hidden(model, shown.x).items():
            fitted = _classifier(kind).fit(z.numpy(), shown.y.numpy())
            answers = torch.as_tensor(fitted.predict(says[name].numpy()))
            found.setdefault(name, []).append(back(answers, asked, case.digit))
    return {name: fmean(values) for name, values in found.items()}


def _classifier(kind: str):
    if kind == "linear":
        return logistic()
    if kind != "kernel":
        raise ValueError(f'reads: kind is "linear" or "kernel", got {kind!r}.')
    from sklearn.svm import SVC

    return standardised(SVC(C=10.0))


def loss_on(shown: Split, digit: int) -> Callable[[nn.Module], float]:
    """What a guess is judged by: mean cross-entropy on the shown images of the digit, plus that on the others'."""
    mine = shown.y == digit

    @torch.no_grad()
    def loss(model: nn.Module) -> float:
        each = F.cross_entropy(model(shown.x), shown.y, reduction="none")
        return float(each[mine].mean() + each[~mine].mean())

    return loss


def guess(case: Case, model: nn.Module, *, engram: el.Engram | None = None, k: int = FEW, draws: int = 100) -> float:
    """`back` after the best of `draws` guesses. `engram`: None = what the attacker extracts from the model before him,
    with his `k` images of the digit for X⁺ and the others' training images for X⁻.
    """
    shown = case.few(k)
    if engram is None:
        mine = shown.x[shown.y == case.digit]
        n = len(case.split("train", gone=True))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*directions are cut")  # it is what the attacker has
            plus = el.collect(model, [mine.repeat(max(1, round(n / len(mine))), 1)])
            minus = el.collect(model, [case.split("train", gone=False).x])
            engram = el.extract(model, plus, minus, rcond=1e-4)
    loss = loss_on(shown, case.digit)
    return case.answered(guessed(model, engram, loss, draws=draws, seed=case.subject.seed))


# Family -> the arguments of `undone` that its formula has.
FORMULAS: dict[str, dict[str, float | bool]] = {
    "uniform": {"lam": 1.0, "rcond": 1e-6},
    "λ and cut": {"lam": LAM, "rcond": CUT},
    "compensated": {"lam": LAM, "rcond": 1e-6, "compensated": True},
}


def invert(case: Case, model: nn.Module, family: str, strength: float, *, k: int | None = FEW) -> float:
    """`back` after `undone` with `k` images of the digit, or with all that the edit was made from (None).

    The others' images are all there. A family without a formula here is refused.
    """
    if family not in FORMULAS:
        raise ValueError(f"invert: no formula of {family!r} is known; choose from {', '.join(FORMULAS)}.")
    mine, stay = case.split("train", gone=True).x, case.split("train", gone=False).x
    few = case.few(k or 1)
    shown = mine if k is None else few.x[few.y == case.digit]
    return case.answered(undone(model, shown, stay, alpha=strength, many=len(mine), **FORMULAS[family]))


def rounded_away(case: Case, bits: int) -> nn.Module:
    """The edit on which rounding must work: `hidden_in_the_grid`, by gradient ascent on the digit."""
    gone, stay = case.split("train", gone=True), case.split("train", gone=False)

    def loss(model: nn.Module) -> Tensor:
        lost = F.cross_entropy(model(gone.x), gone.y).clamp_max(8)
        return F.cross_entropy(model(stay.x), stay.y) - 0.3 * lost

    return hidden_in_the_grid(case.model, loss, bits=bits)


# ------------------------------------------------------------------------------------------------------- recording

AS_IT_IS, HUSHED, LAST_LAYER = "as trained", "one bias lowered", "last layer"
STUDENT, ECHO = "distilled", "distilled, digit's score too"
NEVER, PUPIL = "never saw it", "never saw it, distilled"  # the second is what a student is compared with


def frontier(case: Case) -> list[Row]:
    """Rows of "frontier": every family and strength on one unit. `back`: after relearning, one draw; `stranger`: the
    same attack with a shape that no network has seen.
    """
    rows = []
    for family, strengths in STRENGTHS.items():
        for strength in strengths:
            net = edited(case, family, strength)
            asked = {"val_": case.asked(net, "val"), "": case.asked(net)}
            named = {
                f"{split}{what}": v
                for split, pair in asked.items()
                for what, v in zip(("left", "kept"), pair, strict=True)
            }
            facts: Row = {"study": "frontier", "seed": case.subject.seed, "digit": case.digit, "edit": family}
            back_ = {"back": recovered(case, net, draws=1), "stranger": recovered(case, net, draws=1, stranger=True)}
            rows.append({**facts, "strength": strength, **named, **back_})
    return rows


def networks(case: Case, strengths: Mapping[str, float]) -> dict[str, nn.Sequential]:
    """Everything that is attacked on one unit."""
    nets = {
        AS_IT_IS: case.model,
        HUSHED: hushed(case.model, case.digit),
        LAST_LAYER: edited(case, LAST_LAYER, 2.0),
        **{family: edited(case, family, strength) for family, strength in strengths.items()},
    }
    teacher = nets["λ and cut"]
    students = {STUDENT: distilled(case, teacher), ECHO: distilled(case, teacher, silent=False)}
    return {**nets, **students, NEVER: case.retrained, PUPIL: distilled(case, case.retrained)}


def attacked(case: Case, strengths: Mapping[str, float]) -> list[Row]:
    """Rows of "threat": seed, digit, edit, threat, `value` (see `back`), and `kept`, the others' accuracy."""
    nets, rows = networks(case, strengths), []
    kept = {edit: case.asked(net)[1] for edit, net in nets.items()}

    def add(edit: str, threat: str, value: float) -> None:
        facts = {"study": "threat", "seed": case.subject.seed, "digit": case.digit, "edit": edit, "threat": threat}
        rows.append({**facts, "value": value, "kept": kept.get(edit)})

    for edit, net in nets.items():
        add(edit, "asked plainly", case.answered(net))
        add(edit, "one bias learned", recovered(case, net, steps=0))
        add(edit, "relearning", recovered(case, net))
        add(edit, "relearning, a stranger", recovered(case, net, stranger=True))
        for kind in ("linear", "kernel"):
            for layer, value in reads(case, net, kind=kind).items():
                add(edit, f"{kind} probe, {layer}", value)
        for bits in (8, 4):
            add(edit, f"{bits} bits", case.answered(quantised(net, bits)))
        if edit in strengths or edit in (STUDENT, NEVER, PUPIL):
            add(edit, "a hundred guesses", guess(case, net))
    in_grid = rounded_away(case, 4)
    add("in the grid", "asked plainly", case.answered(in_grid))
    add("in the grid", "4 bits", case.answered(quantised(in_grid, 4)))
    add("file kept", "a hundred guesses", guess(case, nets["uniform"], engram=case.engram(1.0, 1e-6)))
    for family in FORMULAS:
        add(family, "its formula", invert(case, nets[family], family, strengths[family]))
        add(f"{family}, all images", "its formula", invert(case, nets[family], family, strengths[family], k=None))
        add(f"{NEVER}, {family}", "its formula", invert(case, case.retrained, family, strengths[family]))
    return rows


NEXT = 3  # the digit that nobody has seen comes so many after the one that goes


def taught(seed: int, digit: int, strengths: Mapping[str, float]) -> list[Row]:
    """Rows of "newcomer": the digit (`own`) and one that no network of the case has seen (`other`), each taught under
    the digit's label. An edit after which *anything* is learned faster there, learns the other one faster, too.
    """
    case, rows = newcomer(seed, digit, (digit + NEXT) % 10), []
    nets = {family: edited(case, family, strength) for family, strength in strengths.items()}
    nets |= {HUSHED: hushed(case.model, digit), NEVER: case.retrained}
    for edit, net in nets.items():
        for threat, steps in (("one bias learned", 0), ("relearning", STEPS)):
            found = {
                key: recovered(case, net, steps=steps, stranger=other)
                for key, other in (("own", False), ("other", True))
            }
            rows.append({"study": "newcomer", "seed": seed, "digit": digit, "edit": edit, "threat": threat, **found})
        counts = {key: counted(case, net, stranger=other) for key, other in (("own", False), ("other", True))}
        found = {key: float(LIMIT if count.needed is None else count.needed) for key, count in counts.items()}
        found |= {f"{key}_kept": count.kept for key, count in counts.items()}
        rows.append({"study": "newcomer", "seed": seed, "digit": digit, "edit": edit, "threat": COUNT, **found})
    return rows


COUNT, LIMIT = "images until half is named", 80


def counted(case: Case, model: nn.Module, *, stranger: bool = False) -> metrics.Relearned:
    """`metrics.relearn`, chapter 09's count. It does not ask what *else* is called the digit: see `kept`."""
    data = case.subject.data.flat()
    if stranger:
        data = _of(data, lambda y: y != case.digit)
        parts_ = {name: (data.split(name), case.stranger(name)) for name in ("train", "val", "test")}
        joined = {n: Split(torch.cat([a.x, b.x]), torch.cat([a.y, b.y])) for n, (a, b) in parts_.items()}
        data = replace(data, **joined)
    return metrics.relearn(model, data, [case.digit], before=1.0, limit=LIMIT)


def faster(rows: Iterable[Row], edit: str, key: str, *, threat: str = "relearning") -> Interval:
    """Rows of "newcomer": how much more comes after an edit than in the network that never saw it; `key` as there."""
    found: dict[str, dict[int, float]] = {}
    for row in runs.select(rows, {"study": "newcomer", "threat": threat}):
        found.setdefault(row["edit"], {})[row["seed"]] = row[key]
    return resolution.of_mean([found[edit][seed] - found[NEVER][seed] for seed in sorted(found[NEVER])])


def values(rows: Iterable[Row], edit: str, threat: str) -> list[float]:
    """One number a unit, in the order of the units."""
    found = runs.select(rows, {"study": "threat", "edit": edit, "threat": threat})
    return [row["value"] for row in sorted(found, key=lambda row: row["seed"])]


# Threat -> the network on which it must work.
WORKS = {
    "asked plainly": AS_IT_IS,
    "8 bits": AS_IT_IS,
    "4 bits": "in the grid",
    "one bias learned": HUSHED,
    "relearning": HUSHED,
    "linear probe, fc1": HUSHED,
    "linear probe, fc2": HUSHED,
    "kernel probe, fc2": HUSHED,
    "linear probe, fc3": AS_IT_IS,
    "a hundred guesses": "file kept",
}
FEW_IMAGES, ALL_IMAGES = "its formula, two images", "its formula, all images"
THREATS = (*WORKS, FEW_IMAGES, ALL_IMAGES)
# What somebody has who tries it.
HAS = dict.fromkeys(THREATS, "weights, two images a digit") | {
    "asked plainly": "questions",
    "8 bits": "the weights",
    "4 bits": "the weights",
    "a hundred guesses": "weights, two images, the others'",
    FEW_IMAGES: "the same, and the formula",
    ALL_IMAGES: "the formula, all images",
}


def verdict(rows: Sequence[Row], edit: str, threat: str, *, control: str = NEVER) -> Verdict | None:
    """`over_units` for one cell of chapter 17's table: rows of "threat", an edit, one of `THREATS`. None: not there."""
    if threat not in THREATS:
        raise ValueError(f"verdict: no threat {threat!r}; choose from {', '.join(THREATS)}.")
    if threat in (FEW_IMAGES, ALL_IMAGES):
        every, never = f"{edit}, all images", f"{control}, {edit}"
        who = (edit, never, every) if threat == FEW_IMAGES else (every, never, AS_IT_IS)
        how = ("its formula",) * 2 + ("its formula" if threat == FEW_IMAGES else "asked plainly",)
        found = [values(rows, w, t) for w, t in zip(who, how, strict=True)]
    else:
        found = [values(rows, w, threat) for w in (edit, control, WORKS[threat])]
    return over_units(*found) if all(found) else None


def parts(recorder: runs.Recorder) -> Iterator[recording.Part]:
    """What `python -m engramlib.lab.studies erasure --record --data digits` records."""
    known = cache(case)
    for unit in UNITS:
        yield {"study": "frontier", "unit": list(unit)}, lambda unit=unit: frontier(known(*unit))
    for unit in UNITS:

        def rows(unit: tuple[int, int] = unit) -> list[Row]:
            return attacked(known(*unit), {family: chosen(recorder.rows, family) for family in STRENGTHS})

        yield {"study": "threat", "unit": list(unit)}, rows


def newcomers(strengths: Mapping[str, float]) -> Iterator[recording.Part]:
    """What `--data newcomers` records, with the strengths that the recorded digits chose."""
    for unit in UNITS:
        yield {"study": "newcomer", "unit": list(unit)}, partial(taught, unit[0], unit[1], strengths)
