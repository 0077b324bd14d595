"""Checks of chapter 13, A language model forgets its authors."""

from __future__ import annotations

import numpy as np
import torch

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect, line_forms, several


@exercise(
    "13.1",
    wrong={
        "ES from the other end": (7 / 8, 0, 3 / 8, 0.5),
        "k counted from 1": (7 / 8, 0, 1 - 5 / 8, 0.5),
        "ES is EM": (7 / 8, 0, 7 / 8, 0.5),
        "exact is EM": (7 / 8, 7 / 8, 0.5, 0.5),
        "s without the retrained model": (7 / 8, 0, 0.5, 7 / 8),
        "what is gone, not what is left": (7 / 8, 0, 0.5, 1 / 8),
        "three numbers": (7 / 8, 0, 0.5),
        "in percent": (87.5, 0, 50, 50),
    },
    right={
        "a list": [0.875, 0.0, 0.5, 0.5],
        "exact as False": (7 / 8, False, 1 / 2, 1 / 2),
        "a tensor": torch.tensor([0.875, 0, 0.5, 0.5]),
    },
)
def _(answer: object) -> None:
    em, exact, es, s = several(answer, 4, "Give four numbers: (em, exact, es, s).")
    close_to(em, 7 / 8, "EM is off: seven of eight tokens are right.", atol=1e-3)
    expect(exact == 0, "EM is right. Exact asks for the whole answer, and one token is wrong.")
    close_to(
        es,
        0.5,
        "EM and exact are right, ES is not. Counted from 0 the wrong token is at position 3, so everything is right "
        "from k = 4 on; ES = 1 - k/8.",
        atol=1e-3,
    )
    close_to(
        s,
        0.5,
        "Only s is off: the distance from the retrained model (.75) over that of the full model (1) from it.",
        atol=1e-3,
    )


def _positions(prompts: list[int], answers: list[int], shift: bool = False) -> torch.Tensor:
    width = max(p + a for p, a in zip(prompts, answers, strict=True))
    place = torch.arange(width) + (1 if shift else 0)
    start = torch.tensor(prompts)[:, None]
    return (place >= start) & (place < start + torch.tensor(answers)[:, None])


def _to_the_end(prompts: list[int], answers: list[int], shift: bool = False) -> torch.Tensor:
    held = _positions(prompts, answers, shift)
    return held | (torch.arange(held.shape[1]) >= torch.tensor(prompts)[:, None])


def _with_the_question(prompts: list[int], answers: list[int], shift: bool = False) -> torch.Tensor:
    return _positions([0] * len(prompts), [p + a for p, a in zip(prompts, answers, strict=True)], shift)


def _by_loops(prompts: list[int], answers: list[int], shift: bool = False) -> torch.Tensor:
    mask = torch.zeros(len(prompts), max(p + a for p, a in zip(prompts, answers, strict=True)), dtype=torch.bool)
    for row, p, a in zip(mask, prompts, answers, strict=True):
        row[p - shift : p - shift + a] = True
    return mask


@exercise(
    "13.2",
    wrong={
        "counts the padding": _to_the_end,
        "counts the question": _with_the_question,
        "shifts to the right": lambda p, a, shift=False: _positions([x + shift for x in p], a),
        "ignores shift": lambda p, a, shift=False: _positions(p, a),
        "always shifts": lambda p, a, shift=False: _positions(p, a, True),
        "starts one late": lambda p, a, shift=False: _positions([x + 1 for x in p], [x - 1 for x in a], shift),
        "numbers instead of booleans": lambda p, a, shift=False: _positions(p, a, shift).float(),
        "one row": lambda p, a, shift=False: _positions(p, a, shift)[0],
    },
    right={"by loops": _by_loops, "numpy": lambda p, a, shift=False: _positions(p, a, shift).numpy()},
)
def _(answer_positions: object) -> None:
    prompts, answers = [3, 5, 2], [4, 1, 2]
    for shift in (False, True):
        found = answer_positions(list(prompts), list(answers), shift=shift)
        found = torch.from_numpy(found) if isinstance(found, np.ndarray) else found
        shape = tuple(getattr(found, "shape", ()))
        expect(
            shape == (3, 7), f"Three items, the longest has 3 + 4 = 7 tokens: return a 3 × 7 tensor; yours is {shape}."
        )
        expect(found.dtype == torch.bool, "Return a boolean tensor: does this position count?")
        right = _positions(prompts, answers, shift)
        if shift:
            expect(
                not torch.equal(found, _positions(prompts, answers)),
                "Without shift it is right. With it, the mask moves one to the left: position i predicts token i + 1.",
            )
            expect(
                torch.equal(found, right),
                "Without shift it is right. With it, the prompt's last token comes in, the answer's last goes out.",
            )
        expect(not bool((found & (torch.arange(7) >= 5) & (torch.arange(3)[:, None] == 2)).any()), "Padding counts.")
        expect(
            torch.equal(found, right),
            "An item with p prompt tokens and a answer tokens holds the answer at p, ..., p + a - 1, counted from 0.",
        )


