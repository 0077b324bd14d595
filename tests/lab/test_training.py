import pytest
import torch

from engramlib.lab.datasets import ImageData, Split, digits
from engramlib.lab.models import mlp
from engramlib.lab.training import accuracy, class_accuracy, predict, train_classifier

HOW = {"lr": 2e-3, "batch_size": 64}


def test_mlp_layers_names_and_seed():
    model = mlp([4, 5, 3], bias=False, seed=1)
    assert list(dict(model.named_children())) == ["fc1", "relu1", "fc2"]
    assert model.fc1.weight.shape == (5, 4) and model.fc1.bias is None
    state = torch.random.get_rng_state()
    assert torch.equal(model.fc2.weight, mlp([4, 5, 3], bias=False, seed=1).fc2.weight)
    assert not torch.equal(model.fc2.weight, mlp([4, 5, 3], bias=False, seed=2).fc2.weight)
    assert torch.equal(state, torch.random.get_rng_state())
    with pytest.raises(ValueError, match="sizes"):
        mlp([4])


def test_digits_reach_the_promised_accuracy():
    data = digits().flat()
    model = mlp([64, 256, 256, 10])
    history = train_classifier(model, data, epochs=20, seed=0, **HOW)
    assert len(history.loss) == len(history.val_accuracy) == 20 and history.loss[-1] < 0.05 < history.loss[0]
    assert history.val_accuracy[-1] == accuracy(model, data.val.x, data.val.y) > 0.95
    assert accuracy(model, data.test.x, data.test.y) > 0.95 and history.seconds > 0


def test_training_is_fixed_by_the_seed_and_leaves_the_random_state():
    data = digits().flat()
    weights = []
    for seed in (0, 0, 1):
        model = mlp([64, 16, 10])
        state = torch.random.get_rng_state()
        train_classifier(model, data, epochs=1, seed=seed, **HOW)
        assert torch.equal(state, torch.random.get_rng_state())
        weights.append(model.fc1.weight.detach().clone())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_class_accuracy_by_hand():
    model = torch.nn.Linear(3, 3, bias=False)
    model.weight.data = torch.eye(3)
    x = torch.eye(3)[[0, 0, 1, 1, 1]]
    y = torch.tensor([0, 1, 1, 1, 0])
    expected = torch.tensor([0.5, 2 / 3, float("nan")], dtype=torch.float64)
    assert torch.allclose(class_accuracy(model, x, y, 3), expected, equal_nan=True)
    assert accuracy(model, x, y) == pytest.approx(0.6)


def test_predict_runs_in_eval_mode_and_restores_each_modules_mode():
    model = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Linear(8, 4), torch.nn.Dropout(0.9)).train()
    model[2].eval()
    x = torch.randn(50, 8)
    assert torch.equal(predict(model, x), predict(model, x, batch_size=7))
    assert [m.training for m in model] == [True, True, False]


def test_bad_input_is_named():
    data = digits().flat()
    with pytest.raises(ValueError, match="epochs must be positive"):
        train_classifier(mlp([64, 10]), data, epochs=0, seed=0, **HOW)
    bad = Split(torch.full((8, 64), float("nan")), torch.zeros(8, dtype=torch.long))
    broken = ImageData("bad", data.classes, data.image_shape, bad, bad, bad)
    with pytest.raises(FloatingPointError, match="epoch 1.*lr"):
        train_classifier(mlp([64, 10]), broken, epochs=2, seed=0, **HOW)
