"""Mixtures of experts whose weights are fused: each projection of each expert as a layer that is called.

transformers 5 keeps all experts of a block in two parameters, ``gate_up_proj`` and ``down_proj``, with the expert as
the first dimension, and multiplies by them at once. Here each slice is an :class:`Expert`, a view of its owner, and
inside :func:`calling_experts` the forward pass calls those that somebody listens to, with the tokens that were routed
to it and where they stand in the batch. Whether that is the same computation is not believed but checked: on the first
call its output is compared with the module's own.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The first projection has the gate in it or not; the second comes after the activation.
_FIRST, _SECOND = ("gate_up_proj", "up_proj"), "down_proj"
_CHECKED = 64  # tokens of the first call that are computed both ways


class Expert(nn.Module):
    """One projection of one expert. It has no parameters, only a view of the owner's: entry ``number`` of ``part``."""

    def __init__(self, experts: nn.Module, part: str, number: int, transposed: bool) -> None:
        super().__init__()
        self._experts = weakref.ref(experts)
        self.part, self.number, self.transposed = part, number, transposed
        self.suffix = f"{number}.{part}"  # its name, after the owner's

    @property
    def owner(self) -> nn.Module:
        owner = self._experts()
        if owner is None:
            raise ReferenceError(f"the experts of this {self.part} are gone")
        return owner

    def slot(self, which: str) -> tuple[str, int]:
        """The owner's parameter that ``"weight"`` or ``"bias"`` is in, and which entry of it."""
        return (self.part if which == "weight" else f"{self.part}_bias"), self.number

    @property
    def weight(self) -> Tensor:
        return getattr(self.owner, self.part)[self.number]

    @property
    def bias(self) -> Tensor | None:
        bias = getattr(self.owner, f"{self.part}_bias", None)
        return None if bias is None else bias[self.number]

    def forward(self, x: Tensor, tokens: Tensor, total: int) -> Tensor:
        """``x`` are the routed tokens, ``tokens`` their places among the ``total`` tokens of the batch."""
        weight = self.weight
        return F.linear(x, weight.mT if self.transposed else weight, self.bias)


