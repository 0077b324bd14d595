"""Preference optimisation: answers to avoid (NPO, SimNPO), and answers to give in their place (IdkDPO, AltPO)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engramlib.lab.unlearning.method import Method, square
from engramlib.lab.unlearning.text import losses
from engramlib.lab.unlearning.text.answers import idk_pairs, own_alternatives
from engramlib.lab.unlearning.text.descent import Turn, answer_logprobs, answer_nll, descend, logprobs_before, pick
from engramlib.lab.unlearning.text.problem import EPOCHS, Pair, Problem

ALTERNATIVES = 5  # answers in place of the old one, as in the paper
GAMMA = 0.125  # weight of SimNPO's forget term beside a retain term of weight 1


def npo(problem: Problem, *, lr: float, beta: float) -> nn.Module:
    """Gradient ascent that stops by itself: an answer that has become improbable is left alone.

    Loss: 2/β log(1 + (p(y)/p0(y))^β) + NLL(retain), p0 the model before; the variant with a retain term, the authors'
    best on TOFU ("NPO+RT"). Trained: everything. Source: Zhang et al. 2024 (COLM, arXiv:2404.05868), with β = .1. Grid:
    three learning rates, three β and three numbers of epochs, in a Latin square.
    """
    before = _before(problem)

    def loss(model: nn.Module, turn: Turn) -> Tensor:
        logprob, _ = answer_logprobs(model, turn.forget)
        return losses.npo(logprob, before[turn.rows], beta) + answer_nll(model, turn.retain)

    return descend(problem, loss, lr=lr, desc="npo")


def simnpo(problem: Problem, *, lr: float, beta: float) -> nn.Module:
    """NPO without the model before, on the mean log-probability of a token: long answers count like short ones.

    Loss: .125 · (-2/β log σ(-β log p(y) / |y|)) + NLL(retain). Trained: everything. Source: Fan et al. 2024 (NeurIPS
    2025, arXiv:2410.07163), with γ = 0; the weight and β = 4.5 are those of the authors' command for forget10 (β = 2.5
    for forget05). Grid: three learning rates, three β
    and three numbers of epochs, in a Latin square.
    """

    def loss(model: nn.Module, turn: Turn) -> Tensor:
        forget = losses.simnpo(*answer_logprobs(model, turn.forget), beta)
        return GAMMA * forget + answer_nll(model, turn.retain)

    return descend(problem, loss, lr=lr, desc="simnpo")


def idkdpo(problem: Problem, *, lr: float, beta: float) -> nn.Module:
    """Prefer "That is not known." to the old answer.

    Loss: DPO with the sentence as winner and the old answer as loser, + NLL(retain). Each question gets a sentence of
    `problem.idk`, drawn anew in every epoch. Trained: everything. Source: Maini et al. 2024 (COLM, arXiv:2401.06121)
    name the idea; the DPO form is that of Zhang et al. 2024 (COLM, arXiv:2404.05868), with β = .1. Grid: three learning
    rates, three β and three numbers of epochs, in a Latin square.
    """
    return _prefer(problem, idk_pairs(problem), "idk", lr=lr, beta=beta)


def altpo(problem: Problem, *, lr: float, beta: float) -> nn.Module:
    """Prefer other answers of the model's own to the old one: forget the fact, keep the way of answering.

    Loss: DPO with an alternative as winner and the old answer as loser, + NLL(retain). Trained: everything. The
    alternatives are the model's own, as in the paper (`own_alternatives`); the paper asks an instructed model for them,
    which a small one would not follow. TOFU's perturbed answers would be ready at hand, but the truth ratio is measured
    on them, and no method may train on its test. Epoch e uses the e-th alternative of a question, so that five epochs
    show each of five once, and ten twice. Source: Mekala et al. 2024 (COLING 2025, arXiv:2409.13474), with β = .1 and
    five alternatives. Grid: three learning rates, three β and three numbers of epochs, in a Latin square.
    """
    found = problem.once("alternatives", lambda: own_alternatives(problem, ALTERNATIVES))
    by_epoch = [[options[epoch % len(options)] for options in found] for epoch in range(problem.epochs)]
    return _prefer(problem, by_epoch, "altpo", lr=lr, beta=beta)


def _prefer(problem: Problem, winners: Sequence[Sequence[Pair]], key: str, *, lr: float, beta: float) -> nn.Module:
    """DPO of the winners of each epoch, one for each question of the forget set, over the old answers."""
    before = _before(problem)
    won = problem.once(
        ("before", key, problem.epochs), lambda: torch.stack([logprobs_before(problem, pairs) for pairs in winners])
    )

    def loss(model: nn.Module, turn: Turn) -> Tensor:
        win, _ = answer_logprobs(model, problem.encode(pick(winners[turn.epoch], turn.rows)))
        lose, _ = answer_logprobs(model, turn.forget)
        forget = losses.dpo(win, lose, won[turn.epoch, turn.rows], before[turn.rows], beta)
        return forget + answer_nll(model, turn.retain)

    return descend(problem, loss, lr=lr, desc=key)


def _before(problem: Problem) -> Tensor:
    return problem.once("before", lambda: logprobs_before(problem, problem.forget_pairs))


def _grid(rates: Sequence[float], betas: Sequence[float]) -> tuple[dict[str, object], ...]:
    return square(lr=rates, beta=betas, epochs=EPOCHS)


METHODS = (
    Method(
        "idkdpo",
        "IdkDPO",
        "Maini et al. 2024, arXiv:2401.06121",
        _grid((5e-4, 1e-3, 1.5e-3), (0.05, 0.1, 0.2)),
        idkdpo,
    ),
    Method("npo", "NPO", "Zhang et al. 2024, arXiv:2404.05868", _grid((5e-4, 1e-3, 2e-3), (0.1, 0.5, 1.0)), npo),
    Method(
        "simnpo", "SimNPO", "Fan et al. 2024, arXiv:2410.07163", _grid((5e-4, 8e-4, 1.2e-3), (2.5, 3.5, 4.5)), simnpo
    ),
    Method("altpo", "AltPO", "Mekala et al. 2024, arXiv:2409.13474", _grid((3e-4, 5e-4, 1e-3), (0.1, 0.5, 1.0)), altpo),
)
