"""Each method does what its paper says it does, and none does more than the problem allows."""

import copy
import inspect
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import engramlib as el
from engramlib.lab.data import Split, digits
from engramlib.lab.models import resnet
from engramlib.lab.training import Recipe, flip_and_shift, train_classifier
from engramlib.lab.unlearning import tuning
from engramlib.lab.unlearning import vision as unlearning
from engramlib.lab.unlearning.method import TRIES, Method, square
from engramlib.lab.unlearning.vision import METHODS, Problem, apply, relabelling, tune
from tests.conftest import bits, same

FORGET = 3
UNTUNED = {"retrain", "leace", "logit_mask", "engram_plain"}
NAMES = [
    *("retrain", "finetune", "neggrad", "neggrad_plus", "l1_sparse", "random_labels", "salun"),
    *("leace", "logit_mask", "engram_classifier", "engram_plain", "engram", "engram_bn"),
]


def fresh(seed):
    return resnet((8, 16), in_channels=1, seed=seed)


@pytest.fixture(scope="module")
def trained():
    data, model = digits(), fresh(0)
    train_classifier(model, data, epochs=15, lr=3e-3, batch_size=64, seed=0)
    return model, data


@pytest.fixture
def problem(trained):
    training = {"epochs": 3, "lr": 3e-3, "batch_size": 64}
    return Problem(*trained, forget=(FORGET,), epochs=1, fresh=fresh, training=training)


@pytest.fixture(scope="module")
def before(trained):
    model, data = trained
    forget, keep = Problem(model, data, (FORGET,)).accuracies(model, "test")
    assert forget > 0.85 and keep > 0.93  # or else there is nothing to forget
    return forget, keep


