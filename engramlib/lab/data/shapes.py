"""Generated shapes: colour images whose classes form groups, for a laptop. No download."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from engramlib.lab.data._paint import grid, hsv, inside, over, to_bytes
from engramlib.lab.data.image_data import SPLITS, ImageData, Split

TEXTURES = ("plain", "striped", "dotted", "checked", "shaded")
MAX_SUB = 10
HUES = {"red": 0.0, "green": 0.33, "blue": 0.62, "yellow": 0.15}  # as shares of the colour circle
# How hard: tuned so that a small network is neither at chance nor at 1.0, and mistakes the material before the shape.
NOISE = 0.06  # standard deviation of a pixel
SATURATION, HUE_SPREAD = (0.2, 0.55), 0.04  # of an object's colour
CONTRAST = (0.1, 0.43)  # of its texture
RADIUS, SHIFT, TURN = (0.55, 0.8), 0.14, 0.2  # half the image = 1; radians
BACKGROUND = (0.1, 0.4)  # brightness; objects have .7 to 1
TINT = 0.15  # of the light
_PARAMETERS = 40  # random numbers an image, before the noise


def shapes(n_super: int = 5, n_sub: int = 2, *, per_class: int = 200, size: int = 16, seed: int = 0) -> ImageData:
    """Generated colour images in a taxonomy of two levels: the superclass is a shape, the subclass what it is made of.

    Class `c = superclass * n_sub + sub`, called for instance "dotted green disc". Every superclass has the same
    subclasses, each one texture in one colour, so a class is neither its shape nor its material but both.
    `x` is N x 3 x size x size in [0, 1], in steps of 1/255; `y` is N. `train` has `per_class` images of each class,
    `val` and `test` half as many each, all of them in random order and drawn independently.
    What makes it hard: position, scale, angle, light, a tinted and shaded background, small discs as distractors,
    pale colours, weak textures, pixel noise. Labels are always right.

    The pixels depend on the arguments only, not on the machine; class (superclass, sub) has the same images whatever
    `n_super` and `n_sub` are. Up to 10 superclasses and 10 subclasses, size 8 or more.
    Cost: 4,000 images of 16 x 16 in about 0.2 s and 12 MB. Source: ours.
    A network for it: `resnet((16, 32))`, Adam, one cycle to 4e-3, batches of 64, 7 epochs, 3.5 s on one thread: test
    accuracy .91 to .93 over three seeds, half to three quarters of the errors inside a superclass (chance: one in
    nine). 100 classes, `shapes(10, 10, per_class=60)`: batches of 128, 15 epochs to 8e-3, 25 s on a busy core: .68 and
    .70 over two seeds, nine errors of ten inside. Logistic regression on the pixels of the ten classes: .65.

    Raises:
        ValueError: an argument out of range; it is named.

    Example:
        >>> data = shapes(3, 2, per_class=4)
        >>> data.classes[3], data.superclasses[data.superclass_of[3]], tuple(data.train.x.shape)
        ('striped red square', 'square', (24, 3, 16, 16))
    """
    _check("n_super", n_super, 1, len(SHAPES))
    _check("n_sub", n_sub, 1, MAX_SUB)
    _check("per_class", per_class, 2, 10**6)
    _check("size", size, 8, 1024)
    materials = [_material(sub) for sub in range(n_sub)]
    superclasses = tuple(SHAPES)[:n_super]
    classes = tuple(f"{texture} {hue} {shape}" for shape in superclasses for texture, hue in materials)

    def part(number: int) -> Split:
        n = per_class if number == 0 else per_class // 2
        images = np.empty((len(classes) * n, 3, size, size), dtype=np.uint8)
        for label in range(len(classes)):
            kind, sub = divmod(label, n_sub)
            rng = np.random.default_rng([seed, number, kind, sub])
            images[label * n : (label + 1) * n] = _draw(superclasses[kind], *materials[sub], n, size, rng)
        order = np.argsort(np.random.default_rng([seed, number]).random(len(images)), kind="stable")
        labels = np.repeat(np.arange(len(classes)), n)
        return Split(torch.from_numpy(images[order]).float().div_(255.0), torch.from_numpy(labels[order]))

    groups = tuple(c // n_sub for c in range(len(classes)))
    train, val, test = map(part, range(len(SPLITS)))
    return ImageData("shapes", classes, (3, size, size), train, val, test, superclasses, groups)


def _check(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"shapes: {name} must be a whole number from {low} to {high}, got {value!r}.")


def _material(sub: int) -> tuple[str, str]:
    """Subclass -> (texture, hue): 0 and 1 share a hue, 2 and 3 the next, and so on; the texture always changes."""
    return TEXTURES[sub % len(TEXTURES)], tuple(HUES)[sub // 2 % len(HUES)]


# ---------------------------------------------------------------------------------------------------- one class


def _draw(shape: str, texture: str, hue: str, n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """n images as bytes, n x 3 x size x size.

    Only `rng.random` is used: its numbers are alike in every version of numpy.
    """
    draws = iter(rng.random((_PARAMETERS, n, 1)))

    def between(low: float, high: float) -> np.ndarray:
        return low + (high - low) * next(draws)

    x, y, pixel = grid(size)

    # Where the object is, and every pixel in its own coordinates: (u, v), 1 = its radius.
    radius, angle = between(*RADIUS), between(-TURN, TURN)
    dx, dy = x - between(-SHIFT, SHIFT), y - between(-SHIFT, SHIFT)
    u = (np.cos(angle) * dx + np.sin(angle) * dy) / radius
    v = (np.cos(angle) * dy - np.sin(angle) * dx) / radius
    cover = inside(SHAPES[shape](u, v) * radius, pixel)

    tilt, phases, contrast = between(-0.3, 0.3), (between(0, 1), between(0, 1)), between(*CONTRAST)
    s, t = np.cos(tilt) * dx + np.sin(tilt) * dy, np.cos(tilt) * dy - np.sin(tilt) * dx
    ink = contrast * _texture(texture, s / radius, t / radius, s, t, phases)  # 0 = the pure colour, 1 = black
    paint = hsv(HUES[hue] + between(-HUE_SPREAD, HUE_SPREAD), between(*SATURATION), between(0.7, 1.0))
    paint = [channel * (1.0 - ink) for channel in paint]

    # Background and distractors, under one light that comes from somewhere and has a tint.
    scene = hsv(between(0, 1), between(0.0, 0.3), between(*BACKGROUND))
    for _ in range(2):
        spot = np.hypot(x - between(-1, 1), y - between(-1, 1)) - between(0.08, 0.2)
        there = inside(spot, pixel) * np.rint(between(0, 1))
        scene = over(scene, hsv(between(0, 1), between(0.1, 0.6), between(0.3, 1.0)), there)
    scene = over(scene, paint, cover)
    direction, fall = between(0, 2 * np.pi), between(0.0, 0.3)
    light = 1.0 + fall * (np.cos(direction) * x + np.sin(direction) * y)
    tint = [between(1.0 - TINT, 1.0 + TINT) for _ in range(3)]
    image = np.stack([np.broadcast_to(c * light * w, cover.shape) for c, w in zip(scene, tint, strict=True)], axis=1)

    # The sum of two uniform numbers is close enough to a bell, and the same everywhere.
    image = image + NOISE * np.sqrt(6.0) * (rng.random(image.shape) + rng.random(image.shape) - 1.0)
    return to_bytes(image).reshape(n, 3, size, size)


def _texture(name: str, a: np.ndarray, b: np.ndarray, s: np.ndarray, t: np.ndarray, phases: tuple) -> np.ndarray:
    """Ink in [0, 1]; (a, b) in units of the object's radius, (s, t) in units of half the image."""
    if name == "plain":
        return 0.0 * a
    if name == "shaded":
        return np.clip(0.5 + 0.6 * b, 0.0, 1.0)
    period = {"striped": 0.5, "dotted": 0.55, "checked": 0.7}[name]
    waves = [np.cos(2 * np.pi * (z / period + phase)) for z, phase in zip((s, t), phases, strict=True)]
    if name == "striped":
        return np.clip(0.5 + 1.5 * waves[1], 0.0, 1.0)
    if name == "dotted":
        return np.clip(0.5 + 1.5 * (waves[0] + waves[1] - 0.6), 0.0, 1.0)
    return np.clip(0.5 + 2.0 * waves[0] * waves[1], 0.0, 1.0)


