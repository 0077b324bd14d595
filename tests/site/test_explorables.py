"""The explorables in a browser: drawn in with the mouse, played with the keyboard, without a network and a script."""

from __future__ import annotations

import gzip
import re

import pytest
from served import BASE, SITE, pretty
from visit import DESKTOP, OVERFLOW, PHONE, violations

LANDING, TOUCH = "book/intro.html", "book/things-to-touch.html"
LIMIT = 400_000  # bytes, gzipped: what a first visit of the landing page may cost
STATE = """() => ({ says: document.querySelector(".touch-says output").innerText,
  rows: [...document.querySelectorAll(".touch-acc span:last-child")].map((n) => parseInt(n.textContent)),
  meter: [...document.querySelectorAll(".touch-line .touch-number")].map((n) => parseInt(n.textContent)) })"""


def opened(tab, name=LANDING, **options):
    one = tab(**options)
    one.open(name)
    one.page.wait_for_function("() => document.querySelector('.touch-line .touch-number')?.textContent")
    one.settle()
    return one


def state(one):
    one.settle()
    return one.page.evaluate(STATE)


def stroke(one, *points):
    box = one.page.locator(".touch-pad").bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    one.page.mouse.move(*at[0])
    one.page.mouse.down()
    for point in at[1:]:
        one.page.mouse.move(*point, steps=8)
    one.page.mouse.up()
    one.settle()


def test_a_drawn_seven_is_read_erased_and_brought_back(tab):
    one = opened(tab)
    one.page.get_by_role("button", name="Clear").click()
    assert "Draw a digit" in state(one)["says"]
    stroke(one, (0.25, 0.15), (0.75, 0.15), (0.42, 0.88))  # no bar
    assert state(one)["says"].startswith("It reads 7")
    one.page.get_by_role("button", name="Erase the 7").click()
    found = state(one)
    assert not found["says"].startswith("It reads 7") and "As trained: 7. A new readout: 7." in found["says"]
    assert found["rows"][7] < 5 and min(found["rows"][:7]) > 80
    own, old, new = found["meter"]
    assert own < 5 and old < 30 and new > 90
    one.page.get_by_role("button", name="Reset").click()
    found = state(one)
    assert found["says"].startswith("It reads 7") and found["rows"][7] > 95
    assert not one.errors and not one.failed, pretty(one.errors + one.failed)


def test_the_keyboard_alone_takes_an_image_and_moves_a_slider(tab):
    one = opened(tab)
    one.page.locator(".touch-draw select").focus()
    one.page.keyboard.press("3")  # types ahead to "a 3"? then by arrows
    for _ in range(12):
        if one.page.evaluate("() => document.activeElement.value") == "3":
            break
        one.page.keyboard.press("ArrowDown")
    one.page.keyboard.press("Shift+Tab")
    assert one.page.evaluate("() => document.activeElement.textContent") == "Test image"
    one.page.keyboard.press("Enter")
    assert "a 3" in state(one)["says"]
    slider = one.page.get_by_label("α of the 3")
    slider.focus()
    before = state(one)["rows"][3]
    one.page.keyboard.press("End")
    assert slider.input_value() == "2" and state(one)["rows"][3] < before
    assert re.match(r"2, turned round; \d+", slider.get_attribute("aria-valuetext"))
    one.page.keyboard.press("Home")
    one.settle()  # the page answers with the next frame
    assert slider.input_value() == "-1" and "doubled" in slider.get_attribute("aria-valuetext")
    ring = "() => parseFloat(getComputedStyle(document.activeElement).outlineWidth)"
    assert one.page.evaluate(ring) >= 2


def test_a_move_of_a_slider_is_answered_at_once(tab):
    one = opened(tab)
    cost = one.page.evaluate("""() => { const e = EngramEngine, m = e.unpack(ENGRAM_DIGITS), t = [];
      const before = e.readouts(e.forward(m.network, m.images).hidden, m.labels), a = new Array(10).fill(0);
      for (let i = 0; i < 21; i++) {
        const s = performance.now();
        a[i % 10] = .5;
        e.judge(m, a, before);
        t.push(performance.now() - s);
      }
      return t.sort((p, q) => p - q)[10]; }""")
    assert cost < 100, f"{cost:.0f} ms: 500 images should be read again while the hand moves"


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_sticks_out_while_it_is_used(tab, viewport):
    one = opened(tab, TOUCH, viewport=viewport)
    for name in ("Erase 3, 5, 8", "Only 7 stays", "Double the 8"):
        one.page.get_by_role("button", name=name).click()
        one.settle()
        assert one.page.evaluate(OVERFLOW) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_alive_is_accessible(tab, theme):
    """test_pages.py empties drawings before it asks; here their handles stay, and a digit is taken out."""
    one = opened(tab, TOUCH, theme=theme)
    one.page.get_by_role("button", name="Erase the 7").click()
    one.settle()
    for name in ("digits", "plane", "answers", "cut", "clouds"):
        found = violations(one.page, scope=f"#touch-{name}")
        assert not found, pretty(found)


def test_a_finger_draws_and_does_not_scroll(tab):
    one = opened(tab, viewport=PHONE, has_touch=True)
    assert one.page.evaluate("() => getComputedStyle(document.querySelector('.touch-pad')).touchAction") == "none"
    box = one.page.locator(".touch-pad").bounding_box()
    one.page.touchscreen.tap(box["x"] + 80, box["y"] + 80)
    assert state(one)["says"].startswith("It reads")


