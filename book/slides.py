"""Six lectures from the built book, and every figure as a file: what `make slides` runs.

_build/slides/1-a-memory-and-four-tests.html, ...   reveal.js, offline; S opens the speaker's notes, ?print-pdf prints
_build/slides/figures/figure-04-3.svg, .png          every figure of every chapter, with its licence line

Which figures and formulas a lecture shows stands in book/slides/lectures.yaml. The PNG files need a chromium; where
there is none the command says so and makes the rest.
"""

from __future__ import annotations

import argparse
import copy
import re
import shutil
import sys
import time
from html import escape
from pathlib import Path
from typing import NamedTuple

import yaml
from bs4 import Tag
from paper import ROOT, SITE, clean, site_url, toc, written

HERE = Path(__file__).with_suffix("")  # book/slides
REVEAL = HERE / "reveal"
LICENCE = "CC BY 4.0"
INK, WIDE, GAP, LINE = "#1a1a1a", 1100.0, 24.0, 26.0


class Figure(NamedTuple):
    """A figure of a chapter: its number (04.3), heading above it, caption, drawing as one SVG."""

    number: str
    heading: str
    caption: str
    alt: str
    svg: str

    @property
    def name(self) -> str:
        return "figure-" + self.number.replace(".", "-")


class Chapter(NamedTuple):
    name: str  # book/part1/00_erase_a_digit
    number: str
    title: str
    question: str  # HTML
    facts: dict[str, str]  # Claim, Model, Evidence, Controls -> HTML
    figures: dict[str, Figure]
    formulas: dict[str, str]  # number -> MathML


# ----------------------------------------------------------------------------------------------- figures as files


def box(svg: Tag) -> tuple[float, float, float, float]:
    """viewBox: x, y, width, height."""
    x, y, width, height = (float(v) for v in re.split(r"[\s,]+", str(svg["viewBox"]).strip()))
    return x, y, width, height


def placed(sizes: list[tuple[float, float]], labels: bool) -> tuple[list[tuple[float, float]], float, float]:
    """Where panels of these sizes go, row by row; width and height of it all."""
    above = 18.0 if labels else 0.0
    found, x, y, tall, wide = [], 0.0, 0.0, 0.0, 0.0
    limit = max([WIDE, *(width for width, _ in sizes)])
    for width, height in sizes:
        if x and x + width > limit:
            x, y, tall = 0.0, y + tall + GAP, 0.0
        found.append((x, y + above))
        x, tall, wide = x + width + GAP, max(tall, height + above), max(wide, x + width)
    return found, wide, y + tall


def one_svg(figure: Tag, line: str) -> str:
    """All panels of a figure in one drawing, in black ink on white, its licence line below and in its metadata."""
    panels = figure.select(".engram-panel") or [figure]
    drawings = [(panel.find("svg"), panel.select_one(".engram-label")) for panel in panels]
    drawings = [(svg, label) for svg, label in drawings if isinstance(svg, Tag)]
    labels = any(label is not None and label.get_text(strip=True) for _, label in drawings)
    places, wide, tall = placed([box(svg)[2:] for svg, _ in drawings], labels)
    wide = max(wide, 6.2 * len(line))  # the licence line is not cut
    body = []
    for (svg, label), (x, y) in zip(drawings, places, strict=True):
        left, top, width, height = box(svg)
        inside = copy.copy(svg)
        style = re.sub(r"(?:^|;)\s*(?:width|max-width|min-width|height)\s*:[^;]*", "", str(inside.get("style", "")))
        inside.attrs = {
            "x": f"{x:g}", "y": f"{y:g}", "width": f"{width:g}", "height": f"{height:g}", "overflow": "visible",
            "viewBox": f"{left:g} {top:g} {width:g} {height:g}", "style": style.strip("; "),
        }  # fmt: skip
        if label is not None:
            text = escape(label.get_text(" ", strip=True))
            body.append(f'<text x="{x:g}" y="{y - 5:g}" font-size="12" fill="{INK}">{text}</text>')
        body.append(str(inside))
    foot = tall + LINE
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="-8 -8 {wide + 16:g} {foot + 16:g}" width="{wide + 16:g}" height="{foot + 16:g}" color="{INK}" '
        'font-family="system-ui,Helvetica,Arial,DejaVu Sans,sans-serif">'
        f'<metadata><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/"><rdf:Description><dc:rights>{escape(line)}</dc:rights>'
        "</rdf:Description></rdf:RDF></metadata>"
        f'<rect x="-8" y="-8" width="{wide + 16:g}" height="{foot + 16:g}" fill="#fff"/>{"".join(body)}'
        f'<text x="0" y="{foot - 4:g}" font-size="11" fill="#555">{escape(line)}</text></svg>\n'
    )


