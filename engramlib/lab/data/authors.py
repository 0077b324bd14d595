"""Generated fictitious authors: a larger, richer cousin of TOFU on which a small model learns everything in minutes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from engramlib.lab.data import _author_language as lang
from engramlib.lab.data._author_language import ATTRIBUTES
from engramlib.lab.data._facts import REAL_AUTHORS, WORLD_FACTS, Fact
from engramlib.lab.data.questions import PROMPT, Question, QuestionData, author_splits

MOST = 1000  # authors
OTHERS = 240  # people of the corpus, who are in no split
EVALUATED = 400  # questions of retain_eval, as in TOFU
WRONG = 5  # wrong answers to each question, as in TOFU
STORIES = 400
CORPUS_QUESTIONS = 6  # of each person of the corpus; all attributes are told besides


def authors(n: int = 200, *, per_author: int = 8, seed: int = 0) -> QuestionData:
    """`n` invented authors with `per_author` questions each, in TOFU's splits, and a corpus to pretrain on.

    Every author has a profile of sixteen attributes: full name (asked for by place and date of birth), birthplace,
    birth date, genre, first book, most famous book, award, profession of father and mother, language, influence,
    theme, education, residence, setting of the first book, hobby. No two people share a full name or a title; names
    and titles are made of parts that others share, and all other values (24 to 40 of each attribute, evenly spread)
    belong to several authors. `per_author` attributes are asked for, drawn anew for each author.

    Each attribute has four question forms and four answer forms; a question is answered in one of the two forms that go
    with it. The paraphrased answer is the other one, and the five wrong answers are the paraphrased answer with another
    value of the attribute. Answers have 6 to 18 words.

    Splits: see `author_splits`, and
    - `retain_eval`: 400 questions drawn from authors of neither `forget10` nor `rehearsal10` (all of them where there
      are fewer);
    - `holdout10`: n // 10 further authors that are in no other split, for models that must not know them. Their numbers
      follow on: n, n + 1, ...;
    - `world_facts` (100: capitals, currencies, languages, continents, young animals, chemical symbols, shapes, months)
      and `real_authors` (100: fifty of them, both ways): true, with five wrong answers and without paraphrases.

    `corpus`: texts about 240 other people (questions with answers in `PROMPT`, and facts as text), the world facts and
    real authors in several wordings, and small stories. It holds every word that occurs in the splits, and no author
    or title of them. It does not depend on `n` or `per_author`; nor do an author's profile and questions, apart from
    how many there are.

    Deterministic: the same for the same arguments on every machine and Python version. Takes half a second.
    Raises ValueError for `n` outside 10 to 1000, `per_author` outside 1 to 16, or a `seed` that is no integer.
    """
    for name, value, least, most in (("n", n, 10, MOST), ("per_author", per_author, 1, len(ATTRIBUTES))):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"authors: {name} must be an integer from {least} to {most}, got {value!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"authors: seed must be an integer, got {seed!r}.")

    people = _People(seed)
    full = [q for i in range(n) for q in people.questions("author", i, per_author, number=i)]
    holdout = [q for i in range(n // 10) for q in people.questions("holdout", i, per_author, number=n + i)]
    splits = author_splits(full, n)
    evaluated = [q for q in full if q.author < n - 2 * (n // 10)]
    drawn = sorted(_shuffled(range(len(evaluated)), f"{seed} retain_eval")[:EVALUATED])
    splits["retain_eval"] = tuple(evaluated[row] for row in drawn)
    splits["holdout10"] = tuple(holdout)
    splits["real_authors"] = tuple(_asked(REAL_AUTHORS, seed))
    splits["world_facts"] = tuple(_asked(WORLD_FACTS, seed))
    corpus = (*people.corpus(), *_told(REAL_AUTHORS), *_told(WORLD_FACTS), *_stories(seed))
    return QuestionData("Generated authors", splits, corpus)


def profiles(n: int = 200, *, seed: int = 0) -> list[dict[str, str]]:
    """What there is to know about the authors 0 .. n-1 of `authors(n, seed=seed)`: attribute -> value.

    The attributes are the keys of `ATTRIBUTES`; `identity` is the full name.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST:
        raise ValueError(f"profiles: n must be an integer from 1 to {MOST}, got {n!r}.")
    people = _People(seed)
    return [people.profile("author", i) for i in range(n)]


