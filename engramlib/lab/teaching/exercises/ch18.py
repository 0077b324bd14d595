"""Checks of chapter 18, A gentler knife."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect


@exercise("18.1", wrong={"only fc1": (0, 1), "only fc3": (1, 0), "halves": (0.5, 0.5)})
def _(answer: Any) -> None:
    expect(isinstance(answer, (tuple, list)) and len(answer) == 2, "Give two numbers: (in fc1, in fc3).")
    expect(all(value is not None for value in answer), "Give two numbers: (in fc1, in fc3).")
    first, last = (float(value) for value in answer)
    expect(first == 0, "fc1 reads the image. What could have changed it?")
    expect(last == 0, "If only fc3 is edited, fc1 and fc2 are as they came. So what does fc3 read?")


def _compensated(W: Tensor, before: Any, now: Any, alpha: float, lam: float, rcond: float) -> Tensor:
    (x_plus, x_minus), (y_plus, y_minus) = before, now
    a_plus, a_minus = x_plus @ y_plus.mT, x_minus @ y_minus.mT
    b = y_plus @ y_plus.mT + lam * y_minus @ y_minus.mT
    bracket = (1 - alpha) * a_plus + lam * a_minus - b
    return W + W @ bracket @ torch.linalg.pinv(b, rtol=rcond, hermitian=True)


def _with(**change: object):
    """The right answer with some of its arguments replaced: one slip each."""

    def slip(W, before, now, alpha, lam, rcond):
        asked = {"W": W, "before": before, "now": now, "alpha": alpha, "lam": lam, "rcond": rcond}
        return _compensated(**asked | {name: value(asked) for name, value in change.items()})

    return slip


def _transposed(W, before, now, alpha, lam, rcond):
    return _compensated(W, now, before, alpha, lam, rcond)


def _forgets_what_data_do_not_use(W, before, now, alpha, lam, rcond):
    (x_plus, x_minus), (y_plus, y_minus) = before, now
    b = y_plus @ y_plus.mT + lam * y_minus @ y_minus.mT
    wanted = (1 - alpha) * x_plus @ y_plus.mT + lam * x_minus @ y_minus.mT
    return W @ wanted @ torch.linalg.pinv(b, rtol=rcond, hermitian=True)


@exercise(
    "18.2",
    wrong={
        "nothing happens": lambda W, before, now, alpha, lam, rcond: W,
        "the paper's edit": _with(now=lambda asked: asked["before"]),
        "before and now exchanged": _transposed,
        "alpha is 1": _with(alpha=lambda asked: 1.0),
        "keeps alpha of the answer": _with(alpha=lambda asked: 1 - asked["alpha"]),
        "no lambda": _with(lam=lambda asked: 1.0),
        "another cut": _with(rcond=lambda asked: 1e-15),
        "directions without data are set to zero": _forgets_what_data_do_not_use,
    },
)
def _(compensated) -> None:
    draw = torch.Generator().manual_seed(0)

    def columns(n: int, d: int = 6) -> Tensor:
        return torch.randn(d, n, generator=draw, dtype=torch.float64)

    W = torch.randn(3, 6, generator=draw, dtype=torch.float64)
    before = columns(20), columns(40)
    now = tuple(x + 0.3 * columns(x.shape[1]) for x in before)
    same = compensated(W.clone(), before, before, 1.5, 3.0, 1e-10)
    expect(getattr(same, "shape", None) == W.shape, f"Return a matrix of W's shape, {tuple(W.shape)}.")
    close_to(
        same,
        _compensated(W, before, before, 1.5, 3.0, 1e-10),
        "Where a layer reads what it read before, W' is W - alpha times the engram.",
    )
    found, right = (how(W.clone(), before, now, 1.5, 3.0, 1e-10) for how in (compensated, _compensated))
    expect(
        not torch.allclose(torch.as_tensor(found), _compensated(W, now, before, 1.5, 3.0, 1e-10)),
        "The cross moments are before times now, transposed; B is of now. You have it the other way round.",
    )
    close_to(found, right, "That is not the minimiser of the theorem.")
    quiet = torch.tensor([[1.0], [1.0], [1.0], [1.0], [1e-4], [0.0]], dtype=torch.float64)
    old, new = (tuple(quiet * x for x in side) for side in (before, now))
    found, right = (how(W.clone(), old, new, 1.5, 3.0, 1e-5) for how in (compensated, _compensated))
    close_to(found[:, 5], W[:, 5], "The last input is always zero: no data speak of its column of W, which stays.")
    close_to(found, right, "One input is a ten-thousandth of the others: with rcond = 1e-5 its direction is cut.")


@exercise(
    "18.3",
    wrong={"the copy": 1, "the order": 2, "before": 3, "the layer": 5, "the formula": 6, "writing": 7, "none": 0},
)
def _(line: int) -> None:
    expect(line in range(1, 8), "Answer with the number of a line, 1 to 7.")
    expect(line not in (1, 5, 7), "The copy is made, read and written as it should be.")
    expect(line != 2, "The layers go in the order of the forward pass. That is right.")
    expect(line != 3, "`before` is what the layer read in the network as it came. That is right.")
    expect(line != 6, "The arguments are those of Exercise 18.2. But are they what their names say?")
    expect(line == 4, "In which network does a layer read what it reads now?")
