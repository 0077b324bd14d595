"""An output layer that is the embedding: giving it a matrix of its own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from engramlib._copies import copied
from engramlib.layers import supported_layers, tied_to_embeddings

Model = TypeVar("Model", bound=nn.Module)


def untie(model: Model, *, inplace: bool = False) -> Model:
    """Give an output layer that shares the embedding's matrix a matrix of its own, with the same numbers in it.

    The model computes what it did; after that, an edit of ``lm_head`` leaves the embedding alone. Its config says
    ``tie_word_embeddings = False``, so ``save_pretrained`` writes both. Nothing happens where nothing is tied.

    Args:
        model: any module; layers of a supported type that share their weight with an ``nn.Embedding`` are untied.
        inplace: change ``model`` itself instead of a copy.

    Returns:
        The model. Cost: the embedding's size in memory once more; chapter 13.
    """
    with ExitStack() as undo:
        result = model if inplace else copied(model)
        untie_layers(result, None, undo)
        undo.pop_all()
    return result


def untie_layers(model: nn.Module, names: list[str] | None, undo: ExitStack) -> None:
    """Untie some layers, or all; ``undo`` learns of each step before it is taken, and takes it back."""
    layers = supported_layers(model)
    for name in tied_to_embeddings(model, layers):
        if names is not None and name not in names:
            continue
        layer = layers[name]
        old, key = layer.stored("weight"), layer.slot("weight")[0]
        assert old is not None  # it is tied
        own = nn.Parameter(old.detach().clone(), requires_grad=old.requires_grad)
        steps = ExitStack()
        undo.callback(_take_back, steps, own, old)
        steps.callback(layer.owner._parameters.__setitem__, key, layer.owner._parameters[key])
        layer.owner._parameters[key] = own
        # What transformers keeps to know what is tied: the config, and (from version 5) a dict on the model.
        config: Any = getattr(model, "config", None)
        parts: list[Any] = [config, config.get_text_config() if hasattr(config, "get_text_config") else None]
        for part in parts:
            if getattr(part, "tie_word_embeddings", False):
                steps.callback(setattr, part, "tie_word_embeddings", True)
                part.tie_word_embeddings = False
        if isinstance(known := getattr(model, "all_tied_weights_keys", None), dict):
            steps.callback(_refill, known, dict(known))
            known.pop(layer.parameter_name("weight"), None)


def _take_back(steps: ExitStack, own: Tensor, old: Tensor) -> None:
    """Unless it is edited by then: an interruption after the last step of an edit finds the edit done."""
    if torch.equal(own, old):
        steps.close()


def _refill(known: dict[str, Any], entries: dict[str, Any]) -> None:
    known.clear()
    known.update(entries)
