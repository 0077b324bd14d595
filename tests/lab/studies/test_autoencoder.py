from dataclasses import replace

import pytest
import torch

import engramlib as el
from engramlib.lab.data import digits, faces
from engramlib.lab.records import runs
from engramlib.lab.studies import attributes, autoencoder
from engramlib.lab.training.autoencoder import reconstruct, reconstruction_error
from engramlib.lab.unlearning.controls import random_subspace

# ------------------------------------------------------------------------------------------------- one digit (Fig. 5)

SMALL = replace(autoencoder.DIGITS, epochs=8, widths=(12, 24, 32))


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def model(data):
    return autoencoder.train(data, SMALL, seed=0)


@pytest.fixture(scope="module")
def moments(model, data):
    return autoencoder.moments_by_class(model, data.train)


@pytest.fixture(scope="module")
def rows(model, data, moments):
    how = {"lams": (1.0, 10.0), "alphas": (0.0, 1.0), "layers": ("all", "encoder"), "moments": moments}
    return autoencoder.frontier(model, data, seed=0, splits=("test",), **how)


def test_a_row_is_what_it_says(model, data, moments, rows):
    row = runs.select(rows, {"lam": 10.0, "alpha": 1.0, "layers": "encoder", "erased": 3, "tested": 5})[0]
    engram = el.extract_all(model, moments, specificity=10, rcond=1e-3)[3].select(["enc1", "enc2", "enc3"])
    own = data.test.where(data.test.y == 5).x
    assert row["after"] == pytest.approx(reconstruction_error(el.ablate(model, engram), own), rel=1e-5)
    assert row["before"] == pytest.approx(reconstruction_error(model, own), rel=1e-5)
    assert row["blank"] == pytest.approx(float(own.double().square().mean()), rel=1e-5)
    assert autoencoder.lost({"before": 1.0, "after": 3.0, "blank": 5.0}) == 0.5


def test_the_erased_digit_loses_most_and_specificity_helps(rows):
    at = {(s["layers"], s["lam"], s["alpha"]): s for s in autoencoder.effects(rows)}
    for layers in ("all", "encoder"):
        nothing = at[layers, 1.0, 0.0]
        assert nothing["target_lost"] == nothing["others_lost"] == 0
        assert at[layers, 1.0, 1.0]["ratio"] > 2
        assert at[layers, 10.0, 1.0]["ratio"] > 1.5 * at[layers, 1.0, 1.0]["ratio"]
    erased = runs.select(rows, {"layers": "all", "lam": 1.0, "alpha": 1.0})
    found = autoencoder.matrix(erased, 10)
    assert (found.argmax(1) == torch.arange(10)).float().mean() > 0.8  # a row is a digit erased
    assert torch.allclose(autoencoder.matrix(erased, 10, "rise") > 0, found > 0)
    with pytest.raises(ValueError, match="several"):
        autoencoder.effects([*rows, {**rows[0], "split": "val"}])


def test_controls_do_not_single_the_digit_out(model, data, moments):
    rows = autoencoder.controls(model, data, seed=0, moments=moments)
    lines = autoencoder.effects(rows, by=("control",))
    assert len(lines) == 3 and all(line["others_lost"] > 0.05 and 0.6 < line["ratio"] < 1.6 for line in lines)


def test_shares_measure_a_shrinkage(model, data, moments, monkeypatch):
    """If W⁺ were a tenth of every weight, the repair would give the network back."""
    rows = autoencoder.shares(model, data, seed=0, lams=(1.0, 10.0), moments=moments)
    assert {r["lam"] for r in rows} == {1.0, 10.0} and len(rows) == 20
    for row in rows:
        s = float((data.train.y == row["erased"]).double().mean())
        common = s / (s + row["lam"] * (1 - s))
        assert row["predicted"] == pytest.approx((1 - common) ** 6) and 0.3 < row["shrink"] < 1
        assert row["before"] < row["rescaled"] < row["others"]

    def tenth(model, moments, **_):
        names = next(iter(moments.values()))
        part = {}
        for name in names:
            layer = model.get_submodule(name)
            part[name] = 0.1 * layer.weight.detach(), 0.1 * layer.bias.detach()
        return {c: el.Engram(part) for c in moments}

    monkeypatch.setattr(autoencoder.el, "extract_all", tenth)
    even = replace(data, train=data.train.sample(50))
    for row in autoencoder.shares(model, even, seed=0, moments=moments):
        assert row["repaired"] == pytest.approx(row["before"], rel=1e-3) and row["before"] < row["others"]


