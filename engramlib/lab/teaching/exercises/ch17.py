"""Checks of chapter 17, Erased, or suppressed?"""

from __future__ import annotations

import functools
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib.lab import models
from engramlib.lab.data import digits
from engramlib.lab.studies import compensated, mlp, threats
from engramlib.lab.teaching.exercises.registry import Mistake, close_to, exercise, expect
from engramlib.lab.training import train_classifier


@exercise(
    "17.1",
    wrong={
        "the same α": (1.5, 1.0),
        "without the minus": (3.0, 1.0),
        "one over 1 − α, no more": (-2.0, 1.0),
        "the paper's α cannot be inverted at half": (-3.0, 0.5),
        "α, not 1/s": (-3.0, 2.0),
    },
)
def _(answer: Any) -> None:
    expect(isinstance(answer, (tuple, list)) and len(answer) == 2, "Give two numbers: (beta, alpha).")
    expect(all(value is not None for value in answer), "Give two numbers: (beta, alpha).")
    beta, alpha = (float(value) for value in answer)
    expect(beta < 0, "What is left has the other sign, so what is added must have it too.")
    close_to(beta, -3.0, "1 − α = −1/2 of it is left. (1 − α)(1 + β) = 1.", rtol=1e-2)
    close_to(alpha, 1.0, "(1 − αs) with s = 1 must be nothing: no factor brings that back.", rtol=1e-2)


def _undo(W: Tensor, plus: Tensor, minus: Tensor, alpha: float, lam: float) -> Tensor:
    P = plus @ torch.linalg.inv(plus + lam * minus)
    return W @ torch.linalg.inv(torch.eye(len(P), dtype=P.dtype) - alpha * P)


def _added_back(W, plus, minus, alpha, lam):
    return W + alpha * W @ plus @ torch.linalg.inv(plus + lam * minus)


@exercise(
    "17.2",
    wrong={
        "nothing": lambda W, plus, minus, alpha, lam: W,
        "adds the edited matrix's own engram": _added_back,
        "edits again": lambda W, plus, minus, alpha, lam: 2 * W - _added_back(W, plus, minus, alpha, lam),
        "no lambda": lambda W, plus, minus, alpha, lam: _undo(W, plus, minus, alpha, 1.0),
        "no alpha": lambda W, plus, minus, alpha, lam: _undo(W, plus, minus, 1.0, lam),
        "P transposed": lambda W, plus, minus, alpha, lam: (
            W @ torch.linalg.inv(torch.eye(len(plus), dtype=plus.dtype) - alpha * _share(plus, minus, lam).T)
        ),
        "roles exchanged": lambda W, plus, minus, alpha, lam: _undo(W, minus, plus, alpha, lam),
    },
)
def _(undo) -> None:
    draw = torch.Generator().manual_seed(0)
    X = [torch.randn(5, 30, generator=draw, dtype=torch.float64) for _ in range(2)]
    plus, minus = (x @ x.T for x in X)
    W = torch.randn(3, 5, generator=draw, dtype=torch.float64)
    for alpha, lam in ((0.5, 1.0), (1.5, 3.0)):
        cut = W - alpha * W @ _share(plus, minus, lam)
        found = undo(cut.clone(), plus, minus, alpha, lam)
        expect(getattr(found, "shape", None) == W.shape, f"Return a matrix of W's shape, {tuple(W.shape)}.")
        expect(
            not torch.allclose(found, _added_back(cut, plus, minus, alpha, lam)),
            "Adding back the engram of what is left does not give back what was taken: divide instead.",
        )
        close_to(found, W, f"With alpha = {alpha:g} and lam = {lam:g} this is not the matrix before the edit.")


def _share(plus: Tensor, minus: Tensor, lam: float) -> Tensor:
    return plus @ torch.linalg.inv(plus + lam * minus)


@exercise(
    "17.3",
    wrong={"the control": 1, "the attack": 2, "what it attacks": 3, "the share": 5, "printing": 6, "none": 0},
)
def _(line: int) -> None:
    expect(line in range(1, 7), "Answer with the number of a line, 1 to 6.")
    expect(line not in (1, 2), "Both networks are attacked in the same way, as they should be.")
    expect(line != 3, "Here the digit was only hushed, so the attack should work. That is right.")
    expect(line not in (5, 6), "Share and sentence follow from what stands above them. What was measured there?")
    expect(line == 4, "On which images should one ask what came back?")


