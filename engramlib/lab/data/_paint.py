"""Drawing with soft edges: distances to an edge, covers, colours. Arrays are images x pixels, float64.

The results are rounded to bytes, so that a last bit that differs between machines does not reach a pixel.
"""

from __future__ import annotations

import numpy as np

Colour = list[np.ndarray]  # red, green, blue


def grid(size: int) -> tuple[np.ndarray, np.ndarray, float]:
    """x, y of every pixel's centre, each 1 x size², and the width of a pixel. The image is [-1, 1]²; y points down."""
    pixel = 2.0 / size
    axis = (np.arange(size) + 0.5) * pixel - 1.0
    x, y = np.meshgrid(axis, axis)
    return x.reshape(1, -1), y.reshape(1, -1), pixel


def inside(distance: np.ndarray, pixel: float) -> np.ndarray:
    """Share of a pixel that is covered, from the distance of its centre to the edge (negative = inside)."""
    return np.clip(0.5 - distance / pixel, 0.0, 1.0)


def over(below: Colour, above: Colour, cover: np.ndarray) -> Colour:
    """`above` painted on `below` where `cover` is 1."""
    return [b + cover * (a - b) for b, a in zip(below, above, strict=True)]


def hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> Colour:
    """Hue (1 = once round the colour circle), saturation and value to red, green and blue in [0, 1]."""
    missing = [np.clip(2.0 - np.abs((hue * 6.0 + k) % 6.0 - 2.0), 0.0, 1.0) for k in (5.0, 3.0, 1.0)]
    return [value * (1.0 - saturation * m) for m in missing]


def mix(stops: list[tuple[float, float, float]], where: np.ndarray) -> Colour:
    """Colours along a line of stops; `where` in [0, 1]."""
    places = np.linspace(0.0, 1.0, len(stops))
    return [np.interp(where, places, [stop[i] for stop in stops]) for i in range(3)]


def scaled(colour: Colour, factor: np.ndarray | float) -> Colour:
    return [channel * factor for channel in colour]


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


# --------------------------------------------------------- distances to an edge, < 0 inside; near the edge exact enough


def ellipse(x: np.ndarray, y: np.ndarray, a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    return (np.hypot(x / a, y / b) - 1.0) * np.minimum(a, b)


def box(x: np.ndarray, y: np.ndarray, a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    return np.maximum(np.abs(x) - a, np.abs(y) - b)


def rounded(x: np.ndarray, y: np.ndarray, a: float, b: float, radius: float) -> np.ndarray:
    """A box of half sides a and b with a round rim of `radius` around it."""
    return np.hypot(np.maximum(np.abs(x) - a, 0.0), np.maximum(np.abs(y) - b, 0.0)) - radius


def capsule(x: np.ndarray, y: np.ndarray, half: np.ndarray | float, radius: np.ndarray | float) -> np.ndarray:
    """A level bar with round ends."""
    return np.hypot(np.maximum(np.abs(x) - half, 0.0), y) - radius
