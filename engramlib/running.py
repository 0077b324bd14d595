"""What a batch is, for every function that runs a model over data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engramlib._attention import calling_projections
from engramlib._experts import calling_experts

Batch = Any
Selector = Callable[[Batch], Tensor]


def as_batches(batches: Iterable[Batch]) -> Iterable[Batch]:
    """An iterable of batches; a single tensor or dict becomes a list of one. Raises for what is surely a mistake."""
    if isinstance(batches, (Tensor, Mapping)):
        return [batches]
    if isinstance(batches, tuple) and len(batches) == 2 and all(isinstance(b, Tensor) for b in batches):
        x, y = batches
        if x.ndim > 1 and y.ndim == 1 and len(x) == len(y):
            raise ValueError("batches: got a single (x, y) pair; put it in a list, [(x, y)], to make it one batch")
    if isinstance(batches, nn.Module) or not hasattr(batches, "__iter__"):
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


def call_model(model: nn.Module, batch: Batch) -> Any:
    """What a batch means: a tensor is the input, a tuple starts with it, a dict holds keyword arguments."""
    if isinstance(batch, Tensor):
        return model(batch)
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, (tuple, list)) and batch:
        return model(batch[0])
    raise TypeError(f"batches: expected tensors, (x, y) tuples or dicts, got {type(batch).__name__}; or pass `forward`")


def labels_of(batch: Batch, rows: Selector | None, concepts: Selector | None, device: torch.device) -> Tensor | None:
    """One integer per example or token, negative = skip; None = everything counts."""
    mask = None if rows is None else torch.as_tensor(rows(batch), device=device)
    if mask is not None and mask.dtype != torch.bool:
        if mask.dtype.is_floating_point or not ((mask == 0) | (mask == 1)).all():
            raise ValueError(f"rows: expected a boolean mask, got {mask.dtype}")
        mask = mask.bool()
    labels = None if concepts is None else torch.as_tensor(concepts(batch), device=device)
    if labels is not None and (labels.dtype.is_floating_point or labels.dtype == torch.bool):
        raise ValueError(f"concepts: expected integers, got {labels.dtype}")
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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; every module's own training flag is restored on leaving.

    PyTorch's fused attention skips its layers in evaluation mode, so it is off as well; attention calls those of its
    projections that have hooks, and so do fused experts.
    """
    training = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        model.eval()
        with calling_projections(model), calling_experts(model):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, flag in training.items():
            module.training = flag
