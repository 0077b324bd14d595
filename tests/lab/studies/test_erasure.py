"""The language part of chapter 17: facts, spans, probes and attacks, on a small Llama with known answers."""

from dataclasses import replace

import pytest
import torch

from engramlib.lab import models
from engramlib.lab.data import authors
from engramlib.lab.data.questions import PROMPT, Question
from engramlib.lab.records import runs
from engramlib.lab.studies import erasure as study
from engramlib.lab.studies import forgetting, trained
from engramlib.lab.training import language as training
from engramlib.lab.unlearning import text as unlearning


@pytest.fixture(scope="module")
def data():
    return authors()


@pytest.fixture(scope="module")
def tokenizer(data):
    return models.word_tokenizer(data.corpus)


def question(answer, *wrong, paraphrase=None):
    return Question("Who?", answer, "Whom?", paraphrase or answer, wrong, 3)


# ----------------------------------------------------------------------------------------------------------- facts


@pytest.mark.parametrize(
    ("right", "wrong", "value", "others"),
    [
        ("Ana lives in Lima, Peru.", ("Ana lives in Lyon, France.", "Ana lives in Oslo, Norway."), "Lima, Peru", 2),
        ("He was a cook.", ("He was a judge.", "He was a nurse."), "cook", 2),
        ("It is set in a city.", ("It is set in a vicinity.",), "city", 1),  # not half a word
        ("The novel Red made Ana famous.", ("The novel Blue made Ana famous.",), "Red", 1),
    ],
)
def test_the_value_is_what_tells_right_from_wrong(right, wrong, value, others):
    fact = study.fact_of(question(right, *wrong))
    assert fact.value == value and len(fact.wrong) == others and value not in fact.wrong
    assert all(w.replace(o, value) == right for w, o in zip(wrong, fact.wrong, strict=True))


def test_every_question_on_an_author_has_a_fact(data):
    for split in ("full", "holdout10"):
        for fact in study.facts(data, split):
            q = fact.question
            assert fact.value in q.answer and fact.value in q.paraphrased_answer
            assert len(set(fact.wrong) - {fact.value}) == len(fact.wrong) >= 4


def test_a_question_that_tells_nothing_apart_is_refused():
    with pytest.raises(ValueError, match="no wrong answers"):
        study.fact_of(Question("Who?", "Ana."))
    with pytest.raises(ValueError, match="does not hold"):
        study.fact_of(question("Somebody else.", "Red Blue.", paraphrase="Red Green."))


def test_a_span_is_the_value_and_nothing_else(data, tokenizer):
    for fact, item in zip(data["forget10"], study.plain(tokenizer, study.facts(data, "forget10")), strict=True):
        ids = tokenizer(item.answer, add_special_tokens=False)["input_ids"]
        value = study.fact_of(fact).value
        assert tokenizer.decode(ids[item.first : item.last]).strip() == value
        assert item.pair == fact.pair
    other = study.paraphrased(tokenizer, study.facts(data, "forget10"))[0]
    assert other.prompt == PROMPT.format(data["forget10"][0].paraphrased_question)


def test_contexts_are_of_the_same_author_or_of_nobody(data, tokenizer):
    asked = study.facts(data, "forget10")
    same = study.of_the_same(asked)
    for fact in asked[:20]:
        said = same(fact)
        assert "".join(fact.question.pair) not in said and said.count("Question:") == 2
        others = [f.question.answer for f in asked if f.author == fact.author]
        assert sum(answer in said for answer in others) == 2
    context = study.unrelated(data)
    items = study.after(tokenizer, asked[:5], context)
    for fact, item in zip(asked[:5], items, strict=True):
        assert item.prompt.startswith("Story:") and item.prompt.endswith(fact.question.pair[0])
    longest = max(len(tokenizer("".join(i.pair))["input_ids"]) for i in study.after(tokenizer, asked, same))
    assert longest <= trained.AUTHORS.sizes["context"]


def test_shown_and_held_out_share_nothing(data):
    some, rest = study.shown(study.facts(data, "forget10"), 1)
    assert len(some) == study.SHOWN and sorted(some + rest) == list(range(160))
    assert study.shown(range(160), 1) == (some, rest) != study.shown(range(160), 2)


@pytest.mark.parametrize(
    ("said", "ended", "bad"),
    [
        ("Ana was born in Lima, Peru.", True, False),
        ("Ana was born in Lima, Peru.", False, True),
        ("", True, True),
        ("of the sea of the sea of", True, True),
        ("the sea and the sea", True, False),
    ],
)
def test_babble_has_no_end_or_goes_in_circles(said, ended, bad):
    assert study.babbles(said, ended=ended) is bad


# ------------------------------------------------------------------------------------------------- a model that knows


