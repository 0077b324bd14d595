"""How a layer is a matrix that acts on columns, and what its outputs are.

Everything the method needs of a layer type is a :class:`LayerKind` with four answers: which columns does the layer
read, which matrix multiplies them, how does a matrix of that shape go back into the layer's own parameters, and where
do the products stand in its output? A new layer type is one subclass and one :func:`engramlib.layers.register` call;
nothing else in the package changes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engramlib._attention import Projection
from engramlib._experts import Expert
from engramlib._patches import patch_moments, patches, worth_it

if TYPE_CHECKING:
    from jaxtyping import Float


M = TypeVar("M", bound=nn.Module)
Conv = TypeVar("Conv", bound=nn.modules.conv._ConvNd)
Transposed = nn.modules.conv._ConvTransposeNd
Norm = TypeVar("Norm", nn.LayerNorm, nn.modules.batchnorm._BatchNorm)


class LayerKind(ABC, Generic[M]):
    """One type of layer, seen as ``Z = W X``. In code, the columns of X are the rows of a tensor ``(..., d)``.

    Attributes:
        optional: True = found only when ``layers`` names it, not by ``layers=None``.
        bias_is_coordinate: False = the layer's bias is no constant coordinate of its columns, and never absorbed.
        routed: True = the layer reads some of the tokens: it is called with them, their places and the number of all.
    """

    optional: bool = False
    bias_is_coordinate: bool = True
    routed: bool = False

    @abstractmethod
    def matches(self, module: nn.Module) -> bool:
        """Whether ``module`` is of this kind."""

    @abstractmethod
    def columns(self, module: M, x: Tensor) -> Float[Tensor, "n *positions d"]:
        """The columns that ``module`` reads from its input ``x``; with groups, ``(n, positions, groups, d)``."""

    @abstractmethod
    def matrix(self, module: M, weight: Tensor) -> Float[Tensor, "*groups out d"]:
        """``weight``, in the layer's own shape, as the matrix W."""

    @abstractmethod
    def weight(self, module: M, matrix: Float[Tensor, "*groups out d"]) -> Tensor:
        """The inverse of :meth:`matrix`."""

    def outputs(self, module: M, z: Float[Tensor, "n *positions out"], x: Tensor, shape: torch.Size) -> Tensor | None:
        """Products Z = W X, in the order of :meth:`columns` of ``x``, as the layer's output of ``shape``.

        Linear in ``z``, up to a bias that no column stands for. So ``outputs(W columns(x))`` is ``module(x)``, which
        is checked on the first batch of every pass, and its transpose turns a gradient at the output into one at Z.
        None = not known: nothing is checked, and what needs such gradients refuses the layer.
        """
        return None

    def moments(self, module: M, x: Tensor, dtype: torch.dtype, absorbed: bool) -> tuple[Tensor, int] | None:
        """(Σ, number of columns) of the batch ``x``, where there is a faster way than through the columns."""
        return None

    def groups(self, module: M) -> int | None:
        """Number of independent blocks, or None when W is one matrix."""
        return None

    def example_ndim(self, module: M) -> int | None:
        """Dimensions of one input without a batch; None when any number of leading dimensions is a batch."""
        return None

    def refuses(self, module: M) -> str | None:
        """Why this module of the kind cannot be read or edited; None = it can."""
        return None

    def reading(self, module: M) -> Hashable:
        """Two layers with equal readings make the same columns from the same tensor, so they can share one Σ."""
        return type(self).__name__


