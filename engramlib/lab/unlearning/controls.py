"""Controls: edits that should not do what an engram does, or that only look as if they did."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib.layers import supported_layers


def random_subspace(model: nn.Module, engram: el.Engram, seed: int, *, moments: el.Moments | None = None) -> el.Engram:
    """A random part of the weights, as large as the engram: W⁺ = c · W R Rᵀ in each layer.

    R has k orthonormal columns drawn uniformly, in homogeneous coordinates where the engram has a bias. k is chosen so
    that W R Rᵀ has about the engram's size, but at most half the width, so that it stays a matter of chance which
    directions go; c makes the size exact. If ablating this erased the target and spared the rest, the size of the
    edit would explain what the engram does.

    "Size" is the Frobenius norm ‖W⁺‖ of weight and bias. An engram can be many times larger than W in directions that
    the data hardly use, and a random edit of that norm then ruins every class. `moments` (of all data,
    `sum(moments_by_concept.values())`) asks the fairer question: as large *on the data*, ‖W⁺ X‖ = tr(W⁺ Σ W⁺ᵀ)^½.

    Works for every layer type of `engramlib`. Cost: a QR factorisation of d × k per layer.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = supported_layers(model)
    cut = {}
    for name, (weight, bias) in engram.items():
        if name not in layers:
            raise ValueError(f"random_subspace: the model has no layer {name!r}; is this another model's engram?")
        layer, absorbed = layers[name], bias is not None
        own = layer.matrix(layer.module.weight, layer.module.bias if absorbed else None).cpu()
        wanted = layer.matrix(weight, bias).cpu()
        width = own.shape[-1]
        sigma = None if moments is None else moments[name].double().cpu()
        if sigma is not None and sigma.shape[-1] != width:
            raise ValueError(
                f"random_subspace: layer {name!r} of the engram is {width} wide, of the moments {sigma.shape[-1]}; "
                "collect both with the same bias setting."
            )
        share = _size(wanted, sigma) / _size(own, sigma)
        k = min(max(1, round(width * share)), max(1, width // 2))
        basis = torch.linalg.qr(torch.randn(width, k, generator=generator, dtype=torch.float64)).Q
        part = own @ basis @ basis.T
        part *= (_size(wanted, sigma) / _size(part, sigma)) ** 0.5
        cut[name] = tuple(None if p is None else p.to(weight) for p in layer.parameters(part, absorbed))
    return el.Engram(cut, engram.norms)


def _size(matrix: Tensor, sigma: Tensor | None) -> float:
    """‖M‖² or, with second moments, ‖M X‖²."""
    return float((matrix * (matrix if sigma is None else matrix @ sigma)).sum())


def same_norm(engram: el.Engram, like: el.Engram) -> el.Engram:
    """`engram` with each layer (weight and bias together) scaled to the Frobenius norm that layer has in `like`."""
    sizes = {name: (_norm(engram[name]), _norm(like[name])) for name in engram}
    for name, (own, wanted) in sizes.items():
        if own == 0 and wanted > 0:
            raise ValueError(f"same_norm: layer {name!r} of the engram is zero and cannot be scaled.")
    return engram.scaled({name: wanted / own if own else 1.0 for name, (own, wanted) in sizes.items()})


def _norm(layer: tuple[Tensor, Tensor | None]) -> float:
    return sum(float(part.double().square().sum()) for part in layer if part is not None) ** 0.5


class _MaskClass(nn.Module):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, logits: Tensor) -> Tensor:
        if not 0 <= self.index < logits.shape[1]:
            raise ValueError(f"mask_class: index {self.index}, but the model has {logits.shape[1]} outputs.")
        masked = logits.clone()
        masked[:, self.index] = -torch.inf
        return masked


def mask_class(model: nn.Module, index: int) -> nn.Module:
    """`model` with the logit of class `index` at -∞: it never answers that class, and every weight stays.

    By class-wise accuracy this erases perfectly. It is here to show what accuracy cannot tell. The weights are shared
    with `model`, not copied.
    """
    return nn.Sequential(OrderedDict(model=model, mask=_MaskClass(index)))
