"""Every step on every model: beside a bare forward pass, and beside the authors' package."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch

import engramlib as el
from tests.benchmarks import data, peer
from tests.benchmarks.models import Case, Layers, Scene
from tests.benchmarks.timing import Task, digits, interleaved, ratio, threads

ALPHAS = [i / 10 for i in range(20)]
RCOND = 1e-6  # the default cut
TOLERANCE = 1e-2  # what two packages' engrams may differ by and still be the same answer


class Steps:
    """The calls that are timed, and weighed, on one model."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.case, self.model = scene, scene.case, scene.model
        self.theirs = peer.Peer(scene) if peer.version() and scene.case.peer else None
        self.gaps: dict[str, float] = {}
        self.settled: dict[str, dict[str, float]] = {}  # where the answers differ: who is right

    # ------------------------------------------------------------------ what the steps work on, made when needed

    def moments(self, concepts: int, layers: Layers) -> dict[int, el.Moments]:
        return el.collect_by_concept(
            self.model, self.scene.all, self.scene.grouped(concepts), layers=layers, forward=self.scene.call
        )

    @cached_property
    def ten(self) -> dict[int, el.Moments]:
        """Ten concepts at the layers that are extracted."""
        return self.moments(10, self.case.extracted or self.case.layers)

    @cached_property
    def total(self) -> el.Moments:
        return sum(self.ten.values())  # type: ignore[return-value]

    @cached_property
    def few(self) -> dict[int, dict[int, el.Moments]]:
        """Number of concepts -> their moments, at few layers."""
        return {n: self.moments(n, self.case.few) for n in self.case.concepts if n > 1}

    @cached_property
    def engram(self) -> el.Engram:
        return self.extract(self.ten, self.total)

    def extract(self, moments: dict[int, el.Moments], total: el.Moments, concept: int = 0) -> el.Engram:
        return el.extract(self.model, moments[concept], total - moments[concept])

    # ------------------------------------------------------------------------------------------------- groups

    def passes(self) -> dict[str, Task]:
        """What goes over the data, and edits, beside a forward pass over the same data."""
        scene, model, case = self.scene, self.model, self.case
        found: dict[str, Task] = {
            "forward": self.forward,
            "collect": lambda: el.collect(model, scene.timed, layers=case.layers, forward=scene.call),
        }
        for n in case.concepts:
            found[f"collect {_concepts(n)}"] = self._collecting(n)
        found["edit and undo"] = self.edit_and_undo
        found["edit in place"] = self.edit_in_place
        return found

    def _collecting(self, concepts: int) -> Task:
        scene, label = self.scene, self.scene.grouped(concepts)
        few = self.case.few or self.case.layers
        return lambda: el.collect_by_concept(self.model, scene.timed, label, layers=few, forward=scene.call)

    @torch.no_grad()
    def forward(self) -> None:
        for batch in self.scene.timed:
            self.scene.call(self.model, batch)

    def edit_and_undo(self) -> None:
        with el.edited(self.model, self.minus):
            pass

    @cached_property
    def minus(self) -> el.Engram:
        return -self.engram

    def edit_in_place(self) -> None:
        """There and back: two edits, so that the model stays what it was."""
        el.ablate(self.model, self.engram, 0.5, inplace=True)
        el.inject(self.model, self.engram, 0.5, inplace=True)

    def solves(self) -> dict[str, Task]:
        """Extraction, beside a forward pass; 10 and 100 concepts at few layers."""
        found: dict[str, Task] = {"forward": self.forward, "extract": lambda: self.extract(self.ten, self.total)}
        for n, moments in self.few.items():
            found[f"extract {_concepts(n)}"] = lambda m=moments: el.extract_all(self.model, m)
        total = sum(self.few[10].values())
        found["extract 1 concept"] = lambda: self.extract(self.few[10], total)
        found["extract 10 one by one"] = lambda: [self.extract(self.few[10], total, c) for c in range(10)]
        return found

    def sweeps(self) -> dict[str, Task]:
        """20 strengths, each measured on one batch, beside the 20 forward passes that this takes anyway."""
        batch = self.scene.timed[0]

        @torch.no_grad()
        def measure(model: torch.nn.Module) -> None:
            self.scene.call(model, batch)

        return {
            "20 forward passes": lambda: [measure(self.model) for _ in ALPHAS],
            "sweep": lambda: el.sweep(self.model, self.engram, ALPHAS, measure),
        }

    def forgets(self) -> dict[str, Task]:
        """Texts in, a model out that forgot a tenth of them."""
        n = self.case.timed * self.case.batch
        texts, layers = data.texts(self.scene.x[:n]), self.case.extracted
        gone = {i for i in range(n) if int(self.scene.concept[i]) % 10 == 0}
        forget, retain = ([t for i, t in enumerate(texts) if (i in gone) == kept] for kept in (True, False))
        found: dict[str, Task] = {
            "forward": self.forward,
            "forget": lambda: el.forget(
                self.model, data.words, forget, retain, layers=layers, batch_size=self.case.batch
            ),
        }
        if self.theirs:
            theirs, part = self.theirs, self.scene.of_concept(0, 10, n)
            found["theirs: forget"] = lambda: theirs.forget(part, self.scene.timed, layers)
        return found

    def beside(self) -> dict[str, dict[str, Task]]:
        """The same work by the authors' package, group by group, under "theirs: ..."."""
        if self.theirs is None:
            return {}
        scene, theirs, layers, timed = self.scene, self.theirs, list(self.case.peer or ()), self.scene.timed

        def collect(**how: Any) -> el.Moments:
            return el.collect(self.model, timed, layers=layers, forward=scene.call, **how)

        collects: dict[str, Task] = {
            "collect": collect,
            "collect in float32": lambda: collect(dtype=torch.float32),
            "theirs: collect": lambda: theirs.collect(timed, layers),
        }
        if not self.case.most_threads:
            label, n = scene.grouped(10), self.case.timed * self.case.batch
            parts = [scene.of_concept(c, 10, n) for c in range(10)]
            collects["collect 10 concepts"] = lambda: el.collect_by_concept(
                self.model, timed, label, layers=layers, forward=scene.call
            )
            collects["theirs: collect 10 concepts"] = lambda: [theirs.collect(part, layers) for part in parts]

        # Statistics of the same examples, theirs by their own passes.
        names, few = self.shared(self.ten[0]), self.shared(self.few[10][0])
        total = theirs.collect(scene.all, sorted({*names, *few}))
        each = [theirs.collect(scene.of_concept(c, 10, self.case.examples), list(total)) for c in range(10)]
        one, ten = _only(each[0], names), [_only(part, few) for part in each]
        mine, whole = {0: self.ten[0].select(names)}, self.total.select(names)
        mine_few = {c: m.select(few) for c, m in self.few[10].items()}
        solves: dict[str, Task] = {
            "extract": lambda: self.extract(mine, whole),
            "theirs: extract": lambda: theirs.extract(one, total),
            "extract 10 concepts": lambda: el.extract_all(self.model, mine_few),
            "theirs: extract 10 concepts": lambda: [theirs.extract(part, total) for part in ten],
        }
        if 100 in self.few:
            hundred = {c: m.select(few) for c, m in self.few[100].items()}
            solves["extract 100 concepts"] = lambda: el.extract_all(self.model, hundred)
        engram, their_engram = self.extract(mine, whole), theirs.extract(one, total)
        pairs = zip(el.extract_all(self.model, mine_few).values(), ten, strict=True)
        self.gaps = {
            "extract": peer.gap(engram, their_engram),
            "extract 10 concepts": max(peer.gap(found, theirs.extract(part, total)) for found, part in pairs),
        }
        if self.gaps["extract"] > TOLERANCE:
            answers = {"ours": {name: engram[name].weight for name in names}, "theirs": peer.as_ours(their_engram)}
            self.settled["extract"] = self.settle(names, answers)

        def edit() -> None:
            el.ablate(self.model, engram, 0.5, inplace=True)
            el.inject(self.model, engram, 0.5, inplace=True)

        def their_edit() -> None:
            for alpha in (0.5, -0.5):
                theirs.apply(their_engram, alpha)

        return {
            "collects": collects,
            "solves": solves,
            "edits": {"edit in place": edit, "theirs: edit in place": their_edit},
        }

    def settle(self, names: list[str], answers: dict[str, dict[str, torch.Tensor]]) -> dict[str, float]:
        """How far each answer is from the dense formula on float64 sums, and the nearest eigenvalue from the cut."""
        exact = el.collect_by_concept(
            self.model,
            self.scene.all,
            self.scene.grouped(10),
            layers=names,
            forward=self.scene.call,
            exact=True,
        )
        total, found = sum(exact.values()), {who: 0.0 for who in answers} | {"nearest": math.inf}  # type: ignore[arg-type]
        for name in names:
            values, vectors = torch.linalg.eigh(total[name].double())
            kept = values > RCOND * values[-1]
            pinv = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
            layer = self.model.get_submodule(name)
            matrix = torch.cat([layer.weight, layer.bias[:, None]], 1) if layer.bias is not None else layer.weight
            right = (matrix.detach().double() @ exact[0][name].double() @ pinv)[:, : layer.weight.shape[1]]
            for who, answer in answers.items():
                found[who] = max(found[who], peer.relative(answer[name], right))
            found["nearest"] = min(found["nearest"], float((values / (RCOND * values[-1]) - 1).abs().min()))
        return {key: digits(value) for key, value in found.items()}

    def shared(self, moments: el.Moments) -> list[str]:
        """The layers of these that both packages reach."""
        return [name for name in moments if any(f".{name}".endswith(f".{end}") for end in self.case.peer or ())]


