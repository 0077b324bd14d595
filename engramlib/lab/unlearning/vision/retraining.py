"""The reference: a network that never saw the classes."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from engramlib.lab.training import train_classifier
from engramlib.lab.unlearning.method import Method
from engramlib.lab.unlearning.vision.problem import Problem


def retrain(problem: Problem) -> nn.Module:
    """Exact unlearning: a fresh network of the same architecture, trained as the original was, without the classes.

    Loss: cross-entropy on the kept images. Trained: everything, from `problem.fresh(problem.seed)`, with
    `problem.training` (`train_classifier`'s arguments). BatchNorm: training mode.
    Source: the definition of unlearning (Cao and Yang 2015); "Retrain" in Table 2. Grid: one setting, the original's.

    Raises `ValueError` if the problem has no `fresh` or `training`.
    """
    if problem.fresh is None or not problem.training:
        raise ValueError(
            "retrain: the problem needs fresh (a function of a seed that makes an untrained network) and training "
            "(the arguments of train_classifier: epochs, lr, batch_size)."
        )
    kept = replace(problem.data, train=problem.keep_split("train"), val=problem.keep_split("val"))
    model = problem.fresh(problem.seed).to(problem.device)
    train_classifier(model, kept, seed=problem.seed, validate=False, **problem.training)
    return model


METHODS = (Method("retrain", "Retrain", "Cao and Yang 2015, IEEE S&P", ({},), retrain),)
