"""The explorables compute what engramlib computes: the committed files, and the JavaScript that reads them, in node."""

import gzip
import json
import shutil
import subprocess

import drawn_digits
import make_answers as recorded
import make_explorable as made
import numpy as np
import pytest
import torch
from notebooks import ROOT

import engramlib as el
from engramlib import language
from engramlib.lab import data as datasets
from engramlib.lab import training
from engramlib.lab.studies import trained

SCRIPTS = ROOT / "book" / "_static" / "explorables"
TESTS = ROOT / "tests" / "explorables"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no node on this machine: the explorables' JavaScript was NOT run")


def ask(*questions):
    """The engine's answers to [name, arguments] each."""
    done = subprocess.run(
        [NODE, TESTS / "ask.js"], input=json.dumps(questions), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def file():
    """(matrices, images, labels) of digits-data.js."""
    return made.unpacked(made.read(SCRIPTS / "digits-data.js"))


@pytest.fixture(scope="module")
def facts():
    return json.loads((SCRIPTS / "facts.json").read_text(encoding="utf-8"))


# --- the file against engramlib ----------------------------------------------------------------------------------


def test_the_test_images_are_the_books(file):
    _, x, y = file
    test = datasets.digits().flat().test
    assert torch.equal(x.float(), test.x) and torch.equal(y, test.y)


def test_packing_loses_nothing(file):
    assert made.packed(*file) == made.read(SCRIPTS / "digits-data.js")


def test_the_engrams_are_those_of_el_extract(file):
    """The network of the file, its training images, extract: every entry within half a step of what the file holds."""
    whole, *_ = file
    model = made.network(whole.matrices()[:3], torch.float32)
    again = made.rounded([m for c in range(10) for m in made.of_engram(made.engrams_of(model)[c])])
    for here, there in zip(whole.codes[3:], again.codes, strict=True):
        assert np.abs(here.astype(int) - there).max() <= 1, "run `python book/make_explorable.py`"
    moved = np.mean([np.mean(a != b) for a, b in zip(whole.codes[3:], again.codes, strict=True)])
    assert moved < 0.01, "more entries than rounding explains: run `python book/make_explorable.py`"


def test_rounding_is_worth_its_bytes(file):
    """Against engrams that are not rounded: the same answer on 98 of 100 images, in every one of the ten edits."""
    whole, x, _ = file
    model, rounded = made.networks(whole)
    exact = made.engrams_of(made.network(whole.matrices()[:3], torch.float32))
    for c in range(10):
        double = el.Engram({name: (part.weight.double(), part.bias.double()) for name, part in exact[c].items()})
        with torch.no_grad():
            here, there = el.ablate(model, rounded[c])(x), el.ablate(model, double)(x)
        assert (here.argmax(1) == there.argmax(1)).double().mean() > 0.98
        assert float((here - there).abs().max()) < 0.25 * float(there.std())


def test_the_numbers_in_the_captions_are_those_of_the_file(file, facts):
    fresh = made.measured(*file)
    for name, value in fresh.items():
        assert np.allclose(facts[name], value, atol=0.006), f"{name}: run `python book/make_explorable.py`"


def test_what_the_captions_say_holds(facts):
    """The digit is gone, the others are not; a new readout finds it, an old one does not; and it finds more than the
    same readout finds in the pixels, or in a network that never learned."""
    assert facts["base"] > 0.96 and facts["erased"] < 0.05 and facts["others"] > 0.94
    assert facts["new"] > 0.9 and facts["new_base"] - facts["new"] < 0.03
    assert facts["old"] < 0.3
    assert facts["new"] - facts["pixels"] > 0.02 and facts["new"] - facts["untrained"] > 0.05
    assert facts["drawn"] > 0.95 and facts["drawn_erased"] < 0.1 and facts["drawn_others"] > 0.94


def test_the_plane_is_that_of_the_file(file, facts):
    whole, x, y = file
    model, engrams = made.networks(whole)
    for a, b in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (3.0, -1.0)):
        own = training.class_accuracy(el.ablate(model, a * engrams[4] + b * engrams[9]), x, y, 10)
        i, j = made.STEPS.index(a), made.STEPS.index(b)
        assert facts["plane"]["first"][j][i] == pytest.approx(float(own[4]), abs=1e-3)
        assert facts["plane"]["second"][j][i] == pytest.approx(float(own[9]), abs=1e-3)
        eight = float(own.sum() - own[4] - own[9]) / 8
        assert facts["plane"]["others"][j][i] == pytest.approx(eight, abs=1e-3)
    for name, value in made.corners(facts["plane"]).items():
        assert facts[name] == value
    assert facts["pair_left"] < 0.1 and facts["pair_others"] > 0.9 > facts["pair_far"], "what the caption says"


