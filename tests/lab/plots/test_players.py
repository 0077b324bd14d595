"""Figures that a reader can move: their HTML, what they refuse, and the widgets that never reach a page."""

import base64
import json
import re
import sys
from html.parser import HTMLParser

import ipywidgets
import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from nbclient import NotebookClient

matplotlib.use("agg")

from engramlib.lab import plots  # noqa: E402
from engramlib.lab.plots import live  # noqa: E402

SAID = {"caption": "See <this>.", "alt": 'bars "of" it'}
WIDGET = "application/vnd.jupyter.widget-view+json"


pytestmark = pytest.mark.usefixtures("figure_style")


class Elements(HTMLParser):
    """Every tag of a text with its attributes; fails where tags do not nest."""

    EMPTY = {"input", "rect", "path", "circle"}

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def get(self, tag, kind=""):
        return [a for name, a in self.found if name == tag and kind in a.get("class", "").split() + [""]]


def line():
    fig, ax = plt.subplots(figsize=(2, 2))
    ax.plot([0, 1], [0, 1])
    return fig


def strip(n=3, **options):
    return plots.frames_html([line() for _ in range(n)], range(n), **SAID | options)


def states(n, columns=None, seed=0):
    return np.random.default_rng(seed).random((2**n, columns or n)).round(3)


def cube(accuracy, names, shown=None, **options):
    return plots.composition_html(accuracy, names, shown=shown or {"none": []}, **SAID | options)


# --- both players -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: strip(), lambda: cube(states(4), "abcd")], ids=["frames", "composition"])
def test_a_player_is_one_figure_and_one_script_that_ask_for_nothing_and_remember_nothing(make):
    text = make()
    page = Elements(text)
    (figure,) = page.get("figure")
    (script,) = re.findall(r"<script>(.*)</script>", text, re.S)
    assert f'getElementById("{figure["id"]}")' in script
    assert not re.search(r"https?:|fetch|import\b|XMLHttp|Storage|cookie|\beval\b|location", script)
    assert all(a.get("href", "#").startswith("#") for _, a in page.found)
    assert not any(name in a for _, a in page.found for name in ("src", "onclick", "onload"))
    assert page.get("input") and all(a["autocomplete"] == "off" for a in page.get("input"))
    assert "<figcaption>See &lt;this&gt;.</figcaption>" in text
    assert all(a["aria-label"].startswith('bars "of" it') for a in page.get("svg") if a["role"] == "img")


def test_without_a_script_and_on_paper_the_small_multiples_show_and_no_controls():
    css = plots.css()
    screen = css[css.index("@media screen") : css.index("@media print")]
    for rule in (".is-player .engram-controls{display:flex}", ".is-player .engram-frame:not(.is-on)"):
        assert rule in screen and rule not in css.replace(screen, "")
    assert re.search(r"\.engram-controls\{display:none", css) and ".engram-now{display:none}" in css


# --- frames -----------------------------------------------------------------------------------------------------


def test_frames_tell_their_state_to_a_screen_reader_once():
    page = Elements(strip(start=1, label="<α>"))
    (slider,), (output,) = page.get("input"), page.get("output")
    assert slider["aria-valuetext"] == "<α> = 1" and slider["value"] == "1" and output["aria-live"] == "off"
    (controls,) = page.get("div", "engram-controls")
    assert controls["role"] == "group" and "hidden" in controls


