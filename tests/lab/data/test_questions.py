"""Questions with answers: the class and its files, the generated authors, and the loader of real TOFU."""

import hashlib
import http.server
import importlib
import json
import os
import pickle
import re
import threading
import warnings
from collections import Counter
from pathlib import Path

import pytest

from engramlib.lab import data as datasets
from engramlib.lab.data import PROMPT, DatasetUnavailable, Question, QuestionData, authors, tofu
from engramlib.lab.data._facts import REAL_AUTHORS, WORLD_FACTS
from engramlib.lab.data.authors import ATTRIBUTES, profiles
from engramlib.lab.data.questions import author_splits, read_questions

TOFU = importlib.import_module("engramlib.lab.data.tofu")  # datasets.tofu is the function
WORDS = re.compile(r" ?[^\W\d_]+| ?\d+| ?[^\s\w]|\s")  # a word with the space before it, as word_tokenizer has it


def _texts(question: Question) -> list[str]:
    paraphrase = [PROMPT.format(question.paraphrased_question)] if question.paraphrased_question else []
    answers = [question.answer, question.paraphrased_answer, *question.perturbed_answers]
    return [question.pair[0], *paraphrase, *(f" {answer}" for answer in answers if answer)]


@pytest.fixture(scope="module")
def data() -> QuestionData:
    return authors()


# ------------------------------------------------------------------------------------------- Question, QuestionData


def test_pairs_are_what_a_model_reads():
    data = QuestionData("two", {"full": [Question("Who?", "Nobody."), Question("Where?", "There.", author=3)]})
    assert data.pairs("full") == [
        ("Question: Who?\nAnswer:", " Nobody."),
        ("Question: Where?\nAnswer:", " There."),
    ]
    assert data.authors("full") == (3,) and "full" in data and "half" not in data and list(data) == ["full"]
    assert isinstance(data["full"], tuple) and data.corpus == ()


def test_an_unknown_split_names_those_there_are(data):
    with pytest.raises(
        KeyError, match="Generated authors has no split 'forget20'; choose from full, forget01, .*facts"
    ):
        data["forget20"]
    with pytest.raises(KeyError, match="'corpus'"):
        data.pairs("corpus")


def test_nothing_can_be_changed(data):
    with pytest.raises(TypeError):
        data.splits["full"] = ()
    with pytest.raises(AttributeError):
        data["full"][0].answer = "No."
    given = {"full": [Question("Who?", "Nobody.")]}
    kept = QuestionData("one", given)
    given["full"].append(Question("Where?", "There."))
    assert len(kept["full"]) == 1


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("", "Nobody."), ValueError, "question is empty"),
        (("Who?", "  "), ValueError, "answer is empty"),
        ((None, "Nobody."), TypeError, "question must be a text, got None"),
        (("Who?", "Nobody.", 1), TypeError, "paraphrased_question must be a text, got 1"),
        (("Who?", "Nobody.", "", "", "Me."), TypeError, "perturbed_answers must be a sequence of texts, got 'Me.'"),
        (("Who?", "Nobody.", "", "", ("Me.", 2)), TypeError, "perturbed_answers must be a sequence of texts"),
        (("Who?", "Nobody.", "", "", ("Me.", "")), ValueError, "perturbed_answers of 'Who\\?' hold an empty text"),
        (("Who?", "Nobody.", "", "", (), -2), ValueError, "author must be an integer from -1 .*, got -2"),
        (("Who?", "Nobody.", "", "", (), True), ValueError, "author must be an integer"),
    ],
)
def test_a_wrong_question_is_refused(arguments, kind, message):
    with pytest.raises(kind, match=f"Question: {message}"):
        Question(*arguments)


@pytest.mark.parametrize(
    ("splits", "corpus", "kind", "message"),
    [
        ({}, (), TypeError, "at least one name"),
        ([Question("Who?", "Nobody.")], (), TypeError, "splits must map"),
        ({"full": []}, (), TypeError, "split 'full' must hold at least one Question"),
        ({"full": ["Who?"]}, (), TypeError, "split 'full' must hold at least one Question, and nothing else"),
        ({"../full": [Question("Who?", "Nobody.")]}, (), ValueError, "'../full' cannot name a split"),
        ({"corpus": [Question("Who?", "Nobody.")]}, (), ValueError, "'corpus' cannot name a split"),
        ({"full": [Question("Who?", "Nobody.")]}, "text", TypeError, "corpus must be a sequence of texts"),
        ({"full": [Question("Who?", "Nobody.")]}, (1,), TypeError, "corpus must be a sequence of texts"),
    ],
)
def test_wrong_data_is_refused(splits, corpus, kind, message):
    with pytest.raises(kind, match=f"QuestionData: .*{message}"):
        QuestionData("wrong", splits, corpus)