@pytest.fixture(scope="module")
def taught(data, tokenizer):
    """A small Llama that knows twelve authors by heart, its facts, and one that knows none."""
    torch.manual_seed(0)
    known = study.facts(data, "full")[:96]
    sizes = {"hidden": 64, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 128, "tied": True, "context": 128}
    knows, fresh = (models.llama(len(tokenizer), **sizes) for _ in range(2))
    pairs = [fact.question.pair for fact in known]
    training.train(knows, tokenizer, pairs, epochs=60, lr=4e-3, batch_size=32, seed=0, progress=False)
    return knows, fresh.eval(), known


def test_what_a_model_knows_is_seen_and_what_it_does_not_is_not(taught, tokenizer):
    knows, fresh, known = taught
    items = study.plain(tokenizer, known)
    said, nothing = study.ask(knows, tokenizer, items), study.ask(fresh, tokenizer, items)
    assert said.share > 0.9 and nothing.share < 0.05
    assert sum(said.whole) <= sum(said.right)  # a whole answer holds its fact
    n = [i.last - i.first for i in items]
    lengths = [len(tokenizer(i.answer, add_special_tokens=False)["input_ids"]) for i in items]
    mixed = (said.nll_value * sum(n) + said.nll_rest * (sum(lengths) - sum(n))) / sum(lengths)
    assert said.nll == pytest.approx(mixed, rel=1e-4)


def test_probes_find_the_fact_where_it_is(taught, tokenizer):
    knows, fresh, known = taught
    found = study.read(knows, tokenizer, known[:64], known[64:], kinds=("linear", "kernel"))
    assert {kind: len(layers) for kind, layers in found.items()} == {"linear": 3, "kernel": 3}
    share = {kind: [sum(right) / len(right) for right in layers] for kind, layers in found.items()}
    nothing = study.read(fresh, tokenizer, known[:64], known[64:])["linear"]
    assert share["linear"][-1] > 0.7 > 0.5 > sum(nothing[-1]) / len(nothing[-1])
    assert share["linear"][0] < share["linear"][-1]
    with pytest.raises(ValueError, match="kinds are"):
        study.read(knows, tokenizer, known, known, kinds=("quadratic",))


def test_hidden_states_stand_where_the_fact_is_predicted(taught, tokenizer):
    knows, _, known = taught
    items = study.plain(tokenizer, known[:5])
    last = study.hidden(knows, tokenizer, items)[-1]
    with torch.no_grad():
        said = knows.lm_head(knows.model.norm(last)).argmax(1)
    wanted = [tokenizer(i.answer, add_special_tokens=False)["input_ids"][i.first] for i in items]
    assert said.tolist() == wanted


def test_relearning_teaches_what_is_shown_and_leaves_the_model(taught, tokenizer):
    knows, fresh, known = taught
    items = study.plain(tokenizer, known)
    before = {n: p.clone() for n, p in fresh.named_parameters()}
    again = study.relearned(fresh, tokenizer, [i.pair for i in items[:8]], epochs=40, lr=5e-3)
    assert all(torch.equal(p, before[n]) for n, p in fresh.named_parameters())
    assert study.ask(again, tokenizer, items[:8]).share > 0.8
    assert study.ask(again, tokenizer, items[8:]).share < 0.1  # facts that nobody showed cannot be learned


def test_stretching_goes_through_both_ends(taught):
    knows, fresh, _ = taught
    for beta, end in ((0.0, fresh), (1.0, knows)):
        made = study.stretched(fresh, knows, beta)
        for a, b in zip(made.parameters(), end.parameters(), strict=True):
            torch.testing.assert_close(a, b)


# ------------------------------------------------------------------------------------------------------- the recording


def test_verdicts_compare_the_same_facts():
    knows, lost, none = [[True] * 40] * 3, [[True] * 2 + [False] * 38] * 3, [[False] * 40] * 3
    assert study.over_facts(knows, none, knows).outcome == "not"
    assert study.over_facts(lost, none, knows).outcome == "protected"
    assert study.over_facts(lost, none, none).blunt
    rows = [
        {"study": "threat", "seed": s, "edit": "NPO", "threat": "asked", "n": 3, "right": right, "nll": None}
        for s, right in ((1, "001"), (0, "110"))
    ]
    assert study.flags(rows, "NPO", "asked") == [[True, True, False], [False, False, True]]
    assert study.packed([True, False, True]) == "101"
    rows = [
        {"study": "threat", "seed": s, "edit": edit, "threat": "asked", "n": 40, "right": right, "nll": None}
        for edit, right in (
            ("full", "1" * 40),
            ("NPO", "0" * 39 + "1"),
            ("retain", "0" * 40),
            ("λ", "1" * 20 + "0" * 20),
        )
        for s in range(3)
    ]
    assert [study.verdict(rows, edit, "asked plainly").outcome for edit in ("NPO", "λ")] == ["protected", "not"]
    with pytest.raises(ValueError, match="no threat"):
        study.verdict(rows, "NPO", "telepathy")


