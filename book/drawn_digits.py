"""Digits drawn by a program, and what the network of the landing page sees of a drawing.

The book's digits were written by people in 1998, with crossed sevens. Who draws on the landing page writes otherwise:
sevens without a bar, ones without a foot, open fours. `draw` makes such drawings from a few strokes a digit, bent,
slanted and stretched by chance. `see` turns strokes into 8 x 8 pixels as the data set does: the ink is fitted into
a box of 32 x 32, and each pixel says which share of its 4 x 4 points is inked. `engine.js` holds the same function for
the canvas; tests/book/test_explorables.py compares the two.
"""

from __future__ import annotations

import math

import numpy as np

SIDE, BOX = 8, 32  # pixels, points
PEN = 2.1  # radius of the pen in points: the data set's mean share of ink
Stroke = list[tuple[float, float]]


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float, n: int = 14) -> Stroke:
    """Part of an ellipse; degrees, 0 = right, 90 = down."""
    turns = [math.radians(start + (end - start) * i / (n - 1)) for i in range(n)]
    return [(cx + rx * math.cos(t), cy + ry * math.sin(t)) for t in turns]


# Ways to write each digit: strokes in a box one high, x to the right, y down.
WAYS: dict[int, list[list[Stroke]]] = {
    0: [[_arc(0.35, 0.5, 0.32, 0.5, -90, 270, 22)], [_arc(0.4, 0.5, 0.4, 0.5, -60, 310, 22)]],
    1: [
        [[(0.1, 0.0), (0.1, 1.0)]],
        [[(0.0, 0.22), (0.22, 0.0), (0.22, 1.0)]],
        [[(0.0, 0.25), (0.25, 0.0), (0.25, 1.0)], [(0.02, 1.0), (0.48, 1.0)]],
    ],
    2: [
        [[*_arc(0.32, 0.28, 0.32, 0.28, -170, 35), (0.0, 1.0), (0.66, 1.0)]],
        [[*_arc(0.32, 0.28, 0.32, 0.28, -160, 50), (0.12, 0.88), (0.05, 0.98), (0.18, 0.9), (0.68, 1.0)]],
    ],
    3: [
        [[*_arc(0.28, 0.26, 0.3, 0.26, -150, 80), *_arc(0.28, 0.74, 0.34, 0.26, -80, 150)]],
        [[(0.0, 0.0), (0.58, 0.0), (0.25, 0.4), *_arc(0.28, 0.7, 0.34, 0.3, -80, 150)]],
    ],
    4: [
        [[(0.4, 0.0), (0.0, 0.66), (0.7, 0.66)], [(0.5, 0.3), (0.5, 1.0)]],
        [[(0.5, 1.0), (0.5, 0.0), (0.0, 0.68), (0.72, 0.68)]],
        [[(0.05, 0.0), (0.05, 0.5), (0.6, 0.5)], [(0.55, 0.0), (0.55, 1.0)]],
    ],
    5: [
        [[(0.6, 0.0), (0.08, 0.0), (0.05, 0.45), *_arc(0.28, 0.68, 0.34, 0.32, -110, 140)]],
        [[(0.08, 0.0), (0.06, 0.42), *_arc(0.28, 0.7, 0.33, 0.3, -100, 150)], [(0.08, 0.0), (0.62, 0.02)]],
    ],
    6: [
        [[(0.5, 0.0), (0.2, 0.3), (0.04, 0.66), *_arc(0.32, 0.7, 0.3, 0.3, 170, -185, 20)]],
        [[(0.4, 0.0), (0.1, 0.42), *_arc(0.3, 0.72, 0.28, 0.28, 200, 540, 20)]],
    ],
    7: [
        [[(0.0, 0.0), (0.62, 0.0), (0.2, 1.0)]],
        [[(0.0, 0.02), (0.6, 0.0), (0.36, 0.45), (0.25, 1.0)]],
        [[(0.0, 0.12), (0.02, 0.0), (0.62, 0.0), (0.24, 1.0)]],
        [[(0.0, 0.0), (0.62, 0.0), (0.2, 1.0)], [(0.12, 0.5), (0.62, 0.5)]],
    ],
    8: [
        [[*_arc(0.32, 0.25, 0.27, 0.25, -60, -270, 14), *_arc(0.32, 0.75, 0.32, 0.25, -90, 270, 18),
          *_arc(0.32, 0.25, 0.27, 0.25, 90, -60, 10)]],
        [_arc(0.3, 0.24, 0.25, 0.24, -90, 270, 18), _arc(0.3, 0.74, 0.3, 0.26, -90, 270, 18)],
    ],
    9: [
        [[*_arc(0.3, 0.28, 0.3, 0.28, 10, -350, 20), (0.58, 0.3), (0.5, 1.0)]],
        [[*_arc(0.3, 0.28, 0.3, 0.28, 0, -360, 20), (0.6, 0.3), (0.58, 0.7), *_arc(0.3, 0.72, 0.28, 0.28, 20, 130, 8)]],
    ],
}  # fmt: skip