def _only(statistics: Any, names: list[str]) -> Any:
    """The authors' statistics of some layers."""
    return type(statistics)({n: statistics[n] for n in names}, {n: statistics.count[n] for n in names})


def _concepts(n: int) -> str:
    return f"{n} concept{'s' * (n > 1)}"


# --------------------------------------------------------------------------------------------------- measuring

# Ratios within a group, beside that to its first task: (step, beside).
ALSO = [
    ("collect 10 concepts", "collect 1 concept"),
    ("collect 100 concepts", "collect 1 concept"),
    ("extract 10 one by one", "extract 10 concepts"),
    ("extract 10 concepts", "extract 1 concept"),
    ("extract 100 concepts", "extract 10 concepts"),
]


def measure(case: Case, device: str, thread_count: int, rounds: int) -> dict[str, Any]:
    """All ratios of one model."""
    with threads(thread_count):
        steps = Steps(Scene(case, device))
        groups = {"passes": steps.passes(), "solves": steps.solves(), "sweeps": steps.sweeps()}
        if steps.scene.language and not case.most_threads:
            groups["forgets"] = steps.forgets()
        rows, theirs = [], []
        for group, tasks in groups.items():
            seconds = interleaved(tasks, rounds, device)
            first = next(iter(tasks))
            pairs = [(name, first) for name in tasks if name != first and not name.startswith("theirs")] + ALSO
            rows += [
                {"group": group, "step": step, "beside": beside} | ratio(seconds, step, beside)
                for step, beside in pairs
                if step in seconds and beside in seconds
            ]
            theirs += _against(group, seconds)
        for group, tasks in steps.beside().items():
            seconds = interleaved(tasks, rounds, device)
            if "extract 100 concepts" in seconds:
                # Theirs takes one concept after the other, each as long as another; a hundred is minutes a round.
                ten = seconds["theirs: extract 10 concepts"]
                seconds["theirs: extract 100 concepts"] = [10 * one for one in ten]
            theirs += _against(group, seconds)
        gaps = steps.gaps
        if steps.theirs and "forgets" in groups:
            edited = [groups["forgets"][name]() for name in ("forget", "theirs: forget")]
            gaps["forget"] = peer.model_gap(*edited, steps.model)  # type: ignore[arg-type]
        for row in theirs:
            row["gap"] = digits(gaps[row["step"]]) if row["step"] in gaps else None
            row |= {"settled": steps.settled[row["step"]]} if row["step"] in steps.settled else {}
        return {
            "title": case.title,
            "note": case.note,
            "threads": thread_count,
            "columns": steps.scene.columns(),
            "parameters": sum(p.numel() for p in steps.model.parameters()),
            "cut": cut(steps.total),
            "rows": rows,
            "peer": {"version": peer.version(), "rows": theirs},
        }


def _against(group: str, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """How many times as long the authors' package takes as ours, in float64 and, where theirs is float32, in that."""
    rows = []
    for name in seconds:
        step = name.removeprefix("theirs: ")
        if name != step:
            for ours in (step, f"{step} in float32"):
                if ours in seconds:
                    rows.append({"group": group, "step": step, "ours": ours} | ratio(seconds, name, ours))
    return rows


def cut(moments: el.Moments, rcond: float = RCOND) -> dict[str, Any]:
    """How well conditioned the distinct Σ are: it decides how they are factorised, and so what that costs."""
    values = [torch.linalg.eigvalsh(sigma) for sigma in {id(s): s for s in moments.values()}.values()]
    below = [int((v <= rcond * v[..., -1:]).sum()) for v in values]
    conditions = sorted(float((v[..., -1] / v[..., 0].clamp_min(1e-300)).max()) for v in values)
    return {
        "matrices": len(values),
        "with a cut": sum(map(bool, below)),
        "directions": sum(v.numel() for v in values),
        "cut": sum(below),
        "condition": digits(min(conditions[len(conditions) // 2], 1e16), 2),
    }
