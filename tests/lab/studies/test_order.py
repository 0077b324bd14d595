"""The study of the order of forgetting: its two arms, on small networks whose answer is known."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import engramlib as el
from engramlib.lab import models
from engramlib.lab.data import digits, world
from engramlib.lab.models import zoo
from engramlib.lab.records import runs
from engramlib.lab.studies import mlp
from engramlib.lab.studies import order as study

pytestmark = pytest.mark.filterwarnings("ignore:too little data")


@pytest.fixture(scope="module")
def small():
    data = digits()
    return data, mlp.train(data, replace(mlp.DIGITS, sizes=(64, 24, 10), epochs=15), 0)


@pytest.fixture
def memory(small):
    data, model = small
    return study.of_images(model, data, flat=True, alpha=0.7)


def layer(*concepts):
    """A single layer and a memory of so many concepts, one cloud of points each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3, bias=False)).double()
    clouds = {c: torch.randn(40, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64) for c in concepts}
    return model, study.Memory(model, lambda m: {c: el.collect(m, [x]) for c, x in clouds.items()}, rcond=1e-12)


def test_in_one_layer_the_order_is_a_commutator():
    model, memory = layer("a", "b", "c")
    W = model[0].weight.detach()
    sigma = {c: m["0"] for c, m in memory.moments().items()}
    P = {c: s @ torch.linalg.inv(sum(sigma.values())) for c, s in sigma.items()}
    eye = torch.eye(5, dtype=torch.float64)
    ab = W - W @ (eye - 0.6 * P["a"]) @ (eye - 0.6 * P["b"])
    torch.testing.assert_close(memory.in_turn(["a", "b"])[-1]["0"].weight, ab)
    ba = W - W @ (eye - 0.6 * P["b"]) @ (eye - 0.6 * P["a"])
    once = 0.6 * W @ (P["a"] + P["b"])
    row = memory.pair("a", "b")
    assert row["between"] == pytest.approx(float((ab - ba).norm() / once.norm()))
    apart = [float((x - once).norm() / once.norm()) for x in (ab, ba)]
    assert row["distance"] == pytest.approx(sum(apart) / 2)
    assert row["predicted"] == pytest.approx(row["between"])  # one layer: the prediction is the theorem


def test_two_concepts_that_are_all_there_is_commute():
    assert layer("a", "b")[1].pair("a", "b")["between"] < 1e-9
    assert layer("a", "b", "c")[1].pair("a", "b")["between"] > 1e-2


def test_extracted_once_there_is_no_order_and_the_model_is_as_it_was(memory, small):
    before = {n: p.clone() for n, p in small[1].named_parameters()}
    there, back = memory.once([1, 2, 3]), memory.once([3, 2, 1])
    assert len(there) == 3 and float((there[-1] - back[-1]).norm() / there[-1].norm()) < 1e-5
    memory.in_turn([1, 2, 3])
    assert all(torch.equal(p, before[n]) for n, p in small[1].named_parameters())


def test_in_turn_is_what_one_would_do_by_hand(memory, small):
    data, model = small
    first = el.ablate(model, memory.engram(4))
    second = memory.cut(first, memory.look(first), 9)
    wanted = el.ablate(first, second)
    found = el.ablate(model, memory.in_turn([4, 9])[-1])
    for a, b in zip(found.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_overlap_is_a_cosine(memory):
    assert memory.overlap(3, 3) == pytest.approx(1)
    there, back = memory.overlap(4, 9), memory.overlap(9, 4)
    assert there == pytest.approx(back) and 0 < there < 1


def test_a_sequence_starts_alike_in_both_arms_and_measures_the_edited_network(memory, small):
    data, model = small
    rows = study.sequence(memory, [5, 1, 7], data, flat=True)
    arms = {arm: [r for r in rows if r["arm"] == arm] for arm in ("once", "in turn")}
    assert [r["step"] for r in arms["once"]] == [1, 2, 3]
    assert {k: v for k, v in arms["once"][0].items() if k != "arm"} == pytest.approx(
        {k: v for k, v in arms["in turn"][0].items() if k != "arm"}
    )
    edited = el.ablate(model, memory.in_turn([5, 1, 7])[-1])
    right, nll = study.of_classes(edited, data, flat=True)
    last = arms["in turn"][-1]
    assert last["left_first"] == pytest.approx(right[5]) and last["nll_first"] == pytest.approx(nll[5], rel=1e-3)
    assert last["kept"] == pytest.approx(sum(right[c] for c in (0, 2, 3, 4, 6, 8, 9)) / 7)
    assert arms["once"][0]["drift"] > 0
    assert study.drift(memory.moments(), memory.look(model), range(10)) == 0


def test_the_recording_has_every_pair_and_the_sequence(monkeypatch, tmp_path):
    sides = [fact.pair for fact in world.facts("sights")]
    texts = [*map("".join, sides), *(i if isinstance(i, str) else "".join(i) for i in study.survivors())]
    tokenizer = models.word_tokenizer(texts)
    model = models.llama(len(tokenizer), hidden=16, layers=2, heads=2, kv_heads=1, intermediate=24, tied=True)
    lm = zoo.LanguageModel(model, tokenizer, "a small one")
    monkeypatch.setattr(study.zoo, "smollm2", lambda: lm)
    monkeypatch.setattr(runs, "_folder", lambda given: tmp_path)
    before = {n: p.clone() for n, p in model.named_parameters()}
    assert study.main(["--record"]) == 0
    run = runs.load("order-pretrained")
    pairs = run.where(study="pairs")
    assert [r["kind"] for r in pairs] == ["overlapping"] * 3 + ["distant"] * 3
    steps = run.where(study="sequence")
    assert {(r["arm"], r["step"]) for r in steps} == {(a, k) for a in ("once", "in turn") for k in range(7)}
    assert len(steps) == 2 * 7 * 6 and {r["n"] for r in steps} == {5}
    assert {r["drift"] for r in steps if r["step"] == 0} == {0.0}
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_nothing_that_is_cut_is_kept():
    kept = study.survivors()
    prompts = [item[0] for item in kept if not isinstance(item, str)]
    assert len(prompts) > 100 and not any(probe in prompt for probe in study.PROBES for prompt in prompts)
    assert all(len(study.wordings(p, "used")) == 12 for p in study.PROBES)
