"""Checks of chapter 07, A multilayer perceptron."""

from __future__ import annotations

import torch

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect, line_forms, several


@exercise(
    "07.1",
    wrong={
        "one layer only": (0.5, 0.98),
        "adds the layers": (1.5, 0.98),
        "quiet means forgotten": (1 / 8, 0.0),
        "accuracy shrinks too": (1 / 8, 0.98 / 8),
        "one number": 1 / 8,
        "share in percent": (1 / 8, 98),
    },
    right={"a list": [0.5**3, 0.98], "a tensor": torch.tensor([0.125, 0.98], dtype=torch.float64)},
)
def _(answer: object) -> None:
    factor, share = several(answer, 2, "Give two numbers: (factor, share).")
    close_to(factor, 1 / 8, "The factor is off. Each layer halves what it passes on, and there are three, in a row.")
    expect(share != 98, "Give the share as a number between 0 and 1.")
    close_to(share, 0.98, "The factor is right, the share is not: which logit is the largest, if all shrink alike?")


@exercise(
    "07.2",
    wrong={
        "the cut": 5,
        "the sample": 3,
        "not a line": 9,
        "the measurement itself": 8,
        "text": "7",
        "two lines": (6, 7),
    },
    right=line_forms(7),
)
def _(line: int) -> None:
    expect(line in range(1, 9), "Answer with the number of a line, 1 to 8.")
    expect(line != 5, "That cut makes a poor edit here, but a fair test would have shown it. Why did theirs not?")
    expect(line != 8, "Accuracy is the right measure, and this line takes what it is given. Given by whom?")
    expect(line == 7, "That line is fine. Which images does the colleague use for what?")


def _with_diagonal(matrix: torch.Tensor) -> tuple:
    return matrix[1:].diagonal().mean(), (matrix[0] - matrix[1:]).mean()


def _first_row_as_class(matrix: torch.Tensor) -> tuple:
    after, n = matrix[:-1], matrix.shape[1]
    return after.diagonal().mean(), ((matrix[0] - after).sum() - (matrix[0] - after).diagonal().sum()) / (n * (n - 1))


def _of(matrix: torch.Tensor) -> tuple:
    before, after = matrix[0], matrix[1:]
    apart = ~torch.eye(len(before), dtype=torch.bool)
    return after.diagonal().mean(), (before - after)[apart].mean()


def _by_loop(matrix: torch.Tensor) -> tuple:
    n = matrix.shape[1]
    lost = [float(matrix[0, k] - matrix[c + 1, k]) for c in range(n) for k in range(n) if k != c]
    return sum(float(matrix[c + 1, c]) for c in range(n)) / n, sum(lost) / (n * (n - 1))


def _as_tensor(matrix: torch.Tensor) -> torch.Tensor:
    return torch.stack(_of(matrix))


@exercise(
    "07.3",
    wrong={
        "counts the erased class among the others": _with_diagonal,
        "takes row 0 for the first edit": _first_row_as_class,
        "accuracy of the others, not their loss": lambda m: (_of(m)[0], m[0].mean() - _of(m)[1]),
        "swaps the two": lambda m: _of(m)[::-1],
        "sign": lambda m: (_of(m)[0], -_of(m)[1]),
        "one number": lambda m: _of(m)[0],
        "the whole matrix": lambda m: (m[1:].mean(), _of(m)[1]),
        "divides by n²": lambda m: (_of(m)[0], _of(m)[1] * (len(m[0]) - 1) / len(m[0])),
    },
    right={"a list of floats": lambda m: [float(v) for v in _of(m)], "a loop": _by_loop, "a tensor": _as_tensor},
)
def _(erased_and_loss: object) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(5, 4, generator=generator, dtype=torch.float64)
    found = erased_and_loss(matrix.clone())
    found = several(found, 2, "Return two numbers: erased, loss of the others.")
    erased, loss = _of(matrix)
    close_to(found[0], erased, "The first number is off: row c + 1 is the network without class c, tested in column c.")
    with_own = (matrix[0] - matrix[1:]).mean()
    close = abs(float(found[1]) - float(with_own)) < 1e-9
    expect(not close, "The second number still contains the erased class: n pairs of a class with itself.")
    close_to(
        found[1],
        loss,
        "The second number is off. Subtract after from before, column by column, and divide by n(n − 1).",
    )
