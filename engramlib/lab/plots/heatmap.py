"""Accuracy of every class under every intervention."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from engramlib.lab.plots.style import INK, SEQUENTIAL

NUMBERED = 20  # more classes than this: no numbers, one image instead of cells


def class_heatmap(
    matrix,
    classes: Sequence[str],
    *,
    rows: Sequence[str] | None = None,
    row_label: str = "erased",
    column_label: str = "tested",
    title: str = "",
) -> Figure:
    """Rows = the class erased (the first row "none"), columns = the class tested, cells = accuracy in [0, 1].

    `matrix`: (n + 1) x n, or as many rows as `rows` names. Dark = 0, light = 1, in every figure of the book.
    NaN cells stay empty. Give the result to `show`.
    """
    import numpy as np
    from matplotlib import colormaps
    from matplotlib import pyplot as plt

    values = np.asarray(matrix, dtype=float)
    names = list(rows) if rows is not None else ["none", *classes]
    if values.shape != (len(names), len(classes)):
        raise ValueError(
            f"class_heatmap: matrix is {' x '.join(map(str, values.shape))}, but there are {len(names)} row names "
            f"and {len(classes)} classes."
        )
    if (values < 0).any() or (values > 1).any():
        raise ValueError("class_heatmap: accuracies must lie in [0, 1].")
    n_rows, n_cols = values.shape
    colours = colormaps[SEQUENTIAL]

    if n_cols > NUMBERED:
        fig, ax = plt.subplots(figsize=(5.0, 5.0 * n_rows / n_cols))
        image = ax.imshow(values, vmin=0, vmax=1, cmap=colours, aspect="auto")
        bar = fig.colorbar(image, ax=ax, shrink=0.8)
        bar.outline.set_visible(False)
        bar.set_label("accuracy")
        _label(ax, row_label, column_label, title)
        return fig

    longest = max(len(str(c)) for c in [*classes, *names])
    fig, ax = plt.subplots(
        figsize=(0.42 * n_cols + 0.5 + 0.085 * longest, 0.32 * n_rows + 0.75 + (0.085 * longest if longest > 4 else 0))
    )
    for r, c in np.ndindex(values.shape):
        if np.isnan(values[r, c]):
            continue
        fill = colours(values[r, c])
        ax.add_patch(Rectangle((c - 0.48, r - 0.47), 0.96, 0.94, facecolor=fill, linewidth=0, clip_on=False))
        ink = "#ffffff" if values[r, c] < 0.5 else "#141414"  # cividis crosses mid-grey at one half
        ax.text(c, r, _short(values[r, c]), ha="center", va="center_baseline", color=ink, fontsize=10)
    ax.set_xlim(-0.5, n_cols - 0.5)
    ax.set_ylim(n_rows - 0.5, -0.5)
    upright = max(len(str(c)) for c in classes) > 4
    ax.set_xticks(range(n_cols), list(classes), rotation=90 if upright else 0)
    ax.set_yticks(range(n_rows), names)
    ax.tick_params(length=0)
    _label(ax, row_label, column_label, title)
    return fig


def _label(ax, row_label: str, column_label: str, title: str) -> None:
    ax.spines[:].set_visible(False)
    ax.xaxis.set_ticks_position("top")
    ax.xaxis.set_label_position("top")
    ax.tick_params(top=False)
    ax.set_xlabel(column_label, color=INK, labelpad=7)
    ax.set_ylabel(row_label, color=INK)
    if title:
        ax.set_title(title)


def _short(value: float) -> str:
    """.98, 1.0, .00: no leading zero, so that the number fits the cell."""
    text = f"{value:.2f}"
    return "1.0" if text == "1.00" else text[1:]
