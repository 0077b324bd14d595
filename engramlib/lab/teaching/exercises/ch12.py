"""Checks of chapter 12, Autoencoders and attribute arithmetic."""

from __future__ import annotations

import torch

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect, line_forms, several

_LAM = 0.35 * 0.95 / (0.05 * 0.65)


@exercise(
    "12.1",
    wrong={
        "the ratio of the shares": (0.35, 7.0),
        "share in percent": (35, _LAM),
        "odds for a share": (0.35 / 0.65, _LAM),
        "forgets that the target stays in the sum": (0.35, 0.35 / (0.05 * 0.65)),
        "one number": 0.35,
        "λ the other way round": (0.35, 1 / _LAM),
    },
    right={"a list": [0.35, _LAM], "rounded": torch.tensor([0.35, 10.2])},
)
def _(answer: object) -> None:
    share, lam = several(answer, 2, "Give two numbers: (share, lam).")
    expect(share != 35, "Give the share as a number between 0 and 1.")
    close_to(share, 0.35, "The share is off: Σ⁺ / (Σ⁺ + Σ⁻), and the two add up to all images.")
    close_to(
        lam,
        _LAM,
        "The share is right, λ is not: solve 0.35 / (0.35 + 0.65 λ) = 0.05. λ multiplies only those who do not smile.",
        rtol=0.01,
    )


def _inside_outside(drawn: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor) -> tuple:
    error = (drawn - wanted).square().mean(1)
    return error[mask].mean(), error[~mask].mean()


def _per_face(drawn: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor) -> tuple:
    error, m = (drawn - wanted).square().mean(1), mask.to(drawn)
    return tuple(((error * side).sum((1, 2)) / side.sum((1, 2))).mean() for side in (m, 1 - m))


def _over_all_pixels(drawn: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor) -> tuple:
    error = (drawn - wanted).square().mean(1)
    return (error * mask).mean(), (error * ~mask).mean()


@exercise(
    "12.2",
    wrong={
        "swaps the two": lambda d, w, m: _inside_outside(d, w, m)[::-1],
        "averages faces instead of pixels": _per_face,
        "divides by all pixels": _over_all_pixels,
        "sums the channels": lambda d, w, m: tuple(d.shape[1] * v for v in _inside_outside(d, w, m)),
        "absolute error": lambda d, w, m: _inside_outside((d - w).abs().sqrt(), torch.zeros_like(w), m),
        "one number": lambda d, w, m: _inside_outside(d, w, m)[0],
    },
    right={
        "floats in a list": lambda d, w, m: [float(v) for v in _inside_outside(d, w, m)],
        "sums over counts": lambda d, w, m: tuple(
            ((d - w).square().mean(1) * side).sum() / side.sum() for side in (m, ~m)
        ),
        "numpy": lambda d, w, m: tuple(v.numpy() for v in _inside_outside(d, w, m)),
    },
)
def _(inside_outside: object) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn, wanted = torch.rand(2, 5, 3, 6, 6, generator=generator, dtype=torch.float64)
    mask = torch.rand(5, 6, 6, generator=generator) < torch.tensor([0.1, 0.2, 0.3, 0.4, 0.8])[:, None, None]
    found = inside_outside(drawn.clone(), wanted.clone(), mask.clone())
    expect(isinstance(found, (tuple, list)) and len(found) == 2, "Return two numbers: inside, outside.")
    right = _inside_outside(drawn, wanted, mask)
    swapped = abs(float(found[0]) - float(right[1])) + abs(float(found[1]) - float(right[0])) < 1e-9
    expect(not swapped, "The two are swapped: inside is where the mask is true.")
    parts = _over_all_pixels(drawn, wanted, mask)
    diluted = abs(float(found[0]) - float(parts[0])) < 1e-9
    expect(not diluted, "Divide by the number of pixels inside, not by all of them: pick them with error[mask].")
    close_to(
        found[0],
        right[0],
        "The first number is off. Square, mean over channels, then the mean over all masked pixels together.",
    )
    close_to(found[1], right[1], "The first number is right, the second is not: all pixels where the mask is false.")


@exercise(
    "12.3",
    wrong={"the engram": 3, "the metric": 8, "the distances": 6, "not a line": 9, "text": "5", "two lines": [4, 5]},
    right=line_forms(5),
)
def _(line: int) -> None:
    expect(line in range(1, 9), "Answer with the number of a line, 1 to 8.")
    expect(line != 3, "That is the paper's setting. It costs most faces their identity; why does the score not see it?")
    expect(line not in (6, 7, 8), "That line is how the chapter does it, too. What are its two sets of pictures?")
    expect(line == 5, "That line is fine. Which pictures are compared with which?")


def _moved(z: torch.Tensor, has: torch.Tensor, centre: torch.Tensor, whiten: bool = True) -> torch.Tensor:
    d = z[has].mean(0) - z[~has].mean(0)
    centred = z - z.mean(0)
    w = torch.linalg.solve(centred.T @ centred / len(z), d) if whiten else d
    return z - torch.outer((z - centre) @ w / (w @ d), d)


def _right(z: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
    return _moved(z, has, z[~has].mean(0))


def _by_row(z: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
    mean_without, d = z[~has].mean(0), z[has].mean(0) - z[~has].mean(0)
    w = torch.linalg.pinv(torch.cov(z.T, correction=0)) @ d
    return torch.stack([row - d * ((row - mean_without) @ w) / (w @ d) for row in z])


@exercise(
    "12.4",
    wrong={
        "LEACE's centre": lambda z, has: _moved(z, has, z.mean(0)),
        "no covariance": lambda z, has: _moved(z, has, z[~has].mean(0), whiten=False),
        "subtracts d from all": lambda z, has: z - (z[has].mean(0) - z[~has].mean(0)),
        "moves only the rows that have it": lambda z, has: torch.where(has[:, None], _right(z, has), z),
        "wrong side": lambda z, has: _moved(z, has, z[has].mean(0)),
        "one row": lambda z, has: _right(z, has)[0],
    },
    right={"numpy": lambda z, has: _right(z, has).numpy(), "row by row": _by_row},
)
def _(erase: object) -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    has = torch.rand(60, generator=generator) < 0.3
    z = torch.randn(60, 4, generator=generator, dtype=torch.float64) @ mix
    z = z + has[:, None] * torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64) + 1.0
    found = torch.as_tensor(erase(z.clone(), has.clone()), dtype=torch.float64)
    expect(
        found.shape == z.shape,
        f"Return one row for each row of z: expected shape {tuple(z.shape)}, got {tuple(found.shape)}.",
    )
    gap = (found[has].mean(0) - found[~has].mean(0)).norm()
    expect(
        gap < 1e-6, "The two groups still have different means. With C in the right place they agree, whatever μ is."
    )
    expect(
        not torch.allclose(found[~has], z[~has]),
        "Move all rows, not only those that have it: you are not told which do.",
    )
    level = (found.mean(0) - z[~has].mean(0)).norm()
    expect(level < 1e-6, "The means agree, but not at the mean of the codes without: look at μ.")
    close_to(
        found, _right(z, has), "The means are right, the rows are not: w = C⁻¹ d, and C is the covariance of all codes."
    )
