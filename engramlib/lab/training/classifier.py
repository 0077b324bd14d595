"""Train a classifier and measure it. Small on purpose: one loss, two recipes, fixed by a seed."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from engramlib._progress import wanted
from engramlib.lab.data import ImageData
from engramlib.lab.training.precision import arithmetic


def checkpoints() -> Path:
    """Where trained networks are kept: `ENGRAM_CHECKPOINTS`, else `~/.cache/engramlib/checkpoints`."""
    return Path(os.environ.get("ENGRAM_CHECKPOINTS") or "~/.cache/engramlib/checkpoints").expanduser()


@dataclass
class History:
    """What training showed, one entry an epoch. `loss` is the mean over the epoch's batches.

    `val_accuracy` stays empty where training was told not to validate.
    """

    loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0


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
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("lr", lr)):
        if not value > 0:
            raise ValueError(f"train_classifier: {name} must be positive, got {value}.")
    device = next(model.parameters()).device
    x, y = data.train.x.to(device), data.train.y.to(device)
    if recipe.mixed and x.ndim == 4:
        model.to(memory_format=torch.channels_last)
    steps = math.ceil(len(y) / batch_size)
    optimiser, schedule = _optimiser(model, recipe, lr, weight_decay, epochs * steps)
    history, total, started = History(), torch.zeros((), device=device), time.perf_counter()
    order = torch.Generator().manual_seed(seed)
    asked = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed, "weight_decay": weight_decay}
    asked |= asdict(recipe)
    if checkpoint is not None:
        asked["train"] = hash_of(data.train.x, data.train.y)
        asked["val"] = hash_of(data.val.x, data.val.y) if validate else None  # the history has its accuracies
        asked |= identity(model)
    saved = _Checkpoint(checkpoint, asked, model, optimiser, schedule, order, history)
    saved.load()
    before, begun = history.seconds, len(history.loss)

    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), arithmetic(device):
        torch.manual_seed(seed if begun == 0 else seed + 7919 * begun)
        bar = _bar(_steps(len(y), batch_size, epochs - begun, order), (epochs - begun) * steps, progress)
        model.train()
        for step, rows in enumerate(bar, start=1):
            inputs = x[rows.to(device)]
            inputs = augmented(inputs, recipe.augment, order)
            with arithmetic(device, mixed=recipe.mixed):
                loss = F.cross_entropy(model(inputs), y[rows.to(device)], label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if schedule is not None:
                schedule.step()
            total += loss.detach()
            if step % steps == 0:
                with arithmetic(device, mixed=recipe.mixed):
                    _close_epoch(model, data if validate else None, history, float(total) / steps, bar)
                total.zero_()
                history.seconds = before + time.perf_counter() - started
                saved.write()
    model.eval()
    return history


def hash_of(*tensors: torch.Tensor) -> str:
    """Sixteen hex digits that change with any value, shape or type. About a second a gigabyte."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def identity(model: nn.Module) -> dict[str, str]:
    """What training makes of a model depends on: modules and their settings, which weights move, where they begin."""
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    state, config = model.state_dict(), getattr(model, "config", None)
    settings = sorted(config.to_dict().items()) if hasattr(config, "to_dict") else []
    settings = [(key, value) for key, value in settings if key not in ("transformers_version", "_name_or_path")]
    made = f"{model!r} {trained} {list(state)} {settings}"
    return {"model": hashlib.sha256(made.encode()).hexdigest()[:16], "start": hash_of(*state.values())}


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


class _Checkpoint:
    """Everything that training needs to go on after an epoch, in one file; nothing where no file is named."""

    def __init__(
        self, path, asked, model, optimiser, schedule, order, history, *, who: str = "train_classifier"
    ) -> None:
        self.path = None if path is None else Path(path)
        self.asked, self.order, self.history, self.who = asked, order, history, who
        self.parts = {"model": model, "optimiser": optimiser} | ({} if schedule is None else {"schedule": schedule})

    def load(self) -> None:
        if self.path is None or not self.path.exists():
            return
        raw = torch.load(self.path, weights_only=True)
        names = [name for name in {**raw["asked"], **self.asked} if raw["asked"].get(name) != self.asked.get(name)]
        if names or raw["asked"].keys() != self.asked.keys():
            other = ", ".join(f"{n} {raw['asked'].get(n)!r}, now {self.asked.get(n)!r}" for n in names)
            raise ValueError(
                f"{self.who}: {self.path} was written with other arguments ({other}). Delete it to begin again, or "
                "name another file."
            )
        for name, part in self.parts.items():
            part.load_state_dict(raw[name])
        self.order.set_state(raw["order"])
        vars(self.history).update(raw["history"])

    def write(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        raw = {name: part.state_dict() for name, part in self.parts.items()}
        raw |= {"asked": self.asked, "order": self.order.get_state(), "history": vars(self.history)}
        beside = self.path.with_suffix(".tmp")
        torch.save(raw, beside)
        os.replace(beside, self.path)  # whole or not at all


def _close_epoch(model: nn.Module, data: ImageData | None, history: History, loss: float, bar: tqdm) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"train_classifier: the loss became {loss} in epoch {len(history.loss) + 1}. Lower lr, or look for "
            "NaN in data.train.x."
        )
    history.loss.append(loss)
    shown = f"epoch {len(history.loss)}: loss {loss:.3f}"
    if data is not None:
        history.val_accuracy.append(accuracy(model, data.val.x, data.val.y))
        shown += f", val {history.val_accuracy[-1]:.3f}"
    bar.set_postfix_str(shown, refresh=False)


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
