"""Checks of chapter 06, Tabula rasa, and all layers at once."""

from __future__ import annotations

import numpy as np
import torch

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect, several


@exercise(
    "06.1",
    wrong={
        "no damping in the second layer": (0.5, 0.4),
        "taught with the goal's input": (0.25, 0.1),
        "taught with the learned input": (0.25, 0.3),
        "goal of the delta is zero": (0.25, 0.5),
        "swapped": (0.4, 0.25),
        "one number": 0.25,
        "what is closed, not what is left": (0.75, 0.6),
        "over the old output": (0.25, 2.0),
    },
    right={"a list": [1 / 4, 2 / 5], "a tensor": torch.tensor([0.25, 0.4])},
)
def _(gaps: tuple[float, float]) -> None:
    rasa, delta = several(gaps, 2, "Give two numbers: tabula rasa, naive delta.")
    expect(rasa is not None and delta is not None, "Both numbers, please: tabula rasa and naive delta.")
    close_to(
        rasa,
        0.25,
        "Tabula rasa: the weights become 3/2 and 1. What comes out of layer 2? Divide by the 6 of the learned network.",
    )
    expect(
        abs(float(delta) - 0.5) > 1e-6,
        "Naive delta: its goal is not 0 but what the network said before, 1. Subtract it above and below the line.",
    )
    close_to(
        delta,
        0.4,
        "Naive delta: layer 2 reads 2 from the edited layer 1, not 1 and not 3. Weight 3/2, goal 1, distance 6 − 1.",
    )


@exercise(
    "06.2",
    wrong={
        "cross term with the measured inputs": lambda a, b, c, d, e: ((a - c) @ e, (a - c) @ (b - e), c @ (b - e)),
        "cross term with the new weights": lambda a, b, c, d, e: ((a - c) @ e, (a - c) @ (b - e), a @ (b - d)),
        "only the gap": lambda a, b, c, d, e: a @ b - c @ d,
        "order": lambda a, b, c, d, e: (c @ (b - d), (a - c) @ e, (a - c) @ (b - e)),
        "signs": lambda a, b, c, d, e: ((c - a) @ e, (c - a) @ (b - e), c @ (d - b)),
        "two of three": lambda a, b, c, d, e: ((a - c) @ b, c @ (b - d)),
    },
    right={
        "a list": lambda a, b, c, d, e: [(a - c) @ e, (a - c) @ (b - e), c @ (b - d)],
        "multiplied out": lambda a, b, c, d, e: (a @ e - c @ e, a @ b - c @ b - a @ e + c @ e, c @ b - c @ d),
    },
)
def _(three_terms: object) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 3), (3, 5), (2, 3), (3, 5), (3, 5))
    a, b, c, d, e = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes)
    found = three_terms(a, b, c, d, e)
    expect(isinstance(found, (tuple, list)) and len(found) == 3, "Return three matrices: local, off_sample, cross.")
    local, off, cross = found
    close_to(local, (a - c) @ e, "The local error is the change of weights, W_new − W_goal, on the measured inputs X.")
    close_to(off, (a - c) @ (b - e), "The off-sample error is the same change of weights, on X_new − X.")
    close_to(
        cross, c @ (b - d), "The cross term: the weights of the goal on X_new − X_goal. Do the three terms add up?"
    )


@exercise(
    "06.3",
    wrong={
        "silence means zero": (torch.zeros(3, 3).tolist(), True),
        "a mean, not a sum": ([[0, 0, 0], [0, 0, 0], [0, 0, 1]], False),
        "right matrix, wrong conclusion": ([[0, 0, 0], [0, 0, 0], [0, 0, 100]], True),
        "no constant": ([[0, 0], [0, 0]], True),
        "the identity": ([[100, 0, 0], [0, 100, 0], [0, 0, 100]], False),
        "text for False": ([[0, 0, 0], [0, 0, 0], [0, 0, 100]], "False"),
    },
    right={
        "a tensor": (torch.tensor([[0, 0, 0], [0, 0, 0], [0, 0, 100]]), False),
        "numpy": (np.diag([0.0, 0.0, 100.0]), np.bool_(False)),
    },
)
def _(answer: tuple[list[list[float]], bool]) -> None:
    expect(isinstance(answer, (tuple, list)) and len(answer) == 2, "Give the matrix and True or False.")
    sigma, exact = answer
    expect(sigma is not None and exact is not None, "Both parts, please: the 3 × 3 matrix, and True or False.")
    close_to(
        sigma,
        [[0, 0, 0], [0, 0, 0], [0, 0, 100]],
        "The two neurons are silent, the constant is not. Σ is a sum over 100 images, 3 × 3.",
    )
    expect(not isinstance(exact, str), "The second part is True or False, without quotation marks.")
    expect(
        not bool(exact),
        "Part 2 needs Σ of the empty network to be zero in layers 2, 3, … Is the matrix that you found zero?",
    )


