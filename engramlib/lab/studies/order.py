"""Does the order of forgetting matter? Chapter 16, after arXiv:2607.24805; digits small, a pretrained model recorded.

    python -m engramlib.lab.studies order --record      # data/runs/order-pretrained.json: SmolLM2, the note's probes

Two arms. *Once*: all engrams are extracted from the model as it came, and added. *In turn*: after each cut the next one
is extracted anew, from the weights and the moments that the cut model has. Rows:

    pairs       one row a pair: `distance` = ‖in turn − once‖ / ‖once‖ (mean of both orders), `between` = ‖one order −
                the other‖ / ‖once‖, how much the two concepts overlap, and the `between` that their commutator predicts
    sequence    one row a step of a sequence and an arm: what is left of the first concept, of all that were cut, what
                is kept, and the drift of the survivors' moments
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import engramlib as el
from engramlib import language
from engramlib.lab.data import ImageData, world
from engramlib.lab.models import zoo
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import pretrained, recording
from engramlib.lab.studies.classwise import moments_by_class
from engramlib.layers import find_layers

ALPHA = 0.6  # the note's


@dataclass(frozen=True, eq=False)
class Memory:
    """A model, and what its layers see of each concept *as it is now*: `look(model)` -> concept -> moments.

    `rest`: a key of `look` that is no concept to forget, but counts as something to keep.
    """

    model: nn.Module
    look: Callable[[nn.Module], Mapping[object, el.Moments]]
    alpha: float = ALPHA
    rcond: float = 1e-3
    _kept: dict = field(default_factory=dict, init=False, repr=False)

    def moments(self) -> Mapping[object, el.Moments]:
        """What the model saw before anything was cut."""
        if "moments" not in self._kept:
            self._kept["moments"] = self.look(self.model)
        return self._kept["moments"]

    def engram(self, concept: object) -> el.Engram:
        """α times the engram of a concept in the model as it came."""
        if concept not in self._kept:
            self._kept[concept] = self.cut(self.model, self.moments(), concept)
        return self._kept[concept]

    def cut(self, model: nn.Module, moments: Mapping[object, el.Moments], concept: object) -> el.Engram:
        """α times the engram of a concept, from a model and what its layers see, against everything else."""
        rest = sum(part for name, part in moments.items() if name != concept)
        return self.alpha * el.extract(model, moments[concept], rest, rcond=self.rcond)

    def once(self, concepts: Sequence[object]) -> list[el.Engram]:
        """What is subtracted after each step, all engrams from the model as it came."""
        found: list[el.Engram] = []
        for concept in concepts:
            found.append(found[-1] + self.engram(concept) if found else self.engram(concept))
        return found

    def in_turn(self, concepts: Sequence[object]) -> list[el.Engram]:
        """What is subtracted after each step, each engram from the model that the steps before it left."""
        found = [self.engram(concepts[0])]
        for concept in concepts[1:]:
            with el.edited(self.model, -found[-1]) as model:
                found.append(found[-1] + self.cut(model, self.look(model), concept))
        return found

    def projections(self, concept: object) -> dict[str, Tensor]:
        """Layer -> P = Σ_c Σ†, of the model as it came."""
        if ("P", concept) not in self._kept:
            if "inverse" not in self._kept:
                total = sum(self.moments().values())
                self._kept["inverse"] = {n: el.spectral.Spectrum(total[n], self.rcond).pinv() for n in total}
            inverse, own = self._kept["inverse"], self.moments()[concept]
            self._kept["P", concept] = {name: own[name].to(inverse[name]) @ inverse[name] for name in own}
        return self._kept["P", concept]

    def pair(self, a: object, b: object) -> Row:
        """`distance` and `between` of the note for two concepts, their `overlap`, and what `predicted` says before."""
        once = self.once([a, b])[-1]
        ab, ba = self.in_turn([a, b])[-1], self.in_turn([b, a])[-1]
        size = once.norm()
        return {
            "a": a,
            "b": b,
            "distance": fmean([(ab - once).norm() / size, (ba - once).norm() / size]),
            "between": (ab - ba).norm() / size,
            "overlap": self.overlap(a, b),
            "predicted": self.predicted(a, b),
        }

    def overlap(self, a: object, b: object) -> float:
        """tr(P_a P_b) / √(tr P_a² · tr P_b²), mean over the layers: 1 for a concept with itself.

        In whitened coordinates, the cosine between the matrices of shares of the two.
        """
        mine, theirs = self.projections(a), self.projections(b)

        def trace(p: Tensor, q: Tensor) -> Tensor:
            return (p * q.mT).sum()

        return fmean(
            float(trace(p, theirs[n]) / (trace(p, p) * trace(theirs[n], theirs[n])).sqrt()) for n, p in mine.items()
        )

    def predicted(self, a: object, b: object) -> float:
        """α²‖W(P_a P_b − P_b P_a)‖ / ‖edit‖ over all layers: the order effect if no moments changed. Needs no edit."""
        layers, mine, theirs = find_layers(self.model, list(self.engram(a))), self.projections(a), self.projections(b)
        square = 0.0
        for name, layer in layers.items():
            e_a, e_b = (layer.matrix(*self.engram(c)[name]).to(mine[name]) for c in (a, b))  # α W P_c
            square += self.alpha**2 * float((e_a @ theirs[name] - e_b @ mine[name]).square().sum())
        return square**0.5 / self.once([a, b])[-1].norm()


def drift(before: Mapping[object, el.Moments], now: Mapping[object, el.Moments], survivors: Iterable[object]) -> float:
    """‖Σ' − Σ‖ / ‖Σ‖ of what stays, mean over layers and survivors."""
    values = [
        float((now[c][name].double() - before[c][name].double()).norm() / before[c][name].double().norm())
        for c in survivors
        for name in before[c]
    ]
    return fmean(values)


