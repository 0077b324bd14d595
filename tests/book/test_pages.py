"""The pages that are made from data: built by Sphinx, with one made-up chapter."""

import json
import re

import pytest
from notebooks import CHAPTERS, ROOT

from engramlib.lab.records import scoreboard
from engramlib.lab.teaching.exercises.notebook import solutions

EXERCISE = [
    ("markdown", "# 98 · Squares | and roots\n\nText.", []),
    ("markdown", "## Exercises\n\n### Exercise 98.1: What is `x * x`?\n*Difficulty ●●○ · 75 minutes*\n\nSay.", []),
    ("code", 'answer = None\nexercises.check("98.1", answer)', ["exercise"]),
    (
        "markdown",
        "<details><summary>Hint</summary>\n\nx\n\n</details>\n"
        "<details><summary>Solution</summary>\n\n```python\nanswer = 1\n```\n\n</details>",
        [],
    ),
]


@pytest.fixture
def site(tmp_path):
    """A function that builds a book of the given pages and returns (page -> HTML, warnings)."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    chapter = tmp_path / "book" / "part1" / "98_squares.ipynb"
    chapter.parent.mkdir(parents=True)
    cells = [
        {"cell_type": kind, "id": f"cell-{i}", "metadata": {"tags": tags}, "source": source}
        | ({"outputs": [], "execution_count": None} if kind == "code" else {})
        for i, (kind, source, tags) in enumerate(EXERCISE)
    ]
    chapter.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    chapter.with_suffix(".md").write_text(
        "---\norphan: true\n---\n# 98\n\n## Exercises\n\n### Exercise 98.1: What is `x * x`?\n"
    )
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'book' / '_ext')!r})\n"
        "extensions = ['myst_parser', 'engram_pages']\nroot_doc = 'book/page'\nmyst_heading_anchors = 3\n"
        "suppress_warnings = ['myst.xref_missing']\n"
    )

    def build(page):
        (tmp_path / "book" / "page.md").write_text(page)
        warnings = (tmp_path / "warnings.log").open("w+")
        with patch_docutils(), docutils_namespace():
            out = tmp_path / "_build" / "html"
            app = Sphinx(tmp_path, tmp_path, out, tmp_path / "_build" / "d", "html", status=None, warning=warnings)
            app.build()
        warnings.seek(0)
        return (out / "book" / "page.html").read_text(encoding="utf-8"), warnings.read()

    return build


def words(html):
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_the_scoreboard_page(site):
    html, warnings = site((ROOT / "book" / "scoreboard.md").read_text(encoding="utf-8"))
    assert warnings == ""
    found = scoreboard.entries({})
    text = words(html)
    for entry in found:
        assert html.count(f'href="#scoreboard-{entry.id}"') == 1 and f'id="scoreboard-{entry.id}"' in html
    for verdict in scoreboard.VERDICTS:
        assert f"{sum(e.verdict == verdict for e in found)} {verdict}" in text
    assert "0.019 ± 0.004" in text and "mlp-mnist (MNIST, 5 seeds" in text
    assert "16, planned" in text
    levels = [int(n) for n in re.findall(r"<h(\d)", html.split('class="sphinxsidebar"')[0])]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))


def test_a_result_that_is_missing_is_a_warning(site, monkeypatch):
    results = {"07": {"as trained": [0.9]}}
    monkeypatch.setattr(scoreboard, "executed", lambda root, cache: results)
    _, warnings = site("# Board\n\n```{scoreboard} overview\n```\n")
    assert "chapter 07 has no result called 'erased digit'" in warnings


def test_an_unknown_part_is_refused(site):
    _, warnings = site("# Board\n\n```{scoreboard} everything\n```\n\n```{exercises} some\n```\n")
    assert "give one of overview, rules, details" in warnings and "give one of totals, list" in warnings


def test_the_page_of_exercises(site):
    html, warnings = site((ROOT / "book" / "exercises.md").read_text(encoding="utf-8"))
    assert warnings == ""
    assert 'href="part1/98_squares.html#exercise-98-1-what-is-x-x"' in html
    text = words(html)
    assert "98 · Squares | and roots" in text and "●●○ medium" in text
    assert text.index("all 1 1 h 15 min") < text.index("What is `x * x`?" if "`x" in text else "What is x * x ?")
    assert '<span aria-hidden="true">●●○</span>' in html


def test_anchors_are_those_of_the_headings(site, tmp_path):
    html, _ = site("# All\n\n```{exercises} list\n```\n")
    (anchor,) = re.findall(r'98_squares\.html#([^"]+)"', html)
    assert f'id="{anchor}"' in (tmp_path / "_build" / "html" / "book" / "part1" / "98_squares.html").read_text()


def test_every_exercise_has_a_level_and_minutes():
    found = [e for path in CHAPTERS for e in solutions(path)]
    assert len(found) >= 3 * len(CHAPTERS)
    assert {e.difficulty for e in found} <= {1, 2, 3} and all(e.minutes > 0 for e in found)


def test_numbers_beside_an_output_are_not_shown_and_no_warning(tmp_path):
    """As the book is built: MyST-NB, warnings, and a cell that carries results for the scoreboard."""
    import nbformat
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    from engramlib.lab.teaching.chapter import RESULTS

    cell = nbformat.v4.new_code_cell("show()")
    data = {"text/html": "<p>the table</p>", "text/plain": "t", RESULTS: {"left": [0.4321]}}
    cell.outputs = [nbformat.v4.new_output("display_data", data=data)]
    cells = [nbformat.v4.new_markdown_cell("# Title"), cell]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "index.ipynb")
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'book' / '_ext')!r})\n"
        "extensions = ['myst_nb', 'engram_pages']\nnb_execution_mode = 'off'\n"
    )
    warnings = (tmp_path / "warnings.log").open("w+")
    with patch_docutils(), docutils_namespace():
        Sphinx(tmp_path, tmp_path, tmp_path / "_h", tmp_path / "_d", "html", status=None, warning=warnings).build()
    warnings.seek(0)
    assert "mime type" not in warnings.read()
    html = (tmp_path / "_h" / "index.html").read_text(encoding="utf-8")
    assert "<p>the table</p>" in html and "0.4321" not in html
