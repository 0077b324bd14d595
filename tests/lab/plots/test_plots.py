import base64
import json
import re
import subprocess
import sys
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
    fig.canvas.draw()
    high, _, low, *_ = (sum(colour[:3]) for colour in ax.collections[0].get_facecolors())
    assert low < high  # dark = 0


def test_heatmap_of_many_classes_is_an_image():
    fig = plots.class_heatmap(np.random.rand(41, 40), [str(i) for i in range(40)])
    text = html(fig)
    assert not texts(fig) and "data:image/png" in text and len(text) < 100_000
    assert fig.axes[1].get_ylabel() == "accuracy"


def stored(text):
    """What the page keeps of the cells of a heatmap: its facts, and the numbers decoded."""
    facts = json.loads(BeautifulSoup(text, "html.parser").select_one(".engram-cells")["data-cells"])
    codes = np.frombuffer(base64.b64decode(facts["codes"]), "<u2").reshape(len(facts["rows"]), len(facts["columns"]))
    numbers = facts["low"] + codes * (facts["high"] - facts["low"]) / 65534
    return facts, np.where(codes > 65534, np.nan, numbers)


@pytest.mark.parametrize("shape", [(3, 4), (40, 40)])
def test_the_page_keeps_the_numbers_of_a_heatmap(shape):
    values = np.random.default_rng(0).normal(size=shape) * 10
    values[1, 2] = np.nan
    fig = plots.heatmap(values, range(shape[0]), range(shape[1]), limits=(-1, 1), bar="points", ylabel="erased")
    facts, numbers = stored(html(fig))
    assert np.isnan(numbers[1, 2]) and np.nanmax(np.abs(numbers - values)) < 1e-3
    assert (facts["y"], facts["x"], facts["bar"], facts["rows"][2]) == ("erased", "", "points", "2")
    left, top, width, height = facts["box"]
    place = fig.axes[0].get_position()
    assert (left, 1 - top - height) == pytest.approx((place.x0, place.y0), abs=1e-4)
    assert (width, height) == pytest.approx((place.width, place.height), abs=1e-4)


def test_equal_numbers_and_none_at_all_are_kept_too():
    assert stored(html(plots.heatmap([[0.5, 0.5]], "a", "bc")))[1].tolist() == [[0.5, 0.5]]
    assert np.isnan(stored(html(plots.heatmap([[np.nan]], "a", "b", bar="x")))[1]).all()


def test_a_cell_in_a_block_and_one_whose_name_is_not_written_have_names():
    fig = plots.heatmap(np.zeros((4, 2)), ["wood", "two\nwords"], range(2), bar="x")
    assert stored(html(fig))[0]["rows"] == [
        "wood (1 of 2)",
        "wood (2 of 2)",
        "two words (1 of 2)",
        "two words (2 of 2)",
    ]
    fig = plots.heatmap(np.zeros((5, 5)), [2, 1.5, 1, 0.5, 0], [0, 0.5, 1, 1.5, 2], every=2)
    (ax, *_) = fig.axes
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2"] and list(ax.get_xticks()) == [0.5, 2.5, 4.5]
    assert {t.get_text(): y for t, y in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)} == {
        "0": 4.5,
        "1": 2.5,
        "2": 0.5,
    }
    assert stored(html(fig))[0]["rows"] == ["2", "1.5", "1", "0.5", "0"]


def test_what_is_no_heatmap_has_no_cells_and_names_stay_text():
    assert "engram-cells" not in html(line())
    text = html(plots.heatmap([[0.5]], ['"<b>&'], ["</script>"]))
    assert stored(text)[0]["rows"] == ['"<b>&'] and text.count("</script>") == 1
    page = BeautifulSoup(text, "html.parser")
    (told,) = page.select("output.engram-cell")
    assert told.has_attr("hidden") and not page.select("[tabindex]")  # without the script nothing promises anything


def test_heatmap_errors():
    with pytest.raises(ValueError, match="3 x 3, not 4 rows x 3 columns"):
        plots.class_heatmap(np.zeros((3, 3)), list("abc"))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        plots.class_heatmap([[2.0], [0.0]], ["a"])


# --- what was measured several times ----------------------------------------------------------------------------


def drawn(ax, k=0):
    """x and y of the k-th line that has a point."""
    found = [line for line in ax.lines if len(line.get_xdata())]
    return np.asarray(found[k].get_xdata(), float), np.asarray(found[k].get_ydata(), float)


