"""The sums of one process, resumable: what was counted is on disk, and what is found there is checked."""

from __future__ import annotations

import itertools
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engramlib import _files
from engramlib.collecting import collect_part
from engramlib.layers import supported_layers
from engramlib.moments import Identity, Moments
from engramlib.running import Batch, Selector

KIND = "engramlib.part"
Sums = dict[Hashable, Moments]  # concept -> Moments; without concepts, under None


def collected(
    model: nn.Module,
    batches: Iterable[Batch],
    concepts: Selector | None,
    resume: str | os.PathLike[str] | None,
    every: int,
    run: str,
    how: Mapping[str, Any],
    process: tuple[int, int],
) -> Sums:
    """One process's part of :func:`engramlib.distributed.collect`; ``process``: its number, and how many there are."""
    same = {key: str(value) for key, value in how.items() if not callable(value) and key not in ("folder", "device")}
    about = {"run": run, "process": list(process), "settings": same, "by concept": concepts is not None}
    path = None if resume is None else Path(resume) / "part-{}-of-{}.safetensors".format(*process)
    sums, done, checksum = ({}, 0, 0) if path is None or not path.exists() else _resumed(path, about, model)
    seen = 0

    def counted() -> Iterator[Batch]:
        nonlocal seen
        for batch in batches:
            seen = (seen + _checksum(batch)) % 2**61 if path is not None else 0
            yield batch

    stream = counted()
    if done and (sum(1 for _ in itertools.islice(stream, done)) < done or seen != checksum):
        raise ValueError(f"{path}: {done} batches were counted in it, and this run's first {done} are others")
    for first in stream:
        piece = itertools.chain([first], itertools.islice(stream, every - 1) if path is not None else stream)
        taken = itertools.count()
        found = collect_part(model, (batch for batch, _ in zip(piece, taken, strict=False)), concepts, **how)
        done += next(taken)
        sums = {**sums, **{key: added(sums[key], part) if key in sums else part for key, part in found.items()}}
        if path is not None:
            packed = {key: part.packed() for key, part in sums.items()}
            tensors = {f"{i}/{slot}": t for i, (ts, _) in enumerate(packed.values()) for slot, t in ts.items()}
            parts = [[key, header] for key, (_, header) in packed.items()]
            _files.save(path, KIND, tensors, {**about, "done": done, "checksum": seen, "parts": parts})
    return sums


def _resumed(path: Path, about: Mapping[str, Any], model: nn.Module) -> tuple[Sums, int, int]:
    tensors, header = _files.load(path, KIND)
    for key, value in about.items():
        if header.get(key) != value:
            raise ValueError(
                f"{path} is of another run: its {key} is {header.get(key)!r}, this one's {value!r}. Take another"
                " folder, or delete it to begin again"
            )
    with _files.damaged(path):
        sums = {
            key: Moments.unpacked({k.partition("/")[2]: t for k, t in tensors.items() if k.startswith(f"{i}/")}, own)
            for i, (key, own) in enumerate(header["parts"])
        }
        done, checksum = int(header["done"]), int(header["checksum"])
    layers = supported_layers(model)
    for moments in sums.values():
        for name, was in moments.identity.items():
            layer = layers.get(name)
            now = None if layer is None else Identity.of(layer.module, layer.kind.reading(layer.module), was.absorbed)
            if now is None or now.differs(was) or not now.same_weights(was):
                raise ValueError(f"{path} is of another model: layer {name!r} had other weights then")
    return sums, done, checksum


def _checksum(batch: Any) -> int:
    """A number of all tensors of a batch, to the last bit."""
    if isinstance(batch, Tensor):
        raw = batch.detach().cpu().contiguous().reshape(-1).view(torch.uint8).long()
        return (int((raw * (torch.arange(len(raw)) % 65521 + 1)).sum()) + sum(batch.shape)) % 2**61
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
    return sum((2 * i + 1) * _checksum(part) for i, part in enumerate(parts)) % 2**61


def added(a: Moments, b: Moments) -> Moments:
    """a + b, where either may have layers that the other has not."""
    both = [name for name in a if name in b]
    joint = a.select(both) + b.select(both) if both else Moments({}, {})
    known = {name: next(m for m in (joint, a, b) if name in m) for name in dict.fromkeys([*a, *b])}
    identity = {name: m.identity[name] for name, m in known.items() if name in m.identity}
    counts = {name: m.count[name] for name, m in known.items()}
    return Moments._known({name: m.stored(name) for name, m in known.items()}, counts, identity)