@pytest.mark.filterwarnings("ignore:layer")  # a cut at which most directions go is what is asked for
def test_the_cuts_are_those_of_el_extract(file):
    """At three of the recorded cuts, and what the first layer sees."""
    whole, x, y = file
    more = made.read(SCRIPTS / "more-data.js")
    model = made.network(whole.matrices()[:3], torch.float32)
    moments = made.moments_of(model, real=True)
    for cut in (-6.0, -3.0, -1.0):
        i = more["cuts"].index(cut)
        engrams = el.extract_all(model, moments, rcond=10**cut)
        for c in (0, 7):
            accuracy = training.class_accuracy(el.ablate(model, engrams[c]), x.float(), y, 10)
            assert more["left"][i][c] == pytest.approx(float(accuracy[c]), abs=0.03)
            assert more["kept"][i][c] == pytest.approx(float((accuracy.sum() - accuracy[c]) / 9), abs=0.02)


def test_the_stills_are_drawn_from_the_files(facts):
    more = made.read(SCRIPTS / "more-data.js")
    for name, text in (
        ("digits", made.still_of_digits(facts)),
        ("cut", made.still_of_cut(more)),
        ("clouds", made.still_of_clouds(more)),
        ("plane", made.still_of_plane(facts["plane"])),
    ):
        path = made.STILLS / f"{name}.html"
        assert path.read_text(encoding="utf-8") == text, "run `python book/make_explorable.py`"


def test_the_answers_are_whole_and_say_what_the_caption_says():
    """Recorded by make_answers.py: the model knows them all; its own group goes, the others stay."""
    found = made.read(SCRIPTS / "answers-data.js")
    told = json.loads((made.STILLS / "answers.json").read_text(encoding="utf-8"))
    states = 1 + len(found["groups"])
    for row in found["rows"]:
        for key in ("p", "first"):
            assert len(row[key]) == states and {len(line) for line in row[key]} == {len(row["tokens"])}
        assert "".join(row["tokens"]).strip() == row["answer"] == row["says"][0] and all(row["first"][0])
        assert all(0 <= p <= 1 for line in row["p"] for p in line) and len(row["says"]) == states
        assert not row["question"].startswith("Question") and row["question"].endswith("?")
    assert recorded.facts(found) == told and recorded.still(found) == (made.STILLS / "answers.html").read_text("utf-8")
    assert told["answers_before"] > 0.98 and told["answers_kept"] > 0.95 and told["answers_left"] < 0.4


def test_the_recorded_answers_are_those_of_the_model():
    """Two questions of the model as trained, asked again."""
    found = made.read(SCRIPTS / "answers-data.js")
    model, tokenizer = trained.load("full", 0)
    questions = datasets.authors().pairs("full")
    asked = [questions[160 * recorded.GROUPS[0] + k] for k in recorded.PICK]
    for row, one in zip(found["rows"], language.answer_logprobs(model, tokenizer, asked), strict=False):
        assert row["p"][0] == pytest.approx(one.logprobs.exp().tolist()[: len(row["tokens"])], abs=2e-3)


