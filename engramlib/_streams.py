"""What streams: some of the rows that layers read, and sums of them that fade, merge and are kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engramlib._products import (
    Half,
    Symmetric,
    add_outer,
    add_whole,
    as_tensor,
    entries,
    full_precision,
    in_float32,
    joined,
    largest,
    works_at,
)
from engramlib._recorder import Recorder, Running
from engramlib.layers import Layer
from engramlib.running import Batch

ENOUGH = 512  # rows that are worth a product; d, where that is more


class Sampler(Recorder):
    """A recorder that lives as long as the training, and counts only a part of the rows.

    Attributes:
        rate: p. Of n rows of a concept ⌊pn⌋ or ⌈pn⌉ are drawn, pn on average, so each with probability p. Any two are
            drawn together with probability at most p² (Exercise 19.2).
        seed: with the number of the pass it fixes the draw, so that a run that goes on draws as one that never stopped.
    """

    rate, seed = 1.0, 0

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self.luck = torch.Generator()
        self.draws: list[tuple[int, Tensor | None, list[tuple[Hashable, Tensor]]]] = []
        self.busy = False

    def begin(self, number: int, batch: Batch) -> None:
        if self.busy:
            raise RuntimeError("watch: a block is open already; two at once would count everything twice")
        self.busy = True
        self.luck.manual_seed((self.seed * 1_000_003 + number) % 2**63)
        self.examples.begin(batch)

    def close_pass(self) -> None:
        with torch.no_grad(), full_precision():
            self.end()
        self.draws.clear()

    def harvest(self, step: int, by_concept: bool) -> list[Slot]:
        """The sums of the open step; the next one starts from nothing."""

        def summed(running: Running, concept: Hashable) -> Sum:
            rows = tuple((part, step) for part in running.kept.get(concept, ()))
            return Sum(running.sigma.get(concept), step, rows, float(running.count[concept]), step)

        found = list(dict.fromkeys(self.sums.values()))
        self.clear()
        return [
            Slot(
                tuple(name for name in self.layers if name in running.members),
                {(concept if by_concept else None): summed(running, concept) for concept in running.count},
            )
            for running in found
        ]

    def clear(self) -> None:
        self.sums, self.labels, self.busy = {}, None, False
        for part in (self.fresh, self.waiting, self.finite, self.draws):
            part.clear()

    def hook(self, layer: Layer) -> Callable[..., None]:
        return _forward_only(super().hook(layer))

    def checker(self, layer: Layer) -> Callable[..., None]:
        return _forward_only(super().checker(layer))

    def choose(self, layer: Layer, x: Tensor, labels: Tensor | None, dims: int) -> Iterator[tuple[Hashable, Tensor]]:
        if self.rate == 1.0:
            yield from super().choose(layer, x, labels, dims)
            return
        x = x.flatten(0, dims - 1) if dims else x
        if layer.kind.example_ndim(layer.module) is None and x.ndim > 2:  # vectors are drawn one by one, images whole
            labels = None if labels is None else labels.repeat_interleave(x.shape[1:-1].numel())
            x = x.flatten(0, -2)
        for concept, places in self.drawn(len(x), labels):
            part = x[places.to(x.device)]
            if part.numel():
                if part.is_floating_point():
                    self.finite.append((layer.name, largest(part).isfinite()))
                yield concept, part

    def take(self, running: Running, concept: Hashable, layer: Layer, x: Tensor) -> None:
        """Vectors wait, so that a product is made when there are enough of them; patches are multiplied at once."""
        if layer.kind.example_ndim(layer.module) is not None or layer.kind.groups(layer.module) is not None:
            super().take(running, concept, layer, x)
            running.flush(*running.kept)
            return
        if x.shape[-1] + running.absorbed != layer.width(running.absorbed):
            raise ValueError(f"layer {layer.name!r} cannot read an input of shape {tuple(x.shape)}")
        x = layer.kind.columns(layer.module, x).flatten(0, -2)
        # A copy: the model may overwrite what it read.
        x = F.pad(x, (0, 1), value=1.0) if running.absorbed else x.clone() if self.rate == 1.0 else x
        running.kept.setdefault(concept, []).append(x)
        running.count[concept] = running.count.get(concept, 0) + len(x)

    def bound(self) -> None:
        """Nothing: a step's rows are multiplied when it is over (:meth:`Sum.folded`)."""

    def drawn(self, n: int, labels: Tensor | None) -> list[tuple[Hashable, Tensor]]:
        """Which of n rows count, by concept: the same for all layers whose rows are labelled alike in this pass."""
        for size, same, found in self.draws:
            if size == n and (
                same is labels or (same is not None and labels is not None and torch.equal(same, labels))
            ):
                return found
        order = torch.randperm(n, generator=self.luck)
        groups: dict[Hashable, Tensor] = {None: order}
        if labels is not None:
            mixed = labels.cpu()[order]
            groups = {concept: order[mixed == concept] for concept in mixed.unique().tolist() if concept >= 0}
        found = []
        for concept, places in groups.items():
            count = int(self.rate * len(places) + float(torch.rand((), generator=self.luck, dtype=torch.float64)))
            found.append((concept, places[:count]))
        self.draws.append((n, labels, found))
        return found


