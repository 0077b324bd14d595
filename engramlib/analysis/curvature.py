"""The curvature of a loss, layer by layer: K-FAC's factors, the exact Fisher block, and how isotropic G is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engramlib.analysis.criteria import output_of
from engramlib.analysis.cuts import effective_rank
from engramlib.engram import Engram, LayerEngram
from engramlib.layers import Conv2dKind, Layer, find_layers, refuse_routed
from engramlib.running import Batch, Forward, as_batches, evaluating, run, to_device

Factors = dict[str, Tensor]


def output_factors(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    loss: str = "cross_entropy",
    fisher: str = "exact",
    layers: str | Iterable[str] | None = None,
    forward: Forward | None = None,
    seed: int = 0,
) -> Factors:
    """G of K-FAC: second moment of the gradients at each layer's output, G = (1/n) Σᵢ E_y[gᵢ gᵢᵀ].

    gᵢ = ∂ℓ(y, f)/∂zᵢ is the gradient of one example's loss at one column of Z, with y drawn from the model's **own**
    predictions; so A ⊗ G, with A = Σ the :class:`engramlib.Moments` (a sum), is K-FAC's stand-in for the Fisher matrix
    of the summed loss, which for these losses is the generalised Gauss-Newton matrix. No labels are used.

    Args:
        model, forward: as in :func:`engramlib.collect`.
        batches: the data of the Fisher; the same as those behind the moments of everything.
        loss: ``"cross_entropy"``: the last dimension of the output holds logits; or ``"squared"``: ½‖f − y‖².
        fisher: ``"exact"`` takes the expectation over y in closed form, one backward pass per output number
            (classes, or tokens × classes); ``"sample"`` draws one y per output: one backward pass, unbiased, noisy.
        layers: as in :func:`engramlib.collect`.
        seed: of the sampling.

    Returns:
        dict: layer -> G, float64, (out, out), or (groups, out/groups, out/groups). For a convolution or a sequence n
        counts output positions: the "expand" form of K-FAC (Grosse and Martens 2016).

    Raises:
        ValueError: an unknown loss or fisher, no batches, a layer that no gradient reaches.

    Cost: a forward and the backward passes, and n·out² multiply-adds for each. Source: Section 6 (Eqs. 9 and 10) of
    the paper, after Martens and Grosse (2015); chapter 05.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model, x = nn.Linear(3, 4), torch.randn(10, 3)
        >>> p = model(x).softmax(-1).double()
        >>> hessian = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
        >>> torch.allclose(output_factors(model, [x])[""], hessian.mean(0), atol=1e-6)
        True
    """
    chosen = find_layers(model, layers)
    sums: Factors = {}
    count: dict[str, int] = {}
    for first, _, gradients in _backward_passes(model, chosen, batches, loss, fisher, forward, seed):
        for name, parts in gradients.items():
            for g in parts:
                g = g.flatten(0, 1) if g.ndim == 3 else g.flatten(0, 1).transpose(0, 1)  # (n·positions, out)
                sums[name] = sums.get(name, 0) + g.mT @ g
                if first:
                    count[name] = count.get(name, 0) + g.shape[-2]
    return {name: sums[name] / count[name] for name in chosen}


def fisher_block(
    model: nn.Module,
    batches: Iterable[Batch],
    layer: str,
    *,
    bias: str = "absorb",
    loss: str = "cross_entropy",
    fisher: str = "exact",
    forward: Forward | None = None,
    seed: int = 0,
    limit: int = 6000,
) -> Tensor:
    """The Fisher matrix of one layer, dense: F = Σ E_y[vec(∇_W ℓ) vec(∇_W ℓ)ᵀ], a sum over examples.

    vec reads a matrix [W b] of shape (out, d) row by row, as ``tensor.flatten()`` does; K-FAC replaces F by
    ``torch.kron(G, A)`` in this order.

    Args:
        layer: name of one layer without groups.
        bias: ``"absorb"`` takes the bias in as the last column, if the layer has one; ``"keep"`` leaves it out.
        limit: largest number of rows, out·d, that is allowed; F takes 8 (out·d)² bytes.
        model, batches, loss, fisher, forward, seed: as in :func:`output_factors`.

    Returns:
        Tensor: float64, (out·d, out·d).

    Raises:
        ValueError: a name that is not exactly one layer, a grouped convolution, or more than ``limit`` parameters
            (it says how many bytes that would take).

    Cost: n·(out·d)² per backward pass: small layers only. Source: Eq. 9; checked against curvlinops; chapter 05.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model, x = nn.Linear(2, 3, bias=False).double(), torch.randn(1, 2).double()
        >>> exact = fisher_block(model, [x], "")  # with a single column, K-FAC is exact
        >>> torch.allclose(exact, torch.kron(output_factors(model, [x])[""], x.T @ x))
        True
    """
    if bias not in ("absorb", "keep"):
        raise ValueError(f'bias: expected "absorb" or "keep", got {bias!r}')
    found = find_layers(model)
    if layer not in found:
        raise ValueError(f"layer: expected the full name of one of {', '.join(map(repr, found))}, got {layer!r}")
    chosen = {layer: found[layer]}
    if chosen[layer].kind.groups(chosen[layer].module) is not None:
        raise ValueError(f"layer {layer!r} is a grouped convolution: its Fisher block is not written out")
    absorbed = bias == "absorb" and chosen[layer].has_bias
    out, d = chosen[layer].kind.matrix(chosen[layer].module, chosen[layer].module.weight).shape
    size = out * (d + absorbed)
    if size > limit:
        raise ValueError(
            f"layer {layer!r} has {size} parameters, more than limit={limit}: F takes {8e-9 * size**2:.1f} GB"
        )
    total = torch.zeros(size, size, dtype=torch.float64)
    for _, inputs, gradients in _backward_passes(model, chosen, batches, loss, fisher, forward, seed):
        per_example = 0
        for x, g in zip(inputs[layer], gradients[layer], strict=True):
            if absorbed:
                x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
            per_example = per_example + torch.einsum("npo,npd->nod", g, x)
        rows = per_example.flatten(1)
        total = total.to(rows.device).addmm_(rows.T, rows)
    return total


def loss_gradient(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[Tensor, Batch], Tensor],
    *,
    layers: str | Iterable[str] | None = None,
    bias: str = "absorb",
    forward: Forward | None = None,
) -> Engram:
    """∇_W of any loss, summed over batches, as an :class:`engramlib.Engram`: a direction in weight space.

    Args:
        loss: ``loss(output, batch)`` is a scalar, a **sum** over the batch; for forgetting, for instance,
            ``lambda z, batch: -F.cross_entropy(z, batch[1], reduction="sum")``.
        model, batches, layers, bias, forward: as in :func:`engramlib.collect`.

    Returns:
        Engram: weight and, with ``bias="absorb"``, bias of each layer; ``ablate(model, 0.1 * gradient)`` is gradient
            descent.

    Raises:
        ValueError: no batches, a loss that is not a scalar, a layer that no gradient reaches, a bad ``bias``.

    Cost: a forward and a backward pass. Source: Section 6; chapter 05.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model, x = nn.Linear(3, 2, bias=False), torch.randn(5, 3)
        >>> gradient = loss_gradient(model, [x], lambda z, batch: 0.5 * z.square().sum())
        >>> torch.allclose(gradient[""].weight, model.weight @ x.T @ x, atol=1e-5)
        True
    """
    if bias not in ("absorb", "keep"):
        raise ValueError(f'bias: expected "absorb" or "keep", got {bias!r}')
    chosen = find_layers(model, layers)
    parts = [
        (layer, which)
        for layer in chosen.values()
        for which in (("weight", "bias") if bias == "absorb" and layer.has_bias else ("weight",))
    ]
    # Query, key and value of an attention are rows of one parameter.
    parameters = {id(p): p for p in (layer.stored(which) for layer, which in parts)}
    flags = [(p, p.requires_grad) for p in parameters.values()]
    sums = {key: torch.zeros_like(p) for key, p in parameters.items()}
    seen = 0
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        for p, _ in flags:
            p.requires_grad_(True)
        with _evaluating(model), torch.enable_grad():
            for batch in as_batches(batches):
                batch, seen = to_device(batch, device), seen + 1
                value = loss(output_of(run(model, batch, forward)), batch)
                if not isinstance(value, Tensor) or value.ndim:
                    raise ValueError(f"loss: expected a scalar tensor, got {getattr(value, 'shape', value)!r}")
                found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
                gradients = dict(zip(parameters, found, strict=True))
                for layer, which in parts:
                    if gradients[id(layer.stored(which))] is None:
                        raise ValueError(
                            f"layer {layer.name!r}: the loss does not depend on it; leave it out with `layers`"
                        )
                for key, g in gradients.items():
                    sums[key] += g
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)
    _check_seen(seen)
    entries: dict[str, dict[str, Tensor]] = {name: {} for name in chosen}
    for layer, which in parts:
        entries[layer.name][which] = layer.rows(sums[id(layer.stored(which))], which).clone()
    return Engram({name: LayerEngram(**entry) for name, entry in entries.items()})


@dataclass(frozen=True)
class Anisotropy:
    """How far a symmetric G >= 0 is from σ²I.

    Attributes:
        largest_over_mean: λ_max / (tr G / out): 1 for a multiple of I, up to ``size``.
        effective_rank: exp(entropy) of the eigenvalues, between 1 and ``size``.
        distance: min over c of ‖G − cI‖ / ‖G‖ (Frobenius), in [0, 1): the sine of the angle between G and I.
        size: out.
    """

    largest_over_mean: float
    effective_rank: float
    distance: float
    size: int


def anisotropy(factor: Tensor) -> Anisotropy:
    """How far G is from isotropic: 1, ``size`` and 0 for a multiple of I.

    The closest multiple of I is (tr G / out) I, at distance √(1 − (tr G)² / (out ‖G‖²)).

    Args:
        factor: G, (out, out), symmetric positive semi-definite; of a grouped layer, one group.

    Raises:
        ValueError: a matrix that is not square, or zero.

    Cost: an eigenvalue decomposition. Source: the assumption G ≈ σ²I of Theorem 6.1, measured; chapter 05.

    Example:
        >>> import torch
        >>> anisotropy(5 * torch.eye(4)).largest_over_mean, round(anisotropy(5 * torch.eye(4)).effective_rank, 6)
        (1.0, 4.0)
        >>> anisotropy(torch.diag(torch.tensor([1.0, 0.0, 0.0, 0.0]))).distance == 0.75**0.5
        True
    """
    if factor.ndim != 2 or factor.shape[0] != factor.shape[1] or not len(factor):
        raise ValueError(f"factor: expected shape (out, out), got {tuple(factor.shape)}")
    values = torch.linalg.eigvalsh(factor.double()).clamp_min(0)
    if values[-1] <= 0:
        raise ValueError("factor: G is zero, no gradient reaches this layer")
    values = values / values[-1]
    distance = (values - values.mean()).norm() / values.norm()  # not 1 - cos²: that would cancel near a multiple of I
    return Anisotropy(float(1 / values.mean()), effective_rank(values), float(distance), len(values))


# ------------------------------------------------------------------------------------------------ the backward passes


def _evaluating(model: nn.Module) -> AbstractContextManager[None]:
    # An empty recorder: collect's own context then only sets the evaluation mode, and restores every flag.
    return evaluating(model)


def _check_seen(seen: int) -> None:
    if not seen:
        raise ValueError("batches: there were none (an empty list, or a generator that was already used up?)")


Pass = tuple[bool, dict[str, list[Tensor]], dict[str, list[Tensor]]]


def _backward_passes(
    model: nn.Module,
    layers: dict[str, Layer],
    batches: Iterable[Batch],
    loss: str,
    fisher: str,
    forward: Forward | None,
    seed: int,
) -> Iterator[Pass]:
    """For every batch and every vector that is sent back: (first of its batch, columns in, gradients at the outputs).

    Columns are (n, positions, d), gradients (n, positions, out), with groups (n, positions, groups, ...), one tensor
    for each call of the layer. Summed over the vectors of a batch, g gᵀ is the expectation over y.
    """
    if loss not in ("cross_entropy", "squared"):
        raise ValueError(f'loss: expected "cross_entropy" or "squared", got {loss!r}')
    if fisher not in ("exact", "sample"):
        raise ValueError(f'fisher: expected "exact" or "sample", got {fisher!r}')
    refuse_routed(layers, "its columns do not belong to examples")
    generator = torch.Generator().manual_seed(seed)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    inputs: dict[str, list[Tensor]] = {}
    outputs: dict[str, list[Tensor]] = {}

    def hook(layer: Layer) -> Callable[..., Tensor]:
        def after(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> Tensor:
            if not output.requires_grad:  # frozen parameters so far: the graph may as well begin here
                output = output.detach().requires_grad_(True)
            inputs[layer.name].append((args[0] if args else next(iter(kwargs.values()))).detach())
            outputs[layer.name].append(output)
            # What follows may write into its input in place (nn.ReLU(inplace=True)): give it another tensor.
            return output.clone()

        return after

    hooks = [layer.module.register_forward_hook(hook(layer), with_kwargs=True) for layer in layers.values()]
    seen = 0
    try:
        with _evaluating(model), torch.enable_grad():
            for batch in as_batches(batches):
                seen += 1
                for store in (inputs, outputs):
                    store.update({name: [] for name in layers})
                f = output_of(run(model, to_device(batch, device), forward))
                missing = [name for name in layers if not outputs[name]]
                if missing:
                    raise ValueError(f"the forward pass never called layer {missing[0]!r}; leave it out with `layers`")
                columns = {n: [_columns(layers[n], x) for x in inputs[n]] for n in layers}
                flat = [z for name in layers for z in outputs[name]]
                for number, vector in enumerate(_square_roots(f, loss, fisher, generator)):
                    found = torch.autograd.grad(f, flat, vector, retain_graph=True, allow_unused=True)
                    pieces = iter(found)
                    gradients = {n: [_gradients(layers[n], next(pieces)) for _ in outputs[n]] for n in layers}
                    yield number == 0, columns, gradients
    finally:
        for handle in hooks:
            handle.remove()
    _check_seen(seen)


def _square_roots(f: Tensor, loss: str, fisher: str, generator: torch.Generator) -> Iterator[Tensor]:
    """Vectors v with Σ v vᵀ = the Hessian of each example's loss in f (or one v with E[v vᵀ] = it)."""
    if f.ndim < 2:
        raise ValueError(f"the model's output has shape {tuple(f.shape)}; expected (batch, ..., numbers)")
    with torch.no_grad():
        p = f.detach().double().softmax(-1)
        if fisher == "sample":
            if loss == "squared":
                yield torch.randn(f.shape, generator=generator, dtype=torch.float64).to(f.device, f.dtype)
                return
            drawn = torch.multinomial(p.flatten(0, -2).cpu(), 1, generator=generator).to(f.device)
            yield (p - torch.zeros_like(p).flatten(0, -2).scatter_(1, drawn, 1.0).view_as(p)).to(f.dtype)
            return
        # Positions (tokens) of one example are independent draws, so each is sent back alone.
        for position in range(f[0].numel() // f.shape[-1]):
            for number in range(f.shape[-1]):
                v = torch.zeros_like(p).flatten(1, -2) if f.ndim > 2 else torch.zeros_like(p).unsqueeze(1)
                if loss == "squared":
                    v[:, position, number] = 1.0
                else:  # diag(p) − ppᵀ = Σ_c p_c (e_c − p)(e_c − p)ᵀ
                    q = p.flatten(1, -2)[:, position] if f.ndim > 2 else p
                    v[:, position] = -q
                    v[:, position, number] += 1.0
                    v[:, position] *= q[:, number : number + 1].sqrt()
                yield v.view_as(f).to(f.dtype)


def _columns(layer: Layer, x: Tensor) -> Tensor:
    if x.ndim == (layer.kind.example_ndim(layer.module) or 1):
        x = x.unsqueeze(0)
    x = layer.kind.columns(layer.module, x).double()
    if isinstance(layer.kind, Conv2dKind):
        return x
    return x.unsqueeze(1) if x.ndim == 2 else x.flatten(1, -2)


def _gradients(layer: Layer, g: Tensor | None) -> Tensor:
    if g is None:
        raise ValueError(f"layer {layer.name!r}: the output does not depend on it; leave it out with `layers`")
    g = g.double()
    if isinstance(layer.kind, Conv2dKind):
        g = g.unsqueeze(0) if g.ndim == layer.kind.example_ndim(layer.module) else g
        g = g.flatten(2).mT  # (n, positions, out)
        groups = layer.kind.groups(layer.module)
        return g if groups is None else g.unflatten(-1, (groups, -1))
    out = layer.kind.matrix(layer.module, layer.module.weight).shape[-2]
    known = layer.kind.example_ndim(layer.module) is None and layer.kind.groups(layer.module) is None
    if not known or g.shape[-1] != out:
        raise TypeError(f"layer {layer.name!r}: the outputs of a {type(layer.kind).__name__} are not known here")
    return g.unsqueeze(1) if g.ndim == 2 else (g.flatten(1, -2) if g.ndim > 2 else g[None, None])