def test_the_files_are_small():
    size = {path.name: len(gzip.compress(path.read_bytes(), 9)) for path in SCRIPTS.iterdir()}
    assert size["digits-data.js"] <= 110_000 and sum(size.values()) <= 130_000, size


def test_a_new_draw_is_the_same_draw():
    a, b = drawn_digits.draw(3, 5), drawn_digits.draw(3, 5)
    assert np.array_equal(a[0], b[0]) and set(a[1]) == set(range(10))
    assert 0.15 < a[0].mean() < 0.5, "as much ink as handwriting has"


# --- JavaScript against Python -----------------------------------------------------------------------------------


@needs_node
def test_scripts_parse():
    for path in [*SCRIPTS.glob("*.js"), *TESTS.glob("*.js")]:
        done = subprocess.run([NODE, "--check", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@needs_node
def test_the_engines_own_tests():
    files = sorted(TESTS.glob("*.test.js"))
    done = subprocess.run([NODE, "--test", *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:]


@needs_node
def test_the_page_reads_as_el_ablate_does(file):
    """Logits of all 500 images: as trained, each digit erased, doubled, turned round, and several at once."""
    whole, x, _ = file
    model, engrams = made.networks(whole)
    luck = np.random.default_rng(0).uniform(-1, 2, (4, 10)).tolist()
    settings = [[0.0] * 10, *np.eye(10).tolist(), *(-np.eye(10)[:2]).tolist(), *(2 * np.eye(10)[7:8]).tolist(), *luck]
    for alpha, found in zip(settings, ask(*(["logits", [a]] for a in settings)), strict=True):
        edit = sum((a * e for a, e in zip(alpha, engrams, strict=True) if a), start=0.0 * engrams[0])
        with torch.no_grad():
            want = el.ablate(model, edit)(x)
        assert torch.allclose(torch.tensor(found, dtype=torch.float64).view(500, 10), want, atol=1e-9)


@needs_node
def test_the_page_judges_as_python_does(file, facts):
    for row, found in enumerate(ask(*(["judge", [list(a)]] for a in [[0.0] * 10, *np.eye(10).tolist()]))):
        for name, key in (("answers", "accuracy"), ("old", "accuracy_old"), ("fresh", "accuracy_new")):
            assert np.allclose(found[name], facts[key][row], atol=6e-4), f"{name}, network {row}"


@needs_node
def test_the_page_sees_a_drawing_as_training_did():
    rng = np.random.default_rng(3)
    drawings = [drawn_digits.strokes(digit, rng) for digit in range(10)] + [[[(1.0, 2.0)]], []]
    for drawing, found in zip(drawings, ask(*(["see", [d]] for d in drawings)), strict=True):
        assert np.allclose(found, drawn_digits.see(drawing), atol=1 / 16 + 1e-9)  # a point on the pen's edge may differ
        assert np.abs(np.array(found) - drawn_digits.see(drawing)).sum() <= 2 / 16


@needs_node
@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0, 10.0])
def test_two_clouds_are_edited_as_el_extract_does(strength):
    more = made.read(SCRIPTS / "more-data.js")
    target, other = (made.placed(p, **how) for p, how in zip(more["clouds"], more["places"], strict=True))
    layer = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False)).double()
    layer[0].weight.data = torch.eye(2, dtype=torch.float64)
    moments = [el.collect(layer, [torch.tensor(cloud)], bias="keep") for cloud in (target, other)]
    want = el.extract(layer, *moments, specificity=strength)["0"].weight if strength else torch.eye(2).double()
    flat = [[float(m[0, 0]), float(m[0, 1]), float(m[1, 1])] for m in (target.T @ target, other.T @ other)]
    (found,) = ask(["projection", [*flat, strength]])
    assert torch.allclose(torch.tensor(found, dtype=torch.float64), want, atol=1e-8)
    (moved,) = ask(["placed", [more["clouds"][0], more["places"][0]]])
    assert np.allclose(moved, target)
