"""Methods that raise or lower the likelihood of answers: GradDiff, and teaching it to say "I don't know"."""

from __future__ import annotations

from torch import Tensor, nn

from engramlib.lab.unlearning.method import Method, square
from engramlib.lab.unlearning.text import losses
from engramlib.lab.unlearning.text.answers import idk_pairs
from engramlib.lab.unlearning.text.descent import Turn, answer_nll, descend, pick
from engramlib.lab.unlearning.text.problem import EPOCHS, Problem


def graddiff(problem: Problem, *, lr: float, alpha: float) -> nn.Module:
    """Gradient ascent on the answers to forget, held by descent on retained ones.

    Loss: -NLL(forget) + α NLL(retain). The first term has no lower bound, so the model has to be stopped by the number
    of steps. Trained: everything. Source: Maini et al. 2024 (COLM, arXiv:2401.06121), "gradient difference", there with
    α = 1; Liu et al. 2022 (arXiv:2203.12817). Grid: three learning rates, three α
    and three numbers of epochs, in a Latin square.
    """

    def loss(model: nn.Module, turn: Turn) -> Tensor:
        return losses.grad_diff(answer_nll(model, turn.forget), answer_nll(model, turn.retain), alpha)

    return descend(problem, loss, lr=lr, desc="graddiff")


def idknll(problem: Problem, *, lr: float, alpha: float) -> nn.Module:
    """Train on the questions to forget with answers such as "That is not known.", and on retained ones as they are.

    Loss: NLL(I don't know) + α NLL(retain). Each question gets a sentence of `problem.idk`, drawn anew in every epoch.
    Nothing lowers the likelihood of the old answer as such. Trained: everything. Source: Maini et al. 2024 (COLM,
    arXiv:2401.06121), there the "preference optimisation" baseline with α = 1; "IdkNLL" is OpenUnlearning's name (Dorna
    et al. 2025, arXiv:2506.12618). Grid: three learning rates, three α
    and three numbers of epochs, in a Latin square.
    """
    answers = idk_pairs(problem)

    def loss(model: nn.Module, turn: Turn) -> Tensor:
        batch = problem.encode(pick(answers[turn.epoch], turn.rows))
        return answer_nll(model, batch) + alpha * answer_nll(model, turn.retain)

    return descend(problem, loss, lr=lr, desc="idknll")


METHODS = (
    Method(
        "graddiff",
        "GradDiff",
        "Maini et al. 2024, arXiv:2401.06121",
        square(lr=(3e-4, 6e-4, 1e-3), alpha=(2.0, 5.0, 10.0), epochs=EPOCHS),
        graddiff,
    ),
    Method(
        "idknll",
        "IdkNLL",
        "Maini et al. 2024, arXiv:2401.06121",
        square(lr=(5e-4, 1e-3, 2e-3), alpha=(1.0, 2.0, 5.0), epochs=EPOCHS),
        idknll,
    ),
)
