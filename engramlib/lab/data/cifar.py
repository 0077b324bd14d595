"""CIFAR-10 and CIFAR-100, from a folder or from their public home."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from engramlib.lab.data._folders import folders as search_folders
from engramlib.lab.data._folders import writable
from engramlib.lab.data.image_data import DatasetUnavailable, ImageData, Split

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
VAL_PER_CLASS = {"CIFAR-10": 500, "CIFAR-100": 50}


def cifar10(root: str | Path | None = None) -> ImageData:
    """CIFAR-10, 32 x 32 in colour: 45,000 / 5,000 / 10,000. `val` is the last 500 of each class of the training set.

    Looks in `root`, else in the folder that the environment variable `ENGRAM_DATA` names, else in
    `~/.cache/engramlib`: for JPEG files, `cifar10-images/<train|test>/<class>/*.jpg`, as folders or inside
    `cifar10-images-*.zip`, then for torchvision's files (`cifar-10-batches-py`). Where there is neither, torchvision
    downloads 170 MB.
    JPEG pixels differ a little from the official ones: the data set is then called "CIFAR-10 (JPEG)", and accuracies
    may differ by some tenths of a point. Takes 20 s from JPEG, 740 MB of memory.
    Raises `DatasetUnavailable` where none of this works. Source: Krizhevsky 2009.
    """
    from torchvision.datasets import CIFAR10

    for folder in search_folders(root):
        jpegs = _jpegs(folder)
        if jpegs:
            return _from_jpegs(jpegs, folder)
    return _torchvision("CIFAR-10", CIFAR10, root, "cifar-10-batches-py or the zips cifar10-images-*.zip")


def cifar100(root: str | Path | None = None) -> ImageData:
    """CIFAR-100, 32 x 32 in colour, with its twenty superclasses: 45,000 / 5,000 / 10,000.

    `val` is the last 50 of each class of the training set. Looks for torchvision's files (`cifar-100-python`) where
    `cifar10` does; where there are none, torchvision downloads 170 MB.
    Raises `DatasetUnavailable` where neither works. Source: Krizhevsky 2009.
    """
    from torchvision.datasets import CIFAR100

    return _torchvision("CIFAR-100", CIFAR100, root, "cifar-100-python")


# ------------------------------------------------------------------------------------------- torchvision's files


def _torchvision(name: str, source: type, root: str | Path | None, looked_for: str) -> ImageData:
    places = search_folders(root)
    for folder in places:
        try:
            return _image_data(name, source(folder, train=True), source(folder, train=False))
        except RuntimeError as error:
            if "not found or corrupted" not in str(error):
                raise
    target = next((f for f in places if writable(f)), None)
    tried = " and ".join(str(f) for f in places)
    if target is None:
        raise DatasetUnavailable(
            f"{name} ({looked_for}) is not in {tried}, and no folder there can be written. Set ENGRAM_DATA to a "
            "folder that can."
        )
    try:
        return _image_data(name, source(target, train=True, download=True), source(target, train=False))
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise DatasetUnavailable(
            f"{name} is not in {tried}, and the download failed ({error}). Go online and try again, or put "
            f"{looked_for} into {target}, or set ENGRAM_DATA to the folder that holds it."
        ) from error


def _image_data(name: str, train, test) -> ImageData:
    def part(raw) -> Split:
        return Split(_pixels(torch.from_numpy(raw.data)), torch.tensor(raw.targets))

    rest, val = _hold_out(part(train), VAL_PER_CLASS[name])
    coarse = _superclasses(train) if name == "CIFAR-100" else {}
    shape = tuple(rest.x.shape[1:])
    return ImageData(name, tuple(train.classes), shape, rest, val, part(test), **coarse)


def _superclasses(raw) -> dict[str, tuple]:
    """CIFAR-100's file names the superclass of each image; torchvision reads only the class."""
    import pickle

    folder = Path(raw.root) / raw.base_folder
    coarse = pickle.loads((folder / "train").read_bytes(), encoding="latin1")["coarse_labels"]
    names = pickle.loads((folder / "meta").read_bytes(), encoding="latin1")["coarse_label_names"]
    of = dict(zip(raw.targets, coarse, strict=True))
    return {"superclasses": tuple(names), "superclass_of": tuple(of[c] for c in range(len(raw.classes)))}


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """N x H x W x 3 bytes to N x 3 x H x W numbers in [0, 1]."""
    return images.permute(0, 3, 1, 2).contiguous().float().div_(255.0)


def _hold_out(part: Split, per_class: int) -> tuple[Split, Split]:
    """The split without, and only, the last `per_class` of each class."""
    last = torch.cat([(part.y == c).nonzero().squeeze(1)[-per_class:] for c in part.y.unique()])
    held = torch.zeros(len(part), dtype=torch.bool)
    held[last] = True
    return part.where(~held), part.where(held)


# -------------------------------------------------------------------------------------------------- JPEG files


def _jpegs(folder: Path) -> dict[tuple[str, str], list]:
    """(split, class) -> what to read, in the order of the file names; empty where the folder has no such files."""
    found: dict[tuple[str, str], list] = {}
    for path in sorted(folder.glob("cifar10-images/*/*/*.jpg")):
        found.setdefault((path.parts[-3], path.parts[-2]), []).append((path.name, path))
    for archive in [] if found else sorted(folder.glob("cifar10-images-*.zip")):
        for member in zipfile.ZipFile(archive).namelist():
            if member.endswith(".jpg"):
                split, name, file = member.split("/")[-3:]
                found.setdefault((split, name), []).append((file, (archive, member)))
    return {key: [place for _, place in sorted(files, key=lambda f: f[0])] for key, files in found.items()}


def _from_jpegs(jpegs: dict[tuple[str, str], list], folder: Path) -> ImageData:
    missing = [f"{s}/{c}" for s in ("train", "test") for c in CIFAR10_CLASSES if (s, c) not in jpegs]
    if missing:
        raise DatasetUnavailable(f"CIFAR-10 in {folder}: no JPEG files for {', '.join(missing)}. Is a zip missing?")

    def part(split: str) -> Split:
        places = [(place, label) for label, c in enumerate(CIFAR10_CLASSES) for place in jpegs[split, c]]
        try:
            images = np.stack(list(_decode(place for place, _ in places)))
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DatasetUnavailable(f"CIFAR-10 in {folder} cannot be read ({error}). Fetch it again.") from error
        return Split(_pixels(torch.from_numpy(images)), torch.tensor([label for _, label in places]))

    rest, val = _hold_out(part("train"), VAL_PER_CLASS["CIFAR-10"])
    return ImageData("CIFAR-10 (JPEG)", CIFAR10_CLASSES, (3, 32, 32), rest, val, part("test"))


def _decode(places: Iterator) -> Iterator[np.ndarray]:
    from PIL import Image

    archives: dict[Path, zipfile.ZipFile] = {}
    for place in places:
        if isinstance(place, Path):
            raw = place.read_bytes()
        else:
            archive, member = place
            if archive not in archives:
                archives[archive] = zipfile.ZipFile(archive)  # reads the list of 25,000 names: once
            raw = archives[archive].read(member)
        yield np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
