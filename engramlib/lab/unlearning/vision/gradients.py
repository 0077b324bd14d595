"""Methods that go on training, with the true labels: fine-tuning, gradient ascent, both, and an l1 penalty."""

from __future__ import annotations

from torch import Tensor, nn

from engramlib.lab.unlearning.method import EPOCHS, Method, square
from engramlib.lab.unlearning.vision.descent import cross_entropy, descend, forget_batches
from engramlib.lab.unlearning.vision.problem import Problem


def finetune(problem: Problem, *, lr: float) -> nn.Module:
    """Go on training on the kept images alone, and hope that the rest fades.

    Loss: CE(keep). Trained: everything. BatchNorm: training mode, so its running statistics become those of the kept
    images. Source: Warnecke et al. 2023 (NDSS, arXiv:2108.11577), Golatkar et al. 2020 (CVPR, arXiv:1911.04933), as a
    baseline in both. Grid: three learning rates times three numbers of epochs.
    """
    return descend(problem, "keep", cross_entropy, lr=lr, desc="finetune")


def neggrad(problem: Problem, *, lr: float) -> nn.Module:
    """Gradient ascent on what should go. Nothing holds the kept classes, and the loss has no upper bound.

    Loss: -CE(forget). Trained: everything. BatchNorm: training mode, as in the code of Fan et al. 2024; its running
    statistics drift towards the forget set, which is part of the damage. Source: Golatkar et al. 2020 (CVPR,
    arXiv:1911.04933); Graves et al. 2021 (AAAI, arXiv:2010.10981) and Thudi et al. 2022 (EuroS&P, arXiv:2109.13398)
    are cited for it too. Grid: three learning rates times three numbers of epochs.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
        return -cross_entropy(model, x, y)

    return descend(problem, "forget", loss, lr=lr, desc="neggrad")


def neggrad_plus(problem: Problem, *, lr: float, alpha: float) -> nn.Module:
    """Gradient ascent on the forget set, held by descent on the kept images.

    Loss: α CE(keep) - (1-α) CE(forget); each batch of kept images comes with one of the forget set, which is gone
    through again and again. Trained: everything. BatchNorm: training mode, each of the two batches with its own
    statistics, as in the authors' code. Source: Kurmanji et al. 2023 (NeurIPS, arXiv:2302.09880). Grid: three
    α, near 1 as theirs, three learning rates and three numbers of epochs, in a Latin square.
    """
    partners = forget_batches(problem)

    def loss(model: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
        return alpha * cross_entropy(model, x, y) - (1 - alpha) * cross_entropy(model, *next(partners))

    return descend(problem, "keep", loss, lr=lr, desc="neggrad_plus")


def l1_sparse(problem: Problem, *, lr: float, gamma: float) -> nn.Module:
    """Fine-tuning with a penalty that drives unused weights to zero, and the unused ones are the forgotten class's.

    Loss: CE(keep) + γ(t) Σ|θ|, with γ(t) falling linearly from γ to 0. Trained: everything, and everything is
    penalised, as in the authors' code. BatchNorm: training mode. Source: Jia et al. 2023 (NeurIPS, arXiv:2304.04934).
    Grid: three γ, from theirs (5e-4) upwards because there are fewer steps, three learning rates and three numbers of
    epochs, in a Latin square.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
        penalty = sum(p.float().abs().sum() for p in model.parameters() if p.requires_grad)
        return cross_entropy(model, x, y) + gamma * (1 - progress) * penalty

    return descend(problem, "keep", loss, lr=lr, desc="l1_sparse")


METHODS = (
    Method(
        "finetune",
        "Fine-tune",
        "Warnecke et al. 2023, arXiv:2108.11577",
        square(lr=(0.01, 0.03, 0.1), epochs=EPOCHS),
        finetune,
    ),
    Method(
        "neggrad",
        "NegGrad",
        "Golatkar et al. 2020, arXiv:1911.04933",
        square(lr=(0.0005, 0.002, 0.008), epochs=EPOCHS),
        neggrad,
    ),
    Method(
        "neggrad_plus",
        "NegGrad+",
        "Kurmanji et al. 2023, arXiv:2302.09880",
        square(lr=(0.003, 0.01, 0.03), alpha=(0.9, 0.95, 0.99), epochs=EPOCHS),
        neggrad_plus,
    ),
    Method(
        "l1_sparse",
        "l1-Sparse",
        "Jia et al. 2023, arXiv:2304.04934",
        square(lr=(0.01, 0.03, 0.06), gamma=(5e-4, 5e-3, 1.5e-2), epochs=EPOCHS),
        l1_sparse,
    ),
)
