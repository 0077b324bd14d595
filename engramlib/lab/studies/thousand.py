"""A published network of a thousand classes forgets ten of them, one at a time: chapter 11, beside the paper's Fig. 12.

    python -m engramlib.lab.studies thousand --record      # data/runs/pretrained-imagenet.json, half an hour

The network is EfficientNet-lite0 as it was published; nobody here trained it. Σ⁺ are training images of one of
Imagenette's ten classes. Σ⁻ are those of the nine others ("nine"), or of these and one image of each of ImageNet's
even classes ("nine and five hundred"). The *witnesses* are one image of each of the odd classes: no Σ has seen them,
and the network was trained to know them. All answers are among a thousand.

BatchNorm keeps statistics of what it saw, and an edit changes what it sees. With "refitted" they are estimated anew, on
images of Σ⁻, and `before` is the network as it came with its statistics estimated in the same way.

Rows: study "classes": reference, lam, alpha, rcond, control, erased (0 to 9), tested ("own", "nine", "witnesses"), n,
before, after, and `lost` and `won`, how many right answers became wrong and the other way round.
`share` = target's share of the images that Σ were made of, with λ: n⁺ / (n⁺ + λ n⁻).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import engramlib as el
from engramlib.lab.data.image_data import DatasetUnavailable
from engramlib.lab.data.imagenet import LazyImageData, LazySplit
from engramlib.lab.data.imagenette import CLASSES, INDEX, imagenet_samples, imagenette
from engramlib.lab.models import zoo
from engramlib.lab.models.zoo.vision import LITE0
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import recording
from engramlib.lab.training import predict
from engramlib.lab.training.precision import arithmetic
from engramlib.lab.unlearning.controls import random_subspace

REFERENCES = ("nine", "nine and five hundred")
TESTED = ("own", "nine", "witnesses")


@dataclass(frozen=True)
class Edit:
    """One way to erase a class. `control`: None; "random": a random part of the weights, as large on the data;
    "refitted": BatchNorm's statistics estimated anew after the edit."""

    reference: str = "nine"
    lam: float = 1.0
    alpha: float = 1.0
    rcond: float = 1e-6
    control: str | None = None


EDITS = (
    Edit(),
    Edit("nine and five hundred"),
    Edit("nine and five hundred", control="refitted"),
    Edit("nine and five hundred", lam=10.0, control="refitted"),
    Edit("nine and five hundred", control="random"),
)
REFIT = 640  # images of Σ⁻, drawn once, on which statistics are estimated anew
LAST = {"memory_format": torch.channels_last}  # three times as fast where convolutions are depthwise


