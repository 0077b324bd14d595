"""Greedy answers, many at a time, and how much of the right answer they contain."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from engramlib import language
from engramlib.lab.models.tokenizers import language_extra
from engramlib.running import evaluating


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer,
    pairs: Sequence[tuple[str, str]],
    *,
    max_new_tokens: int | None = None,
    batch_size: int = 128,
) -> list[str]:
    """What the model answers to each prompt, word for word the likeliest, until it ends the sequence.

    Many prompts at a time, padded on the left, with the key-value cache of `model.generate`; the prompt's tokens are
    those that `language.batches` makes, so that generation and teacher forcing read the same input. `max_new_tokens`:
    None = a quarter more than the longest right answer of these pairs, at least 8 more (TOFU allows 200 for all; a
    model that has lost its end then rambles for most of the time). The same for every question, so batches do not
    matter; never beyond the model's context.
    """
    prompts, lengths = _prompts(tokenizer, pairs)
    longest, n = max(map(len, prompts)), max(lengths)
    limit = max(n + 8, n * 5 // 4) if max_new_tokens is None else max_new_tokens
    config = getattr(model, "config", None)
    context = getattr(config, "max_position_embeddings", None) or longest + limit
    limit = min(limit, context - longest)
    if limit < 1:
        raise ValueError(f"generate: no room for an answer: a prompt has {longest} tokens, the context {context}.")
    ends = _ends(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
    device = next(model.parameters()).device
    order, texts = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), {}
    plain = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}  # whatever the model's own settings say
    unused = {"temperature": None, "top_p": None, "top_k": None}
    with evaluating(model):
        for at in range(0, len(order), batch_size):
            part = order[at : at + batch_size]
            width = max(len(prompts[i]) for i in part)
            ids = torch.full((len(part), width), pad)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(part):
                ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
                mask[row, width - len(prompts[i]) :] = 1
            out = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=limit,
                pad_token_id=pad,
                eos_token_id=ends or None,
                use_cache=True,
                **plain,
                **unused,
            )
            said = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
            texts.update(zip(part, said, strict=True))
    return [texts[i].strip() for i in range(len(prompts))]


def _prompts(tokenizer, pairs: Sequence[tuple[str, str]]) -> tuple[list[list[int]], list[int]]:
    """Each prompt's tokens, and how many the right answer has."""
    prompts, lengths = [], []
    for batch in language.batches(tokenizer, list(pairs), batch_size=256):
        rows = language.answer_rows(batch)
        for ids, begin, n in zip(batch["input_ids"], rows.int().argmax(1), rows.sum(1), strict=True):
            prompts.append(ids[:begin].tolist())
            lengths.append(int(n))
    return prompts, lengths


def _ends(model: nn.Module, tokenizer) -> list[int]:
    """The tokens that end an answer: the tokenizer's, and those of the model (chat models have several)."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    own = own if isinstance(own, list) else [own]
    return sorted({end for end in (tokenizer.eos_token_id, *own) if end is not None})


def rouge_recall(answers: Sequence[str], said: Sequence[str]) -> np.ndarray:
    """ROUGE-L recall: the longest common subsequence of words over the words of the right answer, N numbers in [0, 1].

    Google's `rouge-score` (Lin 2004) with Porter's stemmer, lower case, letters and digits only, as TOFU uses it.
    """
    logging.getLogger("absl").setLevel(logging.WARNING)  # it announces its tokenizer at every start
    scorer = language_extra("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=True)
    return np.array([scorer.score(a, s)["rougeL"].recall for a, s in zip(answers, said, strict=True)])
