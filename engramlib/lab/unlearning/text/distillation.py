"""Unlearning as distillation from a teacher that knows a little less."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engramlib.lab.unlearning.method import Method, square
from engramlib.lab.unlearning.text import losses
from engramlib.lab.unlearning.text.descent import Turn, descend
from engramlib.lab.unlearning.text.problem import EPOCHS, Problem, logits
from engramlib.running import evaluating


def undial(problem: Problem, *, lr: float, beta: float) -> nn.Module:
    """Learn the model's own answers anew, after the logit of each right token was lowered.

    Loss: cross-entropy to softmax(z0 - β onehot(y)) at the answers' tokens, z0 the logits of the model before. The
    target is a fixed distribution, so there is something to converge to, and the paper needs no retain term: there is
    none here. Trained: everything. Source: Dong et al. 2024 (NAACL 2025, arXiv:2402.10052); OpenUnlearning has β = 10.
    Grid: three learning rates, three β
    and three numbers of epochs, in a Latin square.
    """
    teacher = problem.model

    def loss(model: nn.Module, turn: Turn) -> Tensor:
        with torch.no_grad(), evaluating(teacher):
            before = logits(teacher, turn.forget)
        return losses.undial(logits(model, turn.forget), before, turn.forget["labels"], beta)

    return descend(problem, loss, lr=lr, desc="undial")


METHODS = (
    Method(
        "undial",
        "UNDIAL",
        "Dong et al. 2024, arXiv:2402.10052",
        square(lr=(3e-4, 6e-4, 1e-3), beta=(8.0, 10.0, 12.0), epochs=EPOCHS),
        undial,
    ),
)
