"""How far the pages are from Jupyter Book 2, which reads them with MyST (mystmd) instead of Sphinx: python book/myst.py

Lists every directive and role that the pages of _toc.yml use, how often, and whether mystmd knows it. What it does not
know has to be rewritten, or made by a plug-in, before the book can move; .github/MAINTAINING.md says how.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import nbformat
from build import ROOT, toc_files

# What mystmd 1.8 knows without a plug-in; `note` and its kin are its admonitions.
PROOFS = "algorithm assumption axiom conjecture corollary criterion definition example lemma observation proof property"
DIRECTIVES = {
    *"admonition attention caution danger error hint important note seealso tip warning".split(),
    *"anywidget aside bibliography blockquote card code code-block code-cell contents csv-table div dropdown".split(),
    *"embed epigraph exercise exercise-end exercise-start figure genindex glossary grid grid-item-card iframe".split(),
    *"image include index list-table literalinclude margin math mdast mermaid myst pull-quote show-index".split(),
    *"sidebar solution solution-end solution-start sourcecode tab-item tab-set table tableofcontents toc topic".split(),
    *(f"prf:{kind}" for kind in f"{PROOFS} proposition remark theorem".split()),
}
ROLES = {
    *"abbr abbreviation button chem cite del delete doc download eq eval index kbd keyboard math numref".split(),
    *"prf:ref ref sc si smallcaps span strike sub subscript sup superscript term u underline".split(),
    *(f"cite:{kind}" for kind in "alp alps author authorpar authors ct cts label labelpar p ps t ts year".split()),
}
DIRECTIVE = re.compile(r"^[ \t]*(?:`{3,}|:{3,})\{([\w:.-]+)\}[ \t]*(.*)$", re.M)
ROLE = re.compile(r"(?<![\\`}\w])\{([a-zA-Z][\w:-]*)\}`")


def used(text: str) -> Counter:
    """What a page's Markdown uses: ('directive', name) or ('role', name), and how often.

    A raw block for HTML is a directive `raw html`: mystmd knows raw blocks for LaTeX and Typst only.
    """
    names = (f"raw {what.strip()}" if name == "raw" else name for name, what in DIRECTIVE.findall(text))
    return Counter(("directive", name) for name in names) + Counter(("role", name) for name in ROLE.findall(text))


def known(kind: str, name: str) -> bool:
    """Whether mystmd reads this without a plug-in."""
    return name in (DIRECTIVES if kind == "directive" else ROLES)


def markdown(path: Path) -> str:
    """The Markdown of a page, of a notebook that of its text cells."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")


def main() -> int:
    found: dict[tuple[str, str], dict[str, int]] = {}
    files = toc_files()
    for path in files:
        for what, count in used(markdown(path)).items():
            found.setdefault(what, {})[path.relative_to(ROOT).as_posix()] = count
    unknown = {what: pages for what, pages in found.items() if not known(*what)}
    print("Known to mystmd:")
    for kind, name in sorted(found.keys() - unknown.keys()):
        print(f"  {sum(found[kind, name].values()):4} × {kind} {name}")
    print("Not known to it:")
    for (kind, name), pages in sorted(unknown.items()):
        print(f"  {sum(pages.values()):4} × {kind} {name}  ({', '.join(pages)})")
    uses = sum(sum(pages.values()) for pages in unknown.values())
    pages = {page for pages in unknown.values() for page in pages}
    print(f"{len(files)} pages: {len(unknown)} directives or roles to replace, used {uses} times on {len(pages)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