class Subject:
    """The network, its images, its answers as it came, and its moments, each made once.

    `mixed`: images are answered in bfloat16 arithmetic, before an edit and after; moments are float32's all the same.
    """

    def __init__(
        self,
        model: nn.Module,
        data: LazyImageData,
        samples: LazySplit,
        index: Sequence[int] = INDEX,
        *,
        mixed: bool = False,
    ) -> None:
        self.model, self.data, self.index = model.to(**LAST), data, torch.tensor(index)
        self.mixed = mixed
        witness = (samples.y % 2 == 1) & ~torch.isin(samples.y, self.index)
        self.others = samples.where((samples.y % 2 == 0) & ~torch.isin(samples.y, self.index))
        self.witnesses = samples.where(witness)
        self._moments: dict[int, el.Moments] = {}
        self._engrams: tuple[tuple, dict[int, el.Engram]] | None = None
        self._right: dict[bool, dict[str, Tensor]] = {}

    @property
    def moments(self) -> dict[int, el.Moments]:
        """Class 0 to 9 -> what the layers saw of its training images; -1 -> of the five hundred others."""
        if not self._moments:
            self._moments = dict(
                el.collect_by_concept(self.model, self.data.batches("train", 32), lambda batch: batch[1])
            )
            self._moments[-1] = el.collect(self.model, self.data.batches(self.others, 32))
        return self._moments

    def engrams(self, edit: Edit) -> dict[int, el.Engram]:
        """Class -> engram; those of the last λ, cut and reference are kept."""
        key = edit.reference, edit.lam, edit.rcond
        if self._engrams is None or self._engrams[0] != key:
            used = {c: m for c, m in self.moments.items() if c >= 0 or edit.reference != REFERENCES[0]}
            found = el.extract_all(self.model, used, specificity=edit.lam, rcond=edit.rcond)
            self._engrams = key, {c: engram for c, engram in found.items() if c >= 0}
        return self._engrams[1]

    def right(self) -> dict[str, Tensor]:
        """Which images are answered rightly, among a thousand classes: the ten classes' test set, and the witnesses."""
        return {name: self._answered(part) for name, part in (("ten", self.data.test), ("witnesses", self.witnesses))}

    def _answered(self, part: LazySplit) -> Tensor:
        device = next(self.model.parameters()).device
        with arithmetic(device, mixed=self.mixed):
            found = torch.cat([predict(self.model, x.to(device, **LAST)).cpu() for x, _ in self.data.batches(part, 64)])
        return found == (self.index[part.y] if part is self.data.test else part.y)

    def before(self, *, refitted: bool = False) -> dict[str, Tensor]:
        """`right` of the network as it came; `refitted`: with its statistics estimated anew, on all classes' images."""
        if refitted not in self._right:
            if refitted:
                with self.refitted():
                    self._right[refitted] = self.right()
            else:
                self._right[refitted] = self.right()
        return self._right[refitted]

    @contextmanager
    def refitted(self, erased: int | None = None) -> Iterator[None]:
        """BatchNorm's statistics of `REFIT` images, none of the erased class; afterwards as they were, bit for bit."""
        old = {name: value.clone() for name, value in self.model.named_buffers()}
        train = self.data.train if erased is None else self.data.train.where(self.data.train.y != erased)
        device = next(self.model.parameters()).device
        try:
            with arithmetic(device, mixed=self.mixed):
                update_bn(self._drawn((train, self.others), device), self.model)
            yield
        finally:
            for name, value in self.model.named_buffers():
                value.copy_(old[name])

    def _drawn(self, parts: Sequence[LazySplit], device: torch.device) -> Iterator[Tensor]:
        """Batches of both parts mixed, as many images of each as its size says."""
        total, luck = sum(map(len, parts)), torch.Generator().manual_seed(0)
        some = []
        for part in parts:
            chosen = torch.zeros(len(part), dtype=torch.bool)
            chosen[torch.randperm(len(part), generator=luck)[: round(min(1.0, REFIT / total) * len(part))]] = True
            some += [x for x, _ in self.data.batches(part.where(chosen), 64)]
        images = torch.cat(some)
        for batch in images[torch.randperm(len(images), generator=luck)].split(64):
            yield batch.to(device, **LAST)

    def share(self, edit: Edit) -> float:
        target = len(self.data.train) / self.data.n_classes
        rest = len(self.data.train) - target + (len(self.others) if edit.reference != REFERENCES[0] else 0)
        return target / (target + edit.lam * rest)

    def erase(self, edit: Edit, erased: int) -> list[Row]:
        """Rows of one class erased; the edit is undone bit for bit."""
        again = edit.control == "refitted"
        before, engram = self.before(refitted=again), self.engrams(edit)[erased]
        if edit.control == "random":
            total = sum((m for c, m in self.moments.items() if c > 0), self.moments[0])
            engram = random_subspace(self.model, engram, erased, moments=total)
        with el.edited(self.model, -edit.alpha * engram), self.refitted(erased) if again else nullcontext():
            after = self.right()
        own = self.data.test.y == erased
        masks = {"own": ("ten", own), "nine": ("ten", ~own), "witnesses": ("witnesses", slice(None))}
        rows = []
        for tested in TESTED:
            part, mask = masks[tested]
            old, new = before[part][mask], after[part][mask]
            facts = {"study": "classes", **asdict(edit), "erased": erased, "tested": tested, "n": len(old)}
            flips = {"lost": int((old & ~new).sum()), "won": int((~old & new).sum())}
            accuracy = {"before": float(old.double().mean()), "after": float(new.double().mean())}
            rows.append({**facts, **accuracy, **flips, "share": self.share(edit)})
        return rows


def subject() -> Subject:
    """The published network with real images. Raises `DatasetUnavailable` or `WeightsUnavailable`."""
    return Subject(zoo.efficientnet_lite0().to(recording.device()), imagenette(), imagenet_samples(), mixed=True)


def summary(rows: Sequence[Row]) -> recording.Summary:
    """Means over the ten classes, one line an edit and a tested part, with the standard deviation over classes."""
    by = ("reference", "lam", "alpha", "rcond", "control", "tested")
    lines = []
    for line in runs.mean_sd(rows, "after", by=by, over="erased"):
        facts = {name: line[name] for name in by}
        losses = [r | {"loss": r["before"] - r["after"]} for r in runs.select(rows, facts)]
        (loss,) = runs.mean_sd(losses, "loss", by=by, over="erased")
        lines.append(facts | {"after": line["mean"], "sd": line["sd"], "loss": loss["mean"], "loss_sd": loss["sd"]})
    return {"classes": lines}


def main(argv: Sequence[str] | None = None) -> int:
    options = recording.parser("thousand", __doc__, "pretrained-imagenet", seeds=None)
    args = options.parse_args(argv)
    if not args.record:
        options.error("this study is only recorded; add --record")
    try:
        found = subject()
    except DatasetUnavailable as error:
        options.error(str(error))

    def parts() -> Iterator[recording.Part]:
        for edit in EDITS:
            for erased in range(len(CLASSES)):
                yield {"edit": asdict(edit), "erased": erased}, partial(found.erase, edit, erased)

    prints = [part.fingerprint() for part in (found.data, found.others, found.witnesses)]
    data = {"name": "Imagenette, and one image of each of ImageNet's classes", "fingerprint": "-".join(prints)}
    config = {"edits": [asdict(edit) for edit in EDITS], "model": LITE0.name, "sha256": LITE0.sha256}
    recording.record("pretrained-imagenet", parts(), args, config=config, seeds=[0], data=data, summary=summary)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