def test_run_has_all_parts_and_a_summary(data):
    tiny = replace(SMALL, epochs=1, lams=(1.0,), alphas=(1.0,), per_class={"train": 20, "val": 5, "test": 5})
    rows = autoencoder.run(data, tiny, 0)
    assert {r["study"] for r in rows} == {"frontier", "controls", "shares", "retrained"}
    assert len(runs.select(rows, {"study": "frontier"})) == 2 * 10 * 10 * 2
    assert len(runs.select(rows, {"study": "retrained"})) == 10
    summary = autoencoder._summary(rows)
    assert len(summary["frontier"]) == 2 and len(summary["controls"]) == 3 and len(summary["shares"]) == 1


def test_each_network_has_a_number_and_the_choice_keeps_to_the_budget(rows):
    plain = runs.select(rows, {"layers": "all", "lam": 1.0, "alpha": 1.0})
    assert autoencoder.each_seed(plain, "ratio") == [autoencoder.effects(plain, by=())[0]["ratio"]]
    assert autoencoder.each_seed([], "ratio") is None
    lines = [{"others_lost": o, "target_lost": t} for o, t in ((0.01, 0.3), (0.04, 0.6), (0.2, 0.9))]
    assert autoencoder.choose(lines, 0.05) is lines[1]
    with pytest.raises(ValueError, match="no setting costs the others as little as 0.001"):
        autoencoder.choose(lines, 0.001)


# ----------------------------------------------------------------------------------------------- attributes (Fig. 7, 8)


@pytest.fixture(scope="module")
def people():
    return faces(450, size=16)


@pytest.fixture(scope="module")
def painter(people):
    return attributes.train(people, attributes.Settings(widths=(12, 24), latent=24, epochs=6, lr=6e-3), seed=0)


def test_moments_of_attributes_come_from_one_pass(painter, people):
    found = attributes.moments_of(painter, people, ["glasses", "hat"])
    for name in ("glasses", "hat"):
        column = people.column(name)
        direct = el.collect_by_concept(painter, people.batches("train"), lambda b, c=column: b[1][:, c].long())
        for side, has in zip(found[name], (1, 0), strict=True):
            assert side.count == direct[has].count
            assert all(torch.allclose(side[k], direct[has][k], rtol=1e-6, atol=1e-8) for k in direct[has])
    bald = people.train.where(~people.has("hat"))
    with pytest.raises(ValueError, match="'hat'"):
        attributes.moments_of(painter, people, ["hat"], split=bald)


def test_tasks_score_against_the_counterfactual(people):
    asked = attributes.tasks(people, "test", "hat")
    has = people.has("hat", "test")
    assert len(asked["remove"].x) == int(has.sum()) and len(asked["add"].x) == int((~has).sum())
    for name, perfect in (("remove", asked["remove"].wanted), ("leave", asked["leave"].x)):
        assert asked[name].errors(perfect) == (0.0, 0.0) and asked[name].recognised(perfect) == 1.0
    remove = asked["remove"]
    inside, outside = remove.errors(remove.x)  # only the hat is wrong with the face as it is
    assert inside > 0.01 and outside == 0
    assert asked["add"].errors(asked["add"].x)[0] > 0.01
    assert attributes.tasks(people, "test", "hat", most=3)["add"].x.shape[0] == 3
    grey = torch.full_like(remove.x, 0.5)
    assert remove.recognised(grey) <= 1 / len(grey)
    drawn = []
    rows = attributes.score(lambda x: drawn.append(len(x)) or x, asked, seed=4)
    assert drawn == [len(asked["remove"].x), len(asked["leave"].x)]  # "leave" and "add" share their pictures
    assert [(r["question"], r["seed"]) for r in rows] == [("remove", 4), ("leave", 4), ("add", 4)]
    assert rows[0]["inside"] == inside


def test_an_edit_is_undone_and_marks_are_zero_and_one(painter, people):
    asked = {"hat": attributes.tasks(people, "test", "hat")}
    sigma = attributes.moments_of(painter, people, ["hat"])
    before = reconstruct(painter, people.test.x)
    facts = {"seed": 0, "attribute": "hat"}
    rows = attributes.frontier(painter, sigma, asked, lams=(1, 10), alphas=(0, 1), layers=("all", "to_code"), seed=0)
    assert torch.equal(reconstruct(painter, people.test.x), before) and len(rows) == 2 * 2 * 2 * 3
    unedited = attributes.score(lambda x: reconstruct(painter, x), asked["hat"], **facts)
    best = attributes.best(painter, asked["hat"], **facts)
    marks = attributes.relative(rows, unedited, best)
    still = runs.select(marks, {"alpha": 0.0, "question": "remove"})
    assert attributes.pooled(still) == {(): 0.0} and all(r["outside_times"] == 1 for r in still)
    goal = runs.select(attributes.relative(best, unedited, best), {"question": "remove"})
    assert attributes.pooled(goal, ("attribute",)) == {("hat",): 1.0}
    row = runs.select(rows, {"lam": 10.0, "alpha": 1.0, "layers": "to_code", "question": "leave"})[0]
    engram = el.extract(painter, *sigma["hat"], specificity=10, rcond=1e-3).select(["to_code"])
    drawn = reconstruct(el.ablate(painter, engram), asked["hat"]["leave"].x)
    assert row["outside"] == pytest.approx(asked["hat"]["leave"].errors(drawn)[1], rel=1e-4)
    harm = {
        lam: runs.select(marks, {"lam": lam, "alpha": 1.0, "layers": "all", "question": "leave"})[0] for lam in (1, 10)
    }
    assert harm[1]["outside_times"] > harm[10]["outside_times"] > 1


