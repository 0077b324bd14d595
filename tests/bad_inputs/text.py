"""engramlib.language and forget: texts, tokenizers, language models."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib import language
from tests.bad_inputs import Gives, Raises, Row, Scene, made
from tests.bad_inputs.models import Int8Linear


class Letters:
    """A tokenizer of letters that puts token 1 before a text."""

    pad_token_id, bos_token_id, eos_token_id, model_max_length = 0, 1, 2, 40

    def __call__(self, texts: list[str], add_special_tokens: bool = True) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1] * add_special_tokens + [3 + ord(c) % 50 for c in text] for text in texts]}


class NoEnd(Letters):
    eos_token_id = None


class Causal(nn.Module):
    """The smallest causal language model: each token's output is of the mean of the tokens so far."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed, self.fc, self.lm_head = nn.Embedding(60, 8), nn.Linear(8, 8), nn.Linear(8, 60, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed(input_ids) * attention_mask.unsqueeze(-1)
        x = x.cumsum(1) / attention_mask.cumsum(1).clamp_min(1).unsqueeze(-1)
        return self.lm_head(self.fc(x).relu())


class Quantised(Causal):
    def __init__(self) -> None:
        super().__init__()
        self.fc = Int8Linear(8, 8)


class NoLogits(Causal):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> str:
        super().forward(input_ids, attention_mask)
        return "no logits"


causal = made(Causal)
tied = made(functools.partial(Causal, tied=True))
T, F, R = Letters(), [("q?", " abc"), "xyz"], [("what?", " this"), ("and?", " that one"), "more of it"]


def forget(s: Scene, **options: object) -> nn.Module:
    return el.forget(s.model, T, F, R, **options)