def is_experts(module: nn.Module) -> bool:
    """Whether ``module`` looks like fused experts, of a layout that is known or not.

    That is a class that is called so, as almost everywhere in transformers, and holds matrices or stacks of them
    itself; or one of any name (DeepSeek's was ``NaiveMoe``) that holds stacks under the names that fused experts have.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return False
    own = [p for p in (*module._parameters.values(), *module._buffers.values()) if p is not None]
    stacks = {name for name, p in module._parameters.items() if p is not None and p.ndim == 3}
    if _SECOND in stacks and not stacks.isdisjoint(_FIRST):
        return True
    names = [c.__name__ for c in type(module).__mro__]
    if not any("Expert" in name for name in names) or any("Router" in name or "Gate" in name for name in names):
        return False
    return not isinstance(module, (nn.Linear, nn.Embedding)) and any(p.ndim >= 2 for p in own)


def _layout(module: nn.Module) -> tuple[str, bool] | None:
    """(name of the first projection, whether weights are stored as (in, out)), or None where that is not clear."""
    first = next((name for name in _FIRST if isinstance(module._parameters.get(name), nn.Parameter)), None)
    second = module._parameters.get(_SECOND)
    if first is None or second is None or second.ndim != 3 or len(_arguments(module)) != 3:
        return None
    up = module._parameters[first]
    assert up is not None  # it was found above
    if up.ndim != 3 or len(up) != len(second):
        return None
    gated = first == "gate_up_proj"
    for transposed in (False, True) if not getattr(module, "is_transposed", False) else (True,):
        (out, width), (width_back, inner) = (
            (w.shape[1:] if not transposed else (w.shape[2], w.shape[1])) for w in (up, second)
        )
        if width == width_back and out == inner * (2 if gated else 1):
            return first, transposed
    return None


def _arguments(module: nn.Module) -> list[str]:
    return list(inspect.signature(type(module).forward).parameters)[1:]


_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[Expert, ...]] = weakref.WeakKeyDictionary()


def experts(module: nn.Module) -> tuple[Expert, ...]:
    """Both projections of each expert of ``module``, the same objects at every call; empty for an unknown layout."""
    if module not in _KNOWN:
        layout = _layout(module)
        found = []
        if layout is not None:
            first, transposed = layout
            for number in range(len(getattr(module, first))):
                found += [Expert(module, part, number, transposed) for part in (first, _SECOND)]
        _KNOWN[module] = tuple(found)
    return _KNOWN[module]


@contextmanager
def calling_experts(model: nn.Module) -> Iterator[None]:
    """Inside the block, fused experts call those of their projections that somebody listens to."""
    with ExitStack() as stack:
        for module in model.modules():
            if is_experts(module) and experts(module):
                stack.enter_context(_replaced(module))
        yield


@contextmanager
def _replaced(module: nn.Module) -> Iterator[None]:
    own, mine = module.forward, "forward" in vars(module)
    module.forward = _Steps(module, own)
    try:
        yield
    finally:
        if mine:
            module.forward = own
        else:
            del module.forward


class _Steps:
    """The forward pass of fused experts, one expert at a time."""

    def __init__(self, module: nn.Module, own: Callable[..., Tensor]) -> None:
        self.module: Any = module
        self.own, self.checked = own, False

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        parts = experts(self.module)
        if not any(part._forward_pre_hooks or part._forward_hooks for part in parts):
            return self.own(*args, **kwargs)
        given = inspect.signature(type(self.module).forward).bind(self.module, *args, **kwargs).args[1:]
        if len(given) != 3 or given[0].ndim != 2 or given[1].shape != given[2].shape:
            raise TypeError(f"{self.name}: its experts were not called with tokens, the experts chosen, and weights")
        if not self.checked:
            self.check(*given)
            self.checked = True
        return self.run(lambda part, x, tokens: part(x, tokens, len(given[0])), *given)

    @property
    def name(self) -> str:
        return type(self.module).__name__

    def run(
        self, call: Callable[[Expert, Tensor, Tensor], Tensor], x: Tensor, index: Tensor, weights: Tensor
    ) -> Tensor:
        """Σ over the chosen experts of weight · expert(x). Also experts that got no token are called, with none."""
        module, parts, out = self.module, experts(self.module), torch.zeros_like(x)
        for first, second in zip(parts[::2], parts[1::2], strict=True):
            tokens, place = torch.where(index == first.number)
            z = self.activate(call(first, x[tokens], tokens))
            z = call(second, z, tokens)
            if getattr(module, "has_post_expert_norm", False):
                z = module.post_expert_norm(z)
            out = out.index_add(0, tokens, (z * weights[tokens, place, None]).to(out.dtype))
        return out

    def activate(self, z: Tensor) -> Tensor:
        if hasattr(self.module, "_apply_gate") and getattr(self.module, "has_gate", True):
            return self.module._apply_gate(z)
        if experts(self.module)[0].part == "up_proj":
            return self.module.act_fn(z)
        gate, up = z.chunk(2, dim=-1)
        return self.module.act_fn(gate) * up

    def check(self, x: Tensor, index: Tensor, weights: Tensor) -> None:
        part = slice(0, _CHECKED)
        given = x[part], index[part], weights[part]
        with torch.no_grad():
            ours = self.run(lambda expert, x, tokens: expert.forward(x, tokens, len(x)), *given).double()
            theirs = self.own(*given).double()
        tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(x.dtype, 5e-2)
        if ours.shape != theirs.shape or (ours - theirs).norm() > tolerance * theirs.norm() + 1e-12:
            raise TypeError(
                f"{self.name}: computing its experts one at a time does not give what the module gives, so what each of"
                " them reads is not known; choose other layers with `layers`"
            )