def band(ax):
    """x -> (lowest, highest) of the band."""
    (area,) = ax.collections
    corners = area.get_paths()[0].vertices
    return {
        x: (corners[corners[:, 0] == x][:, 1].min(), corners[corners[:, 0] == x][:, 1].max()) for x in corners[:, 0]
    }


RUNS = {1: [0.1, 0.2, 0.6], 10: [0.5, 0.7, 0.9], 100: [2.0, 5.0, 8.0]}
INTERVALS = {
    "sd": ({}, lambda v: np.mean(v), lambda v: (np.mean(v) - np.std(v, ddof=1), np.mean(v) + np.std(v, ddof=1))),
    "middle 90 %": ({"interval": 90}, np.mean, lambda v: np.quantile(v, [0.05, 0.95])),
    "range": ({"interval": 100, "middle": "median"}, np.median, lambda v: (min(v), max(v))),
    "given": ({"interval": "given"}, np.median, lambda v: (min(v), max(v))),
}


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("name", INTERVALS)
def test_a_band_ends_where_the_data_say(name, scale):
    """Also on logarithmic axes, where seaborn by itself would average the logarithms."""
    options, middle, ends = INTERVALS[name]
    (ax,) = plots.lines({"a": RUNS}, xscale=scale, yscale=scale, **options).axes
    assert drawn(ax)[1] == pytest.approx([middle(v) for v in RUNS.values()])
    for x, found in band(ax).items():
        assert found == pytest.approx(ends(RUNS[x]))
    assert (ax.get_xscale(), ax.get_yscale()) == (scale, scale)


def test_bars_end_where_bands_do():
    (ax,) = plots.lines({"a": RUNS}, bars=True).axes
    ends = [tuple(segment[:, 1]) for segment in ax.collections[0].get_segments()]
    assert ends == [pytest.approx(INTERVALS["sd"][2](v)) for v in RUNS.values()]


def test_a_path_is_drawn_in_its_own_order_and_may_come_back():
    path = [(3, 0.1), (1, 0.2), (3, 0.5)]
    (ax,) = plots.lines({"a": path, "_b": {1: 2}}, xlabel="lost (points)", xticks=[1, 3], xscale="log").axes
    assert list(zip(*drawn(ax), strict=True)) == path and not ax.collections
    assert ax.get_xlabel() == "lost (points)" and [t.get_text() for t in ax.get_xticklabels()] == ["1", "3"]


def test_names_of_series_are_the_legend_and_a_hidden_one_is_not():
    series = {"engram": RUNS, "random": RUNS, "_bound": {1: 0, 100: 1}}
    for legend in ("best", "below"):
        fig = plots.lines(series, legend=legend)
        (box,) = [*fig.legends, *(ax.get_legend() for ax in fig.axes if ax.get_legend())]
        assert [t.get_text() for t in box.get_texts()] == ["engram", "random"]
    fig = plots.lines(series, legend=None)
    assert not fig.legends and fig.axes[0].get_legend() is None


def test_a_look_says_colour_marker_and_line():
    fig = plots.lines({"a": RUNS, "b": RUNS, "c": RUNS}, looks="C1s-- k")
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in fig.axes[0].lines]
    assert [look[1:] for look in looks[:2]] == [("s", "--"), ("None", "-")]
    assert len(set(looks)) == 3 and looks[2][1] not in ("s", "None")  # what is not said differs by itself
    text = html(fig)
    assert plots.COLOURS[1].lower() in text.lower() and "currentColor" in text and "#ffffff" not in text


def test_points_of_rows_with_their_intervals():
    series = {"one": {"plain": [0.1, 0.3], "best": [0.5, 0.5]}, "published": {"best": 0.4}}
    (ax,) = plots.points(series, xlabel="accuracy").axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["plain", "best"] and ax.get_xlabel() == "accuracy"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row on top
    means = [
        (x, round(float(y)))
        for line in ax.lines
        for x, y in zip(*line.get_data(), strict=True)
        if len(line.get_data()[0]) != 2 or line.get_marker() != "None"
    ]
    assert {(round(float(x), 6), y) for x, y in means} >= {(0.2, 0), (0.5, 1), (0.4, 1)}
    sd = np.std([0.1, 0.3], ddof=1)
    bars = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2 and line.get_marker() in ("None", "")]
    assert any(np.allclose(sorted(bar), [0.2 - sd, 0.2 + sd]) for bar in bars)


