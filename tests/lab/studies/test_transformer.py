"""Groups erased from a vision transformer: the loops of chapter 11, and what the ImageNet path relies on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

import engramlib as el
from engramlib.lab.models import from_torchvision
from engramlib.lab.studies import transformer as study
from engramlib.lab.studies.classwise import effects

TINY = replace(study.SHAPES, n_super=3, per_class=40, dim=24, heads=2, mlp_dim=32, epochs=6, batch_size=32)


@pytest.fixture(scope="module")
def data():
    return study.dataset(TINY)


@pytest.fixture(scope="module")
def model(data):
    return study.train(data, TINY, seed=0)


def test_class_accuracy_is_that_of_each_class_and_groups_average_it(model, data) -> None:
    found = study.class_accuracy(model, data, "val")
    with torch.no_grad():
        right = model(data.val.x).argmax(1) == data.val.y
    for c in range(data.n_classes):
        assert found[c] == pytest.approx(float(right[data.val.y == c].double().mean()))
    assert study.by_group(found, data)[1] == pytest.approx(float(found[2:4].mean()))


def test_a_group_engram_is_the_sum_of_its_classes_and_in_turn_is_the_same(model, data) -> None:
    together = study.group_engrams(model, data, rcond=1e-4)
    by_class = el.extract_all(
        model, el.collect_by_concept(model, data.batches("train"), lambda batch: batch[1]), rcond=1e-4
    )
    for group, in_turn in study.group_engrams_in_turn(model, data, rcond=1e-4):
        summed = sum(by_class[c] for c in range(data.n_classes) if data.superclass_of[c] == group)
        for name, (weight, _) in together[group].items():
            assert torch.allclose(weight, summed[name].weight, atol=1e-3)
            assert torch.allclose(weight, in_turn[name].weight, atol=1e-3)


def test_several_classes_at_once_are_their_sum_and_leave_the_model(model, data) -> None:
    before = {name: p.clone() for name, p in model.named_parameters()}
    rows = study.by_share(model, data, [[0], [0, 1]], seed=3, rcond=1e-4)
    assert [row["share"] for row in rows] == [1 / 6, 1 / 3] and {row["seed"] for row in rows} == {3}
    group = study.erase(model, {0: study.group_engrams(model, data, rcond=1e-4)[0]}, data, seed=3)
    line = effects(group, by=())[0]
    assert rows[1]["erased"] == pytest.approx(line["erased"], abs=0.03)
    assert rows[1]["loss"] == pytest.approx(line["others_loss"], abs=0.03)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_erasing_takes_the_group_and_rows_fit_the_effects(model, data) -> None:
    engrams = study.group_engrams(model, data, rcond=1e-4)
    rows = study.erase(model, engrams, data, seed=0)
    assert len(rows) == len(data.superclasses) ** 2
    line = effects(rows, by=())[0]
    assert line["erased"] < 0.15 < line["others"]
    nothing = study.erase(model, engrams, data, seed=0, alpha=0.0)
    assert all(row["after"] == row["before"] for row in nothing)
    head = study.erase(model, {0: engrams[0]}, data, seed=0, layers="fc", facts={"why": "head"})
    assert head[0]["why"] == "head"
    assert [row["after"] for row in head] != [row["after"] for row in rows[: len(head)]]


def test_every_matrix_has_exactly_one_kind(model) -> None:
    every = list(el.layers.find_layers(model))
    kinds = [name for names in study.KINDS.values() for name in el.layers.find_layers(model, names)]
    assert sorted(kinds) == sorted(every)


def test_shrinking_scales_each_matrix_and_the_classifier_may_shrink_for_free(model, data) -> None:
    edited = el.ablate(model, study.shrink(model, 0.25))
    assert torch.allclose(edited.fc.weight, 0.75 * model.fc.weight)
    attention = edited.encoder.layers[0].self_attention
    assert torch.allclose(attention.in_proj_weight, 0.75 * model.encoder.layers[0].self_attention.in_proj_weight)
    assert torch.equal(edited.encoder.ln.weight, model.encoder.ln.weight)
    head = el.ablate(model, study.shrink(model, 0.25, "fc"))
    assert torch.equal(study.class_accuracy(head, data), study.class_accuracy(model, data))


def test_frozen_norms_change_nothing_without_an_edit_and_leave_no_hooks(model, data) -> None:
    x = data.test.x[:20]
    edited = el.ablate(model, study.shrink(model, 0.3)).eval()
    twin = el.ablate(model, study.shrink(model, 0.0)).eval()
    with torch.no_grad():
        live, plain = edited(x), model(x)
        with study.frozen_norms(twin, model):
            assert torch.allclose(twin(x), plain, atol=1e-4)
        with study.frozen_norms(edited, model):
            frozen = edited(x)
        assert torch.allclose(edited(x), live, atol=1e-6)  # the hooks are gone
    assert not torch.allclose(frozen, live, atol=1e-2)
    for network in (edited, model):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_frozen_norms_use_the_statistics_of_the_original() -> None:
    """x -> LayerNorm(c x): live it ignores c, frozen it passes c on."""
    one, double = (nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4)).eval() for _ in range(2))
    with torch.no_grad():
        one[0].weight.copy_(torch.eye(4))
        double[0].weight.copy_(2 * torch.eye(4))
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
        x = x - x.mean(-1, keepdim=True)
        assert torch.allclose(double(x), one(x), atol=1e-4)
        with study.frozen_norms(double, one):
            assert torch.allclose(double(x), 2 * one(x), atol=1e-5)


def test_several_networks_are_erased_one_by_one(model, data) -> None:
    engrams = study.group_engrams(model, data, rcond=1e-4)
    before = study.by_group(study.class_accuracy(model, data), data)
    rows = study.erase_from_each([model, model], [engrams, engrams], data, before=[before] * 2, chosen={0: [0], 1: [2]})
    assert {(r["seed"], r["erased"]) for r in rows} == {(0, 0), (1, 2)}
    alone = study.erase(model, {2: engrams[2]}, data, seed=1)
    assert [r["after"] for r in rows[3:]] == [r["after"] for r in alone]


def test_matrix_by_matrix_splits_an_edit(model, data) -> None:
    engrams, kind = study.group_engrams(model, data, rcond=1e-4), "classifier"
    total = sum(study.moments_by_group(model, data).values())
    before = study.by_group(study.class_accuracy(model, data), data)
    how = {"before": [before], "chosen": {0: [1]}, "totals": [total]}
    rows = study.matrix_by_matrix([model], [engrams], data, **how)
    assert len(rows) == len(study.KINDS) * 3 * len(data.superclasses)
    rest = study.without(engrams[1], study.KINDS[kind])
    assert set(rest) | {"fc"} == set(engrams[1]) and "fc" not in rest
    found = [r["after"] for r in rows if (r["kind"], r["edit"]) == (kind, "all but")]
    assert found == [r["after"] for r in study.erase(model, {1: rest}, data, seed=0)]
    norm = next(r["norm"] for r in rows if (r["kind"], r["edit"]) == (kind, "only"))
    assert norm == pytest.approx(engrams[1].relative_norms()["fc"])


def test_a_memory_makes_shrinking_expensive(model, data) -> None:
    engrams = study.group_engrams(model, data, rcond=1e-4)
    before = study.by_group(study.class_accuracy(model, data), data)
    rows = study.price_of_norms([model], [engrams], data, before=[before], chosen={0: [0, 2]})
    assert len(rows) == 2 + 4
    live, frozen = ([r["loss"] for r in rows if r["edit"] == "shrinking" and r["frozen"] is k] for k in (False, True))
    edited = el.ablate(model, study.shrink(model, 1 / 3))
    change = before - study.by_group(study.class_accuracy(edited, data), data)
    assert live == [pytest.approx(100 * float(change.mean()))] and len(frozen) == 1


def test_residue_of_no_edit_and_of_a_mask(model, data) -> None:
    problem = study.problem(model, data, 1, TINY, seed=0)
    assert problem.forget == (2, 3)
    itself, mask = study.residue([problem], {"as trained": None, "muted": ("logit_mask", {})})
    assert itself["needs"] is None and itself["left"] > 0 == mask["left"]
    assert mask["right"] == itself["right"] and mask["probe"] == itself["probe"]


def test_the_imagenet_path_runs_on_torchvisions_own_network(data) -> None:
    """What `main` does, with a small network and generated shapes in place of ViT-B/16 and ImageNet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = VisionTransformer(16, 4, 1, 2, 24, 32, num_classes=data.n_classes)
        nn.init.normal_(theirs.heads.head.weight, std=0.1)  # torchvision starts it at zero
    model = from_torchvision(theirs).eval()
    few = data.train.sample(10)
    rows = study.erase(model, study.group_engrams_in_turn(model, data, split=few), data, seed=0)
    assert {(row["erased"], row["tested"]) for row in rows} == {(a, b) for a in range(3) for b in range(3)}
    assert all(0 <= row["after"] <= 1 for row in rows)
