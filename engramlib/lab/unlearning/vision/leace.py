"""Linear concept erasure in front of the classifier."""

from __future__ import annotations

import copy
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from engramlib.lab.unlearning.vision.problem import Problem


class ErasedFeatures(nn.Module):
    """`model` with an affine map between its features and its classifier: x -> x - L Rᵀ (x - mean).

    It has `.features(x)` and `.fc` again. `left`, `right`: d x k.
    """

    def __init__(self, model: nn.Module, left: Tensor, right: Tensor, mean: Tensor) -> None:
        super().__init__()
        self.model, self.fc = model, model.fc
        model.fc = nn.Identity()  # it stands behind the eraser now
        for name, tensor in (("left", left), ("right", right), ("mean", mean)):
            self.register_buffer(name, tensor)

    def features(self, x: Tensor) -> Tensor:
        found = self.model.features(x)
        return found - (found - self.mean) @ self.right @ self.left.mT

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def leace(problem: Problem) -> nn.Module:
    """Take "is it the forget class?" out of the penultimate features, so that no linear read-out finds it.

    Update: x' = x - W† P W (x - mean), W = Cov(x)^(-1/2) and P the projector on W Cov(x, z): the smallest change, in
    mean squares, after which all classes of z have the same mean. z = is the forget class (one column for each of
    several). Fitted on the features of all training images, in float64, by the authors' package `concept-erasure`.
    Trained: nothing; a fixed map in front of `fc`. BatchNorm: evaluation mode.
    It promises something about the features, not about the answers of the old `fc`.
    Source: Belrose et al. 2023 (NeurIPS, arXiv:2306.03819). Grid: one setting, nothing to tune.

    Raises `ImportError` without the package and `ValueError` if the model is not `fc` of `features`.
    """
    eraser_class = _eraser_class()
    model = copy.deepcopy(problem.model).eval()
    if not hasattr(model, "features") or not isinstance(getattr(model, "fc", None), nn.Linear):
        raise ValueError("leace: the model needs .features(x) and a linear layer .fc.")
    x, y = problem.data.train.x, problem.data.train.y.cpu()
    with torch.no_grad():
        probe = x[:8].to(problem.device)
        if not torch.allclose(model(probe), model.fc(model.features(probe)), atol=1e-4):
            raise ValueError("leace: the model's output is not fc(features(x)), so an eraser has no place in it.")
        found = torch.cat([model.features(part.to(problem.device)).double().cpu() for part in x.split(1024)])
    concept = (y[:, None] == torch.tensor(problem.forget)).double()
    eraser = eraser_class.fit(found, concept, svd_tol=1e-6)  # the default .01 drops concepts that are rare
    left, right = eraser.proj_left, eraser.proj_right.mT
    return ErasedFeatures(model, *(t.to(problem.device, model.fc.weight.dtype) for t in (left, right, eraser.bias)))


def _eraser_class() -> Any:
    """The package's `LeaceEraser`, imported without `torch.jit.script`, which torch deprecates and will drop.

    The package compiles two functions with it as it is imported; neither is called here.
    """
    try:
        with patch.object(torch.jit, "script", lambda function: function, create=True):
            from concept_erasure import LeaceEraser
    except ImportError as error:
        raise ImportError('leace needs the package concept-erasure: pip install "engramlib[lab]"') from error
    return LeaceEraser
