"""Lines with bands, points with intervals, distributions: what was measured several times, and how far it varies.

`series` is a mapping from a name to what was measured, where each measurement is a number, or several (one a seed, a
draw, a class). Several have a middle, their mean, and an interval: by default one standard deviation (n - 1) to each
side, with `interval=90` the middle 90 % of them. Nothing is resampled. With
`interval="given"` a measurement is three numbers, (low, middle, high) in any order, which are drawn as they are.

`looks` = matplotlib's short forms in one string, one a series: "C1s-- k" is the second of `COLOURS` with squares and a
dashed line, then the page's ink. A series whose name begins with "_" is not in the legend. `legend` = a place inside
the axes, "below" them, or None. `axes` = properties of matplotlib's axes, such as `xlabel`. Give the figure to `show`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.figure import Figure

MARKERS = "osD^vP"  # beside the colours, for whom colours look alike
BAND = {"alpha": 0.22, "linewidth": 0}


def lines(
    series: Mapping[str, Mapping[float, object] | Iterable[tuple[float, object]]],
    *,
    interval: str | float = "sd",
    middle: str = "mean",
    bars: bool = False,
    looks: str = "",
    size: tuple[float, float] = (3.5, 2.8),
    legend: str | None = "best",
    hline: float | None = None,
    vline: float | None = None,
    **axes,
) -> Figure:
    """Lines through the middles, in the order given, and a band for the interval, or `bars` at the points.

    `series`: name -> {x: measured}, or pairs (x, measured). `hline` and `vline` = where a thin line crosses the axes.
    """
    import seaborn
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=size)
    for k, (name, measured) in enumerate(series.items()):
        x, y, several = _long(measured.items() if isinstance(measured, Mapping) else measured)
        summary = _summary(interval, middle) if several else {"estimator": None}  # a path may come back to the same x
        spread = {"err_style": "bars" if bars else "band", "err_kws": {"linewidth": 1.2} if bars else BAND}
        look = _look(ax, looks, k, f"C{k}{MARKERS[k % 6]}-")
        seaborn.lineplot(x=x, y=y, sort=False, label=name, legend=False, ax=ax, **summary, **spread, **look)
    for line, place in ((ax.axhline, hline), (ax.axvline, vline)):
        if place is not None:
            line(place, color="k", linewidth=0.8, alpha=0.5)
    return _finished(fig, [ax], legend, axes)


def points(
    series: Mapping[str, Mapping[str, object]],
    *,
    kinds: Mapping[str, str] | None = None,
    interval: str | float = "sd",
    middle: str = "mean",
    apart: bool = False,
    every: bool = False,
    looks: str = "",
    width: float = 4.8,
    legend: str | None = "below",
    **axes,
) -> Figure:
    """A row for each thing measured: a point at the middle, a bar for the interval.

    `series`: name -> {row: measured}; rows stand in the order in which they come. `kinds` = row -> kind: then the
    kinds have the colours and shapes, and of several series the later ones are hollow. `apart` gives each series a
    panel of its own, with its name below. `every` draws each single measurement, and the middle as a stroke.
    """
    import seaborn
    from matplotlib import pyplot as plt

    rows = list(dict.fromkeys(row for measured in series.values() for row in measured))
    groups = dict.fromkeys(kinds.values()) if kinds else [None]
    height = 0.25 * len(rows) + (1.1 if legend else 0.8)
    fig, (panels,) = plt.subplots(1, len(series) if apart else 1, figsize=(width, height), sharey=True, squeeze=False)
    for k, (name, measured) in enumerate(series.items()):
        ax = panels[k if apart else 0]
        shift = 0 if apart or kinds or every or len(series) == 1 else 0.5 * k / (len(series) - 1) - 0.25
        for g, group in enumerate(groups):
            chosen = [row for row in measured if group is None or kinds[row] == group]
            y, x, _ = _long((rows.index(row) + shift, measured[row]) for row in chosen)
            i = k if group is None else g
            look = _look(ax, looks, i, f"C{i}{MARKERS[i % 6]}") | {"linestyle": "none"}
            row_of = {"x": x, "y": y, "orient": "h", "native_scale": True, "legend": False, "ax": ax}
            summary = _summary(interval, middle) | ({"errorbar": None} if every else {})
            if every:
                seaborn.stripplot(**row_of, color=look["color"], alpha=0.6, size=6, jitter=False)
                look |= {"color": "k", "marker": "|", "markersize": 16, "markeredgewidth": 2, "markeredgecolor": "k"}
            if kinds and k and not apart:
                look |= {"markerfacecolor": "none"}
            label = (group or name) if group is None or k == 0 else "_" + name
            seaborn.pointplot(**row_of, label=label, err_kws={"linewidth": 1.2}, **summary, **look)
        ax.set_xlabel(name if apart else "")
        ax.grid(visible=True, axis="both" if apart else "y")
    panels[0].set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.5))
    return _finished(fig, panels, legend, axes)


def distribution(
    series: Mapping[str, Iterable[float]],
    *,
    bins: object = 40,
    marks: Mapping[str, float] | None = None,
    looks: str = "",
    size: tuple[float, float] = (3.5, 2.6),
    legend: str | None = "best",
    **axes,
) -> Figure:
    """Histograms: one is filled, several are outlines in the same `bins`. `marks` = name -> x of a line."""
    import seaborn
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=size)
    for k, (name, values) in enumerate(series.items()):
        look = _look(ax, looks, k, f"C{k}-")
        how = {"color": look["color"], "linestyle": look["linestyle"], "alpha": 1, "linewidth": 1.6, "fill": False}
        how |= {"alpha": 0.5, "linewidth": 0, "fill": True} if len(series) == 1 else {}
        seaborn.histplot(x=_numbers(values), bins=bins, element="step", label=name, ax=ax, **how)
    for name, x in (marks or {}).items():
        ax.axvline(float(x), color="k", label=name)
    return _finished(fig, [ax], legend, axes)


def gather(rows: Iterable[Mapping[str, object]], x: str, y: str, times: float = 1.0) -> dict[object, list[float]]:
    """The column `y` of the rows of a run, by the column `x`, in order: one number a row."""
    found: dict[object, list[float]] = {}
    for row in sorted(rows, key=lambda row: row[x]):
        found.setdefault(row[x], []).append(times * row[y])
    return found


def _long(pairs: Iterable[tuple[float, object]]) -> tuple[list[float], list[float], bool]:
    """(place, one or several numbers) -> places, numbers, and whether any place has several."""
    found = [(float(place), _numbers(measured)) for place, measured in pairs]
    places = [place for place, values in found for _ in values]
    values = [value for _, values in found for value in values]
    return places, values, any(len(values) > 1 for _, values in found)


def _numbers(measured: object) -> list[float]:
    import numpy as np

    return np.asarray(measured, dtype=float).reshape(-1).tolist()


def _summary(interval: str | float, middle: str) -> dict[str, object]:
    """What seaborn makes of several numbers."""
    if interval == "given":
        return {"estimator": "median", "errorbar": ("pi", 100)}
    if interval != "sd" and (isinstance(interval, str) or not 0 < interval <= 100):
        raise ValueError(f'plots: interval is "sd", "given" or a percentage up to 100, got {interval!r}.')
    return {"estimator": middle, "errorbar": interval if interval == "sd" else ("pi", interval)}


def _look(ax, looks: str, k: int, default: str) -> dict[str, object]:
    """Colour, marker and line of series `k`; a marker has no white edge, which would glare in dark mode."""
    given = looks.split()
    (line,) = ax.plot([], [], given[k] if k < len(given) else default)
    line.remove()
    colour, marker, style = line.get_color(), line.get_marker(), line.get_linestyle()
    size = {"*": 11, "|": 13}.get(marker, 4.5 if style != "None" else 6)
    width = 1.5 if marker in ("|", "x", "+") else 0.8
    edge = {"markeredgecolor": colour, "markeredgewidth": width}
    return {"color": colour, "marker": marker, "linestyle": style, "linewidth": 1.5, "markersize": size, **edge}


def _finished(fig: Figure, panels, legend: str | None, axes: Mapping[str, Any]) -> Figure:
    """Scales come last: seaborn would average the logarithms on an axis that has them already."""
    axes = dict(sorted(axes.items(), key=lambda item: "scale" not in item[0]))  # a new scale forgets its ticks
    for ax in panels:
        labels = {} if len(panels) > 1 else {"xlabel": "", "ylabel": ""}
        ax.set(**labels | axes)
        if "xticks" in axes and ax.get_xscale() == "log":
            ax.minorticks_off()
            ax.set_xticklabels(axes.get("xticklabels") or [f"{tick:g}" for tick in axes["xticks"]])
    handles, labels = panels[0].get_legend_handles_labels()
    if legend == "below" and len(labels) > 1:
        entry = 0.085 * max(map(len, labels)) + 0.55  # inches: the handle and the longest name
        fig.legend(handles, labels, loc="outside lower center", ncols=max(1, int(fig.get_figwidth() // entry)))
    elif legend not in (None, "below") and len(labels) > 1:
        panels[0].legend(loc=legend)
    return fig
