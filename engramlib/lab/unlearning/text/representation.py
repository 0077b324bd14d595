"""Unlearning inside: hidden states of what should go are sent in a random direction."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from engramlib.lab.unlearning.method import Method, square
from engramlib.lab.unlearning.text import losses
from engramlib.lab.unlearning.text.descent import Turn, descend
from engramlib.lab.unlearning.text.problem import EPOCHS, Batch, Problem
from engramlib.language import IGNORE
from engramlib.running import evaluating

# The last matrix of a block's MLP, in Llama, Mistral, Qwen, Gemma and Phi-3; in Phi and OPT; in GPT-2.
_OUTPUTS = ("down_proj", "fc2", "c_proj")


def rmu(problem: Problem, *, lr: float, steering: float, alpha: float = 1.0, layer: int | None = None) -> nn.Module:
    """Send the hidden states of the answers to forget to a random vector, and keep those of retained answers.

    Loss: ‖h(forget) - c u‖² + α ‖h(retain) - h0(retain)‖², per entry and token of the answers, with h the output of
    block `layer` (None = the last of the lower half: 7 of 0 to 15, what OpenUnlearning takes for Llama-3.2-1B), h0 that
    of the model before, and u a random unit vector, its entries drawn from [0, 1). c = `steering` times the mean length
    of h0 on the forget set, so that one grid serves models of any width; the paper gives c itself. Trained: the output
    matrices of the MLPs of that block and the two below it, as in the authors' code. Source: Li et al. 2024 (ICML,
    arXiv:2403.03218); the relative length is that of Dang et al. 2024 (AAAI 2025, arXiv:2408.06223). Grid: three
    learning rates, three c and three numbers of epochs, in a Latin square, α = 1.

    Raises `ValueError` if the model has no such blocks, or no such layer.
    """
    name, blocks = _blocks(problem.model)
    layer = (len(blocks) - 1) // 2 if layer is None else layer
    if not 0 <= layer < len(blocks):
        raise ValueError(f"rmu: layer must be from 0 to {len(blocks) - 1}, got {layer}.")
    trained = _trained(problem.model, name, layer)
    length = problem.once(("length", layer), lambda: _mean_length(problem, layer))
    direction = torch.rand(problem.model.config.hidden_size, generator=problem.generator(stream=3)).to(problem.device)
    target = steering * length * direction / direction.norm()

    def loss(model: nn.Module, turn: Turn) -> Tensor:
        with torch.no_grad(), evaluating(problem.model):
            before = _hidden(problem.model, turn.retain, layer)
        away, kept = (_hidden(model, batch, layer) for batch in (turn.forget, turn.retain))
        forget = losses.activation_gap(away, target, turn.forget["labels"] != IGNORE)
        return forget + alpha * losses.activation_gap(kept, before, turn.retain["labels"] != IGNORE)

    return descend(problem, loss, lr=lr, trained=trained.__contains__, desc="rmu")


def _blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of a model's blocks, with its name: the longest `nn.ModuleList`."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError("rmu: the model has no nn.ModuleList of blocks.")
    return max(lists, key=lambda pair: len(pair[1]))


def _trained(model: nn.Module, name: str, layer: int) -> set[str]:
    found = set()
    for number in range(max(0, layer - 2), layer + 1):
        pattern = re.compile(rf"{re.escape(name)}\.{number}\.(mlp\.)?({'|'.join(_OUTPUTS)})\.weight")
        found |= {parameter for parameter, _ in model.named_parameters() if pattern.fullmatch(parameter)}
    if not found:
        raise ValueError(f"rmu: {name}.{layer} has no output matrix of an MLP called {', '.join(_OUTPUTS)}.")
    return found


def _hidden(model: nn.Module, batch: Batch, layer: int) -> Tensor:
    """The output of a block: (batch, tokens, d), float32."""
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: tuple, output: object) -> None:
        seen.append(output[0] if isinstance(output, (tuple, list)) else output)

    handle = _blocks(model)[1][layer].register_forward_hook(hook)
    try:
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    finally:
        handle.remove()
    return seen[0].float()


@torch.no_grad()
def _mean_length(problem: Problem, layer: int) -> float:
    """Mean ‖h‖ over the answers' tokens of the forget set."""
    lengths = []
    with evaluating(problem.model):
        pairs, many = problem.forget_pairs, 4 * problem.batch_size
        for start in range(0, len(pairs), many):
            batch = problem.encode(pairs[start : start + many])
            hidden = _hidden(problem.model, batch, layer)
            lengths.append(hidden[batch["labels"] != IGNORE].norm(dim=-1))
    return float(torch.cat(lengths).mean())


METHODS = (
    Method(
        "rmu",
        "RMU",
        "Li et al. 2024, arXiv:2403.03218",
        square(lr=(3e-3, 6e-3, 1e-2), steering=(0.25, 0.5, 1.0), epochs=EPOCHS),
        rmu,
    ),
)
