"""The edit that knows what was cut below it: layers solved in order, each on what it really reads."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from numbers import Real
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from engramlib._checking import check_reading
from engramlib._copies import copied
from engramlib._examples import Examples, lead_of, tensors_in, watch
from engramlib._fitting import as_entry, norms
from engramlib._products import add_outer, full_precision, total, zeros
from engramlib._progress import track
from engramlib._recorder import Arrival, input_of, pieces
from engramlib._walks import Walk, stopping
from engramlib.edit import owners, shifted, strengths_of
from engramlib.engram import Engram, LayerEngram
from engramlib.layers import Layer, find_layers, overlap, storage_of
from engramlib.moments import Moments
from engramlib.running import Batch, Forward, Selector, as_batches, device_of, evaluating, labels_of, to_device
from engramlib.spectral import Inverse, check_rcond, inverses

Model = TypeVar("Model", bound=nn.Module)
_MOST = 256  # passes that wait at once: each is a thread
_HELD = 6  # a pass that waits holds about so many tensors as large as the largest input of a layer


@overload
def erase(
    model: Model, target: Iterable[Batch], reference: Iterable[Batch], *, return_engram: Literal[True], **rest: Any
) -> tuple[Model, Engram]: ...
@overload
def erase(
    model: Model,
    target: Iterable[Batch],
    reference: Iterable[Batch],
    *,
    return_engram: Literal[False] = ...,
    **rest: Any,
) -> Model: ...
def erase(  # type: ignore[misc]
    model: Model,
    target: Iterable[Batch],
    reference: Iterable[Batch],
    *,
    alpha: float | Mapping[str, float] = 1.0,
    specificity: float = 1.0,
    rcond: float = 1e-6,
    layers: str | Iterable[str] | None = None,
    rows: Selector | None = None,
    forward: Forward | None = None,
    bias: str = "absorb",
    examples: int | None = None,
    memory: float = 4e9,
    return_engram: bool = False,
) -> Model | tuple[Model, Engram]:
    """Take a memory out layer by layer, so that each layer is solved on what the layers below now give it.

    ``ablate(model, extract(...))`` computes every layer's edit on the inputs of the unedited network; once the layers
    below are edited, a layer reads other inputs, on what should stay too. Here, in the order of the forward pass,

        W' = argmin ‖W' X̃⁺ − (1 − α) W X⁺‖² + λ ‖W' X̃⁻ − W X⁻‖² = W + W [(1 − α) A⁺ + λ A⁻ − B] B†,

    with X what the layer reads in the model as it came, X̃ in the model edited so far, A± = X± X̃±ᵀ, and
    B = X̃⁺ X̃⁺ᵀ + λ X̃⁻ X̃⁻ᵀ. Where nothing below was edited (X̃ = X) that is W − αW⁺, the paper's edit. Directions
    without data keep the weights as they are.

    Args:
        model: any module; it is left as it came.
        target: batches of what to erase, as in :func:`engramlib.collect`.
        reference: batches of what should stay, **without** the target.
        alpha: α; 1 asks for silence on the target, more for the opposite answer. One number, or one per layer: a dict
            that names every layer (``{name: 4 * s for name, s in engram.relative_norms().items()}``, say).
        specificity: λ ≥ 0, finite: how much an error on the reference counts beside one on the target.
        rcond: eigenvalues of B at or below rcond · λ_max count as zero.
        layers, rows, forward, bias, examples: as in :func:`engramlib.collect`. Normalisations that ``layers`` names are
            solved in their turn, like all others.
        memory: bytes of activations that may wait while a layer is solved. What does not fit runs anew for each layer.
        return_engram: hand back what was subtracted as well: ``ablate(model, engram)`` is the edited model, and
            ``engram.save(path)`` keeps it. Sums of two such engrams are not the edit of the union: each was solved
            beside its own edits below.

    Returns:
        The edited model, a copy; with ``return_engram`` the pair (model, engram).

    Raises:
        ValueError: no batches; a bad α, λ or cut; a layer that is called twice in a pass (its second input is not known
            when it is solved) or not at all, or whose weight another module uses; batches that reach the layers in
            different orders.
        TypeError: a layer that cannot be read or edited; experts, which other tokens reach after an edit.

    Warns where the reference has fewer columns than a layer reads inputs, and of layers that the pass never called.

    Cost: one forward pass of all batches through the model and one through its copy, as far as the last layer, whatever
    the depth; 2 to 3 products of d × d a column in float64; one factorisation per distinct input; memory of the copy,
    32 d² bytes for the widest layer, and the activations that wait. Source: this book's own; chapter 18.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import engramlib as el
        >>> model, x = nn.Linear(4, 3), torch.randn(50, 4)
        >>> plain = el.ablate(model, el.extract(model, el.collect(model, [x[:20]]), el.collect(model, [x[20:]])))
        >>> torch.allclose(erase(model, [x[:20]], [x[20:]]).weight, plain.weight, atol=1e-5)  # nothing lies below
        True
    """
    if moments := [
        which for which, batches in (("target", target), ("reference", reference)) if isinstance(batches, Moments)
    ]:
        raise TypeError(f"{moments[0]}: expected batches, got Moments: the data go through the model layer by layer")
    if not isinstance(specificity, Real) or isinstance(specificity, bool) or not 0 <= specificity < math.inf:
        raise ValueError(f"specificity: expected a finite number >= 0, got {specificity!r}")
    if bias not in ("absorb", "keep"):
        raise ValueError(f'bias: expected "absorb" or "keep", got {bias!r}')
    if not isinstance(memory, Real) or not memory >= 0:
        raise ValueError(f"memory: expected bytes, got {memory!r}")
    check_rcond(rcond)
    chosen = find_layers(model, layers)
    if routed := [name for name, layer in chosen.items() if layer.kind.routed]:
        raise TypeError(f"layer {routed[0]!r} is an expert: after an edit below other tokens reach it. Choose others")
    _refuse_ties(model, chosen)
    data = _data(model, {"target": target, "reference": reference}, rows)
    result = copied(model)
    way = _Way(model, result, chosen, forward, examples, bias == "absorb")
    with evaluating(model), evaluating(result), torch.no_grad(), ExitStack() as stack:
        for both in (chosen, find_layers(result, list(chosen))):
            stack.enter_context(stopping(both.values()))
        way.explore(data[0].batch, required=layers is not None)
        strengths = strengths_of(way.order, alpha, "the layers that are edited")
        changes = way.solve(data, strengths, float(specificity), rcond, memory, stack)
    engram = Engram({name: changes[name] for name in chosen if name in changes}, norms(chosen))
    return (result, engram) if return_engram else result


def _refuse_ties(model: nn.Module, chosen: Mapping[str, Layer]) -> None:
    """A weight that two modules use would change what is below a layer that is solved already."""
    places = owners(model)
    for layer in chosen.values():
        for other, tensor in places.get(storage_of(layer.weight) or 0, []):
            if other != layer.owner_name and overlap(tensor, layer.weight):
                raise ValueError(
                    f"layer {layer.name!r} shares its weight with {other!r}: an edit would change both. Leave it out"
                    " with `layers`, or use extract and ablate"
                )


class _Data:
    """A batch, whether it is to be erased, and which of its rows count (None = all)."""

    def __init__(self, batch: Batch, erased: bool, labels: Tensor | None) -> None:
        self.batch, self.erased, self.labels = batch, erased, labels
        self.size = sum(t.numel() for t in tensors_in(batch))


def _data(model: nn.Module, sets: Mapping[str, Iterable[Batch]], rows: Selector | None) -> list[_Data]:
    device, found = device_of(model), []
    for argument, batches in sets.items():
        try:
            moved = [to_device(batch, device) for batch in as_batches(batches)]
        except (TypeError, ValueError) as error:
            raise type(error)(f"{argument}: {error}") from error
        if not moved:
            raise ValueError(f"{argument}: there were no batches (an empty list, or a generator that was used up?)")
        found += [_Data(batch, argument == "target", labels_of(batch, rows, None, device)) for batch in moved]
    return found


class _Pair:
    """A batch on its way through the model and through its edited copy, at the same layer in both."""

    def __init__(self, models: tuple[nn.Module, nn.Module], data: _Data, forward: Forward | None) -> None:
        self.data = data
        self.walks = [Walk(model, data.batch, forward) for model in models]
        self.last: list[Arrival] = []
        self.shared = False  # the layer reads what the one before it read

    def advance(self, layers: Mapping[str, tuple[Layer, Any]], expected: str) -> tuple[Tensor, Tensor]:
        """Both walks go on to the next layer, which must be the ``expected`` one: what it reads in each."""
        stops = [walk.advance() for walk in self.walks]
        names = [stop and stop[0] for stop in stops]
        if names != [expected, expected]:
            got = next(repr(name) if name else "the end" for name in names if name != expected)
            raise ValueError(
                f"layer {expected!r} comes next in the first batch, but {got} in another, or after an edit: all batches"
                " must take one way through the model. Choose layers that they all reach in the same order"
            )
        inputs = [stop[1] for stop in stops if stop]
        reading = layers[expected][1]
        self.shared = bool(self.last) and all(old.is_same(x, reading) for old, x in zip(self.last, inputs, strict=True))
        self.last = [Arrival(x, reading, {expected}) for x in inputs]
        return inputs[0], inputs[1]

    def close(self) -> None:
        for walk in self.walks:
            walk.close()


class _Sums:
    """B± = X̃± X̃±ᵀ and A± = X± X̃±ᵀ of one input, in float64: A − B is a difference of nearly equal sums."""

    def __init__(self, layer: Layer, absorbed: bool, device: torch.device) -> None:
        self.absorbed = absorbed
        width, groups = layer.width(absorbed), layer.kind.groups(layer.module)
        place = torch.device("cpu") if device.type == "mps" else device
        self.own = {erased: zeros(width, groups, torch.float64, place) for erased in (True, False)}
        self.cross: dict[bool, Tensor] = {}  # empty as long as X̃ = X, where A = B
        self.count = {True: 0, False: 0}
        self.solved: tuple[Inverse, dict[bool, Tensor]] | None = None

    def add(self, layer: Layer, x: Tensor, edited: Tensor, erased: bool) -> None:
        own = self.own[erased]
        if erased not in self.cross and not torch.equal(x, edited):
            self.cross[erased] = total([own])
        for before, now in zip(pieces(layer, x, own), pieces(layer, edited, own), strict=True):
            self.count[erased] += now.shape[-2]
            add_outer(own, now, self.absorbed, exact=True)
            if erased in self.cross:
                a, b = (self.wide(columns, own.device) for columns in (before, now))
                self.cross[erased] += a.mT @ b

    def wide(self, columns: Tensor, device: torch.device) -> Tensor:
        columns = columns.to(device, torch.float64)
        return torch.cat([columns, columns.new_ones(*columns.shape[:-1], 1)], -1) if self.absorbed else columns

    def change(self, matrix: Tensor, alpha: float, lam: float, rcond: float) -> Tensor:
        """W' − W for a layer with the matrix W."""
        if self.solved is None:
            own = {erased: total([sigma]) for erased, sigma in self.own.items()}
            if not all(bool(torch.isfinite(sigma.diagonal(dim1=-2, dim2=-1)).all()) for sigma in own.values()):
                raise ValueError("its input has NaN or infinite values")
            inverse = next(inverses(own[True], own[False], lam, [rcond], balance=None if self.absorbed else False))
            self.solved = inverse, own
        inverse, own = self.solved
        cross = {erased: self.cross.get(erased, own[erased]) for erased in own}
        gap = (1 - alpha) * cross[True] - own[True] + lam * (cross[False] - own[False])
        return matrix.to(gap) @ gap @ inverse.matrix


