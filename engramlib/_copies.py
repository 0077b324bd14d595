"""A copy of a model that computes with its own weights, or a refusal."""

from __future__ import annotations

import copy
import functools
import itertools
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from engramlib.layers import overlap, storage_of

Model = TypeVar("Model", bound=nn.Module)

INSTEAD = (
    "edit the model itself instead: inplace=True, or `with el.edited(model, -alpha * engram): ...`, which undoes it"
    " exactly"
)
_MOST = 200_000  # objects looked at; a model's own hooks and functions reach a few hundred


def copied(model: Model) -> Model:
    """A deep copy that shares no weight with ``model``.

    ``copy.deepcopy`` copies modules and tensors, but not functions: a ``forward`` stored on an instance (compiled, or
    wrapped), a hook that closes over a layer or a weak reference still lead to the original's weights. So whatever the
    copy can reach is looked at.

    Raises ``TypeError`` where the copy reaches a module or a tensor of the original, or cannot be made; it says where,
    and what to do instead. Cost: the model's memory once more.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if any(part.device.type == "meta" for part in model.parameters()):
        raise TypeError(f"the model has weights that are not in memory, so a copy of it would not run; {INSTEAD}")
    try:
        result = copy.deepcopy(model)
    except Exception as error:  # whatever an attribute of the user's raises
        raise TypeError(f"the model cannot be copied ({type(error).__name__}: {error}); {INSTEAD}") from error
    _tie_again(model, result)
    originals = {id(part): part for part in (*model.modules(), *model.parameters(), *model.buffers())}
    for name, module in result.named_modules():
        for place, value in _own(module):
            if _reaches(value, originals, [module, *result.children()]):
                where = f"{name}.{place}" if name else place
                raise TypeError(
                    f"a copy of the model would still run the original's weights: its {where} leads to them"
                    f" (a function stored on the instance, a hook, or a shared object); {INSTEAD}"
                )
    return result


def _tie_again(model: nn.Module, result: nn.Module) -> None:
    """Tensors that share memory in the model share it in its copy: ``deepcopy`` gives each parameter its own."""
    groups: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for one, other in zip(_tensors(model), _tensors(result), strict=True):
        if (place := storage_of(one)) is not None:
            groups.setdefault(place, []).append((one, other))
    for pairs in groups.values():
        if not any(overlap(a, b) for (a, _), (b, _) in itertools.combinations(pairs, 2)):
            continue
        storage = pairs[0][0].untyped_storage().clone()
        for one, other in pairs:
            shared = torch.empty(0, dtype=one.dtype, device=one.device)
            other.data = shared.set_(storage, one.storage_offset(), one.shape, one.stride())


def _tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once."""
    return [*model.parameters(), *model.buffers()]


# Attributes that shadow a method of nn.Module are no part of what it computes, but for these (accelerate's `to`, say).
_COMPUTES = ("forward", "_call_impl", "_wrapped_call_impl", "_slow_forward")


def _own(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a module holds, with a name for it."""
    if isinstance(module, torch.jit.ScriptModule):
        return
    yield "class", type(module).forward
    for name, value in vars(module).items():
        if name in ("_parameters", "_buffers", "_modules"):
            yield from ((part, own) for part, own in value.items() if own is not None)
        elif value is not None and (name in _COMPUTES or not hasattr(nn.Module, name)):
            yield name, value


def _reaches(start: Any, originals: Mapping[int, Any], own: list[Any]) -> bool:
    """Whether ``start`` leads to one of the originals, through containers, functions, closures and attributes."""
    seen: set[int] = set()
    waiting = [start]
    alive = [start]  # so that no address is used twice
    while waiting and len(seen) < _MOST:
        value = waiting.pop()
        if id(value) in originals and originals[id(value)] is value:
            return True
        if id(value) in seen or isinstance(value, (str, bytes, int, float, type, types.ModuleType)):
            continue
        seen.add(id(value))
        # Modules and tensors of the copy are looked at on their own.
        if value is not start and isinstance(value, (nn.Module, Tensor)):
            continue
        parts = list(_parts(value))
        alive += parts
        waiting += parts
    return False


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, weakref.ref):
        yield value()
    elif isinstance(value, (nn.Module, Tensor)):
        return
    elif type(value).__module__.partition(".")[0] not in ("torch", "builtins"):
        yield from list(getattr(value, "__dict__", {}).values())
        yield from (getattr(value, name, None) for name in getattr(type(value), "__slots__", ()))


def _of_function(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()
    if function.__module__ and function.__module__.partition(".")[0] == "torch":
        return  # its globals are torch's
    for name in _global_names(function.__code__):
        known = function.__globals__.get(name)
        if isinstance(known, (nn.Module, Tensor, list, tuple, dict, functools.partial, types.MethodType)):
            yield known


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)