def _forward_only(hook: Callable[..., None]) -> Callable[..., None]:
    def quiet(*args: Any) -> None:
        if torch._C._current_graph_task_id() == -1:  # else a checkpointed block runs again, in the backward pass
            with torch.no_grad():
                hook(*args)

    return quiet


# --------------------------------------------------------------------------------------------------------------- sums


class Sum(NamedTuple):
    """What was read of one concept, as it was at step ``at``. Never changed in place.

    Attributes:
        sigma: Σ as it was at step ``made``; None = nothing was multiplied yet.
        rows: what still waits, with a 1 behind it where the bias is absorbed, and the step in which it came. A product
            of few rows costs little more than reading and writing Σ; so they wait, and the weights that they have by
            then are given to the rows themselves: w x xᵀ = (√w x)(√w x)ᵀ.
        columns: their weighted number.
    """

    sigma: Symmetric | None
    made: int
    rows: tuple[tuple[Tensor, int], ...]
    columns: float
    at: int

    def then(self, later: Sum, decay: float) -> Sum:
        """This one, faded, and ``later``."""
        sigma, made = (later.sigma, later.made) if later.sigma is not None else (self.sigma, self.made)
        if self.sigma is not None and later.sigma is not None:
            sigma = joined(later.sigma, self.sigma, decay ** (later.made - self.made))
        columns = later.columns + decay ** (later.at - self.at) * self.columns
        return Sum(sigma, made, self.rows + later.rows, columns, later.at)

    @property
    def is_full(self) -> bool:
        """Whether there are enough rows for a product."""
        return bool(self.rows) and sum(len(x) for x, _ in self.rows) >= max(ENOUGH, self.rows[0][0].shape[-1])

    def folded(self, decay: float, zeros: Callable[[], Symmetric], exact: bool) -> Sum:
        """The same with all rows multiplied."""
        if not self.rows:
            return self
        if self.sigma is None:
            sigma = zeros()
        else:
            sigma = joined(self.sigma, self.sigma, decay ** (self.at - self.made) - 1.0)
        rows = []
        for x, step in self.rows:
            x = x.to(works_at(x, sigma))
            wide = x.float() if x.dtype != torch.float64 and not exact and in_float32(x, sigma) else x.double()
            rows.append(wide if decay == 1.0 or step == self.at else wide * decay ** ((self.at - step) / 2))
        with full_precision():
            add_outer(sigma, torch.cat(rows), absorbed=False, exact=exact)
        return self._replace(sigma=sigma, made=self.at, rows=())


class Slot(NamedTuple):
    """Layers that read one tensor, and their sums by concept."""

    names: tuple[str, ...]
    sums: Mapping[Hashable, Sum]


def merged(old: list[Slot], new: list[Slot], decay: float) -> list[Slot]:
    """Both as one. Layers that share a sum in both still do; where the two differ, sums are split."""
    was, now = ({name: slot for slot in part for name in slot.names} for part in (old, new))
    groups: dict[tuple[int, int], list[str]] = {}
    for name in {**was, **now}:
        groups.setdefault((id(was.get(name)), id(now.get(name))), []).append(name)
    result = []
    for names in groups.values():
        a, b = (part[names[0]].sums if names[0] in part else {} for part in (was, now))
        both = {concept: a[concept].then(b[concept], decay) for concept in a.keys() & b.keys()}
        result.append(Slot(tuple(names), {**a, **b, **both}))
    return result


def packed(parts: Iterable[list[Slot]]) -> tuple[list[Any], dict[str, Tensor]]:
    """Parts, whose rows are all folded, as plain values and tensors."""
    tensors: dict[str, Tensor] = {}

    def pack(slot: Slot) -> list[Any]:
        sums = []
        for concept, (sigma, made, _, columns, at) in slot.sums.items():
            assert sigma is not None  # all rows are folded
            sums.append([concept, made, columns, at, isinstance(sigma, Half) and sigma.is_rounded, str(len(tensors))])
            tensors[str(len(tensors))] = as_tensor(sigma).clone()
        return [list(slot.names), sums]

    return [[pack(slot) for slot in part] for part in parts], tensors


def unpacked(parts: list[Any], tensors: Mapping[str, Tensor], recorder: Recorder) -> list[list[Slot]]:
    """The inverse of :func:`packed`, where the layers are now. Raises for what does not fit them."""

    def unpack(names: list[str], sums: list[Any]) -> Slot:
        layer, found = recorder.layers[names[0]], {}
        for concept, made, columns, at, is_rounded, key in sums:
            sigma = recorder.zeros(layer, layer.weight.device)
            assert isinstance(sigma, (Half, Tensor))  # streams are whole
            if sigma.shape != tensors[key].shape:
                raise ValueError(f"Σ of layer {layer.name!r} has shape {tuple(tensors[key].shape)}")
            add_whole(sigma, tensors[key].to(entries(sigma)))
            if isinstance(sigma, Half):
                sigma.is_rounded = bool(is_rounded)
            found[concept] = Sum(sigma, int(made), (), float(columns), int(at))
        return Slot(tuple(names), found)

    return [[unpack(*slot) for slot in part] for part in parts]
