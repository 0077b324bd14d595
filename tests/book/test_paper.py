"""The e-book and the PDF: formulas become MathML, links find their place, and the files are what readers can open."""

import re
import zipfile
from xml.etree import ElementTree as ET

import paper
import pytest
from epubs import problems

pytest.importorskip("latex2mathml", reason="needs latex2mathml: make install")
MATHML = "{http://www.w3.org/1998/Math/MathML}"
ARTICLE = """<html><body><article class="bd-article"><section id="{id}">
<h1>{title}<a class="headerlink" href="#x">#</a></h1>
<p><a class="colab-badge" href="https://colab.example/x"><img alt="Open" src="../_static/badge.svg"/></a></p>
<p>Let <span class="math notranslate">\\(\\Sigma^+\\)</span> be. <img src="../_static/p.svg" alt="a picture"></p>
<div class="math" id="equation-1"><span class="eqno">(00.1)<a class="headerlink" href="#equation-1">#</a></span>
\\[P = \\Sigma^{{\\dagger}}\\]</div>
<div class="cell"><details class="admonition hide above-input"><summary>Show</summary><pre>plumbing</pre></details>
<div class="cell_output"><style>.engram-figure{{}}</style>
<figure class="engram-figure" id="fig"><div class="engram-controls"><button>Play</button></div>
<svg viewbox="0 0 10 10" role="img" aria-label="a line">
<defs><clippath id="c"><rect width="5" height="5"></rect></clippath></defs>
<g clip-path="url(#c)"><use xlink:href="#c"></use></g></svg><figcaption>Figure 00.1</figcaption></figure></div></div>
<div class="admonition"><p class="admonition-title">Exercise 1</p>
<details><summary>Hint</summary><p>Look.</p></details>
<details><summary>Solution</summary><p>Forty-two.</p></details></div>
<p><a href="{to}">there</a> <a href="#equation-1">(00.1)</a> <a href="#nowhere">x</a>
<a href="../notebook.ipynb" download="">file</a></p>
<script>1</script></section></article></body></html>"""


@pytest.fixture
def root(tmp_path):
    """A repository with two pages and their site."""
    (tmp_path / "_toc.yml").write_text(
        "root: book/intro\nparts:\n- caption: 'Part I & more'\n  chapters:\n  - file: book/a\n"
    )
    (tmp_path / "_config.yml").write_text(
        "title: T\nauthor: A\nhtml: {baseurl: 'https://x.org/b/', extra_footer: 'CC BY 4.0.'}\n"
    )
    (tmp_path / "CITATION.cff").write_text("version: 1.2\n")
    site = tmp_path / "_build" / "html"
    (site / "book").mkdir(parents=True)
    (site / "_static").mkdir()
    (site / "_static" / "p.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (site / "book" / "intro.html").write_text(ARTICLE.format(id="i", title="Intro <b>&amp;</b> start", to="a.html#fig"))
    (site / "book" / "a.html").write_text(ARTICLE.format(id="a", title="A", to="intro.html"))
    return tmp_path


@pytest.fixture
def book(root):
    return paper.epub(root / "x.epub", root / "_build" / "html", root)


@pytest.mark.parametrize(
    ("source", "has"),
    [
        (r"\(x x^\top\)", "msup"),
        (r"\[\arg\min_{W} \lVert W \rVert^2\]", "arg"),
        (r"\[\begin{split}\begin{aligned} a &= b \\ c &= d \end{aligned}\end{split}\]", "mtable"),
        (r"\(a < b\)", "mo"),
        (r"\[\underbrace{a + b}_{\text{two}}\]", "munder"),
    ],
)
def test_a_formula_becomes_mathml(source, has):
    made = paper.mathml(source, block=source.startswith(r"\["))
    tree = ET.fromstring(made)
    assert tree.tag == MATHML + "math" and tree.get("alttext") and has in made
    assert tree.get("display") == ("block" if source.startswith(r"\[") else "inline")


def test_a_formula_that_cannot_be_drawn_ends_the_build():
    with pytest.raises(ValueError, match=r"nosuchthing"):
        paper.mathml(r"\(a \nosuchthing b\)", False)


def test_the_e_book_is_one(book):
    assert problems(book) == []
    with zipfile.ZipFile(book) as files:
        pages = {name: files.read(name).decode() for name in files.namelist() if name.endswith(".xhtml")}
    a = pages["book/a.xhtml"]
    assert (
        "Figure 00.1" in a
        and "(00.1)" in a
        and 'href="a.xhtml#equation-1"' in a
        and "Part I &amp; more" in pages["book/nav.xhtml"]
    )
    assert 'viewBox="0 0 10 10"' in a and "clipPath" in a and "<math" in a
    for gone in ("<script", "<style", "<button", "plumbing", "colab", "headerlink", "viewbox"):
        assert gone not in a
    assert 'href="intro.xhtml"' in a and 'href="a.xhtml#fig"' in pages["book/intro.xhtml"]
    assert 'href="a.xhtml"' in a, "an anchor that is not there leads to its page"
    assert 'href="https://x.org/b/notebook.ipynb"' in a, "what is not in the book is on the site"


def test_solutions_stand_at_the_end_and_lead_back(book):
    with zipfile.ZipFile(book) as files:
        a = files.read("book/a.xhtml").decode()
    end = a.index("Hints and solutions")
    assert a.index('href="a.xhtml#folded-2"') < end < a.index("Forty-two.") and a.index('href="a.xhtml#fold-2"') > end
    assert "Exercise 1" in a[end:]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('href="intro.xhtml"', 'href="gone.xhtml"', "gone.xhtml is not there"),
        ('href="a.xhtml#equation-1"', 'href="a.xhtml#equation-9"', "#equation-9 is not there"),
        ('src="images/p.svg"', 'src="images/q.svg"', "q.svg is not there"),
        ("<h1>", "<h1><br>", "is no XML"),
        ("<h1>", '<h1 id="a">', "a twice"),
        ("<h1>", "<script>1</script><h1>", "a script"),
        ("<h1>", '<img src="https://x.org/p.png" alt="x"/><h1>', "from elsewhere"),
    ],
)
def test_the_check_of_an_e_book_finds_what_is_wrong(book, old, new, says):
    with zipfile.ZipFile(book) as files:
        inside = {name: files.read(name) for name in files.namelist()}
    assert old in inside["book/a.xhtml"].decode()
    inside["book/a.xhtml"] = inside["book/a.xhtml"].decode().replace(old, new, 1).encode()
    with zipfile.ZipFile(book, "w") as files:
        for name, data in inside.items():
            files.writestr(name, data)
    assert [line for line in problems(book) if says in line]


def test_mimetype_is_first_and_not_packed(book, tmp_path):
    other = tmp_path / "y.epub"
    with zipfile.ZipFile(book) as files, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as new:
        for name in sorted(files.namelist()):
            new.writestr(name, files.read(name))
    assert "mimetype" in problems(other)[0]


def test_in_one_document_no_two_places_have_one_name(root):
    html, pages = paper.one_page(root / "_build" / "html", root)
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids)) and {page.slug for page in pages} <= set(ids)
    for address in re.findall(r' (?:xlink:)?href="#([^"]*)"|url\(#([^)]*)\)', html):
        assert "".join(address) in ids
    assert html.count('class="to"') == len(pages)
    assert "a--c" in html and "intro--c" in html, "clips of two pages are two"


def test_a_site_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SystemExit, match="run make book first"):
        paper.read(tmp_path)


def test_the_style_loads_nothing():
    style = paper.STYLE.read_text(encoding="utf-8")
    assert "@import" not in style and "url(" not in style
