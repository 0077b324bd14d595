"""The estimator: W⁺ = ΔW Σ⁺ (Σ⁺ + λ Σ⁻)†."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from numbers import Real
from typing import Any, TypeAlias, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from engramlib._progress import track
from engramlib.engram import Engram, LayerEngram
from engramlib.layers import Layer, check_editable, plain_key, supported_layers
from engramlib.moments import Identity, Moments
from engramlib.spectral import Inverse, Pivot, check_rcond, check_semidefinite, inverses

C = TypeVar("C", bound=Hashable)  # a concept
Base: TypeAlias = "Mapping[str, Tensor] | nn.Module | None"
Numbers: TypeAlias = "float | Sequence[float]"
Key: TypeAlias = "float | tuple[float, float]"

_LOST = 0.1  # of the target's response: what a cut may leave out without a word
_FEW = 10  # columns


@overload
def extract(
    model: nn.Module, target: Moments, reference: Moments, *, specificity: float = 1, rcond: float = 1e-6, **rest: Any
) -> Engram: ...
@overload
def extract(model: nn.Module, target: Moments, reference: Moments, **lists: Any) -> Any: ...
def extract(  # type: ignore[misc]
    model: nn.Module,
    target: Moments,
    reference: Moments,
    *,
    specificity: Numbers = 1.0,
    rcond: Numbers = 1e-6,
    base: Base = None,
    balance: bool | None = None,
) -> Any:
    """The engram of a target, W⁺ = ΔW Σ⁺ (Σ⁺ + λ Σ⁻)†, in closed form, layer by layer.

    It is the minimiser of ‖(W⁺ − ΔW) X⁺‖² + λ ‖W⁺ X⁻‖² with the smallest norm: act on the target's inputs as the
    weights do, and on the reference's not at all. λ weighs the second wish. At λ = ∞ it is a constraint, W⁺ X⁻ = 0
    (up to ``rcond``), and the answer is ΔW Σ⁺N (NΣ⁺N)† with N the projector on what the reference never uses; that is
    zero when the reference spans the whole space. The same moments as target and reference share everything: the
    answer is ΔW / (1 + λ) on what they span.

    Args:
        model: the trained network. It is only read.
        target: moments of X⁺, the inputs to isolate.
        reference: moments of X⁻, the inputs **without** the target (``total - target`` if you collected everything).
        specificity: λ ≥ 0; 1 is the paper's estimator, ``float("inf")`` the hard constraint. At exactly 0 the
            reference drops out and the answer is ΔW on the span of the target, which is not the limit λ → 0.
            A list: one engram for each.
        rcond: eigenvalues of Σ⁺ + λΣ⁻ at or below rcond · λ_max count as zero (see
            :class:`engramlib.spectral.Spectrum`). A very large finite λ pushes the target's own directions below this
            cut; say ``inf`` when you mean it. A list: one engram for each.
        base: state dict (or module) of W0, for ΔW = W − W0. None = tabula rasa, W0 := 0 (Eq. 4).
        balance: whether the constant 1 of an absorbed bias is measured in units of a typical input before the cut
            (:func:`engramlib.spectral.inverses`). Scaling x by s and W by 1/s is the same network, but beside inputs
            of 1e-3 the constant pushes all of them below the cut, beside inputs of 1e3 it is below it itself. None =
            where the two lengths differ by more than a factor of 32: elsewhere the paper's cut of [x; 1] as it
            stands, which False takes always. True = always: then units do not matter at all. No difference without an
            absorbed bias, or with nothing cut that the data used.

    Returns:
        Engram: per layer a weight (and a bias, if the moments absorbed it), at least float32, on the model's device.
        With lists, a dict: of λ, of rcond, or of (λ, rcond) if both are lists -> Engram.

    Raises:
        ValueError: moments of another model, bias mode or of different layers; a bad λ or rcond; a base that does not
            fit; a Σ that is no sum of x xᵀ (a difference whose part was not contained); weights with NaN.

    Warns:
        UserWarning: the moments were collected at other weights; they are of too few columns; the cut leaves out more
            than a tenth of the target's response. Each says which layer, how much, and what would be enough.

    Cost: one factorisation (≈ 9 d³) per distinct Σ and λ, float64; further cuts are free of it, and a further λ > 0
        where the first tells that nothing is cut (a Cholesky factorisation then, a tenth of it). Source: Eqs. 2-4
        (λ = 1); chapters 00, 02 and 03.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model, x = nn.Linear(4, 3, bias=False), torch.randn(50, 4).double()
        >>> sigma = [x[:20].T @ x[:20], x[20:].T @ x[20:]]
        >>> target, reference = (Moments({"": s}, {"": 1}) for s in sigma)
        >>> dense = model.weight.double() @ sigma[0] @ torch.linalg.pinv(sigma[0] + 3 * sigma[1])
        >>> torch.allclose(extract(model, target, reference, specificity=3)[""].weight, dense.float(), atol=1e-6)
        True
        >>> list(extract(model, target, reference, specificity=[1, 3, 10]))
        [1.0, 3.0, 10.0]
    """
    layers = fitting_layers(model, {"target": target, "reference": reference})
    sweep = _Sweep(specificity, rcond)
    sweep.warn_of_few("target", target, "reference", [reference])
    return sweep.result(_engrams(layers, {"target": target}, reference, sweep, Deltas(base), balance), "target")


@overload
def extract_all(
    model: nn.Module,
    moments_by_concept: Mapping[C, Moments],
    *,
    specificity: float = 1,
    rcond: float = 1e-6,
    **rest: Any,
) -> dict[C, Engram]: ...
@overload
def extract_all(model: nn.Module, moments_by_concept: Mapping[C, Moments], **lists: Any) -> Any: ...
def extract_all(  # type: ignore[misc]
    model: nn.Module,
    moments_by_concept: Mapping[C, Moments],
    *,
    specificity: Numbers = 1.0,
    rcond: Numbers = 1e-6,
    base: Base = None,
    balance: bool | None = None,
) -> Any:
    """The engram of each concept against all the others: W_c⁺ = ΔW Σ_c (Σ_c + λ Σ_{j≠c} Σ_j)†.

    At λ = 1 the inverse is the same for every concept, so n concepts cost **one** factorisation per distinct Σ, and the
    engrams add up to ΔW on the span of the data (completeness). At any other λ each concept has its own Σ to factorise.

    Args:
        moments_by_concept: what :func:`engramlib.collect_by_concept` returns: concept -> Moments, two or more.
        model, specificity, rcond, base, balance: as in :func:`extract`.

    Returns:
        dict: concept -> Engram, in the order given; each equal to ``extract(model, moments[c], total - moments[c])``.
        With lists of λ or rcond, a dict of such dicts, with the keys of :func:`extract`.

    Raises:
        ValueError: no concepts, or one alone (there is nothing to tell it from); otherwise as :func:`extract`, which
            also says what is warned of.

    Cost: one factorisation per distinct Σ and two (out × d) by (d × d) products per concept. Another λ costs a
        factorisation per concept, where something is cut, and a tenth of it otherwise. Source: Eqs. 6 and 7;
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
        raise ValueError("moments_by_concept: expected a dict concept -> Moments with at least two concepts")
    if isinstance(moments_by_concept, Moments):
        raise ValueError("moments_by_concept: got one Moments; collect_by_concept returns a dict of them")
    named = {f"concept {concept!r}": m for concept, m in moments_by_concept.items()}
    layers = fitting_layers(model, named)
    if len(moments_by_concept) == 1:
        raise ValueError(
            f"moments_by_concept: {next(iter(named))} is alone, and there is nothing to tell it from; give at least two"
            " concepts, or use extract(model, target, reference) with moments of what should stay"
        )
    sweep = _Sweep(specificity, rcond)
    for what, m in named.items():
        sweep.warn_of_few(what, m, "the rest", [other for other in named.values() if other is not m])
    return sweep.result(_engrams(layers, moments_by_concept, None, sweep, Deltas(base), balance))


