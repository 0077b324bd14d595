"""How a layer is a matrix that acts on columns.

Everything the method needs of a layer type is a :class:`LayerKind` with three answers: which columns does the layer
read, which matrix multiplies them, and how does a matrix of that shape go back into the layer's own parameters? A new
layer type is one subclass and one :func:`register` call; nothing else in the package changes.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engramlib._attention import Projection, projections
from engramlib._experts import Expert, experts, is_experts
from engramlib._names import match_names
from engramlib._patches import patch_moments, patches, worth_it

if TYPE_CHECKING:
    from jaxtyping import Float


class LayerKind(ABC):
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

    def refuses(self, module: nn.Module) -> str | None:
        """Why this module of the kind cannot be read or edited; None = it can."""
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


class ProjectionKind(LinearKind):
    """Query, key or value of ``torch.nn.MultiheadAttention``: rows of its ``in_proj_weight``, as a linear layer.

    They are found as ``<attention>.q_proj``, ``.k_proj`` and ``.v_proj``, beside its ``.out_proj``, which is a plain
    linear layer. In self-attention the three read one tensor and share one Σ.
    """

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, Projection)


class ExpertKind(LinearKind):
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


class UnknownExpertsKind(LinearKind):
    """Fused experts of a layout that is not known: found, so that they are not passed over in silence, and refused."""

    def matches(self, module: nn.Module) -> bool:
        return is_experts(module) and not experts(module)

    def refuses(self, module: nn.Module) -> str:
        return (
            f"{type(module).__name__} keeps its experts' weights in a layout that is not known here; choose the other"
            ' layers with `layers`, for instance layers=["q_proj", "k_proj", "v_proj", "o_proj"]'
        )


class QuantisedKind(LinearKind):
    """Layers with quantised weights, of whatever library: found, so that they are not passed over, and refused."""

    # Where their classes live. The weight may look like floating-point numbers there (a tensor subclass, a method).
    libraries = ("bitsandbytes", "auto_gptq", "gptqmodel", "awq", "hqq", "eetq", "aqlm", "quanto", "torchao")
    modules = ("optimum.quanto.", "torch.ao.nn.quantized.", "torch.nn.quantized.", "torch.ao.nn.intrinsic.quantized.")

    def matches(self, module: nn.Module) -> bool:
        if isinstance(module, nn.Embedding) or "Embedding" in type(module).__name__:
            return False
        homes = [f"{c.__module__}." for c in type(module).__mro__]
        if any(home.partition(".")[0] in self.libraries or home.startswith(self.modules) for home in homes):
            # Only what has a weight of its own: these libraries also have activations, and containers.
            return any(hasattr(module, name) for name in ("weight", "_packed_params", "qweight", "W_q"))
        own = {**module._parameters, **module._buffers}
        weight = own.get("weight")
        if weight is not None and type(weight.data).__module__.partition(".")[0] in self.libraries:
            return True
        # Elsewhere: called a linear layer, and what it stores are codes.
        codes = any(t is not None and t.ndim >= 2 and not _holds_floats(t) for t in own.values())
        return codes and any(re.search(r"Linear(_[A-Z]+)?$", c.__name__) for c in type(module).__mro__)

    def refuses(self, module: nn.Module) -> str:
        name = f"{type(module).__module__.partition('.')[0]}'s {type(module).__name__}"
        return (
            f"its weight is quantised ({name}), and an edit would be lost in the rounding; load the model in bf16 or"
            " float32 (no quantization_config), edit it, and quantise the edited model"
        )


class Conv2dKind(LayerKind):
    """``torch.nn.Conv2d``: the columns are the image patches, one for each output position."""

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Conv2d)

    def example_ndim(self, module: nn.Module) -> int:
        return 3

    def groups(self, module: nn.Conv2d) -> int | None:
        return module.groups if module.groups > 1 else None

    def columns(self, module: nn.Conv2d, x: Tensor) -> Tensor:
        kernel, dilation, stride = self.settings(module)
        wide = patches(self.padded(module, x), kernel, dilation, stride)  # (groups·d, n, positions)
        if module.groups > 1:
            return wide.unflatten(0, (module.groups, -1)).permute(2, 3, 0, 1)
        return wide.permute(1, 2, 0)

    def settings(self, module: nn.Conv2d) -> tuple[tuple[int, int], ...]:
        """Kernel size, dilation and stride, (height, width) each."""
        return module.kernel_size, module.dilation, module.stride

    def padded(self, module: nn.Conv2d, x: Tensor) -> Tensor:
        """The images as the kernel sees them."""
        pads = self.pads(module)
        if not any(pads):
            return x
        return F.pad(x, pads, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)

    def pads(self, module: nn.Conv2d) -> list[int]:
        """Left, right, top, bottom."""
        if isinstance(module.padding, str):
            return list(module._reversed_padding_repeated_twice)  # torch's own arithmetic for "same"
        return [p for p in reversed(module.padding) for _ in range(2)]

    def moments(self, module: nn.Conv2d, x: Tensor, dtype: torch.dtype, absorbed: bool) -> tuple[Tensor, int] | None:
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

    def matrix(self, module: nn.Conv2d, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        return matrix.unflatten(0, (module.groups, -1)) if module.groups > 1 else matrix

    def weight(self, module: nn.Conv2d, matrix: Tensor) -> Tensor:
        return matrix.reshape(module.weight.shape)

    def reading(self, module: nn.Conv2d) -> Hashable:
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


class Conv1dKind(Conv2dKind):
    """``torch.nn.Conv1d``: a convolution of images one pixel high."""

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Conv1d)

    def example_ndim(self, module: nn.Module) -> int:
        return 2

    def columns(self, module: nn.Conv1d, x: Tensor) -> Tensor:
        return super().columns(module, x.unsqueeze(-2))

    def moments(self, module: nn.Conv1d, x: Tensor, dtype: torch.dtype, absorbed: bool) -> tuple[Tensor, int] | None:
        return super().moments(module, x.unsqueeze(-2), dtype, absorbed)

    def settings(self, module: nn.Conv1d) -> tuple[tuple[int, int], ...]:
        return (1, *module.kernel_size), (1, *module.dilation), (1, *module.stride)

    def pads(self, module: nn.Conv1d) -> list[int]:
        return [*super().pads(module), 0, 0]


class ConvTransposeKind(LayerKind):
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

    def example_ndim(self, module: nn.ConvTranspose2d) -> int:
        return len(module.kernel_size) + 1

    def groups(self, module: nn.ConvTranspose2d) -> int | None:
        return module.groups if module.groups > 1 else None

    def columns(self, module: nn.ConvTranspose2d, x: Tensor) -> Tensor:
        pixels = x.flatten(2).transpose(0, 1).contiguous()  # (C_in, n, positions): a product reads it as it is
        if module.groups > 1:
            return pixels.unflatten(0, (module.groups, -1)).permute(2, 3, 0, 1)
        return pixels.permute(1, 2, 0)

    def matrix(self, module: nn.ConvTranspose2d, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)  # (C_in, C_out / groups · kernel)
        return (matrix.unflatten(0, (module.groups, -1)) if module.groups > 1 else matrix).mT

    def weight(self, module: nn.ConvTranspose2d, matrix: Tensor) -> Tensor:
        return matrix.mT.reshape(module.weight.shape)

    def reading(self, module: nn.ConvTranspose2d) -> Hashable:
        return ("pixels", module.groups)


class NormKind(LayerKind):
    """A normalisation's affine map, y = γ x̂ + β: one group a channel, W = [γ β] acting on [x̂; 1].

    Only when ``layers`` names it: the paper edits linear layers and convolutions. x̂ is computed in float64.
    """

    optional = True

    def groups(self, module: nn.Module) -> int:
        return module.weight.numel()

    def matrix(self, module: nn.Module, weight: Tensor) -> Tensor:
        return weight.reshape(-1, 1, 1)

    def weight(self, module: nn.Module, matrix: Tensor) -> Tensor:
        return matrix.reshape(module.weight.shape)

    @abstractmethod
    def normalised(self, module: nn.Module, x: Tensor) -> Tensor:
        """x̂ as (n, positions, channels)."""

    def columns(self, module: nn.Module, x: Tensor) -> Tensor:
        return self.normalised(module, _wide(x)).unsqueeze(-1)

    def moments(self, module: nn.Module, x: Tensor, dtype: torch.dtype, absorbed: bool) -> tuple[Tensor, int]:
        x = self.normalised(module, _wide(x)).flatten(0, -2)
        square, total = x.square().sum(0), x.sum(0)
        if not absorbed:
            return square.view(-1, 1, 1).to(dtype), len(x)
        rows = [square, total, total, torch.full_like(total, len(x))]
        return torch.stack(rows, -1).view(-1, 2, 2).to(dtype), len(x)

    def refuses(self, module: nn.Module) -> str | None:
        return "it has no weight to edit (affine=False)" if module.weight is None else None


class BatchNormKind(NormKind):
    """``torch.nn.BatchNorm1d`` and ``BatchNorm2d`` in evaluation mode, where x̂ comes from the running statistics."""

    def matches(self, module: nn.Module) -> bool:
        return isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))

    def example_ndim(self, module: nn.Module) -> int:
        return 3 if isinstance(module, nn.BatchNorm2d) else 1

    def normalised(self, module: nn.BatchNorm2d, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != module.num_features:
            raise ValueError(f"a batch norm of {module.num_features} channels cannot read shape {tuple(x.shape)}")
        mean, variance = module.running_mean.to(x), module.running_var.to(x)
        x = x.flatten(2).mT if x.ndim > 2 else x.unsqueeze(1)  # (n, positions, channels)
        return (x - mean) * (variance + module.eps).rsqrt()

    def reading(self, module: nn.Module) -> Hashable:
        return ("batch norm", id(module))  # its own running statistics

    def refuses(self, module: nn.BatchNorm2d) -> str | None:
        if module.running_mean is None:
            return "it has no running statistics, so what it does to one example depends on the others of the batch"
        return super().refuses(module)


class LayerNormKind(NormKind):
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


_KINDS: list[LayerKind] = [
    QuantisedKind(),  # first: some are subclasses of nn.Linear
    LinearKind(),
    TransposedLinearKind(),
    ProjectionKind(),
    ExpertKind(),
    UnknownExpertsKind(),
    Conv2dKind(),
    Conv1dKind(),
    ConvTransposeKind(),
    BatchNormKind(),
    LayerNormKind(),
]


def register(kind: LayerKind) -> None:
    """Teach the package a layer type. Later registrations win, so a special case may come after a general one."""
    _KINDS.insert(0, kind)


_VIEWS = (Projection, Expert)  # layers whose parameters are a part of their owner's


class Layer(NamedTuple):
    """A supported layer of a model: its name, its module, and how to read it."""

    name: str
    module: nn.Module
    kind: LayerKind

    @property
    def has_bias(self) -> bool:
        """Whether the layer has a bias that a constant coordinate of its columns stands for."""
        return self.kind.bias_is_coordinate and getattr(self.module, "bias", None) is not None

    @property
    def owner(self) -> nn.Module:
        """The module that stores the parameters."""
        return self.module.owner if isinstance(self.module, _VIEWS) else self.module

    @property
    def owner_name(self) -> str:
        if not isinstance(self.module, _VIEWS):
            return self.name
        return self.name.removesuffix(self.module.suffix).removesuffix(".")

    def slot(self, which: str) -> tuple[str, slice | int | None]:
        """The owner's name of ``"weight"`` or ``"bias"``, and the rows of it that belong to this layer; None = all."""
        return self.module.slot(which) if isinstance(self.module, _VIEWS) else (which, None)

    def parameter_name(self, which: str) -> str:
        """Key of ``"weight"`` or ``"bias"`` in the model's state dict. Of what stands there, :meth:`rows` are ours."""
        key, _ = self.slot(which)
        return f"{self.owner_name}.{key}" if self.owner_name else key

    def stored(self, which: str) -> Tensor | None:
        """The whole parameter that ``"weight"`` or ``"bias"`` is in."""
        return getattr(self.owner, self.slot(which)[0], None)

    def rows(self, stored: Tensor, which: str) -> Tensor:
        """This layer's part of a tensor shaped like the whole parameter: a view."""
        rows = self.slot(which)[1]
        return stored if rows is None else stored[rows]

    @property
    def height(self) -> int:
        """Rows of W, of one group."""
        return self.kind.matrix(self.module, self.module.weight).shape[-2]

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

    Attention projections, and the projections of fused experts, stand where their owner stands, before its children.

    Raises:
        TypeError: ``model`` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    modules = dict(model.named_modules())
    found = {}
    for name, module in modules.items():
        if kind := kind_of(module):
            found[name] = Layer(name, module, kind)
            continue
        views = projections(module) if isinstance(module, nn.MultiheadAttention) else ()
        for view in experts(module) if is_experts(module) else views:
            full = f"{name}.{view.suffix}" if name else view.suffix
            if full not in modules:
                found[full] = Layer(full, view, kind_of(view))
    return found


