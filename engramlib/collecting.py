"""One forward pass: data in, second moments of every layer's input out."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from engramlib._examples import Examples
from engramlib._products import full_precision
from engramlib._progress import length, track
from engramlib._recorder import Recorder
from engramlib.layers import find_layers
from engramlib.lowrank import check_rank
from engramlib.moments import Moments
from engramlib.running import Batch, Selector, as_batches, device_of, evaluating, labels_of, to_device
from engramlib.running import run as run_model

AnyRecorder = TypeVar("AnyRecorder", bound=Recorder)


def collect(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    layers: str | Iterable[str] | None = None,
    rows: Selector | None = None,
    forward: Callable[[nn.Module, Batch], Any] | None = None,
    bias: str = "absorb",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    examples: int | None = None,
    exact: bool = False,
    rank: int | float | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Moments:
    """Second moments Σ = Σᵢ xᵢ xᵢᵀ of the inputs of each layer, from one forward pass without gradients.

    The model runs in evaluation mode and is handed back exactly as it came: hooks removed, training flags restored,
    also after an error. Batches are moved to the device of the model's parameters.

    Args:
        model: any ``nn.Module`` with at least one supported layer: ``nn.Linear``, Hugging Face ``Conv1D``,
            ``nn.Conv1d``, ``nn.Conv2d``, ``nn.ConvTranspose1d`` to ``3d`` (whose bias is never absorbed),
            ``nn.MultiheadAttention`` as four layers, ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``, and the
            fused experts of transformers 5, ``0.gate_up_proj``, ``0.down_proj``, ... for each. Only where ``layers``
            names them: ``nn.BatchNorm1d``, ``nn.BatchNorm2d`` and ``nn.LayerNorm``, as y = γ x̂ + β, and an output
            layer that shares its weight with an ``nn.Embedding``.
        batches: an iterable of tensors, of ``(x, y)`` tuples (the model gets x) or of dicts (keyword arguments). A
            single tensor or dict counts as one batch.
        layers: which layers: a list of name suffixes, or one regular expression for the whole name, as in PEFT.
            None = every supported layer but normalisations and tied output layers (``".*"`` takes those too).
        rows: ``rows(batch)`` is a boolean mask over examples ``(batch,)`` or tokens ``(batch, tokens)``; only those
            count.
        forward: ``forward(model, batch)`` replaces the call of the model.
        bias: ``"absorb"`` appends a constant 1 to the columns of layers that have a bias, so that it is part of the
            memory; ``"keep"`` leaves biases alone (the paper's MLP has none).
        dtype: of the sums. float32 is for memory: half of it.
        device: where the sums are kept. None = where each layer is. ``"cpu"`` leaves a GPU's memory to the model:
            products are still made on the GPU, of d columns at a time, and added up elsewhere.
        examples: for ``rows`` and concepts: the dimension of the model's inputs that holds the example, 1 where they
            are (tokens, batch, d). None = found: by the shapes, and where those leave a choice (as many tokens as
            examples, a multiple) by running the model on that batch again with an example replaced; where nothing
            tells the two apart, 0.
        exact: make all products in float64. Otherwise those of wide layers (d > 128; on a GPU, 1,024) in float32 or
            half precision are made in float32, up to 4,096 rows at a time, and added up in float64. That takes half of
            the time, and it rounds: eigenvalues of Σ below 5e-7 of the largest are noise then, as they are in float32
            sums. The default cut is above that. For a finer cut say ``exact=True``; :func:`extract` warns
            where it matters.
        rank: keep so many rows of each Σ and its diagonal, by Frequent Directions (:class:`engramlib.lowrank.LowRank`;
            chapter 21). A number below 1 is a share of the bytes that Σ takes otherwise: 0.1 = a tenth (and twice that
            while the pass runs). The error is bounded (:meth:`Moments.error`), and such moments add but do not
            subtract. Rows are float32, or float64 with ``exact=True``. Where it would save nothing, and for grouped
            convolutions, Σ is kept whole. None = whole.
        folder: where sums live on disk, mapped into memory: for those that do not fit there. Needs the CPU. None = in
            memory.

    Returns:
        Moments: one Σ per layer, shape (d, d), shared by layers that read the same tensor.

    Raises:
        ValueError: no batches, no rows chosen, a mask of the wrong length, NaN or infinite activations (names the
            layer), layers that match nothing or that the forward pass never reached, rows or concepts of which it is
            not clear where they belong in what a layer reads.
        TypeError: a batch of an unknown type, or a layer that cannot be edited (quantised, parametrized, a norm
            without weights).

    Cost: a forward pass plus n·d²/2 multiply-adds per distinct input; 4 d² bytes each (half of Σ is kept until
    ``moments[name]`` asks for it), 2 d² with ``dtype=torch.float32``, 4 ℓd + 8d with ``rank``. Source: Section 4;
    chapters 00 and 21.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model, x = nn.Linear(3, 2, bias=False), torch.randn(10, 3)
        >>> moments = collect(model, [x[:4], x[4:]])
        >>> torch.allclose(moments[""], (x.double().T @ x.double())), moments.count[""]
        (True, 10)
    """
    how: dict[str, Any] = {"layers": layers, "bias": bias, "dtype": dtype, "device": device, "exact": exact}
    how |= {"rows": rows, "forward": forward, "examples": examples, "rank": rank, "folder": folder}
    return _run(model, batches, **how)[None]


def collect_by_concept(
    model: nn.Module,
    batches: Iterable[Batch],
    concepts: Selector,
    *,
    layers: str | Iterable[str] | None = None,
    rows: Selector | None = None,
    forward: Callable[[nn.Module, Batch], Any] | None = None,
    bias: str = "absorb",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    examples: int | None = None,
    exact: bool = False,
    rank: int | float | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> dict[int, Moments]:
    """Second moments of many concepts at once: one pass for all of them.

    Args:
        concepts: ``concepts(batch)`` is one integer per example ``(batch,)`` or token ``(batch, tokens)``; a negative
            number belongs to no concept and is skipped. For labelled batches: ``lambda batch: batch[1]``.
        model, batches, layers, rows, forward, bias, dtype, device, examples, exact, rank, folder: as in
            :func:`collect`.

    Returns:
        dict: concept -> Moments, in increasing order of the concept. Only concepts that occur are there.

    Raises and cost: as :func:`collect`; every example is multiplied once, whatever the number of concepts, and each
    concept keeps its own 4 d² bytes per distinct input. Source: Eq. 6; chapter 04.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model, x, y = nn.Linear(3, 2), torch.randn(10, 3), torch.arange(10) % 2
        >>> moments = collect_by_concept(model, [(x, y)], lambda batch: batch[1])
        >>> everything = collect(model, [x])
        >>> torch.allclose((moments[0] + moments[1])[""], everything[""])
        True
    """
    if not callable(concepts):
        raise TypeError("concepts: expected a function of a batch, for instance `lambda batch: batch[1]`")
    how: dict[str, Any] = {"layers": layers, "bias": bias, "dtype": dtype, "device": device, "exact": exact}
    how |= {"rows": rows, "forward": forward, "examples": examples, "rank": rank, "folder": folder}
    sums = _run(model, batches, concepts, **how)
    return {concept: sums[concept] for concept in sorted(c for c in sums if isinstance(c, int))}


def collect_part(
    model: nn.Module, batches: Iterable[Batch], concepts: Selector | None = None, **how: Any
) -> dict[Hashable, Moments]:
    """Concept -> what some of the data say (without ``concepts`` under None); nothing of what they do not speak of.

    For :mod:`engramlib.distributed`: batches that choose no row, or reach no layer, are no mistake where others do.
    ``how``: the arguments of :func:`collect`.
    """
    names = ("layers", "rows", "forward", "bias", "dtype", "device", "examples", "exact", "rank", "folder")
    if unknown := set(how) - set(names):
        raise TypeError(f"unknown arguments: {', '.join(sorted(unknown))}; those of collect are {', '.join(names)}")
    return _run(model, batches, concepts, part=True, **how)


def _run(
    model: nn.Module,
    batches: Iterable[Batch],
    concepts: Selector | None = None,
    *,
    layers: str | Iterable[str] | None = None,
    rows: Selector | None = None,
    forward: Callable[[nn.Module, Batch], Any] | None = None,
    device: str | torch.device | None = None,
    rank: int | float | None = None,
    folder: str | os.PathLike[str] | None = None,
    part: bool = False,
    **how: Any,
) -> dict[Hashable, Moments]:
    check_rank(rank)
    if folder is not None:
        how["folder"], device = os.fspath(folder), device or "cpu"
    recorder = recorder_of(Recorder, model, layers, rows, forward, device=device, rank=rank, **how)
    if folder is not None and not (os.path.isdir(folder) and torch.device(device or "cpu").type == "cpu"):
        raise ValueError(f"folder: expected a folder that is there, and sums on the CPU, got {folder!r} and {device!r}")
    batches = as_batches(batches)
    place, found = device_of(model), recorder.examples
    seen = 0
    with evaluating(model), listening(recorder), torch.no_grad():
        total = length(batches)
        for batch in track(batches, desc="collecting moments", total=total):
            batch = to_device(batch, place)
            recorder.labels = labels_of(batch, rows, concepts, place)
            found.begin(batch)
            run_model(model, batch, forward)
            with full_precision():
                recorder.end()
            if recorder.waiting and recorder.labels is not None:
                found.ask(len(recorder.labels))
                with full_precision():
                    recorder.end()
            seen += 1
    if not seen:
        raise ValueError("batches: there were none (an empty list, or a generator that was already used up?)")
    return recorder.result(required=layers is not None, by_concept=concepts is not None, part=part)


def recorder_of(
    kind: type[AnyRecorder],
    model: nn.Module,
    layers: str | Iterable[str] | None,
    rows: Selector | None,
    forward: Callable[[nn.Module, Batch], Any] | None,
    *,
    bias: str = "absorb",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    examples: int | None = None,
    exact: bool = False,
    **kept: Any,
) -> AnyRecorder:
    """A recorder of the chosen layers, after checking the arguments of :func:`collect`; ``kept``: how Σ is kept."""
    if bias not in ("absorb", "keep"):
        raise ValueError(f'bias: expected "absorb" or "keep", got {bias!r}')
    if dtype not in (torch.float64, torch.float32):
        raise ValueError(f"dtype: expected torch.float64 or torch.float32, got {dtype}")
    for argument, function in (("rows", rows), ("forward", forward)):
        if function is not None and not callable(function):
            raise TypeError(f"{argument}: expected a function, got {type(function).__name__}")
    chosen = find_layers(model, layers)
    recorder = kind(chosen, absorb=bias == "absorb", dtype=dtype, home=_device(device), exact=exact, **kept)
    recorder.examples = Examples(model, chosen, forward, examples)
    return recorder


def _device(device: str | torch.device | None) -> torch.device | None:
    if device is None:
        return None
    try:
        found = torch.empty(0, device=device).device  # with its number, and only if it is there
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device: {device!r} is no device here: {error}") from error
    if found.type == "meta":
        raise ValueError("device: 'meta' keeps no numbers; say \"cpu\", or leave it out")
    return found


@contextmanager
def listening(recorder: Recorder) -> Iterator[None]:
    """Hooks on, and off again whatever happens."""
    hooks = []
    try:
        for layer in recorder.layers.values():
            hooks.append(layer.module.register_forward_pre_hook(recorder.hook(layer), with_kwargs=True))
            if not layer.kind.routed:  # experts are compared with their module as a whole
                # First of its hooks: what the user's own hooks make of the output is not the layer's doing.
                after = layer.module.register_forward_hook(recorder.checker(layer), with_kwargs=True, prepend=True)
                hooks.append(after)
        yield
    finally:
        for hook in hooks:
            hook.remove()
