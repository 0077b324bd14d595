"""One factorisation per distinct Σ: the pseudo-inverse, and what counts as zero."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Spectrum:
    """Eigenvalues and eigenvectors of a symmetric positive semi-definite Σ, with everything below a cut taken as zero.

    The cut is relative: eigenvalues at or below ``rcond`` · λ_max are treated as exactly zero, in Σ† as well. It is a
    regulariser, not a detail: without it, directions in which the data hardly vary are amplified by up to 1/λ_min.

    Args:
        sigma: symmetric, shape (d, d) or (groups, d, d). Computed in float64 whatever its dtype.
        rcond: relative cut in [0, 1). 1e-6 is the paper's.
        scale: what the cut is relative to; None = the largest eigenvalue of Σ (of each group).

    Cost: about 9 d³ floating-point operations, 8 d² bytes. Source: Section 5 (numerics) of the paper; chapter 03.

    Example:
        >>> import torch
        >>> sigma = torch.diag(torch.tensor([4.0, 1.0, 1e-9], dtype=torch.float64))
        >>> spectrum = Spectrum(sigma)
        >>> int(spectrum.rank), torch.allclose(spectrum.pinv(), torch.diag(torch.tensor([0.25, 1.0, 0.0]).double()))
        (2, True)
    """

    def __init__(self, sigma: Float[Tensor, "*groups d d"], rcond: float = 1e-6, scale: Tensor | None = None) -> None:
        check_rcond(rcond)
        values, self.vectors = torch.linalg.eigh(sigma.double())
        largest = values[..., -1:].clamp_min(0) if scale is None else scale
        self.kept: Tensor = (values > rcond * largest) & (values > 0)
        self.values: Float[Tensor, "*groups d"] = torch.where(self.kept, values, 0.0)

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


def check_rcond(rcond: float) -> None:
    """Raise ``ValueError`` unless 0 <= rcond < 1."""
    if not (isinstance(rcond, Real) and 0 <= rcond < 1):
        raise ValueError(f"rcond: expected a number in [0, 1), got {rcond!r}")
