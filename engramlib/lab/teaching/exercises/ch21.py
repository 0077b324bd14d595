"""Checks of chapter 21, Engrams at scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect

_D, _SUMS = 28672, 160  # the down projections of Llama-3.1-70B: 80 layers, target and reference
_HALF = _SUMS * 4 * _D * (_D + 1) / 1e9
_ROWS = _D // 10


@exercise(
    "21.1",
    wrong={
        "whole matrices": (_SUMS * 8 * _D**2 / 1e9, _ROWS),
        "one side only": (_HALF / 2, _ROWS),
        "float32": (_HALF / 2, _ROWS),
        "rows in float64": (_HALF, _D // 20),
        "a tenth of the rows of the half": (_HALF, _D // 5),
    },
)
def _(answer: Any) -> None:
    expect(isinstance(answer, (tuple, list)) and len(answer) == 2, "Give two numbers: (gigabytes, rows).")
    expect(all(value is not None for value in answer), "Give two numbers: (gigabytes, rows).")
    size, rows = (float(value) for value in answer)
    expect(abs(size / _HALF - 2) > 0.02, "Twice too much: Σ is symmetric, and half of it is enough.")
    expect(abs(size / _HALF - 0.5) > 0.02, "Half of it: count 8 bytes a number, and both target and reference.")
    expect(abs(size / _HALF - 1) < 0.02, "80 layers, two sums each, d(d + 1)/2 numbers of 8 bytes: in GB, 1e9 bytes.")
    expect(abs(rows / _ROWS - 0.5) > 0.02, "Rows are kept in float32: 4 bytes a number.")
    expect(
        abs(rows / _ROWS - 1) < 0.02,
        "A tenth of 4d(d + 1) bytes is 0.4d(d + 1); a row in float32 takes 4d. How many fit?",
    )


def _merged(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, float]:
    _, s, v = torch.linalg.svd(torch.cat([a, b]), full_matrices=False)
    cut = float(s[rank] ** 2) if len(s) > rank else 0.0
    return ((s[:rank] ** 2 - cut).clamp_min(0).sqrt().unsqueeze(1) * v[:rank]), cut


def _truncates(a, b, rank):
    _, s, v = torch.linalg.svd(torch.cat([a, b]), full_matrices=False)
    return s[:rank].unsqueeze(1) * v[:rank], float(s[rank] ** 2)


def _not_squared(a, b, rank):
    _, s, v = torch.linalg.svd(torch.cat([a, b]), full_matrices=False)
    return (s[:rank] - s[rank]).unsqueeze(1) * v[:rank], float(s[rank])


def _one_too_early(a, b, rank):
    _, s, v = torch.linalg.svd(torch.cat([a, b]), full_matrices=False)
    cut = s[rank - 1] ** 2
    return (s[:rank] ** 2 - cut).clamp_min(0).sqrt().unsqueeze(1) * v[:rank], float(cut)


@exercise(
    "21.2",
    wrong={
        "stacked": lambda a, b, rank: (torch.cat([a, b]), 0.0),
        "added": lambda a, b, rank: (a + b, 0.0),
        "truncated": _truncates,
        "not squared": _not_squared,
        "one too early": _one_too_early,
        "nothing was lost": lambda a, b, rank: (_merged(a, b, rank)[0], 0.0),
        "the first one": lambda a, b, rank: _merged(a, a, rank),
    },
)
def _(merged) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 9, generator=draw, dtype=torch.float64) for _ in range(2))
    found = merged(a.clone(), b.clone(), 5)
    expect(isinstance(found, (tuple, list)) and len(found) == 2, "Return two things: the rows, and what was cut.")
    rows, cut = torch.as_tensor(found[0], dtype=torch.float64), float(found[1])
    expect(rows.shape == (5, 9), f"Return 5 rows of 9 numbers, not {tuple(rows.shape)}.")
    right, wanted = _merged(a, b, 5)
    _, s, _ = torch.linalg.svd(torch.cat([a, b]), full_matrices=False)
    expect(
        abs(cut - float(s[4] ** 2)) > 1e-6, "δ is the first square that does not fit, σ²_{ℓ+1}: s[rank], not before."
    )
    expect(abs(cut - float(s[5])) > 1e-6, "δ is a square: singular values are square roots of what Σ has.")
    close_to(cut, wanted, "The second thing is δ = σ²_{ℓ+1} of the stacked rows: how much was cut.")
    kept, plain = rows.T @ rows, _truncates(a, b, 5)[0]
    expect(not torch.allclose(kept, plain.T @ plain), "You dropped the small ones and did not shrink the others by δ.")
    close_to(kept, right.T @ right, "BᵀB is not that of √(S² − δ) Vᵀ.")
    few = merged(a[:2].clone(), b[:2].clone(), 5)
    close_to(float(few[1]), 0.0, "Four rows fit into five: then nothing is cut.")
    mine = torch.as_tensor(few[0], dtype=torch.float64)
    close_to(mine.T @ mine, a[:2].T @ a[:2] + b[:2].T @ b[:2], "Four rows fit into five: then nothing may be lost.")


@exercise("21.3", wrong={"collecting": 1, "the loop": 2, "sending": 4, "the number of processes": 5, "none": 0})
def _(line: int) -> None:
    expect(line in range(1, 6), "Answer with the number of a line, 1 to 5.")
    expect(line not in (1, 2), "Each process collects its own share, and goes through its layers. That is right.")
    expect(line != 4, "The numbers of all processes are added. That is right, if they are the right numbers.")
    expect(line != 5, "That would be right if every process had read as much as every other.")
    expect(line == 3, "One process read 900 columns and one 100. Which line forgets that?")
