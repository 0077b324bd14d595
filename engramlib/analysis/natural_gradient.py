"""The engram as a natural gradient: steps in the Fisher metric, how far they are from W⁺, and the theorems behind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from engramlib._fitting import Deltas, as_engram, fitting_layers, is_absorbed
from engramlib.analysis.criteria import layers_of
from engramlib.engram import Engram, LayerEngram
from engramlib.moments import Moments
from engramlib.spectral import Spectrum, check_rcond, nothing_is_cut, scaled, units_of

# ------------------------------------------------------------------------------------------------------------ the steps


def natural_gradient(
    model: nn.Module,
    gradient: Engram,
    moments: Moments,
    factors: Mapping[str, Tensor] | None = None,
    *,
    damping: float = 0.0,
    rcond: float = 1e-6,
) -> Engram:
    """The natural gradient in the K-FAC metric A ⊗ G: layer by layer, c · (G + δσ²I)† ∇ A†, with A = Σ of all data.

    σ² = tr(G)/out is the mean eigenvalue of G, δ the damping, and c = σ²(1 + δ): only the *shape* of G is used, so
    that any G = σ²I gives ∇A†, whatever σ² and δ. As δ grows, G + δσ²I turns into a multiple
    of I: ∇A† is also the limit of strong damping.

    Args:
        model: whose layers these are.
        gradient: ∇, an engram from :func:`loss_gradient`.
        moments: A: moments of **all** data, target and reference. Their bias mode must be the gradient's.
        factors: G, from :func:`output_factors`; None = I in every layer.
        damping: δ >= 0, relative to the mean eigenvalue of G.
        rcond: eigenvalues of A, and of G + δσ²I, at or below this part of the largest count as zero. The G of a
            softmax
            layer has one: adding a constant to all logits changes nothing.

    Returns:
        Engram: the step's direction; ``ablate(model, step)`` is the unit step.

    Raises:
        ValueError: a gradient, moments or factors of other layers or shapes, a negative damping.

    Cost: a factorisation of every A and G. Source: Theorem 6.1 and Martens and Grosse (2015); chapter 05.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model, x = nn.Linear(3, 2, bias=False), torch.randn(9, 3).double()
        >>> from engramlib.analysis import loss_gradient
        >>> gradient = loss_gradient(model, [x.float()], lambda z, batch: 0.5 * z.square().sum())  # W Σ
        >>> step = natural_gradient(model, gradient, Moments({"": x.T @ x}, {"": 9}))
        >>> torch.allclose(step[""].weight, model.weight, atol=1e-5)
        True
    """
    check_rcond(rcond)
    _check_damping(damping)
    layers = layers_of(fitting_layers(model, {"moments": moments}), gradient, moments, "gradient")
    inverses: dict[int, Tensor] = {}
    steps = {}
    for name, layer in layers.items():
        a = moments[name]
        if id(a) not in inverses:
            # As in `extract`: the constant of a bias, far off the inputs' length, is measured in their units.
            units = units_of(a.double(), None) if is_absorbed(layer, a) else None
            inverses[id(a)] = scaled(Spectrum(scaled(a.double(), units), rcond).pinv(), units)
        matrix = layer.matrix(*gradient[name]).to(a.device) @ inverses[id(a)]
        if factors is not None:
            matrix = _factor(factors, name, matrix, damping, rcond) @ matrix
        weight, bias = layer.parameters(matrix, is_absorbed(layer, a))
        like = gradient[name].weight
        steps[name] = LayerEngram(weight.to(like), None if bias is None else bias.to(like))
    return Engram(steps, gradient.norms)


def forgetting_step(
    model: nn.Module,
    target: Moments,
    reference: Moments,
    factors: Mapping[str, Tensor] | None = None,
    *,
    base: Mapping[str, Tensor] | nn.Module | None = None,
    damping: float = 0.0,
    rcond: float = 1e-6,
) -> Engram:
    """The unit natural-gradient step of the forgetting loss from W; with G isotropic it is W⁺ (Theorem 6.1).

    The forgetting loss of a layer, as a function of its edited weights U, is

        L(U) = ½σ² ( ‖(U − W0) X⁺‖² + ‖(U − W) X⁻‖² ):

    the target goes back to the null state, the reference stays where it is. At U = W its gradient is σ² ΔW Σ⁺ (the
    second term is flat there) and everywhere its curvature is Σ ⊗ σ²I, which is K-FAC's metric A ⊗ G when G = σ²I.
    So the step W − F⁻¹∇L(W) = W − ΔW Σ⁺ Σ† = W − W⁺ is Newton's, and lands on the minimiser. With another G it is
    W − σ² G⁻¹ W⁺: not the minimiser, and not the engram, unless G is a multiple of I on the columns of W⁺.

    Args:
        factors: G; None = isotropic: exactly ``engramlib.extract(model, target, reference)``.
        model, target, reference, base, rcond: as in :func:`engramlib.extract`.
        damping: as in :func:`natural_gradient`.

    Returns:
        Engram: the step to subtract, σ²(1 + δ)(G + δσ²I)† W⁺.

    Raises and cost: as :func:`natural_gradient`. Source: Theorem 6.1; chapter 05.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from engramlib import extract
        >>> model, x = nn.Linear(4, 3, bias=False).double(), torch.randn(50, 4).double()
        >>> target, reference = (Moments({"": part.T @ part}, {"": len(part)}) for part in (x[:20], x[20:]))
        >>> step = forgetting_step(model, target, reference, {"": 7.0 * torch.eye(3)})
        >>> torch.allclose(step[""].weight, extract(model, target, reference)[""].weight)
        True
    """
    layers = fitting_layers(model, {"target": target, "reference": reference})
    deltas, gradient = Deltas(base), {}
    for name, layer in layers.items():
        # In float64 whatever the model's dtype: the inverse of A would amplify a rounded gradient.
        matrix = deltas.of(layer, target[name]) @ target[name].double()
        gradient[name] = LayerEngram(*layer.parameters(matrix, is_absorbed(layer, target[name])))
    step = natural_gradient(model, Engram(gradient), target + reference, factors, damping=damping, rcond=rcond)
    return as_engram(layers, target, {name: layers[name].matrix(*step[name]) for name in step})


def exact_forgetting_step(
    model: nn.Module,
    target: Moments,
    reference: Moments,
    layer: str,
    fisher: Tensor,
    *,
    base: Mapping[str, Tensor] | nn.Module | None = None,
    damping: float = 0.0,
    rcond: float = 1e-6,
) -> Engram:
    """:func:`forgetting_step` of one layer in the exact Fisher metric F instead of K-FAC's A ⊗ G.

    The step is σ²(1 + δ) (F + δσ² I ⊗ A)† vec(ΔW Σ⁺) on the directions of A above the cut, with σ² the mean
    eigenvalue of F in coordinates where A = I, so that F = σ² I ⊗ A gives W⁺ and F = G ⊗ A gives the K-FAC step, at
    any damping δ.

    Args:
        layer: the layer's full name.
        fisher: F of that layer, from :func:`fisher_block` on all data, with the moments' bias mode.
        model, target, reference, base, damping, rcond: as in :func:`forgetting_step`.

    Returns:
        Engram: of this one layer; the step to subtract.

    Raises:
        ValueError: an F of another size; otherwise as :func:`forgetting_step`.

    Cost: an eigenvalue decomposition of order out·d. Source: Eq. 9 without the factorisation of Eq. 10; chapter 05.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from engramlib import extract
        >>> model, x = nn.Linear(4, 3, bias=False).double(), torch.randn(50, 4).double()
        >>> target, reference = (Moments({"": part.T @ part}, {"": len(part)}) for part in (x[:20], x[20:]))
        >>> from engramlib.analysis import fisher_block
        >>> step = exact_forgetting_step(model, target, reference, "", fisher_block(model, [x], "", loss="squared"))
        >>> torch.allclose(step[""].weight, extract(model, target, reference)[""].weight)
        True
    """
    check_rcond(rcond)
    _check_damping(damping)
    layers = fitting_layers(model, {"target": target, "reference": reference})
    if layer not in layers:
        raise ValueError(f"layer: there are no moments of {layer!r}")
    chosen = {layer: layers[layer]}
    delta = Deltas(base).of(layers[layer], target[layer])
    a = (target + reference)[layer].double()
    groups = delta.shape[:-2]
    out, d = delta.shape[-2:]
    if fisher.shape != (delta.numel(), delta.numel()):
        expected = (delta.numel(), delta.numel())
        raise ValueError(f"fisher: expected shape {expected} for layer {layer!r}, got {tuple(fisher.shape)}")
    spectrum = Spectrum(a.view(-1, d, d), rcond)
    inverse = torch.where(spectrum.kept, spectrum.values, torch.inf).rsqrt()  # 0 where it is cut
    whiten = spectrum.vectors * inverse.unsqueeze(-2)  # (groups, d, d)
    f = fisher.to(a.device).double().view(len(whiten), out, d, len(whiten), out, d)
    f = torch.einsum("xaiybj,xik,yjl->xakybl", f, whiten, whiten).reshape(delta.numel(), -1)
    mean = f.trace() / (out * spectrum.kept.sum())  # σ², on the kept directions
    damped = f + damping * mean * torch.eye(len(f), dtype=f.dtype, device=f.device)
    gradient = ((delta @ target[layer].double()).view(-1, out, d) @ whiten).flatten()
    if nothing_is_cut(damped, rcond):
        solved = torch.cholesky_solve(gradient.unsqueeze(-1), torch.linalg.cholesky(damped)).squeeze(-1)
    else:
        solved = Spectrum(damped, rcond).pinv() @ gradient
    step = mean * (1 + damping) * solved
    found = {layer: (step.view(-1, out, d) @ whiten.mT).view(*groups, out, d)}
    return as_engram(chosen, target, found)


# ----------------------------------------------------------------------------------------------- theorems, as functions


def objective(
    v: Tensor,
    delta: Tensor,
    plus: Tensor,
    minus: Tensor,
    *,
    metric: Tensor | None = None,
    reference_metric: Tensor | None = None,
) -> float:
    """Eq. 2 (half of it) with outputs measured in a metric: L_G(V) = ‖(V − ΔW) X⁺‖²_G + ‖V X⁻‖²_G, ‖M‖²_G = tr(Mᵀ G M).

    With W⁺ = ΔW Σ⁺ Σ† and A = Σ = Σ⁺ + Σ⁻, completing the square gives, for **every** G,

        L_G(V) = tr((V − W⁺)ᵀ G (V − W⁺) A) + L_G(W⁺):

    up to a constant, Eq. 2 is the squared distance to W⁺ in the K-FAC metric A ⊗ G (Corollary 6.3; the paper states
    it for G = σ²I).

    Args:
        v: V, (out, d).
        delta: ΔW, (out, d).
        plus, minus: Σ⁺, Σ⁻, (d, d).
        metric: G, (out, out), symmetric positive (semi-)definite; None = I.
        reference_metric: another metric for the second term; None = the same G.

    Cost: three products. Source: Eq. 2, Corollary 6.3 and Remark 6.2; chapter 05.
    """
    g = torch.eye(len(v), device=v.device) if metric is None else metric
    h = g if reference_metric is None else reference_metric
    v, delta, plus, minus, g, h = (t.double() for t in (v, delta, plus, minus, g, h))
    out, d = v.shape
    for name, matrix, shape in zip(
        ("delta", "plus", "minus", "metric", "reference_metric"),
        (delta, plus, minus, g, h),
        ((out, d), (d, d), (d, d), (out, out), (out, out)),
        strict=True,
    ):
        if matrix.shape != shape:
            raise ValueError(f"{name}: expected shape {shape} beside a v of {(out, d)}, got {tuple(matrix.shape)}")
    gap = v - delta
    return float(((g @ gap @ plus) * gap).sum() + ((h @ v @ minus) * v).sum())


def metric_minimiser(
    delta: Tensor, plus: Tensor, minus: Tensor, metric: Tensor, reference_metric: Tensor | None = None
) -> Tensor:
    """The minimiser of :func:`objective` of smallest norm, from its normal equations written out, without using Eq. 3.

    G (V − ΔW) Σ⁺ + H V Σ⁻ = 0, H the reference's metric, is one linear system for vec(V):
    (G ⊗ Σ⁺ + H ⊗ Σ⁻) vec(V) = vec(G ΔW Σ⁺). For H = G ≻ 0, G cancels and V = W⁺, whatever G is. If H ≠ G it does not.

    Args:
        delta, plus, minus: as in :func:`objective`.
        metric: G.
        reference_metric: H; None = G.

    Returns:
        Tensor: float64, (out, d).

    Raises:
        ValueError: shapes that do not fit, a metric that is not symmetric, more than 6000 unknowns.

    Cost: an SVD of a matrix of order out·d: small examples only. Source: ours, the stronger form of Remark 6.2;
    chapter 05.

    Example:
        >>> import torch
        >>> x, delta, root = torch.randn(30, 4).double(), torch.randn(3, 4).double(), torch.randn(3, 3).double()
        >>> plus, minus, g = x[:10].T @ x[:10], x[10:].T @ x[10:], root @ root.T + 0.1 * torch.eye(3)
        >>> torch.allclose(metric_minimiser(delta, plus, minus, g), delta @ plus @ torch.linalg.inv(plus + minus))
        True
        >>> other = metric_minimiser(delta, plus, minus, g, torch.eye(3))  # the reference in another metric
        >>> torch.allclose(other, metric_minimiser(delta, plus, minus, g))
        False
    """
    out, d = delta.shape
    h = metric if reference_metric is None else reference_metric
    for argument, matrix, size in (("plus", plus, d), ("minus", minus, d), ("metric", metric, out), ("metric", h, out)):
        if matrix.shape != (size, size) or not torch.allclose(matrix, matrix.mT):
            raise ValueError(f"{argument}: expected a symmetric matrix of shape {(size, size)}")
    if out * d > 6000:
        raise ValueError(f"delta: {out * d} unknowns are too many for a dense solution; use a smaller example")
    delta, plus, minus, g, h = (t.double() for t in (delta, plus, minus, metric, h))
    # Both sides on the scale of 1, so that the cut for zero is relative to the data and to the metrics.
    a, b = float(torch.linalg.matrix_norm(plus + minus, 2)), float(torch.linalg.matrix_norm(g + h, 2))
    if a == 0 or b == 0:
        raise ValueError("plus, minus, metric: no data, or a metric that is zero")
    system = (torch.kron(g, plus) + torch.kron(h, minus)) / (a * b)
    right = (g @ delta @ plus).flatten() / (a * b)
    return (torch.linalg.pinv(system, hermitian=True, rtol=1e-12) @ right).view(out, d)


# ------------------------------------------------------------------------------------------------------- measuring them


@dataclass(frozen=True)
class Comparison:
    """Two directions in one layer: ``cosine`` of their angle, ``angle`` in degrees, ``distance`` = ‖a − b‖/‖a‖."""

    layer: str
    cosine: float
    angle: float
    distance: float
    norm_ratio: float

    def as_dict(self) -> dict[str, str | float]:
        return asdict(self)


def compare(a: Engram, b: Engram) -> list[Comparison]:
    """Angle and relative distance between two directions in weight space, layer by layer (weight and bias together).

    Args:
        a: for instance W⁺. It is the measure: distance = ‖a − b‖/‖a‖, norm_ratio = ‖b‖/‖a‖.
        b: for instance a natural-gradient step. Same layers.

    Raises:
        ValueError: different layers, or a direction that is zero in some layer.

    Cost: one pass over both. Source: ours; chapter 05.

    Example:
        >>> import torch
        >>> a, b = Engram({"fc": (torch.eye(2), None)}), Engram({"fc": (torch.tensor([[2.0, 0.0], [0.0, 0.0]]), None)})
        >>> row = compare(a, b)[0]
        >>> round(row.angle, 3), row.distance
        (45.0, 1.0)
    """
    if set(a) != set(b):
        raise ValueError(f"a and b: layer {sorted(set(a) ^ set(b))[0]!r} is only in one of them")
    rows = []
    for name in a:
        x, y = _vector(a[name]), _vector(b[name])
        if x.shape != y.shape:
            raise ValueError(f"layer {name!r}: a and b differ in shape, or in whether the bias belongs to them")
        y = y.to(x.device)
        if not x.any() or not y.any():
            raise ValueError(f"layer {name!r}: a zero vector has no direction")
        u, w = x / x.norm(), y / y.norm()
        # acos loses half the digits near 0; the half-angle form does not.
        angle = 2 * math.atan2(float((u - w).norm()), float((u + w).norm()))
        rows.append(
            Comparison(
                name, float(u @ w), math.degrees(angle), float((x - y).norm() / x.norm()), float(y.norm() / x.norm())
            )
        )
    return rows


def _vector(entry: LayerEngram) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in entry if t is not None])


# ---------------------------------------------------------------------------------------------- one layer's own helpers


def _factor(factors: Mapping[str, Tensor], name: str, matrix: Tensor, damping: float, rcond: float) -> Tensor:
    """σ²(1 + δ) (G + δσ²I)†."""
    if name not in factors:
        raise ValueError(f"factors: there is no G of layer {name!r}")
    g = factors[name].to(matrix.device).double()
    if g.shape != (*matrix.shape[:-1], matrix.shape[-2]):
        raise ValueError(
            f"factors: G of layer {name!r} has shape {tuple(g.shape)}, the layer has {matrix.shape[-2]} outputs"
        )
    mean = g.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    damped = g + damping * mean * torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)
    return mean * (1 + damping) * Spectrum(damped, rcond).pinv()


def _check_damping(damping: float) -> None:
    if not isinstance(damping, (int, float)) or not 0 <= damping < math.inf:
        raise ValueError(f"damping: expected a number >= 0, got {damping!r}")
