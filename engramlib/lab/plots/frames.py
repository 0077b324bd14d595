"""A frame player: a slider and a play button, in plain HTML and JavaScript."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from engramlib.lab.plots.figure import as_list, close, display_html, need, panel
from engramlib.lab.plots.player import player

# Arrow keys, Home, End and dragging come with the browser's own slider; the space bar plays and pauses. For readers
# who asked their system for less motion, the button goes one frame on instead of playing.
_SCRIPT = """
function(box){
 var frames=Array.from(box.querySelectorAll(".engram-frame")),slider=box.querySelector("input"),
  button=box.querySelector("button"),out=box.querySelector("output"),last=frames.length-1,timer=null,
  calm=window.matchMedia("(prefers-reduced-motion: reduce)");
 function go(i){
  frames.forEach(function(f,k){f.classList.toggle("is-on",k===i);});
  var text=frames[i].dataset.label;
  slider.value=i;slider.setAttribute("aria-valuetext",text);out.textContent=text;
 }
 function name(){
  var word=timer?"Pause":calm.matches?"Next":"Play";
  button.textContent=(timer?"\\u275A\\u275A ":"\\u25B6 ")+word;button.setAttribute("aria-label",word);
 }
 function stop(){clearInterval(timer);timer=null;name();}
 function next(){go(+slider.value===last?0:+slider.value+1);}
 function press(){
  if(timer){stop();return;}
  next();
  if(calm.matches||+slider.value===last){return;}
  timer=setInterval(function(){
   if(!box.isConnected){stop();return;}
   next();
   if(+slider.value===last){stop();}
  },+box.dataset.interval);
  name();
 }
 button.addEventListener("click",press);
 slider.addEventListener("input",function(){stop();go(+slider.value);});
 slider.addEventListener("keydown",function(e){if(e.key===" "){e.preventDefault();press();}});
 calm.addEventListener("change",stop);
 stop();go(+box.dataset.start);
}
"""


def frames(figs: Sequence[Figure], labels: Sequence[object], *, caption: str, alt: str, **options) -> None:
    """Show `figs` as one player. `labels` = the value each frame stands for.

    It plays only when asked to. Works in static HTML, Jupyter, VS Code and Colab; without JavaScript, and in print,
    all frames stand side by side. The figures are closed afterwards. Options:

    - `label="α"`: what `labels` are values of.
    - `start=0`: the frame shown first.
    - `interval=0.8`: seconds a frame when playing.
    """
    html = frames_html(figs, labels, caption=caption, alt=alt, **options)
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
    if not interval > 0:
        raise ValueError(f"frames: interval is the seconds a frame stays, more than 0; got {interval}.")
    texts = [f"{label} = {value}" for value in labels]
    boxes = "".join(_frame(fig, text, alt) for fig, text in zip(figs, texts, strict=True))
    controls = (
        f'<div class="engram-controls" hidden role="group" aria-label="{escape(label)}: frames">'
        '<button type="button">&#9654; Play</button>'
        f'<label><span>{escape(label)}</span><input type="range" min="0" max="{len(figs) - 1}" step="1" '
        f'value="{start}" autocomplete="off" aria-valuetext="{escape(texts[start])}"></label>'
        f'<output aria-live="off">{escape(texts[start])}</output></div>'  # the slider says its value itself
    )
    return player(
        f'{controls}<div class="engram-panels">{boxes}</div>',
        _SCRIPT,
        caption=caption,
        data={"start": start, "interval": round(interval * 1000)},
    )


def _frame(fig: Figure, text: str, alt: str) -> str:
    before = f'<div class="engram-label">{escape(text)}</div>'
    html = panel(fig, f"{alt}: {text}", before=before, kind=" engram-frame")
    return html.replace("<div ", f'<div data-label="{escape(text)}" ', 1)
