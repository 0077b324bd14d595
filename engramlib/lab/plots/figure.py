"""`show`: one or several matplotlib figures as an HTML figure with a caption."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from engramlib.lab.plots.cells import told
from engramlib.lab.plots.css import css_where_needed
from engramlib.lab.plots.svg import css_width, smallest, svg, too_wide


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
    widths, columns = {css_width(f) for f in figs}, ""
    if len(figs) > 1 and len(widths) == 1:  # siblings have one size, however many fit into a row
        width = widths.pop()
        columns = f"display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,{smallest(width)}px),1fr));"
        columns = f' style="{columns}max-width:{len(figs) * (width + 20)}px"'
    return (
        f'{css_where_needed()}<figure class="engram-figure"><div class="engram-panels"{columns}>{panels}</div>'
        f"<figcaption>{escape(caption, quote=False)}</figcaption></figure>"
    )


def panel(fig: Figure, label: str, *, before: str = "", kind: str = "") -> str:
    """One figure in its box."""
    width = css_width(fig)
    return box(before + told(fig, svg(fig, label)), width, basis=smallest(width), kind=kind)


def box(inner: str, width: int, *, basis: int, kind: str = "", flag: str = "") -> str:
    """A picture of `width` pixels, of which it wants `basis` before it takes a line of its own.

    It scrolls if the picture may be too wide for a phone, and cannot scroll otherwise. So no font and no window decides
    whether the keyboard must reach it.
    """
    name, attributes = scrolls("figure") if too_wide(width) else ("", "")
    room = f"flex:1 1 {basis}px;max-width:{width}px"
    return f'<div class="engram-panel{name}{kind}"{flag} style="{room}"{attributes}>{inner}</div>'


def scrolls(what: str) -> tuple[str, str]:
    """Class and attributes of a box that scrolls: the keyboard reaches it, whether or not it overflows just now."""
    return " engram-scrolls", f' tabindex="0" role="group" aria-label="Scrollable {what}"'


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
