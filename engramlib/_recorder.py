"""What the layers read while the model runs, as sums: who shares one, whose each row is, and when to multiply."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engramlib import _products
from engramlib._checking import check_reading
from engramlib._examples import Examples, lead_of, watch
from engramlib._products import Half, Symmetric, full_precision, works_at
from engramlib.layers import Layer
from engramlib.lowrank import LowRank, remember
from engramlib.moments import Identity, Moments

# Columns are widened to float64 a piece at a time, so that the copy stays small beside the activations themselves.
_PIECE_BYTES = 32 * 2**20
# Pixels of which correlations are made at once in float32.
_PIXELS = 2**14
# What may be kept of rows until there are enough for a product, in all.
_KEPT_BYTES = 256 * 2**20
# Rows of one concept that are worth a product (see Running).
_ENOUGH = 512


class Running:
    """The running sums of one distinct input tensor, per concept, and the layers that read it.

    A product of few rows costs little more than reading and writing Σ. So when a batch mixes many concepts, the rows of
    each are kept until there are enough of them: ``_ENOUGH`` rows a concept, or d where Σ is on another device and a
    whole Σ has to be sent there for every product.
    """

    def __init__(self, members: set[str], absorbed: bool, exact: bool) -> None:
        self.members = members
        self.absorbed, self.exact = absorbed, exact
        self.sigma: dict[Hashable, Symmetric] = {}
        self.count: dict[Hashable, int] = {}
        self.kept: dict[Hashable, list[Tensor]] = {}
        self.open: Arrival | None = None  # the tensor that some members have read and others still should

    def add(self, concept: Hashable, columns: Tensor, fits: bool = False) -> None:
        """Count ``columns``, (n, d) or (groups, n, d), towards ``concept``, whose Σ is there already."""
        self.count[concept] += columns.shape[-2]
        sigma = self.sigma[concept]
        near = works_at(columns, sigma) == sigma.device
        enough = _ENOUGH if near else max(_ENOUGH, columns.shape[-1])
        if columns.ndim == 3 or columns.shape[0] >= enough:
            _products.add_outer(sigma, columns, self.absorbed, self.exact, fits)
            return
        kept = self.kept.setdefault(concept, [])
        kept.append(columns.clone())  # the model may overwrite its activations, and a part would keep all alive
        if sum(map(len, kept)) >= enough:
            self.flush(concept)

    def flush(self, *concepts: Hashable) -> None:
        """Multiply what was kept; without arguments, of every concept."""
        for concept in concepts or tuple(self.kept):
            kept = self.kept.pop(concept)
            columns = torch.cat(kept) if len(kept) > 1 else kept[0]
            _products.add_outer(self.sigma[concept], columns, self.absorbed, self.exact)

    def split(self, names: set[str]) -> Running:
        """Give ``names`` their own copy: they no longer read what the others read."""
        other = Running(names, self.absorbed, self.exact)
        other.sigma = {concept: sigma.clone() for concept, sigma in self.sigma.items()}
        other.count = dict(self.count)
        other.kept = {concept: list(rows) for concept, rows in self.kept.items()}
        self.members -= names
        return other


class Arrival:
    """A tensor that was read in this forward pass."""

    def __init__(self, x: Tensor, reading: Hashable, names: set[str]) -> None:
        self.x, self.reading, self.names = x, reading, names
        self.first = next(iter(names))
        self.version = _version(x)
        self.copy: Tensor | None = None

    def is_same(self, x: Tensor, reading: Hashable) -> bool:
        """Whether ``x`` is this tensor, or another view of all of it, unchanged since."""
        if self.reading != reading or self.version is None or self.version != _version(x):
            return False
        return self.x is x or (_root(self.x) is _root(x) and _layout(self.x) == _layout(x))


def _version(x: Tensor) -> int | None:
    return None if x.is_inference() else x._version


def _root(x: Tensor) -> Tensor:
    return x if x._base is None else x._base


def _layout(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.stride(), x.storage_offset(), x.dtype


class Recorder:
    """Turns the layers' inputs into sums while the model runs.

    Layers share a sum when, in the first forward pass that reaches them, they read one tensor in the same way. If a
    later pass breaks that (a branch, a router), the sum is split, so the answer never depends on the sharing.
    """

    def __init__(
        self,
        layers: dict[str, Layer],
        *,
        absorb: bool,
        dtype: torch.dtype,
        home: torch.device | None,
        exact: bool,
        rank: int | float | None = None,
        folder: str | None = None,
    ) -> None:
        self.layers = layers
        self.absorb, self.exact = absorb, exact
        self.dtype = dtype
        self.asked = home
        self.rank, self.folder = rank, folder
        self.sums: dict[str, Running] = {}
        self.labels: Tensor | None = None
        self.examples: Examples  # finds where the labels belong
        self.waiting: list[tuple[Running, Layer, Tensor, Any]] = []  # what was read before that was known
        self.checked: set[str] = set()
        self.finite: list[tuple[str, Tensor]] = []  # did each layer read finite numbers in this pass?
        self.fresh: list[tuple[Arrival, Running]] = []  # first readings in this pass, where another layer may join

    def hook(self, layer: Layer) -> Callable[..., None]:
        absorbed = self.absorb and layer.has_bias
        reading = (layer.kind.reading(layer.module), absorbed)

        def pre_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.examples.asking:
                return
            x = input_of(layer, args, kwargs)
            with full_precision():  # also where the user's forward pass runs in autocast
                if layer.kind.routed:  # its tokens were copied for it alone: nothing to share
                    running = self.sums.setdefault(layer.name, Running({layer.name}, absorbed, self.exact))
                    self.add(running, layer, x, routed=args[1:])
                else:
                    self.read(layer, x, reading, absorbed)

        return pre_hook

    def checker(self, layer: Layer) -> Callable[..., None]:
        """A hook that compares the layer's first output with what its weight says."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if layer.name not in self.checked:
                with full_precision():
                    if check_reading(layer, input_of(layer, args, kwargs), output):
                        self.checked.add(layer.name)

        return hook

    def read(self, layer: Layer, x: Tensor, reading: Hashable, absorbed: bool) -> None:
        name = layer.name
        if name not in self.sums:
            for arrival, running in self.fresh:
                if arrival.is_same(x, reading):
                    arrival.names.add(name)
                    running.members.add(name)
                    self.sums[name] = running
                    return
            self.sums[name] = running = Running({name}, absorbed, self.exact)
            self.fresh.append((Arrival(x, reading, {name}), running))
            self.add(running, layer, x)
            return
        running = self.sums[name]
        # A second call within the pass: nobody may join the first one any more, it is not all that this sum holds.
        self.fresh = [(arrival, other) for arrival, other in self.fresh if other is not running]
        if running.open is not None:
            if running.open.is_same(x, reading) and name not in running.open.names:
                running.open.names.add(name)
                self.close(running, force=False)
                return
            self.close(running, force=True)
            running = self.sums[name]
        if len(running.members) == 1:
            self.add(running, layer, x)
        else:
            running.open = Arrival(x, reading, {name})
            running.open.copy = x.clone()  # the model may overwrite x before we know who else reads it

    def close(self, running: Running, *, force: bool) -> None:
        """Add the open tensor once all its readers have come; with ``force``, leave those behind that have not."""
        arrival = running.open
        if arrival is None or (not force and arrival.names != running.members):
            return
        running.open = None
        if arrival.names != running.members:
            rest = running.split(running.members - arrival.names)
            self.waiting += [(rest, *what) for owner, *what in self.waiting if owner is running]
            for name in rest.members:
                self.sums[name] = rest
        self.add(running, self.layers[arrival.first], arrival.x if arrival.copy is None else arrival.copy)

    def end(self) -> None:
        self.fresh.clear()
        for running in set(self.sums.values()):
            self.close(running, force=True)
        if self.waiting and not self.examples.asked:
            return
        waiting, self.waiting = self.waiting, []
        for what in waiting:
            self.add(*what)
        self.bound()
        if self.finite:
            device = self.finite[0][1].device
            flags = torch.stack([flag.to(device) for _, flag in self.finite]).tolist()
            culprit = next((name for (name, _), fine in zip(self.finite, flags, strict=True) if not fine), None)
            if culprit is not None:  # the first layer that read it, in the order of the forward pass
                raise ValueError(f"layer {culprit!r}: its input has NaN or infinite values")
            self.finite.clear()

    def bound(self) -> None:
        """Multiply all rows that wait for others of their concept, where they take too much memory."""
        sums = set(self.sums.values())
        kept = sum(part.nbytes for running in sums for parts in running.kept.values() for part in parts)
        held = sum(_products.nbytes(sigma) for running in sums for sigma in running.sigma.values())
        if kept > max(_KEPT_BYTES, held // 4):
            for running in sums:
                running.flush()

    def add(self, running: Running, layer: Layer, x: Tensor, routed: tuple[Tensor, int] | None = None) -> None:
        base = layer.kind.example_ndim(layer.module)
        if x.ndim == (base or 1):
            x = x.unsqueeze(0)
        laid = self.laid(layer, x, routed)
        if laid is None:  # the model has to be asked first, when this pass is over; it may overwrite x
            self.waiting.append((running, layer, x.clone(), routed))
            return
        for concept, chosen in self.choose(layer, x, *laid):
            self.take(running, concept, layer, chosen)

    def take(self, running: Running, concept: Hashable, layer: Layer, x: Tensor) -> None:
        """Count all of ``x``, an input of the layer, towards a concept."""
        if concept not in running.sigma:
            running.sigma[concept] = self.zeros(layer, x.device)
            running.count[concept] = 0
        for part in self.parts(running, concept, layer, x):
            self.add_part(running, concept, layer, part)

    def parts(self, running: Running, concept: Hashable, layer: Layer, x: Tensor) -> list[Tensor]:
        """``x`` in parts of about equal size: of some bytes; images, where products are in float32, of some pixels."""
        sigma, each = running.sigma[concept], max(1, x[:1].numel())
        step = _PIECE_BYTES // (each * sigma.dtype.itemsize)
        images = x.ndim > 2 and layer.kind.example_ndim(layer.module) is not None
        if images and not running.exact and _products.in_float32(x, sigma):
            step = min(step, _PIXELS * x.shape[1] // each)
        return list(x.tensor_split(-(-len(x) // max(1, step))))

    def add_part(self, running: Running, concept: Hashable, layer: Layer, x: Tensor) -> None:
        sigma = running.sigma[concept]
        if isinstance(sigma, LowRank):  # made of columns, one by one
            for columns in pieces(layer, x, sigma):
                running.add(concept, columns)
            return
        narrow = not running.exact and _products.in_float32(x, sigma) and _products.in_range(x)
        dtype = torch.float32 if narrow else sigma.dtype
        found = layer.kind.moments(layer.module, x.to(works_at(x, sigma)), dtype, running.absorbed)
        if found is not None:  # the layer's type has a way around the columns
            _products.add_whole(sigma, found[0])
            running.count[concept] += found[1]
            return
        for columns in pieces(layer, x, sigma):
            if columns.shape[-1] + running.absorbed != sigma.shape[-1]:
                raise ValueError(f"layer {layer.name!r} cannot read an input of shape {tuple(x.shape)}")
            running.add(concept, columns, narrow)

    def laid(self, layer: Layer, x: Tensor, routed: tuple[Tensor, int] | None) -> tuple[Tensor | None, int] | None:
        """The labels of the first dimensions of ``x``, as one list, and of how many; None = not known yet.

        ``routed``: ``x`` is some of the tokens; which of the batch's, and how many there are in all.
        """
        labels = self.labels
        if labels is None:
            return None, 0
        key, base, _ = watch(layer)
        if routed is None:
            return self.examples.lay(key, x.shape, lead_of(x, base), labels)
        places, total = routed
        if labels.ndim != 2 or labels.numel() != total:
            raise ValueError(
                f"layer {layer.name!r} reads some of {total} tokens, which rows or concepts of shape"
                f" {tuple(labels.shape)} do not tell apart: give one value per token of the batch"
            )
        laid = self.examples.lay(key, torch.Size((total, x.shape[-1])), (total,), labels)
        return None if laid is None else (laid[0].to(places.device)[places], 1)

    def choose(self, layer: Layer, x: Tensor, labels: Tensor | None, dims: int) -> Iterator[tuple[Hashable, Tensor]]:
        """Split the input of a layer by concept: ``labels`` are those of its first ``dims`` dimensions."""
        sizes: dict[Hashable, int] = {None: len(x)}
        if labels is not None:
            x, labels = x.flatten(0, dims - 1), labels.to(x.device)
            concepts, counts = labels.unique(return_counts=True)
            sizes = {c: n for c, n in zip(concepts.tolist(), counts.tolist(), strict=True) if c >= 0}
            count = sum(sizes.values())
            if len(sizes) > 1 or count < len(x):  # gathered once for all; those of no concept come first
                x = x[labels.argsort(stable=True)[len(x) - count :]]
        if not x.numel():
            return
        if x.is_floating_point():  # of others the layer will speak
            # The largest is finite only if all are. Looked at once per batch: on a GPU every look is a wait.
            self.finite.append((layer.name, _products.largest(x).isfinite()))
        yield from zip(sizes, x.split(list(sizes.values())), strict=True)

    def result(self, *, required: bool, by_concept: bool, part: bool = False) -> dict[Hashable, Moments]:
        """``part``: others have more, so what is missing here is no mistake."""
        there = [name for name in self.layers if name in self.sums]
        names = there if part else self.reached(self.sums, required=required)
        concepts = {concept for running in self.sums.values() for concept in running.sigma}
        if not concepts and not part:
            raise ValueError("concepts: no example belongs to any" if by_concept else "rows: no example was chosen")
        for running in set(self.sums.values()):
            waiting = dict(running.kept)
            running.flush()
            for concept, rows in waiting.items():
                remember(running.sigma[concept], rows, running.count[concept], running.absorbed)
            for sigma in running.sigma.values():
                if isinstance(sigma, LowRank):
                    sigma.settled()
                elif not isinstance(sigma, Half):
                    _products.mirror(sigma)
        # A layer that saw nothing of a concept (an expert that was never chosen for it) has a sum of zero.
        for name in names:
            running = self.sums[name]
            for concept in concepts - running.sigma.keys():
                running.sigma[concept] = self.zeros(self.layers[name], self.layers[name].weight.device)
                running.count[concept] = 0
        identity = {
            name: Identity.of(
                layer.module,
                layer.kind.reading(layer.module),
                self.sums[name].absorbed,
                max(map(_products.resolved, self.sums[name].sigma.values()), default=0.0),
            )
            for name, layer in self.layers.items()
            if name in names
        }
        result = {
            concept: Moments._known(
                {name: self.sums[name].sigma[concept] for name in names},
                {name: self.sums[name].count[concept] for name in names},
                identity,
            )
            for concept in concepts
        }
        return result if by_concept else {None: next(iter(result.values()))} if result else {}

    def reached(self, seen: Container[str], *, required: bool) -> list[str]:
        """Those of the layers that were ``seen``, in order."""
        missing = [name for name in self.layers if name not in seen]
        if missing:
            text = f"the forward pass never called layer {', '.join(map(repr, missing[:8]))}"
            if required or len(missing) == len(self.layers):
                raise ValueError(f"{text}: no moments of it can be collected")
            warnings.warn(f"{text}; it is left out", stacklevel=5)
        return [name for name in self.layers if name in seen]

    def zeros(self, layer: Layer, device: torch.device) -> Symmetric:
        d, groups = layer.width(self.absorb and layer.has_bias), layer.kind.groups(layer.module)
        return _products.zeros(d, groups, self.dtype, self.home(device), self.rank, self.folder, self.exact)

    def home(self, device: torch.device) -> torch.device:
        """Where the sums of a layer on ``device`` are kept."""
        if self.asked is not None:
            return self.asked
        return torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs have no float64


def input_of(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a layer was called with."""
    x = args[0] if args else next((v for v in kwargs.values() if isinstance(v, Tensor)), None)
    if not isinstance(x, Tensor):
        raise TypeError(f"layer {layer.name!r} was called without a tensor")
    if x.layout != torch.strided or x.is_nested:
        what = "nested" if x.is_nested else "sparse"
        raise TypeError(
            f"layer {layer.name!r} reads a {what} tensor, whose columns cannot be counted; give the model dense ones"
            " (x.to_dense(), or padded sequences with a mask in `rows`)"
        )
    return x


def pieces(layer: Layer, x: Tensor, sigma: Symmetric) -> Iterator[Tensor]:
    """The columns of ``x`` as tensors (n, d) or (groups, n, d), never much more than ``_PIECE_BYTES`` at a time."""
    first = layer.kind.columns(layer.module, x[:1])
    step = _PIECE_BYTES // max(1, first.numel() * sigma.dtype.itemsize)
    step = max(1, min(step, _products.ROWS * first.shape[-1] // max(1, first.numel())))
    for part in [x] if step >= len(x) else x.split(step):
        columns = layer.kind.columns(layer.module, part)
        if sigma.ndim == 3:
            columns = columns.flatten(0, -3).transpose(0, 1)
        else:
            columns = columns.flatten(0, -2)
        yield from columns.split(max(1, _PIECE_BYTES // (columns.shape[-1] * sigma.dtype.itemsize)), dim=-2)
