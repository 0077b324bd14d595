import copy
import math
import time

import pytest
import torch
from torch import nn

import engramlib as el
from engramlib.lab import metrics, models, training
from engramlib.lab.data import ImageData, Split, digits


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def model(data):
    model = models.resnet((8, 16), in_channels=1)
    recipe = training.Recipe(schedule="onecycle")
    training.train_classifier(model, data, epochs=4, lr=1e-2, batch_size=64, seed=0, recipe=recipe)
    return model


@pytest.fixture(scope="module")
def masked(model):
    """The answer 3 is never given; every feature stays."""
    masked = copy.deepcopy(model)
    with torch.no_grad():
        masked.fc.weight[3] = 0
        masked.fc.bias[3] = -30
    return masked


class Constant(nn.Module):
    """Always answers one class."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer, self.weight = answer, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return nn.functional.one_hot(torch.full((len(x),), self.answer), 3).float() + self.weight


def three_classes(n: int = 6) -> ImageData:
    """Six images each of three classes, every split the same."""
    y = torch.arange(3).repeat_interleave(n)
    part = Split(torch.rand(3 * n, 1, 2, 2, generator=torch.Generator().manual_seed(0)), y)
    return ImageData("three", ("a", "b", "c"), (1, 2, 2), part, part, part)


# ---------------------------------------------------------------------------------------------------- accuracy


def test_erased_and_kept_by_hand():
    data = three_classes()
    assert metrics.erased_and_kept(Constant(0), data, (0,)) == (1.0, 0.0)
    assert metrics.erased_and_kept(Constant(1), data, (0,)) == (0.0, 0.5)
    assert metrics.erased_and_kept(Constant(1), data, [0, 1], "train") == (0.5, 0.0)


def test_tow_by_hand():
    data = three_classes()
    # On forget, retain, kept test images, Constant(0) has 1, 0, 0 and Constant(1) has 0, 1/2, 1/2.
    found = metrics.tow(Constant(0), Constant(1), data, (0,))
    assert (found.forget, found.retain, found.test) == (0.0, 0.5, 0.5) and found.value == 0
    found = metrics.tow(Constant(2), Constant(0), data, (2,))
    assert (found.forget, found.retain, found.test) == (0.0, 0.5, 0.5)
    assert metrics.tow(Constant(1), Constant(1), data, (0,)).value == 1
    both = metrics.tow(Constant(1), Constant(2), data, (0,))  # equal accuracies, other images: ToW cannot tell
    assert both.value == 1


@pytest.mark.parametrize("forget", [(), (3,), (-1,), (0, 1, 2)])
def test_forget_must_be_some_of_the_classes(forget):
    with pytest.raises(ValueError, match="forget must name some, not all, of the classes 0 to 2 of three"):
        metrics.erased_and_kept(Constant(0), three_classes(), forget)


# ---------------------------------------------------------------------------------------------- representation


def test_features_are_what_the_classifier_reads(model, data):
    model.train()
    found = metrics.features(model, data.test.x, batch_size=77)
    assert model.training and model.bn1.training
    model.eval()
    assert found.shape == (500, 16)
    with torch.no_grad():
        assert torch.allclose(model.fc(found), model(data.test.x), atol=1e-5)
    with pytest.raises(ValueError, match="features"):
        metrics.features(nn.Linear(2, 2), torch.zeros(1, 2))


def test_cka_by_hand_and_its_invariances():
    a = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    b = torch.tensor([[1.0], [-1], [0], [0]])
    # AᵀA = 2 I (norm 2√2), BᵀB = 2, BᵀA = (2, 0): 4 / (2√2 · 2) = 1/√2
    assert math.isclose(metrics.linear_cka(a, b), 1 / math.sqrt(2), rel_tol=1e-12)
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 5, generator=g), torch.randn(200, 7, generator=g)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=g)).Q
    assert math.isclose(metrics.linear_cka(x, 3 * x @ rotation + 2), 1, rel_tol=1e-5)
    assert math.isclose(metrics.linear_cka(x, y), metrics.linear_cka(y, x), rel_tol=1e-12)
    assert metrics.linear_cka(x, y) < 0.1
    assert metrics.linear_cka(x, x @ torch.diag(torch.tensor([1.0, 9, 1, 1, 1]))) < 0.9  # not any linear map
    with pytest.raises(ValueError, match="same rows"):
        metrics.linear_cka(x, y[:5])
    with pytest.raises(ValueError, match="constant"):
        metrics.linear_cka(torch.ones(4, 2), b)


def test_unbiased_cka_against_the_dense_formula():
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(30, d, generator=g, dtype=torch.double) for d in (6, 4))
    y = y + x[:, :4]

    def hsic(a, b):
        k, m = a @ a.T, b @ b.T
        k.fill_diagonal_(0), m.fill_diagonal_(0)
        n, one = len(a), torch.ones(len(a), dtype=torch.double)
        shared = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)
        return ((k @ m).trace() + shared) / (n * (n - 3))

    dense = float(hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt())
    assert math.isclose(metrics.linear_cka(x, y, unbiased=True), dense, rel_tol=1e-9)
    wide = [[torch.randn(50, 100, generator=g) for _ in "ab"] for _ in range(20)]
    assert abs(sum(metrics.linear_cka(a, b, unbiased=True) for a, b in wide) / 20) < 0.03
    assert min(metrics.linear_cka(a, b) for a, b in wide) > 0.3  # the bias that it takes away
    with pytest.raises(ValueError, match="at least 4"):
        metrics.linear_cka(x[:3], y[:3], unbiased=True)


def test_separability_and_clustering_range_from_chance_to_one():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(60)
    noise = torch.randn(180, 4, generator=g)
    apart = noise + 12 * nn.functional.one_hot(labels, 4)
    assert metrics.separability(apart, labels == 0) > 0.99 and metrics.clustering(apart, labels) > 0.99
    assert abs(metrics.separability(noise, labels == 0) - 0.5) < 0.1 and metrics.clustering(noise, labels) < 0.1
    with pytest.raises(ValueError, match="both kinds"):
        metrics.separability(noise, labels == 7)


# ----------------------------------------------------------------------------------------------------- residue


def test_the_probe_sees_through_a_mask(model, masked, data):
    assert metrics.erased_and_kept(masked, data, (3,))[0] == 0
    through, open_ = metrics.probe(masked, data, (3,)), metrics.probe(model, data, (3,))
    assert through == open_ and through.erased > 0.8 and through.kept > 0.85 and through.auc > 0.97


@pytest.mark.parametrize("size, found", [(1e-3, True), (1e-7, False), (0.0, False)])
def test_a_probe_does_not_read_rounding(size, found):
    """A feature of a ten-millionth of the others' size names the class; scaled to unit variance it would be read."""
    from engramlib.lab.metrics.representation import logistic

    g = torch.Generator().manual_seed(0)
    told = (torch.arange(400) % 4 == 0).float()
    x = torch.cat([torch.randn(400, 8, generator=g), size * told[:, None]], 1).numpy()
    right = logistic().fit(x[:200], told[:200]).predict(x[200:]) == told[200:].numpy()
    assert (right[told[200:] == 1].mean() > 0.95) == found


