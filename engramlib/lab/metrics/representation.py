"""What the penultimate layer looks like: similarity of two networks, and how far a class stands out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engramlib import Engram, Moments
from engramlib.layers import supported_layers
from engramlib.running import evaluating


@torch.no_grad()
def features(model: nn.Module, x: Tensor, *, batch_size: int = 1024) -> Tensor:
    """The penultimate layer's outputs, N x d, float32 on the CPU. `model` needs a method `features`, as in lab.models.

    Runs in evaluation mode and puts the mode back.
    """
    if not callable(getattr(model, "features", None)):
        raise ValueError("features: the model needs a method .features(x), as the networks of lab.models have.")
    device = next(model.parameters()).device
    with evaluating(model):
        return torch.cat([model.features(part.to(device)).float().cpu() for part in x.split(batch_size)])


def linear_cka(a: Tensor, b: Tensor, *, unbiased: bool = False) -> float:
    """Linear centred kernel alignment of two representations of the same N inputs, in [0, 1].

    CKA = ‖Bᵀ A‖²_F / (‖Aᵀ A‖_F ‖Bᵀ B‖_F) with the columns of A (N x p) and B (N x q) centred. 1 for representations
    that differ by a rotation and a scale; biased upwards where N is not much larger than p and q. `unbiased` takes that
    away (Song et al. 2012, JMLR; N >= 4): unrelated representations then have about 0, or a little less. Source:
    Kornblith et al. 2019 (ICML, arXiv:1905.00414); the paper's Figs. 6 and 10, chapter 09. Cost: O(N (p² + pq + q²)).

    Raises `ValueError` for different N, or a representation that is the same for every input.
    """
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ValueError(f"linear_cka: two matrices with the same rows needed, got {tuple(a.shape)}, {tuple(b.shape)}.")
    a, b = (m.double() - m.double().mean(0) for m in (a, b))
    if unbiased and len(a) < 4:
        raise ValueError(f"linear_cka: unbiased needs at least 4 inputs, got {len(a)}.")
    hsic = _unbiased_hsic if unbiased else _hsic
    scale = hsic(a, a) * hsic(b, b)
    if scale <= 0:
        raise ValueError("linear_cka: a representation is constant, so its similarity to anything is not defined.")
    return float(hsic(a, b) / scale.sqrt())


def _hsic(a: Tensor, b: Tensor) -> Tensor:
    return (a.T @ b).square().sum()


def _unbiased_hsic(a: Tensor, b: Tensor) -> Tensor:
    """Of K = AAᵀ and M = BBᵀ with zero diagonals, without forming them: O(Npq)."""
    n = len(a)
    k, m = a.square().sum(1), b.square().sum(1)  # the diagonals
    k1, m1 = a @ a.sum(0) - k, b @ b.sum(0) - m  # the row sums without them
    trace = (a.T @ b).square().sum() - k @ m
    return (trace + k1.sum() * m1.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k1 @ m1)) / (n * (n - 3))


def separability(x: Tensor, is_forget: Tensor, *, folds: int = 3, seed: int = 0) -> float:
    """How well a line tells the erased class from all others: cross-validated balanced accuracy, .5 to 1.

    `x` = features, N x d; `is_forget` = N booleans. Logistic regression on standardised features (scikit-learn).
    **Our read-out**: the paper's "DA" is not defined in it, so the digits of its Table 2 cannot be compared with these.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    _two_kinds(is_forget)
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    scores = cross_val_score(
        logistic(class_weight="balanced"), x.numpy(), is_forget.numpy(), cv=splits, scoring="balanced_accuracy"
    )
    return float(scores.mean())


def clustering(x: Tensor, labels: Tensor, *, n_clusters: int | None = None, seed: int = 0) -> float:
    """How far clusters found without labels agree with `labels`: normalised mutual information, 0 to 1.

    k-means on `x` (N x d features) with as many clusters as there are labels, or `n_clusters` (scikit-learn, four
    starts). **Our read-out**: the paper's "NMI" is not defined in it; do not compare digits.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    k = n_clusters or len(labels.unique())
    found = KMeans(k, n_init=4, random_state=seed).fit_predict(x.double().numpy())
    return float(normalized_mutual_info_score(labels.numpy(), found))


def share_taken(model: nn.Module, engram: Engram, moments: Moments) -> dict[str, float]:
    """Layer -> ⟨W⁺X, WX⟩ / ‖WX‖²: the share of a layer's response to X that the engram takes.

    X is given by its `moments` Σ, so this is tr(W⁺ΣWᵀ) / tr(WΣWᵀ). A direction that all data share gives the target's
    share of the data; an engram that tells target from rest takes more of the target and less of the rest. Biases are
    left out. `model` = the one that the engram was extracted from. Chapters 08 and 13.
    """
    shares, layers = {}, supported_layers(model)
    for name, (weight, _) in engram.items():
        layer = layers[name]
        own, cut = (layer.matrix(w, None).double() for w in (layer.module.weight.detach(), weight))
        sigma = moments[name].double()[..., : own.shape[-1], : own.shape[-1]]
        shares[name] = float((cut @ sigma * own).sum() / (own @ sigma * own).sum())
    return shares


def logistic(**kwargs):
    """Logistic regression on standardised features: the linear probe of this package."""
    from sklearn.linear_model import LogisticRegression

    return standardised(LogisticRegression(C=0.1, max_iter=200, tol=1e-3, **kwargs))


ROUNDING = 1e-5  # of the largest spread of a feature: below it lies what float32 leaves where nothing was meant to be


def standardised(estimator):
    """scikit-learn's estimator behind a `StandardScaler` that does not blow rounding up.

    A feature whose spread is less than `ROUNDING` of the largest is a constant: it counts as zero. Where an edit
    silences a direction, rounding keeps a millionth of it; scaled to unit variance that is the whole memory again.
    """
    import numpy as np
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    class AboveRounding(StandardScaler):
        def fit(self, X, y=None, sample_weight=None):
            super().fit(X, y, sample_weight)
            spread = np.sqrt(self.var_)
            self.scale_ = np.where(spread > ROUNDING * spread.max(), self.scale_, np.inf)
            return self

    return make_pipeline(AboveRounding(), estimator)


def _two_kinds(is_forget: Tensor) -> None:
    if is_forget.dtype != torch.bool or bool(is_forget.all()) or not bool(is_forget.any()):
        raise ValueError("is_forget must be a boolean tensor with images of both kinds, erased and kept.")