def _engrams(
    layers: dict[str, Layer],
    targets: Mapping[C, Moments],
    reference: Moments | None,
    sweep: _Sweep,
    deltas: Deltas,
    balance: bool | None,
) -> dict[Key, dict[C, Engram]]:
    """The engram of each target, at each λ and cut, against ``reference`` or, where that is None, the other targets."""
    named: dict[Any, Moments] = {**targets} if reference is None else {**targets, "reference": reference}
    found: dict[Key, dict[C, dict[str, LayerEngram]]] = {
        key: {concept: {} for concept in targets} for key in sweep.keys
    }
    for names in track(sharing_groups(*named.values()), desc="extracting"):
        with _naming(names[0]):
            _check_sums({concept: m[names[0]] for concept, m in named.items()})
            device = next(iter(named.values()))[names[0]].device
            sums = {concept: m[names[0]].to(device).double() for concept, m in named.items()}
            nothing = torch.zeros_like(next(iter(sums.values())))
            matrices = {name: deltas.of(layers[name], nothing) for name in names}
            rows, pivots = sum(layers[name].height for name in names), list[Pivot]()
            weighed = balance if is_absorbed(layers[names[0]], nothing) else False
            invert = partial(inverses, rconds=sweep.rconds, balance=weighed, pivots=pivots)
            shared: list[Inverse] = []
            if reference is None and sweep.worth_total(len(targets)):
                # At λ = 1 all concepts have one inverse, which also tells of other λ whether anything will be cut.
                shared = list(invert(sum(sums.values(), start=nothing), nothing, 1.0))
            for concept, lam in product(targets, sweep.lams):
                plus, each = sums[concept], iter(shared)
                if lam != 1 or reference is not None:
                    # Summed anew: total - plus would lose a small reference beside a large target.
                    minus = sum((sigma for other, sigma in sums.items() if other != concept), start=nothing)
                    each = invert(plus, minus, lam)
                for rcond, inverse in zip(sweep.rconds, each, strict=True):
                    # With more rows in the weights than columns, P⁺ = Σ⁺(Σ⁺ + λΣ⁻)† is made once, not for each row.
                    projection = plus @ inverse.matrix if rows > plus.shape[-1] else None
                    for name, delta in matrices.items():
                        matrix = delta @ plus @ inverse.matrix if projection is None else delta @ projection
                        found[sweep.key(lam, rcond)][concept][name] = as_entry(layers[name], plus, matrix)
                        sweep.look(inverse, delta, plus, f"layer {name!r} of {concept!r}, λ = {lam:g}, rcond={rcond:g}")
    return {key: {c: as_engram(layers, targets[c], f) for c, f in each.items()} for key, each in found.items()}


