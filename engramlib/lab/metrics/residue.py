"""What accuracy does not see: what is still there of an erased class, and how little brings it back."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from engramlib.lab.data import ImageData, Split
from engramlib.lab.metrics.accuracy import which
from engramlib.lab.metrics.representation import features, logistic
from engramlib.lab.metrics.resolution import of_share
from engramlib.lab.training import accuracy
from engramlib.lab.training.precision import arithmetic
from engramlib.running import evaluating


@dataclass(frozen=True)
class Probe:
    """`erased`, `kept`: share of the test images of the erased and of the kept classes that the probe names rightly.

    `auc`: how well its score for the erased classes ranks their images above all others, .5 to 1. `right`: for each
    test image of the erased classes, whether it was named rightly.
    """

    erased: float
    kept: float
    auc: float
    right: tuple[bool, ...] = field(repr=False)

    @property
    def resolution(self) -> float:
        """The smallest difference in `erased` that so many images show between two networks: `resolution.of_share`."""
        return of_share(self.erased, len(self.right))


def probe(
    model: nn.Module,
    data: ImageData,
    forget: Sequence[int],
    *,
    per_class: int | None = 500,
    seed: int = 0,
    on_pixels: bool = False,
) -> Probe:
    """What a new linear classifier, fitted with all labels, still reads of the erased classes in the penultimate layer.

    Multinomial logistic regression (scikit-learn) on standardised `model.features` of at most `per_class` training
    images a class; reported on the test images. A model that only masks its answer keeps the original's recall. A model
    that never saw the class has some recall too, since features made for others describe it as well: that retrained
    model's value, not zero, is what erasure should reach. `on_pixels`: a control that ignores the model.
    Cost: two forward passes and the fit, about a second for 10 classes and 256 features. Chapters 08, 09 and 16.
    """
    from sklearn.metrics import roc_auc_score

    train = data.train if per_class is None else data.train.sample(per_class, seed)
    gone = which(data, forget, "test").cpu().numpy()

    def read(part: Split):
        return (part.x.flatten(1).cpu() if on_pixels else features(model, part.x)).numpy()

    fitted = logistic(random_state=seed).fit(read(train), train.y.cpu().numpy())
    chances = fitted.predict_proba(read(data.test))
    right = fitted.classes_[chances.argmax(1)] == data.test.y.cpu().numpy()
    forget = [forget] if isinstance(forget, int) else list(forget)
    score = chances[:, [list(fitted.classes_).index(c) for c in forget]].sum(1)
    shares = float(right[gone].mean()), float(right[~gone].mean())
    return Probe(*shares, float(roc_auc_score(gone, score)), tuple(right[gone].tolist()))


def binary_probe(model: nn.Module, data: ImageData, forget: Sequence[int], *, seed: int = 0) -> float:
    """How well a linear reader that is asked one question, "is it the erased class?", ranks the test images: AUC.

    .5 = it cannot tell, 1 = it always can. Fitted as `probe` is, with two labels instead of all. The two differ: a
    reader with many answers can name a class by knowing that it is none of the others. Chapter 18.
    """
    from sklearn.metrics import roc_auc_score

    inside = [which(data, forget, part).cpu().numpy() for part in ("train", "test")]
    fitted = logistic(random_state=seed).fit(features(model, data.train.x).numpy(), inside[0])
    return float(roc_auc_score(inside[1], fitted.decision_function(features(model, data.test.x).numpy())))


@dataclass(frozen=True)
class FewShot:
    """With `ks[i]` images of every class, `erased[i]` and `kept[i]` of the test images are named rightly (means).

    `images`: how many test images of the erased classes there are. `spread[i]`: standard deviation of `erased[i]` over
    the draws of the k images; 0 for one draw.
    """

    ks: tuple[int, ...]
    erased: tuple[float, ...]
    kept: tuple[float, ...]
    spread: tuple[float, ...]
    images: int
    draws: int

    @property
    def resolution(self) -> tuple[float, ...]:
        """The smallest differences in `erased` that so many images and draws show between two networks.

        `resolution.of_share` of the test images, and beside it the spread over the draws of those that were shown.
        """
        shown = (1.96 * math.sqrt(2 / self.draws) * sd for sd in self.spread)
        return tuple(math.hypot(of_share(share, self.images), d) for share, d in zip(self.erased, shown, strict=True))


def few_shot(
    model: nn.Module,
    data: ImageData,
    forget: Sequence[int],
    *,
    ks: Sequence[int] = (1, 2, 4, 8, 16),
    draws: int = 3,
    split: str = "test",
    seed: int = 0,
) -> FewShot:
    """What k images of each class give back of an erased class while the network's features stay as they are.

    The rows of `model.fc` that belong to the erased classes start from the mean of the kept rows, in every model, so
    how deep an edit buried their logits plays no part: a masked logit scores exactly as the original does. Then 100
    steps of Adam (lr .01) on `fc` alone, full batch, cross-entropy; mean over `draws` draws of images. Unlike
    `relearn` this asks about the features and not about the way back to the answer; unlike `probe` it asks with few
    images. Reference: the retrained model, never 0. In [0, 1]. Chapters 08, 09 and 16.
    float32, also where the caller stands in an autocast.
    Cost: one pass over the images drawn and one over `split`; `draws * len(ks) * 100` steps of a linear layer.

    Raises `ValueError` for a model without a linear `fc`, or for ks that are not positive and ascending.
    """
    if not isinstance(getattr(model, "fc", None), nn.Linear):
        raise ValueError("few_shot: the model needs a linear layer .fc that reads .features(x).")
    if not ks or ks[0] < 1 or list(ks) != sorted(ks):
        raise ValueError(f"few_shot: ks must be positive and ascending, got {list(ks)}.")
    if draws < 1:
        raise ValueError(f"few_shot: draws must be at least 1, got {draws}.")
    part, gone = data.split(split), which(data, forget, split).cpu()
    rows = torch.zeros(data.n_classes, dtype=torch.bool)
    rows[torch.as_tensor(forget)] = True
    start = copy.deepcopy(model.fc).cpu().float()
    with torch.no_grad():
        for p in start.parameters():
            p[rows] = p[~rows].mean(0)
    y, curve = part.y.cpu(), torch.zeros(draws, len(ks), 2, dtype=torch.float64)
    with arithmetic(next(model.parameters()).device):
        z = features(model, part.x)
    for draw in range(draws):
        for i, k in enumerate(ks):
            few = data.train.sample(k, 1000 * seed + draw)
            with arithmetic(next(model.parameters()).device):
                shown = features(model, few.x)
            with arithmetic("cpu"):
                fc = _refit(copy.deepcopy(start), shown, few.y.cpu())
                with torch.no_grad():
                    right = (fc(z).argmax(1) == y).double()
            curve[draw, i] = torch.stack([right[gone].mean(), right[~gone].mean()])
    erased, kept = curve.mean(0).T.tolist()
    spread = (curve[:, :, 0].std(0) if draws > 1 else torch.zeros(len(ks))).tolist()
    return FewShot(tuple(ks), tuple(erased), tuple(kept), tuple(spread), int(gone.sum()), draws)


def _refit(fc: nn.Linear, x: torch.Tensor, y: torch.Tensor, steps: int = 100, lr: float = 1e-2) -> nn.Linear:
    optimiser = torch.optim.Adam([p.requires_grad_() for p in fc.parameters()], lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            F.cross_entropy(fc(x), y).backward()
            optimiser.step()
    return fc


@dataclass(frozen=True)
class Relearned:
    """After `seen[i]` images of the erased classes their accuracy is `erased[i]`; `kept` = the others' once it is back.

    `needed` = images until half of `before`, the original's accuracy, is back; None if all of them do not do it. As
    text: the number, or "> 100". `images` test images see that: `earliest` and `latest` are the numbers of images
    where the accuracy comes as near to the half, from below and from above, as so many images can tell (95 %). Two
    networks differ if these ranges do not meet; None stands for "later than all".
    """

    seen: tuple[int, ...]
    erased: tuple[float, ...]
    kept: float
    before: float
    images: int

    @property
    def needed(self) -> int | None:
        return self._first(self.before / 2)

    @property
    def earliest(self) -> int | None:
        return self._first(self.before / 2 - _margin(self.before, self.images))

    @property
    def latest(self) -> int | None:
        return self._first(self.before / 2 + _margin(self.before, self.images))

    def _first(self, share: float) -> int | None:
        return next((k for k, a in zip(self.seen, self.erased, strict=True) if a >= share), None)

    def __str__(self) -> str:
        return f"> {self.seen[-1]}" if self.needed is None else str(self.needed)


def relearn(
    model: nn.Module,
    data: ImageData,
    forget: Sequence[int],
    *,
    before: float,
    limit: int = 200,
    a_step: int = 4,
    lr: float = 3e-3,
    whole_curve: bool = False,
    seed: int = 0,
) -> Relearned:
    """How many labelled images bring an erased class back, when each is shown once.

    A copy of `model` sees the training images of the erased classes in a random order, `a_step` of them in every step
    of SGD (momentum .9) together with three times as many of other classes, and is tested after each step. The same
    images, order and learning rate for every model, so only the starting weights differ. BatchNorm stays in evaluation
    mode: statistics of a handful of images would say more about the handful than about the model. What comes back is
    the whole model, answer included: a mask that threw the classifier's row away has to learn that row again, though
    every feature is still there, which `probe` and `few_shot` show. So this number tells how far the answer was buried,
    not how much was erased; read it beside those two, and beside `kept`.
    `before` = the original model's accuracy on the erased classes; half of it counts as brought back. Begins at 0
    images: a model that has not forgotten needs none. Stops once `latest` is known, unless `whole_curve`, or after
    `limit` images.
    A new class is learned from nothing in some dozens of images too, so the reference is again the model that was
    retrained without it. float32, also where the caller stands in an autocast. Chapters 08, 09 and 16. Cost: at most
    `limit / a_step` steps, each with a test on at most 500 images.

    Raises `FloatingPointError` where the model's answers stop being numbers.
    """
    if not 0 < before <= 1:
        raise ValueError(f"relearn: before must be an accuracy in (0, 1], got {before}.")
    if limit < 1 or a_step < 1:
        raise ValueError(f"relearn: limit and a_step must be at least 1, got {limit} and {a_step}.")
    test, gone = data.test, which(data, forget, "test")
    erased_test, kept_test = _some(test.where(gone), 500, seed), _some(test.where(~gone), 1000, seed)
    gone = which(data, forget, "train")
    shown, others = (_some(data.train.where(mask), n, seed) for mask, n in ((gone, limit), (~gone, 3 * limit)))

    model = copy.deepcopy(model)
    parameters = [p.requires_grad_() for p in model.parameters()]
    device = parameters[0].device
    optimiser = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    with arithmetic(device), evaluating(model), torch.enable_grad():
        seen, curve = [0], [accuracy(model, erased_test.x, erased_test.y)]
        kept, enough = None, before / 2 + _margin(before, len(erased_test))
        for at in range(0, len(shown), a_step):
            if curve[-1] >= before / 2 and kept is None and not whole_curve:
                kept = accuracy(model, kept_test.x, kept_test.y)
            if max(curve) >= enough and not whole_curve:
                break
            some, rest = slice(at, at + a_step), slice(3 * at, 3 * (at + a_step))
            x, y = (torch.cat([getattr(shown, name)[some], getattr(others, name)[rest]]).to(device) for name in "xy")
            loss = F.cross_entropy(model(x), y)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"relearn: the loss became {loss.item()} after {at} images; lower lr.")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seen.append(min(at + a_step, len(shown)))
            curve.append(accuracy(model, erased_test.x, erased_test.y))
        kept = accuracy(model, kept_test.x, kept_test.y) if kept is None else kept
    return Relearned(tuple(seen), tuple(curve), kept, before, len(erased_test))


def _margin(before: float, n: int) -> float:
    """How far an accuracy of half of `before`, of n images, is from where 95 % of such accuracies end."""
    p = before / 2
    return 1.96 * math.sqrt(p * (1 - p) / n)


def _some(part: Split, n: int, seed: int) -> Split:
    """At most n images in a random order."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:n].to(part.y.device)
    return part.where(order)
