"""What the players share: a figure with a name of its own, and a script that brings it to life.

The plain state of every player is a set of small multiples: what a page without JavaScript, an untrusted notebook and
paper show; what needs the script is `hidden`. The script adds the class `is-player`, and the style sheet then shows
the controls instead. It asks for nothing from elsewhere and stores nothing, so a player works in static HTML, Jupyter,
VS Code and Colab, where each output sits in a frame of its own.
"""

from __future__ import annotations

import uuid
from html import escape

from engramlib.lab.plots.css import css_where_needed


def player(body: str, script: str, *, caption: str, kind: str = "", data: dict[str, object] | None = None) -> str:
    """`<figure>` with `body`, caption and `script`, a JavaScript function of the figure. `data` = its data attributes.

    JupyterLab takes arrow keys and the space bar for itself, unless the element with the focus asks it not to.
    """
    name = f"engram-{uuid.uuid4().hex[:10]}"  # also unique beside the saved output of an earlier session
    attributes = "".join(f' data-{key}="{escape(str(value))}"' for key, value in (data or {}).items())
    start = (
        f'var box=document.getElementById("{name}");if(!box||box.dataset.ready){{return;}}box.dataset.ready="1";\n'
        'box.querySelectorAll("[hidden]").forEach(function(e){e.hidden=false;});\n'
        'box.querySelectorAll("input,button").forEach(function(e){e.setAttribute("data-lm-suppress-shortcuts","true");});'
    )
    return (
        f'{css_where_needed()}<figure class="engram-figure{kind}" id="{name}"{attributes}>'
        f"{body}<figcaption>{escape(caption, quote=False)}</figcaption></figure>"
        f"<script>(function(){{{start}\n({script.strip()})(box);\n"
        'box.classList.add("is-player");})();</script>'
    )
