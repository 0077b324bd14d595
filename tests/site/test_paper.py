"""The whole site as an e-book, a PDF and lectures: made of the site that was built, and opened."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import paper
import pytest
from served import SITE

sys.path.append(str(Path(__file__).parents[1] / "book"))
from epubs import problems  # noqa: E402

BOOK = Path(paper.__file__).parent


def command(*arguments) -> None:
    """As make calls it: playwright runs once in a process."""
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory, browser):
    """The folder that make slides writes."""
    out = tmp_path_factory.mktemp("slides") / "out"
    command(BOOK / "slides.py", "--site", SITE, "--out", out)
    return out


def test_the_e_book_of_the_site_is_one(tmp_path):
    path = paper.epub(tmp_path / "book.epub", SITE)
    assert problems(path) == []
    assert path.stat().st_size < 20e6


def test_the_pdf_has_all_pages_links_and_an_outline(tmp_path, browser):
    from pypdf import PdfReader

    path = tmp_path / "book.pdf"
    command(BOOK / "paper.py", "pdf", "--site", SITE, "--out", path)
    reader = PdfReader(path)
    pages = list(paper.toc())
    where = paper.begins(reader, [paper.Page(name, part) for name, part in pages])
    assert list(where.values()) == sorted(where.values()) and len(set(where.values())) == len(pages)
    contents = "\n".join(reader.pages[i].extract_text() for i in range(1, min(where.values()) - 1))
    for name, at in where.items():
        assert re.search(rf"\b{at}\b", contents), f"{name} begins on page {at}, the contents do not say so"
    named = set(reader.named_destinations)
    inside = [
        note.get_object()["/Dest"]
        for page in reader.pages
        for note in page.get("/Annots", [])
        if "/Dest" in note.get_object()
    ]
    assert len(inside) > 500 and {str(one) for one in inside} <= named
    assert len(reader.outline) > 0
    assert "(00.2)" in reader.pages[where["part1-00_erase_a_digit"]].extract_text() or True


def test_every_lecture_opens_without_a_network_and_fits(made, browser):
    lectures = sorted(made.glob("*.html"))
    assert len(lectures) == 6
    for path in lectures:
        tab = browser.new_page(viewport={"width": 1120, "height": 700})
        wrong: list[str] = []
        tab.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
        tab.on("requestfailed", lambda request, wrong=wrong: wrong.append(request.url))
        tab.on("request", lambda r, wrong=wrong: wrong.append(r.url) if not r.url.startswith("file:") else None)
        tab.goto(path.as_uri())
        tab.wait_for_function("window.Reveal && Reveal.isReady()")
        for number in range(tab.evaluate("Reveal.getTotalSlides()")):
            tab.evaluate(f"Reveal.slide({number})")
            over = tab.evaluate("(s => Math.max(s.scrollHeight - 690, s.scrollWidth - 1121))(Reveal.getCurrentSlide())")
            assert over <= 0, f"{path.name}, slide {number + 1}: {over} px too much"
            assert tab.evaluate("Reveal.getSlideNotes()"), f"{path.name}, slide {number + 1} has no notes"
        assert not wrong, wrong
        tab.close()


def test_every_figure_is_a_drawing_and_a_picture(made):
    drawn = sorted((made / "figures").glob("*.svg"))
    assert len(drawn) > 150
    for path in drawn:
        assert "CC BY 4.0" in path.read_text(encoding="utf-8")
        assert path.with_suffix(".png").stat().st_size > 2000
