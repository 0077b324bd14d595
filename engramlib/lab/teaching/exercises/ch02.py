"""Checks of chapter 02, From four criteria to one formula."""

from __future__ import annotations

from fractions import Fraction

import torch

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect, several


@exercise(
    "02.1",
    wrong={
        "forgets the squares": (3 * 2 / (2 + 1), 4.0),
        "divides by the reference only": (12.0, 12.0),
        "first number only": (2.4, 1.0),
        "the hard constraint": (0.0, 8.0),
        "solves for Σ⁺": (2.4, 4.0),
    },
    right={"a tensor": torch.tensor([2.4, 8.0]), "fractions": (Fraction(12, 5), 8)},
)
def _(answer: tuple[float, float]) -> None:
    soft, lam = several(answer, 2, "Give two numbers: W⁺ at λ = 1, and the λ for which W⁺ = 1.")
    expect(abs(float(soft) - 2.0) > 1e-6, "Σ⁺ is X⁺X⁺ᵀ: with one input of 2 that is 4, not 2.")
    close_to(soft, 2.4, "W⁺ is not right yet. Write Σ⁺ and Σ⁻ as numbers; the bracket holds their sum.")
    close_to(lam, 8.0, "W⁺ is right, λ is not. Solve 3 · 4 / (4 + λ · 1) = 1.")


@exercise(
    "02.2",
    wrong={
        "nothing": (0.0, 0.0),
        "smallest norm without the reference": (0.5, 0.5),
        "everything": (1.0, 0.0),
        "projects ΔW only half": (0.0, 0.5),
        "the wrong sign": (0.0, -1.0),
        "a matrix, and wrong": [[1.0, 1.0]],
    },
    right={"as a matrix, out × in": [[0.0, 1.0]], "a tensor": torch.tensor([[0, 1]]), "whole numbers": [0, 1]},
)
def _(hard_row: tuple[float, float]) -> None:
    row = torch.as_tensor(hard_row, dtype=torch.float64)
    row = row[0] if row.shape == (1, 2) else row  # W is out × in: one row
    expect(row.shape == (2,), "Give two numbers, the weight of input 1 and of input 2.")
    expect(abs(float(row[0])) < 1e-6, "The constraint is broken: W∞ X⁻ is the weight of input 1 here. What must it be?")
    expect(
        abs(float(row[1])) > 1e-6,
        "It keeps the constraint, and does nothing on X⁺. Can the second input make up for it?",
    )
    close_to(row, [0.0, 1.0], "The constraint holds. Now W∞ X⁺ should come as near to ΔW X⁺ = 1 as it can.")


def _pinv_with_own_cut(delta: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    n = torch.eye(len(a), dtype=a.dtype) - b @ torch.linalg.pinv(b)
    return delta @ a @ a.T @ n @ torch.linalg.pinv(n @ a @ a.T @ n)


def _project_delta(delta: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return delta @ (torch.eye(len(a), dtype=a.dtype) - b @ torch.linalg.pinv(b))


def _reduced(delta: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    u, s, _ = torch.linalg.svd(b)
    free = u[:, int((s > 1e-12 * s[0]).sum()) :]  # what the reference never uses
    return delta @ a @ torch.linalg.pinv(free.T @ a, atol=1e-6 * torch.linalg.matrix_norm(a, 2), rtol=0.0) @ free.T


def _least_squares(delta: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    n = torch.eye(len(a), dtype=a.dtype) - b @ torch.linalg.pinv(b)
    return delta @ a @ torch.linalg.pinv(n @ a, atol=1e-6 * torch.linalg.matrix_norm(a, 2), rtol=0.0)


def _project_the_soft_one(delta: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _project_delta(delta @ a @ a.T @ torch.linalg.pinv(a @ a.T + b @ b.T), a, b)


@exercise(
    "02.3",
    wrong={
        "the soft engram": lambda w, a, b: w @ a @ a.T @ torch.linalg.pinv(a @ a.T + b @ b.T),
        "a huge λ": lambda w, a, b: w @ a @ a.T @ torch.linalg.pinv(a @ a.T + 1e3 * b @ b.T),
        "ΔW N": _project_delta,
        "the soft engram, projected": _project_the_soft_one,
        "divides by rounding noise": _pinv_with_own_cut,
        "zero": lambda w, a, b: torch.zeros_like(w),
        "λ = 1e8": lambda w, a, b: w @ a @ a.T @ torch.linalg.pinv(a @ a.T + 1e8 * b @ b.T),
        "λ = 1e11": lambda w, a, b: w @ a @ a.T @ torch.linalg.pinv(a @ a.T + 1e11 * b @ b.T),
    },
    right={"in the room that is left": _reduced, "ΔW X⁺ (N X⁺)†": _least_squares},
)
def _(my_hard_engram: object) -> None:
    generator = torch.Generator().manual_seed(0)
    w, a, b = (torch.randn(*size, generator=generator).double() for size in ((3, 6), (6, 8), (6, 2)))
    mine = my_hard_engram(w, a, b)
    expect(isinstance(mine, torch.Tensor), f"The function should return a tensor, got {type(mine).__name__}.")
    expect(mine.shape == w.shape, f"An engram has the shape of ΔW, {tuple(w.shape)}; yours is {tuple(mine.shape)}.")
    expect(
        (mine @ b).norm() < 1e-8 * (w @ b).norm(),
        "W⁺X⁻ is not zero. N should be I − X⁻X⁻†, and the result should end in something that N does not change.",
    )
    expect(mine.norm() > 1e-8, "All zeros keep the constraint, but two reference inputs in six dimensions leave room.")
    basis = torch.linalg.svd(b).U[:, 2:]  # what the reference never uses; W = C basisᵀ is all that is allowed
    best = torch.linalg.lstsq((basis.T @ a).T, (w @ a).T).solution.T @ basis.T
    close_to(
        mine,
        best,
        "The constraint holds, but another matrix that keeps it misses less of the target. ΔW Σ⁺N comes first, "
        "then (NΣ⁺N)†.",
    )
    close_to(
        my_hard_engram(w, a, 1e-6 * b),
        best,
        "Make the reference a million times quieter: it spans the same directions, so the hard engram is the same. "
        "Yours is another one. A large λ is not infinite.",
    )
    many = torch.randn(6, 40, generator=generator).double()
    expect(
        my_hard_engram(w, a, many).norm() < 1e-6 * w.norm(),
        "When the reference spans the space the answer is zero. NΣ⁺N is rounding noise then: cut relative to Σ⁺.",
    )


@exercise(
    "02.4",
    wrong={"forgets Σ⁻": 1e6, "the cut itself": 1e-6, "upside down": 4e6, "without the cut": 0.25, "squared": 2.5e11},
    right={"a whole number": 250_000, "just below": torch.tensor(249_999.0)},
)
def _(largest_lambda: float) -> None:
    expect(abs(float(largest_lambda) - 1e6) > 1, "The largest eigenvalue is 4λ, not λ.")
    close_to(
        largest_lambda,
        2.5e5,
        "Not yet. The target's eigenvalue is 1; it is kept while 1 is larger than 1e-6 times the largest eigenvalue.",
        rtol=0.01,
    )