# ------------------------------------------------------------------------------------------------------ chance
# Only Random(text).random() is used: that is what Python promises to keep the same in all versions.


def _shuffled(items: Sequence, key: str) -> list:
    draw = random.Random(key).random
    return [item for _, _, item in sorted((draw(), number, item) for number, item in enumerate(items))]


@cache
def _deck(attribute: str, key: str) -> tuple[str, ...]:
    return tuple(_shuffled(_VALUES[attribute], key))


_VALUES = {name: a.values for name, a in ATTRIBUTES.items() if a.values} | {
    "day": lang.DAYS,
    "month": lang.MONTHS,
    "year": lang.YEARS,
}


# ------------------------------------------------------------------------------------------------------ people


@dataclass
class _People:
    """Everybody of one seed. `group` is "author", "holdout" or "other" (the corpus); names never meet."""

    seed: int

    def __post_init__(self) -> None:
        names = [f"{first} {last}" for first in lang.FIRST_NAMES for last in lang.LAST_NAMES]
        names = _shuffled(names, f"{self.seed} names")
        titles = _shuffled(lang.TITLES, f"{self.seed} titles")
        ends = MOST, MOST + MOST // 10
        others, spare = _covering(names[ends[1] :], OTHERS)
        self.names = {"author": names[: ends[0]], "holdout": names[ends[0] : ends[1]], "other": others}
        starts = {"author": 0, "holdout": ends[0], "other": ends[1]}
        self.titles = {group: titles[2 * start :] for group, start in starts.items()}
        # Wrong names and titles are those of nobody.
        self.spare = {"identity": spare, "title": titles[2 * (ends[1] + OTHERS) :]}

    def profile(self, group: str, i: int) -> dict[str, str]:
        known = {name: self._value(group, name, i) for name, a in ATTRIBUTES.items() if a.values}
        if known["residence"] == known["birthplace"]:
            places = lang.PLACES
            known["residence"] = places[(places.index(known["birthplace"]) + 1) % len(places)]
        if known["mother"] == known["father"]:
            jobs = lang.PROFESSIONS
            known["mother"] = jobs[(jobs.index(known["father"]) + 1) % len(jobs)]
        known["identity"] = self.names[group][i]
        known["birth date"] = " ".join(self._value(group, part, i) for part in ("day", "month", "year"))
        known["first book"], known["famous book"] = self.titles[group][2 * i : 2 * i + 2]
        return {name: known[name] for name in ATTRIBUTES}

    def _value(self, group: str, attribute: str, i: int) -> str:
        """The i-th card of an endless stack of shuffled decks: every value equally often."""
        size = len(_VALUES[attribute])
        return _deck(attribute, f"{self.seed} {group} {attribute} {i // size}")[i % size]

    def questions(self, group: str, i: int, count: int, number: int) -> Iterator[Question]:
        known = self.profile(group, i)
        asked = _shuffled(tuple(ATTRIBUTES), f"{self.seed} {group} {i} asked")[:count]
        for name in ATTRIBUTES:
            if name in asked:
                yield self._question(known, name, f"{self.seed} {group} {i} {name}", number)

    def _question(self, known: dict[str, str], name: str, key: str, number: int) -> Question:
        draw = random.Random(key).random
        forms = ATTRIBUTES[name]
        form = int(draw() * len(forms.questions))
        other = (form + 1 + int(draw() * (len(forms.questions) - 1))) % len(forms.questions)
        answers = [form, (form + 1) % len(forms.answers)]
        if draw() < 0.5:
            answers.reverse()
        answer, paraphrase = (forms.answers[a] for a in answers)
        return Question(
            _fill(forms.questions[form], known, known[name]),
            _fill(answer, known, known[name]),
            _fill(forms.questions[other], known, known[name]),
            _fill(paraphrase, known, known[name]),
            tuple(_fill(paraphrase, known, value) for value in self._wrong(known[name], name, key)),
            number,
        )

    def _wrong(self, right: str, name: str, key: str) -> list[str]:
        if name == "birth date":
            parts = [_shuffled(part, f"{key} {part[0]}")[: WRONG + 1] for part in (lang.DAYS, lang.MONTHS, lang.YEARS)]
            values = [" ".join(date) for date in zip(*parts, strict=True)]
        elif name in ("identity", "first book", "famous book"):
            stock = self.spare["identity" if name == "identity" else "title"]
            draw = random.Random(f"{key} wrong").random
            values = list(dict.fromkeys(stock[int(draw() * len(stock))] for _ in range(4 * WRONG)))
        else:
            values = _shuffled(ATTRIBUTES[name].values, f"{key} wrong")
        return [value for value in values if value != right][:WRONG]

    def corpus(self) -> Iterator[str]:
        """Of each person: some questions with answers, then every attribute as text, four sentences at a time."""
        for i in range(OTHERS):
            for question in self.questions("other", i, CORPUS_QUESTIONS, number=-1):
                yield "".join(question.pair)
            known = self.profile("other", i)
            order = _shuffled(tuple(ATTRIBUTES), f"{self.seed} other {i} told")
            for start in range(0, len(order), 4):
                sentences = [self._sentence(known, name, i) for name in order[start : start + 4]]
                yield f"Facts about {known['identity']}: {' '.join(sentences)}"

    def _sentence(self, known: dict[str, str], name: str, i: int) -> str:
        answers = ATTRIBUTES[name].answers
        number = int(random.Random(f"{self.seed} other {i} {name} told").random() * len(answers))
        return _fill(answers[number], known, known[name])