def test_behind_leace_one_question_is_not_answered_and_ten_are(data):
    """Behind LEACE, classes have one mean; what is left of their difference is rounding, in features that were silent.

    scikit-learn's `StandardScaler` alone finds it there; and a reader of ten classes knows what it is not.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from engramlib.lab.studies import compensated

    flat, net = data.flat(), models.mlp([64, 96, 10], seed=0)
    training.train_classifier(net, flat, epochs=10, lr=3e-3, batch_size=64, seed=0)
    with torch.no_grad():
        net[0].bias[:20] = -100.0  # silent for every image
    subject = compensated.Subject(net, data, 0, tuple((c,) for c in range(10)), flat=True)
    behind = subject.without(3, compensated.Knife("leace"))
    assert metrics.binary_probe(compensated.WithFeatures(net), flat, (3,)) > 0.97
    assert metrics.binary_probe(behind, flat, (3,)) < 0.7
    assert metrics.probe(behind, flat, (3,)).erased > 0.7
    x, z = (metrics.features(behind, part.x).numpy() for part in (flat.train, flat.test))
    naive = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(x, flat.train.y.numpy() == 3)
    assert roc_auc_score(flat.test.y.numpy() == 3, naive.decision_function(z)) > 0.9


def test_a_probe_on_nothing_reads_nothing(data):
    torch.manual_seed(0)

    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def features(self, x):
            return torch.randn(len(x), 8)

    found = metrics.probe(Noise(), data, (3,))
    assert found.erased < 0.3 and found.kept < 0.3 and abs(found.auc - 0.5) < 0.15
    pixels = metrics.probe(Noise(), data, (3,), on_pixels=True)
    assert pixels.erased > 0.7


def test_few_shots_do_not_mind_how_deep_a_logit_is_buried(model, data):
    weights, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    open_ = metrics.few_shot(model, data, (3,), ks=(1, 8))
    for depth in (1.0, 1e4):
        masked = copy.deepcopy(model)
        with torch.no_grad():
            masked.fc.weight[3] = 0
            masked.fc.bias[3] = -depth
        assert metrics.few_shot(masked, data, (3,), ks=(1, 8)) == open_
    assert open_.erased[1] > 0.7 and open_.kept[1] > 0.8 and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), model.state_dict().values(), strict=True))
    noise = copy.deepcopy(model)
    noise.features = lambda x: torch.randn(len(x), 16)
    assert metrics.few_shot(noise, data, (3,), ks=(8,)).erased[0] < 0.4
    for wrong in ({"ks": (4, 1)}, {"ks": (0,)}, {"draws": 0}):
        with pytest.raises(ValueError, match="few_shot"):
            metrics.few_shot(model, data, (3,), **wrong)


def test_relearning_begins_where_the_model_stands(model, masked, data):
    before = metrics.erased_and_kept(model, data, (3,))[0]
    weights = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    nothing = metrics.relearn(model, data, (3,), before=before)
    assert nothing.needed == 0 and nothing.seen == (0,) and nothing.erased == (before,) and str(nothing) == "0"
    curve = metrics.relearn(masked, data, (3,), before=before, limit=30, a_step=8, lr=0.05, whole_curve=True)
    assert curve.seen == (0, 8, 16, 24, 30) and curve.erased[0] == 0
    never = metrics.relearn(masked, data, (3,), before=before, limit=10, lr=1e-6)
    assert never.needed is None and str(never) == "> 10"
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), model.state_dict().values(), strict=True))
    assert all(p.requires_grad for p in model.parameters())


def test_relearning_brings_a_hidden_class_back_sooner_than_an_unknown_one(model, data):
    before = metrics.erased_and_kept(model, data, (3,))[0]
    hidden = copy.deepcopy(model)
    with torch.no_grad():
        hidden.fc.bias[3] -= 6
    untrained = models.resnet((8, 16), in_channels=1, seed=1)
    assert metrics.erased_and_kept(hidden, data, (3,))[0] < 0.2
    found, fresh = (metrics.relearn(m, data, (3,), before=before, limit=100) for m in (hidden, untrained))
    assert found.needed is not None and found.kept > 0.7
    assert fresh.needed is None or fresh.kept < 0.5


def test_relearn_names_wrong_arguments(model, data):
    with pytest.raises(ValueError, match="before"):
        metrics.relearn(model, data, (3,), before=0)
    with pytest.raises(ValueError, match="limit and a_step"):
        metrics.relearn(model, data, (3,), before=0.9, a_step=0)
    with pytest.raises(FloatingPointError, match="lower lr"):
        metrics.relearn(models.resnet((8, 16), in_channels=1), data, (3,), before=0.9, lr=1e30)


# ------------------------------------------------------------------------------------------- membership and cost


def test_membership_auc_by_hand():
    class ByPixel(nn.Module):
        """The logit of class 0 is the pixel, so that the loss falls as the pixel grows."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return torch.stack([x.flatten(), torch.zeros(len(x))], 1) * self.weight

    def part(pixels):
        x = torch.tensor(pixels + [0.0]).reshape(-1, 1, 1, 1)
        return Split(x, torch.tensor([0] * len(pixels) + [1]))

    data = ImageData("p", ("a", "b"), (1, 1, 1), part([3.0, 1.0]), part([0.0]), part([2.0, 0.0]))
    # members 3 and 1 against others 2 and 0: of four pairs the member has the smaller loss in three
    assert metrics.membership_auc(ByPixel(), data, (0,)) == 0.75


