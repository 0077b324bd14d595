"""What an engram loses when its moments get a tenth of the memory, and what processes win: chapter 21, and its runs.

    python -m engramlib.lab.studies scale --record               # digits, ViT, small Llamas, three seeds; resumes
    python -m engramlib.lab.studies scale --record --fresh       # ten other digit networks and ViTs, after the first
    python -m engramlib.lab.studies scale --record --processes   # 1, 2 and 4 processes under torchrun, on this machine
    python -m engramlib.lab.studies scale --record --pretrained  # SmolLM2; downloads it once

Every keeper gets the same share of the bytes of Σ⁺ and Σ⁻ together, `part` of it for the target, and all of them keep
the exact diagonal (`KEEPERS`):

    whole        Σ as it is
    sketch       Frequent Directions, while the pass runs
    truncated    the largest eigenvectors, from the whole Σ: the best there is, for comparison
    projected    Σ seen through random directions, used well (Nyström): a rival with no certificate
    columns      control: as many columns, drawn at random, each standing for many
    directions   control: Σ on a random subspace of as many directions
    diagonal     control: no rows at all

Studies: "memory" (one row a network, seed, keeper, share and group: `left` of what was erased, `kept` of the rest),
"choice" (strengths tried on the Llamas' rehearsal) and "processes" (one row a process: seconds that it worked, that it
sent, and the largest difference to one process).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib import language
from engramlib._products import as_tensor
from engramlib.lab.data import digits, shapes
from engramlib.lab.metrics.resolution import Interval
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import compensated, divided, forgetting, mlp, overlap, pretrained, recording, transformer
from engramlib.lab.unlearning import text as unlearning
from engramlib.lab.unlearning.text.engrams import LAYERS
from engramlib.layers import find_layers
from engramlib.lowrank import LowRank, rows_for
from engramlib.running import run, to_device

KEEPERS = ("sketch", "truncated", "projected", "columns", "directions", "diagonal")
CONTROLS = ("columns", "directions", "diagonal")
SIDES = ("sketched target", "sketched reference")  # the other side is whole: which of the two matters?
SHARES = (0.5, 0.2, 0.1, 0.05, 0.02)
TENTH = 0.1
PARTS = (0.5, 0.25, 0.15, 0.05)  # of the bytes: for the target


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and what is done to it. `batches(group, target)`: the data of one side. `scores(model, group, split)`:
    (`left`, `kept`). `how`: arguments of `el.collect` for all passes.
    """

    model: nn.Module
    batches: Callable[[Any, bool], list]
    scores: Callable[[nn.Module, Any, str], tuple[float, float]]
    seed: int
    groups: tuple = (0,)
    cut: float = 1e-6
    lam: float = 1.0
    alpha: float = 1.0
    weighted: bool = False
    how: Mapping[str, Any] = field(default_factory=dict)

    def whole(self, group: Any) -> tuple[el.Moments, el.Moments]:
        """Σ⁺ and Σ⁻ as they are."""
        plus, minus = (el.collect(self.model, self.batches(group, side), **self.how) for side in (True, False))
        return plus, minus

    def kept(
        self, group: Any, keeper: str, share: float, whole: tuple[el.Moments, el.Moments], part: float = 0.5
    ) -> tuple[el.Moments, el.Moments]:
        """Both as a keeper has them, with `share` of the bytes of both, `part` of it for the target."""
        found, both = [], share
        for side, full in zip((True, False), whole, strict=True):
            share = 2 * both * (part if side else 1 - part)
            draw = torch.Generator().manual_seed(1000 * self.seed + 2 * list(self.groups).index(group) + side)
            if keeper == "whole" or keeper == SIDES[side]:
                found.append(full)
            elif keeper == "sketch" or keeper in SIDES:
                found.append(el.collect(self.model, self.batches(group, side), rank=share, **self.how))
            elif keeper == "columns":
                found.append(sampled(self.model, self.batches(group, side), share, draw, **self.how))
            else:
                found.append(reduced(full, keeper, share, draw))
        return found[0], found[1]

    def engram(self, plus: el.Moments, minus: el.Moments) -> el.Engram:
        engram = el.extract(self.model, plus, minus, specificity=self.lam, rcond=self.cut)
        return engram.norm_weighted() if self.weighted else engram

    def measure(self, plus: el.Moments, minus: el.Moments, group: Any) -> tuple[float, float]:
        """(`left`, `kept`) after the edit."""
        return self.scores(el.ablate(self.model, self.engram(plus, minus), self.alpha), group, "test")