@exercise(
    "13.3",
    wrong={
        "the target": 2,
        "the first moments": 4,
        "the formula": 6,
        "α_W-Norm": 7,
        "the measure": 8,
        "not a line": 9,
        "text": "3",
    },
    right=line_forms(3),
)
def _(line: int) -> None:
    expect(line in range(1, 9), "Answer with the number of a line, 1 to 8.")
    expect(
        line != 6,
        "This line computes the formula from what it is given. Is one of the two moments not what it should be?",
    )
    expect(line != 7, "That is the chapter's own edit. It can only subtract what the engram holds. Why so little?")
    expect(line != 5, "This line collects what it is given. Who chose it?")
    expect(line == 3, "That line is fine. Along a direction that only the forgotten authors use, how large is Σ⁻?")


def _auc(edited: torch.Tensor, retrained: torch.Tensor, ties: float = 0.5) -> torch.Tensor:
    a, b = edited[:, None], retrained[None, :]
    return (a < b).double().mean() + ties * (a == b).double().mean()


@exercise(
    "13.4",
    wrong={
        "the AUC itself": lambda a, b: _auc(a, b),
        "forgets ties": lambda a, b: 1 - 2 * abs(_auc(a, b, 0.0) - 0.5),
        "ties count in full": lambda a, b: 1 - 2 * abs(_auc(a, b, 1.0) - 0.5),
        "pairs the questions": lambda a, b: 1 - 2 * abs((a < b[: len(a)]).double().mean() - 0.5),
        "without the absolute value": lambda a, b: 1 - 2 * (_auc(a, b) - 0.5),
        "without the 2": lambda a, b: 1 - abs(_auc(a, b) - 0.5),
        "compares the means": lambda a, b: 1 - 2 * abs((a.mean() < b.mean()).double() - 0.5),
    },
    right={
        "a plain number": lambda a, b: float(1 - 2 * abs(_auc(a, b) - 0.5)),
        "the smaller of both directions": lambda a, b: 2 * min(_auc(a, b), _auc(b, a)),
    },
)
def _(privacy: object) -> None:
    same = torch.tensor([1.0, 2.0, 2.0, 3.0])
    low, high = torch.tensor([0.0, 0.5, 1.0, 4.0]), torch.tensor([0.5, 1.0, 1.0, 2.0])
    alike = privacy(same.clone(), same.clone())
    close_to(alike, 1, "A model is not told apart from itself: AUC .5, so 1. Did you count ties half?", atol=1e-6)
    apart = privacy(torch.zeros(3), torch.ones(5))
    close_to(apart, 0, "Losses that do not overlap at all: AUC 1, so 0. The two need not be equally many.", atol=1e-6)
    reverse = privacy(torch.ones(5), torch.zeros(3))
    close_to(reverse, 0, "All losses of the edit are larger: AUC 0 gives it away as well. Take |AUC - .5|.", atol=1e-6)
    expected = 1 - 2 * abs(float(_auc(low, high)) - 0.5)
    close_to(privacy(low, high), expected, "Compare each of one with each of the other; ties count half.", atol=1e-6)
