"""Moments across processes: each reads its share of the data, and the sums are added. Never a hang, and no lost hour.

    with distributed.started():  # of torchrun or SLURM; alone it is one process
        mine = distributed.share(batches)
        target = distributed.collect(model, mine, rows=is_target, timeout=600, resume="/scratch/run7/target")

Every process has the whole model and every process gets the sum. Chapter 21.
"""

from __future__ import annotations

import datetime
import itertools
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from engramlib._parts import Sums, added, collected
from engramlib._products import Half, Symmetric, as_tensor
from engramlib.layers import find_layers
from engramlib.lowrank import LowRank
from engramlib.moments import Identity, Moments
from engramlib.running import Batch, Selector, as_batches

T = TypeVar("T")


@contextmanager
def started(timeout: float = 1800.0) -> Iterator[int]:
    """A process group for the block, as ``torchrun`` and SLURM ask for it; gives this process's number.

    NCCL and a GPU each where there are GPUs, else gloo. Without their environment it is one process, and the same
    script runs. ``timeout``: seconds until a process that does not come is an error.
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield rank()
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    with _speaking("the processes did not all start", timeout):
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout))
    try:
        yield rank()
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process; 0 alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(items: Iterable[T]) -> Iterator[T]:
    """Every ``size()``-th of the items, from the ``rank()``-th on: all processes together have each once.

    >>> list(share("abc"))  # one process
    ['a', 'b', 'c']
    """
    return itertools.islice(items, rank(), None, size())


def collect(
    model: nn.Module,
    batches: Iterable[Batch],
    concepts: Selector | None = None,
    *,
    timeout: float = 1800.0,
    resume: str | os.PathLike[str] | None = None,
    every: int = 100,
    run: str = "",
    **how: Any,
) -> Any:
    """Moments of the batches of all processes: :func:`engramlib.collect`, or with ``concepts`` a dict of them.

    However the data are divided, also unevenly, or with nothing for some, the result is that of one process up to the
    rounding of sums (1e-12 or so; with ``rank``, up to the bound of both sketches). A process may have seen other
    layers, experts or concepts than the others.

    Args:
        batches: those of **this** process (:func:`share`).
        concepts: as in :func:`engramlib.collect_by_concept`.
        timeout: seconds that the first process waits for the last one when it is done. A process that failed is
            reported at once, with its error; one that died or hangs is an error on all others, which names it where
            the backend can tell, within twice this time.
        resume: a folder for partial sums, one file a process, replaced whole every ``every`` batches. A run that was
            killed and is started again with the same arguments skips what was counted. ``run`` names the run. The
            sums of another run, other arguments, weights, or data in another order are refused.
        how: the arguments of :func:`engramlib.collect`.

    Raises:
        RuntimeError: a process failed, died, or did not come in time.
        ValueError: as :func:`engramlib.collect`; processes whose models differ; partial sums that are not of this run.

    Cost: a pass over this process's batches; then each Σ is sent around once, one at a time, in the bytes it is kept
    in. Source: additivity of Σ (Section 4); chapter 21.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model, x = nn.Linear(3, 2), torch.randn(10, 3)
        >>> found = collect(model, [x[:4], x[4:]])  # one process
        >>> torch.allclose(found[""][:3, :3], x.double().T @ x.double())
        True
    """
    if not timeout > 0 or type(every) is not int or every < 1:
        raise ValueError(f"timeout, every: expected a time and a number of batches above 0, got {timeout!r}, {every!r}")
    layers = how.get("layers")
    how["layers"] = layers if layers is None or isinstance(layers, str) else list(layers)
    mine: Sums = {}
    names: list[str] = []
    failure: Exception | None = None
    with _control(timeout) as group:
        try:
            names = list(find_layers(model, how["layers"]))
            mine = collected(model, as_batches(batches), concepts, resume, every, run, how, (rank(), size()))
        except Exception as error:
            failure = error
        found = _reduced(mine, failure, group, timeout)
    if not found:
        raise ValueError("batches: no process had any, or no row was chosen in them")
    reached = {name for moments in found.values() for name in moments}
    if missing := [name for name in names if name not in reached]:
        text = f"no process ever called layer {', '.join(map(repr, missing[:8]))}"
        if layers is not None:
            raise ValueError(f"{text}: no moments of it can be collected")
        warnings.warn(f"{text}; it is left out", stacklevel=2)
    return found[None] if concepts is None else {key: found[key] for key in sorted(found)}  # type: ignore[type-var]


def all_reduce(moments: Moments | Mapping[Any, Moments] | None, *, timeout: float = 1800.0) -> Any:
    """The sum of the moments of all processes, on all of them; None = this one has none.

    As :func:`collect` does at its end: layers and concepts that only some have count as zero in the others. Raises
    ``RuntimeError`` for a process that does not come, ``ValueError`` for moments that do not go together.
    """
    mine: Any = {None: moments} if isinstance(moments, Moments) else {} if moments is None else moments
    if not isinstance(mine, Mapping) or not all(isinstance(part, Moments) for part in mine.values()):
        raise TypeError(f"moments: expected Moments, a dict of them, or None, got {type(moments).__name__}")
    with _control(timeout) as group:
        found = _reduced(dict(mine), None, group, timeout)
    if not found:
        raise ValueError("moments: no process had any")
    return found[None] if None in found else found


def merge(parts: Iterable[Moments]) -> Moments:
    """The sum of moments that may be of different layers, as jobs without a network leave them in files.

    >>> import torch
    >>> a, b = Moments({"fc": torch.eye(2)}, {"fc": 2}), Moments({"out": torch.eye(3)}, {"out": 3})
    >>> merge([a, b, a]).count
    {'fc': 4, 'out': 3}
    """
    total: Moments | None = None
    for part in parts:
        total = part if total is None else added(total, part)
    if total is None:
        raise ValueError("parts: there were none")
    return total


# ------------------------------------------------------------------------------------------------- all processes


@contextmanager
def _control(timeout: float) -> Iterator[Any]:
    """A gloo group with this timeout, whatever the backend: it can say who is missing. None where one is alone."""
    if size() == 1:
        yield None
        return
    with _speaking("the processes did not come together", timeout):
        group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout))
    yield group
    dist.destroy_process_group(group)


@contextmanager
def _speaking(what: str, timeout: float) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    except RuntimeError as error:  # torch's own are its subclasses
        said = str(error).strip().partition("\n")[0]
        raise RuntimeError(
            f"process {rank()}: {what}, after {time.monotonic() - began:.1f} s (timeout={timeout:g}): another process"
            f" died or hangs. What torch says: {said}"
        ) from error


def _reduced(mine: Sums, failure: Exception | None, group: Any, timeout: float) -> Sums:
    """The sums of all processes; what a process failed with is raised by all."""
    if group is None:
        if failure is not None:
            raise failure
        return mine
    headers: list[Any] = [None] * size()
    text = None if failure is None else f"{type(failure).__name__}: {failure}"
    with _speaking("not all processes got to the sum", timeout):
        dist.monitored_barrier(group, datetime.timedelta(seconds=timeout), wait_all_ranks=True)
        dist.all_gather_object(headers, (text, {key: _header(part) for key, part in mine.items()}), group)
    if failure is not None:
        raise failure
    if failed := [f"process {number}: {said}" for number, (said, _) in enumerate(headers) if said]:
        raise RuntimeError("; ".join(failed))
    found: Sums = {}
    with _speaking("a process was lost while sums were sent", timeout):
        for key in dict.fromkeys(key for _, own in headers for key in own):
            found[key] = _summed(mine.get(key), [own.get(key, {}) for _, own in headers], group)
    if None in found and len(found) > 1:
        raise ValueError("moments: some processes have concepts and some have not")
    return found


def _header(moments: Moments) -> dict[str, Any]:
    """What the others have to know: layer -> (which Σ, count, identity, what Σ is kept as)."""
    found = {}
    for name in moments:
        sigma = moments.stored(name)
        rows = (len(sigma.rows), sigma.rank, sigma.error) if isinstance(sigma, LowRank) else None
        half = (sigma.block, sigma.is_gram, sigma.is_rounded) if isinstance(sigma, Half) else None
        kept = (tuple(sigma.shape), sigma.dtype, rows, half)
        found[name] = (id(sigma), moments.count[name], moments.identity.get(name), kept)
    return found


def _summed(mine: Moments | None, headers: list[dict[str, Any]], group: Any) -> Moments:
    sigma: dict[str, Symmetric] = {}
    count: dict[str, int] = {}
    identity: dict[str, Identity] = {}
    done: dict[tuple[Any, ...], Symmetric] = {}
    for name in dict.fromkeys(name for own in headers for name in own):
        there = {number: own[name] for number, own in enumerate(headers) if name in own}
        first, *rest = there.values()
        known = [entry[2] for entry in there.values()]
        for number, other in there.items():
            if other[3][0] != first[3][0]:
                raise ValueError(f"layer {name!r}: Σ of shape {first[3][0]} and, on process {number}, {other[3][0]}")
            if known[0] and other[2] and (known[0].differs(other[2]) or not known[0].same_weights(other[2])):
                raise ValueError(f"layer {name!r}: process {number} has other weights, or reads other columns")
        count[name] = sum(entry[1] for entry in there.values())
        if all(known):
            identity[name] = known[0]._replace(resolved=max(own.resolved for own in known))
        which = tuple(there[number][0] if number in there else None for number in range(len(headers)))
        if which not in done:  # layers share a sum where they did on every process
            own = mine.stored(name) if mine is not None and name in mine else None
            done[which] = _sum(own, {number: entry[3] for number, entry in there.items()}, group)
        sigma[name] = done[which]
    return Moments._known(sigma, count, identity)


def _sum(mine: Symmetric | None, kept: Mapping[int, Any], group: Any) -> Symmetric:
    """One Σ of all processes. ``kept``: process -> (shape, dtype, rows, half)."""
    shape, _, rows, half = next(iter(kept.values()))
    dtype = torch.float64 if any(own[1] == torch.float64 for own in kept.values()) else torch.float32
    home = torch.device("cpu") if mine is None else mine.device
    if all(own[2] for own in kept.values()):  # rows do not add, they are appended and shrunk
        most, d = max(own[2][0] for own in kept.values()), shape[-1]
        buffer = torch.zeros(most + 1, d, dtype=torch.float64)
        if isinstance(mine, LowRank):
            buffer[: len(mine.rows)], buffer[-1] = mine.rows, mine.variances
        parts = [torch.empty_like(buffer) for _ in range(size())]
        dist.all_gather(parts, buffer, group)
        sketches = [LowRank.of(parts[n][: own[2][0]].to(own[1]), parts[n][-1], *own[2][1:]) for n, own in kept.items()]
        return (sketches[0].joined(*sketches[1:]) if len(sketches) > 1 else sketches[0]).to(home)
    same = all(own[3] and own[3][0] == half[0] for own in kept.values()) if half else False
    width, block = shape[-1], half[0] if half else 0
    length = sum((min(s + block, width) - s) * (width - s) for s in range(0, width, block)) if same else 0
    nccl = dist.get_backend() == "nccl"  # over the fast links, one Σ at a time; else over gloo
    flat = torch.zeros((length,) if same else shape, dtype=dtype, device="cuda" if nccl else "cpu")
    if mine is not None:
        flat += (mine.flat if same and isinstance(mine, Half) else as_tensor(mine)).to(flat)
    dist.all_reduce(flat, group=None if nccl else group)
    if not same:
        return flat.to(home)
    is_gram, is_rounded = all(own[3][1] for own in kept.values()), any(own[3][2] for own in kept.values())
    return Half(flat.to(home), width, block, is_gram, is_rounded)
