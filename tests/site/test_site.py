"""What the site does, rather than what is on a page: search, themes, keyboard, phone, paper, lost readers."""

from __future__ import annotations

import io
import json
import re

import nbformat
import pypdf
import pytest
from served import BASE, CHAPTERS, CONFIG, ROOT, SITE, pretty
from visit import DESKTOP, LIGHTEN, OVERFLOW, PHONE, UNFOLD, UNREACHABLE, violations

LANDING = "book/intro.html"
DEEP = "no/such/folder/page.html"


def first_words(chapter: str) -> str:
    """The longest word of a chapter's title: what somebody would search for."""
    notebook = nbformat.read(ROOT / chapter.replace(".html", ".ipynb"), as_version=4)
    title = re.search(r"^# (.+)$", notebook.cells[0].source, re.MULTILINE)[1]
    return max(re.findall(r"[A-Za-z]+", title), key=len)


# --- the first screen -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_landing_page_can_be_touched_in_its_first_screen(tab, viewport):
    """The sentence, the way in, and a field to draw in with the first sliders beside or below it."""
    one = tab(viewport=viewport)
    one.open(LANDING)
    one.page.wait_for_selector(".touch-row input")
    sliders = one.page.query_selector_all(".touch-row input")
    shown = ["article h1 + p", ".engram-buttons a", ".touch-pad", ".touch-says output"]
    for part in [*map(one.page.query_selector, shown), *sliders[: 10 if viewport is DESKTOP else 3]]:
        box = part.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= viewport["height"], box
        assert box["x"] >= 0 and box["x"] + box["width"] <= viewport["width"], box
    pictures = [svg.bounding_box() for svg in one.page.query_selector_all(".engram-hero svg") if svg.is_visible()]
    assert len(pictures) == 1 and pictures[0]["width"] > 300, "one picture of MNIST, not one for each width"


def test_the_root_leads_to_the_landing_page(tab):
    one = tab()
    one.open("", ready=False)
    one.page.wait_for_url("**/" + LANDING)
    assert one.page.locator("article h1").first.inner_text().startswith("AI engrams")


# --- search -----------------------------------------------------------------------------------------------------


def test_search_finds_a_term_of_each_chapter(tab):
    one = tab()
    one.open("search.html?q=engram", ready=False)
    one.page.wait_for_selector("#search-results li")
    ask = """(term) => new Promise((resolve) => {
      document.querySelector("#search-results").replaceChildren();
      Search.performSearch(term);
      const wait = () => document.querySelector("#search-results .search-summary")?.textContent.match(/found|match/)
        ? resolve([...document.querySelectorAll("#search-results li a")].map((a) => new URL(a.href).pathname))
        : setTimeout(wait, 20);
      wait(); })"""
    for chapter in CHAPTERS:
        term = first_words(chapter)
        assert BASE + chapter in one.page.evaluate(ask, term), f"searching {term!r} does not find {chapter}"
    assert one.page.evaluate(ask, "xylophonequark") == []
    assert not one.outside and not one.errors, pretty(one.errors)


def test_the_search_field_opens_with_the_keyboard_and_leads_to_results(tab):
    one = tab()
    one.open(LANDING)
    one.page.keyboard.press("Control+k")
    one.page.keyboard.type("BatchNorm")
    one.page.keyboard.press("Enter")
    one.page.wait_for_selector("#search-results li a")
    assert any("08_convolutional" in a.get_attribute("href") for a in one.page.query_selector_all("#search-results a"))


# --- themes -----------------------------------------------------------------------------------------------------


def test_the_theme_follows_the_system_and_the_button_and_is_remembered(tab):
    theme = "() => document.documentElement.dataset.theme"
    one = tab(theme="dark")
    one.open(LANDING)
    assert one.page.evaluate(theme) == "dark", "the system asks for dark"
    button = one.page.locator(".theme-switch-button:visible").first
    for _ in range(3):
        if one.page.evaluate(theme) == "light":
            break
        button.click()
    assert one.page.evaluate(theme) == "light", "the button does not change the theme"
    light = one.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    one.page.reload()
    assert one.page.evaluate(theme) == "light", "the choice is forgotten on reload"
    one.open("book/glossary.html")
    assert one.page.evaluate(theme) == "light", "the choice is forgotten on the next page"
    one.theme("dark")
    assert one.page.evaluate("() => getComputedStyle(document.body).backgroundColor") != light


