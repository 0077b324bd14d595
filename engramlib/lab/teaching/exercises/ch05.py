"""Checks of chapter 05, The engram as a natural gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect


@exercise(
    "05.1",
    wrong={
        "forgets the root": 1 - 9 / 256,
        "the part inside": math.sqrt(9 / 256),
        "c = 1": math.sqrt(247 / 9),
        "isotropic": 0.0,
        "the zeros": 247 / 256,
        "two digits of the square": 0.96,
    },
    right={"two digits": 0.98, "three digits": 0.982},
)
def _(distance: float) -> None:
    value = float(distance)
    expect(0 <= value < 1, "c = 0 is allowed and gives a distance of 1, so the best c gives less, and never below 0.")
    expect(
        abs(value - (1 - 9 / 256)) > 1e-6,
        "That is the square of the distance. The norm is the root of a sum of squares.",
    )
    close_to(
        value,
        math.sqrt(1 - 9 / 256),
        "Not yet. Minimise 9 (1 − c)² + 247 c² over c, divide by ‖G‖² = 9, take the root.",
        atol=3e-3,
    )


@exercise(
    "05.2",
    wrong={
        "no G": lambda m, a, g: m @ torch.linalg.inv(a),
        "no A": lambda m, a, g: torch.linalg.solve(g, m),
        "multiplies instead of dividing": lambda m, a, g: g @ m @ a,
        "columns instead of rows": lambda m, a, g: torch.linalg.solve(torch.kron(a, g), m.flatten()).view_as(m),
        "a column instead of a matrix": lambda m, a, g: torch.linalg.solve(torch.kron(g, a), m.flatten()),
        "diagonals only": lambda m, a, g: m / (g.diagonal()[:, None] * a.diagonal()),
        "divides twice by A": lambda m, a, g: torch.linalg.solve(g, m) @ torch.linalg.inv(a @ a),
    },
    right={
        "two inverses": lambda m, a, g: torch.linalg.inv(g) @ m @ torch.linalg.inv(a),
        "two systems": lambda m, a, g: torch.linalg.solve(a.T, torch.linalg.solve(g, m).T).T,
    },
)
def _(natural: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(2, 3, generator=generator).double()
    a, g = (torch.randn(size, 9, generator=generator).double() for size in (3, 2))
    a, g = a @ a.T, g @ g.T
    right = torch.linalg.solve(torch.kron(g, a), m.flatten()).view(2, 3)
    mine = natural(m, a, g)
    expect(isinstance(mine, Tensor), f"The function should return a tensor, got {type(mine).__name__}.")
    expect(mine.shape == m.shape, f"It has the shape of M, {tuple(m.shape)}; yours has {tuple(mine.shape)}.")
    expect(not torch.allclose(mine, g @ m @ a), "You multiply by A and G. The natural gradient divides by them.")
    close_to(mine, right, "Right shape, wrong numbers. G⁻¹ acts from the left, A⁻¹ from the right; both are needed.")


@exercise(
    "05.3",
    wrong={
        "1 / g": lambda g, delta: 1 / g,
        "forgets the damping": lambda g, delta: (1 + g) / (2 * g),
        "damps by δ, not δσ²": lambda g, delta: (1 + g) / 2 * (1 + delta) / (g + delta),
        "forgets 1 + δ": lambda g, delta: (1 + g) / 2 / (g + delta * (1 + g) / 2),
        "σ² is the trace": lambda g, delta: (1 + g) * (1 + delta) / (g + delta * (1 + g)),
        "δ in front only": lambda g, delta: (1 + g) / 2 * (1 + delta) / g,
    },
    right={
        "one fraction": lambda g, delta: (1 + g) * (1 + delta) / (2 * g + delta * (1 + g)),
        "a tensor": lambda g, delta: torch.tensor([(1 + g) * (1 + delta) / (2 * g + delta * (1 + g))]).double(),
    },
)
def _(factor: Callable[[float, float], float]) -> None:
    close_to(factor(1.0, 0.0), 1.0, "With g = 1 G is the identity, and the step is the engram: the factor is 1.")
    close_to(
        factor(1e-4, 0.0),
        5000.5,
        "Wrong without damping already, at g = 1e-4. σ² is the mean of 1 and g; the second row is divided by g.",
    )
    close_to(
        factor(0.1, 1e9),
        1.0,
        "With strong damping the step is the engram, so the factor tends to 1 as δ grows. Yours does not.",
    )
    for g, delta in ((0.01, 0.5), (3.0, 2.0)):
        mean = (1 + g) / 2
        close_to(
            factor(g, delta),
            mean * (1 + delta) / (g + delta * mean),
            f"Right without damping, wrong at g = {g}, δ = {delta}. δσ² is added to g, and σ²(1 + δ) stands in front.",
        )


@exercise(
    "05.4",
    wrong={
        "the wrong way round": 0.1,
        "the plain engram": 1.0,
        "squares the metric": 100.0,
        "half": 5.0,
        "a difference": 9.9,
    },
    right={"a whole number": 10, "a tensor": torch.tensor([10.0])},
)
def _(specificity: float) -> None:
    value = float(specificity)
    expect(value != 1, "λ = 1 is the engram itself; then the second row would not have moved.")
    expect(
        abs(value - 0.1) > 1e-9,
        "0.1 is the weight of the target here. λ is the weight of the reference when the target has weight 1.",
    )
    close_to(value, 10.0, "Divide 0.1 ‖· X⁺‖² + ‖· X⁻‖² by 0.1: what stands before the second term?")
