"""One look for every figure."""

from __future__ import annotations

# Neutral ink. Any colour will do that no data uses: the SVG step turns it into the page's own text colour.
INK = "#0b0c0d"

# Okabe and Ito's colour-blind-safe set, without black and yellow (yellow vanishes on white), darkest contrast first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

# Evenly growing lightness, the same order for colour-blind readers.
SEQUENTIAL = "cividis"

# Around zero: orange above, purple below, white between. Neither side is green, which reads as good.
DIVERGING = "PuOr_r"

SETTINGS = {
    "figure.figsize": (4.8, 3.2),  # 461 px: still readable, unscrolled, on a phone
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titleweight": "normal",
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.8,
    "image.cmap": SEQUENTIAL,
    "image.interpolation": "none",  # the pixels themselves; the browser scales them
    "svg.fonttype": "none",  # real text: small, searchable, scales
}


def style() -> None:
    """Set matplotlib's defaults for the session. `chapter.setup()` calls it; figures are not shown twice."""
    import matplotlib
    from cycler import cycler
    from matplotlib import pyplot as plt

    matplotlib.rcParams.update(SETTINGS)
    matplotlib.rcParams["axes.prop_cycle"] = cycler(color=COLOURS)
    plt.ioff()  # a figure appears when it is shown, not when it is made
