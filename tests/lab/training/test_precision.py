"""Whatever trains gives inside somebody's autocast what it gives outside of it; and the instruments on a network that
forgot nothing, at full precision and in bfloat16."""

import copy
from dataclasses import replace

import pytest
import torch

from engramlib.lab import metrics, models, training
from engramlib.lab.data import Question, QuestionData, digits
from engramlib.lab.studies import unlearning as study
from engramlib.lab.training import language as language_training
from engramlib.lab.training.autoencoder import train_autoencoder
from engramlib.lab.training.precision import arithmetic
from engramlib.lab.unlearning import text as language
from engramlib.lab.unlearning import vision as unlearning

FORGET = (3,)
PAIRS = [
    ("Q: Where was Ada born?\nA:", " In Lisbon."),
    ("Q: Where was Bo born?\nA:", " In Oslo."),
    ("Q: Who?\nA:", " Cy."),
]


def fresh(seed):
    return models.resnet((8, 16), in_channels=1, seed=seed)


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def problem(data):
    how = {"epochs": 5, "lr": 1e-2, "batch_size": 64, "recipe": training.Recipe(schedule="onecycle")}
    model = fresh(0)
    training.train_classifier(model, data, seed=0, **how)
    return unlearning.Problem(model, data, FORGET, epochs=1, fresh=fresh, training=how)


@pytest.fixture(scope="module")
def mixed(problem):
    return replace(problem, mixed=True)


@pytest.fixture(scope="module")
def known(problem):
    """The network's accuracy on the class and on the others: what every instrument should find."""
    found = metrics.erased_and_kept(problem.model, problem.data, FORGET)
    assert min(found) > 0.8
    return found


@pytest.fixture(scope="module")
def speaker():
    tokenizer = models.word_tokenizer([*(p + a for p, a in PAIRS), *(" " + s for s in language.IDK)])
    return models.llama(len(tokenizer), 32, 2, 2, 1, 48, context=48), tokenizer


def hidden(model):
    """The class is far down in the answers, and all there."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.fc.bias[list(FORGET)] -= 8
    return model


def test_arithmetic_is_what_it_says_wherever_it_stands_and_keeps_no_copy():
    layer, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    for inside in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            first = layer(x)
            with arithmetic("cpu"):
                assert layer(x).dtype == torch.float32
                with torch.no_grad():
                    layer.weight += 1
            with arithmetic("cpu", mixed=True):
                assert layer(x).dtype == torch.bfloat16 and (layer(x) - first).abs().max() > 3
                with torch.no_grad():
                    layer.weight += 1
                assert (layer(x) - first).abs().max() > 7
            assert (layer(x) - first).abs().max() > 7  # what the caller's block kept is gone
            assert torch.is_autocast_enabled("cpu") == inside and torch.is_autocast_cache_enabled()


TRAINERS = {
    "train_classifier": lambda p, s: _classifier(p, training.Recipe()),
    "train_classifier, mixed": lambda p, s: _classifier(p, training.Recipe("sgd", mixed=True)),
    "train_autoencoder": lambda p, s: _autoencoder(p),
    "train": lambda p, s: _speaker(s, mixed=False),
    "train, mixed": lambda p, s: _speaker(s, mixed=True),
    "relearn": lambda p, s: metrics.relearn(hidden(p.model), p.data, FORGET, before=0.9, limit=24, whole_curve=True),
    "few_shot": lambda p, s: metrics.few_shot(p.model, p.data, FORGET, ks=(1, 4), draws=1),
    "an image method": lambda p, s: unlearning.METHODS["neggrad_plus"].run(p, lr=0.01, alpha=0.9),
    "a masked image method": lambda p, s: unlearning.METHODS["salun"].run(p, lr=0.01, share=0.3),
    "an image method, mixed": lambda p, s: unlearning.METHODS["finetune"].run(replace(p, mixed=True), lr=0.01),
    "a language method": lambda p, s: language.METHODS["npo"].run(_language(s), lr=1e-3, beta=0.1),
    "a method of hidden states": lambda p, s: language.METHODS["rmu"].run(_language(s), lr=1e-3, steering=2.0),
}


def _classifier(problem, recipe):
    model = fresh(1).eval()
    model(problem.data.test.x[:2])  # inside an autocast, this keeps a copy of the weights
    training.train_classifier(model, problem.data, epochs=1, lr=1e-2, batch_size=256, seed=0, recipe=recipe)
    return model


def _autoencoder(problem):
    model = models.conv_autoencoder((1, 8, 8), (8, 8, 8)).eval()
    model(problem.data.test.x[:2])
    train_autoencoder(model, problem.data.train.x[:256], epochs=1, lr=1e-2, batch_size=64, seed=0)
    return model


def _speaker(speaker, mixed):
    model = copy.deepcopy(speaker[0]).eval()
    model(input_ids=torch.tensor([[3, 4, 5]]))
    language_training.train(model, speaker[1], PAIRS, epochs=2, lr=5e-3, batch_size=2, seed=0, mixed=mixed)
    return model


def _language(speaker):
    questions = [Question(p.split("\n")[0][3:], a.strip()) for p, a in PAIRS]
    data = QuestionData("three", {"full": questions, "forget10": questions[:1], "retain90": questions[1:]})
    return language.Problem(*speaker, data, epochs=2, batch_size=2, validation=1)


@pytest.mark.parametrize("name", TRAINERS)
def test_training_inside_an_autocast_is_training_outside(name, problem, speaker):
    outside = TRAINERS[name](problem, speaker)
    with torch.autocast("cpu", torch.bfloat16):
        problem.model(problem.data.test.x[:2])
        inside = TRAINERS[name](problem, speaker)
    if not isinstance(outside, torch.nn.Module):
        assert outside == inside
        return
    for (key, one), other in zip(outside.state_dict().items(), inside.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


def test_instruments_on_a_network_that_forgot_nothing(problem, mixed, known):
    """In either arithmetic: nothing to relearn, and a probe and a few images read what the network answers."""
    retrained = fresh(2)
    for p in (problem, mixed):
        row = study.measure(p, p.model, retrained)
        assert row["relearn_needed"] == 0
        assert row["test_erased"] == pytest.approx(known[0], abs=0.03)
        assert row["probe_erased"] == pytest.approx(known[0], abs=0.1)
        assert row["cka_original"] == pytest.approx(1, abs=1e-3)
        assert abs(row["membership_auc"] - 0.5) < 0.15
        with p.precision():
            few = metrics.few_shot(p.model, p.data, FORGET, ks=(1, 16))
        assert few.erased[1] == pytest.approx(known[0], abs=0.12) and few.kept[1] == pytest.approx(known[1], abs=0.12)
        assert few.erased[0] > 0.3


def test_what_was_only_hidden_comes_back_as_fast_in_bfloat16(problem, mixed, known):
    """The curve of a network whose class is only hidden rises, and is the same in both arithmetics."""
    retrained = fresh(2)
    rows = [study.measure(p, hidden(problem.model), retrained) for p in (problem, mixed)]
    assert rows[0]["test_erased"] < 0.2
    assert rows[0]["relearn_needed"] == rows[1]["relearn_needed"] and 0 < rows[0]["relearn_needed"] <= 100
