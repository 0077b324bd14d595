"""The players' scripts at work: one page, opened as a file, without a server and without a network."""

import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt

matplotlib.use("agg")

from engramlib.lab import plots  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "book"), str(ROOT / "tests/site")]

WITHOUT = "needs playwright: make site-test installs it and runs this"
pytest.importorskip("playwright", reason=WITHOUT)
browser = pytest.importorskip("browser")
visit = pytest.importorskip("visit", reason=WITHOUT)

N, LABELS = 10, [-1, 0, 0.5, 1]
ACCURACY = np.random.default_rng(0).uniform(0.5, 1, (2**N, N)).round(2)
ERASED = (np.arange(2**N)[:, None] >> np.arange(N - 1, -1, -1) & 1).astype(bool)


def small(width=2):
    fig, ax = plt.subplots(figsize=(width, 2))
    ax.plot([0, 1])
    return fig


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    strip = plots.frames_html([small() for _ in LABELS], LABELS, caption="c", alt="a", start=1, interval=0.05)
    plt.close("all")
    shown = {"everything": [], "− 4 − 9": [4, 9], "nothing": range(N)}
    tick = plots.composition_html(ACCURACY, range(N), shown=shown, caption="c", alt="a", start=[4])
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(f'<!doctype html><meta name="viewport" content="width=device-width">{plots.css()}{strip}{tick}')
    return path


@pytest.fixture(scope="module")
def chromium():
    if browser.executable() is None:
        pytest.skip(browser.MISSING)
    with browser.chromium() as running:
        yield running


@pytest.fixture
def opened(chromium, page_file):
    """opened(**options): the page in a fresh window; no error may be left in its console."""
    errors, windows = [], []

    def open_page(**options):
        window = chromium.new_context(**{"viewport": {"width": 390, "height": 800}} | options)
        windows.append(window)
        page = window.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_file.as_uri())
        return page

    yield open_page
    for window in windows:
        window.close()
    assert not errors


def frame(page):
    """What the strip shows, once its three places agree."""
    assert page.locator(".engram-composition .engram-frame:visible").count() == 0
    (on,) = page.locator(".engram-frame:visible").all()
    label = on.get_attribute("data-label")
    assert page.locator("output").first.inner_text() == label
    assert page.locator("input[type=range]").get_attribute("aria-valuetext") == label
    return label


def test_the_strip_moves_with_keys_and_plays_with_the_space_bar(opened):
    page = opened()
    slider, button = page.locator("input[type=range]"), page.locator("button").first
    assert frame(page) == "α = 0"
    slider.focus()
    for key, label in (("ArrowRight", 0.5), ("Home", -1), ("ArrowLeft", -1), ("End", 1), ("ArrowDown", 0.5)):
        page.keyboard.press(key)
        assert frame(page) == f"α = {label}"
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    assert button.inner_text().endswith("Pause")
    page.wait_for_function("document.querySelector('button').textContent.endsWith('Play')")
    assert frame(page) == "α = 1"  # it stops at the end, and starts anew from there
    button.click()
    page.wait_for_function("document.querySelector('output').textContent === 'α = 0.5'")
    slider.focus()
    page.keyboard.press("Home")  # touching the slider stops it
    page.wait_for_timeout(200)
    assert frame(page) == "α = -1" and button.get_attribute("aria-label") == "Play"


def test_jupyterlab_leaves_the_keys_to_the_controls(opened):
    """Lumino looks for this attribute on the element with the focus, before it matches shortcuts for `:focus`."""
    page = opened()
    controls = page.locator(".engram-controls input, .engram-controls button").all()
    assert len(controls) == 2 + N + 3
    assert all(control.get_attribute("data-lm-suppress-shortcuts") == "true" for control in controls)


def test_who_wants_less_motion_goes_frame_by_frame(opened):
    page = opened(reduced_motion="reduce")
    button = page.locator("button").first
    assert button.get_attribute("aria-label") == "Next"
    seen = []
    for _ in LABELS:
        button.click()
        page.wait_for_timeout(120)
        seen.append(frame(page))
    assert seen == ["α = 0.5", "α = 1", "α = -1", "α = 0"]