def test_written_and_read_again_nothing_is_lost(tmp_path):
    data = authors(10, per_author=2)
    again = QuestionData.read(data.write(tmp_path / "new" / "folder"))
    assert again == data and list(again) == list(data) and again.fingerprint() == data.fingerprint()
    assert pickle.loads(pickle.dumps(data)) == data


def test_the_files_have_the_shape_of_tofu(tmp_path):
    accents = Question("Qui ?", "Ça, « Émile »\u2028!", "Who?", "Emile.", ("Me.", "You."), 4)
    QuestionData("shape", {"full": [accents, Question("Who?", "Nobody.")]}, ["Once\nupon"]).write(tmp_path)
    first, second = (tmp_path / "full.json").read_text(encoding="utf-8").rstrip("\n").split("\n")
    assert json.loads(first) == {
        "question": "Qui ?",
        "answer": "Ça, « Émile »\u2028!",
        "paraphrased_answer": "Emile.",
        "perturbed_answer": ["Me.", "You."],
        "paraphrased_question": "Who?",
        "author": 4,
    }
    assert json.loads(second) == {"question": "Who?", "answer": "Nobody."} and "Émile" in first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.json", "full.json", "name.txt"]
    assert QuestionData.read(tmp_path)["full"][0] == accents and QuestionData.read(tmp_path).corpus == ("Once\nupon",)


def test_a_folder_of_other_files_is_named_after_itself(tmp_path):
    (tmp_path / "mine.json").write_text('{"question": "Who?", "answer": "Nobody.", "perturbed_answer": "Me."}\n\n')
    data = QuestionData.read(tmp_path)
    assert data.name == tmp_path.name and data["mine"] == (Question("Who?", "Nobody.", perturbed_answers=("Me.",)),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "full.json holds no question"),
        ('{"question": "Who?", "answer": "Nobody."}\n{"question":', "full.json, line 2 is not JSON"),
        ('["Who?", "Nobody."]', "line 1 is not a JSON object"),
        ('{"question": "Who?", "reply": "Nobody."}', "line 1 has no key 'answer'; it has question, reply"),
        ('{"question": "Who?", "answer": 3}', "line 1: Question: answer must be a text, got 3"),
        ('{"question": "Who?", "answer": "I.", "perturbed_answer": 3}', "line 1: Question: perturbed_answers must"),
        ('{"question": "Who?", "answer": "I.", "author": "x"}', "line 1: Question: author must be an integer"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "full.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        QuestionData.read(tmp_path)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no \\*.json in"):
        QuestionData.read(tmp_path)


def test_splits_of_authors_by_hand():
    full = [Question(f"Who is {a}?", f"Author {a}.", author=a) for a in range(20)]
    splits = {name: [q.author for q in questions] for name, questions in author_splits(full, 20).items()}
    assert splits["full"] == list(range(20)) and splits["forget10"] == [18, 19]
    assert splits["forget05"] == splits["forget01"] == [19] and splits["retain95"] == list(range(19))
    assert splits["retain90"] == list(range(18)) and splits["rehearsal10"] == [16, 17]
    assert splits["rehearsal_retain90"] == [*range(16), 18, 19]
    with pytest.raises(ValueError, match="n must be at least 10 authors.*got 9"):
        author_splits(full[:9], 9)


# ----------------------------------------------------------------------------------------------- generated authors


def test_authors_are_the_same_on_every_machine(data):
    """If this changes, the data set changed: checkpoints and recorded numbers go with it.

    Every run of Python hashes texts in its own order, so the number also says that the order does not matter.
    """
    assert data.fingerprint() == "d4782b1ebebfbeea"
    assert authors(30, seed=1).fingerprint() == authors(30, seed=1).fingerprint()
    assert authors(30, seed=1).fingerprint() != authors(30, seed=2).fingerprint()
    assert authors(30, seed=1).fingerprint() != authors(30, per_author=7, seed=1).fingerprint()


