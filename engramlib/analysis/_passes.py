"""Running a model for what is scored and what is differentiated: in full precision, and example by example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from engramlib._examples import UNCLEAR, Examples, is_sequence, lead_of
from engramlib._products import full_precision
from engramlib.layers import Layer, refuse_routed
from engramlib.running import Batch, Forward, as_batches, device_of, evaluating, to_device
from engramlib.running import run as run_model


def batches_of(model: nn.Module, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, where the model wants them."""
    device = device_of(model)
    for batch in as_batches(batches):
        yield to_device(batch, device)


def run_precisely(model: nn.Module, batch: Batch, forward: Forward | None, then: Callable[[Any], Any]) -> Any:
    """``then(the model's output)``, without autocast and TF32, whatever the caller's settings are.

    Autocast stays where the model needs it, because parameters and inputs differ in precision. Then the copies of the
    weights that it keeps are dropped first: they may be those before an edit.
    """
    given = batch[:1] if isinstance(batch, (tuple, list)) and forward is None else batch
    parts = given.values() if isinstance(given, Mapping) else given if isinstance(given, (tuple, list)) else [given]
    tensors = [*model.parameters(), *(part for part in parts if isinstance(part, Tensor))]
    alike = len({t.dtype for t in tensors if t.is_floating_point()}) < 2
    torch.clear_autocast_cache()
    with full_precision() if alike else nullcontext():
        return then(run_model(model, batch, forward))


def output_of(output: Any) -> Tensor:
    """The tensor to compare: the output itself, its ``logits``, or the first entry of a tuple.

    Raises ``TypeError`` for anything else; pass ``forward`` then, a function that returns the tensor.
    """
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return output["logits"]
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    if not isinstance(output, Tensor):
        raise TypeError(f"the model returned {type(output).__name__}; pass `forward`, a function that returns a tensor")
    return output


# ------------------------------------------------------------------------------------------------- example by example


def batched(layer: Layer, x: Tensor) -> Tensor:
    """``x``, or a single input without a batch as a batch of one."""
    return x.unsqueeze(0) if x.ndim == (layer.kind.example_ndim(layer.module) or 1) else x


def count_examples(examples: Examples, leads: list[tuple[int, ...]], f: Tensor) -> int:
    """How many examples a batch has, after it ran: ``f`` is the model's output, ``leads`` is what its layers read."""
    n, widest = len(f), examples.widest()
    if f.ndim == 2 and all(lead == (n,) for lead in leads):  # one row each, unless tokens were made into rows
        if widest is None:
            return n
        sides = widest.shape[:2] if is_sequence(widest) and widest.ndim != 4 else widest.shape[:1]
        if n in sides and (1 not in sides or n == 1):
            return n
    found = examples.number() or examples.ask()
    if found is None:
        raise examples.error(None, f.shape, n, UNCLEAR)
    return found


def grouped(examples: Examples, key: str | None, shape: torch.Size, lead: tuple[int, ...], n: int) -> int:
    """How many blocks of n examples the rows of a tensor are made of; the model is asked where shapes leave a choice.

    Raises ``ValueError`` where it is not clear.
    """
    try:
        outer = examples.outer(key, lead, n)
        if outer is None:
            examples.ask(n)
            outer = examples.outer(key, lead, n)
    except ValueError as error:
        raise examples.error(key, shape, n, str(error)) from None
    assert outer is not None
    return outer


# ----------------------------------------------------------------------------------------------------------- listening


@contextmanager
def watching(
    model: nn.Module,
    layers: dict[str, Layer],
    forward: Forward | None,
    readout: Callable[[Tensor], Tensor] | None,
    examples: Examples,
) -> Iterator[Callable[[Batch, Tensor | None], tuple[Tensor, dict[str, list[Tensor]]]]]:
    """A function that runs a batch and gives the outputs and each layer's pre-activations, in float64."""
    refuse_routed(layers, "its pre-activations cannot be compared between states of the network")
    seen: dict[str, list[Tensor]] = {}

    def hook(layer: Layer) -> Callable[..., None]:
        def after(module: nn.Module, args: Any, output: Tensor) -> None:
            if not examples.asking:  # a copy: the next module may write into its input in place
                seen[layer.name].append(wide(batched(layer, output), copy=True))

        return after

    def choose(z: Tensor, mask: Tensor | None, name: str | None) -> Tensor:
        if mask is None:
            return wide(z)
        base = None if name is None else layers[name].kind.example_ndim(layers[name].module)
        lead = tuple(z.shape) if z.ndim == 1 else lead_of(z, base)
        laid = examples.lay(name, z.shape, lead, mask)
        if laid is None:
            examples.ask(len(mask))
            return choose(z, mask, name)
        return wide(z).flatten(0, laid[1] - 1)[laid[0].to(wide(z[:0]).device)]

    def run(batch: Batch, mask: Tensor | None) -> tuple[Tensor, dict[str, list[Tensor]]]:
        seen.update({name: [] for name in layers})
        examples.begin(batch)
        read = (lambda f: output_of(f)) if readout is None else (lambda f: readout(output_of(f)))
        output = run_precisely(model, batch, forward, read)
        unread = [name for name, tensors in seen.items() if not tensors]
        if unread:
            raise ValueError(f"the forward pass never called layer {unread[0]!r}: it cannot be scored")
        return choose(output, mask, None), {name: [choose(t, mask, name) for t in seen[name]] for name in layers}

    with evaluating(model), torch.no_grad():
        hooks = [layer.module.register_forward_hook(hook(layer)) for layer in layers.values()]
        try:
            yield run
        finally:
            for handle in hooks:
                handle.remove()


def wide(z: Tensor, copy: bool = False) -> Tensor:
    home = torch.device("cpu") if z.device.type == "mps" else z.device  # Apple's GPUs have no float64
    return z.detach().to(home, torch.float64, copy=copy)
