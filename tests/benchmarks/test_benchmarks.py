"""What must stay fast, as ratios within one run with wide margins; and the benchmark's own arithmetic.

A ratio is measured several times and the best counts; if it is out of bounds, it is measured once more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import engramlib as el
from engramlib.lab import models as lab
from tests.benchmarks import __main__ as command
from tests.benchmarks import conv, data, figures, growth, models, page, peer, roofline, steps, timing
from tests.benchmarks.peak import peak

ROOT = Path(__file__).resolve().parents[2]
RECORD = json.loads((ROOT / "data" / "benchmarks.json").read_text(encoding="utf-8"))
SMALL = models.Case(
    "", lambda: models.llama(64, 2, 2, 2, 176), "texts", 16, 128, 128, 1, models.LLAMA, peer=models.LLAMA
)


# --------------------------------------------------------------------------------------- what must stay fast


def lowest(tasks: dict[str, Callable[[], object]], name: str, beside: str, limit: float, rounds: int = 4) -> float:
    """The smallest ratio of the rounds, measured once more if it is above ``limit``."""
    with timing.threads(1):
        for _ in range(2):
            seconds = timing.interleaved(tasks, rounds)
            found = min(a / b for a, b in zip(seconds[name], seconds[beside], strict=True))
            if found <= limit:
                break
    return found


@pytest.fixture(scope="module")
def small() -> steps.Steps:
    case = models.Case(
        "", lambda: models.llama(192, 1, 3, 1, 512), "texts", 16, 128, 128, 1, models.LLAMA, concepts=(1, 10)
    )
    return steps.Steps(models.Scene(case))


def test_collecting_takes_a_few_forward_passes(small: steps.Steps) -> None:
    passes = small.passes()
    assert lowest({n: passes[n] for n in ("forward", "collect")}, "collect", "forward", 4) <= 4


def test_ten_concepts_are_collected_in_little_more_than_the_time_of_one(small: steps.Steps) -> None:
    passes = small.passes()
    names = ("collect 1 concept", "collect 10 concepts")
    assert lowest({n: passes[n] for n in names}, names[1], names[0], 3) <= 3


@pytest.mark.filterwarnings("ignore:too little data")
def test_ten_concepts_share_a_factorisation(small: steps.Steps) -> None:
    solves = small.solves()
    names = ("extract 10 concepts", "extract 10 one by one")
    assert lowest({n: solves[n] for n in names}, *names, 1 / 2, 2) <= 1 / 2


@pytest.mark.filterwarnings("ignore:too little data")
def test_a_sweep_costs_the_forward_passes_it_is_made_of(small: steps.Steps) -> None:
    """Each measured on all examples: a real measurement, beside which 20 edits are little."""
    batch = small.scene.timed[0]

    @torch.no_grad()
    def measure(model: nn.Module) -> None:
        small.scene.call(model, batch)

    tasks = {
        "passes": lambda: [measure(small.model) for _ in range(5)],
        "sweep": lambda: el.sweep(small.model, small.engram, [0, 0.2, 0.4, 0.6, 0.8], measure),
    }
    assert lowest(tasks, "sweep", "passes", 1.5) <= 1.5


def test_patches_are_multiplied_faster_than_unfolding_does() -> None:
    layer, x = conv.scene(64, 32, 3, 1, 4, "cpu")
    tasks = {"ours": lambda: el.collect(layer, [x]), "unfold": lambda: conv.unfolded(layer, x)}
    with torch.no_grad():
        assert lowest(tasks, "ours", "unfold", 1 / 1.5, 3) <= 1 / 1.5
        assert peer.relative(el.collect(layer, [x])[""], conv.unfolded(layer, x)) < 1e-6
        assert peer.relative(el.collect(layer, [x], exact=True)[""], conv.unfolded(layer, x)) < 1e-12


# ----------------------------------------------------------------------------------------------------- timing


class Clock:
    """A clock that tasks move forward."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, list[str]()

    def __call__(self) -> float:
        return self.now

    def task(self, name: str, *seconds: float) -> Callable[[], None]:
        """Takes those times, one call after the other, and then the last."""
        left = list(seconds)

        def run() -> None:
            self.order.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_tasks_run_in_turn_and_the_first_round_does_not_count() -> None:
    clock = Clock()
    tasks = {"a": clock.task("a", 9, 1, 2, 3), "b": clock.task("b", 8, 4, 5, 6)}
    seconds = timing.interleaved(tasks, 3, clock=clock)
    assert clock.order == ["a", "b"] * 4
    assert seconds == {"a": [1, 2, 3], "b": [4, 5, 6]}