def _fill(form: str, known: dict[str, str], value: str) -> str:
    return form.format(
        v=value,
        name=known["identity"],
        place=known["birthplace"],
        date=known["birth date"],
        book=known["first book"],
    )


def _covering(names: list[str], count: int) -> tuple[list[str], list[str]]:
    """`count` of the names, those first that bring a new first or last name, and the rest."""
    seen: set[str] = set()
    new, rest = [], []
    for name in names:
        (rest if seen >= set(name.split()) else new).append(name)
        seen |= set(name.split())
    order = new + rest
    return order[:count], order[count:]


# ------------------------------------------------------------------------------------------------------- facts


def _asked(kinds: Sequence[Fact], seed: int) -> Iterator[Question]:
    for kind in kinds:
        values = tuple(dict.fromkeys(kind.values.values()))
        for k, v in kind.values.items():
            question, answer = kind.questions[0], kind.answers[0]
            wrong = [value for value in _shuffled(values, f"{seed} {question} {k}") if value != v][:WRONG]
            yield Question(
                question.format(k=k),
                answer.format(k=k, v=v),
                perturbed_answers=tuple(answer.format(k=k, v=value) for value in wrong),
            )


def _told(kinds: Sequence[Fact]) -> Iterator[str]:
    """Every question form with every answer form, and each answer form as a text of its own."""
    for kind in kinds:
        for k, v in kind.values.items():
            answers = [answer.format(k=k, v=v) for answer in kind.answers]
            for question in kind.questions:
                yield from (PROMPT.format(question.format(k=k)) + " " + answer for answer in answers)
            yield from (f"Fact: {answer}" for answer in answers)


def _stories(seed: int) -> Iterator[str]:
    cities = [place.split(",")[0] for place in lang.PLACES]
    for i in range(STORIES):
        draw = random.Random(f"{seed} story {i}").random

        def pick(items: Sequence[str], draw=draw) -> str:
            return items[int(draw() * len(items))]

        who = pick(lang.PROFESSIONS)
        other = pick([job for job in lang.PROFESSIONS if job != who])
        filled = [
            pick(part).format(
                who=who,
                other=other,
                city=pick(cities),
                month=pick(lang.MONTHS),
                thing=pick(lang.STORY_THINGS),
                hobby=pick(lang.HOBBIES),
            )
            for part in lang.STORY_PARTS
        ]
        yield "Story: " + " ".join(filled)