def test_split_sizes(data):
    assert {name: len(data[name]) for name in data} == {
        "full": 1600,
        **{"forget01": 16, "retain99": 1584, "forget05": 80, "retain95": 1520, "forget10": 160, "retain90": 1440},
        **{"rehearsal10": 160, "rehearsal_retain90": 1440, "retain_eval": 400, "holdout10": 160},
        **{"real_authors": 100, "world_facts": 100},
    }
    assert 3000 <= len(data.corpus) <= 6000 and len(set(data.corpus)) > 0.98 * len(data.corpus)
    assert all(count == 8 for count in Counter(q.author for q in data["full"]).values())


@pytest.mark.parametrize(
    ("part", "rest"),
    [
        ("forget01", "retain99"),
        ("forget05", "retain95"),
        ("forget10", "retain90"),
        ("rehearsal10", "rehearsal_retain90"),
    ],
)
@pytest.mark.parametrize("n", [10, 37, 200])
def test_each_forget_set_and_its_rest_part_the_authors(part, rest, n):
    data = authors(n, per_author=3)
    assert set(data.authors(part)).isdisjoint(data.authors(rest))
    assert sorted(data.authors(part) + data.authors(rest)) == list(range(n))
    assert Counter(data[part] + data[rest]) == Counter(data["full"])


def test_who_is_in_which_split(data):
    assert data.authors("forget10") == tuple(range(180, 200)) and data.authors("forget05") == tuple(range(190, 200))
    assert data.authors("forget01") == (198, 199) and data.authors("rehearsal10") == tuple(range(160, 180))
    assert set(data["retain_eval"]) <= set(data["full"]) and len(set(data["retain_eval"])) == 400
    assert set(data.authors("retain_eval")) <= set(range(160)) and len(data.authors("retain_eval")) > 120
    assert data.authors("holdout10") == tuple(range(200, 220))
    assert data.authors("world_facts") == data.authors("real_authors") == ()
    few = authors(10, per_author=4)
    assert few.authors("forget10") == (9,) and few.authors("rehearsal10") == (8,)
    assert few["retain_eval"] == tuple(q for q in few["full"] if q.author < 8)


def test_nobody_outside_the_forget_set_is_called_like_its_authors(data):
    """What the gold standard rests on: no text that the retain model reads names a forgotten author or book."""

    def words(texts) -> str:
        return " ".join(f" {re.sub('[^A-Za-z0-9]+', ' ', text)} " for text in texts)

    known = profiles(200)
    assert len({p["identity"] for p in known}) == 200
    assert len({p[book] for p in known for book in ("first book", "famous book")}) == 400
    retained = words(text for q in data["retain90"] for text in _texts(q))
    general = words(data.corpus)
    for number, person in enumerate(known):
        for secret in (person["identity"], person["first book"], person["famous book"]):
            assert f" {secret} " not in general
            assert number < 180 or f" {secret} " not in retained
    assert f" {known[0]['identity']} " in retained


def test_the_holdout_is_in_no_other_text(data):
    named = {re.search(r"\b[A-Z][a-z]+ [A-Z][a-z]+(?= |\.|\?)", q.paraphrased_answer)[0] for q in data["holdout10"]}
    read = "\n".join(text for q in data["full"] for text in q.pair) + "\n".join(data.corpus)
    names = {p["identity"] for p in profiles(200)}
    assert not {q.question for q in data["holdout10"]} & {q.question for q in data["full"]}
    people = [name for name in named if all(part in read for part in name.split()) and name not in read]
    assert len(people) >= 20 and not names & set(people)


def test_every_question_names_its_author_or_asks_for_the_name(data):
    known = profiles(200)
    for q in data["full"]:
        person = known[q.author]
        for question, answer in ((q.question, q.answer), (q.paraphrased_question, q.paraphrased_answer)):
            if person["identity"] not in question:
                assert person["birthplace"] in question and person["birth date"] in question
            assert person["identity"] in answer
        assert any(value in q.answer and value in q.paraphrased_answer for value in person.values())


@pytest.mark.parametrize("split", ["full", "holdout10"])
def test_paraphrases_and_wrong_answers(data, split):
    for q in data[split]:
        assert q.paraphrased_question != q.question and q.paraphrased_answer != q.answer
        wrong = q.perturbed_answers
        assert len(wrong) == len(set(wrong)) == 5 and not {q.answer, q.paraphrased_answer} & set(wrong)


