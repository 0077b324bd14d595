"""The curvature of a loss, layer by layer: K-FAC's factors, the exact Fisher block, and how isotropic G is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engramlib.analysis._backward import backward_passes, check_grad, check_seen, gradients_of
from engramlib.analysis._passes import batches_of, output_of, run_precisely
from engramlib.analysis.cuts import effective_rank
from engramlib.engram import Engram, LayerEngram
from engramlib.layers import check_editable, find_layers, supported_layers
from engramlib.running import Batch, Forward, evaluating

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
    examples: int | None = None,
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
        examples: the dimension of the model's inputs that holds the example, 1 where they are (tokens, batch, d).
            None = found: the first along which examples do not see each other, by running the model on a batch again
            with one example replaced. Models whose layers read one row for each example are not asked.

    Returns:
        dict: layer -> G, float64, (out, out), or (groups, out/groups, out/groups). For a convolution or a sequence n
        counts output positions: the "expand" form of K-FAC (Grosse and Martens 2016).

    Raises:
        ValueError: an unknown loss or fisher, no batches, a layer that no gradient reaches (the message says why:
            gradient checkpointing of the reentrant kind, ``torch.no_grad`` in the model's forward), examples that see
            each other, or of which it is not clear which rows are theirs.
        TypeError: a layer type that does not know its outputs (:meth:`engramlib.layers.LayerKind.outputs`), experts.

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
    for first, _, gradients in backward_passes(model, chosen, batches, loss, fisher, forward, seed, examples):
        for name, parts in gradients.items():
            for g in parts:
                g = g.flatten(0, 1) if g.ndim == 3 else g.flatten(0, 1).transpose(0, 1)  # (n·positions, out)
                sums[name] = sums.get(name, 0) + g.mT @ g
                if first:
                    count[name] = count.get(name, 0) + g.shape[-2]
    for name in chosen:
        if not torch.isfinite(sums[name]).all():
            raise ValueError(f"layer {name!r}: gradients at its output are NaN or infinite; look at the data")
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
    examples: int | None = None,
    limit: int = 6000,
) -> Tensor:
    """The Fisher matrix of one layer, dense: F = Σ E_y[vec(∇_W ℓ) vec(∇_W ℓ)ᵀ], a sum over examples.

    vec reads a matrix [W b] of shape (out, d), or (groups, out, d), row by row, as ``tensor.flatten()`` does; K-FAC
    replaces F by ``torch.kron(G, A)`` in this order, of each group. F of a batch is the sum of the F of its examples.

    Args:
        layer: the full name of one layer, normalisations among them.
        bias: ``"absorb"`` takes the bias in as the last column, if the layer has one; ``"keep"`` leaves it out.
        limit: largest number of rows, groups·out·d, that is allowed; F takes 8 (groups·out·d)² bytes.
        model, batches, loss, fisher, forward, seed, examples: as in :func:`output_factors`.

    Returns:
        Tensor: float64, (groups·out·d, groups·out·d).

    Raises:
        ValueError: a name that is not exactly one layer, more than ``limit`` parameters (it says how many bytes that
            would take); and as :func:`output_factors`.

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
    found = supported_layers(model)
    if layer not in found:
        raise ValueError(f"layer: expected the full name of one of {', '.join(map(repr, found))}, got {layer!r}")
    chosen = {layer: found[layer]}
    check_editable(chosen[layer])
    absorbed = bias == "absorb" and chosen[layer].has_bias
    groups = chosen[layer].kind.groups(chosen[layer].module) or 1
    size = groups * chosen[layer].height * chosen[layer].width(absorbed)
    if size > limit:
        raise ValueError(
            f"layer {layer!r} has {size} parameters, more than limit={limit}: F takes {8e-9 * size**2:.1f} GB"
        )
    total = torch.zeros(size, size, dtype=torch.float64, device="cpu")
    for _, inputs, gradients in backward_passes(model, chosen, batches, loss, fisher, forward, seed, examples):
        parts: list[Tensor] = []
        for x, g in zip(inputs[layer], gradients[layer], strict=True):
            if absorbed:
                x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
            parts.append(torch.einsum("np...o,np...d->n...od", g, x))
        rows = torch.stack(parts).sum(0).flatten(1)  # ∇_W of each example
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
    if not callable(loss):
        raise TypeError(f"loss: expected a function of (output, batch), got {type(loss).__name__}")
    chosen = find_layers(model, layers)
    parts = [
        (layer, which)
        for layer in chosen.values()
        for which in (("weight", "bias") if bias == "absorb" and layer.has_bias else ("weight",))
    ]
    # Query, key and value of an attention are rows of one parameter.
    parameters = {id(p): p for p in (layer.stored(which) for layer, which in parts) if p is not None}
    flags = [(p, p.requires_grad) for p in parameters.values()]
    sums = {key: torch.zeros_like(p) for key, p in parameters.items()}
    seen = 0
    hooks = []
    try:
        for p, _ in flags:
            p.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            for layer in chosen.values():
                hooks.append(layer.owner.register_forward_pre_hook(lambda m, args, layer=layer: check_grad(layer)))
            for batch in batches_of(model, batches):
                seen += 1
                value = run_precisely(model, batch, forward, functools.partial(_loss, loss, batch))
                if not isinstance(value, Tensor) or value.ndim:
                    raise ValueError(f"loss: expected a scalar tensor, got {getattr(value, 'shape', value)!r}")
                found = gradients_of(value, list(parameters.values()))
                gradients = dict(zip(parameters, found, strict=True))
                for layer, which in parts:
                    if gradients[id(layer.stored(which))] is None:
                        raise ValueError(
                            f"layer {layer.name!r}: the loss does not depend on it; leave it out with `layers`"
                        )
                for key, g in gradients.items():
                    if g is not None:
                        sums[key] += g
    finally:
        for handle in hooks:
            handle.remove()
        for p, flag in flags:
            p.requires_grad_(flag)
    check_seen(seen)
    for layer, which in parts:
        if not torch.isfinite(sums[id(layer.stored(which))]).all():
            raise ValueError(f"layer {layer.name!r}: the gradient of the loss is NaN or infinite")
    entries: dict[str, dict[str, Tensor]] = {name: {} for name in chosen}
    for layer, which in parts:
        entries[layer.name][which] = layer.rows(sums[id(layer.stored(which))], which).clone()
    return Engram({name: LayerEngram(**entry) for name, entry in entries.items()})


def _loss(loss: Callable[[Tensor, Batch], Tensor], batch: Batch, output: Any) -> Tensor:
    return loss(output_of(output), batch)


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
