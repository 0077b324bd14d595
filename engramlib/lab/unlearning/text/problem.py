"""What every method is given: the model, the questions, which go and which stay, and how much may be computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from engramlib import language
from engramlib.lab.data.questions import ANSWERS_END, IDK
from engramlib.lab.training.precision import arithmetic
from engramlib.lab.unlearning.base import BaseProblem, Memo
from engramlib.moments import Moments
from engramlib.running import to_device

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from engramlib.lab.data import QuestionData
    from engramlib.lab.unlearning.method import Method

Pair = tuple[str, str]
Batch = dict[str, Tensor]
Unit = Literal["answers", "tokens"]

EPOCHS = (3, 5, 10)  # passes over the questions to forget that a method which trains may choose from
HOLDOUT = "holdout10"  # questions that no model is taught


@dataclass(frozen=True, eq=False)
class Problem(BaseProblem):
    """`model` learned the questions of `data` and should forget those of the split `forget`, and nothing else.

    Settings are chosen on a rehearsal (`forget="rehearsal10", retain="rehearsal_retain90"`) and then applied to
    `forget10` and `retain90`, the defaults: nothing that is reported has been looked at before.

    `seed` fixes every random choice of a method. `epochs`: gradient methods make that many passes over the forget set,
    in batches of about `batch_size`, with as many retained questions beside, which are gone through once before one
    comes again. Passes without gradients take four times as many at once. `weight_decay` is AdamW's (TOFU has 0.01).
    `validation`: how many retained questions `accuracies` asks; they are the same for every seed, and no method sees
    them. At most half of the retained questions are set aside. `unit`: what they count, "answers" (all tokens right) or
    "tokens", where answers are so long that hardly an edit leaves one whole.
    `level`: what forgetting aims at, the share that a model gets right of such questions if it never learned them.
    None: the model's own on the split `holdout10`, which it must not have learned; 0 where the data have no such split.
    `rcond` is the cut of the closed-form methods (see `el.extract`). `idk`: the answers of the methods that say so.
    `eos`: an answer ends with the tokenizer's end-of-text token, as in training; `ANSWERS_END` says what counts it.
    `shift`: closed forms read the positions that predict the answers, not those that hold them; answers of one token
    need it. `mixed`: bfloat16 arithmetic where methods train and where answers are asked, two to three times as fast on
    a processor that multiplies it; closed forms read their columns in float32 all the same.

    Raises `ValueError` for an unknown unit and for splits that share a question, `KeyError` for splits that the data do
    not have.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    data: QuestionData
    forget: str = "forget10"
    retain: str = "retain90"
    seed: int = 0
    epochs: int = 5
    batch_size: int = 16
    weight_decay: float = 0.01
    validation: int = 160
    unit: Unit = "answers"
    level: float | None = None
    rcond: float = 1e-6
    idk: Sequence[str] = IDK
    eos: bool = ANSWERS_END
    shift: bool = False
    mixed: bool = False
    _memo: Memo = field(default_factory=Memo, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validation"):
            if getattr(self, name) < 1:
                raise ValueError(f"Problem: {name} must be at least 1, got {getattr(self, name)}.")
        if self.level is not None and not 0 <= self.level < 1:
            raise ValueError(f"Problem: level is a share in [0, 1), got {self.level}.")
        if self.unit not in get_args(Unit):
            raise ValueError(f"Problem: unit must be one of {', '.join(get_args(Unit))}, got {self.unit!r}.")
        if isinstance(self.idk, str) or not self.idk or not all(isinstance(s, str) and s.strip() for s in self.idk):
            raise ValueError("Problem: idk must be a collection of at least one sentence.")
        object.__setattr__(self, "idk", tuple(self.idk))
        shared = {*self.data.pairs(self.forget)} & {*self.data.pairs(self.retain)}
        if shared:
            raise ValueError(
                f"Problem: {self.forget} and {self.retain} share {len(shared)} questions, such as {min(shared)[0]!r}; "
                "what is to be forgotten cannot be retained."
            )
        if len(self.data[self.retain]) < 2:
            raise ValueError(f"Problem: {self.retain} has one question; two are needed, one of them for validation.")

    # ------------------------------------------------------------------------------------------------ questions

    @property
    def forget_pairs(self) -> list[Pair]:
        """(prompt, answer) of what is to be forgotten."""
        return self.data.pairs(self.forget)

    @property
    def retain_pairs(self) -> list[Pair]:
        """(prompt, answer) of what methods may use of the rest: all but `validation_pairs`."""
        return self._retained()[1]

    @property
    def validation_pairs(self) -> list[Pair]:
        """(prompt, answer) of the retained questions that `accuracies` asks."""
        return self._retained()[0]

    def _retained(self) -> tuple[list[Pair], list[Pair]]:
        pairs = self.data.pairs(self.retain)
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
        count = min(self.validation, len(pairs) // 2)
        asked = set(order[:count])
        return [pairs[i] for i in sorted(asked)], [pair for i, pair in enumerate(pairs) if i not in asked]

    def accuracies(self, model: nn.Module) -> tuple[float, float]:
        """(share of `forget_pairs`, share of `validation_pairs`) that is right, in answers or tokens: see `unit`.

        Right: teacher-forced, the token, or each token of the answer, is the most probable one. Raises
        `FloatingPointError` if the model's probabilities are no numbers.
        """
        right = self.exact if self.unit == "answers" else self.tokens
        return right(model, self.forget_pairs), right(model, self.validation_pairs)

    @property
    def methods(self) -> Mapping[str, Method]:
        """Every method of this room, by name."""
        from engramlib.lab.unlearning.text.registry import METHODS  # whose methods import this module

        return METHODS

    def __len__(self) -> int:
        return len(self.data[self.forget]) + len(self.retain_pairs)

    def goal(self) -> float:
        """`level`, or the share that the model gets right of the questions of `holdout10`, in answers or tokens."""
        if self.level is not None:
            return self.level
        if HOLDOUT not in self.data:
            return 0.0
        right = self.exact if self.unit == "answers" else self.tokens
        return min(0.99, right(self.model, self.data.pairs(HOLDOUT)))

    def exact(self, model: nn.Module, pairs: Sequence[Pair]) -> float:
        """Share of `pairs` whose whole answer greedy decoding gets right, teacher-forced."""
        answers = self._greedy(model, pairs)
        return sum(bool(right.all()) for right in answers) / len(answers)

    def tokens(self, model: nn.Module, pairs: Sequence[Pair]) -> float:
        """Share of all tokens of the answers that greedy decoding gets right, teacher-forced."""
        return float(torch.cat(self._greedy(model, pairs)).double().mean())

    def _greedy(self, model: nn.Module, pairs: Sequence[Pair]) -> list[Tensor]:
        with self.precision():
            answers = language.answer_logprobs(model, self.tokenizer, pairs, batch_size=4 * self.batch_size)
        if not all(torch.isfinite(answer.logprobs).all() for answer in answers):
            raise FloatingPointError("the log-probabilities of the answers are not finite.")
        return [answer.greedy for answer in answers]

    # -------------------------------------------------------------------------------------------------- batches

    @property
    def steps(self) -> int:
        """Number of batches in a pass over the forget set."""
        return -(-len(self.data[self.forget]) // self.batch_size)

    def draws(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(epoch, rows of `forget_pairs`, as many rows of `retain_pairs`), one for each step of a gradient method."""
        generator, number = self.generator(), len(self.data[self.forget])
        retained = self._endless(len(self.retain_pairs))
        for epoch in range(self.epochs):
            order = torch.randperm(number, generator=generator)
            for rows in order.tensor_split(self.steps):
                yield epoch, rows, torch.tensor([next(retained) for _ in rows])

    def _endless(self, number: int) -> Iterator[int]:
        generator = self.generator(stream=1)
        while True:
            yield from torch.randperm(number, generator=generator).tolist()

    def precision(self) -> AbstractContextManager[None]:
        """The arithmetic of a forward pass: bfloat16 if `mixed`, whatever autocast the caller stands in."""
        return arithmetic(self.device, mixed=self.mixed)

    def encode(self, pairs: Sequence[Pair]) -> Batch:
        """One batch on the model's device: `input_ids`, `attention_mask`, and `labels`, -100 outside the answers."""
        (batch,) = language.batches(self.tokenizer, pairs, batch_size=len(pairs), eos=self.eos)
        return to_device(batch, self.device)

    def moments(self, layers: str | None, *, bias: str = "absorb") -> tuple[Moments, Moments]:
        """(Σ⁺ of the forgotten answers' tokens, Σ⁻ of the retained ones'), collected once for all settings."""

        def collect() -> tuple[Moments, Moments]:
            forget, retain = (
                language.collect(
                    self.model,
                    self.tokenizer,
                    pairs,
                    layers=layers,
                    batch_size=4 * self.batch_size,
                    bias=bias,
                    eos=self.eos,
                    shift=self.shift,
                )
                for pairs in (self.forget_pairs, self.retain_pairs)
            )
            return forget, retain

        return self.once(("moments", layers, bias), collect)


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """The model's outputs on a batch, (batch, tokens, vocabulary), float32."""
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
