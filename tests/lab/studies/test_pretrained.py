"""The study of a pretrained model, on a small one that knows nothing: every item counts, whatever it answers."""

import functools
from dataclasses import replace

import pytest
import torch

from engramlib import language
from engramlib.lab import models
from engramlib.lab.data import authors, world
from engramlib.lab.models import zoo
from engramlib.lab.studies import pretrained as study
from engramlib.lab.unlearning.text import IDK

EDIT = study.Edit(specificity=3.0, white=1e-2, alpha=1.0)


@pytest.fixture(scope="module")
def lm():
    sets = [world.sets(name) for name in ("Paris", "Spanish")]
    items = [item for each in sets for splits in each.values() for part in splits.values() for item in part]
    texts = [item if isinstance(item, str) else "".join(item) for item in items]
    tokenizer = models.word_tokenizer([*texts, *(" " + sentence for sentence in IDK)])
    model = models.llama(len(tokenizer), hidden=16, layers=2, heads=2, kv_heads=1, intermediate=24, tied=True)
    return zoo.LanguageModel(model, tokenizer, "a small one")


@pytest.fixture
def case(lm, monkeypatch):
    monkeypatch.setattr(study, "Case", functools.partial(study.Case, known=False))
    made = study.Case(lm, "Paris")
    made.sets = {part: {s: items[:6] for s, items in splits.items()} for part, splits in made.sets.items()}
    made.sets["near"]["used"] = world.sets("Paris")["near"]["used"][:40]
    return made


def weights(lm):
    return {name: p.detach().clone() for name, p in lm.model.named_parameters()}


def test_only_what_the_model_knew_counts(lm, monkeypatch):
    right = iter([True, False] * 1000)
    monkeypatch.setattr(
        study,
        "ask",
        lambda _, items, **__: study.Asked([next(right) for _ in items], [float(k) for k in range(len(items))]),
    )
    case = study.Case(lm, "Paris")
    items = case.sets["near"]["held_out"]
    assert case.known("near", "held_out") == items[::2]
    assert case.before("near", "held_out").nll == [float(k) for k in range(0, len(items), 2)]
    assert case.known("text", "held_out") == case.sets["text"]["held_out"]


def test_an_engram_is_the_formula(case, lm):
    engram = case.engram(replace(EDIT, strength="uniform"))
    plus, minus = case.moments("attention")
    name = "model.layers.1.self_attn.o_proj"
    rho = EDIT.white * float(minus[name].diagonal().max())
    eye = torch.eye(minus[name].shape[0], dtype=torch.float64)
    weight = lm.model.get_submodule(name).weight.detach().double()
    total = plus[name].double() + EDIT.specificity * (minus[name].double() + rho * eye)
    torch.testing.assert_close(
        engram[name].weight.double(), weight @ plus[name].double() @ torch.linalg.inv(total), atol=1e-5, rtol=1e-3
    )
    assert all("_proj" in layer and "mlp" not in layer for layer in engram)


def test_white_noise_keeps_what_is_shared_and_nothing_else_changes(case):
    _, minus = case.moments("attention")
    noisy = study.whitened(minus, 0.1)
    q, k = (f"model.layers.0.self_attn.{kind}_proj" for kind in "qk")
    assert noisy.stored(q) is noisy.stored(k)
    extra = noisy[q].double() - minus[q].double()
    torch.testing.assert_close(extra, torch.eye(len(extra)).double() * 0.1 * float(minus[q].diagonal().max()))
    assert study.whitened(minus, 0.0) is minus


def test_white_noise_does_not_hide_that_too_little_is_kept(case, lm):
    case.sets |= {part: {**case.sets[part], "used": []} for part in ("senses", "other", "text")}
    case.sets["near"]["used"] = case.sets["near"]["used"][:5]
    with pytest.warns(UserWarning, match="reads 16 inputs, and reference has"):
        case.engram(EDIT)