def weights(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def middle(name):
    """The settings in the middle of a method's grid, for the problem's number of epochs."""
    settings = dict(METHODS[name].grid[len(METHODS[name].grid) // 2])
    settings.pop("epochs", None)
    return settings


def loss(problem, model, split):
    return float(F.cross_entropy(problem.logits(model, split.x), split.y))


# ---------------------------------------------------------------------- what all have in common


def test_every_method_of_the_contract_with_equal_budgets():
    assert list(METHODS) == NAMES
    for name, method in METHODS.items():
        assert method.name == name and method.label and method.cites
        assert len(method.grid) == (1 if name in UNTUNED else TRIES) and method.tuned == (name not in UNTUNED)
        assert len({tuple(sorted(settings.items())) for settings in method.grid}) == len(method.grid)
        accepted = inspect.signature(method.update).parameters
        assert all(set(settings) - {"epochs"} <= set(accepted) for settings in method.grid)
        trains = {"lr"} <= set(accepted)
        assert method.trains == trains and all(("epochs" in settings) == trains for settings in method.grid)
        assert not trains or len({settings["epochs"] for settings in method.grid}) == 3
        assert method.update.__doc__, name
    with pytest.raises(ValueError, match="9 settings"):
        Method("x", "x", "x", ({}, {}), lambda problem: problem.model)


@pytest.mark.parametrize("name", NAMES)
def test_the_original_and_the_random_state_stay_and_the_seed_decides(name, problem):
    problem = replace(problem, data=replace(problem.data, train=problem.data.train.sample(30)))
    problem.model.train()  # a method may not rely on the mode, nor change it
    original, state = bits(problem.model), torch.random.get_rng_state()
    first = METHODS[name].run(problem, **middle(name))
    assert same(original, bits(problem.model)) and problem.model.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(module.training for module in first.modules())
    torch.manual_seed(99)
    assert same(bits(first), bits(METHODS[name].run(replace(problem), **middle(name))))
    x = problem.data.val.x
    assert not torch.equal(problem.logits(first, x), problem.logits(copy.deepcopy(problem.model), x))
    stochastic = name in {
        "retrain",
        "finetune",
        "neggrad",
        "neggrad_plus",
        "l1_sparse",
        "random_labels",
        "salun",
        "engram_bn",
    }
    other = METHODS[name].run(replace(problem, seed=1), **middle(name))
    assert same(bits(first), bits(other)) != stochastic


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {"finetune", "neggrad", "neggrad_plus", "l1_sparse"}])
def test_two_classes_at_once(name, problem):
    two = replace(problem, forget=(8, 3))
    assert two.forget == (3, 8)
    found = tune(name, two, grid=METHODS[name].grid[-3:])
    assert found.acc_forget < 0.2
    if name != "engram_plain":  # all layers at full strength take half of this small network with them
        assert found.acc_keep > 0.85


# ---------------------------------------------------------------------- each against its paper


def test_retrain_never_saw_the_class(problem, before):
    model = METHODS["retrain"].run(problem)
    forget, keep = problem.accuracies(model, "test")
    assert forget == 0 and keep > 0.75
    hidden = problem.data.train.x.clone()
    hidden[problem.rows("forget")] = 0.5  # other pixels for the class, same network
    blind = replace(problem, data=replace(problem.data, train=Split(hidden, problem.data.train.y)))
    assert same(bits(model), bits(METHODS["retrain"].run(blind)))
    with pytest.raises(ValueError, match="fresh"):
        METHODS["retrain"].run(replace(problem, fresh=None))


def test_finetuning_alone_barely_forgets(problem, before):
    model = METHODS["finetune"].run(problem, lr=0.01)
    forget, keep = problem.accuracies(model, "test")
    assert forget > before[0] - 0.2 and keep > before[1] - 0.03
    kept = problem.keep_split("train")
    assert loss(problem, model, kept) < loss(problem, copy.deepcopy(problem.model), kept)
    others = {"random_labels": {"lr": 0.01}, "neggrad_plus": {"lr": 0.01, "alpha": 0.9}}
    for name, settings in others.items():
        assert problem.accuracies(METHODS[name].run(problem, **settings), "test")[0] < forget - 0.3


def test_neggrad_raises_the_forget_loss_and_hurts_the_others(problem, before):
    model = METHODS["neggrad"].run(replace(problem, epochs=2), lr=0.015)
    original = copy.deepcopy(problem.model)
    gone, kept = problem.forget_split("train"), problem.keep_split("train")
    assert loss(problem, model, gone) > loss(problem, original, gone) + 1
    assert loss(problem, model, kept) > loss(problem, original, kept) + 0.1
    forget, keep = problem.accuracies(model, "test")
    assert forget < 0.3 and keep < before[1] - 0.05


def test_neggrad_plus_spares_the_others(problem, before):
    problem = replace(problem, epochs=2)
    plain = problem.accuracies(METHODS["neggrad"].run(problem, lr=0.015), "test")
    plus = problem.accuracies(METHODS["neggrad_plus"].run(problem, lr=0.01, alpha=0.9), "test")
    assert plus[0] < 0.2 and plus[1] > plain[1] + 0.05
    model = METHODS["neggrad_plus"].run(problem, lr=0.01, alpha=0.99)
    assert problem.accuracies(model, "test")[0] > plus[0]  # less weight on forgetting, less of it


def test_l1_sparse_is_finetuning_with_smaller_weights(problem):
    dense = METHODS["finetune"].run(problem, lr=0.06)
    assert same(bits(dense), bits(METHODS["l1_sparse"].run(problem, lr=0.06, gamma=0.0)))
    sparse = METHODS["l1_sparse"].run(problem, lr=0.06, gamma=0.015)

    def size(model):
        flat = torch.cat([p.flatten() for p in weights(model).values()]).abs()
        return float(flat.sum()), int((flat < 1e-2).sum())

    assert size(sparse)[0] < 0.8 * size(dense)[0] and size(sparse)[1] > 1.5 * size(dense)[1]
    gentle = METHODS["l1_sparse"].run(replace(problem, epochs=2), lr=0.03, gamma=0.005)
    assert problem.accuracies(gentle, "test")[1] > 0.85


def test_random_labels_are_wrong_even_and_leave_the_class_uncertain(problem, before):
    labels, y = relabelling.relabelled(problem), problem.data.train.y
    gone = y == FORGET
    assert torch.equal(labels[~gone], y[~gone]) and not (labels == FORGET).any()
    counts = torch.bincount(relabelling.relabelled(_many(problem)), minlength=10).double()
    assert counts[FORGET] == 0 and (counts[list(problem.kept)] / 900 - 1).abs().max() < 0.2

    model = METHODS["random_labels"].run(replace(problem, epochs=2), lr=0.01)
    forget, keep = problem.accuracies(model, "test")
    assert forget < 0.1 and keep > before[1] - 0.05
    images = problem.forget_split("test").x
    sure = [problem.logits(m, images).softmax(1).amax(1).mean() for m in (copy.deepcopy(problem.model), model)]
    assert sure[0] > 0.85 and sure[1] < sure[0] - 0.25


def test_salun_moves_only_the_weights_in_its_mask(problem, before):
    found = relabelling.saliency(problem)
    mask = relabelling.top_share(found, 0.1)
    assert sum(int(m.sum()) for m in mask.values()) == round(0.1 * sum(m.numel() for m in mask.values()))
    inside = torch.cat([found[name][mask[name]] for name in found])
    outside = torch.cat([found[name][~mask[name]] for name in found])
    assert inside.min() >= outside.max()

    original = copy.deepcopy(problem.model).eval()
    gone = problem.forget_split("train")
    F.cross_entropy(original(gone.x), gone.y).backward()  # the whole set in one batch
    for name, p in original.named_parameters():
        assert torch.allclose(found[name], p.grad.abs(), atol=1e-5), name

    model = METHODS["salun"].run(replace(problem, epochs=2), lr=0.01, share=0.1)
    moved = {name: p != weights(problem.model)[name] for name, p in weights(model).items()}
    assert all(not (moved[name] & ~mask[name]).any() for name in moved)
    assert sum(int(m.sum()) for m in moved.values()) > 0.9 * sum(int(m.sum()) for m in mask.values())
    forget, keep = problem.accuracies(model, "test")
    assert forget < 0.2 and keep > before[1] - 0.05
    everything = METHODS["salun"].run(problem, lr=0.01, share=1.0)
    assert same(bits(everything), bits(METHODS["random_labels"].run(problem, lr=0.01)))
    with pytest.raises(ValueError, match="share"):
        METHODS["salun"].run(problem, lr=0.01, share=0.0)


def test_after_leace_no_linear_read_out_beats_the_constant(problem):
    from sklearn.linear_model import LogisticRegression

    part = problem.data.train
    is_it = (part.y == FORGET).numpy()
    share = is_it.mean()
    constant = -(share * np.log(share) + (1 - share) * np.log(1 - share))

    def log_loss(model):
        with torch.no_grad():
            features = model.eval().features(part.x).double().numpy()
        fitted = LogisticRegression(C=1e6, max_iter=2000).fit(features, is_it)
        p = fitted.predict_proba(features)[:, 1]
        gap = features[is_it].mean(0) - features[~is_it].mean(0)
        return -np.log(np.where(is_it, p, 1 - p)).mean(), np.abs(gap).max() / features.std()

    erased = METHODS["leace"].run(problem)
    found, gap = log_loss(erased)
    assert found > 0.999 * constant and gap < 1e-4
    found, gap = log_loss(copy.deepcopy(problem.model))
    assert found < 0.3 * constant and gap > 0.5
    assert isinstance(erased.fc, torch.nn.Linear) and erased.left.shape == (16, 1)
    x = problem.data.val.x
    assert torch.equal(problem.logits(erased, x), erased.fc(erased.features(x)).detach())
    assert "model.conv1" in el.collect(erased, [x]) and "fc" in el.collect(copy.deepcopy(erased), [x])


def test_leace_says_what_is_missing(problem, monkeypatch):
    with pytest.raises(ValueError, match="features"):
        METHODS["leace"].run(replace(problem, model=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))))
    monkeypatch.setitem(sys.modules, "concept_erasure", None)
    with pytest.raises(ImportError, match="pip install"):
        METHODS["leace"].run(problem)


