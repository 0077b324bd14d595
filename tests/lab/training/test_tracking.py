"""Moments that stream inside transformers' Trainer: in its own loop where it can run, else by the calls it makes."""

import pytest
import torch

import engramlib as el
from engramlib.lab.models import llama
from engramlib.lab.training.tracking import TrackMoments

ACCUMULATE, EPOCHS, EACH = 2, 1, 3


def answers(batch):
    return batch["labels"] != -100


def make(seed=0):
    model = llama(40, hidden=16, layers=1, heads=2, kv_heads=1, intermediate=24, context=16, seed=seed)
    luck = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 40, (12, 7), generator=luck)
    labels = ids.masked_fill(torch.arange(7) < 3, -100)
    examples = [{"input_ids": a, "labels": b} for a, b in zip(ids, labels, strict=True)]
    return model, el.OnlineMoments(model, rows=answers, decay=0.5, layers=["q_proj", "down_proj"]), examples


def reference(model, examples):
    """What the layers were shown, step by step, in batches of EACH, from the first weights: lr is zero."""
    wanted = {}
    for first in range(0, len(examples), ACCUMULATE * EACH):
        part = examples[first : first + ACCUMULATE * EACH]
        batch = {k: torch.stack([e[k] for e in part]) for k in ("input_ids", "labels")}
        now = el.collect(model, [batch], rows=answers, layers=["q_proj", "down_proj"])
        wanted = {n: now[n] + 0.5 * wanted.get(n, 0.0) for n in now}
    return wanted


def compare(tracker, wanted):
    found = tracker.moments()
    assert set(found) == set(wanted)
    for name, sigma in wanted.items():
        torch.testing.assert_close(found[name], sigma, rtol=1e-4, atol=1e-4)


def test_the_trainers_own_loop(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    model, tracker, examples = make()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=EACH,
        gradient_accumulation_steps=ACCUMULATE,
        num_train_epochs=EPOCHS,
        learning_rate=0.0,
        lr_scheduler_type="constant",
        eval_strategy="steps",
        eval_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        train_sampling_strategy="sequential",
    )
    callback = TrackMoments(tracker)
    Trainer(model, arguments, train_dataset=examples, eval_dataset=examples[:3], callbacks=[callback]).train()
    assert tracker.steps == 2 and not model._forward_hooks and not model._forward_pre_hooks
    compare(tracker, reference(model.cpu(), examples))


def test_by_the_calls_that_a_trainer_makes():
    model, tracker, examples = make()
    callback = TrackMoments(tracker)
    callback.on_train_begin(None, None, None, model=model)
    model.train()
    for first in range(0, len(examples), EACH):
        batch = {k: torch.stack([e[k] for e in examples[first : first + EACH]]) for k in ("input_ids", "labels")}
        model(**batch).loss.backward()
        if (first // EACH) % ACCUMULATE:
            callback.on_step_end(None, None, None)
            model.eval()(**batch)  # an evaluation in between does not count
            model.train()
    callback.on_train_end(None, None, None)
    assert tracker.steps == 2 and not model._forward_hooks and not model._forward_pre_hooks
    compare(tracker, reference(model, examples))


def test_a_pass_that_stops_does_not_count():
    model, tracker, examples = make()
    callback = TrackMoments(tracker)
    callback.on_train_begin(None, None, None, model=model)
    model.train()
    with pytest.raises(Exception, match="."):
        model(input_ids=examples[0]["input_ids"][None], labels=torch.zeros(1, 3, dtype=torch.long) + 99)
    callback.remove()
    tracker.step()
    with pytest.raises(ValueError, match="no moments yet"):
        tracker.moments()


def test_another_model_and_copies_are_refused():
    model, tracker, _ = make()
    with pytest.raises(ValueError, match="another model"):
        TrackMoments(tracker).on_train_begin(None, None, None, model=make()[0])
    with pytest.raises(TypeError, match="DataParallel"):
        TrackMoments(tracker).on_train_begin(None, None, None, model=torch.nn.DataParallel(model))
    with pytest.raises(TypeError, match="expected an OnlineMoments"):
        TrackMoments(model)
    assert not model._forward_hooks