def test_asking_is_what_the_package_says(lm):
    items = [item for part in ("near", "text", "senses") for item in world.sets("Paris")[part]["held_out"]]
    found = study.ask(lm, items, batch_size=7)
    wanted = language.answer_logprobs(lm.model, lm.tokenizer, items)
    assert found.right == [bool(answer.greedy.all()) for answer in wanted]
    assert found.nll == pytest.approx([float(-answer.logprobs.mean()) for answer in wanted], abs=1e-4)


def test_measuring_an_edit_leaves_every_bit(case, lm):
    before = weights(lm)
    found = case.after(case.engram(EDIT), "held_out")
    assert set(found) == set(world.PARTS)
    assert all(torch.equal(p, before[name]) for name, p in lm.model.named_parameters())
    assert found["near"].nll != case.before("near", "held_out").nll


def test_the_map_of_strangers_is_the_mean_norm_of_their_engram(lm, monkeypatch):
    data = authors(100, per_author=8)
    monkeypatch.setattr(study, "tofu", lambda: data)
    rows = study.tofu_map(lm, cuts=(1e-3,))
    assert [(r["target"], r["cut"]) for r in rows] == [("forget10", 1e-3), ("other authors", 1e-3)]
    pairs = data.pairs("forget10")[:60], data.pairs("retain90")[60:600]
    plus, minus = (language.collect(lm.model, lm.tokenizer, part, layers=r".*_proj") for part in pairs)
    wanted = study.mean_norms(study.el.extract(lm.model, plus, minus, rcond=1e-3))
    assert {kind: rows[0][kind] for kind in study.KINDS} == pytest.approx(wanted, rel=1e-3)
    assert len({round(rows[0][kind], 3) for kind in study.KINDS}) > 3


def test_places_are_parts_of_the_whole(case):
    attention = case.engram(replace(EDIT, strength="uniform"))
    whole = case.engram(replace(EDIT, strength="uniform", place="all"))
    mlp = case.engram(replace(EDIT, strength="uniform", place="MLP"))
    assert set(attention) | set(mlp) == set(whole) and not set(attention) & set(mlp)
    name = next(iter(attention))
    torch.testing.assert_close(attention[name].weight, whole[name].weight, atol=1e-5, rtol=1e-3)


class Scripted:
    """A case whose answers are given: `target[α]`, `near[α]`."""

    concept = "Paris"

    def __init__(self, target, near):
        self.script = {"target": target, "near": near}

    def engram(self, edit):
        return 1.0

    def after(self, alpha, split, parts):
        assert split == "validation", "settings are chosen on validation items"
        return {p: study.Asked([self.script[p][alpha] > k / 10 + 0.05 for k in range(10)], [alpha]) for p in parts}


@pytest.mark.parametrize(
    ("target", "near", "alpha"),
    [
        ({1: 0.5, 2: 0.1, 3: 0.0}, {1: 1.0, 2: 0.9, 3: 0.8}, 2),
        ({1: 0.1, 2: 0.1, 3: 0.1}, {1: 0.9, 2: 0.9, 3: 0.9}, 1),  # of equals, the gentlest
        ({1: 0.9, 2: 0.6, 3: 0.5}, {1: 1.0, 2: 0.9, 3: 0.8}, 3),  # none is enough
    ],
)
def test_the_setting_is_chosen_by_the_rule(target, near, alpha):
    rows = study.choose(Scripted(target, near), [study.Edit(specificity=9.0)], (1, 2, 3))
    assert study.chosen(rows, "Paris").alpha == alpha
    assert sum(row["chosen"] for row in rows) == 1


def test_a_ladder_is_left_when_nothing_better_can_come():
    rows = study.choose(Scripted({1: 0.0, 2: 0.0}, {1: 0.9, 2: 0.2}), [study.Edit(specificity=9.0)], (1, 2))
    assert [row["alpha"] for row in rows] == [1]


