"""Checks of chapter 11, A vision transformer."""

from __future__ import annotations

import torch

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect, line_forms, several


@exercise(
    "11.1",
    wrong={
        "no class token": (196_000, 4),
        "one image": (197, 4),
        "a Σ for each matrix": (197_000, 6),
        "attention and MLP": (197_000, 2),
        "swapped": (4, 197_000),
        "one number": 197_000,
        "q, k and v apart, gate none": (197_000, 5),
    },
    right={"a list": [1000 * (14**2 + 1), 4], "a tensor": torch.tensor([197_000, 4])},
)
def _(answer: object) -> None:
    columns, sigmas = several(answer, 2, "Give two numbers: (columns, sigmas).")
    expect(columns != 196_000, "One token of each image is no patch. It is a column, too.")
    expect(columns != 197, "That is one image; there are 1,000.")
    close_to(columns, 197_000, "The columns are off: patches along one side, squared, plus one, for each image.")
    expect(sigmas != 6, "Three of the six matrices read the same tokens, and share one Σ.")
    close_to(sigmas, 4, "The columns are right. For the Σ, ask of each of the six matrices what it reads.")


def _share(m: float, lam: float) -> float:
    return 1 / (1 + lam * (m - 1))


@exercise(
    "11.2",
    wrong={
        "λ left out": (lambda m, lam: 1 / m, 12.25),
        "λ on everything": (lambda m, lam: 1 / (lam * m), 10.0),
        "λ counts the target, too": (lambda m, lam: lam / (lam + m - 1), 12.25),
        "ratio of groups": (_share, 10.0),
        "not solved": (_share, 49.0),
        "one thing": 12.25,
        "two numbers": (0.02, 12.25),
    },
    right={
        "a list": [lambda m, lam: 1.0 / (1.0 - lam + lam * m), 49 / 4],
        "tensors": (lambda m, lam: torch.tensor(_share(m, lam)), torch.tensor(12.25)),
    },
)
def _(answer: object) -> None:
    expect(isinstance(answer, (tuple, list)) and len(answer) == 2, "Give (share_taken, lam).")
    function, lam = answer
    expect(callable(function), "The first of the two is a function of m and lam.")
    close_to(function(50, 1.0), 1 / 50, "At λ = 1 each of fifty groups takes 1/50.")
    close_to(function(5, 3.0), _share(5, 3.0), "The share is off for λ = 3: λ multiplies Σ⁻, and nothing else.")
    close_to(function(8, 0.5), _share(8, 0.5), "The share is off for λ = 0.5.")
    expect(lam != 10, "Ten times fewer groups is not ten times λ: the group itself is counted once, without λ.")
    close_to(lam, 12.25, "The formula is right, the λ is not: solve share(5, λ) = 1/50.")


def _all_tokens(tokens: torch.Tensor, is_target: torch.Tensor) -> tuple:
    plus, minus = tokens[is_target].flatten(0, 1), tokens[~is_target].flatten(0, 1)
    return plus.T @ plus, minus.T @ minus


def _of(x: torch.Tensor, is_target: torch.Tensor) -> tuple:
    return x[is_target].T @ x[is_target], x[~is_target].T @ x[~is_target]


@exercise(
    "11.3",
    wrong={
        "all tokens": _all_tokens,
        "last token": lambda t, m: _of(t[:, -1], m),
        "mean over tokens": lambda t, m: _of(t.mean(1), m),
        "centred": lambda t, m: _of(t[:, 0] - t[:, 0].mean(0), m),
        "means": lambda t, m: tuple(s / n for s, n in zip(_of(t[:, 0], m), (m.sum(), (~m).sum()), strict=True)),
        "swapped": lambda t, m: _of(t[:, 0], m)[::-1],
        "everything as reference": lambda t, m: (_of(t[:, 0], m)[0], t[:, 0].T @ t[:, 0]),
        "one matrix": lambda t, m: _of(t[:, 0], m)[0],
    },
    right={
        "a list": lambda t, m: [*_of(t[:, 0], m)],
        "by outer products": lambda t, m: tuple(torch.einsum("ni,nj->ij", t[side, 0], t[side, 0]) for side in (m, ~m)),
        "all minus plus": lambda t, m: (_of(t[:, 0], m)[0], t[:, 0].T @ t[:, 0] - _of(t[:, 0], m)[0]),
    },
)
def _(class_token_moments: object) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(12, 5, 3, generator=generator, dtype=torch.float64) + 0.5
    is_target = torch.arange(12) % 3 == 0
    found = class_token_moments(tokens.clone(), is_target.clone())
    expect(isinstance(found, (tuple, list)) and len(found) == 2, "Return two matrices: plus, minus.")
    plus, minus = _of(tokens[:, 0], is_target)
    shape = getattr(found[0], "shape", None)
    expect(shape == plus.shape, f"Σ⁺ must be d × d, here {tuple(plus.shape)}; yours is {tuple(shape or ())}.")
    same = torch.allclose(found[0], _all_tokens(tokens, is_target)[0])
    expect(not same, "These are the moments of all tokens. Take the class token, the first one, alone.")
    expect(not torch.allclose(found[0], minus), "Σ⁺ and Σ⁻ are swapped.")
    expect(torch.allclose(found[0], plus), "Σ⁺ is off: a sum of x xᵀ over class tokens, not centred, not divided.")
    expect(torch.allclose(found[1], minus), "Σ⁺ is right, Σ⁻ is not: the others, without the target.")


@exercise(
    "11.4",
    wrong={"the layer": 2, "the start": 3, "the product": 6, "the images": 9, "not a line": 10, "text": "7"},
    right=line_forms(7),
)
def _(line: int) -> None:
    expect(line in range(1, 10), "Answer with the number of a line, 1 to 9.")
    expect(line != 3, "Starting from zero is right, for a sum. Why does it stay zero?")
    expect(line not in (5, 6), "This line would be right if it ever ran.")
    expect(line == 7, "That line is fine. How often is the function called?")
