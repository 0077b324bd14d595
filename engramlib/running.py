"""Running a model over data, and handing it back as it came: batches, modes, hooks, labels."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engramlib._attention import calling_projections, projections
from engramlib._experts import calling_experts, experts, is_experts

Batch = Any
Selector = Callable[[Batch], Tensor]
Forward = Callable[[nn.Module, Batch], Any]

# ------------------------------------------------------------------------------------------------------------- batches


def as_batches(batches: Iterable[Batch]) -> Iterable[Batch]:
    """An iterable of batches; a single tensor or dict becomes a list of one. Raises for what is surely a mistake."""
    if isinstance(batches, (Tensor, Mapping)):
        return [batches]
    if isinstance(batches, tuple) and len(batches) == 2 and all(isinstance(b, Tensor) for b in batches):
        x, y = batches
        if x.ndim > 1 and y.ndim == 1 and len(x) == len(y):
            raise ValueError("batches: got a single (x, y) pair; put it in a list, [(x, y)], to make it one batch")
    _refuse_numpy(batches)
    if isinstance(batches, tuple):
        for part in batches:
            _refuse_numpy(part)
    if isinstance(batches, (nn.Module, str, bytes)) or not hasattr(batches, "__iter__"):
        raise TypeError(f"batches: expected an iterable of batches, got {type(batches).__name__}")
    return batches


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with every tensor in it on ``device``."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return (
            type(batch)(*(to_device(v, device) for v in batch))
            if hasattr(batch, "_fields")
            else type(batch)(to_device(v, device) for v in batch)
        )
    return batch


def device_of(model: nn.Module) -> torch.device:
    """Where the model wants its inputs: accelerate's word, or the first parameter that is in memory."""
    said = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    if said is not None:
        return torch.device(said)
    return next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))


def call_model(model: nn.Module, batch: Batch) -> Any:
    """What a batch means: a tensor is the input, a tuple starts with it, a dict holds keyword arguments."""
    if isinstance(batch, Tensor):
        return model(batch)
    if isinstance(batch, Mapping):
        for value in batch.values():
            _refuse_numpy(value)
        return model(**batch)
    if isinstance(batch, (tuple, list)) and batch:
        _refuse_numpy(batch[0])
        return model(batch[0])
    _refuse_numpy(batch)
    raise TypeError(f"batches: expected tensors, (x, y) tuples or dicts, got {type(batch).__name__}; or pass `forward`")


def run(model: nn.Module, batch: Batch, forward: Forward | None = None) -> Any:
    """The model's output for a batch. Random numbers that it draws are given back: the next ones are as without it.

    ``DataParallel`` runs copies, whose layers nobody watches, so what it wraps is called.
    """
    with random_state_kept(model):
        if forward is not None:
            return forward(model, batch)
        return call_model(model.module if isinstance(model, nn.DataParallel) else model, batch)


def _refuse_numpy(value: Any) -> None:
    if type(value).__module__.partition(".")[0] == "numpy":
        raise TypeError(
            f"batches: got a numpy {type(value).__name__} where a tensor belongs; turn it into one with"
            " torch.as_tensor(...), in the model's dtype"
        )


def _selected(argument: str, value: Any, device: torch.device) -> Tensor:
    try:
        return torch.as_tensor(value, device=device)
    except (RuntimeError, TypeError, ValueError) as error:
        what = "a boolean mask" if argument == "rows" else "integers"
        raise TypeError(f"{argument}: expected {what}, one per example or token, got {type(value).__name__}") from error


def labels_of(batch: Batch, rows: Selector | None, concepts: Selector | None, device: torch.device) -> Tensor | None:
    """One integer per example or token, negative = skip; None = everything counts."""
    mask = None if rows is None else _selected("rows", rows(batch), device)
    if mask is not None and mask.dtype != torch.bool:
        if mask.dtype.is_floating_point or not ((mask == 0) | (mask == 1)).all():
            raise ValueError(f"rows: expected a boolean mask, got {mask.dtype}")
        mask = mask.bool()
    labels = None if concepts is None else _selected("concepts", concepts(batch), device)
    if labels is not None and (labels.dtype.is_floating_point or labels.dtype == torch.bool):
        raise ValueError(f"concepts: expected integers, got {labels.dtype}")
    if labels is not None and labels.dtype == torch.uint8 and (labels == 255).any():
        raise ValueError("concepts: 255 in uint8 is what -1 becomes there; cast the labels to int64 before marking any")
    for argument, tensor in (("rows", mask), ("concepts", labels)):
        if tensor is not None and tensor.ndim not in (1, 2):
            raise ValueError(f"{argument}: expected shape (batch,) or (batch, tokens), got {tuple(tensor.shape)}")
    if labels is None:
        return None if mask is None else mask.long() - 1
    if mask is None:
        return labels.long()
    if labels.ndim < mask.ndim:
        labels = labels.unsqueeze(1)
    if mask.ndim < labels.ndim:
        mask = mask.unsqueeze(1)
    try:
        return torch.where(mask, labels.long(), -1)
    except RuntimeError:
        raise ValueError(
            f"rows and concepts disagree in shape: {tuple(mask.shape)} and {tuple(labels.shape)}"
        ) from None