def test_flops_by_hand():
    layer, x = nn.Linear(5, 7), torch.randn(3, 5, requires_grad=True)
    assert metrics.flops(lambda: layer(x)) == 2 * 3 * 5 * 7
    assert metrics.flops(lambda: layer(x).sum().backward()) == 3 * 2 * 3 * 5 * 7  # forward, by input, by weight
    conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
    assert metrics.flops(lambda: conv(torch.zeros(1, 2, 6, 6))) == 2 * 36 * 4 * 2 * 9


def test_flops_count_products_that_are_added_in_place():
    a, b = torch.zeros(5, 3), torch.zeros(3, 7)
    assert metrics.flops(lambda: torch.zeros(5, 7).addmm_(a, b)) == 2 * 3 * 5 * 7
    assert metrics.operations(lambda: torch.zeros(5, 7).addmm_(a, b)) == {"addmm_": 2 * 3 * 5 * 7}
    assert metrics.operations(lambda: a @ b) == {"mm": 2 * 3 * 5 * 7} and metrics.operations(lambda: a + a) == {}
    many = a.expand(4, 5, 3), b.expand(4, 3, 7)
    assert metrics.flops(lambda: torch.zeros(4, 5, 7).baddbmm_(*many)) == 4 * 2 * 3 * 5 * 7
    # One block of Σ is a whole product: the forward pass, 2 n d², and 8 rows of the first batch, which are checked.
    layer = torch.nn.Linear(6, 2, bias=False)
    assert metrics.flops(lambda: el.collect(layer, [torch.randn(10, 6)])) == 2 * 10 * 6 * (2 + 6) + 2 * 8 * 6 * 2