def see(strokes: list[Stroke], pen: float = PEN) -> np.ndarray:
    """What the network sees of a drawing: 64 shares of ink, row by row. Any units; no ink gives zeros.

    The larger side of the ink's box fills the 32 points, the other is centred.
    """
    strokes = [s for s in strokes if len(s)]
    if not strokes:
        return np.zeros(SIDE * SIDE)
    points = np.array([p for s in strokes for p in s], float)
    low, high = points.min(0), points.max(0)
    side = float((high - low).max())
    scale = (BOX - 2 * pen) / side if side > 0 else 0.0
    middle = (low + high) / 2
    starts, ends = [], []
    for stroke in strokes:
        path = (np.array(stroke, float) - middle) * scale + BOX / 2
        starts.append(path[:-1] if len(path) > 1 else path)
        ends.append(path[1:] if len(path) > 1 else path)
    a, b = np.concatenate(starts), np.concatenate(ends)
    at = np.arange(BOX) + 0.5
    grid = np.stack([np.tile(at, BOX), np.repeat(at, BOX)], 1)  # x runs fastest
    along = b - a
    length = np.maximum((along**2).sum(1), 1e-12)
    t = np.clip(((grid[:, None] - a) * along).sum(-1) / length, 0, 1)
    apart = ((grid[:, None] - a - t[..., None] * along) ** 2).sum(-1).min(1)
    ink = (apart <= pen**2).reshape(SIDE, BOX // SIDE, SIDE, BOX // SIDE)
    return ink.mean((1, 3)).reshape(-1)


def strokes(digit: int, rng: np.random.Generator) -> list[Stroke]:
    """One drawing of a digit: one of its ways, its points moved a little, stretched, slanted and turned."""
    ways = WAYS[digit]
    way = ways[rng.integers(len(ways))]
    width, slant, turn = rng.uniform(0.75, 1.3), rng.normal(0, 0.14), rng.normal(0, 0.09)
    c, s = math.cos(turn), math.sin(turn)
    bend, phase = rng.normal(0, 0.035, 4), rng.uniform(0, 2 * math.pi, 4)
    drawn = []
    for stroke in way:
        p = np.array(stroke) * (width, 1.0)
        wave = np.stack([np.sin(2 * p[:, 1] * math.pi + phase[0]), np.sin(2 * p[:, 0] * math.pi + phase[1])], 1)
        p = p + wave * bend[:2] + rng.normal(0, 0.012, p.shape) + rng.normal(0, 0.02, 2)
        p = p + (1 - p[:, 1:]) * (slant, 0)
        drawn.append([(float(x), float(y)) for x, y in p @ np.array([[c, s], [-s, c]])])
    return drawn


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`n` drawings of each digit, as the network sees them: images (10 n, 64), digits (10 n)."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(10), n)
    images = [see(strokes(int(digit), rng), pen=rng.uniform(1.5, 2.8)) for digit in labels]
    return np.stack(images), labels
