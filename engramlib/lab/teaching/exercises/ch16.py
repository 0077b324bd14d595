"""Checks of chapter 16, The order of forgetting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect

_LENGTH = 0.36 * 2**0.5 / 8


@exercise(
    "16.1",
    wrong={
        "the other entry": (-1 / 8, _LENGTH),
        "not divided by 4": (2.0, 16 * _LENGTH),
        "the anticommutator": (3 / 8, _LENGTH),
        "alpha once": (1 / 8, 0.6 * 2**0.5 / 8),
        "no alpha": (1 / 8, 2**0.5 / 8),
        "they commute": (0.0, 0.0),
    },
)
def _(answer: Any) -> None:
    expect(isinstance(answer, (tuple, list)) and len(answer) == 2, "Give two numbers: (entry, length).")
    expect(all(value is not None for value in answer), "Give two numbers: (entry, length).")
    entry, length = (float(value) for value in answer)
    expect(abs(entry) > 1e-9, "P_a is diagonal, P_b is not. Multiply them both ways.")
    expect(entry > 0, "That is the lower left entry, or the difference the wrong way round: P_a P_b - P_b P_a.")
    close_to(entry, 1 / 8, "The upper right entry of P_a P_b - P_b P_a, with P_c = Σ_c / 4.", rtol=1e-2)
    expect(abs(length - 0.6 * 2**0.5 / 8) > 1e-3, "Both cuts have the strength α, so the product of them has α².")
    close_to(length, _LENGTH, "The length of α² W (P_a P_b - P_b P_a), with W = (1, 1) and α = .6.", rtol=1e-2)


def _in_turn(W: Tensor, sigmas: list[Tensor], total: Tensor, alpha: float) -> Tensor:
    for sigma in sigmas:
        W = W - alpha * W @ sigma @ torch.linalg.inv(total)
    return W


def _once(W, sigmas, total, alpha):
    return W - alpha * W @ sum(sigmas) @ torch.linalg.inv(total)


@exercise(
    "16.2",
    wrong={
        "once": _once,
        "the other order": lambda W, sigmas, total, alpha: _in_turn(W, sigmas[::-1], total, alpha),
        "no alpha": lambda W, sigmas, total, alpha: _in_turn(W, sigmas, total, 1.0),
        "only the last": lambda W, sigmas, total, alpha: _in_turn(W, sigmas[-1:], total, alpha),
        "the total shrinks": lambda W, sigmas, total, alpha: _in_turn(
            _in_turn(W, sigmas[:1], total, alpha), sigmas[1:], total - sigmas[0], alpha
        ),
        "from the left": lambda W, sigmas, total, alpha: (
            W - _once(W, sigmas, total, alpha) + alpha * W @ torch.linalg.inv(total) @ sum(sigmas)
        ),
    },
)
def _(in_turn) -> None:
    draw = torch.Generator().manual_seed(0)
    X = [torch.randn(5, 30, generator=draw, dtype=torch.float64) for _ in range(4)]
    sigmas, W = [x @ x.T for x in X], torch.randn(3, 5, generator=draw, dtype=torch.float64)
    total = sum(sigmas)
    before = W.clone()
    one = in_turn(W, sigmas[:1], total, 0.6)
    close_to(one, _in_turn(W, sigmas[:1], total, 0.6), "After one cut it is W - alpha W P.")
    expect(torch.equal(W, before), "W was changed: somebody may still need it.")
    found = in_turn(W, sigmas[:3], total, 0.6)
    expect(
        not torch.allclose(torch.as_tensor(found), _once(W, sigmas[:3], total, 0.6)),
        "That is the arm 'once': each engram was made from the weights as they came.",
    )
    expect(
        not torch.allclose(torch.as_tensor(found), _in_turn(W, sigmas[2::-1], total, 0.6)),
        "That is the other order: the first of the list goes first.",
    )
    close_to(found, _in_turn(W, sigmas[:3], total, 0.6), "Each engram is made from the weights of its time.")


@exercise(
    "16.3",
    wrong={"the copy": 2, "the loop": 3, "the target": 4, "the reference": 5, "the edit": 7, "the gap": 9, "none": 0},
)
def _(line: int) -> None:
    expect(line in range(1, 10), "Answer with the number of a line, 1 to 9.")
    expect(line not in (1, 2, 8), "A copy is cut and handed back. That is right.")
    expect(line not in (4, 5), "The moments are those of the network of the time. That is right.")
    expect(line not in (3, 7), "One cut after the other, in place. That is right.")
    expect(line != 9, "With one layer there should be a gap, says the theorem. So why is there none?")
    expect(line == 6, "The moments are new at every cut. What of the weights?")