def test_a_short_way_does_not_decide_how_far_edits_went():
    rows = [
        {"seed": s, "attribute": name, "went": went, "way": way}
        for s in (0, 1)
        for name, went, way in (("hat", 0.06, 0.1), ("glasses", 0.03, 0.06), ("smile", -0.003, 0.001))
    ]
    assert attributes.pooled(rows, ("attribute",))["smile",] == pytest.approx(-3)
    assert attributes.pooled(rows)[()] == pytest.approx(0.087 / 0.161)  # where a mean of ratios says -0.63
    assert attributes.pooled(rows, ("seed",)).keys() == {(0,), (1,)}


def test_frequency_is_specificity(painter, people):
    sigma = attributes.moments_of(painter, people, ["smile"])["smile"]
    n = int(people.has("smile").sum()), int((~people.has("smile")).sum())
    same = attributes.weighted(sigma, n[0] / sum(n), n)
    assert all(torch.allclose(same[0][k], sigma[0][k]) for k in sigma[0])
    often = attributes.weighted(sigma, 0.5, n)
    a = el.extract(painter, *often, specificity=4, rcond=1e-3)
    b = el.extract(painter, *sigma, specificity=4 * n[0] / n[1], rcond=1e-3)
    assert all(torch.allclose(a[k].weight, b[k].weight, atol=1e-5) for k in a)


def test_a_random_part_of_a_painter_has_the_engrams_size_on_the_data(painter, people):
    sigma = attributes.moments_of(painter, people, ["hat"])["hat"]
    engram = el.extract(painter, *sigma, rcond=1e-3)
    assert random_subspace(painter, engram, 0, moments=sum(sigma)).keys() == engram.keys()


def test_every_edit_is_compared_by_name(painter, people):
    names = ["glasses", "hat"]
    sigma = attributes.moments_of(painter, people, names)
    asked, unedited, best = attributes.marks([painter], people, names, "test", most=5)
    assert {r["attribute"] for r in unedited} == set(names) and len(best) == 6
    settled = {"paper's": ("all", 1.0, 1.0), "chosen": ("to_code", 10.0, 2.0)}

    def still(model, name):
        return {"nothing": lambda code: code}

    rows = attributes.compare([painter], [sigma], asked, settled, still, rcond=1e-3)
    methods = {f"{how}, {name}" for how in ("engram", "added") for name in settled}
    methods |= {"random part", "other attribute", "nothing"}
    assert {r["method"] for r in rows} == methods
    same = runs.select(rows, {"method": "nothing", "attribute": "hat", "question": "remove"})[0]
    first = runs.select(unedited, {"attribute": "hat", "question": "remove"})[0]
    assert same["inside"] == pytest.approx(first["inside"], rel=1e-4)
    e = attributes.part(painter, el.extract(painter, *sigma["hat"], specificity=10.0, rcond=1e-3), "to_code")
    (wanted,) = attributes.score(attributes.edit(painter, e, 2.0), {"remove": asked["hat"]["remove"]})
    found = runs.select(rows, {"method": "engram, chosen", "attribute": "hat", "question": "remove"})[0]
    assert found["inside"] == pytest.approx(wanted["inside"])


def test_a_move_that_is_the_same_for_all_is_all_common(painter, people):
    sigma = attributes.moments_of(painter, people, ["hat"])["hat"]
    found = {lam: attributes.moves(painter, el.extract(painter, *sigma, specificity=lam, rcond=1e-3), people, "hat")
             for lam in (1.0, 30.0)}  # fmt: skip
    assert all(0 < m["common"] <= 1 and -1 <= m["cos"] <= 1 for m in found.values())
    assert found[30.0]["common"] > found[1.0]["common"] and found[30.0]["cos"] > 0.5
