"""Checks of chapter 19, Engrams while learning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect

_GAMMA = 2 ** (-1 / 10)


def _two(answer: Any, what: str) -> tuple[float, float]:
    expect(isinstance(answer, (tuple, list)) and len(answer) == 2, f"Give two numbers: {what}.")
    expect(all(value is not None for value in answer), f"Give two numbers: {what}.")
    return float(answer[0]), float(answer[1])


@exercise(
    "19.1",
    wrong={
        "half each step": (0.5, 2.0),
        "one minus a tenth": (0.9, 10.0),
        "e for 2": (2.718281828 ** (-1 / 10), 1 / (1 - 2.718281828 ** (-1 / 10))),
        "the half-life for the sum": (_GAMMA, 10.0),
        "twice the half-life": (_GAMMA, 20.0),
    },
)
def _(answer: Any) -> None:
    gamma, steps = _two(answer, "(decay, steps)")
    expect(abs(gamma**10 - 0.5) < 0.01, "After ten steps a column should count half: γ¹⁰ = 1/2.")
    close_to(steps, 1 / (1 - _GAMMA), "The weights are a geometric series: 1 + γ + γ² + …", rtol=1e-2)


@exercise(
    "19.2",
    wrong={
        "independent rows": (0.5, 0.25),
        "always two": (0.4, 0.1),
        "always three": (0.6, 0.3),
        "without order": (0.5, 0.4),
        "one of both": (0.5, 0.5),
    },
)
def _(answer: Any) -> None:
    one, two = _two(answer, "(one row, two rows)")
    expect(
        abs(one - 0.5) < 1e-6, "2 or 3 of 5 rows, each half of the time: 2.5 on average. So how likely is one of them?"
    )
    expect(abs(two - 0.25) > 1e-9, "That would be independent draws. Count the pairs in a draw of 2, and in one of 3.")
    close_to(two, 0.2, "Of the 10 pairs a draw of 2 has 1, and a draw of 3 has 3.", rtol=1e-3)


def _step(D: Tensor, old: Tensor, new: Tensor, lam: float) -> Tensor:
    return D - D @ old @ old.T @ torch.linalg.inv(old @ old.T + lam * new @ new.T)


def _left(D, old, new, lam):
    P = old @ old.T @ torch.linalg.inv(old @ old.T + lam * new @ new.T)
    return D - D @ P.T


@exercise(
    "19.3",
    wrong={
        "nothing happens": lambda D, old, new, lam: D,
        "the engram itself": lambda D, old, new, lam: D - _step(D, old, new, lam),
        "old and new exchanged": lambda D, old, new, lam: _step(D, new, old, lam),
        "no lambda": lambda D, old, new, lam: _step(D, old, new, 1.0),
        "lambda on the wrong side": lambda D, old, new, lam: _step(D, old, new, 1 / lam),
        "P transposed": _left,
        "the span of the old": lambda D, old, new, lam: D - D @ old @ torch.linalg.pinv(old),
    },
)
def _(step) -> None:
    draw = torch.Generator().manual_seed(0)

    def columns(n: int) -> Tensor:
        mix = torch.randn(4, 4, generator=draw, dtype=torch.float64)
        return mix @ torch.randn(4, n, generator=draw, dtype=torch.float64)

    D, old, new = torch.randn(3, 4, generator=draw, dtype=torch.float64), columns(9), columns(30)
    before = D.clone()
    found = step(D, old, new, 3.0)
    expect(torch.equal(D, before), "D was changed: somebody may still need it.")
    expect(getattr(found, "shape", None) == D.shape, f"Return a matrix of D's shape, {tuple(D.shape)}.")
    engram = D - _step(D, old, new, 3.0)
    expect(not torch.allclose(found, engram), "That is the update's engram. It is what has to go.")
    expect(not torch.allclose(found, _step(D, new, old, 3.0)), "Which of the two should be left alone?")
    expect(
        not torch.allclose(found, _left(D, old, new, 3.0)), "P is not symmetric, and the inverse stands on the right."
    )
    close_to(found, _step(D, old, new, 3.0), "D(I − P) with P = Σ(Σ + λΣ')⁻¹, where Σ' is of the new columns.")
    few = old[:, :2]
    close_to(
        step(D, few, new, 1e-6) @ few,
        torch.zeros(3, 2),
        "Few old columns and a small λ: they are left alone.",
        atol=1e-2,
    )


@exercise(
    "19.4",
    wrong={"the tracker": 1, "the block": 3, "the loss": 4, "the backward pass": 5, "the optimiser": 6, "the end": 9},
)
def _(line: int) -> None:
    expect(line in range(1, 10), "Answer with the number of a line, 1 to 9.")
    expect(line not in (1, 9), "A window is asked for, and used. That is right.")
    expect(line not in (4, 5, 6), "A forward pass, a backward pass, a step. That is right.")
    expect(line != 3, "The block is around the forward pass, as it should be. What else reads inputs there?")
    expect(line not in (2, 8), "Once a batch, and once a step. That is right.")
    expect(line == 7, "Which line shows the layers something that nobody trains on?")
