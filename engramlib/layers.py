"""The layers of a model that the method reaches: finding them, naming them, and whether they can be edited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from engramlib._attention import Projection, projections
from engramlib._experts import Expert, experts, is_experts
from engramlib._names import match_names
from engramlib.kinds import (
    BatchNormKind,
    Conv1dKind,
    Conv2dKind,
    ConvTransposeKind,
    ExpertKind,
    LayerKind,
    LayerNormKind,
    LinearKind,
    ProjectionKind,
    TransposedLinearKind,
)
from engramlib.refusals import (
    AdapterKind,
    QuantisedKind,
    RefusedKind,
    ScriptedKind,
    UnknownExpertsKind,
    refused_weight,
)

if TYPE_CHECKING:
    from jaxtyping import Float

_KINDS: list[LayerKind[Any]] = [
    AdapterKind(),  # first: some that are refused are subclasses of nn.Linear
    QuantisedKind(),
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

_SCRIPTED = ScriptedKind()


def register(kind: LayerKind[Any]) -> None:
    """Teach the package a layer type. Later registrations win, so a special case may come after a general one."""
    _KINDS.insert(0, kind)


_VIEWS = (Projection, Expert)  # layers whose parameters are a part of their owner's


class Layer(NamedTuple):
    """A supported layer of a model: its name, its module, and how to read it."""

    name: str
    module: nn.Module
    kind: LayerKind[Any]

    @property
    def has_bias(self) -> bool:
        """Whether the layer has a bias that a constant coordinate of its columns stands for."""
        return self.kind.bias_is_coordinate and self.bias is not None

    @property
    def weight(self) -> Tensor:
        """The weight in the layer's own shape: the parameter, or a view of the rows that are this layer's."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = getattr(self.module, "bias", None)
        return bias

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
        return self.kind.matrix(self.module, self.weight).shape[-2]

    def width(self, absorbed: bool) -> int:
        """d, the height of a column, with the constant 1 counted when the bias is absorbed."""
        return self.kind.matrix(self.module, self.weight).shape[-1] + absorbed

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


def kind_of(module: nn.Module) -> LayerKind[Any] | None:
    """How to read ``module``, or None if the method does not reach it."""
    if isinstance(module, torch.jit.ScriptModule):  # not even its parameters can be looked through as usual
        return _SCRIPTED if _SCRIPTED.matches(module) else None
    return next((kind for kind in _KINDS if kind.matches(module)), None)


def supported_layers(model: nn.Module) -> dict[str, Layer]:
    """Every layer of a known type, in the model's order. A module that has two names counts once, under the first.

    Attention projections, and the projections of fused experts, stand where their owner stands, before its children.
    Names are those of the plain model, also where ``torch.compile`` or ``DataParallel`` wrapped it or a part of it.

    Raises:
        TypeError: ``model`` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    modules = plain_names(model)
    found: dict[str, Layer] = {}
    covered: list[str] = []
    for name, module in modules.items():
        if any(name.startswith(prefix) for prefix in covered):
            continue
        if kind := kind_of(module):
            found[name] = Layer(name, module, kind)
            if isinstance(kind, RefusedKind) and kind.covers:
                covered.append(f"{name}." if name else "")
            continue
        views = projections(module) if isinstance(module, nn.MultiheadAttention) else ()
        for view in experts(module) if is_experts(module) else views:
            full = f"{name}.{view.suffix}" if name else view.suffix
            if full not in modules and (kind := kind_of(view)):
                found[full] = Layer(full, view, kind)
    return found


# What wraps a module under an attribute of its own, and the wrappers whose attribute's name says nothing.
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def plain_names(model: nn.Module) -> dict[str, nn.Module]:
    """``model.named_modules()`` under the names of the plain model: without ``_orig_mod`` and the like."""
    plain: dict[str, str] = {}
    modules: dict[str, nn.Module] = {}
    wrappers: set[str] = set()
    for name, module in model.named_modules():
        parent, _, last = name.rpartition(".")
        if not name or last in _WRAPPED or (last == "module" and parent in wrappers):
            plain[name] = plain.get(parent, "")
        else:
            plain[name] = f"{plain[parent]}.{last}" if plain[parent] else last
        if isinstance(module, _PARALLEL):
            wrappers.add(name)
        modules[plain[name]] = module  # of a wrapper and what it wraps, the latter
    return modules


def plain_key(key: str) -> str:
    """A key of a state dict under the name that it has in the plain model."""
    return ".".join(part for part in key.split(".") if part not in _WRAPPED)


def memory(tensor: Tensor) -> tuple[str, int, int]:
    """(device, first byte, byte after the last) of the memory that a tensor's numbers lie in."""
    if storage_of(tensor) is None or not tensor.numel():
        return str(tensor.device), 0, 0
    strides = [(n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True) if n]
    start = tensor.data_ptr()
    return str(tensor.device), start, start + (sum(strides) + 1) * tensor.element_size()


def storage_of(tensor: Tensor) -> int | None:
    """Where the storage begins that a tensor is a part of; None for one that has none (meta, sparse, a wrapper)."""
    try:
        usual = tensor.device.type != "meta" and tensor.layout == torch.strided
        return tensor.untyped_storage().data_ptr() if usual else None
    except (RuntimeError, NotImplementedError):  # a subclass that wraps other tensors, such as torchao's
        return None


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors share memory: one parameter, a view or a transpose of it, or its ``.data`` in another."""
    (place, start, stop), (other, first, last) = memory(a), memory(b)
    return place == other and start < last and first < stop


def tied_to_embeddings(model: nn.Module, layers: Mapping[str, Layer]) -> dict[str, str]:
    """Those of the ``layers`` that share their weight's memory with an ``nn.Embedding``, and the embedding's name."""
    embeddings = {
        name: weight
        for name, module in plain_names(model).items()
        if isinstance(module, nn.Embedding) and (weight := module._parameters.get("weight")) is not None
    }
    tied: dict[str, str] = {}
    for name, layer in layers.items():
        stored = layer.stored("weight")
        if isinstance(stored, Tensor):
            tied.update((name, owner) for owner, other in embeddings.items() if overlap(stored, other))
    return tied


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
        known = ", ".join(k.__name__.removesuffix("Kind") for k in taken if not issubclass(k, RefusedKind))
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
    for which in ("weight", "bias") if layer.has_bias else ("weight",):
        stored = layer.owner._parameters.get(layer.slot(which)[0])
        if stored is None:
            raise TypeError(
                f"layer {layer.name!r} computes its {which} (a parametrization?) instead of storing it, so an edit"
                " would be lost; remove it first, with torch.nn.utils.parametrize.remove_parametrizations for instance"
            )
        if (reason := refused_weight(stored)) is not None:
            raise TypeError(f"layer {layer.name!r} cannot be edited: {reason}")


def refuse_routed(layers: Mapping[str, Layer], what: str) -> None:
    """Raise ``TypeError`` if one of the layers is an expert of a mixture, where ``what`` is not defined."""
    for name, layer in layers.items():
        if layer.kind.routed:
            raise TypeError(
                f"layer {name!r} is an expert of a mixture: which tokens it reads depends on the weights before it, so"
                f" {what}; leave it out"
            )
