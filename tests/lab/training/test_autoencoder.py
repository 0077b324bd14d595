import pytest
import torch
from torch import nn

import engramlib as el
from engramlib.lab.data import digits
from engramlib.lab.models import conv_autoencoder, wae
from engramlib.lab.training.autoencoder import reconstruct, reconstruction_error, train_autoencoder

HOW = {"lr": 1e-2, "batch_size": 32, "seed": 0}


def small():
    return conv_autoencoder((1, 8, 8), (8, 16, 16))


@pytest.fixture(scope="module")
def trained():
    data = digits()
    model = conv_autoencoder((1, 8, 8), (16, 32, 32))
    history = train_autoencoder(model, data.train.x, epochs=15, x_val=data.val.x, **HOW)
    return data, model, history


def test_digits_are_reconstructed(trained):
    data, model, history = trained
    variance = float(data.val.x.var(0).mean())  # the error of drawing the mean digit
    assert len(history.error) == len(history.val_error) == 15 and history.penalty == []
    assert history.val_error[-1] == reconstruction_error(model, data.val.x) < variance / 7
    assert history.error[-1] < history.error[0] / 4 and history.seconds > 0 and not model.training


def test_erasing_a_digit_raises_its_own_error_most(trained):
    data, model, _ = trained
    before = reconstruction_error(model, data.test.x, data.test.y, 10)
    moments = el.collect_by_concept(model, data.batches("train"), lambda batch: batch[1])
    engrams = el.extract_all(model, moments, rcond=1e-3)
    rises = []
    for digit in (0, 3, 7):
        rise = reconstruction_error(el.ablate(model, engrams[digit]), data.test.x, data.test.y, 10) - before
        others = rise[torch.arange(10) != digit]
        assert rise[digit] > 2 * others.max(), digit
        rises.append(rise[digit] / others.mean())
    assert min(rises) > 4


def test_the_error_by_hand():
    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    x = torch.ones(4, 1, 2, 2) * torch.tensor([2.0, 4.0, 6.0, 0.0])[:, None, None, None]
    assert reconstruction_error(Half(), x) == pytest.approx((1 + 4 + 9 + 0) / 4)
    by_class = reconstruction_error(Half(), x, torch.tensor([0, 0, 2, 2]), 4)
    assert torch.allclose(by_class, torch.tensor([2.5, float("nan"), 4.5, float("nan")]).double(), equal_nan=True)
    assert len(reconstruction_error(Half(), x, torch.tensor([0, 0, 2, 2]))) == 3
    with pytest.raises(ValueError, match="x has 4 rows but y has 3"):
        reconstruction_error(Half(), x, torch.tensor([0, 0, 2]))
    assert torch.equal(reconstruct(Half(), x, batch_size=3), x / 2)


def test_measuring_restores_the_mode_and_leaves_no_gradient():
    model = nn.Sequential(nn.Dropout(0.9), nn.Conv2d(1, 1, 1), nn.Dropout(0.9)).train()
    model[2].eval()
    x = torch.rand(10, 1, 8, 8)
    out = reconstruct(model, x)
    assert torch.equal(out, reconstruct(model, x)) and not out.requires_grad
    assert [m.training for m in model] == [True, True, False]


@pytest.mark.parametrize("build", [small, lambda: wae((1, 8, 8), (8, 16), latent=4)])
def test_training_is_fixed_by_the_seed_and_leaves_the_random_state(build):
    x, weights = digits().train.x[:200], []
    for seed in (0, 0, 1):
        model = build()
        state = torch.random.get_rng_state()
        history = train_autoencoder(model, x, epochs=2, lr=1e-2, batch_size=64, seed=seed, progress=False)
        assert torch.equal(state, torch.random.get_rng_state())
        weights.append(model.enc1.weight.detach().clone())
        assert len(history.penalty) == (2 if hasattr(model, "penalty") else 0) and history.val_error == []
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_penalty_weighs():
    data, spread = digits(), {}
    for weight in (0.0, 0.1):
        model = wae((1, 8, 8), (8, 16), latent=8, penalty_weight=weight)
        history = train_autoencoder(model, data.train.x, epochs=8, lr=1e-2, batch_size=50, seed=0)
        with torch.no_grad():
            codes = model.encode(data.test.x)
            prior = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
            spread[weight] = float(model.penalty(codes, prior))
        assert len(history.penalty) == 8
    assert spread[0.1] < spread[0.0] / 4


def test_bad_input_is_named():
    x = torch.rand(8, 1, 8, 8)
    for name in ("epochs", "lr", "batch_size"):
        with pytest.raises(ValueError, match=f"train_autoencoder: {name} must be positive"):
            train_autoencoder(small(), x, **({"epochs": 1} | HOW | {name: 0}))
    with pytest.raises(ValueError, match="x_train is empty"):
        train_autoencoder(small(), x[:0], epochs=1, **HOW)
    with pytest.raises(FloatingPointError, match="epoch 1.*lr"):
        train_autoencoder(small(), x * float("nan"), epochs=2, **HOW)