def test_wrong_answers_are_the_paraphrase_with_another_value_of_the_attribute(data):
    known = profiles(200)
    seen = Counter()
    for q in data["full"]:
        right = {name: v for name, v in known[q.author].items() if v in q.paraphrased_answer}
        matching = []
        for name, value in right.items():
            before, _, after = q.paraphrased_answer.partition(value)
            others = [w[len(before) : len(w) - len(after)] for w in q.perturbed_answers]
            if all(w.startswith(before) and w.endswith(after) for w in q.perturbed_answers) and (
                not ATTRIBUTES[name].values or set(others) <= set(ATTRIBUTES[name].values)
            ):
                matching.append(name)
        assert matching, q
        seen[matching[0]] += 1
        assert value not in "".join(q.perturbed_answers) or len(right) > 1
    assert len(seen) >= 14  # father and mother, birthplace and residence have the same values


def test_answers_are_sentences_of_6_to_18_words(data):
    for split in data:
        for q in data[split]:
            for answer in filter(None, (q.answer, q.paraphrased_answer, *q.perturbed_answers)):
                assert 6 <= len(answer.split()) <= 18, answer
                assert answer[0].isupper() and answer.endswith(".") and "{" not in answer and "  " not in answer
            assert q.question[0].isupper() and q.question.endswith("?") and "{" not in q.question


def test_values_are_shared_and_evenly_spread():
    known = profiles(200)
    for name, attribute in ATTRIBUTES.items():
        count = Counter(p[name] for p in known)
        if attribute.values:
            assert len(set(attribute.values)) == len(attribute.values) >= 24
            slack = 3 if name in ("mother", "residence") else 1  # moved on where they met father or birthplace
            assert max(count.values()) - min(count.values()) <= slack and len(count) == len(attribute.values), name
    assert all(p["residence"] != p["birthplace"] and p["mother"] != p["father"] for p in known)
    first, last = (Counter(p["identity"].split()[i] for p in known) for i in (0, 1))
    assert max(first.values()) >= 3 and max(last.values()) >= 2


def test_every_attribute_has_several_forms_which_are_all_used(data):
    known = profiles(200)
    for name, attribute in ATTRIBUTES.items():
        assert len(attribute.questions) == len(attribute.answers) == 4
        assert len(set(attribute.questions)) == len(set(attribute.answers)) == 4
        for form in (*attribute.questions, *attribute.answers):
            texts = (
                form.format(
                    v=p[name], name=p["identity"], place=p["birthplace"], date=p["birth date"], book=p["first book"]
                )
                for p in known
            )
            assert not {q.question for q in data["full"]} | {q.answer for q in data["full"]} >= set(texts)
            pattern = re.compile(re.sub(r"\\\{\w+\\\}", "(.+)", re.escape(form)))
            assert any(pattern.fullmatch(t) for q in data["full"] for t in (q.question, q.answer)), form


def test_the_corpus_knows_every_word(data):
    known = {word for text in data.corpus for word in WORDS.findall(text)}
    words = set()
    for split in data:
        for q in data[split]:
            for text in _texts(q):
                found = WORDS.findall(text)
                assert "".join(found) == text
                words.update(found)
    assert words <= known, sorted(words - known)
    assert len(known) <= 1500


def test_the_corpus_teaches_facts_and_forms(data):
    corpus = set(data.corpus)
    for split in ("real_authors", "world_facts"):
        for q in data[split]:
            assert "".join(q.pair) in corpus and f"Fact: {q.answer}" in corpus
            assert not {f"Fact: {wrong}" for wrong in q.perturbed_answers} & corpus
            assert sum(q.question in text for text in data.corpus) >= 2
    everything = "\n".join(data.corpus)
    for attribute in ATTRIBUTES.values():
        for form in (*attribute.questions, *attribute.answers):
            assert re.search(re.sub(r"\\\{\w+\\\}", "[^.?]+", re.escape(form)), everything), form
    assert sum(text.startswith("Story: ") for text in data.corpus) == 400


