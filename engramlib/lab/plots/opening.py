"""The picture that opens a chapter: the same shapes and colours everywhere.

An input -> P⁺ splits it -> W⁺ and W − W⁺ -> two answers. Orange is the target's, blue is the rest, all else the page's
ink; so it reads in light and dark. A bracket marks the part that the chapter asks about, with its question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from engramlib.lab.plots.style import COLOURS, INK

TARGET, REST = COLOURS[1], COLOURS[0]
SIZE = (5.0, 1.95)  # inches; a phone shows all of it

# Where each part stands: (left, right) in inches.
PLACES = {"input": (0.05, 0.95), "share": (1.3, 1.95), "weights": (2.35, 3.35), "answers": (3.65, 4.95)}
UPPER, LOWER, MIDDLE = 1.45, 0.75, 1.1  # heights of the two ways and between them


def opening(
    kind: str,
    *,
    see: str,
    goes: str,
    stays: str,
    focus: str,
    question: str,
    weights: tuple[str, str] = ("W⁺", "W − W⁺"),
) -> Figure:
    """The opening picture. Give it to `show`.

    `kind` of input: "image", "window" (an image with a marked patch), "tokens", "face" or "clouds"; `see` = its name.
    `goes`, `stays` = the answers of the two parts of the weights, in two or three words; `weights` = other names for
    these parts. `focus` = "input", "share", "weights" or "answers", where the chapter's `question` is put.

    Raises `ValueError` for a kind or a focus that there is not, and for a text that is too long for its place.
    """
    from matplotlib import pyplot as plt

    for name, value, known in (("kind", kind, INPUTS), ("focus", focus, PLACES)):
        if value not in known:
            raise ValueError(f"opening: {name} must be one of {', '.join(known)}, got {value!r}.")
    for name, text, most in (("see", see, 14), ("goes", goes, 20), ("stays", stays, 20), ("question", question, 62)):
        if not text.strip() or len(text) > most:
            raise ValueError(f"opening: {name} has {len(text)} characters; 1 to {most} fit.")
    fig = plt.figure(figsize=SIZE, layout="none")
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, SIZE[0]), ylim=(0, SIZE[1]))  # in inches
    ax.axis("off")

    INPUTS[kind](ax)
    _text(ax, sum(PLACES["input"]) / 2, 0.48, see, size=9)
    left, right = PLACES["share"]
    _box(ax, (left, MIDDLE), (right, MIDDLE + 0.33), TARGET)
    _box(ax, (left, MIDDLE - 0.33), (right, MIDDLE), REST)
    _text(ax, (left + right) / 2, MIDDLE + 0.165, "P⁺")
    _text(ax, (left + right) / 2, MIDDLE - 0.165, "I − P⁺")
    _arrow(ax, (1.0, MIDDLE), (left - 0.05, MIDDLE))
    for height, colour, part, answer in ((UPPER, TARGET, weights[0], goes), (LOWER, REST, weights[1], stays)):
        a, b = PLACES["weights"]
        _box(ax, (a, height - 0.19), (b, height + 0.19), colour)
        _text(ax, (a + b) / 2, height, part)
        _arrow(ax, (right + 0.04, MIDDLE + (0.17 if height > MIDDLE else -0.17)), (a - 0.05, height))
        c, d = PLACES["answers"]
        _arrow(ax, (b + 0.04, height), (c - 0.05, height))
        _box(ax, (c, height - 0.19), (d, height + 0.19), colour, alpha=0.0, style="round,pad=0,rounding_size=0.15")
        _text(ax, (c + d) / 2, height, answer, size=9)

    a, b = PLACES[focus]
    ax.plot([a, a, b, b], [0.36, 0.3, 0.3, 0.36], color=INK, linewidth=1.4, solid_joinstyle="miter")
    side = {"input": "left", "answers": "right"}.get(focus, "center")
    at = {"left": a, "right": b}.get(
        side, min(max((a + b) / 2, 0.039 * len(question)), SIZE[0] - 0.039 * len(question))
    )
    _text(ax, at, 0.14, question, ha=side, size=9.5)
    return fig


def _text(ax: Any, x: float, y: float, text: str, *, size: float = 10, ha: str = "center") -> None:
    ax.text(x, y, text, ha=ha, va="center", fontsize=size, color=INK)


def _box(ax: Any, low, high, colour: str, *, alpha: float = 0.28, style: str = "square,pad=0") -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.patches import FancyBboxPatch

    (x, y), (right, top) = low, high
    face, how = to_rgba(colour, alpha), {"edgecolor": colour, "linewidth": 1.4}
    ax.add_patch(FancyBboxPatch((x, y), right - x, top - y, boxstyle=style, facecolor=face, **how))


def _arrow(ax: Any, start, end) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1.0})


# A seven, so that the picture says "an image" at a glance.
SEVEN = ((3, 0), (3, 1), (3, 2), (3, 3), (2, 3), (2, 2), (1, 2), (0, 1))


def _pixels(ax: Any, filled: Sequence[tuple[int, int]] = SEVEN) -> None:
    from matplotlib.patches import Rectangle

    side, left, low = 0.18, 0.14, 0.74
    for row in range(4):
        for column in range(4):
            on = (row, column) in filled
            how = {"facecolor": INK if on else "none", "alpha": 0.65 if on else 0.5, "edgecolor": INK, "linewidth": 0.6}
            ax.add_patch(Rectangle((left + side * column, low + side * row), side, side, **how))


def _window(ax: Any) -> None:
    from matplotlib.patches import Rectangle

    _pixels(ax)
    ax.add_patch(Rectangle((0.32, 0.92), 0.54, 0.54, fill=False, edgecolor=INK, linewidth=2.2))


def _tokens(ax: Any) -> None:
    for row, lengths in enumerate(((0.3, 0.42), (0.42, 0.28), (0.22, 0.5))):
        x = 0.08
        for length in lengths:
            _box(ax, (x, 1.24 - 0.24 * row), (x + length, 1.42 - 0.24 * row), INK, alpha=0.12)
            x += length + 0.06


def _face(ax: Any) -> None:
    from matplotlib.patches import Arc, Circle

    for centre, radius, width in (((0.5, 1.1), 0.38, 1.4), ((0.37, 1.18), 0.1, 1.2), ((0.63, 1.18), 0.1, 1.2)):
        ax.add_patch(Circle(centre, radius, fill=False, edgecolor=INK, linewidth=width))
    ax.plot([0.47, 0.53], [1.18, 1.18], color=INK, linewidth=1.2)  # the glasses' bridge
    ax.add_patch(Arc((0.5, 0.98), 0.28, 0.18, theta1=200, theta2=340, edgecolor=INK, linewidth=1.2))


def _clouds(ax: Any) -> None:
    import numpy as np

    luck = np.random.default_rng(3)
    for colour, turn, n in ((REST, -0.9, 34), (TARGET, 0.6, 22)):
        x, y = luck.normal(size=(2, n)) * [[0.16], [0.05]]
        c, s = np.cos(turn), np.sin(turn)
        ax.plot(0.5 + c * x - s * y, 1.1 + s * x + c * y, ".", color=colour, markersize=3.5)


INPUTS: dict[str, Callable[[Any], None]] = {
    "image": _pixels,
    "window": _window,
    "tokens": _tokens,
    "face": _face,
    "clouds": _clouds,
}
