"""Checks of chapter 03, The soft projection and its numerics."""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from engramlib import analysis
from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect


@exercise(
    "03.1",
    wrong={
        "two per cent as a count": 2,
        "off by one": 51,
        "ninety-eight": 98,
        "divides the rest": 49,
        "the share": 0.02,
        "half": 25,
    },
    right={"a tensor": torch.tensor(50), "a float": 1 / 0.02},
)
def _(classes: float) -> None:
    expect(float(classes) != 49, "With 49 classes a shared direction is left with 1 − 1/49, a little under 98 %.")
    expect(float(classes) < 51, "That is enough classes, but not the smallest number: what is left at C = 50?")
    close_to(classes, 50, "Not yet. A shared direction has the share 1/C and is left with 1 − 1/C.")


def _root(sigma: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(sigma)
    return vectors @ torch.diag(values.rsqrt()) @ vectors.T


def _along(plus: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(sigma)
    return ((vectors.T @ plus @ vectors).diagonal() / values).sort(descending=True).values


def _shares(plus: torch.Tensor, minus: torch.Tensor) -> torch.Tensor:
    return torch.linalg.eigvals(plus @ torch.linalg.inv(plus + minus)).real.sort(descending=True).values


@exercise(
    "03.2",
    wrong={
        "no whitening": lambda plus, minus: (
            torch.linalg.eigvalsh(plus).flip(0) / torch.linalg.eigvalsh(plus + minus)[-1]
        ),
        "against the reference only": lambda plus, minus: (
            torch.linalg.eigvals(plus @ torch.linalg.inv(minus)).real.sort(descending=True).values
        ),
        "the reference's shares": lambda plus, minus: 1 - _shares(plus, minus).flip(0),
        "smallest first": lambda plus, minus: _shares(plus, minus).flip(0),
        "eigh of a matrix that is not symmetric": lambda plus, minus: torch.linalg.eigvalsh(
            plus @ torch.linalg.inv(plus + minus)
        ).flip(0),
        "along the eigenvectors of Σ": lambda plus, minus: _along(plus, plus + minus),
        "square roots": lambda plus, minus: _shares(plus, minus).sqrt(),
    },
    right={
        "eigenvalues of P⁺": _shares,
        "Σ^-½ from eigh": lambda plus, minus: torch.linalg.eigvalsh(
            _root(plus + minus) @ plus @ _root(plus + minus)
        ).flip(0),
    },
)
def _(my_shares: object) -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(4, 4, generator=generator).double()
    x, y = (torch.randn(n, 4, generator=generator).double() @ mix for n in (9, 20))
    x[:, 0] *= 4
    plus, minus = x.T @ x, y.T @ y
    right = analysis.target_share(plus, minus).shares
    mine = my_shares(plus, minus)
    expect(isinstance(mine, torch.Tensor), f"The function should return a tensor, got {type(mine).__name__}.")
    expect(not mine.is_complex(), "The shares are real numbers. Whiten first, then use eigvalsh.")
    expect(
        mine.shape == right.shape, f"Expected one share per direction, {tuple(right.shape)}, got {tuple(mine.shape)}."
    )
    mine = mine.double()
    expect(not torch.allclose(mine, right.flip(0)), "The right numbers in the wrong order: largest first.")
    expect(not torch.allclose(mine, 1 - right.flip(0)), "These are the shares of the reference, 1 − s.")
    expect(
        bool((mine > -1e-9).all()) and bool((mine < 1 + 1e-9).all()),
        "A share lies between 0 and 1. Divide by target plus reference; eigvalsh needs a symmetric matrix.",
    )
    close_to(mine, right, "Between 0 and 1, but wrong. Is Σ⁺ divided by Σ from both sides before eigvalsh?")


@exercise(
    "03.3",
    wrong={
        "as for λ = 1": 0.5,
        "ignores α": 1.0,
        "λ and α swapped": 2 / 5,
        "one over λ": 1 / 3,
        "the reference's share": 0.25,
        "α f = 2": 1.5,
    },
    right={"a fraction": Fraction(3, 4), "a 1 × 1 tensor": torch.tensor([[0.75]])},
)
def _(vanishing: float) -> None:
    expect(float(vanishing) != 0.5, "½ is right for λ = 1, where f(s) = s. Here f(s) = s/(s + 3(1 − s)).")
    close_to(vanishing, 0.75, "Not yet. Nothing is left where 2·f(s) = 1: solve 2s = s + 3(1 − s).")


@exercise(
    "03.4",
    wrong={
        "the mean": 0.1,
        "the colleague's share": 0.5,
        "the lower end": (math.sqrt(0.1 * 0.786) - math.sqrt(0.214 * 0.9)) ** 2,
        "forgets the square": math.sqrt(0.1 * 0.786) + math.sqrt(0.214 * 0.9),
        "directions over images": 0.214,
        "adds p and q": 0.314,
    },
    right={"two digits": 0.52, "three digits": 0.516},
)
def _(chance: float) -> None:
    expect(float(chance) != 0.1, "0.1 is the mean of the shares. Ask for the largest of 214 of them.")
    p, q = 0.1, 0.214
    right = (math.sqrt(p * (1 - q)) + math.sqrt(q * (1 - p))) ** 2
    close_to(chance, right, "Not yet. p = 100/1000, q = 214/1000; take the plus sign, then square.", atol=5e-3)
