"""CelebA, from a folder: photographs of faces with forty binary attributes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from engramlib.lab.data._folders import folders as search_folders
from engramlib.lab.data._folders import unpacked
from engramlib.lab.data.attribute_data import AttributeData, AttributeSplit
from engramlib.lab.data.image_data import SPLITS, DatasetUnavailable

ATTRIBUTE_FILE, PARTITION_FILE, IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"
FOLDERS = ("celeba", "celeba-half")  # the second: the first 10,000 images at half size
CROP, WIDTH = 140, 178  # of 178 x 218 pixels the middle 140 x 140: the face (Tolstikhin et al. 2018)


def celeba(root: str | Path | None = None, *, size: int = 64, limit: int | None = 10_000) -> AttributeData:
    """CelebA's aligned faces, N x 3 x size x size in [0, 1], and their 40 attributes, N x 40 booleans.

    Splits are those of the partition file, officially 162,770 / 19,867 / 19,962. Of each image of 178 x 218 pixels the
    middle 140 x 140 are scaled to `size`, as for the Wasserstein autoencoder, and of images of another size the same
    share: 70 x 70 of 89 x 109, and the name says "CelebA, half size". `identity` is empty.

    Args:
        root: the folder that holds `img_align_celeba/*.jpg`, `list_attr_celeba.txt` and `list_eval_partition.txt`, or
            `celeba/` or `celeba-half/` with these, or a zip of that name, which is unpacked into `~/.cache/engramlib`;
            else the folder that the environment variable `ENGRAM_DATA` names, else `~/.cache/engramlib`.
        size: pixels a side, 8 to 140.
        limit: the first `limit` images of `train`, and a fifth as many of `val` and of `test`. None = all.

    Raises:
        DatasetUnavailable: no such files, or damaged ones. Nothing is downloaded: the authors' page,
            https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, has the files for non-commercial research only.
        ValueError: size or limit out of range.

    Cost: 12 size² bytes an image, so 0.7 GB and about 20 s for the default, 10 GB for everything at 64.
    Source: Liu, Luo, Wang, Tang 2015, Deep Learning Face Attributes in the Wild.
    """
    if not isinstance(size, int) or not 8 <= size <= CROP:
        raise ValueError(f"celeba: size must be a whole number from 8 to {CROP}, got {size!r}.")
    if limit is not None and (not isinstance(limit, int) or limit < 5):
        raise ValueError(f"celeba: limit must be a whole number of at least 5, or None for all; got {limit!r}.")
    folder = _find(root)
    names, flags = _attributes(folder / ATTRIBUTE_FILE)
    part_of = _partition(folder / PARTITION_FILE)

    def part(number: int) -> AttributeSplit:
        most = None if limit is None else limit if number == 0 else limit // 5
        files = [file for file, part in part_of.items() if part == number][:most]
        unlabelled = next((file for file in files if file not in flags), None)
        if unlabelled or not files:
            what = (
                f"{ATTRIBUTE_FILE} has no line for {unlabelled}"
                if files
                else f"{PARTITION_FILE} lists no {SPLITS[number]}"
            )
            raise DatasetUnavailable(f"CelebA in {folder} cannot be read: {what}. Fetch the file again.")
        images = np.empty((len(files), 3, size, size), dtype=np.float32)
        for row, file in enumerate(files):
            images[row] = _pixels(folder / IMAGES / file, size)
        attributes = torch.from_numpy(np.stack([flags[file] for file in files]))
        return AttributeSplit(torch.from_numpy(images), attributes, torch.empty(len(files), 0))

    splits = [part(number) for number in range(len(SPLITS))]
    return AttributeData(_name(folder, part_of), names, (3, size, size), *splits)


def _find(root: str | Path | None) -> Path:
    tops = search_folders(root)
    zips = {top / name: top / f"{name}.zip" for top in tops for name in FOLDERS}
    places = [place for top in tops for place in (*(top / name for name in FOLDERS), top)]
    for place in places:
        if not (place / IMAGES).is_dir() and place in zips and zips[place].is_file():
            place = unpacked("CelebA", zips[place])
        if (place / IMAGES).is_dir():
            missing = [file for file in (ATTRIBUTE_FILE, PARTITION_FILE) if not (place / file).is_file()]
            if missing:
                raise DatasetUnavailable(
                    f"CelebA in {place}: {' and '.join(missing)} missing. Put the file beside the folder {IMAGES}."
                )
            return place
    raise DatasetUnavailable(
        f"CelebA: no folder {IMAGES} in {' or '.join(map(str, places))}. Fetch {IMAGES}.zip, {ATTRIBUTE_FILE} and "
        f"{PARTITION_FILE} from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, unpack the zip, and set ENGRAM_DATA "
        "to the folder that holds all three. The chapters run without it: on generated faces."
    )


def _name(folder: Path, part_of: dict[str, int]) -> str:
    from PIL import Image

    with Image.open(folder / IMAGES / next(iter(part_of))) as image:
        share = image.width / WIDTH
    return "CelebA" if share == 1 else "CelebA, half size" if share == 0.5 else f"CelebA, {share:.0%} size"


def _attributes(path: Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The names of the attributes, and file name -> k booleans. Line 1 counts, line 2 names, the rest is -1 or 1."""
    _, header, *lines = [*path.read_text().splitlines(), "", ""]
    names = tuple(header.split())
    flags = {}
    for number, line in enumerate(lines, start=3):
        if not line.strip():
            continue
        file, *values = line.split()
        if len(values) != len(names) or not set(values) <= {"-1", "1"}:
            raise DatasetUnavailable(
                f"CelebA: line {number} of {path} is not a file name and {len(names)} times -1 or 1. Fetch it again."
            )
        flags[file] = np.array([value == "1" for value in values])
    return names, flags


def _partition(path: Path) -> dict[str, int]:
    """File name -> 0 (train), 1 (val) or 2 (test), in the order of the file."""
    part_of = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise DatasetUnavailable(
                f"CelebA: line {number} of {path} is not a file name and 0, 1 or 2. Fetch it again."
            )
        part_of[fields[0]] = int(fields[1])
    return part_of


def _pixels(path: Path, size: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            crop = round(CROP * image.width / WIDTH)
            left, top = ((side - crop) // 2 for side in image.size)
            face = image.convert("RGB").crop((left, top, left + crop, top + crop))
    except OSError as error:
        raise DatasetUnavailable(f"CelebA: {path} cannot be read ({error}). Unpack {IMAGES}.zip again.") from error
    face = face.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(face, dtype=np.float32).transpose(2, 0, 1) / 255.0
