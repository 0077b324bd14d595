"""The comparison of chapter 09, on a network that is trained for a second."""

from dataclasses import replace

import pytest
import torch

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
