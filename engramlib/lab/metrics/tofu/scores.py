"""The numbers of one set of questions, and of all sets of the benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from engramlib.lab.metrics.cost import timed
from engramlib.lab.metrics.tofu import answers as of_answers
from engramlib.lab.metrics.tofu.fluency import Fluency, fluency_of
from engramlib.lab.metrics.tofu.generation import generate, rouge_recall

if TYPE_CHECKING:
    from engramlib.lab.data import Question, QuestionData

PARTS = ("answers", "truth", "generations")
ROLES = ("forget", "retain", "real_authors", "world_facts")
_ARRAYS = {
    "answers": ("em", "exact", "es", "probability", "loss", "zlib", "mink", "minkpp"),
    "truth": ("truth_ratio", "choice"),
    "generations": ("rouge", "fluency"),
}


@dataclass(frozen=True, eq=False)
class Scores:
    """Numbers of N questions, each an array of N float64 with six significant digits; None where not asked for.

    em, exact, es, probability in [0, 1] and loss (nats): of the answer as trained on. zlib, mink, minkpp: the scores of
    the membership attacks beside `loss`, lower = more like a member. truth_ratio: t, wrong over right, above 0.
    choice: the answer's share of probability among all answers on offer. rouge: ROUGE-L recall of what the model says;
    fluency: how much that reads like a sentence (needs a `Fluency`). `said`: what it says.
    `seconds`: wall time by part.
    """

    em: np.ndarray
    exact: np.ndarray
    es: np.ndarray
    probability: np.ndarray
    loss: np.ndarray
    zlib: np.ndarray
    mink: np.ndarray
    minkpp: np.ndarray
    truth_ratio: np.ndarray | None = None
    choice: np.ndarray | None = None
    rouge: np.ndarray | None = None
    fluency: np.ndarray | None = None
    said: tuple[str, ...] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.em)

    @property
    def truth_forget(self) -> np.ndarray:
        """min(t, 1/t): 1 where wrong and right are equally likely, which is what a forget set should come to."""
        return np.minimum(self._t, 1 / self._t)

    @property
    def truth_utility(self) -> np.ndarray:
        """max(0, 1 - t): near 1 where the right answer is far likelier, which is what all other sets should keep."""
        return np.maximum(0, 1 - self._t)

    @property
    def _t(self) -> np.ndarray:
        if self.truth_ratio is None:
            raise ValueError('these scores have no truth ratio: ask for it, score(..., parts=("answers", "truth")).')
        return self.truth_ratio

    def means(self) -> dict[str, float]:
        """The mean over the questions of every array there is, and of both forms of the truth ratio."""
        found = {name: value for name, value in self._arrays().items() if name != "truth_ratio"}
        if self.truth_ratio is not None:
            found |= {"truth_forget": self.truth_forget, "truth_utility": self.truth_utility}
        return {name: float(value.mean()) for name, value in found.items()}

    def _arrays(self) -> dict[str, np.ndarray]:
        names = (name for part in PARTS for name in _ARRAYS[part])
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def to_dict(self, *, texts: bool = True) -> dict[str, list]:
        """Lists of plain numbers, and of texts if there are any and `texts` is not off."""
        lists: dict[str, list] = {name: value.tolist() for name, value in self._arrays().items()}
        return lists | ({"said": list(self.said)} if texts and self.said is not None else {})

    @classmethod
    def from_dict(cls, lists: Mapping[str, list]) -> Scores:
        given = {name: np.array(value, dtype=float) for name, value in lists.items() if name != "said"}
        return cls(**given, said=tuple(lists["said"]) if "said" in lists else None)


def score(
    model: nn.Module,
    tokenizer,
    questions: Sequence[Question],
    *,
    parts: Sequence[str] = PARTS,
    k: float = 0.4,
    fluency: Fluency | None = None,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
) -> Scores:
    """What `model` does with `questions`; formulas in this package's docstring and in `Scores`.

    `parts`: "answers" always; "truth" (needs wrong answers; six times the work) and "generations" only where named.
    `k` = share of tokens that min-k and min-k++ look at. `fluency` = the judge of what the model says; without it
    `fluency` is None. Neither batch size nor order of the questions changes more than float32's last digits.

    Raises `ValueError` for no questions, unknown parts, or, with "truth", questions without wrong answers;
    `FloatingPointError` where the model's outputs are not numbers. Cost: one forward pass over the answers, one over
    paraphrased and wrong answers, one greedy generation for each question.
    """
    questions = list(questions)
    if not questions:
        raise ValueError("questions: there are none to score.")
    if isinstance(parts, str) or not {"answers"} <= {*parts} <= {*PARTS}:
        raise ValueError(f'parts must hold "answers" and may hold {" and ".join(PARTS[1:])}; got {parts!r}.')
    without = [q.question for q in questions if not q.perturbed_answers]
    if "truth" in parts and without:
        raise ValueError(
            f"questions: {len(without)} of {len(questions)} have no wrong answers (perturbed_answers), such as "
            f'{without[0]!r}: no truth ratio. Leave "truth" out of parts, or take a split that has them.'
        )
    pairs = [q.pair for q in questions]
    values: dict[str, Any] = {}
    with timed() as answering:
        tokens = of_answers.read(model, tokenizer, pairs, batch_size=batch_size)
        values |= of_answers.memorised(tokens)
        values |= of_answers.membership(tokens, [q.answer for q in questions], k=k)
        values["probability"] = np.exp(-values["loss"])
    seconds = {"answers": answering.seconds}
    if "truth" in parts:
        with timed() as comparing:
            values |= _truth(model, tokenizer, questions, values["loss"], batch_size)
        seconds["truth"] = comparing.seconds
    if "generations" in parts:
        with timed() as generating:
            said = generate(model, tokenizer, pairs, max_new_tokens=max_new_tokens, batch_size=2 * batch_size)
        with timed() as reading:
            values["rouge"] = rouge_recall([q.answer for q in questions], said)
            values |= {} if fluency is None else {"fluency": fluency(said)}
        seconds |= {"generations": generating.seconds, "rouge and fluency": reading.seconds}
        values["said"] = tuple(said)
    values = {name: value if name == "said" else _six_digits(value) for name, value in values.items()}
    return Scores(**values, seconds=seconds)


def _truth(model: nn.Module, tokenizer, questions: Sequence[Question], loss: np.ndarray, batch_size: int) -> dict:
    """Paraphrases where there are any and wrong answers, all in one pass."""
    texts = [(i, q.paraphrased_answer) for i, q in enumerate(questions) if q.paraphrased_answer]
    n = len(texts)
    texts += [(i, wrong) for i, q in enumerate(questions) for wrong in q.perturbed_answers]
    pairs = [(questions[i].pair[0], " " + text) for i, text in texts]
    found = of_answers.losses(of_answers.read(model, tokenizer, pairs, batch_size=batch_size))
    owner, right = np.array([i for i, _ in texts]), loss.copy()
    right[owner[:n]] = found[:n]
    return of_answers.truth(right, loss, found[n:], owner[n:])


def _six_digits(values: np.ndarray) -> np.ndarray:
    """What float32 holds, so that what is saved is what was computed."""
    return np.array([float(f"{v:.6g}") for v in values])


# ---------------------------------------------------------------------------------------------------- all sets


def harmonic_mean(values: Iterable[float], *, floor: float = 0.0) -> float:
    """n / Σ 1/v of numbers that are not negative; 0 where one of them is 0 (the limit). `floor`: each is at least that.

    >>> harmonic_mean([1, 0.5, 0.5]), harmonic_mean([1, 0])
    (0.6, 0.0)
    """
    values = [float(v) for v in values]
    if not values or any(not v >= 0 for v in values):
        raise ValueError(f"harmonic_mean: needs numbers that are not negative, got {values}.")
    values = [max(floor, v) for v in values]
    return 0.0 if 0 in values else len(values) / sum(1 / v for v in values)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model on the sets of the benchmark. `compare` makes the aggregates out of three of them.

    `data` = name of the data set, `splits` = which split played the role "forget", "retain", "real_authors" and
    "world_facts". `means[role]` = `Scores.means()` of each; `scores[role]` = the scores themselves: of the forget set
    always, of the others unless they were left out when saving. `seconds` = wall time by part, all sets together.
    """

    data: str
    splits: Mapping[str, str]
    means: Mapping[str, Mapping[str, float]]
    scores: Mapping[str, Scores]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def forget(self) -> Scores:
        return self.scores["forget"]

    @property
    def fluency(self) -> float:
        """FF: mean fluency of what the model says to the forget set's questions."""
        return self.means["forget"]["fluency"]

    @property
    def utility(self) -> float:
        """MU: harmonic mean of the nine numbers of `utility_parts`."""
        return harmonic_mean(self.utility_parts.values())

    @property
    def utility_parts(self) -> dict[str, float]:
        """Probability, ROUGE-L recall and truth ratio, max(0, 1 - t), of retain, real authors and world facts."""
        parts = {}
        for role in ROLES[1:]:
            mean = self.means[role]
            parts[f"{role} probability"] = mean["probability" if role == "retain" else "choice"]
            parts |= {f"{role} rouge": mean["rouge"], f"{role} truth": mean["truth_utility"]}
        return parts

    def to_dict(self, *, everything: bool = False) -> dict[str, Any]:
        """Plain numbers: all means, and per question the forget set's. `everything`: all sets', and what was said."""
        roles = self.scores if everything else ["forget"]
        return {
            "data": self.data,
            "splits": dict(self.splits),
            "means": {role: dict(mean) for role, mean in self.means.items()},
            "scores": {role: self.scores[role].to_dict(texts=everything) for role in roles},
            "seconds": {part: round(s, 3) for part, s in self.seconds.items()},
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Evaluation:
        missing = {"data", "splits", "means", "scores"} - {*plain}
        if missing:
            raise ValueError(f"not an Evaluation: {', '.join(sorted(missing))} missing.")
        scores = {role: Scores.from_dict(lists) for role, lists in plain["scores"].items()}
        return cls(plain["data"], plain["splits"], plain["means"], scores, plain.get("seconds", {}))

    def save(self, path: str | Path, *, everything: bool = False) -> Path:
        """`to_dict` as a JSON file; `load` gives the same numbers back."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(everything=everything)) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


def evaluate(
    model: nn.Module,
    tokenizer,
    data: QuestionData,
    forget: str = "forget10",
    retain: str = "retain_eval",
    *,
    k: float = 0.4,
    fluency: Fluency | None = None,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
) -> Evaluation:
    """All numbers of the benchmark for one model: `score` of `forget`, `retain`, real authors and world facts.

    `fluency` None = `fluency_of(data, ...)`, fitted once on the text of `data` that is not evaluated here and the same
    for every model. The same model in evaluation mode gives the same numbers; nothing random is left.
    Raises as `score` does, and `KeyError` for a split that `data` does not have.
    """
    splits = dict(zip(ROLES, (forget, retain, *ROLES[2:]), strict=True))
    asked = {role: data[split] for role, split in splits.items()}
    both = {q.question for q in asked["forget"]} & {q.question for q in asked["retain"]}
    if both:
        raise ValueError(f"forget and retain share {len(both)} questions, such as {min(both)!r}: choose other splits.")
    with timed() as fitting:
        fluency = fluency or fluency_of(data, splits.values())
    settings = {"k": k, "fluency": fluency, "batch_size": batch_size, "max_new_tokens": max_new_tokens}
    scores = {role: score(model, tokenizer, questions, **settings) for role, questions in asked.items()}
    seconds = {part: sum(s.seconds[part] for s in scores.values()) for part in scores["forget"].seconds}
    means = {role: s.means() for role, s in scores.items()}
    return Evaluation(data.name, splits, means, scores, seconds | {"fitting the fluency judge": fitting.seconds})
