"""What discovers concepts is made of: whose each direction is, and partitions of points by scikit-learn."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

METHODS = ("mixture", "spectral", "kmeans")
RULES = ("shares", "bic", "stability")
OWNED = 0.5  # a concept owns a direction of which it has more than this share
_NEIGHBOURS = 10  # of the graph that spectral clustering and label spreading walk on
_ROUNDS = 4  # pairs of random halves behind a stability
_REGULAR = 1e-3  # of the mean variance: what is added to each covariance of a mixture


def sklearn(part: str) -> Any:
    """A module of scikit-learn, which does all clustering: nobody should trust a clustering that we wrote anew."""
    try:
        return importlib.import_module(f"sklearn.{part}")
    except ImportError as error:
        raise ImportError('discover needs scikit-learn: pip install "engramlib[lab]"') from error


def shares(columns: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> dict[int, Float[Tensor, " k"]]:
    """Concept -> its shares s of the whitened directions, largest first: eigenvalues of Σ^(-½) Σ_c Σ^(-½).

    As :func:`engramlib.analysis.target_share` of (Σ_c, Σ − Σ_c), with a constant 1 appended to each column (a bias).
    Over the concepts they add up to the number of directions.

    Args:
        columns: what was read, a row for each example (of :func:`activations`, or a projection of them).
        labels: a concept for each; negative = left out.

    Raises:
        ValueError: shapes that do not fit, no concept, NaN or infinite columns.

    Cost: one eigendecomposition of d × d and one for each concept. Source: Eqs. 3 and 6, in whitened coordinates;
    chapters 03 and 20.

    Example:
        >>> import torch
        >>> from engramlib.analysis import target_share
        >>> x, labels = torch.randn(90, 4).double(), torch.arange(90) % 3
        >>> columns = torch.cat([x, torch.ones(90, 1)], 1)
        >>> plus, minus = (part.T @ part for part in (columns[labels == 2], columns[labels != 2]))
        >>> torch.allclose(shares(x, labels)[2], target_share(plus, minus).shares)
        True
    """
    white, labels = _white(columns, labels)
    return {int(c): _eigenvalues(white[labels == c]) for c in labels.unique()}


def sharpness(columns: Float[Tensor, "n d"], labels: Int[Tensor, " n"], *, seed: int = 0) -> float:
    """How sharply a partition splits Σ_c(Σ)†: 1 = each direction is one concept's, 0 = as by random concepts.

    (q − q₀)/(1 − q₀), q = Σ_c tr S_c² / d the mean over the directions of Σ s², S_c as in :func:`shares`; q₀ is the
    mean of q over five random partitions of the same sizes (``seed``). Arguments, errors and cost as :func:`shares`.

    Example:
        >>> import torch
        >>> x = torch.eye(3).repeat_interleave(50, 0)[:, :2]
        >>> round(sharpness(x, torch.arange(3).repeat_interleave(50)), 3)
        1.0
    """
    white, labels = _white(columns, labels)
    own = _concentration(white, labels)
    luck = torch.Generator().manual_seed(seed)
    shuffled = [labels[torch.randperm(len(labels), generator=luck)] for _ in range(5)]
    chance = sum(_concentration(white, other) for other in shuffled) / len(shuffled)
    return (own - chance) / (1 - chance) if chance < 1 else 0.0


def _white(columns: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows wᵢ with Σᵢ wᵢwᵢᵀ = I, of those that are in a concept, with the constant 1."""
    if not isinstance(columns, Tensor) or columns.ndim != 2 or not columns.is_floating_point():
        raise ValueError("columns: expected a tensor of numbers, (examples, d)")
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != columns.shape[:1]:
        raise ValueError("labels: expected an integer for each row of columns")
    if not bool((labels >= 0).any()):
        raise ValueError("labels: no example belongs to a concept")
    x = columns[labels >= 0].double()
    if not bool(torch.isfinite(x).all()):
        raise ValueError("columns: NaN or infinite values")
    x = torch.cat([x, x.new_ones(len(x), 1)], 1)
    values, vectors = torch.linalg.eigh(x.T @ x)
    kept = values > 1e-9 * values[-1]
    return x @ (vectors[:, kept] / values[kept].sqrt()), labels[labels >= 0].to(x.device)


