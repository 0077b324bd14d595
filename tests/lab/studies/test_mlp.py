import pytest
import torch

import engramlib as el
from engramlib.lab.data import digits
from engramlib.lab.models import mlp
from engramlib.lab.records import runs
from engramlib.lab.studies import classwise
from engramlib.lab.studies import mlp as study
from engramlib.lab.training import class_accuracy
from engramlib.lab.unlearning.controls import mask_class, random_subspace, same_norm
from engramlib.layers import supported_layers


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def model(data):
    return study.train(data, study.DIGITS, seed=0)


@pytest.fixture(scope="module")
def rows(model, data):
    return study.frontier(model, data, seed=0, rcond=1e-4, lams=(1.0, 3.0), alphas=(0.0, 1.0))


def norms(engram):
    return {n: float(torch.cat([p.flatten() for p in layer if p is not None]).norm()) for n, layer in engram.items()}


@pytest.mark.parametrize("bias", ["absorb", "keep"])
def test_random_subspace_has_the_size_and_lies_in_the_weights(model, data, bias):
    moments = study.moments_by_class(model, data.train, bias=bias)
    everything = sum(moments.values())
    engram = el.extract_all(model, moments, rcond=1e-4)[3]
    control = random_subspace(model, engram, seed=1)
    assert norms(control) == pytest.approx(norms(engram), rel=1e-5)
    fair = random_subspace(model, engram, seed=1, moments=everything)
    for name, layer in supported_layers(model).items():
        own = layer.matrix(layer.module.weight, layer.module.bias if bias == "absorb" else None)
        true, cut = layer.matrix(*engram[name]), layer.matrix(*fair[name])
        assert cut.shape == own.shape
        on_data = [float(torch.trace(m @ everything[name] @ m.T)) for m in (true, cut)]
        assert on_data[0] == pytest.approx(on_data[1], rel=1e-4)
        # c · W R Rᵀ applied to its own projector gives itself, and W there gives it up to c
        projector = torch.linalg.pinv(cut, rtol=1e-4) @ cut
        inside = own @ projector
        if own.shape[0] >= own.shape[1]:  # rows enough to show all of R
            assert torch.allclose(cut, inside * (cut.norm() / inside.norm()), atol=1e-4)
            assert round(float(projector.trace())) <= own.shape[1] // 2
    again, other = random_subspace(model, engram, seed=1), random_subspace(model, engram, seed=2)
    assert torch.equal(control["fc1"].weight, again["fc1"].weight)
    assert not torch.allclose(control["fc1"].weight, other["fc1"].weight, atol=1e-2)


def test_random_subspace_wants_moments_of_the_same_kind(model, data):
    kept, absorbed = (study.moments_by_class(model, data.train, bias=b) for b in ("keep", "absorb"))
    with pytest.raises(ValueError, match="'fc1'.*64 wide.*65.*same bias"):
        random_subspace(model, el.extract_all(model, kept)[0], seed=0, moments=sum(absorbed.values()))


def test_random_subspace_of_a_convolution_and_of_another_model():
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3, groups=2), torch.nn.Flatten(), torch.nn.Linear(24, 2))
    x, y = torch.randn(20, 4, 4, 4), torch.arange(20) % 2
    engram = el.extract_all(model, el.collect_by_concept(model, [(x, y)], lambda b: b[1]))[0]
    control = random_subspace(model, engram, seed=0)
    assert control["0"].weight.shape == (6, 2, 3, 3) and norms(control) == pytest.approx(norms(engram), rel=1e-5)
    with pytest.raises(ValueError, match="no layer '0'"):
        random_subspace(mlp([3, 2]), engram, seed=0)


def test_same_norm():
    a = el.Engram({"x": (torch.tensor([[3.0]]), torch.tensor([4.0]))})
    b = el.Engram({"x": (torch.tensor([[1.0]]), None)})
    assert norms(same_norm(a, b)) == pytest.approx({"x": 1.0})
    with pytest.raises(ValueError, match="'x'.*zero"):
        same_norm(0 * a, b)


def test_masked_logit_never_answers_and_changes_no_weight(model, data):
    x, y = data.test.x.flatten(1), data.test.y
    masked = mask_class(model, 4)
    after = class_accuracy(masked, x, y, 10)
    assert after[4] == 0 and (after >= class_accuracy(model, x, y, 10) - 1e-9)[[0, 1, 2, 3, 5, 6, 7, 8, 9]].all()
    assert masked.model is model
    with pytest.raises(ValueError, match="index 10"):
        mask_class(model, 10)(x)


