"""Can an attacker tell that an image of the erased class was trained on?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engramlib.lab.data import ImageData, Split
from engramlib.lab.metrics.accuracy import which
from engramlib.lab.metrics.resolution import of_auc
from engramlib.running import evaluating


@dataclass(frozen=True)
class Membership:
    """`auc` of the loss attack, of so many `members`, training images, against so many `others`, test images."""

    auc: float
    members: int
    others: int

    @property
    def resolution(self) -> float:
        """The smallest difference in `auc` that so many images show between two networks: `resolution.of_auc`."""
        return of_auc(self.auc, self.members, self.others)


def membership_auc(model: nn.Module, data: ImageData, forget: Sequence[int]) -> float:
    """The `auc` of `membership`."""
    return membership(model, data, forget).auc


def membership(model: nn.Module, data: ImageData, forget: Sequence[int]) -> Membership:
    """AUC of the loss attack on the erased classes: training images against test images, .5 = cannot tell.

    The attacker calls an image a member the more, the smaller its loss (Yeom et al. 2018, CSF, arXiv:1709.01604). Above
    .5: members have the smaller loss, so the training images left a trace. The retrained model, for which neither set
    is a member, gives the reference. Cost: one forward pass over the images of the erased classes.
    """
    from sklearn.metrics import roc_auc_score

    member, other = (data.split(s).where(which(data, forget, s)) for s in ("train", "test"))
    losses = torch.cat([_losses(model, member), _losses(model, other)])
    truth = [1] * len(member) + [0] * len(other)
    return Membership(float(roc_auc_score(truth, -losses.numpy())), len(member), len(other))


@torch.no_grad()
def _losses(model: nn.Module, part: Split, batch_size: int = 1024) -> Tensor:
    device = next(model.parameters()).device
    with evaluating(model):
        return torch.cat(
            [
                F.cross_entropy(model(x.to(device)).double(), y.to(device), reduction="none").cpu()
                for x, y in zip(part.x.split(batch_size), part.y.split(batch_size), strict=True)
            ]
        )