# ------------------------------------------------------------------------------------------------ modes, handed back


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; on leaving, also by an error or Ctrl-C, the model is as it came.

    Flags are set one by one, because a layer's own ``train()`` may do work (merge an adapter, say). Whatever was
    compiled runs eagerly: a compiled graph that is warm calls no hooks. PyTorch's fused attention skips its layers in
    evaluation mode, so it is off as well; attention calls those of its projections that have hooks, and so do fused
    experts.
    """
    with handed_back(model), calling_layers(model):
        for module in model.modules():
            module.training = False
        yield


@contextmanager
def calling_layers(model: nn.Module) -> Iterator[None]:
    """Inside the block every layer is called as the module that it is, so that hooks see what it reads."""
    with ExitStack() as stack:
        # Leaving no_grad goes through torch's function modes, so Ctrl-C inside ours would leave gradients off.
        stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and there is no need to load it
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(calling_projections(model))
        stack.enter_context(calling_experts(model))
        yield


@contextmanager
def handed_back(model: nn.Module) -> Iterator[None]:
    """Restore, on leaving, all that a pass can change in a model: flags, hooks, buffers, tensors that it keeps."""
    states = [_State(part) for module in model.modules() for part in (module, *_views(module))]
    try:
        yield
    finally:
        for state in states:
            state.restore()


def _views(module: nn.Module) -> tuple[nn.Module, ...]:
    """Layers that are a part of ``module`` and none of its children."""
    if isinstance(module, nn.MultiheadAttention):
        return projections(module)
    return experts(module) if is_experts(module) else ()


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


class _State:
    """What a module holds besides its parameters: references, and copies of what can be written into."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.training = module.training
        self.hooks = {name: dict(getattr(module, name)) for name in _HOOKS}
        self.buffers = {
            name: (buffer, _version(buffer), buffer.detach().clone())
            for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
            if buffer.device.type != "meta"
        }
        self.scripted = isinstance(module, torch.jit.ScriptModule)  # what it holds is not to be had from here
        self.names = set() if self.scripted else set(module._buffers)
        self.own = {} if self.scripted else dict(vars(module))
        self.content = {
            name: list(value) if isinstance(value, list) else dict(value)
            for name, value in self.own.items()
            if isinstance(value, (list, dict)) and name not in _INTERNAL
        }

    def restore(self) -> None:
        module = self.module
        module.training = self.training
        for name, hooks in self.hooks.items():
            if (now := getattr(module, name)) != hooks:
                now.clear()
                now.update(hooks)
        for name in () if self.scripted else set(module._buffers) - self.names:
            del module._buffers[name]
        for name, (buffer, version, copy) in self.buffers.items():
            if not self.scripted:
                module._buffers[name] = buffer
            if version is None or _version(buffer) != version:
                with torch.no_grad():
                    buffer.copy_(copy)
        own = {} if self.scripted else vars(module)
        for name, value in list(own.items()):
            if name in _INTERNAL:
                continue
            old = self.own.get(name)
            if value is not old and (name == "forward" or _holds_tensors(value)):
                if name in self.own:
                    own[name] = old
                else:
                    del own[name]
            elif name in self.content and (_holds_tensors(value) or _holds_tensors(self.content[name])):
                _refill(value, self.content[name])
        for name in set(self.own) - set(own):
            if name == "forward" or _holds_tensors(self.own[name]):
                own[name] = self.own[name]


_INTERNAL = set(vars(nn.Module()))


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value))


def _refill(container: list[Any] | dict[Any, Any], content: Any) -> None:
    """Put back what a list or a dict of tensors held."""
    parts = container.values() if isinstance(container, dict) else container
    before = content.values() if isinstance(content, dict) else content
    if [id(part) for part in parts] != [id(part) for part in before]:
        container.clear()
        container.update(content) if isinstance(container, dict) else container.extend(content)


@contextmanager
def random_state_kept(model: nn.Module) -> Iterator[None]:
    """Every generator that a forward pass may draw from is, on leaving, where it was."""
    places = {p.device for p in model.parameters() if p.device.type == "cuda"}
    numpy = sys.modules.get("numpy")
    python, cpu = random.getstate(), torch.get_rng_state()
    gpus = {place: torch.cuda.get_rng_state(place) for place in places}
    other = numpy.random.get_state() if numpy else None
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(cpu)
        for place, state in gpus.items():
            torch.cuda.set_rng_state(state, place)
        if numpy:
            numpy.random.set_state(other)
