"""Texts and (prompt, answer) pairs to tokens, and tokens to batches: what `language` does before a model runs."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

Item = str | tuple[str, str]
Encoded = list[tuple[list[int], list[int]]]  # tokens and labels of each item

IGNORE = -100  # the label of a token that does not count, as in torch and transformers


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
            ids = torch.full((len(part), width), self.pad, device="cpu")
            labels = torch.full((len(part), width), IGNORE, device="cpu")
            mask = torch.zeros(len(part), width, dtype=torch.long, device="cpu")
            for row, (tokens, counted) in enumerate(part):
                ids[row, : len(tokens)] = torch.tensor(tokens, device="cpu")
                labels[row, : len(tokens)] = torch.tensor(counted, device="cpu")
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
    the space between them once, where your tokenizer wants it: ``("Question: ...\\nAnswer:", " Paris")``, not
    ``("Answer: ", " Paris")``.

    Chat templates are for you to apply, ``tokenizer.apply_chat_template(..., tokenize=False)``. They write special
    tokens into the text; those that the tokenizer puts around a text as well are there once, not twice.

    Args:
        tokenizer: a Hugging Face tokenizer, or a function ``f(texts, add_special_tokens=True or False)`` from a list of
            texts to ``{"input_ids": lists}``. Tensors, arrays and padding with its ``attention_mask`` are understood.
        items: texts (every token counts) and pairs (prompt, answer) (the answer's tokens count).
        batch_size: items in a batch.
        max_length: longest item in tokens. None = the tokenizer's ``model_max_length`` where it has one.
        truncate: what to do with a longer item. None = raise an error; ``"answer"`` = cut its end; ``"prompt"`` = cut
            the beginning of the prompt (of a text: its beginning), special tokens at the start stay.
        eos: add the end-of-text token to each item that does not end with it; it counts like a token of the answer.

    Returns:
        Batches: has a ``len()`` and can be iterated again and again. Each batch is a dict of integer tensors of shape
        (batch, tokens), padded on the right: ``input_ids``; ``attention_mask``, 1 for real tokens; ``labels``, the
        token where it counts and -100 elsewhere. Padding is the tokenizer's pad token, its end-of-text token if it has
        none, or 0; no real token ever attends to it. A pad token that may lie outside a model's embedding (added to the
        tokenizer alone, or -1) is passed over.

    Raises:
        ValueError: no items, an item without a token that counts, an item that is too long, a bad option. The message
            names the item by its place.
        TypeError: something that is not a tokenizer, or an item that is neither a text nor a pair of texts.

    Cost: tokens are kept as lists of integers; tensors are built one batch at a time. Source: the answer masks of the
    authors' package ai-engram; chapter 13.
    """
    check_size("batch_size", batch_size)
    encoded = encode(tokenizer, items, "items", length_limit(max_length, tokenizer), truncate, eos)
    return Batches(encoded, batch_size, pad_token(tokenizer, encoded))


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


