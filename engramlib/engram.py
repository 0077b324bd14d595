"""An engram: a vector in weight space, and its arithmetic."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from engramlib import _files
from engramlib._names import match_names

KIND = "engramlib.engram"


class LayerEngram(NamedTuple):
    """W⁺ of one layer: ``weight`` in the layer's own shape, ``bias`` or None if the bias is not part of the memory."""

    weight: Tensor
    bias: Tensor | None = None


class Engram(Mapping[str, LayerEngram]):
    """The weights that carry one memory: for each layer a ``weight`` of the layer's own shape and a ``bias`` (or None).

    An engram is a vector. ``a + b``, ``a - b``, ``-a``, ``0.6 * a``, ``a / 2`` and ``sum([a, b])`` work layer by
    layer; a layer that only one of two engrams has counts as zero in the other. Engrams cut from the same state of a
    model by :func:`engramlib.extract_all` compose: subtracting their sum erases all their concepts (Eq. 7).

    Args:
        layers: layer name -> :class:`LayerEngram`, or a pair (weight, bias).
        norms: layer name -> ‖W‖, the Frobenius norm of the model's weight when the engram was extracted; needed by
            :meth:`relative_norms`.

    Source: Eqs. 3, 4, 6-8; chapters 00 and 04.

    Example:
        >>> import torch
        >>> cat, dog = Engram({"fc": (torch.ones(2, 3), None)}), Engram({"fc": (torch.eye(2, 3), None)})
        >>> (0.5 * (cat + dog))["fc"].weight
        tensor([[1.0000, 0.5000, 0.5000],
                [0.5000, 1.0000, 0.5000]])
        >>> torch.equal(sum([cat, dog, -dog])["fc"].weight, cat["fc"].weight)
        True
    """

    def __init__(
        self, layers: Mapping[str, LayerEngram | tuple[Tensor, Tensor | None]], norms: Mapping[str, float] | None = None
    ) -> None:
        self._layers: dict[str, LayerEngram] = {}
        for name, entry in layers.items():
            pair = isinstance(entry, (tuple, list)) and len(entry) == 2
            if not pair or not isinstance(entry[0], Tensor) or not (entry[1] is None or isinstance(entry[1], Tensor)):
                raise TypeError(f"layer {name!r}: expected a pair (weight, bias or None) of tensors")
            self._layers[name] = LayerEngram(*entry)
        self.norms: dict[str, float] = {name: float(norms[name]) for name in self._layers if norms and name in norms}

    def __getitem__(self, name: str) -> LayerEngram:
        try:
            return self._layers[name]
        except KeyError:
            raise KeyError(f"the engram has no layer {name!r}; it has {', '.join(self._layers) or 'none'}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    __array_ufunc__ = None  # numpy's numbers leave `0.5 * engram` to us
    # Mapping's == would compare tensors element by element and fail.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"Engram({len(self)} layers, norm {self.norm():.4g})"

    def norm(self) -> float:
        """Frobenius norm of all weights and biases together."""
        return (
            sum(float(t.double().square().sum()) for entry in self._layers.values() for t in entry if t is not None)
            ** 0.5
        )

    # ---------------------------------------------------------------------- arithmetic

    def _map(self, change: Callable[[str, Tensor], Tensor]) -> Engram:
        return Engram(
            {n: LayerEngram(change(n, w), None if b is None else change(n, b)) for n, (w, b) in self._layers.items()},
            self.norms,
        )

    def __mul__(self, factor: float) -> Engram:
        if not isinstance(factor, Real) and not (isinstance(factor, Tensor) and factor.ndim == 0):
            return NotImplemented
        return self._map(lambda _, tensor: tensor * float(factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Engram:
        return self * (1.0 / divisor) if isinstance(divisor, Real) else NotImplemented

    def __neg__(self) -> Engram:
        return self * -1

    def __add__(self, other: Engram) -> Engram:
        if not isinstance(other, Engram):
            return NotImplemented
        layers = {name: self._layers.get(name) or other[name] for name in (*self, *(n for n in other if n not in self))}
        for name in self:
            if name in other:
                layers[name] = LayerEngram(*(_plus(name, a, b) for a, b in zip(self[name], other[name], strict=True)))
        return Engram(layers, {**other.norms, **self.norms})

    def __radd__(self, other: object) -> Engram:
        return self if other == 0 else NotImplemented  # sum() starts from 0

    def __sub__(self, other: Engram) -> Engram:
        return self + -other if isinstance(other, Engram) else NotImplemented

    # ---------------------------------------------------------------------- choosing and weighting

    def select(self, layers: str | Iterable[str]) -> Engram:
        """Only some layers: a list of name suffixes, or one regular expression, as in :func:`engramlib.collect`."""
        return Engram({name: self[name] for name in match_names(list(self), layers)}, self.norms)

    def relative_norms(self) -> dict[str, float]:
        """r_ℓ = ‖W_ℓ⁺‖ / ‖W_ℓ‖ for each layer: where the memory sits. Raises ``ValueError`` without norms."""
        unknown = [name for name in self if name not in self.norms]
        if unknown:
            raise ValueError(
                f"the norm of the model's weight is unknown for layer {unknown[0]!r}: extract the engram from a model"
            )
        ratios = {name: float(self[name].weight.double().norm()) for name in self}
        return {name: value / self.norms[name] if self.norms[name] else 0.0 for name, value in ratios.items()}

    def scaled(self, strengths: Mapping[str, float]) -> Engram:
        """Each named layer times its strength; the others stay. Raises ``ValueError`` for a name that it has not."""
        unknown = [name for name in strengths if name not in self]
        if unknown:
            raise ValueError(f"strengths: the engram has no layer {unknown[0]!r}; it has {', '.join(self)}")
        return self._map(lambda name, tensor: tensor * strengths.get(name, 1.0))

    def norm_weighted(self, power: float = 1.0) -> Engram:
        """Each layer times s_ℓ = (r_ℓ / max r)^power, r = :meth:`relative_norms`: α_W-Norm at power 1; chapter 14."""
        ratios = self.relative_norms()
        largest = max(ratios.values(), default=0.0)
        return self.scaled({name: (ratio / largest) ** power if largest else 1.0 for name, ratio in ratios.items()})

    def to(self, device: str | torch.device) -> Engram:
        """The same engram on another device."""
        return self._map(lambda _, tensor: tensor.to(device))

    # ---------------------------------------------------------------------- disk

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to ``path`` (safetensors, never pickle)."""
        tensors = {}
        for number, (weight, bias) in enumerate(self._layers.values()):
            tensors[f"{number}.weight"] = weight
            if bias is not None:
                tensors[f"{number}.bias"] = bias
        _files.save(path, KIND, tensors, {"layers": list(self), "norms": self.norms})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Engram:
        """Read what :meth:`save` wrote.

        Raises ``FileNotFoundError``, or ``ValueError`` if the file is damaged or holds something else.
        """
        tensors, header = _files.load(path, KIND)
        try:
            layers = {
                n: LayerEngram(tensors[f"{i}.weight"], tensors.get(f"{i}.bias")) for i, n in enumerate(header["layers"])
            }
            return cls(layers, header["norms"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: its header does not fit its tensors") from error


def _plus(name: str, a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    if a.shape != b.shape:
        raise ValueError(f"layer {name!r}: engrams of different models, shapes {tuple(a.shape)} and {tuple(b.shape)}")
    return a + b.to(a.device)
