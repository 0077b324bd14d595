"""Whether a model is what `language` takes it for: one whose outputs depend on what came before, and on nothing after.

Class names and configs say it badly: BertLMHeadModel is causal or not as its config goes, T5's encoder has a config of
its own. So a short text is read twice, the second time with another second half: the outputs of the first half must
not move. In a causal model they do not, bit for bit, but for a mixture's experts: their groups of tokens change in
size, and with them the rounding. Where little moves, the gradient tells one from the other: it is nothing or it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engramlib.running import run

_TOKENS = 16  # of the text that is read twice
_SEEN = 0.03  # moves of this size, in units of the largest output, are not rounding
_LEAK = 1e-5  # of the gradient; masks that are large negative numbers let through less


def refuse_two_sided(model: nn.Module) -> None:
    """Raise ``TypeError`` for an encoder with a decoder behind it."""
    for module in model.modules():
        sides = (getattr(module, "encoder", None), getattr(module, "decoder", None))
        said = getattr(getattr(module, "config", None), "is_encoder_decoder", False)
        if said is True and all(isinstance(side, nn.Module) for side in sides):
            raise TypeError(
                f"model: {type(model).__name__} is an encoder-decoder model, not a causal language model: its encoder"
                " and its decoder read different texts, and one mask cannot be laid over both. Use engramlib.collect"
                " with `forward` and `rows` of your own, extract and ablate"
            )


def refuse_non_causal(model: nn.Module, texts: Sequence[list[int]], device: torch.device) -> None:
    """Raise ``TypeError`` if what a model says of a token depends on tokens after it. To be called in evaluation mode.

    ``texts``: tokens of some items. Cost: two passes over at most 16 tokens, two or three more if something moves.
    """
    tokens = max(texts, key=len)[:_TOKENS]
    known = sorted({token for text in (tokens, *texts[:64]) for token in text})
    half = len(tokens) // 2
    if not half:
        return
    if len(known) == 1:
        known.append(known[0] + (1 if known[0] == 0 else -1))
    asked = torch.tensor([tokens], device=device)
    first = _outputs(model, asked)
    if first is None:
        return
    largest = first.abs().nan_to_num(0, posinf=0).max()
    moved = float("inf")
    for step in range(1, min(4, len(known))):
        other = asked.clone()
        turned = [known[(known.index(token) + step) % len(known)] for token in tokens[half:]]
        other[0, half:] = torch.tensor(turned, device=device)
        second = _outputs(model, other)
        if second is None:
            return
        gap = (first - second)[:half].abs().nan_to_num(0, posinf=float("inf")).max()  # inf - inf moves nothing
        moved = min(moved, float(gap / largest) if gap else 0.0)
        if not moved:
            return
    if moved <= 64 * torch.finfo(first.dtype).eps:
        return
    if moved <= _SEEN:
        sees = _gradient_reaches_back(model, asked, half)
        if sees is None:
            narrow = any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters())
            sees = not narrow  # else it may well be rounding
        if not sees:
            return
    raise TypeError(
        f"model: {type(model).__name__} is not causal: change the last {len(tokens) - half} of {len(tokens)} tokens,"
        f" and its outputs before them move (by {moved:.0e} of the largest). Its tokens are not predicted from what"
        " came before. Take a causal language model (BERT and the like: is_decoder=True), or engramlib.collect, extract"
        " and ablate, which ask for nothing of the kind"
    )


def _call(model: nn.Module, ids: Tensor) -> Tensor | None:
    """Outputs (tokens, width), or None if there is nothing like that."""
    output: Any = run(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    for name in ("logits", "last_hidden_state"):
        found = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
        if isinstance(found, Tensor):
            output = found
            break
    output = output[0] if isinstance(output, (tuple, list)) and output else output
    fits = isinstance(output, Tensor) and output.ndim == 3 and output.shape[:2] == ids.shape
    return output[0] if fits else None


def _outputs(model: nn.Module, ids: Tensor) -> Tensor | None:
    found = _call(model, ids)
    return None if found is None else found.detach().to(torch.promote_types(found.dtype, torch.float32))


def _gradient_reaches_back(model: nn.Module, ids: Tensor, half: int) -> bool | None:
    """Whether the outputs of the first half have a gradient in the second's embeddings; None if there is no telling."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not args or not isinstance(args[0], Tensor) or args[0].shape != ids.shape or not torch.equal(args[0], ids):
            return None
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    hooks = [part.register_forward_hook(keep) for part in model.modules() if isinstance(part, nn.Embedding)]
    try:
        with torch.enable_grad():
            output = _call(model, ids)
            assert output is not None
            total = output[:half].float().nan_to_num(0, 0, 0).square().sum()
            found = torch.autograd.grad(total, kept, allow_unused=True)
        sizes = [gradient[0].abs().amax(-1) for gradient in found if gradient is not None]
        return any(bool(size[half:].max() > _LEAK * size.max()) for size in sizes)
    except Exception:  # no embedding was called, weights that have no gradient, inference mode
        return None
    finally:
        for hook in hooks:
            hook.remove()