def _colleague(plus: list[torch.Tensor], sigma: list[torch.Tensor]) -> torch.Tensor:
    whole = torch.linalg.pinv(torch.block_diag(*sigma), rtol=1e-3, hermitian=True)
    return torch.block_diag(*plus) @ whole


def _by_eigenvalues(plus: list[torch.Tensor], sigma: list[torch.Tensor]) -> torch.Tensor:
    blocks = []
    for a, b in zip(plus, sigma, strict=True):
        values, vectors = torch.linalg.eigh(b)
        kept = vectors[:, values > 1e-3 * values[-1]]
        blocks.append(a @ (kept / values[values > 1e-3 * values[-1]]) @ kept.T)
    return torch.block_diag(*blocks)


def _into_zeros(plus: list[torch.Tensor], sigma: list[torch.Tensor]) -> torch.Tensor:
    whole, at = torch.zeros(sum(map(len, plus)), sum(map(len, plus)), dtype=plus[0].dtype), 0
    for a, b in zip(plus, sigma, strict=True):
        whole[at : at + len(a), at : at + len(a)] = a @ torch.linalg.pinv(b, rtol=1e-3, hermitian=True)
        at += len(a)
    return whole


@exercise(
    "06.4",
    wrong={
        "the colleague's": _colleague,
        "no cut": lambda plus, sigma: torch.block_diag(
            *[a @ torch.linalg.pinv(b, rtol=0.0, hermitian=True) for a, b in zip(plus, sigma, strict=True)]
        ),
        "order of the factors": lambda plus, sigma: torch.block_diag(
            *[torch.linalg.pinv(b, rtol=1e-3, hermitian=True) @ a for a, b in zip(plus, sigma, strict=True)]
        ),
        "Σ⁺ alone": lambda plus, sigma: torch.block_diag(*plus),
        "a list of blocks": lambda plus, sigma: torch.stack(
            [(a @ torch.linalg.pinv(b, rtol=1e-3, hermitian=True)).norm() for a, b in zip(plus, sigma, strict=True)]
        ),
    },
    right={"by eigenvalues": _by_eigenvalues, "written into zeros": _into_zeros},
)
def _(global_projector: object) -> None:
    generator = torch.Generator().manual_seed(0)
    plus, sigma, right = [], [], []
    for width, top in ((4, 4e4), (3, 38.0), (5, 3.0)):
        x, r = (torch.randn(width, n, generator=generator, dtype=torch.float64) for n in (3, 9))
        x[0], r[0] = 1e-3 * x[0], 1e-3 * r[0]  # a direction below the cut
        scale = top / torch.linalg.eigvalsh(x @ x.T + r @ r.T)[-1]
        plus.append(scale * x @ x.T)
        sigma.append(scale * (x @ x.T + r @ r.T))
        right.append(plus[-1] @ torch.linalg.pinv(sigma[-1], rtol=1e-3, hermitian=True))
    mine = global_projector(plus, sigma)
    expect(isinstance(mine, torch.Tensor), f"Return one matrix, a tensor; got {type(mine).__name__}.")
    wanted = torch.block_diag(*right)
    expect(
        mine.shape == wanted.shape,
        f"One block a layer, {tuple(wanted.shape)} here; yours is {tuple(mine.shape)}. See torch.block_diag.",
    )
    expect(
        float(mine[4:, 4:].norm()) > 1e-9,
        "The blocks of the weak layers are zero: a cut relative to the largest layer throws them away.",
    )
    close_to(mine, wanted, "Each block is Σ⁺ times the pseudo-inverse of its own Σ⁺ + Σ⁻, with rtol=1e-3.")
