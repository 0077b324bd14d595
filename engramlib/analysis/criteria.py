"""The four criteria of an engram, scored: sufficiency, necessity, reactivation, specificity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from engramlib._examples import Examples
from engramlib._fitting import Deltas, fitting_layers, is_absorbed
from engramlib.analysis._passes import batches_of, watching
from engramlib.edit import edited
from engramlib.engram import Engram, LayerEngram
from engramlib.layers import Layer, supported_layers
from engramlib.moments import Moments
from engramlib.running import Batch, Forward, Selector, device_of, labels_of

CRITERIA = ("sufficiency", "necessity", "reactivation", "specificity")


@dataclass(frozen=True)
class CriteriaRow:
    """The scores of one engram in one place: each in [0, 1], 1 = the criterion is met.

    Attributes:
        engram: ``"engram"``, or a control: ``"random"`` (mean over draws) or ``"wrong"``.
        layer: the layer's name; None = the whole network.
        sufficiency, necessity, reactivation, specificity: the scores, as :func:`score_criteria` defines them.
        specificity_ablated, specificity_injected: the two halves of specificity (equal in a single layer).
        reactivation_by_layer: for a row of the whole network: layer -> reactivation in the injected network.
    """

    engram: str
    layer: str | None
    sufficiency: float
    necessity: float
    reactivation: float
    specificity: float
    specificity_ablated: float
    specificity_injected: float
    reactivation_by_layer: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Criteria:
    """What :func:`score_criteria` returns: rows per layer and rows for the whole network (none without batches)."""

    layers: tuple[CriteriaRow, ...]
    network: tuple[CriteriaRow, ...]

    def table(self) -> list[dict[str, str | float]]:
        """One dict per row: ``where`` (a layer, or "whole network"), ``engram``, and the four scores."""
        keep = ("engram", *CRITERIA)
        rows = []
        for row in (*self.layers, *self.network):
            values = asdict(row)
            where = "whole network" if row.layer is None else row.layer or "(the layer)"
            rows.append({"where": where, **{key: values[key] for key in keep}})
        return rows


def score_criteria(
    model: nn.Module,
    engram: Engram,
    target: Moments,
    reference: Moments,
    *,
    batches: tuple[Iterable[Batch], Iterable[Batch]] | None = None,
    rows: Selector | None = None,
    forward: Forward | None = None,
    readout: Callable[[Tensor], Tensor] | None = None,
    base: Mapping[str, Tensor] | nn.Module | None = None,
    wrong: Engram | None = None,
    draws: int = 3,
    seed: int = 0,
    examples: int | None = None,
) -> Criteria:
    """Four questions about an engram, each answered by a number in [0, 1], beside controls that should fail.

    The intervened states are: null (the engram's layers at W0), injected (W0 + W⁺), ablated (W − W⁺), learned (W). A
    score is 1 − (squared gap that is left) / (squared gap between the null and the learned state), clipped to
    [0, 1]. So 1 means that the intervention did all that learning did (or, for specificity, nothing at all), 0 that it
    was no better than not intervening.

    **In one layer**, with ΔW = W − W0, on pre-activations Z, from the moments alone::

        sufficiency   injected like learned on X⁺:   1 − ‖(W0 + W⁺ − W) X⁺‖² / ‖ΔW X⁺‖²
        necessity     ablated like null on X⁺:       1 − ‖(W − W⁺ − W0) X⁺‖² / ‖ΔW X⁺‖²
        reactivation  W⁺X⁺ has the pattern of ΔWX⁺:  cos(W⁺X⁺, ΔWX⁺), whatever its size
        specificity   X⁻ stays where it was:         1 − ‖W⁺ X⁻‖² / ‖ΔW X⁻‖²

    with ‖M X‖² = tr(M Σ Mᵀ). Sufficiency and necessity are **the same number** here: both gaps are
    (W⁺ − ΔW)X⁺ up to sign, because a layer is linear and both states get the same input.
    This is why Eq. 2 has the term twice.

    **In the whole network**, all layers of the engram at once, on the final outputs f (after ``readout``)::

        sufficiency   1 − ‖f_injected − f_learned‖² / ‖f_null − f_learned‖²       on the target
        necessity     1 − ‖f_ablated − f_null‖² / ‖f_learned − f_null‖²           on the target
        reactivation  cos(Z_injected − Z_null, Z_learned − Z_null) on the target, mean over the engram's layers
        specificity   mean of 1 − ‖f_ablated − f_learned‖² / ‖f_null − f_learned‖²
                      and 1 − ‖f_injected − f_null‖² / ‖f_learned − f_null‖²      on the reference

    Here sufficiency and necessity differ: the injected network runs from the null state and the ablated one from the
    learned state, so behind the first layer they read different inputs, and nonlinearities do not cancel.

    Controls: ``"random"`` is W⁺ with its right singular subspace turned at random, so every layer keeps its norm and
    its singular values (see :func:`random_engram`); its scores are means over ``draws``. ``"wrong"`` is an engram
    you pass.

    Args:
        model: the learned network. It comes back exactly as it was.
        engram: W⁺.
        target: moments of X⁺. They may hold more layers than the engram.
        reference: moments of X⁻, without the target.
        batches: (batches of the target, batches of the reference), each as in :func:`engramlib.collect`; test data
            if you have them. None = score the layers only.
        rows, forward: as in :func:`engramlib.collect`.
        readout: applied to the output tensor before it is compared, for instance ``lambda z: z.softmax(-1)``. None =
            as is. An output that is not a tensor must have ``logits`` or be a tuple that starts with the tensor.
        base: state dict (or module) of W0. None = tabula rasa, W0 := 0. Parameters outside the engram keep their
            learned values in every state.
        wrong: the engram of another concept.
        draws: how many random engrams; 0 = no such control.
        seed: of the random engrams.
        examples: for ``rows``: the dimension of the model's inputs that holds the example, as in
            :func:`engramlib.collect`.

    Returns:
        Criteria: ``.layers``, ``.network``, ``.table()``. Where learning changed nothing (gap 0), a score is 1 if the
        intervention changed nothing either, else 0.

    Raises:
        ValueError: an engram or moments of another model, moments collected with another bias mode, no batches, a
            base that does not fit, NaN in the outputs.

    Inside a ``torch.autocast`` region everything is computed as outside of it, unless the model needs autocast to run.

    Cost: layers: two (out × d)(d × d) products each; network: 2 + 2·(number of engrams) forward passes, a copy of the
    edited weights, one batch of pre-activations. Source: Table 1 and Eq. 2; the scores are ours; chapter 01.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from engramlib import Moments, extract
        >>> model, x = nn.Linear(4, 3, bias=False), torch.randn(60, 4).double()
        >>> target, reference = (Moments({"": part.T @ part}, {"": len(part)}) for part in (x[:20], x[20:]))
        >>> row = score_criteria(model, extract(model, target, reference), target, reference, draws=0).layers[0]
        >>> row.sufficiency == row.necessity and 0 < row.sufficiency < row.reactivation <= 1
        True
    """
    if not isinstance(draws, int) or isinstance(draws, bool) or draws < 0:
        raise ValueError(f"draws: expected an integer >= 0, got {draws!r}")
    if readout is not None and not callable(readout):
        raise TypeError(f"readout: expected a function of the output, got {type(readout).__name__}")
    supported = fitting_layers(model, {"target": target, "reference": reference})
    layers = layers_of(supported, engram, target, "engram")
    if wrong is not None and set(layers_of(supported, wrong, target, "wrong")) != set(layers):
        raise ValueError("wrong: an engram of other layers than the one to score; use engram.select(...)")
    delta = _delta(layers, target, base)
    contestants: list[tuple[str, Engram]] = [("engram", engram)]
    contestants += [("random", random_engram(model, engram, seed=seed + draw)) for draw in range(draws)]
    contestants += [("wrong", wrong)] if wrong is not None else []

    layer_rows = [
        CriteriaRow(label, name, *_score_layer(layers[name], candidate[name], delta[name], target, reference))
        for name in layers
        for label, candidate in contestants
    ]
    network_rows: list[CriteriaRow] = []
    if batches is not None:
        network_rows = _score_network(model, layers, delta, contestants, batches, rows, forward, readout, examples)
    return Criteria(tuple(_averaged(layer_rows)), tuple(_averaged(network_rows)))


def random_engram(model: nn.Module, engram: Engram, *, seed: int = 0) -> Engram:
    """An engram of equal norm in a random subspace: W⁺Q, with Q a random rotation of the layer's input space.

    Each layer keeps its norm, its singular values and its left singular vectors; only *which inputs* it answers to is
    random (uniformly: Q is Haar distributed). A bias that belongs to the engram is turned with the weight, as the
    last column of [W⁺ b⁺].

    Raises:
        ValueError: an engram of another model.

    Cost: a QR decomposition per layer, d · min(out, d)². Source: ours, the control of chapter 01 and after.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Linear(5, 3, bias=False)
        >>> engram = Engram({"": (torch.randn(3, 5), None)})
        >>> turned = random_engram(model, engram)
        >>> spectra = [torch.linalg.svdvals(e[""].weight) for e in (engram, turned)]
        >>> torch.allclose(*spectra, atol=1e-5), torch.allclose(engram[""].weight, turned[""].weight)
        (True, False)
    """
    layers = supported_layers(model)
    if not isinstance(engram, Engram):
        raise TypeError(f"engram: expected an Engram, got {type(engram).__name__}")
    generator = torch.Generator().manual_seed(seed)
    turned = {}
    for name, entry in engram.items():
        if name not in layers:
            raise ValueError(f"the model has no supported layer {name!r}; is this the engram of another model?")
        if entry.weight.shape != layers[name].module.weight.shape:
            raise ValueError(
                f"layer {name!r}: the engram's weight has shape {tuple(entry.weight.shape)}; is this the"
                f" engram of another model?"
            )
        matrix = layers[name].matrix(*entry)
        basis, coefficients = torch.linalg.qr(matrix.mT)  # W⁺ = Rᵀ Bᵀ: only the d × r row space has to be turned
        noise = torch.randn(basis.shape, generator=generator, dtype=torch.float64, device="cpu").to(basis.device)
        frame, upper = torch.linalg.qr(noise)
        frame = frame * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)  # makes QR of a Gaussian uniform
        weight, bias = layers[name].parameters(coefficients.mT @ frame.mT, entry.bias is not None)
        turned[name] = LayerEngram(
            weight.to(entry.weight.dtype).contiguous(), None if bias is None else bias.to(entry.weight.dtype)
        )
    return Engram(turned, engram.norms)


# ------------------------------------------------------------------------------------------------------------ one layer


def layers_of(supported: dict[str, Layer], engram: Engram, moments: Moments, argument: str) -> dict[str, Layer]:
    """The layers of the engram, after checking that they fit the model and the moments."""
    if not isinstance(engram, Engram):
        raise TypeError(f"{argument}: expected an Engram, got {type(engram).__name__}")
    for name, (weight, bias) in engram.items():
        if name not in supported:
            raise ValueError(f"{argument}: there are no moments of its layer {name!r}, or the model has no such layer")
        if weight.shape != supported[name].weight.shape:
            raise ValueError(
                f"{argument}: layer {name!r} has shape {tuple(weight.shape)}, the model's"
                f" {tuple(supported[name].weight.shape)}; is this the engram of another model?"
            )
        if (bias is not None) != is_absorbed(supported[name], moments[name]):
            raise ValueError(
                f'{argument}: layer {name!r} and its moments were made with another bias mode ("absorb" or "keep")'
            )
    return {name: layer for name, layer in supported.items() if name in engram}


def _delta(layers: dict[str, Layer], moments: Moments, base: Mapping[str, Tensor] | nn.Module | None) -> Engram:
    """ΔW = W − W0 of each layer, as an engram in the layers' own shapes and dtypes."""
    deltas, entries = Deltas(base), {}
    for name, layer in layers.items():
        weight, bias = layer.parameters(deltas.of(layer, moments[name]), is_absorbed(layer, moments[name]))
        own: Tensor = layer.module.weight  # type: ignore[assignment]
        dtype = torch.promote_types(own.dtype, torch.float32)
        entries[name] = LayerEngram(weight.to(own.device, dtype), None if bias is None else bias.to(own.device, dtype))
    return Engram(entries)


def _score_layer(
    layer: Layer, plus: LayerEngram, delta: LayerEngram, target: Moments, reference: Moments
) -> tuple[float, float, float, float, float, float]:
    sigma, other = target[layer.name].double(), reference[layer.name].double()
    v, d = layer.matrix(*plus).to(sigma.device), layer.matrix(*delta).to(sigma.device)
    other = other.to(sigma.device)
    learned = _inner(d, d, sigma)
    same = _closed(_inner(v - d, v - d, sigma), learned)  # sufficiency and necessity: one residual, (W⁺ − ΔW)X⁺
    specific = _closed(_inner(v, v, other), _inner(d, d, other))
    return same, same, _cosine(_inner(v, d, sigma), _inner(v, v, sigma), learned), specific, specific, specific


def _inner(a: Tensor, b: Tensor, sigma: Tensor) -> float:
    """⟨A X, B X⟩ = tr(A Σ Bᵀ)."""
    return float(((a @ sigma) * b).sum())


def _closed(left: float, gap: float) -> float:
    """1 − left/gap in [0, 1]: the part of a squared gap that an intervention closed."""
    if left != left or gap != gap:
        raise ValueError("NaN in the outputs or pre-activations of an intervened network: nothing can be scored")
    if gap <= 0:
        return 1.0 if left <= 0 else 0.0
    return min(1.0, max(0.0, 1.0 - max(left, 0.0) / gap))


def _cosine(inner: float, a: float, b: float) -> float:
    """Cosine from ⟨a, b⟩, ‖a‖², ‖b‖², negative ones as 0. Two zero patterns agree, a zero and another do not."""
    if inner != inner:
        raise ValueError("NaN in the outputs or pre-activations of an intervened network: nothing can be scored")
    if a <= 0 or b <= 0:
        return 1.0 if a <= 0 and b <= 0 else 0.0
    return min(1.0, max(0.0, inner / (a**0.5 * b**0.5)))


# ---------------------------------------------------------------------------------------------------- the whole network


class _Tally:
    """Squared gaps of one engram, summed over the data."""

    def __init__(self, names: Iterable[str]) -> None:
        self.insufficient = self.unnecessary = self.leak_ablated = self.leak_injected = 0.0
        self.pattern = {name: [0.0, 0.0, 0.0] for name in names}  # ⟨a, b⟩, ‖a‖², ‖b‖²


def _score_network(
    model: nn.Module,
    layers: dict[str, Layer],
    delta: Engram,
    contestants: list[tuple[str, Engram]],
    batches: tuple[Iterable[Batch], Iterable[Batch]],
    rows: Selector | None,
    forward: Forward | None,
    readout: Callable[[Tensor], Tensor] | None,
    examples: int | None,
) -> list[CriteriaRow]:
    if not isinstance(batches, tuple) or len(batches) != 2:
        raise TypeError("batches: expected a pair (batches of the target, batches of the reference)")
    tallies = [_Tally(layers) for _ in contestants]
    gaps = [0.0, 0.0]
    # Each batch runs through every state before the next one is read, so nothing is kept and generators work.
    with watching(model, layers, forward, readout, Examples(model, layers, forward, examples)) as run:
        for part, side in enumerate(batches):
            seen = chosen = 0
            for batch, mask in _chosen_batches(model, side, rows):
                seen += 1
                chosen += 1 if mask is None else int(mask.sum())
                learned, z_learned = run(batch, mask)
                with edited(model, -delta):
                    null, z_null = run(batch, mask)
                gaps[part] += _gap(null, learned)
                for tally, (_, candidate) in zip(tallies, contestants, strict=True):
                    with edited(model, -candidate):
                        ablated, _ = run(batch, mask)
                    with edited(model, candidate - delta):
                        injected, z_injected = run(batch, mask)
                    if part == 0:
                        tally.insufficient += _gap(injected, learned)
                        tally.unnecessary += _gap(ablated, null)
                        for name in layers:
                            _add_pattern(tally.pattern[name], z_injected[name], z_learned[name], z_null[name])
                    else:
                        tally.leak_ablated += _gap(ablated, learned)
                        tally.leak_injected += _gap(injected, null)
            if not seen:
                raise ValueError(f"batches: there were none of the {('target', 'reference')[part]}")
            if not chosen:
                raise ValueError(f"rows: no example of the {('target', 'reference')[part]} was chosen")
    results = []
    for tally, (label, _) in zip(tallies, contestants, strict=True):
        by_layer = {name: _cosine(*sums) for name, sums in tally.pattern.items()}
        after, before = _closed(tally.leak_ablated, gaps[1]), _closed(tally.leak_injected, gaps[1])
        results.append(
            CriteriaRow(
                label,
                None,
                _closed(tally.insufficient, gaps[0]),
                _closed(tally.unnecessary, gaps[0]),
                sum(by_layer.values()) / len(by_layer),
                (after + before) / 2,
                after,
                before,
                by_layer,
            )
        )
    return results


def _add_pattern(sums: list[float], injected: list[Tensor], learned: list[Tensor], null: list[Tensor]) -> None:
    if not len(injected) == len(learned) == len(null):
        raise ValueError("a layer was called a different number of times in different states of the network")
    for i, w, n in zip(injected, learned, null, strict=True):
        a, b = i - n, w - n
        for slot, value in enumerate(((a * b).sum(), a.square().sum(), b.square().sum())):
            sums[slot] += float(value)


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().sum())


def _chosen_batches(
    model: nn.Module, batches: Iterable[Batch], rows: Selector | None
) -> Iterator[tuple[Batch, Tensor | None]]:
    """The batches on the model's device, each with the mask of the examples or tokens that count."""
    for batch in batches_of(model, batches):
        labels = labels_of(batch, rows, None, device_of(model))
        yield batch, None if labels is None else labels >= 0


# ------------------------------------------------------------------------------------------------------------- controls


def _averaged(rows: list[CriteriaRow]) -> list[CriteriaRow]:
    """Rows with the same engram and layer (the random draws) as one row of means, in the order they came."""
    groups: dict[tuple[str, str | None], list[CriteriaRow]] = {}
    for row in rows:
        groups.setdefault((row.layer or "", row.engram), []).append(row)
    numbers = (*CRITERIA, "specificity_ablated", "specificity_injected")
    return [
        CriteriaRow(
            same[0].engram,
            same[0].layer,
            **{key: sum(getattr(row, key) for row in same) / len(same) for key in numbers},
            reactivation_by_layer={
                name: sum(row.reactivation_by_layer[name] for row in same) / len(same)
                for name in same[0].reactivation_by_layer
            },
        )
        for same in groups.values()
    ]