def test_ticks_show_the_numbers_of_that_state(opened):
    page = opened(has_touch=True)
    figure = page.locator(".engram-composition")
    state, ticks = figure.locator("output"), figure.locator("input")

    def numbers():
        told = figure.locator(".engram-now svg").get_attribute("aria-label")
        return [float(v) for v in re.findall(r": (\d\.\d\d)", told)]

    def row(*erased):
        return int(sum(2 ** (N - 1 - c) for c in erased))

    assert numbers() == ACCURACY[row(4)].tolist()
    ticks.nth(9).focus()
    page.keyboard.press(" ")
    assert numbers() == ACCURACY[row(4, 9)].tolist()
    gone, kept = ACCURACY[row(4, 9)][[4, 9]].mean(), np.delete(ACCURACY[row(4, 9)], [4, 9]).mean()
    said = [float(v) for v in re.findall(r"\d\.\d\d", state.inner_text())]
    assert state.inner_text().startswith("Erased: 4, 9. Accuracy on the erased ")
    assert np.abs(np.array(said) - [gone, kept]).max() <= 0.0051
    assert figure.locator("[aria-pressed=true]").inner_text() == "− 4 − 9"
    out = figure.locator(".engram-now .is-out")
    assert [b.get_attribute("data-concept") for b in out.all()] == ["4", "9"]
    heights = [float(b.get_attribute("height")) / 130 for b in figure.locator(".engram-now rect").all()]
    assert np.abs(np.array(heights) - ACCURACY[row(4, 9)]).max() < 0.001

    figure.locator("button", has_text="nothing").tap()
    assert all(t.is_checked() for t in ticks.all()) and "on the kept" not in state.inner_text()
    figure.locator("button", has_text="everything").tap()
    assert state.inner_text().startswith("Nothing erased. Accuracy on the kept ")
    assert not any(t.is_checked() for t in ticks.all())


def test_a_click_on_the_map_goes_to_that_state(opened):
    page = opened()
    figure = page.locator(".engram-composition")
    kept = np.where(ERASED, np.nan, ACCURACY)[:-1]
    worst = int(np.nanmean(kept, 1).argmin())
    place = figure.locator(".engram-dots").get_attribute("d").split("M")[1:][worst]
    x, y = (float(v) for v in place.removesuffix("h0").split())
    net = figure.locator(".engram-lattice")
    net.scroll_into_view_if_needed()
    box, wide = net.bounding_box(), net.evaluate("e => e.viewBox.baseVal.width")
    page.mouse.click(box["x"] + x * box["width"] / wide, box["y"] + y * box["width"] / wide)
    assert [t.is_checked() for t in figure.locator("input").all()] == ERASED[worst].tolist()
    assert figure.locator(".engram-at path").get_attribute("d").count("L") >= N - 1  # its neighbours
    dot = figure.locator(".engram-at circle")
    assert abs(float(dot.get_attribute("cx")) - x) < 0.11 and abs(float(dot.get_attribute("cy")) - y) < 0.11


# Far from what any machine has: results must not depend on its fonts.
FONTS = {
    "own": "* { }",
    "wide": "* { font-family: monospace !important; letter-spacing: .15em !important } html { font-size: 130% }",
    "narrow": "* { letter-spacing: -.15em !important } html { font-size: 80% }",
}


@pytest.fixture(scope="module")
def boxes_file(tmp_path_factory):
    """Every kind of box, wide and narrow, in a page that cuts off what sticks out, as an output cell does."""
    words = [f"a concept of many words, {i}" for i in range(3)]
    said, shown = {"caption": "c" * 60, "alt": "a"}, {"a state with a long name": [], "x" * 60: []}
    html = [plots.css(), plots.table_html([{"a": 1, "b": "x" * 90}], "c"), plots.table_html([{"a": 1}], "c")]
    html += [plots.figure_html([small(w), small(w)], **said) for w in (3, 5.2, 9)]
    html += [plots.frames_html([small(w), small(w)], ["x" * 60, 1], **said) for w in (3, 9)]
    html += [plots.composition_html(np.full((8, 3), 0.5), n, shown=shown, **said) for n in (words, list("abc"))]
    html += [plots.composition_html(ACCURACY, range(N), shown=shown, **said)]
    html += [plots.figure_html(plots.class_heatmap(np.zeros((n + 1, n)), range(n)), **said) for n in (4, 16)]
    plt.close("all")
    path = tmp_path_factory.mktemp("boxes") / "page.html"
    path.write_text(
        '<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>Boxes</title><main>'
        + "".join(f'<div class="cell" style="overflow-x:auto">{part}</div>' for part in html)
    )
    return path