# --------------------------------------------------------------------------------------------------------- digits


def of_images(model: nn.Module, data: ImageData, *, flat: bool = False, exact: bool = False, **how) -> Memory:
    """The classes of images as concepts. `flat`: an image is a row; `exact`: sums in float64, for very fine cuts."""
    return Memory(model, lambda m: moments_by_class(m, data.train, batch_size=1024, flat=flat, exact=exact), **how)


@torch.no_grad()
def of_classes(model: nn.Module, data: ImageData, *, split: str = "test", flat: bool = False) -> tuple[list, list]:
    """(accuracy, NLL of the right answer) of each class."""
    part = data.split(split)
    logits = model(part.x.flatten(1) if flat else part.x)
    right = (logits.argmax(1) == part.y).double()
    nll = F.cross_entropy(logits, part.y, reduction="none").double()
    classes = range(data.n_classes)
    return [[float(values[part.y == c].mean()) for c in classes] for values in (right, nll)]


def sequence(memory: Memory, concepts: Sequence[int], data: ImageData, *, flat: bool = False) -> list[Row]:
    """Rows of the study "sequence": a step after the other, in both arms. `nll_first`: of the concept cut first."""
    survivors = [c for c in range(data.n_classes) if c not in concepts]
    rows = []
    for arm, changes in (("once", memory.once(concepts)), ("in turn", memory.in_turn(concepts))):
        for step, change in enumerate(changes, start=1):
            with el.edited(memory.model, -change) as model:
                right, nll = of_classes(model, data, flat=flat)
                moved = drift(memory.moments(), memory.look(model), survivors)
            rows.append(
                {
                    "study": "sequence",
                    "arm": arm,
                    "step": step,
                    "first": concepts[0],
                    "left_first": right[concepts[0]],
                    "nll_first": nll[concepts[0]],
                    "left": fmean(right[c] for c in concepts[:step]),
                    "kept": fmean(right[c] for c in survivors),
                    "drift": moved,
                }
            )
    return rows


# ------------------------------------------------------------------------------------------------ a pretrained model