def test_frames_take_the_options_of_frames_html_and_close_their_figures(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    figs = [line(), line()]
    plots.frames(figs, [0, 1], start=1, interval=0.25, label="layer", **SAID)
    assert 'data-start="1" data-interval="250"' in shown[0]["text/html"] and "layer = 1" in shown[0]["text/html"]
    assert set(shown[0]) == {"text/html", "text/plain"} and not plt.get_fignums()
    with pytest.raises(TypeError, match="speed"):
        plots.frames([line()], [0], speed=2, **SAID)
    with pytest.raises(ValueError, match="interval"):
        strip(interval=0)


# --- composition ------------------------------------------------------------------------------------------------


def stored(text, columns):
    (figure,) = Elements(text).get("figure")
    return np.frombuffer(base64.b64decode(figure["data-accuracy"]), "<u2").reshape(-1, columns) / 10_000


def test_all_numbers_of_all_states_are_in_the_page():
    accuracy = states(10)
    text = cube(torch.tensor(accuracy), range(10), {"none": [], "odd": [1, 3, 5, 7, 9]})
    assert np.abs(stored(text, 10) - accuracy).max() < 1e-9
    assert len(text) < 75_000


def test_rows_are_counted_like_cartesian_prod():
    n = 4
    subsets = torch.cartesian_prod(*[torch.arange(2.0)] * n)
    text = cube((1 - subsets).numpy(), "abcd", {"b and d": "bd", "all": "abcd", "none": ""}, start="ac")
    page = Elements(text)
    chosen = [int(b["data-state"]) for b in page.get("button")]
    assert [subsets[i].tolist() for i in chosen] == [[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert subsets[int(page.get("figure")[0]["data-start"])].tolist() == [1, 0, 1, 0]
    assert [("checked" in box, box["value"]) for box in page.get("input")] == list(
        zip([True, False, True, False], "abcd", strict=True)
    )


def test_small_multiples_show_their_state():
    accuracy = states(3)
    text = cube(accuracy, "abc", {"without b": "b"})
    still = text[text.index("engram-frame") :]
    bars = Elements(still[still.index("<svg") : still.index("</svg>") + 6]).get("rect")
    assert [b["class"] for b in bars] == ["engram-bar", "engram-bar is-out", "engram-bar"]
    assert np.allclose([float(b["height"]) / 130 for b in bars], accuracy[0b010], atol=0.001)
    assert ">−b</text>" in still and ">without b</div>" in still


def places(text):
    path = Elements(text).get("path", "engram-dots")[0]["d"]
    return np.array([[float(v) for v in p.removesuffix("h0").split()] for p in path.split("M")[1:]])


def test_the_map_places_states_by_number_erased_and_accuracy_on_the_kept():
    n, accuracy = 6, states(6)
    xy = places(cube(accuracy, "abcdef"))
    erased = torch.cartesian_prod(*[torch.arange(2)] * n).bool().numpy()
    assert len(xy) == 2**n - 1  # the last state keeps nothing
    kept = np.array([row[~gone].mean() for row, gone in zip(accuracy, erased[:-1], strict=False)])
    assert np.corrcoef(kept, xy[:, 1])[0, 1] < -0.9999  # up is better
    size = erased.sum(1)[:-1]
    for k in range(n - 1):
        assert xy[size == k, 0].max() < xy[size == k + 1, 0].min()


def test_a_column_that_is_no_concept_is_always_kept():
    accuracy = states(4, columns=5)
    text = cube(accuracy, "abcd", {"all": "abcd"}, tested=[*"abcd", "…"])
    assert len(places(text)) == 16
    assert [b["data-concept"] for b in Elements(text).get("rect")[:5]] == ["0", "1", "2", "3", ""]


def test_three_concepts_are_a_cube_with_named_corners():
    text = cube(states(3), "abc")
    corners = re.findall(r">((?:−[abc])+|everything)</text>", text.split("engram-lattice")[1].split("</svg>")[0])
    assert corners == ["everything", "−c", "−b", "−b−c", "−a", "−a−c", "−a−b", "−a−b−c"]
    assert len({tuple(p) for p in places(text)}) == 8
    assert text.split("engram-lattice")[1].count("L") >= 12  # edges


def test_long_names_get_room():
    widths = [
        float(Elements(cube(states(2), names)).get("svg")[0]["viewbox"].split()[2])
        for names in (["a", "b"], ["glasses", "moustache"])
    ]
    assert widths[1] > widths[0] + 80


def test_names_are_escaped():
    text = cube(states(2), ["<b>", '"q"'], {"<none>": []})
    assert "<b>" not in text and "<none>" not in text
    assert [a["value"] for a in Elements(text).get("input")] == ["<b>", '"q"']


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": states(4)[:8]}, "8 x 4; 4 concepts and 4 columns need 16 x 4"),
        ({"accuracy": np.where(states(4) > 0.9, np.nan, 0.5)}, "none may be missing"),
        ({"accuracy": states(4) + 1}, r"\[0, 1\]"),
        ({"names": "abca"}, "concepts names something twice"),
        ({"tested": "aacd"}, "tested names something twice"),
        ({"tested": "abcx"}, "tested lacks d"),
        ({"shown": {}}, "shown is empty"),
        ({"shown": {"x": ["e"]}}, "e is not among the concepts a, b, c, d"),
        ({"start": ["z"]}, "z is not among"),
        ({"names": "a", "accuracy": states(1)}, "from 2 to 12 concepts"),
        ({"caption": " "}, "caption"),
        ({"alt": ""}, "alt"),
    ],
)
def test_composition_errors(change, message):
    given = {"accuracy": states(4), "names": "abcd", "shown": {"none": []}} | SAID | change
    with pytest.raises(ValueError, match=message):
        plots.composition_html(given.pop("accuracy"), given.pop("names"), **given)


def test_composition_displays_html_with_the_words_as_fallback(monkeypatch):
    out = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: out.append(data))
    plots.composition(states(2), "ab", shown={"none": []}, **SAID)
    assert out[0]["text/html"].startswith("<figure") and out[0]["text/plain"] == 'bars "of" it\nSee <this>.'


