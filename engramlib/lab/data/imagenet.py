"""ImageNet, from a folder, read while it is used: it does not fit into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from engramlib.lab.data._folders import folders as search_folders
from engramlib.lab.data.image_data import SPLITS, DatasetUnavailable, Splits

GROUP = 20  # classes in a group: 1,000 classes in 50 groups, Fig. 12
VAL_PER_CLASS = 50
_NAMES = ("imagenet", "ImageNet", "ILSVRC2012", ".")


@dataclass(frozen=True)
class LazySplit(Dataset):
    """Image files and their labels `y` (N); an image is read and transformed when it is asked for."""

    paths: Sequence[str]
    y: torch.Tensor
    transform: Callable

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        from torchvision.datasets.folder import pil_loader

        try:
            return self.transform(pil_loader(self.paths[i])), int(self.y[i])
        except OSError as error:
            raise DatasetUnavailable(f"ImageNet: {self.paths[i]} cannot be read ({error}). Unpack it again.") from error

    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any label, file name or size; no image is read."""
        digest = hashlib.sha256(self.y.numpy().tobytes())
        for path in map(Path, self.paths):
            digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
        return digest.hexdigest()[:16]

    def where(self, mask: torch.Tensor) -> LazySplit:
        """The examples for which the boolean `mask` is true. Reads nothing."""
        rows = torch.arange(len(self))[mask].tolist()
        return LazySplit([self.paths[i] for i in rows], self.y[mask], self.transform)

    def sample(self, per_class: int, seed: int = 0) -> LazySplit:
        """`per_class` examples of each class, drawn without replacement; all of a class that has no more."""
        if per_class < 1:
            raise ValueError(f"sample: per_class must be at least 1, got {per_class}.")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        mask = torch.zeros(len(self), dtype=torch.bool)
        for label in self.y.unique():
            mask[order[self.y[order] == label][:per_class]] = True
        return self.where(mask)


@dataclass(frozen=True)
class LazyImageData(Splits[LazySplit]):
    """As `ImageData`, but its splits are read from disk batch by batch."""

    def batches(self, split: str | LazySplit = "train", size: int = 64, *, workers: int = 0) -> DataLoader:
        """`(x, y)` batches in order, read as they are asked for: PyTorch's `DataLoader` of the split.

        It has a length and can be run through again; `workers` processes read ahead.
        """
        if size < 1:
            raise ValueError(f"batches: size must be at least 1, got {size}.")
        return DataLoader(self.split(split), batch_size=size, num_workers=workers)

    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the classes, or with any split's labels, file names or sizes."""
        parts = [self.name, *self.classes, *(self.split(part).fingerprint() for part in SPLITS)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def imagenet(
    root: str | Path | None = None, *, size: int = 224, transform: Callable | None = None, group: int = GROUP
) -> LazyImageData:
    """ImageNet (ILSVRC 2012) from its folders, `train/<class>/*.JPEG` and `val/<class>/*.JPEG`.

    That is the layout of torchvision's `ImageNet` and `ImageFolder`. `test` is the official validation set (50,000
    images), `val` the last 50 of each class of the training set (a tenth, where a class has under 500 images), `train`
    the rest (1.23 million); `data.train.sample(50)` is a class-balanced part. Classes are numbered in the order of
    their folders, as in torchvision's pretrained models; where there are 1,000, they have torchvision's English names.
    Superclasses are `group` classes that follow each other, 50 groups of 20: how the paper forms its groups is not
    known to us.

    Args:
        root: the folder that holds `train` and `val`, or `imagenet`, `ImageNet` or `ILSVRC2012` with these; else the
            folder that the environment variable `ENGRAM_DATA` names, else `~/.cache/engramlib`.
        size: pixels a side. The shorter side is scaled to 8/7 of it, then the middle is cut out.
        transform: from a PIL image to a tensor, in place of that. A pretrained model has its own:
            `torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1.transforms()`. Without one, pixels are in [0, 1].
        group: classes in a superclass.

    Raises:
        DatasetUnavailable: no such folders, or `val` without a folder for each class. Nothing is downloaded: an account
            at https://image-net.org gives access, for non-commercial research only.
        ValueError: size or group out of range.

    Cost: some ten seconds to list the files, about 150 MB for their names; images are read when used, about 10 ms each.
    Source: Russakovsky et al. 2015; Deng et al. 2009.
    """
    from torchvision.datasets import ImageFolder

    for name, value in (("size", size), ("group", group)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"imagenet: {name} must be a whole number of at least 1, got {value!r}.")
    folder = _find(root)
    try:
        learning, official = ImageFolder(folder / "train"), ImageFolder(folder / "val")
    except (FileNotFoundError, OSError) as error:
        raise DatasetUnavailable(
            f"ImageNet in {folder} cannot be read ({error}). train and val need one folder a class with its images; "
            "val comes without: torchvision.datasets.ImageNet(root, split='val') sorts it, from the archives."
        ) from error
    if learning.classes != official.classes:
        differ = sorted(set(learning.classes) ^ set(official.classes))
        raise DatasetUnavailable(
            f"ImageNet in {folder}: train and val have different classes, among them {', '.join(differ[:3])}."
        )
    change = transform or _to_pixels(size)

    def part(samples: list[tuple[str, int]]) -> LazySplit:
        return LazySplit([path for path, _ in samples], torch.tensor([label for _, label in samples]), change)

    everything = part(learning.samples)
    held = torch.zeros(len(everything), dtype=torch.bool)
    for label in range(len(learning.classes)):
        rows = (everything.y == label).nonzero().squeeze(1)
        held[rows[len(rows) - min(VAL_PER_CLASS, len(rows) // 10) :]] = True

    classes = _class_names(learning.classes)
    test = part(official.samples)
    shape = tuple(test[0][0].shape)
    groups = tuple(label // group for label in range(len(classes)))
    names = tuple(
        f"{classes[i]} ... {classes[min(i + group, len(classes)) - 1]}" for i in range(0, len(classes), group)
    )
    return LazyImageData(
        "ImageNet", classes, shape, everything.where(~held), everything.where(held), test, names, groups
    )


def _find(root: str | Path | None) -> Path:
    places = [folder / name for folder in search_folders(root) for name in _NAMES]
    for place in places:
        if (place / "train").is_dir() and (place / "val").is_dir():
            return place
    raise DatasetUnavailable(
        f"ImageNet: no folders train and val in {' or '.join(map(str, places))}. Fetch ILSVRC 2012's archives from "
        "https://image-net.org (an account is needed), unpack them with torchvision.datasets.ImageNet, and set "
        "ENGRAM_DATA to the folder that holds train and val. The chapters run without it: on generated shapes."
    )


def _to_pixels(size: int) -> Callable:
    from torchvision import transforms

    steps = [transforms.Resize(round(size * 8 / 7)), transforms.CenterCrop(size), transforms.ToTensor()]
    return transforms.Compose(steps)


def _class_names(folders: Sequence[str]) -> tuple[str, ...]:
    """torchvision's English names where these are ImageNet's thousand classes, else the folders' own."""
    from torchvision.models import ViT_B_16_Weights

    english = ViT_B_16_Weights.IMAGENET1K_V1.meta["categories"]
    ours = len(folders) == len(english) and all(f[:1] == "n" and f[1:].isdigit() for f in folders)
    return tuple(english if ours else folders)
