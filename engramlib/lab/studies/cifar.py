"""CIFAR-10: networks trained once and kept, then erased, compared and doubted (chapters 08 and 09).

    python -m engramlib.lab.studies.cifar train --network resnet10 --seeds 3     # background: hours on two cores

Training writes a checkpoint after every epoch to `checkpoints()`; the other commands only read them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from engramlib.lab import models, training
from engramlib.lab.datasets import ImageData, cifar10
from engramlib.lab.training import PHOTOS, Recipe

FORGET = 0  # airplane: the paper's Table 2


@dataclass(frozen=True)
class Network:
    """What is trained, and how. `blocks` a stage; two blocks and these widths doubled are ResNet-18."""

    name: str
    widths: tuple[int, ...]
    blocks: int
    epochs: int
    lr: float = 0.1
    batch_size: int = 128
    weight_decay: float = 5e-4
    recipe: Recipe = PHOTOS

    def fresh(self, seed: int) -> models.ResNet:
        return models.resnet(self.widths, self.blocks, seed=seed)

    def settings(self) -> dict:
        return asdict(self)


NETWORKS = {
    "resnet10": Network("resnet10", (32, 64, 128, 256), 1, epochs=8),
    "resnet18": Network("resnet18", (64, 128, 256, 512), 2, epochs=8),
}


def checkpoints() -> Path:
    """Where trained networks are kept: `ENGRAM_CHECKPOINTS`, else `~/.cache/engramlib/checkpoints`."""
    return Path(os.environ.get("ENGRAM_CHECKPOINTS") or "~/.cache/engramlib/checkpoints").expanduser()


def trained(
    network: Network, data: ImageData, seed: int, *, without: int | None = None, progress: bool | None = None
) -> tuple[nn.Module, training.History]:
    """The network trained on all of `data.train`, or on all but the class `without` (the retrained reference).

    The second call reads the checkpoint. Raises `ValueError` where that was written with other settings.
    """
    model = network.fresh(seed)
    part = "all" if without is None else f"without{without}"
    if without is not None:
        data = replace(data, train=data.train.where(data.train.y != without))
    history = training.train_classifier(
        model,
        data,
        epochs=network.epochs,
        lr=network.lr,
        batch_size=network.batch_size,
        weight_decay=network.weight_decay,
        seed=seed,
        recipe=network.recipe,
        checkpoint=checkpoints() / f"cifar10-{network.name}-{part}-seed{seed}.pt",
        progress=progress,
    )
    return model, history


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engramlib.lab.studies.cifar", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["train"])
    parser.add_argument("--network", choices=NETWORKS, default="resnet10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base-only", action="store_true", help="do not train the networks without the forget class")
    args = parser.parse_args(argv)
    data = cifar10()
    network = NETWORKS[args.network]
    for seed in range(args.seeds):
        for without in (None,) if args.base_only else (None, FORGET):
            _, history = trained(network, data, seed, without=without)
            print(f"{network.name} seed {seed} without {without}: {history}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
