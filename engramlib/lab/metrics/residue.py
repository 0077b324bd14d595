"""What accuracy does not see: what is still there of an erased class, and how little brings it back."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from engramlib.batches import evaluating
from engramlib.lab.datasets import ImageData, Split
from engramlib.lab.metrics.accuracy import which
from engramlib.lab.metrics.representation import features, logistic
from engramlib.lab.training import accuracy


@dataclass(frozen=True)
class Probe:
    """`erased`, `kept`: share of the test images of the erased and of the kept classes that the probe names rightly.

    `auc`: how well its score for the erased classes ranks their images above all others, .5 to 1.
    """

    erased: float
    kept: float
    auc: float


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
    return Probe(float(right[gone].mean()), float(right[~gone].mean()), float(roc_auc_score(gone, score)))


@dataclass(frozen=True)
class Relearned:
    """After `seen[i]` images of the erased classes their accuracy is `erased[i]`; `kept` = the others', at the end.

    `needed` = images until half of `before`, the original's accuracy, is back; None if all of them do not do it. As
    text: the number, or "> 100".
    """

    seen: tuple[int, ...]
    erased: tuple[float, ...]
    kept: float
    before: float

    @property
    def needed(self) -> int | None:
        return next((k for k, a in zip(self.seen, self.erased, strict=True) if a >= self.before / 2), None)

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
    every feature is still there, which `probe` shows.
    `before` = the original model's accuracy on the erased classes; half of it counts as brought back. Begins at 0
    images: a model that has not forgotten needs none. Stops there, unless `whole_curve`, or after `limit` images.
    A new class is learned from nothing in some dozens of images too, so the reference is again the model that was
    retrained without it. Chapters 08, 09 and 16. Cost: at most `limit / a_step` steps, each with a test on at most 500
    images.

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
    seen, curve = [0], [accuracy(model, erased_test.x, erased_test.y)]
    with evaluating(model), torch.enable_grad():
        for at in range(0, len(shown), a_step):
            if curve[-1] >= before / 2 and not whole_curve:
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
    return Relearned(tuple(seen), tuple(curve), accuracy(model, kept_test.x, kept_test.y), before)


def _some(part: Split, n: int, seed: int) -> Split:
    """At most n images in a random order."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:n].to(part.y.device)
    return part.where(order)