class LinearKind(LayerKind[M]):
    """``torch.nn.Linear``: the columns are the input vectors."""

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear)

    def columns(self, module: M, x: Tensor) -> Tensor:
        return x

    def matrix(self, module: M, weight: Tensor) -> Tensor:
        return weight

    def weight(self, module: M, matrix: Tensor) -> Tensor:
        return matrix

    def outputs(self, module: M, z: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
        return z.reshape(shape)

    def reading(self, module: M) -> Hashable:
        return "vectors"


class TransposedLinearKind(LinearKind[nn.Module]):
    """Hugging Face ``Conv1D`` (GPT-2): a linear layer whose weight is stored as (in, out)."""

    def matches(self, module: nn.Module) -> bool:
        # Recognised by name, because the method must not import transformers.
        return any(c.__name__ == "Conv1D" and c.__module__.startswith("transformers.") for c in type(module).__mro__)

    def matrix(self, module: nn.Module, weight: Tensor) -> Tensor:
        return weight.mT

    def weight(self, module: nn.Module, matrix: Tensor) -> Tensor:
        return matrix.mT


class ProjectionKind(LinearKind[Projection]):
    """Query, key or value of ``torch.nn.MultiheadAttention``: rows of its ``in_proj_weight``, as a linear layer.

    They are found as ``<attention>.q_proj``, ``.k_proj`` and ``.v_proj``, beside its ``.out_proj``, which is a plain
    linear layer. In self-attention the three read one tensor and share one Σ.
    """

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, Projection)


class ExpertKind(LinearKind[Expert]):
    """One projection of one expert of a fused mixture (transformers 5): an entry of a three-dimensional parameter.

    They are found as ``<experts>.0.gate_up_proj``, ``<experts>.0.down_proj``, ``<experts>.1.gate_up_proj``, ...; gate
    and up stay one matrix, as they are stored. Columns are the tokens that were routed to the expert.
    """

    routed = True

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, Expert)

    def matrix(self, module: Expert, weight: Tensor) -> Tensor:
        return weight.mT if module.transposed else weight

    def weight(self, module: Expert, matrix: Tensor) -> Tensor:
        return matrix.mT if module.transposed else matrix