def test_short_tasks_are_repeated_within_a_round() -> None:
    clock = Clock()
    tasks = {"short": clock.task("short", 1, timing.SHORTEST / 10), "long": clock.task("long", 1)}
    assert timing.interleaved(tasks, 2, clock=clock)["short"] == pytest.approx([timing.SHORTEST / 10] * 2)
    assert clock.order.count("short") == 1 + 2  # a first call that was long says that it is not short
    clock = Clock()
    tasks = {"short": clock.task("short", timing.SHORTEST / 10)}
    timing.interleaved(tasks, 2, clock=clock)
    assert clock.order.count("short") == 2 + 2 * 10


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    """A machine that is slower for a while changes both times of a round, and not their ratio."""
    seconds = {"a": [2, 4, 60, 8, 10], "b": [1, 2, 30, 4, 1]}
    found = timing.ratio(seconds, "a", "b")
    assert found["ratio"] == 2 and found["rounds"] == 5 and found["seconds"] == 8
    assert (found["low"], found["high"]) == (2, 2)
    assert timing.ratio({"a": [3], "b": [2]}, "a", "b")["ratio"] == 1.5


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), timing.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_peak_memory_sees_what_is_freed_again() -> None:
    def call() -> None:
        torch.ones(25_000_000).sum()  # 100 MB

    peak(call)
    assert 80 <= peak(call) <= 160
    assert peak(lambda: None) < 20


# ------------------------------------------------------------------------------------------ growth, operations


def test_exponents_of_a_power_law() -> None:
    sizes = [128, 256, 512, 1024]
    exponent, error = growth.fit(sizes, [3e-6 * s**2.5 for s in sizes])
    assert exponent == pytest.approx(2.5) and error == pytest.approx(0, abs=1e-6)
    noise = [1.1, 0.9, 0.9, 1.1]
    exponent, error = growth.fit(sizes, [s**2 * k for s, k in zip(sizes, noise, strict=True)])
    assert exponent == pytest.approx(2, abs=1e-6) and 0.05 < error < 0.2
    with pytest.raises(ValueError, match="three sizes"):
        growth.fit([1, 2], [1, 2])


@pytest.mark.parametrize("axis", ["width", "tokens", "layers", "concepts"])
def test_axes_grow_what_they_say(axis: str) -> None:
    for quick in (True, False):
        sizes, make = growth.axes(quick)[axis]
        case = make(sizes[-1])
        assert len(sizes) >= 3 and sizes == sorted(sizes)
        seen = {"tokens": case.examples * case.size, "concepts": case.concepts[0]}
        if axis in seen:
            assert seen[axis] == sizes[-1] and case.batch * case.timed == case.examples >= case.concepts[0]
    scene = models.Scene(growth.axes(True)[axis][1](growth.axes(True)[axis][0][0]))
    assert set(growth._tasks(scene)) == set(growth.STEPS)


def test_operations_of_a_forward_pass_are_the_formula() -> None:
    model, x = lab.mlp([20, 30, 10]), torch.randn(7, 20)
    work = roofline.forward(model, lambda: model(x))
    assert work.float32 == 2 * 7 * (20 * 30 + 30 * 10)
    assert work.bytes == 4 * (20 * 30 + 30 + 30 * 10 + 10)
    layer, images = nn.Conv2d(3, 8, 3, padding=1), torch.randn(2, 3, 6, 6)
    assert roofline.forward(layer, lambda: layer(images)).float32 == 2 * 2 * 36 * 8 * 27


def test_operations_of_a_sum_are_half_of_the_product() -> None:
    """As torch counts XᵀX, of which a symmetric sum needs the diagonal and one side."""
    x = torch.randn(50, 20, dtype=torch.float64)
    moments = el.collect(nn.Linear(20, 3, bias=False), [x.float()])
    with FlopCounterMode(display=False) as counter:
        x.T @ x
    assert roofline.collect(moments).float64 == counter.get_total_flops() * 21 / 40
    shared = nn.ModuleDict({name: nn.Linear(20, 3) for name in "qk"})
    both = el.collect(shared, [x.float()], forward=lambda m, b: (m["q"](b), m["k"](b)))
    assert roofline.collect(both).float64 == 50 * 21 * 22  # the constant of the bias; one sum for both


@pytest.mark.filterwarnings("ignore:too little data")
def test_operations_of_an_extraction() -> None:
    model, x = nn.Linear(20, 3, bias=False), torch.randn(50, 20)
    whole = roofline.extract(model, el.collect(model, [x]))
    inverse = torch.randn(20, 20)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.weight @ inverse @ inverse
    assert whole.float64 == pytest.approx(20**3 / 3 + counter.get_total_flops())
    assert roofline.extract(model, el.collect(model, [x[:5]])).float64 == 11 * 20**3 + counter.get_total_flops()
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    sums = el.collect(attention, [torch.randn(9, 5, 8)], forward=lambda m, b: m(b, b, b))
    work = roofline.extract(attention, sums.select(["q_proj", "k_proj"]))
    assert work.float64 == pytest.approx(9**3 / 3 + 4 * 16 * 9**2)


