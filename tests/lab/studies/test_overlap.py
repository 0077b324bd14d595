import numpy as np
import pytest
import torch
from torch.nn import functional as F

import engramlib as el
from engramlib.lab.records import runs
from engramlib.lab.studies import overlap as study
from engramlib.lab.training import class_accuracy

TINY = study.Settings(n_super=3, n_sub=4, per_class=20, widths=(4, 8), epochs=2)


@pytest.fixture(scope="module")
def data():
    return study.data_of(TINY)


@pytest.fixture(scope="module")
def network(data):
    model = study.train(data, TINY, seed=0)
    moments = study.moments_by_class(model, data.train)
    return model, moments, el.extract_all(model, moments, rcond=TINY.rcond)


def test_every_pair_is_of_one_kind(data):
    kinds = study.pairs(data)
    total = sum(mask.int() for mask in kinds.values())
    assert torch.equal(total, 1 - torch.eye(12, dtype=torch.int32))
    inside = kinds["shape and colour"] | kinds["shape"]
    assert torch.equal(inside, study.same_superclass(data.superclass_of))
    # plain red disc: striped red disc; two green discs; plain red square and triangle
    assert [int(mask[0].sum()) for mask in kinds.values()] == [1, 2, 2, 2, 4]
    assert kinds["shape and colour"][0, 1] and kinds["material"][0, 4] and kinds["colour"][0, 5]


def test_erasing_is_ablation_one_class_at_a_time(data, network):
    model, _, engrams = network
    found = study.erase_each(model, engrams, data.test.x, alpha=1.5)
    alone = study.logits(el.ablate(model, engrams[7], 1.5), data.test.x)
    assert found.shape == (12, len(data.test), 12) and torch.equal(found[7], alone)
    refitted = study.erase_each(model, {7: engrams[7]}, data.test.x, alpha=1.5, refit_on=data)
    assert refitted.shape[0] == 1 and not torch.allclose(refitted[0], alone, atol=1e-2)


def test_drop_in_accuracy_is_the_difference(data, network):
    model, _, engrams = network
    x, y = data.test.x, data.test.y
    before, after = study.logits(model, x), study.erase_each(model, engrams, x)
    lost = study.drops(before, after, y)["accuracy"]
    edited = el.ablate(model, engrams[3])
    assert torch.allclose(lost[3], class_accuracy(model, x, y, 12) - class_accuracy(edited, x, y, 12))
    some = study.drops(before, after[[3, 5]], y, [3, 5])
    whole = study.drops(before, after, y)
    for name in study.READ_OUTS:
        assert torch.equal(some[name].nan_to_num(9.0), whole[name][[3, 5]].nan_to_num(9.0))


def test_a_missing_rival_counts_in_accuracy_only():
    """Class 1 loses to class 0, which is erased by forbidding its answer: nothing is damaged."""
    before = torch.tensor([[3.0, 0, 0], [2, 1, 0], [0, 1, 0], [0, 0, 2]])
    y = torch.tensor([0, 1, 1, 2])
    after = study.forbid(before, 0)[None]
    lost = study.drops(before, after, y, [0])
    assert lost["accuracy"][0].tolist() == [1.0, -0.5, 0.0]
    assert lost["survivors"][0, 1:].tolist() == [0.0, 0.0] and lost["survivors"][0, 0].isnan()


def test_margin_minds_no_common_factor_and_no_erased_logit():
    logits, y = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 5
    here = study.margin(logits, y, 5)
    assert torch.allclose(study.margin(0.2 * logits + 3, y, 5), here, atol=1e-5)
    rows = torch.arange(50)
    rival = logits[:, :5].masked_fill(F.one_hot(y, 5).bool(), -torch.inf).amax(1)
    assert torch.allclose(here, (logits[rows, y] - rival) / logits.std(1))


def test_similarities_are_what_they_say(data, network):
    model, moments, engrams = network
    found = study.similarities(model, moments, engrams, data)
    assert all(matrix.shape == (12, 12) for matrix in found.values())
    a, b = (moments[c]["fc"].double() for c in (2, 9))
    assert torch.allclose(found["moments, last"][2, 9], (a * b).sum() / (a.norm() * b.norm()))
    for name in set(found) - {"share taken", "confusion"}:
        assert torch.allclose(found[name], found[name].T)
    # all engrams together take all of every class, up to the cut
    assert torch.allclose(found["share taken"].sum(0), torch.ones(12).double(), atol=1e-3)
    # layer by hand: <W+ X, W X> / |W X|^2
    W, P = model.fc.weight.detach().double(), engrams[2]["fc"].weight.double()
    W = torch.cat([W, model.fc.bias.detach().double()[:, None]], 1)
    P = torch.cat([P, engrams[2]["fc"].bias.double()[:, None]], 1)
    by_hand = torch.trace(P @ b @ W.T) / torch.trace(W @ b @ W.T)
    assert torch.allclose(study._share_taken(model, moments, engrams, "fc")[2, 9], by_hand)
    answers = study.confusion(model, data.val, 12)
    assert torch.allclose(answers.sum(1), torch.ones(12).double()) and torch.equal(found["confusion"], answers.T)