def encode(
    tokenizer: Any, items: Iterable[Item], argument: str, limit: float, truncate: str | None, eos: bool
) -> Encoded:
    """(tokens, labels) of each item."""
    if truncate not in (None, "answer", "prompt"):
        raise ValueError(f'truncate: expected None, "answer" or "prompt", got {truncate!r}')
    pairs = as_pairs(items, argument)
    end: Any = getattr(tokenizer, "eos_token_id", None)
    if eos and not isinstance(end, Integral):
        raise ValueError("eos=True: the tokenizer has no end-of-text token (eos_token_id)")
    answers = [answer for _, answer in pairs if answer is not None]
    heads = _tokens(tokenizer, [text for text, _ in pairs], special=True)
    bare = _tokens(tokenizer, [text for text, _ in pairs], special=False)
    tails = _tokens(tokenizer, answers, special=False)
    opening, closing = (
        _edges(heads, bare)
        or _edges(_tokens(tokenizer, answers[:8], special=True), tails[:8])
        or _edges(heads, bare, end, guess=True)
        or ([], [])
    )
    special = _special_tokens(tokenizer)
    rest = iter(tails)
    encoded: Encoded = []
    for number, ((text, answer), head) in enumerate(zip(pairs, heads, strict=True)):
        place = f"{argument}[{number}]"
        first, last = opening, closing
        stop = len(head) - len(last)
        if stop >= len(first) and head[: len(first)] == first and head[stop:] == last:
            body = _without(head[len(first) : stop], first, special)
        else:  # the tokenizer does something else to this text
            first, last, body = [], [], head
        if answer is None:
            body = _without(body[::-1], last[::-1], special)[::-1]
            prompt, counted = list[int](), first + body + last
        else:
            counted = next(rest)
            _check_bare(tokenizer, place, answer, counted)
            if not body and counted[: len(first)] == first:
                first = []  # the answer brings it along
            prompt = first + body
        if not (body if answer is None else counted):
            what = "it" if answer is None else "its answer"
            raise ValueError(f"{place}: {what} has no tokens, so nothing of it counts; leave it out")
        closed = counted[-1] == end or (end in last if answer is None else False)
        if eos and not closed and not _ends_in_words(tokenizer, text if answer is None else answer):
            counted = [*counted, end]
        over = len(prompt) + len(counted) - limit
        if over > 0:
            prompt, counted = _cut(place, prompt, counted, len(first), int(over), truncate, limit)
        encoded.append((prompt + counted, [IGNORE] * len(prompt) + counted))
    return encoded


