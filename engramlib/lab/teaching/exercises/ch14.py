"""Checks of chapter 14, Where the memory sits, and what it costs."""

from __future__ import annotations

import numbers

import torch

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect, several

_RIGHT = ((0.11, 1.1), (1.2221 / 2) ** 0.5, (0.242 / 10.1) ** 0.5)


@exercise(
    "14.1",
    wrong={
        "multiplied from the other side": ((0.11, 0.11), 0.11, 0.11),
        "rows divided, not columns": ((1.1 / 10 + 0, 0.1 + 1.0), 0.778, 0.155),
        "W⁺ only": ((0.11, 1.1), 1.2221**0.5, (0.242 / 10.1) ** 0.5),
        "r twice": (_RIGHT[0], _RIGHT[1], _RIGHT[1]),
        "on the data, squared": (_RIGHT[0], _RIGHT[1], 0.242 / 10.1),
        "on the target only": (_RIGHT[0], _RIGHT[1], 0.22),
        "one number": 0.782,
        "the target's share of the inputs": ((0.1, 0.1), 0.1, 0.1),
        "over one weight": (_RIGHT[0], 1.2221**0.5 / 2, _RIGHT[2]),
        "reference alone inverted": ((0.1222, 1.2222), 0.8685, 0.1716),
    },
    right={
        "three digits": ((0.11, 1.1), 0.782, 0.155),
        "tensors, W⁺ a matrix of one row": (torch.tensor([[0.11, 1.1]]), torch.tensor(0.7817), torch.tensor([0.1548])),
        "a list": [[0.11, 1.1], _RIGHT[1], _RIGHT[2]],
    },
)
def _(answer: object) -> None:
    expect(isinstance(answer, (tuple, list)) and len(answer) == 3, "Give three things: ((a, b), r, gain).")
    weight, r, share = answer
    if getattr(weight, "ndim", 1) == 2 and len(weight) == 1:  # W⁺ as the matrix that it is
        weight = weight[0]
    close_to(weight, _RIGHT[0], "W⁺ is off. Divide the first column of Σ⁺ by 10, the second by 0.1, then add the rows.")
    close_to(r, _RIGHT[1], "W⁺ is right, r is not: ‖W⁺‖ over ‖W‖, and ‖W‖ = √2.", atol=2e-3)
    expect(isinstance(share, (numbers.Real, torch.Tensor)), "The third is one number, the gain on all data.")
    expect(abs(share - _RIGHT[1]) > 1e-2, "That is r again. On the data, ‖MX‖² = M Σ Mᵀ.")
    expect(abs(share - 0.242 / 10.1) > 2e-3, "Take the square root: a quotient of norms, not of their squares.")
    close_to(
        share, _RIGHT[2], "The gain on the data is off: W⁺ΣW⁺ᵀ over WΣWᵀ with Σ = diag(10, 0.1), then √.", atol=2e-3
    )


def _selectivity(weight: torch.Tensor, plus: torch.Tensor, minus: torch.Tensor, squared: bool = False) -> torch.Tensor:
    found = _gain(weight, plus, minus, plus) / _gain(weight, plus, minus, minus)
    return found**2 if squared else found


def _gain(weight: torch.Tensor, plus: torch.Tensor, minus: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    part = weight @ plus @ torch.linalg.pinv(plus + minus, rtol=1e-6, hermitian=True)
    return (torch.trace(part @ sigma @ part.T) / torch.trace(weight @ sigma @ weight.T)).sqrt()


def _by_eigenvectors(weight: torch.Tensor, plus: torch.Tensor, minus: torch.Tensor) -> float:
    values, vectors = torch.linalg.eigh(plus + minus)
    kept = values > 1e-6 * values[-1]
    part = weight @ plus @ (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    above, below = ((part @ side * part).sum() / (weight @ side * weight).sum() for side in (plus, minus))
    return float(above / below) ** 0.5


def _of_columns(weight: torch.Tensor, plus: torch.Tensor, minus: torch.Tensor) -> torch.Tensor:
    """With roots of the moments for X: any X with X Xᵀ = Σ has the same norms."""
    part = weight @ torch.linalg.solve(plus + minus, plus).T
    x, y = (torch.linalg.cholesky(side) for side in (plus, minus))
    return ((part @ x).norm() / (weight @ x).norm() / ((part @ y).norm() / (weight @ y).norm())).reshape(1, 1)


def _by_norm(weight: torch.Tensor, plus: torch.Tensor, minus: torch.Tensor) -> torch.Tensor:
    return (weight @ plus @ torch.linalg.pinv(plus + minus)).norm() / weight.norm()


@exercise(
    "14.2",
    wrong={
        "the relative norm": _by_norm,
        "squares": lambda w, p, m: _selectivity(w, p, m, squared=True),
        "upside down": lambda w, p, m: 1 / _selectivity(w, p, m),
        "inverse of the reference alone": lambda w, p, m: _selectivity(w, p, m - p),
        "the weights of the gain left out": lambda w, p, m: _selectivity(torch.eye(w.shape[1]).to(w), p, m),
        "always one": lambda w, p, m: torch.tensor(1.0),
        "the gain on the target alone": lambda w, p, m: _selectivity(w, p, m) * _gain(w, p, m, m),
        "a difference": lambda w, p, m: _selectivity(w, p, m) - 1,
        "traces without W on the right": lambda w, p, m: (
            torch.trace(w @ p @ torch.linalg.pinv(p + m) @ p @ w.T)
            / torch.trace(w @ p @ torch.linalg.pinv(p + m) @ m @ w.T)
        ),
    },
    right={"by eigenvectors, a float": _by_eigenvectors, "norms of columns, 1 × 1": _of_columns},
)
def _(selectivity: object) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 5, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1.0, 1.0, 0.3, 0.1])
    x[:30, 1] *= 3
    plus, minus = x[:30].T @ x[:30], x[30:].T @ x[30:]
    weight = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    found = selectivity(weight.clone(), plus.clone(), minus.clone())
    found = torch.as_tensor(found, dtype=torch.float64)
    expect(found.numel() == 1, f"Return one number, g⁺/g⁻; yours has the shape {tuple(found.shape)}.")
    right, found = float(_selectivity(weight, plus, minus)), float(found)
    expect(abs(found - float(_by_norm(weight, plus, minus))) > 1e-3, "This is ‖W⁺‖/‖W‖, without any data.")
    expect(abs(found - right**2) > 1e-3, "These are squares. Take the root of each quotient of traces.")
    expect(abs(found - 1 / right) > 1e-3, "Upside down: the gain on the target goes above the line.")
    close_to(
        found, right, "The quotient is off. Each gain: tr(W⁺ΣW⁺ᵀ) over tr(WΣWᵀ), with Σ⁺ or with Σ⁻, and the root."
    )
    alike = float(selectivity(weight.clone(), plus.clone(), 3 * plus))
    close_to(alike, 1.0, "Where target and reference are alike, nothing is selective: it should be 1.")