FIT_LEACE = """
import sys, warnings
import torch
if sys.argv[1] == "compiled":
    warnings.simplefilter("ignore")
    from concept_erasure import LeaceEraser
else:
    from engramlib.lab.unlearning.vision import METHODS
    if sys.argv[1] == "gone":
        del torch.jit.script
    warnings.simplefilter("error")
    LeaceEraser = sys.modules[METHODS["leace"].update.__module__]._eraser_class()
x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)).double()
print(float((LeaceEraser.fit(x, (x[:, :1] > 0).double(), svd_tol=1e-6)(x) * torch.arange(8)).sum()))
"""


def test_leace_needs_nothing_that_torch_takes_away():
    """No warning while `torch.jit.script` is deprecated, no error when it is gone; the numbers of the compiled code."""
    said = {}
    for script in ("compiled", "deprecated", "gone"):
        run = subprocess.run([sys.executable, "-c", FIT_LEACE, script], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        said[script] = float(run.stdout)
    assert said["deprecated"] == said["gone"] == pytest.approx(said["compiled"], rel=1e-12)


def test_a_masked_logit_is_never_the_answer_and_the_others_keep_every_bit(problem):
    masked, original = METHODS["logit_mask"].run(problem), copy.deepcopy(problem.model)
    others = [c for c in range(10) if c != FORGET]
    strange = 30 * torch.randn(2000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for x in (problem.data.train.x, strange):
        was, now = problem.logits(original, x), problem.logits(masked, x)
        assert torch.equal(was[:, others], now[:, others]) and (now.argmax(1) != FORGET).all()
    assert (problem.logits(original, problem.data.train.x).argmax(1) == FORGET).any()
    sure = 1e3 * original.fc.weight[FORGET].detach()  # nothing could be more of the class than this
    assert original.fc(sure).argmax() == FORGET and masked.fc(sure).argmax() != FORGET
    assert torch.equal(masked.features(strange), original.features(strange))
    assert loss(problem, masked, problem.forget_split("train")) < 100  # a relearning attempt has a gradient to follow
    untouched = {n: p for n, p in bits(masked).items() if not n.startswith("fc.")}
    assert same(untouched, {n: p for n, p in bits(original).items() if not n.startswith("fc.")})


def test_the_classifiers_engram_changes_fc_and_nothing_else(problem, before):
    model = METHODS["engram_classifier"].run(problem, alpha=1.5, specificity=1.0)
    changed = [n for n, t in bits(model).items() if not torch.equal(t, bits(problem.model)[n])]
    assert changed == ["fc.weight", "fc.bias"]
    forget, keep = problem.accuracies(model, "test")
    assert forget < 0.1 and keep > before[1] - 0.05


def test_engrams_are_those_of_the_formula(problem):
    two = replace(problem, forget=(3, 8))
    moments = el.collect_by_concept(problem.model, problem.data.batches("train"), lambda b: b[1], dtype=torch.float64)
    each = el.extract_all(problem.model, moments, rcond=1e-4)
    expected = el.ablate(problem.model, each[3] + each[8])
    plain = METHODS["engram_plain"].run(two)
    for name, p in weights(plain).items():
        assert torch.allclose(p, weights(expected)[name], atol=1e-4), name
    plus, minus = moments[3], sum(m for c, m in moments.items() if c != 3)
    engram = el.extract(problem.model, plus, minus, specificity=3.0, rcond=1e-4)
    late = METHODS["engram"].run(problem, alpha=2.0, specificity=3.0, layers="last")
    expected = el.ablate(problem.model, engram.select(list(engram)[-2:]), 2.0)
    changed = {n for n, p in weights(late).items() if not torch.equal(p, weights(problem.model)[n])}
    assert changed == {"layer2.0.downsample.0.weight", "fc.weight", "fc.bias"}
    assert all(torch.allclose(p, weights(expected)[n], atol=1e-4) for n, p in weights(late).items())
    with pytest.raises(ValueError, match="layers"):
        METHODS["engram"].run(problem, alpha=1.0, specificity=1.0, layers="first")


def test_new_running_statistics_bring_the_kept_classes_back_and_nothing_of_the_erased_one(problem, before):
    from engramlib.lab.unlearning.vision.engrams import refit_statistics

    plain = METHODS["engram_plain"].run(problem)
    model = METHODS["engram_bn"].run(problem, alpha=1.0, specificity=1.0)
    assert same(weights(plain), weights(model)) and model.bn1.momentum == problem.model.bn1.momentum
    assert problem.accuracies(plain, "test")[1] < before[1] - 0.2
    forget, keep = problem.accuracies(model, "test")
    assert forget < 0.1 and keep > before[1] - 0.1
    control = refit_statistics(problem, copy.deepcopy(problem.model))  # it is not the statistics that erase
    assert problem.accuracies(control, "test")[0] > before[0] - 0.1

    kept = problem.keep_split("train").x
    whole = replace(problem, batch_size=len(kept))  # one batch: its own mean is the running mean
    seen = METHODS["engram_bn"].run(whole, alpha=1.0, specificity=1.0)
    entered = seen.conv1((kept - seen.mean) / seen.std).detach()
    assert torch.allclose(seen.bn1.running_mean, entered.mean((0, 2, 3)), atol=1e-4)
    without = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    how = {"alpha": 1.0, "specificity": 1.0}
    bare = replace(problem, model=without)
    assert same(bits(METHODS["engram_bn"].run(bare, **how)), bits(METHODS["engram"].run(bare, **how)))


def test_images_are_augmented_as_in_training_where_something_trains_or_refits(problem):
    from engramlib.lab.unlearning.vision.engrams import refit_statistics

    data, model = problem.data, fresh(0)
    moved = Recipe(augment="flip-crop")
    train_classifier(model, data, epochs=3, lr=3e-3, batch_size=64, seed=0, recipe=moved)
    model.bn1.reset_running_stats()  # the reference: one pass over images as the training showed them
    model.bn1.momentum = None
    model.bn1.train()
    kept = problem.keep_split("train").x
    shown = torch.cat([flip_and_shift(kept, torch.Generator().manual_seed(9)) for _ in range(4)])
    with torch.no_grad():
        model.bn1(model.conv1((shown - model.mean) / model.std))
    reference = model.eval().bn1.running_mean.clone()

    plain = replace(problem, model=model)
    refitted = {how: refit_statistics(replace(plain, augment=how), copy.deepcopy(model)) for how in (None, "flip-crop")}
    away = {how: float((m.bn1.running_mean - reference).norm()) for how, m in refitted.items()}
    assert away["flip-crop"] < 0.25 * away[None]

    training = (
        METHODS["finetune"].run(plain, lr=0.01),
        METHODS["finetune"].run(replace(plain, augment="flip-crop"), lr=0.01),
    )
    assert not same(bits(training[0]), bits(training[1]))
    engrams = [METHODS["engram_plain"].run(replace(plain, augment=how)) for how in (None, "flip-crop")]
    assert same(bits(engrams[0]), bits(engrams[1]))  # second moments are of the images as they are


# ---------------------------------------------------------------------- tuning


def test_one_pass_over_the_data_serves_all_settings_of_the_engram(problem, monkeypatch):
    calls = {"collect_by_concept": 0, "extract": 0}
    for name in calls:
        real = getattr(el, name)

        def counted(*args, _name=name, _real=real, **kwargs):
            calls[_name] += 1
            return _real(*args, **kwargs)

        monkeypatch.setattr(el, name, counted)
    plain, found = tune("engram_plain", problem), tune("engram", problem)
    lams = {1.0} | {settings["specificity"] for settings in METHODS["engram"].grid}
    assert calls == {"collect_by_concept": 1, "extract": len(lams)}
    # ... but each row says what its setting would cost alone
    collecting = problem._memo.results["moments", None][1]
    assert all(row["seconds"] > collecting for row in (*plain.tried, *found.tried))
    assert found.seconds < sum(row["seconds"] for row in found.tried)


def test_epochs_are_a_setting_and_passes_are_counted(problem, monkeypatch):
    """Kept images are 9 of 10; a step of NegGrad+ reads as many to forget beside them."""
    n, kept, gone = len(problem.data.train), len(problem.keep_split("train")), len(problem.forget_split("train"))
    for epochs in (1, 3):
        found = tune("finetune", problem, grid=({"lr": 0.001, "epochs": epochs},))
        assert found.passes == pytest.approx(epochs * kept / n) == found.trained_passes
        assert found.settings == {"lr": 0.001, "epochs": epochs} and found.edges == {}
    assert apply("neggrad", problem, {"lr": 1e-4, "epochs": 2}).passes == pytest.approx(2 * gone / n)
    assert apply("neggrad", replace(problem, epochs=2), {"lr": 1e-4}).passes == pytest.approx(2 * gone / n)
    assert apply("random_labels", problem, {"lr": 1e-4, "epochs": 2}).passes == pytest.approx(2)
    salun = tune("salun", problem, grid=[{"lr": lr, "share": 0.1, "epochs": 1} for lr in (1e-4, 1e-3)])
    assert [row["passes"] for row in salun.tried] == pytest.approx(
        [1 + gone / n] * 2
    )  # what is shared is charged to each
    moments = tune("engram", problem, grid=METHODS["engram"].grid[:2])
    assert [row["passes"] for row in moments.tried] == pytest.approx([1, 1], abs=0.02)  # 8 rows again: a layer's check
    assert moments.trained_passes == 0 and apply("logit_mask", problem, {}).passes == 0
    with pytest.raises(TypeError, match="takes no epochs"):
        METHODS["engram"].run(problem, alpha=1.0, specificity=1.0, epochs=2)


def test_a_choice_at_the_edge_of_its_grid_is_flagged(problem):
    assert set(found := tune("neggrad", problem, grid=[{"lr": lr, "epochs": 1} for lr in (1e-5, 5e-3)]).edges) == {"lr"}
    assert found["lr"] in ("smallest", "largest")
    grid = METHODS["engram"].grid
    assert tuning.edges({"alpha": 2.0, "specificity": 3.0, "layers": "late"}, grid) == {}
    assert tuning.edges({"alpha": 4.0, "specificity": 10.0, "layers": "all"}, grid) == dict.fromkeys(
        ("alpha", "specificity"), "largest"
    )
    assert tuning.edges({"alpha": 1.0}, ({"alpha": 1.0},)) == {}


def test_a_latin_square_tries_every_pair_once():
    grid = square(lr=(1, 2, 3), share=(4, 5, 6), epochs=(7, 8, 9))
    for a, b in (("lr", "share"), ("lr", "epochs"), ("share", "epochs")):
        assert len({(s[a], s[b]) for s in grid}) == 9 == len(grid)
    assert tuple(grid[4].values()) == (2, 5, 8)  # the middle of each
    with pytest.raises(ValueError, match="three levels each"):
        square(lr=(1, 2))


def test_tune_keeps_the_best_validation_score_and_records_all(problem):
    found = tune("neggrad", replace(problem, epochs=2))
    assert [row["lr"] for row in found.tried] == [settings["lr"] for settings in METHODS["neggrad"].grid]
    keep = problem.accuracies(copy.deepcopy(problem.model))[1]
    for row in found.tried:
        assert row["score"] == pytest.approx((1 - row["acc_forget"]) * (1 - abs(row["acc_keep"] - keep)))
        assert row["seconds"] > 0 and row["error"] is None
    assert found.score == max(row["score"] for row in found.tried) > 0.5
    assert (found.acc_forget, found.acc_keep) == problem.accuracies(found.model)
    again = apply("neggrad", replace(problem, epochs=2), found.settings)
    assert again.settings == found.settings and len(again.tried) == 1
    assert same(bits(again.model), bits(found.model)) and again.score == found.score
    elsewhere = apply(METHODS["neggrad"], replace(problem, epochs=2, seed=1), found.settings)
    assert not same(bits(elsewhere.model), bits(found.model))


@pytest.mark.parametrize("name", ["salun", "leace", "engram"])
def test_nothing_looks_at_the_test_images(name, problem):
    test = problem.data.test
    spoilt = replace(problem.data, test=Split(torch.full_like(test.x, float("nan")), test.y))
    grid = METHODS[name].grid[:2]
    one, other = tune(name, problem, grid=grid), tune(name, replace(problem, data=spoilt), grid=grid)
    assert same(bits(one.model), bits(other.model)) and one.score == other.score


def test_a_setting_that_breaks_the_model_scores_zero_and_mistakes_are_raised(problem, monkeypatch):
    found = tune("neggrad", problem, grid=({"lr": 1e30}, {"lr": 0.01}))
    broken, fine = found.tried
    assert broken["score"] == 0 and broken["acc_keep"] is None and broken["error"] and broken["seconds"] > 0
    assert found.settings == {"lr": 0.01} and fine["error"] is None
    with pytest.raises(FloatingPointError, match="every setting"):
        apply("neggrad", problem, {"lr": 1e30})
    with pytest.raises(TypeError, match="speed"):
        apply("neggrad", problem, {"speed": 1})
    with pytest.raises(ValueError, match="salun"):
        tune("salune", problem)
    with pytest.raises(ValueError, match="empty"):
        tune("neggrad", problem, grid=())

    def poison(problem):  # finite outputs are looked at too, not only weights
        model = copy.deepcopy(problem.model)
        model.fc.register_forward_hook(lambda module, args, out: out * float("nan"))
        return model

    with pytest.raises(FloatingPointError, match="outputs on val"):
        tune(Method("poison", "Poison", "none", ({},), poison), problem)


# ---------------------------------------------------------------------- the problem


def test_problem_splits_and_batches(problem):
    gone, kept = problem.forget_split("train"), problem.keep_split("train")
    assert (gone.y == FORGET).all() and not (kept.y == FORGET).any() and len(gone) + len(kept) == 1000
    assert torch.equal(problem.data.train.x[problem.rows("forget")], gone.x)
    rows = problem.rows("all")
    batches = list(problem.batches(rows, 2))
    assert len(batches) == 2 * problem.steps(rows) and {len(b) for b in batches} == {62, 63}
    assert torch.equal(torch.cat(batches[:16]).sort().values, rows)
    assert not torch.equal(torch.cat(batches[:16]), torch.cat(batches[16:]))
    steps = []
    counting = copy.deepcopy(problem.model)
    counting.register_forward_hook(lambda *a: steps.append(1))
    METHODS["finetune"].run(replace(problem, model=counting, epochs=2), lr=0.01)
    assert len(steps) == 2 * problem.steps(problem.rows("keep"))  # a budget is a budget
    for wrong in (
        {"forget": ()},
        {"forget": (10,)},
        {"forget": 3},
        {"forget": tuple(range(10))},
        {"epochs": 0},
        {"augment": "zoom"},
    ):
        with pytest.raises(ValueError, match="Problem"):
            replace(problem, **wrong)


def test_bfloat16_gives_about_the_same(problem, before):
    mixed = replace(problem, mixed=True)
    original = bits(problem.model)
    model = METHODS["random_labels"].run(mixed, lr=0.01)
    assert same(original, bits(problem.model)) and model.fc.weight.dtype == torch.float32
    full = METHODS["random_labels"].run(problem, lr=0.01)
    assert not same(bits(model), bits(full))
    for one, other in zip(mixed.accuracies(model, "test"), problem.accuracies(full, "test"), strict=True):
        assert one == pytest.approx(other, abs=0.12)
    assert unlearning.tune("engram", mixed, grid=METHODS["engram"].grid[:1]).acc_forget < 0.2


def _many(problem):
    """The same problem with 900 labels of the forget class for each kept one, to count what is drawn."""
    y = torch.full((8100,), FORGET)
    return replace(problem, data=replace(problem.data, train=Split(torch.zeros(8100, 1, 8, 8), y)))
