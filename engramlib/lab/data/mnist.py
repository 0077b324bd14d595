"""MNIST, from a folder or from its public home."""

from __future__ import annotations

from pathlib import Path

import torch

from engramlib.lab.data._folders import folders as search_folders
from engramlib.lab.data._folders import writable
from engramlib.lab.data.image_data import DatasetUnavailable, ImageData, Split

VAL = 5000


def mnist(root: str | Path | None = None) -> ImageData:
    """MNIST, 28 x 28: 55,000 / 5,000 / 10,000. `val` is the last 5,000 of the official training set.

    Looks for `<root>/MNIST/raw`, with `root` = the argument, else the environment variable `ENGRAM_DATA`,
    else `~/.cache/engramlib`. Where the files are not there, torchvision downloads 12 MB to the first of
    these folders that can be written.
    Raises `DatasetUnavailable` where neither works. Source: LeCun, Cortes, Burges; CC BY-SA 3.0.
    """
    from torchvision.datasets import MNIST

    folders = search_folders(root)
    for folder in folders:
        try:
            return _image_data(MNIST(folder, train=True), MNIST(folder, train=False))
        except Exception as error:
            if "not found" in str(error):  # torchvision's words for "no such files"
                continue
            raw = folder / "MNIST" / "raw"
            raise DatasetUnavailable(
                f"MNIST in {raw} cannot be read ({error}). Delete the four *-ubyte files there and try again."
            ) from error

    target = next((f for f in folders if writable(f)), None)
    tried = " and ".join(str(f / "MNIST" / "raw") for f in folders)
    if target is None:
        raise DatasetUnavailable(
            f"MNIST is not in {tried}, and no folder there can be written. Set ENGRAM_DATA to a folder that can."
        )
    try:
        return _image_data(MNIST(target, train=True, download=True), MNIST(target, train=False, download=True))
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise DatasetUnavailable(
            f"MNIST is not in {tried}, and the download failed ({error}). Go online and try again, or put the four "
            f"*-ubyte files (or .gz) into {target / 'MNIST' / 'raw'}, or set ENGRAM_DATA to the folder that holds "
            "MNIST/raw."
        ) from error


def _image_data(train, test) -> ImageData:
    def part(x: torch.Tensor, y: torch.Tensor) -> Split:
        return Split(x.unsqueeze(1).float() / 255.0, y.long())

    return ImageData(
        "MNIST",
        tuple(str(d) for d in range(10)),
        (1, 28, 28),
        part(train.data[:-VAL], train.targets[:-VAL]),
        part(train.data[-VAL:], train.targets[-VAL:]),
        part(test.data, test.targets),
    )
