"""The one loop in which everything trains. It owns the seed, the checkpoint with its identity, the check that the loss
is a number, the progress bar and the history; a classifier, a language model and an autoencoder bring the rest.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from engramlib._progress import wanted
from engramlib.lab.training.precision import arithmetic


def checkpoints() -> Path:
    """Where trained networks are kept: `ENGRAM_CHECKPOINTS`, else `~/.cache/engramlib/checkpoints`."""
    return Path(os.environ.get("ENGRAM_CHECKPOINTS") or "~/.cache/engramlib/checkpoints").expanduser()


@dataclass
class History:
    """What training showed, one entry an epoch. `loss` is the mean over the epoch's batches."""

    loss: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def epochs(self) -> int:
        """How many are done."""
        return len(self.loss)


def positive(who: str, **values: float) -> None:
    """Raises `ValueError` for the first that is not above zero."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{who}: {name} must be positive, got {value}.")


def loop(
    model: nn.Module,
    history: Any,
    *,
    who: str,
    epochs: int,
    steps: int,
    seed: int,
    batches: Callable[[int, torch.Generator], Iterator[Any]],
    step: Callable[[Any], tuple[Tensor, Tensor]],
    close: Callable[[list[float]], str],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    clip: float = math.inf,
    reseed: bool = True,
    within: AbstractContextManager = nullcontext(),  # noqa: B008 - has no state
    checkpoint: str | Path | None = None,
    asked: Callable[[], dict[str, object]] = dict,
    remedy: str = "Lower lr.",
    progress: bool | None = None,
    after_epoch: Callable[[Any], None] | None = None,
) -> None:
    """Train `model` in place for `epochs` of `steps` batches; it is left in evaluation mode.

    `batches(epochs, order)`: all batches of that many epochs, whose order (and augmentation) is drawn from `order`.
    `step(batch)`: the loss, and the numbers of which `history` keeps the mean over an epoch (their sum must stay a
    number). `close(means)` writes them into `history`, which has `epochs` and `seconds`, and says what the bar shows.
    `clip`: largest norm of the gradient of all weights together. `within`: stands around all steps.

    `seed` fixes `order` and whatever a step draws (dropout, a penalty's samples): anew for each epoch, so that a run
    that goes on ends as one that was never cut off, or once, without `reseed`. torch's own random state is left as it
    was. `checkpoint`: written after every epoch; a run that was cut off goes on from it and a finished one is only
    read, if `asked()` and the `identity` of the model are those that it began with. `after_epoch(history)` comes last.

    Raises `FloatingPointError`, with `remedy`, where the loss stops being a number, and `ValueError` for a checkpoint
    that began otherwise.
    """
    device = next(model.parameters()).device
    total, started, order = torch.zeros((), device=device), time.perf_counter(), torch.Generator().manual_seed(seed)
    weights = [p for group in optimiser.param_groups for p in group["params"]]
    begun_with = {} if checkpoint is None else asked() | identity(model)
    saved = _Checkpoint(checkpoint, begun_with, model, optimiser, schedule, order, history, who=who)
    saved.load()
    before, begun = history.seconds, history.epochs
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), within, arithmetic(device):
        bar = _bar(batches(epochs - begun, order), (epochs - begun) * steps, progress)
        model.train()
        for number, batch in enumerate(bar):
            if number == 0 or (reseed and number % steps == 0):
                torch.manual_seed(seed + 7919 * (begun + number // steps))
            loss, shown = step(batch)
            optimiser.zero_grad()
            loss.backward()
            if clip < math.inf:
                torch.nn.utils.clip_grad_norm_(weights, clip)
            optimiser.step()
            if schedule is not None:
                schedule.step()
            total = total + shown.detach()
            if (number + 1) % steps == 0:
                means = (total / steps).tolist() if total.ndim else [float(total) / steps]
                if not math.isfinite(sum(means)):
                    raise FloatingPointError(
                        f"{who}: the loss became {sum(means)} in epoch {history.epochs + 1}. {remedy}"
                    )
                text = close(means)
                bar.set_postfix_str(f"epoch {history.epochs}: {text}", refresh=False)
                total = torch.zeros((), device=device)
                history.seconds = before + time.perf_counter() - started
                saved.write()
                if after_epoch is not None:
                    after_epoch(history)
    model.eval()


def shuffled(n: int, batch_size: int, epochs: int, order: torch.Generator) -> Iterator[Tensor]:
    """Row numbers in batches, in a new order for each epoch."""
    for _ in range(epochs):
        yield from torch.randperm(n, generator=order).split(batch_size)


def hash_of(*tensors: Tensor) -> str:
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


class _Checkpoint:
    """Everything that training needs to go on after an epoch, in one file; nothing where no file is named."""

    def __init__(self, path, asked, model, optimiser, schedule, order, history, *, who: str) -> None:
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


def _bar(steps: Iterator[Any], total: int, progress: bool | None) -> tqdm:
    quiet = not wanted() if progress is None else not progress
    return tqdm(steps, desc="training", total=total, delay=2.0, leave=False, disable=quiet)