# --- live -------------------------------------------------------------------------------------------------------


def draw(alpha, digit):
    if alpha > 2:
        raise ArithmeticError("too <much>")
    fig = line()
    fig.axes[0].set_title(f"digit {digit} at {alpha:g}")
    return fig


CONTROLS = {"α": (-1, 3, 0.5), "digit": range(10)}


def show_live(monkeypatch, there, **given):
    out = []
    monkeypatch.setenv("ENGRAM_LIVE", there)
    monkeypatch.setattr("IPython.display.display", lambda data, raw=False: out.append(data))
    live(draw, **{"controls": CONTROLS, "start": [0.5, 7]} | SAID | given)
    return out[0]


def test_where_nobody_is_the_picture_stands_there(monkeypatch):
    shown = show_live(monkeypatch, "0")
    assert set(shown) == {"text/html", "text/plain"}
    assert "digit 7 at 0.5" in shown["text/html"]
    assert Elements(shown["text/html"]).get("svg")[0]["aria-label"] == 'bars "of" it: α = 0.5, digit = 7'
    assert "Here α = 0.5, digit = 7. In Jupyter and Colab you set α and digit yourself." in shown["text/html"]
    assert not plt.get_fignums()


PAGE = {"α": [-1, 0.5, 1.0], "digit": range(5, 9)}


def test_on_a_page_every_state_is_there_as_what_differs_from_the_start(monkeypatch):
    html = show_live(monkeypatch, "0", page=PAGE)["text/html"]
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1].replace("<\\/", "</"))
    assert data["labels"] == [["−1", "0.5", "1"], ["5", "6", "7", "8"]] and len(data["states"]) == 12
    first = data["states"][1 * 4 + 2]
    assert first == [], "the start differs in nothing from itself"
    for at, (alpha, digit) in enumerate((a, d) for a in PAGE["α"] for d in PAGE["digit"]):
        parts = list(data["parts"])
        for k, part in data["states"][at]:
            parts[k] = part
        fresh = "".join(parts)
        assert f"digit {digit} at {alpha:g}" in fresh and f"α = {alpha:g}, digit = {digit}" in fresh
    page = Elements(html)
    assert [s["value"] for s in page.get("input")] == ["1", "2"] and "hidden" in page.get("div", "engram-controls")[0]
    assert "At first α = 0.5, digit = 7." in html
    assert len(html) < 4 * len(show_live(monkeypatch, "0")["text/html"]), "states share what they have in common"
    assert not plt.get_fignums()


def test_where_somebody_is_the_page_does_not_matter(monkeypatch):
    pytest.importorskip("ipywidgets")
    assert WIDGET in show_live(monkeypatch, "1", page=PAGE)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ({"α": [0.5]}, "page names α; the controls are α, digit"),
        ({"α": [0, 1], "digit": range(10)}, "α starts at 0.5, which is not among its values on the page"),
    ],
)
def test_a_page_without_the_start_is_an_error(monkeypatch, page, message):
    with pytest.raises(ValueError, match=message):
        show_live(monkeypatch, "0", page=page)


