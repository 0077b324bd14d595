"""What the site's Sphinx extensions make: 404 page, redirects, links to the glossary, BibTeX."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup
from check_site import check
from docutils import nodes
from docutils.utils import new_document

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import engram_site as site  # noqa: E402


@pytest.mark.parametrize(
    ("address", "path"), [("https://a.github.io/b/", "/b/"), ("https://a.org", "/"), ("https://a.org/x/y", "/x/y/")]
)
def test_base_path(address, path):
    assert site.base_path(address) == path


@pytest.fixture
def built(tmp_path):
    """A small book with the real settings for lost readers, built by Sphinx; its folder."""
    (tmp_path / "book" / "part1").mkdir(parents=True)
    (tmp_path / "index.md").write_text("# AI engrams\n\n```{toctree}\nbook/part1/index\n```\n")
    (tmp_path / "book" / "part1" / "index.md").write_text("# Part I\n")
    shutil.copytree(ROOT / "book/_templates", tmp_path / "book/_templates")
    settings = {
        key: value
        for key, value in yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"].items()
        if key.startswith(("notfound_", "redirect_html", "templates_path"))
    }
    settings |= {
        "extensions": ["myst_parser", "sphinx_book_theme", "sphinxext.opengraph", "notfound.extension",
                       "sphinx_reredirects", "engram_site"],
        "html_theme": "sphinx_book_theme", "html_baseurl": "https://a.org/b/",
        "html_theme_options": {"repository_url": "https://github.com/c/d"},
        "redirects": {"00": "book/part1/index.html", "old/deep/page": "../../book/part1/index.html"},
    }  # fmt: skip
    lines = [f"import sys\nsys.path.insert(0, {str(ROOT / 'book' / '_ext')!r})"]
    (tmp_path / "conf.py").write_text("\n".join(lines + [f"{key} = {value!r}" for key, value in settings.items()]))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", tmp_path, out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_lost_readers_find_their_way(built):
    """The 404 page works from any folder, old addresses lead on, and nothing on either is dead."""
    problems = check(built, pages=[], executed=[], moved=("00", "old/deep/page"), base="/b/")
    assert not [p for p in problems if p.startswith(("404", "00", "old")) and "not in _toc" not in p], problems
    lost = BeautifulSoup((built / "404.html").read_text(), "html.parser")
    assert lost.html["data-content_root"] == "/b/"
    assert lost.find("meta", attrs={"name": "robots"})["content"] == "noindex"
    links = [link["href"] for link in lost.find("article").find_all("a")]
    assert "/b/book/part1/index.html" in links and "https://github.com/c/d/issues" in links
    assert not [link for link in links if "part2" in link], "a part without pages is no way out"
    for name, target in (("00", "book/part1/index.html"), ("old/deep/page", "../../book/part1/index.html")):
        moved = BeautifulSoup((built / f"{name}.html").read_text(), "html.parser")
        assert moved.find("meta", attrs={"http-equiv": "refresh"})["content"] == f"0; url={target}"
        assert moved.find("a")["href"] == target and moved.html["lang"] == "en"


def test_every_chapter_has_a_short_address():
    moved = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]["redirects"]
    for chapter in (ROOT / "book").glob("part*/[0-9][0-9]_*.ipynb"):
        assert moved.get(chapter.name[:2]) == str(chapter.relative_to(ROOT).with_suffix(".html")), chapter.name


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
