"""Streaming moments inside transformers' `Trainer`: it is told when a pass and a step begin, not what the batch was.

It stands in the lab because it is a bridge between two loops and no part of the method, which needs torch alone.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from transformers import TrainerCallback

import engramlib as el


class TrackMoments(TrainerCallback):
    """`Trainer(..., callbacks=[TrackMoments(tracker)])`: every training pass is watched, every step counted.

    `tracker`: an `el.OnlineMoments` of the model that is trained. Its `concepts` and `rows` get what the model is
    called with, a dict: `rows=lambda batch: batch["labels"] != -100` for the tokens of answers. Evaluation is not
    watched, and passes of gradient accumulation are one step. After training the model has no hook left; where training
    stopped with an error, `remove()` takes them off.

    Raises `ValueError` where another model is trained, `TypeError` for a model in `DataParallel`.
    """

    def __init__(self, tracker: el.OnlineMoments) -> None:
        if not isinstance(tracker, el.OnlineMoments):
            raise TypeError(f"tracker: expected an OnlineMoments, got {type(tracker).__name__}")
        self.tracker = tracker
        self.hooks: list[Any] = []
        self.open: AbstractContextManager[None] | None = None

    def on_train_begin(self, args, state, control, model: nn.Module | None = None, **rest) -> None:
        if isinstance(model, nn.DataParallel):
            raise TypeError("TrackMoments: DataParallel runs copies that nobody watches; use one device, or processes")
        if model is not None and not any(part is self.tracker.model for part in model.modules()):
            raise ValueError("TrackMoments: the tracker is of another model than the one that is trained")
        watched = self.tracker.model
        self.hooks = [
            watched.register_forward_pre_hook(self._begin, with_kwargs=True),
            watched.register_forward_hook(self._end, always_call=True),
        ]

    def on_step_end(self, args, state, control, **rest) -> None:
        self.tracker.step()

    def on_train_end(self, args, state, control, **rest) -> None:
        self.remove()

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks = []

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if model.training:
            self.open = self.tracker.watch(kwargs or args)
            self.open.__enter__()

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        block, self.open = self.open, None
        if block is None:
            return
        if output is None:  # the pass came to no end: what it showed does not count
            stopped = RuntimeError("the forward pass stopped")
            block.__exit__(RuntimeError, stopped, None)
        else:
            block.__exit__(None, None, None)