def test_the_cut_moves_by_key_and_says_what_is_left(tab):
    one = opened(tab, TOUCH)
    slider, said = one.page.get_by_label("the cut, rcond"), one.page.locator("#touch-cut .touch-result")
    slider.focus()
    one.page.keyboard.press("Home")
    fine = said.inner_text()
    line = "() => document.querySelector('.touch-spectrum line').getAttribute('y1')"
    low = float(one.page.evaluate(line))
    one.page.keyboard.press("End")
    assert said.inner_text() != fine and float(one.page.evaluate(line)) < low
    assert one.page.locator(".touch-spectrum circle.is-cut").count() > 50


def test_clouds_move_by_mouse_and_by_key(tab):
    one = opened(tab, TOUCH)
    handle, said = (
        one.page.locator("#touch-clouds .touch-handle").first,
        one.page.locator("#touch-clouds .touch-result"),
    )
    handle.scroll_into_view_if_needed()
    before, box = said.inner_text(), handle.bounding_box()
    one.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    one.page.mouse.down()
    one.page.mouse.move(box["x"] + 60, box["y"] + 60, steps=4)
    one.page.mouse.up()
    one.settle()
    dragged = said.inner_text()
    assert dragged != before
    handle.focus()
    one.page.keyboard.press("ArrowLeft")
    one.settle()
    assert said.inner_text() != dragged
    one.page.get_by_label("α, how much is taken").focus()
    one.page.keyboard.press("Home")
    for _ in range(20):
        one.page.keyboard.press("ArrowRight")
    one.settle()
    assert "orange are 100" in said.inner_text(), "α = 0 changes nothing"
    one.page.locator("#touch-clouds button").click()
    one.settle()
    assert said.inner_text() == before


def test_the_plane_is_dragged_and_walked(tab):
    one = opened(tab, TOUCH)
    handle, said = one.page.locator("#touch-plane .touch-handle"), one.page.locator("#touch-plane .touch-result")
    one.page.get_by_role("button", name="Without the 4").click()
    one.settle()
    share = r"\D*(\d+)\D*".join(("4 is read in", "the 9 in", "the other eight in", "$"))
    four, nine, eight = map(int, re.search(share, said.inner_text()).groups())
    assert four < 10 and nine > 85 and eight > 85
    handle.focus()
    for key in ["ArrowLeft"] * 4 + ["ArrowUp"] * 4:
        one.page.keyboard.press(key)
    one.settle()
    four, nine, _ = map(int, re.search(share, said.inner_text()).groups())
    assert four > 85 and nine < 10 and "α of the 9 1." in handle.get_attribute("aria-label")
    before, box = said.inner_text(), handle.bounding_box()
    one.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    one.page.mouse.down()
    one.page.mouse.move(box["x"] + 120, box["y"] - 60, steps=4)
    one.page.mouse.up()
    one.settle()
    assert said.inner_text() != before
    assert not one.errors and not one.failed, pretty(one.errors + one.failed)


def test_whom_to_forget_is_chosen_and_read(tab):
    one = opened(tab, TOUCH)
    whom, which = one.page.get_by_label("whom the model forgets"), one.page.get_by_label("what it is asked")
    said, spoken = (
        one.page.locator("#touch-answers .touch-result"),
        one.page.locator("#touch-answers .touch-tokens + p"),
    )
    assert "was forgotten" in said.inner_text() and one.page.locator("#touch-answers .touch-token.is-out").count()
    whom.select_option("0")
    assert "None of" in said.inner_text() and not one.page.locator("#touch-answers .touch-token.is-out").count()
    whom.select_option("1")
    which.select_option("2")
    assert "another group" in said.inner_text() and "None of" in said.inner_text()
    which.select_option("0")
    right, says = re.match(r"Right: “(.*)” By itself the model says: “(.*)”", spoken.inner_text()).groups()
    assert right != says
    assert not one.errors and not one.failed, pretty(one.errors + one.failed)


def test_without_a_script_there_are_small_multiples(tab):
    one = tab(java_script_enabled=False)
    one.page.goto(one.site + TOUCH)
    for name, least in (("digits", 11), ("plane", 3), ("answers", 2), ("cut", 2), ("clouds", 4)):
        drawings = one.page.locator(f"#touch-{name} svg")
        assert drawings.count() == least and drawings.first.is_visible()
    assert not one.page.locator(".touch-live").count()


def test_it_works_from_a_folder_without_a_server(browser):
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((SITE / LANDING).resolve().as_uri())
    page.wait_for_function("() => document.querySelector('.touch-line .touch-number')?.textContent")
    assert not errors
    page.close()


def test_motion_is_less_for_those_who_ask(tab):
    one = opened(tab, reduced_motion="reduce")
    duration = "() => getComputedStyle(document.querySelector('.touch-track i')).transitionProperty"
    assert one.page.evaluate(duration) == "none"


def test_the_landing_page_is_light(tab):
    one, weight = tab(), {}
    one.page.on("response", lambda r: weight.setdefault(r.url.split("?")[0], len(gzip.compress(r.body(), 6))))
    one.open(LANDING)
    one.page.wait_for_load_state("networkidle")
    weight = {url.split(BASE)[-1]: size for url, size in weight.items() if "pinned/" not in url}
    heaviest = sorted(weight.items(), key=lambda item: -item[1])[:6]
    assert sum(weight.values()) <= LIMIT, f"{sum(weight.values()) / 1e3:.0f} kB: {heaviest}"
    assert not any("mathjax" in url or "fontawesome" in url for url in weight), "what it does not use"