def tied_to_embeddings(model: nn.Module, layers: Mapping[str, Layer]) -> dict[str, str]:
    """Those of the ``layers`` that share their weight with an ``nn.Embedding``, and the embedding's name."""
    embeddings = {
        id(module._parameters.get("weight")): name
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    }
    weights = {name: id(weight) for name, layer in layers.items() if (weight := layer.stored("weight")) is not None}
    return {name: embeddings[weight] for name, weight in weights.items() if weight in embeddings}


def find_layers(model: nn.Module, layers: str | Iterable[str] | None = None) -> dict[str, Layer]:
    """The supported layers of ``model`` that ``layers`` chooses (see :func:`engramlib.collect`), in the model's order.

    Normalisation layers, and output layers that are tied to an embedding, are among them only if ``layers`` chooses
    them.

    Raises:
        TypeError: ``model`` is not a module, or a chosen layer cannot be edited (a weight that is computed or
            quantised, a normalisation without weights).
        ValueError: nothing matches.
    """
    found = supported_layers(model)
    names = list(found)
    if layers is None:
        tied = tied_to_embeddings(model, found)
        names = [name for name, layer in found.items() if not layer.kind.optional and name not in tied]
    if not names:
        taken = [type(kind) for kind in _KINDS if not kind.optional]
        known = ", ".join(
            k.__name__.removesuffix("Kind") for k in taken if k not in (QuantisedKind, UnknownExpertsKind)
        )
        hint = "; its normalisation and tied output layers count only where `layers` names them" if found else ""
        raise ValueError(f"{type(model).__name__} has no layer of a supported type ({known}){hint}")
    chosen = {name: found[name] for name in match_names(names, layers)}
    for layer in chosen.values():
        check_editable(layer)
    return chosen


