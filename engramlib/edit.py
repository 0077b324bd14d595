"""Subtracting and adding engrams."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from engramlib._copies import copied
from engramlib._products import all_finite
from engramlib.engram import Engram
from engramlib.layers import Layer, check_editable, overlap, plain_names, storage_of, supported_layers

Model = TypeVar("Model", bound=nn.Module)
Result = TypeVar("Result")


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
        ValueError: an engram of another model, a bad α, or one that leaves the range of the weights' dtype.
        TypeError: a layer that cannot be edited, or a model whose copy would still run the original's weights
            (compiled or wrapped functions on the instance, hooks that hold a layer): use ``inplace`` or
            :func:`edited`. Nothing is changed then, nor after Ctrl-C.

    Cost: a copy of the model (``inplace``: of the edited weights, until the edit is complete), and one pass over the
    edited weights. Source: Eq. 7; chapters 00 and 04.

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
    return shifted(model, engram, alpha, -1, inplace)


def inject(model: Model, engram: Engram, alpha: float | Mapping[str, float] = 1.0, *, inplace: bool = False) -> Model:
    """W ← W + α W⁺: put a memory in.

    The opposite of :func:`ablate`: ``inject(ablate(model, e), e)`` is the model again, up to rounding. Arguments,
    errors and cost are those of :func:`ablate`. Source: Eq. 8; chapters 00 and 04.
    """
    return shifted(model, engram, alpha, +1, inplace)


def null_state(model: Model, engram: Engram, *, inplace: bool = False) -> Model:
    """The model before it learned, under tabula rasa: every layer of the engram at zero (its bias too, if absorbed).

    ``inject(null_state(model, e), e)`` asks whether an engram alone is sufficient. Arguments, errors and cost as in
    :func:`ablate`. Source: Section 4, W0 := 0; chapter 06.
    """
    targets = _targets(model, engram)
    result = model if inplace else copied(model)
    targets = targets if inplace else _targets(result, engram, warn=False)
    with _restored(targets, also_if_done=False), torch.no_grad():
        for target in targets:
            target.parameter.zero_()
    torch.clear_autocast_cache()
    return result


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
    with _restored(targets) as saved:
        _shift(targets, dict.fromkeys(delta, 1.0), saved)
        yield model


def sweep(
    model: Model, engram: Engram, alphas: Iterable[float | Mapping[str, float]], measure: Callable[[Model], Result]
) -> list[Result]:
    """``[measure(ablate(model, engram, α)) for α in alphas]`` without a copy of the model.

    The weights are edited where they are, each time from the originals, and are bit for bit what they were afterwards,
    also after an error.

    Args:
        model, engram: as in :func:`ablate`.
        alphas: strengths, each as in :func:`ablate`: a number, or one per layer.
        measure: called with the edited model, which is ``model`` itself; what it returns is kept, so return numbers,
            not the model.

    Returns:
        list: the results, in the order of ``alphas``.

    Raises:
        ValueError: as :func:`ablate`; every α is checked before the first edit.

    Cost: one copy of the edited weights, and one pass over them for each α. Source: Eq. 7; chapters 03 and 04.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> engram = Engram({"": (model.weight.detach().clone(), None)})
        >>> sweep(model, engram, [0.0, 1.0, 2.0], lambda m: float(m.weight.detach().sum() / engram[""].weight.sum()))
        [1.0, 0.0, -1.0]
    """
    if not callable(measure):
        raise TypeError(f"measure: expected a function of a model, got {type(measure).__name__}")
    if not hasattr(alphas, "__iter__"):
        raise TypeError(f"alphas: expected a list of strengths, got {alphas!r}; for one, [{alphas!r}]")
    strengths = [_strengths(engram, alpha) for alpha in alphas]
    targets, results = _targets(model, engram), []
    with _restored(targets) as saved:
        for each in strengths:
            _shift(targets, {name: -strength for name, strength in each.items()}, saved)
            results.append(measure(model))
    return results


def shifted(
    model: Model, engram: Engram, alpha: float | Mapping[str, float], sign: int, inplace: bool, undo: bool = True
) -> Model:
    """W ± α W⁺. An edit in place that fails is undone, unless the model is a copy that goes with it (not ``undo``)."""
    strengths = {name: sign * strength for name, strength in _strengths(engram, alpha).items()}
    targets = _targets(model, engram)  # complain before the cost of a copy
    if inplace and undo:
        with _restored(targets, also_if_done=False) as saved:
            _shift(targets, strengths, saved)
        return model
    result = model if inplace else copied(model)
    targets = targets if inplace else _targets(result, engram, warn=False)
    _shift(targets, strengths, [target.parameter for target in targets])
    return result


def _strengths(engram: Engram, alpha: float | Mapping[str, float]) -> dict[str, float]:
    if not isinstance(engram, Engram):
        hint = "; choose one concept, or add them with sum(engrams.values())" if isinstance(engram, Mapping) else ""
        raise TypeError(f"engram: expected an Engram, got {type(engram).__name__}{hint}")
    return strengths_of(engram, alpha, "the layers of the engram")


def strengths_of(names: Iterable[str], alpha: float | Mapping[str, float], which: str) -> dict[str, float]:
    """One finite strength for each layer, of one number or of a dict that names exactly ``which``."""
    names = list(names)
    if isinstance(alpha, Mapping):
        if set(alpha) != set(names):
            odd = ", ".join(sorted(map(str, set(alpha) ^ set(names))))
            raise ValueError(f"alpha: a dict must name exactly {which}; {odd} is only in one of them")
    else:
        alpha = dict.fromkeys(names, alpha)
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


def _targets(model: nn.Module, engram: Engram, *, warn: bool = True) -> list[Target]:
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
            if change.is_complex() or change.device.type == "meta":
                what = "complex" if change.is_complex() else "not in memory (device meta)"
                raise TypeError(f"layer {name!r}: the engram's {which} is {what}; an edit needs real numbers")
            if not all_finite(change):
                raise ValueError(f"layer {name!r}: the engram's {which} has NaN or infinite entries")
            targets.append(Target(parameter, change, layers[name], which))
    _check_ties(model, targets, warn)
    return targets


def owners(model: nn.Module) -> dict[int, list[tuple[str, Tensor]]]:
    """Where a storage begins -> the modules that have a parameter or a buffer in it, and which."""
    owned: dict[int, list[tuple[str, Tensor]]] = {}
    for name, module in plain_names(model).items():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if (place := storage_of(tensor)) is not None:
                owned.setdefault(place, []).append((name, tensor))
    return owned


def _check_ties(model: nn.Module, targets: list[Target], warn: bool) -> None:
    """An edit of a tied weight reaches further than its layer (say so), and two edits of one weight add up (refuse).

    Tied is what shares memory: one parameter under two names, views and transposes of it, its ``.data`` elsewhere.
    """
    owned = owners(model)
    edited = {target.layer.owner_name for target in targets}
    before: dict[int | None, list[Target]] = {}
    for target in targets:
        place = storage_of(target.parameter)
        for other in before.setdefault(place, []):
            if other.layer.name != target.layer.name and overlap(other.parameter, target.parameter):
                raise ValueError(
                    f"layers {other.layer.name!r} and {target.layer.name!r} share one weight: select one of them in the"
                    " engram"
                )
        before[place].append(target)
        shared = {name for name, tensor in owned.get(place or 0, []) if overlap(tensor, target.parameter)}
        if warn and (others := sorted(shared - edited)):
            warnings.warn(
                f"layer {target.layer.name!r} shares its weight with {', '.join(others)}: both are edited", stacklevel=4
            )


@contextmanager
def _restored(targets: list[Target], *, also_if_done: bool = True) -> Iterator[list[Tensor]]:
    """On leaving the block the parameters are bit for bit as before: always, or after an error or Ctrl-C only.

    Yields copies of them as they were.
    """
    places = {storage_of(target.parameter) for target in targets} - {None}
    if (view := next((t.layer.name for t in targets if storage_of(t.change) in places), None)) is not None:
        raise ValueError(
            f"layer {view!r}: the engram's tensor is the model's own memory and would change with it: clone() it first"
        )
    saved = [target.parameter.detach().clone() for target in targets]
    done = False
    try:
        yield saved
        done = not also_if_done
    finally:
        if not done:
            with torch.no_grad():
                for target, value in zip(targets, saved, strict=True):
                    target.parameter.copy_(value)
            torch.clear_autocast_cache()


def _shift(targets: list[Target], strengths: Mapping[str, float], start: list[Tensor]) -> None:
    """Each parameter becomes its ``start`` and the change, added in the wider dtype and rounded once."""
    with torch.no_grad():
        for (parameter, change, layer, which), value in zip(targets, start, strict=True):
            # A start that is the parameter itself is overwritten; a copy can be asked later, if there is reason to.
            wide, fine = torch.promote_types(parameter.dtype, change.dtype), value is not parameter or all_finite(value)
            # One that float32 cannot hold is infinite there, and the sum not finite.
            alpha = float(
                torch.tensor(strengths[layer.name], dtype=torch.promote_types(wide, torch.float32), device="cpu")
            )
            out = parameter if parameter.dtype == wide else None  # fresh memory costs more than the sum
            moved = torch.add(value.to(wide), change.to(parameter.device, wide), alpha=alpha, out=out)
            if out is None:
                parameter.copy_(moved)
            if fine and not all_finite(parameter) and (value is parameter or all_finite(value)):
                raise ValueError(
                    f"alpha: {strengths[layer.name]:g} takes the {which} of layer {layer.name!r} out of the range of"
                    f" {parameter.dtype}"
                )
    torch.clear_autocast_cache()  # inside torch.autocast, casts of the weights as they were would go on acting