ROWS = [
    Row("language.batches", "one text", lambda s: language.batches(T, "text"), Raises(TypeError, "items", "list")),
    Row("language.batches", "no items", lambda s: language.batches(T, []), Raises(ValueError, "items", "empty list")),
    Row("language.batches", "a number among the items", lambda s: language.batches(T, ["a", 3]), Raises(TypeError, r"items\[1\]", "pair")),
    Row("language.batches", "a triple", lambda s: language.batches(T, [("a", "b", "c")]), Raises(TypeError, r"items\[0\]", "pair")),
    Row("language.batches", "an answer without tokens", lambda s: language.batches(T, [("a", "")]), Raises(ValueError, r"items\[0\].*answer", "leave it out")),
    Row("language.batches", "an item that is too long", lambda s: language.batches(T, ["a" * 99]), Raises(ValueError, r"items\[0\]", "truncate")),
    Row("language.batches", "batch_size 0", lambda s: language.batches(T, ["a"], batch_size=0), Raises(ValueError, "batch_size", ">= 1|at least 1|positive|integer")),
    Row("language.batches", "batch_size a float", lambda s: language.batches(T, ["a"], batch_size=2.0), Raises((TypeError, ValueError), "batch_size", "integer")),
    Row("language.batches", "max_length 0", lambda s: language.batches(T, ["a"], max_length=0), Raises(ValueError, "max_length", "integer|>= 1|at least 1")),
    Row("language.batches", "another word for truncate", lambda s: language.batches(T, ["a"], truncate="left"), Raises(ValueError, "truncate", '"prompt"')),
    Row("language.batches", "eos without an end-of-text token", lambda s: language.batches(NoEnd(), ["a"], eos=True), Raises(ValueError, "eos", "end-of-text")),
    Row("language.batches", "a model for a tokenizer", lambda s: language.batches(causal(), ["a"]), Raises(TypeError, "tokenizer", "Hugging Face")),
    Row("language.batches", "a tokenizer that gives one list too few", lambda s: language.batches(lambda t, add_special_tokens: {"input_ids": [[1]] * (len(t) - 1)}, ["a", "b"]), Raises(TypeError, "tokenizer", "one list for each")),
    Row("language.answer_rows", "a batch without labels", lambda s: language.answer_rows({"input_ids": torch.ones(1, 2)}), Raises(ValueError, "labels", "batches")),
    Row("language.answer_rows", "labels of one dimension", lambda s: language.answer_rows({"labels": torch.ones(2)}), Raises(ValueError, "labels", r"\(batch, tokens\)")),
    Row("language.collect", "a text for a model", lambda s: language.collect("gpt", T, F), Raises(TypeError, "model", "torch.nn.Module"), causal),
    Row("language.collect", "None for a tokenizer", lambda s: language.collect(s.model, None, F), Raises(TypeError, "tokenizer", "Hugging Face"), causal),
    Row("language.collect", "quantised weights", lambda s: language.collect(s.model, T, F), Raises(TypeError, "'fc'.*quantised", "bf16 or float32"), made(Quantised)),
    Row("language.collect", "an output tied to the embedding", lambda s: language.collect(s.model, T, F), Gives("left out unless it is named", lambda r, s: list(r) == ["fc"]), tied),
    Row("language.collect", "another word for bias", lambda s: language.collect(s.model, T, F, bias="yes"), Raises(ValueError, "bias", '"absorb" or "keep"'), causal),
    Row("language.answer_logprobs", "a model without logits", lambda s: language.answer_logprobs(s.model, T, F), Raises(TypeError, "model", "logits"), made(NoLogits)),
    Row("language.answer_logprobs", "no items", lambda s: language.answer_logprobs(s.model, T, []), Raises(ValueError, "items", "empty list"), causal),
    Row("language.answer_logprobs", "train mode", lambda s: language.answer_logprobs(s.model, T, F), Gives("one answer per item; flags as before", lambda r, s: len(r) == 2), causal),
    Row("language.untie", "a text for a model", lambda s: language.untie("gpt"), Raises(TypeError, "model", "torch.nn.Module"), causal),
    Row("language.untie", "a model without ties", lambda s: language.untie(s.model), Gives("a copy with the same weights", lambda r, s: torch.equal(r.lm_head.weight, s.model.lm_head.weight)), causal),
    Row("forget", "a text for forget", lambda s: el.forget(s.model, T, "xyz", R), Raises(TypeError, "forget", "list"), causal),
    Row("forget", "nothing to forget", lambda s: el.forget(s.model, T, [], R), Raises(ValueError, "forget", "empty list"), causal),
    Row("forget", "nothing to retain", lambda s: el.forget(s.model, T, F, []), Raises(ValueError, "retain", "empty list"), causal),
    Row("forget", "an item in both", lambda s: el.forget(s.model, T, F, [*R, F[0]]), Gives("a warning that says so", lambda r, s: r is not s.model, warns="retain"), causal),
    Row("forget", "α = NaN", lambda s: forget(s, alpha=math.nan), Raises(ValueError, "alpha", "finite number"), causal),
    Row("forget", "α a dict that leaves layers out", lambda s: forget(s, alpha={"fc": 1.0}, inplace=True), Raises((TypeError, ValueError), "alpha", "number|layers"), causal),
    Row("forget", "another word for strength", lambda s: forget(s, strength="max", inplace=True), Raises(ValueError, "strength", '"norm"'), causal),
    Row("forget", "strength for a layer that is not there", lambda s: forget(s, strength={"conv": 1.0}, inplace=True), Raises(ValueError, "strength.*'conv'", "has|layer"), causal),
    Row("forget", "λ < 0", lambda s: forget(s, specificity=-1, inplace=True), Raises(ValueError, "specificity", ">= 0"), causal),
    Row("forget", "a base of another shape", lambda s: forget(s, base={"fc.weight": torch.ones(2, 2)}, inplace=True), Raises(ValueError, "base.*'fc.weight'", "shape"), causal),
    Row("forget", "layers that match nothing", lambda s: forget(s, layers=["conv"], inplace=True), Raises(ValueError, "'conv'", "'fc'"), causal),
    Row("forget", "a model that is no language model", lambda s: el.forget(s.model, T, F, R), Raises(TypeError, "input_ids|model", "")),
    Row("forget", "a tied output that is named", lambda s: forget(s, layers=["lm_head"], alpha=0.5), Gives("untied in the copy, the embedding as before", lambda r, s: torch.equal(r.embed.weight, s.model.embed.weight) and not torch.equal(r.lm_head.weight, r.embed.weight), warns=""), tied),
]  # fmt: skip
