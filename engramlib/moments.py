"""What each layer saw: second moments of its inputs, as sums."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from engramlib import _files
from engramlib._names import match_names
from engramlib._products import Half, Symmetric, as_tensor, entries, joined, nbytes
from engramlib.lowrank import LowRank, check_rank, rows_for, truncated

if TYPE_CHECKING:
    from jaxtyping import Float

KIND = "engramlib.moments"
_SAMPLES = 64


class Identity(NamedTuple):
    """What the moments of one layer are of. Statistics that were put together by hand have none.

    Attributes:
        weight: the shape of the layer's weight.
        reading: how the layer makes columns of its input (a convolution's kernel, stride, padding, ...).
        absorbed: whether the columns end with the constant 1 that stands for the bias.
        stamp: 64 entries of the weight that the moments were collected at; () = unknown. Entries and not a hash of
            them, because a hash would take the same weights in half precision for others.
        resolved: what part of the largest eigenvalue Σ still tells from zero: 0 unless products or sums were made in
            float32 (:func:`engramlib.collect`).
    """

    weight: tuple[int, ...]
    reading: str
    absorbed: bool
    stamp: tuple[float, ...] = ()
    resolved: float = 0.0

    @classmethod
    def of(cls, module: nn.Module, reading: Hashable, absorbed: bool, resolved: float = 0.0) -> Identity:
        """That of a layer as it is now. ``reading`` may hold ``id(module)``, which no copy of the module shares."""
        weight: Tensor = module.weight  # type: ignore[assignment]
        text = repr(reading).replace(str(id(module)), "its own")
        return cls(tuple(weight.shape), text, absorbed, _stamp(weight.detach()), resolved)

    def differs(self, other: Identity) -> str | None:
        """Why statistics of the two cannot go together, or None."""
        if self.weight != other.weight:
            return f"a weight of shape {self.weight} and one of shape {other.weight}"
        if self.reading != other.reading:
            return f"columns read in two ways, {self.reading} and {other.reading}"
        if self.absorbed != other.absorbed:
            return 'two bias modes, "absorb" and "keep"'
        return None

    def same_weights(self, other: Identity) -> bool:
        """Whether both were collected at the same weights, in whatever precision; True where that is unknown."""
        if len(self.stamp) != len(other.stamp):
            return not (self.stamp and other.stamp)
        # Two roundings to 8 bits; and what float16 cannot hold at all, unless all entries are that small.
        tiny = min(2.0**-24, 2.0**-10 * max(map(abs, self.stamp), default=0.0))
        pairs = zip(self.stamp, other.stamp, strict=True)
        return all(abs(a - b) <= 2.0**-7 * max(abs(a), abs(b)) + tiny for a, b in pairs)


def _stamp(weight: Tensor) -> tuple[float, ...]:
    if not weight.numel() or weight.device.type == "meta" or not weight.dtype.is_floating_point:
        return ()
    count = min(_SAMPLES, weight.numel())
    places = torch.linspace(0, weight.numel() - 1, count, dtype=torch.float64, device="cpu").long()
    entries = weight[torch.unravel_index(places.to(weight.device), weight.shape)].bfloat16().float()
    return tuple(entries.tolist()) if bool(entries.isfinite().all()) else ()


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
        identity: layer name -> :class:`Identity`, what the moments are of; :func:`engramlib.collect` fills it in, and
            every operation keeps it. It is why moments of another model are refused. None = not known.

    Raises:
        TypeError: a Σ that is no real tensor.
        ValueError: a Σ that is not square, symmetric, finite, or has negative variances; a count that is missing, no
            whole number, negative, or 0 beside a Σ that is not (names the layer).

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

    once = False  # for who needs the memory: each Σ goes as soon as an engram was made of it

    def __init__(
        self,
        sigma: Mapping[str, Symmetric],
        count: Mapping[str, int],
        identity: Mapping[str, Identity] | None = None,
    ) -> None:
        checked: dict[int, float] = {}
        for name, matrix in sigma.items():
            try:
                if id(matrix) not in checked:
                    checked[id(matrix)] = _checked(matrix)
                if name not in count:
                    raise ValueError("no count was given")
                number = _whole(count[name])
                if number == 0 and checked[id(matrix)] > 0:
                    raise ValueError("a count of 0, but a Σ that is not zero")
            except (TypeError, ValueError, OverflowError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"moments of layer {name!r}: {error}") from None
        self._sigma: dict[str, Symmetric] = dict(sigma)
        self.count: dict[str, int] = {name: _whole(count[name]) for name in sigma}
        self.identity: dict[str, Identity] = {name: own for name, own in (identity or {}).items() if name in sigma}

    @classmethod
    def _known(cls, sigma: Mapping[str, Symmetric], count: dict[str, int], identity: Mapping[str, Identity]) -> Moments:
        """What was summed here, or came of checked moments by arithmetic, which can only overflow."""
        for name, matrix in sigma.items():
            # A NaN or an infinity in any column shows on the diagonal, so this check costs d, not d².
            if not torch.isfinite(matrix.diagonal(dim1=-2, dim2=-1)).all():
                raise ValueError(f"moments of layer {name!r}: NaN or infinite entries")
        new = cls.__new__(cls)
        new._sigma, new.count = dict(sigma), {name: count[name] for name in sigma}
        new.identity = {name: own for name, own in identity.items() if name in sigma}
        return new

    def __getitem__(self, name: str) -> Float[Tensor, "*groups d d"]:
        sigma = self.stored(name)
        if isinstance(sigma, Half):  # once, and for all layers that share it: it stays one object
            whole = sigma.whole()
            self._sigma = {other: whole if same is sigma else same for other, same in self._sigma.items()}
            return whole
        return as_tensor(sigma)  # of low rank, each time anew: it stays as small as it is

    def stored(self, name: str) -> Symmetric:
        """Σ of a layer as it is kept, half of it or some rows: what ``moments[name]`` is made of."""
        try:
            return self._sigma[name]
        except KeyError:
            raise KeyError(f"no moments of layer {name!r}; there are {', '.join(self._sigma) or 'none'}") from None

    def spend(self, names: Iterable[str]) -> None:
        """Let go of the Σ of these layers, if the moments serve ``once``."""
        for name in names if self.once else ():
            del self._sigma[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sigma)

    def __contains__(self, name: object) -> bool:  # Mapping's asks for the whole Σ
        return name in self._sigma

    def __len__(self) -> int:
        return len(self._sigma)

    # Mapping's == would compare tensors element by element and fail; two statistics are the same only if they are one.
    __eq__ = object.__eq__
    __hash__ = object.__hash__
    __array_ufunc__ = None  # numpy's zero leaves `0 + moments` to us

    def __repr__(self) -> str:
        distinct = len({id(matrix) for matrix in self._sigma.values()})
        return f"Moments({len(self)} layers, {distinct} distinct Σ, {self.nbytes / 2**20:.1f} MiB)"

    @property
    def nbytes(self) -> int:
        """Bytes of all distinct Σ as they are kept."""
        return sum(nbytes(matrix) for matrix in {id(m): m for m in self._sigma.values()}.values())

    def error(self, name: str) -> float:
        """What ‖Σ − Σ̂‖₂ is at most, Σ̂ what is kept of a layer's Σ; 0 where it is whole (:mod:`engramlib.lowrank`)."""
        sigma = self.stored(name)
        return sigma.error if isinstance(sigma, LowRank) else 0.0

    def compress(self, rank: int | float) -> Moments:
        """The same in fewer bytes: of each Σ the ``rank`` largest eigenvalues with their vectors, and the diagonal.

        ``rank`` as in :func:`engramlib.collect`, which keeps few rows from the start; this needs Σ first, and no Σ̂ of
        as many rows is nearer. What is of low rank already gets fewer rows. Layers go on sharing.

        Raises ``TypeError`` or ``ValueError`` for a bad rank. Cost: 9 d³ per distinct Σ. Source: App. H; chapter 21.
        """
        check_rank(rank)

        def smaller(sigma: Symmetric) -> Symmetric:
            rows = rows_for(rank, sigma.shape[-1]) if sigma.ndim == 2 else None
            if rows is None:
                return sigma
            return sigma.compressed(rows) if isinstance(sigma, LowRank) else truncated(as_tensor(sigma), rows)

        return self._map(smaller)

    def _combine(self, other: Moments, sign: int) -> dict[str, Symmetric]:
        """Sum or difference, layer by layer, once for each distinct pair of matrices, so that sharing survives."""
        missing = set(self) ^ set(other)
        if missing:
            raise ValueError(f"moments of different layers: {', '.join(sorted(missing))} is only in one of them")
        done: dict[tuple[int, int], Symmetric] = {}
        for name in self:
            mine, theirs = self.stored(name), other.stored(name)
            if mine.shape != theirs.shape:
                raise ValueError(
                    f"moments of layer {name!r} differ in shape: {tuple(mine.shape)} and {tuple(theirs.shape)}"
                )
            key = (id(mine), id(theirs))
            if key not in done:
                done[key] = joined(mine, theirs, sign)
        return {name: done[id(self.stored(name)), id(other.stored(name))] for name in self}

    def _join(self, other: Moments) -> dict[str, Identity]:
        """What the moments of both together are of: of weights that differ, unknown weights; by hand, unknown."""
        joint = {}
        for name, mine in self.identity.items():
            if (theirs := other.identity.get(name)) is None:
                continue
            if reason := mine.differs(theirs):
                raise ValueError(f"moments of layer {name!r} are of different models or bias modes: {reason}")
            stamp = mine.stamp if mine.same_weights(theirs) else ()
            joint[name] = mine._replace(stamp=stamp, resolved=max(mine.resolved, theirs.resolved))
        return joint

    def __add__(self, other: Moments) -> Moments:
        """Moments of the union of two disjoint data sets.

        Raises ``ValueError`` if the layers differ, or are known to be of different models or bias modes.
        """
        if not isinstance(other, Moments):
            return NotImplemented
        identity = self._join(other)
        count = {name: self.count[name] + other.count.get(name, 0) for name in self}
        return Moments._known(self._combine(other, 1), count, identity)

    def __radd__(self, other: object) -> Moments:
        return self if isinstance(other, (int, float)) and other == 0 else NotImplemented  # sum() starts from 0

    def __sub__(self, part: Moments) -> Moments:
        """Moments of what is left when ``part`` is taken out.

        Raises ``ValueError`` if the layers differ or ``part`` cannot have been contained: a negative count or
        variance, or something left of no columns. What only a factorisation can see (other data of smaller variance
        than the total's) is seen where one is made, in :func:`engramlib.extract`.
        """
        if not isinstance(part, Moments):
            return NotImplemented
        identity, rest = self._join(part), self._combine(part, -1)
        count = {name: self.count[name] - part.count[name] for name in self}
        for name in self:
            variance = rest[name].diagonal(dim1=-2, dim2=-1)
            tolerance = 1e-6 * self.stored(name).diagonal(dim1=-2, dim2=-1).amax()
            something = count[name] == 0 and (variance > tolerance).any()
            if count[name] < 0 or something or (variance < -tolerance).any():
                raise ValueError(f"moments of layer {name!r}: the part to subtract is not contained in the total")
        empty = {id(rest[name]): rest[name].clone() for name in self if count[name] == 0}
        for nothing in empty.values():  # not rounding; of low rank none gets here
            entries(nothing).zero_()  # type: ignore[arg-type]
        return Moments._known({name: empty.get(id(rest[name]), rest[name]) for name in self}, count, identity)

    def _map(self, change: Callable[[Symmetric], Symmetric]) -> Moments:
        done = {id(matrix): change(matrix) for matrix in self._sigma.values()}
        return Moments._known(
            {name: done[id(matrix)] for name, matrix in self._sigma.items()}, self.count, self.identity
        )

    def to(self, device: str | torch.device) -> Moments:
        """The same statistics on another device."""
        return self._map(lambda matrix: matrix.to(device))

    def select(self, layers: str | list[str]) -> Moments:
        """Only some layers: name suffixes, or one regular expression. Raises ``ValueError`` if nothing matches."""
        names = match_names(list(self), layers)
        return Moments._known({name: self.stored(name) for name in names}, self.count, self.identity)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to ``path`` (safetensors); shared matrices are written once."""
        _files.save(path, KIND, *self.packed())

    def packed(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and a JSON header that say all of it: what a file holds."""
        distinct = {id(matrix): matrix for matrix in self._sigma.values()}
        slots = {key: str(number) for number, key in enumerate(distinct)}
        tensors: dict[str, Tensor] = {}
        kept: dict[str, list[Any]] = {}  # how, where it is no (d, d) tensor
        for key, matrix in distinct.items():
            slot = slots[key]
            if isinstance(matrix, LowRank):
                tensors[slot], tensors[f"{slot}.variances"] = matrix.rows, matrix.variances
                kept[slot] = ["rows", matrix.rank, matrix.error]
            elif isinstance(matrix, Half):
                tensors[slot], kept[slot] = matrix.flat, ["half", matrix.width, matrix.block, matrix.is_rounded]
            else:
                tensors[slot] = matrix
        header = {
            "layers": {name: [slots[id(matrix)], self.count[name]] for name, matrix in self._sigma.items()},
            "kept": kept,
            "identity": {name: own._asdict() for name, own in self.identity.items()},
        }
        return tensors, header

    @classmethod
    def load(cls, path: str | os.PathLike[str], mapped: bool = False) -> Moments:
        """Read what :meth:`save` wrote; what is read no longer depends on the file.

        With ``mapped`` it does: Σ stays in the file, and its pages come into memory when a layer is worked on and go
        when others need the room. The file must not be written to meanwhile (:meth:`save` replaces it, which is fine).

        Raises ``FileNotFoundError``, ``PermissionError``, or ``ValueError`` if the file is damaged or holds something
        else.
        """
        tensors, header = _files.load(path, KIND, mapped)
        with _files.damaged(path):
            return cls.unpacked(tensors, header)

    @classmethod
    def unpacked(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Moments:
        """The inverse of :meth:`packed`. Raises whatever is wrong with parts that are not of one."""
        layers: dict[str, list[Any]] = header["layers"]
        kept: dict[str, list[Any]] = header.get("kept", {})
        count = {name: number for name, (_, number) in layers.items()}
        if any(type(number) is not int or number > 2**63 for number in count.values()):
            raise ValueError("a count is no whole number")
        slots = {slot for slot, _ in layers.values()}
        variances = {f"{slot}.variances" for slot, how in kept.items() if how[0] == "rows"}
        if not kept.keys() <= slots or slots | variances != set(tensors):
            raise ValueError("it has tensors that belong to no layer")
        found: dict[str, Symmetric] = {}
        for slot in slots:
            kind, *how = kept.get(slot, ["whole"])
            if kind == "rows":
                found[slot] = LowRank.of(tensors[slot], tensors[f"{slot}.variances"], *how)
            elif kind == "half":
                width, block, is_rounded = how
                found[slot] = Half(tensors[slot], width, block, is_gram=False, is_rounded=is_rounded)
            else:
                found[slot] = tensors[slot]
        identity = {name: _read(own) for name, own in header.get("identity", {}).items()}
        return cls({name: found[slot] for name, (slot, _) in layers.items()}, count, identity)


def _read(own: dict[str, Any]) -> Identity:
    """An identity from a file's header."""
    resolved = own.get("resolved", 0.0)  # older files do not say
    found = Identity(tuple(own["weight"]), own["reading"], own["absorbed"], tuple(own["stamp"]), resolved)
    fits = isinstance(found.reading, str) and isinstance(found.absorbed, bool) and len(found.stamp) <= _SAMPLES
    fits = (
        fits
        and isinstance(resolved, float)
        and 0 <= resolved < 1
        and all(type(n) is int for n in found.weight)
        and all(isinstance(v, float) for v in found.stamp)
    )
    if not fits:
        raise ValueError("an identity of the wrong types")
    return found


def _checked(matrix: Symmetric) -> float:
    """:func:`check_sigma` of what is kept."""
    if isinstance(matrix, LowRank):  # checked when it was made
        return float(matrix.variances.amax())
    if isinstance(matrix, Half):
        length = sum(rows.numel() for _, _, rows in matrix.blocks())
        if length != matrix.flat.numel():
            raise ValueError(f"half of Σ in {matrix.flat.numel()} numbers, where {length} are needed")
    return check_sigma(as_tensor(matrix))


def check_sigma(matrix: Tensor, size: float = 0.0) -> float:
    """The largest variance of a Σ, after checking that it can be one, up to rounding beside numbers of ``size``.

    Raises ``TypeError`` for no real tensor, ``ValueError`` unless it is square, finite and symmetric, with variances
    that are not negative and as large as any entry.
    """
    if not isinstance(matrix, Tensor) or matrix.dtype.is_complex or matrix.dtype == torch.bool:
        raise TypeError(f"Σ: expected a tensor of real numbers, got {getattr(matrix, 'dtype', type(matrix).__name__)}")
    if matrix.device.type == "meta":
        raise TypeError("Σ: expected numbers in memory, got a tensor on device meta")
    if matrix.ndim not in (2, 3) or matrix.shape[-1] != matrix.shape[-2] or not matrix.numel():
        raise ValueError(f"Σ: expected shape (d, d) or (groups, d, d), got {tuple(matrix.shape)}")
    variance, eps = matrix.diagonal(dim1=-2, dim2=-1), 0.0
    if matrix.dtype.is_floating_point:
        eps = torch.finfo(matrix.dtype).eps
    found = (matrix.abs().amax(), (matrix - matrix.mT).abs().amax(), variance.amin(), variance.amax())
    entry, skew, smallest, largest = (float(number) for number in found)
    if not entry + skew < float("inf"):
        raise ValueError("Σ has NaN or infinite entries")
    slack = max(1e-3, 10 * eps) * max(entry, size)
    if skew > slack:
        raise ValueError("Σ is not symmetric")
    if smallest < -slack:
        raise ValueError(f"Σ has a negative variance, {smallest:.3g}; no sum of x xᵀ has")
    if entry > max(largest, 0.0) + slack:
        raise ValueError("Σ has entries larger than its variances; no sum of x xᵀ has")
    return largest


def _whole(count: Any) -> int:
    """A count as a whole number, from whatever can stand for one."""
    number = float(count)
    if not (0 <= number < float("inf")) or number != int(number):
        raise ValueError(f"expected a count that is a whole number >= 0, got {count!r}")
    return int(count)
