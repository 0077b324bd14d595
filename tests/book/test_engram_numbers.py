"""Numbers of figures, tables and formulas: in the order of the page, each with an address of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.utils import new_document

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import engram_numbers as numbers  # noqa: E402


def page(*children):
    document = new_document("page")
    document += children
    return document


def html(text):
    return nodes.raw("", text, format="html")


def section(title, *children):
    return nodes.section("", nodes.title("", title), *children, ids=[title.lower()])


FIGURE = "<figure class='engram-figure'><figcaption>What to see.</figcaption></figure>"
TABLE = "<table><caption>Of seeds.</caption><tr><td>1</td></tr></table>"


def test_each_kind_counts_for_itself_in_the_order_of_the_page():
    document = page(html(FIGURE), html(TABLE), nodes.math_block("x", "x"), html(FIGURE + FIGURE), html("<p>no</p>"))
    assert numbers.number_page(document, "04") == {"Figure": 3, "Table": 1, "Equation": 1}
    text = BeautifulSoup("".join(node.astext() for node in document.findall(nodes.raw)), "html.parser")
    assert [c.get_text() for c in text.find_all("figcaption")] == [f"Figure 04.{k} What to see." for k in (1, 2, 3)]
    assert text.find("caption").get_text() == "Table 04.1 Of seeds."
    anchors = [(a["id"], a["href"]) for a in text.find_all("a")]
    assert anchors == [(i, f"#{i}") for i in ("figure-04-1", "table-04-1", "figure-04-2", "figure-04-3")]
    (formula,) = document.findall(nodes.math_block)
    assert formula["number"] == "04.1" and formula["ids"] == ["equation-04-1"]


def test_the_reader_s_own_formulas_and_those_without_a_box_have_no_number():
    own = section("Exercises", section("Exercise 04.1", nodes.math_block("y", "y")))
    bare = nodes.math_block("z", "z", nowrap=True)
    document = page(section("The formula", nodes.math_block("x", "x"), bare), own)
    assert numbers.number_page(document, "04") == {"Equation": 1}


def test_other_formats_stay_as_they_are():
    document = page(nodes.raw("", FIGURE, format="latex"))
    assert not numbers.number_page(document, "04") and document.astext() == FIGURE


@pytest.mark.parametrize(
    ("docname", "chapter"),
    [("book/part1/00_erase_a_digit", "00"), ("book/part4/21_x", "21"), ("book/part1/index", None), ("book/api", None)],
)
def test_chapters_have_numbers_other_pages_do_not(docname, chapter):
    match = numbers.CHAPTER.fullmatch(docname)
    assert (match and match[1]) == chapter


def test_sphinx_shows_the_numbers_and_links_to_them(tmp_path):
    (tmp_path / "book" / "part1").mkdir(parents=True)
    (tmp_path / "index.md").write_text("# Book\n\n```{toctree}\nbook/part1/03_cuts\n```\n")
    chapter = "# 03 · Cuts\n\nSee [this](#equation-03-2).\n\n$$a = b$$\n\n$$c = d$$\n\n" + FIGURE + "\n"
    (tmp_path / "book/part1/03_cuts.md").write_text(chapter)
    conf = {
        "extensions": ["myst_parser", "sphinx.ext.mathjax", "engram_numbers"],
        "myst_enable_extensions": ["dollarmath"],
        "suppress_warnings": ["myst.xref_missing"],
    }
    lines = [f"import sys\nsys.path.insert(0, {str(ROOT / 'book' / '_ext')!r})"]
    (tmp_path / "conf.py").write_text("\n".join(lines + [f"{key} = {value!r}" for key, value in conf.items()]))
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", tmp_path, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = BeautifulSoup((tmp_path / "out/book/part1/03_cuts.html").read_text(), "html.parser")
    shown = [span.get_text() for span in built.find_all("span", class_="eqno")]
    assert [re.sub(r"[^\d.()]", "", text) for text in shown] == ["(03.1)", "(03.2)"]
    assert built.find(id="equation-03-2") and built.find("a", href="#equation-03-2")
    assert built.find("figcaption").get_text() == "Figure 03.1 What to see."