LEGIBLE = """() => {
  const channel = (v) => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
  const light = (rgb) => { const [r, g, b] = rgb.match(/[\\d.]+/g).map(Number);
    return .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b); };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
  const ground = getComputedStyle(document.body).backgroundColor;
  const ink = (node) => { const s = getComputedStyle(node); return s.fill === "none" ? s.stroke : s.fill; };
  // Axis labels and tick labels: text that stands on the page and not on a coloured cell.
  return [...document.querySelectorAll(".engram-figure svg, .engram-hero svg")].flatMap((svg) => {
    const own = getComputedStyle(svg).color;
    return ratio(own, ground) < 4.5 ? [`${own} on ${ground}: ${svg.getAttribute("aria-label")?.slice(0, 60)}`] : [];
  }).concat([...document.querySelectorAll("[id^='matplotlib.axis'] text, [id^='xtick'] *, [id^='ytick'] *")]
    .filter((n) => n.tagName === "text" || n.tagName === "use" || n.tagName === "path")
    .filter((n) => { const c = ink(n); return /^rgb/.test(c) && ratio(c, ground) < 3; }).slice(0, 5)
    .map((n) => `${n.tagName} ${ink(n)} on ${ground}`));
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_ink_of_figures_is_legible(tab, theme):
    one = tab(theme=theme)
    for name in (LANDING, CHAPTERS[0], CHAPTERS[-1]):
        one.open(name)
        assert one.page.evaluate(LEGIBLE) == [], name


# --- keyboard ---------------------------------------------------------------------------------------------------


def test_the_first_key_press_offers_to_skip_the_navigation(tab):
    one = tab()
    one.open(CHAPTERS[0])
    one.page.keyboard.press("Tab")
    focused = one.page.evaluate_handle("() => document.activeElement").as_element()
    assert "skip" in focused.inner_text().lower()
    one.page.wait_for_function("() => document.activeElement.getBoundingClientRect().top >= 0")  # it slides in
    one.page.keyboard.press("Enter")
    assert one.page.evaluate("() => location.hash") == "#main-content"


def test_the_focus_can_be_seen(tab):
    one = tab()
    one.open(CHAPTERS[0])
    style = """() => { const e = document.activeElement, s = getComputedStyle(e);
      return { what: e.outerHTML.slice(0, 90), tag: e.tagName,
               seen: (s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 1) || s.boxShadow !== "none" }; }"""
    blind = []
    for _ in range(45):
        one.page.keyboard.press("Tab")
        state = one.page.evaluate(style)
        if not state["seen"] and state["tag"] != "BODY":
            blind.append(state["what"])
    assert not blind, "nothing shows where the focus is:" + pretty(blind)


# Pages that have every kind of box that scrolls: code, figure, formula, output, table.
SCROLLING = ("book/part1/04_adding_and_subtracting.html", "book/notation.html", "book/api.html")
FONTS = {
    "wide": "html * { font-family: pinned-code !important; letter-spacing: .1em !important } "
    "html { font-size: 130% !important }",
    "narrow": "html * { letter-spacing: -.12em !important } html { font-size: 85% !important }",
}


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("font", FONTS)
def test_in_any_font_the_keyboard_reaches_what_scrolls(tab, font, viewport):
    """What overflows is a matter of the reader's fonts; whether it can be reached is not."""
    one = tab(viewport=viewport)
    for name in SCROLLING:
        one.open(name)
        one.page.evaluate(UNFOLD)
        one.page.add_style_tag(content=FONTS[font])  # as readers do who set their own spacing: the window stays
        one.settle()
        assert one.page.evaluate(UNREACHABLE) == [], name
        assert one.page.evaluate(OVERFLOW) == [], name
        one.page.evaluate(LIGHTEN)
        assert violations(one.page, scope="main", without=("color-contrast",)) == [], name


RING = """(box) => { const { outlineStyle, outlineWidth, outlineOffset } = getComputedStyle(box);
  return outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 && parseFloat(outlineOffset) < 0; }"""