@pytest.mark.parametrize("script", [True, False], ids=["script", "plain"])
@pytest.mark.parametrize("font", FONTS)
def test_the_keyboard_reaches_every_box_that_scrolls(opened, boxes_file, font, script):
    page = opened()
    html = boxes_file.read_text()
    page.set_content(html if script else re.sub(r"<script>.*?</script>", "", html, flags=re.S))
    page.add_style_tag(content=FONTS[font])
    overflow = "(boxes) => boxes.filter((box) => box.scrollWidth > box.clientWidth + 1).length"
    for width in (320, 390, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_function("(width) => innerWidth === width", arg=width)
        assert page.evaluate(visit.UNREACHABLE) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator(".cell").evaluate_all(overflow) == 0, "a box sticks out of its cell"
        assert not visit.violations(page, without=("color-contrast",))
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.locator(".engram-scrolls:visible").evaluate_all(overflow) >= 6


def test_the_caption_of_a_wide_table_can_be_read_without_scrolling(opened):
    page = opened()
    text = plots.table_html([{"row": "a", **{f"column {k}": "0.12 ± 0.03" for k in range(9)}}], "word " * 40)
    page.set_content(f'<meta name="viewport" content="width=device-width">{plots.css()}{text}')
    box, caption = page.locator(".engram-table-box"), page.locator("caption")
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_function("(width) => innerWidth === width", arg=width)
        place = caption.bounding_box()
        assert place["x"] >= 0 and place["x"] + place["width"] <= width
    page.set_viewport_size({"width": 390, "height": 800})
    assert box.evaluate("(box) => box.scrollWidth > box.clientWidth + 100")


# --- heatmaps ---------------------------------------------------------------------------------------------------

VALUES = np.array([[0.25, -1.5, np.nan], [0.0, 0.5, 1.0]])


@pytest.fixture
def heat(opened):
    """heat(page_options): a page with one heatmap, narrow or wide, and what it tells."""

    def open_it(values=VALUES, size=None, **options):
        rows, columns = ([f"{what}{i}" for i in range(n)] for what, n in zip("rc", values.shape, strict=True))
        how = {"limits": (-2, 2), "bar": "points", "ylabel": "erased", "xlabel": "tested", "size": size or (4, 3)}
        text = plots.figure_html(plots.heatmap(values, rows, columns, **how), caption="c", alt="a")
        plt.close("all")
        page = opened(**options)
        page.set_content(
            f'<meta name="viewport" content="width=device-width"><main>{plots.css()}{text}<a href="#">x</a>'
        )
        return page

    return open_it


def cell(page, row, column, shape=(2, 3)):
    """Where a cell is in the window."""
    box, (left, top, width, height) = (
        page.locator(".engram-cells svg").bounding_box(),
        page.evaluate("JSON.parse(document.querySelector('.engram-cells').dataset.cells).box"),
    )
    x = box["x"] + box["width"] * (left + width * (column + 0.5) / shape[1])
    return x, box["y"] + box["height"] * (top + height * (row + 0.5) / shape[0])


def told(page):
    return page.locator(".engram-cell").inner_text()


def test_the_pointer_reads_a_cell_and_leaves_nothing_behind(heat):
    page = heat()
    for at, text in (
        ((0, 1), "erased = r0, tested = c1: −1.5 (points)"),
        ((1, 2), "erased = r1, tested = c2: 1 (points)"),
    ):
        page.mouse.move(*cell(page, *at))
        assert told(page) == text
    page.mouse.move(*cell(page, 0, 2))
    assert told(page) == "erased = r0, tested = c2: –"  # nothing there
    mark, x = page.locator(".engram-mark").last.bounding_box(), cell(page, 0, 2)[0]
    assert mark["x"] < x < mark["x"] + mark["width"]
    page.mouse.move(1, 1)
    assert told(page) == "" and not page.locator(".engram-mark:visible").count()


def test_what_stands_below_does_not_move(heat):
    page = heat()
    before = page.locator("figcaption").bounding_box()["y"]
    page.mouse.move(*cell(page, 0, 1))
    assert told(page) and page.locator("figcaption").bounding_box()["y"] == before


def test_the_arrow_keys_read_the_cells(heat):
    page = heat()
    page.keyboard.press("Tab")
    box = page.locator(".engram-cells")
    assert box.evaluate("(box) => document.activeElement === box")
    assert told(page) == "erased = r0, tested = c0: 0.25 (points)"
    assert box.evaluate("(box) => parseFloat(getComputedStyle(box).outlineWidth)") >= 2
    assert box.get_attribute("data-lm-suppress-shortcuts") == "true"
    for key, text in (
        ("ArrowDown", "r1, tested = c0: 0"),
        ("ArrowDown", "r1, tested = c0: 0"),
        ("ArrowRight", "r1, tested = c1: 0.5"),
        ("ArrowUp", "r0, tested = c1: −1.5"),
        ("ArrowLeft", "r0, tested = c0: 0.25"),
    ):
        page.keyboard.press(key)
        assert told(page).startswith(f"erased = {text} (points)")
    page.mouse.move(*cell(page, 1, 2))  # the pointer may help
    page.keyboard.press("ArrowLeft")
    assert told(page).startswith("erased = r1, tested = c1")
    page.keyboard.press("Tab")
    assert told(page) == "" and page.evaluate("document.activeElement.tagName") == "A"


def test_a_finger_reads_a_cell_and_the_page_still_scrolls(heat):
    page = heat(has_touch=True)
    page.touchscreen.tap(*cell(page, 1, 1))
    assert told(page) == "erased = r1, tested = c1: 0.5 (points)"
    assert page.locator(".engram-cells svg").evaluate("(s) => getComputedStyle(s).touchAction") == "pan-x pan-y"


def test_on_a_phone_the_keys_bring_a_far_cell_into_view(heat):
    values = np.arange(60.0).reshape(2, 30)
    page = heat(values, size=(9, 3))
    page.locator(".engram-cells").focus()
    for _ in range(29):
        page.keyboard.press("ArrowRight")
    assert told(page).startswith("erased = r0, tested = c29: 29")
    mark, line = (page.locator(s).last.bounding_box() for s in (".engram-mark", ".engram-cell"))
    assert 0 <= mark["x"] and mark["x"] + mark["width"] <= 391 and 0 <= line["x"] < 390
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_paper_and_a_page_without_scripts_show_the_picture_alone(heat):
    printed, plain = heat(), heat(java_script_enabled=False)
    printed.mouse.move(*cell(printed, 0, 0))
    printed.emulate_media(media="print")
    for page in (printed, plain):
        assert page.locator(".engram-cells svg").is_visible()
        assert not page.locator(".engram-cell:visible").count() and not page.locator(".engram-mark:visible").count()
    assert plain.locator(".engram-cells").get_attribute("tabindex") is None


@pytest.mark.parametrize("font", FONTS)
def test_it_fits_a_phone_and_forgets(opened, font):
    page = opened()
    page.add_style_tag(content=FONTS[font])
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for target in page.locator(".engram-controls button, .engram-ticks label, input[type=range]").all():
        assert target.bounding_box()["height"] >= 44
    page.locator(".engram-ticks input").first.check()
    page.locator("input[type=range]").focus()
    page.keyboard.press("End")
    page.reload()
    assert frame(page) == "α = 0" and not page.locator(".engram-ticks input").first.is_checked()


def test_they_work_in_a_sandbox_of_their_own_as_in_colab(opened, page_file):
    page = opened()
    page.set_content('<iframe sandbox="allow-scripts" width="380" height="700"></iframe>')
    page.locator("iframe").evaluate("(frame, html) => { frame.srcdoc = html; }", page_file.read_text())
    inside = page.frame_locator("iframe")
    inside.locator("input[type=range]").press("End")
    assert inside.locator("output").first.inner_text() == "α = 1"
    inside.locator(".engram-ticks input").nth(9).press(" ")
    assert inside.locator("output").last.inner_text().startswith("Erased: 4, 9.")


def test_paper_and_a_page_without_scripts_show_small_multiples(opened):
    printed, plain = opened(), opened(java_script_enabled=False)
    printed.emulate_media(media="print")
    for page in (printed, plain):
        assert page.locator(".engram-frame:visible").count() == len(LABELS) + 3
        assert page.locator(".engram-label:visible").count() == len(LABELS) + 3
        assert not page.locator(".engram-controls:visible").count() and not page.locator(".engram-now:visible").count()
        assert page.locator(".engram-lattice").is_visible()


def test_a_live_cell_moves_on_a_page(chromium, tmp_path, monkeypatch):
    """Two sliders choose among what was drawn beforehand; the picture and its description follow."""

    def bars(alpha, digit):
        fig, ax = plt.subplots(figsize=(3, 2))
        ax.bar(range(3), [0.2 * (digit + 1), max(0.0, 1 - alpha), 0.5])
        ax.set(title=f"digit {digit}, α = {alpha:g}", ylim=(0, 1))
        return fig

    shown = []
    monkeypatch.setenv("ENGRAM_LIVE", "0")
    monkeypatch.setattr("IPython.display.display", lambda data, raw=False: shown.append(data["text/html"]))
    controls = {"α": (0.0, 2.0, 0.1), "digit": range(4)}
    plots.live(bars, controls, start=[1.0, 2], caption="c", alt="a", page={"α": [0.0, 1.0, 2.0], "digit": range(4)})
    path = tmp_path / "live.html"
    path.write_text(f"<!doctype html>{plots.css()}{shown[0]}", encoding="utf-8")
    errors = []
    page = chromium.new_page(viewport={"width": 390, "height": 800})
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    said = "() => document.querySelector('.engram-panels svg').getAttribute('aria-label')"
    title = page.locator(".engram-panels svg").first
    assert page.evaluate(said).endswith("α = 1, digit = 2") and "digit 2, α = 1" in title.text_content()
    first, second = page.locator("input[type=range]").all()
    first.focus()
    page.keyboard.press("End")
    second.focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(said).endswith("α = 2, digit = 1") and "digit 1, α = 2" in title.text_content()
    assert [page.locator("output").nth(k).inner_text() for k in (0, 1)] == ["2", "1"]
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390 and not errors
    page.close()
    page = chromium.new_context(java_script_enabled=False).new_page()
    page.goto(path.as_uri())
    assert page.locator(".engram-panels svg").count() == 1 and not page.locator("input").first.is_visible()
