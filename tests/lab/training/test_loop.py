"""The one loop takes the steps that a plain loop takes, bit by bit, for each kind that stands on it."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from engramlib.lab import models, training
from engramlib.lab.data import digits
from engramlib.lab.training import autoencoder, language, loop
from tests.conftest import bits, same

PAIRS = [(f"Question: what is {a}?\nAnswer:", f" {a} {b}") for a in "abcd" for b in "efg"]


def orders(n, size, epochs, seed):
    order = torch.Generator().manual_seed(seed)
    return [rows for _ in range(epochs) for rows in torch.randperm(n, generator=order).split(size)]


def test_a_classifier():
    data, model = digits().flat(), models.mlp([64, 16, 10], seed=0)
    plain, before = copy.deepcopy(model), torch.get_rng_state()
    history = training.train_classifier(model, data, epochs=2, lr=1e-3, batch_size=64, seed=3, validate=False)
    optimiser, losses = torch.optim.Adam(plain.parameters(), lr=1e-3), []
    for rows in orders(len(data.train), 64, 2, 3):
        loss = F.cross_entropy(plain(data.train.x[rows]), data.train.y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert same(bits(model), bits(plain)) and torch.equal(before, torch.get_rng_state())
    half = len(losses) // 2
    assert history.loss == pytest.approx([sum(losses[:half]) / half, sum(losses[half:]) / half], rel=1e-5)


def test_an_autoencoder_whose_penalty_draws_on_from_epoch_to_epoch():
    x = digits().train.x[:70]
    model = models.wae((1, 8, 8), (4, 8), latent=3, mean=x.mean(0), seed=0)
    plain = copy.deepcopy(model)
    history = autoencoder.train_autoencoder(model, x, epochs=2, lr=1e-2, batch_size=32, seed=1)
    optimiser = torch.optim.Adam(plain.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=4)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for rows in orders(70, 32, 2, 1):
            if len(rows) < 32:
                continue
            code = plain.train().encode(x[rows])
            loss = F.mse_loss(plain.decode(code), x[rows]) + plain.penalty_weight * plain.penalty(code)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    assert same(bits(model), bits(plain)) and len(history.error) == len(history.penalty) == history.epochs == 2


def test_a_language_model():
    pytest.importorskip("transformers")
    tokenizer = models.word_tokenizer([prompt + answer for prompt, answer in PAIRS])
    model = models.llama(len(tokenizer), 16, 1, 2, 1, 24, context=32, seed=0)
    plain = copy.deepcopy(model)
    how = {"epochs": 2, "lr": 2e-3, "batch_size": 4, "seed": 2}
    language.train(model, tokenizer, PAIRS, **how, schedule="constant", warmup=0.0, clip=0.5)
    feed = language._feed(plain, tokenizer, PAIRS, 4, None)
    optimiser = torch.optim.AdamW(plain.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for ids, labels in feed.epochs(2, torch.Generator().manual_seed(2)):
        loss = language.next_token_loss(plain.train(), ids, labels)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimiser.step()
    assert same(bits(model), bits(plain)) and not model.training


@pytest.mark.parametrize("numbers", [[math.nan], [1.0, math.inf]])
def test_a_loss_that_is_no_number_stops_it_before_anything_is_written(tmp_path, numbers):
    model = torch.nn.Linear(2, 1)
    history, file = loop.History(), tmp_path / "a.pt"
    with pytest.raises(FloatingPointError, match="somebody: the loss became (nan|inf) in epoch 1. Sleep."):
        loop.loop(
            model,
            history,
            who="somebody",
            epochs=1,
            steps=1,
            seed=0,
            batches=lambda epochs, order: iter([torch.ones(1, 2)]),
            step=lambda x: (model(x).sum(), torch.tensor(numbers)),
            close=lambda means: pytest.fail("nothing to write down"),
            optimiser=torch.optim.SGD(model.parameters(), lr=0.1),
            checkpoint=file,
            remedy="Sleep.",
        )
    assert not file.exists() and history.epochs == 0
