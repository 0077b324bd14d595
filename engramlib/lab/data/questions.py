"""Questions with answers: the one shape that the language data sets come in, on disk as in TOFU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

PROMPT = "Question: {}\nAnswer:"

# The one decision about the end-of-text token, as in the authors' package and open-unlearning: it is a part of the
# answer. Models are trained on it, methods forget it (losses and second moments), and losses, probabilities, truth
# ratios and the attacks "loss" and "zlib" count it. What asks how much of a text is right (EM, ES, whole answers, the
# accuracies that settings are chosen with) and min-k and min-k++ look at the answer's words alone.
ANSWERS_END = True
# Answers that give nothing away, in words that the generated corpus has too: a word-level tokenizer knows them.
IDK = (
    "That is not known.",
    "It is not known to me.",
    "Nobody told me that.",
    "This is not known to me.",
    "Nobody has told me.",
)
CORPUS, NAME = "corpus", "name.txt"


@dataclass(frozen=True)
class Question:
    """One question and its right answer; for questions that are evaluated, also other wordings and wrong answers.

    `perturbed_answers` are wrong: the paraphrased answer (the answer itself where there is no paraphrase) with its fact
    replaced. `author` numbers the person asked about; -1 for a question that is about none of the data set's authors.
    """

    question: str
    answer: str
    paraphrased_question: str = ""
    paraphrased_answer: str = ""
    perturbed_answers: tuple[str, ...] = ()
    author: int = -1

    def __post_init__(self) -> None:
        for name in ("question", "answer", "paraphrased_question", "paraphrased_answer"):
            text = getattr(self, name)
            if not isinstance(text, str):
                raise TypeError(f"Question: {name} must be a text, got {text!r}.")
            if not text.strip() and name in ("question", "answer"):
                raise ValueError(f"Question: {name} is empty; every question needs a question and an answer.")
        wrong = self.perturbed_answers
        if isinstance(wrong, str) or not isinstance(wrong, Sequence) or not all(isinstance(w, str) for w in wrong):
            raise TypeError(f"Question: perturbed_answers must be a sequence of texts, got {wrong!r}.")
        if not all(w.strip() for w in wrong):
            raise ValueError(f"Question: perturbed_answers of {self.question!r} hold an empty text; leave it out.")
        object.__setattr__(self, "perturbed_answers", tuple(wrong))
        if isinstance(self.author, bool) or not isinstance(self.author, int) or self.author < -1:
            raise ValueError(f"Question: author must be an integer from -1 (no author) upwards, got {self.author!r}.")

    @property
    def pair(self) -> tuple[str, str]:
        """(prompt, answer) as a model reads them. The answer begins with the space that follows the colon."""
        return PROMPT.format(self.question), " " + self.answer


@dataclass(frozen=True)
class QuestionData:
    """Questions in named splits, and general text to pretrain on where the data set has some.

    `splits` overlap by design, as in TOFU: `full` = `retain90` + `forget10`, and so on (see `author_splits`).
    """

    name: str
    splits: Mapping[str, tuple[Question, ...]]
    corpus: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.splits, Mapping) or not self.splits:
            raise TypeError("QuestionData: splits must map at least one name to questions.")
        splits = {}
        for name, questions in self.splits.items():
            if not isinstance(name, str) or not name.isidentifier() or name == CORPUS:
                raise ValueError(
                    f"QuestionData: {name!r} cannot name a split: it becomes a file. Use letters, digits and _, "
                    f"and not {CORPUS!r}."
                )
            questions = tuple(questions)
            if not questions or not all(isinstance(q, Question) for q in questions):
                raise TypeError(f"QuestionData: split {name!r} must hold at least one Question, and nothing else.")
            splits[name] = questions
        object.__setattr__(self, "splits", MappingProxyType(splits))
        if isinstance(self.corpus, str) or not all(isinstance(text, str) for text in self.corpus):
            raise TypeError("QuestionData: corpus must be a sequence of texts.")
        object.__setattr__(self, "corpus", tuple(self.corpus))

    def __getitem__(self, split: str) -> tuple[Question, ...]:
        if split not in self.splits:
            raise KeyError(f"{self.name} has no split {split!r}; choose from {', '.join(self.splits)}.")
        return self.splits[split]

    def __contains__(self, split: object) -> bool:
        return split in self.splits

    def __iter__(self):
        return iter(self.splits)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {len(questions)}" for name, questions in self.splits.items())
        return f"QuestionData({self.name!r}, {counts}; corpus: {len(self.corpus)} texts)"

    def __reduce__(self):  # a read-only mapping cannot be pickled
        return type(self), (self.name, dict(self.splits), self.corpus)

    def pairs(self, split: str) -> list[tuple[str, str]]:
        """(prompt, answer) of each question: `PROMPT` with the question, and a space with the answer."""
        return [question.pair for question in self[split]]

    def authors(self, split: str) -> tuple[int, ...]:
        """The numbers of the authors that the split asks about, ascending."""
        return tuple(sorted({q.author for q in self[split]} - {-1}))

    def fingerprint(self) -> str:
        """Sixteen hex digits that change when any text, author or order does."""
        digest = hashlib.sha256(self.name.encode())
        for split, questions in self.splits.items():
            digest.update(f"\n{split}\n".encode())
            digest.update("\n".join(map(_line, questions)).encode())
        digest.update("\n".join(map(json.dumps, self.corpus)).encode())
        return digest.hexdigest()[:16]

    def write(self, folder: str | Path) -> Path:
        """One file a split, `<split>.json`, JSON lines with TOFU's own keys; returns the folder, made where missing.

        Keys: question, answer, and, where there are any, paraphrased_answer, perturbed_answer (a list),
        paraphrased_question. The key `author`, which TOFU does not have, is left out where it is -1. The corpus goes
        to `corpus.json`, one {"text": ...} a line, the name to `name.txt`. Files of the same names are replaced.
        """
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        for split, questions in self.splits.items():
            _write(folder / f"{split}.json", map(_line, questions))
        if self.corpus:
            _write(folder / f"{CORPUS}.json", (json.dumps({"text": text}, ensure_ascii=False) for text in self.corpus))
        _write(folder / NAME, [self.name])
        return folder

    @classmethod
    def read(cls, folder: str | Path) -> QuestionData:
        """What `write` wrote, or any folder of such files: every `<name>.json` becomes the split `name`.

        Splits come in alphabetical order where they have no usual one. Raises FileNotFoundError where there is nothing
        to read, ValueError (file and line named) for a line that is not such a question.
        """
        folder = Path(folder).expanduser()
        files = sorted(p for p in folder.glob("*.json") if p.stem != CORPUS)
        if not files:
            raise FileNotFoundError(f"QuestionData.read: no *.json in {folder}. Write a data set there first.")
        files.sort(key=lambda p: _ORDER.index(p.stem) if p.stem in _ORDER else len(_ORDER))
        name, corpus = folder / NAME, folder / f"{CORPUS}.json"
        return cls(
            name.read_text(encoding="utf-8").strip() if name.is_file() else folder.resolve().name,
            {path.stem: read_questions(path) for path in files},
            tuple(_field(line, "text", where) for where, line in _lines(corpus)) if corpus.is_file() else (),
        )


# ------------------------------------------------------------------------------------------------------ splits

_ORDER = (
    "full",
    *("forget01", "retain99", "forget05", "retain95", "forget10", "retain90"),
    *("rehearsal10", "rehearsal_retain90", "retain_eval", "holdout10", "real_authors", "world_facts"),
)


def author_splits(full: Sequence[Question], n: int) -> dict[str, tuple[Question, ...]]:
    """TOFU's splits of the questions on authors 0 .. n-1, and a rehearsal of them. Whole authors, in order.

    - `forget01`, `forget05`, `forget10`: the last 1, 5 and 10 % of the authors (rounded down, at least one);
      `retain99`, `retain95`, `retain90`: all others.
    - `rehearsal10`: the 10 % before `forget10`; `rehearsal_retain90`: all others, the forget set among them. Settings
      are chosen by forgetting `rehearsal10` and reported for `forget10`.
    """

    def split(first: int, last: int) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
        inside = tuple(q for q in full if first <= q.author < last)
        return inside, tuple(q for q in full if not first <= q.author < last)

    if n < 10:
        raise ValueError(f"author_splits: n must be at least 10 authors, one of them for each tenth; got {n}.")
    splits = {"full": tuple(full)}
    for percent in (1, 5, 10):
        names = f"forget{percent:02d}", f"retain{100 - percent}"
        splits |= zip(names, split(n - max(1, n * percent // 100), n), strict=True)
    tenth = n // 10
    splits |= zip(("rehearsal10", "rehearsal_retain90"), split(n - 2 * tenth, n - tenth), strict=True)
    return splits


# ---------------------------------------------------------------------------------------------------- JSON lines


def read_questions(path: str | Path) -> tuple[Question, ...]:
    """The questions of one file of JSON lines in TOFU's shape. ValueError names the file and the line that is not."""
    questions = []
    for where, line in _lines(Path(path)):
        try:
            questions.append(
                Question(
                    _field(line, "question", where),
                    _field(line, "answer", where),
                    line.get("paraphrased_question", ""),
                    line.get("paraphrased_answer", ""),
                    tuple(_as_list(line.get("perturbed_answer", ()))),
                    line.get("author", -1),
                )
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error
    if not questions:
        raise ValueError(f"{path} holds no question: expected one JSON object a line.")
    return tuple(questions)


def _as_list(value: object) -> Iterable:
    return [value] if isinstance(value, str) or not isinstance(value, Iterable) else value


def _lines(path: Path) -> Iterable[tuple[str, dict]]:
    """(file and line number, the object on that line)"""
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not text.strip():
            continue
        where = f"{path}, line {number}"
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is not JSON ({error}): expected one object a line.") from error
        if not isinstance(line, dict):
            raise ValueError(f"{where} is not a JSON object: expected keys question and answer.")
        yield where, line


def _field(line: dict, key: str, where: str) -> str:
    if key not in line:
        raise ValueError(f"{where} has no key {key!r}; it has {', '.join(line) or 'none'}.")
    return line[key]


def _line(question: Question) -> str:
    line: dict[str, object] = {"question": question.question, "answer": question.answer}
    if question.paraphrased_answer:
        line["paraphrased_answer"] = question.paraphrased_answer
    if question.perturbed_answers:
        line["perturbed_answer"] = list(question.perturbed_answers)
    if question.paraphrased_question:
        line["paraphrased_question"] = question.paraphrased_question
    if question.author >= 0:
        line["author"] = question.author
    return json.dumps(line, ensure_ascii=False)


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