class _Sweep:
    """Which λ and cuts are asked for, under which keys, and what is to be warned of at the end."""

    def __init__(self, specificity: Any, rcond: Any) -> None:
        (lams, self.many_lams), (rconds, self.many_rconds) = _as_list(specificity), _as_list(rcond)
        for cut in rconds:
            check_rcond(cut)
        for lam in lams:
            if not isinstance(lam, Real) or math.isnan(lam) or lam < 0:
                raise ValueError(f"specificity: expected a number >= 0 or float('inf'), got {lam!r}")
        if not lams or not rconds:
            raise ValueError(f"{'rcond' if lams else 'specificity'}: expected at least one number, got an empty list")
        self.lams, self.rconds = list(dict.fromkeys(map(float, lams))), list(dict.fromkeys(map(float, rconds)))
        self.keys = [self.key(lam, cut) for lam in self.lams for cut in self.rconds]
        self.lost = (0.0, "")
        self.short: list[tuple[float, str]] = []

    def key(self, lam: float, rcond: float) -> Key:
        return (lam, rcond) if self.many_lams and self.many_rconds else rcond if self.many_rconds else lam

    def worth_total(self, concepts: int) -> bool:
        """Whether to factorise the sum over all concepts: needed, or little beside what it may spare."""
        return 1.0 in self.lams or concepts * sum(0 < lam < math.inf for lam in self.lams) > 2

    def look(self, inverse: Inverse, delta: Tensor, plus: Tensor, where: str) -> None:
        """Keep in mind how much of the target's response the cut left out, if nothing was worse."""
        share = inverse.share_lost(delta, plus)
        if share > max(_LOST, self.lost[0]):
            cut, all_ = int((inverse.lost != 0).any(-2).sum()), plus[..., 0].numel()  # type: ignore[union-attr]
            self.lost = (
                share,
                f"{where}: {cut} of {all_} directions are cut, with {min(share, 1):.0%} of the target's response",
            )

    def warn_of_few(self, what: str, target: Moments, other: str, rest: list[Moments]) -> None:
        """Keep in mind where there are too few columns to know. Only counts from a pass are real."""
        for name, sigma in target.items():
            if all(name in m.identity for m in (target, *rest)) and target.count[name]:
                n, m, d = target.count[name], sum(each.count[name] for each in rest), sigma.shape[-1]
                if m < d and max(self.lams) > 0:
                    text = f"layer {name!r} reads {d} inputs, and {other} has {m} columns to tell {what} from: what it"
                    self.short.append(
                        (m / d, f"{text} never showed counts as unused. At least {d}, or several times as many")
                    )
                if n < _FEW:
                    text = f"layer {name!r}: {what} has {n} columns, which show the examples and not the concept."
                    self.short.append((n / _FEW, f"{text} At least {_FEW}, or better a hundred"))

    def result(self, found: dict[Key, dict[Any, Engram]], only: str | None = None) -> Any:
        """What the caller asked for, after what there is to say."""
        if self.short:
            more = f" (and {len(self.short) - 1} more such cases)" if len(self.short) > 1 else ""
            warnings.warn(f"too little data: {min(self.short)[1]}, would do{more}", stacklevel=3)
        if self.lost[1]:
            hint = "a smaller rcond or inputs in similar units (standardised) keep more; for a huge λ say float('inf')"
            warnings.warn(f"{self.lost[1]}: {hint}", stacklevel=3)
        results = {key: each if only is None else each[only] for key, each in found.items()}
        return results if self.many_lams or self.many_rconds else next(iter(results.values()))


