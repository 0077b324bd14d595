"""Which layers moments are of, their weights as matrices, and matrices as the layers' weights again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engramlib._products import Symmetric, all_finite
from engramlib.engram import Engram, LayerEngram
from engramlib.layers import Layer, check_editable, plain_key, supported_layers
from engramlib.moments import Identity, Moments


def fitting_layers(model: nn.Module, moments: Mapping[str, Moments]) -> dict[str, Layer]:
    """The layers that the moments speak of, after checking that they are layers of this model.

    Warns, once, if moments were collected at other weights than the model's.
    """
    supported = supported_layers(model)
    names: set[str] | None = None
    now: dict[tuple[str, bool], Identity] = {}
    stale: list[str] = []
    for argument, m in moments.items():
        if not isinstance(m, Moments):
            raise TypeError(f"{argument}: expected Moments, got {type(m).__name__}")
        if not m:
            raise ValueError(f"{argument}: moments of no layer")
        if names is not None and set(m) != names:
            raise ValueError(
                f"{argument}: moments of other layers; {', '.join(sorted(set(m) ^ names))} is not in all of them"
            )
        names = set(m)
        for name in m:
            sigma = m.stored(name)
            if name not in supported:
                raise ValueError(
                    f"{argument}: the model has no supported layer {name!r}; are these moments of another model?"
                )
            layer = supported[name]
            check_editable(layer)
            d, groups = layer.width(absorbed=False), layer.kind.groups(layer.module)
            widths = (d, d + 1) if layer.has_bias else (d,)
            if sigma.shape[-1] not in widths or (sigma.shape[0] if sigma.ndim == 3 else None) != groups:
                raise ValueError(
                    f"{argument}: moments of layer {name!r} have shape {tuple(sigma.shape)}, but the layer reads"
                    f" columns of height {d}; are these moments of another model?"
                )
            if sigma.shape != next(iter(moments.values())).stored(name).shape:
                raise ValueError(
                    f'{argument}: layer {name!r} was collected with another bias mode ("absorb" or "keep")'
                )
            if (known := m.identity.get(name)) is None:
                continue
            key = (name, is_absorbed(layer, sigma))
            if key not in now:
                now[key] = Identity.of(layer.module, layer.kind.reading(layer.module), key[1])
            if reason := known.differs(now[key]):
                raise ValueError(
                    f"{argument}: moments of layer {name!r} are of another model's layer: {reason}, the model's"
                )
            if not known.same_weights(now[key]):
                stale.append(f"{argument}: moments of layer {name!r}")
    if stale:
        more = f" (and {len(stale) - 1} more)" if len(stale) > 1 else ""
        warnings.warn(
            f"{stale[0]}{more} were collected at other weights than the model has now: another seed, or before an edit"
            " or more training. They describe inputs that this model may not see; collect them again from it",
            stacklevel=3,
        )
    return {name: layer for name, layer in supported.items() if name in (names or ())}


def sharing_groups(*moments: Moments) -> list[list[str]]:
    """Layer names in groups that share every Σ, so that each group is factorised once."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in moments[0]:
        groups.setdefault(tuple(id(m.stored(name)) for m in moments), []).append(name)
    return list(groups.values())


class Deltas:
    """ΔW = W − W0 as matrices, with W0 from a state dict, or zero."""

    def __init__(self, base: Mapping[str, Tensor] | nn.Module | None) -> None:
        base = base.state_dict() if isinstance(base, nn.Module) else base
        if base is not None and not isinstance(base, Mapping):
            raise TypeError(f"base: expected a state dict or a module, got {type(base).__name__}")
        self.base = None if base is None else {plain_key(str(key)): value for key, value in base.items()}

    def of(self, layer: Layer, sigma: Tensor) -> Tensor:
        absorbed = is_absorbed(layer, sigma)
        weight, bias = layer.weight, layer.bias if absorbed else None
        matrix = layer.matrix(weight, bias)
        if self.base is not None:
            matrix = matrix - layer.matrix(self.get(layer, "weight"), None if bias is None else self.get(layer, "bias"))
        if not all_finite(matrix):
            raise ValueError(
                f"layer {layer.name!r}: its weight{' or that of base' * bool(self.base)} has NaN or infinite entries"
            )
        return matrix.to(sigma.device)

    def get(self, layer: Layer, which: str) -> Tensor:
        key, own = layer.parameter_name(which), layer.stored(which)
        assert self.base is not None and own is not None
        if key not in self.base and f"module.{key}" in self.base:
            key = f"module.{key}"  # of a DataParallel
        if key not in self.base:
            raise ValueError(f"base: has no entry {key!r}")
        if not isinstance(self.base[key], Tensor):
            raise ValueError(f"base: expected a tensor at {key!r}, got {type(self.base[key]).__name__}")
        if self.base[key].shape != own.shape:
            raise ValueError(
                f"base: {key!r} has shape {tuple(self.base[key].shape)}, the model's has {tuple(own.shape)}"
            )
        return layer.rows(self.base[key], which).to(own.device)


def is_absorbed(layer: Layer, sigma: Symmetric) -> bool:
    """Whether Σ has the extra row of a bias in it."""
    return sigma.shape[-1] == layer.width(absorbed=False) + 1


def as_engram(layers: dict[str, Layer], moments: Moments, found: Mapping[str, Tensor]) -> Engram:
    """Matrices W⁺ as an engram, with the norms of the weights."""
    entries = {name: as_entry(layer, moments.stored(name), found[name]) for name, layer in layers.items()}
    return Engram(entries, norms(layers))


def norms(layers: dict[str, Layer]) -> dict[str, float]:
    """‖W‖ of each layer."""
    return {name: float(layer.weight.detach().double().norm()) for name, layer in layers.items()}


def as_entry(layer: Layer, sigma: Symmetric, matrix: Tensor) -> LayerEngram:
    """A matrix W⁺ back in the layer's own shape, on its device, at least float32."""
    own = layer.weight
    dtype = kept_as(layer)
    weight, bias = (
        None if part is None else part.to(own.device, dtype).contiguous()
        for part in layer.parameters(matrix, is_absorbed(layer, sigma))
    )
    assert weight is not None
    return LayerEngram(weight, bias)


def kept_as(layer: Layer) -> torch.dtype:
    """The precision of W⁺: half precision would lose what arithmetic adds up."""
    return torch.promote_types(layer.weight.dtype, torch.float32)