# ------------------------------------------------------------------------------------------------------- keepers


def reduced(full: el.Moments, keeper: str, share: float, draw: torch.Generator) -> el.Moments:
    """What a keeper that sees the whole Σ keeps of it; layers go on sharing."""
    if keeper == "truncated":
        return full.compress(share)
    made: dict[int, Any] = {}
    for name in full:
        sigma = full.stored(name)
        if id(sigma) not in made:
            rows = rows_for(share, sigma.shape[-1]) if sigma.ndim == 2 else None
            made[id(sigma)] = sigma if rows is None else _reduced(as_tensor(sigma).double(), keeper, rows, draw)
    return el.Moments({name: made[id(full.stored(name))] for name in full}, full.count, full.identity)


def _reduced(sigma: Tensor, keeper: str, rows: int, draw: torch.Generator) -> LowRank:
    q = torch.randn(len(sigma), rows, generator=draw, dtype=torch.float64)
    if keeper == "diagonal":
        kept = q.T[:0]
    elif keeper == "directions":  # QQᵀΣQQᵀ, Q an orthonormal basis of a random subspace
        q = torch.linalg.qr(q).Q
        kept = _root(q.T @ sigma @ q) @ q.T
    elif keeper == "projected":  # ΣQ(QᵀΣQ)†QᵀΣ, which a pass can sum up as well as Σ
        y = sigma @ q
        values, vectors = torch.linalg.eigh(q.T @ y)
        good = values > 1e-10 * values[-1]
        kept = (vectors[:, good] / values[good].sqrt()).T @ y.T
    else:
        raise ValueError(f"keeper: expected one of {', '.join(KEEPERS)}, got {keeper!r}.")
    return _of_rows(kept, sigma.diagonal(), rows)


