"""float32 against float64: how far sums and engrams are from the formula, over condition numbers, scales and dtypes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import engramlib as el

CONDITIONS = [1e0, 1e2, 1e4, 1e6, 1e8, 1e10, 1e12]
MODELS, SUMS = (torch.float64, torch.float32), (torch.float64, torch.float32)


def data(n: int, d: int, condition: float, generator: torch.Generator) -> Tensor:
    """n examples whose second moments have the condition number: (n, d), float64."""
    u, _ = torch.linalg.qr(torch.randn(n, d, generator=generator).double())
    v, _ = torch.linalg.qr(torch.randn(d, d, generator=generator).double())
    return n**0.5 * (u * torch.logspace(0, -0.5, d, base=condition).double()) @ v.T


def dense(w: Tensor, plus: Tensor, minus: Tensor, rcond: float = 1e-6, lam: float = 1.0) -> Tensor:
    """W Σ⁺ (Σ⁺ + λΣ⁻)† in float64, by an SVD."""
    return w @ plus @ torch.linalg.pinv(plus + lam * minus, rtol=rcond)


def gap(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right).norm() / right.norm().clamp_min(1e-300))


def rows(d: int = 24, out: int = 10, n: int = 400) -> list[dict[str, Any]]:
    """One row for each condition number and pair of dtypes: errors of Σ⁺ and of W⁺, relative, Frobenius.

    The examples are rounded to the model's dtype first, so that the error is that of the work and not of the data. At
    ``rcond`` 1e-6 small directions are cut; ``uncut`` is the error of the estimator at 1e-15, which keeps them.
    """
    found = []
    for condition in CONDITIONS:
        for model_dtype in MODELS:
            for dtype in SUMS:
                generator = torch.Generator().manual_seed(1)
                x = data(n, d, condition, generator).to(model_dtype)
                w = torch.randn(out, d, generator=generator).to(model_dtype)
                model = nn.Linear(d, out, bias=False).to(model_dtype)
                model.weight = nn.Parameter(w.clone())
                plus, minus = (part.double().T @ part.double() for part in (x[: n // 3], x[n // 3 :]))
                target, reference = (el.collect(model, [part], dtype=dtype) for part in (x[: n // 3], x[n // 3 :]))
                row: dict[str, Any] = {
                    "condition": condition,
                    "model": str(model_dtype).removeprefix("torch."),
                    "sums": str(dtype).removeprefix("torch."),
                    "sigma": gap(target[""], plus),
                }
                for name, rcond in (("engram", 1e-6), ("uncut", 1e-15)):
                    engram = el.extract(model, target, reference, rcond=rcond)
                    row[name] = gap(engram[""].weight, dense(w.double(), plus, minus, rcond))
                found.append({k: float(f"{v:.2g}") if isinstance(v, float) else v for k, v in row.items()})
    return found


def edit_gap(model: nn.Sequential, parts: list[Tensor], alpha: float, lam: float) -> float:
    """Collect, extract and ablate a network of linear layers, against the formula layer by layer in float64."""
    edited = el.ablate(model, el.extract(model, *(el.collect(model, [part]) for part in parts), specificity=lam), alpha)
    worst = 0.0
    exact = copy.deepcopy(model)
    for number, layer in enumerate(model):
        if not isinstance(layer, nn.Linear):
            continue
        with torch.no_grad():
            seen = [exact[:number](part).double() for part in parts]
        bias = layer.bias is not None
        seen = [torch.cat([x, torch.ones(len(x), 1).double()], 1) if bias else x for x in seen]
        w = layer.weight.detach().double()
        w = torch.cat([w, layer.bias.detach().double()[:, None]], 1) if bias else w
        right = w - alpha * dense(w, *(x.T @ x for x in seen), lam=lam)
        mine = edited[number].weight.detach().double()
        mine = torch.cat([mine, edited[number].bias.detach().double()[:, None]], 1) if bias else mine
        worst = max(worst, float((mine - right).norm() / (w.norm() + right.norm())))
    return worst
