"""The style sheet of figures, players and tables: one source, put into the page once."""

from __future__ import annotations

import sys

# Colours come from the page (`currentColor`) or are grey at low opacity: right on any background.
_CSS = """
.engram-figure{margin:1rem 0;color:inherit;overflow-wrap:anywhere}
.engram-figure figcaption,.engram-table-box caption{text-align:left;font-size:.92em;line-height:1.45;margin:.4rem 0 0;
color:inherit;opacity:.85;max-width:44rem}
.engram-panels{display:flex;flex-wrap:wrap;gap:.75rem 1.25rem;align-items:flex-start}
.engram-panel{min-width:0}
.engram-scrolls{overflow-x:auto;max-width:100%}
.engram-panel svg{display:block}
.engram-label{font-size:.9em;margin:0 0 .15rem}
.engram-controls{display:none;flex-wrap:wrap;gap:.4rem .8rem;align-items:center;margin:0 0 .5rem;font-size:.95em}
.engram-controls button{font:inherit;color:inherit;background:transparent;border:1px solid rgba(128,128,128,.7);
border-radius:.3rem;padding:.3rem .8rem;min-height:44px;cursor:pointer;touch-action:manipulation}
.engram-controls>button{min-width:5.8em}
.engram-controls button[aria-pressed=true]{border-color:currentColor;box-shadow:inset 0 0 0 1px currentColor}
.engram-controls>label{display:flex;flex:1 1 14rem;max-width:28rem;gap:.6rem;align-items:center}
.engram-controls input[type=range]{flex:1 1 8rem;min-width:6rem;min-height:44px;margin:0;accent-color:#0072b2;
touch-action:pan-y}
.engram-controls button:focus-visible,.engram-controls input:focus-visible{outline:2px solid #0072b2;outline-offset:2px}
.engram-scrolls:focus-visible{outline:2px solid #0072b2;outline-offset:-2px}
.engram-controls output{min-width:5em;font-variant-numeric:tabular-nums}
.engram-ticks{display:flex;flex-wrap:wrap;gap:.4rem;align-items:center;border:0;margin:0;padding:0;min-width:0;
flex:1 1 100%}
.engram-ticks legend{float:left;font:inherit;margin:0 .4rem 0 0;padding:0;width:auto}
.engram-ticks label{display:flex;gap:.4rem;align-items:center;min-height:44px;box-sizing:border-box;
padding:0 .6rem;border:1px solid rgba(128,128,128,.5);border-radius:.3rem;cursor:pointer;touch-action:manipulation}
.engram-ticks input{width:1.1rem;height:1.1rem;margin:0;accent-color:#0072b2}
.engram-controls .engram-state{flex:1 1 100%;min-height:1.5em}
.engram-now{display:none}
.engram-bar{fill:#0072b2}
.engram-bar.is-out{fill:#d55e00}
.engram-lattice{cursor:pointer}
.engram-cells:focus-visible{outline:2px solid #0072b2;outline-offset:-2px}
.engram-cells svg{touch-action:pan-x pan-y}
.engram-cell:not([hidden]){display:block;min-height:1.5em;font-size:.92em;line-height:1.5;
font-variant-numeric:tabular-nums;position:sticky;left:0;width:fit-content;max-width:100%}
.engram-table-box{margin:1rem 0;container-type:inline-size}
.engram-table-box table{border-collapse:collapse;width:auto;margin:0;font-size:.95em;color:inherit;
background:transparent}
.engram-table-box caption{caption-side:top;margin:0 0 .4rem;position:sticky;left:0;max-width:min(44rem,100cqw)}
.engram-table-box th,.engram-table-box td{padding:.32rem .55rem;text-align:left;border:0;font-weight:400;
white-space:nowrap;background:transparent;border-bottom:1px solid rgba(128,128,128,.3)}
.engram-table-box th{white-space:normal}
.engram-table-box table:has(th:nth-child(7)) :is(th,td){padding-inline:.3rem;font-size:.95em}
.engram-table-box thead th{font-weight:600;vertical-align:bottom;border-bottom:1px solid rgba(128,128,128,.8)}
.engram-table-box .num{text-align:right;font-variant-numeric:tabular-nums}
.engram-table-box .wrap{white-space:normal;min-width:9rem}
.engram-table-box .named:not(.wrap){min-width:7.5rem}
@media screen{.is-player .engram-controls{display:flex}.is-player .engram-now{display:block}
.is-player .engram-frame:not(.is-on),.is-player .engram-label{display:none}}
@media print{.engram-scrolls{overflow:visible}.engram-figure{break-inside:avoid-page}
.engram-panel{break-inside:avoid}.engram-at,.engram-mark,.engram-cell:not([hidden]){display:none}}
html[data-theme=dark] .bd-content div.cell_output .text_html:not(:has(table.dataframe)):has(
.engram-figure,.engram-table-box,.engram-css){background:transparent;color:inherit;padding:0}
"""


def css() -> str:
    """The style sheet as a `<style>` element. The class name lets it style the output cell it sits in."""
    return f'<style class="engram-css">{_CSS}</style>'


def css_where_needed() -> str:
    """Colab shows each output in a frame of its own, so there every figure brings the sheet along."""
    return css() if "google.colab" in sys.modules else ""