@exercise(
    "14.3",
    wrong={
        "the choice": 3,
        "the edit": 4,
        "the price": 6,
        "the report": 7,
        "not a line": 9,
        "the pair": 2,
        "counted from 0": 0,
    },
    right={"a float": 1.0, "a tensor": torch.tensor(1)},
)
def _(line: int) -> None:
    expect(line in range(1, 8), "Answer with the number of a line, 1 to 7.")
    expect(line != 3, "Choosing a part is what the question is about. But with which strengths was it chosen?")
    expect(line != 4, "One α for both is fine, if the parts are comparable. What has happened to them before?")
    expect(line not in (5, 6), "Measuring both sides is right. What was edited how strongly?")
    expect(line == 1, "That line is fine. Where does each layer get its own strength?")


def _gigabytes(L: int, d: int, m: int, number: int) -> float:
    return L * (3 * d**2 + m**2) * number / 1e9


@exercise(
    "14.4",
    wrong={
        "a Σ for each matrix": (lambda L, d, m, number: L * (6 * d**2 + m**2) * number / 1e9, 22894),
        "one width only": (lambda L, d, m, number: L * 4 * d**2 * number / 1e9, 23972),
        "GiB": (lambda L, d, m, number: L * (3 * d**2 + m**2) * number / 2**30, 24000),
        "one block": (lambda L, d, m, number: (3 * d**2 + m**2) * number / 1e9, 23972),
        "forgets the three of width d": (_gigabytes, 25000),
        "not whole": (_gigabytes, 23972.24),
        "too wide": (_gigabytes, 23973),
        "one thing": 23972,
        "half of it by symmetry": (lambda L, d, m, number: _gigabytes(L, d, m, number) / 2, 34648),
        "both sets": (lambda L, d, m, number: 2 * _gigabytes(L, d, m, number), 15755),
        "bits": (lambda L, d, m, number: 8 * _gigabytes(L, d, m, number), 23972),
    },
    right={
        "a list, a float": [_gigabytes, 23972.0],
        "a tensor": (
            lambda L, d, m, number: torch.tensor([L * number * (d * d * 3 + m * m) / 1e9]),
            torch.tensor(23972),
        ),
    },
)
def _(answer: object) -> None:
    function, widest = several(answer, 2, "Give (gigabytes, widest).")
    expect(callable(function), "The first of the two is a function of L, d, m and number.")
    right = _gigabytes(16, 2048, 8192, 4)
    found = torch.as_tensor(function(16, 2048, 8192, 4), dtype=torch.float64)
    expect(found.numel() == 1, f"gigabytes returns one number; yours has the shape {tuple(found.shape)}.")
    expect(abs(float(found) / right - 0.5) > 1e-3, "One set, and its full squares: neither twice of it nor half.")
    expect(abs(float(found) / right - 2) > 1e-3, "One set, and its full squares: neither twice of it nor half.")
    expect(abs(found / right - 1e9 / 2**30) > 1e-3, "1 GB = 10⁹ bytes here, not 2³⁰.")
    close_to(
        found, right, "The function is off for L = 16, d = 2048, m = 8192: three inputs of width d and one of width m."
    )
    close_to(function(2, 10, 30, 8), _gigabytes(2, 10, 30, 8), "The function is off when L, d, m change.", atol=1e-12)
    expect(widest == int(widest), "Give a whole number.")
    largest = int((80e9 / (4 * 32) - 3 * 4096**2) ** 0.5)
    expect(
        widest <= largest, f"At m = {int(widest)} it needs {_gigabytes(32, 4096, int(widest), 4):.2f} GB, more than 80."
    )
    expect(widest == largest, "It fits, but a wider one does, too. Solve 4 · 32 · (3 · 4096² + m²) = 80 · 10⁹ for m.")
