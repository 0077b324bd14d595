"""Checks of chapter 04, Adding and subtracting memories."""

from __future__ import annotations

import torch

from engramlib.lab.teaching.exercises.registry import close_to, exercise, expect


@exercise(
    "04.1",
    wrong={
        "as with fixed engrams": 0.0,
        "one cut only": 0.9,
        "multiplies what is taken": 0.1**10,
        "what is taken": 1 - 0.9**10,
        "one cut too few": 0.9**9,
    },
    right={"two digits": 0.35, "three digits": 0.349},
)
def _(left_over: float) -> None:
    expect(float(left_over) != 0, "That is what fixed engrams leave. Here every cut looks at what is left by then.")
    close_to(left_over, 0.9**10, "Not yet. What does one cut leave of the weight? Then do it ten times.", atol=2e-3)


@exercise(
    "04.2",
    wrong={
        "subtracts": lambda w, e, a: w - torch.tensordot(a, e, dims=1),
        "forgets W": lambda w, e, a: torch.tensordot(a, e, dims=1),
        "one network only": lambda w, e, a: w + torch.tensordot(a[0], e, dims=1),
        "ignores the coefficients": lambda w, e, a: (w + e.sum(0)).expand(len(a), *w.shape),
        "a mean, not a sum": lambda w, e, a: w + torch.tensordot(a, e, dims=1) / len(e),
        "W once for each engram": lambda w, e, a: torch.einsum("sc,coi->soi", a, w + e),
    },
    right={
        "einsum": lambda w, e, a: w + torch.einsum("sc,coi->soi", a, e),
        "a loop": lambda w, e, a: torch.stack([w + sum(c * part for c, part in zip(row, e, strict=True)) for row in a]),
    },
)
def _(compose: object) -> None:
    generator = torch.Generator().manual_seed(0)
    w, e, a = (torch.randn(*size, generator=generator).double() for size in ((2, 3), (4, 2, 3), (5, 4)))
    right = torch.stack([w + sum(c * part for c, part in zip(row, e, strict=True)) for row in a])
    mine = compose(w, e, a)
    expect(isinstance(mine, torch.Tensor), f"The function should return a tensor, got {type(mine).__name__}.")
    expect(
        mine.shape == right.shape,
        f"For 5 networks and a layer of 2 × 3 the result is (5, 2, 3); yours is {tuple(mine.shape)}.",
    )
    expect(not torch.allclose(mine, right - w), "The trained weights W are missing from every network.")
    close_to(mine, right, "Right shape, wrong numbers. Is it W *plus* Σ a_c W_c⁺, with the coefficients of each row?")


@exercise(
    "04.3",
    wrong={
        "n whole pies": lambda s, n: torch.stack([s] * n),
        "identity matrices": lambda s, n: torch.stack([torch.eye(len(s), dtype=s.dtype)] * n),
        "all in the first": lambda s, n: torch.stack([s] + [0 * s] * (n - 1)),
        "a negative slice": lambda s, n: torch.stack([2 * s, -s] + [0 * s] * (n - 2)),
        "slices of different size": lambda s, n: torch.stack([2 * (k + 1) / (n * (n + 1)) * s for k in range(n)]),
        "not symmetric": lambda s, n: torch.stack([(2 * s.triu(1) + s.diag().diag()) / n] * n),
    },
    right={
        "expanded": lambda s, n: (s / n).expand(n, *s.shape),
        "repeated": lambda s, n: s.repeat(n, 1, 1) / n,
    },
)
def _(meaningless: object) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 9, generator=generator).double()
    x[4] = x[0] - x[1]  # rank 4 of 5
    sigma = x @ x.T
    for n in (2, 7):
        parts = meaningless(sigma, n)
        expect(isinstance(parts, torch.Tensor), f"The function should return a tensor, got {type(parts).__name__}.")
        expect(parts.shape == (n, 5, 5), f"For n = {n}, d = 5 the shape is ({n}, 5, 5); yours is {tuple(parts.shape)}.")
        close_to(parts.sum(0), sigma, "The parts must add up to Σ, or their engrams do not add up to W.")
        expect(torch.allclose(parts, parts.mT), "A second moment is symmetric.")
        expect(
            bool((torch.linalg.eigvalsh(parts) > -1e-8).all()),
            "A second moment has no negative eigenvalues; yours has.",
        )
        shares = parts @ torch.linalg.pinv(sigma, hermitian=True)
        expect(
            torch.allclose(shares, shares[:1].expand_as(shares), atol=1e-6),
            "They add up, but the engrams differ from each other. Make every slice the same.",
        )


@exercise(
    "04.4",
    wrong={
        "one engram only": lambda lam, n: 1 / (1 + lam * (n - 1)),
        "complete at any λ": lambda lam, n: 1.0,
        "weighs the target too": lambda lam, n: 1 / lam,
        "n instead of n − 1": lambda lam, n: n / (1 + lam * n),
        "weighs itself as well": lambda lam, n: n / (lam + lam * (n - 1)),
        "λ on the target": lambda lam, n: lam * n / (lam + n - 1),
    },
    right={
        "a tensor": lambda lam, n: torch.tensor([n / (1 + lam * (n - 1))]),
        "added up": lambda lam, n: sum(1 / (1 + lam * (n - 1)) for _ in range(n)),
    },
)
def _(comes_back: object) -> None:
    close_to(comes_back(1.0, 10), 1.0, "At λ = 1 completeness holds: everything comes back, share 1.")
    for lam, n in ((3.0, 10), (0.5, 4), (10.0, 2)):
        close_to(
            comes_back(lam, n),
            n / (1 + lam * (n - 1)),
            f"Wrong at λ = {lam:g}, n = {n}. One engram takes 1 / (1 + λ times the other n − 1); add up n of them.",
        )
