"""All 2ⁿ networks that n parts make: tick what to erase, see the accuracies of exactly that network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from engramlib.lab.plots.figure import box, display_html, need
from engramlib.lab.plots.player import player
from engramlib.lab.plots.svg import FONTS, sizes

MOST = 12  # concepts: 4,096 states are about 130 kB in the page
CUBE = 3  # up to here the states are drawn as a square or cube, from there on by number erased and accuracy kept
STEP = 10_000  # accuracies are stored in two bytes each, to 4 decimals

# Bars: one chart, `top` to `bottom`. The script below moves the same rectangles.
_TOP, _BOTTOM, _LEFT = 22, 152, 30
_SCRIPT = """
function(box){
 var all=atob(box.dataset.accuracy),ticks=Array.from(box.querySelectorAll(".engram-ticks input")),
  buttons=Array.from(box.querySelectorAll("button")),out=box.querySelector("output"),n=ticks.length,
  chart=box.querySelector(".engram-now svg"),bars=Array.from(chart.querySelectorAll(".engram-bar")),
  numbers=Array.from(chart.querySelectorAll(".engram-number")),names=Array.from(chart.querySelectorAll(".engram-name")),
  net=box.querySelector(".engram-lattice"),lines=net.querySelector(".engram-at path"),
  dot=net.querySelector(".engram-at circle"),
  places=net.querySelector(".engram-dots").getAttribute("d").split("M").slice(1).map(function(p){
   return p.split(/[ h]/).slice(0,2).map(Number);});
 function bit(c){return 1<<(n-1-c);}
 function state(){return ticks.reduce(function(i,t,c){return t.checked?i|bit(c):i;},0);}
 function value(i,j){var k=2*(i*bars.length+j);return (all.charCodeAt(k)+256*all.charCodeAt(k+1))/STEP;}
 function mean(v){return (v.reduce(function(a,b){return a+b;},0)/v.length).toFixed(2);}
 function show(){
  var i=state(),gone=[],kept=[],said=[];
  bars.forEach(function(bar,j){
   var v=value(i,j),c=bar.dataset.concept,off=c!==""&&ticks[c].checked,top=BOTTOM-v*HEIGHT;
   bar.setAttribute("y",top.toFixed(1));bar.setAttribute("height",(v*HEIGHT).toFixed(1));
   bar.classList.toggle("is-out",off);
   numbers[j].textContent=v.toFixed(2).replace(/^0/,"");numbers[j].setAttribute("y",(top-4).toFixed(1));
   names[j].textContent=(off?"\\u2212":"")+names[j].dataset.name;
   (off?gone:kept).push(v);said.push(names[j].textContent+": "+v.toFixed(2));
  });
  var erased=ticks.filter(function(t){return t.checked;}).map(function(t){return t.value;});
  out.textContent=(erased.length?"Erased: "+erased.join(", "):"Nothing erased")+". Accuracy"+
   (gone.length?" on the erased "+mean(gone)+(kept.length?",":""):"")+
   (kept.length?" on the kept "+mean(kept):"")+".";
  chart.setAttribute("aria-label",out.textContent+" "+said.join(", "));
  buttons.forEach(function(b){b.setAttribute("aria-pressed",String(+b.dataset.state===i));});
  var here=places[i];
  lines.setAttribute("d",here?ticks.map(function(_,c){var p=places[i^bit(c)];
   return p?"M"+here.join(" ")+"L"+p.join(" "):"";}).join(""):"");
  dot.setAttribute("r",here?6:0);
  if(here){dot.setAttribute("cx",here[0]);dot.setAttribute("cy",here[1]);}
 }
 function go(i){ticks.forEach(function(t,c){t.checked=!!(i&bit(c));});show();}
 ticks.forEach(function(t){t.addEventListener("change",show);});
 buttons.forEach(function(b){b.addEventListener("click",function(){go(+b.dataset.state);});});
 net.addEventListener("click",function(e){
  var r=net.getBoundingClientRect(),s=net.viewBox.baseVal.width/r.width,x=(e.clientX-r.left)*s,y=(e.clientY-r.top)*s,
   best=0,near=Infinity;
  places.forEach(function(p,i){var d=Math.hypot(p[0]-x,p[1]-y);if(d<near){near=d;best=i;}});
  if(near<24){go(best);}
 });
 go(+box.dataset.start);
}
"""


def composition(
    accuracy, concepts: Sequence[object], *, shown: Mapping[str, Sequence[object]], caption: str, alt: str, **options
) -> None:
    """Show all 2ⁿ states of `n` concepts: boxes to tick, the accuracies of the ticked state, and a map of all states.

    `accuracy`: 2ⁿ x n numbers in [0, 1], one row a state and one column a concept. Row `i` is the state in which the
    concepts are erased whose binary digit in `i` is 1, the first concept being the highest digit: the order of
    `torch.cartesian_prod(*[torch.arange(2)] * n)`. `shown` = named states, name -> the concepts erased. They are small
    multiples where no script runs, and in print, and buttons where one does.

    On the map (up to three concepts: a square or cube), each dot is a state, placed by how many concepts are erased
    and by the mean accuracy on those kept; lines lead to the states one tick away; a click goes to the nearest dot.

    All numbers stand in the page (n = 10: 27 kB), nothing is computed there or fetched. Options:

    - `tested`: names of the columns, if they are not the concepts. Columns that are no concept are always kept.
    - `start=()`: the concepts ticked at first.

    Errors: `ValueError` for a wrong shape, numbers outside [0, 1] or missing, unknown concepts, more than 12 concepts.
    """
    html = composition_html(accuracy, concepts, shown=shown, caption=caption, alt=alt, **options)
    display_html(html, fallback=f"{alt}\n{caption}")


def composition_html(
    accuracy,
    concepts: Sequence[object],
    *,
    shown: Mapping[str, Sequence[object]],
    caption: str,
    alt: str,
    tested: Sequence[object] | None = None,
    start: Sequence[object] = (),
) -> str:
    """The HTML that `composition` displays."""
    import numpy as np

    need(caption=caption, alt=alt)
    names = _distinct("concepts", concepts)
    columns = names if tested is None else _distinct("tested", tested)
    n, values = len(names), np.asarray(accuracy, dtype=float)
    if not 2 <= n <= MOST:
        raise ValueError(f"composition: from 2 to {MOST} concepts make a picture, got {n}.")
    if values.shape != (2**n, len(columns)):
        raise ValueError(
            f"composition: accuracy is {' x '.join(map(str, values.shape))}; {n} concepts and {len(columns)} columns "
            f"need {2**n} x {len(columns)}, one row a state."
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("composition: accuracies must lie in [0, 1], and none may be missing.")
    if set(names) - set(columns):
        raise ValueError(
            f"composition: tested lacks {', '.join(sorted(set(names) - set(columns)))}; test each concept."
        )
    if not shown:
        raise ValueError("composition: shown is empty; name at least one state for readers on paper.")
    states = {str(name): _state(erased, names) for name, erased in shown.items()}
    begin = _state(start, names)

    concept = [names.index(c) if c in names else None for c in columns]
    stored = base64.b64encode(np.rint(values * STEP).astype("<u2").tobytes()).decode()
    boxes = "".join(
        f'<label><input type="checkbox" autocomplete="off" value="{escape(c)}"{" checked" * _has(begin, i, n)}>'
        f"{escape(c)}</label>"
        for i, c in enumerate(names)
    )
    buttons = "".join(
        f'<button type="button" aria-pressed="{str(i == begin).lower()}" data-state="{i}">{escape(name)}</button>'
        for name, i in states.items()
    )
    room = 8 * max(len(c) for c in columns) + 6  # of the longest name, in pixels
    stills = ""
    for name, i in states.items():
        chart, wide = _bars(values[i], columns, concept, i, n, f"{alt}: {name}", pitch=max(22, room), numbers=False)
        stills += _panel(f'<div class="engram-label">{escape(name)}</div>{chart}', " engram-frame", wide)
    chart, wide = _bars(values[begin], columns, concept, begin, n, alt, pitch=max(33, room), numbers=True)
    now = _panel(chart, " engram-now", wide, flag=" hidden")
    net, wide = _map(values, names, concept, f"{alt}: map of all {2**n:,} states")
    body = (
        f'<div class="engram-controls" hidden role="group" aria-label="{escape(alt)}">'
        f'<fieldset class="engram-ticks"><legend>Erase</legend>{boxes}</fieldset>{buttons}'
        f'<output class="engram-state"></output></div>'
        f'<div class="engram-panels">{now}{_panel(net, "", wide)}{stills}</div>'
    )
    script = _SCRIPT.replace("STEP", str(STEP)).replace("BOTTOM", str(_BOTTOM)).replace("HEIGHT", str(_BOTTOM - _TOP))
    return player(body, script, caption=caption, kind=" engram-composition", data={"accuracy": stored, "start": begin})


def _distinct(what: str, names: Sequence[object]) -> list[str]:
    texts = [str(name) for name in names]
    if len(set(texts)) < len(texts):
        raise ValueError(f"composition: {what} names something twice: {', '.join(texts)}.")
    return texts


def _state(erased: Sequence[object], names: list[str]) -> int:
    """The row of the state in which `erased` is erased."""
    chosen = {str(c) for c in erased}
    unknown = sorted(chosen - set(names))
    if unknown:
        raise ValueError(f"composition: {', '.join(unknown)} is not among the concepts {', '.join(names)}.")
    return sum(1 << (len(names) - 1 - i) for i, c in enumerate(names) if c in chosen)


def _has(state: int, i: int, n: int) -> bool:
    return bool(state >> (n - 1 - i) & 1)


def _panel(inner: str, kind: str, width: int, *, flag: str = "") -> str:
    return box(inner, width, basis=round(0.8 * width), kind=kind, flag=flag)


def _svg(width: int, height: int, label: str, inner: str, *, kind: str = "", top: int = 0) -> str:
    return (
        f'<svg{kind} viewBox="0 {top} {width} {height - top}" role="img" aria-label="{escape(label)}" '
        f'style="{sizes(width)};font-family:{FONTS};fill:currentColor" font-size="13">'
        f"{inner}</svg>"
    )


def _bars(row, columns, concept, state: int, n: int, label: str, *, pitch: int, numbers: bool) -> tuple[str, int]:
    """One bar a column; erased ones in another colour and with a minus sign. The SVG and its width."""
    height, right = _BOTTOM - _TOP, _LEFT + len(columns) * pitch
    inner = "".join(
        f'<path d="M{_LEFT} {y:g}H{right}" stroke="currentColor" opacity="{opacity}"/>'
        f'<text x="{_LEFT - 5}" y="{y + 4:g}" text-anchor="end">{text}</text>'
        for y, text, opacity in ((_BOTTOM, "0", 0.8), (_BOTTOM - height / 2, ".5", 0.2), (_TOP, "1", 0.2))
    )
    for j, (value, name, c) in enumerate(zip(row.tolist(), columns, concept, strict=True)):
        x, top = _LEFT + (j + 0.5) * pitch, _BOTTOM - value * height
        out = c is not None and _has(state, c, n)
        inner += (
            f'<rect class="engram-bar{" is-out" * out}" data-concept="{"" if c is None else c}" '
            f'x="{x - 0.4 * pitch:g}" y="{top:.1f}" width="{0.8 * pitch:g}" height="{value * height:.1f}"/>'
            f'<text class="engram-name" data-name="{escape(name)}" x="{x:g}" y="{_BOTTOM + 17}" '
            f'text-anchor="middle">{"−" * out}{escape(name)}</text>'
        )
        if numbers:
            number = f"{value:.2f}".removeprefix("0")
            inner += f'<text class="engram-number" x="{x:g}" y="{top - 4:.1f}" text-anchor="middle">{number}</text>'
    return _svg(right + 4, _BOTTOM + 24, label, inner, top=0 if numbers else _TOP - 10), right + 4


def _map(values, names: list[str], concept: list[int | None], label: str) -> tuple[str, int]:
    """Every state as a dot, a frame of reference around them, and an empty place for the state that is ticked."""
    n = len(names)
    if n <= CUBE:
        width, height, places = 300, 230, _cube(n)
        inner = "".join(
            f'<text x="{x + 8:g}" y="{y - 8:g}">{escape(_spell(i, names))}</text>' for i, (x, y) in enumerate(places)
        )
    else:
        width, height = 364, 250
        places, inner = _lattice(values, n, concept, width, height)
    if n <= 5:  # few enough states: every edge of the cube
        ends = [(i, i | 1 << c) for i in range(2**n) for c in range(n) if not i >> c & 1]
        edges = "".join(f"M{_at(places[i])}L{_at(places[k])}" for i, k in ends if max(i, k) < len(places))
        inner += f'<path d="{edges}" fill="none" stroke="currentColor" opacity="0.3"/>'
    dots = "".join(f"M{_at(p)}h0" for p in places)
    inner += (
        f'<path class="engram-dots" d="{dots}" stroke="currentColor" stroke-width="{4 if n > 5 else 8}" '
        f'stroke-linecap="round" opacity="{0.4 if n > 5 else 0.6}"/>'
        '<g class="engram-at"><path d="" stroke="#0072b2" stroke-width="1.6"/>'
        '<circle r="0" fill="#d55e00" stroke="currentColor"/></g>'
    )
    return _svg(width, height, label, inner, kind=' class="engram-lattice"'), width


def _at(place: tuple[float, float]) -> str:
    return f"{place[0]:.1f} {place[1]:.1f}"


def _spell(state: int, names: list[str]) -> str:
    return "".join(f"−{c}" for i, c in enumerate(names) if _has(state, i, len(names))) or "everything"


def _cube(n: int) -> list[tuple[float, float]]:
    """Corners of a square or cube, drawn askew."""
    steps = [(140, 0), (0, 110), (65, 55)][:n]
    return [
        tuple(s + sum(step[k] for c, step in enumerate(steps) if _has(i, c, n)) for k, s in enumerate((25, 40)))
        for i in range(2**n)
    ]


def _lattice(values, n: int, concept: list[int | None], width: int, height: int):
    """Places of the states by number erased (side by side where many have the same) and accuracy kept; the axes.

    The last state has no place when it keeps nothing.
    """
    import numpy as np

    left, right, top, bottom = 36, width - 8, 12, height - 42
    states = np.arange(2**n)
    erased = np.stack([states >> (n - 1 - c) & 1 for c in range(n)], 1)  # states x concepts
    gone = np.stack([erased[:, c] if c is not None else np.zeros(2**n, int) for c in concept], 1)
    with np.errstate(invalid="ignore"):
        kept = (values * (1 - gone)).sum(1) / (1 - gone).sum(1)
    if np.isnan(kept[-1]):
        kept = kept[:-1]
    size = erased.sum(1)[: len(kept)]
    low = min(np.floor(kept.min() * 10) / 10, 0.9)
    x = np.empty(len(kept))
    for k in range(n + 1):
        here = np.flatnonzero(size == k)
        spread = min(0.36, 0.05 * len(here))
        x[here] = k + np.linspace(-spread, spread, len(here)) if len(here) > 1 else k
    across = left + (x + 0.5) * (right - left) / (n + 1)
    up = bottom - (kept - low) / (1 - low) * (bottom - top)
    ticks = np.linspace(low, 1, round((1 - low) * 10) + 1)
    inner = "".join(
        f'<path d="M{left} {y:.1f}H{right}" stroke="currentColor" opacity="0.15"/>'
        f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{f"{v:.1f}".removeprefix("0")}</text>'
        for v in ticks[:: -(-len(ticks) // 6)]
        for y in [bottom - (v - low) / (1 - low) * (bottom - top)]
    )
    inner += "".join(
        f'<text x="{left + (k + 0.5) * (right - left) / (n + 1):.1f}" y="{bottom + 16}" text-anchor="middle">{k}</text>'
        for k in range(int(size.max()) + 1)
    )
    inner += (
        f'<text x="{(left + right) / 2:g}" y="{bottom + 34}" text-anchor="middle">number erased</text>'
        f'<text x="11" y="{(top + bottom) / 2:g}" text-anchor="middle" '
        f'transform="rotate(-90 11 {(top + bottom) / 2:g})">accuracy on the kept</text>'
    )
    return list(zip(across.tolist(), up.tolist(), strict=True)), inner