def licence(number: str, address: str) -> str:
    return f"AI engrams, Figure {number} · {LICENCE} · {address}"


# ------------------------------------------------------------------------------------------------------- chapters


def inner(tag: Tag) -> str:
    """What stands inside, as HTML, links as text: on a slide nobody follows them."""
    mine = copy.copy(tag)
    for link in mine.find_all("a"):
        link.unwrap()
    return mine.decode_contents(formatter="minimal").strip()


def read(name: str, site: Path, url: str) -> Chapter:
    """What the slides need of a chapter's page."""
    soup = clean((site / f"{name}.html").read_text(encoding="utf-8"))
    assert soup.h1 is not None
    title = soup.h1.get_text(" ", strip=True)
    number = title.split(" ")[0]
    paragraphs = [p for p in soup.select("section > p") if p.get_text(strip=True)]
    facts = {}
    for item in soup.select("section > ul")[0].find_all("li", recursive=False):
        head = item.find("strong")
        if head is not None:
            key = head.get_text(strip=True).rstrip(":")
            head.extract()
            text = item.p if item.p is not None else item
            facts[key] = inner(text)
    figures = {}
    for tag in soup.select("figure.engram-figure"):
        caption = tag.figcaption.get_text(" ", strip=True) if tag.figcaption else ""
        found = re.match(r"Figure (\d\d\.\d+)\s*", caption)
        svg = tag.find("svg")
        if not found or svg is None:
            continue
        head = tag.find_previous(["h3", "h2", "h1"])
        heading = inner(head) if head is not None else title
        drawn = one_svg(tag, licence(found[1], f"{url}{name}.html"))
        alt = str(svg.get("aria-label", ""))
        figures[found[1]] = Figure(found[1], heading, caption[found.end() :], alt, drawn)
    formulas = {}
    for tag in soup.select("div.math"):
        mark = tag.find(class_="eqno")
        if mark is not None and tag.math is not None:
            formulas[mark.get_text(strip=True).strip("()")] = written(tag.math)
    return Chapter(name, number, title, inner(paragraphs[0]), facts, figures, formulas)


def advice(root: Path = ROOT) -> dict[str, tuple[str, str, str]]:
    """Chapter -> what to open with, where students go wrong, what to end with: the table of instructors.md."""
    text = (root / "book" / "instructors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d) \| (.+) \| (.+) \| (.+) \|$", text, re.M)
    return {number: (first, wrong, last) for number, first, wrong, last in rows}


# --------------------------------------------------------------------------------------------------------- slides


def plain(text: str) -> str:
    """A cell of that table as HTML: emphasis, and formulas as they are."""
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", escape(text.replace("$", "")))


def slide(body: str, notes: str, source: str, kind: str = "") -> str:
    """A slide, its notes, and where it comes from."""
    name = f' class="{kind}"' if kind else ""
    line = f'<p class="from">{source}</p>' if source else ""
    return f'<section{name}>{body}{line}<aside class="notes">{notes}</aside></section>'