def _eigenvalues(white: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(white.T @ white).flip(0).clamp(0, 1)


def _concentration(white: Tensor, labels: Tensor) -> float:
    parts = [white[labels == c] for c in labels.unique()]
    return sum(float((part.T @ part).square().sum()) for part in parts) / white.shape[1]


# ------------------------------------------------------------------------------------------------------------- points


def projected(columns: Tensor, components: float | int | None, whiten: bool, what: str) -> Tensor:
    """The rows on their first principal components, (n, q) in float64."""
    if not float(columns.var(0).sum()) > 0:
        raise ValueError(f"{what}: all examples look alike, there is nothing to tell apart")
    full = min(columns.shape)
    if isinstance(components, int) and components > full:
        raise ValueError(f"components: {components} of {full} that there are")
    pca = sklearn("decomposition").PCA(components if components != 1 else 1, whiten=whiten, svd_solver="full")
    return torch.from_numpy(pca.fit_transform(columns.double().numpy()))


def order_of(z: Tensor) -> Tensor:
    """The rows in an order of their own, by their values, so that what a seed draws does not depend on the user's."""
    order = torch.arange(len(z))
    for column in reversed(range(min(3, z.shape[1]))):  # two rows that agree in three components are one
        order = order[z[order, column].argsort(stable=True)]
    return order


def by_size(labels: Tensor, k: int) -> Tensor:
    """The name of each concept: its place among all, the largest first."""
    names = torch.empty(k, dtype=torch.long)
    names[labels.bincount(minlength=k).argsort(descending=True, stable=True)] = torch.arange(k)
    return names


def chosen(scores: dict[int, dict[str, float]], rule: str) -> int:
    """The number of concepts that a rule takes."""
    if rule == "shares":
        return max(k for k, of in scores.items() if of["owned"] > OWNED)  # one concept owns all
    if rule == "bic":
        return min(scores, key=lambda k: scores[k]["bic"])
    return max((k for k in scores if k > 1), key=lambda k: scores[k]["stability"])


class Fit:
    """Partitions of the rows of z, which stand in an order of their own."""

    def __init__(self, z: Tensor, method: str, seed: int) -> None:
        self.z, self.method, self.seed = z, method, seed
        self.bic: dict[int, float] = {}  # of the mixtures of all rows

    def __call__(self, k: int, z: Tensor | None = None) -> Tensor:
        """A label for each row, 0 to k − 1."""
        x = (self.z if z is None else z).numpy()
        if k == 1:
            if self.method == "mixture" and z is None:
                self.bic[1] = float(self.mixture(x, 1).bic(x))
            return torch.zeros(len(x), dtype=torch.long)
        with warnings.catch_warnings():  # a graph of several pieces, EM that was stopped: the scores tell
            warnings.simplefilter("ignore")
            if self.method == "mixture":
                mixture = self.mixture(x, k)
                found = mixture.predict(x)
                if z is None:
                    self.bic[k] = float(mixture.bic(x))
            elif self.method == "spectral":
                near = min(_NEIGHBOURS, len(x) - 1)
                spectral = sklearn("cluster").SpectralClustering
                how = {"affinity": "nearest_neighbors", "n_neighbors": near, "assign_labels": "cluster_qr"}
                found = spectral(k, random_state=self.seed, **how).fit_predict(x)
            else:
                found = sklearn("cluster").KMeans(k, n_init=10, random_state=self.seed).fit_predict(x)
        return torch.from_numpy(found).long()

    def mixture(self, x: Any, k: int) -> Any:
        """Gaussians with a covariance each, or one for all: whichever has the smaller BIC."""
        make = sklearn("mixture").GaussianMixture
        how = {"n_init": 3, "random_state": self.seed, "reg_covar": _REGULAR * float(x.var(0).mean())}
        fits = [make(k, covariance_type=kind, **how).fit(x) for kind in ("full", "tied")]
        return min(fits, key=lambda fit: fit.bic(x))

    def seeded(self, known: Sequence[Tensor], z: Tensor | None = None) -> Tensor:
        """A label for each row from the places of a few known ones."""
        z = self.z if z is None else z
        x = z.numpy()
        own = torch.cat([torch.full((len(places),), c) for c, places in enumerate(known)])
        at = torch.cat(list(known))
        near = sklearn("neighbors").NearestCentroid().fit(x[at.numpy()], own.numpy()).predict(x)
        nearest = torch.from_numpy(near).long()
        if self.method == "kmeans":
            return nearest
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.method == "spectral":
                start = torch.full((len(x),), -1)
                start[at] = own
                spread = sklearn("semi_supervised").LabelSpreading
                near_by = min(_NEIGHBOURS, len(x) - 1)
                fit = spread(kernel="knn", n_neighbors=near_by, max_iter=200).fit(x, start.numpy())
                reached = torch.from_numpy(fit.label_distributions_).nan_to_num(0.0)
                return torch.where(reached.sum(1) > 0, reached.argmax(1), nearest)
            parts = [z[nearest == c] if int((nearest == c).sum()) > 1 else z[places] for c, places in enumerate(known)]
            spreads = [(part - part.mean(0)).T @ (part - part.mean(0)) for part in parts]
            pooled = sum(spreads) / len(z) + _REGULAR * z.var(0).mean() * torch.eye(z.shape[1], dtype=z.dtype)
            fit = sklearn("mixture").GaussianMixture(
                len(known),
                covariance_type="tied",  # a few examples say nothing of a covariance each
                means_init=torch.stack([part.mean(0) for part in parts]).numpy(),
                precisions_init=torch.linalg.inv(pooled).numpy(),
                weights_init=torch.tensor([len(p) for p in parts], dtype=z.dtype).div(sum(map(len, parts))).numpy(),
                reg_covar=_REGULAR * float(x.var(0).mean()),
                random_state=self.seed,
            )
            found = torch.from_numpy(fit.fit(x).predict(x)).long()
        found[at] = own  # what is known stays
        return found

    def scores(self, k: int, labels: Tensor, *, stable: bool) -> dict[str, float]:
        tops = [float(of[0]) for of in shares(self.z, labels).values()]
        found = {
            "owned": min(tops) if len(tops) == k else 0.0,  # a cluster that stayed empty owns nothing
            "sharpness": sharpness(self.z, labels, seed=self.seed),
        }
        if k in self.bic:
            found["bic"] = self.bic[k]
        if stable and k > 1:
            found["stability"] = self.stability(k)
        return found

    def stability(self, k: int, known: Sequence[Tensor] | None = None) -> float:
        """Mean adjusted Rand index between what two random halves make of all rows."""
        if k == 1:
            return 1.0
        luck, n = torch.Generator().manual_seed(self.seed), len(self.z)
        index, near = sklearn("metrics").adjusted_rand_score, sklearn("neighbors").KNeighborsClassifier
        fixed = torch.cat(list(known)) if known else torch.empty(0, dtype=torch.long)
        found = []
        for _ in range(_ROUNDS):
            order, pair = torch.randperm(n, generator=luck), []
            for half in (order[: n // 2], order[n // 2 :]):
                half = torch.cat([fixed, half[~torch.isin(half, fixed)]])
                part = self.z[half]
                if known:
                    at = torch.arange(len(fixed)).split([len(places) for places in known])
                    own = self.seeded(list(at), part)
                elif k >= len(part):
                    return 0.0
                else:
                    own = self(k, part)
                wide = near(min(5, len(part))).fit(part.numpy(), own.numpy()).predict(self.z.numpy())
                pair.append(wide)
            found.append(float(index(*pair)))
        return sum(found) / len(found)
