"""Checks of chapter 08, Convolutional networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect, line_forms, several


@exercise(
    "08.1",
    wrong={
        "one column an image": (144, 200),
        "forgets the stride": (144, 200 * 256),
        "forgets the channels": (9, 200 * 64),
        "output channels": (288, 200 * 64),
        "swapped": (200 * 64, 144),
        "one number": 144,
        "valid positions only": (144, 200 * 7 * 7),
        "text": ("144", "12800"),
    },
    right={"a list": [3 * 3 * 16, 200 * 8**2], "a tensor": torch.tensor([144, 12800])},
)
def _(answer: object) -> None:
    height, count = several(answer, 2, "Give two numbers: (height, count).")
    expect(float(height) != 288, "The 32 output channels are the rows of W. The height counts what one of them reads.")
    close_to(height, 144, "The height is off: 3 × 3 numbers in each of how many channels?")
    expect(float(count) != 200, "One column for each output position, not for each image.")
    expect(float(count) != 200 * 256, "With stride 2 the kernel stands on every second row and every second column.")
    close_to(count, 200 * 64, "The count is off: 200 images times the number of output positions.")


def _columns(x: torch.Tensor, k: int, order: tuple[int, ...] = (0, 1, 4, 5, 2, 3)) -> torch.Tensor:
    windows = x.unfold(2, k, 1).unfold(3, k, 1).permute(*order)  # n, c, kh, kw, h, w
    return windows.reshape(len(x), windows.shape[1] * windows.shape[2] * windows.shape[3], -1)


def _by_loops(x: torch.Tensor, k: int) -> torch.Tensor:
    height, width = x.shape[2] - k + 1, x.shape[3] - k + 1
    windows = [x[:, :, i : i + k, j : j + k].flatten(1) for i in range(height) for j in range(width)]
    return torch.stack(windows, 2)


@exercise(
    "08.2",
    wrong={
        "offsets before channels": lambda x, k: _columns(x, k, (0, 4, 5, 1, 2, 3)),
        "rows and columns of the window swapped": lambda x, k: _columns(x, k, (0, 1, 5, 4, 2, 3)),
        "positions column by column": lambda x, k: _columns(x, k, (0, 1, 4, 5, 3, 2)),
        "a column per row": lambda x, k: F.unfold(x, k).mT,
        "windows that do not overlap": lambda x, k: F.unfold(x, k, stride=k),
        "mirrored windows": lambda x, k: F.unfold(x.flip(2, 3), k),
        "padded at the border": lambda x, k: F.unfold(x, k, padding=k // 2),
    },
    right={
        "unfold of torch": F.unfold,
        "in double precision": lambda x, k: _columns(x.double(), k),
        "loops": _by_loops,
    },
)
def _(my_columns: object) -> None:
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    for k in (2, 3):
        found, right = my_columns(x.clone(), k), F.unfold(x, k)
        expect(isinstance(found, torch.Tensor), f"Return a tensor, got {type(found).__name__}.")
        expect(
            found.shape == right.shape,
            f"Expected shape {tuple(right.shape)} for 3 channels of 5 × 6 and k = {k}: (images, channels · k · k, "
            f"positions); got {tuple(found.shape)}.",
        )
        found = found.to(right)
        sums = torch.allclose(found.sum(1), right.sum(1), atol=1e-5)
        expect(
            torch.allclose(found.sort(2).values, right.sort(2).values, atol=1e-5) or not sums,
            "Each column holds the right numbers in another order than conv.weight.flatten(1): channel first, then "
            "row, then column of the window.",
        )
        expect(sums, "The columns hold other numbers, or stand in another order: positions go row by row.")
        close_to(found, right, "The shape is right, the numbers are not. Check one window by hand.")


@exercise(
    "08.3",
    wrong={
        "fewer target images are λ, not 1/λ": (10 / 11, 0.1),
        "share of images, λ": (10.0, 20 / 1820),
        "the ratio to the others": (11.0, 20 / 1800),
        "counts the images that were dropped": (11.0, 20 / 2000),
        "one number": 11.0,
        "solved for the share of λ": (99 / 9 - 1, 20 / 1820),
    },
    right={"a list": [11, 1 / 91], "a tensor": torch.tensor([11.0, 20 / 1820], dtype=torch.float64)},
)
def _(answer: object) -> None:
    lam, share = several(answer, 2, "Give two numbers: (lam, share).")
    close_to(lam, 11, "λ is off. With ten classes the share is 1/(1 + 9λ), and it should be 1/100.")
    expect(abs(float(share) - 0.01) > 1e-9, "180 images of the target are not used: they are on neither side.")
    close_to(share, 20 / 1820, "The share is off: target images divided by all images that are used.")


def _fold(weight, gamma, beta, mean, var, eps):
    scale = gamma / (var + eps).sqrt()
    return weight * scale[:, None], beta - mean * scale


@exercise(
    "08.4",
    wrong={
        "variance for standard deviation": lambda w, g, b, m, v, e: (w * (g / v)[:, None], b - m * g / v),
        "forgets eps": lambda w, g, b, m, v, e: _fold(w, g, b, m, v, 0.0),
        "mean not scaled": lambda w, g, b, m, v, e: (_fold(w, g, b, m, v, e)[0], b - m),
        "sign of the mean": lambda w, g, b, m, v, e: _fold(w, g, b, -m, v, e),
        "scales columns": lambda w, g, b, m, v, e: (w * (g / (v + e).sqrt())[None, :], _fold(w, g, b, m, v, e)[1]),
        "weight only": lambda w, g, b, m, v, e: _fold(w, g, b, m, v, e)[0],
        "old bias": lambda w, g, b, m, v, e: (_fold(w, g, b, m, v, e)[0], b),
    },
    right={
        "a list": lambda w, g, b, m, v, e: [*_fold(w, g, b, m, v, e)],
        "through a diagonal": lambda w, g, b, m, v, e: (
            torch.diag(g * (v + e).rsqrt()) @ w,
            b - torch.diag(g * (v + e).rsqrt()) @ m,
        ),
    },
)
def _(my_fold: object) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight, gamma, beta, mean, var, eps = draw(5, 5), draw(5), draw(5), draw(5), draw(5).square() + 0.1, 0.05
    found = my_fold(weight.clone(), gamma, beta, mean, var, eps)
    expect(isinstance(found, (tuple, list)) and len(found) == 2, "Return two things: the new weight and the new bias.")
    right = _fold(weight, gamma, beta, mean, var, eps)
    close_to(
        found[0],
        right[0],
        "The weight is off. One factor for each output channel, that is for each row: γ over the standard deviation, "
        "which is the square root of var + eps.",
    )
    close_to(found[1], right[1], "The weight is right, the bias is not. Put z = 0 into γ(z − μ)/σ + β.")


@exercise(
    "08.5",
    wrong={"the sample": 1, "the layer": 3, "the last line": 6, "not a line": 9, "text": "4", "the test": 5},
    right=line_forms(4),
)
def _(line: int) -> None:
    expect(line in range(1, 7), "Answer with the number of a line, 1 to 6.")
    expect(line != 1, "Thirty images may be few, but saying so is honest. Where do they turn into many?")
    expect(line != 6, "The conclusion follows from line 5, and line 5 from a number. What does that number count?")
    expect(line == 4, "That line is fine. What is counted, and are those things independent?")
