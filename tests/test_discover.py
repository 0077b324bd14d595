"""discover: activations, partitions of them, and whose each direction is."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import engramlib as el
from engramlib import discover
from engramlib.analysis import target_share

METHODS = pytest.mark.parametrize("method", discover.METHODS)


def clouds(k: int = 4, each: int = 30, d: int = 6, *, far: float = 8.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points around the corners of a simplex, shuffled, and whose each is."""
    luck = torch.Generator().manual_seed(seed)
    y = torch.arange(k).repeat_interleave(each)
    x = far * torch.eye(k, d)[y] + torch.randn(len(y), d, generator=luck)
    order = torch.randperm(len(y), generator=luck)
    return x[order], y[order]


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two partitions are one, up to the names."""
    pairs = {(int(i), int(j)) for i, j in zip(a, b, strict=True)}
    return len(pairs) == len(a.unique()) == len(b.unique())


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


# --------------------------------------------------------------------------------------------------- activations


def test_activations_are_what_the_layer_reads() -> None:
    x, model = clouds()[0], mlp()
    wanted = model[:2](x).detach().double()
    assert torch.allclose(discover.activations(model, [x], layer="2"), wanted)
    assert torch.allclose(discover.activations(model, x.split(7), layer="2"), wanted, atol=1e-6)
    dicts = [{"input": part} for part in x.split(50)]
    assert torch.allclose(discover.activations(model, dicts, layer="2"), wanted, atol=1e-6)


class Tokens(nn.Module):
    """Reads (batch, tokens, 4)."""

    def __init__(self, *, turned: bool = False) -> None:
        super().__init__()
        self.fc, self.turned = nn.Linear(4, 2), turned

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.fc(x.transpose(0, 1) if self.turned else x)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("tokens", [3, 5])
def test_a_sequence_is_the_mean_of_its_tokens(turned: bool, tokens: int) -> None:
    x = torch.randn(5, tokens, 4)  # five tokens: as many as examples, so the model is asked
    found = discover.activations(Tokens(turned=turned), [x], layer="fc")
    assert torch.allclose(found, x.mean(1).double(), atol=1e-6)
    mask = torch.rand(5, tokens) < 0.6
    mask[:, 0], mask[2] = True, False  # one example has no tokens
    found = discover.activations(Tokens(turned=turned), [(x, mask)], layer="fc", rows=lambda batch: batch[1])
    wanted = torch.stack([part[own].mean(0) for part, own in zip(x, mask, strict=True)]).double()
    assert torch.allclose(found, wanted, atol=1e-6, equal_nan=True) and found[2].isnan().all()


def test_an_image_is_the_mean_of_its_pixels() -> None:
    x = torch.randn(6, 3, 5, 5)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    assert torch.allclose(discover.activations(model, [x], layer="0"), x.mean((2, 3)).double(), atol=1e-6)
    assert discover.activations(model, [x], layer="2").shape == (6, 4)


def test_the_model_and_all_random_numbers_are_as_before() -> None:
    (x, _), model = clouds(), mlp()
    model.train()
    before = [p.clone() for p in model.parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    discover.concepts(model, [x], layer="2", k=4)
    assert model.training and not model[2]._forward_pre_hooks
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(states[0], torch.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()


# --------------------------------------------------------------------------------------------------- partitions


@METHODS
def test_clouds_are_found(method: str) -> None:
    x, y = clouds()
    found = discover.concepts(nn.Linear(6, 2), [x], layer="", k=4, method=method)
    assert found.k == 4 and same(found.labels, y) and found.stability > 0.9
    assert found.labels.bincount().tolist() == sorted(found.labels.bincount().tolist(), reverse=True)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_bic_counts_clouds(k: int) -> None:
    x, y = clouds(k, 60, 8)
    found = discover.concepts(nn.Linear(8, 2), [x], layer="", most=8, components=6)
    assert found.k == k and same(found.labels, y) and list(found.scores) == list(range(1, 9))


@METHODS
def test_stability_counts_them_too(method: str) -> None:
    x, y = clouds(3, 40)
    found = discover.concepts(nn.Linear(6, 2), [x], layer="", method=method, rule="stability", most=5)
    assert found.k == 3 and same(found.labels, y) and found.scores[3]["stability"] == found.stability


def test_the_share_rule_counts_what_can_be_cut_apart_and_not_what_is_there() -> None:
    """Half of a Gaussian owns more than half of the direction it was cut along: chapter 20."""
    x = clouds(1, 600)[0]
    found = discover.concepts(nn.Linear(6, 2), [x], layer="", rule="shares", most=4)
    assert found.k > 1 and found.stability < 0.6 and found.scores[found.k]["owned"] > 0.5
    line = torch.randn(100_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (top, low), _ = discover.shares(line, (line[:, 0] > 0).long()).values()
    assert float(top) == pytest.approx((1 + math.sqrt(2 / math.pi)) / 2, abs=0.01)
    assert float(low) == pytest.approx((1 - math.sqrt(2 / math.pi)) / 2, abs=0.01)


@METHODS
@pytest.mark.parametrize("with_known", [False, True])
def test_one_seed_one_partition_whatever_the_order_and_the_split(method: str, with_known: bool) -> None:
    x, y = clouds(far=3.5)  # they overlap: what is drawn could matter
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    back = order.argsort()
    places = {c: (y == c).nonzero()[:5, 0] for c in range(4)}
    there = {c: own.tolist() for c, own in places.items()}
    moved = {c: back[own].tolist() for c, own in places.items()}  # the same examples, after the shuffle

    def look(x: Tensor, known: dict, size: int) -> Tensor:
        how = {"known": known} if with_known else {"k": 4}
        return discover.concepts(nn.Linear(6, 2), x.split(size), layer="", method=method, **how).labels

    whole = look(x, there, len(x))
    assert torch.equal(whole, look(x, there, len(x))) and torch.equal(whole, look(x, there, 11))
    assert same(look(x[order], moved, 40)[back], whole)


@METHODS
def test_five_known_examples_name_the_concepts(method: str) -> None:
    x, y = clouds(far=5.0)
    known = {10 * c + 3: (y == c).nonzero()[:5, 0].tolist() for c in range(4)}
    found = discover.concepts(nn.Linear(6, 2), [x], layer="", method=method, known=known)
    assert torch.equal(found.labels, 10 * y + 3) and found.k == 4


def test_the_mixture_keeps_what_is_known() -> None:
    x, y = clouds(far=5.0)
    known = {c: (y == c).nonzero()[:5, 0].tolist() for c in range(4)}
    known[0][0], known[1][0] = known[1][0], known[0][0]  # a slip
    found = discover.concepts(nn.Linear(6, 2), [x], layer="", known=known)
    assert all(int(found.labels[i]) == c for c, own in known.items() for i in own)
    assert int((found.labels != y).sum()) == 2


def test_examples_that_rows_leave_out_are_in_no_concept() -> None:
    x, y = clouds()
    keep = torch.arange(len(x)) % 5 != 0
    found = discover.concepts(nn.Linear(6, 2), [(x, keep)], layer="", k=4, rows=lambda batch: batch[1])
    assert (found.labels[~keep] == -1).all() and same(found.labels[keep], y[keep])
    with pytest.raises(ValueError, match="rows"):
        found.concept_of([0])


def test_components_have_room_for_so_many_owners() -> None:
    """All shares add up to the number of directions, so fewer than 2 (q + 1) concepts own one each."""
    x, _ = clouds(8, 40, 10)
    found = discover.concepts(nn.Linear(10, 2), [x], layer="", most=10, components=2, rule="shares")
    assert found.k < 6 and all(found.scores[k]["owned"] <= 0.5 for k in range(6, 11))


# ------------------------------------------------------------------------------------------- a function of a batch


def test_a_discovery_goes_into_collect_by_concept_however_the_data_are_ordered() -> None:
    (x, y), model = clouds(), mlp()
    found = discover.concepts(model, [(x, y)], layer="0", k=4)
    wanted = el.collect_by_concept(model, [(x, found.labels)], lambda batch: batch[1])
    order = torch.randperm(len(x))
    for batches in ([x], x.split(13), [(x[order], y[order])], [{"input": part} for part in x[order].split(50)]):
        moments = el.collect_by_concept(model, batches, found)
        assert moments.keys() == wanted.keys()
        for c in wanted:
            assert torch.allclose(moments[c]["2"], wanted[c]["2"], rtol=1e-5)
    with pytest.raises(ValueError, match="3 of 10 examples were not in the discovery"):
        found(torch.cat([x[:7], x[:3] + 1]))


def test_equal_examples_have_one_label() -> None:
    x, _ = clouds()
    found = discover.concepts(nn.Linear(6, 2), [torch.cat([x, x])], layer="", k=4)
    assert torch.equal(found.labels[: len(x)], found.labels[len(x) :])
    assert torch.equal(found(x), found.labels[: len(x)])


def test_the_concept_of_a_few_examples() -> None:
    x, y = clouds()
    found = discover.concepts(nn.Linear(6, 2), [x], layer="", k=4)
    mine, other = (y == 2).nonzero()[:4, 0].tolist(), (y == 1).nonzero()[:1, 0].tolist()
    assert found.concept_of(mine) == (int(found.labels[mine[0]]), 1.0)
    assert found.concept_of(mine + other) == (int(found.labels[mine[0]]), 0.8)


# ---------------------------------------------------------------------------------------------------------- shares


def test_shares_are_those_of_analysis_and_add_up_to_the_directions() -> None:
    x, y = clouds(3, 50)
    found = discover.shares(x, y)
    columns = torch.cat([x.double(), torch.ones(len(x), 1).double()], 1)
    for c, own in found.items():
        sums = [columns[part].T @ columns[part] for part in (y == c, y != c)]
        assert torch.allclose(own, target_share(*sums).shares, atol=1e-8)
    assert float(sum(own.sum() for own in found.values())) == pytest.approx(7)


def test_shares_do_not_change_when_inputs_are_mixed_and_moved() -> None:
    x, y = (part.double() if part.is_floating_point() else part for part in clouds(3, 50))
    mixed = x @ torch.randn(6, 6, dtype=torch.float64) + 5
    for a, b in zip(discover.shares(x, y).values(), discover.shares(mixed, y).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert discover.sharpness(x, y) == pytest.approx(discover.sharpness(mixed, y), abs=1e-6)


def test_sharpness_is_one_for_concepts_apart_and_nothing_for_random_ones() -> None:
    x, y = torch.eye(4).repeat_interleave(50, 0)[:, :3], torch.arange(4).repeat_interleave(50)
    assert discover.sharpness(x, y) == pytest.approx(1.0)
    luck = [discover.sharpness(clouds()[0], torch.randint(4, (120,)), seed=s) for s in range(5)]
    assert max(map(abs, luck)) < 0.05
    x, y = clouds()
    assert discover.sharpness(x, y) > discover.sharpness(x, torch.where(y == 3, torch.randint(4, y.shape), y)) + 0.05


# ----------------------------------------------------------------------------------------------------- the rest


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r'pip install "engramlib\[lab\]"'):
        discover.concepts(mlp(), [clouds()[0]], layer="2")
