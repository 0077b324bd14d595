"""Moments of a convolution's patches, against what one would write: unfold in float64, multiply."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import engramlib as el
from tests.benchmarks import data
from tests.benchmarks.peak import peak
from tests.benchmarks.peer import relative
from tests.benchmarks.timing import digits, interleaved, ratio, threads

# channels, side of the image, kernel, stride, images
SHAPES = [
    (64, 32, 3, 1, 16),
    (128, 16, 3, 1, 32),
    (16, 32, 3, 1, 32),
    (3, 112, 7, 2, 16),
    (256, 8, 3, 1, 64),
]


def unfolded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Σ by the definition: every patch a column, in float64."""
    patches = F.unfold(x.double(), layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    columns = patches.transpose(0, 1).flatten(1)
    return columns @ columns.T


def scene(channels: int, side: int, kernel: int, stride: int, images: int, device: str) -> tuple[nn.Conv2d, Tensor]:
    layer = nn.Conv2d(channels, 16, kernel, stride, kernel // 2, bias=False).to(device)
    x, _ = data.images(images, channels, side, 1)
    return layer, F.relu(x - 0.5).to(device)  # as a layer reads it: half of it is zero


def measure(device: str, thread_count: int, rounds: int, shrink: int = 1) -> list[dict[str, Any]]:
    """One row a shape: time beside unfolding (both run the layer), peak memory of both, and their difference."""
    rows = []
    with threads(thread_count), torch.no_grad():
        for channels, side, kernel, stride, images in SHAPES:
            layer, x = scene(channels, side, kernel, stride, max(2, images // shrink), device)

            def by_hand(layer: nn.Conv2d = layer, x: Tensor = x) -> Tensor:
                layer(x)
                return unfolded(layer, x)

            def ours(layer: nn.Conv2d = layer, x: Tensor = x) -> el.Moments:
                return el.collect(layer, [x])

            seconds = interleaved({"unfold": by_hand, "ours": ours}, rounds, device)
            rows.append(
                {"channels": channels, "side": side, "kernel": kernel, "stride": stride, "images": len(x)}
                | {"speed-up": ratio(seconds, "unfold", "ours")}
                | {"gap": digits(relative(ours()[""], by_hand()), 2)}
            )
    return rows


def weigh(device: str, shrink: int) -> list[dict[str, float]]:
    """Peak MB of both, shape by shape; in a process whose freed memory goes back (see ``memory``)."""
    found = []
    with torch.no_grad():
        for *shape, images in SHAPES:
            layer, x = scene(*shape, max(2, images // shrink), device)  # type: ignore[call-arg]
            el.collect(layer, [x[:1]])
            found.append(
                {
                    "MB": round(peak(lambda: el.collect(layer, [x]), device), 1),  # noqa: B023
                    "unfold MB": round(peak(lambda: unfolded(layer, x), device), 1),  # noqa: B023
                }
            )
    return found
