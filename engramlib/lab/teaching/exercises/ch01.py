"""Checks of chapter 01, What would count as a memory trace?"""

from __future__ import annotations

import torch

import engramlib as el
from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect, letter, several


@exercise(
    "01.1",
    wrong={
        "forgets the square": (1 / 8, 7 / 8),
        "one layer only": (0.75, 0.75),
        "the wrong way round": (1 - (1 / 8) ** 2, 1 - (7 / 8) ** 2),
        "two layers": (1 - (3 / 4) ** 2, 1 - (1 / 4) ** 2),
        "sufficiency without the square": (1 / 8, 63 / 64),
        "perfect": (1.0, 1.0 - 1e-9),
    },
    right={"rounded": (0.23, 0.98), "a tensor": torch.tensor([15 / 64, 63 / 64]), "a list": [15 / 64, 63 / 64]},
)
def _(pair: tuple[float, float]) -> None:
    sufficiency, necessity = several(pair, 2, "Give two numbers: sufficiency and necessity.")
    expect(sufficiency != necessity, "They are equal in one layer only. Here the output passes three layers.")
    wanted = 1 - (7 / 8) ** 2, 1 - (1 / 8) ** 2
    expect(abs(sufficiency - wanted[1]) > 1e-3, "Injection should be like learned, ablation like null: swap the two.")
    close_to(
        sufficiency,
        wanted[0],
        "Sufficiency: the injected output is 1/8 of f. How much is missing? Square it.",
        atol=6e-3,
    )
    close_to(
        necessity,
        wanted[1],
        "Necessity: the ablated output is 1/8 of f. It should be 0. Square what is left.",
        atol=6e-3,
    )


@exercise(
    "01.2",
    wrong={
        "forgets the square root's square": lambda w, v, s: (
            1 - (torch.trace(v @ s @ v.T) / torch.trace(w @ s @ w.T)).sqrt()
        ).clamp(min=0),
        "the norm of the weights": lambda w, v, s: (1 - v.square().sum() / w.square().sum()).clamp(min=0),
        "the gap of necessity": lambda w, v, s: (
            1 - torch.trace((w - v) @ s @ (w - v).T) / torch.trace(w @ s @ w.T)
        ).clamp(min=0),
        "negative": lambda w, v, s: 1 - torch.trace(v @ s @ v.T) / torch.trace(w @ s @ w.T),
        "the gap itself": lambda w, v, s: torch.trace(v @ s @ v.T) / torch.trace(w @ s @ w.T),
        "Σ twice": lambda w, v, s: (1 - torch.trace(v @ s @ s @ v.T) / torch.trace(w @ s @ s @ w.T)).clamp(min=0),
    },
    right={
        "entry by entry": lambda w, v, s: max(0.0, 1 - float(((v @ s) * v).sum() / ((w @ s) * w).sum())),
        "einsum": lambda w, v, s: (
            1 - torch.einsum("oi,ij,oj->", v, s, v) / torch.einsum("oi,ij,oj->", w, s, w)
        ).clamp_min(0),
    },
)
def _(specificity: object) -> None:
    generator = torch.Generator().manual_seed(0)
    w, v, x = (torch.randn(*size, generator=generator).double() for size in ((3, 4), (3, 4), (4, 30)))
    x = x * torch.tensor([[3.0], [1.0], [0.5], [0.1]]).double()
    sigma = x @ x.T
    v = 0.5 * v * (w @ x).norm() / (v @ x).norm()
    wanted = 1 - (v @ x).square().sum() / (w @ x).square().sum()
    mine = specificity(w, v, sigma)
    expect(
        abs(float(mine) - float(1 - (w @ x - v @ x).square().sum() / (w @ x).square().sum())) > 1e-6,
        "That is necessity. For specificity the reference should not answer to W⁺ at all: the gap left is W⁺X⁻.",
    )
    close_to(mine, wanted, "Not the score of the columns. Is Σ⁻ between the two factors, and the ratio one of squares?")
    expect(float(specificity(w, 3 * v, sigma)) >= 0, "A W⁺ that is louder than W scores below 0; count that as 0.")
    close_to(specificity(w, w, sigma), 0.0, "W⁺ = W moves the reference as far as it can: the score should be 0.")


@exercise(
    "01.3",
    wrong={
        "nothing": lambda w: 0 * w,
        "half": lambda w: 0.5 * w,
        "not loud enough to give itself away": lambda w: 0.8 * w,
        "noise": lambda w: torch.ones_like(w),
        "upside down": lambda w: -0.95 * w,
        "twice as loud": lambda w: 2 * w,
        "a row is missing": lambda w: torch.cat([0 * w[:1], w[1:]]),
    },
    right={"all of it": lambda w: w, "a little more": lambda w: 1.2 * w},
)
def _(impostor: object) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        w, x, other = (torch.randn(*size, generator=generator).double() for size in ((3, 5), (20, 5), (40, 5)))
        layer = torch.nn.Linear(5, 3, bias=False).double()
        layer.weight.data = w
        plus = impostor(w.clone())
        expect(isinstance(plus, torch.Tensor), f"The function should return a tensor, got {type(plus).__name__}.")
        expect(plus.shape == w.shape, f"W⁺ has the shape of W, {tuple(w.shape)}; yours is {tuple(plus.shape)}.")
        moments = [el.Moments({"": data.T @ data}, {"": len(data)}) for data in (x, other)]
        row = el.score_criteria(layer, el.Engram({"": (plus, None)}), *moments, draws=0).layers[0]
        expect(
            row.reactivation > 1 - 1e-6,
            f"Reactivation is {row.reactivation:.2f}. Only a positive multiple of W keeps every pattern.",
        )
        expect(row.necessity >= 0.9, f"Necessity is {row.necessity:.2f}: more of the layer has to be in W⁺.")
        expect(
            row.specificity < 0.2,
            f"Specificity is {row.specificity:.2f}, so it would pass as fairly specific. Take more of W.",
        )


@exercise(
    "01.4",
    wrong={
        "ablated": "a",
        "training images": "c",
        "norm": "d",
        "a sentence": "false alarms",
        "two letters": "ab",
        "a capital": "A",
    },
    right={"a capital": "B", "spaces": " b "},
)
def _(number: str) -> None:
    number = str(letter(number))
    expect(number in ("a", "b", "c", "d"), 'Answer with "a", "b", "c" or "d".')
    reasons = {
        "a": "That is necessity, another criterion. The claim is about the injected network.",
        "c": "If it says 7 to everything, it gets 100 % on the training 7s too.",
        "d": "One bias is tiny and gets 100 %. Size does not tell.",
    }
    expect(number == "b", reasons.get(number, "Not that one."))