def test_controls_are_as_large_as_the_edit(case):
    engram = case.engram(EDIT)
    found = study.control_engrams(case, EDIT, engram, seed=0)
    assert set(found) == {"random", "shuffled", "nothing", "another of its kind"}
    for name in set(found) - {"random"}:
        assert found[name].norm() == pytest.approx(engram.norm(), rel=1e-3)
    plus, minus = case.moments("attention")
    layer = "model.layers.0.self_attn.o_proj"
    sigma = (plus + minus)[layer].double()
    size = [
        float((e[layer].weight.double() @ sigma * e[layer].weight.double()).sum()) for e in (engram, found["random"])
    ]
    assert size[1] == pytest.approx(size[0], rel=1e-3)


def test_held_out_rows_name_every_item(case):
    rows = study.held_out(case, EDIT)
    assert {row["edit"] for row in rows} == {"engram", "random", "shuffled", "nothing", "another of its kind"}
    assert {row["split"] for row in rows} == {"held_out"}
    for row in rows:
        assert len(row["right"]) == len(row["rise"]) == row["n"]
        if row["n"]:
            assert row["nll"] - row["nll_before"] == pytest.approx(sum(row["rise"]) / row["n"], abs=1e-3)


def test_what_a_reader_would_try_runs(case, lm):
    layers = study.layers(case, EDIT, alphas=(1.0,))
    assert {row["place"] for row in layers} == set(study.PLACES)
    assert {row["cut"] for row in study.where(case)} == {1e-6, 1e-4}
    assert set(study.KINDS) <= set(study.where(case)[0])
    assert {row["dtype"] for row in study.numbers(case, EDIT)} == {"float64", "float32"}


def test_fewer_neighbours_are_fewer_columns(case, lm):
    few, many = study.protect(lm, "Paris", EDIT, near=(5, 50), rest=())
    assert few["near_items"] == 5 and few["columns"] < many["columns"]


def test_engrams_of_several_concepts_add(case, lm):
    rows = study.many(lm, {"Paris": EDIT, "Spanish": EDIT}, (1, 2))
    assert [(row["k"], row["concept"]) for row in rows] == [(1, "Paris"), (2, "Paris"), (2, "Spanish")]
    order = study.order(lm, {"Paris": EDIT, "Spanish": EDIT})
    assert {row["way"] for row in order} == {"at once", "forwards", "backwards"}
    distance = {row["way"]: row["distance"] for row in order}
    assert distance["at once"] == 0 < min(distance["forwards"], distance["backwards"])


def test_intervals_are_over_groups():
    mean, low, high = study.interval([[0.0] * 50, [1.0] * 50])
    assert mean == 0.5 and low == 0.0 and high == 1.0  # two concepts say little, however many items they have
    assert study.interval([[0.25] * 3] * 4) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="no items"):
        study.interval([[]])


def test_completions_go_on_from_the_prompt(lm):
    (said,) = study.complete(lm, ["The Eiffel Tower is in"], tokens=3)
    assert len(lm.tokenizer(said)["input_ids"]) <= 5 and "Eiffel" not in said[:6]


def test_other_methods_get_the_same_facts_as_they_are(case):
    case.sets["text"]["used"] = case.sets["text"]["used"][:2]
    asked = study.problem(case)
    assert asked.forget_pairs == case.forget and asked.shift and not asked.eos
    assert set(asked.retain_pairs) < {item for item in case.retain if not isinstance(item, str)}
    tries = {"graddiff": [{"lr": 1e-3, "alpha": 1.0, "epochs": 1}], "uce": [{"keep": 1.0, "layers": r".*o_proj"}]}
    before = weights(case.lm)
    rows = study.methods(case, tries)
    assert [row["method"] for row in rows if row["chosen"]] == ["graddiff", "uce"]
    assert all(row["held_target_nll"] != case.before("target", "held_out").mean for row in rows)
    assert all(torch.equal(p, before[name]) for name, p in case.lm.model.named_parameters())
