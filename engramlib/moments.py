"""What each layer saw: second moments of its inputs, as sums."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engramlib import _files
from engramlib._names import match_names

if TYPE_CHECKING:
    from jaxtyping import Float

KIND = "engramlib.moments"


class Moments(Mapping[str, Tensor]):
    """Uncentred second moments of the inputs of each layer.

    ``moments[name]`` is Σ = Σᵢ xᵢ xᵢᵀ, shape ``(d, d)``, a **sum** over columns (examples, tokens or image patches),
    not a mean; a grouped convolution has one Σ per group, shape ``(groups, d, d)``. ``moments.count[name]`` is the
    number of columns. Sums add: the moments of a union of data sets are the sum of their moments, so statistics
    stream, split and merge without the data.

    Layers that read the same tensor (the query, key and value projections of an attention block, say) hold the *same*
    tensor object here, and every operation keeps that: it is what makes later work cost one factorisation, not three.

    Args:
        sigma: layer name -> Σ, square and symmetric in its last two dimensions.
        count: layer name -> number of columns.

    Raises:
        ValueError: a Σ that is not square, not finite, or has no count.

    Cost: 8 d² bytes per distinct Σ (float64). Source: Section 4 of the paper (Σ± in Eq. 3); taught in chapter 02.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.float64)  # three columns, as rows
        >>> first = Moments({"fc": x[:1].T @ x[:1]}, {"fc": 1})
        >>> rest = Moments({"fc": x[1:].T @ x[1:]}, {"fc": 2})
        >>> total = first + rest
        >>> torch.equal(total["fc"], x.T @ x), total.count["fc"]
        (True, 3)
        >>> torch.equal((total - rest)["fc"], first["fc"])
        True
    """

    def __init__(self, sigma: Mapping[str, Float[Tensor, "*groups d d"]], count: Mapping[str, int]) -> None:
        for name, matrix in sigma.items():
            if matrix.ndim not in (2, 3) or matrix.shape[-1] != matrix.shape[-2]:
                raise ValueError(
                    f"moments of layer {name!r}: expected shape (d, d) or (groups, d, d), got {tuple(matrix.shape)}"
                )
            if name not in count:
                raise ValueError(f"moments of layer {name!r}: no count was given")
            # A NaN or an infinity in any column shows on the diagonal, so this check costs d, not d².
            if not torch.isfinite(matrix.diagonal(dim1=-2, dim2=-1)).all():
                raise ValueError(f"moments of layer {name!r}: NaN or infinite entries")
        self._sigma = dict(sigma)
        self.count: dict[str, int] = {name: int(count[name]) for name in sigma}

    def __getitem__(self, name: str) -> Float[Tensor, "*groups d d"]:
        try:
            return self._sigma[name]
        except KeyError:
            raise KeyError(f"no moments of layer {name!r}; there are {', '.join(self._sigma) or 'none'}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._sigma)

    def __len__(self) -> int:
        return len(self._sigma)

    # Mapping's == would compare tensors element by element and fail; two statistics are the same only if they are one.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        distinct = {id(matrix): matrix for matrix in self._sigma.values()}.values()
        size = sum(matrix.numel() * matrix.element_size() for matrix in distinct) / 2**20
        return f"Moments({len(self)} layers, {len(distinct)} distinct Σ, {size:.1f} MiB)"

    def _combine(self, other: Moments, join: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
        """``join`` layer by layer, once for each distinct pair of matrices, so that sharing survives."""
        missing = set(self) ^ set(other)
        if missing:
            raise ValueError(f"moments of different layers: {', '.join(sorted(missing))} is only in one of them")
        done: dict[tuple[int, int], Tensor] = {}
        for name in self:
            mine, theirs = self[name], other[name]
            if mine.shape != theirs.shape:
                raise ValueError(
                    f"moments of layer {name!r} differ in shape: {tuple(mine.shape)} and {tuple(theirs.shape)}"
                )
            key = (id(mine), id(theirs))
            if key not in done:
                done[key] = join(mine, theirs.to(mine.device))
        return {name: done[id(self[name]), id(other[name])] for name in self}

    def __add__(self, other: Moments) -> Moments:
        """Moments of the union of two disjoint data sets. Raises ``ValueError`` if the layers differ."""
        if not isinstance(other, Moments):
            return NotImplemented
        return Moments(self._combine(other, torch.add), {n: self.count[n] + other.count[n] for n in self})

    def __radd__(self, other: object) -> Moments:
        return self if other == 0 else NotImplemented  # sum() starts from 0

    def __sub__(self, part: Moments) -> Moments:
        """Moments of what is left when ``part`` is taken out.

        Raises ``ValueError`` if the layers differ or ``part`` cannot have been contained (a negative count or
        variance).
        """
        if not isinstance(part, Moments):
            return NotImplemented
        rest = self._combine(part, torch.sub)
        for name in self:
            variance = rest[name].diagonal(dim1=-2, dim2=-1)
            tolerance = 1e-6 * self[name].diagonal(dim1=-2, dim2=-1).amax()
            if self.count[name] < part.count[name] or (variance < -tolerance).any():
                raise ValueError(f"moments of layer {name!r}: the part to subtract is not contained in the total")
        return Moments(rest, {n: self.count[n] - part.count[n] for n in self})

    def _map(self, change: Callable[[Tensor], Tensor]) -> Moments:
        done = {id(matrix): change(matrix) for matrix in self._sigma.values()}
        return Moments({name: done[id(matrix)] for name, matrix in self._sigma.items()}, self.count)

    def to(self, device: str | torch.device) -> Moments:
        """The same statistics on another device."""
        return self._map(lambda matrix: matrix.to(device))

    def select(self, layers: str | list[str]) -> Moments:
        """Only some layers: name suffixes, or one regular expression. Raises ``ValueError`` if nothing matches."""
        names = match_names(list(self), layers)
        return Moments({name: self[name] for name in names}, self.count)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to ``path`` (safetensors); shared matrices are written once."""
        slots = {
            id(matrix): str(number) for number, matrix in enumerate({id(m): m for m in self._sigma.values()}.values())
        }
        tensors = {slots[id(matrix)]: matrix for matrix in self._sigma.values()}
        header = {"layers": {name: [slots[id(matrix)], self.count[name]] for name, matrix in self._sigma.items()}}
        _files.save(path, KIND, tensors, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Moments:
        """Read what :meth:`save` wrote.

        Raises ``FileNotFoundError``, or ``ValueError`` if the file is damaged or holds something else.
        """
        tensors, header = _files.load(path, KIND)
        try:
            layers = {name: (tensors[slot], int(count)) for name, (slot, count) in header["layers"].items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: its header does not fit its tensors") from error
        return cls(
            {name: matrix for name, (matrix, _) in layers.items()}, {name: count for name, (_, count) in layers.items()}
        )
