"""Checks of chapter 20, Concepts without labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engramlib import discover
from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect


@exercise("20.1", wrong={"one each": 10, "the constant forgotten": 17, "exactly a half": 20, "components": 9})
def _(most: Any) -> None:
    expect(isinstance(most, (int, float)) and not isinstance(most, bool), "Answer with a whole number.")
    expect(
        most != 9 and most != 10, "Two concepts can each own more than half of something in one plane. Add shares up."
    )
    expect(most != 17, "Nine components, and the constant: in how many directions does a layer with a bias read?")
    expect(most != 20, "More than a half each, strictly: twenty would need more than ten.")
    expect(most == 19, "All shares of all concepts add up to the number of directions. Each owner needs more than ½.")


def _shares(
    columns: Tensor, inside: Tensor, *, one: bool = True, whiten: str = "all", largest_first: bool = True
) -> Tensor:
    x = columns.double()
    if one:
        x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    plus, rest = x[inside].T @ x[inside], x[~inside].T @ x[~inside]
    values, vectors = torch.linalg.eigh({"all": plus + rest, "rest": rest}.get(whiten, torch.eye(x.shape[1]).double()))
    root = vectors / values.sqrt()
    found = torch.linalg.eigvalsh(root.T @ plus @ root)
    return found.flip(0) if largest_first else found


def _of_the_mean(columns: Tensor, inside: Tensor) -> Tensor:
    return _shares(columns - columns[inside].mean(0), inside, one=False)


@exercise(
    "20.2",
    wrong={
        "no constant": lambda columns, inside: _shares(columns, inside, one=False),
        "not whitened": lambda columns, inside: _shares(columns, inside, whiten="not"),
        "whitened by the others": lambda columns, inside: _shares(columns, inside, whiten="rest"),
        "smallest first": lambda columns, inside: _shares(columns, inside, largest_first=False),
        "the others' shares": lambda columns, inside: _shares(columns, ~inside),
        "around the concept's mean": _of_the_mean,
    },
)
def _(shares_of: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    columns = torch.randn(90, 4, generator=draw, dtype=torch.float64) + torch.tensor([2.0, 0, 0, -1])
    inside = torch.arange(90) < 30
    columns[inside] += torch.tensor([0.0, 3, 0, 0])
    found = shares_of(columns.clone(), inside.clone())
    expect(getattr(found, "shape", None) == (5,), "Five numbers: four columns and the constant 1.")
    right = discover.shares(columns, (~inside).long())
    found = torch.as_tensor(found).double()
    expect(float(found[0]) >= float(found[-1]), "Largest first, please: eigvalsh gives the smallest first.")
    expect(float(found.max()) <= 1 + 1e-6, "A share is between 0 and 1. Whiten by Σ of all examples.")
    expect(not torch.allclose(found, right[1], atol=1e-6), "Those are the shares of the examples outside.")
    close_to(found, right[0], "Those are not the eigenvalues of Σ^(-½) Σ_c Σ^(-½), with Σ of all columns [x; 1].")


@exercise(
    "20.3", wrong={"the data": 1, "the loop": 2, "the discovery": 3, "the best": 5, "moments": 7, "edit": 8, "none": 0}
)
def _(line: Any) -> None:
    expect(line in range(1, 10), "Answer with the number of a line, 1 to 9.")
    expect(line != 1, "The images come with their digits here, but nobody has looked at those yet.")
    expect(line not in (2, 3), "Trying several numbers of concepts is fair. How is one of them chosen?")
    expect(line != 5, "That only keeps what the line above it chose. By what?")
    expect(line not in (6, 7, 8, 9), "From here on no digit is used. But was none before?")
    expect(line == 4, "Which line needs the true digits?")
