"""Handwritten digits, 8 x 8 pixels, that come with scikit-learn: no download."""

from __future__ import annotations

import torch

from engramlib.lab.data.image_data import ImageData, Split

TRAIN, VAL, TEST = 1000, 297, 500


def digits(seed: int = 0) -> ImageData:
    """1,797 real handwritten digits, 8 x 8, split 1,000 / 297 / 500.

    The split is stratified (each part has the same share of each digit) and fixed by `seed`.
    Source: UCI Optical Recognition of Handwritten Digits, test part (Alpaydin and Kaynak 1998), CC BY 4.0,
    as shipped by scikit-learn. Takes about 0.1 s.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    rest, test = train_test_split(range(len(raw.target)), test_size=TEST, stratify=raw.target, random_state=seed)
    train, val = train_test_split(rest, test_size=VAL, stratify=raw.target[rest], random_state=seed)

    def part(rows: list[int]) -> Split:
        x = torch.tensor(raw.images[rows] / 16.0, dtype=torch.float32).unsqueeze(1)  # pixels are 0..16
        return Split(x, torch.tensor(raw.target[rows], dtype=torch.long))

    classes = tuple(str(d) for d in range(10))
    return ImageData("digits", classes, (1, 8, 8), part(train), part(val), part(test))
