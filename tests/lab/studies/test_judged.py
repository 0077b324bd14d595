"""A stand-in for CelebA: drawn faces in the same form, whose attributes are easily seen."""

from dataclasses import replace
from functools import partial

import pytest
import torch

import engramlib as el
from engramlib.lab.data import AttributeData, AttributeSplit, faces
from engramlib.lab.records import runs
from engramlib.lab.studies import judged
from engramlib.lab.studies.attributes import edit
from engramlib.lab.training.autoencoder import reconstruct

SMALL = replace(
    judged.FACES,
    attributes=("hat", "glasses"),
    pairs=(("hat", "glasses"),),
    widths=(12, 24),
    latent=24,
    epochs=4,
    lr=6e-3,
    lams=(1.0, 10.0),
    alphas=(1.0,),
    layers=("all",),
    most={"val": 15, "test": 30},
    judge_widths=(16, 32),
    batch_size=16,
    judge_epochs=20,
    judge_lr=5e-3,
)


def photographs(n: int = 1440) -> AttributeData:
    """As `celeba` returns them: no renderer, no identity."""
    drawn = faces(n, size=16)
    splits = [AttributeSplit(p.x, p.attributes, torch.empty(len(p), 0)) for p in (drawn.train, drawn.val, drawn.test)]
    return AttributeData("CelebA", drawn.attributes, drawn.image_shape, *splits)


@pytest.fixture(scope="module")
def people():
    return photographs()


@pytest.fixture(scope="module")
def shares(people):
    return judged.parts_of(people)


@pytest.fixture(scope="module")
def judge(shares):
    return judged.train_judge(shares.judge, replace(SMALL, judge_epochs=40), 1000)


@pytest.fixture(scope="module")
def model(shares):
    return judged.train(shares.data, SMALL, 0)


@pytest.fixture(scope="module")
def bench(model, judge, shares):
    return judged.Bench(model, judge, shares.data, "test", SMALL.attributes, 30)


def test_no_image_serves_two_purposes(people):
    shares = judged.parts_of(people)
    found = [part.x for part in (shares.data.train, shares.judge, shares.data.test, shares.data.val)]
    assert [len(x) for x in found] == [600, 240, 120 + len(people.test), len(people.val)]
    rows = torch.cat(found).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)
    twice = judged.parts_of(people, mirrored=True).data
    assert len(twice.train) == 1200 and torch.equal(twice.train.x[600], people.train.x[0].flip(2))
    assert torch.equal(twice.train.attributes[600:], shares.data.train.attributes)
    assert torch.equal(twice.test.x, shares.data.test.x)


def test_above_is_the_share_of_pairs():
    high, low = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0])
    assert float(judged.above(high, low)) == pytest.approx((1 + 1.5 + 2) / 6)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, n, generator=generator).round(decimals=1) for n in (7, 9))
    gap = a[:, :, None] - b[:, None]
    expected = ((gap > 0).double() + (gap == 0).double() / 2).mean((1, 2))
    assert torch.allclose(judged.above(a, b), expected)


def test_twins_agree_in_everything_else(people):
    split = people.test
    has = people.has("hat", "test")
    bearers, lacking = has.nonzero()[:, 0], (~has).nonzero()[:, 0]
    column = people.column("hat")
    twins = judged.twins_of(split, bearers, lacking, column)
    assert twins.shape == (len(bearers), 2) and not has[twins].any()
    rest = [i for i in range(5) if i != column]
    labels = split.attributes[:, rest]
    apart = (labels[bearers][:, None] != labels[lacking]).sum(2)
    nearest = (labels[bearers][:, None] != labels[twins]).sum(2)
    assert torch.equal(nearest.sort(1).values, apart.sort(1).values[:, :2])


def test_the_judge_sees_what_is_there(judge, bench):
    for name in SMALL.attributes:
        assert bench.before(name, bench.photographs) > 0.8
    at = runs.select(bench.instrument(), {"source": "photographs", "attribute": "hat"})[0]
    assert at["anybody"] > 0.8 and at["twins"] == bench.before("hat", bench.photographs)
    seen = bench.photographs
    direction = judge.head.weight[bench.edited].detach().double()
    assert float((seen.features @ direction.T).abs().max()) < 1e-4  # nothing is said of the edited attributes
    assert torch.allclose(seen.features.norm(dim=1), torch.ones(len(bench.x), dtype=torch.float64))


def test_a_judge_is_made_by_its_seed_and_learns_from_drawings_too(shares, model):
    def weights(seed, **how):
        made = judged.train_judge(shares.judge, replace(SMALL, judge_epochs=1), seed, **how)
        return torch.cat([p.flatten() for p in made.parameters()])

    one = weights(7)
    assert torch.equal(one, weights(7))
    assert not torch.equal(one, weights(8)) and not torch.equal(one, weights(7, model=model))


def test_scores_know_nothing_and_everything(model, bench):
    still = bench.score(partial(reconstruct, model), "hat", method="nothing")
    assert still["method"] == "nothing" and still["attribute"] == "hat"
    assert still["done"] == pytest.approx(0, abs=0.02) and still["added"] == pytest.approx(0, abs=0.02)
    assert still["damage"] == pytest.approx(1, abs=1e-4) and still["recognised"] == still["pixels"] == 1
    assert still["kept"] > 0.99 or still["kept"] != still["kept"]
    assert still["done_low"] <= still["done"] <= still["done_high"]
    # a mean face for everybody: nothing is left to see, and nobody to recognise
    blank = bench.score(lambda x: model.mean.expand(len(x), -1, -1, -1).clone(), "hat")
    assert blank["done"] > 0.5 and blank["recognised"] < 0.3 and blank["damage"] > 1
    # somebody who draws photographs does no damage at all
    assert bench.score(lambda x: x, "hat")["damage"] == 0


