"""Generated faces with attributes that can be taken away or put on. No download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from engramlib.lab.data._paint import box, capsule, ellipse, grid, hsv, inside, mix, over, rounded, scaled, to_bytes
from engramlib.lab.data.attribute_data import AttributeData, AttributeSplit

ATTRIBUTES = ("glasses", "goatee", "hat", "bangs", "smile")
FREQUENCY = 0.15
# What a face is apart from its attributes: independent, uniform in [0, 1].
IDENTITY = (
    "skin",
    "face width",
    "face height",
    "hair colour",
    "hair length",
    "eye spacing",
    "eye size",
    "eye colour",
    "eye height",
    "brow height",
    "nose length",
    "mouth width",
    "mouth height",
    "lip colour",
    "background hue",
    "background light",
    "light direction",
    "light strength",
    "shirt hue",
    "shirt light",
    "hat hue",
    "frame colour",
    "x",
    "y",
)
_CHUNK = 128  # faces drawn at once: few enough for the cache


@dataclass(frozen=True)
class FaceData(AttributeData):
    """Generated faces, and the renderer that draws any of them again with other attributes."""

    @property
    def identity_names(self) -> tuple[str, ...]:
        """What the columns of `identity` are: all that makes a face apart from its attributes."""
        return IDENTITY

    def draw(self, split: str | AttributeSplit = "test", **present: bool) -> torch.Tensor:
        """The same faces with the attributes named set as said, N x 3 x size x size, on the split's device.

        `data.draw("test", glasses=False, hat=True)`; every other pixel and attribute stays as it is.
        """
        part = self.split(split)
        wanted = part.attributes.clone()
        for attribute, value in present.items():
            wanted[:, self.column(attribute)] = bool(value)
        return render(part.identity, wanted, size=self.image_shape[-1])

    def counterfactual(self, split: str | AttributeSplit, attribute: str, *, present: bool = False) -> torch.Tensor:
        """The same faces without (`present=False`) or with the attribute, N x 3 x size x size."""
        return self.draw(split, **{attribute: present})

    def attribute_mask(self, split: str | AttributeSplit, attribute: str) -> torch.Tensor:
        """The pixels that the attribute touches in each face, N x size x size booleans.

        Where the face with the attribute and the face without differ in any channel; also for faces that do not
        have it: there it is where the attribute would sit.
        """
        with_it, without = (self.counterfactual(split, attribute, present=p) for p in (True, False))
        return (with_it != without).any(dim=1)


def faces(
    n: int = 3000,
    *,
    size: int = 32,
    frequencies: float | Mapping[str, float] = FREQUENCY,
    seed: int = 0,
) -> FaceData:
    """Generated faces in colour with known binary attributes, and their counterfactuals.

    `x` is N x 3 x size x size in [0, 1], in steps of 1/255; `attributes` is N x k booleans, drawn independently of
    each other and of `identity`, the N x 24 other parameters of a face (`.identity_names`). `n` faces are
    split 2/3 for `train`, 1/6 each for `val` and `test`.

    Args:
        n: faces in all three splits together, at least 6.
        size: pixels a side, at least 16. Made for 32.
        frequencies: share of the faces that have an attribute, or a dict of such shares by attribute (glasses, goatee,
            hat, bangs, smile); what a dict leaves out has the default of 0.15. Rare on purpose: along directions that
            all faces use, erasing an attribute takes its frequency's share of everything with it (chapter 12).
        seed: fixes the faces. Their pixels are the same on every machine.

    Raises:
        ValueError: an argument out of range or an unknown attribute; it is named.

    Cost: 3,000 faces of 32 x 32 in about 1.2 s and 37 MB. Source: ours.

    Example:
        >>> data = faces(60)
        >>> bare = data.counterfactual("test", "glasses", present=False)
        >>> changed = (bare != data.test.x).flatten(1).any(1)
        >>> torch.equal(changed, data.has("glasses", "test"))
        True
    """
    if not isinstance(n, int) or n < 6:
        raise ValueError(f"faces: n must be a whole number of at least 6, got {n!r}.")
    if not isinstance(size, int) or size < 16:
        raise ValueError(f"faces: size must be a whole number of at least 16, got {size!r}.")
    shares = torch.tensor(_shares(frequencies), dtype=torch.float64)

    def part(number: int, n: int) -> AttributeSplit:
        rng = np.random.default_rng([seed, number])  # only rng.random: alike in every version of numpy
        identity = torch.from_numpy(rng.random((n, len(IDENTITY)))).float()
        attributes = torch.from_numpy(rng.random((n, len(ATTRIBUTES)))) < shares
        return AttributeSplit(render(identity, attributes, size=size), attributes, identity)

    sizes = (n - 2 * (n // 6), n // 6, n // 6)
    return FaceData("faces", ATTRIBUTES, (3, size, size), *(part(i, m) for i, m in enumerate(sizes)))


def _shares(frequencies: float | Mapping[str, float]) -> list[float]:
    given = frequencies if isinstance(frequencies, Mapping) else dict.fromkeys(ATTRIBUTES, frequencies)
    unknown = [a for a in given if a not in ATTRIBUTES]
    if unknown:
        raise ValueError(f"faces: no attribute {unknown[0]!r} in frequencies; choose from {', '.join(ATTRIBUTES)}.")
    for attribute, share in given.items():
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"faces: frequencies must lie in [0, 1], got {share} for {attribute}.")
    return [given.get(a, FREQUENCY) for a in ATTRIBUTES]


# --------------------------------------------------------------------------------------------------- the renderer

SKINS = [(0.98, 0.85, 0.74), (0.92, 0.73, 0.58), (0.76, 0.55, 0.40), (0.52, 0.36, 0.26), (0.34, 0.23, 0.17)]
HAIRS = [(0.10, 0.08, 0.07), (0.32, 0.20, 0.12), (0.58, 0.26, 0.12), (0.88, 0.72, 0.38), (0.70, 0.70, 0.72)]
EYES = [(0.25, 0.14, 0.08), (0.20, 0.40, 0.22), (0.20, 0.42, 0.72)]


def render(identity: torch.Tensor, attributes: torch.Tensor, *, size: int = 32) -> torch.Tensor:
    """Draw faces: `identity` N x 24 in [0, 1] and `attributes` N x 5 booleans to N x 3 x size x size in [0, 1].

    The same face for the same row, whatever else is in the batch. About 0.4 ms a face at 32 x 32, on the CPU.
    """
    if identity.ndim != 2 or identity.shape[1] != len(IDENTITY):
        raise ValueError(f"render: identity must be N x {len(IDENTITY)}, got {tuple(identity.shape)}.")
    if attributes.shape != (len(identity), len(ATTRIBUTES)):
        raise ValueError(
            f"render: attributes must be {len(identity)} x {len(ATTRIBUTES)}, got {tuple(attributes.shape)}."
        )
    latent, present = identity.detach().cpu().double().numpy(), attributes.detach().cpu().double().numpy()
    images = np.empty((len(latent), 3, size, size), dtype=np.uint8)
    for start in range(0, len(latent), _CHUNK):
        rows = slice(start, start + _CHUNK)
        images[rows] = _draw(latent[rows], present[rows], size)
    return torch.from_numpy(images).to(identity.device).float().div_(255.0)


def _draw(latent: np.ndarray, present: np.ndarray, size: int) -> np.ndarray:
    """From the back to the front: background, hair, shirt, neck, head, then what is on it."""
    x, y, pixel = grid(size)
    value = {name: latent[:, [i]] for i, name in enumerate(IDENTITY)}
    has = {name: present[:, [i]] for i, name in enumerate(ATTRIBUTES)}

    def between(name: str, low: float, high: float) -> np.ndarray:
        return low + (high - low) * value[name]

    def add(scene, colour, distance, opacity=1.0):
        return over(scene, colour, inside(distance, pixel) * opacity)

    # Places, all measured from the middle of the head.
    x, y = x - between("x", -0.06, 0.06), y - between("y", 0.06, 0.16)
    a, b = between("face width", 0.42, 0.52), between("face height", 0.58, 0.68)
    side = np.abs(x)
    eye_x, eye_y = side - between("eye spacing", 0.18, 0.24), y - between("eye height", -0.12, -0.04)
    mouth_y, mouth_w = y - between("mouth height", 0.30, 0.36), between("mouth width", 0.13, 0.19)
    narrow = 1.0 + 0.25 * np.clip(y, 0.0, None)  # towards the chin
    head = ellipse(x * narrow, y, a, b)

    white = [np.full_like(x, 0.98)] * 3
    skin, hair = mix(SKINS, value["skin"]), mix(HAIRS, value["hair colour"])
    shade, dark = scaled(skin, 0.78), scaled(hair, 0.75)

    scene = hsv(value["background hue"], 0.35, between("background light", 0.35, 0.95) * (1.0 - 0.12 * y))
    crown = ellipse(x, y + 0.04, a + 0.09, b + 0.07)
    falls = box(x, y - 0.5, a + 0.07, 0.6)
    scene = add(scene, dark, np.maximum(np.minimum(crown, falls), y - between("hair length", -0.1, 0.8)))
    shirt = hsv(value["shirt hue"], 0.6, between("shirt light", 0.35, 0.9))
    scene = add(scene, shirt, ellipse(x, y - 1.12, 0.85, 0.42))
    scene = add(scene, shade, ellipse(x, y - 0.55, 0.2, 0.3))
    scene = add(scene, shade, ellipse(side - a + 0.01, y - 0.02, 0.08, 0.13))
    scene = add(scene, skin, head)

    # The face: brows, eyes, nose.
    scene = add(scene, scaled(skin, 0.68), ellipse(x, y - between("nose length", 0.10, 0.17), 0.065, 0.045))
    scene = add(scene, scaled(skin, 0.87), box(x, y - 0.03, 0.025, 0.09))
    opening = between("eye size", 0.85, 1.2)
    scene = add(scene, white, ellipse(eye_x, eye_y, 0.11 * opening, 0.075 * opening))
    scene = add(scene, mix(EYES, value["eye colour"]), ellipse(eye_x, eye_y, 0.055, 0.06 * opening))
    scene = add(scene, dark, capsule(eye_x, eye_y + between("brow height", 0.14, 0.18), 0.09, 0.022))

    # Goatee: around the chin and the mouth, before the mouth. Only on the head, and a little below it.
    beard = np.minimum(ellipse(x, mouth_y - 0.17, 0.2, 0.2), ellipse(x, mouth_y, mouth_w + 0.07, 0.13))
    scene = add(scene, dark, np.maximum(beard, head - 0.03), has["goatee"])

    # Mouth: a line, or an open bow with teeth.
    lips = hsv(0.98, between("lip colour", 0.45, 0.7), 0.72)
    scene = add(scene, lips, capsule(x, mouth_y, mouth_w - 0.03, 0.035), 1.0 - has["smile"])
    bend = 0.5 - (x / (mouth_w + 0.1)) ** 2
    bow = np.maximum(mouth_y - 0.04 - 0.16 * bend, 0.02 * bend - mouth_y - 0.04)
    bow = np.maximum(bow, side - mouth_w - 0.1)
    scene = add(scene, scaled(lips, 0.85), bow - 0.02, has["smile"])
    scene = add(scene, white, bow + 0.03, has["smile"])

    # Hair on the forehead; bangs hang down to the brows in strands.
    line = -0.74 * b + 0.9 * x * x
    scene = add(scene, hair, np.maximum(crown, y - line))
    strands = -0.30 * b - 0.10 * x * x + 0.035 * np.cos(x * 22.0)
    scene = add(scene, hair, np.maximum(np.maximum(crown, head - 0.05), y - strands), has["bangs"])

    frame = mix([(0.06, 0.06, 0.07), (0.35, 0.08, 0.06), (0.10, 0.12, 0.35)], value["frame colour"])
    lens = rounded(eye_x, eye_y, 0.07, 0.05, 0.08)
    scene = add(scene, white, lens, 0.18 * has["glasses"])
    rims = np.abs(lens) - 0.03
    bridge = np.maximum(box(x, eye_y + 0.02, 0.5, 0.022), -lens)
    arms = np.maximum(bridge, side - a - 0.02)
    scene = add(scene, frame, np.minimum(rims, arms), has["glasses"])

    # Hat: crown with a band, then the brim.
    cloth = hsv(value["hat hue"], 0.65, 0.75)
    brim_y = y + 0.56 * b
    scene = add(scene, cloth, box(x * (1.0 - 0.12 * brim_y), brim_y + 0.3, a + 0.06, 0.3), has["hat"])
    scene = add(scene, scaled(cloth, 0.5), box(x, brim_y + 0.09, a + 0.06, 0.06), has["hat"])
    scene = add(scene, scaled(cloth, 0.85), capsule(x, brim_y, a + 0.2, 0.05), has["hat"])

    # One light on everything.
    turn = 2 * np.pi * value["light direction"]
    lit = 1.0 + between("light strength", 0.05, 0.3) * (np.cos(turn) * x + np.sin(turn) * y)
    image = np.stack([np.broadcast_to(c * lit, head.shape) for c in scene], axis=1)
    return to_bytes(image).reshape(len(latent), 3, size, size)