def _as_list(value: Any) -> tuple[list[Any], bool]:
    if isinstance(value, Tensor) or type(value).__module__ == "numpy":
        value = value.tolist()
    many = isinstance(value, Sequence) and not isinstance(value, str)
    return (list(value), True) if many else ([value], False)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, LinAlgError) as error:
        raise type(error)(f"layer {name!r}: {error}") from error


def _check_sums(sums: Mapping[Any, Tensor]) -> None:
    """Raise ``ValueError`` if one of the Σ of a layer has negative eigenvalues beyond rounding beside all of them."""
    size = torch.stack([sigma.diagonal(dim1=-2, dim2=-1).double().sum(-1).cpu() for sigma in sums.values()]).sum(0)
    for what, sigma in sums.items():
        try:
            check_semidefinite(sigma, size.to(sigma.device), sigma.dtype)
        except ValueError as error:
            hint = "if it is a difference, total - part, then the part was not in the total"
            raise ValueError(f"{what!r}: {error}; {hint}") from error


def fitting_layers(model: nn.Module, moments: Mapping[str, Moments]) -> dict[str, Layer]:
    """The layers that the moments speak of, after checking that they are layers of this model.

    Warns, once, if moments were collected at other weights than the model's.
    """
    supported = supported_layers(model)
    names: set[str] | None = None
    now: dict[tuple[str, bool], Identity] = {}
    stale: list[str] = []
    for argument, m in moments.items():
        if not isinstance(m, Moments):
            raise TypeError(f"{argument}: expected Moments, got {type(m).__name__}")
        if not m:
            raise ValueError(f"{argument}: moments of no layer")
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
            if (known := m.identity.get(name)) is None:
                continue
            key = (name, is_absorbed(layer, sigma))
            if key not in now:
                now[key] = Identity.of(layer.module, layer.kind.reading(layer.module), key[1])
            if reason := known.differs(now[key]):
                raise ValueError(
                    f"{argument}: moments of layer {name!r} are of another model's layer: {reason}, the model's"
                )
            if not known.same_weights(now[key]):
                stale.append(f"{argument}: moments of layer {name!r}")
    if stale:
        more = f" (and {len(stale) - 1} more)" if len(stale) > 1 else ""
        warnings.warn(
            f"{stale[0]}{more} were collected at other weights than the model has now: another seed, or before an edit"
            " or more training. They describe inputs that this model may not see; collect them again from it",
            stacklevel=3,
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
        weight, bias = layer.weight, layer.bias if absorbed else None
        matrix = layer.matrix(weight, bias)
        if self.base is not None:
            matrix = matrix - layer.matrix(self.get(layer, "weight"), None if bias is None else self.get(layer, "bias"))
        if not bool(torch.isfinite(matrix).all()):
            raise ValueError(
                f"layer {layer.name!r}: its weight{' or that of base' * bool(self.base)} has NaN or infinite entries"
            )
        return matrix.to(sigma.device)

    def get(self, layer: Layer, which: str) -> Tensor:
        key, own = layer.parameter_name(which), layer.stored(which)
        assert self.base is not None and own is not None
        if key not in self.base and f"module.{key}" in self.base:
            key = f"module.{key}"  # of a DataParallel
        if key not in self.base:
            raise ValueError(f"base: has no entry {key!r}")
        if not isinstance(self.base[key], Tensor):
            raise ValueError(f"base: expected a tensor at {key!r}, got {type(self.base[key]).__name__}")
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
    entries: dict[str, LayerEngram] = {}
    for name, layer in layers.items():
        one = found[name]
        entries[name] = one if isinstance(one, LayerEngram) else as_entry(layer, moments[name], one)
    return Engram(entries, {name: float(layer.weight.detach().double().norm()) for name, layer in layers.items()})


def as_entry(layer: Layer, sigma: Tensor, matrix: Tensor) -> LayerEngram:
    """A matrix W⁺ back in the layer's own shape, on its device, at least float32."""
    own = layer.weight
    dtype = torch.promote_types(own.dtype, torch.float32)  # half precision would lose what arithmetic adds up
    weight, bias = (
        None if part is None else part.to(own.device, dtype).contiguous()
        for part in layer.parameters(matrix, is_absorbed(layer, sigma))
    )
    assert weight is not None
    return LayerEngram(weight, bias)
