"""An engram: a vector in weight space, and its arithmetic."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any, NamedTuple

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
    layer; a layer that only one of two engrams has counts as zero in the other, and so does a bias that only one of
    them has (the other left biases alone). Engrams cut from the same state of a model by
    :func:`engramlib.extract_all` compose: subtracting their sum erases all their concepts (Eq. 7). A result of
    arithmetic shares no memory with what went in; :meth:`select` and :meth:`to` copy nothing that they need not.

    Args:
        layers: layer name -> :class:`LayerEngram`, or a pair (weight, bias).
        norms: layer name -> ‖W‖, the Frobenius norm of the model's weight when the engram was extracted; needed by
            :meth:`relative_norms`.

    Raises:
        TypeError: an entry that is no pair of tensors; in arithmetic, a factor that is no number (or a bool).
        ValueError: a norm that is negative or not finite; in arithmetic, a factor that is not finite, or layers of
            different shapes.

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
        for name, norm in self.norms.items():
            if not 0 <= norm < math.inf:
                raise ValueError(f"layer {name!r}: expected the norm of a weight, got {norm}")

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
        if not _is_number(factor):
            return NotImplemented
        number = _finite("factor", factor, f"; layer {next(iter(self), '')!r} would be filled with NaN or infinity")
        return self._map(lambda _, tensor: tensor * number)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Engram:
        number = _finite("divisor", divisor)  # no NotImplemented: a tensor would divide 1 by itself, and multiply
        if number == 0:
            raise ZeroDivisionError("an engram divided by zero")
        return self._map(lambda _, tensor: tensor / number)

    def __neg__(self) -> Engram:
        return self * -1

    def __add__(self, other: Engram) -> Engram:
        if not isinstance(other, Engram):
            return NotImplemented
        nothing: tuple[Tensor | None, Tensor | None] = (None, None)
        layers: dict[str, Any] = {}
        for name in (*self, *(n for n in other if n not in self)):
            mine, theirs = self._layers.get(name, nothing), other._layers.get(name, nothing)
            layers[name] = tuple(_plus(name, a, b) for a, b in zip(mine, theirs, strict=True))
        return Engram(layers, {**other.norms, **self.norms})

    def __radd__(self, other: object) -> Engram:
        if not _is_number(other) or other != 0:
            return NotImplemented
        return self._map(lambda _, tensor: tensor.clone())  # sum() starts from 0

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
        """Each named layer times its strength; the others stay.

        Raises ``ValueError`` for a name that it has not or a strength that is not finite, ``TypeError`` for no number.
        """
        if not isinstance(strengths, Mapping):
            raise TypeError(f"strengths: expected a dict layer -> number, got {type(strengths).__name__}")
        unknown = [name for name in strengths if name not in self]
        if unknown:
            raise ValueError(f"strengths: the engram has no layer {unknown[0]!r}; it has {', '.join(self)}")
        numbers = {name: _finite(f"strength of layer {name!r}", value) for name, value in strengths.items()}
        return self._map(lambda name, tensor: tensor * numbers.get(name, 1.0))

    def norm_weighted(self, power: float = 1.0, to: str | float = "max") -> Engram:
        """Each layer times s_ℓ = min(1, r_ℓ / R)^power, r = :meth:`relative_norms`; chapter 14.

        R is the largest r, which is α_W-Norm at power 1. One noisy layer then weakens all others. ``to="median"``, or
        a quantile in (0, 1] such as .9, takes that of the r instead: what stands out counts like the layers at R.

        Raises ``ValueError`` without norms, or for a power that is negative or a ``to`` that is none of these.
        """
        if _finite("power", power) < 0:
            raise ValueError(f"power: expected a number >= 0, got {power!r}")
        quantile: Any = {"max": 1.0, "median": 0.5}.get(to) if isinstance(to, str) else to
        if not _is_number(quantile) or not 0 < float(quantile) <= 1:
            raise ValueError(f'to: expected "max", "median" or a quantile in (0, 1], got {to!r}')
        ratios = self.relative_norms()
        if not ratios:
            return self
        largest = float(
            torch.tensor(list(ratios.values()), dtype=torch.float64, device="cpu").quantile(float(quantile))
        )
        return self.scaled({n: min(1.0, r / largest) ** float(power) if largest else 1.0 for n, r in ratios.items()})

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
        with _files.damaged(path):
            names: list[str] = header["layers"]
            if len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
                raise ValueError("its layers are no list of different names")
            layers = {n: LayerEngram(tensors[f"{i}.weight"], tensors.get(f"{i}.bias")) for i, n in enumerate(names)}
            if len(tensors) != sum(t is not None for entry in layers.values() for t in entry):
                raise ValueError("it has tensors that belong to no layer")
            if not isinstance(header["norms"], dict):
                raise ValueError("its norms are no dict")
            return cls(layers, header["norms"])


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.dtype.is_complex and value.dtype != torch.bool
    return isinstance(value, Real) and not isinstance(value, bool)


def _finite(what: str, value: object, otherwise: str = "") -> float:
    if not _is_number(value):
        raise TypeError(f"{what}: expected a number, got {value!r}")
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError(f"{what}: expected a finite number, got {number}{otherwise}")
    return number


def _plus(name: str, a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        only = b if a is None else a
        return None if only is None else only.clone()
    if a.shape != b.shape:
        raise ValueError(f"layer {name!r}: engrams of different models, shapes {tuple(a.shape)} and {tuple(b.shape)}")
    return a + b.to(a.device)
