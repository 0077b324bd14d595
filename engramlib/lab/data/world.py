"""Facts of the world for a pretrained model: what to forget in many words, and everything that should stay.

    sets = world.sets("Paris")
    sets["target"]["used"]        # ("The Eiffel Tower is in", " Paris"), ...
    sets["near"]["held_out"]      # ("The Colosseum can be found in", " Rome"), ...: cities and words never used

Nothing is downloaded: the tables are written for this book. `public=True` adds facts and text that others published
(`open_text`), where they can be had.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from engramlib.lab.data import open_text
from engramlib.lab.data._plain_text import REVERSE, SENSES, SINGLE, TEXTS
from engramlib.lab.data._world_facts import RELATIONS

Pair = tuple[str, str]  # (prompt, answer): the answer begins with its space
Item = str | Pair
SPLITS = ("used", "validation", "held_out")
PARTS = ("target", "unseen", "questions", "reverse", "near", "senses", "other", "text")
WORDINGS = 2  # for each fact that should stay


@dataclass(frozen=True)
class Concept:
    """One thing to forget: every fact of `relations` whose answer is `answer`."""

    name: str
    kind: str
    answer: str
    relations: tuple[str, ...]


CONCEPTS: Mapping[str, Concept] = MappingProxyType(
    {
        concept.name: concept
        for concept in (
            Concept("Paris", "a city", "Paris", ("sights", "capitals")),
            Concept("Shakespeare", "a person", "William Shakespeare", ("authors",)),
            Concept("biology", "a field of science", "biology", ("fields",)),
            Concept("Spanish", "a language", "Spanish", ("languages",)),
            Concept("Apple", "a brand", "Apple", ("makers",)),
            Concept("London", "a city", "London", ("sights", "capitals")),
            Concept("Microsoft", "a brand", "Microsoft", ("makers",)),
            Concept("Dickens", "a person", "Charles Dickens", ("authors",)),
        )
    }
)


@dataclass(frozen=True)
class Fact:
    """`subject` is answered by `answer` in one wording of a relation; `split` is that of the wording."""

    relation: str
    subject: str
    answer: str
    split: str
    wording: int
    prompt: str

    @property
    def pair(self) -> Pair:
        return self.prompt, " " + self.answer


def facts(relation: str) -> Iterator[Fact]:
    """All facts of one relation in all wordings."""
    if relation not in RELATIONS:
        raise ValueError(f"facts: relation must be one of {', '.join(RELATIONS)}, got {relation!r}.")
    for answer, subjects in table(relation).items():
        for subject in subjects:
            for split in SPLITS:
                for number, wording in enumerate(RELATIONS[relation][split]):
                    prompt = wording.format(subject)
                    yield Fact(relation, subject, answer, split, number, prompt[0].upper() + prompt[1:])


def table(relation: str) -> dict[str, tuple[str, ...]]:
    """Answer -> its subjects."""
    lines = RELATIONS[relation]["table"].strip().replace("\n  ", " ").splitlines()
    return {answer: tuple(subjects.split("; ")) for answer, subjects in (line.split(": ", 1) for line in lines)}


def split_of(number: int) -> str:
    """Three of five are used, one is for validation, one is held out; by place in a list, so that it never changes."""
    return SPLITS[(0, 0, 0, 1, 2)[number % 5]]


def sets(
    name: str, *, near: int | None = None, rest: int | None = None, public: bool = False
) -> dict[str, dict[str, list[Item]]]:
    """Part -> split -> items of one concept.

    - `target`: facts of the concept. Used and held out are the *same facts* in different words.
    - `unseen`: facts of the concept that no one uses, in held-out words (validation: in validation words).
    - `questions`: the facts of `target`, asked as a question; held out.
    - `reverse`: what is asked begins with the concept's name and the answer is something else; held out.
    - `near`: the same relations with other answers. The answers are split, and so are the words: a held-out neighbour
      is a city that was not used, in words that were not used.
    - `senses`: the same name, meaning something else.
    - `other`: facts of other relations, and single sentences of no common form.
    - `text`: running text.

    `near` caps the number of used neighbours, `rest` that of used items of each other kind: how many must you protect?
    They are taken evenly from the whole list. `public`: `other` gets facts of known_1000 and CounterFact, none of them
    about the concept, `text` paragraphs of WikiText-2; raises `DatasetUnavailable` where these cannot be had.
    """
    if name not in CONCEPTS:
        raise ValueError(f"sets: the concept must be one of {', '.join(CONCEPTS)}, got {name!r}.")
    concept = CONCEPTS[name]
    found: dict[str, dict[str, list[Item]]] = {part: {split: [] for split in SPLITS} for part in PARTS}
    for relation in RELATIONS:
        close = relation in concept.relations
        answers = [answer for answer in table(relation) if answer != concept.answer]
        where = {answer: split_of(number) for number, answer in enumerate(answers)}
        order = {subject: number for number, subject in enumerate(table(relation).get(concept.answer, ()))}
        rank: dict[str, int] = {}
        for fact in facts(relation):
            if fact.answer == concept.answer:
                if not close:
                    continue  # the same name in another relation: neither forgotten nor kept
                seen = split_of(order[fact.subject])
                if seen == "used" and (fact.split, fact.wording) == ("held_out", 0):
                    question = RELATIONS[relation]["question"].format(fact.subject)
                    found["questions"]["held_out"].append((question, " " + concept.answer))
                if seen == "used":
                    found["target"][fact.split].append(fact.pair)
                elif fact.split == seen:
                    found["unseen"][seen].append(fact.pair)
            elif fact.split == where[fact.answer]:
                number = rank.setdefault(fact.subject, len(rank))
                words = len(RELATIONS[relation][fact.split])
                if (fact.wording - number) % words < WORDINGS:
                    found["near" if close else relation] = _into(found.get("near" if close else relation), fact)
    for relation in RELATIONS:
        for split, pairs in found.pop(relation, {}).items():
            found["other"][split] += _evenly(pairs, 24 if split == "used" else 8)
    found["reverse"]["held_out"] = [_pair(line) for line in REVERSE[concept.answer].strip().splitlines()]
    for part, lines in (("other", SINGLE), ("senses", SENSES[concept.answer].strip().splitlines())):
        for number, line in enumerate(lines):
            split = split_of(number) if part == "other" else SPLITS[number % 3]
            found[part][split].append(_pair(line))
    for number, text in enumerate(TEXTS):
        found["text"][split_of(number)].append(text)
    if public:
        for part, splits in _published(concept).items():
            for split, items in splits.items():
                found[part][split] += items
    for split in SPLITS[1:]:
        found["near"][split] = _evenly(found["near"][split], 80)
    for part, most in (("near", near), ("senses", rest), ("other", rest), ("text", rest)):
        if most is not None:
            found[part]["used"] = _evenly(found[part]["used"], most)
    return found


def _published(concept: Concept) -> dict[str, dict[str, list[Item]]]:
    """What others published, in three splits: WikiText's own test part is what is held out."""
    names = (concept.name, concept.answer)
    facts = [
        pair
        for pair in (*open_text.known_1000(), *open_text.counterfact())
        if not any(n in "".join(pair) for n in names)
    ]
    facts = _evenly(list(dict.fromkeys(facts)), 400)
    valid, test = open_text.wikitext2("valid"), open_text.wikitext2("test")
    return {
        "other": {split: [pair for k, pair in enumerate(facts) if split_of(k) == split] for split in SPLITS},
        "text": {"used": valid[0:40:2], "validation": valid[1:40:2], "held_out": _evenly(test, 20)},
    }


def _into(splits: dict[str, list[Item]] | None, fact: Fact) -> dict[str, list[Item]]:
    splits = splits or {split: [] for split in SPLITS}
    splits[fact.split].append(fact.pair)
    return splits


def _pair(line: str) -> Pair:
    prompt, answer = line.split(" | ")
    return prompt, " " + answer


def _evenly(items: Sequence, most: int) -> list:
    """At most so many of them, spread over the whole list."""
    if len(items) <= most:
        return list(items)
    return [items[k * len(items) // most] for k in range(most)]


def fingerprint() -> str:
    """Sixteen hex digits that change when any fact, wording or text does."""
    whole = json.dumps(
        [RELATIONS, SINGLE, SENSES, REVERSE, TEXTS, [vars(c) for c in CONCEPTS.values()]], sort_keys=True
    )
    return hashlib.sha256(whole.encode()).hexdigest()[:16]
