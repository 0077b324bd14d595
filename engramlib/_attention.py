"""``torch.nn.MultiheadAttention`` step by step: its four projections as layers that are called.

That module never calls a projection. It hands all weights to ``F.multi_head_attention_forward``, query, key and value
stacked in ``in_proj_weight``. Here each of the three is a :class:`Projection`, a view of its rows, and inside
:func:`calling_projections` the forward pass calls them and ``out_proj``, so that hooks see what each reads and gives.
Everything between them, masks included, stays torch's own code.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

PARTS = ("q_proj", "k_proj", "v_proj")


class Projection(nn.Module):
    """The query, key or value projection of an attention module. It has no parameters, only a view of the owner's."""

    def __init__(self, attention: nn.MultiheadAttention, part: str) -> None:
        super().__init__()
        self._attention = weakref.ref(attention)
        self.part = self.suffix = part  # its name, after the owner's

    @property
    def owner(self) -> nn.MultiheadAttention:
        owner = self._attention()
        if owner is None:
            raise ReferenceError(f"the attention module of this {self.part} is gone")
        return owner

    def slot(self, which: str) -> tuple[str, slice]:
        """The owner's parameter that ``"weight"`` or ``"bias"`` is in, and which of its rows."""
        width, number = self.owner.embed_dim, PARTS.index(self.part)
        rows = slice(number * width, (number + 1) * width)
        if which == "bias":
            return "in_proj_bias", rows
        return ("in_proj_weight", rows) if stacked(self.owner) else (f"{self.part}_weight", slice(None))

    @property
    def weight(self) -> Tensor:
        key, rows = self.slot("weight")
        return getattr(self.owner, key)[rows]

    @property
    def bias(self) -> Tensor | None:
        key, rows = self.slot("bias")
        bias = getattr(self.owner, key)
        return None if bias is None else bias[rows]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def stacked(attention: nn.MultiheadAttention) -> bool:
    """Whether query, key and value share one parameter (they do unless they differ in width)."""
    return attention._qkv_same_embed_dim


_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[Projection, ...]] = weakref.WeakKeyDictionary()


def projections(attention: nn.MultiheadAttention) -> tuple[Projection, ...]:
    """Query, key and value of ``attention``: the same three objects at every call."""
    if attention not in _KNOWN:
        _KNOWN[attention] = tuple(Projection(attention, part) for part in PARTS)
    return _KNOWN[attention]


@contextmanager
def calling_projections(model: nn.Module) -> Iterator[None]:
    """Inside the block, attention calls those of its projections that somebody listens to."""
    attentions = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    if not attentions:
        yield
        return
    mode, handles = _StepByStep(), []
    try:
        for module in attentions:
            handles.append(module.register_forward_pre_hook(lambda module, args: mode.begin(module)))
            handles.append(module.register_forward_hook(lambda module, args, out: mode.end(module), always_call=True))
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()


class _StepByStep(TorchFunctionMode):
    """Takes over ``F.multi_head_attention_forward`` while an attention module runs, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[nn.MultiheadAttention] = []
        self.thread = threading.get_ident()  # a mode acts in one thread, hooks in all

    def begin(self, module: nn.Module) -> None:
        if threading.get_ident() == self.thread:
            self.running.append(module)  # type: ignore[arg-type]

    def end(self, module: nn.Module) -> None:
        if threading.get_ident() == self.thread and self.running and self.running[-1] is module:
            self.running.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.multi_head_attention_forward and self.running:
            return _attend(self.running[-1], func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _attend(
    attention: nn.MultiheadAttention, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """The same attention, with the projections outside it: torch's function is left the identity to project with.

    A product with the identity is exact (each sum has one term that is not zero), so what is in between is the same.
    """
    given = inspect.signature(func).bind(*args, **kwargs).arguments
    parts = projections(attention)
    if any(map(_hooked, parts)):
        inputs = [given["query"], given["key"], given["value"]]
        turned = {id(x): _turn(x) for x in inputs}  # one tensor stays one tensor: its readers share a Σ
        q, k, v = (_turn(part(turned[id(x)])) for part, x in zip(parts, inputs, strict=True))
        eye = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
        given.update(query=q, key=k, value=v, in_proj_weight=None, in_proj_bias=None, use_separate_proj_weight=True)
        given.update(q_proj_weight=eye, k_proj_weight=eye, v_proj_weight=eye)
    out = attention.out_proj
    if not _hooked(out) or type(out).forward is not nn.Linear.forward:
        return func(**given)
    x = given["query"]
    given.update(out_proj_weight=torch.eye(x.shape[-1], dtype=x.dtype, device=x.device), out_proj_bias=None)
    heads, weights = func(**given)
    return _turn(out(_turn(heads))), weights


def _turn(x: Tensor) -> Tensor:
    """(length, batch, width) <-> (batch, length, width), the order of everything that is not attention."""
    return x.transpose(0, 1) if x.ndim == 3 else x


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_pre_hooks or module._forward_hooks)