def test_a_limit_is_arithmetic_or_memory() -> None:
    rates = {"float32": 10.0, "float64": 5.0, "bytes": 100.0}
    assert roofline.Work(float32=20, float64=10, bytes=100).seconds(rates) == 4
    assert roofline.Work(float32=1, bytes=500).seconds(rates) == 5
    engram = el.Engram({"": (torch.ones(4, 5), torch.ones(4))})
    assert roofline.edit(engram).bytes == 12 * 24


# -------------------------------------------------------------------------------------------- models and data


@pytest.mark.parametrize("quick", [True, False])
def test_every_case_fits_its_plan(quick: bool) -> None:
    for name, case in models.cases(quick).items():
        assert case.timed * case.batch <= case.examples, name
        assert max(case.concepts) <= case.timed * case.batch, name  # every concept occurs in a timed pass
        assert 10 in case.concepts, name


def test_full_shapes_are_the_known_ones() -> None:
    """Parameters, without embeddings and classifiers, of the published models."""

    def count(name: str, part: str) -> int:
        with torch.device("meta"):
            model = models.cases()[name].build()
        return sum(p.numel() for n, p in model.named_parameters() if part in n)

    assert count("gpt2", ".h.") == 85_054_464
    assert count("smollm2", ".layers.") == 30 * (576 * 576 * 2 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576)
    assert count("resnet18", "layer") == 11_166_976


def test_layers_of_a_case_are_layers_that_are_weights() -> None:
    """An expression that also names a norm would collect it."""
    for name in ("thin", "resnet18", "vit"):
        case = models.cases(True)[name]
        scene = models.Scene(case)
        for layers in (case.layers, case.extracted, case.few):
            found = el.collect(scene.model, scene.timed[:1], layers=layers, forward=scene.call)
            assert all(sigma.ndim == 2 for sigma in found.values()), name


def test_images_have_the_spectrum_of_photographs() -> None:
    x, concept = data.images(64, 3, 32, 4)
    assert x.min() >= 0 and x.max() <= 1 and concept.tolist() == [0, 1, 2, 3] * 16
    power = torch.fft.rfft2(x - x.mean((2, 3), keepdim=True)).abs().square().mean((0, 1))
    ratio = float(power[0, 1:3].mean() / power[0, 8:16].mean())
    assert ratio > 10  # 1/f² of power
    alike, unlike = ((x[0] - x[i]).square().mean() for i in (4, 1))
    assert alike < unlike


def test_texts_have_frequent_words_and_pairs() -> None:
    ids, concept = data.tokens(200, 32, 4)
    assert ids.min() >= 4 and ids.max() < data.VOCABULARY
    counts = torch.bincount(ids.flatten(), minlength=data.VOCABULARY).sort(descending=True).values
    assert counts[0] > 5 * counts[50] > 0
    pairs = torch.stack([ids[:, :-1].flatten(), ids[:, 1:].flatten()])
    _, often = pairs.unique(dim=1, return_counts=True)
    assert often.max() > 20
    assert torch.equal(data.tokens(200, 32, 4)[0], ids)
    assert data.words(data.texts(ids[:2]))["input_ids"] == ids[:2].tolist()


# ------------------------------------------------------------------------------- the authors' package, the record


@pytest.mark.skipif(peer.version() is None, reason="ai-engram is installed by make bench only")
@pytest.mark.filterwarnings("ignore:too little data")
def test_both_packages_give_one_answer() -> None:
    found = steps.Steps(models.Scene(SMALL))
    found.beside()
    assert set(found.gaps) == {"extract", "extract 10 concepts"} and max(found.gaps.values()) < steps.TOLERANCE


def test_a_gap_is_the_worst_layers() -> None:
    right = torch.ones(3, 4)
    assert peer.relative(right * 1.1, right) == pytest.approx(0.1)
    before, a, b = (nn.Linear(2, 2) for _ in range(3))
    for model, change in ((a, 1.0), (b, 1.2)):
        model.load_state_dict(before.state_dict())
        model.weight.data += change
    assert peer.model_gap(a, b, before) == pytest.approx(0.2, rel=1e-4)


def settings(**changes: Any) -> dict[str, Any]:
    return {"quick": True, "device": "cpu", "threads": [1], "rounds": 2} | changes


