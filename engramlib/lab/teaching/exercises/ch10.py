"""Checks of chapter 10, When concepts overlap."""

from __future__ import annotations

import torch

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect, line_forms, several


@exercise(
    "10.1",
    wrong={
        "λ spares b and not a": (1 / 2, 1 / 10, 9 / 10),
        "forgets λ": (1 / 2, 1 / 2, 1 / 2),
        "forgets the target in the denominator": (1.0, 1 / 9, 1 / 9),
        "λ on the target": (1 / 2, 9 / 10, 9 / 10),
        "two numbers": (1 / 2, 1 / 10),
        "in percent": (50, 10, 10),
    },
    right={"a list": [0.5, 0.1, 0.1], "a tensor": torch.tensor([0.5, 0.1, 0.1])},
)
def _(answer: object) -> None:
    answer = several(answer, 3, "Give three shares: (b_at_1, b_at_9, a_at_9).")
    close_to(answer[0], 0.5, "b at λ = 1 is off: (Σ_a + Σ_b) u = 2 s u, and Σ_a takes s of it.", atol=0.006)
    close_to(answer[1], 0.1, "b at λ = 9 is off: (Σ_a + 9 Σ_b) u = 10 s u, and Σ_a takes s of it.", atol=0.006)
    close_to(answer[2], 0.1, "a at λ = 9 is off: the layer sees u, and cannot know whose u it is.", atol=0.006)


@exercise(
    "10.2",
    wrong={
        "leaves the diagonal out": 8,
        "the engrams": 3,
        "in-sample similarity": 4,
        "not a line": 10,
        "text": "9",
        "nothing": 0,
    },
    right=line_forms(9),
)
def _(line: int) -> None:
    expect(line in range(1, 10), "Answer with the number of a line, 1 to 9.")
    expect(line != 8, "Pairs of different classes are the right ones to look at. What does the next line do with them?")
    expect(line != 4, "Similarities come from training and validation images, drops from test images: that is fair.")
    expect(line == 9, "That line is fine. Look for the line that counts how much evidence there is.")


def _damage(before: torch.Tensor, after: torch.Tensor, y: torch.Tensor, erased: int, *, forbid=(True, True), own=False):
    kept = torch.ones_like(y, dtype=torch.bool) if own else y != erased
    right = []
    for logits, shut in zip((before, after), forbid, strict=True):
        logits = logits.clone()
        if shut:
            logits[:, erased] = -torch.inf
        right.append((logits.argmax(1) == y)[kept].double().mean())
    return right[0] - right[1]


def _without_the_column(before: torch.Tensor, after: torch.Tensor, y: torch.Tensor, erased: int) -> torch.Tensor:
    rest = [k for k in range(before.shape[1]) if k != erased]
    answers = [torch.tensor(rest)[logits[:, rest].argmax(1)] for logits in (before, after)]
    shares = [(a == y)[y != erased].double().mean() for a in answers]
    return shares[0] - shares[1]


@exercise(
    "10.3",
    wrong={
        "plain accuracy": lambda *given: _damage(*given, forbid=(False, False)),
        "forbids after only": lambda *given: _damage(*given, forbid=(False, True)),
        "forbids before only": lambda *given: _damage(*given, forbid=(True, False)),
        "counts the erased class": lambda *given: _damage(*given, own=True),
        "sign": lambda *given: -_damage(*given),
        "relative to before": lambda *given: _damage(*given) / (1 + _damage(*given)),
    },
    right={
        "a plain number": lambda *given: float(_damage(*given)),
        "a one-element tensor": lambda *given: _damage(*given).reshape(1),
        "without the column": _without_the_column,
    },
)
def _(damage: object) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 5, (200,), generator=generator)
    noise = torch.randn(2, 200, 5, generator=generator)
    before = noise[0] + 1.5 * torch.nn.functional.one_hot(y, 5)
    after = before + noise[1]
    before[:, 2] += 0.7  # a rival that takes answers from the others
    given = before.clone(), after.clone()
    found = damage(*given, y.clone(), 2)
    expect(torch.equal(given[0], before) and torch.equal(given[1], after), "Your function changes its inputs: clone.")
    expect(isinstance(found, (int, float, torch.Tensor)), "Return one number.")
    right = _damage(before, after, y, 2)

    def near(other: torch.Tensor) -> bool:
        return torch.as_tensor(found).numel() == 1 and abs(float(found) - float(other)) < 1e-6

    expect(not near(_damage(before, after, y, 2, forbid=(False, False))), "That is plain accuracy: forbid the answer.")
    one = [_damage(before, after, y, 2, forbid=pair) for pair in ((False, True), (True, False))]
    expect(not any(near(v) for v in one), "Forbid the answer in both logits, or the missing rival counts as a gain.")
    expect(not near(_damage(before, after, y, 2, own=True)), "Images of the erased class are not kept images.")
    expect(not near(-right), "The sign: positive means that something was lost.")
    close_to(found, right, "The number is off: accuracy on kept images before, minus after.")