class Conv2dKind(LayerKind[Conv]):
    """``torch.nn.Conv2d``: the columns are the image patches, one for each output position."""

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Conv2d)

    def example_ndim(self, module: Conv) -> int:
        return 3

    def groups(self, module: Conv) -> int | None:
        return module.groups if module.groups > 1 else None

    def columns(self, module: Conv, x: Tensor) -> Tensor:
        kernel, dilation, stride = self.settings(module)
        wide = patches(self.padded(module, x), kernel, dilation, stride)  # (groups·d, n, positions)
        if module.groups > 1:
            return wide.unflatten(0, (module.groups, -1)).permute(2, 3, 0, 1)
        return wide.permute(1, 2, 0)

    def settings(self, module: Conv) -> tuple[tuple[int, ...], ...]:
        """Kernel size, dilation and stride, (height, width) each."""
        return module.kernel_size, module.dilation, module.stride

    def padded(self, module: Conv, x: Tensor) -> Tensor:
        """The images as the kernel sees them."""
        pads = self.pads(module)
        if not any(pads):
            return x
        return F.pad(x, pads, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)

    def pads(self, module: Conv) -> list[int]:
        """Left, right, top, bottom."""
        if isinstance(module.padding, str):
            return list(module._reversed_padding_repeated_twice)  # torch's own arithmetic for "same"
        return [p for p in reversed(module.padding) for _ in range(2)]

    def moments(self, module: Conv, x: Tensor, dtype: torch.dtype, absorbed: bool) -> tuple[Tensor, int] | None:
        kernel, dilation, stride = self.settings(module)
        if module.groups > 1 or stride != (1, 1) or x.shape[1] != module.in_channels:
            return None
        pads = self.pads(module)
        height, width = x.shape[-2] + pads[2] + pads[3], x.shape[-1] + pads[0] + pads[1]
        reach = [(k - 1) * step for k, step in zip(kernel, dilation, strict=True)]
        outputs = (height - reach[0], width - reach[1])
        if not worth_it(x.shape[1], len(x), outputs, kernel, dilation):
            return None
        sigma = patch_moments(self.padded(module, x.to(dtype)), kernel, dilation, absorbed)
        return sigma, len(x) * outputs[0] * outputs[1]

    def matrix(self, module: Conv, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        return matrix.unflatten(0, (module.groups, -1)) if module.groups > 1 else matrix

    def weight(self, module: Conv, matrix: Tensor) -> Tensor:
        return matrix.reshape(module.weight.shape)

    def outputs(self, module: Conv, z: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
        return z.flatten(2).mT.reshape(shape)  # the channels of all groups, then the positions

    def reading(self, module: Conv) -> Hashable:
        if set(module.kernel_size) == set(module.stride) == {1} and not any(self.pads(module)):
            return ("pixels", module.groups)
        settings = (
            module.kernel_size,
            module.stride,
            module.padding,
            module.padding_mode,
            module.dilation,
            module.groups,
        )
        return ("patches", *settings)


class Conv1dKind(Conv2dKind[nn.Conv1d]):
    """``torch.nn.Conv1d``: a convolution of images one pixel high."""

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Conv1d)

    def example_ndim(self, module: nn.Conv1d) -> int:
        return 2

    def columns(self, module: nn.Conv1d, x: Tensor) -> Tensor:
        return super().columns(module, x.unsqueeze(-2))

    def moments(self, module: nn.Conv1d, x: Tensor, dtype: torch.dtype, absorbed: bool) -> tuple[Tensor, int] | None:
        return super().moments(module, x.unsqueeze(-2), dtype, absorbed)

    def settings(self, module: nn.Conv1d) -> tuple[tuple[int, ...], ...]:
        return (1, *module.kernel_size), (1, *module.dilation), (1, *module.stride)

    def pads(self, module: nn.Conv1d) -> list[int]:
        return [*super().pads(module), 0, 0]


class ConvTransposeKind(LayerKind[Transposed]):
    """``torch.nn.ConvTranspose2d`` (1d and 3d too): the columns are the input's pixels, C_in / groups high.

    W has a row for each output channel and kernel offset, (C_out / groups · kernel) × (C_in / groups). ``W x`` is the
    stamp that a pixel presses into the output; stride, padding, dilation and output padding say where, and where stamps
    overlap they are added. The estimator works on the stamps, before they overlap or are cut at the border.

    The bias is added once to each *output* pixel, after the stamps, so no constant coordinate of the *input* pixels
    can stand for it (where two stamps overlap it would be counted twice, and one bias would have to be as many as the
    kernel has offsets). It is therefore never part of the memory: ``bias="absorb"`` means ``"keep"`` here.
    """

    bias_is_coordinate = False

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))

    def example_ndim(self, module: Transposed) -> int:
        return len(module.kernel_size) + 1

    def groups(self, module: Transposed) -> int | None:
        return module.groups if module.groups > 1 else None

    def columns(self, module: Transposed, x: Tensor) -> Tensor:
        pixels = x.flatten(2).transpose(0, 1).contiguous()  # (C_in, n, positions): a product reads it as it is
        if module.groups > 1:
            return pixels.unflatten(0, (module.groups, -1)).permute(2, 3, 0, 1)
        return pixels.permute(1, 2, 0)

    def matrix(self, module: Transposed, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)  # (C_in, C_out / groups · kernel)
        return (matrix.unflatten(0, (module.groups, -1)) if module.groups > 1 else matrix).mT

    def weight(self, module: Transposed, matrix: Tensor) -> Tensor:
        return matrix.mT.reshape(module.weight.shape)

    def outputs(self, module: Transposed, z: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
        sides = len(module.kernel_size)
        stamps = z.flatten(2).mT.unflatten(-1, x.shape[-sides:])  # (n, groups · C_out / groups · kernel, *input sides)
        # A transposed convolution with unit vectors for weights presses stamps that are given, and adds them up.
        out, kernel = module.out_channels // module.groups, module.kernel_size
        unit = (
            torch.eye(out * math.prod(kernel), dtype=z.dtype, device=z.device)
            .view(-1, out, *kernel)
            .repeat(module.groups, *[1] * (sides + 1))
        )
        press = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[sides - 1]
        bias = None if module.bias is None else module.bias.detach().to(z)
        how: dict[str, Any] = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
        least = press(stamps[:1], unit, None, groups=module.groups, **how).shape[-sides:]
        extra = [wanted - has for wanted, has in zip(shape[-sides:], least, strict=True)]
        return press(stamps, unit, bias, output_padding=extra, groups=module.groups, **how).reshape(shape)

    def reading(self, module: Transposed) -> Hashable:
        return ("pixels", module.groups)


class NormKind(LayerKind[Norm]):
    """A normalisation's affine map, y = γ x̂ + β: one group a channel, W = [γ β] acting on [x̂; 1].

    Only when ``layers`` names it: the paper edits linear layers and convolutions. x̂ is computed in float64.
    """

    optional = True

    def groups(self, module: Norm) -> int:
        return module.weight.numel()

    def matrix(self, module: Norm, weight: Tensor) -> Tensor:
        return weight.reshape(-1, 1, 1)

    def weight(self, module: Norm, matrix: Tensor) -> Tensor:
        return matrix.reshape(module.weight.shape)

    def outputs(self, module: Norm, z: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
        return z.reshape(shape)

    @abstractmethod
    def normalised(self, module: Norm, x: Tensor) -> Tensor:
        """x̂ as (n, positions, channels)."""

    def columns(self, module: Norm, x: Tensor) -> Tensor:
        return self.normalised(module, _wide(x)).unsqueeze(-1)

    def moments(self, module: Norm, x: Tensor, dtype: torch.dtype, absorbed: bool) -> tuple[Tensor, int]:
        x = self.normalised(module, _wide(x)).flatten(0, -2)
        square, total = x.square().sum(0), x.sum(0)
        if not absorbed:
            return square.view(-1, 1, 1).to(dtype), len(x)
        rows = [square, total, total, torch.full_like(total, len(x))]
        return torch.stack(rows, -1).view(-1, 2, 2).to(dtype), len(x)

    def refuses(self, module: Norm) -> str | None:
        return "it has no weight to edit (affine=False)" if module.weight is None else None


class BatchNormKind(NormKind[nn.modules.batchnorm._BatchNorm]):
    """``torch.nn.BatchNorm1d`` and ``BatchNorm2d`` in evaluation mode, where x̂ comes from the running statistics."""

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))

    def example_ndim(self, module: nn.modules.batchnorm._BatchNorm) -> int:
        return 3 if isinstance(module, nn.BatchNorm2d) else 1

    def normalised(self, module: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != module.num_features:
            raise ValueError(f"a batch norm of {module.num_features} channels cannot read shape {tuple(x.shape)}")
        assert module.running_mean is not None and module.running_var is not None  # refused otherwise
        mean, variance = module.running_mean.to(x), module.running_var.to(x)
        x = x.flatten(2).mT if x.ndim > 2 else x.unsqueeze(1)  # (n, positions, channels)
        return (x - mean) * (variance + module.eps).rsqrt()

    def outputs(self, module: nn.modules.batchnorm._BatchNorm, z: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
        return z.flatten(2).mT.reshape(shape)  # (n, positions, channels, 1) -> channels first

    def reading(self, module: nn.modules.batchnorm._BatchNorm) -> Hashable:
        return ("batch norm", id(module))  # its own running statistics

    def refuses(self, module: nn.modules.batchnorm._BatchNorm) -> str | None:
        if module.running_mean is None:
            return "it has no running statistics, so what it does to one example depends on the others of the batch"
        return super().refuses(module)


class LayerNormKind(NormKind[nn.LayerNorm]):
    """``torch.nn.LayerNorm`` over the last dimension."""

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, nn.LayerNorm)

    def normalised(self, module: nn.LayerNorm, x: Tensor) -> Tensor:
        return F.layer_norm(x, module.normalized_shape, eps=module.eps)

    def reading(self, module: nn.LayerNorm) -> Hashable:
        return ("layer norm", tuple(module.normalized_shape), module.eps)

    def refuses(self, module: nn.LayerNorm) -> str | None:
        if len(module.normalized_shape) != 1:
            return f"it normalises over {len(module.normalized_shape)} dimensions; only the last one is supported"
        return super().refuses(module)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)
