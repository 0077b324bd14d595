"""Made-up inputs whose second moments look like those of real ones. Nothing is downloaded.

White noise would flatter us: its Σ is well conditioned, nothing lies near the cut, and no two concepts share anything.
So images have the spectrum of photographs (amplitude 1/f, Field 1987), texts the frequencies of words (Zipf) with
pairs that follow each other, and the examples of one concept resemble each other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

VOCABULARY = 512


def images(count: int, channels: int, size: int, concepts: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], (count, channels, size, size), and the concept of each, 0 to ``concepts`` - 1 in turn.

    Half of an image is its concept's own picture, half is its own; the channels are alike, as colours are.
    """
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(size).square()[:, None] + torch.fft.rfftfreq(size).square()
    amplitude = 1 / frequency.clamp_min(1 / size**2).sqrt()

    def pink(n: int) -> Tensor:
        grey, colour = (torch.randn(n, c, size, size, generator=generator) for c in (1, channels))
        noise = torch.fft.irfft2(torch.fft.rfft2(0.8 * grey + 0.6 * colour) * amplitude, s=(size, size))
        return noise / noise.std()

    concept = torch.arange(count) % concepts
    picture = pink(concepts)[concept] + pink(count)
    return (0.5 + 0.18 * picture / math.sqrt(2)).clamp(0, 1), concept


def tokens(
    count: int, length: int, concepts: int, vocabulary: int = VOCABULARY, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Token numbers (count, length), from 4 on (0 to 3 are special), and the concept of each row, in turn.

    Half of the tokens follow from the one before, the same for all; the others are drawn by Zipf's law, in an order of
    the words that belongs to the concept.
    """
    generator = torch.Generator().manual_seed(seed)
    words = vocabulary - 4
    concept = torch.arange(count) % concepts
    frequencies = 1 / torch.arange(1, words + 1)
    drawn = torch.multinomial(frequencies, count * length, replacement=True, generator=generator).view(count, length)
    common = torch.arange(words) < words // 2  # half of the words have one rank everywhere
    orders = torch.stack([_shuffled(words, ~common, generator) for _ in range(concepts)])
    ids = orders[concept].gather(1, drawn)
    follower = torch.randperm(words, generator=generator)
    follows = torch.rand(count, length, generator=generator) < 0.5
    for place in range(1, length):
        ids[:, place] = torch.where(follows[:, place], follower[ids[:, place - 1]], ids[:, place])
    return ids + 4, concept


def _shuffled(n: int, movable: Tensor, generator: torch.Generator) -> Tensor:
    order, places = torch.arange(n), movable.nonzero()[:, 0]
    order[places] = places[torch.randperm(len(places), generator=generator)]
    return order


def words(texts: list[str], add_special_tokens: bool = True) -> dict[str, list[list[int]]]:
    """A tokenizer of texts of numbers, "17 4 250": what :func:`engramlib.forget` needs of one."""
    return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


def texts(ids: Tensor) -> list[str]:
    return [" ".join(map(str, row)) for row in ids.tolist()]