def test_rank_correlation_is_scipys(data):
    from scipy.stats import spearmanr

    x, y = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    y = (y * 2).round()  # ties
    rows = [spearmanr(np.delete(x[a].numpy(), a), np.delete(y[a].numpy(), a)).statistic for a in range(8)]
    assert np.allclose(study.rank_correlations(x, y), rows)
    assert torch.equal(study.rank_correlations(x, torch.ones(8, 8)), torch.zeros(8).double())
    some = torch.zeros(8, 8, dtype=torch.bool)
    some[:, :4] = True
    assert np.isclose(study.rank_correlations(x, y, some)[5], spearmanr(x[5, :4], y[5, :4]).statistic)


def test_intervals_cover_and_shrink():
    generator = np.random.default_rng(0)
    covered, widths = 0, {}
    for n in (10, 40):
        for _ in range(60):
            mean, low, high = study.interval(generator.normal(1.0, 1.0, (1, n)), draws=300)
            assert low < mean < high
            covered += low < 1.0 < high
            widths.setdefault(n, []).append(high - low)
    assert covered / 120 > 0.85
    assert np.mean(widths[10]) == pytest.approx(2 * np.mean(widths[40]), rel=0.2)
    # the class is the unit: saying everything twice makes nothing surer
    values = generator.normal(size=(1, 20))
    assert study.interval(np.repeat(values, 3, 0)) == pytest.approx(study.interval(values), abs=0.05)


def test_units_that_classes_share_count_once():
    generator = np.random.default_rng(0)
    units = [c % 4 for c in range(20)]
    covered = 0
    for _ in range(200):  # what varies is the unit: its classes agree but for a little noise
        effect = generator.normal(1.0, 1.0, 4)
        values = effect[units] + generator.normal(0, 0.01, (3, 20))
        _, low, high = study.interval_of_units(values, units)
        covered += low < 1.0 < high
    assert 0.9 < covered / 200 <= 0.99
    by_class = study.interval(values)
    assert high - low > 1.5 * (by_class[2] - by_class[1])  # drawing classes would have been too sure
    values[:, 5] = np.nan
    assert np.allclose(study.of_units(values, units), [np.nanmean(values[:, u::4]) for u in range(4)])


def test_a_fragile_texture_is_its_own_control(data):
    kinds, n = study.pairs(data), data.n_classes
    fragile = torch.tensor([c % 4 == 1 for c in range(n)]).double() * 20  # loses 20 points, whatever goes
    shared = 5 * kinds["material"].double()

    def rows(points):
        return [{"seed": s, "erased": a, "points": (points[a] + s).tolist()} for a in range(n) for s in (0, 2)]

    assert np.allclose(study.own_control(rows(fragile.expand(n, n)), kinds, 4), 0)
    assert np.allclose(study.own_control(rows(fragile + shared), kinds, 4), 5)