def test_points_apart_share_rows_and_kinds_share_colours():
    rows = {"Retrain": [0.1, 0.2], "NegGrad": [0.3, 0.4], "Engram": [0.5, 0.6]}
    kinds = {"Retrain": "reference", "NegGrad": "trains", "Engram": "edits"}
    fig = plots.points({"left": rows, "kept": rows}, kinds=kinds, apart=True, looks="k* C0o C1s")
    assert [ax.get_xlabel() for ax in fig.axes] == ["left", "kept"]
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["reference", "trains", "edits"]
    colours = [
        [
            matplotlib.colors.to_hex(line.get_color()).upper()
            for line in ax.lines
            if line.get_marker() not in ("None", "")
        ]
        for ax in fig.axes
    ]
    assert colours[0] == colours[1] == ["#000000", *plots.COLOURS[:2]]


def test_every_single_measurement_and_a_stroke_at_the_mean():
    (ax,) = plots.points({"a": {"row": [0.1, 0.2, 0.9]}}, every=True).axes
    dots = np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections])
    assert sorted(dots[:, 0]) == pytest.approx([0.1, 0.2, 0.9])
    (stroke,) = [line for line in ax.lines if line.get_marker() == "|"]
    assert stroke.get_xdata() == pytest.approx([0.4])


def test_a_distribution_counts_and_marks():
    (ax,) = plots.distribution({"null": [1, 1, 2, 5]}, bins=[0, 1.5, 3, 6], marks={"true": 4}, xlabel="r").axes
    tops = {round(float(y)) for area in ax.collections for y in area.get_paths()[0].vertices[:, 1]}
    assert tops == {0, 1, 2}
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["null", "true"] and ax.get_xlabel() == "r"
    several = plots.distribution({"a": [1, 2], "b": [2, 3]}, bins=3, looks="C0- C1:").axes[0]
    assert not several.collections and len(several.lines) == 2  # outlines: no area hides another


def test_numbers_come_from_tensors_and_rows_of_runs():
    torch = pytest.importorskip("torch")
    rows = [{"alpha": a, "seed": s, "kept": a + s} for a in (2, 1) for s in (0, 1)]
    assert plots.gather(rows, "alpha", "kept", 100) == {1: [100, 200], 2: [200, 300]}
    (ax,) = plots.lines({"a": zip([1, 2], torch.tensor([[0.0, 2.0], [4.0, 6.0]]), strict=True)}).axes
    assert drawn(ax)[1].tolist() == [1, 5]


@pytest.mark.parametrize("interval", ["ci", 0, 101])
def test_an_interval_is_not_guessed(interval):
    with pytest.raises(ValueError, match="interval"):
        plots.lines({"a": RUNS}, interval=interval)


def test_seaborn_changes_no_style():
    before = dict(matplotlib.rcParams)
    plots.lines({"a": RUNS})
    plots.points({"a": {"row": [1, 2]}})
    plots.distribution({"a": [1, 2]})
    plots.heatmap([[0.1]], ["a"], ["b"])
    assert dict(matplotlib.rcParams) == before


def test_seaborn_waits_until_something_is_drawn():
    code = "import sys, engramlib.lab.plots as p; p.style(); assert not {'seaborn', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# --- heatmaps of any numbers ------------------------------------------------------------------------------------


