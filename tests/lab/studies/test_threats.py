"""Attacks do what they say on networks whose truth is known, and the rule follows from the intervals alone."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import engramlib as el
from engramlib.lab import models
from engramlib.lab.data import Split, digits
from engramlib.lab.metrics import resolution
from engramlib.lab.metrics.resolution import Interval
from engramlib.lab.records import runs
from engramlib.lab.studies import compensated, erasure, mlp, threats
from engramlib.lab.training import train_classifier

pytestmark = pytest.mark.filterwarnings("ignore:too little data")
SMALL = replace(mlp.DIGITS, sizes=(64, 24, 24, 10), epochs=15)


@pytest.fixture(scope="module")
def case():
    data = digits()
    model = mlp.train(data, SMALL, 0)
    flat = data.flat()
    retrained = models.mlp(SMALL.sizes)
    without = replace(flat, train=flat.train.where(flat.train.y != 4))
    train_classifier(retrained, without, **SMALL.training, seed=0, validate=False)
    subject = compensated.Subject(model, data, 0, tuple((c,) for c in range(10)), flat=True)
    return threats.Case(subject, 4, retrained)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ------------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    ("leak", "outcome"),
    [
        ((-0.3, 0.16), "protected"),
        ((-0.3, 0.17), "not resolved"),  # .2 × .8 = .16
        ((0.19, 0.9), "not resolved"),
        ((0.20, 0.9), "not"),  # .2 × 1
        ((-0.9, -0.5), "protected"),
    ],
)
def test_the_outcome_follows_from_the_ends_of_the_intervals(leak, outcome):
    power = Interval(0.9, 0.8, 1.0)
    found = threats.judge(Interval(sum(leak) / 2, *leak), power)
    assert found.outcome == outcome and not found.blunt
    assert str(found).startswith(f"{outcome}: ") and found.share == pytest.approx(sum(leak) / 1.8)


def test_an_attack_that_may_do_nothing_judges_nobody():
    blunt = threats.judge(Interval(0.0, -0.01, 0.01), Interval(0.2, 0.0, 0.4))
    assert blunt.outcome == "not resolved" and blunt.blunt and "blunt" in str(blunt)
    with pytest.raises(ValueError, match="share must be between"):
        threats.judge(Interval(0, 0, 0), Interval(1, 1, 1), share=1.0)


def test_units_are_compared_with_their_own_controls():
    """Networks that differ a lot, edits that differ from their own control by the same .5."""
    control = [0.1, 0.4, 0.2, 0.3]
    found = threats.over_units([c + 0.5 + e for c, e in zip(control, (0, 0.02, -0.02, 0), strict=True)], control,
                               [c + 0.6 for c in control])  # fmt: skip
    assert found.outcome == "not" and found.leak.high - found.leak.low < 0.1
    assert threats.over_units(control, control, [1.0] * 4).outcome == "protected"


def test_one_network_resolves_nothing():
    assert resolution.of_mean([0.5]).low == -float("inf")
    assert threats.over_units([0.0], [0.0], [1.0]).outcome == "not resolved"
    mean = resolution.of_mean([0.4, 0.6])
    assert mean.mean == pytest.approx(0.5) and mean.high - mean.mean == pytest.approx(12.706 * 0.1, rel=1e-3)
    with pytest.raises(ValueError, match="at least one"):
        resolution.of_mean([])


def test_the_interval_of_a_mean_covers_it():
    draw = torch.Generator().manual_seed(0)
    found = [resolution.of_mean(torch.randn(6, generator=draw).tolist()) for _ in range(500)]
    assert 0.92 < sum(i.low <= 0 <= i.high for i in found) / 500 < 0.98


# --------------------------------------------------------------------------------------------------------- attacks


def test_rounding_keeps_what_stands_on_the_grid_and_moves_nothing_by_more_than_half_a_step():
    model = models.mlp([6, 5, 4])
    before = weights(model)
    rounded = threats.quantised(model, 4)
    assert torch.equal(weights(model), before)
    for a, b in ((model.fc1, rounded.fc1), (model.fc2, rounded.fc2)):
        step = a.weight.abs().amax(1, keepdim=True) / 7
        assert ((a.weight - b.weight).abs() <= step / 2 + 1e-6).all() and torch.equal(a.bias, b.bias)
        assert all(len(row.unique()) <= 15 for row in b.weight)
    torch.testing.assert_close(weights(threats.quantised(rounded, 4)), weights(rounded))
    assert (weights(threats.quantised(model, 8)) - before).norm() < (weights(rounded) - before).norm() / 8
    with pytest.raises(ValueError, match="2 bits"):
        threats.quantised(model, 1)


def test_a_tied_output_layer_is_not_rounded():
    tied = nn.ModuleDict({"in": nn.Embedding(5, 3), "out": nn.Linear(3, 5, bias=False), "mid": nn.Linear(3, 3)})
    tied["out"].weight = tied["in"].weight
    rounded = threats.quantised(tied, 3)
    assert torch.equal(rounded["out"].weight, tied["out"].weight)
    assert not torch.equal(rounded["mid"].weight, tied["mid"].weight)


def test_what_hides_in_the_grid_comes_back_by_rounding(case):
    hidden = threats.rounded_away(case, 4)
    assert case.answered(hidden) < 0.3 < 0.8 < case.asked(hidden)[1]
    torch.testing.assert_close(weights(threats.quantised(hidden, 4)), weights(threats.quantised(case.model, 4)))
    with pytest.raises(ValueError, match="half a step"):
        threats.hidden_in_the_grid(case.model, lambda m: m(torch.zeros(1, 64)).sum(), bits=4, reach=0.6)


def test_always_that_digit_brings_nothing_back(case):
    always = threats.hushed(case.model, 4, depth=-100.0)
    assert case.asked(always)[0] == 1.0 and case.answered(always) == 0.0
    assert case.answered(case.model) > 0.8 and case.answered(threats.hushed(case.model, 4)) == 0.0


def test_one_learned_number_finds_what_was_only_held_down(case):
    hushed = threats.hushed(case.model, 4)
    shown = case.few(2)
    again = threats.relearned(hushed, shown, 4, steps=0)
    changed = (weights(again) != weights(hushed)).nonzero().flatten()
    assert len(changed) == 1  # the bias of the digit
    assert case.answered(again) > 0.8
    assert threats.recovered(case, hushed, steps=0) > threats.recovered(case, case.retrained, steps=0) + 0.2


def test_what_is_shown_is_not_what_is_asked(case):
    shown = case.few(2)
    assert sorted(shown.y.tolist()) == sorted(list(range(10)) * 2)
    train = case.split("train")
    assert all((train.x == x).all(1).any() for x in shown.x)
    strange = case.few(2, stranger=True)
    mine, theirs = strange.x[strange.y == 4], case.split("train").x
    assert len(mine) == 2 and not any((theirs == x).all(1).any() for x in mine)
    turned = case.subject.data.test.x[case.subject.data.test.y == 7].rot90(1, (2, 3)).flatten(1)  # a 7, since 4 went
    assert torch.equal(case.stranger("test").x, turned)


def test_a_newcomer_is_a_digit_that_no_network_of_the_case_has_seen(monkeypatch):
    monkeypatch.setattr(mlp, "DIGITS", SMALL)
    case = threats.newcomer(0, 4, 7)
    there = {name: set(case.split(name).y.tolist()) for name in ("train", "val", "test")}
    assert all(7 not in found and len(found) == 9 for found in there.values())
    assert case.model[-1].out_features == 10 and case.answered(case.model) > 0.8 > 0.1 > case.answered(case.retrained)
    left, kept = case.asked(threats.edited(case, "compensated", 1.5))
    assert left < 0.3 and kept > 0.8  # the fours went, and not their neighbours in the list of groups
    strange, sevens = case.stranger("test"), digits(0).test
    assert torch.equal(strange.x, sevens.x[sevens.y == 7].flatten(1)) and set(strange.y.tolist()) == {4}
    few = case.few(2, stranger=True)
    assert len(few.y) == 18 and int((few.y == 4).sum()) == 2


def test_a_count_of_what_is_named_is_fooled_by_whoever_calls_everything_that(case):
    always = threats.hushed(case.model, 4, depth=-100.0)
    count = threats.counted(case, always)
    assert count.needed == 0 and count.kept < 0.1
    assert threats.recovered(case, always, steps=0) > 0.7  # its bias is what an attacker sets
    assert threats.counted(case, case.retrained).needed > threats.counted(case, case.model).needed == 0
    assert threats.counted(case, case.retrained, stranger=True).needed != 0  # None: not within the limit


def test_what_comes_faster_after_an_edit_is_asked_network_by_network():
    rows = [
        {
            "study": "newcomer",
            "threat": "relearning",
            "edit": edit,
            "seed": seed,
            "own": own + 0.1 * seed,
            "other": other,
        }
        for edit, own, other in (("mine", 0.5, 0.2), (threats.NEVER, 0.3, 0.4))
        for seed in range(4)
    ]
    own, other = (threats.faster(rows, "mine", key) for key in ("own", "other"))
    assert own.low == pytest.approx(0.2) == own.high and other.mean == pytest.approx(-0.2)


@pytest.mark.parametrize("family", ["uniform", "λ and cut", "compensated"])
def test_a_formula_undoes_what_it_did(case, family):
    edited = threats.edited(case, family, 1.5)
    assert case.asked(edited)[0] < 0.4
    assert threats.invert(case, edited, family, 1.5, k=None) > 0.9 * case.answered(case.model)
    mine, stay = case.split("train", gone=True).x, case.split("train", gone=False).x
    wrong = threats.undone(edited, mine, stay, alpha=0.7, **threats.FORMULAS[family])
    assert case.answered(wrong) < case.answered(case.model) - 0.1  # with another α it is another matrix
    with pytest.raises(ValueError, match="no formula"):
        threats.invert(case, edited, "W-Norm", 1.5)


def test_undone_in_one_layer_is_the_matrix_before():
    draw = torch.Generator().manual_seed(0)
    gone, stay = (torch.randn(n, 6, generator=draw) for n in (40, 80))
    model = models.mlp([6, 4])
    edited = el.ablate(model, el.extract(model, el.collect(model, [gone]), el.collect(model, [stay])), 1.5)
    back = threats.undone(edited, gone, stay, alpha=1.5)
    torch.testing.assert_close(weights(back), weights(model), rtol=1e-3, atol=1e-4)
    half = threats.undone(edited, gone[:20], stay, alpha=1.5, many=40)  # twenty images stand for forty
    twice = threats.undone(edited, gone[:20].repeat(2, 1), stay, alpha=1.5)
    torch.testing.assert_close(weights(half), weights(twice), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(weights(half), weights(model), atol=0.05)


def test_guesses_find_an_engram_that_was_kept_and_never_make_it_worse(case):
    engram = case.engram(1.0, 1e-6)
    edited = threats.edited(case, "uniform", 1.5)
    shown = case.few()
    loss = threats.loss_on(shown, 4)
    before = weights(edited)
    found = threats.guessed(edited, engram, loss, draws=30)
    assert torch.equal(weights(edited), before) and loss(found) < loss(edited)
    assert case.answered(found) > case.answered(edited) + 0.4
    assert torch.equal(weights(threats.guessed(edited, engram, loss, draws=0)), before)


def test_probes_read_each_layer_and_pixels_are_nobodys(case):
    read = {kind: threats.reads(case, case.model, kind=kind) for kind in ("linear", "kernel")}
    assert list(read["linear"]) == ["pixels", "fc1", "fc2", "fc3"]
    other = threats.reads(case, case.retrained)
    assert other["pixels"] == read["linear"]["pixels"] and other["fc2"] < read["linear"]["fc2"]
    x = case.split("test").x
    states = threats.hidden(case.model, x)
    torch.testing.assert_close(states["fc3"], case.model(x).detach())
    assert (states["fc1"] >= 0).all() and states["fc1"].shape[1] == 24
    with pytest.raises(ValueError, match="linear"):
        threats.reads(case, case.model, kind="quadratic")


def test_a_student_of_what_stays_never_saw_what_went(case):
    student = threats.distilled(case, threats.edited(case, "λ and cut", 1.0))
    left, kept = case.asked(student)
    assert left < 0.1 and kept > 0.75
    assert [layer.out_features for layer in student if isinstance(layer, nn.Linear)] == [24, 24, 10]
    assert threats.recovered(case, student, steps=0) < threats.recovered(case, threats.hushed(case.model, 4), steps=0)


def test_strengths_are_chosen_on_validation_images():
    def rows(**said):
        return [
            {
                "study": "frontier",
                "edit": "W-Norm",
                "strength": float(k),
                "val_left": left,
                "val_kept": kept,
                "kept": 1.0,
            }
            for k, pairs in zip((1, 2, 3), said.values(), strict=True)
            for left, kept in pairs
        ]

    gentle, hard = [(0.2, 0.99), (0.2, 0.99)], [(0.0, 0.8), (0.0, 0.8)]
    assert threats.chosen(rows(a=gentle, b=[(0.0, 0.9), (0.1, 0.9)], c=hard), "W-Norm") == 2.0  # .05 on average
    assert threats.chosen(rows(a=gentle, b=gentle, c=[(0.1, 0.8), (0.08, 0.8)]), "W-Norm") == 3.0


def test_a_recording_has_every_edit_and_threat(case, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "_folder", lambda given: tmp_path)
    monkeypatch.setattr(threats, "UNITS", ((0, 4), (1, 4)))
    monkeypatch.setattr(
        threats, "case", lambda seed, digit: threats.Case(replace(case.subject, seed=seed), digit, case.retrained)
    )
    monkeypatch.setattr(mlp, "DIGITS", SMALL)
    monkeypatch.setattr(threats, "STRENGTHS", {f: s[2:3] for f, s in threats.STRENGTHS.items()})
    assert erasure.main(["--record", "--data", "digits"]) == 0
    run = runs.load("erasure-digits")
    assert len(run.where(study="frontier")) == 2 * len(threats.STRENGTHS)
    assert erasure.main(["--record", "--data", "newcomers"]) == 0
    newcomers = runs.load("erasure-newcomers").rows
    assert len(newcomers) == 2 * 3 * (len(threats.STRENGTHS) + 2)
    assert threats.faster(newcomers, threats.NEVER, "other").mean == 0.0
    everywhere = {threat for threat in {r["threat"] for r in run.rows if r["study"] == "threat"}}
    formula = threats.values(run.rows, "uniform, all images", "its formula")
    assert len(formula) == 2 and min(formula) > 0.7
    for edit in (*threats.STRENGTHS, threats.STUDENT, threats.NEVER, threats.PUPIL):
        there = {r["threat"] for r in run.where(study="threat", edit=edit)}
        assert everywhere - there <= {"its formula"}, edit
    assert threats.values(run.rows, threats.HUSHED, "asked plainly") == [0.0, 0.0]
    assert max(threats.values(run.rows, "in the grid", "asked plainly")) < 0.4


def test_a_cell_of_the_table_compares_what_it_says():
    def rows(**said):
        return [
            {"study": "threat", "edit": edit, "threat": threat, "seed": seed, "value": value + 0.001 * seed}
            for edit, found in said.items()
            for threat, value in found.items()
            for seed in range(5)
        ]

    found = rows(
        mine={"relearning": 0.7, "its formula": 0.1},
        never={"relearning": 0.5, "one bias learned": 0.1},
    )
    found = [{**r, "edit": threats.NEVER if r["edit"] == "never" else r["edit"]} for r in found]
    hushed = rows(hushed={"relearning": 0.9, "one bias learned": 1.0})
    found += [{**r, "edit": threats.HUSHED} for r in hushed]
    assert threats.verdict(found, "mine", "relearning").outcome == "not"
    assert threats.verdict(found, "mine", "one bias learned") is None
    assert threats.verdict(found, "mine", threats.FEW_IMAGES) is None
    extra = rows(**{"mine, all images": {"its formula": 1.0}, f"{threats.NEVER}, mine": {"its formula": 0.1}})
    found += extra + [{**r, "edit": threats.AS_IT_IS, "threat": "asked plainly"} for r in extra[:5]]
    assert threats.verdict(found, "mine", threats.FEW_IMAGES).outcome == "protected"
    assert threats.verdict(found, "mine", threats.ALL_IMAGES).outcome == "not"
    with pytest.raises(ValueError, match="no threat"):
        threats.verdict(found, "mine", "telepathy")


def test_each_family_is_its_call_of_the_package(case):
    engram = case.engram(1.0, 1e-6)
    pairs = {
        "uniform": el.ablate(case.model, engram, 0.7),
        "W-Norm": el.ablate(case.model, engram.norm_weighted(), 0.7),
        "last layer": el.ablate(case.model, case.engram(threats.LAM, threats.CUT).select(["fc3"]), 0.7),
    }
    for family, wanted in pairs.items():
        torch.testing.assert_close(weights(threats.edited(case, family, 0.7)), weights(wanted))
    with pytest.raises(ValueError, match="no family"):
        threats.edited(case, "hypnosis", 1.0)


def test_back_counts_false_alarms():
    part = Split(torch.zeros(6, 1), torch.tensor([4, 4, 1, 1, 1, 1]))
    assert threats.back(torch.tensor([4, 4, 4, 1, 1, 1]), part, 4) == pytest.approx(0.75)
