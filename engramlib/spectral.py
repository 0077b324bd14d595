"""One factorisation per distinct Σ: the pseudo-inverse, and what counts as zero."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from engramlib._products import Symmetric, as_tensor
from engramlib.moments import check_sigma

if TYPE_CHECKING:
    from jaxtyping import Float, Int


_SILENT = 1e-12  # of the largest eigenvalue: what rounding leaves of a direction that no column used

_ORDINARY = 32.0  # how much longer or shorter than a typical input the constant 1 may be


class Spectrum:
    """Eigenvalues and eigenvectors of a symmetric positive semi-definite Σ, with everything below a cut taken as zero.

    The cut is relative: eigenvalues at or below ``rcond`` · λ_max are treated as exactly zero, in Σ† as well. It is a
    regulariser, not a detail: without it, directions in which the data hardly vary are amplified by up to 1/λ_min.

    Args:
        sigma: symmetric, shape (d, d) or (groups, d, d). Computed in float64 whatever its dtype.
        rcond: relative cut in [0, 1). 1e-6 is the paper's.
        scale: what the cut is relative to; None = the largest eigenvalue of Σ (of each group).

    Raises:
        TypeError: Σ is no real tensor.
        ValueError: Σ is not square, finite and symmetric, or has a negative eigenvalue that rounding cannot explain.
        LinAlgError: the factorisation does not converge.

    Cost: about 9 d³ floating-point operations, 8 d² bytes. Source: Section 5 (numerics) of the paper; chapter 03.

    Example:
        >>> import torch
        >>> sigma = torch.diag(torch.tensor([4.0, 1.0, 1e-9], dtype=torch.float64))
        >>> spectrum = Spectrum(sigma)
        >>> int(spectrum.rank), torch.allclose(spectrum.pinv(), torch.diag(torch.tensor([0.25, 1.0, 0.0]).double()))
        (2, True)
        >>> int(spectrum.at(1e-10).rank)  # another cut of the same factorisation
        3
    """

    def __init__(self, sigma: Float[Tensor, "*groups d d"], rcond: float = 1e-6, scale: Tensor | None = None) -> None:
        check_rcond(rcond)
        size = 0.0 if scale is None else float(scale.max())
        check_sigma(sigma, size)
        self.all_values, self.vectors = _eigh(sigma.double())
        self._scale = self.all_values[..., -1:].clamp_min(0) if scale is None else scale
        allowed = max(rcond, rounding(sigma.dtype)) * torch.maximum(self.all_values[..., -1:].abs(), self._scale)
        if bool((self.all_values[..., :1] < -allowed).any()):
            raise ValueError(
                f"Σ is not positive semi-definite: its eigenvalues go from {float(self.all_values.min()):.3g} to"
                f" {float(self.all_values.max()):.3g}, and no sum of x xᵀ has negative ones"
            )
        self._cut(rcond)

    def _cut(self, rcond: float) -> None:
        self.kept: Tensor = (self.all_values > rcond * self._scale) & (self.all_values > 0)
        self.values: Float[Tensor, "*groups d"] = torch.where(self.kept, self.all_values, 0.0)

    def at(self, rcond: float) -> Spectrum:
        """The same factorisation with another cut."""
        check_rcond(rcond)
        other = copy.copy(self)
        other._cut(rcond)
        return other

    @property
    def rank(self) -> Int[Tensor, "*groups"]:
        """Number of eigenvalues above the cut."""
        return self.kept.sum(-1)

    def pinv(self) -> Float[Tensor, "*groups d d"]:
        """Σ†."""
        inverse = torch.where(self.kept, 1.0 / torch.where(self.kept, self.values, 1.0), 0.0)
        if self.vectors.ndim == 2:  # multiply only by the eigenvectors that count
            basis = self.vectors[:, self.kept]
            return (basis * inverse[self.kept]) @ basis.T
        return (self.vectors * inverse.unsqueeze(-2)) @ self.vectors.mT

    def null_basis(self) -> Float[Tensor, "d k"]:
        """Orthonormal basis of the null space of Σ (one group only): the directions below the cut."""
        return self.vectors[:, ~self.kept]


def _eigh(sigma: Tensor) -> tuple[Tensor, Tensor]:
    try:
        values, vectors = torch.linalg.eigh(sigma)
    except LinAlgError:  # one that a diagonal far below rounding's reach can take from the bad path
        size = sigma.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
        nudge = torch.diag_embed((1e-15 * size).unsqueeze(-1).expand(sigma.shape[:-1]))
        try:
            values, vectors = torch.linalg.eigh((sigma + nudge).cpu())
        except LinAlgError as error:
            raise LinAlgError(f"the eigenvalues of Σ could not be found, in two attempts: {error}") from error
    return values.to(sigma.device), vectors.to(sigma.device)


def rounding(dtype: torch.dtype) -> float:
    """What rounding may do to a sum of x xᵀ, relative to its size: of float32 activations too, in a float64 sum."""
    return max(1e-6, 100 * torch.finfo(dtype).eps) if dtype.is_floating_point else 1e-6


def check_semidefinite(sigma: Float[Tensor, "*groups d d"], size: Float[Tensor, "*groups"], dtype: torch.dtype) -> None:
    """Raise ``ValueError`` if Σ has a negative eigenvalue that rounding beside numbers of ``size`` cannot explain.

    A Cholesky factorisation of Σ plus that much on the diagonal, d³/3, where the eigenvalues would cost 9 d³.
    """
    allowed = (rounding(dtype) * size.double() + torch.finfo(torch.float64).tiny).reshape(-1, 1)
    lifted = _roomy(sigma.double())
    lifted.diagonal(dim1=-2, dim2=-1)[...] += allowed.reshape(*sigma.shape[:-2], 1)
    if bool((torch.linalg.cholesky_ex(lifted).info != 0).any()):
        raise ValueError("Σ is not positive semi-definite, so it is no sum of x xᵀ")


def check_rcond(rcond: float) -> None:
    """Raise ``ValueError`` unless 0 <= rcond < 1."""
    if not (isinstance(rcond, Real) and 0 <= rcond < 1):
        raise ValueError(f"rcond: expected a number in [0, 1), got {rcond!r}")


# ---------------------------------------------------------------------- what is inverted


class Inverse(NamedTuple):
    """What follows ΔW Σ⁺ in the estimator, and the directions that the cut took out of it.

    Attributes:
        matrix: (Σ⁺ + λΣ⁻)†, shape (d, d) or (groups, d, d).
        units: D, the lengths of the working coordinates; None = as they are.
        lost: orthonormal directions below the cut, in working coordinates: (d, k), or (groups, d, d) with zeros for
            those that are kept; None = nothing was cut, or the cut is what was asked for (λ = ∞).
        values: their eigenvalues.
        is_easy: whether products with ``matrix`` may be made in float32 (:func:`is_easy`).
    """

    matrix: Tensor
    units: Tensor | None = None
    lost: Tensor | None = None
    values: Tensor | None = None
    is_easy: bool = False

    def heard(self, delta: Tensor) -> Tensor | None:
        """ΔW D⁻¹V: how ΔW acts on what was lost, (..., out, k); None = nothing was."""
        if self.lost is None:
            return None
        return (delta.double() if self.units is None else delta.double() / self.units.unsqueeze(-2)) @ self.lost

    def share_lost(self, heard: Tensor, plus: Symmetric, whole: float) -> float:
        """‖ΔW(1 − Π)X⁺‖² / ‖ΔW X⁺‖²: how much of the target's response, ``whole``, lies in directions that were cut.

        An upper bound of it where that is below a tenth: Σ⁺ ≤ Σ⁺ + λΣ⁻, whose eigenvalues are known.
        """
        if self.lost is None or self.values is None or not whole > 0:
            return 0.0
        bound = float((heard.square().sum(-2) * self.values.clamp_min(0)).sum())
        if bound <= 0.1 * whole:
            return bound / whole
        inner = self.lost.mT @ scaled(as_tensor(plus).to(self.lost), self.units) @ self.lost
        return float((heard @ inner * heard).sum()) / whole


def nothing_is_cut(sigma: Float[Tensor, "*groups d d"], rcond: float) -> bool:
    """Whether it is certain that all eigenvalues of Σ are above rcond · λ_max.

    Σ − rcond·u·I has a Cholesky factorisation, for a u that is no smaller than λ_max: the Frobenius norm, or the
    largest sum of a row. Costs d³/3, where the eigenvalues cost 9 d³; False = not certain. What rounding does to the
    factorisation, d·ε·u, is added to the cut.
    """
    size = torch.minimum(sigma.flatten(-2).norm(dim=-1), sigma.abs().sum(-1).amax(-1))
    floor = (max(rcond, 1e-10) + 4 * sigma.shape[-1] * torch.finfo(sigma.dtype).eps) * size
    lifted = _roomy(sigma)
    diagonal = lifted.diagonal(dim1=-2, dim2=-1)
    diagonal[..., : sigma.shape[-1]] -= floor.unsqueeze(-1)
    # An input that is never used is seen without a factorisation.
    return bool((diagonal > 0).all()) and not bool(torch.linalg.cholesky_ex(lifted).info.any())


def _roomy(sigma: Tensor) -> Tensor:
    """A copy of Σ, with eight more coordinates of variance 1 where its width is a multiple of 256.

    Rows that lie a multiple of 2 kB apart share few places of the cache: a Cholesky factorisation of width 512, 1,024
    or 1,536, as networks have them, takes twice as long as one of eight more. What is added touches nothing else.
    """
    d = sigma.shape[-1]
    wide = torch.nn.functional.pad(sigma, (0, more := 0 if d % 256 else 8, 0, more))
    wide.diagonal(dim1=-2, dim2=-1)[..., d:] = 1.0
    return wide


def is_easy(sigma: Float[Tensor, "*groups d d"]) -> bool:
    """Whether products with Σ⁻¹ may be made in float32: what they round is a few 1e-5 of the result then.

    Certain where the eigenvalues of D⁻½ΣD⁻½, D its diagonal, are above 1e-4 of the largest: the rounding of a product
    knows no units, so those of the inputs do not count.
    """
    sizes = sigma.diagonal(dim1=-2, dim2=-1).sqrt()
    return nothing_is_cut(sigma / sizes.unsqueeze(-1) / sizes.unsqueeze(-2), 1e-4)


def inverses(
    plus: Tensor, minus: Tensor, lam: float, rconds: Sequence[float], *, balance: bool | None
) -> Iterator[Inverse]:
    """(Σ⁺ + λΣ⁻)† at each cut, and D V (VᵀDΣ⁺DV)† VᵀD under the hard constraint (λ = ∞), V the null space of DΣ⁻D.

    ``balance``: the last coordinate is the constant 1 of a bias, whose length beside the inputs is a matter of units.
    It is made as long as a typical input, D = diag(1, ..., 1, c), so that what is cut does not depend on the units:
    D(DΣD)†D P takes the place of Σ†, with P the projector on the span of the data. The two are equal where nothing
    is cut that the data ever used, however few those are. True = always, False = never, None = where the constant is
    more than 32 times as long as a typical input, or as short.

    One factorisation serves all cuts. Where it is certain that none of them cuts anything (:func:`nothing_is_cut`), a
    Cholesky factorisation gives the same inverse for a fraction of the price.
    """
    if math.isinf(lam):
        yield from _hard(plus, minus, rconds, units_of(plus + minus, balance))
        return
    sigma = plus + lam * minus
    units = units_of(sigma, balance)
    work = scaled(sigma, units)
    if nothing_is_cut(work, max(rconds)):
        d = work.shape[-1]
        matrix = scaled(torch.cholesky_inverse(torch.linalg.cholesky(_roomy(work)))[..., :d, :d], units)
        whole = Inverse(matrix, units, is_easy=is_easy(work))
        yield from (whole for _ in rconds)
        return
    spectrum = Spectrum(work, rconds[0])
    for rcond in rconds:
        found = spectrum.at(rcond)
        inverse = scaled(found.pinv(), units)
        if units is not None:
            silent = ~found.kept & (found.all_values <= _SILENT * found.all_values[..., -1:])
            inverse = _on_span(inverse, units, found.vectors * silent.unsqueeze(-2))
        if bool(found.kept.all()):
            yield Inverse(inverse, units)
        elif work.ndim == 2:
            yield Inverse(inverse, units, found.null_basis(), found.all_values[~found.kept])
        else:
            yield Inverse(inverse, units, found.vectors * ~found.kept.unsqueeze(-2), found.all_values)


def _hard(plus: Tensor, minus: Tensor, rconds: Sequence[float], units: Tensor | None) -> Iterator[Inverse]:
    if plus.ndim == 3:
        each = units if units is not None else [None] * len(plus)
        groups = [_hard(a, b, rconds, c) for a, b, c in zip(plus, minus, each, strict=True)]
        yield from (Inverse(torch.stack([inverse.matrix for inverse in same])) for same in zip(*groups, strict=True))
        return
    plus = scaled(plus, units)
    spectrum = Spectrum(scaled(minus, units), rconds[0])
    # The cut is relative to Σ⁺ itself: when the target has nothing in the null space, VᵀΣ⁺V is rounding noise, and a
    # cut relative to the noise would keep it.
    largest = torch.linalg.eigvalsh(plus)[-1:].clamp_min(0)
    unused = spectrum.vectors[:, spectrum.all_values <= _SILENT * spectrum.all_values[-1].clamp_min(0)]
    if units is not None and unused.shape[1]:  # by the reference; and by the target
        inner = Spectrum(unused.T @ plus @ unused, scale=largest)
        unused = unused @ inner.vectors[:, inner.all_values <= _SILENT * largest]
    for rcond in rconds:
        v = spectrum.at(rcond).null_basis()  # N = VVᵀ, the projector on what the reference never uses
        if v.shape[1] == 0:
            yield Inverse(torch.zeros_like(plus))
            continue
        inverse = scaled(v @ Spectrum(v.T @ plus @ v, max(rcond, 1e-12), scale=largest).pinv() @ v.T, units)
        yield Inverse(inverse if units is None else _on_span(inverse, units, unused))


def _on_span(inverse: Tensor, units: Tensor, silent: Tensor) -> Tensor:
    """``inverse`` P, where 1 − P projects on the span of D V, V the ``silent`` directions (orthonormal, or zeros).

    D stretches one coordinate. So turn V until one column v has all of it; the others stay, and Dv is normed.
    """
    v = silent @ silent[..., -1:, :].mT
    v = v / v.norm(dim=-2, keepdim=True).clamp_min(1e-300)
    n = units.unsqueeze(-1) * v
    n = n / n.norm(dim=-2, keepdim=True).clamp_min(1e-300)
    return inverse - (inverse @ silent) @ silent.mT + (inverse @ v) @ v.mT - (inverse @ n) @ n.mT


def units_of(sigma: Float[Tensor, "*groups d d"], balance: bool | None = True) -> Float[Tensor, "*groups d"] | None:
    """D = (1, ..., 1, c): c² = mean Σᵢᵢ of the inputs / Σ_dd of the constant; 1 where one of them is zero.

    See :func:`inverses` for ``balance``. None = D is the identity.
    """
    return units_from(sigma.diagonal(dim1=-2, dim2=-1), balance)


def units_from(lengths: Float[Tensor, "*groups d"], balance: bool | None) -> Float[Tensor, "*groups d"] | None:
    """:func:`units_of` from the diagonal of Σ, which is all that it needs."""
    inputs, one = lengths[..., :-1].mean(-1), lengths[..., -1]
    alive = (inputs > 0) & (one > 0)
    ratio = torch.where(alive, inputs / torch.where(alive, one, 1.0), 1.0).sqrt()
    if balance is None:
        ratio = torch.where((ratio > _ORDINARY) | (ratio * _ORDINARY < 1), ratio, 1.0)
    if balance is False or bool((ratio == 1).all()):
        return None
    return torch.cat([torch.ones_like(lengths[..., :-1]), ratio.unsqueeze(-1)], -1)


def scaled(sigma: Tensor, units: Tensor | None) -> Tensor:
    """D Σ D."""
    return sigma if units is None else sigma * units.unsqueeze(-1) * units.unsqueeze(-2)