class _Way:
    """The layers in the order of the forward pass, and the edit that goes along it."""

    def __init__(
        self,
        model: nn.Module,
        edited: nn.Module,
        layers: dict[str, Layer],
        forward: Forward | None,
        examples: int | None,
        absorb: bool,
    ) -> None:
        self.model, self.edited, self.forward = model, edited, forward
        self.layers = {
            name: (layer, (layer.kind.reading(layer.module), absorb and layer.has_bias))
            for name, layer in layers.items()
        }
        self.examples = Examples(model, layers, forward, examples)
        self.order: list[str] = []
        self.largest = 0.0  # bytes that a layer reads at most, for each number in a batch

    def explore(self, batch: Batch, *, required: bool) -> None:
        """Find the order, and check on the way that each layer computes what its weight says."""
        hooks = [
            layer.module.register_forward_hook(_checker(layer), with_kwargs=True, prepend=True)
            for layer, _ in self.layers.values()
        ]
        walk = Walk(self.model, batch, self.forward)
        size = max(1, sum(t.numel() for t in tensors_in(batch)))
        try:
            while (stop := walk.advance()) is not None:
                self.order.append(stop[0])
                self.largest = max(self.largest, stop[1].nbytes / size)
        finally:
            walk.close()
            for hook in hooks:
                hook.remove()
        if twice := next((name for name in self.order if self.order.count(name) > 1), None):
            raise ValueError(
                f"layer {twice!r} is called {self.order.count(twice)} times in one pass: what it reads the second time"
                " is not known when it is solved. Leave it out with `layers`, or use extract and ablate"
            )
        if missing := [name for name in self.layers if name not in self.order]:
            text = f"the forward pass never called layer {', '.join(map(repr, missing[:8]))}"
            if required or not self.order:
                raise ValueError(f"{text}: it cannot be solved")
            warnings.warn(f"{text}; it is left out", stacklevel=3)

    def solve(
        self,
        data: list[_Data],
        strengths: Mapping[str, float],
        lam: float,
        rcond: float,
        memory: float,
        stack: ExitStack,
    ) -> dict[str, LayerEngram]:
        """Solve and edit layer by layer. What was subtracted: W − W'."""
        pairs: list[_Pair | None] = []
        for part in data:
            memory -= 2 * _HELD * self.largest * part.size
            waits = memory >= 0 and len(pairs) < _MOST
            pairs.append(_Pair((self.model, self.edited), part, self.forward) if waits else None)
            if pairs[-1] is not None:
                stack.callback(pairs[-1].close)
        found: dict[str, LayerEngram] = {}
        sums: _Sums | None = None
        few: tuple[float, str] | None = None
        for place, name in enumerate(track(self.order, desc="erasing", total=len(self.order))):
            layer, (_, absorbed) = self.layers[name]
            fresh = _Sums(layer, absorbed, layer.weight.device)
            agreed = set()
            for part, waiting in zip(data, pairs, strict=True):
                pair = waiting or self.again(part, place)
                try:
                    x, edited = pair.advance(self.layers, name)
                    agreed.add(pair.shared)
                    if not pair.shared:
                        fresh.add(layer, *self.rows(layer, part, x, edited), part.erased)
                finally:
                    if waiting is None:
                        pair.close()
            if len(agreed) > 1:
                raise ValueError(f"layer {name!r} reads what the layer before it read in some of the batches only")
            sums = sums if agreed == {True} and sums is not None else fresh
            with full_precision():
                try:
                    matrix = layer.matrix(layer.weight, layer.bias if absorbed else None)
                    change = sums.change(matrix, strengths[name], lam, rcond)
                except ValueError as error:
                    raise ValueError(f"layer {name!r}: {error}") from error
            entry = as_entry(layer, sums.own[True], -change)
            found[name] = entry
            shifted(self.edited, Engram({name: entry}), 1.0, -1, inplace=True, undo=False)
            share = sums.count[False] / layer.width(absorbed)
            if lam > 0 and share < min(1.0, few[0] if few else 1.0):
                few = (
                    share,
                    f"layer {name!r} reads {layer.width(absorbed)} inputs, and reference has {sums.count[False]}",
                )
        if few:
            warnings.warn(
                f"too little data: {few[1]} columns. What they never showed is not protected, and is left as it is only"
                " where the target does not reach; at least as many, or several times that, would do",
                stacklevel=3,
            )
        return found

    def again(self, part: _Data, places: int) -> _Pair:
        """A pair that runs anew, up to the layer before."""
        pair = _Pair((self.model, self.edited), part, self.forward)
        try:
            for name in self.order[:places]:
                pair.advance(self.layers, name)
        except BaseException:
            pair.close()
            raise
        return pair

    def rows(self, layer: Layer, part: _Data, x: Tensor, edited: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen rows of what a layer reads, in both models."""
        if x.shape != edited.shape:
            raise ValueError(f"layer {layer.name!r} reads {tuple(x.shape)}, and {tuple(edited.shape)} after an edit")
        key, base, _ = watch(layer)
        if x.ndim == (base or 1):
            x, edited = x.unsqueeze(0), edited.unsqueeze(0)
        if part.labels is None:
            return x, edited
        self.examples.begin(part.batch)
        laid = self.examples.lay(key, x.shape, lead_of(x, base), part.labels)
        if laid is None:
            self.examples.ask(len(part.labels))
            laid = self.examples.lay(key, x.shape, lead_of(x, base), part.labels)
            assert laid is not None  # after asking it is known, or an error
        labels, dims = laid
        chosen = (labels >= 0).to(x.device)
        return x.flatten(0, dims - 1)[chosen], edited.flatten(0, dims - 1)[chosen]


def _checker(layer: Layer) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        with full_precision():
            check_reading(layer, input_of(layer, args, kwargs), output)

    return hook
