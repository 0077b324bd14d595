"""Sphinx extension of this book's chapters: figures, tables and formulas have numbers that can be linked to.

In chapter 04 the third figure is "Figure 04.3" at #figure-04-3, the first table "Table 04.1" at #table-04-1, the second
displayed formula (04.2) at #equation-04-2. They are numbered as they stand on the page, up to the exercises, so nothing
has to be kept in the notebooks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from docutils import nodes

CHAPTER = re.compile(r"book/part\d+/(\d\d)_\w+")
CAPTIONS = re.compile(r"<(figcaption|caption)>")
NAMES = {"figcaption": "Figure", "caption": "Table"}


def number_captions(html: str, name_of: Callable[[str], tuple[str, str]]) -> str:
    """The HTML with a number in front of each caption; `name_of(kind)` gives ("Figure 04.3", "figure-04-3")."""

    def numbered(match: re.Match) -> str:
        name, anchor = name_of(NAMES[match[1]])
        return f'{match[0]}<a class="engram-number" id="{anchor}" href="#{anchor}">{name}</a> '

    return CAPTIONS.sub(numbered, html)


def number_page(doctree: nodes.document, chapter: str) -> Counter:
    """Number what stands on a chapter's page; how many of each kind."""
    counts: Counter = Counter()

    def name_of(kind: str) -> tuple[str, str]:
        counts[kind] += 1
        number = f"{chapter}.{counts[kind]}"
        return f"{kind} {number}", f"{kind.lower()}-{number.replace('.', '-')}"

    for node in list(doctree.findall(lambda n: isinstance(n, (nodes.raw, nodes.math_block)))):
        if isinstance(node, nodes.raw):
            if "html" in node.get("format", "") and CAPTIONS.search(node.astext()):
                html = number_captions(node.astext(), name_of)
                node.rawsource, node.children = html, []
                node += nodes.Text(html)
        elif not in_exercises(node) and not node.get("nowrap"):
            _, anchor = name_of("Equation")
            node["ids"] = [*node.get("ids", []), anchor]
            node["number"] = f"{chapter}.{counts['Equation']}"
    return counts


def in_exercises(node: nodes.Node) -> bool:
    """Whether a section above the node is headed "Exercises": what stands there is the reader's."""
    above: Any = node.parent
    while above is not None:
        title = above.next_node(nodes.title) if isinstance(above, nodes.section) else None
        if title is not None and title.astext().strip() == "Exercises":
            return True
        above = above.parent
    return False


def numbers(app, doctree, docname):
    if app.builder.format == "html" and (match := CHAPTER.fullmatch(docname)):
        number_page(doctree, match[1])


def setup(app):
    app.connect("doctree-resolved", numbers, priority=800)  # after the outputs of cells became HTML
    return {"parallel_read_safe": True, "parallel_write_safe": True}
