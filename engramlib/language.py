"""Causal language models: text in, moments out; one call that forgets.

An item is a text, of which every token counts, or a pair (prompt, answer), of which the answer's tokens count. The
tokenizer is handed in and used as it is: chat templates, if you want one, are applied to the prompts before. Nothing
here imports transformers; what is asked of a tokenizer is that it turns a list of texts into ``input_ids``, and of a
model that it takes ``input_ids`` and ``attention_mask``. Chapter 13.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from engramlib._progress import track
from engramlib.collecting import collect as collect_moments
from engramlib.edit import ablate
from engramlib.engram import Engram
from engramlib.estimator import extract
from engramlib.layers import find_layers, supported_layers, tied_to_embeddings
from engramlib.moments import Moments
from engramlib.running import evaluating, to_device

Model = TypeVar("Model", bound=nn.Module)
Item = str | tuple[str, str]
Strength = str | Mapping[str, float] | Callable[[Engram], Mapping[str, float]]

IGNORE = -100  # the label of a token that does not count, as in torch and transformers
# Numbers that are worked on at a time where a vocabulary is wide: 64 MiB of float32.
_PIECE = 2**24


# ---------------------------------------------------------------------------------------------------- items to tokens


class Batches:
    """What :func:`batches` returns: a list of batches that is built again at every pass over it."""

    def __init__(self, encoded: Sequence[tuple[list[int], list[int]]], batch_size: int, pad: int) -> None:
        self.encoded, self.batch_size, self.pad = encoded, batch_size, pad

    def __len__(self) -> int:
        return -(-len(self.encoded) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(self.encoded), self.batch_size):
            part = self.encoded[start : start + self.batch_size]
            width = max(len(ids) for ids, _ in part)
            ids = torch.full((len(part), width), self.pad)
            labels = torch.full((len(part), width), IGNORE)
            mask = torch.zeros(len(part), width, dtype=torch.long)
            for row, (tokens, counted) in enumerate(part):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                labels[row, : len(tokens)] = torch.tensor(counted)
                mask[row, : len(tokens)] = 1
            yield {"input_ids": ids, "attention_mask": mask, "labels": labels}


def batches(
    tokenizer: Any,
    items: Iterable[Item],
    *,
    batch_size: int = 8,
    max_length: int | None = None,
    truncate: str | None = None,
    eos: bool = False,
) -> Batches:
    """Items as padded batches for a model, in the order given.

    A pair is the prompt's tokens with the tokenizer's special tokens (an end-of-text token that it puts after a prompt
    is left out: the answer follows) and the answer's tokens without. Prompt and answer are tokenized apart, so write
    the space between them where your tokenizer wants it: ``("Question: ...\\nAnswer:", " Paris")``.

    Args:
        tokenizer: a Hugging Face tokenizer, or any function from a list of texts to ``{"input_ids": lists}``.
        items: texts (every token counts) and pairs (prompt, answer) (the answer's tokens count).
        batch_size: items in a batch.
        max_length: longest item in tokens. None = the tokenizer's ``model_max_length`` where it has one.
        truncate: what to do with a longer item. None = raise an error; ``"answer"`` = cut its end; ``"prompt"`` = cut
            the beginning of the prompt (of a text: its beginning), special tokens at the start stay.
        eos: add the end-of-text token to each item; it counts like a token of the answer.

    Returns:
        Batches: has a ``len()`` and can be iterated again and again. Each batch is a dict of integer tensors of shape
        (batch, tokens), padded on the right: ``input_ids``; ``attention_mask``, 1 for real tokens; ``labels``, the
        token where it counts and -100 elsewhere. Padding is the tokenizer's pad token, its end-of-text token if it has
        none, or 0; no real token ever attends to it.

    Raises:
        ValueError: no items, an item without a token that counts, an item that is too long, a bad option. The message
            names the item by its place.
        TypeError: something that is not a tokenizer, or an item that is neither a text nor a pair of texts.

    Cost: tokens are kept as lists of integers; tensors are built one batch at a time. Source: the answer masks of the
    authors' package ai-engram; chapter 13.
    """
    _check_size("batch_size", batch_size)
    encoded = _encode(tokenizer, items, "items", _length(max_length, tokenizer), truncate, eos)
    return Batches(encoded, batch_size, _pad_token(tokenizer))


def answer_rows(batch: Mapping[str, Tensor], *, shift: bool = False) -> Tensor:
    """Which positions of a batch count: boolean, (batch, tokens).

    Args:
        batch: one of :func:`batches`, or any dict with ``labels`` (batch, tokens), -100 where a token does not count.
        shift: False = the positions that **hold** the tokens of the answer (the authors' package). True = one to the
            left: the positions whose output **predicts** them; the last token of an answer is then only predicted, the
            last token of the prompt is read.

    Raises ``ValueError`` if the batch has no labels of that shape. Chapter 13.

    Example:
        >>> import torch
        >>> batch = {"labels": torch.tensor([[-100, -100, 7, 8, -100]])}
        >>> answer_rows(batch).int(), answer_rows(batch, shift=True).int()
        (tensor([[0, 0, 1, 1, 0]], dtype=torch.int32), tensor([[0, 1, 1, 0, 0]], dtype=torch.int32))
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(labels, Tensor) or labels.ndim != 2:
        raise ValueError("batch: expected a dict with `labels` of shape (batch, tokens), as language.batches makes it")
    counts = labels != IGNORE
    if not shift:
        return counts
    return torch.cat([counts[:, 1:], torch.zeros_like(counts[:, :1])], dim=1)


def _encode(
    tokenizer: Any, items: Iterable[Item], argument: str, limit: float, truncate: str | None, eos: bool
) -> list[tuple[list[int], list[int]]]:
    """(tokens, labels) of each item."""
    if truncate not in (None, "answer", "prompt"):
        raise ValueError(f'truncate: expected None, "answer" or "prompt", got {truncate!r}')
    pairs = _pairs(items, argument)
    end = getattr(tokenizer, "eos_token_id", None)
    if eos and end is None:
        raise ValueError("eos=True: the tokenizer has no end-of-text token (eos_token_id)")
    heads = _tokens(tokenizer, [text for text, _ in pairs], special=True)
    bare = _tokens(tokenizer, [text for text, _ in pairs], special=False)
    tails = iter(_tokens(tokenizer, [answer for _, answer in pairs if answer is not None], special=False))
    encoded = []
    for number, ((_, answer), head, plain) in enumerate(zip(pairs, heads, bare, strict=True)):
        place = f"{argument}[{number}]"
        opening = _opening(head, plain, end)
        if answer is None:
            prompt, counted = [], head
        else:
            prompt, counted = head if opening is None else opening + plain, next(tails)
        if not (plain if answer is None else counted):
            what = "it" if answer is None else "its answer"
            raise ValueError(f"{place}: {what} has no tokens, so nothing of it counts; leave it out")
        if eos and (answer is not None or counted[-1] != end):
            counted = [*counted, end]
        over = len(prompt) + len(counted) - limit
        if over > 0:
            prompt, counted = _cut(place, prompt, counted, len(opening or ()), int(over), truncate, limit)
        encoded.append((prompt + counted, [IGNORE] * len(prompt) + counted))
    return encoded


def _pairs(items: Iterable[Item], argument: str) -> list[tuple[str, str | None]]:
    """Items as (prompt, answer) or (text, None)."""
    if isinstance(items, (str, bytes, Mapping, Tensor, nn.Module)) or not hasattr(items, "__iter__"):
        hint = "; put it in a list" if isinstance(items, str) else ""
        raise TypeError(
            f"{argument}: expected a list of texts or (prompt, answer) pairs, got {type(items).__name__}{hint}"
        )
    pairs: list[tuple[str, str | None]] = []
    for number, item in enumerate(items):
        if isinstance(item, str):
            pairs.append((item, None))
        elif isinstance(item, (tuple, list)) and len(item) == 2 and all(isinstance(part, str) for part in item):
            pairs.append((item[0], item[1]))
        else:
            got = f"{len(item)} entries" if isinstance(item, (tuple, list)) and len(item) != 2 else repr(item)[:60]
            raise TypeError(f"{argument}[{number}]: expected a text or a pair (prompt, answer) of texts, got {got}")
    if not pairs:
        raise ValueError(f"{argument}: there are none (an empty list, or a generator that was already used up?)")
    return pairs


def _tokens(tokenizer: Any, texts: list[str], *, special: bool) -> list[list[int]]:
    if not callable(tokenizer) or isinstance(tokenizer, nn.Module):
        raise TypeError(f"tokenizer: expected a Hugging Face tokenizer, got {type(tokenizer).__name__}")
    if not texts:
        return []
    found = tokenizer(texts, add_special_tokens=special)
    ids = found["input_ids"] if isinstance(found, Mapping) or hasattr(found, "input_ids") else None
    if ids is None or len(ids) != len(texts):
        raise TypeError("tokenizer: called with a list of texts it should give `input_ids`, one list for each text")
    return [[int(token) for token in row] for row in ids]


def _opening(head: list[int], plain: list[int], end: int | None) -> list[int] | None:
    """The special tokens that a tokenizer puts before a text; None = the text itself is not in what it gave."""
    if not plain:
        return head[:-1] if len(head) > 1 and head[-1] == end else head
    places = (start for start in range(len(head) - len(plain) + 1) if head[start : start + len(plain)] == plain)
    return next((head[:start] for start in places), None)


def _cut(
    place: str, prompt: list[int], counted: list[int], opening: int, over: int, truncate: str | None, limit: float
) -> tuple[list[int], list[int]]:
    length = len(prompt) + len(counted)
    if truncate is None:
        raise ValueError(
            f"{place}: {length} tokens are more than the context of {int(limit)}; shorten it, or choose what to cut"
            ' with truncate="answer" or truncate="prompt"'
        )
    if truncate == "answer":
        if over >= len(counted):
            raise ValueError(
                f'{place}: its prompt alone fills the context of {int(limit)} tokens; truncate="prompt" cuts the prompt'
            )
        return prompt, counted[:-over]
    if prompt:
        if over > len(prompt) - opening:
            raise ValueError(
                f"{place}: its answer alone does not fit into the context of {int(limit)} tokens;"
                ' truncate="answer" cuts it'
            )
        return prompt[:opening] + prompt[opening + over :], counted
    if over >= len(counted) - opening:
        raise ValueError(f"{place}: the context of {int(limit)} tokens has no room for any of it")
    return prompt, counted[:opening] + counted[opening + over :]


def _context(tokenizer: Any, model: nn.Module | None = None) -> float:
    """The longest input that tokenizer and model can take, as far as they say; infinity if they do not."""
    config = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    said = (getattr(tokenizer, "model_max_length", None), getattr(config, "max_position_embeddings", None))
    return min((length for length in said if isinstance(length, int) and length > 0), default=math.inf)


def _length(asked: int | None, tokenizer: Any, model: nn.Module | None = None) -> float:
    """The longest item: as asked, or what tokenizer and model can take."""
    if asked is None:
        return _context(tokenizer, model)
    _check_size("max_length", asked)
    if asked > (limit := _context(None, model)):
        raise ValueError(f"max_length: {asked} is more than the model's context of {int(limit)} tokens")
    return asked


def _pad_token(tokenizer: Any) -> int:
    for name in ("pad_token_id", "eos_token_id"):
        if isinstance(token := getattr(tokenizer, name, None), int):
            return token
    return 0


def _check_size(argument: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{argument}: expected a positive integer, got {value!r}")


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
    _check_size("batch_size", batch_size)
    encoded = _encode(tokenizer, items, argument, _length(max_length, tokenizer, model), truncate, eos)
    order = sorted(range(len(encoded)), key=lambda number: -len(encoded[number][0]))
    return Batches([encoded[number] for number in order], batch_size, _pad_token(tokenizer)), order


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
        bias, dtype, device: as in :func:`engramlib.collect`.

    Returns:
        Moments: one Σ per distinct input; query, key and value share one, gate and up projection too. The experts of a
        mixture are layers of their own, ``experts.3.gate_up_proj``; each counts the tokens that were routed to it.

    Raises:
        ValueError: as :func:`batches`, and as :func:`engramlib.collect`.
        TypeError: not a model or not a tokenizer, items of another type, quantised weights.

    Cost: a forward pass (without the output layer if that is not asked for) and n·d² multiply-adds per distinct input,
    8 d² bytes each. Source: Eq. 4, Section 4; chapter 13.
    """
    data, _ = _sorted_batches(model, tokenizer, items, "items", batch_size, max_length, truncate, eos)
    return _collect(model, data, layers=layers, shift=shift, bias=bias, dtype=dtype, device=device)


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
    inplace: bool = False,
) -> Model:
    """Make a causal language model forget some texts or answers: one pass over the data, no training.

    Each layer loses its engram, W ← W − α s W⁺ with W⁺ = W Σ⁺ (Σ⁺ + λ Σ⁻)†, where Σ⁺ sums x xᵀ over the answer tokens
    of ``forget`` and Σ⁻ over those of ``retain``. The strength of a layer is s = r / max r with r = ‖W⁺‖/‖W‖ (the
    paper's α_W-Norm): layers that hold more of the memory lose more of it. It is the same as

    .. code-block:: python

        target = el.language.collect(model, tokenizer, forget)
        reference = el.language.collect(model, tokenizer, retain)
        engram = el.extract(model, target, reference)
        edited = el.ablate(model, engram.norm_weighted(), alpha)

    which is what to write if you want to try several ``alpha`` without collecting again.

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
        layers: which layers, as in :func:`collect`. None = all but an output layer tied to the embedding. If you
            name such a layer, it is untied in the edited model (:func:`untie`), so that the embedding stays as it is.
        batch_size, max_length, truncate, eos, shift: how items become batches, as in :func:`batches` and
            :func:`collect`.
        bias, dtype, device: how statistics are kept, as in :func:`engramlib.collect`.
        inplace: edit ``model`` itself, to save the memory of a copy.

    Returns:
        The edited model: a copy, or ``model`` if ``inplace``.

    Raises:
        ValueError: no items, items without an answer or too long for the context, a bad option. Warns if ``retain``
            has items of ``forget``.
        TypeError: not a model or not a tokenizer, items of another type, quantised weights. Nothing is changed then.

    Cost: one forward pass over all items, n·d² multiply-adds and one factorisation (≈ 9 d³) per distinct input; memory
    8 d² bytes each for Σ⁺ and for Σ⁻ (``dtype=torch.float32`` halves that, ``device="cpu"`` keeps it off the GPU), the
    engram (4 bytes a weight) and the copy. Source: Eq. 4 and α_W-Norm; chapter 13.
    """
    _check_model(model)
    if not isinstance(alpha, Real) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise ValueError(f"alpha: expected a finite number, got {alpha!r}")
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
    how = {"layers": layers, "shift": shift, "bias": bias, "dtype": dtype, "device": device}
    target, reference = (_collect(model, data[which], **how) for which in ("forget", "retain"))
    engram = extract(model, target, reference, specificity=specificity, rcond=rcond, base=base)
    del target, reference
    if strength == "norm":
        engram = engram.norm_weighted()
    elif strength != "uniform":
        engram = engram.scaled(strength(engram) if callable(strength) else strength)
    edited = model if inplace else copy.deepcopy(model)
    _untie(edited, list(engram))
    return ablate(edited, engram, alpha, inplace=True)


def untie(model: Model, *, inplace: bool = False) -> Model:
    """Give an output layer that shares the embedding's matrix a matrix of its own, with the same numbers in it.

    The model computes what it did; after that, an edit of ``lm_head`` leaves the embedding alone. Its config says
    ``tie_word_embeddings = False``, so ``save_pretrained`` writes both. Nothing happens where nothing is tied.

    Args:
        model: any module; layers of a supported type that share their weight with an ``nn.Embedding`` are untied.
        inplace: change ``model`` itself instead of a copy.

    Returns:
        The model. Cost: the embedding's size in memory once more; chapter 13.
    """
    _check_model(model)
    result = model if inplace else copy.deepcopy(model)
    _untie(result, None)
    return result


def _untie(model: nn.Module, names: list[str] | None) -> None:
    layers = supported_layers(model)
    for name in tied_to_embeddings(model, layers):
        if names is not None and name not in names:
            continue
        layer = layers[name]
        old, key = layer.stored("weight"), layer.slot("weight")[0]
        layer.owner._parameters[key] = nn.Parameter(old.detach().clone(), requires_grad=old.requires_grad)
        # What transformers keeps to know what is tied: the config, and (from version 5) a dict on the model.
        config = getattr(model, "config", None)
        for part in (config, config.get_text_config() if hasattr(config, "get_text_config") else None):
            if getattr(part, "tie_word_embeddings", False):
                part.tie_word_embeddings = False
        if isinstance(known := getattr(model, "all_tied_weights_keys", None), dict):
            known.pop(layer.parameter_name("weight"), None)


def _items(items: Iterable[Item], argument: str) -> list[Item]:
    _pairs(
        items := items if isinstance(items, (str, bytes)) or not hasattr(items, "__iter__") else list(items), argument
    )
    return items


def _hashable(item: Item) -> Item:
    return tuple(item) if isinstance(item, list) else item


# ------------------------------------------------------------------------------------------- what a model answers


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
        model: a causal language model; its output is a tensor of logits or has ``logits``.
        tokenizer, items, batch_size, max_length, truncate, eos: as in :func:`collect`.

    Returns:
        list: one :class:`Answer` per item, **in the order given**, whatever the batches inside. The very first token of
        a sequence is predicted by nothing, so it is left out: of a text always, of an answer only if there is neither
        a prompt nor a special token before it.

    Raises as :func:`batches`, and ``ValueError`` for an item of which no token is predicted.

    Cost: one forward pass over batches of like length; of the logits only those of the answers are turned into
    probabilities, a piece at a time, and none are kept. Chapter 13.
    """
    data, order = _sorted_batches(model, tokenizer, items, "items", batch_size, max_length, truncate, eos)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    found: list[Answer] = []
    with evaluating(model), torch.no_grad():
        for batch in track(data, desc="scoring answers", total=len(data)):
            batch = to_device(batch, device)
            output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            rows = answer_rows(batch, shift=True)
            targets = batch["labels"][:, 1:][rows[:, :-1]]
            logits = _logits(output)[rows.to(_logits(output).device)]
            del output
            scored = _score(logits, targets.to(logits.device))
            for answer in zip(*(part.split(rows.sum(1).tolist()) for part in scored), strict=True):
                if not len(answer[0]):
                    raise ValueError(f"items[{order[len(found)]}]: its only token comes first, so nothing predicts it")
                found.append(Answer(*answer))
    return [answer for _, answer in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


def _logits(output: Any) -> Tensor:
    if isinstance(output, Mapping):
        output = output.get("logits")
    logits = getattr(output, "logits", output[0] if isinstance(output, (tuple, list)) and output else output)
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        raise TypeError(
            f"model: expected an output with logits (batch, tokens, vocabulary), got {type(output).__name__}"
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
