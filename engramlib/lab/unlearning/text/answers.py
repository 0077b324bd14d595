"""Answers to give in place of those to forget: "I don't know", and the model's own alternatives."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from engramlib import language
from engramlib.lab.unlearning.text.problem import Pair, Problem, logits
from engramlib.language import IGNORE
from engramlib.running import evaluating


def idk_pairs(problem: Problem) -> list[list[Pair]]:
    """For each epoch, every question of the forget set with a sentence of `problem.idk`, drawn at random.

    Raises `ValueError` where the tokenizer has no token for a word of a sentence: nobody can learn to say `<unk>`.
    """
    check_idk(problem)
    generator = problem.generator(stream=2)
    prompts = [prompt for prompt, _ in problem.forget_pairs]
    drawn = torch.randint(len(problem.idk), (problem.epochs, len(prompts)), generator=generator)
    return [[(prompt, " " + problem.idk[i]) for prompt, i in zip(prompts, row, strict=True)] for row in drawn.tolist()]


def check_idk(problem: Problem) -> None:
    """Raises `ValueError` where the tokenizer has no token for a word of a sentence of `problem.idk`."""
    unknown = getattr(problem.tokenizer, "unk_token_id", None)
    for sentence in problem.idk:
        tokens = problem.tokenizer([" " + sentence], add_special_tokens=False)["input_ids"][0]
        if unknown is not None and unknown in tokens:
            raise ValueError(
                f"idk: the tokenizer has no token for a word of {sentence!r}; pass Problem(idk=[...]) with "
                "sentences of words that it knows, or make a tokenizer from texts that have these words."
            )


@torch.no_grad()
def own_alternatives(problem: Problem, number: int) -> list[list[Pair]]:
    """Up to `number` other answers of the model's own to each question of the forget set, the likeliest first.

    What would it have said, had it not remembered? At the token that carries the fact it has to take its second, third,
    ... choice (no special token), and goes on greedily from there: "lives in Lima, Peru" for "lives in Lyon, France".
    The token that carries the fact is the one of the answer that fewest retained answers have and the question has not;
    the first of equals. An answer that comes back to it is left out, unless all do.

    Cost: one teacher-forced pass, and greedy decoding of 2 `number` answers to each question.
    """
    pairs, model, tokenizer = problem.forget_pairs, problem.model, problem.tokenizer
    special, common = sorted(set(tokenizer.all_special_ids)), _answers_with(problem)
    starts: list[_Start] = []
    with evaluating(model):
        for first in range(0, len(pairs), 4 * problem.batch_size):
            batch = problem.encode(pairs[first : first + 4 * problem.batch_size])
            scores = logits(model, batch)
            scores[..., special] = -torch.inf
            rows = zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)
            for row, (ids, labels) in enumerate(rows):
                places = [t for t, token in enumerate(labels) if token != IGNORE and token not in special]
                known = set(ids[: places[0]])
                place = min(places, key=lambda t: (ids[t] in known, common[ids[t]], t))
                scores[row, place - 1, ids[place]] = -torch.inf
                longest = places[0] + len(places) + max(8, len(places) // 4)
                for token in scores[row, place - 1].topk(2 * number).indices.tolist():
                    starts.append(_Start(first + row, [*ids[:place], token], places[0], ids[place], longest))
        said = _continued(problem, starts)
    found: list[tuple[list[Pair], list[Pair]]] = [([], []) for _ in pairs]
    for start, tokens in zip(starts, said, strict=True):
        pair = (pairs[start.question][0], tokenizer.decode(tokens[start.answer :], skip_special_tokens=True))
        found[start.question][start.fact in tokens[start.answer :]].append(pair)
    return [(other or again)[:number] for other, again in found]


class _Start(NamedTuple):
    """The beginning of an answer, up to its first other token."""

    question: int
    tokens: list[int]
    answer: int  # where the answer begins
    fact: int  # the token that is not to be said
    longest: int  # tokens of prompt and answer


def _answers_with(problem: Problem) -> Counter[int]:
    """Token -> number of retained answers that have it."""
    encoded = language.batches(problem.tokenizer, problem.retain_pairs).encoded
    return Counter(token for _, labels in encoded for token in {*labels} - {IGNORE})


def _continued(problem: Problem, starts: list[_Start]) -> list[list[int]]:
    """The tokens of each start with what the model says greedily from there on, until it ends or gets too long."""
    end = problem.tokenizer.eos_token_id
    pad = 0 if end is None else end
    order = sorted(range(len(starts)), key=lambda i: len(starts[i].tokens))
    context = getattr(problem.model.config, "max_position_embeddings", None)
    found: list[list[int]] = [[]] * len(starts)
    for first in range(0, len(order), 16 * problem.batch_size):
        part = order[first : first + 16 * problem.batch_size]
        width = max(len(starts[i].tokens) for i in part)
        steps = max(starts[i].longest - len(starts[i].tokens) for i in part)
        if context is not None:
            steps = min(steps, context - width)
        ids, mask = torch.full((len(part), width), pad), torch.zeros(len(part), width, dtype=torch.long)
        for row, i in enumerate(part):  # padded on the left: what follows is what the model says
            tokens = starts[i].tokens
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        said = ids[:, width:] if steps < 1 else _greedy(problem, ids, mask, steps, pad)[:, width:]
        for row, i in enumerate(part):
            tokens = said[row].tolist()
            found[i] = starts[i].tokens + (tokens[: tokens.index(end)] if end in tokens else tokens)
    return found


def _greedy(problem: Problem, ids: Tensor, mask: Tensor, steps: int, pad: int) -> Tensor:
    return problem.model.generate(
        input_ids=ids.to(problem.device),
        attention_mask=mask.to(problem.device),
        max_new_tokens=steps,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=pad,
        eos_token_id=problem.tokenizer.eos_token_id,
    ).cpu()