def test_permutation_test_finds_a_planted_effect_and_no_other():
    generator = torch.Generator().manual_seed(0)
    noise, groups = torch.randn(20, 20, generator=generator), [c // 4 for c in range(20)]
    _, null, p = study.permutation_test(noise, groups, draws=500)
    assert p > 0.05 and abs(null.mean()) < 0.1
    found, _, p = study.permutation_test(noise + 2 * study.same_superclass(groups), groups, draws=500)
    assert p < 0.01 and found == pytest.approx(2, abs=0.5)


def test_bins_hold_every_pair_once():
    similarity = torch.rand(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lines = study.binned([similarity], [2 * similarity], [0.0, 0.3, 0.6, 1.0], draws=200)
    assert sum(line["pairs"] for line in lines) == 30
    for line in lines:
        assert line["mean"] == pytest.approx(2 * line["similarity"]) and line["low"] <= line["mean"] <= line["high"]


def test_reweighting_a_reference(network):
    model, moments, engrams = network
    rest = sum(moments.values()) - moments[0]
    assert torch.allclose(study.reweight(rest, moments[1], 0)["fc"], (rest - moments[1])["fc"].double(), rtol=1e-4)
    same = el.extract(model, moments[0], study.reweight(rest, moments[1], 1), rcond=TINY.rcond)
    assert torch.allclose(same["fc"].weight, engrams[0]["fc"].weight, atol=1e-3)
    with pytest.raises(ValueError, match="weight must not be negative"):
        study.reweight(rest, moments[1], -1)


def test_recolouring_touches_the_green_of_the_chosen_shapes_only(data):
    other = study.recoloured(data, [1])
    changed = (other.train.x != data.train.x).flatten(1).any(1)
    assert set(data.train.y[changed].tolist()) == {6, 7}  # the green squares
    green = data.train.y == 6
    assert torch.equal(other.train.x[green], data.train.x[green][:, [1, 0, 2]])
    colour = other.train.x[green].mean((0, 2, 3))
    assert colour[0] > colour[1]


def test_recorded_studies_run_and_average():
    tiny = study.Settings(n_super=3, n_sub=4, per_class=6, widths=(4,), epochs=1)
    rows = study.hundred(tiny, 0)
    heat = runs.select(rows, {"study": "heatmap", "norm": "as trained", "alpha": 2.0})
    assert len(heat) == 12 and len(heat[0]["points"]) == 12
    assert {row["kind"] for row in runs.select(rows, {"study": "pairs"})} == set(study.pairs(study.data_of(tiny)))
    found = study.recolouring(tiny, 1)
    assert len(found) == 16 and all(np.isfinite(float(row["taken"])) for row in found)


def test_a_protected_class_is_counted_in_the_reference(data, network):
    model, moments, engrams = network
    kinds = study.pairs(data)
    assert (
        study.partner(kinds, 0, "shape and colour") == 1 and kinds["nothing"][11, study.partner(kinds, 11, "nothing")]
    )
    with pytest.raises(ValueError, match="class 0 shares 'nothing'"):
        study.partner({"nothing": torch.zeros(2, 2, dtype=torch.bool)}, 0, "nothing")
    found = study.protect(model, moments, data, [0, 5], (0.0, 1.0, 10.0), rcond=TINY.rcond)
    assert set(found) == {(who, w) for who in ("twin", "stranger") for w in (0.0, 1.0, 10.0)}
    assert found["twin", 1.0] is found["stranger", 1.0]  # the same edit, computed once
    plain = study.logits(el.ablate(model, engrams[0]), data.test.x)
    assert found["twin", 1.0]["left"][0] == pytest.approx(float(study.accuracy(plain, data.test.y)[0]))
    assert sum(found["twin", 10.0]["twin"]) <= sum(found["twin", 0.0]["twin"])


def test_sets_erased_at_once(data, network):
    model, _, engrams = network
    found = study.together(model, engrams, data, [[0, 1], [0, 5, 9]])
    assert found.shape == (2, 3)
    after = study.logits(el.ablate(model, engrams[0] + engrams[1]), data.test.x)
    own, before = (study.accuracy(z, data.test.y) for z in (after, study.logits(model, data.test.x)))
    assert found[0, 0] == pytest.approx(float(own[:2].mean()))
    assert found[0, 1] == pytest.approx(float((before - own)[2:].mean()))


def test_left_and_lost_by_network_and_the_score_on_validation_images(data, network):
    model, _, engrams = network
    some = {a: engrams[a] for a in (2, 7)}
    after = study.erase_each(model, some, data.val.x)
    before = study.logits(model, data.val.x)
    lost = study.drops(before, after, data.val.y, [2, 7])
    (left,) = study.left_of([after], data.val.y, [2, 7])
    (others,) = study.others_lose([lost], [2, 7])
    found = study.score(model, some, data, alpha=1.0, refit=False)
    assert found[0] == pytest.approx(left) and 100 * found[1] == pytest.approx(others, abs=1e-4)
    assert found[2] == pytest.approx((1 - left) * (1 - abs(others) / 100), abs=1e-5)


def test_where_lost_images_go():
    """Class 0 and 1 are twins, 2 shares the material of 0: its image falls to its own twin, 3, when 0 is erased."""
    kinds = {"shape and colour": torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]).bool()}
    kinds["material"] = torch.tensor([[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]).bool()
    y = torch.arange(4)
    before = torch.eye(4)
    answers = torch.tensor([0, 1, 3, 3])
    after = F.one_hot(answers, 4).float()
    found = study.where_lost(before, after[None], y, kinds, "material")
    assert found == {"lost": 1, "to the twin": 1, "to the erased": 0}


def test_the_recorded_hundred_by_material_and_by_network():
    run = runs.load("overlap-shapes")
    ten = study.by_material(run, "material")
    assert len(ten) == 10 and min(ten) > 0
    rows = run.where(study="pairs", norm="as trained", kind="material", alpha=1.0)
    own = [r["accuracy"] for r in rows if r["erased"] % 10 == 3]
    assert ten[3] == pytest.approx(100 * sum(own) / len(own))
    assert len(study.each_network(run, "before", study="accuracy")) == 3
    matrix = study.points_matrix(run, alpha=1.0)
    swapped = study.by_second_factor(matrix, 10)
    assert swapped[1, 2] == matrix[10, 20] and swapped[10, 0] == matrix[1, 0]  # the second shape of the first material
    assert torch.equal(study.by_second_factor(swapped, 10), matrix)
