"""The one loop behind all gradient methods."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engramlib import language
from engramlib._progress import track
from engramlib.lab.unlearning.text import losses
from engramlib.lab.unlearning.text.problem import Batch, Pair, Problem, logits


@dataclass(frozen=True)
class Turn:
    """What one step is computed from: a batch of each side, and which questions of `forget_pairs` the first holds."""

    epoch: int
    rows: Tensor
    forget: Batch
    retain: Batch


def descend(
    problem: Problem,
    loss: Callable[[nn.Module, Turn], Tensor],
    *,
    lr: float,
    trained: Callable[[str], bool] | None = None,
    desc: str = "unlearning",
) -> nn.Module:
    """A copy of the problem's model after `problem.epochs` passes of AdamW (constant lr) over the forget set.

    `loss(model, turn)`: what is minimised. `trained(name)`: which parameters move; None = all. The model is in training
    mode, as in the code released with the papers; the small Llamas have no dropout.

    Raises `FloatingPointError` as soon as the loss is no number.
    """
    model = copy.deepcopy(problem.model).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained is None or trained(name))
    moving = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(moving, lr=lr, weight_decay=problem.weight_decay)
    forget, retain = problem.forget_pairs, problem.retain_pairs
    total = problem.epochs * problem.steps
    for step, (epoch, rows, others) in enumerate(track(problem.draws(), desc=desc, total=total)):
        turn = Turn(epoch, rows, problem.encode(pick(forget, rows)), problem.encode(pick(retain, others)))
        with problem.precision():
            value = loss(model, turn)
        if not torch.isfinite(value):
            raise FloatingPointError(f"{desc}: the loss became {value.item()} in step {step + 1}; lower lr.")
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    for parameter, original in zip(model.parameters(), problem.model.parameters(), strict=True):
        parameter.requires_grad_(original.requires_grad)
        parameter.grad = None
    return model


def pick(pairs: Sequence[Pair], rows: Tensor) -> list[Pair]:
    return [pairs[row] for row in rows.tolist()]


def answer_nll(model: nn.Module, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of the answers' tokens."""
    return losses.nll(logits(model, batch), batch["labels"])


def answer_logprobs(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """(log p(y), |y|) of each answer of a batch."""
    return losses.answer_logprobs(logits(model, batch), batch["labels"])


def logprobs_before(problem: Problem, pairs: Sequence[Pair]) -> Tensor:
    """log p0(y) of each of `pairs` under the problem's own model."""
    many = 4 * problem.batch_size
    with problem.precision():
        answers = language.answer_logprobs(problem.model, problem.tokenizer, pairs, batch_size=many, eos=problem.eos)
    return torch.stack([answer.logprobs.sum() for answer in answers]).to(problem.device)
