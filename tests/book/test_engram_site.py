"""What the site's Sphinx extension makes: 404 page, redirects, links to the glossary, BibTeX."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from docutils import nodes
from docutils.utils import new_document
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import engram_site as site  # noqa: E402


@pytest.mark.parametrize(
    ("address", "path"), [("https://a.github.io/b/", "/b/"), ("https://a.org", "/"), ("https://a.org/x/y", "/x/y/")]
)
def test_base_path(address, path):
    assert site.base_path(address) == path


def test_a_404_page_works_from_any_folder():
    html = (
        '<html data-content_root="./"><link href="_static/a.css?v=1"><a href="#top">x</a><a href="book/a.html">x</a>'
        '<a href="https://e.org/x">x</a><form action="search.html"><img src="data:image/png;base64,x"><a href="/b/c">'
    )
    assert site.absolute_links(html, "/b/") == (
        '<html data-content_root="/b/"><link href="/b/_static/a.css?v=1"><a href="#top">x</a>'
        '<a href="/b/book/a.html">x</a><a href="https://e.org/x">x</a><form action="/b/search.html">'
        '<img src="data:image/png;base64,x"><a href="/b/c">'
    )


@pytest.fixture
def out(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "new.html").write_text("new")
    return tmp_path


def test_redirects_lead_there_from_any_depth(out):
    site.write_redirects(out, {"old": "book/new", "a/b/old": "book/new"}, "https://x.org/y/")
    assert 'url=book/new.html"' in (out / "old.html").read_text()
    deep = (out / "a" / "b" / "old.html").read_text()
    assert 'url=../../book/new.html"' in deep and 'href="https://x.org/y/book/new.html"' in deep


@pytest.mark.parametrize(
    ("moved", "message"),
    [({"book/new": "book/new2"}, "is a page of the book"), ({"old": "book/gone"}, "there is no such page")],
)
def test_wrong_redirects_stop_the_build(out, moved, message):
    with pytest.raises(ExtensionError, match=message):
        site.write_redirects(out, moved, "https://x.org/")


@pytest.mark.parametrize(
    ("text", "message"), [("7: a", "in quotes"), ('"a": 7', "in quotes"), ("a: b\nb: c", "moved itself")]
)
def test_wrong_redirect_files_are_refused(tmp_path, text, message):
    path = tmp_path / "redirects.yml"
    path.write_text(text)
    with pytest.raises(ExtensionError, match=message):
        site.read_redirects(path)


def test_every_chapter_has_a_short_address():
    moved = site.read_redirects(ROOT / site.REDIRECTS)
    for chapter in (ROOT / "book").glob("part*/[0-9][0-9]_*.ipynb"):
        assert moved.get(chapter.name[:2]) == str(chapter.relative_to(ROOT).with_suffix("")), chapter.name


TERMS = {"soft projection": ("term-soft", "of each direction"), "probe": ("term-probe", "a readout")}


def page(*children) -> nodes.document:
    document = new_document("page")
    document += children
    return document


def links(document):
    return [(link.astext(), link["refuri"]) for link in document.findall(site.term_link)]


def test_only_the_first_use_of_a_term_is_linked():
    one = nodes.paragraph("", "", nodes.Text("Soft\nprojections and a probe. "), nodes.Text("A probe."))
    document = page(one, nodes.paragraph("", "", nodes.Text("The probe, the soft projection.")))
    before = document.astext()
    assert site.link_terms(document, TERMS, site.term_pattern(TERMS), "g.html") == 2
    assert links(document) == [("Soft\nprojections", "g.html#term-soft"), ("probe", "g.html#term-probe")]
    assert document.astext() == before, "the text changed"


def test_headings_code_formulas_and_links_stay_as_they_are():
    linked = nodes.reference("", "", nodes.Text("probe"), refuri="x")
    title = nodes.section("", nodes.title("", "", nodes.Text("The probe")), ids=["t"])
    text = nodes.paragraph(
        "", "", nodes.literal("", "probe"), nodes.math("", "probe"), linked, nodes.Text("a probed probe-like thing")
    )
    document = page(title, text)
    assert site.link_terms(document, TERMS, site.term_pattern(TERMS), "g.html") == 0


def test_words_of_everyday_use_are_left_out():
    document = page(nodes.paragraph("", "", nodes.Text("a probe")))
    assert site.link_terms(document, TERMS, site.term_pattern(TERMS, ["probe"]), "g.html") == 0


def test_bibtex_follows_the_citation_file():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    own, paper = site.bibtex(cff, "2026")
    assert own.startswith("@misc{engrambook2026,") and cff["url"] in own and cff["version"] in own
    assert "{The engram book authors}" in own
    assert paper.startswith("@misc{kwon2026,") and "Kwon, Jea and Kim, Dong-Kyum" in paper
    assert re.search(r"eprint\s+= \{2606\.14997\}", paper)
    for entry in (own, paper):
        assert entry.count("{") == entry.count("}")
        assert not re.search(r"= \{(None)?\}", entry)