def test_a_picture_with_other_parts_is_an_error(monkeypatch):
    def growing(n):
        fig = line()
        for _ in range(n):
            fig.axes[0].plot([0, 1], [1, 0])
        return fig

    monkeypatch.setenv("ENGRAM_LIVE", "0")
    with pytest.raises(ValueError, match="at n = 2 the picture has other parts"):
        live(growing, {"n": [1, 2]}, start=[1], page={"n": [1, 2]}, **SAID)


def test_a_control_draws_again(monkeypatch):
    boxes, make = [], ipywidgets.VBox
    monkeypatch.setattr("ipywidgets.VBox", lambda children: boxes.append(make(children)) or boxes[-1])
    shown = show_live(monkeypatch, "1")
    assert "digit 7 at 0.5" in shown["text/html"]  # for the saved notebook
    (box,) = boxes
    assert shown[WIDGET]["model_id"] == box.model_id
    slider, choice, picture = box.children
    assert (slider.min, slider.max, slider.step, slider.description) == (-1, 3, 0.5, "α")
    assert "digit 7 at 0.5" in picture.value and "α = 0.5, digit = 7" in picture.value
    slider.value = 1.25
    choice.value = 3
    assert "digit 3 at 1.25" in picture.value and not plt.get_fignums()
    slider.value = 3  # an error is told where the reader looks
    assert "α = 3, digit = 3: ArithmeticError: too &lt;much&gt;" in picture.value
    slider.value = 0
    assert "digit 3 at 0" in picture.value


def test_colab_gets_the_widget_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", object())
    box = show_live(monkeypatch, "")
    assert isinstance(box, ipywidgets.VBox) and box.children[2].value.startswith(plots.css())


def test_without_ipywidgets_there_is_a_message_and_the_picture(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert set(show_live(monkeypatch, "1")) == {"text/html", "text/plain"}
    assert "%pip install ipywidgets" in capsys.readouterr().out


def test_who_is_there(monkeypatch):
    from engramlib.lab.plots.live import somebody_there

    for name in ("ENGRAM_LIVE", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert not somebody_there()
    with monkeypatch.context() as jupyter:
        jupyter.setenv("JPY_SESSION_NAME", "/home/me/00_erase_a_digit.ipynb")
        assert somebody_there()
        jupyter.setenv("ENGRAM_LIVE", "0")
        assert not somebody_there()
    with monkeypatch.context() as colab:
        colab.setitem(sys.modules, "google.colab", object())
        assert somebody_there()
    with monkeypatch.context() as code:
        shell = type("Shell", (), {"user_ns": {"__vsc_ipynb_file__": "/home/me/00.ipynb"}})()
        code.setattr("IPython.get_ipython", lambda: shell)
        assert somebody_there()
    monkeypatch.setenv("ENGRAM_LIVE", "yes")
    with pytest.raises(ValueError, match="ENGRAM_LIVE is 'yes'"):
        somebody_there()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"controls": {}, "start": []}, "controls is empty"),
        ({"start": [0.5]}, "2 controls but 1 start values"),
        ({"start": [4, 7]}, "α starts at 4, which is not between -1 and 3"),
        ({"start": [0, 10]}, "digit starts at 10, which is not among its choices"),
        ({"controls": {"α": (3, -1, 0.5), "digit": [1]}, "start": [0, 1]}, "low below high"),
        ({"controls": {"α": (0, 1), "digit": [1]}, "start": [0, 1]}, r"tuple \(low, high, step\)"),
        ({"caption": ""}, "caption"),
    ],
)
def test_live_errors(monkeypatch, change, message):
    with pytest.raises(ValueError, match=message):
        show_live(monkeypatch, "0", **change)


def test_a_run_without_a_reader_emits_no_widget(monkeypatch):
    """As the book's build and nbval run a chapter; told to, the same cell does emit one."""
    cell = """import matplotlib.pyplot as plt
from engramlib.lab import plots
plots.live(lambda a: plt.figure(), {"a": (0, 1, .5)}, start=[0], caption="c", alt="a")"""
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c) for c in (cell, f"%env ENGRAM_LIVE=1\n{cell.splitlines()[-1]}")]
    )
    for name in ("ENGRAM_LIVE", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    NotebookClient(nb, timeout=120, kernel_name="python3").execute()
    page, told = (json.dumps(c.outputs) for c in nb.cells)
    assert WIDGET not in page and "engram-figure" in page
    assert WIDGET in told
