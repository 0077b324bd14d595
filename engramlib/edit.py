"""Subtracting and adding engrams."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from engramlib.engram import Engram
from engramlib.layers import Layer, check_editable, supported_layers

Model = TypeVar("Model", bound=nn.Module)


def ablate(model: Model, engram: Engram, alpha: float | Mapping[str, float] = 1.0, *, inplace: bool = False) -> Model:
    """W ← W − α W⁺: take a memory out.

    α = 1 removes the engram, 0 < α < 1 weakens it, α > 1 does not erase more but inverts it, α < 0 strengthens it.

    Args:
        model: any module that has the engram's layers.
        engram: from :func:`engramlib.extract`, or a sum of several.
        alpha: one strength, or one per layer: a dict that names every layer of the engram.
        inplace: edit ``model`` itself. Otherwise a copy is edited and the model is left alone.

    Returns:
        The edited model: a copy, or ``model`` if ``inplace``.

    Raises:
        ValueError: an engram of another model, or a bad α. Nothing is changed then.

    Cost: a copy of the model, and one pass over the edited weights. Source: Eq. 7; chapters 00 and 04.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Linear(2, 1, bias=False)
        >>> engram = Engram({"": (0.5 * model.weight.detach(), None)})
        >>> torch.allclose(ablate(model, engram).weight, 0.5 * model.weight)
        True
        >>> torch.allclose(inject(ablate(model, engram), engram).weight, model.weight)
        True
    """
    return _shifted(model, engram, alpha, -1, inplace)


def inject(model: Model, engram: Engram, alpha: float | Mapping[str, float] = 1.0, *, inplace: bool = False) -> Model:
    """W ← W + α W⁺: put a memory in.

    The opposite of :func:`ablate`: ``inject(ablate(model, e), e)`` is the model again, up to rounding. Arguments,
    errors and cost are those of :func:`ablate`. Source: Eq. 8; chapters 00 and 04.
    """
    return _shifted(model, engram, alpha, +1, inplace)


def null_state(model: Model, engram: Engram, *, inplace: bool = False) -> Model:
    """The model before it learned, under tabula rasa: every layer of the engram at zero (its bias too, if absorbed).

    ``inject(null_state(model, e), e)`` asks whether an engram alone is sufficient. Arguments, errors and cost as in
    :func:`ablate`. Source: Section 4, W0 := 0; chapter 06.
    """
    edited = model if inplace else _copy(model)
    targets = _targets(edited, engram)
    with torch.no_grad():
        for parameter, *_ in targets:
            parameter.zero_()
    return edited


@contextmanager
def edited(model: Model, delta: Engram) -> Iterator[Model]:
    """Add ``delta`` to the model inside a ``with`` block; on leaving, also by an exception, every bit is as before.

    ``with el.edited(model, -0.6 * engram): ...`` ablates for the length of the block. Blocks nest. The same model
    object is changed, so code that holds a reference to it sees the edit.

    Raises ``ValueError`` for an engram of another model. Cost: a copy of the edited weights; chapter 04.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(2, 1, bias=False)
        >>> before = model.weight.clone()
        >>> with edited(model, Engram({"": (-model.weight.detach(), None)})):
        ...     float(model.weight.detach().abs().sum())
        0.0
        >>> bool((model.weight == before).all())
        True
    """
    targets = _targets(model, delta)
    saved = [(parameter, parameter.detach().clone()) for parameter, *_ in targets]
    try:
        _shift(targets, {name: 1.0 for name in delta})
        yield model
    finally:
        with torch.no_grad():
            for parameter, value in saved:
                parameter.copy_(value)


def _shifted(model: Model, engram: Engram, alpha: float | Mapping[str, float], sign: int, inplace: bool) -> Model:
    strengths = _strengths(engram, alpha)
    _targets(model, engram)  # complain before the cost of a copy
    result = model if inplace else _copy(model)
    _shift(_targets(result, engram), {name: sign * strength for name, strength in strengths.items()})
    return result


def _copy(model: Model) -> Model:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    return copy.deepcopy(model)


def _strengths(engram: Engram, alpha: float | Mapping[str, float]) -> dict[str, float]:
    if not isinstance(engram, Engram):
        hint = "; choose one concept, or add them with sum(engrams.values())" if isinstance(engram, Mapping) else ""
        raise TypeError(f"engram: expected an Engram, got {type(engram).__name__}{hint}")
    if isinstance(alpha, Mapping):
        if set(alpha) != set(engram):
            odd = ", ".join(sorted(map(str, set(alpha) ^ set(engram))))
            raise ValueError(f"alpha: a dict must name exactly the layers of the engram; {odd} is only in one of them")
    else:
        alpha = {name: alpha for name in engram}
    for name, value in alpha.items():
        number = isinstance(value, Real) or (isinstance(value, Tensor) and value.ndim == 0)
        if not number or isinstance(value, bool) or not math.isfinite(float(value)):
            raise ValueError(f"alpha: expected a finite number, got {value!r} for layer {name!r}")
    return {name: float(value) for name, value in alpha.items()}


class Target(NamedTuple):
    """A parameter, or the rows of it that are one layer's, what is to be added to it, and whose it is."""

    parameter: Tensor
    change: Tensor
    layer: Layer
    which: str


