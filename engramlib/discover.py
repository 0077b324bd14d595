"""Concepts without labels: partitions X⁺/X⁻ found in what a layer reads. Needs scikit-learn, once it is called."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engramlib._clusters import METHODS, RULES, Fit, by_size, order_of, projected, shares, sharpness, sklearn
from engramlib._clusters import chosen as chosen_by
from engramlib._examples import UNCLEAR, Examples, _holds, is_sequence, lead_of, tensors_in
from engramlib._progress import length, track
from engramlib._recorder import input_of
from engramlib.layers import Layer, find_layers, refuse_routed
from engramlib.running import Batch, Forward, Selector, as_batches, device_of, evaluating, labels_of, run, to_device

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["METHODS", "RULES", "Discovery", "activations", "concepts", "shares", "sharpness"]

_COMPONENTS = 10  # where k is looked for; tried on three digit networks that the chapter does not report


@dataclass(frozen=True, eq=False)
class Discovery:
    """A partition of examples. It is a function of a batch as well: ``collect_by_concept(model, batches, found)``.

    Examples are recognised by their content, so batches may be split or ordered in another way than those of the
    discovery; one that was not there is an error.

    Attributes:
        labels: a concept for each example, in the order of the batches, shape (n,). Without ``known`` they count
            from 0, the largest concept first; with it they are its names. -1: an example that ``rows`` left out.
        k: how many concepts.
        scores: number of concepts -> what that partition is worth, for each number that was tried. ``"owned"``: the
            least of the concepts' largest shares (:func:`shares`). ``"sharpness"``: of :func:`sharpness`. ``"bic"``: of
            the mixture, smaller is better. ``"stability"``: where that is the rule.
    """

    labels: Int[Tensor, " n"]
    k: int
    scores: dict[int, dict[str, float]]
    _again: Callable[[], float] = field(repr=False)
    _known: dict[bytes, int] = field(repr=False)
    _dim: int = field(repr=False)
    _first: bool = field(repr=False)

    @cached_property
    def stability(self) -> float:
        """Mean adjusted Rand index between partitions of all examples that were learned on random halves of them.

        1 = always the same, 0 = as alike as chance makes them. Cost: eight fits, when it is asked for.
        """
        found = self.scores[self.k].get("stability")
        return self._again() if found is None else found

    def __call__(self, batch: Batch) -> Int[Tensor, " batch"]:
        """The concept of each example of a batch. Raises ``ValueError`` for one that was not in the discovery."""
        found = [self._known.get(key) for key in _fingerprints(batch, self._dim, self._first)]
        if missing := found.count(None):
            raise ValueError(
                f"batch: {missing} of {len(found)} examples were not in the discovery (an augmentation, other padding,"
                " another split?): it knows those alone that it was given, as they were"
            )
        return torch.tensor(found)

    def concept_of(self, indices: Iterable[int]) -> tuple[int, float]:
        """The concept that most of some examples are in, and their share in it: five that you know, say.

        Args:
            indices: places of examples in ``labels``.

        Raises:
            ValueError: no index, one that is not there, or an example that ``rows`` left out.
        """
        own = self.labels[_indices("indices", indices, len(self.labels))]
        if bool((own < 0).any()):
            raise ValueError("indices: an example that `rows` left out is in no concept")
        values, counts = own.unique(return_counts=True)
        at = int(counts.argmax())
        return int(values[at]), int(counts[at]) / len(own)


def concepts(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    layer: str,
    k: int | None = None,
    method: str = "mixture",
    known: Mapping[int, Iterable[int]] | None = None,
    rule: str = "bic",
    most: int = 20,
    components: int | float | None = None,
    whiten: bool = False,
    seed: int = 0,
    rows: Selector | None = None,
    forward: Forward | None = None,
    examples: int | None = None,
) -> Discovery:
    """Find concepts in what one layer reads: the partition that the engram needs, without labels or with a few.

    Activations (:func:`activations`) are projected on their first principal components, and clustered there. What a
    partition is worth to an edit is scored by its shares, s = eigenvalues of Σ^(-½) Σ_c Σ^(-½) with Σ = Σ_c Σ_c: a
    concept owns a direction of which it has s > ½, and what no concept owns cannot be cut out alone.

    Args:
        model, batches, rows, forward, examples: as in :func:`engramlib.collect`. ``rows`` of shape (batch, tokens)
            says which tokens an example's mean is of; without it, all.
        layer: the layer whose input is looked at; a name or a suffix of one that matches a single layer.
        k: the number of concepts; None = found by ``rule`` among 2 to ``most`` (with ``known``: as many as that names).
        method: ``"mixture"``, Gaussians fitted by EM, with a covariance each or one for all, whichever has the
            smaller BIC; ``"spectral"``, clusters of the graph of the ten nearest neighbours; ``"kmeans"``, the plain
            baseline. With ``known``: EM from the known examples' centroids; label spreading on the same graph; the
            nearest centroid.
        known: concept -> indices of a few of its examples, for each concept that there is (two at least). Every
            example gets one of these names; the mixture keeps what is known, the other two may overrule it.
        rule: ``"bic"``, the smallest, from one concept on (mixtures only); ``"stability"``, the largest; ``"shares"``,
            the largest k of which every concept owns a direction. The last says how many could be cut apart, not how
            many there are: it finds parts of a single cloud, and more with more components (chapter 20).
        most: the largest number of concepts that a rule may choose.
        components: how many principal components, or (below 1) what part of the variance they must hold; None = as many
            as concepts, whose centroids span one less, or 10 where k is looked for.
        whiten: give each component the same variance.
        seed: of everything that is drawn. Same seed, same partition; the split into batches and the order of the
            examples change at most the names.

    Returns:
        Discovery: labels, k, scores and stability.

    Raises:
        ImportError: scikit-learn is not there (``pip install "engramlib[lab]"``).
        ValueError: unknown words, numbers out of range, a layer that matches none or several, is not reached or called
            twice in a pass; too few examples; activations without variance, NaN or infinite; ``known`` with one
            concept, examples that are not there or in two.
        TypeError: as :func:`engramlib.collect`; experts, which see some tokens only.

    Cost: one forward pass, n · d numbers of memory (8 bytes each), a principal component analysis, n · d · min(n, d);
    a fit for every k that is tried (nine where stability is the rule). Source: the paper names explicit X⁺/X⁻ as a
    limit (Appendix H); this is the book's own; chapter 20.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import engramlib as el
        >>> centres = 9 * torch.eye(3, 6).repeat_interleave(40, 0)
        >>> x = centres + torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
        >>> model = nn.Linear(6, 3)
        >>> found = concepts(model, [x], layer="")
        >>> found.k, found.labels.bincount().tolist()
        (3, [40, 40, 40])
        >>> moments = el.collect_by_concept(model, x.split(32), found)  # recognised, however they are split
        >>> [m.count[""] for m in moments.values()]
        [40, 40, 40]
    """
    sklearn("cluster")
    _check(k, method, known, rule, most, components, whiten, seed)
    read, keys, dim = _read(model, batches, layer, rows, forward, examples)
    used = (~read.isnan().any(1)).nonzero()[:, 0]
    if components is None:
        few = len(known) if isinstance(known, Mapping) else _COMPONENTS if k is None else k
        components = min(few, *read[used].shape)
    z = projected(read[used], components, whiten, f"layer {layer!r}")
    order = order_of(z)
    fit = Fit(z[order], method, seed)
    if known is not None:
        places = _places(known, used[order], len(read))
        if k not in (None, len(places)):
            raise ValueError(f"k: {k} concepts, but known names {len(places)}; leave k out")
        number, tried = len(places), {len(places): fit.seeded(places)}
    else:
        places, largest = None, most if k is None else k
        if largest >= len(z):
            raise ValueError(f"{'most' if k is None else 'k'}: {largest} concepts of {len(z)} examples; say fewer")
        tried = {n: fit(n) for n in ([k] if k is not None else range(1, most + 1))}
    stable = rule == "stability" and k is None
    scores = {n: fit.scores(n, found, stable=stable) for n, found in tried.items()}
    if known is None:
        number = chosen_by(scores, rule) if k is None else k
    names = torch.tensor(list(known)) if known is not None else by_size(tried[number], number)
    labels = torch.full((len(read),), -1)
    labels[used[order]] = names[tried[number]]
    seen: dict[bytes, int] = {}
    for key, label in zip(keys, labels.tolist(), strict=True):
        seen.setdefault(key, label)
    return Discovery(labels, number, scores, partial(fit.stability, number, places), seen, dim, forward is None)


def _check(
    k: int | None,
    method: str,
    known: Mapping[int, Iterable[int]] | None,
    rule: str,
    most: int,
    components: int | float | None,
    whiten: bool,
    seed: int,
) -> None:
    def whole(value: object, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    for argument, value, words in (("method", method, METHODS), ("rule", rule, RULES)):
        if value not in words:
            raise ValueError(f"{argument}: expected one of {', '.join(words)}, got {value!r}")
    if rule == "bic" and k is None and known is None and method != "mixture":
        raise ValueError(
            f"rule: 'bic' is of mixtures, and the method is {method!r}; take 'stability' or 'shares', or say k"
        )
    if k is not None and not whole(k, 2):
        raise ValueError(f"k: expected a whole number of at least 2, or None, got {k!r}")
    if not whole(most, 2):
        raise ValueError(f"most: expected a whole number of at least 2, got {most!r}")
    part = isinstance(components, Real) and not isinstance(components, int) and 0 < components < 1
    if components is not None and not (whole(components, 1) or part):
        raise ValueError(
            f"components: expected a number of them, a part of the variance in (0, 1) or None, got {components!r}"
        )
    if not isinstance(whiten, bool):
        raise ValueError(f"whiten: expected True or False, got {whiten!r}")
    if not whole(seed, 0):
        raise ValueError(f"seed: expected a whole number of at least 0, got {seed!r}")


def _places(known: Mapping[int, Iterable[int]], rows: Tensor, n: int) -> list[Tensor]:
    """For each known concept, where its examples stand among ``rows``, which are places of all n examples."""
    if not isinstance(known, Mapping):
        raise TypeError(f"known: expected a dict, concept -> indices of examples, got {type(known).__name__}")
    if len(known) < 2:
        raise ValueError(f"known: {len(known)} concept; name two at least (for one, ask `concept_of` of a discovery)")
    if wrong := [c for c in known if not isinstance(c, int) or isinstance(c, bool) or c < 0]:
        raise ValueError(f"known: expected concepts that are whole numbers >= 0, got {wrong[0]!r}")
    where = torch.full((n,), -1)
    where[rows] = torch.arange(len(rows))
    found = [where[_indices(f"known[{c}]", indices, n)] for c, indices in known.items()]
    if any(bool((part < 0).any()) for part in found):
        raise ValueError("known: an example that `rows` left out")
    if len(torch.cat(found).unique()) < sum(map(len, found)):
        raise ValueError("known: an example is there twice")
    return found


def _indices(argument: str, indices: Iterable[int], n: int) -> Tensor:
    try:
        found = torch.as_tensor(list(indices))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{argument}: expected indices of examples, got {type(indices).__name__}") from error
    if not len(found) or found.ndim != 1 or found.is_floating_point() or found.dtype == torch.bool:
        raise ValueError(f"{argument}: expected whole numbers, one at least")
    if bool((found < 0).any()) or bool((found >= n).any()):
        raise ValueError(f"{argument}: there are {n} examples, numbered from 0")
    return found.long()


# ------------------------------------------------------------------------------------------------------- activations


def activations(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    layer: str,
    rows: Selector | None = None,
    forward: Forward | None = None,
    examples: int | None = None,
) -> Float[Tensor, "n d"]:
    """What one layer reads, a row for each example: the mean over an example's tokens or pixels.

    Args:
        model, batches, rows, forward, examples: as in :func:`engramlib.collect`.
        layer: as in :func:`concepts`.

    Returns:
        Tensor: (n, d), float64, on the CPU, in the order of the batches; NaN for examples that ``rows`` left out.

    Raises and cost: as :func:`concepts`. Source: this book's own; chapter 20.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> x = torch.randn(5, 7, 3)  # five sequences of seven tokens
        >>> torch.allclose(activations(nn.Linear(3, 2), [x], layer=""), x.mean(1).double())
        True
    """
    return _read(model, batches, layer, rows, forward, examples)[0]


def _read(
    model: nn.Module,
    batches: Iterable[Batch],
    layer: str,
    rows: Selector | None,
    forward: Forward | None,
    dim: int | None,
) -> tuple[Tensor, list[bytes], int]:
    """Activations, a fingerprint of each example, and which dimension of the inputs the examples are in."""
    if not isinstance(layer, str):
        raise TypeError(f"layer: expected the name of one layer, got {type(layer).__name__}")
    every = find_layers(model, None)
    chosen = {layer: every[layer]} if layer in every else find_layers(model, [layer])
    if len(chosen) != 1:
        raise ValueError(
            f"layer: {layer!r} matches {len(chosen)} layers ({', '.join(list(chosen)[:4])}, ...); name one"
        )
    refuse_routed(chosen, "what it reads is some of an example's tokens")
    ((name, one),) = chosen.items()
    found, device = Examples(model, chosen, forward, dim), device_of(model)
    batches = as_batches(batches)
    read: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not found.asking:
            read.append(input_of(one, args, kwargs).detach().clone())

    means: list[Tensor] = []
    keys: list[bytes] = []
    with evaluating(model), torch.no_grad():
        handle = one.module.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            for batch in track(batches, desc="reading activations", total=length(batches)):
                batch = to_device(batch, device)
                found.begin(batch)
                run(model, batch, forward)
                if len(read) != 1:
                    times = f"{len(read)} times" if read else "never"
                    raise ValueError(
                        f"layer {name!r} is called {times} in a forward pass: choose one that is called once"
                    )
                means.append(_means(one, read.pop(), found, rows, device))
                keys += _fingerprints(batch, found.dim or 0, forward is None)
        finally:
            handle.remove()
    if not means:
        raise ValueError("batches: there were none (an empty list, or a generator that was already used up?)")
    whole = torch.cat(means).cpu()
    if len(keys) != len(whole):
        raise ValueError(
            f"batches: {len(whole)} examples, but {len(keys)} in the tensors; say which dimension: examples="
        )
    if bool(whole.isinf().any()) or bool((whole.isnan().any(1) & ~whole.isnan().all(1)).any()):
        raise ValueError(f"layer {name!r}: its input has NaN or infinite values")
    if not bool((~whole.isnan()).any()):
        raise ValueError(f"layer {name!r}: its input is NaN, or `rows` chose no example")
    return whole, keys, found.dim or 0


def _means(layer: Layer, x: Tensor, found: Examples, rows: Selector | None, device: torch.device) -> Tensor:
    """Of one batch: the mean of what belongs to each example, (n, d) in float64; NaN where nothing does."""
    base = layer.kind.example_ndim(layer.module)
    if x.ndim == (base or 1):
        x = x.unsqueeze(0)
    lead, widest = lead_of(x, base), found.widest()
    if widest is not None and found.dim is None and (not is_sequence(widest) or widest.ndim == 4):
        n: int | None = len(widest)
    else:
        n = found.number() or found.ask()
    if n is None:
        raise found.error(layer.name, x.shape, lead[0], UNCLEAR)
    mask = labels_of(found.batch, rows, None, device)
    marks = torch.arange(n if mask is None else len(mask), device=None if mask is None else mask.device)
    if mask is not None:
        marks = torch.where(mask >= 0, marks if mask.ndim == 1 else marks.unsqueeze(1), -1)
    laid = found.lay(layer.name, x.shape, lead, marks)
    if laid is None:
        found.ask(n)
        laid = found.lay(layer.name, x.shape, lead, marks)
    assert laid is not None
    owner, dims = laid[0].to(x.device), laid[1]
    if x.device.type == "mps":
        owner, x = owner.cpu(), x.cpu()
    flat = x.flatten(0, dims - 1).double()
    if flat.ndim > 2:  # pixels of each channel, or tokens
        flat = flat.flatten(2).mean(2) if base else flat.flatten(1, -2).mean(1)
    kept = owner >= 0
    sums = flat.new_zeros(n, flat.shape[1]).index_add_(0, owner[kept], flat[kept])
    if not bool(torch.isfinite(sums).all()):
        raise ValueError(f"layer {layer.name!r}: its input has NaN or infinite values")
    return sums / owner[kept].bincount(minlength=n).unsqueeze(1)  # 0/0: an example without rows


def _fingerprints(batch: Batch, dim: int, first: bool) -> Iterator[bytes]:
    """What tells one example from another: the bytes of what the model is given."""
    if first and isinstance(batch, (tuple, list)) and batch:
        batch = batch[0]
    tensors = list(tensors_in(batch))
    if not tensors:
        return
    widest = max(tensors, key=lambda t: t.ndim)
    n = widest.shape[dim] if widest.ndim > dim else 0
    held = [(t.detach().cpu(), d) for t in tensors if (d := _holds(t, dim, n)) is not None]
    for e in range(n):
        digest = hashlib.blake2b(digest_size=16)
        for t, d in held:
            part = t.select(d, e).contiguous()
            digest.update(part.reshape(-1).view(torch.uint8).numpy().tobytes() if part.numel() else b"")
        yield digest.digest()