def test_timed_measures_the_block_also_after_an_error():
    with pytest.raises(KeyError), metrics.timed() as timer:
        time.sleep(0.02)
        raise KeyError
    assert 0.015 < timer.seconds < 5


def test_peak_memory_counts_what_lives_at_once_and_shared_storage_once():
    x = torch.zeros(100)  # there before
    with metrics.PeakMemory() as memory:
        y = x + 1  # 400 bytes
        z = y.view(10, 10)  # the same ones
        del y, z
        for _ in range(3):
            torch.ones(50)  # 200, one after the other
    assert memory.peak == 400
    with metrics.PeakMemory() as memory:
        both = [torch.ones(50), torch.ones(50)]
    assert memory.peak == 400 and len(both) == 2


def test_shares_of_target_and_rest_add_up_where_weights_lie_otherwise():
    """W⁺ + W⁻ = W on the data, also for a layer that stores its matrix transposed and in four dimensions."""
    model = nn.Sequential(nn.ConvTranspose2d(3, 5, 2, bias=False))
    a, b = (el.collect(model, [torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(k))]) for k in (0, 1))
    both = (metrics.share_taken(model, el.extract(model, *sides), a + b) for sides in ((a, b), (b, a)))
    assert sum(share["0"] for share in both) == pytest.approx(1, abs=1e-4)