def test_a_record_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    first = command.Record(path, settings(), False)
    first.add("conv/1", [1], 0.1)
    again = command.Record(path, settings(), False)
    assert again.has("conv/1") and not again.has("conv/2")
    assert not command.Record(path, settings(quick=False), False).has("conv/1")
    assert not command.Record(path, settings(), True).has("conv/1")
    again.add("conv/2", [2], 0.1)
    again.finish({"conv/1", "conv/2"})
    later = command.Record(path, settings(), False)  # that one is finished: another begins
    assert not later.has("conv/1")
    later.add("conv/1", [3], 0.1)
    later.finish(None)
    assert [later.data["parts"][k]["found"] for k in ("conv/1", "conv/2")] == [[3], [2]] and len(
        later.data["runs"]
    ) == 2
    last = command.Record(path, settings(), False)
    last.add("conv/1", [4], 0.1)
    last.finish({"conv/1"})
    assert list(last.data["parts"]) == ["conv/1"] and len(json.loads(path.read_text())["runs"]) == 1


def test_a_record_reads_back() -> None:
    value = {"a": [{"b": 1, "c": "ü"}, {"b": 2}], "d": {}, "e": [1, 2], "f": {"g": [[1], [2]]}}
    assert json.loads(command.dumped(value)) == value
    assert command.dumped(value).count("\n") == 13


def test_the_plan_is_of_every_part() -> None:
    for device, counts in (("cpu", [1, 2]), ("cuda", [1])):
        keys = [key for key, _ in command.plan(list(command.PARTS), False, device, counts, 5)]
        assert {key.split("/")[0] for key in keys} == set(command.PARTS) and len(set(keys)) == len(keys)
    assert f"steps/gpt2/{counts[-1]}" in keys and "steps/gpt2/1" not in [
        key for key, _ in command.plan(["steps"], False, "cpu", [1, 2], 5)
    ]


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["speed"])
    assert "no part speed" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- the page


def test_the_page_shows_the_last_record() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.text(RECORD), "python -m tests.benchmarks --page"
    for name in figures.CAPTIONS:
        drawing = (ROOT / "book" / "_static" / f"how-fast-{name}.svg").read_text(encoding="utf-8")
        assert f'aria-label="{figures.alt(RECORD, name)}"' in drawing, "python -m tests.benchmarks --page"
        assert "currentColor" in drawing and "<title>" not in drawing
    assert all(run["finished"] for run in RECORD["runs"].values())


def test_the_page_follows_the_record() -> None:
    other = json.loads(json.dumps(RECORD))
    key = next(k for k in other["parts"] if k.startswith("steps/"))
    for row in other["parts"][key]["found"]["rows"]:
        row["ratio"] = 4321.0
    assert "4,321" in page.text(other) and "4,321" not in page.text(RECORD)
    assert figures.alt(other, "cost") != "" and "quick run" in page.text(_quick(other, True))
    assert "quick run" not in page.text(_quick(other, False))


def _quick(record: dict[str, Any], quick: bool) -> dict[str, Any]:
    for run in record["runs"].values():
        run["settings"]["quick"] = quick
    return record


def test_the_page_says_where_ours_loses_and_where_answers_differ() -> None:
    other = json.loads(json.dumps(RECORD))
    rows = [r for k, p in other["parts"].items() if k.startswith("steps/") for r in p["found"]["peer"]["rows"]]
    assert rows, "the record was made without the authors' package"
    for r in rows:
        r["ratio"], r["gap"] = 2.0, 1e-6
    clean = page.text(other)
    assert "†" in clean and clean.count("†") == 1 and "slower one" not in clean
    rows[0]["ratio"], rows[0]["gap"] = 0.5, 0.5
    told = page.text(other)
    assert "0.5†" in told and f"slower one, on some model at least, in: {page.WORDS[rows[0]['ours']]}." in told


@pytest.mark.parametrize("kept", [(), ("conv",), ("steps",), ("memory",), ("growth",), ("roofline",), ("reach",)])
def test_a_page_of_what_is_there(kept: tuple[str, ...]) -> None:
    parts = {key: part for key, part in RECORD["parts"].items() if key.split("/")[0] in kept}
    found = page.text({"runs": RECORD["runs"], "parts": parts})
    assert found.count("\n## ") == {(): 0, ("steps",): 3}.get(kept, 1 if parts else 0)
    assert "None" not in found and "nan" not in re.findall(r"\bnan\b", found)


def test_pictures_are_drawn_from_the_record() -> None:
    found = figures.drawn(RECORD)
    assert set(found) == {"how-fast-cost.svg", "how-fast-growth.svg"}
    assert all(drawing.startswith("<svg") and 'role="img"' in drawing for drawing in found.values())
