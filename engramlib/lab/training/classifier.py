"""Train a classifier and measure it. Small on purpose: one loss, two recipes, fixed by a seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from engramlib.lab.data import ImageData
from engramlib.lab.training import loop
from engramlib.lab.training.loop import hash_of
from engramlib.lab.training.modes import evaluating
from engramlib.lab.training.precision import arithmetic


@dataclass
class History(loop.History):
    """What training showed, one entry an epoch. `val_accuracy` stays empty where training was told not to validate."""

    val_accuracy: list[float] = field(default_factory=list)


AUGMENTATIONS = (None, "flip-crop")


@dataclass(frozen=True)
class Recipe:
    """How to take the steps. The default, plain Adam, is what small networks on small data need.

    `optimiser`: "adam" or "sgd" (Nesterov momentum .9). `schedule`: "constant" or "onecycle" (Smith and Topin 2019;
    lr is then the peak). `augment`: None or "flip-crop" (mirror half of the images, shift by up to an eighth of the
    width). `mixed`: bfloat16 arithmetic and channels-last images, twice as fast on a recent CPU; weights stay float32.
    """

    optimiser: str = "adam"
    schedule: str = "constant"
    augment: str | None = None
    label_smoothing: float = 0.0
    mixed: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimiser", ("adam", "sgd")),
            ("schedule", ("constant", "onecycle")),
            ("augment", AUGMENTATIONS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"Recipe: {name} must be one of {allowed}, got {getattr(self, name)!r}.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"Recipe: label_smoothing must be in [0, 1), got {self.label_smoothing}.")


PHOTOS = Recipe("sgd", "onecycle", "flip-crop", mixed=True)  # CIFAR-10 and its like


def train_classifier(
    model: nn.Module,
    data: ImageData,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    weight_decay: float = 0.0,
    recipe: Recipe = Recipe(),  # noqa: B008 - frozen
    checkpoint: str | Path | None = None,
    validate: bool = True,
    progress: bool | None = None,
) -> History:
    """Train `model` in place on `data.train` with cross-entropy; report `data.val` after each epoch.

    `seed` fixes the order of the batches, the augmentation and any dropout; torch's own random state is left as it
    was. `checkpoint`: a file that is written after every epoch; a run that was cut off goes on from it, and a finished
    one is only read. It must have begun as this one does: same arguments, images, network and first weights.
    `validate`: False leaves `data.val` alone, which saves a tenth of the time of a small network.
    `progress`: None = a progress line, with loss and accuracy so far, where somebody is there to watch;
    True or False = always or never.
    Works on the model's device. Raises `FloatingPointError` where the loss stops being a number, and `ValueError` for a
    checkpoint that began otherwise.
    """
    loop.positive("train_classifier", epochs=epochs, batch_size=batch_size, lr=lr)
    device = next(model.parameters()).device
    x, y = data.train.x.to(device), data.train.y.to(device)
    if recipe.mixed and x.ndim == 4:
        model.to(memory_format=torch.channels_last)
    history, steps = History(), math.ceil(len(y) / batch_size)
    optimiser, schedule = _optimiser(model, recipe, lr, weight_decay, epochs * steps)

    def batches(epochs: int, order: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows in loop.shuffled(len(y), batch_size, epochs, order):
            yield augmented(x[rows.to(device)], recipe.augment, order), y[rows.to(device)]

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        with arithmetic(device, mixed=recipe.mixed):
            loss = F.cross_entropy(model(batch[0]), batch[1], label_smoothing=recipe.label_smoothing)
        return loss, loss

    def close(means: list[float]) -> str:
        history.loss += means
        if not validate:
            return f"loss {means[0]:.3f}"
        with arithmetic(device, mixed=recipe.mixed):
            history.val_accuracy.append(accuracy(model, data.val.x, data.val.y))
        return f"loss {means[0]:.3f}, val {history.val_accuracy[-1]:.3f}"

    def asked() -> dict[str, object]:
        found = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed, "weight_decay": weight_decay}
        images = {"train": data.train, "val": data.val if validate else None}  # the history has val's accuracies
        return (
            found
            | asdict(recipe)
            | {n: None if part is None else hash_of(part.x, part.y) for n, part in images.items()}
        )

    loop.loop(
        model,
        history,
        who="train_classifier",
        epochs=epochs,
        steps=steps,
        seed=seed,
        batches=batches,
        step=step,
        close=close,
        optimiser=optimiser,
        schedule=schedule,
        checkpoint=checkpoint,
        asked=asked,
        remedy="Lower lr, or look for NaN in data.train.x.",
        progress=progress,
    )
    return history


def _optimiser(model: nn.Module, recipe: Recipe, lr: float, weight_decay: float, steps: int):
    if recipe.optimiser == "adam":
        optimiser = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    else:
        optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    if recipe.schedule == "constant":
        return optimiser, None
    # A short warm-up, then down to nothing; the momentum stays.
    kwargs = {"max_lr": lr, "total_steps": steps, "pct_start": 0.25, "cycle_momentum": False}
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, **kwargs)


def augmented(x: torch.Tensor, how: str | None, generator: torch.Generator | None = None) -> torch.Tensor:
    """Images as training shows them: `how` is `Recipe.augment`. `x` is N x C x H x W."""
    return flip_and_shift(x, generator) if how == "flip-crop" else x


def flip_and_shift(x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Mirror each image with probability one half and shift it by up to an eighth of its width; black comes in.

    `x` is N x C x H x W; every image draws its own mirror and shift from `generator`.
    """
    n, _, height, width = x.shape
    pad = max(1, width // 8)
    shift = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator).to(x.device)
    mirror = torch.rand(n, 1, generator=generator).to(x.device) < 0.5
    columns = torch.arange(width, device=x.device).expand(n, width)
    columns = torch.where(mirror, width - 1 - columns, columns) + shift[1]
    rows = torch.arange(height, device=x.device) + shift[0]
    padded = F.pad(x, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    image = torch.arange(n, device=x.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def predict(model: nn.Module, x: torch.Tensor, *, batch_size: int = 2048) -> torch.Tensor:
    """The class with the largest logit for each input, on the CPU. Runs in eval mode, and puts the mode back."""
    device = next((p.device for p in model.parameters()), x.device)
    with evaluating(model):
        return torch.cat([model(part.to(device)).argmax(1).cpu() for part in x.split(batch_size)])


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of inputs whose largest logit is the label."""
    return float((predict(model, x) == y.cpu()).double().mean())


def class_accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Accuracy within each class, [n_classes]; NaN for a class that `y` does not contain."""
    y = y.cpu()
    return by_class(predict(model, x) == y, y, n_classes)


def by_class(values: torch.Tensor, y: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Mean of `values` within each class, [n_classes], float64; NaN for a class that `y` does not contain."""
    total = torch.zeros(n_classes, dtype=torch.float64).index_add_(0, y, values.double())
    return total / torch.bincount(y, minlength=n_classes)