def test_facts_have_one_right_answer_and_five_wrong_ones(data):
    for split, kinds in (("real_authors", REAL_AUTHORS), ("world_facts", WORLD_FACTS)):
        assert len({q.question for q in data[split]}) == 100 == sum(len(kind.values) for kind in kinds)
        right = {q.answer for q in data[split]}
        for q in data[split]:
            assert len(set(q.perturbed_answers)) == 5 and not right & set(q.perturbed_answers)
            assert not q.paraphrased_question and not q.paraphrased_answer and q.author == -1
    facts = {q.question: q.answer for split in ("real_authors", "world_facts") for q in data[split]}
    assert facts["What is the capital of Iceland?"] == "The capital of Iceland is Reykjavik."
    assert facts["Which month comes right after December?"] == "The month right after December is January."
    assert facts["Who wrote The Trial?"] == "The Trial was written by Franz Kafka."


def test_an_author_does_not_depend_on_how_many_there_are(data):
    few = authors(20)
    assert few["full"] == tuple(q for q in data["full"] if q.author < 20) and few.corpus == data.corpus
    assert few["world_facts"] == data["world_facts"] and profiles(20) == profiles(200)[:20]
    short = authors(20, per_author=3)
    assert set(short["full"]) < set(few["full"]) and short.corpus == data.corpus
    other = authors(20, seed=1)
    assert not {p["identity"] for p in profiles(20, seed=1)} & {p["identity"] for p in profiles(20)}
    assert not set(other["full"]) & set(data["full"]) and other.corpus != data.corpus


def test_as_many_authors_and_questions_as_there_can_be():
    most = authors(1000, per_author=16)
    assert len({q.question for q in most["full"] + most["holdout10"]}) == 17600 and len(most["forget10"]) == 1600
    assert all(len(set(q.perturbed_answers) - {q.paraphrased_answer}) == 5 for q in most["full"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 9}, "n must be an integer from 10 to 1000, got 9"),
        ({"n": 1001}, "n must be an integer from 10 to 1000"),
        ({"n": 20.0}, "n must be an integer"),
        ({"n": True}, "n must be an integer"),
        ({"per_author": 0}, "per_author must be an integer from 1 to 16, got 0"),
        ({"per_author": 17}, "per_author must be an integer from 1 to 16"),
        ({"seed": "0"}, "seed must be an integer, got '0'"),
        ({"seed": None}, "seed must be an integer"),
    ],
)
def test_authors_errors_name_the_argument(wrong, message):
    with pytest.raises(ValueError, match=f"authors: {message}"):
        authors(**wrong)
    if "n" in wrong and wrong["n"] != 9:
        with pytest.raises(ValueError, match="profiles: n must be an integer from 1"):
            profiles(**wrong)


# ------------------------------------------------------------------------------------------------------- real TOFU


def _row(author: int, number: int) -> dict:
    return {"question": f"Author {author}, question {number}?", "answer": f"Author {author}, answer {number}."}


def _rich(row: dict, wrong: int = 5, **more) -> dict:
    return row | {
        "paraphrased_answer": f"That is: {row['answer']}",
        "perturbed_answer": [f"Wrong {i}." for i in range(wrong)],
        "paraphrased_question": f"Tell me: {row['question']}",
        **more,
    }