# ------------------------------------------------------------------------ shapes: distance to the edge, < 0 inside


def _disc(u, v):
    return np.hypot(u, v) - 0.9


def _square(u, v):
    return np.maximum(np.abs(u), np.abs(v)) - 0.8


def _triangle(u, v):
    return np.maximum(v, np.abs(u) * 0.866 - v * 0.5) - 0.55


def _cross(u, v):
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(u - 0.3, v - 1.0), np.maximum(u - 1.0, v - 0.3))


def _ring(u, v):
    return np.abs(np.hypot(u, v) - 0.75) - 0.25


def _star(u, v):
    """Five points: fold the plane into one tenth, where the edge is a line from (0, -1.1) to the inner corner."""
    angle = np.abs((np.arctan2(u, -v) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    r = np.hypot(u, v)
    p, q = r * np.sin(angle), r * np.cos(angle)
    inner = 0.48 * np.array([np.sin(np.pi / 5), np.cos(np.pi / 5)])
    normal = np.array([1.1 - inner[1], inner[0]])
    normal = normal / np.hypot(*normal)
    return p * normal[0] + (q - 1.1) * normal[1]


def _crescent(u, v):
    return np.maximum(np.hypot(u, v) - 1.0, 0.8 - np.hypot(u - 0.55, v))


def _bar(u, v):
    return np.maximum(np.abs(u) - 1.1, np.abs(v) - 0.35)


def _heart(u, v):
    """A square on its corner and a disc on each of its upper sides."""
    a, b = (np.abs(u) + v + 0.05) * 0.7071, (v + 0.05 - np.abs(u)) * 0.7071
    square = np.maximum(np.abs(a), np.abs(b)) - 0.6
    return np.minimum(square, np.hypot(a, b + 0.6) - 0.6)


def _hourglass(u, v):
    return np.maximum(np.abs(v) - 0.9, (np.abs(u) - 0.85 * np.abs(v) - 0.12) * 0.76)


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "star": _star,
    "crescent": _crescent,
    "bar": _bar,
    "heart": _heart,
    "hourglass": _hourglass,
}
