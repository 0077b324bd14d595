"""The backward passes of the curvature: vectors sent from the model's output back to the products of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engramlib._examples import Examples, lead_of
from engramlib._products import full_precision
from engramlib.analysis._passes import batched, batches_of, count_examples, grouped, output_of, run_precisely
from engramlib.layers import Layer, refuse_routed
from engramlib.running import Batch, Forward, evaluating


def check_seen(seen: int) -> None:
    if not seen:
        raise ValueError("batches: there were none (an empty list, or a generator that was already used up?)")


_NO_GRADIENT = (
    "runs without gradients inside the model's forward pass: gradient checkpointing of the reentrant kind,"
    " torch.no_grad or torch.inference_mode. Switch checkpointing off or to use_reentrant=False (Hugging Face:"
    " model.gradient_checkpointing_disable()), take the no_grad away, or leave out what it covers with `layers`"
)


def check_grad(layer: Layer) -> None:
    if not torch.is_grad_enabled():
        raise ValueError(f"layer {layer.name!r} {_NO_GRADIENT}")


def gradients_of(f: Tensor, inputs: list[Tensor], vector: Tensor | None = None) -> tuple[Tensor | None, ...]:
    """Gradients of f in the inputs, in full precision. In this thread: what checkpointing runs again is seen by us."""
    if not f.requires_grad:
        return (None,) * len(inputs)
    try:
        with full_precision(), torch.autograd.set_multithreading_enabled(False):
            return torch.autograd.grad(f, inputs, vector, retain_graph=vector is not None, allow_unused=True)
    except RuntimeError as error:
        if "heckpoint" in str(error) and "reentrant" in str(error):
            raise ValueError(f"a part of the model {_NO_GRADIENT}") from error
        raise


Pass = tuple[bool, dict[str, list[Tensor]], dict[str, list[Tensor]]]


def backward_passes(
    model: nn.Module,
    layers: dict[str, Layer],
    batches: Iterable[Batch],
    loss: str,
    fisher: str,
    forward: Forward | None,
    seed: int,
    dim: int | None,
) -> Iterator[Pass]:
    """For every batch and every vector that is sent back: (first of its batch, columns in, gradients at the products).

    Columns are (n, positions, d), gradients at Z = W X are (n, positions, out), with groups (n, positions, groups,
    ...), n the examples, one tensor for each call of the layer. Summed over the vectors of a batch, g gᵀ is the
    expectation over y.
    """
    if loss not in ("cross_entropy", "squared"):
        raise ValueError(f'loss: expected "cross_entropy" or "squared", got {loss!r}')
    if fisher not in ("exact", "sample"):
        raise ValueError(f'fisher: expected "exact" or "sample", got {fisher!r}')
    refuse_routed(layers, "its columns do not belong to examples")
    generator = torch.Generator().manual_seed(seed)
    examples = Examples(model, layers, forward, dim)
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}
    listening = False

    def hook(layer: Layer) -> Callable[..., Tensor | None]:
        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
            if examples.asking:
                return None
            check_grad(layer)
            if not output.requires_grad:  # frozen parameters so far: the graph may as well begin here
                output = output.detach().requires_grad_(True)
            if listening:  # not where checkpointing runs the layer again, on the way back
                x = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
                calls[layer.name].append((x.detach(), output))
            # What follows may write into its input in place (nn.ReLU(inplace=True)): give it another tensor.
            return output.clone()

        return after

    seen, hooks = 0, []
    try:
        with evaluating(model), torch.enable_grad():
            for layer in layers.values():
                hooks.append(layer.module.register_forward_hook(hook(layer), with_kwargs=True))
            for batch in batches_of(model, batches):
                seen += 1
                calls.update({name: [] for name in layers})
                examples.begin(batch)
                listening = True
                f = run_precisely(model, batch, forward, output_of)
                listening = False
                missing = [name for name in layers if not calls[name]]
                if missing:
                    raise ValueError(f"the forward pass never called layer {missing[0]!r}; leave it out with `layers`")
                if f.ndim < 2:
                    raise ValueError(f"the model's output has shape {tuple(f.shape)}; expected (batch, ..., numbers)")
                if not f.requires_grad:
                    raise ValueError(f"the model's output {_NO_GRADIENT}")
                leads = {
                    name: [lead_of(batched(layer, x), layer.kind.example_ndim(layer.module)) for x, _ in calls[name]]
                    for name, layer in layers.items()
                }
                n = count_examples(examples, [lead for found in leads.values() for lead in found], f)
                products = [
                    _Products(layer, x, z, lead, grouped(examples, name, x.shape, lead, n), n)
                    for name, layer in layers.items()
                    for (x, z), lead in zip(calls[name], leads[name], strict=True)
                ]
                columns: dict[str, list[Tensor]] = {name: [] for name in layers}
                for product in products:
                    columns[product.layer.name].append(product.columns)
                outer = grouped(examples, None, f.shape, tuple(f.shape[:-1]), n)
                rows = f.detach().reshape(outer, n, -1, f.shape[-1]).transpose(0, 1).flatten(1, 2)
                for number, v in enumerate(_square_roots(rows, loss, fisher, generator)):
                    v = v.view(n, outer, -1, f.shape[-1]).transpose(0, 1).reshape(f.shape)
                    gradients: dict[str, list[Tensor]] = {name: [] for name in layers}
                    found = gradients_of(f, [product.output for product in products], v)
                    for product, g in zip(products, found, strict=True):
                        gradients[product.layer.name].append(product.back(g))
                    yield number == 0, columns, gradients
    finally:
        for handle in hooks:
            handle.remove()
    check_seen(seen)


class _Products:
    """One call of a layer as Z = W X: its columns by example, and how a gradient at its output is one at Z."""

    def __init__(self, layer: Layer, x: Tensor, output: Tensor, lead: tuple[int, ...], outer: int, n: int) -> None:
        self.layer, self.output, self.lead, self.outer, self.n = layer, output, lead, outer, n
        kind, module = layer.kind, layer.module
        x = batched(layer, x)
        self.shape = batched(layer, output).shape
        with full_precision():
            columns = kind.columns(module, x).double()
            self.z = columns.new_zeros(*columns.shape[:-1], layer.height, requires_grad=True)
            y = kind.outputs(module, self.z, x, self.shape)
        if y is None:
            raise TypeError(
                f"layer {layer.name!r}: a {type(kind).__name__} does not say where the products W x stand in its"
                " output (LayerKind.outputs), so gradients at them are not known; leave it out with `layers`"
            )
        self.y, self.columns = y, self.by_example(columns)

    def back(self, g: Tensor | None) -> Tensor:
        """The gradient at Z by example, for one at the output: ``outputs`` is linear in Z, and this its transpose."""
        if g is None:
            raise ValueError(f"layer {self.layer.name!r}: the output does not depend on it; leave it out with `layers`")
        g = g.reshape(self.shape).to(self.y)
        with full_precision():
            return self.by_example(torch.autograd.grad(self.y, self.z, g, retain_graph=True)[0])

    def by_example(self, t: Tensor) -> Tensor:
        """(*lead, *positions, *groups, d) as (n, positions, *groups, d)."""
        dims, keep = len(self.lead), 2 if self.layer.kind.groups(self.layer.module) is not None else 1
        t = t.reshape(self.outer, self.n, -1, *t.shape[dims:]).transpose(0, 1)
        return t.flatten(1, t.ndim - 1 - keep)


def _square_roots(f: Tensor, loss: str, fisher: str, generator: torch.Generator) -> Iterator[Tensor]:
    """Vectors v with Σ v vᵀ = the Hessian of each example's loss in f (or one v with E[v vᵀ] = it).

    ``f`` is (n, positions, numbers); positions (tokens) of one example are independent draws, so each is sent alone.
    """
    p = f.double().softmax(-1)
    if fisher == "sample":
        if loss == "squared":
            yield torch.randn(f.shape, generator=generator, dtype=torch.float64, device="cpu").to(f.device, f.dtype)
            return
        drawn = torch.multinomial(p.flatten(0, -2).cpu(), 1, generator=generator).to(f.device)
        yield (p - torch.zeros_like(p).flatten(0, -2).scatter_(1, drawn, 1.0).view_as(p)).to(f.dtype)
        return
    for position in range(f.shape[1]):
        for number in range(f.shape[-1]):
            v = torch.zeros_like(p)
            if loss == "squared":
                v[:, position, number] = 1.0
            else:  # diag(p) − ppᵀ = Σ_c p_c (e_c − p)(e_c − p)ᵀ
                q = p[:, position]
                v[:, position] = -q
                v[:, position, number] += 1.0
                v[:, position] *= q[:, number : number + 1].sqrt()
            yield v.to(f.dtype)