def test_the_keyboard_scrolls_every_kind_of_box_and_shows_where_it_is(tab):
    one, scrolled = tab(viewport=PHONE), set()
    for name in SCROLLING:
        one.open(name)
        one.page.add_style_tag(content=FONTS["wide"])
        one.page.evaluate(UNFOLD)
        one.settle()
        one.page.keyboard.press("Tab")  # from here on the focus is shown
        for box in one.page.query_selector_all("article [aria-label^='Scrollable ']"):
            kind = box.get_attribute("aria-label").removeprefix("Scrollable ")
            if kind in scrolled or not box.evaluate("(box) => box.scrollWidth > box.clientWidth + 1"):
                continue
            box.focus()
            assert box.evaluate(RING), f"{name}: nothing shows that the focus is on the {kind}"
            one.page.keyboard.press("ArrowRight")
            one.page.wait_for_function("(box) => box.scrollLeft > 0", arg=box)
            scrolled.add(kind)
    assert scrolled == {"code", "figure", "formula", "table"}


PLAYERS = """() => [...document.querySelectorAll(".engram-figure.is-player")].map((box) => box.id)"""
SHOWN = """(id) => { const box = document.getElementById(id);
  return [...box.querySelectorAll(".engram-panels > *, .engram-frame, output, .engram-label")].map((n) =>
    n.getClientRects().length ? n.className + (n.tagName === "OUTPUT" ? n.textContent : "") : "").join("|"); }"""


def changes(page, name: str, before: str) -> bool:
    """Whether a player shows something else within two seconds; it may wait before its first step."""
    for _ in range(40):
        if page.evaluate(SHOWN, name) != before:
            return True
        page.wait_for_timeout(50)
    return False


def test_players_play_with_the_keyboard(tab):
    """Every figure that came alive: its first slider or box answers the keyboard, and so does a button."""
    one, count = tab(reduced_motion="reduce"), 0
    for chapter in CHAPTERS:
        if "is-player" not in (SITE / chapter).read_text(encoding="utf-8").split("<article", 1)[-1]:
            continue
        one.open(chapter, ready=False)
        for name in one.page.evaluate(PLAYERS):
            box = one.page.locator(f"#{name} :is(input[type=range], input[type=checkbox]):visible").first
            assert box.count(), f"{chapter}: a player with nothing to move"
            before = one.page.evaluate(SHOWN, name)
            box.focus()
            at_end = box.input_value() == box.get_attribute("max")
            range_key = "ArrowLeft" if at_end else "ArrowRight"
            one.page.keyboard.press(range_key if box.get_attribute("type") == "range" else "Space")
            assert changes(one.page, name, before), f"{chapter}: the keyboard moves nothing in {before}"
            before = one.page.evaluate(SHOWN, name)
            for button in one.page.locator(f"#{name} button:visible").all():  # one may name the state shown already
                button.focus()
                one.page.keyboard.press("Enter")
                if changes(one.page, name, before):
                    break
            else:
                assert not one.page.locator(f"#{name} button:visible").count(), f"{chapter}: no button does anything"
            count += 1
    assert count >= 1, "no player in any chapter"
    assert not one.errors, pretty(one.errors)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_heatmap_tells_its_cells(tab, viewport):
    """The names and the number of a cell, under the pointer and by the arrow keys."""
    one, count = tab(viewport=viewport), 0
    for chapter in CHAPTERS:
        if 'class="engram-cells"' not in (SITE / chapter).read_text(encoding="utf-8"):
            continue
        one.open(chapter, ready=False)
        for box in one.page.locator(".engram-cells").all():
            facts, told = json.loads(box.get_attribute("data-cells")), box.locator(".engram-cell")
            left, top, width, height = facts["box"]
            n, m = len(facts["rows"]), len(facts["columns"])
            box.scroll_into_view_if_needed()
            size = box.locator("svg").bounding_box()
            box.locator("svg").hover(
                position={
                    "x": size["width"] * (left + width * (1 - 0.5 / m)),
                    "y": size["height"] * (top + height * (1 - 0.5 / n)),
                }
            )
            row, column = (f"{facts[a]} = " if facts[a] else "" for a in "yx")
            last = f"{row}{facts['rows'][-1]}, {column}{facts['columns'][-1]}: "
            assert told.inner_text().startswith(last), f"{chapter}: {told.inner_text()!r}, not {last!r}"
            box.focus()
            one.page.keyboard.press("ArrowUp")
            above = f"{row}{facts['rows'][-2]}, "
            assert told.inner_text().startswith(above), f"{chapter}: the arrow key says {told.inner_text()!r}"
            count += 1
    assert count >= 10, f"only {count} heatmaps"
    assert not one.errors, pretty(one.errors)


