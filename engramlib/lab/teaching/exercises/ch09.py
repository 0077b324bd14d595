"""Checks of chapter 09, Against the unlearning baselines."""

from __future__ import annotations

import torch

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect, letter, line_forms, several


@exercise(
    "09.1",
    wrong={
        "signed differences": (1.02 * 1.04, 0.01 * 1.02 * 1.03),
        "a mean instead of a product": ((1 + 0.98 + 0.96) / 3, (0.01 + 0.98 + 0.97) / 3),
        "leaves the forget set out": (0.98 * 0.96, 0.98 * 0.97),
        "swapped": (0.01 * 0.98 * 0.97, 0.98 * 0.96),
        "product of the accuracies": (0.0, 0.99 * 0.93),
        "one number": 0.9408,
        "in percent": (94.08, 0.95),
    },
    right={"a list": [0.98 * 0.96, 0.01 * 0.98 * 0.97], "rounded": torch.tensor([0.941, 0.0095])},
)
def _(answer: object) -> None:
    mask, original = several(answer, 2, "Give two numbers: (mask, original).")
    expect(mask != 0, "The mask's accuracy of 0 on the forget set is right: the distance is 0, so the factor is 1.")
    expect(mask <= 1, "ToW is at most 1. Take the absolute difference: better than the retrained network is off, too.")
    close_to(
        mask, 0.98 * 0.96, "The mask is off. Its three distances are 0, .02 and .04; multiply 1 minus each.", atol=1e-3
    )
    close_to(
        original,
        0.01 * 0.98 * 0.97,
        "The mask is right, the original is not: its distance on the forget set is .99, so that factor is .01.",
        atol=5e-4,
    )


def _salient(gradients: list[torch.Tensor], share: float) -> list[torch.Tensor]:
    flat = torch.cat([g.abs().flatten() for g in gradients])
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[flat.topk(round(share * len(flat))).indices] = True
    parts = chosen.split([g.numel() for g in gradients])
    return [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]


def _by_threshold(gradients: list[torch.Tensor], share: float) -> list[torch.Tensor]:
    sizes = sorted((float(v) for g in gradients for v in g.abs().flatten()), reverse=True)
    smallest = sizes[round(share * len(sizes)) - 1]
    return [g.abs() >= smallest for g in gradients]


@exercise(
    "09.2",
    wrong={
        "every layer has a ranking of its own": lambda gs, share: [_salient([g], share)[0] for g in gs],
        "forgets the absolute value": lambda gs, share: _salient([g.clamp(min=0) for g in gs], share),
        "the smallest": lambda gs, share: [~m for m in _salient(gs, 1 - share)],
        "the complement": lambda gs, share: [~m for m in _salient(gs, share)],
        "one flat mask": lambda gs, share: [torch.cat([m.flatten() for m in _salient(gs, share)])],
        "numbers instead of booleans": lambda gs, share: [m.float() for m in _salient(gs, share)],
        "a threshold instead of a share": lambda gs, share: [g.abs() > share for g in gs],
    },
    right={"a tuple": lambda gs, share: tuple(_salient(gs, share)), "by a threshold": _by_threshold},
)
def _(salient: object) -> None:
    generator = torch.Generator().manual_seed(0)
    small = 0.3 * torch.randn(4, 5, generator=generator)
    large = torch.randn(2, 3, 5, generator=generator)
    gradients, share = [small, large], 0.3
    found = salient([g.clone() for g in gradients], share)
    expect(isinstance(found, (tuple, list)) and len(found) == 2, "Return a list with one mask for each tensor.")
    shapes = [tuple(getattr(m, "shape", ())) for m in found]
    expect(shapes == [(4, 5), (2, 3, 5)], f"The masks must have the gradients' shapes; yours have {shapes}.")
    expect(all(m.dtype == torch.bool for m in found), "Return boolean tensors: may this weight move?")
    n = sum(int(m.sum()) for m in found)
    expect(n == 15, f"15 of the 50 entries should be chosen (share .3); you chose {n}.")
    right = _salient(gradients, share)
    alone = [int(_salient([g], share)[0].sum()) for g in gradients]
    own = [int(m.sum()) for m in found] == alone
    expect(not own, "Each layer got its own share. Rank all entries of all layers together.")
    same = all(torch.equal(a, b) for a, b in zip(found, right, strict=True))
    expect(same, "The right number, but not the right entries: the largest *absolute* values, whatever their sign.")


@exercise(
    "09.3",
    wrong={
        "the retrained network": 1,
        "the budget": 2,
        "the measure": 4,
        "the report": 6,
        "not a line": 7,
        "text": "5",
        "the code of the line": "max(tries, key=tow)",
    },
    right=line_forms(5),
)
def _(line: int) -> None:
    expect(line in range(1, 7), "Answer with the number of a line, 1 to 6.")
    expect(line != 1, "Training a reference is fine, if it is used only to judge. Who else uses it here?")
    expect(line != 4, "ToW is a fair measure of a finished model. What happens with it before the model is final?")
    expect(line != 6, "This line reports what it was given. Where was the number chosen?")
    expect(line == 5, "That line is fine. Which images decide which setting wins?")


@exercise(
    "09.4",
    wrong={
        "mask and classifier engram swapped": {"A": "fc engram", "B": "retrained", "C": "leace", "D": "mask"},
        "retrained and leace swapped": {"A": "mask", "B": "leace", "C": "retrained", "D": "fc engram"},
        "slow to relearn, so retrained": {"A": "retrained", "B": "mask", "C": "leace", "D": "fc engram"},
        "a name too few": {"A": "mask", "B": "retrained", "C": "leace"},
        "a name twice": {"A": "mask", "B": "retrained", "C": "leace", "D": "mask"},
        "a list": ["mask", "retrained", "leace", "fc engram"],
    },
    right={
        "capital letters": {"A": "Mask", "B": "Retrained", "C": "LEACE", "D": "fc Engram"},
        "other order, spaces": {"D": " fc engram", "C": "leace ", "B": "retrained", "A": "mask"},
    },
)
def _(answer: object) -> None:
    names = {"leace", "mask", "retrained", "fc engram"}
    expect(isinstance(answer, dict) and set(answer) == set("ABCD"), "Give a dict with the keys A, B, C and D.")
    assert isinstance(answer, dict)
    answer = {key: letter(value) for key, value in answer.items()}
    expect(set(answer.values()) == names, f"Use each of these names once: {', '.join(sorted(names))}.")
    expect(
        {answer["A"], answer["D"]} == {"mask", "fc engram"},
        "A and D have the original's features exactly (CKA 1.00). Which two methods change the classifier only?",
    )
    expect(answer["C"] == "leace", "Which method promises that no line can tell the class from the rest?")
    expect(
        answer["A"] == "mask",
        "B and C are right. Of A and D, which had its output row overwritten, so that it must be learned from nothing?",
    )
