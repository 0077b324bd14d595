"""Sphinx extension for the explorables: their place on a page, and their scripts on the pages that have one."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

FOLDER = "book/_static/explorables"
STILLS = "book/stills"
# What each needs, in the order in which it loads.
SCRIPTS = {
    "digits": ("digits-data.js", "touch-digits.js"),
    "cut": ("more-data.js", "touch-cut.js"),
    "clouds": ("more-data.js", "touch-clouds.js"),
    "plane": ("digits-data.js", "touch-plane.js"),
    "answers": ("answers-data.js", "touch-answers.js"),
}
SHARED = ("engine.js", "page.js")


def captions(folder: Path, facts: dict) -> dict[str, str]:
    """The texts of captions.yaml with the numbers of facts.json put in; `cut3[0]`: what is left at the cut 10^-3."""
    cuts = {f"cut{-round(float(k))}": value for k, value in facts["cut"].items() if float(k) == round(float(k))}
    told = yaml.safe_load((folder / "captions.yaml").read_text(encoding="utf-8"))
    return {name: text.strip().format(**{**facts, **cuts}) for name, text in told.items()}


class Explorable(SphinxDirective):
    """`explorable`: one of SCRIPTS, as a figure that comes alive; without a script its small multiples stay."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in SCRIPTS:
            raise self.error(f"explorable: give one of {', '.join(SCRIPTS)}, not {name!r}.")
        root = Path(self.env.srcdir)
        still, files = root / STILLS / f"{name}.html", (root / FOLDER / "facts.json", root / STILLS / "answers.json")
        for path in (still, *files, root / STILLS / "captions.yaml"):
            self.env.note_dependency(str(path))
        facts = {key: value for path in files for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
        caption = captions(root / STILLS, facts)[name]
        html = (
            f'<figure class="engram-figure engram-touch" id="touch-{name}" data-explorable="{name}">\n'
            f"{still.read_text(encoding='utf-8')}<figcaption>{escape(caption, quote=False)}</figcaption></figure>"
        )
        return [nodes.raw("", html, format="html")]


def add_scripts(app, pagename, templatename, context, doctree):
    """Only where there is an explorable: the landing page pays for its own, the other pages for none."""
    body = context.get("body", "")
    here = [name for name in SCRIPTS if f'data-explorable="{name}"' in body]
    if here:
        app.add_css_file("explorables/explorables.css")
        for script in dict.fromkeys([*SHARED, *(script for name in here for script in SCRIPTS[name])]):
            app.add_js_file(f"explorables/{script}", loading_method="defer")


def setup(app):
    app.add_directive("explorable", Explorable)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