# ------------------------------------------------------------------------------------- an edit of one's own, attacked

DIGIT = 4
LEFT, KEPT = 0.10, 0.90  # of what the network knew
_SMALL = replace(mlp.DIGITS, sizes=(64, 48, 48, 10))


@functools.cache
def arena(seed: int) -> threats.Case:
    """A small digit network, and one that is trained without the 4."""
    data = digits(seed)
    model = mlp.train(data, _SMALL, seed)
    subject = compensated.Subject(model, data, seed, tuple((c,) for c in range(10)), flat=True)
    flat = data.flat()
    without = replace(flat, train=flat.train.where(flat.train.y != DIGIT))
    retrained = models.mlp(_SMALL.sizes, seed=seed)
    train_classifier(retrained, without, **_SMALL.training, seed=seed, validate=False)
    return threats.Case(subject, DIGIT, retrained)


def attack(edit: Any, *, seeds: tuple[int, ...] = (0, 1, 2)) -> dict[str, float]:
    """Means over networks: what the edit leaves and keeps, and what relearning on two images of each digit brings back:
    in the edited network, in one with a bias lowered, and in one that was trained without the digit. The attacker
    learns one bias, or all weights in ten steps, whichever gives more.
    """
    found: dict[str, list[float]] = {}
    for seed in seeds:
        case = arena(seed)
        gone, stay = case.split("train", gone=True).x, case.split("train", gone=False).x
        before = {name: p.clone() for name, p in case.model.state_dict().items()}
        edited = edit(case.model, gone.clone(), stay.clone())
        same = all(torch.equal(p, before[name]) for name, p in case.model.state_dict().items())
        if not same:
            case.model.load_state_dict(before)
            raise Mistake("The model that you were given was changed: edit a copy.")
        if not isinstance(edited, nn.Module):
            raise Mistake("Return the edited network.")
        if not isinstance(edited, nn.Sequential) or not isinstance(edited[-1], nn.Linear):
            raise Mistake("Return a network of the same layers: the attacker opens it and sees them anyway.")
        left, kept = case.asked(edited)
        values = {"left": left, "kept": kept / case.asked(case.model)[1]}
        nets = {"edited": edited, "hushed": threats.hushed(case.model, DIGIT), "never": case.retrained}
        values |= {who: max(threats.recovered(case, net, steps=n) for n in (0, 10)) for who, net in nets.items()}
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: fmean(values) for name, values in found.items()}


def _plain(model, gone, stay, *, layers=None, alpha=1.5, lam=1.0, rcond=1e-3):
    engram = el.extract(model, el.collect(model, [gone]), el.collect(model, [stay]), specificity=lam, rcond=rcond)
    return el.ablate(model, engram if layers is None else engram.select(layers), alpha)


def _masked(model, gone, stay):
    return nn.Sequential(model, nn.Identity())


@exercise(
    "17.4",
    wrong={
        "nothing": lambda model, gone, stay: model,
        "one bias": lambda model, gone, stay: threats.hushed(model, DIGIT),
        "too weak": lambda model, gone, stay: _plain(model, gone, stay, alpha=0.3),
        "ruins the rest": lambda model, gone, stay: _plain(model, gone, stay, alpha=6.0),
        "the plain engram": lambda model, gone, stay: _plain(model, gone, stay),
        "the compensated edit": lambda model, gone, stay: el.erase(model, [gone], [stay], alpha=1.5, specificity=3.0),
        "wrapped": _masked,
    },
)
def _(edit) -> None:
    found = attack(edit)
    expect(found["left"] <= LEFT, f"{found['left']:.2f} of the fours are still named: at most {LEFT:g} may be.")
    expect(found["kept"] >= KEPT, f"Only {found['kept']:.2f} of the others' accuracy is kept; {KEPT:g} must be.")
    bound = (found["hushed"] + found["never"]) / 2
    expect(
        found["edited"] <= bound,
        f"Attacked: two images of each digit bring {found['edited']:.2f} of the fours back. In a network that was "
        f"retrained without them it is {found['never']:.2f}, in one that was only hushed {found['hushed']:.2f}. "
        f"You may give at most half of the way, {bound:.2f}.",
    )
