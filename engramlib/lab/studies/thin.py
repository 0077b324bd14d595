"""CIFAR-10 with published weights: thin residual networks, fine-tuned on these images, then erased (chapters 08, 09).

python -m engramlib.lab.studies thin                # trains: the networks, and those that never see the class
python -m engramlib.lab.studies thin --record       # data/runs/cifar10-thin.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from engramlib.lab import training
from engramlib.lab.data import ImageData, cifar10
from engramlib.lab.models import zoo
from engramlib.lab.studies import recording
from engramlib.lab.studies.cifar import FORGET, slug
from engramlib.lab.training import PHOTOS


class Thin(nn.Module):
    """A published thin ResNet as the studies need it: `fc` reads what `features` gives. Pixels in [0, 1] in."""

    def __init__(self, published: zoo.Normalised) -> None:
        super().__init__()
        self.register_buffer("mean", published.mean)
        self.register_buffer("std", published.std)
        self.body = published.network
        self.fc = self.body.linear
        self.body.linear = nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        """The pooled last layer, N x 64."""
        return self.body((x - self.mean) / self.std)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


@dataclass(frozen=True)
class Network:
    """A depth, and how it is trained: with published weights for a few epochs, or from scratch without a class."""

    depth: int
    epochs: int = 2
    lr: float = 0.03
    scratch_epochs: int = 12
    scratch_lr: float = 0.2
    batch_size: int = 128
    weight_decay: float = 5e-4

    @property
    def name(self) -> str:
        return f"resnet{self.depth}"

    def published(self) -> Thin:
        """With the weights of its publication."""
        return Thin(zoo.cifar_resnet(self.depth))

    def fresh(self, seed: int) -> Thin:
        """With first weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Thin(zoo.thin_resnet(self.depth))


NETWORKS = (Network(20, epochs=3), Network(32), Network(44))


def trained(
    network: Network, data: ImageData, seed: int = 0, *, without: int | None = None, progress: bool | None = None
) -> tuple[nn.Module, training.History]:
    """The published network after a few epochs on `data.train`; or one that never saw the class `without`, from scratch.

    The second call reads the checkpoint. Raises `ValueError` where it was written with other settings or images.
    """
    model = network.published() if without is None else network.fresh(seed)
    part = "all" if without is None else f"without{without}"
    if without is not None:
        data = replace(data, train=data.train.where(data.train.y != without))
    history = training.train_classifier(
        model,
        data,
        epochs=network.epochs if without is None else network.scratch_epochs,
        lr=network.lr if without is None else network.scratch_lr,
        batch_size=network.batch_size,
        weight_decay=network.weight_decay,
        recipe=PHOTOS,
        seed=seed,
        checkpoint=training.checkpoints() / f"{slug(data.name)}-thin-{network.name}-{part}-seed{seed}.pt",
        progress=progress,
    )
    return model, history


def main(argv: Sequence[str] | None = None) -> int:
    options = recording.parser("thin", __doc__, "cifar10-thin", seeds=3)
    args = options.parse_args(argv)
    data = cifar10()
    jobs = [(network, 0, None) for network in NETWORKS]
    jobs += [(NETWORKS[0], seed, without) for seed in range(args.seeds) for without in (FORGET, None)]
    for network, seed, without in jobs:
        _, history = trained(network, data, seed, without=without)
        print(f"{network.name} seed {seed} without {without}: {history}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
