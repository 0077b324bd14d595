"""Train a classifier and measure it. Small on purpose: Adam, one loss, fixed by a seed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from engramlib._progress import wanted
from engramlib.lab.datasets import ImageData


@dataclass
class History:
    """What training showed, one entry an epoch. `loss` is the mean over the epoch's batches."""

    loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0


def train_classifier(
    model: nn.Module,
    data: ImageData,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    weight_decay: float = 0.0,
    progress: bool | None = None,
) -> History:
    """Train `model` in place on `data.train` with Adam and cross-entropy; report `data.val` after each epoch.

    `seed` fixes the order of the batches and any dropout; torch's own random state is left as it was.
    `progress`: None = a progress line, with loss and accuracy so far, where somebody is there to watch;
    True or False = always or never.
    Works on the model's device. Raises `FloatingPointError` where the loss stops being a number.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("lr", lr)):
        if not value > 0:
            raise ValueError(f"train_classifier: {name} must be positive, got {value}.")
    device = next(model.parameters()).device
    x, y = data.train.x.to(device), data.train.y.to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    steps = math.ceil(len(y) / batch_size)
    history, total, started = History(), torch.zeros((), device=device), time.perf_counter()

    order = torch.Generator().manual_seed(seed)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        bar = _bar(_steps(len(y), batch_size, epochs, order), epochs * steps, progress)
        model.train()
        for step, rows in enumerate(bar, start=1):
            rows = rows.to(device)
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.detach()
            if step % steps == 0:
                _close_epoch(model, data, history, float(total) / steps, bar)
                total.zero_()
    model.eval()
    history.seconds = time.perf_counter() - started
    return history


def _close_epoch(model: nn.Module, data: ImageData, history: History, loss: float, bar: tqdm) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"train_classifier: the loss became {loss} in epoch {len(history.loss) + 1}. Lower lr, or look for "
            "NaN in data.train.x."
        )
    history.loss.append(loss)
    history.val_accuracy.append(accuracy(model, data.val.x, data.val.y))
    bar.set_postfix_str(
        f"epoch {len(history.loss)}: loss {loss:.3f}, val {history.val_accuracy[-1]:.3f}", refresh=False
    )


def _steps(n: int, batch_size: int, epochs: int, order: torch.Generator) -> Iterator[torch.Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(n, generator=order).split(batch_size)


def _bar(steps: Iterator[torch.Tensor], total: int, progress: bool | None) -> tqdm:
    quiet = not wanted() if progress is None else not progress
    return tqdm(steps, desc="training", total=total, delay=2.0, leave=False, disable=quiet)


@torch.no_grad()
def predict(model: nn.Module, x: torch.Tensor, *, batch_size: int = 2048) -> torch.Tensor:
    """The class with the largest logit for each input, on the CPU. Runs in eval mode, and puts the mode back."""
    modes = {module: module.training for module in model.modules()}
    device = next((p.device for p in model.parameters()), x.device)
    try:
        model.eval()
        return torch.cat([model(part.to(device)).argmax(1).cpu() for part in x.split(batch_size)])
    finally:
        for module, training in modes.items():
            module.training = training


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of inputs whose largest logit is the label."""
    return float((predict(model, x) == y.cpu()).double().mean())


def class_accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Accuracy within each class, [n_classes]; NaN for a class that `y` does not contain."""
    y = y.cpu()
    right = (predict(model, x) == y).double()
    hits = torch.zeros(n_classes, dtype=torch.float64).index_add_(0, y, right)
    return hits / torch.bincount(y, minlength=n_classes)
