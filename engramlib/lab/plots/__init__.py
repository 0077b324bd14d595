"""Figures that are legible in light and dark, on a desktop and on a phone, in the book, Jupyter and Colab.

Draw with matplotlib as usual, then hand the figure over: `show(fig, caption=..., alt=...)`.
Everything drawn in black or in `INK` takes the page's text colour. Data colours: `COLOURS`, colour-blind safe.
"""

from engramlib.lab.plots.composition import composition, composition_html
from engramlib.lab.plots.css import css
from engramlib.lab.plots.figure import figure_html, show
from engramlib.lab.plots.frames import frames, frames_html
from engramlib.lab.plots.heatmap import class_heatmap
from engramlib.lab.plots.images import image_grid
from engramlib.lab.plots.live import live
from engramlib.lab.plots.style import COLOURS, INK, SEQUENTIAL, style
from engramlib.lab.plots.table import table, table_html

__all__ = [
    "COLOURS",
    "INK",
    "SEQUENTIAL",
    "class_heatmap",
    "composition",
    "composition_html",
    "css",
    "figure_html",
    "frames",
    "frames_html",
    "image_grid",
    "live",
    "show",
    "style",
    "table",
    "table_html",
]
