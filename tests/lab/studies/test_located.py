"""The harness of chapter 14: reading maps, edits at equal price, transplants, shifted inputs, a Llama's bill."""

from __future__ import annotations

import math

import pytest
import torch

import engramlib as el
from engramlib import language
from engramlib.lab import models
from engramlib.lab.data import authors
from engramlib.lab.studies import forgetting, located
from engramlib.lab.unlearning import text as unlearning

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def case():
    """Two small Llamas with random weights; nobody has learned anything."""
    data = authors(40, per_author=2)
    tokenizer = models.word_tokenizer(data.corpus)
    sizes = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 64, "context": 128, "tied": True}
    found = forgetting.Case(forgetting.AUTHORS, data, 0)
    found.tokenizer = tokenizer
    for kind in ("full", "retain"):
        found._models[kind] = models.llama(len(tokenizer), **sizes).eval()
    with torch.no_grad():
        for weight in found.model("retain").parameters():
            weight.mul_(0.9)
    return found


@pytest.fixture(scope="module")
def sides(case):
    return [
        language.collect(case.model("full"), case.tokenizer, case.data.pairs(s), exact=True)
        for s in ("forget10", "retain90")
    ]


def test_a_recorded_map_is_read_by_layer_and_averaged_by_kind():
    layers = [f"model.layers.{b}.x.{k}_proj" for b in (0, 1) for k in located.KINDS]
    facts = {"study": "maps", "model": "full", "target": "forget10", "cut": 1e-6, "share_target": 0.4}
    rows = [{**facts, "layer": n, "r": 1.0 + i, "share_others": 0.1} for i, n in enumerate(layers)]
    rows.append({**rows[0], "model": "retain", "r": 100.0})
    found = located.recorded(rows, "full", "forget10", 1e-6)
    assert list(found) == layers and found[layers[3]] == 4.0
    assert located.by_kind(found)["q"] == (1 + 8) / 2
    assert set(located.recorded(rows, "full", "forget10", 1e-6, "selective").values()) == {0.4 / 0.1}
    assert located.alike(found, {n: 3 * r for n, r in reversed(found.items())}) == pytest.approx(1)
    assert located.alike(found, {n: 1 / r for n, r in found.items()}) == pytest.approx(-1)
    assert located.factor(found, {n: r / 1.2 for n, r in found.items()}) == pytest.approx(1.2)
    mean = located.by_kind(found)
    assert located.in_order(mean, mean) == 21 and located.in_order(mean, {k: -r for k, r in mean.items()}) == 0


def test_an_engram_of_like_sides_selects_nothing_and_random_weights_have_a_map_too(case, sides):
    model, (plus, minus) = case.model("full"), sides
    even = el.extract(model, plus, plus)
    assert located.selective(model, even, plus, plus) == pytest.approx(dict.fromkeys(even, 1.0))
    random = located.random_weights(plus, minus)
    name = next(iter(even))
    W = torch.randn(4000, plus[name].shape[-1], dtype=torch.float64)
    P = plus[name] @ torch.linalg.pinv(plus[name] + minus[name], rtol=1e-6, hermitian=True)
    assert list(random) == list(plus) and random[name] == pytest.approx(float((W @ P).norm() / W.norm()), rel=0.02)


def test_a_curve_ends_when_the_price_is_passed_and_is_read_there(case, sides):
    engram = el.extract(case.model("full"), *sides)
    before = located.look(case, case.model("full"))
    price = before["retain"] + 0.02
    points = located.curve(case, engram, price, start=0.2)
    assert all(p["retain"] < price for p in points[:-1]) and len(points) > 1
    assert [p["alpha"] for p in points[:2]] == pytest.approx([0.2, 0.32])
    assert set(before) == {"forget", "retain", "exact", "kept"} and 0 <= before["kept"] <= 1


def test_the_price_lies_between_the_last_two_points():
    points = [
        {"alpha": 1.0, "retain": 0.001, "forget": 9.0},
        {"alpha": 2.0, "retain": 0.01, "forget": 0.1},
        {"alpha": 8.0, "retain": 0.04, "forget": 1.6},
    ]
    assert located.at_price(points, 0.02) == pytest.approx({"forget": 0.4, "alpha": 4.0})
    with pytest.raises(ValueError, match="smaller"):
        located.at_price(points[2:], 0.02)
    with pytest.raises(ValueError, match="last two"):
        located.at_price(points, 0.5)


def test_a_place_is_priced_on_its_own_curve(case, sides, monkeypatch):
    """A model whose retained NLL grows with the square of what was subtracted."""
    full = case.model("full")
    engram = el.extract(full, *sides)
    name = next(iter(engram))
    own = full.get_submodule(name).weight.detach().clone()

    def look(_, model):
        alpha = float((own - model.get_submodule(name).weight.detach()).norm() / engram[name].weight.norm())
        return {"forget": 3 * alpha, "retain": 0.01 * alpha**2}

    monkeypatch.setattr(located, "look", look)
    found = located.priced(case, engram, 0.02, start=0.5)
    assert found == pytest.approx({"forget": 3 * 2**0.5, "alpha": 2**0.5}, rel=1e-3)
    assert torch.equal(full.get_submodule(name).weight, own)


def test_a_transplant_changes_what_it_names_and_nothing_else(case):
    full, retain = case.model("full"), case.model("retain")
    mixed = located.transplant(full, retain, r"\.q_proj")
    for (name, new), old, other in zip(mixed.named_parameters(), full.parameters(), retain.parameters(), strict=True):
        assert torch.equal(new, other if ".q_proj" in name else old)
    some = located.transplant(full, retain, "embed_tokens", [3, 5]).model.embed_tokens.weight
    changed = (some != full.model.embed_tokens.weight).any(1).nonzero().flatten().tolist()
    assert changed == [3, 5] and math.isfinite(located.look(case, mixed)["forget"])


def test_inputs_move_only_behind_the_edited_layer(case, sides):
    engram = el.extract(case.model("full"), *sides)
    down = engram.select(r".*layers\.0\..*down_proj")
    moved = located.shift(case, el.ablate(case.model("full"), down, 1.0), "forget10", engram)
    assert list(moved) == list(engram)
    assert all((value > 1e-4) == ("layers.1." in name) for name, value in moved.items())


def test_own_words_and_a_bill(case, sides):
    own = located.words_of(case, "forget10") - located.words_of(case, "retain90")
    assert own and own < set(range(len(case.tokenizer)))
    shape = located.shape_of(case.model("full").config)
    assert shape == {"L": 2, "d": 32, "m": 64, "k": 16, "V": len(case.tokenizer)}
    found = {name: sigma for name, sigma in sides[0].items() if name.endswith("_proj")}
    assert located.moments_bytes(shape) == sum({id(s): s.numel() * 8 for s in found.values()}.values())
    assert located.moments_bytes(shape, 4, half=True, kinds=("q", "k", "gate")) == 2 * 4 * 2 * 32 * 33 // 2
    lengths = [len(case.tokenizer(q + a)["input_ids"]) for q, a in case.data.pairs("forget10")]
    assert located.padded_tokens(case, "forget10", batch_size=1) == sum(lengths)
    assert located.padded_tokens(case, "forget10", batch_size=100) == len(lengths) * max(lengths)
    problem = unlearning.Problem(case.model("full"), case.tokenizer, case.data, epochs=1, batch_size=1)
    assert located.trained_tokens(problem) >= sum(lengths)  # and as many retained items
