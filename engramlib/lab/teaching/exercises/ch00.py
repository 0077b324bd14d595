"""Checks of chapter 00, Erase a digit in a minute."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

import engramlib as el
from engramlib.lab.teaching.exercises.registry import Mistake, close_to, exercise, expect, letter


@exercise(
    "00.1",
    wrong={
        "divides by the others": 100 / 900,
        "forgets that Σ is a sum": 0.5,
        "counts digits of others": 1 / 8,
        "everything": 1.0,
        "what is left": torch.tensor([[0.9]]),
    },
    right={"a 1 × 1 matrix": torch.tensor([[0.1]]), "a fraction": Fraction(1, 10), "numpy": np.float64(0.1)},
)
def _(share: float) -> None:
    expect(float(share) != 0.5, "Σ is a sum over images, not a mean: what is Σ⁺ for 100 images, Σ⁻ for 900?")
    close_to(share, 0.1, "Not yet. Write Σ⁺ = 100 and find Σ⁺ + Σ⁻: the bracket contains the target too.")


@exercise(
    "00.2",
    wrong={
        "divides by the others only": lambda w, a, b: w @ (a.T @ a) @ torch.linalg.pinv(b.T @ b),
        "uses means": lambda w, a, b: w @ (a.T @ a / len(a)) @ torch.linalg.pinv(a.T @ a / len(a) + b.T @ b / len(b)),
        "order of the factors": lambda w, a, b: w @ torch.linalg.pinv(a.T @ a + b.T @ b) @ (a.T @ a),
        "keeps the others": lambda w, a, b: w @ (b.T @ b) @ torch.linalg.pinv(a.T @ a + b.T @ b),
        "an inverse for †": lambda w, a, b: w @ a.T @ a @ torch.linalg.inv(a.T @ a + b.T @ b),
        "what is left": lambda w, a, b: w - w @ a.T @ a @ torch.linalg.pinv(a.T @ a + b.T @ b),
        "examples as columns": lambda w, a, b: w @ (a @ a.T) @ torch.linalg.pinv(a @ a.T),
    },
    right={
        "the share first": lambda w, a, b: w @ (a.T @ a @ torch.linalg.pinv(a.T @ a + b.T @ b, hermitian=True)),
        "least squares": lambda w, a, b: (
            torch.linalg.lstsq(a.T @ a + b.T @ b, a.T @ a @ w.T, driver="gelsd").solution.T
        ),
        "one sum over all rows": lambda w, a, b: (
            w @ a.T @ a @ torch.linalg.pinv(torch.cat([a, b]).T @ torch.cat([a, b]))
        ),
    },
)
def _(my_engram: object) -> None:
    generator = torch.Generator().manual_seed(0)
    w, a, b = (torch.randn(*size, generator=generator).double() for size in ((2, 3), (7, 3), (12, 3)))
    layer = torch.nn.Linear(3, 2, bias=False).double()
    layer.weight.data = w
    right = el.extract(layer, *(el.Moments({"": x.T @ x}, {"": len(x)}) for x in (a, b)))[""].weight
    mine = my_engram(w, a, b)
    expect(isinstance(mine, torch.Tensor), f"The function should return a tensor, got {type(mine).__name__}.")
    expect(mine.shape == w.shape, f"An engram has the shape of W, {tuple(w.shape)}; yours is {tuple(mine.shape)}.")
    expect(
        not torch.allclose(mine, w - right),
        "That is what is left when the engram is gone. Σ⁺ is made from `target`, and it is the factor outside the †.",
    )
    close_to(
        mine, right, "Right shape, wrong numbers. Is Σ a sum over rows? Is the target inside the bracket? Is † last?"
    )
    a[:, 2], b[:, 2] = 0.0, 0.0  # an input that is always silent
    black = "Right where every input is used. An input that is always 0, a black pixel, leaves Σ no inverse: use †."
    try:
        mine = my_engram(w, a, b)
    except RuntimeError:  # torch's own error for a singular matrix is one
        raise Mistake(black) from None
    close_to(mine, w @ a.T @ a @ torch.linalg.pinv(a.T @ a + b.T @ b), black)


@exercise(
    "00.3",
    wrong={
        "the engram": "engram of 7 subtracted",
        "another digit": "engram of 2 subtracted",
        "nothing": "as trained",
        "no row": "the mask",
    },
    right={"a capital": "Answer 7 muted", "spaces": " answer 7 muted "},
)
def _(row: str) -> None:
    rows = [
        "engram of 7 subtracted",
        "random part, same size",
        "engram of 2 subtracted",
        "answer 7 muted",
        "as trained",
    ]
    row = str(letter(row))
    expect(row in rows, f"Answer with the name of a row: {', '.join(rows)}.")
    expect(row == "answer 7 muted", "Which layers does the edit change, and what can the network still answer then?")