def test_done_of_made_up_scores():
    n = 40
    high, low = torch.linspace(2, 3, n), torch.linspace(0, 1, 2 * n).reshape(n, 2)
    table = {"old": high, "new": high, "twins": low, "worn": low}
    found = judged._gone(table)
    assert (found["before"], found["done"], found["added"]) == (1.0, 0.0, 0.0)
    found = judged._gone(table | {"new": low[:, 0], "worn": low + 2})
    assert found["visible"] == pytest.approx(0.5, abs=0.02) and found["done"] == pytest.approx(1, abs=0.04)
    assert found["added"] == 1.0
    generator = torch.Generator().manual_seed(1)
    scores = {"old": 2.0, "new": 1.0, "twins": 0.0, "worn": 1.0}
    table = {
        key: shift + torch.randn(*((n,) if key in ("old", "new") else (n, 2)), generator=generator)
        for key, shift in scores.items()
    }
    found = judged._gone(table)
    for value in ("done", "added"):
        assert 0 < found[f"{value}_low"] < found[value] < found[f"{value}_high"] < 1.1


def test_pooled_adds_ways_before_dividing():
    rows = [{"m": 1, "before": 0.9, "done": 0.5}, {"m": 1, "before": 0.6, "done": -1.0}]
    assert judged.pooled(rows, "done", ("m",)) == {(1,): pytest.approx((0.2 - 0.1) / 0.5)}
    rows = [
        {**row, "seed": seed, "damage": damage} for seed in (1, 0) for row, damage in zip(rows, (2, 4), strict=True)
    ]
    assert judged.each_seed(rows, "done") == [pytest.approx(0.2)] * 2
    assert judged.each_seed(rows, "damage") == [3, 3]


def test_only_what_the_judge_reads_counts():
    rows = [{"attribute": a, "before": before} for a, before in (("x", 0.9), ("y", 0.74), ("x", 0.7), ("y", 0.75))]
    assert [row["attribute"] for row in judged.counted(rows)] == ["x", "x"]


def test_pick_keeps_to_the_budget():
    def row(lam, done, damage):
        return {"layers": "all", "lam": lam, "alpha": 1.0, "before": 0.9, "done": done, "damage": damage}

    rows = [row(1.0, 0.9, 3.0), row(10.0, 0.6, 1.4), row(30.0, 0.2, 1.1)]
    assert judged.pick(rows, 1.5) == ("all", 10.0, 1.0)
    assert judged.pick(rows, 1.0) == ("all", 30.0, 1.0)  # the gentlest, where none keeps to it


@pytest.mark.filterwarnings("ignore:too little data")
def test_a_run_has_all_parts_and_drawn_faces_their_truth():
    rows = judged.run(faces(480, size=16), replace(SMALL, epochs=2, judge_epochs=2), 3)
    assert {row["seed"] for row in rows} == {3}
    kinds = {row["study"] for row in rows}
    assert kinds == {"network", "instrument", "frontier", "edits", "shifts", "truth", "strengths", "two"}
    edits = runs.select(rows, {"study": "edits", "attribute": "hat"})
    assert {row["method"] for row in edits} >= {"nothing", "engram, paper's", "random part, chosen", "code eraser"}
    assert len(runs.select(rows, {"study": "strengths", "attribute": "hat"})) == len(judged.ALPHAS)
    strength = runs.select(rows, {"study": "strengths", "attribute": "hat", "alpha": 1.0})[0]
    full = runs.select(edits, {"method": "engram, paper's"})[0]
    assert strength["visible"] == full["visible"] and strength["damage"] == full["damage"]
    truth = runs.select(rows, {"study": "truth", "method": "nothing", "question": "remove"})
    assert all(row["went"] == pytest.approx(0, abs=1e-6) for row in truth)
    names = [line["method"] for line in judged.summary(rows)["edits"]]
    assert names == list(dict.fromkeys(row["method"] for row in runs.select(rows, {"study": "edits"})))


def test_photographs_have_no_truth(people):
    rows = judged.run(people, replace(SMALL, epochs=1, judge_epochs=1, most={"val": 5, "test": 8}), 0)
    assert not runs.select(rows, {"study": "truth"})
    assert len(runs.select(rows, {"study": "two"})) == 4 * 2


def test_code_eraser_leaves_no_gap(model, shares):
    maps = judged.code_maps(model, shares.data, "hat")
    z = model.encode(shares.data.train.x).detach().double()
    has = shares.data.has("hat")
    erased = maps["code eraser"](z)
    assert float((erased[has].mean(0) - erased[~has].mean(0)).norm()) < 1e-6
    moved = maps["vector added"](z[~has]).mean(0)
    assert torch.allclose(moved, z[has].mean(0))


@pytest.mark.filterwarnings("ignore:too little data")
def test_an_edit_is_scored_as_drawn(model, bench, shares):
    sigma = judged.moments_of(model, shares.data, ["hat"])["hat"]
    e = el.extract(model, *sigma, rcond=1e-3)
    row = bench.score(edit(model, e, 1.0), "hat")
    case = bench.cases["hat"]
    with el.edited(model, -1.0 * e):
        drawn = reconstruct(model, bench.x[case.others])
    plain = reconstruct(model, bench.x[case.others])
    truth = bench.x[case.others]
    expected = float((drawn - truth).square().mean() / (plain - truth).square().mean())
    assert row["damage"] == pytest.approx(expected, rel=1e-3)
    shifts = bench.shifts(edit(model, e, 1.0), "hat", method="x")
    assert all(set(s) == {"attribute", "other", "shift", "method"} for s in shifts)
    assert "hat" in {s["other"] for s in shifts}
