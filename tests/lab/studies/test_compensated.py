"""The study of the compensated edit: what it measures is what the package says, on a small network of digits."""

from dataclasses import replace

import pytest
import torch

import engramlib as el
from engramlib.lab.data import digits
from engramlib.lab.records import runs
from engramlib.lab.studies import compensated as study
from engramlib.lab.studies import mlp

pytestmark = pytest.mark.filterwarnings("ignore:too little data")
OURS = study.Knife("compensated", lam=3.0, alpha=1.5)


@pytest.fixture(scope="module")
def subject():
    data = digits()
    model = mlp.train(data, replace(mlp.DIGITS, sizes=(64, 24, 24, 10), epochs=15), 0)
    return study.Subject(model, data, 0, tuple((c,) for c in range(10)), flat=True)


def images(subject, digit, others):
    part = subject.data.train
    return part.where((part.y != digit) if others else (part.y == digit)).x.flatten(1)


def test_each_knife_is_its_call_of_the_package(subject):
    gone, stay = images(subject, 7, False), images(subject, 7, True)
    plus, minus = el.collect(subject.model, [gone]), el.collect(subject.model, [stay])
    plain = el.ablate(subject.model, el.extract(subject.model, plus, minus, specificity=3.0, rcond=1e-4), 1.5)
    ours = el.erase(subject.model, [gone], [stay], alpha=1.5, specificity=3.0)
    for knife, wanted in ((study.Knife("plain", 3.0, 1.5, 1e-4), plain), (OURS, ours)):
        found = subject.without(7, knife)
        for a, b in zip(found.parameters(), wanted.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_leace_stands_in_front_of_the_last_layer_and_changes_nothing_below(subject):
    edited = subject.without(2, study.Knife("leace"))
    x = subject.data.test.x.flatten(1)
    with torch.no_grad():
        assert torch.equal(edited.model.features(x), subject.model[:-1](x))
        mine = subject.model[-1](edited.features(x))
        torch.testing.assert_close(edited(x), mine)
        train, y = subject.data.train.x.flatten(1), subject.data.train.y
        found = edited.features(train).double()
    own, others = found[y == 2].mean(0), found[y != 2].mean(0)
    assert (own - others).norm() < 1e-3 * found.norm(dim=1).mean()  # no mean tells the digit from the rest
    assert str(study.Knife("leace")) == "nothing to choose"


def test_rows_say_what_the_networks_do(subject):
    rows = study.frontier(subject, [OURS], network="small", splits=("test",), groups=[3])
    (row,) = rows
    x, y = subject.data.test.x.flatten(1), subject.data.test.y
    with torch.no_grad():
        answers = [m(x).argmax(1) for m in (subject.without(3, OURS), subject.model)]
    each = [torch.stack([(a[y == c] == c).double().mean() for c in range(10)]) for a in answers]
    others = torch.arange(10) != 3
    assert row["left"] == pytest.approx(float(each[0][3]))
    assert row["kept"] == pytest.approx(float(each[0][others].mean()))
    assert row["before"] == pytest.approx(float(each[1][others].mean()))
    assert study.per_seed(rows, OURS, "price") == [pytest.approx(row["before"] - row["kept"])]
    assert study.per_seed(rows, OURS, "price", network="another") == []


def test_a_group_of_classes_goes_together(subject):
    pairs = study.Subject(subject.model, subject.data, 0, ((0, 1), (2, 3), (4, 5, 6, 7, 8, 9)), flat=True)
    both = torch.cat(pairs.images(subject.data.train, 1))
    part = subject.data.train
    assert torch.equal(both, part.where((part.y == 2) | (part.y == 3)).x.flatten(1))
    assert len(both) + sum(map(len, pairs.images(part, 1, others=True))) == len(part)
    edited = pairs.without(1, OURS)
    found = pairs.accuracy(edited, "test")
    assert found.shape == (3,) and found[1] < 0.3 < 0.8 < found[2]


def test_the_rule_takes_the_lowest_point_of_what_is_foreseen_on_validation_images(subject, monkeypatch):
    monkeypatch.setattr(study, "LAMBDAS", (1.0, 3.0))
    rows = study.ruled(subject, network="small", groups=[4])
    assert [(r["lam"], r["how"]) for r in rows] == [(lam, h) for lam in (1, 3) for h in ("plain", "compensated")]
    own = subject.data.val.where(subject.data.val.y == 4).x.flatten(1)
    engram = subject.engrams(3.0, 1e-6)[4]

    def response(alpha):
        """Mean over layers of what is left, each layer alone on what it reads in the network as it came."""
        shares, x = [], own
        for name, module in subject.model.named_children():
            if name in engram:
                edited = el.ablate(subject.model, engram, alpha).get_submodule(name)
                with torch.no_grad():
                    shares.append(float(edited(x).square().sum() / module(x).square().sum()))
            with torch.no_grad():
                x = module(x)
        return sum(shares) / len(shares)

    chosen = rows[2]
    assert chosen["left_foreseen"] == pytest.approx(response(chosen["alpha"]), rel=1e-4)
    assert response(chosen["alpha"]) < min(response(chosen["alpha"] + step) for step in (-0.2, 0.2))
    plain = el.ablate(subject.model, engram, chosen["alpha"])
    assert chosen["left"] == pytest.approx(float(subject.accuracy(plain, "test")[4]))


def test_a_budget_takes_the_smallest_lambda_that_keeps_it():
    facts = {"network": "n", "seed": 0, "group": 0, "how": "plain"}
    rows = [{**facts, "lam": lam, "moved_foreseen": moved} for lam, moved in ((10.0, 0.01), (1.0, 0.04), (3.0, 0.02))]
    assert [study.within(rows, budget)[0]["lam"] for budget in (0.05, 0.04, 0.03, 0.01, 0.001)] == [1, 1, 3, 10, 10]
    assert len(study.within(rows + [{**r, "seed": 1} for r in rows], 0.03)) == 2


def row(left, kept, knife, *, split, seed=0):
    facts = {"study": "frontier", "network": "n", "seed": seed, "split": split, **vars(knife), "group": 0}
    return {**facts, "left": left, "kept": kept, "before": 1.0}


def test_the_choice_looks_at_validation_images_only():
    gentle, firm, hard = (study.Knife("plain", alpha=alpha) for alpha in (1.0, 2.0, 3.0))
    val = [row(0.2, 0.99, gentle, split="val"), row(0.05, 0.9, firm, split="val"), row(0.0, 0.8, hard, split="val")]
    test = [row(0.0, 1.0, knife, split="test") for knife in (gentle, hard)]
    knives = [gentle, firm, hard]
    assert study.chosen(val + test, knives) == firm
    assert study.chosen(val, knives, goal=0.2) == gentle
    assert study.chosen([{**r, "left": r["left"] + 0.5} for r in val], knives) == hard  # nobody meets it: least left


def test_drift_is_zero_without_an_edit_and_starts_after_the_first_edited_layer(subject):
    assert set(study.drift(subject, subject.model, 2).values()) == {0.0}
    moved = study.drift(subject, subject.without(2, OURS), 2)
    assert list(moved) == ["fc1", "fc2", "fc3", "answer"]
    assert moved["fc1"] == 0 and min(moved["fc2"], moved["fc3"], moved["answer"]) > 1e-3


def test_other_survivors_are_used_where_they_are_given(subject):
    right, noise = images(subject, 4, True), torch.rand(900, 64, generator=torch.Generator().manual_seed(0))
    same = subject.without(4, OURS, reference=[right])
    for a, b in zip(same.parameters(), subject.without(4, OURS).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    for knife in (OURS, study.Knife("plain", 3.0, 1.5, 1e-3)):
        kept = [subject.accuracy(subject.without(4, knife, reference=[x]), "test") for x in (right, noise)]
        assert float(kept[0].mean()) > float(kept[1].mean()) + 0.05


def test_statistics_are_refitted_on_what_stays(monkeypatch):
    data = study.shapes(per_class=6)
    model = study.convnet.trained(data, 0, study.convnet.Settings(widths=(4, 8), epochs=1)).model
    small = study.Subject(model, data, 0, tuple((c,) for c in range(data.n_classes)))
    with_old = small.without(0, study.Knife("plain", 1.0, 1.0, 1e-4))
    refitted = small.without(0, study.Knife("refitted", 1.0, 1.0, 1e-4))
    old, new = dict(with_old.named_buffers()), dict(refitted.named_buffers())
    assert any(not torch.equal(old[n], new[n]) for n in old if n.endswith("running_mean"))
    for a, b in zip(with_old.parameters(), refitted.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_recording_resumes_and_has_every_network_and_both_methods(subject, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "_folder", lambda given: tmp_path)
    monkeypatch.setattr(study, "NETWORKS", {"digits": (lambda seed: replace(subject, seed=seed), 2, (1, 5))})
    monkeypatch.setattr(study, "knives_for", lambda network: (study.PLAIN[3], OURS))
    said = []

    def language_row(problem, seed, method, role, settings):
        said.append((seed, method, role))
        strong = settings.get("alpha", 0) > 5
        facts = {"study": "language", "seed": seed, "method": method, "role": role, "settings": dict(settings)}
        return {**facts, "left": 0.0 if strong else 0.5, "kept": 0.9, "chosen": role != "rehearsal"}

    class Case:
        def __init__(self, seed):
            self.seed = seed

        def problem(self, rehearsal=False):
            return None

    monkeypatch.setattr(study, "_language_row", language_row)
    monkeypatch.setattr(study.forgetting, "case", lambda setting, seed: Case(seed))
    assert study.main(["--record"]) == 0
    run = runs.load("compensated-networks")
    rows = run.where(study="frontier")
    assert {(r["seed"], r["how"], r["split"]) for r in rows} == {
        (s, how, split) for s in (0, 1) for how in ("plain", "compensated") for split in ("val", "test")
    }
    assert {r["group"] for r in rows} == {1, 5}
    language = run.where(study="language")
    assert sum(r["chosen"] for r in language if r["role"] == "rehearsal") == 2
    assert len([r for r in language if r["role"] == "forget10"]) == 6
    assert len(said) == 2 * 9 + 6
