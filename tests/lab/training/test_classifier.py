from dataclasses import replace

import pytest
import torch
from torch import nn

from engramlib.lab import training
from engramlib.lab.data import ImageData, Split, digits
from engramlib.lab.models import mlp, resnet
from engramlib.lab.training import accuracy, class_accuracy, loop, predict, train_classifier

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


def test_validation_can_be_left_out_and_changes_no_weight():
    data = digits().flat()
    models = [mlp([64, 32, 10], seed=0) for _ in range(2)]
    told, silent = (
        train_classifier(m, data, epochs=2, seed=0, validate=v, **HOW)
        for m, v in zip(models, (True, False), strict=True)
    )
    assert told.loss == silent.loss and len(told.val_accuracy) == 2 and silent.val_accuracy == []
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


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


# ------------------------------------------------------------------------------------- recipes and checkpoints

PHOTOS = {"epochs": 3, "lr": 0.05, "batch_size": 64, "seed": 1, "recipe": training.PHOTOS}


def small():
    return resnet((4, 8), in_channels=1)


def test_a_run_that_was_cut_off_ends_like_one_that_was_not(tmp_path, monkeypatch):
    data, whole, file = digits(), small(), tmp_path / "deep" / "a.pt"
    history = train_classifier(whole, data, **PHOTOS)

    class CutOff(Exception):
        pass

    write = loop._Checkpoint.write

    def write_then_stop(self):
        write(self)
        if len(self.history.loss) == 2:
            raise CutOff

    monkeypatch.setattr(loop._Checkpoint, "write", write_then_stop)
    with pytest.raises(CutOff):
        train_classifier(small(), data, checkpoint=file, **PHOTOS)
    monkeypatch.setattr(loop._Checkpoint, "write", write)
    resumed = small()
    after = train_classifier(resumed, data, checkpoint=file, **PHOTOS)
    assert after.loss == history.loss and after.val_accuracy == history.val_accuracy
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    again = small()
    assert train_classifier(again, data, checkpoint=file, **PHOTOS) == after and not again.training


def test_a_checkpoint_of_other_arguments_is_refused(tmp_path):
    file = tmp_path / "a.pt"
    train_classifier(small(), digits(), checkpoint=file, **{**PHOTOS, "epochs": 1})
    with pytest.raises(ValueError, match="other arguments.*Delete it"):
        train_classifier(small(), digits(), checkpoint=file, **PHOTOS)


def other_images(part):
    x = part.x.clone()
    x[7, 0, 3, 3] += 0.5
    return replace(part, x=x)


def other_labels(part):
    return replace(part, y=part.y.flip(0))


OTHERWISE = {
    "epochs": lambda how: how | {"epochs": 2},
    "lr": lambda how: how | {"lr": 0.051},
    "batch_size": lambda how: how | {"batch_size": 65},
    "seed": lambda how: how | {"seed": 2},
    "weight_decay": lambda how: how | {"weight_decay": 1e-4},
    "validate": lambda how: how | {"validate": False},
    **{
        name: lambda how, name=name, value=value: how | {"recipe": replace(how["recipe"], **{name: value})}
        for name, value in {
            "optimiser": "adam",
            "schedule": "constant",
            "augment": None,
            "label_smoothing": 0.1,
            "mixed": False,
        }.items()
    },
    "images": lambda how: how | {"data": replace(how["data"], train=other_images(how["data"].train))},
    "labels": lambda how: how | {"data": replace(how["data"], train=other_labels(how["data"].train))},
    "fewer images": lambda how: how | {"data": replace(how["data"], train=how["data"].train.sample(60))},
    "validation images": lambda how: how | {"data": replace(how["data"], val=other_images(how["data"].val))},
    "first weights": lambda how: how | {"model": resnet((4, 8), in_channels=1, seed=1)},
    "widths": lambda how: how | {"model": resnet((4, 9), in_channels=1)},
    "a frozen layer": lambda how: how | {"model": frozen()},
    "another activation": lambda how: how | {"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Tanh())},
}


def frozen():
    model = small()
    model.fc.bias.requires_grad_(False)
    return model


@pytest.mark.parametrize("name", OTHERWISE)
def test_each_ingredient_of_a_result_is_in_the_identity_of_its_checkpoint(name, tmp_path):
    how = {**PHOTOS, "epochs": 1, "data": digits(), "checkpoint": tmp_path / "a.pt"}
    begun = {"model": small()}
    if name == "another activation":  # without any weights, and as many of them
        begun = {"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU())}
        torch.manual_seed(0)
    state = {key: value.clone() for key, value in begun["model"].state_dict().items()}
    train_classifier(**how | begun)
    begun["model"].load_state_dict(state)
    assert train_classifier(**how | {"model": begun["model"]}).seconds > 0  # the same is read
    changed = OTHERWISE[name](how | {"model": small()})
    if name == "another activation":
        changed["model"].load_state_dict(state)
    with pytest.raises(ValueError, match="other arguments"):
        train_classifier(**changed)


def test_recipes_learn_and_differ():
    data = digits()
    losses = {}
    for recipe in (training.Recipe(schedule="onecycle"), training.Recipe("sgd", label_smoothing=0.1), training.PHOTOS):
        history = train_classifier(small(), data, **{**PHOTOS, "lr": 0.02, "recipe": recipe})
        assert history.loss[-1] < history.loss[0]
        losses[recipe] = tuple(history.loss)
    assert len(set(losses.values())) == 3


def test_recipe_names_what_is_wrong():
    with pytest.raises(ValueError, match="optimiser must be one of"):
        training.Recipe("lbfgs")
    with pytest.raises(ValueError, match="label_smoothing"):
        training.Recipe(label_smoothing=1.0)


def test_flip_and_shift_moves_each_image_and_nothing_else():
    x = torch.arange(1.0, 1 + 64 * 3 * 16 * 16).reshape(64, 3, 16, 16)
    moved = training.flip_and_shift(x, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape
    mirrored = 0
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    for i in range(64):
        windows = padded[i].unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4).reshape(25, -1)
        straight = (windows == moved[i].flatten()).all(1).any()
        flipped = (windows == moved[i].flip(2).flatten()).all(1).any()
        assert straight != flipped
        mirrored += int(flipped)
    assert 16 < mirrored < 48
    assert torch.equal(moved, training.flip_and_shift(x, torch.Generator().manual_seed(0)))