def test_a_term_shows_its_definition_on_hover_and_focus(tab):
    one = tab()
    chapter = next(c for c in CHAPTERS if "engram-term" in (SITE / c).read_text(encoding="utf-8"))
    one.open(chapter)
    term, tip = one.page.locator("a.engram-term").first, one.page.locator("[role=tooltip]")
    term.scroll_into_view_if_needed()
    term.focus()
    assert tip.is_visible() and len(tip.inner_text()) > 20
    assert term.get_attribute("aria-describedby") == tip.get_attribute("id")
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= DESKTOP["width"] and box["y"] >= 0
    one.page.keyboard.press("Escape")
    assert not tip.is_visible()
    one.page.mouse.move(2, 2)
    term.hover()
    tip.wait_for(state="visible")
    term.click()
    one.page.wait_for_url("**/book/glossary.html#term-*")


# --- lost readers -----------------------------------------------------------------------------------------------


def test_an_unknown_address_shows_our_page_at_any_depth(tab):
    one = tab()
    response = one.open(DEEP, ready=False)
    assert response.status == 404
    assert one.page.locator("article h1").inner_text() == "This page is not here#".rstrip("#")
    styled = one.page.evaluate("() => getComputedStyle(document.querySelector('.bd-sidebar-primary')).display")
    assert styled == "flex", "the style sheets are not found from a folder"
    assert [f for f in one.failed if DEEP not in f] == []
    one.page.locator("article a", has_text="Part I").first.click()
    one.page.wait_for_url("**/book/part1/index.html")


def test_old_addresses_lead_to_the_new_ones(tab):
    moved = CONFIG["sphinx"]["config"]["redirects"]
    one = tab(java_script_enabled=False)
    for old, new in moved.items():
        one.open(f"{old}.html", ready=False)
        one.page.wait_for_url(f"**/{new.removeprefix('../' * old.count('/'))}")
    one = tab()
    one.open("07.html#exercises", ready=False)
    one.page.wait_for_url("**/book/part2/07_mlp.html#exercises")


def test_links_to_the_book_carry_a_picture(tab):
    one = tab()
    one.open(LANDING, ready=False)
    meta = one.page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('meta[property], meta[name]')].map("
        "(m) => [m.getAttribute('property') || m.name, m.content]))"
    )
    home = CONFIG["html"]["baseurl"]
    assert meta["twitter:card"] == "summary_large_image" and meta["og:image:alt"]
    assert meta["og:url"].startswith(home) and meta["og:image"].startswith(home)
    assert (SITE / meta["og:image"].removeprefix(home)).is_file()


# --- paper ------------------------------------------------------------------------------------------------------


def test_a_chapter_prints_with_its_solutions_and_without_navigation(tab):
    one = tab(theme="dark")
    one.open(CHAPTERS[0])
    solution = one.page.locator("article details:not([class])", has_text="Solution").last
    words = re.search(r"[a-z_]{6,}", solution.locator("pre").first.text_content())[0]
    pdf = pypdf.PdfReader(io.BytesIO(one.page.pdf(format="A4")))
    text = "".join("".join(page.extract_text() for page in pdf.pages).split())
    assert 3 <= len(pdf.pages) <= 40
    assert "Eraseadigit" in text and words in text, "the title or a solution is missing on paper"
    assert "Tabularasa,andalllayers" not in text, "the navigation is printed"
    blank = [i + 1 for i, page in enumerate(pdf.pages) if not page.extract_text().strip() and not page.images]
    assert len(blank) <= 1, f"blank pages: {blank}"
    assert not one.page.evaluate("() => document.querySelectorAll('article details:not([class])[open]').length")
    theme = "(name) => { window.dispatchEvent(new Event(name)); return document.documentElement.dataset.theme; }"
    assert one.page.evaluate(theme, "beforeprint") == "light", "code in the colours of the night, on white paper"
    assert one.page.evaluate(theme, "afterprint") == "dark"
    one.page.emulate_media(media="print")
    ground = one.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert ground in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)"), f"a dark page would cost a cartridge: {ground}"
