"""The estimator: W⁺ = ΔW Σ⁺ (Σ⁺ + λ Σ⁻)†."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from numbers import Real
from typing import TypeVar

import torch
from torch import Tensor, nn

from engramlib._progress import track
from engramlib.engram import Engram, LayerEngram
from engramlib.layers import Layer, check_editable, plain_key, supported_layers
from engramlib.moments import Moments
from engramlib.spectral import Spectrum, check_rcond

Concept = TypeVar("Concept", bound=Hashable)


def extract(
    model: nn.Module,
    target: Moments,
    reference: Moments,
    *,
    specificity: float = 1.0,
    rcond: float = 1e-6,
    base: Mapping[str, Tensor] | nn.Module | None = None,
) -> Engram:
    """The engram of a target, W⁺ = ΔW Σ⁺ (Σ⁺ + λ Σ⁻)†, in closed form, layer by layer.

    It is the minimiser of ‖(W⁺ − ΔW) X⁺‖² + λ ‖W⁺ X⁻‖² with the smallest norm: act on the target's inputs as the
    weights do, and on the reference's not at all. λ weighs the second wish. At λ = ∞ it is a constraint, W⁺ X⁻ = 0
    (up to ``rcond``), and the answer is ΔW Σ⁺N (NΣ⁺N)† with N the projector on what the reference never uses; that is
    zero when the reference spans the whole space.

    Args:
        model: the trained network. It is only read.
        target: moments of X⁺, the inputs to isolate.
        reference: moments of X⁻, the inputs **without** the target (``total - target`` if you collected everything).
        specificity: λ ≥ 0; 1 is the paper's estimator, ``float("inf")`` the hard constraint. At exactly 0 the
            reference drops out and the answer is ΔW on the span of the target, which is not the limit λ → 0.
        rcond: eigenvalues of Σ⁺ + λΣ⁻ at or below rcond · λ_max count as zero (see
            :class:`engramlib.spectral.Spectrum`). A very large finite λ pushes the target's own directions below this
            cut; say ``inf`` when you mean it.
        base: state dict (or module) of W0, for ΔW = W − W0. None = tabula rasa, W0 := 0 (Eq. 4).

    Returns:
        Engram: per layer a weight (and a bias, if the moments absorbed it), at least float32, on the model's device.

    Raises:
        ValueError: moments of another model or of different layers, a bad λ or rcond, a base that does not fit.

    Cost: one factorisation (≈ 9 d³) per distinct Σ, float64. Source: Eqs. 2-4 (λ = 1); chapters 00, 02 and 03.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model, x = nn.Linear(4, 3, bias=False), torch.randn(50, 4).double()
        >>> sigma = [x[:20].T @ x[:20], x[20:].T @ x[20:]]
        >>> target, reference = (Moments({"": s}, {"": 1}) for s in sigma)
        >>> dense = model.weight.double() @ sigma[0] @ torch.linalg.pinv(sigma[0] + 3 * sigma[1])
        >>> torch.allclose(extract(model, target, reference, specificity=3)[""].weight, dense.float(), atol=1e-6)
        True
    """
    layers = fitting_layers(model, {"target": target, "reference": reference})
    lam, deltas = _check_options(specificity, rcond), Deltas(base)
    found: dict[str, LayerEngram] = {}
    for names in track(sharing_groups(target, reference), desc="extracting"):
        plus, minus = target[names[0]].double(), reference[names[0]].double().to(target[names[0]].device)
        inverse = _inverse(plus, minus, lam, rcond)
        # With more rows in the weights than columns, P⁺ = Σ⁺(Σ⁺ + λΣ⁻)† is made once and each row multiplied once.
        rows = sum(layers[name].height for name in names)
        projection = plus @ inverse if rows > plus.shape[-1] else None
        for name in names:
            delta = deltas.of(layers[name], plus)
            matrix = delta @ plus @ inverse if projection is None else delta @ projection
            found[name] = as_entry(layers[name], plus, matrix)
    return as_engram(layers, target, found)


def extract_all(
    model: nn.Module,
    moments_by_concept: Mapping[Concept, Moments],
    *,
    specificity: float = 1.0,
    rcond: float = 1e-6,
    base: Mapping[str, Tensor] | nn.Module | None = None,
) -> dict[Concept, Engram]:
    """The engram of each concept against all the others: W_c⁺ = ΔW Σ_c (Σ_c + λ Σ_{j≠c} Σ_j)†.

    At λ = 1 the inverse is the same for every concept, so n concepts cost **one** factorisation per distinct Σ, and the
    engrams add up to ΔW on the span of the data (completeness). At any other λ each concept has its own Σ to factorise.

    Args:
        moments_by_concept: what :func:`engramlib.collect_by_concept` returns: concept -> Moments.
        model, specificity, rcond, base: as in :func:`extract`.

    Returns:
        dict: concept -> Engram, in the order given; each equal to ``extract(model, moments[c], total - moments[c])``.

    Raises:
        ValueError: no concepts; otherwise as :func:`extract`.

    Cost: one factorisation per distinct Σ and two (out × d) by (d × d) products per concept. Source: Eqs. 6 and 7;
        chapter 04.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model, x = nn.Linear(4, 3, bias=False), torch.randn(60, 4).double()
        >>> moments = {c: Moments({"": x[c::3].T @ x[c::3]}, {"": 20}) for c in range(3)}
        >>> engrams = extract_all(model, moments)
        >>> torch.allclose(sum(engrams.values())[""].weight, model.weight, atol=1e-6)
        True
    """
    if not isinstance(moments_by_concept, Mapping) or not moments_by_concept:
        raise ValueError("moments_by_concept: expected a dict concept -> Moments with at least one concept")
    if isinstance(moments_by_concept, Moments):
        raise ValueError("moments_by_concept: got one Moments; collect_by_concept returns a dict of them")
    layers = fitting_layers(model, {f"concept {concept!r}": m for concept, m in moments_by_concept.items()})
    lam, deltas = _check_options(specificity, rcond), Deltas(base)
    found: dict[Concept, dict[str, LayerEngram]] = {concept: {} for concept in moments_by_concept}
    first = next(iter(moments_by_concept.values()))
    for names in track(sharing_groups(*moments_by_concept.values()), desc="extracting"):
        device = first[names[0]].device
        sigma = {c: m[names[0]].to(device).double() for c, m in moments_by_concept.items()}
        total = sum(sigma.values())
        shared = Spectrum(total, rcond).pinv() if lam == 1 else None
        matrices = {name: deltas.of(layers[name], first[name]) for name in names}
        for concept, plus in sigma.items():
            if shared is None:  # summed anew: total - plus would lose a small reference beside a large target
                minus = sum((sigma[other] for other in sigma if other != concept), start=torch.zeros_like(plus))
                inverse = _inverse(plus, minus, lam, rcond)
            else:
                inverse = shared
            for name in names:
                found[concept][name] = as_entry(layers[name], plus, matrices[name] @ plus @ inverse)
    return {concept: as_engram(layers, m, found[concept]) for concept, m in moments_by_concept.items()}


def _inverse(plus: Tensor, minus: Tensor, lam: float, rcond: float) -> Tensor:
    """What follows ΔW Σ⁺ in the estimator: (Σ⁺ + λΣ⁻)†, and (NΣ⁺N)† under the hard constraint."""
    if math.isfinite(lam):
        return Spectrum(plus + lam * minus, rcond).pinv()
    if plus.ndim == 3:
        return torch.stack([_inverse(a, b, lam, rcond) for a, b in zip(plus, minus, strict=True)])
    v = Spectrum(minus, rcond).null_basis()  # N = VVᵀ, the projector on what the reference never uses
    if v.shape[1] == 0:
        return torch.zeros_like(plus)
    # The cut is relative to Σ⁺ itself: when the target has nothing in the null space, VᵀΣ⁺V is rounding noise, and
    # a cut relative to the noise would keep it.
    largest = torch.linalg.eigvalsh(plus)[-1:].clamp_min(0)
    return v @ Spectrum(v.T @ plus @ v, max(rcond, 1e-12), scale=largest).pinv() @ v.T


def _check_options(specificity: float, rcond: float) -> float:
    check_rcond(rcond)
    if not isinstance(specificity, Real) or math.isnan(specificity) or specificity < 0:
        raise ValueError(f"specificity: expected a number >= 0 or float('inf'), got {specificity!r}")
    return float(specificity)


def fitting_layers(model: nn.Module, moments: Mapping[str, Moments]) -> dict[str, Layer]:
    """The layers that the moments speak of, after checking that they are layers of this model."""
    supported = supported_layers(model)
    names: set[str] | None = None
    for argument, m in moments.items():
        if not isinstance(m, Moments):
            raise TypeError(f"{argument}: expected Moments, got {type(m).__name__}")
        if names is not None and set(m) != names:
            raise ValueError(
                f"{argument}: moments of other layers; {', '.join(sorted(set(m) ^ names))} is not in all of them"
            )
        names = set(m)
        for name, sigma in m.items():
            if name not in supported:
                raise ValueError(
                    f"{argument}: the model has no supported layer {name!r}; are these moments of another model?"
                )
            layer = supported[name]
            check_editable(layer)
            d, groups = layer.width(absorbed=False), layer.kind.groups(layer.module)
            widths = (d, d + 1) if layer.has_bias else (d,)
            if sigma.shape[-1] not in widths or (sigma.shape[0] if sigma.ndim == 3 else None) != groups:
                raise ValueError(
                    f"{argument}: moments of layer {name!r} have shape {tuple(sigma.shape)}, but the layer reads"
                    f" columns of height {d}; are these moments of another model?"
                )
            if sigma.shape != next(iter(moments.values()))[name].shape:
                raise ValueError(
                    f'{argument}: layer {name!r} was collected with another bias mode ("absorb" or "keep")'
                )
    return {name: layer for name, layer in supported.items() if name in (names or ())}


def sharing_groups(*moments: Moments) -> list[list[str]]:
    """Layer names in groups that share every Σ, so that each group is factorised once."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in moments[0]:
        groups.setdefault(tuple(id(m[name]) for m in moments), []).append(name)
    return list(groups.values())


