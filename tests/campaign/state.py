"""Everything that a call may not change in a model, and in the process around it."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import eval_frame

State = dict[str, Any]


def taken(model: nn.Module | None) -> State:
    """A copy of the state, to the last bit: name of a place -> what stands there."""
    found: State = {"process: " + name: value for name, value in _process().items()}
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        for place, value in vars(module).items():
            if place in ("_parameters", "_buffers"):
                for own, tensor in value.items():
                    found[f"{name}.{own}: object"] = id(tensor)
                    if tensor is not None:
                        found[f"{name}.{own}: numbers"] = _bits(tensor)
                        found[f"{name}.{own}: requires_grad"] = tensor.requires_grad
                        found[f"{name}.{own}: grad"] = None if tensor.grad is None else _bits(tensor.grad)
            elif place == "_modules":
                found[f"{name}: children"] = [(own, id(child)) for own, child in value.items()]
            else:
                found[f"{name}.{place}"] = _plain(value)
    return found


def changed(before: State, after: State) -> list[str]:
    """The places that differ."""
    return sorted(
        place for place in before.keys() | after.keys() if before.get(place, "absent") != after.get(place, "absent")
    )


def _process() -> State:
    numpy = sys.modules.get("numpy")
    return {
        "torch's random state": _bits(torch.get_rng_state()),
        "Python's random state": hash(random.getstate()),
        "numpy's random state": numpy and hash(numpy.random.get_state()[1].tobytes()),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "attention's fast path": torch.backends.mha.get_fastpath_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "default dtype": torch.get_default_dtype(),
        "compiler's stance": repr(eval_frame._stance),
        "torch function modes": torch._C._len_torch_function_stack(),
        "torch dispatch modes": torch._C._len_torch_dispatch_stack(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _bits(tensor: Tensor) -> Any:
    if tensor.device.type == "meta" or tensor.is_quantized or tensor.layout != torch.strided:
        return "elsewhere", str(tensor.dtype), tuple(tensor.shape)
    if isinstance(tensor, nn.parameter.UninitializedParameter):
        return "uninitialised"
    raw = tensor.detach().cpu().contiguous().resolve_conj().reshape(-1).view(torch.uint8)
    return str(tensor.dtype), tuple(tensor.shape), tuple(tensor.stride()), bytes(raw.numpy())


def _plain(value: Any) -> Any:
    """What can be compared of an attribute: numbers by value, containers by content, the rest by identity."""
    if isinstance(value, Tensor):
        return id(value), _bits(value)
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
        return repr(value)
    if isinstance(value, dict):
        return [(repr(key), _plain(part)) for key, part in value.items()]
    if isinstance(value, (list, tuple, set)):
        return [_plain(part) for part in value]
    return id(value)
