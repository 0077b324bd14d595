"""A frame player: a slider and a play button, in plain HTML and JavaScript."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from engramlib.lab.plots.css import css_where_needed
from engramlib.lab.plots.figure import as_list, close, display_html, need, panel

# Small multiples are the plain state; the script turns them into a player. So a page without JavaScript, and paper,
# show every frame. Arrow keys, Home and End come with the browser's own slider.
_SCRIPT = """
(function(id){
 var box=document.getElementById(id);
 if(!box||box.dataset.ready){return;}
 box.dataset.ready="1";
 var frames=box.querySelectorAll(".engram-frame"),slider=box.querySelector("input"),
  button=box.querySelector("button"),out=box.querySelector("output"),timer=null;
 function go(i){
  frames.forEach(function(f,k){f.classList.toggle("is-on",k===i);});
  var text=frames[i].dataset.label;
  slider.value=i;slider.setAttribute("aria-valuetext",text);out.textContent=text;
 }
 function stop(){clearInterval(timer);timer=null;button.textContent="\\u25B6 Play";}
 function play(){
  if(+slider.value===frames.length-1){go(0);}
  button.textContent="\\u275A\\u275A Pause";
  timer=setInterval(function(){
   if(!box.isConnected){stop();return;}
   go(+slider.value+1);
   if(+slider.value===frames.length-1){stop();}
  },+box.dataset.interval);
 }
 button.addEventListener("click",function(){timer?stop():play();});
 slider.addEventListener("input",function(){if(timer){stop();}go(+slider.value);});
 box.classList.add("is-player");
 stop();go(+box.dataset.start);
})("ID");
"""


def frames(
    figs: Sequence[Figure],
    labels: Sequence[object],
    *,
    caption: str,
    alt: str,
    label: str = "α",
    start: int = 0,
    interval: float = 0.8,
) -> None:
    """Show `figs` as one player. `labels` = the value each frame stands for, `label` = what they are values of.

    `start` = the frame shown first, `interval` = seconds a frame when playing. It plays only when asked to.
    Works in static HTML, Jupyter and Colab; without JavaScript, and in print, all frames stand side by side.
    """
    html = frames_html(figs, labels, caption=caption, alt=alt, label=label, start=start, interval=interval)
    display_html(html, fallback=f"{alt}\n{caption}")
    close(figs)


def frames_html(
    figs: Sequence[Figure],
    labels: Sequence[object],
    *,
    caption: str,
    alt: str,
    label: str = "α",
    start: int = 0,
    interval: float = 0.8,
) -> str:
    """The HTML that `frames` displays."""
    figs = as_list(figs)
    need(caption=caption, alt=alt, label=label)
    if len(figs) != len(labels):
        raise ValueError(f"frames: {len(figs)} figures but {len(labels)} labels; each frame needs one.")
    if not 0 <= start < len(figs):
        raise ValueError(f"frames: start must be between 0 and {len(figs) - 1}, got {start}.")
    name = f"engram-{uuid.uuid4().hex[:10]}"  # also unique beside the saved output of an earlier session
    texts = [f"{label} = {value}" for value in labels]
    boxes = "".join(_frame(fig, text, alt) for fig, text in zip(figs, texts, strict=True))
    return (
        f'{css_where_needed()}<figure class="engram-figure" id="{name}" data-start="{start}" '
        f'data-interval="{round(interval * 1000)}"><div class="engram-controls">'
        '<button type="button">&#9654; Play</button>'
        f'<label><span>{escape(label)}</span><input type="range" min="0" max="{len(figs) - 1}" step="1" '
        f'value="{start}"></label><output>{escape(texts[start])}</output></div>'
        f'<div class="engram-panels">{boxes}</div><figcaption>{escape(caption, quote=False)}</figcaption></figure>'
        f"<script>{_SCRIPT.replace('ID', name).strip()}</script>"
    )


def _frame(fig: Figure, text: str, alt: str) -> str:
    before = f'<div class="engram-label">{escape(text)}</div>'
    html = panel(fig, f"{alt}: {text}", before=before, kind=" engram-frame")
    return html.replace("<div ", f'<div data-label="{escape(text)}" ', 1)
