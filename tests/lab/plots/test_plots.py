import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib import pyplot as plt

matplotlib.use("agg")

from engramlib.lab import plots  # noqa: E402

pytestmark = pytest.mark.usefixtures("figure_style")


def line(**kwargs):
    fig, ax = plt.subplots(**kwargs)
    ax.plot([0, 1, 2], [0.1, 0.5, 0.9], marker="o")
    ax.plot([0, 1, 2], [0.2, 0.2, 0.3], color="black")
    ax.set_xlabel("strength α <&>")
    return fig


def html(fig, **kwargs):
    return plots.figure_html(fig, **{"caption": "See.", "alt": "A line."} | kwargs)


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def get(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


def test_ink_follows_the_page_and_nothing_leaks():
    text = html(line())
    assert "currentColor" in text and plots.INK not in text and "#000000" not in text
    assert "<style" not in text and "<?xml" not in text and "<metadata" not in text and "DOCTYPE" not in text
    assert "#ffffff" not in text  # no white background
    assert plots.COLOURS[0].lower() in text.lower()


def test_text_stays_text_in_the_pages_font():
    text = html(line())
    assert "strength α &lt;&amp;&gt;" in text
    assert not any("font-family" in a["style"] for a in Elements(text).get("text"))


def test_the_figure_is_described_and_captioned():
    text = html(line(), caption='Falls & "stays" <0.1', alt='say "hi" & <go>')
    (svg,) = Elements(text).get("svg")
    assert svg["role"] == "img" and svg["aria-label"] == 'say "hi" & <go>'
    assert '<figcaption>Falls &amp; "stays" &lt;0.1</figcaption>' in text
    for missing in ({"caption": ""}, {"alt": " "}):
        with pytest.raises(ValueError, match=next(iter(missing))):
            html(line(), **missing)
    with pytest.raises(TypeError, match="Figure"):
        html("not a figure")


def test_ids_are_unique_in_a_page_and_every_reference_is_met():
    fig = line()
    text = html(fig) + html(fig) + html([line(), line()])
    ids = re.findall(r'\bid="([^"]+)"', text)
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    assert len(ids) == len(set(ids)) > 0
    assert used == set(ids)


def test_width_follows_the_page():
    small, wide = (Elements(html(line(figsize=(w, 3.0)))).get("svg")[0]["style"] for w in (4.0, 9.0))
    assert "width:100%" in small and "max-width:384px" in small
    assert "min-width" not in small  # shrinks with any page
    assert "min-width:588px" in wide  # smaller it could not be read


# --- boxes that scroll ------------------------------------------------------------------------------------------


def compose(names, n=3):
    shown = {"a state with a long name": names[:1], "nothing": names}
    return plots.composition_html(np.full((2**n, n), 0.5), names, shown=shown, caption="See.", alt="All.")


def replication():
    from engramlib.lab.teaching import chapter

    return displayed(chapter.replication_table, [{"what": "x" * 80, "published": 0.5}], "See.")


def live():
    said = {"caption": "See.", "alt": "A line."}
    return displayed(plots.live, lambda _: line(figsize=(9, 3)), {"x": [0]}, start=[0], **said)


def displayed(show, *args, **kwargs):
    with pytest.MonkeyPatch.context() as patch:
        out = []
        patch.setattr("IPython.display.display", lambda data, raw: out.append(data["text/html"]))
        show(*args, **kwargs)
    return out[0]


# Everything that puts a box into a page, and how many of its boxes scroll.
BOXES = {
    "figure": (lambda: html(line()), 0),
    "wide figure": (lambda: html(line(figsize=(9, 3))), 1),
    "several": (lambda: html([line(figsize=(9, 3)), line()]), 1),
    "images": (lambda: html(plots.image_grid(np.zeros((12, 8, 8)), columns=12, titles=["a title"] * 12)), 1),
    "heatmap": (lambda: html(plots.class_heatmap(np.zeros((3, 2)), ["cat", "dog"])), 0),
    "wide heatmap": (lambda: html(plots.class_heatmap(np.zeros((21, 20)), [f"class {i}" for i in range(20)])), 1),
    "frames": (lambda: plots.frames_html([line()] * 2, [0, 1], caption="See.", alt="x"), 0),
    "wide frames": (lambda: plots.frames_html([line(figsize=(9, 3))] * 2, [0, 1], caption="See.", alt="x"), 2),
    "composition": (lambda: compose(list("abc")), 0),
    "wide composition": (lambda: compose([f"a concept of many words, {i}" for i in range(3)]), 3),
    "table": (lambda: plots.table_html([{"a": 1, "b": "x" * 80}], "See."), 1),
    "replication table": (replication, 1),
    "live": (live, 1),
}


@pytest.mark.parametrize("name", BOXES)
def test_what_can_scroll_is_a_tab_stop_with_a_name_and_nothing_else_is(name, monkeypatch):
    monkeypatch.setenv("ENGRAM_LIVE", "0")
    make, count = BOXES[name]
    page = BeautifulSoup(make(), "html.parser")
    boxes = page.select(".engram-scrolls")
    assert len(boxes) == count and page.select("[tabindex]") == boxes
    for box in boxes:
        kind = "table" if box.table else "figure"
        assert (box["tabindex"], box["role"], box["aria-label"]) == ("0", "group", f"Scrollable {kind}")
    for picture in page.select("svg[role=img]"):  # what has a least width can overflow, and only that
        assert ("min-width" in picture["style"]) == (picture.find_parent(class_="engram-scrolls") is not None)


def test_no_other_box_scrolls():
    rules = re.findall(r"([^{}]*)\{([^{}]*)\}", plots.css())
    free = {name.strip() for name, style in rules if re.search(r"overflow(-[xy])?:\s*(auto|scroll)", style)}
    assert free == {".engram-scrolls"}
    (ring,) = (style for name, style in rules if name.strip() == ".engram-scrolls:focus-visible")
    assert "outline:2px solid" in ring and "outline-offset:-2px" in ring  # inside: a box around would cut it off


# --- images and heatmaps ----------------------------------------------------------------------------------------


def test_sizes_stay_small():
    n = len(html(plots.class_heatmap(np.random.rand(11, 10), list("0123456789"))))
    assert n < 40_000
    assert len(html(plots.image_grid(np.random.rand(20, 28, 28)))) < 100_000


def test_images_keep_their_pixels():
    text = html(plots.image_grid(np.random.rand(2, 8, 8)))
    assert text.count("data:image/png;base64,") == 2 and "pixelated" in text
    with pytest.raises(ValueError, match="images"):
        plots.image_grid(np.zeros((2, 5, 8, 8)))


def test_titles_over_all_images_or_over_the_columns_and_names_beside_the_rows():
    images = np.random.rand(7, 8, 8)
    each = plots.image_grid(images, titles=list("abcdefg"), columns=3)
    heads = plots.image_grid(images, titles=["left", "middle", "two\nlines"], rows=["one", "two", "three"], columns=3)
    assert texts(each) == list("abcdefg") and len(each.axes) == 1 and len(each.axes[0].images) == 7
    assert texts(heads) == ["one", "left", "middle", "two\nlines", "two", "three"]
    with pytest.raises(ValueError, match="7 images in 3 columns, but 2 titles"):
        plots.image_grid(images, titles=["a", "b"], columns=3)
    with pytest.raises(ValueError, match="3 rows but 1 names"):
        plots.image_grid(images, rows=["a"], columns=3)


def texts(fig):
    return [t.get_text() for ax in fig.axes for t in ax.texts]


def test_heatmap_rows_columns_and_numbers():
    matrix = [[1.0, 0.996], [0.024, 0.5], [0.25, float("nan")]]
    fig = plots.class_heatmap(matrix, ["cat", "dog"])
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["none", "cat", "dog"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cat", "dog"]
    assert texts(fig) == ["1.0", "1.0", ".02", ".50", ".25"]  # NaN stays empty
    low, high = (matplotlib.colors.to_rgb(p.get_facecolor()) for p in (ax.patches[2], ax.patches[0]))
    assert sum(low) < sum(high)


def test_heatmap_of_many_classes_is_an_image():
    fig = plots.class_heatmap(np.random.rand(41, 40), [str(i) for i in range(40)])
    assert not texts(fig) and fig.axes[0].images


def test_heatmap_errors():
    with pytest.raises(ValueError, match="3 x 3.*4 row names and 3 classes"):
        plots.class_heatmap(np.zeros((3, 3)), list("abc"))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        plots.class_heatmap([[2.0], [0.0]], ["a"])


def test_frames_are_small_multiples_that_a_script_turns_into_a_player():
    figs = [line(figsize=(2, 2)) for _ in range(3)]
    text = plots.frames_html(figs, [-1, 0.5, 1], caption="See.", alt="A line.", start=2)
    page = Elements(text)
    frames = [a for a in page.get("div") if "engram-frame" in a.get("class", "").split()]
    assert [f["data-label"] for f in frames] == ["α = -1", "α = 0.5", "α = 1"]
    assert [a["class"] for _, a in page.found if "hidden" in a] == ["engram-controls"]
    (slider,) = page.get("input")
    assert slider["type"] == "range" and slider["max"] == "2" and page.get("button") and page.get("label")
    assert ".is-player .engram-frame:not(.is-on)" in plots.css() and "@media screen" in plots.css()


def test_two_players_do_not_share_an_id():
    pages = [plots.frames_html([line()], [1], caption="See.", alt="x") for _ in range(2)]
    names = [Elements(p).get("figure")[0]["id"] for p in pages]
    assert names[0] != names[1] and all(f'("{n}")' in p for n, p in zip(names, pages, strict=True))


def test_frames_errors():
    with pytest.raises(ValueError, match="1 figures but 2 labels"):
        plots.frames_html([line()], [1, 2], caption="c", alt="a")
    with pytest.raises(ValueError, match="start"):
        plots.frames_html([line()], [1], caption="c", alt="a", start=1)
    with pytest.raises(ValueError, match="empty"):
        plots.frames_html([], [], caption="c", alt="a")


def test_table_is_a_real_table():
    rows = [{"what": "a<b", "x": 0.12345, "y": "0.03 ± 0.01"}, {"what": "c", "x": None}, {"what": "d", "x": np.nan}]
    text = plots.table_html(rows, "Numbers & more")
    page = Elements(text)
    assert [a["scope"] for a in page.get("th")] == ["col"] * 3 + ["row"] * 3
    assert "<caption>Numbers &amp; more</caption>" in text and "a&lt;b" in text
    assert re.findall(r'<td class="num">(.*?)</td>', text) == ["0.123", "0.03 ± 0.01", "", "", "", ""]
    with pytest.raises(ValueError, match="no rows"):
        plots.table_html([], "x")


def test_colab_figures_bring_their_style_along(monkeypatch):
    assert "engram-css" not in html(line())
    monkeypatch.setitem(__import__("sys").modules, "google.colab", object())
    assert html(line()).startswith(plots.css())


def test_show_displays_html_and_closes(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    fig = line()
    plots.show(fig, caption="See.", alt="A line.")
    assert shown[0]["text/html"].startswith("<figure") and "A line." in shown[0]["text/plain"]
    assert not plt.fignum_exists(fig.number)