class Deltas:
    """ΔW = W − W0 as matrices, with W0 from a state dict, or zero."""

    def __init__(self, base: Mapping[str, Tensor] | nn.Module | None) -> None:
        base = base.state_dict() if isinstance(base, nn.Module) else base
        if base is not None and not isinstance(base, Mapping):
            raise TypeError(f"base: expected a state dict or a module, got {type(base).__name__}")
        self.base = None if base is None else {plain_key(str(key)): value for key, value in base.items()}

    def of(self, layer: Layer, sigma: Tensor) -> Tensor:
        absorbed = is_absorbed(layer, sigma)
        weight, bias = layer.module.weight, layer.module.bias if absorbed else None
        matrix = layer.matrix(weight, bias)
        if self.base is not None:
            matrix = matrix - layer.matrix(self.get(layer, "weight"), None if bias is None else self.get(layer, "bias"))
        return matrix.to(sigma.device)

    def get(self, layer: Layer, which: str) -> Tensor:
        key, own = layer.parameter_name(which), layer.stored(which)
        if key not in self.base and f"module.{key}" in self.base:
            key = f"module.{key}"  # of a DataParallel
        if key not in self.base:
            raise ValueError(f"base: has no entry {key!r}")
        if self.base[key].shape != own.shape:
            raise ValueError(
                f"base: {key!r} has shape {tuple(self.base[key].shape)}, the model's has {tuple(own.shape)}"
            )
        return layer.rows(self.base[key], which).to(own.device)


def is_absorbed(layer: Layer, sigma: Tensor) -> bool:
    """Whether Σ has the extra row of a bias in it."""
    return sigma.shape[-1] == layer.width(absorbed=False) + 1


def as_engram(layers: dict[str, Layer], moments: Moments, found: Mapping[str, Tensor | LayerEngram]) -> Engram:
    """Matrices W⁺ (or entries that :func:`as_entry` made of them) as an engram, with the norms of the weights."""
    entries = {
        name: found[name] if isinstance(found[name], LayerEngram) else as_entry(layer, moments[name], found[name])
        for name, layer in layers.items()
    }
    return Engram(
        entries, {name: float(layer.module.weight.detach().double().norm()) for name, layer in layers.items()}
    )


def as_entry(layer: Layer, sigma: Tensor, matrix: Tensor) -> LayerEngram:
    """A matrix W⁺ back in the layer's own shape, on its device, at least float32."""
    own = layer.module.weight
    dtype = torch.promote_types(own.dtype, torch.float32)  # half precision would lose what arithmetic adds up
    parts = layer.parameters(matrix, is_absorbed(layer, sigma))
    return LayerEngram(*(None if part is None else part.to(own.device, dtype).contiguous() for part in parts))