def _targets(model: nn.Module, engram: Engram) -> list[Target]:
    """What is to be added to which parameter, for the whole engram, checked before anything changes."""
    if not isinstance(engram, Engram):
        _strengths(engram, 1.0)
    layers = supported_layers(model)
    targets: list[Target] = []
    for name, (weight, bias) in engram.items():
        if name not in layers:
            raise ValueError(f"the model has no supported layer {name!r}; is this the engram of another model?")
        check_editable(layers[name])
        for which, change in (("weight", weight), ("bias", bias)):
            if change is None:
                continue
            parameter = getattr(layers[name].module, which, None)  # of an attention projection: a view
            if parameter is None or parameter.shape != change.shape:
                shape = "none" if parameter is None else tuple(parameter.shape)
                raise ValueError(
                    f"layer {name!r}: the engram's {which} has shape {tuple(change.shape)}, the model's {shape};"
                    " is this the engram of another model?"
                )
            if not torch.isfinite(change).all():
                raise ValueError(f"layer {name!r}: the engram's {which} has NaN or infinite entries")
            targets.append(Target(parameter, change, layers[name], which))
    _warn_of_ties(model, targets)
    owners: dict[tuple[int, str], str] = {}
    for _, _, layer, which in targets:
        key = (id(layer.stored(which)), str(layer.slot(which)[1]))
        if owners.setdefault(key, layer.name) != layer.name:
            raise ValueError(
                f"layers {owners[key]!r} and {layer.name!r} share one weight: select one of them in the engram"
            )
    return targets


def _warn_of_ties(model: nn.Module, targets: list[Target]) -> None:
    """An edit of a tied weight (an output layer that is the embedding, say) reaches further than its layer."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    edited = {layer.owner_name for _, _, layer, _ in targets}
    for _, _, layer, which in targets:
        owners = {owner.rpartition(".")[0] for owner in names.get(id(layer.stored(which)), [])}
        others = sorted(owners - edited)
        if others and not any(_same_module(model, layer.owner_name, other) for other in others):
            warnings.warn(
                f"layer {layer.name!r} shares its weight with {', '.join(others)}: both are edited", stacklevel=5
            )


def _same_module(model: nn.Module, one: str, other: str) -> bool:
    return model.get_submodule(one) is model.get_submodule(other)


def _shift(targets: list[Target], strengths: Mapping[str, float]) -> None:
    with torch.no_grad():
        for parameter, change, layer, _ in targets:
            wide = torch.promote_types(parameter.dtype, change.dtype)  # add in the wider dtype, round once
            moved = parameter.to(wide) + strengths[layer.name] * change.to(parameter.device, wide)
            parameter.copy_(moved)