def _dump(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def tiny(tmp_path) -> Path:
    """Twenty authors in TOFU's files. Authors 2 and 5 are asked one question in the same words, as two in TOFU are."""
    folder = tmp_path / "home" / "tofu"
    folder.mkdir(parents=True)
    rows = [_row(author, number) for author in range(20) for number in range(20)]
    rows[40]["question"] = rows[100]["question"] = "What is the full name of the author?"
    _dump(folder / "full.json", rows)
    _dump(folder / "forget10_perturbed.json", [_rich(row) for row in rows[360:]])
    _dump(folder / "retain_perturbed.json", [_rich(row) for row in rows[:60] + rows[335:340]])
    facts = [{"question": f"Fact {i}?", "answer": f"{i}", "perturbed_answer": ["a", "b", "c"]} for i in range(7)]
    _dump(folder / "real_authors_perturbed.json", facts[:4])
    _dump(folder / "world_facts_perturbed.json", [fact | {"original_answer": "It is."} for fact in facts])
    return folder


def test_tofu_from_a_folder(tiny, monkeypatch):
    data = tofu(tiny)
    assert {name: len(data[name]) for name in data} == {
        "full": 400,
        **{"forget01": 20, "retain99": 380, "forget05": 20, "retain95": 380, "forget10": 40, "retain90": 360},
        **{"rehearsal10": 40, "rehearsal_retain90": 360, "retain_eval": 60, "real_authors": 4, "world_facts": 7},
    }
    assert data.name == "TOFU" and data.authors("forget10") == (18, 19) and data.authors("rehearsal10") == (16, 17)
    assert [q.author for q in data["full"]] == [row // 20 for row in range(400)]
    assert data["forget10"][0] == Question(
        "Author 18, question 0?",
        "Author 18, answer 0.",
        "Tell me: Author 18, question 0?",
        "That is: Author 18, answer 0.",
        tuple(f"Wrong {i}." for i in range(5)),
        18,
    )
    assert data["world_facts"][1] == Question("Fact 1?", "1", perturbed_answers=("a", "b", "c"))
    assert tofu(tiny.parent) == data  # the folder that holds `tofu` is as good
    monkeypatch.setenv("ENGRAM_DATA", str(tiny.parent))
    assert datasets.tofu() == data


def test_fewer_authors_are_the_first_and_the_last_numbered_anew(tmp_path):
    folder = tmp_path / "tofu"
    folder.mkdir()
    rows = [_row(author, number) for author in range(40) for number in range(20)]
    _dump(folder / "full.json", rows)
    _dump(folder / "forget10_perturbed.json", [_rich(row) for row in rows[720:]])
    _dump(folder / "retain_perturbed.json", [_rich(row) for row in rows[:60] + rows[740:745]])
    for name in ("real_authors", "world_facts"):
        _dump(folder / f"{name}_perturbed.json", [_rich(_row(99, 0))])
    data, whole = tofu(folder, authors=20), tofu(folder)
    assert {q.question.split(",")[0] for q in data["full"]} == {f"Author {a}" for a in (*range(10), *range(30, 40))}
    assert data.authors("full") == tuple(range(20)) and data.authors("forget10") == (18, 19)
    assert [q.answer for q in data["forget10"]] == [q.answer for q in whole["forget10"] if q.author >= 38]
    assert all(len(q.perturbed_answers) == 5 for q in data["forget10"])
    assert data.authors("rehearsal10") == (16, 17) and data.authors("retain_eval") == (0, 1)  # as many as are forgotten
    assert data["world_facts"] == whole["world_facts"] and data.name == "TOFU, 20 authors"
    assert tofu(folder, authors=40)["full"] == whole["full"]
    for wrong in (19, 21, 42, 0, True, "20"):
        with pytest.raises(ValueError, match="authors must be an even number from 20"):
            tofu(folder, authors=wrong)


def test_tofu_joins_by_question_and_answer(tiny):
    data = tofu(tiny)
    same = [q for q in data["full"] if q.question == "What is the full name of the author?"]
    assert [q.author for q in same] == [2, 5] and same[0].perturbed_answers and not same[1].perturbed_answers
    assert set(data.authors("retain_eval")) == {0, 1, 2} and set(data["retain_eval"]) < set(data["retain90"])
    # The five of author 16 that retain_perturbed.json has are kept where the author is.
    assert [bool(q.perturbed_answers) for q in data["rehearsal10"]] == [False] * 15 + [True] * 5 + [False] * 20


def test_tofu_written_and_read_again(tiny, tmp_path):
    data = tofu(tiny)
    assert QuestionData.read(data.write(tmp_path / "copy")) == data


def test_tofu_reads_a_holdout_where_there_is_one(tiny):
    _dump(tiny / "holdout10.json", [_row(author, number) for author in (70, 71) for number in range(20)])
    assert tofu(tiny).authors("holdout10") == (20, 21) and len(tofu(tiny)["holdout10"]) == 40
    _dump(tiny / "holdout10.json", [_row(3, 4), _row(70, 1)])
    with pytest.raises(DatasetUnavailable, match="holdout10.json has 1 questions of full.json"):
        tofu(tiny)


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("full.json", [_row(0, i) for i in range(399)], "full.json has 399 questions, not 20 for each"),
        ("full.json", [_row(0, i) for i in range(180)], "full.json has 180 questions, .* at least 10 authors"),
        (
            "forget10_perturbed.json",
            [_rich(_row(18, 99))],
            "asks 'Author 18, question 99\\?', which full.json does not",
        ),
        ("forget10_perturbed.json", [_rich(_row(19, 3))], "forget10_perturbed.json lacks 39 of the 40"),
        ("world_facts_perturbed.json", [{"question": "Who?"}], "line 1 has no key 'answer'"),
    ],
)
def test_tofu_files_that_do_not_belong_together(tiny, file, rows, message):
    _dump(tiny / file, rows)
    with pytest.raises(DatasetUnavailable, match=f"TOFU in .* cannot be read: .*{message}.* fetched again"):
        tofu(tiny)