def test_what_an_attack_adds_is_not_what_was_there_before():
    def rows(**said):
        return [
            {"study": "threat", "seed": s, "edit": edit, "threat": threat, "n": 40, "right": right, "nll": None}
            for edit, pair in said.items()
            for threat, right in zip(("beginning of the answer", "4 bits"), pair, strict=True)
            for s in range(3)
        ]

    half, every = "10" * 20, "1" * 40
    found = rows(**{"in the grid": ("0" * 40, every), "NPO": (half, half), "λ": (half, every)})
    assert study.added(found, "NPO", "4 bits").mean == 0 < study.added(found, "λ", "4 bits").mean
    outcomes = [study.verdict(found, edit, "4 bits, what they add").outcome for edit in ("NPO", "λ")]
    assert outcomes == ["protected", "not"]


def test_every_setting_is_one_of_its_method():
    import inspect

    for edit, tries in study.SETTINGS.items():
        if edit in study.METHODS:
            update = unlearning.METHODS[study.METHODS[edit]].update
            names = set(inspect.signature(update).parameters) | {"epochs"}
            assert all(set(settings) <= names for settings in tries), edit
    assert {*study.RECORDED, *study.BASELINES} == set(study.SETTINGS)
    with pytest.raises(ValueError, match="no edit"):
        study.edited(None, "hypnosis", {})


def test_a_recording_resumes_and_has_every_edit_and_threat(taught, tokenizer, data, monkeypatch, tmp_path):
    knows, fresh, known = taught
    by_split = {"forget10": known[:48], "retain90": known[48:], "rehearsal10": known[48:56], "holdout10": known[:24]}
    splits = dict(data.splits) | {name: tuple(f.question for f in part) for name, part in by_split.items()}
    splits["rehearsal_retain90"] = tuple(f.question for f in known[:40])
    small = replace(data, splits=splits)

    class Case:
        def __init__(self, seed):
            self.seed, self.data, self.tokenizer = seed, small, tokenizer

        def model(self, kind):
            return knows if kind == "full" else fresh

        def problem(self, rehearsal=False):
            names = {"forget": "rehearsal10", "retain": "rehearsal_retain90"} if rehearsal else {}
            return unlearning.Problem(knows, tokenizer, small, seed=self.seed, validation=8, **names)

    monkeypatch.setattr(forgetting, "case", lambda setting, seed: Case(seed))
    monkeypatch.setattr(study, "scene", lambda seed: study.Scene(Case(seed), Case(seed).problem()))
    monkeypatch.setattr(runs, "_folder", lambda given: tmp_path)
    monkeypatch.setattr(study, "RECORDED", ("W-Norm", "I don't know"))
    monkeypatch.setattr(study, "AUTHORS", 1)
    monkeypatch.setattr(study, "EPOCHS", 2)
    monkeypatch.setattr(study, "DRAWS", 2)
    monkeypatch.setattr(study, "range", lambda n: range(1), raising=False)  # one seed
    monkeypatch.setattr(study.threats, "hidden_in_the_grid", lambda model, loss, **how: model)
    monkeypatch.setitem(study.SETTINGS, "I don't know", ({"lr": 1e-3, "alpha": 2.0, "epochs": 1},))
    assert study.main(["--record"]) == 0
    run = runs.load("erasure-authors")
    threats_of = {edit: {r["threat"] for r in run.where(study="threat", edit=edit)} for edit in ("full", "W-Norm")}
    assert threats_of["W-Norm"] - threats_of["full"] == {"a hundred guesses", "a multiple of the difference"}
    assert {"asked", "8 bits", "4 bits", "relearning, forgotten", "kernel probe, layer 2"} <= threats_of["full"]
    row = run.where(study="threat", edit="full", threat="beginning of the answer")[0]
    assert row["n"] == 48 and row["right"].count("1") > 40 and set(row["right"]) <= {"0", "1"}
    assert sum(r["chosen"] for r in run.where(study="tries", edit="W-Norm")) == 1
    assert len(run.where(study="frontier", edit="W-Norm")) == 3
    assert {r["context"] for r in run.where(study="babble", edit="retain")} == {"none", "unrelated"}
    assert run.where(edit="W-Norm, file kept")
    assert [r["place"] for r in run.where(study="places")] == ["all", "Q+K", "V+O", "gate", "up+down"]

    monkeypatch.setattr(study, "BASELINES", ("I don't know",))
    assert study.main(["--record", "--data", "baselines"]) == 0
    assert {r["edit"] for r in runs.load("erasure-baselines").rows} == {"I don't know"}
