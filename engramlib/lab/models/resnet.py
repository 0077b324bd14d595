"""Residual networks for small images, out of torchvision's basic block (He et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock


class ResNet(nn.Module):
    """A residual network for small images: a 3 x 3 stem of stride 1, one stage a width, mean pooling, a linear head.

    Layers: `conv1`, `bn1`, `layer1` ... `layerK` (torchvision's `BasicBlock`s), `fc`, named as torchvision names them.
    The first stage keeps the resolution, each further one halves it. `mean` and `std` are buffers, so that the
    network takes pixels in [0, 1].
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], n_classes: int, in_channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, in_channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, in_channels, 1, 1), 0.25))
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.stages = [f"layer{i}" for i in range(1, len(widths) + 1)]
        before = widths[0]
        for i, (name, width, depth) in enumerate(zip(self.stages, widths, blocks, strict=True)):
            stage = [_block(before, width, stride=1 if i == 0 else 2)] + [
                _block(width, width) for _ in range(depth - 1)
            ]
            setattr(self, name, nn.Sequential(*stage))
            before = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The penultimate layer, N x widths[-1]: what the classifier `fc` reads."""
        x = self.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.avgpool(x).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x))


def resnet(
    widths: Sequence[int],
    blocks: Sequence[int] | int = 1,
    *,
    n_classes: int = 10,
    in_channels: int = 3,
    seed: int = 0,
) -> ResNet:
    """A residual network for small images; `widths` = channels of each stage, `blocks` = basic blocks in each.

    Input N x in_channels x H x W, pixels in [0, 1]; output N x n_classes logits. `seed` fixes the weights and leaves
    torch's own random state as it was. Two convolutions a block: `resnet((16, 32))` has 6 with the stem and the
    shortcut; `resnet((32, 64, 128, 256))` (ResNet-10, 1.2 M parameters) is the one that a CPU can train on CIFAR-10.
    """
    depths = [blocks] * len(widths) if isinstance(blocks, int) else list(blocks)
    if not widths or any(w < 1 for w in widths) or any(b < 1 for b in depths) or len(depths) != len(widths):
        raise ValueError(
            f"resnet: widths and blocks need one positive number a stage; got widths={list(widths)}, blocks={blocks}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet(widths, depths, n_classes, in_channels)


def resnet18(*, n_classes: int = 10, seed: int = 0) -> ResNet:
    """ResNet-18 with the CIFAR stem (3 x 3, stride 1, no max-pooling): 11.2 M parameters. The paper's, Fig. 4."""
    return resnet((64, 128, 256, 512), 2, n_classes=n_classes, seed=seed)


def _block(before: int, width: int, stride: int = 1) -> BasicBlock:
    from torchvision.models.resnet import BasicBlock  # a second or two, for those who build one

    shortcut = None
    if stride != 1 or before != width:
        shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    return BasicBlock(before, width, stride, shortcut)