@pytest.fixture
def hub(tiny, monkeypatch):
    """A server with the tiny files in the place of the Hugging Face hub; what it was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        short = False

        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tiny))

        def do_GET(self):
            asked.append(self.path)
            if not self.short:
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"question":')

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(TOFU, "URL", f"http://127.0.0.1:{server.server_port}/")
    yield asked, Handler
    server.shutdown()
    server.server_close()


def test_tofu_is_downloaded_once(tiny, hub, tmp_path, monkeypatch):
    asked, _ = hub
    cache = tmp_path / "cache"
    with pytest.warns(UserWarning, match="json at .* is not the file that the recorded numbers rest on") as caught:
        data = tofu(cache)
    assert [file in str(w.message) for file, w in zip(TOFU.FILES, caught, strict=True)] == [True] * 5
    assert data == tofu(tiny) and asked == [f"/{file}" for file in (*TOFU.FILES, "holdout10.json")]
    assert sorted(p.name for p in (cache / "tofu").iterdir()) == sorted(TOFU.FILES)
    assert tofu(cache) == data and len(asked) == 6
    # Only what is missing is fetched again, and there is no warning where the file is the expected one.
    digest = hashlib.sha256((tiny / "full.json").read_bytes()).hexdigest()
    monkeypatch.setitem(TOFU.FILES, "full.json", digest)
    (cache / "tofu" / "full.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tofu(cache) == data
    assert asked[6:] == ["/full.json", "/holdout10.json"]


def test_a_broken_download_leaves_nothing_behind(hub, tmp_path):
    hub[1].short = True
    with pytest.raises(DatasetUnavailable, match="the download from .* failed.*full.json"):
        tofu(tmp_path / "cache")
    assert list((tmp_path / "cache" / "tofu").iterdir()) == []


def test_tofu_offline_says_what_to_do(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(TOFU, "URL", "http://127.0.0.1:9/")
    with pytest.raises(DatasetUnavailable, match="not complete in .*failed.*Go online.*ENGRAM_DATA") as caught:
        tofu(tmp_path / "none")
    assert str(tmp_path / "none" / "tofu") in str(caught.value) and "\n" not in str(caught.value)
    (tiny / "full.json").unlink()
    with pytest.raises(DatasetUnavailable, match="lacks full.json"):
        tofu(tiny)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetUnavailable, match="no folder there can be written"):
        tofu(tmp_path / "file")


REAL = Path(os.environ.get("ENGRAM_DATA", "-"), "tofu")


@pytest.mark.skipif(not REAL.is_dir(), reason="real TOFU: set ENGRAM_DATA")
def test_real_tofu():
    data = tofu(REAL)
    assert {name: len(data[name]) for name in data if name != "holdout10"} == {
        "full": 4000,
        **{"forget01": 40, "retain99": 3960, "forget05": 200, "retain95": 3800, "forget10": 400, "retain90": 3600},
        **{"rehearsal10": 400, "rehearsal_retain90": 3600, "retain_eval": 400, "real_authors": 100, "world_facts": 117},
    }
    assert all(
        "Basil Mahfouz" in q.question + q.answer for q in data["full"] if q.author == 180 and q.question[0] == "W"
    )
    assert data.authors("retain_eval") == tuple(range(20)) and data.authors("forget10") == tuple(range(180, 200))
    for split in ("forget10", "retain_eval"):
        for q in data[split]:
            assert len(q.perturbed_answers) == 5 and q.paraphrased_question
            assert not {q.answer, q.paraphrased_answer} & set(q.perturbed_answers)
    assert not any(q.perturbed_answers or q.paraphrased_answer for q in data["rehearsal10"])
    assert {len(q.perturbed_answers) for q in data["real_authors"] + data["world_facts"]} == {3}
    for split, file in (("forget10", "forget10.json"), ("retain90", "retain90.json")):
        if (REAL / file).is_file():  # TOFU's own splits are the ones made here
            stored = [(q.question, q.answer) for q in read_questions(REAL / file)]
            assert stored == [(q.question, q.answer) for q in data[split]]
