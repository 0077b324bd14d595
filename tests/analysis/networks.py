"""Small networks for the tests of the curvature and of the steps in it."""

from __future__ import annotations

from torch import Tensor, nn


def close(a: Tensor, b: Tensor, tolerance: float = 1e-8) -> bool:
    return bool((a - b).norm() <= tolerance * max(1e-300, float(b.norm())))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 3)).double()


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.Tanh(), nn.Conv2d(3, 4, 2, bias=False), nn.ReLU(), nn.Flatten(),
        nn.Identity(), nn.Linear(16, 3),
    ).double()  # fmt: skip


NETWORKS = {"mlp": (mlp, (4,)), "conv": (convnet, (2, 5, 5))}
