"""How much data a method reads: counted where examples enter the network, whatever the method does with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook


@dataclass
class Read:
    """Examples that entered the network, and how many of them under a gradient; each counts as often as it entered."""

    examples: float = 0.0
    trained: float = 0.0

    def __iadd__(self, other: Read) -> Read:
        self.examples += other.examples
        self.trained += other.trained
        return self


@contextmanager
def reading(model: nn.Module) -> Iterator[Read]:
    """Count what `model` and its copies read in the block.

    Counted at the first layer that has weights; a layer of the same class and shape further in would count again, so
    then the whole model is looked at, and calls of its parts do not count. A step of generation, which reads one more
    token of an example, is no new reading.
    """
    layers = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
    shape = _shape(layers[0]) if layers else None
    if shape is None or sum(_shape(layer) == shape for layer in layers) > 1:
        shape = type(model)
    count = Read()

    def hook(module: nn.Module, args: tuple, output: object) -> None:
        if (_shape(module) if isinstance(shape, tuple) else type(module)) != shape:
            return
        found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(found, Tensor) or (found.ndim == 3 and found.shape[1] == 1):
            return
        count.examples += len(found)
        count.trained += len(found) * torch.is_grad_enabled()

    handle = register_module_forward_hook(hook)
    try:
        yield count
    finally:
        handle.remove()


def _shape(module: nn.Module) -> tuple:
    return (type(module), *(tuple(p.shape) for p in module.parameters(recurse=False)))
