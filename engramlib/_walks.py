"""Forward passes that stop where a layer is called, and go on when they are told to.

A pass cannot be left half way and taken up again, unless it runs somewhere that can wait: each one has a thread. Only
one of them runs at a time, and only while the caller waits for it, so nothing is parallel: a thread is a stack that is
kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engramlib._attention import calling_projections
from engramlib._recorder import input_of
from engramlib.layers import Layer
from engramlib.running import Batch, Forward, call_model, random_state_kept

_here = threading.local()


class _Left(BaseException):
    """Unwinds a pass that nobody will take up again; not an Exception, so no model's own ``except`` stops it."""


class Walk:
    """One batch on its way through one model.

    Args:
        model: has the hooks of :func:`stopping`.
        batch, forward: as in :func:`engramlib.collect`.
    """

    def __init__(self, model: nn.Module, batch: Batch, forward: Forward | None) -> None:
        self.model, self.batch, self.forward = model, batch, forward
        self._go, self._there = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._at: tuple[str, Tensor] | None = None
        self._error: BaseException | None = None
        self._leaving = False
        self._modes = _Modes(model)

    def advance(self) -> tuple[str, Tensor] | None:
        """Run to the next layer: its name and what it reads; None = the pass is over. Raises what the model raises.

        Each stretch starts from the caller's random numbers and gives them back: two models on one way draw the same.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="engramlib walk", daemon=True)
            self._thread.start()
        self._at = None
        with random_state_kept(self.model):
            self._go.release()
            self._there.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._at

    def close(self) -> None:
        """Leave the pass where it stands."""
        self._leaving = True
        if self._thread is not None:
            self._go.release()
            self._thread.join()

    def stop(self, name: str, x: Tensor) -> None:
        self._at = (name, x)
        self._there.release()
        self._go.acquire()
        if self._leaving:
            raise _Left

    def _work(self) -> None:
        self._go.acquire()
        try:
            if not self._leaving:
                _here.walk = self
                with self._modes.again(), calling_projections(self.model):
                    model = self.model.module if isinstance(self.model, nn.DataParallel) else self.model
                    call_model(model, self.batch) if self.forward is None else self.forward(model, self.batch)
        except _Left:
            pass
        except BaseException as error:  # handed to who waits
            self._error = error
        finally:
            self._at = None
            self.batch = None
            self._there.release()


class _Modes:
    """What torch keeps for each thread: gradients off, autocast as the caller has it, the model's GPU."""

    def __init__(self, model: nn.Module) -> None:
        device = next((p.device for p in model.parameters() if p.device.type == "cuda"), None)
        self.device = device
        self.casts = [
            (kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)
        ]

    @contextmanager
    def again(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.device is not None:
                stack.enter_context(torch.cuda.device(self.device))
            for kind, dtype in self.casts:  # without its cache: weights change between two stops
                stack.enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=False))
            yield


@contextmanager
def stopping(layers: Iterable[Layer]) -> Iterator[None]:
    """Inside the block a :class:`Walk` stops at each call of these layers; other passes do not."""

    def hook(layer: Layer) -> Callable[..., None]:
        def pre_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            walk = getattr(_here, "walk", None)
            if walk is not None:
                walk.stop(layer.name, input_of(layer, args, kwargs))

        return pre_hook

    hooks = []
    try:
        for layer in layers:
            hooks.append(layer.module.register_forward_pre_hook(hook(layer), with_kwargs=True))
        yield
    finally:
        for handle in hooks:
            handle.remove()