def _root(gram: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(gram)
    return values.clamp_min(0).sqrt().unsqueeze(1) * vectors.T


def _of_rows(rows: Tensor, variances: Tensor, rank: int) -> LowRank:
    kept = LowRank(len(variances), rank)
    kept.rows, kept.variances = rows.float(), variances.double().clone()
    return kept


def sampled(
    model: nn.Module,
    batches: Iterable[Any],
    share: float,
    draw: torch.Generator,
    *,
    layers: Any = None,
    rows: Callable[[Any], Tensor] | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> el.Moments:
    """The control: of each layer's columns as many as a sketch has rows, drawn evenly, times √(columns / drawn)."""
    chosen = find_layers(model, layers)
    best: dict[str, tuple[Tensor, Tensor]] = {}
    variances: dict[str, Tensor] = {}
    count: dict[str, int] = dict.fromkeys(chosen, 0)
    mask: list[Tensor | None] = [None]

    def hook(name: str):
        layer = chosen[name]

        def read(module: nn.Module, args: tuple) -> None:
            x = args[0] if mask[0] is None else args[0][mask[0].to(args[0].device)]
            x = layer.kind.columns(layer.module, x).flatten(0, -2).double()
            if layer.has_bias:
                x = torch.cat([x, x.new_ones(len(x), 1)], 1)
            tickets = torch.rand(len(x), generator=draw)
            size = rows_for(share, x.shape[1]) or len(x)
            if name in best:
                x_all, tickets = torch.cat([best[name][0], x]), torch.cat([best[name][1], tickets])
            else:
                x_all = x
            keep = tickets.argsort()[:size]
            best[name] = x_all[keep], tickets[keep]
            variances[name] = variances.get(name, 0) + x.square().sum(0)
            count[name] += len(x)

        return read

    hooks = [layer.module.register_forward_pre_hook(hook(name)) for name, layer in chosen.items()]
    try:
        with torch.no_grad():
            model.eval()
            for batch in batches:
                batch = to_device(batch, next(model.parameters()).device)
                mask[0] = None if rows is None else rows(batch)
                run(model, batch, forward)
    finally:
        for handle in hooks:
            handle.remove()
    sigma = {
        name: _of_rows(x * (count[name] / len(x)) ** 0.5, variances[name], rows_for(share, x.shape[1]) or len(x))
        for name, (x, _) in best.items()
    }
    identity = el.collect(model, list(batches)[:1], layers=layers, rows=rows, forward=forward).identity
    return el.Moments(sigma, count, identity)


# ------------------------------------------------------------------------------------------------------ networks


def of_images(subject: compensated.Subject, cut: float, groups: Sequence[int] | None = None) -> Subject:
    """A subject of chapter 18 with the paper's edit, λ = α = 1, at its network's own cut."""

    def batches(group: int, target: bool) -> list[Tensor]:
        return subject.images(subject.data.train, group, others=not target)

    def scores(model: nn.Module, group: int, split: str) -> tuple[float, float]:
        found = subject.accuracy(model, split)
        return float(found[group]), float(found[torch.arange(len(found)) != group].mean())

    chosen = tuple(range(len(subject.groups)) if groups is None else groups)
    return Subject(subject.model, batches, scores, subject.seed, chosen, cut)


def of_digits(seed: int, groups: Sequence[int] | None = None) -> Subject:
    """The digit network of chapters 00 to 07."""
    return of_images(compensated.of_digits(seed), mlp.DIGITS.rcond, groups)


def of_authors(problem: unlearning.Problem, seed: int) -> Subject:
    """A small Llama of chapter 13, first trained on plain text, then on authors; α_W-Norm in its blocks."""
    pairs = {True: problem.forget_pairs, False: problem.retain_pairs}

    def batches(group: int, target: bool) -> list:
        return list(language.batches(problem.tokenizer, pairs[target], batch_size=64, eos=problem.eos))

    def forward(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
        model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    how = {
        "layers": LAYERS["blocks"],
        "rows": partial(language.answer_rows, shift=problem.shift),
        "forward": forward,
    }
    edit: dict[str, Any] = {"weighted": True, "cut": problem.rcond}
    return Subject(problem.model, batches, lambda model, *_: problem.accuracies(model), seed, how=how, **edit)


NETWORKS: dict[str, Callable[[int], Subject]] = {
    "digits": of_digits,
    "vit": lambda seed: of_images(compensated.of_vit(seed), transformer.SHAPES.rcond, (0, 4)),
}

# Whether a tenth is enough is asked of networks on which nothing was chosen, with images enough to tell two points.
AGAIN = range(3, 13)
IMAGES = 250  # of a group


def of_fresh_vit(seed: int) -> Subject:
    """The vision transformer with all its groups, each tested on `IMAGES` that only this network sees."""
    whole, settings = compensated.of_vit(seed), transformer.SHAPES
    test = shapes(settings.n_super, settings.n_sub, per_class=2 * IMAGES // settings.n_sub, seed=seed).test
    return of_images(replace(whole, data=replace(whole.data, test=test)), settings.rcond)


FRESH_NETWORKS: dict[str, Callable[[int], Subject]] = {"digits": of_digits, "vit": of_fresh_vit}

# The Llamas' strengths are chosen on the rehearsal, nine tries for every keeper, at chapter 13's λ, up to its α.
TRIES = tuple(round(23.0 * by, 2) for by in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0))
LAM = 10.0
ENTRANTS = (
    ("whole", 1.0, 0.5),
    *(("sketch", share, 0.5) for share in (0.5, 0.2, TENTH)),
    ("sketch", TENTH, 0.15),
    ("columns", TENTH, 0.5),
    ("directions", TENTH, 0.5),
)


def choice(problem: unlearning.Problem, keeper: str, share: float, part: float) -> list[Row]:
    """Rows of the study "choice": nine tries on the rehearsal of seed 0. `chosen`: of those that leave at most a tenth
    of the answers, the one that keeps most; else the one that leaves least."""
    subject = replace(of_authors(problem, 0), lam=LAM)
    engram = subject.engram(*subject.kept(0, keeper, share, subject.whole(0), part))
    rows: list[Row] = []
    for alpha in TRIES:
        left, kept = problem.accuracies(el.ablate(problem.model, engram, alpha))
        facts = {"study": "choice", "network": "authors", "seed": 0, "keeper": keeper, "share": share, "part": part}
        rows.append({**facts, "alpha": alpha, "left": left, "kept": kept, "chosen": False})
    enough = [row for row in rows if row["left"] <= compensated.LEFT]
    best = max(enough, key=lambda row: row["kept"]) if enough else min(rows, key=lambda row: row["left"])
    best["chosen"] = True
    return rows


def applied(problem: unlearning.Problem, seed: int, keeper: str, share: float, part: float, chosen: Row) -> list[Row]:
    """The row of the study "memory" for the authors of one seed, with what the rehearsal chose for this keeper."""
    subject = replace(of_authors(problem, seed), lam=LAM, alpha=chosen["alpha"])
    whole = subject.whole(0)
    plus, minus = subject.kept(0, keeper, share, whole, part)
    left, kept = subject.measure(plus, minus, 0)
    size = sum(m.nbytes for m in (plus, minus)) / sum(m.nbytes for m in whole)
    facts = {"study": "memory", "network": "authors", "seed": seed, "group": 0, "split": "test", "keeper": keeper}
    return [{**facts, "share": share, "part": part, "bytes": size, "left": left, "kept": kept, "apart": None}]


def memory(
    subject: Subject,
    *,
    network: str,
    shares: Sequence[float] = SHARES,
    keepers: Sequence[str] = KEEPERS,
    others: Sequence[float] | None = None,
    parts: Sequence[float] = (0.5,),
    splits: Sequence[str] = ("test",),
) -> list[Row]:
    """Rows of the study "memory". `shares`: of the sketch; `others`: of the other keepers, None = the same.

    `bytes`: of both moments, as a share of those of the whole ones. `apart` = ‖Ŵ⁺ − W⁺‖ / ‖W⁺‖.
    """
    rows = []
    for group in subject.groups:
        whole = subject.whole(group)
        size = sum(m.nbytes for m in whole)
        engram = subject.engram(*whole)
        facts = {"study": "memory", "network": network, "seed": subject.seed, "group": group}
        wanted = [(k, s) for k in keepers for s in (shares if k == "sketch" or others is None else others)]
        asked = [(k, s, p) for k, s in wanted for p in (parts if k not in SIDES else (0.5,))]
        for keeper, share, part in [("whole", 1.0, 0.5), *asked]:
            plus, minus = subject.kept(group, keeper, share, whole, part)
            found = subject.engram(plus, minus)
            model = el.ablate(subject.model, found, subject.alpha)
            for split in splits:
                left, kept = subject.scores(model, group, split)
                rows.append(
                    {
                        **facts,
                        "split": split,
                        "keeper": keeper,
                        "share": share,
                        "part": part,
                        "bytes": sum(m.nbytes for m in (plus, minus)) / size,
                        "left": left,
                        "kept": kept,
                        "apart": (found - engram).norm() / engram.norm(),
                    }
                )
    return rows


def per_seed(
    rows: Iterable[Row],
    keeper: str,
    share: float,
    key: str,
    network: str | None = None,
    part: float = 0.5,
    split: str = "test",
) -> list[float]:
    """One number a seed: the mean over groups of `key`.

    "differs": the larger of the two differences to the whole moments' outcome, `left` and `kept`, each averaged over
    groups first; "worse": the same, where it is for the worse (more left, less kept): negative is a gain on both sides.
    """
    wanted = {"study": "memory", "split": split} | ({} if network is None else {"network": network})
    own = {"keeper": keeper} | ({} if keeper == "whole" else {"share": share, "part": part})
    found: dict[str, dict[int, dict[str, float]]] = {}
    for which, asked in (("own", own), ("whole", {"keeper": "whole"})):
        seeds: dict[int, list[Row]] = {}
        for row in runs.select(rows, wanted | asked):
            seeds.setdefault(row["seed"], []).append(row)
        names = ("left", "kept", *(() if key in ("left", "kept", "differs", "worse") else (key,)))
        found[which] = {s: {n: fmean(r[n] for r in here) for n in names} for s, here in sorted(seeds.items())}
    if key not in ("differs", "worse"):
        return [each[key] for each in found["own"].values()]
    base = found["whole"]
    more = [(o["left"] - base[s]["left"], base[s]["kept"] - o["kept"]) for s, o in found["own"].items()]
    return [max(map(abs, pair)) if key == "differs" else max(pair) for pair in more]


def gaps(
    rows: Sequence[Row], keeper: str, share: float, network: str, part: float = 0.5
) -> dict[str, tuple[list[float], Interval]]:
    """What a keeper's edit has more than that of the whole moments, under "left" and under "kept".

    One number a seed, and Student's 95 % interval of their mean: over other networks, with their test images where each
    has its own.
    """
    found: dict[str, tuple[list[float], Interval]] = {}
    for key in ("left", "kept"):
        base = per_seed(rows, "whole", 1.0, key, network)
        own = per_seed(rows, keeper, share, key, network, part)
        each = [a - b for a, b in zip(own, base, strict=True)]
        found[key] = each, Interval(*overlap.student(each))
    return found


def held(gap: Mapping[str, tuple[list[float], Interval]], margin: float = 0.02) -> bool | None:
    """Whether both differences are smaller than `margin`: True where both intervals lie within it, False where one lies
    beyond, None where so few networks cannot tell."""
    intervals = [interval for _, interval in gap.values()]
    if all(i.above(-margin) and i.below(margin) for i in intervals):
        return True
    return False if any(i.above(margin) or i.below(-margin) for i in intervals) else None


def chosen_part(rows: Sequence[Row], networks: Sequence[str]) -> float:
    """The target's part of a tenth that differs least on validation images: the worst network, mean over seeds."""

    def worst(part: float) -> float:
        return max(fmean(per_seed(rows, "sketch", TENTH, "differs", n, part, "val")) for n in networks)

    return min(PARTS, key=worst)


# ----------------------------------------------------------------------------------------------------- pretrained

CONCEPTS = pretrained.RECORDED[:3]


class Pretrained:
    """One concept of chapter 15 in a pretrained model, with the edit that was chosen there.

    The ridge of that edit is added to whole moments and to those of rows alike.
    """

    def __init__(self, lm: Any, concept: str, edit: pretrained.Edit, case: pretrained.Case | None = None) -> None:
        self.lm, self.concept, self.edit = lm, concept, edit
        self.case = pretrained.Case(lm, concept) if case is None else case
        self.sides = {True: self.case.forget, False: self.case.retain}
        self.layers = pretrained.PLACES[edit.place]

    def collected(self, side: bool, **how: Any) -> el.Moments:
        shared = {"shift": True, "batch_size": 32, "layers": self.layers}
        return language.collect(self.lm.model, self.lm.tokenizer, self.sides[side], **shared, **how)

    @cached_property
    def whole(self) -> dict[bool, el.Moments]:
        return {side: self.collected(side) for side in self.sides}

    def _engram(self, kept: Mapping[bool, el.Moments], white: Callable[[el.Moments, float], el.Moments]) -> el.Engram:
        minus = white(kept[False], self.edit.white)
        return el.extract(self.lm.model, kept[True], minus, specificity=self.edit.specificity, rcond=self.edit.cut)

    @cached_property
    def engram(self) -> el.Engram:
        return self._engram(self.whole, pretrained.whitened)

    def rows(self, keeper: str, part: float, seed: int) -> list[Row]:
        """A row of the study "memory": `left` and `kept` are shares of the held-out facts and neighbours, `text_nll` is
        the mean NLL of plain text."""
        draw, kept = torch.Generator().manual_seed(seed), {}
        for side, full in self.whole.items():
            share = 2 * TENTH * (part if side else 1 - part)
            if keeper == "whole":
                kept[side] = full
            elif keeper == "sketch":
                kept[side] = self.collected(side, rank=share)
            elif keeper == "columns":
                batches = list(language.batches(self.lm.tokenizer, self.sides[side], batch_size=32))
                how = {"layers": self.layers, "rows": partial(language.answer_rows, shift=True), "forward": _base}
                kept[side] = sampled(self.lm.model, batches, share, draw, **how)
            else:
                kept[side] = reduced(full, keeper, share, draw)
        engram = self.engram if keeper == "whole" else self._engram(kept, lifted)
        change = self.edit.alpha * pretrained.strengthened(engram, self.edit)
        found = self.case.after(change, "held_out", ("target", "near", "text"))
        facts = {"study": "memory", "network": "smollm2", "concept": self.concept, "seed": seed, "group": 0}
        return [
            {
                **facts,
                "split": "held_out",
                "keeper": keeper,
                "share": 1.0 if keeper == "whole" else TENTH,
                "part": part,
                "bytes": sum(m.nbytes for m in kept.values()) / sum(m.nbytes for m in self.whole.values()),
                "left": found["target"].share,
                "kept": found["near"].share,
                "left_nll": found["target"].mean,
                "kept_nll": found["near"].mean,
                "text_nll": found["text"].mean,
                "apart": (engram - self.engram).norm() / self.engram.norm(),
                "n_left": len(found["target"].nll),
                "n_kept": len(found["near"].nll),
            }
        ]


def _base(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
    model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def lifted(moments: el.Moments, share: float) -> el.Moments:
    """White noise, `share` of the largest variance, added to moments of low rank, whose diagonal takes it."""
    made: dict[int, LowRank] = {}
    for name in moments:
        sigma = moments.stored(name)
        assert isinstance(sigma, LowRank)
        if id(sigma) not in made:
            made[id(sigma)] = sigma.clone()
            made[id(sigma)].variances += share * float(sigma.variances.max())
    return el.Moments({name: made[id(moments.stored(name))] for name in moments}, moments.count, moments.identity)


# ------------------------------------------------------------------------------------------------------ processes

BATCHES = 48
# (processes, batches that they share); one process reads as few batches as one of four does, to see what it pays alone.
SHARED = ((1, 12), (1, 24), (1, 48), (1, 96), (1, 192), (2, 48), (2, 192), (4, 48), (4, 192))


def processes(count: int, batches: int = BATCHES, *, limit: float = 300.0) -> list[Row]:
    """Rows of the study "processes": the workload divided among `count` processes under torchrun, gloo on this machine.

    `off`: the largest difference to the Σ of one process, relative to its largest entry. Raises `RuntimeError` with
    what torchrun says where it fails, or takes longer than `limit` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        command += ["-m", "engramlib.lab.studies.divided", folder, str(batches)]
        # `-m` looks where we are; a checkout may be elsewhere.
        home = str(Path(el.__file__).resolve().parents[1])
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (home, environment.get("PYTHONPATH"))))
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"processes: torchrun did not end within {limit:g} s") from error
        if done.returncode:
            raise RuntimeError(f"processes: torchrun failed: {done.stderr.strip()[-2000:]}")
        found = el.Moments.load(Path(folder) / "sum.safetensors")
        rows = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    model, data = divided.workload(batches)
    alone = el.collect(model, data)
    off = max(float((found[n] - alone[n]).abs().max() / alone[n].abs().max()) for n in alone)
    assert found.count == alone.count
    return [{"study": "processes", "seed": 0, "processes": count, "shared": batches, **row, "off": off} for row in rows]


# --------------------------------------------------------------------------------------------------- command line

MEMORY, FRESH, PROCESSES, PRETRAINED = "scale-memory", "scale-fresh", "scale-processes", "scale-pretrained"


def main(argv: Sequence[str] | None = None) -> int:
    options = recording.parser("scale", __doc__, f"{MEMORY} (or {FRESH}, {PROCESSES}, {PRETRAINED})")
    options.add_argument("--fresh", action="store_true", help="other networks, with what the first run chose")
    options.add_argument("--processes", action="store_true", help="time under torchrun with 1, 2 and 4 processes")
    options.add_argument("--pretrained", action="store_true", help="SmolLM2, the concepts of chapter 15")
    options.add_argument("--batches", type=int, default=BATCHES, help="of --processes that is not recorded")
    options.add_argument("--concepts", type=int, default=len(CONCEPTS), help="how many of --pretrained's")
    args = options.parse_args(argv)
    if args.fresh:
        return _record_fresh(args)
    if args.processes:
        return _record_processes(args)
    if args.pretrained:
        return _record_pretrained(args)

    if not args.record:
        recording.show({"memory": memory(of_digits(0, (1, 4, 7)), network="digits", shares=(TENTH,))})
        return 0
    config = {"shares": SHARES, "parts": PARTS, "keepers": KEEPERS, "tries": TRIES, "left": compensated.LEFT}
    recording.record(MEMORY, _networks, args, config=config, seeds=range(3), data=digits())
    return 0


def _networks(recorder: runs.Recorder) -> Iterator[recording.Part]:
    def rows(network: str, seed: int) -> list[Row]:
        how: dict[str, Any] = {"others": (TENTH,), "parts": PARTS, "splits": ("val", "test")}
        how["keepers"] = (*KEEPERS, *SIDES)
        return memory(NETWORKS[network](seed), network=network, **how)

    for network in NETWORKS:
        for seed in range(3):
            yield {"network": network, "seed": seed}, partial(rows, network, seed)
    case = cache(partial(forgetting.case, "authors"))

    def rehearse(entrant: tuple[str, float, float]) -> list[Row]:
        return choice(case(0).problem(rehearsal=True), *entrant)

    def apply(seed: int, entrant: tuple[str, float, float]) -> list[Row]:
        wanted = dict(zip(("keeper", "share", "part"), entrant, strict=True))
        (best,) = runs.select(recorder.rows, {"study": "choice", **wanted, "chosen": True})
        return applied(case(seed).problem(), seed, *entrant, best)

    for entrant in ENTRANTS:
        facts = {"network": "authors", **dict(zip(("keeper", "share", "part"), entrant, strict=True))}
        yield {**facts, "role": "rehearsal"}, partial(rehearse, entrant)
        for seed in range(3):
            yield {**facts, "role": "forget10", "seed": seed}, partial(apply, seed, entrant)


def _record_fresh(args: Any) -> int:
    part = chosen_part(runs.load(MEMORY).rows, tuple(NETWORKS))
    how: dict[str, Any] = {"keepers": ("sketch", "projected"), "shares": (TENTH, SHARES[-1]), "others": (TENTH,)}

    def rows(network: str, seed: int) -> list[Row]:
        return memory(FRESH_NETWORKS[network](seed), network=network, parts=(part,), **how)

    if not args.record:
        recording.show({"memory": rows("digits", AGAIN[0])})
        return 0
    parts = [({"network": n, "seed": seed}, partial(rows, n, seed)) for n in FRESH_NETWORKS for seed in AGAIN]
    recording.record(FRESH, parts, args, config={**how, "part": part, "images": IMAGES}, seeds=AGAIN, data=digits())
    return 0


def _record_processes(args: Any) -> int:
    def rows(count: int, batches: int, repeat: int) -> list[Row]:
        return [{**row, "repeat": repeat} for row in processes(count, batches)]

    if not args.record:
        recording.show({"processes": rows(2, args.batches, 0)})
        return 0
    parts = [({"processes": p, "shared": b, "repeat": r}, partial(rows, p, b, r)) for r in range(3) for p, b in SHARED]
    data = {"name": "random columns", "fingerprint": divided.fingerprint()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    config = {
        "work": divided.WORK,
        "shared": SHARED,
        "tokens": divided.TOKENS,
        "cores": cores,
        "backend": "gloo",
    }
    recording.record(PROCESSES, parts, args, config=config, seeds=[0], data=data)
    return 0


def _record_pretrained(args: Any) -> int:
    from engramlib.lab.data import world
    from engramlib.lab.models import zoo

    lm = zoo.smollm2()
    lm = lm._replace(model=lm.model.to(recording.device()))
    chosen = runs.load(pretrained.CONCEPTS).rows

    asked = [("whole", 0.5, 0), ("sketch", 0.15, 0), ("sketch", 0.5, 0)]
    asked += [(keeper, 0.15, seed) for keeper in ("columns", "directions") for seed in range(3)]

    def parts() -> Iterator[recording.Part]:
        for concept in CONCEPTS[: args.concepts]:
            made = cache(lambda concept=concept: Pretrained(lm, concept, pretrained.chosen(chosen, concept)))
            for keeper, part, seed in asked:
                facts = {"concept": concept, "keeper": keeper, "part": part, "seed": seed}
                yield facts, lambda k=keeper, p=part, s=seed, made=made: made().rows(k, p, s)

    if not args.record:
        recording.show({"memory": next(parts())[1]()})
        return 0
    config = {"model": lm.label, "weights": zoo.fingerprint(lm.model), "share": TENTH}
    data = {"name": "facts of the world", "fingerprint": world.fingerprint()}
    recording.record(PRETRAINED, parts(), args, config=config, seeds=range(3), data=data)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
