"""What stands in each cell of a heatmap, told below it: under the pointer, under a finger, or by the arrow keys.

`heatmap` calls `remember`, and whatever puts the figure into a page calls `told`. Without the script the picture is
what it was: the line for the number is hidden, and paper never shows it.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from weakref import WeakKeyDictionary

from matplotlib.figure import Figure

STEPS = 65534  # between the smallest and the largest number; one more code means: nothing there

# The cell is found from where the pointer is, as a share of the picture, so it may have any size. The arrow keys are
# ours while the focus is on the picture: JupyterLab is asked to leave them to us.
_SCRIPT = """
function(box){
 var d=JSON.parse(box.dataset.cells),codes=atob(d.codes),svg=box.querySelector("svg"),out=box.querySelector("output"),
  nr=d.rows.length,nc=d.columns.length,at=null,
  size=Math.max(Math.abs(d.low),Math.abs(d.high))||1,places=Math.max(0,Math.min(9,2-Math.floor(Math.log10(0.999*size)))),
  marks=["#ffffff","#111111"].map(function(colour,k){
   var m=document.createElementNS("http://www.w3.org/2000/svg","rect");
   m.setAttribute("fill","none");m.setAttribute("stroke",colour);m.setAttribute("stroke-width",k?1.2:3.2);
   m.setAttribute("class","engram-mark");svg.appendChild(m);return m;});
 function value(r,c){
  var i=2*(r*nc+c),q=codes.charCodeAt(i)+256*codes.charCodeAt(i+1);
  return q>STEPS?null:+(d.low+q*(d.high-d.low)/STEPS).toFixed(places);
 }
 function named(what,name){return what?what+" = "+name:name;}
 function text(row,column,number){
  return named(d.y,row)+", "+named(d.x,column)+": "+number+(d.bar&&number!=="\\u2013"?" ("+d.bar+")":"");
 }
 function longest(names){return names.reduce(function(a,b){return b.length>a.length?b:a;},"");}
 function reserve(){ // the text below stays where it is, whatever stands in the line
  var now=out.textContent;
  out.style.minHeight="";out.textContent=text(longest(d.rows),longest(d.columns),"\\u22120.000");
  var height=out.getBoundingClientRect().height;out.textContent=now;out.style.minHeight=height?height+"px":"";
 }
 function show(r,c){
  at=[r,c];
  var v=value(r,c),view=svg.viewBox.baseVal,w=d.box[2]*view.width/nc,h=d.box[3]*view.height/nr;
  out.textContent=text(d.rows[r],d.columns[c],v===null?"\\u2013":String(v).replace("-","\\u2212"));
  marks.forEach(function(m){
   m.setAttribute("x",d.box[0]*view.width+c*w);m.setAttribute("y",d.box[1]*view.height+r*h);
   m.setAttribute("width",w);m.setAttribute("height",h);m.style.display="";});
 }
 function clear(){at=null;out.textContent="";marks.forEach(function(m){m.style.display="none";});}
 function point(e){
  var s=svg.getBoundingClientRect(),c=((e.clientX-s.left)/s.width-d.box[0])/d.box[2]*nc,
   r=((e.clientY-s.top)/s.height-d.box[1])/d.box[3]*nr;
  if(c>=0&&c<nc&&r>=0&&r<nr){show(Math.floor(r),Math.floor(c));}
  else if(e.pointerType==="mouse"&&document.activeElement!==box){clear();}
 }
 box.addEventListener("pointermove",point);
 box.addEventListener("pointerdown",point);
 box.addEventListener("pointerleave",function(e){
  if(e.pointerType==="mouse"&&document.activeElement!==box){clear();}});
 box.addEventListener("focus",function(){if(!at){show(0,0);}});
 box.addEventListener("blur",clear);
 box.addEventListener("keydown",function(e){
  var by={ArrowUp:[-1,0],ArrowDown:[1,0],ArrowLeft:[0,-1],ArrowRight:[0,1]}[e.key];
  if(e.altKey||e.ctrlKey||e.metaKey){return;}
  if(e.key==="Escape"){box.blur();return;}
  if(!by){return;}
  e.preventDefault();
  if(!at){at=[0,0];by=[0,0];}
  show(Math.max(0,Math.min(nr-1,at[0]+by[0])),Math.max(0,Math.min(nc-1,at[1]+by[1])));
  marks[0].scrollIntoView({block:"nearest",inline:"nearest"});
 });
 box.tabIndex=0;box.setAttribute("role","group");box.setAttribute("data-lm-suppress-shortcuts","true");
 box.setAttribute("aria-label","Heatmap: the arrow keys read its cells");
 out.hidden=false;reserve();clear();
 window.addEventListener("resize",reserve);
}
""".replace("STEPS", str(STEPS))


@dataclass(frozen=True)
class Cells:
    """The numbers of a heatmap as they were given, a name for each row and column, and what rows and columns are."""

    values: Any
    rows: Sequence[str]
    columns: Sequence[str]
    y: str
    x: str
    bar: str


_KNOWN: WeakKeyDictionary[Figure, Cells] = WeakKeyDictionary()


def remember(fig: Figure, cells: Cells) -> None:
    """From now on `fig` can be asked for its cells."""
    _KNOWN[fig] = cells


def told(fig: Figure, picture: str) -> str:
    """`picture`, the drawn `<svg>` of `fig`, in a box that tells its cells; itself, if `fig` is no heatmap."""
    cells = _KNOWN.get(fig)
    if cells is None:
        return picture
    left, bottom, width, height = fig.axes[0].get_position().bounds
    name, data = f"engram-{uuid.uuid4().hex[:10]}", {"box": [left, 1 - bottom - height, width, height]}
    data = {key: [round(v, 5) for v in value] for key, value in data.items()} | _facts(cells)
    stored = escape(json.dumps(data, ensure_ascii=False, separators=(",", ":")))
    return (
        f'<div class="engram-cells" id="{name}" data-cells="{stored}">{picture}'
        '<output class="engram-cell" hidden aria-live="polite"></output></div>'
        f'<script>(function(){{var box=document.getElementById("{name}");'
        'if(!box||box.dataset.ready){return;}box.dataset.ready="1";\n'
        f"({_SCRIPT.strip()})(box);}})();</script>"
    )


def _facts(cells: Cells) -> dict[str, object]:
    """Names, and the numbers as codes of two bytes, little-endian, row by row."""
    import numpy as np

    there = np.isfinite(cells.values)
    low, high = (float(f(cells.values[there])) if there.any() else 0.0 for f in (np.min, np.max))
    share = (np.where(there, cells.values, low) - low) / ((high - low) or 1)
    codes = np.where(there, np.round(share * STEPS), STEPS + 1).astype("<u2")
    return {
        **{"rows": list(cells.rows), "columns": list(cells.columns), "y": cells.y, "x": cells.x, "bar": cells.bar},
        **{"low": low, "high": high, "codes": base64.b64encode(codes.tobytes()).decode()},
    }