def test_frontier_rows(rows, model, data):
    assert len(rows) == 2 * 2 * 10 * 10 * 2
    facts = {"study", "seed", "bias", "rcond", "lam", "alpha", "erased", "tested", "split", "before", "after"}
    assert set(rows[0]) == facts
    assert all(r["before"] == r["after"] for r in rows if r["alpha"] == 0)  # nothing done, nothing changed
    engram = el.extract_all(model, study.moments_by_class(model, data.train, bias="absorb"), specificity=3, rcond=1e-4)[
        7
    ]
    expected = class_accuracy(el.ablate(model, engram), data.test.x.flatten(1), data.test.y, 10)
    chosen = runs.select(rows, {"lam": 3.0, "alpha": 1.0, "erased": 7, "split": "test"})
    assert [r["after"] for r in chosen] == expected.tolist()


def test_the_class_is_erased_and_the_controls_do_not_do_it(rows, model, data):
    (effect,) = classwise.effects(runs.select(rows, {"lam": 1.0, "alpha": 1.0, "split": "test"}))
    assert effect["erased"] < 0.08 and effect["others_loss"] < 0.015
    found = {
        e["control"]: e for e in classwise.effects(study.controls(model, data, seed=0, rcond=1e-4), by=("control",))
    }
    for name in set(found) - {"masked logit"}:  # none of them singles the class out
        assert found[name]["erased"] > found[name]["others"] - 0.1, name
    assert found["random examples"]["erased"] > 0.8 and found["random subspace, equal effect"]["erased"] > 0.3
    assert found["masked logit"]["erased"] == 0 and found["masked logit"]["others_loss"] <= 0


def test_cuts_are_the_frontier_at_each_cut(rows, model, data):
    found = study.cuts(model, data, seed=0, rconds=(1e-6, 1e-4))
    assert {r["study"] for r in found} == {"cuts"} and {r["rcond"] for r in found} == {1e-6, 1e-4}
    plain = runs.select(rows, {"lam": 1.0, "alpha": 1.0})
    assert [r["after"] for r in found if r["rcond"] == 1e-4] == [r["after"] for r in plain]
    assert [r["after"] for r in found if r["rcond"] == 1e-6] != [r["after"] for r in plain]


def test_sample_sizes(model, data):
    found = study.sample_sizes(model, data, seed=0, per_class=(5, 1000))
    full = study.frontier(model, data, seed=0, splits=("test",))
    assert [r["after"] for r in found if r["per_class"] == 1000] == [r["after"] for r in full]  # all there is


def test_matrix_and_effects_by_hand():
    rows = [
        {"study": "s", "split": "test", "seed": 0, "erased": e, "tested": t, "before": b, "after": a}
        for e, t, b, a in [(0, 0, 1.0, 0.0), (0, 1, 0.8, 0.7), (1, 0, 1.0, 0.9), (1, 1, 0.8, 0.2)]
    ]
    assert classwise.matrix(rows, 2).tolist() == [[1.0, 0.8], [0.0, 0.7], [0.9, 0.2]]
    (effect,) = classwise.effects(rows, by=())
    assert effect == pytest.approx(
        {"seed": 0, "erased": 0.1, "erased_max": 0.2, "others": 0.8, "others_loss": 0.1, "others_loss_max": 0.1}
    )
    with pytest.raises(ValueError, match="several studies or splits"):
        classwise.effects([*rows, {**rows[0], "split": "val"}], by=())


def test_over_seeds_by_hand():
    def row(seed, erased, tested, after):
        facts = {"study": "s", "split": "test", "alpha": 1.0, "before": 1.0}
        return {**facts, "seed": seed, "erased": erased, "tested": tested, "after": after}

    two = [row(s, e, t, (0.1, 0.3)[s] if e == t else (0.8, 0.9)[s]) for s in (0, 1) for e in (0, 1) for t in (0, 1)]
    (line,) = classwise.over_seeds(two, by=("alpha",))
    assert line == pytest.approx(
        {
            "alpha": 1.0,
            "erased": 0.2,
            "erased_sd": 0.02**0.5,  # n - 1
            "others": 0.85,
            "others_sd": 0.005**0.5,
            "others_loss": 0.15,
            "others_loss_sd": 0.005**0.5,
        }
    )
    (alone,) = classwise.over_seeds(two[:4], by=("alpha",))
    assert alone["erased"] == pytest.approx(0.1) and alone["erased_sd"] is None
