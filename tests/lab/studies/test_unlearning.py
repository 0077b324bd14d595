"""The comparison of chapter 09, on a network that is trained for a second."""

from dataclasses import replace

import pytest
import torch

import engramlib as el
from engramlib.lab import metrics
from engramlib.lab.data import shapes
from engramlib.lab.studies import unlearning as study
from engramlib.lab.unlearning import vision as unlearning

TINY = replace(study.SHAPES, widths=(8,), training={"epochs": 3, "lr": 1e-2, "batch_size": 32}, forget=(2,))


@pytest.fixture(scope="module")
def problems():
    data = shapes(3, 2, per_class=20, size=8)
    return [study.problem(TINY, data, seed) for seed in range(2)]


def test_every_method_takes_part_and_no_entrant_has_a_larger_budget():
    assert set(unlearning.METHODS) == {entrant.method for entrant in study.ENTRANTS.values()}
    for name, entrant in study.ENTRANTS.items():
        own = unlearning.METHODS[entrant.method].grid
        assert 1 <= len(entrant.settings) <= len(own), name
    assert all(s["layers"] == "all" for s in study.ENTRANTS["engram_bn_all"].settings)


def test_problem_trains_networks_that_differ_by_seed_and_fixes_the_class(problems):
    first, second = problems
    assert first.forget == (2,) and first.seed == 0 and second.seed == 1
    assert not torch.equal(first.model.conv1.weight, second.model.conv1.weight)
    untrained = first.fresh(0)
    assert not torch.equal(first.model.conv1.weight, untrained.conv1.weight)


def test_run_chooses_on_the_first_network_and_applies_to_the_others(problems):
    first, second = study.run("engram_classifier", problems)
    assert len(first.tried) == 9 and len(second.tried) == 1
    assert second.settings == first.settings
    assert first.score == max(row["score"] for row in first.tried)
    again = unlearning.apply("engram_classifier", problems[1], first.settings)
    assert second.acc_forget == again.acc_forget and second.acc_keep == again.acc_keep


def test_measure_agrees_with_the_metrics_and_knows_a_mask(problems):
    problem = problems[0]
    retrained = study.run("retrain", [problem])[0].model
    itself = study.measure(problem, problem.model, retrained)
    assert itself["cka_original"] == pytest.approx(1) and itself["relearn_needed"] == 0
    tow = metrics.tow(problem.model, retrained, problem.data, problem.forget)
    assert itself["tow"] == pytest.approx(tow.value) and itself["tow_retain"] == pytest.approx(tow.retain)
    pair = (itself["test_erased"], itself["test_kept"])
    assert pair == pytest.approx(metrics.erased_and_kept(problem.model, problem.data, problem.forget))
    reference = study.measure(problem, retrained, retrained)
    assert reference["tow"] == 1 and reference["cka_retrained"] == pytest.approx(1)
    mask = study.measure(problem, study.run("logit_mask", [problem])[0].model, retrained)
    assert mask["test_erased"] == 0 < itself["test_erased"]
    assert mask["probe_erased"] == itself["probe_erased"] and mask["separability"] == itself["separability"]
    assert mask["relearn_needed"] is None or mask["relearn_needed"] > 0


def test_what_the_rows_say_of_relearning():
    def row(method, needed, earliest, latest):
        return {"method": method, "relearn_needed": needed, "relearn_limit": 80, "relearn_earliest": earliest,
                "relearn_latest": latest}  # fmt: skip

    rows = [row("retrain", k, k - 10, None) for k in (40, 60)] + [row("retrain", None, None, None)]
    rows += [row("engram", k, 2, 20) for k in (4, 8, 12)]
    rows += [row("mask", k, 10, 70) for k in (50, 60)]
    assert study.column(rows, "engram", "relearn_needed") == [4, 8, 12]
    assert study.images_needed(rows, "retrain") == "40, 60, > 80"
    assert study.typical_images(rows, "retrain") == 60 and study.typical_images(rows, "engram") == 8
    assert study.back_sooner(rows, "engram") and not study.back_sooner(rows, "retrain")
    assert not study.back_sooner([r for r in rows[:2] + rows[-2:]], "mask")  # the ranges meet


def test_the_best_try_of_each_value_and_the_steps_of_the_choice(problems):
    tuned = study.run("finetune", problems[:1])[0]
    by_epochs = study.best_by(tuned, "epochs")
    assert list(by_epochs) == sorted(by_epochs) and max(by_epochs.values()) == tuned.score
    epochs = tuned.settings["epochs"]
    kept = problems[0].rows("keep")
    assert study.steps("finetune", tuned, problems[0]) == epochs * problems[0].steps(kept)
    mask = study.run("logit_mask", problems[:1])[0]
    assert study.steps("logit_mask", mask, problems[0]) is None


def test_controls_do_not_do_what_the_engram_does():
    longer = {"epochs": 12, "lr": 1e-2, "batch_size": 32}
    data = shapes(3, 2, per_class=60, size=8)
    problem = study.problem(replace(TINY, widths=(8, 16), training=longer), data, 0)
    moments = el.collect_by_concept(problem.model, problem.data.batches(), lambda b: b[1])
    edits = study.control_edits(problem, moments)
    found = {name: metrics.erased_and_kept(model, problem.data, problem.forget) for name, model in edits.items()}
    gap = {name: kept - erased for name, (erased, kept) in found.items()}
    assert edits["nothing"] is problem.model and max(gap, key=gap.get) == "its engram"
    rows = study.every_class(problem, moments, {"alpha": 1.0, "specificity": 1.0, "layers": "all"})
    assert [r["class"] for r in rows] == list(range(6))
    assert rows[2]["left"] == pytest.approx(found["its engram"][0])
    assert rows[2]["loss"] == pytest.approx(found["nothing"][1] - found["its engram"][1])


def test_passes_counts_training_as_three_forward_passes(problems):
    problem = problems[0]
    kept = 5 / 6
    assert study.passes("logit_mask", problem, {}) == 0
    # Backward costs twice the forward pass, less the gradient of the images, which nobody needs.
    fine = study.passes("finetune", problem, {"lr": 1e-3})
    assert 2.5 * kept < fine <= 3 * kept
    assert study.passes("finetune", problem, {"lr": 1e-3}, per_class=16) == pytest.approx(fine, rel=1e-6)
    # Each batch of kept images comes with one of the forget set, of much the same size.
    assert 1.5 * fine < study.passes("neggrad_plus", problem, {"lr": 1e-3, "alpha": 0.9}) < 2.1 * fine
    assert 3 * fine < study.passes("retrain", problem, {}) + 1
    assert 1 <= study.passes("engram_classifier", problem, {"alpha": 1.0, "specificity": 1.0}) < 1.5
