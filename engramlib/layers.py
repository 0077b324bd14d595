"""How a layer is a matrix that acts on columns.

Everything the method needs of a layer type is a :class:`LayerKind` with three answers: which columns does the layer
read, which matrix multiplies them, and how does a matrix of that shape go back into the layer's own parameters? A new
layer type is one subclass and one :func:`register` call; nothing else in the package changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engramlib._names import match_names
from engramlib._patches import patch_moments, worth_it

if TYPE_CHECKING:
    from jaxtyping import Float


class LayerKind(ABC):
    """One type of layer, seen as ``Z = W X``. In code, the columns of X are the rows of a tensor ``(..., d)``."""

    @abstractmethod
    def matches(self, module: nn.Module) -> bool:
        """Whether ``module`` is of this kind."""

    @abstractmethod
    def columns(self, module: nn.Module, x: Tensor) -> Float[Tensor, "n *positions d"]:
        """The columns that ``module`` reads from its input ``x``; with groups, ``(n, positions, groups, d)``."""

    @abstractmethod
    def matrix(self, module: nn.Module, weight: Tensor) -> Float[Tensor, "*groups out d"]:
        """``weight``, in the layer's own shape, as the matrix W."""

    @abstractmethod
    def weight(self, module: nn.Module, matrix: Float[Tensor, "*groups out d"]) -> Tensor:
        """The inverse of :meth:`matrix`."""

    def moments(self, module: nn.Module, x: Tensor, dtype: torch.dtype, absorbed: bool) -> tuple[Tensor, int] | None:
        """(Σ, number of columns) of the batch ``x``, where there is a faster way than through the columns."""
        return None

    def groups(self, module: nn.Module) -> int | None:
        """Number of independent blocks, or None when W is one matrix."""
        return None

    def example_ndim(self, module: nn.Module) -> int | None:
        """Dimensions of one input without a batch; None when any number of leading dimensions is a batch."""
        return None

    def reading(self, module: nn.Module) -> Hashable:
        """Two layers with equal readings make the same columns from the same tensor, so they can share one Σ."""
        return type(self).__name__


class LinearKind(LayerKind):
    """``torch.nn.Linear``: the columns are the input vectors."""

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear)

    def columns(self, module: nn.Module, x: Tensor) -> Tensor:
        return x

    def matrix(self, module: nn.Module, weight: Tensor) -> Tensor:
        return weight

    def weight(self, module: nn.Module, matrix: Tensor) -> Tensor:
        return matrix

    def reading(self, module: nn.Module) -> Hashable:
        return "vectors"


class TransposedLinearKind(LinearKind):
    """Hugging Face ``Conv1D`` (GPT-2): a linear layer whose weight is stored as (in, out)."""

    def matches(self, module: nn.Module) -> bool:
        # Recognised by name, because the method must not import transformers.
        return any(c.__name__ == "Conv1D" and c.__module__.startswith("transformers.") for c in type(module).__mro__)

    def matrix(self, module: nn.Module, weight: Tensor) -> Tensor:
        return weight.mT

    def weight(self, module: nn.Module, matrix: Tensor) -> Tensor:
        return matrix.mT


