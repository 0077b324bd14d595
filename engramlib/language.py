"""Causal language models: text in, moments out; one call that forgets.

An item is a text, of which every token counts, or a pair (prompt, answer), of which the answer's tokens count. The
tokenizer is handed in and used as it is: chat templates, if you want one, are applied to the prompts before. Nothing
here imports transformers; what is asked of a tokenizer is that it turns a list of texts into ``input_ids``, with and
without special tokens (``add_special_tokens``), and of a model that it takes ``input_ids`` and ``attention_mask``. How
texts become batches is in ``_text.py``, how a model is tried for being causal in ``_causal.py``. Chapter 13.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from numbers import Real
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from engramlib._causal import refuse_non_causal, refuse_two_sided
from engramlib._copies import copied
from engramlib._progress import track
from engramlib._text import (
    IGNORE,
    Batches,
    Item,
    answer_rows,
    as_pairs,
    batches,
    check_embedded,
    check_size,
    embeddings,
    encode,
    length_limit,
    pad_token,
)
from engramlib._ties import untie, untie_layers
from engramlib.collecting import collect as collect_moments
from engramlib.edit import shifted
from engramlib.engram import Engram
from engramlib.estimator import extract
from engramlib.layers import find_layers
from engramlib.moments import Moments
from engramlib.running import device_of, evaluating, run, to_device
from engramlib.spectral import check_rcond

__all__ = [
    "IGNORE",
    "Answer",
    "Batches",
    "Item",
    "Strength",
    "answer_logprobs",
    "answer_rows",
    "batches",
    "collect",
    "forget",
    "untie",
]

Model = TypeVar("Model", bound=nn.Module)
Strength = str | Mapping[str, float] | Callable[[Engram], Mapping[str, float]]

# Numbers that are worked on at a time where a vocabulary is wide: 64 MiB of float32.
_PIECE = 2**24


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}; the model comes first")


def _sorted_batches(
    model: nn.Module,
    tokenizer: Any,
    items: Iterable[Item],
    argument: str,
    batch_size: int,
    max_length: int | None,
    truncate: str | None,
    eos: bool,
) -> tuple[Batches, list[int]]:
    """Batches of items of like length, the longest first (if memory is short, it shows at once), and their order."""
    _check_model(model)
    refuse_two_sided(model)
    check_size("batch_size", batch_size)
    encoded = encode(tokenizer, items, argument, length_limit(max_length, tokenizer, model), truncate, eos)
    size = embeddings(model)
    check_embedded(encoded, argument, size)
    order = sorted(range(len(encoded)), key=lambda number: -len(encoded[number][0]))
    return Batches([encoded[number] for number in order], batch_size, pad_token(tokenizer, encoded, size)), order


def _warn_of_lone_answers(
    encoded: Sequence[tuple[list[int], list[int]]], argument: str, eos: bool, end: int | None
) -> None:
    """Positions that hold an answer of one token come after it was predicted: nothing that produced it is read."""
    labels = [row for _, row in encoded if row[0] == IGNORE]
    lengths = [sum(token != IGNORE for token in row) - (eos and row[-1] == end) for row in labels]
    if few := sum(length <= 1 for length in lengths):
        warnings.warn(
            f"{argument}: {few} of {len(labels)} answers are a single token, and with shift=False a layer is read where"
            " that token stands, when it has been predicted already. shift=True reads the position that predicts it",
            stacklevel=3,
        )


# ------------------------------------------------------------------------------------------------- what layers see


def collect(
    model: nn.Module,
    tokenizer: Any,
    items: Iterable[Item],
    *,
    layers: str | Iterable[str] | None = None,
    batch_size: int = 8,
    max_length: int | None = None,
    truncate: str | None = None,
    eos: bool = False,
    shift: bool = False,
    bias: str = "absorb",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    exact: bool = False,
    rank: int | float | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Moments:
    """Second moments of what each layer reads at the tokens that count, Σ = Σ x xᵀ over the answers' tokens.

    The same as :func:`engramlib.collect` on :func:`batches` with :func:`answer_rows`. Padding, the size of batches and
    the order of items change nothing but the last digits.

    Args:
        model: a causal language model, called with ``input_ids`` and ``attention_mask``. Weights may be bf16 or fp16.
        tokenizer, items, batch_size, max_length, truncate, eos: as in :func:`batches`; the default of ``max_length`` is
            the smaller of the tokenizer's and the model's own context.
        layers: which layers, as in :func:`engramlib.collect`. None = every supported layer **but an output layer that
            is tied to the embedding**: there, one matrix does two jobs, and forgetting at the output would change what
            every token means at the input. Name it (``layers=[..., "lm_head"]``) to have it; :func:`forget` unties it
            in the edited model, and :func:`untie` does so for an edit of your own.
        shift: False = columns at the answer's own tokens, True = at the positions that predict them
            (:func:`answer_rows`).
        bias, dtype, device, exact, rank, folder: as in :func:`engramlib.collect`.

    Returns:
        Moments: one Σ per distinct input; query, key and value share one, gate and up projection too. The experts of a
        mixture are layers of their own, ``experts.3.gate_up_proj``; each counts the tokens that were routed to it.

    Raises:
        ValueError: as :func:`batches`, and as :func:`engramlib.collect`; tokens that the model has no embedding for.
        TypeError: not a model or not a tokenizer, items of another type, quantised weights, a model with an encoder
            and a decoder. Warns of answers that are a single token if ``shift=False``: they are read after the fact.

    Cost: a forward pass (without the output layer if that is not asked for) and n·d²/2 multiply-adds per distinct
    input, 4 d² bytes each, less with ``rank``. Source: Eq. 4, Section 4; chapters 13 and 21.
    """
    data, _ = _sorted_batches(model, tokenizer, items, "items", batch_size, max_length, truncate, eos)
    if not shift:
        _warn_of_lone_answers(data.encoded, "items", eos, getattr(tokenizer, "eos_token_id", None))
    how: dict[str, Any] = {"dtype": dtype, "device": device, "exact": exact, "rank": rank, "folder": folder}
    return _collect(model, data, layers=layers, shift=shift, bias=bias, **how)


def _collect(
    model: nn.Module, data: Batches, *, layers: str | Iterable[str] | None, shift: bool, **how: Any
) -> Moments:
    layers = layers if layers is None or isinstance(layers, str) else list(layers)
    trunk = _trunk(model, find_layers(model, layers))

    def forward(_: nn.Module, batch: Mapping[str, Tensor]) -> None:
        trunk(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])  # labels would cost a loss

    def rows(batch: Mapping[str, Tensor]) -> Tensor:
        return answer_rows(batch, shift=shift)

    return collect_moments(model, data, layers=layers, rows=rows, forward=forward, **how)


def _trunk(model: nn.Module, layers: Iterable[str]) -> nn.Module:
    """The smallest part of the model that runs all ``layers``: without its output layer, if nobody looks at that.

    A vocabulary of 150,000 makes the output layer a quarter of a small model's work, and its logits most of the memory.
    """
    name = getattr(model, "base_model_prefix", "")
    trunk = getattr(model, name, None) if name else None
    if isinstance(trunk, nn.Module) and all(layer.startswith(f"{name}.") for layer in layers):
        return trunk
    return model


# ------------------------------------------------------------------------------------------------------- forgetting


def forget(
    model: Model,
    tokenizer: Any,
    forget: Iterable[Item],
    retain: Iterable[Item],
    *,
    alpha: float = 1.0,
    strength: Strength = "norm",
    specificity: float = 1.0,
    rcond: float = 1e-6,
    cut: float | None = None,
    base: Mapping[str, Tensor] | nn.Module | None = None,
    layers: str | Iterable[str] | None = None,
    batch_size: int = 8,
    max_length: int | None = None,
    truncate: str | None = None,
    eos: bool = False,
    shift: bool = False,
    bias: str = "absorb",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    exact: bool = False,
    inplace: bool = False,
    return_engram: bool = False,
) -> Any:
    """Make a causal language model forget some texts or answers: one pass over the data, no training.

    Each layer loses its engram, W ← W − α s W⁺ with W⁺ = W Σ⁺ (Σ⁺ + λ Σ⁻)†, where Σ⁺ sums x xᵀ over the answer tokens
    of ``forget`` and Σ⁻ over those of ``retain``. The strength of a layer is s = r / max r with r = ‖W⁺‖/‖W‖ (the
    paper's α_W-Norm): layers that hold more of the memory lose more of it. It is the same as

    .. code-block:: python

        target = el.language.collect(model, tokenizer, forget)
        reference = el.language.collect(model, tokenizer, retain)
        engram = el.extract(model, target, reference)
        edited = el.ablate(model, engram.norm_weighted(), alpha)

    To try several ``alpha`` without collecting again, keep the engram:

    .. code-block:: python

        edited, engram = el.forget(model, tokenizer, forget, retain, return_engram=True)
        weaker = el.ablate(model, engram, 0.5)

    Args:
        model: a causal language model, called with ``input_ids`` and ``attention_mask``.
        tokenizer: its tokenizer. Apply a chat template, if you want one, to the prompts yourself.
        forget: what to forget: texts (every token counts) or pairs (prompt, answer) (the answer's tokens count).
        retain: what to keep, **without** the items to forget; the more of what the model knows it covers, the better.
        alpha: α, how far to go. 0 leaves the model as it is, 1 is the paper's; choose it on other items than those
            you report on.
        strength: ``"norm"`` (α_W-Norm), ``"uniform"`` (s = 1 everywhere), a dict layer -> s (1 where it names none), or
            a function from the :class:`Engram` to such a dict.
        specificity, rcond, base: λ, the cut, and W0, as in :func:`engramlib.extract`.
        cut: another name for ``rcond``.
        layers: which layers, as in :func:`collect`. None = all but an output layer tied to the embedding. If you
            name such a layer, it is untied in the edited model (:func:`untie`), so that the embedding stays as it is.
        batch_size, max_length, truncate, eos, shift: how items become batches, as in :func:`batches` and
            :func:`collect`.
        bias, dtype, device, exact: how statistics are made and kept, as in :func:`engramlib.collect`.
        inplace: edit ``model`` itself, to save the memory of a copy.
        return_engram: hand back the engram too, its layers' strengths in it: what was subtracted at ``alpha=1``.

    Returns:
        The edited model: a copy, or ``model`` if ``inplace``. With ``return_engram``, the pair (model, engram).

    Raises:
        ValueError: no items, items without an answer or too long for the context, tokens that the model has no
            embedding for, a bad option. Warns if ``retain`` has items of ``forget``, and as :func:`collect` for answers
            of one token in ``forget``.
        TypeError: not a model or not a tokenizer, items of another type, quantised weights, a model that is not causal
            (tried on a few tokens) or that has an encoder and a decoder. The model is as it was then, and also if
            something else goes wrong on the way.

    Cost: one forward pass over all items, n·d²/2 multiply-adds and one factorisation per distinct input; memory
    4 d² bytes each for Σ⁺ and for Σ⁻ (``dtype=torch.float32`` halves that, ``device="cpu"`` keeps it off the GPU), the
    engram (4 bytes a weight) and the copy. Source: Eq. 4 and α_W-Norm; chapter 13.
    """
    _check_model(model)
    if not isinstance(alpha, Real) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise ValueError(f"alpha: expected a finite number, got {alpha!r}")
    if cut is not None and rcond != 1e-6:
        raise ValueError(f"cut and rcond are two names of one thing: give one of {cut!r} and {rcond!r}")
    check_rcond(rcond := rcond if cut is None else cut)  # before the passes over the data
    if not isinstance(specificity, Real):
        raise ValueError(f"specificity: expected one number, got {specificity!r}")
    if strength not in ("norm", "uniform") and not isinstance(strength, Mapping) and not callable(strength):
        raise ValueError(f'strength: expected "norm", "uniform", a dict or a function of an engram, got {strength!r}')
    layers = layers if layers is None or isinstance(layers, str) else list(layers)
    items = {"forget": _items(forget, "forget"), "retain": _items(retain, "retain")}
    both = {*map(_hashable, items["forget"])} & {*map(_hashable, items["retain"])}
    if both:
        warnings.warn(
            f"retain: {len(both)} of the items to forget are in it too, such as {repr(min(both, key=str))[:80]};"
            " the model is asked to keep what it should forget",
            stacklevel=2,
        )
    data = {  # both are checked before the first pass
        which: _sorted_batches(model, tokenizer, items[which], which, batch_size, max_length, truncate, eos)[0]
        for which in items
    }
    if not shift:
        _warn_of_lone_answers(data["forget"].encoded, "forget", eos, getattr(tokenizer, "eos_token_id", None))
    with evaluating(model), torch.no_grad():
        refuse_non_causal(model, [tokens for tokens, _ in data["forget"].encoded], device_of(model))
    how = {"layers": layers, "shift": shift, "bias": bias, "dtype": dtype, "device": device, "exact": exact}
    target, reference = (_collect(model, data[which], **how) for which in ("forget", "retain"))
    target.once = reference.once = True
    engram = extract(model, target, reference, specificity=specificity, rcond=rcond, base=base)
    if strength == "norm":
        engram = engram.norm_weighted()
    elif strength != "uniform":
        engram = engram.scaled(strength(engram) if callable(strength) else strength)
    with ExitStack() as undo:
        edited = model if inplace else copied(model)
        untie_layers(edited, list(engram), undo)
        shifted(edited, engram, alpha, -1, inplace=True, undo=inplace)
        undo.pop_all()
    return (edited, engram) if return_engram else edited


def _items(items: Iterable[Item], argument: str) -> list[Item]:
    """The items as a list, checked: they are gone through more than once, and a generator can be only once."""
    if hasattr(items, "__iter__") and not isinstance(items, (str, bytes, tuple, Mapping, Tensor, nn.Module)):
        items = list(items)
    as_pairs(items, argument)
    return list(items)


def _hashable(item: Item) -> Item:
    return tuple(item) if isinstance(item, list) else item


# ------------------------------------------------------------------------------------------- what a model answers


class NotFinite(ValueError, FloatingPointError):
    """A model whose outputs are no numbers."""


class Answer(NamedTuple):
    """What a model says about the tokens of one item that count, each given all before it: tensors of one length.

    Attributes:
        logprobs: log-probability of each token, float32 (float64 for a float64 model), on the CPU.
        greedy: whether the token is the most probable one: teacher-forced greedy decoding gets it right.
        mean, std: mean and standard deviation of the log-probability of a token drawn from the model's own
            distribution there, what Min-K%++ standardises with.
    """

    logprobs: Tensor
    greedy: Tensor
    mean: Tensor
    std: Tensor


def answer_logprobs(
    model: nn.Module,
    tokenizer: Any,
    items: Iterable[Item],
    *,
    batch_size: int = 8,
    max_length: int | None = None,
    truncate: str | None = None,
    eos: bool = False,
) -> list[Answer]:
    """Log-probability of each token of each answer, log p(token | prompt, answer so far), teacher-forced.

    Args:
        model: a causal language model; its output is a tensor of logits or has ``logits``. Other models are refused
            by what they do: the outputs for a few tokens must not change with the tokens after them.
        tokenizer, items, batch_size, max_length, truncate, eos: as in :func:`collect`.

    Returns:
        list: one :class:`Answer` per item, **in the order given**, whatever the batches inside. The very first token of
        a sequence is predicted by nothing, so it is left out: of a text always, of an answer only if there is neither
        a prompt nor a special token before it.

    Raises as :func:`batches`; ``ValueError`` for an item of which no token is predicted, whose tokens the model does
    not have, or whose logits are NaN (that is a ``FloatingPointError`` too); ``TypeError`` for a model that is not
    causal.

    Cost: one forward pass over batches of like length; of the logits only those of the answers are turned into
    probabilities, a piece at a time, and none are kept. Chapter 13.
    """
    data, order = _sorted_batches(model, tokenizer, items, "items", batch_size, max_length, truncate, eos)
    device = device_of(model)
    found: list[Answer] = []
    with evaluating(model), torch.no_grad():
        refuse_non_causal(model, [tokens for tokens, _ in data.encoded], device)
        for batch in track(data, desc="scoring answers", total=len(data)):
            batch = to_device(batch, device)
            output = run(model, {name: batch[name] for name in ("input_ids", "attention_mask")})
            rows = answer_rows(batch, shift=True)
            targets = batch["labels"][:, 1:][rows[:, :-1]]
            logits = _logits(output, batch["labels"])
            logits = logits[rows.to(logits.device)]
            del output
            scored = _score(logits, targets.to(logits.device))
            for answer in zip(*(part.split(rows.sum(1).tolist()) for part in scored), strict=True):
                place = f"items[{order[len(found)]}]"
                if not len(answer[0]):
                    raise ValueError(f"{place}: its only token comes first, so nothing predicts it")
                if answer[0].isnan().any():
                    raise NotFinite(
                        f"{place}: the model's log-probabilities are not finite: its logits have NaN or +infinity. Are"
                        " its weights finite? float16 overflows where bfloat16 and float32 do not"
                    )
                found.append(Answer(*answer))
    return [answer for _, answer in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


def _logits(output: Any, labels: Tensor) -> Tensor:
    if isinstance(output, Mapping):
        output = output.get("logits")
    logits = getattr(output, "logits", output[0] if isinstance(output, (tuple, list)) and output else output)
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != labels.shape:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
        raise TypeError(
            f"model: expected an output with logits (batch, tokens, vocabulary) for {tuple(labels.shape)} tokens,"
            f" got {got}"
        )
    if int(labels.max()) >= logits.shape[-1]:
        raise ValueError(
            f"items: token {int(labels.max())} is outside the model's vocabulary of {logits.shape[-1]} logits; is this"
            " the tokenizer of another model?"
        )
    return logits


def _score(logits: Tensor, targets: Tensor) -> Answer:
    """The numbers of :class:`Answer` for rows of logits, in pieces."""
    pieces = []
    step = max(1, _PIECE // logits.shape[-1])
    for part, target in zip(logits.split(step), targets.split(step), strict=True):
        logp = part.to(torch.promote_types(part.dtype, torch.float32)).log_softmax(-1)
        p, finite = logp.exp(), logp.clamp_min(torch.finfo(logp.dtype).min / 2)  # 0 · log 0 = 0
        mean = (p * finite).sum(-1)
        deviation = (p * (finite.clamp_min(-1e4) - mean.unsqueeze(-1)).square()).sum(-1).sqrt()
        own = logp.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        pieces.append((own, logp.argmax(-1) == target, mean, deviation))
    return Answer(*(torch.cat(column).cpu() for column in zip(*pieces, strict=True)))
