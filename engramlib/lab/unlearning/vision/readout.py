"""Methods that change only what is read out of the last layer: the control that accuracy cannot tell from the rest."""

from __future__ import annotations

import copy

import torch
from torch import nn

from engramlib.lab.unlearning.method import Method
from engramlib.lab.unlearning.vision.leace import leace
from engramlib.lab.unlearning.vision.problem import Problem


def logit_mask(problem: Problem) -> nn.Module:
    """The class is never answered, and every feature stays: a control.

    Update: in `fc`, the weights and bias of a forgotten class become the mean over the kept classes, and its bias goes
    down by 1. Its logit is then the kept logits' mean - 1, always below their largest; the other logits keep every bit.
    A logit of -∞ or -10,000 would mask as well, but the loss of a relearning attempt would be ∞ and no step would bring
    the class back: the mask would look like the deepest erasure of all. Trained: nothing. BatchNorm: evaluation mode.
    Source: ours, as a control; filtering logits goes back to Baumhauer et al. 2022 (Machine Learning,
    arXiv:2002.02730). Grid: one setting, nothing to tune.

    Raises `ValueError` if the model has no linear layer `fc` with a bias.
    """
    model = copy.deepcopy(problem.model)
    fc = getattr(model, "fc", None)
    if not isinstance(fc, nn.Linear) or fc.bias is None:
        raise ValueError("logit_mask: the model needs a linear layer .fc with a bias.")
    gone, kept = list(problem.forget), list(problem.kept)
    with torch.no_grad():
        fc.weight[gone] = fc.weight[kept].mean(0)
        fc.bias[gone] = fc.bias[kept].mean() - 1
    return model


METHODS = (
    Method("leace", "LEACE", "Belrose et al. 2023, arXiv:2306.03819", ({},), leace),
    Method("logit_mask", "Masked logit", "control", ({},), logit_mask),
)
