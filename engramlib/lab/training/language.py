"""Train a causal language model on texts, or on the answers to questions. AdamW, one schedule, fixed by a seed."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from engramlib import language
from engramlib.lab.training import loop
from engramlib.lab.training.loop import History, hash_of
from engramlib.lab.training.precision import arithmetic

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Item = str | tuple[str, str]
SCHEDULES = ("cosine", "linear", "constant")
POOL = 16  # batches whose items are sorted by length among themselves


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    schedule: str = "cosine",
    warmup: float = 0.05,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    pack: int | None = None,
    mixed: bool = False,
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
    after_epoch: Callable[[History], None] | None = None,
) -> History:
    """Train `model` in place with AdamW on the next token; pad on the right, batch items of similar length.

    `items`: texts, of which every token counts, or (prompt, answer) pairs, of which the answer's tokens count; the two
    may be mixed. Both end with the tokenizer's eos, so that the model learns to stop. The loss is the mean over a
    batch's tokens.

    `schedule`: "cosine" or "linear" (down to nothing after a warm-up over the share `warmup` of the steps) or
    "constant" (after the warm-up); `lr` is the peak. `clip`: largest norm of the gradient of all weights together.
    `pack`: put texts one after another and cut the row into blocks of `pack` tokens, anew each epoch, instead of
    padding; for texts alone. `mixed`: bfloat16 arithmetic, weights stay float32.
    `seed` fixes the order of the items and any dropout; torch's own random state is left as it was. `checkpoint`: a
    file written after every epoch; a run that was cut off goes on from it and ends bit by bit as it would have, a
    finished one is only read. It must have begun with the same weights, items, tokens and arguments. `progress`: None =
    a progress line where somebody is there to watch. `after_epoch` is called with the history so far.

    Works on the model's device and leaves the model in eval mode. Raises `ValueError` for an item longer than the
    model's context, and `FloatingPointError` where the loss stops being a number.
    """
    loop.positive("train", epochs=epochs, batch_size=batch_size, lr=lr, clip=clip)
    if schedule not in SCHEDULES:
        raise ValueError(f"train: schedule must be one of {SCHEDULES}, got {schedule!r}.")
    if not 0 <= warmup < 1:
        raise ValueError(f"train: warmup is a share of the steps, in [0, 1), got {warmup}.")
    items = list(items)
    feed = _feed(model, tokenizer, items, batch_size, pack)
    device, history = next(model.parameters()).device, History()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay)
    shape = _shape(schedule, max(1, round(warmup * epochs * feed.steps)), epochs * feed.steps)

    def step(batch: Row) -> tuple[Tensor, Tensor]:
        with arithmetic(device, mixed=mixed):
            loss = next_token_loss(model, batch[0].to(device), batch[1].to(device))
        return loss, loss

    def close(means: list[float]) -> str:
        history.loss += means
        return f"loss {means[0]:.3f}"

    def asked() -> dict[str, object]:
        found = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed, "schedule": schedule, "pack": pack}
        found |= {"warmup": warmup, "weight_decay": weight_decay, "clip": clip, "mixed": mixed}
        return found | {"items": fingerprint(items), "tokens": hash_of(*(t for row in feed.rows for t in row))}

    loop.loop(
        model,
        history,
        who="train",
        epochs=epochs,
        steps=feed.steps,
        seed=seed,
        batches=feed.epochs,
        step=step,
        close=close,
        optimiser=optimiser,
        schedule=torch.optim.lr_scheduler.LambdaLR(optimiser, shape),
        clip=clip,
        within=_plain_attention(model, mixed and device.type == "cpu"),
        checkpoint=checkpoint,
        asked=asked,
        progress=progress,
        after_epoch=after_epoch,
    )
    return history


def next_token_loss(model: PreTrainedModel, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens that `labels` names, each predicted from those before it; -100 does not count.

    `ids` and `labels`: batch x tokens. Padding on the right needs no attention mask: no token looks to its right.
    """
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    wanted = labels[:, 1:] != language.IGNORE
    return F.cross_entropy(logits[wanted].float(), labels[:, 1:][wanted])


@contextmanager
def _plain_attention(model: PreTrainedModel, wanted: bool) -> Iterator[None]:
    """Attention in single products. On short texts, in bfloat16 on a CPU, a step is 1.5 times as fast as with sdpa."""
    before = getattr(model.config, "_attn_implementation", None)
    if not wanted or before != "sdpa" or not hasattr(model, "set_attn_implementation"):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def fingerprint(items: Sequence[Item]) -> str:
    """A short hash of texts and pairs, in their order."""
    return hashlib.sha256(repr(list(items)).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------- batches

Row = tuple[Tensor, Tensor]  # tokens and labels of one item, without padding


def _feed(model, tokenizer, items: Sequence[Item], batch_size: int, pack: int | None) -> _Feed:
    """The items as `engramlib.language` reads them, with eos."""
    if pack is not None and (pack < 2 or any(not isinstance(item, str) for item in items)):
        raise ValueError(f"train: pack needs texts, no (prompt, answer) pairs, and blocks of two tokens; got {pack}.")
    context = getattr(model.config, "max_position_embeddings", None)
    if pack is not None and context is not None and pack > context:
        raise ValueError(f"train: pack is {pack} tokens, but the model reads {context}.")
    limit = context if pack is None else sys.maxsize
    made = language.batches(tokenizer, items, max_length=limit, eos=True)
    return _Feed(
        [(torch.tensor(ids), torch.tensor(labels)) for ids, labels in made.encoded], batch_size, made.pad, pack
    )


class _Feed:
    """Batches of rows, in an order drawn anew each epoch."""

    def __init__(self, rows: list[Row], batch_size: int, pad: int, pack: int | None) -> None:
        self.rows, self.batch_size, self.pad, self.pack = rows, batch_size, pad, pack
        n = len(rows) if pack is None else math.ceil(sum(len(ids) for ids, _ in rows) / pack)
        self.steps = math.ceil(n / batch_size)

    def epochs(self, n: int, order: torch.Generator) -> Iterator[Row]:
        for _ in range(n):
            yield from self._packed(order) if self.pack else self._padded(order)

    def _padded(self, order: torch.Generator) -> Iterator[Row]:
        """Shuffle, sort by length within pools of a few batches, shuffle the batches."""
        lengths = torch.tensor([len(ids) for ids, _ in self.rows])
        pools = torch.randperm(len(lengths), generator=order).split(POOL * self.batch_size)
        batches = [part for pool in pools for part in pool[lengths[pool].argsort(stable=True)].split(self.batch_size)]
        for i in torch.randperm(len(batches), generator=order).tolist():
            ids, labels = zip(*(self.rows[j] for j in batches[i].tolist()), strict=True)
            yield _side_by_side(ids, self.pad), _side_by_side(labels, language.IGNORE)

    def _packed(self, order: torch.Generator) -> Iterator[Row]:
        row = torch.cat([self.rows[j][0] for j in torch.randperm(len(self.rows), generator=order).tolist()])
        for part in row.split(self.pack * self.batch_size):
            blocks = part.split(self.pack)
            yield _side_by_side(blocks, self.pad), _side_by_side(blocks, language.IGNORE)


def _side_by_side(rows: Sequence[Tensor], fill: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)


def _shape(schedule: str, warmup: int, steps: int):
    """The factor of the peak learning rate at each step."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        left = 1 - (step - warmup) / max(1, steps - warmup)
        return {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[schedule]

    return factor
