"""The estimator: W⁺ = ΔW Σ⁺ (Σ⁺ + λ Σ⁻)†."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from numbers import Real
from typing import Any, TypeAlias, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from engramlib._fitting import Deltas, as_entry, fitting_layers, is_absorbed, kept_as, norms, sharing_groups
from engramlib._products import BLOCK, Half, Symmetric, as_tensor, full_precision, total
from engramlib._progress import track
from engramlib.engram import Engram, LayerEngram
from engramlib.layers import Layer
from engramlib.lowrank import Few, LowRank, engrams, pays
from engramlib.moments import Moments
from engramlib.spectral import Inverse, check_rcond, check_semidefinite, inverses, nothing_is_cut, units_from

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
        UserWarning: the moments were collected at other weights; they are of too few columns; they are sums in
            float32 and the cut is finer than these resolve; the cut leaves out more than a tenth of the target's
            response. Each says which layer, how much, and what would be enough.

    Of moments of low rank (``collect(..., rank=)``) W⁺ is made from their rows, without a d × d matrix, as long as
    these are no more than d / 2 together; the cut is a ridge then (:class:`engramlib.lowrank.Factored`). λ = ∞ is
    refused.

    Cost: one factorisation per distinct Σ and λ, in float64, whatever the number of cuts: where it is certain that
        nothing is cut, two of Cholesky (≈ d³ in all), else one into eigenvectors (≈ 9 d³, and slow ones). Then
        products, 2 d³ + out·d² or 2 out·d², whichever is less. Source: Eqs. 2-4 (λ = 1); chapters 00, 02 and 03.

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

    Cost: one factorisation per distinct Σ, and the products of :func:`extract` per concept. Another λ costs a
        factorisation per concept, fast where nothing is cut. The Σ of one layer and concept are in memory as whole
        matrices at a time. Source: Eqs. 6 and 7; chapter 04.

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
    sizes = norms(layers)
    for names in track(sharing_groups(*named.values()), desc="extracting"):
        with _naming(names[0]), full_precision():
            stored = {concept: m.stored(names[0]) for concept, m in named.items()}
            for m in named.values():
                m.spend(names)
            if any(isinstance(sigma, LowRank) for sigma in stored.values()) and math.inf in sweep.lams:
                raise ValueError(
                    "specificity=inf asks for directions that the reference never uses, and moments of low rank have"
                    " none; take a large λ, or collect without rank="
                )
            if pays(stored.values()):
                first: Any = stored[next(iter(targets))]
                weighed = balance if is_absorbed(layers[names[0]], first) else False
                matrices = {name: deltas.of(layers[name], first) for name in names}
                lengths = partial(units_from, balance=weighed)
                for lam, rcond, concept, name, matrix in engrams(
                    matrices, stored, list(targets), sweep.lams, sweep.rconds, lengths
                ):
                    found[sweep.key(lam, rcond)][concept][name] = as_entry(layers[name], stored[concept], matrix)
                continue
            _check_sums(stored)
            sweep.warn_of_rounding(names[0], named, stored)
            nothing = torch.zeros_like(total([next(iter(stored.values()))]))
            group = _Group({name: layers[name] for name in names}, deltas, nothing)
            weighed = balance if is_absorbed(layers[names[0]], nothing) else False
            invert = partial(inverses, rconds=sweep.rconds, balance=weighed)
            shared: list[_Inverted] = []
            if reference is None and 1.0 in sweep.lams:  # all concepts have one inverse
                shared = [_Inverted(each, group) for each in invert(total(stored.values()), nothing, 1.0)]
            for concept in targets:
                plus = stored[concept]
                if not isinstance(plus, Half) or plus.rows is None:
                    plus = total([plus])
                for lam in sweep.lams:
                    found_each = shared
                    if lam != 1 or reference is not None:
                        # Summed anew: total - plus would lose a small reference beside a large target.
                        minus = total([sigma for other, sigma in stored.items() if other != concept])
                        found_each = [_Inverted(each, group) for each in invert(total([plus]), minus, lam)]
                    for rcond, inverted in zip(sweep.rconds, found_each, strict=True):
                        for name, matrix, lost in group.engrams(plus, inverted):
                            found[sweep.key(lam, rcond)][concept][name] = as_entry(layers[name], plus, matrix)
                            sweep.look(
                                lost, inverted.inverse, f"layer {name!r} of {concept!r}, λ = {lam:g}, rcond={rcond:g}"
                            )
    return {
        key: {c: Engram({name: f[name] for name in layers}, sizes) for c, f in each.items()}
        for key, each in found.items()
    }


class _Group:
    """Layers that share every Σ: W⁺ = ΔW Σ⁺ (Σ⁺ + λΣ⁻)†, each product made once and in the cheaper order."""

    def __init__(self, layers: dict[str, Layer], deltas: Deltas, like: Tensor) -> None:
        self.deltas = {name: deltas.of(layer, like) for name, layer in layers.items()}
        least = torch.float32 if like.shape[-1] > BLOCK["cpu"] else torch.float64  # where it would gain nothing
        self.dtype = reduce(torch.promote_types, map(kept_as, layers.values()), least)
        rows = sum(delta.shape[-2] for delta in self.deltas.values())
        # With many rows in the weights P⁺ = Σ⁺(Σ⁺ + λΣ⁻)† is made once, not a product for each row. It is applied in
        # the precision that W⁺ will have: rounding P⁺ there is no worse than rounding W⁺.
        self.projects = 3 * rows > 2 * like.shape[-1]
        if self.projects:
            self.deltas = {name: delta.to(self.dtype) for name, delta in self.deltas.items()}
        self.grams: dict[str, Tensor] = {}

    def engrams(self, plus: Tensor | Half, inverted: _Inverted) -> Iterator[tuple[str, Tensor, float]]:
        """(layer, W⁺, share of the target's response that the cut left out) for each layer; a Half has few rows."""
        few = Few(plus.rows, inverted.matrix) if isinstance(plus, Half) and plus.rows is not None else None
        sigma = plus.to(inverted.matrix) if isinstance(plus, Tensor) else inverted.matrix
        projection = (sigma @ inverted.matrix).to(self.dtype) if self.projects and few is None else None
        for name, delta in self.deltas.items():
            heard, whole = inverted.heard.get(name), 0.0
            if few is not None:
                matrix, whole = few.engram(delta, self.dtype, heard is not None)
            else:
                matrix = delta @ projection if projection is not None else delta.to(sigma) @ sigma @ inverted.matrix
                if heard is not None:
                    whole = float((self.gram(name) * as_tensor(plus)).sum())
            share = 0.0 if heard is None else inverted.inverse.share_lost(heard, plus, whole)
            yield name, matrix, share

    def gram(self, name: str) -> Tensor:
        """ΔWᵀΔW: ‖ΔW X‖² = ⟨ΔWᵀΔW, Σ⟩ for each target without another product."""
        if name not in self.grams:
            delta = self.deltas[name].double()
            self.grams[name] = delta.mT @ delta
        return self.grams[name]


class _Inverted:
    """An inverse, and how each layer of a group acts on what its cut left out."""

    def __init__(self, inverse: Inverse, group: _Group) -> None:
        self.inverse = inverse
        self.matrix = inverse.matrix.to(group.dtype if inverse.is_easy else torch.float64)
        self.heard = {name: heard for name, d in group.deltas.items() if (heard := inverse.heard(d)) is not None}


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
        self.coarse = ""

    def key(self, lam: float, rcond: float) -> Key:
        return (lam, rcond) if self.many_lams and self.many_rconds else rcond if self.many_rconds else lam

    def look(self, share: float, inverse: Inverse, where: str) -> None:
        """Keep in mind how much of the target's response the cut left out, if nothing was worse."""
        if inverse.lost is not None and share > max(_LOST, self.lost[0]):
            cut, all_ = int((inverse.lost != 0).any(-2).sum()), inverse.matrix[..., 0].numel()
            self.lost = (
                share,
                f"{where}: {cut} of {all_} directions are cut, with {min(share, 1):.0%} of the target's response",
            )

    def warn_of_few(self, what: str, target: Moments, other: str, rest: list[Moments]) -> None:
        """Keep in mind where there are too few columns to know. Only counts from a pass are real."""
        for name in target:
            sigma = target.stored(name)
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

    def warn_of_rounding(self, name: str, named: Mapping[Any, Moments], stored: Mapping[Any, Symmetric]) -> None:
        """Keep in mind where a cut is finer than what the sums resolve, and something lies in between."""
        finest = min(self.rconds)
        limit = max((m.identity[name].resolved for m in named.values() if name in m.identity), default=0.0)
        if finest < limit and not self.coarse and not nothing_is_cut(total(stored.values()), limit):
            self.coarse = (
                f"layer {name!r}: its moments were made with products or sums in float32, and eigenvalues below"
                f" {limit:g} of the largest are rounding, but rcond={finest:g} keeps them. Take collect(...,"
                f" exact=True), or rcond={limit:g} or more"
            )

    def result(self, found: dict[Key, dict[Any, Engram]], only: str | None = None) -> Any:
        """What the caller asked for, after what there is to say."""
        if self.short:
            more = f" (and {len(self.short) - 1} more such cases)" if len(self.short) > 1 else ""
            warnings.warn(f"too little data: {min(self.short)[1]}, would do{more}", stacklevel=3)
        if self.coarse:
            warnings.warn(self.coarse, stacklevel=3)
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


def _check_sums(sums: Mapping[Any, Symmetric]) -> None:
    """Raise ``ValueError`` if one of the Σ of a layer has negative eigenvalues beyond rounding beside all of them."""
    size = torch.stack([sigma.diagonal(dim1=-2, dim2=-1).double().sum(-1).cpu() for sigma in sums.values()]).sum(0)
    for what, sigma in sums.items():
        if isinstance(sigma, LowRank) or (isinstance(sigma, Half) and sigma.is_gram):
            continue  # summed here, of real columns; or a square by its making
        try:
            check_semidefinite(total([sigma]), size.to(sigma.device), sigma.dtype)
        except ValueError as error:
            hint = "if it is a difference, total - part, then the part was not in the total"
            raise ValueError(f"{what!r}: {error}; {hint}") from error
