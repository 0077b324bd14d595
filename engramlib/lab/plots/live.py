"""A control that recomputes: in Jupyter and Colab a slider that runs your function, on a page the same picture."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

from engramlib.lab.plots.figure import close, figure_html, need
from engramlib.lab.plots.player import player

WIDGET = "application/vnd.jupyter.widget-view+json"
MISSING = (
    "The sliders of this cell need ipywidgets, which is not installed here: run `%pip install ipywidgets`, restart the "
    "kernel and run the chapter again. Below is the picture at the start values."
)


def live(
    draw: Callable[..., Figure | Sequence[Figure]],
    controls: Mapping[str, Sequence[object]],
    *,
    start: Sequence[object],
    caption: str,
    alt: str,
    page: Mapping[str, Sequence[object]] | None = None,
) -> None:
    """Show `draw(*values)` with one control a value, and draw again whenever the reader changes one.

    `controls`: name -> a tuple `(low, high, step)` for a slider of numbers, or a list or range of choices.
    `start` = the value of each control at first. `draw` returns a figure, or several; they are closed afterwards.

    Needs a kernel that answers and ipywidgets: Colab has both. Where somebody only looks (the built book, a run by
    `nbval` or `nbconvert`), or without ipywidgets, the same picture stands there at the start values, with no widget
    in the output. `ENGRAM_LIVE=1` or `0` in the environment overrules what is found out about the front end.

    `page`: control -> the values that the picture has on a page, the start's among them. All their combinations are
    drawn then, and sliders choose among them, in plain HTML; each state is kept as what differs from the start.
    """
    need(caption=caption, alt=alt)
    values = _checked(controls, start)
    wanted = somebody_there()
    if wanted and importlib.util.find_spec("ipywidgets") is None:
        print(MISSING)
        wanted = False
    from IPython.display import display

    box = _box(draw, controls, values, caption, alt) if wanted else None
    if box is not None and "google.colab" in sys.modules:
        display(box)
        return
    names = " and ".join(controls)
    if page is not None and not wanted:
        steps = _steps(controls, values, page)
        note = f"(At first {_said(controls, values)}. In Jupyter and Colab you set {names} to any value.)"
        told = f"{caption} {note}"
        display({"text/html": _player(draw, steps, values, told, alt), "text/plain": f"{alt}\n{told}"}, raw=True)
        return
    note = f"(Here {_said(controls, values)}. In Jupyter and Colab you set {names} yourself.)"
    told = f"{caption} {note}"
    bundle = {"text/html": _picture(draw, controls, values, told, alt), "text/plain": f"{alt}\n{told}"}
    if box is not None:  # the picture goes along, for whoever opens the saved notebook without its kernel
        bundle = {WIDGET: {"version_major": 2, "version_minor": 0, "model_id": box.model_id}} | bundle
    display(bundle, raw=True)


def somebody_there() -> bool:
    """Whether this kernel belongs to a notebook that somebody has open, and not to a program that runs it.

    Jupyter's server names the notebook in JPY_SESSION_NAME, VS Code in a variable; Colab's kernel has its own package.
    """
    wish = os.environ.get("ENGRAM_LIVE", "")
    if wish not in ("", "0", "1"):
        raise ValueError(f"ENGRAM_LIVE is {wish!r}; set it to 1 (controls) or 0 (pictures), or leave it unset.")
    if wish:
        return wish == "1"
    if "google.colab" in sys.modules or os.environ.get("JPY_SESSION_NAME"):
        return True
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and "__vsc_ipynb_file__" in shell.user_ns


def _box(draw, controls, values, caption: str, alt: str):
    """The controls above a picture that follows them."""
    import ipywidgets

    made = [_widget(ipywidgets, *given) for given in zip(controls, controls.values(), values, strict=True)]
    picture = ipywidgets.HTML()

    def update(_=None) -> None:
        now = [widget.value for widget in made]
        try:
            html = _picture(draw, controls, now, caption, alt)
        except Exception as error:  # otherwise it ends in a log that no reader sees
            what = f"{_said(controls, now)}: {type(error).__name__}: {error}"
            html = f"<p>No picture for {escape(what)}</p>"
        picture.value = html

    update()
    for widget in made:
        widget.observe(update, "value")
    return ipywidgets.VBox([*made, picture])


def _widget(ipywidgets, name: str, given: Sequence[object], value: object):
    style = {"description_width": "initial"}
    if isinstance(given, tuple):
        low, high, step = given
        return ipywidgets.FloatSlider(value, min=low, max=high, step=step, description=name, style=style)
    options = [(str(option), option) for option in given]
    return ipywidgets.Dropdown(options=options, value=value, description=name, style=style)


def _picture(draw, controls, values: Sequence[object], caption: str, alt: str) -> str:
    figs = draw(*values)
    html = figure_html(figs, caption=caption, alt=f"{alt}: {_said(controls, values)}")
    close(figs)
    return html


def _said(controls: Mapping[str, object], values: Sequence[object]) -> str:
    return ", ".join(
        f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}"
        for name, value in zip(controls, values, strict=True)
    )


def _checked(controls: Mapping[str, Sequence[object]], start: Sequence[object]) -> list[object]:
    if not controls:
        raise ValueError("live: controls is empty; name at least one value to set.")
    values = list(start)
    if len(values) != len(controls):
        raise ValueError(f"live: {len(controls)} controls but {len(values)} start values; each control needs one.")
    for (name, given), value in zip(controls.items(), values, strict=True):
        if isinstance(given, tuple):
            if len(given) != 3 or not given[0] < given[1] or not 0 < given[2] <= given[1] - given[0]:
                raise ValueError(f"live: {name} is {given}; a slider is a tuple (low, high, step), low below high.")
            if not given[0] <= value <= given[1]:
                raise ValueError(f"live: {name} starts at {value}, which is not between {given[0]} and {given[1]}.")
        elif value not in list(given):
            raise ValueError(f"live: {name} starts at {value!r}, which is not among its choices {list(given)}.")
    return values


# --- on a page: every state is drawn beforehand ----------------------------------------------------------------------

_SCRIPT = """
function(box){
 var d=JSON.parse(box.querySelector("script[type='application/json']").textContent),
  panels=box.querySelector(".engram-panels"),sliders=Array.from(box.querySelectorAll("input")),
  outs=Array.from(box.querySelectorAll("output"));
 function show(){
  var at=0,parts=d.parts.slice();
  sliders.forEach(function(s,k){
   at=at*d.labels[k].length+(+s.value);
   s.setAttribute("aria-valuetext",d.labels[k][+s.value]);outs[k].textContent=d.labels[k][+s.value];
  });
  d.states[at].forEach(function(e){parts[e[0]]=e[1];});
  panels.innerHTML=parts.join("");
 }
 sliders.forEach(function(s){s.addEventListener("input",show);});
 show();
}
"""
_PARTS = re.compile(r'("[^"]*"|>[^<]*<)')
_ID = re.compile(r'\bid="([^"]+)"')


def _steps(controls: Mapping[str, object], start: Sequence[object], page: Mapping[str, Sequence[object]]):
    """control -> its values on the page, checked."""
    if set(page) != set(controls):
        raise ValueError(f"live: page names {', '.join(page)}; the controls are {', '.join(controls)}.")
    steps = {name: list(page[name]) for name in controls}
    for (name, values), value in zip(steps.items(), start, strict=True):
        if value not in values:
            raise ValueError(f"live: {name} starts at {value}, which is not among its values on the page, {values}.")
    return steps


def _player(draw, steps: Mapping[str, list], start: Sequence[object], caption: str, alt: str) -> str:
    """A slider for each control; the start's picture, and of every other one the parts that differ."""

    def panels(values: Sequence[object]) -> str:
        figs = draw(*values)
        html = figure_html(figs, caption="c", alt=f"{alt}: {_said(steps, values)}")
        close(figs)
        return html[html.index('<div class="engram-panels"') : html.index("<figcaption>")]

    first = panels(start)
    opening, first = first[: first.index(">") + 1], first[first.index(">") + 1 : first.rindex("</div>")]
    parts = _PARTS.split(first)
    states = []
    for values in itertools.product(*steps.values()):
        inside = panels(values)
        inside = _renamed(inside[inside.index(">") + 1 : inside.rindex("</div>")], first)
        now = _PARTS.split(inside)
        if len(now) != len(parts):
            raise ValueError(
                f"live: at {_said(steps, values)} the picture has other parts than at the start; on a page only their "
                "sizes, places, colours and words may change."
            )
        states.append([[k, part] for k, (part, old) in enumerate(zip(now, parts, strict=True)) if part != old])
    labels = [
        [f"{value:g}" if isinstance(value, float) else f"{value}" for value in values] for values in steps.values()
    ]
    labels = [[text.replace("-", "\N{MINUS SIGN}") for text in texts] for texts in labels]
    controls = "".join(
        f'<label><span>{escape(name)}</span><input type="range" min="0" max="{len(values) - 1}" step="1" '
        f'value="{values.index(value)}" autocomplete="off" aria-valuetext="{texts[values.index(value)]}"></label>'
        f'<output aria-live="off">{texts[values.index(value)]}</output>'
        for (name, values), texts, value in zip(steps.items(), labels, start, strict=True)
    )
    data = json.dumps({"parts": parts, "states": states, "labels": labels}, separators=(",", ":"), ensure_ascii=False)
    kept = data.replace("</", "<\\/")  # no end of a script within a script
    body = (
        f'<div class="engram-controls" hidden role="group" aria-label="{escape(", ".join(steps))}">{controls}</div>'
        f'{opening}{first}</div><script type="application/json">{kept}</script>'
    )
    return player(body, _SCRIPT, caption=caption)


def _renamed(html: str, like: str) -> str:
    """The same drawing with the ids of another: matplotlib makes new ones for each."""
    mine, theirs = _ID.findall(html), _ID.findall(like)
    if len(mine) != len(theirs):
        return html
    names = dict(zip(mine, theirs, strict=True))
    return re.sub(r'(\bid="|#)([\w.-]+)', lambda found: found[1] + names.get(found[2], found[2]), html)