def as_pairs(items: Iterable[Item], argument: str) -> list[tuple[str, str | None]]:
    """Items as (prompt, answer) or (text, None)."""
    if isinstance(items, (str, bytes, Mapping, Tensor, nn.Module)) or not hasattr(items, "__iter__"):
        hint = "; put it in a list" if isinstance(items, str) else ""
        raise TypeError(
            f"{argument}: expected a list of texts or (prompt, answer) pairs, got {type(items).__name__}{hint}"
        )
    if isinstance(items, tuple) and len(items) == 2 and all(isinstance(item, str) for item in items):
        warnings.warn(
            f"{argument}: a tuple of two strings is taken for two texts; write [(prompt, answer)] for one pair, and a"
            " list for two texts",
            stacklevel=5,
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
    ids, real = (
        found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
        for name in ("input_ids", "attention_mask")
    )
    if ids is None or len(ids) != len(texts):
        raise TypeError("tokenizer: called with a list of texts it should give `input_ids`, one list for each text")
    if real is None and hasattr(ids, "shape") and len(texts) > 1:
        # A rectangle, and nobody says which of it is padding: a text alone has none.
        return [row for text in texts for row in _tokens(tokenizer, [text], special=special)]
    rows: list[list[int]] = []
    for number, text in enumerate(texts):
        try:
            row = [int(token) for token in ids[number]]
            kept = row if real is None else [token for token, keep in zip(row, real[number], strict=True) if keep]
        except (TypeError, ValueError):
            raise TypeError(
                f"tokenizer: expected a list of integers for {text[:40]!r}, got {ids[number]!r:.60}"
            ) from None
        if min(kept, default=0) < 0:
            raise ValueError(f"tokenizer: token {min(kept)} in {text[:40]!r}; no model has one below 0")
        rows.append(kept)
    return rows


def _edges(
    heads: list[list[int]], bare: list[list[int]], end: int | None = None, guess: bool = False
) -> tuple[list[int], list[int]] | None:
    """What the tokenizer puts before a text and after it, as most texts show it; None if none of them does.

    An empty text does not show where its middle is, nor does one that consists of the same special tokens: their first
    place is a guess.
    """
    shown: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    for head, plain in zip(heads, bare, strict=True):
        places = [n for n in range(len(head) - len(plain) + 1) if head[n : n + len(plain)] == plain]
        if guess and not plain:
            places = [len(head) - (len(head) > 1 and head[-1] == end)]
        if len(places) == 1 or (guess and places):
            shown[tuple(head[: places[0]]), tuple(head[places[0] + len(plain) :])] += 1
    if not shown:
        return ([], []) if guess else None
    opening, closing = shown.most_common(1)[0][0]
    return list(opening), list(closing)


def _special_tokens(tokenizer: Any) -> set[int] | None:
    """All that the tokenizer calls special; None if it does not say."""
    named = getattr(tokenizer, "all_special_ids", None)
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    return None if named is None else {*named, *(n for n, t in added.items() if getattr(t, "special", False))}


def _without(body: list[int], opening: list[int], special: Collection[int] | None) -> list[int]:
    """A text's tokens without what will be put before them: a chat template has written it already."""
    while opening and body[: len(opening)] == opening:
        body = body[len(opening) :]
    repeated = [token for token in opening if special is None or token in special]
    start = next((place for place, token in enumerate(body) if token not in repeated), len(body))
    return body[start:]


def _ends_in_words(tokenizer: Any, text: str) -> bool:
    """Whether a text ends with the end-of-text token in words, as chat templates write it, often with a line feed."""
    end = getattr(tokenizer, "eos_token", None)
    return isinstance(end, str) and bool(end) and text.rstrip().endswith(end)


def _check_bare(tokenizer: Any, place: str, answer: str, tokens: list[int]) -> None:
    """Refuse a begin-of-text token in the middle, from a tokenizer that does not hear ``add_special_tokens=False``."""
    begin, word, unknown = (
        getattr(tokenizer, f"{kind}", None) for kind in ("bos_token_id", "bos_token", "unk_token_id")
    )
    if isinstance(word, str) and begin is not None and begin != unknown:
        if tokens[:1] == [begin] and not answer.lstrip().startswith(word):
            raise TypeError(
                f"tokenizer: it puts {word!r} before the answer of {place} although it was called with"
                " add_special_tokens=False; hand in one that leaves it out then"
            )


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
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    said = (getattr(tokenizer, "model_max_length", None), getattr(config, "max_position_embeddings", None))
    return min((length for length in said if isinstance(length, int) and length > 0), default=math.inf)


def length_limit(asked: int | None, tokenizer: Any, model: nn.Module | None = None) -> float:
    """The longest item: as asked, or what tokenizer and model can take."""
    if asked is None:
        return _context(tokenizer, model)
    check_size("max_length", asked)
    if asked > (limit := _context(None, model)):
        raise ValueError(f"max_length: {asked} is more than the model's context of {int(limit)} tokens")
    return asked


def embeddings(model: nn.Module) -> int | None:
    """How many tokens a model has an embedding for, if it says so."""
    try:
        table = model.get_input_embeddings()  # type: ignore[operator]
    except Exception:  # an attribute that is missing, or transformers' NotImplementedError
        return None
    size = getattr(table, "num_embeddings", None)
    return size if isinstance(size, int) and size > 0 else None


def check_embedded(encoded: Encoded, argument: str, size: int | None) -> None:
    """Raise ``ValueError`` for a token that the model has no embedding for."""
    for number, (tokens, _) in enumerate(encoded):
        if size is not None and max(tokens) >= size:
            raise ValueError(
                f"{argument}[{number}]: token {max(tokens)} is outside the model's embedding of {size} tokens. Is it"
                " the tokenizer of another model? If tokens were added to it, call"
                " model.resize_token_embeddings(len(tokenizer))"
            )


def pad_token(tokenizer: Any, encoded: Encoded, size: int | None = None) -> int:
    """An id to pad with, surely inside the embedding: of unknown size, it holds all that the items hold."""
    limit = max(max(tokens) for tokens, _ in encoded) + 1 if size is None else size
    for name in ("pad_token_id", "eos_token_id"):
        token = getattr(tokenizer, name, None)
        if isinstance(token, Integral) and not isinstance(token, bool) and 0 <= int(token) < limit:
            return int(token)
    return 0


def check_size(argument: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{argument}: expected a positive integer, got {value!r}")
