"""Does a text read like sentences, or like gibberish? Our stand-in for a classifier that cannot be downloaded.

The paper takes its fluency FF from a gibberish detector on the Hugging Face hub (open-unlearning's
`forget_Q_A_gibberish`). This one is made on the spot instead. It counts four defects of a text and measures each
between two marks: what the data's own right answers have, and what corrupted ones have.

**Limits.** It looks at neighbouring words, repetition and spelling, never at truth or sense: a text that strings the
data's common phrases together passes. What is as good as nine in ten right answers is good, and nothing is better, so a
model that says only what is common does not beat the right answers. It knows the vocabulary and the style of one data
set, in sentences; a bare name or a number is no sentence to it. FF from it compares models on one data set and cannot
be compared with the paper's digits.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from engramlib.lab.data.questions import IDK

if TYPE_CHECKING:
    from engramlib.lab.data import QuestionData

_WORD = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]")
_DISCOUNT = 0.75  # of absolute discounting, what is taken from every pair that was seen
_BEGIN, _END, _NAME, _NUMBER, _UNKNOWN = "^", "$", "<Name>", "<number>", "<unknown>"
DEFECTS = ("order", "new pairs", "unknown words", "repeated pairs")


class Fluency:
    """`Fluency(texts)(new_texts)`: for each new text a number from 0, gibberish, to 1, as sound as right answers are.

    `texts` = clean text (at least 20 distinct ones), none of which should be evaluated; `also` = more of it, counted
    but not learned on; `seed` fixes which seven tenths are counted and how the others are corrupted. Four defects a
    text, all per word or pair of words, more is worse:
    order = minus the mean over word pairs of log p(word | word before) - log p(word), absolute discounting, each cut
    off at ±3; new pairs = share of pairs that were never seen; unknown words = share of words in small letters that
    were not seen twice; repeated pairs = share that occurred earlier in the text. Names and numbers that were not seen
    twice count as one word each, "a name" and "a number": facts that the text does not hold are no defect.
    `sound[i]` = what nine in ten of the held-out clean texts stay below; `broken[i]` = the median of corrupted ones
    (order and new pairs: words drawn at random; unknown words: letters drawn at random; repeated pairs: a loop of one
    to three words). Score = Π clip((broken - defect) / (broken - sound), 0, 1). A text without words scores 0.
    """

    def __init__(self, texts: Iterable[str], *, also: Iterable[str] = (), seed: int = 0) -> None:
        rng = random.Random(seed)
        texts = sorted({text for text in texts if len(words(text)) > 2})
        if len(texts) < 20:
            raise ValueError(f"Fluency: needs at least 20 texts of three words or more, got {len(texts)}.")
        rng.shuffle(texts)
        counted = len(texts) * 7 // 10
        self._count([*texts[:counted], *also])
        clean, vocabulary = texts[counted:], sorted(self.words)
        marks = {
            kind: np.median([self.defects(CORRUPTIONS[kind](text, vocabulary, rng)) for text in clean], axis=0)
            for kind in ("random words", "random letters", "a loop")
        }
        kinds = ("random words", "random words", "random letters", "a loop")
        self.sound = np.quantile([self.defects(text) for text in clean], 0.9, axis=0)
        broken = np.array([marks[kind][i] for i, kind in enumerate(kinds)])
        self.broken = np.maximum(broken, self.sound + 1e-3)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """N numbers in [0, 1]."""
        if isinstance(texts, str):
            raise TypeError("Fluency: expected a list of texts, got one text; put it in a list.")
        found = np.array([self.defects(text) for text in texts]).reshape(-1, len(DEFECTS))
        score = ((self.broken - found) / (self.broken - self.sound)).clip(0, 1).prod(1)
        return np.where([bool(words(text)) for text in texts], score, 0.0)

    def defects(self, text: str) -> list[float]:
        """The four numbers of `DEFECTS`, more is worse."""
        plain = words(text)
        seen = [_BEGIN, *self._classes(text), _END]
        pairs = list(zip(seen, seen[1:], strict=False))
        own = list(zip(["", *plain], plain, strict=False))
        n = max(1, len(plain))
        return [
            -sum(min(3.0, max(-3.0, self._pull(pair))) for pair in pairs) / len(pairs),
            sum(pair not in self.pairs for pair in pairs) / len(pairs),
            seen.count(_UNKNOWN) / n,
            (len(own) - len(set(own))) / n,
        ]

    def _count(self, texts: Sequence[str]) -> None:
        self.words = Counter(word for text in texts for word in words(text))
        split = [[_BEGIN, *self._classes(text), _END] for text in texts]
        self.seen = Counter(word for text in split for word in text[1:])
        self.pairs = Counter(pair for text in split for pair in zip(text, text[1:], strict=False))
        self.starts = Counter(first for text in split for first in text[:-1])
        self.followers = Counter(first for first, _ in self.pairs)  # how many different words come after it
        self.total = sum(self.seen.values())

    def _classes(self, text: str) -> list[str]:
        """The words that were seen at least twice, and what kind the others are."""
        return [
            _NUMBER
            if word.isdigit()
            else word.lower()
            if self.words[word.lower()] > 1
            else _NAME
            if word[0].isupper()
            else _UNKNOWN
            for word in _WORD.findall(text)
        ]

    def _pull(self, pair: tuple[str, str]) -> float:
        """log p(b | a) - log p(b)"""
        a, b = pair
        seen = self.starts[a]
        if not seen:
            return 0.0
        p = (self.seen[b] + 1) / (self.total + len(self.seen) + 1)
        rest = _DISCOUNT * self.followers[a] / seen
        return math.log((max(0.0, self.pairs[pair] - _DISCOUNT) / seen + rest * p) / p)


def words(text: str) -> list[str]:
    """Lower-case words, numbers and marks, whatever the spaces between them."""
    return _WORD.findall(text.lower())


def fluency_of(data: QuestionData, evaluated: Iterable[str], *, most: int = 5000) -> Fluency:
    """The judge for `data` whose splits `evaluated` it must not have read: fitted once, the same for every model.

    Its text: all answers that are not evaluated, then the sentences of the corpus, `most` of them at the most, and the
    sentences with which the baselines decline to answer, which are no gibberish.
    """
    secret = {text for split in evaluated for q in data[split] for text in (q.answer, q.paraphrased_answer)}
    told = (q.answer for split in data.splits for q in data[split])
    sentences = (s for text in data.corpus for s in re.split(r"(?<=[.!?])\s+", _LABEL.sub("", text)))
    texts = [text for text in dict.fromkeys([*told, *_spread(list(sentences), most)]) if text not in secret]
    if len(texts) < 20:
        raise ValueError(
            f"{data.name} has {len(texts)} texts beside those that are evaluated, too few to learn from what a "
            "sentence is; hand in fluency=Fluency(texts) with other clean text."
        )
    return _fitted(tuple(texts[:most]), tuple(IDK))


_LABEL = re.compile(r"^(?:Question|Answer|Story|Facts about [^:\n]*): ?", re.MULTILINE)  # what stands before a text


@lru_cache(maxsize=4)
def _fitted(texts: tuple[str, ...], also: tuple[str, ...]) -> Fluency:
    return Fluency(texts, also=also)


def _spread(texts: list[str], most: int) -> list[str]:
    return texts[:: max(1, len(texts) // most)]


# ----------------------------------------------------------------------------------------------------- corruptions


def _shuffled(text: str, vocabulary: Sequence[str], rng: random.Random) -> str:
    found = text.split()
    tries = (rng.sample(found, len(found)) for _ in range(10))
    return " ".join(next((t for t in tries if t != found), found[::-1]))


def _loop(text: str, vocabulary: Sequence[str], rng: random.Random) -> str:
    found = text.split()
    n = rng.randint(1, min(3, len(found)))
    at = rng.randrange(len(found) - n + 1)
    return " ".join((found[at : at + n] * len(found))[: max(len(found), 2 * n)])


def _drawn(text: str, vocabulary: Sequence[str], rng: random.Random) -> str:
    return " ".join(rng.choices(vocabulary, k=len(words(text))))


def _noise(text: str, vocabulary: Sequence[str], rng: random.Random) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(rng.choices(letters, k=len(word))) for word in words(text))


def _second_half(corrupt: Callable[..., str]) -> Callable[..., str]:
    def corrupted(text: str, vocabulary: Sequence[str], rng: random.Random) -> str:
        found = text.split()
        half = len(found) // 2
        return " ".join([*found[:half], corrupt(" ".join(found[half:]), vocabulary, rng)])

    return corrupted


CORRUPTIONS: dict[str, Callable[[str, Sequence[str], random.Random], str]] = {
    "words shuffled": _shuffled,
    "second half shuffled": _second_half(_shuffled),
    "a loop": _loop,
    "ends in a loop": _second_half(_loop),
    "random words": _drawn,
    "random letters": _noise,
}
