"""The lectures: what a plan names is on the slides, figures are whole with their licence, nothing is fetched."""

import re
from xml.etree import ElementTree as ET

import pytest
import slides
import yaml
from notebooks import CHAPTERS, ROOT

pytest.importorskip("latex2mathml", reason="needs latex2mathml: make install")
SVG = "{http://www.w3.org/2000/svg}"
PANEL = """<div class="engram-panel">{label}<svg viewbox="0 0 100 50" role="img" aria-label="bars" style="width:100%;
max-width:461px;font-size:9px"><defs><clippath id="c"><rect width="9" height="9"></rect></clippath></defs>
<g clip-path="url(#c)" fill="currentColor"><path d="M0 0H9"></path></g></svg></div>"""
PAGE = """<html><body><article><section id="x"><h1>03 · A share</h1><p></p><p>A <a href="y.html">share</a> of what?</p>
<ul><li><p><strong>Claim:</strong> it is \\(soft\\).</p></li><li><p><strong>Controls:</strong> five.</p></li></ul>
<div class="math"><span class="eqno">(03.1)<a class="headerlink" href="#e">#</a></span>\\[P = W\\]</div>
<section><h2>Where it is</h2><figure class="engram-figure"><div class="engram-panels">{panels}</div>
<figcaption><span>Figure 03.2</span> Bars &amp; lines.</figcaption></figure>
</section></section></article></body></html>"""
LINE = "AI engrams, Figure 03.2 · CC BY 4.0 · https://x.org/book/part1/03_a.html"
PLAN = {"name": "1-a", "title": "A & b", "chapters": {"03": {"figures": [2], "formulas": ["03.1"]}}}
TOLD = {"03": ("Open *so*.", "They err.", "Why?")}


@pytest.fixture
def chapter(tmp_path):
    (tmp_path / "book" / "part1").mkdir(parents=True)
    panels = PANEL.format(label='<p class="engram-label">α = 1</p>') + PANEL.format(label="")
    (tmp_path / "book" / "part1" / "03_a.html").write_text(PAGE.format(panels=panels))
    return slides.read("book/part1/03_a", tmp_path, "https://x.org/")


def test_what_a_chapter_gives(chapter):
    assert (chapter.number, chapter.title, chapter.question) == ("03", "03 · A share", "A share of what?")
    assert chapter.facts == {"Claim": "it is \\(soft\\).", "Controls": "five."}
    assert list(chapter.figures) == ["03.2"] and list(chapter.formulas) == ["03.1"]
    figure = chapter.figures["03.2"]
    assert (figure.heading, figure.caption, figure.alt) == ("Where it is", "Bars & lines.", "bars")


def test_a_figure_is_one_drawing_with_its_licence(chapter):
    drawing = ET.fromstring(chapter.figures["03.2"].svg)
    inner = drawing.findall(SVG + "svg")
    assert len(inner) == 2 and {panel.get("viewBox") for panel in inner} == {"0 0 100 50"}
    boxes = [[float(panel.get(key)) for key in ("x", "y", "width", "height")] for panel in inner]
    assert boxes[0][0] + boxes[0][2] < boxes[1][0] and boxes[0][1] == boxes[1][1], "side by side, not one on the other"
    texts = [text.text for text in drawing.iter(SVG + "text")]
    assert "α = 1" in texts and texts[-1] == LINE
    assert LINE in "".join(drawing.find(SVG + "metadata").itertext())
    assert "clipPath" in chapter.figures["03.2"].svg and "width:100%" not in chapter.figures["03.2"].svg
    left, _, width, _ = (float(v) for v in drawing.get("viewBox").split())
    assert left + width > 6 * len(LINE), "the line is not cut"


@pytest.mark.parametrize("count", [1, 4, 13])
def test_panels_go_row_by_row_and_never_touch(count):
    sizes = [(300.0, 100.0 + 10 * i) for i in range(count)]
    places, wide, tall = slides.placed(sizes, labels=True)
    for i, ((x, y), (w, h)) in enumerate(zip(places, sizes, strict=True)):
        assert x + w <= wide <= slides.WIDE and y + h <= tall
        for (a, b), (v, u) in zip(places[:i], sizes[:i], strict=True):
            assert x >= a + v or y >= b + u


def test_a_lecture_has_notes_and_sources_on_every_slide(chapter):
    html = slides.lecture(PLAN, {"03": chapter}, TOLD, "https://x.org/")
    made = re.findall(r"<section.*?</section>", html, re.S)
    assert len(made) == 6  # title, question, figure, formula, claim, question to end with
    assert all('<aside class="notes"><p>' in one for one in made)
    assert all("CC BY 4.0" in one or "figures/figure-03-2.svg" in one for one in made)
    assert "Open <em>so</em>." in made[1] and "They err." in made[4] and "Why?" in made[5]
    assert "Bars &amp; lines." in made[2] and 'alt="bars"' in made[2] and "<math" in made[3] and "A &amp; b" in made[0]
    loads = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert not [address for address in loads if "://" in address], "offline: nothing comes from elsewhere"
    for name in {address for address in loads if address.startswith("reveal/")}:
        assert (slides.HERE / name).exists()


@pytest.mark.parametrize(("shows", "says"), [({"figures": [3], "formulas": []}, "no figure 03.3"),
                                             ({"figures": [], "formulas": ["03.9"]}, "no formula .03.9.")])  # fmt: skip
def test_a_plan_that_names_what_is_not_there_is_told(chapter, shows, says):
    with pytest.raises(ValueError, match=says):
        slides.lecture(PLAN | {"chapters": {"03": shows}}, {"03": chapter}, TOLD, "https://x.org/")


def test_the_six_lectures_are_of_chapters_that_there_are():
    plans = yaml.safe_load((slides.HERE / "lectures.yaml").read_text(encoding="utf-8"))
    assert len(plans) == 6 and len({plan["name"] for plan in plans}) == 6
    there, told = {path.name[:2] for path in CHAPTERS}, slides.advice(ROOT)
    for plan in plans:
        assert set(plan["chapters"]) <= there & set(told)
        assert all(shows["figures"] for shows in plan["chapters"].values())


def test_reveal_is_here_with_its_licence_and_without_addresses_to_load():
    assert "Permission is hereby granted" in (slides.REVEAL / "LICENSE").read_text(encoding="utf-8")
    for path in [*slides.REVEAL.glob("*.css"), slides.HERE / "slides.css"]:
        text = path.read_text(encoding="utf-8")
        assert "@import" not in text and not re.findall(r"url\(['\"]?(?!data:|#)[^)]", text)


def test_a_site_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SystemExit, match="run make book first"):
        slides.build(tmp_path / "out", tmp_path / "site", ROOT)
