"""Every page of the book, in a browser: one visit each (see visit.py), read by the tests below."""

from __future__ import annotations

import re
from pathlib import Path

from served import CONFIG, ROOT, SITE, pretty

RAW_TEX = re.compile(r"\\\(|\\\[|\$\$|\\(?:frac|Sigma|lambda|alpha|top|dagger|lVert|mathbf|text|begin)\b")
COLAB = re.compile(r"https://colab\.research\.google\.com/github/([^/]+/[^/]+)/blob/([^/]+)/(.+)")


def test_opens_without_errors(seen, page_name):
    found = seen(page_name)
    assert not found["failed"], "requests that failed:" + pretty(found["failed"])
    assert not found["errors"], "the console says:" + pretty(found["errors"])


def test_asks_for_nothing_from_elsewhere(seen, page_name):
    assert not seen(page_name)["outside"], "works only with a network:" + pretty(seen(page_name)["outside"])


def test_headings_are_in_order(seen, page_name):
    levels = seen(page_name)["headings"]
    assert [level for level, _ in levels].count(1) == 1 and levels[0][0] == 1, f"one h1, first: {levels}"
    jumps = [f"h{a} {x!r} → h{b} {y!r}" for (a, x), (b, y) in zip(levels, levels[1:], strict=False) if b > a + 1]
    assert not jumps, "levels are skipped:" + pretty(jumps)


def test_figures_load(seen, page_name):
    found = seen(page_name)
    missing = [src for src, loaded, loading in found["pictures"] if not loaded and loading != "lazy"]
    assert not missing, "pictures that did not load:" + pretty(missing)
    empty = [caption for caption, panels, height in found["figures"] if panels == 0 or height < 40]
    assert not empty, "figures that show nothing:" + pretty(empty)


def test_chapters_have_figures(seen, chapter_name):
    assert seen(chapter_name)["figures"], "a chapter without a figure"


def test_math_is_typeset(seen, page_name):
    found = seen(page_name)
    assert found["typeset"] == found["formulas"], "formulas that MathJax did not typeset"
    assert not found["mathErrors"], "MathJax says:" + pretty(found["mathErrors"])
    raw = [found["prose"][max(0, m.start() - 40) : m.end() + 40] for m in RAW_TEX.finditer(found["prose"])]
    assert not raw, "raw TeX in the text:" + pretty(raw)


def test_folded_text_opens(seen, page_name):
    assert not seen(page_name)["still_folded"], "did not open:" + pretty(seen(page_name)["still_folded"])


def test_chapters_have_hints_and_solutions(seen, chapter_name):
    assert seen(chapter_name)["folded"] >= 2


def test_accessible_in_light(seen, page_name):
    assert not seen(page_name)["axe_light"], "axe-core:" + pretty(seen(page_name)["axe_light"])


def test_accessible_in_dark(seen, page_name):
    assert not seen(page_name)["axe_dark"], "axe-core:" + pretty(seen(page_name)["axe_dark"])


def test_fits_a_phone(seen, page_name):
    assert not seen(page_name)["too_wide"], "scrolls sideways:" + pretty(seen(page_name)["too_wide"])


def test_no_caption_is_cut_off(seen, page_name):
    found = seen(page_name)
    assert not found["cut_off"]["captions"], "at 1280 pixels:" + pretty(found["cut_off"]["captions"])
    assert not found["cut_off_on_a_phone"], "at 390 pixels:" + pretty(found["cut_off_on_a_phone"])


# Chapters in which code, or a table, still has to be scrolled at 1280 pixels.
WIDE_CODE, WIDE_TABLES = ("08", "09", "13", "17", "19", "21"), ("08", "09", "17", "19", "21")


def test_code_and_tables_fit_a_desktop(seen, chapter_name):
    found, number = seen(chapter_name)["cut_off"], Path(chapter_name).stem[:2]
    assert number in WIDE_CODE or not found["code"], "lines are cut off:" + pretty(found["code"])
    assert number in WIDE_TABLES or not found["tables"], "columns are cut off:" + pretty(found["tables"])


def test_the_keyboard_reaches_what_scrolls(seen, page_name):
    missed = seen(page_name)["unreachable"]
    assert not missed, "no tab stop, or one without a name:" + pretty(missed)


def test_colab_badges_point_at_files_that_exist(seen, page_name):
    repository = CONFIG["repository"]
    for badge in seen(page_name)["badges"]:
        match = COLAB.fullmatch(badge)
        assert match, f"not a Colab address: {badge}"
        slug, branch, path = match.groups()
        assert repository["url"].endswith(f"github.com/{slug}") and branch == repository["branch"], badge
        assert (ROOT / path).is_file(), f"{badge} opens {path}, which is not in the repository"


def test_chapters_have_a_badge_of_their_own(seen, chapter_name):
    own = f"/{Path(chapter_name).with_suffix('.ipynb')}"
    assert any(badge.endswith(own) for badge in seen(chapter_name)["badges"])


def test_no_dead_links(seen, page_name):
    """As the browser sees them, scripts included; book/check_site.py reads the files."""
    here, dead = SITE / page_name, []
    for link in seen(page_name)["links"]:
        if re.match(r"[a-z+]+:|//", link):
            continue
        path, _, anchor = link.partition("#")
        target = (here.parent / path.split("?")[0]).resolve() if path.split("?")[0] else here
        if not target.is_file():
            dead.append(link)
        elif anchor and target.suffix == ".html" and f'"{anchor}"' not in target.read_text(encoding="utf-8"):
            dead.append(link)
    assert not dead, pretty(dead)
