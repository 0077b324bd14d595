"""Learning on without overwriting: updates that leave alone what stored moments are of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engramlib._fitting import is_absorbed, sharing_groups
from engramlib._products import full_precision
from engramlib.layers import check_editable, supported_layers
from engramlib.moments import Moments
from engramlib.spectral import Spectrum, inverses

if TYPE_CHECKING:
    from jaxtyping import Float


def projections(
    moments: Moments,
    against: Moments | None = None,
    *,
    specificity: float = 1.0,
    energy: float = 0.99,
    rcond: float = 1e-6,
) -> dict[str, Float[Tensor, "*groups d d"]]:
    """P of each layer, so that an update D(I − P) of W leaves alone what ``moments`` are of.

    With ``against``, moments Σ' of what is being learned, P = Σ(Σ + λΣ')† is the soft projection of the paper: D(I − P)
    is the update D without *its* engram, the minimiser of ‖D' X‖² + λ‖(D' − D) X'‖². Without, P = UUᵀ, with U the
    leading eigenvectors of Σ that hold the part ``energy`` of its trace: gradient projection memory.

    Args:
        moments: Σ, of what was learned before.
        against: Σ', of the same layers; :meth:`OnlineMoments.moments` while it is being learned.
        specificity: λ > 0; less protects more.
        energy: in (0, 1]; more protects more.
        rcond: cut of Σ + λΣ', as in :func:`engramlib.extract`.

    Raises ``ValueError`` for moments of other layers, or a bad λ, energy or cut. Cost: one factorisation per distinct
    input, d³ to 9 d³. Source: Eq. 3 for the update; Saha et al. 2021 for U; chapter 19.

    Example:
        >>> import torch
        >>> x, y = torch.randn(20, 4).double(), torch.randn(30, 4).double()
        >>> mine, new = (Moments({"": z.T @ z}, {"": len(z)}) for z in (x, y))
        >>> P = x.T @ x @ torch.linalg.inv(x.T @ x + 3 * y.T @ y)
        >>> torch.allclose(projections(mine, new, specificity=3.0)[""], P)
        True
    """
    for argument, value in (("moments", moments), ("against", against)):
        if not isinstance(value, Moments) and not (argument == "against" and value is None):
            raise TypeError(f"{argument}: expected Moments, got {type(value).__name__}")
    if against is not None and set(moments) != set(against):
        raise ValueError(f"against: moments of other layers; {', '.join(sorted(set(moments) ^ set(against)))}")
    lam, part = positive("specificity", specificity, math.inf), positive("energy", energy)
    result: dict[str, Tensor] = {}
    for names in sharing_groups(moments, against or moments):
        sigma = moments[names[0]].double()
        if against is None:
            found = Spectrum(sigma, rcond)
            held = found.values.flip(-1).cumsum(-1).flip(-1)  # what each eigenvector and all larger ones hold
            kept = found.kept & (held - found.values < part * held[..., :1])
            basis = found.vectors * kept.unsqueeze(-2)
            matrix = basis @ basis.mT
        else:
            other = against[names[0]].to(sigma)
            if other.shape != sigma.shape:
                raise ValueError(f"against: Σ of layer {names[0]!r} has shape {tuple(other.shape)}")
            known = moments.identity.get(names[0])
            balance = None if known is not None and known.absorbed else False  # as the estimator has it
            matrix = sigma @ next(inverses(sigma, other, lam, [rcond], balance=balance)).matrix
        result.update(dict.fromkeys(names, matrix))
    return result


@contextmanager
def protected(model: nn.Module, projections: Mapping[str, Tensor]) -> Iterator[None]:
    """``with protected(model, P): optimiser.step()``: what the block adds to W becomes D(I − P), whatever made it.

    The step is projected, not the gradient: momentum, Adam's scaling and weight decay would lead a projected gradient
    out of the subspace again. Where P is one wider than the layer's input, its last coordinate is the bias.

    Raises ``ValueError`` for layers or shapes that the model does not have, before anything runs. Where the block
    raises, nothing is projected.

    Cost: a copy of the weights in float64, out·d² multiply-adds a layer. Source: ours; chapter 19.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model, before = nn.Linear(2, 1, bias=False), torch.zeros(1, 2)
        >>> nn.init.zeros_(model.weight) is model.weight
        True
        >>> with torch.no_grad(), protected(model, {"": torch.diag(torch.tensor([1.0, 0.0]))}):
        ...     _ = model.weight.add_(1.0)
        >>> model.weight.tolist()
        [[0.0, 1.0]]
    """
    if not isinstance(projections, Mapping):
        raise TypeError(f"projections: expected a dict of layer -> P, got {type(projections).__name__}")
    supported = supported_layers(model)
    for name, matrix in projections.items():
        if name not in supported:
            raise ValueError(f"projections: the model has no supported layer {name!r}")
        check_editable(layer := supported[name])
        shape = tuple(getattr(matrix, "shape", ()))
        d, groups = layer.width(absorbed=False), layer.kind.groups(layer.module)
        lead = () if groups is None else (groups,)
        if shape not in ((*lead, d, d), (*lead, d + layer.has_bias, d + layer.has_bias)):
            raise ValueError(f"projections: layer {name!r} reads columns of height {d}, and P has shape {shape}")
        if not bool(matrix.isfinite().all()):
            raise ValueError(f"projections: P of layer {name!r} has NaN or infinite entries")

    def matrix_of(name: str) -> Tensor:
        layer = supported[name]
        return layer.matrix(layer.weight, layer.bias if is_absorbed(layer, projections[name]) else None)

    before = {name: matrix_of(name).clone() for name in projections}
    yield
    with torch.no_grad(), full_precision():
        for name, old in before.items():
            layer, step = supported[name], matrix_of(name) - old
            kept = old + step - step @ projections[name].to(step)
            weight, bias = layer.parameters(kept, is_absorbed(layer, projections[name]))
            layer.weight.copy_(weight)
            if bias is not None and layer.bias is not None:
                layer.bias.copy_(bias)


def positive(name: str, value: Any, largest: float = 1.0) -> float:
    """``value`` as a number in (0, largest]; infinity is none."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) <= largest or math.isinf(value):
        upto = f" and <= {largest:g}" if largest < math.inf else ""
        raise ValueError(f"{name}: expected a number > 0{upto}, got {value!r}")
    return float(value)
