"""A matrix of numbers as colours."""

from __future__ import annotations

import re
from collections.abc import Sequence

from matplotlib.figure import Figure

from engramlib.lab.plots.cells import Cells, remember
from engramlib.lab.plots.style import DIVERGING, SEQUENTIAL

NUMBERED = 20  # more columns than this: no numbers in the cells, and one image instead of thousands of shapes


def heatmap(
    values,
    rows: Sequence[object],
    columns: Sequence[object],
    *,
    limits: tuple[float, float] = (0, 1),
    bar: str = "",
    size: tuple[float, float] | None = None,
    every: int = 1,
    **axes,
) -> Figure:
    """`values` (rows x columns) as colours between two `limits`, with their numbers or beside a colour bar.

    `rows` and `columns` = a name for each; or fewer names, for blocks of equal size, which lines set apart (both ways).
    From 0 up: dark = low, light = high, in every figure of the book. With `limits` on both sides of zero: white = zero,
    orange above and purple below. What lies beyond has the last colour. NaN cells stay empty (grey, where white is
    zero). `bar` = what the colours measure: a bar instead of numbers, which more than 20 columns have no room for.
    `every` = 4 writes every fourth name only, from the last row and the first column on. `axes` = properties of the
    axes, such as `xlabel`. Give the result to `show`: there the number under the pointer, a finger or the arrow keys
    stands below the picture, with the names of its row and column.
    """
    import numpy as np
    import seaborn
    from matplotlib import colormaps
    from matplotlib import pyplot as plt

    values = np.asarray(values, dtype=float)
    steps = [n // len(names) for n, names in zip(values.shape, (rows, columns), strict=True)]
    if values.shape != (steps[0] * len(rows), steps[1] * len(columns)):
        shape = " x ".join(map(str, values.shape))
        raise ValueError(
            f"heatmap: values are {shape}, not {len(rows)} rows x {len(columns)} columns, or blocks of them."
        )
    zero, numbers = limits[0] < 0 < limits[1], not bar and len(columns) <= NUMBERED
    if size is None:
        beside, above = (max(len(str(name)) for name in names) for names in (rows, columns))
        size = (0.42 * len(columns) + 0.5 + 0.085 * beside, 0.32 * len(rows) + 0.75 + (above > 4) * 0.085 * above)
        size = size if numbers else (5.0, 5.0 * len(values) / values.shape[1])
    fig, ax = plt.subplots(figsize=size)
    cmap = colormaps[DIVERGING].with_extremes(bad="#808080") if zero else SEQUENTIAL
    low, high = (-max(map(abs, limits)), max(map(abs, limits))) if zero else limits
    colours = {"vmin": low, "vmax": high, "cmap": cmap}
    beside = {"cbar": not numbers, "cbar_kws": {"label": bar, "shrink": 0.8}}
    inside = {"annot": np.vectorize(_short)(values), "fmt": "", "annot_kws": {"fontsize": 10, "va": "center_baseline"}}
    cells = {"linewidths": 0.4, "linecolor": "face"}  # else the page shines through between them
    cells["rasterized"] = values.shape[1] > NUMBERED
    seaborn.heatmap(values, ax=ax, **colours, **beside, **cells, **inside if numbers else {})
    filled = ax.collections[0].get_facecolor()[~np.isnan(values).ravel()]
    for text, colour in zip(ax.texts, filled, strict=False):  # 4.5 to 1 on every colour; pure black is the page's ink
        text.set_color("#010101" if seaborn.utils.relative_luminance(colour) > 0.18 else "#ffffff")
    for axis, names, step in ((ax.yaxis, rows, steps[0]), (ax.xaxis, columns, steps[1])):
        first = 0 if axis is ax.xaxis else (len(names) - 1) % every
        written = range(first, len(names), every)
        axis.set_ticks([step * (k + 0.5) for k in written], [str(names[k]) for k in written], rotation=0)
    if (block := max(steps)) > 1:
        ax.hlines(range(block, len(values), block), *ax.get_xlim(), color="#404040", linewidth=0.8)
        ax.vlines(range(block, values.shape[1], block), *ax.get_ylim(), color="#404040", linewidth=0.8)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.tick_params(length=0)
    ax.set(**axes)
    fig.draw_without_rendering()
    if seaborn.utils.axis_ticklabels_overlap(ax.get_xticklabels()):
        ax.tick_params(axis="x", labelrotation=90)
    named = [_each(names, step) for names, step in zip((rows, columns), steps, strict=True)]
    remember(fig, Cells(values, *named, y=axes.get("ylabel", ""), x=axes.get("xlabel", ""), bar=bar))
    return fig


def _each(names: Sequence[object], step: int) -> list[str]:
    """A name on one line for each row or column; in blocks with its number there."""
    plain = [" ".join(str(name).split()) for name in names]
    return plain if step == 1 else [f"{name} ({k + 1} of {step})" for name in plain for k in range(step)]


def class_heatmap(matrix, classes: Sequence[str], *, rows: Sequence[str] | None = None, **options) -> Figure:
    """Accuracies in [0, 1]: a row for each class erased ("none" first), or as `rows` says; a column for each tested.

    `options` as for `heatmap`.
    """
    import numpy as np

    matrix, names = np.asarray(matrix, dtype=float), ["none", *classes] if rows is None else list(rows)
    if (matrix < 0).any() or (matrix > 1).any():
        raise ValueError("class_heatmap: accuracies must lie in [0, 1].")
    options = {"ylabel": "erased", "xlabel": "tested"} | options
    return heatmap(matrix, names, classes, **options | ({"bar": "accuracy"} if len(classes) > NUMBERED else {}))


def _short(value: float) -> str:
    """.98, 1.0, .00: no leading zero, so that the number fits the cell."""
    text = f"{value:.2f}"
    return "1.0" if text == "1.00" else re.sub(r"^(-?)0\.", r"\1.", text)
