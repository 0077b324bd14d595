"""Ten of ImageNet's classes in small, and one image of each of its thousand: for published networks on a laptop."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from engramlib.lab.data._folders import folders as search_folders
from engramlib.lab.data._folders import unpacked
from engramlib.lab.data.image_data import DatasetUnavailable
from engramlib.lab.data.imagenet import LazyImageData, LazySplit

# The ten classes, in the order of their folders, and their numbers among ImageNet's thousand.
CLASSES = {
    "n01440764": ("tench", 0),
    "n02102040": ("English springer", 217),
    "n02979186": ("cassette player", 482),
    "n03000684": ("chain saw", 491),
    "n03028079": ("church", 497),
    "n03394916": ("French horn", 566),
    "n03417042": ("garbage truck", 569),
    "n03425413": ("gas pump", 571),
    "n03445777": ("golf ball", 574),
    "n03888257": ("parachute", 701),
}
INDEX = tuple(number for _, number in CLASSES.values())
THOUSAND = 1000
_TEN = ("imagenette-small", "imagenette2-320", "imagenette2-160", "imagenette2")
_ALL = ("imagenet-samples", "imagenet-sample-images")


def imagenette(root: str | Path | None = None, *, size: int = 224, val: int = 40) -> LazyImageData:
    """Ten classes of ImageNet that are easy to tell apart: a tench, a church, a golf ball, ...

    Labels are 0 to 9; `INDEX[label]` is the number among ImageNet's thousand. `test` is Imagenette's own `val`, `val`
    the last `val` training images of each class, `train` the rest. Most images of both come from ImageNet's *training*
    set, so a published network has seen them. Pixels are in [0, 1], `size` a side (the middle of the image, whose
    shorter side is scaled to 8/7 of it; an image that has that size is left as it is).

    `root`: the folder that holds one of the folders `imagenette-small`, `imagenette2-320`, `imagenette2-160`,
    `imagenette2` (with `train` and `val` inside), or a zip of that name, which is unpacked into `~/.cache/engramlib`;
    else the folder that `ENGRAM_DATA` names, else `~/.cache/engramlib`.

    Raises `DatasetUnavailable` where there is none, or where a class lacks images. Nothing is downloaded here:
    `torchvision.datasets.Imagenette(root, size="320px", download=True)` does (330 MB).
    Source: Howard 2019 (github.com/fastai/imagenette), after Russakovsky et al. 2015.
    """
    for name, value in (("size", size), ("val", val)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"imagenette: {name} must be a whole number of at least 1, got {value!r}.")
    folder = _find("Imagenette", _TEN, root, 'torchvision.datasets.Imagenette(root, size="320px", download=True)')
    parts: dict[str, list[tuple[str, int]]] = {"train": [], "val": [], "test": []}
    for label, wnid in enumerate(CLASSES):
        learning, official = (_images(folder / part / wnid) for part in ("train", "val"))
        if len(learning) <= val or not official:
            raise DatasetUnavailable(
                f"Imagenette in {folder}: class {wnid} has {len(learning)} training and {len(official)} test images; "
                f"more than {val} and at least 1 are needed. Is it unpacked to the end?"
            )
        for part, files in (("train", learning[:-val]), ("val", learning[-val:]), ("test", official)):
            parts[part] += [(str(path), label) for path in files]
    return LazyImageData(
        "Imagenette",
        tuple(name for name, _ in CLASSES.values()),
        (3, size, size),
        *(_split(parts[part], size) for part in ("train", "val", "test")),
    )


def imagenet_samples(root: str | Path | None = None, *, size: int = 224) -> LazySplit:
    """One image of each of ImageNet's thousand classes, labels 0 to 999; pixels and `root` as in `imagenette`.

    Looked for in folders (or a zip) `imagenet-samples` or `imagenet-sample-images`: a thousand JPEG files whose names
    begin with the class's WordNet number, or with its index and then that. Probably training images, all of them.
    Source: github.com/EliSchwartz/imagenet-sample-images.
    """
    folder = _find("ImageNet samples", _ALL, root, "a clone of github.com/EliSchwartz/imagenet-sample-images")
    files = {re.sub(r"^\d{4}_", "", path.name).split("_")[0]: path for path in _images(folder, "**/*")}
    if len(files) != THOUSAND:
        raise DatasetUnavailable(f"ImageNet samples in {folder}: {len(files)} classes have an image, not {THOUSAND}.")
    return _split([(str(files[wnid]), number) for number, wnid in enumerate(sorted(files))], size)


def _split(files: Sequence[tuple[str, int]], size: int) -> LazySplit:
    paths, labels = zip(*files, strict=True)
    return LazySplit(paths, torch.tensor(labels), _Middle(size))


class _Middle:
    """From a PIL image to 3 x size x size pixels in [0, 1]."""

    def __init__(self, size: int) -> None:
        from torchvision import transforms

        self.size = size
        self.crop = transforms.Compose([transforms.Resize(round(size * 8 / 7)), transforms.CenterCrop(size)])
        self.pixels = transforms.ToTensor()

    def __call__(self, image) -> torch.Tensor:
        return self.pixels(image if image.size == (self.size, self.size) else self.crop(image))


def _images(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in (".jpg", ".jpeg"))


def _find(what: str, names: Sequence[str], root: str | Path | None, remedy: str) -> Path:
    """A folder of one of these names, or one that a zip of such a name was unpacked to."""
    tops = search_folders(root)
    for top in tops:
        for name in names:
            if (top / name).is_dir():
                return top / name
            if (top / f"{name}.zip").is_file():
                return unpacked(what, top / f"{name}.zip")
    raise DatasetUnavailable(
        f"{what}: no folder or zip {', '.join(names)} in {' or '.join(map(str, tops))}. {remedy} has the images; set "
        "ENGRAM_DATA to the folder that holds them. The chapters run without: on generated shapes."
    )