class Conv2dKind(LayerKind):
    """``torch.nn.Conv2d``: the columns are the image patches, one for each output position."""

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Conv2d)

    def example_ndim(self, module: nn.Module) -> int:
        return 3

    def groups(self, module: nn.Conv2d) -> int | None:
        return module.groups if module.groups > 1 else None

    def columns(self, module: nn.Conv2d, x: Tensor) -> Tensor:
        if x.dtype.itemsize < 4:
            x = x.float()  # unfold has no half-precision kernel on every device; widening is exact
        x = self.padded(module, x)
        patches = F.unfold(x, module.kernel_size, module.dilation, 0, module.stride)  # (n, in·kh·kw, positions)
        if module.groups > 1:
            patches = patches.unflatten(1, (module.groups, -1))  # (n, groups, d, positions)
            return patches.permute(0, 3, 1, 2)
        return patches.mT

    def padded(self, module: nn.Conv2d, x: Tensor) -> Tensor:
        """The images as the kernel sees them."""
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        return F.pad(x, self.pads(module), mode=mode)

    def pads(self, module: nn.Conv2d) -> list[int]:
        """Left, right, top, bottom."""
        if isinstance(module.padding, str):
            return list(module._reversed_padding_repeated_twice)  # torch's own arithmetic for "same"
        return [p for p in reversed(module.padding) for _ in range(2)]

    def moments(self, module: nn.Conv2d, x: Tensor, dtype: torch.dtype, absorbed: bool) -> tuple[Tensor, int] | None:
        if module.groups > 1 or module.stride != (1, 1) or x.shape[1] != module.in_channels:
            return None
        pads = self.pads(module)
        height, width = x.shape[-2] + pads[2] + pads[3], x.shape[-1] + pads[0] + pads[1]
        reach = [(k - 1) * step for k, step in zip(module.kernel_size, module.dilation, strict=True)]
        outputs = (height - reach[0], width - reach[1])
        if not worth_it(x.shape[1], outputs, module.kernel_size, module.dilation):
            return None
        sigma = patch_moments(self.padded(module, x.to(dtype)), module.kernel_size, module.dilation, absorbed)
        return sigma, len(x) * outputs[0] * outputs[1]

    def matrix(self, module: nn.Conv2d, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        return matrix.unflatten(0, (module.groups, -1)) if module.groups > 1 else matrix

    def weight(self, module: nn.Conv2d, matrix: Tensor) -> Tensor:
        return matrix.reshape(module.weight.shape)

    def reading(self, module: nn.Conv2d) -> Hashable:
        settings = (
            module.kernel_size,
            module.stride,
            module.padding,
            module.padding_mode,
            module.dilation,
            module.groups,
        )
        return ("patches", *settings)


_KINDS: list[LayerKind] = [LinearKind(), TransposedLinearKind(), Conv2dKind()]


def register(kind: LayerKind) -> None:
    """Teach the package a layer type. Later registrations win, so a special case may come after a general one."""
    _KINDS.insert(0, kind)


class Layer(NamedTuple):
    """A supported layer of a model: its name, its module, and how to read it."""

    name: str
    module: nn.Module
    kind: LayerKind

    @property
    def has_bias(self) -> bool:
        return getattr(self.module, "bias", None) is not None

    def parameter_name(self, which: str) -> str:
        """Key of ``"weight"`` or ``"bias"`` in the model's state dict."""
        return f"{self.name}.{which}" if self.name else which

    def width(self, absorbed: bool) -> int:
        """d, the height of a column, with the constant 1 counted when the bias is absorbed."""
        return self.kind.matrix(self.module, self.module.weight).shape[-1] + absorbed

    def matrix(self, weight: Tensor, bias: Tensor | None) -> Float[Tensor, "*groups out d"]:
        """W in float64, as [W b] when a bias is given: the matrix that acts on [x; 1]."""
        matrix = self.kind.matrix(self.module, weight.detach()).double()
        if bias is None:
            return matrix
        column = bias.detach().double().reshape(*matrix.shape[:-1], 1)
        return torch.cat([matrix, column], dim=-1)

    def parameters(self, matrix: Float[Tensor, "*groups out d"], absorbed: bool) -> tuple[Tensor, Tensor | None]:
        """The inverse of :meth:`matrix`: (weight, bias) in the layer's own shapes; bias is None unless absorbed."""
        bias = matrix[..., -1].reshape(-1) if absorbed else None
        return self.kind.weight(self.module, matrix[..., :-1] if absorbed else matrix), bias


def kind_of(module: nn.Module) -> LayerKind | None:
    """How to read ``module``, or None if the method does not reach it."""
    return next((kind for kind in _KINDS if kind.matches(module)), None)


def supported_layers(model: nn.Module) -> dict[str, Layer]:
    """Every layer of a supported type, in the model's order. A module that has two names counts once, under the first.

    Raises:
        TypeError: ``model`` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    return {name: Layer(name, module, kind) for name, module in model.named_modules() if (kind := kind_of(module))}


def find_layers(model: nn.Module, layers: str | Iterable[str] | None = None) -> dict[str, Layer]:
    """The supported layers of ``model`` that ``layers`` chooses (see :func:`engramlib.collect`), in the model's order.

    Raises:
        TypeError: ``model`` is not a module, or a chosen layer keeps its weight in a form that cannot be edited.
        ValueError: nothing matches.
    """
    found = supported_layers(model)
    if not found:
        known = ", ".join(type(kind).__name__.removesuffix("Kind") for kind in _KINDS)
        raise ValueError(f"{type(model).__name__} has no layer of a supported type ({known})")
    chosen = {name: found[name] for name in match_names(list(found), layers)}
    for layer in chosen.values():
        check_editable(layer)
    return chosen


def check_editable(layer: Layer) -> None:
    """Raise ``TypeError`` if the layer does not store its weight as floating-point numbers."""
    weight = layer.module._parameters.get("weight")
    if weight is None:
        raise TypeError(
            f"layer {layer.name!r} computes its weight (a parametrization?) instead of storing it, so an edit would be"
            " lost; remove it first, with torch.nn.utils.parametrize.remove_parametrizations for instance"
        )
    if layer.has_bias and layer.module._parameters.get("bias") is None:
        raise TypeError(f"layer {layer.name!r} computes its bias (a parametrization?): an edit of it would be lost")
    if isinstance(weight, nn.parameter.UninitializedParameter):
        raise TypeError(f"layer {layer.name!r} has no weight yet (a lazy layer): run the model once first")
    if not weight.dtype.is_floating_point or weight.dtype.itemsize < 2:
        raise TypeError(
            f"layer {layer.name!r} has a quantised weight ({weight.dtype}): load the model in bf16 or float32"
        )
