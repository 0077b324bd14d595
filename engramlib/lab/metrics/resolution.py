"""How small a difference so many images, and so many networks, can show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


def of_share(share: float, n: int, *, level: float = LEVEL) -> float:
    """The smallest difference between two shares near `share`, each of `n` images, that is more than chance.

    z √(2 p (1 - p) / (n + 2)) with p = (share · n + 1) / (n + 2): the half-width of the interval of Agresti and Caffo
    (2000, The American Statistician) for two independent samples. Two networks that see the same images can differ by
    less and still be told apart: see `paired`. In (0, 1).

    >>> round(of_share(0.9, 40), 3), round(of_share(0.9, 1000), 3)
    (0.139, 0.026)
    """
    _check(n, level)
    p = (share * n + 1) / (n + 2)
    return _z(level) * math.sqrt(2 * p * (1 - p) / (n + 2))


def of_auc(auc: float, n: int, m: int, *, level: float = LEVEL) -> float:
    """The smallest difference between two AUCs near `auc`, each of `n` images against `m`, that is more than chance.

    z √2 times the standard error of Hanley and McNeil (1982, Radiology); at .5 that is exact, √((n + m + 1) / 12nm).

    >>> round(of_auc(0.5, 40, 40), 3)
    0.18
    """
    _check(min(n, m), level)
    a = max(auc, 1 - auc)
    same, other = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (n - 1) * (same - a * a) + (m - 1) * (other - a * a)) / (n * m)
    return _z(level) * math.sqrt(2 * max(variance, 0.25 / (n * m)))


@dataclass(frozen=True)
class Interval:
    """A mean, and where it may lie at the confidence asked for. `below(x)`, `above(x)`: True only if all of it does."""

    mean: float
    low: float
    high: float

    def below(self, bound: float) -> bool:
        return self.high <= bound

    def above(self, bound: float) -> bool:
        return self.low >= bound

    def __str__(self) -> str:
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


def interval(shares: Sequence[float], n: int, *, level: float = LEVEL) -> Interval:
    """A mean of shares, one a network, each of the same `n` images: over other networks **and** other images.

    On each side √(networks² + images²): Student's interval of the mean over the networks, and Wilson's (1927) of a
    share of n images, which the networks have in common. One network alone says nothing about others: then everything
    from 0 to 1. Kept within 0 and 1.
    """
    _check(n, level)
    mean, z = statistics.fmean(shares), _z(level)
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    networks = _student(shares, level)
    down, up = (math.hypot(networks, side) for side in (mean - centre + half, centre + half - mean))
    return Interval(mean, max(0.0, mean - down), min(1.0, mean + up))


def of_mean(values: Sequence[float], *, level: float = LEVEL) -> Interval:
    """Student's interval of a mean of numbers that vary in everything: one a network, on images of its own. Chapter 17.

    One value alone says nothing about others: then everything.

    >>> print(of_mean([0.5, 0.6, 0.7]))
    0.60 (0.35 to 0.85)
    """
    _check(len(values), level)
    mean, half = statistics.fmean(values), _student(values, level)
    return Interval(mean, mean - half, mean + half)


def paired(lost: Sequence[int], gained: Sequence[int], n: int, *, level: float = LEVEL) -> Interval:
    """What a second network reads less than a first, as a share of the same `n` images: over networks and images.

    One number a pair of networks: how many images the first has right and the second not (`lost`), and the other way
    round (`gained`). Half-width = √(networks² + images²): Student's interval of the mean over the pairs, and that of
    the difference of two paired shares with half an image added to each count (after Agresti and Min 2005, Statistics
    in Medicine). Where no image changes sides in any pair, its width is still that of a few images out of n.
    """
    _check(n, level)
    differences = [(a - b) / n for a, b in zip(lost, gained, strict=True)]
    a, b, size = statistics.fmean(lost) + 0.5, statistics.fmean(gained) + 0.5, n + 2
    variance = (a + b - (a - b) ** 2 / size) / size**2
    mean = statistics.fmean(differences)
    half = math.hypot(_student(differences, level), _z(level) * math.sqrt(variance))
    return Interval(mean, mean - half, mean + half)


def unpaired(before: Sequence[float], after: Sequence[float], n: int, *, level: float = LEVEL) -> Interval:
    """`paired` where only the shares are known, one a network and side, and not which images changed sides.

    The part of the images is that of two independent samples (Agresti and Caffo 2000, as in `of_share`). The two
    networks of a pair see the same images, so it is, as a rule, too wide: what it shows is shown.

    >>> print(unpaired([0.85, 0.86, 0.84], [0.74, 0.73, 0.75], 1000))
    0.11 (0.05 to 0.17)
    """
    _check(n, level)
    differences = [a - b for a, b in zip(before, after, strict=True)]
    sides = [(statistics.fmean(shares) * n + 1) / (n + 2) for shares in (before, after)]
    images = _z(level) * math.sqrt(sum(p * (1 - p) for p in sides) / (n + 2))
    mean, half = statistics.fmean(differences), math.hypot(_student(differences, level), images)
    return Interval(mean, mean - half, mean + half)


def less_right(before: Sequence[Sequence[bool]], after: Sequence[Sequence[bool]], *, level: float = LEVEL) -> Interval:
    """What the second network of each pair reads less than the first: `paired`, from which images each has right.

    One sequence a network, one value an image; all networks see the same images. Chapters 08 and 11.

    >>> print(less_right([[True] * 50, [True] * 50], [[True] * 30 + [False] * 20] * 2))
    0.40 (0.26 to 0.54)
    """
    both = [list(zip(a, b, strict=True)) for a, b in zip(before, after, strict=True)]
    lost, gained = ([sum(pair == way for pair in one) for one in both] for way in ((True, False), (False, True)))
    return paired(lost, gained, len(both[0]), level=level)


def _student(values: Sequence[float], level: float) -> float:
    """Half-width of Student's interval of a mean."""
    from scipy.stats import t

    if len(values) < 2:
        return math.inf
    quantile = float(t.ppf((1 + level) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def _z(level: float) -> float:
    return statistics.NormalDist().inv_cdf((1 + level) / 2)


def _check(n: int, level: float) -> None:
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"resolution: needs at least one image and a level between 0 and 1; got {n} and {level}.")
