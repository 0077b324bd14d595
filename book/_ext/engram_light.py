"""Sphinx extension that takes off a page what it does not use: MathJax without formulas, the theme's 1,500 icons.

The theme sends a script of 540 kB (gzipped) to every page that turns `<i class="fa-...">` into a drawing, and a font of
270 kB for as long as that takes. Here the dozen of drawings that the pages use are put into them once, as the script
would have done in the reader's browser.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from sphinx.errors import ExtensionError

FORMULA = re.compile(r'class="[^"]*\bmath\b|data-definition="[^"]*\\\(')


def math_where_needed(app, pagename, templatename, context, doctree):
    """Formulas in the text, or in the definition of a term that the page links."""
    if FORMULA.search(context.get("body", "")):
        return
    context["script_files"] = [
        script for script in context.get("script_files", []) if not re.search("mathjax", _said(script), re.IGNORECASE)
    ]


def _said(script) -> str:
    """A script's address, or what stands in it."""
    return f"{getattr(script, 'filename', script)} {getattr(script, 'attributes', {}).get('body', '')}"


# --- icons --------------------------------------------------------------------------------------------------------

SCRIPT = re.compile(r'\n?[ \t]*<script[^>]*\bsrc="[^"]*scripts/fontawesome\.js[^"]*"[^>]*></script>')
ICON = re.compile(r'<(i|span) class="([^"]*\bfa(?:[srb]|-solid|-brands|-regular)(?= )[^"]*)"([^>]*)></\1>')
STYLES = {"fas": "fas", "fa-solid": "fas", "fab": "fab", "fa-brands": "fab", "far": "far", "fa-regular": "far"}
ENTRY = r':\[(\d+),(\d+),\[[^\]]*\],"[0-9a-f]+","([^"]+)"\]'
OLDER = r'[{{,]"?[a-z0-9-]+"?:\[(\d+),(\d+),\[[^\]]*"{name}"[^\]]*\],"[0-9a-f]+","([^"]+)"\]'
SIZES = {"fa-lg", "fa-sm", "fa-xs", "fa-fw", "fa-xl", "fa-2x"}


class Icons:
    """The drawings in the theme's script. `icons(classes, rest)`: the `<svg>` for an `<i class=classes rest>`."""

    def __init__(self, script: str) -> None:
        self.script, self.known = script, {}

    def drawing(self, style: str, name: str) -> tuple[str, str, str]:
        """Width, height, path of an icon, also by one of its older names. The script lists brands, regular, solid."""
        if (style, name) not in self.known:
            places = [rf'[{{,]"?{re.escape(name)}"?{ENTRY}', OLDER.format(name=re.escape(name))]
            found = next((hits for place in places if (hits := re.findall(place, self.script))), None)
            if found is None:
                raise ExtensionError(f"the theme's fontawesome.js has no icon {name!r}, which a page uses")
            self.known[style, name] = found[-1 if style == "fas" else 0]
        return self.known[style, name]

    def __call__(self, classes: str, rest: str) -> str:
        words = classes.split()
        style = next(STYLES[w] for w in words if w in STYLES)
        name = next(w[3:] for w in words if w.startswith("fa-") and w not in STYLES and w not in SIZES)
        width, height, path = self.drawing(style, name)
        kept = " ".join(w for w in words if w not in STYLES)
        return (
            f'<svg class="svg-inline--fa {escape(kept)}"{rest} aria-hidden="true" focusable="false" '
            f'viewBox="0 0 {width} {height}"><path fill="currentColor" d="{path}"/></svg>'
        )


def lighten(html: str, icons: Icons) -> str:
    """A page with its icons drawn, and without the script that would draw them."""
    return ICON.sub(lambda found: icons(found[2], found[3]), SCRIPT.sub("", html))


def lighten_all(app, exception):
    """Once every page is written. `title` on an icon stays: the theme's button reads it."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    script = out / "_static" / "scripts" / "fontawesome.js"
    if not script.exists():
        return
    icons = Icons(script.read_text(encoding="utf-8"))
    for page in sorted(out.rglob("*.html")):
        if "_static" in page.relative_to(out).parts:
            continue
        before = page.read_text(encoding="utf-8")
        after = lighten(before, icons)
        if after != before:
            page.write_text(after, encoding="utf-8")


def setup(app):
    app.connect("html-page-context", math_where_needed, priority=950)  # after the last that adds a script
    app.connect("build-finished", lighten_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
