"""What a model gives the tokens of an answer, and numbers made from that. One row an answer; no loop over tokens."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from engramlib import language
from engramlib.lab.data.questions import ANSWERS_END


@dataclass(frozen=True)
class Tokens:
    """The tokens of N answers, padded on the right to N x L. All numbers in float64.

    `mask` says which are real, `words` which of these are not the end token (see `data.questions.ANSWERS_END`).
    `logprob` = log-probability of the token, given the prompt and the answer so far; `match` = it was the likeliest.
    `normal` = (logprob - μ) / σ, with μ and σ the mean and standard deviation of the log-probability of a token drawn
    from the model's own distribution at that place; σ² is at least 1e-6, as in open-unlearning.
    """

    logprob: Tensor
    match: Tensor
    normal: Tensor
    mask: Tensor
    words: Tensor


def read(model: nn.Module, tokenizer, pairs: Sequence[tuple[str, str]], *, batch_size: int = 64) -> Tokens:
    """One forward pass over all (prompt, answer) pairs, teacher forced: `language.answer_logprobs`, as matrices.

    Each answer ends with the end token, if the tokenizer has one. Raises `FloatingPointError` where the model's outputs
    are not numbers.
    """
    ends = ANSWERS_END and tokenizer.eos_token_id is not None
    answers = language.answer_logprobs(model, tokenizer, pairs, batch_size=batch_size, eos=ends)
    logprob, match, mean, sd = (pad_sequence(c, batch_first=True).double() for c in zip(*answers, strict=True))
    counts = torch.tensor([len(answer.logprobs) for answer in answers])
    if not logprob.isfinite().all():
        raise FloatingPointError("the model's log-probabilities are not finite: no answer can be scored.")
    mask, words = (torch.arange(logprob.shape[1]) < n[:, None] for n in (counts, counts - int(ends)))
    return Tokens(logprob, match.bool(), (logprob - mean) / sd.clamp_min(1e-3), mask, words)


def memorised(tokens: Tokens) -> dict[str, np.ndarray]:
    """`em`, `exact` and `es`, each N numbers in [0, 1].

    em = share of the answer's tokens that are the likeliest under teacher forcing. exact = 1 where all are: what greedy
    decoding then says is the answer. es = 1 - k/n, k the first position from which every token to the end is right
    (counted from 0; k = n, so es = 0, where the last token is wrong). Without the end token.
    """
    n, place = tokens.words.sum(1), torch.arange(1, tokens.words.shape[1] + 1)
    right, wrong = tokens.match & tokens.words, ~tokens.match & tokens.words
    k = (wrong * place).amax(1)
    values = {"em": right.sum(1) / n, "exact": (k == 0).double(), "es": 1 - k / n}
    return {name: v.double().numpy() for name, v in values.items()}


def losses(tokens: Tokens) -> np.ndarray:
    """Mean negative log-probability of each answer's tokens, the end token among them, N numbers, nats."""
    return (-(tokens.logprob * tokens.mask).sum(1) / tokens.mask.sum(1)).numpy()


def membership(tokens: Tokens, answers: Sequence[str], *, k: float = 0.4) -> dict[str, np.ndarray]:
    """The four attacks' scores, N numbers each: the lower, the more an answer looks like one that was trained on.

    loss: mean loss (Yeom et al. 2018). zlib: that loss over the bytes of the zlib-compressed answer (Carlini et al.
    2021). mink: minus the mean log-probability of the share `k` of tokens with the lowest, at least one (Shi et al.
    2024). minkpp: the same of the normalised log-probabilities (Zhang et al. 2025). The first two count the end token,
    the last two do not.
    """
    if not 0 < k <= 1:
        raise ValueError(f"k must be a share of the tokens, in (0, 1]; got {k}.")
    loss = losses(tokens)
    packed = np.array([len(zlib.compress(answer.encode())) for answer in answers])
    return {
        "loss": loss,
        "zlib": loss / packed,
        "mink": -_lowest(tokens.logprob, tokens.words, k),
        "minkpp": -_lowest(tokens.normal, tokens.words, k),
    }


def _lowest(values: Tensor, mask: Tensor, k: float) -> np.ndarray:
    """Mean of the lowest ⌊k n⌋ values of each row, at least one."""
    taken = (k * mask.sum(1) + 1e-9).long().clamp_min(1)
    ascending = values.masked_fill(~mask, torch.inf).sort(1).values
    first = torch.arange(mask.shape[1]) < taken[:, None]
    return (ascending.masked_fill(~first, 0).sum(1) / taken).numpy()


def truth(right: np.ndarray, answer: np.ndarray, wrong: np.ndarray, owner: np.ndarray) -> dict[str, np.ndarray]:
    """`truth_ratio` and `choice` of N questions from mean losses.

    right = losses of the paraphrased answers (N), answer = of the answers as trained on (N), wrong = of all wrong
    answers, owner[j] = the question that wrong answer j belongs to.
    truth_ratio: t = exp(-mean loss of the wrong answers) / exp(-loss of the paraphrase), above 0 and without bound.
    choice = p / (p + Σ p_wrong) with p = exp(-loss), the answer's share among all answers on offer, in [0, 1].
    """
    n = len(right)
    mean_wrong = np.bincount(owner, wrong, n) / np.bincount(owner, minlength=n)
    ratio = np.exp(np.clip(right - mean_wrong, -700, 700))
    lowest = answer.copy()  # as in a softmax: probabilities that would all round to 0 still have shares
    np.minimum.at(lowest, owner, wrong)
    p, others = np.exp(lowest - answer), np.bincount(owner, np.exp(lowest[owner] - wrong), n)
    return {"truth_ratio": ratio, "choice": p / (p + others)}