# The note's probes that one relation has many words for, and three neighbours: sights of one city, and of others.
PROBES = ("the Eiffel Tower", "the Louvre", "Notre-Dame Cathedral", "the Colosseum", "the Brandenburg Gate", "Big Ben")
PAIRS = {
    "overlapping": (
        ("the Eiffel Tower", "the Louvre"),
        ("the Louvre", "Notre-Dame Cathedral"),
        ("the Eiffel Tower", "Notre-Dame Cathedral"),
    ),
    "distant": (
        ("the Eiffel Tower", "the Colosseum"),
        ("the Louvre", "the Brandenburg Gate"),
        ("Notre-Dame Cathedral", "Big Ben"),
    ),
}
LAYERS = pretrained.PLACES["attention"]
RCOND = 1e-4


def wordings(subject: str, split: str) -> list[world.Item]:
    """One sight in all its words of a split."""
    return [fact.pair for fact in world.facts("sights") if fact.subject == subject and fact.split == split]


def survivors(near: int = 120, rest: int = 12) -> list[world.Item]:
    """What stays: other sights in used words, none of `PROBES`, and other facts and texts."""
    sets = world.sets("Paris", near=near, rest=rest)
    kept = [item for part in ("near", "other", "text") for item in sets[part]["used"]]
    return [item for item in kept if isinstance(item, str) or not any(probe in item[0] for probe in PROBES)]


def of_model(lm: zoo.LanguageModel) -> Memory:
    """The probes as concepts, at the positions that predict the answers, and what stays under the key "rest"."""
    sides: dict[object, list[world.Item]] = {probe: wordings(probe, "used") for probe in PROBES} | {"rest": survivors()}

    def look(model: nn.Module) -> dict[object, el.Moments]:
        return {
            name: language.collect(model, lm.tokenizer, items, layers=LAYERS, shift=True, batch_size=32)
            for name, items in sides.items()
        }

    return Memory(lm.model, look, rcond=RCOND)


def record_pairs(memory: Memory, kind: str, pair: tuple[str, str]) -> list[Row]:
    return [{"study": "pairs", "seed": 0, "kind": kind, **memory.pair(*pair)}]


def record_sequence(memory: Memory, lm: zoo.LanguageModel, probes: Sequence[str]) -> list[Row]:
    """Rows of "sequence": NLL and greedy share of each probe's held-out words after each cut, in both arms."""
    rows = []
    for arm, changes in (("once", memory.once(probes)), ("in turn", memory.in_turn(probes))):
        for step, change in enumerate([0.0 * changes[0], *changes]):
            with el.edited(lm.model, -change):
                asked = {p: pretrained.ask(lm, [*wordings(p, "validation"), *wordings(p, "held_out")]) for p in probes}
                moved = drift(memory.moments(), memory.look(lm.model), ["rest"]) if step else 0.0
            for probe, found in asked.items():
                facts = {"study": "sequence", "arm": arm, "step": step, "first": probes[0], "probe": probe}
                rows.append({**facts, "n": len(found.nll), "right": found.share, "nll": found.mean, "drift": moved})
    return rows


def _parts(lm: zoo.LanguageModel) -> Iterator[recording.Part]:
    memory = of_model(lm)
    for kind, pairs in PAIRS.items():
        for pair in pairs:
            yield {"pair": list(pair)}, lambda kind=kind, pair=pair: record_pairs(memory, kind, pair)
    yield {"sequence": list(PROBES)}, lambda: record_sequence(memory, lm, PROBES)


def main(argv: Sequence[str] | None = None) -> int:
    args = recording.parser("order", __doc__, "order-pretrained").parse_args(argv)
    lm = zoo.smollm2()
    lm = lm._replace(model=lm.model.to(recording.device()))
    if not args.record:
        print(of_model(lm).pair(*PAIRS["overlapping"][0]))
        return 0
    config = {"model": lm.label, "weights": zoo.fingerprint(lm.model), "alpha": ALPHA, "rcond": RCOND, "layers": LAYERS}
    data = {"name": "facts of the world", "fingerprint": world.fingerprint()}
    recording.record("order-pretrained", _parts(lm), args, config=config, seeds=[0], data=data)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
