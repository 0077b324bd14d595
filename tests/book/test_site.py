"""The checks of the built site find what they are there for. `make book` runs them on the real site."""

from pathlib import Path

import pytest
from check_site import PAGE_LIMIT, check

PAGE = """<html lang="en"><head><meta name="description" content="d"><meta property="og:description" content="d">
<link rel="stylesheet" href="_static/s.css"><script src="_static/mathjax/tex.js"></script></head>
<body><article><h1 id="top">T</h1><a href="https://example.org">out</a> <a href="b.html#there">in</a>
<span class="math">x</span><img src="_static/p.svg" alt="a picture">
<figure class="engram-figure"><svg role="img" aria-label="a line"></svg><figcaption>see</figcaption></figure>
<div class="cell_output">1</div>MORE</article></body></html>"""


@pytest.fixture
def site(tmp_path):
    (tmp_path / "_static" / "mathjax").mkdir(parents=True)
    for name in ("_static/s.css", "_static/mathjax/tex.js", "_static/p.svg", "searchindex.js"):
        (tmp_path / name).write_text("")
    (tmp_path / "search.html").write_text("<html></html>")
    (tmp_path / "a.html").write_text(PAGE)
    (tmp_path / "b.html").write_text(PAGE.replace("MORE", '<p id="there">x</p>'))
    return tmp_path


def problems(site, pages=("a.html", "b.html"), executed=("b.html",)):
    return check(site, pages=[Path(p) for p in pages], executed=[Path(p) for p in executed])


def test_a_right_site_has_no_problems(site):
    assert problems(site) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('<script src="https://cdn.example/x.js"></script>', "from elsewhere"),
        ('<img src="//cdn.example/x.png" alt="x">', "from elsewhere"),
        ('<link rel="stylesheet" href="https://fonts.example/f.css">', "from elsewhere"),
        ('<link rel="preconnect" href="https://fonts.example">', "from elsewhere"),
        ('<img srcset="p.png 1x, https://cdn.example/x.png 2x" src="_static/p.svg" alt="x">', "from elsewhere"),
        ("<style>@import 'https://fonts.example/f.css';</style>", "from elsewhere"),
        ('<p style="background: url(https://cdn.example/x.png)">x</p>', "from elsewhere"),
        ('<a href="gone.html">x</a>', "dead link gone.html"),
        ('<a href="b.html#nowhere">x</a>', "dead link b.html#nowhere"),
        ('<a href="#nowhere">x</a>', "dead link #nowhere"),
        ('<img src="_static/gone.svg" alt="x">', "not there"),
        ('<img src="_static/p.svg">', "without alternative text"),
        ('<img src="_static/p.svg" alt=" ">', "without alternative text"),
        ('<svg role="img"></svg>', "without aria-label"),
        ('<figure class="engram-figure"><svg></svg><figcaption>x</figcaption></figure>', 'role="img"'),
        ('<figure class="engram-figure"></figure>', "without a caption"),
        ("<h1>another</h1>", "first-level headings"),
        ("x" * PAGE_LIMIT, "too much for a page"),
    ],
)
def test_what_is_wrong_is_named(site, more, message):
    (site / "a.html").write_text(PAGE.replace("MORE", more))
    found = problems(site)
    assert len(found) >= 1 and all(p.startswith("a.html") for p in found)
    assert any(message in p for p in found), found


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (' lang="en"', "language"),
        ('<meta name="description" content="d">', "meta description"),
        ('<meta property="og:description" content="d">', "og:description"),
        ('<script src="_static/mathjax/tex.js"></script>', "no MathJax"),
        ('<div class="cell_output">1</div>', "not executed"),
    ],
)
def test_what_is_missing_is_named(site, gone, message):
    (site / "b.html").write_text(PAGE.replace(gone, "").replace("MORE", '<p id="there">x</p>'))
    assert any(message in p for p in problems(site)), problems(site)


def test_a_traceback_in_a_chapter_is_found(site):
    (site / "b.html").write_text(PAGE.replace("MORE", '<p id="there"><div class="output traceback">E</div>'))
    assert any("traceback" in p for p in problems(site))


def test_stderr_in_a_chapter_is_found(site):
    noise = '<p id="there"><div class="output stderr">TqdmWarning</div>'
    (site / "b.html").write_text(PAGE.replace("MORE", noise))
    assert problems(site) == ["b.html: shows what a cell wrote to stderr: TqdmWarning"]


def test_pages_must_be_those_of_the_toc(site):
    assert problems(site, pages=("a.html", "b.html", "c.html")) == ["c.html: listed in _toc.yml but not built"]
    assert problems(site, pages=("b.html",)) == ["a.html: built but not in _toc.yml"]


def test_missing_search_index_and_remote_css_are_found(site):
    (site / "searchindex.js").unlink()
    (site / "_static" / "s.css").write_text("@font-face { src: url('https://fonts.example/f.woff2') }")
    found = problems(site)
    assert any("search index" in p for p in found) and any("s.css" in p for p in found)


def test_pages_that_lead_elsewhere_are_known(site):
    (site / "old.html").write_text('<html><a href="a.html">moved</a></html>')
    assert problems(site) == ["old.html: built but not in _toc.yml"]
    assert check(site, pages=[Path("a.html"), Path("b.html")], executed=[], moved=("old",)) == []
    (site / "old.html").write_text('<html><a href="gone.html">moved</a></html>')
    pages = [Path("a.html"), Path("b.html")]
    assert check(site, pages=pages, executed=[], moved=("old",)) == ["old.html: dead link gone.html"]


def test_a_page_cannot_lead_elsewhere(site):
    found = check(site, pages=[Path("a.html"), Path("b.html")], executed=[], moved=("a",))
    assert found == ["a.html: a page of the book, it cannot lead elsewhere"]


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("/book/a.html", None),
        ("#top", None),
        ("https://example.org", None),
        ("a.html", "does not start with /book/"),
        ("/book/gone.html", "dead link"),
    ],
)
def test_the_404_page_is_right_at_any_depth(site, link, message):
    (site / "404.html").write_text(f'<html><p id="top"></p><a href="{link}">x</a></html>')
    found = check(site, pages=[Path("a.html"), Path("b.html")], executed=[], base="/book/")
    assert (found == []) if message is None else (len(found) == 1 and message in found[0]), found