def lecture(plan: dict, chapters: dict[str, Chapter], told: dict[str, tuple[str, str, str]], url: str) -> str:
    """The HTML of one lecture."""
    title = plan["title"]
    names = " · ".join(escape(chapters[number].title) for number in plan["chapters"])
    made = [
        slide(
            f"<h1>{escape(title)}</h1><p>{names}</p>",
            "<p>Let the class write down a prediction, with a number, before each result. Give what did not replicate "
            "as much time as the result.</p>",
            f"AI engrams · {LICENCE} · {url}",
        )
    ]
    for number, shows in plan["chapters"].items():
        chapter, (first, wrong, last) = chapters[number], told[number]
        source = f"AI engrams, {escape(chapter.title)} · {LICENCE} · {url}{chapter.name}.html"
        made.append(
            slide(
                f'<h2>{escape(chapter.title)}</h2><p class="question">{chapter.question}</p>',
                f"<p>Open with: {plain(first)}</p>",
                source,
            )
        )
        for index in shows["figures"]:
            figure = chapter.figures.get(f"{number}.{index}")
            if figure is None:
                raise ValueError(f"{plan['name']}: chapter {number} has no figure {number}.{index}")
            picture = f'<img src="figures/{figure.name}.svg" alt="{escape(figure.alt, quote=True)}">'
            made.append(
                slide(
                    f"<h2>{figure.heading}</h2><figure>{picture}</figure>",
                    f"<p>Figure {figure.number}. {escape(figure.caption)}</p>",
                    "",  # the drawing has its licence line
                )
            )
        for which in shows["formulas"]:
            if which not in chapter.formulas:
                raise ValueError(f"{plan['name']}: chapter {number} has no formula ({which})")
            wide = " wide" if len(re.sub(r"<[^>]*>", "", chapter.formulas[which])) > 34 else ""
            made.append(
                slide(
                    f'<h2>One formula</h2><div class="formula{wide}">{chapter.formulas[which]}</div><p>({which})</p>',
                    f"<p>Formula ({which}). Say each symbol aloud before you go on.</p>",
                    source,
                )
            )
        told_here = [chapter.facts[key] for key in ("Claim", "Evidence", "Controls") if key in chapter.facts]
        size = "control long" if len(" ".join(told_here)) > 700 else "control"
        facts = "".join(
            f"<li><strong>{key}:</strong> {chapter.facts[key]}</li>"
            for key in ("Claim", "Evidence", "Controls") if key in chapter.facts
        )  # fmt: skip
        made.append(
            slide(
                f"<h2>The claim, and its controls</h2><ul>{facts}</ul>",
                f"<p>Where students go wrong: {plain(wrong)}</p>",
                source,
                size,
            )
        )
        made.append(
            slide(f'<h2>To take home</h2><p class="question">{plain(last)}</p>', "<p>Let them talk in pairs first.</p>",
                  source)
        )  # fmt: skip
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="reveal/reset.css"><link rel="stylesheet" href="reveal/reveal.css">'
        '<link rel="stylesheet" href="slides.css"></head>'
        f'<body><div class="reveal"><div class="slides">\n{chr(10).join(made)}\n</div></div>'
        '<script src="reveal/reveal.js"></script><script src="reveal/notes.js"></script>'
        "<script>Reveal.initialize({ hash: true, slideNumber: true, center: false, width: 1120, height: 700, "
        'transition: "none", plugins: [RevealNotes] });</script></body></html>\n'
    )


def build(out: Path, site: Path = SITE, root: Path = ROOT, plans: Path | None = None) -> tuple[list[Path], list[Path]]:
    """Write the lectures and the figures as SVG; the paths of both."""
    plans_read = yaml.safe_load((plans or HERE / "lectures.yaml").read_text(encoding="utf-8"))
    url = site_url(root)
    names = [name for name, _ in toc(root) if re.search(r"/\d\d_", name)]
    missing = [name for name in names if not (site / f"{name}.html").exists()]
    if missing:
        raise SystemExit(f"No {missing[0]}.html in {site}: run make book first.")
    chapters = {chapter.number: chapter for chapter in (read(name, site, url) for name in names)}
    shutil.rmtree(out, ignore_errors=True)
    (out / "figures").mkdir(parents=True)
    shutil.copytree(REVEAL, out / "reveal")
    shutil.copy(HERE / "slides.css", out)
    drawn = []
    for chapter in chapters.values():
        for figure in chapter.figures.values():
            drawn.append(out / "figures" / f"{figure.name}.svg")
            drawn[-1].write_text(figure.svg, encoding="utf-8")
    told, lectures = advice(root), []
    for plan in plans_read:
        lectures.append(out / f"{plan['name']}.html")
        lectures[-1].write_text(lecture(plan, chapters, told, url), encoding="utf-8")
    return lectures, drawn


def as_png(drawn: list[Path]) -> list[Path]:
    """The figures as PNG, two points a pixel. RuntimeError where there is no browser."""
    from browser import chromium

    made = []
    with chromium() as browser:
        tab = browser.new_page(device_scale_factor=2)
        for path in drawn:
            tab.goto(path.as_uri())
            width, height = (float(v) for v in re.findall(r'<svg [^>]*?width="([\d.]+)" height="([\d.]+)"',
                                                          path.read_text(encoding="utf-8"))[0])  # fmt: skip
            tab.set_viewport_size({"width": round(width), "height": round(height)})
            made.append(path.with_suffix(".png"))
            tab.screenshot(path=str(made[-1]))
    return made


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--site", type=Path, default=SITE, help="the built site (_build/html)")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "slides", help="the folder (_build/slides)")
    given = parser.parse_args(arguments)
    started, out = time.time(), given.out.resolve()
    lectures, drawn = build(out, given.site.resolve())
    try:
        pictures = as_png(drawn)
    except RuntimeError as error:
        print(f"The figures are there as SVG only: {error}", file=sys.stderr)
        pictures = []
    seconds = time.time() - started
    print(f"{len(lectures)} lectures, {len(drawn)} figures as SVG, {len(pictures)} as PNG, in {seconds:.0f} s")
    for path in lectures:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