def check_editable(layer: Layer) -> None:
    """Raise ``TypeError`` if the layer does not store its weight as floating-point numbers, or cannot be read."""
    if (reason := layer.kind.refuses(layer.module)) is not None:
        raise TypeError(f"layer {layer.name!r} cannot be edited: {reason}")
    weight = layer.owner._parameters.get(layer.slot("weight")[0])
    if weight is None:
        raise TypeError(
            f"layer {layer.name!r} computes its weight (a parametrization?) instead of storing it, so an edit would be"
            " lost; remove it first, with torch.nn.utils.parametrize.remove_parametrizations for instance"
        )
    if layer.has_bias and layer.owner._parameters.get(layer.slot("bias")[0]) is None:
        raise TypeError(f"layer {layer.name!r} computes its bias (a parametrization?): an edit of it would be lost")
    if isinstance(weight, nn.parameter.UninitializedParameter):
        raise TypeError(f"layer {layer.name!r} has no weight yet (a lazy layer): run the model once first")
    if not _holds_floats(weight):
        raise TypeError(
            f"layer {layer.name!r} has a quantised weight ({weight.dtype}): load the model in bf16 or float32"
        )


def _holds_floats(tensor: Tensor) -> bool:
    """Whether the numbers of ``tensor`` are what they say, and not codes (integers, 8-bit floats with a scale)."""
    return tensor.dtype.is_floating_point and tensor.dtype.itemsize >= 2


def refuse_routed(layers: Mapping[str, Layer], what: str) -> None:
    """Raise ``TypeError`` if one of the layers is an expert of a mixture, where ``what`` is not defined."""
    for name, layer in layers.items():
        if layer.kind.routed:
            raise TypeError(
                f"layer {name!r} is an expert of a mixture: which tokens it reads depends on the weights before it, so"
                f" {what}; leave it out"
            )
