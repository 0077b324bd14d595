"""`show`: one or several matplotlib figures as an HTML figure with a caption."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from engramlib.lab.plots.css import css_where_needed
from engramlib.lab.plots.svg import css_width, smallest_width, svg

PHONE = 340  # CSS pixels of text width on a narrow phone


def show(fig: Figure | Sequence[Figure], *, caption: str, alt: str) -> None:
    """Show a figure, or several that wrap: side by side on a desktop, below each other on a phone.

    `caption` says what to see. `alt` says what is drawn, for readers who cannot see it.
    The figures are closed afterwards.
    """
    display_html(figure_html(fig, caption=caption, alt=alt), fallback=f"{alt}\n{caption}")
    close(fig)


def figure_html(fig: Figure | Sequence[Figure], *, caption: str, alt: str) -> str:
    """The HTML that `show` displays."""
    figs = as_list(fig)
    need(caption=caption, alt=alt)
    labels = [alt] if len(figs) == 1 else [f"{alt} ({i} of {len(figs)})" for i in range(1, len(figs) + 1)]
    panels = "".join(panel(f, label) for f, label in zip(figs, labels, strict=True))
    return (
        f'{css_where_needed()}<figure class="engram-figure"><div class="engram-panels">{panels}</div>'
        f"<figcaption>{escape(caption, quote=False)}</figcaption></figure>"
    )


def panel(fig: Figure, label: str, *, before: str = "", kind: str = "") -> str:
    """One figure in a box that scrolls, also by keyboard, where the page is too narrow for it."""
    least = smallest_width(fig)
    scrolls = ' tabindex="0"' if least > PHONE else ""
    room = f"flex:1 1 {least}px;max-width:{css_width(fig)}px"
    return f'<div class="engram-panel{kind}" style="{room}"{scrolls}>{before}{svg(fig, label)}</div>'


def as_list(fig: Figure | Sequence[Figure]) -> list[Figure]:
    figs = [fig] if isinstance(fig, Figure) else list(fig)
    for f in figs:
        if not isinstance(f, Figure):
            raise TypeError(f"plots: expected a matplotlib Figure or a list of them, got {type(f).__name__}.")
    if not figs:
        raise ValueError("plots: the list of figures is empty.")
    return figs


def need(**texts: str) -> None:
    for name, text in texts.items():
        if not text or not text.strip():
            raise ValueError(f"plots: {name} is empty; every figure needs one.")


def close(fig: Figure | Sequence[Figure]) -> None:
    from matplotlib import pyplot as plt

    for f in as_list(fig):
        plt.close(f)


def display_html(html: str, *, fallback: str) -> None:
    from IPython.display import display

    display({"text/html": html, "text/plain": fallback}, raw=True)