def contrast(a, b):
    def light(colour):
        rgb = np.asarray(matplotlib.colors.to_rgb(colour))
        return np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((light(a), light(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#14181e"])
def test_the_colours_of_four_series_stand_out_in_light_and_dark(page):
    assert all(contrast(colour, page) >= 3 for colour in plots.COLOURS[:4])


@pytest.mark.parametrize("limits", [(0, 1), (-1, 1)])
def test_numbers_in_cells_are_readable_on_every_colour(limits):
    values = np.linspace(*limits, 40).reshape(4, 10)
    ax = plots.heatmap(values, range(4), range(10), limits=limits).axes[0]
    cells = ax.collections[0].get_facecolors()
    assert all(contrast(t.get_color(), cell) >= 4.5 for t, cell in zip(ax.texts, cells, strict=True))
    # The page's ink is a light grey in dark mode: on the cells, black must stay black.
    assert not {t.get_color() for t in ax.texts} & {"k", "black", "#000000", plots.INK}


def test_around_zero_white_is_zero_and_no_side_is_green():
    ax = plots.heatmap([[-10, 0, 40, np.nan]], ["a"], list("wxyz"), limits=(-40, 40), bar="points lost").axes[0]
    ax.figure.canvas.draw()
    gained, zero, lost, own = (matplotlib.colors.to_rgb(c) for c in ax.collections[0].get_facecolors())
    assert min(zero) > 0.94 and lost[0] > lost[1] > lost[2] and gained[2] > gained[1]
    assert own == pytest.approx((0x80 / 255,) * 3)
    assert not ax.texts and ax.figure.axes[1].get_ylabel() == "points lost"


def test_fewer_names_than_cells_name_blocks_with_lines_between():
    ax = plots.heatmap(np.zeros((4, 6)), list("abcd"), ["left", "right"], xlabel="tested").axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["left", "right"] and ax.get_xlabel() == "tested"
    assert list(ax.get_xticks()) == [1.5, 4.5] and list(ax.get_yticks()) == [0.5, 1.5, 2.5, 3.5]
    edges = {tuple(map(float, s[0])) for c in ax.collections[1:] for s in c.get_segments()}
    assert {x for x, _ in edges} >= {3.0} and {y for _, y in edges} >= {3.0}
    with pytest.raises(ValueError, match="4 x 6, not 4 rows x 4 columns"):
        plots.heatmap(np.zeros((4, 6)), list("abcd"), list("abcd"))


def test_numbers_lose_their_leading_zero_and_nothing_else():
    ax = plots.heatmap([[-0.3, 0.25, 10.04, 1.0]], ["a"], list("wxyz"), limits=(0, 12)).axes[0]
    assert [t.get_text() for t in ax.texts] == ["-.30", ".25", "10.04", "1.0"]


def test_siblings_have_one_size():
    def columns(figs):
        return BeautifulSoup(html(figs), "html.parser").select_one(".engram-panels").get("style", "")

    same = [plots.class_heatmap(np.ones((3, 2)), "ab", title=t) for t in ("x", "a longer title", "y")]
    assert len({f.get_figwidth() for f in same}) == 1 and "repeat(auto-fit" in columns(same)
    assert not columns([line(), line(figsize=(2, 2))]) and not columns(line())


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


# ------------------------------------------------------------------------------------------------------ the opening

OPENING = {"see": "an image", "goes": "“7”", "stays": "the other nine", "focus": "answers", "question": "Only the 7?"}


@pytest.mark.parametrize("kind", ["image", "window", "tokens", "face", "clouds"])
@pytest.mark.parametrize("focus", ["input", "share", "weights", "answers"])
def test_the_opening_has_the_same_shapes_and_colours_whatever_it_asks(kind, focus):
    text = html(plots.opening(kind, **OPENING | {"focus": focus}))
    assert "currentColor" in text and plots.INK not in text and "#000000" not in text and "#ffffff" not in text
    for colour in plots.COLOURS[:2]:  # the rest and the target
        assert colour.lower() in text.lower()
    for said in ("P⁺", "I − P⁺", "W⁺", "W − W⁺", "“7”", "the other nine", "an image", "Only the 7?"):
        assert f">{said}<" in text
    assert "engram-scrolls" not in text  # a phone shows all of it


def test_the_openings_texts_fit_their_places():
    fig = plots.opening(
        "image", **OPENING | {"goes": "the forgotten class", "stays": "the other 20 digits", "see": "the inputs now"}
    )
    fig.canvas.draw()
    width, height = fig.get_size_inches() * fig.dpi
    for text in fig.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text.get_text()
    plt.close(fig)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "sound"}, "kind must be one of image, window, tokens, face, clouds, got 'sound'"),
        ({"focus": "end"}, "focus must be one of input, share, weights, answers"),
        ({"question": "why " * 20}, "question has 80 characters; 1 to 62 fit"),
        ({"goes": " "}, "goes has 1 characters"),
    ],
)
def test_an_opening_that_cannot_be_drawn_says_why(wrong, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        plots.opening(**{"kind": "image"} | OPENING | wrong)


def test_long_names_of_rows_keep_some_width_where_the_rest_scrolls():
    for name, kept in (("a row of several words", True), ("short", False)):
        page = BeautifulSoup(plots.table_html([{"row": name, "value": 0.5}], "See."), "html.parser")
        assert [("named" in (cell.get("class") or [])) for cell in page.select("th, td")] == [kept, False, kept, False]
