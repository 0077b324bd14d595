"""Train an autoencoder and measure what it reconstructs."""

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
from engramlib.lab.training.precision import arithmetic
from engramlib.running import evaluating


@dataclass
class History:
    """What training showed, one entry an epoch: means over the epoch's batches, and the error on `x_val`.

    `error` and `val_error` are mean squared errors per pixel; `penalty` stays empty for a model that has none, and
    `val_error` where no `x_val` was given.
    """

    error: list[float] = field(default_factory=list)
    penalty: list[float] = field(default_factory=list)
    val_error: list[float] = field(default_factory=list)
    seconds: float = 0.0


def train_autoencoder(
    model: nn.Module,
    x_train: torch.Tensor,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    x_val: torch.Tensor | None = None,
    progress: bool | None = None,
) -> History:
    """Train `model` in place to reproduce `x_train`: Adam on the mean squared error per pixel.

    A model with a `penalty` of its codes (:class:`engramlib.lab.models.WAE`) adds `model.penalty_weight` times that.
    `lr` is the peak of a one-cycle schedule (Smith and Topin 2019), which forgives a peak that is too high for a
    constant rate. `seed` fixes the order of the batches and the draws of the penalty; torch's own random
    state is left as it was. An incomplete last batch of an epoch is left out.
    `progress`: None = a progress line, with the error so far, where somebody is there to watch; True or False =
    always or never. Works on the model's device. Raises `FloatingPointError` where the loss stops being a number.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("lr", lr)):
        if not value > 0:
            raise ValueError(f"train_autoencoder: {name} must be positive, got {value}.")
    if len(x_train) == 0:
        raise ValueError("train_autoencoder: x_train is empty.")
    device = next(model.parameters()).device
    x, penalised = x_train.to(device), hasattr(model, "penalty")
    batch_size = min(batch_size, len(x))
    steps = len(x) // batch_size
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=epochs * steps)
    history, totals, started = History(), torch.zeros(2, device=device), time.perf_counter()

    order = torch.Generator().manual_seed(seed)
    quiet = not wanted() if progress is None else not progress
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), arithmetic(device):
        torch.manual_seed(seed)
        batches = _batches(len(x), batch_size, epochs, order)
        bar = tqdm(batches, desc="training", total=epochs * steps, delay=2.0, leave=False, disable=quiet)
        model.train()
        for step, rows in enumerate(bar, start=1):
            batch = x[rows.to(device)]
            code = model.encode(batch)
            error = F.mse_loss(model.decode(code), batch)
            penalty = model.penalty(code) if penalised else torch.zeros_like(error)
            loss = error + model.penalty_weight * penalty if penalised else error
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            totals += torch.stack([error.detach(), penalty.detach()])
            if step % steps == 0:
                _close_epoch(model, x_val, history, (totals / steps).tolist(), penalised, bar)
                totals.zero_()
    model.eval()
    history.seconds = time.perf_counter() - started
    return history


def _close_epoch(
    model: nn.Module, x_val: torch.Tensor | None, history: History, means: list[float], penalised: bool, bar: tqdm
) -> None:
    error, penalty = means
    if not math.isfinite(error + penalty):
        raise FloatingPointError(
            f"train_autoencoder: the loss became {error + penalty} in epoch {len(history.error) + 1}. Lower lr, or "
            "look for NaN in x_train."
        )
    history.error.append(error)
    if penalised:
        history.penalty.append(penalty)
    if x_val is not None:
        history.val_error.append(reconstruction_error(model, x_val))
    shown = history.val_error[-1] if x_val is not None else error
    bar.set_postfix_str(
        f"epoch {len(history.error)}: {'val ' if x_val is not None else ''}error {shown:.4f}", refresh=False
    )


def _batches(n: int, batch_size: int, epochs: int, order: torch.Generator) -> Iterator[torch.Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(n, generator=order)[: n - n % batch_size].split(batch_size)


@torch.no_grad()
def reconstruct(model: nn.Module, x: torch.Tensor, *, batch_size: int = 512) -> torch.Tensor:
    """What the model makes of each image, on the CPU, not clipped. Runs in eval mode, and puts the mode back."""
    device = next((p.device for p in model.parameters()), x.device)
    with evaluating(model):
        return torch.cat([model(part.to(device)).cpu() for part in x.split(batch_size)])


def image_errors(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Mean squared error per pixel of each image, [N], float64."""
    return (reconstruct(model, x).double() - x.cpu().double()).square().flatten(1).mean(1)


def reconstruction_error(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor | None = None, n_classes: int | None = None
) -> float | torch.Tensor:
    """Mean squared error per pixel: one number, or with labels `y` one per class, [n_classes], float64.

    NaN for a class that `y` does not contain. `n_classes`: None = the largest label + 1.
    """
    errors = image_errors(model, x)
    if y is None:
        return float(errors.mean())
    if len(y) != len(x):
        raise ValueError(f"reconstruction_error: x has {len(x)} rows but y has {len(y)} labels; they must match.")
    y = y.cpu()
    n_classes = int(y.max()) + 1 if n_classes is None else n_classes
    total = torch.zeros(n_classes, dtype=torch.float64).index_add_(0, y, errors)
    return total / torch.bincount(y, minlength=n_classes)
