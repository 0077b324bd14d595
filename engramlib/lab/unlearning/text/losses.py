"""The losses, as functions of log-probabilities and activations. Each is the mean over a batch.

Notation: y an answer with |y| tokens, log p(y) the sum of the log-probabilities of its tokens given the question,
log p0(y) the same of the model before unlearning, σ the logistic function.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engramlib.language import IGNORE


def answer_logprobs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(log p(y), |y|) of each answer of a batch, both of shape (batch,).

    `logits`: (batch, tokens, vocabulary); position t predicts token t + 1. `labels`: (batch, tokens), the tokens of
    the answers, -100 elsewhere.
    """
    targets = labels[:, 1:]
    counted = targets != IGNORE
    each = -F.cross_entropy(logits[:, :-1][counted], targets[counted], reduction="none")
    return torch.zeros_like(targets, dtype=each.dtype).masked_scatter(counted, each).sum(1), counted.sum(1)


def nll(logits: Tensor, labels: Tensor) -> Tensor:
    """-Σ log p(y) / Σ |y|, the loss that models are trained with: the mean over all tokens of the batch's answers."""
    logprobs, lengths = answer_logprobs(logits, labels)
    return -logprobs.sum() / lengths.sum()


def grad_diff(forget: Tensor, retain: Tensor, alpha: float = 1.0) -> Tensor:
    """-L(forget) + α L(retain), L = `nll`: without a lower bound. Maini et al. 2024 (COLM, arXiv:2401.06121), α = 1."""
    return alpha * retain - forget


def dpo(win: Tensor, lose: Tensor, win_before: Tensor, lose_before: Tensor, beta: float) -> Tensor:
    """-2/β log σ(β [log p(win)/p0(win) - log p(lose)/p0(lose)]), from the log-probabilities of whole answers.

    Rafailov et al. 2023 (arXiv:2305.18290), with the factor 2/β of Zhang et al. 2024, so that NPO is the same loss
    without a winner.
    """
    return -2 / beta * F.logsigmoid(beta * ((win - win_before) - (lose - lose_before))).mean()


def npo(logprob: Tensor, before: Tensor, beta: float) -> Tensor:
    """2/β log(1 + (p(y)/p0(y))^β) = -2/β log σ(-β log p(y)/p0(y)): at least 0, whatever the model does.

    Its gradient is that of log p(y), gradient ascent's, times 2 p^β / (p^β + p0^β): one where p = p0 or β → 0, and
    nothing once y is improbable. Zhang et al. 2024 (COLM, arXiv:2404.05868), Eq. 3.
    """
    return -2 / beta * F.logsigmoid(-beta * (logprob - before)).mean()


def simnpo(logprob: Tensor, length: Tensor, beta: float, gamma: float = 0.0) -> Tensor:
    """-2/β log σ(-β log p(y) / |y| - γ): NPO for the mean token, and without the model before.

    Fan et al. 2024 (NeurIPS 2025, arXiv:2410.07163), with their default γ = 0.
    """
    return -2 / beta * F.logsigmoid(-beta * logprob / length - gamma).mean()


def undial(logits: Tensor, before: Tensor, labels: Tensor, beta: float) -> Tensor:
    """-Σ_v q(v) log p(v), mean over the answers' tokens, with q = softmax(z0 - β onehot(y)).

    The teacher q is the model before unlearning, z0 its logits, with the logit of the true token lowered by β.
    Dong et al. 2024 (NAACL 2025, arXiv:2402.10052).
    """
    counted = labels[:, 1:] != IGNORE
    targets = labels[:, 1:][counted]
    lowered = before[:, :-1][counted] - beta * F.one_hot(targets, logits.shape[-1])
    return F.cross_entropy(logits[:, :-1][counted], lowered.softmax(-1))


def activation_gap(activations: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of each token's activation and its target: (batch, tokens, d), tokens where `mask`.

    First over d and the tokens of an item, then over items. RMU's two terms: Li et al. 2024 (ICML, arXiv:2403.03218).
    """
    each = (activations - targets).square().mean(-1)
    each = torch.where(mask, each, 0.0)
    return (each.sum(1) / mask.sum(1)).mean()
