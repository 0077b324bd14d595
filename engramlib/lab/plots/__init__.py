"""Figures that are legible in light and dark, on a desktop and on a phone, in the book, Jupyter and Colab.

Draw what was measured with `heatmap`, `lines`, `points` or `distribution` (seaborn does), anything else with matplotlib
as usual, then hand the figure over: `show(fig, caption=..., alt=...)`.
Everything drawn in black or in `INK` takes the page's text colour. Data colours: `COLOURS`, colour-blind safe.
"""

from engramlib.lab.plots.charts import distribution, gather, lines, points
from engramlib.lab.plots.composition import composition, composition_html
from engramlib.lab.plots.css import css
from engramlib.lab.plots.figure import figure_html, show
from engramlib.lab.plots.frames import frames, frames_html
from engramlib.lab.plots.heatmap import class_heatmap, heatmap
from engramlib.lab.plots.images import image_grid
from engramlib.lab.plots.live import live
from engramlib.lab.plots.opening import opening
from engramlib.lab.plots.style import COLOURS, DIVERGING, INK, SEQUENTIAL, style
from engramlib.lab.plots.table import table, table_html

__all__ = [
    "COLOURS",
    "DIVERGING",
    "INK",
    "SEQUENTIAL",
    "class_heatmap",
    "composition",
    "composition_html",
    "css",
    "distribution",
    "figure_html",
    "frames",
    "frames_html",
    "gather",
    "heatmap",
    "image_grid",
    "lines",
    "live",
    "opening",
    "points",
    "show",
    "style",
    "table",
    "table_html",
]
