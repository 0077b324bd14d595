"""Train an autoencoder and measure what it reconstructs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from engramlib.lab.training import loop
from engramlib.lab.training.classifier import by_class
from engramlib.lab.training.modes import evaluating
from engramlib.lab.training.precision import arithmetic


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

    @property
    def epochs(self) -> int:
        """How many are done."""
        return len(self.error)


def train_autoencoder(
    model: nn.Module,
    x_train: torch.Tensor,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    x_val: torch.Tensor | None = None,
    mixed: bool = False,
    progress: bool | None = None,
) -> History:
    """Train `model` in place to reproduce `x_train`: Adam on the mean squared error per pixel.

    A model with a `penalty` of its codes (:class:`engramlib.lab.models.WAE`) adds `model.penalty_weight` times that.
    `lr` is the peak of a one-cycle schedule (Smith and Topin 2019), which forgives a peak that is too high for a
    constant rate. `seed` fixes the order of the batches and the draws of the penalty; torch's own random
    state is left as it was. An incomplete last batch of an epoch is left out.
    `mixed`: forward passes with bfloat16 products; weights, errors and the penalty stay float32.
    `progress`: None = a progress line, with the error so far, where somebody is there to watch; True or False =
    always or never. Works on the model's device. Raises `FloatingPointError` where the loss stops being a number.
    """
    loop.positive("train_autoencoder", epochs=epochs, batch_size=batch_size, lr=lr)
    if len(x_train) == 0:
        raise ValueError("train_autoencoder: x_train is empty.")
    device = next(model.parameters()).device
    x, penalised = x_train.to(device), hasattr(model, "penalty")
    batch_size = min(batch_size, len(x))
    steps = len(x) // batch_size
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=epochs * steps)
    history = History()

    def batches(epochs: int, order: torch.Generator) -> Iterator[torch.Tensor]:
        for rows in loop.shuffled(len(x), batch_size, epochs, order):
            if len(rows) == batch_size:
                yield x[rows.to(device)]

    def step(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with arithmetic(device, mixed=mixed):
            code = model.encode(batch)
            drawn = model.decode(code)
        code, error = code.float(), F.mse_loss(drawn.float(), batch)
        if not penalised:
            return error, error
        penalty = model.penalty(code)
        return error + model.penalty_weight * penalty, torch.stack([error.detach(), penalty.detach()])

    def close(means: list[float]) -> str:
        history.error.append(means[0])
        history.penalty += means[1:]
        if x_val is None:
            return f"error {means[0]:.4f}"
        history.val_error.append(reconstruction_error(model, x_val))
        return f"val error {history.val_error[-1]:.4f}"

    loop.loop(
        model,
        history,
        who="train_autoencoder",
        epochs=epochs,
        steps=steps,
        seed=seed,
        batches=batches,
        step=step,
        close=close,
        optimiser=optimiser,
        schedule=schedule,
        reseed=False,  # a penalty's draws run on from epoch to epoch
        remedy="Lower lr, or look for NaN in x_train.",
        progress=progress,
    )
    return history


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
    return by_class(errors, y, n_classes)
