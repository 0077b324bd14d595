"""The page's two pictures. They take on the page's colours, in light and dark (``engramlib.lab.plots``)."""

from __future__ import annotations

from typing import Any

CAPTIONS = {
    "cost": "Each row is a model. What extracting takes depends on the width of its layers, not on the data.",
    "growth": "Median seconds of each step at each size, on logarithmic scales. A straight line is a power law, and its"
    " slope the exponent of the table.",
}
SHOWN = ("collect", "extract", "edit and undo")
MARKS = {"forward": "^", "collect": "o", "extract": "s", "edit and undo": "D"}


def drawn(record: dict[str, Any]) -> dict[str, str]:
    """File name -> the picture as one ``<svg>``; none where its part was not measured."""
    from matplotlib import pyplot as plt

    from engramlib.lab import plots
    from engramlib.lab.plots.svg import svg

    found = {}
    plots.style()
    for name, draw in (("cost", _cost), ("growth", _growth)):
        if label := alt(record, name):
            figure = draw(record)
            found[f"how-fast-{name}.svg"] = svg(figure, label)
            plt.close(figure)
    return found


def alt(record: dict[str, Any], name: str) -> str:
    """The picture in words, with its numbers; empty without its part."""
    return _cost_alt(record) if name == "cost" else _growth_alt(record)


# ----------------------------------------------------------------------------------------- beside a forward pass


def costs(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Step -> model -> times a forward pass, at the most threads that were measured."""
    keys = [key.split("/") for key in record["parts"] if key.startswith("steps/")]
    most = max((key[2] for key in keys), default="0")
    found: dict[str, dict[str, float]] = {step: {} for step in SHOWN}
    for _, name, threads in keys:
        part = record["parts"][f"steps/{name}/{threads}"]["found"]
        for row in part["rows"]:
            if threads == most and row["beside"] == "forward" and row["step"] in SHOWN:
                found[row["step"]][part["title"]] = row["ratio"]
    return {step: values for step, values in found.items() if values}


def _cost_alt(record: dict[str, Any]) -> str:
    spans = [
        f"{step} {min(values.values()):.2g} to {max(values.values()):.2g}" for step, values in costs(record).items()
    ]
    return f"Times a forward pass, over the models: {', '.join(spans)}." if spans else ""


def _cost(record: dict[str, Any]) -> Any:
    from matplotlib import pyplot as plt

    found = costs(record)
    models = list(dict.fromkeys(title for values in found.values() for title in values))
    figure, axes = plt.subplots(figsize=(4.8, 0.6 + 0.32 * len(models)))
    for step, values in found.items():
        places = [models.index(title) for title in values]
        axes.plot(values.values(), places, MARKS[step], color=_colour(step), label=step, markersize=6)
    axes.axvline(1, linewidth=1, color="black", alpha=0.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_plain)
    axes.set_yticks(range(len(models)), [title.split(",")[0].split(" (")[0] for title in models])
    axes.invert_yaxis()
    axes.set_xlabel("times a forward pass")
    axes.grid(axis="x")
    figure.legend(loc="outside upper center", ncols=3, handletextpad=0.2, columnspacing=1.0)
    return figure


# -------------------------------------------------------------------------------------------------------- growth


def _axes(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [part["found"] for key, part in record["parts"].items() if key.startswith("growth/")]


def _growth_alt(record: dict[str, Any]) -> str:
    said = [
        f"with {part['axis']} " + ", ".join(f"{step} {fit['exponent']:.2f}" for step, fit in part["steps"].items())
        for part in _axes(record)
    ]
    return f"Seconds against size, slopes: {'; '.join(said)}." if said else ""


def _growth(record: dict[str, Any]) -> Any:
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    found = _axes(record)
    rows = (len(found) + 1) // 2
    figure, panels = plt.subplots(rows, 2, figsize=(4.8, 0.5 + 2.0 * rows), squeeze=False, sharey=True)
    for axes, part in zip(panels.flat, found, strict=False):
        for step, fit in part["steps"].items():
            axes.plot(part["sizes"], fit["seconds"], f"{MARKS[step]}-", color=_colour(step), label=step, markersize=4.5)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_plain)
        sizes = part["sizes"]
        axes.xaxis.set_major_locator(FixedLocator([sizes[0], sizes[len(sizes) // 2], sizes[-1]]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(part["axis"])
    for axes in panels[:, 0]:
        axes.set_ylabel("seconds")
    for axes in panels.flat[len(found) :]:
        axes.remove()
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def _colour(step: str) -> str:
    """One colour for a step in both pictures; the forward pass, to which they are compared, in the page's ink."""
    from engramlib.lab.plots import COLOURS, INK

    return INK if step == "forward" else COLOURS[SHOWN.index(step)]


def _plain(value: float, _: object) -> str:
    return f"{value:,g}"
