"""Engrams while learning: what tracking costs, how an engram forms, what protects it. Chapter 19, and two recordings.

    python -m engramlib.lab.studies online --record     # data/runs/online-digits.json, online-cost.json

Rows, one study each:

    cost        model, rate, seed: `ratio` = a tracked step over a plain one (median of pairs), `layer`: `error` =
                ‖Σ̂ − Σ‖ / ‖Σ‖ of the sampled moments, `predicted` = √((1/p − 1) Σ w²‖x‖⁴) / ‖Σ‖
    forming     seed, step, digit: the engram of the time, (W_t, Σ_t), and its two rivals, one half of it from the end
    overwriting seed, step, method: what learning B does to the engram of A
    continual   seed, tasks, setting, method, memory, used, knob, split: `kept` = accuracy on all tasks after the last
                one, `first` = on the first, `fresh` = on each task right after it was learned
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import engramlib as el
from engramlib._examples import tensors_in
from engramlib.lab.data import ImageData, Split, digits
from engramlib.lab.models import llama, mlp
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import recording
from engramlib.lab.training import hash_of
from engramlib.layers import find_layers

SIZES = (64, 100, 100, 10)
RCOND = 1e-3  # the digits' cut of chapter 07

# ---------------------------------------------------------------------------------------------------------------- cost

Loss = Callable[[nn.Module, object], Tensor]


@dataclass(frozen=True, eq=False)
class Task:
    """A model in training, its batches, and the loss of one."""

    model: nn.Module
    batches: Sequence[object]
    loss: Loss
    layers: Sequence[str] | None = None


BLOCKS = [f"self_attn.{p}_proj" for p in "qkvo"] + [f"mlp.{p}_proj" for p in ("gate", "up", "down")]
# (width, blocks, heads, key and value heads, intermediate, texts, tokens)
SHAPES = {"Llama, 4 blocks of 128": (128, 4, 4, 2, 344, 32, 32), "Llama, 6 blocks of 512": (512, 6, 8, 2, 1408, 16, 64)}


def task(name: str, seed: int = 0) -> Task:
    """The MLP 784-512-512-10, or one of `SHAPES`: random weights and data, since cost does not ask what they mean."""
    luck = torch.Generator().manual_seed(seed)
    if name.startswith("MLP"):
        net = mlp([784, 512, 512, 10], seed=seed)
        x, y = torch.rand(4, 128, 784, generator=luck), torch.randint(10, (4, 128), generator=luck)
        return Task(net, list(zip(x, y, strict=True)), lambda m, b: F.cross_entropy(m(b[0]), b[1]))
    *shape, texts, tokens = SHAPES[name]
    model = llama(512, *shape, context=128, seed=seed).train()
    model.config.use_cache = False
    ids = torch.randint(4, 512, (4, texts, tokens), generator=luck)
    batches = [{"input_ids": part, "labels": part} for part in ids]
    return Task(model, batches, lambda m, b: m(**b).loss, BLOCKS)


def cost(name: str, rates: Sequence[float], *, rounds: int, seed: int = 0) -> list[Row]:
    """Rows of the study "cost". Plain and tracked steps take turns, so that a slow minute hits both."""
    given = task(name, seed)
    optimiser = torch.optim.AdamW(given.model.parameters(), lr=1e-4)
    trackers = {p: el.OnlineMoments(given.model, half_life=50, rate=p, layers=given.layers) for p in rates}

    def step(batch: object, tracker: el.OnlineMoments | None) -> float:
        began = time.perf_counter()
        optimiser.zero_grad()
        if tracker is None:
            given.loss(given.model, batch).backward()
        else:
            with tracker.watch():
                loss = given.loss(given.model, batch)
            loss.backward()
            tracker.step()
        optimiser.step()
        return time.perf_counter() - began

    turns: dict[float | None, list[float]] = {p: [] for p in (None, *rates)}
    for number in range(rounds + 1):
        for p in turns:
            seconds = step(given.batches[number % len(given.batches)], None if p is None else trackers[p])
            if number:  # the first one allocates
                turns[p].append(seconds)
    found = []
    for p in rates:
        each = [a / b for a, b in zip(turns[p], turns[None], strict=True)]
        ratio, plain = statistics.median(each), statistics.median(turns[None])
        found.append({"study": "cost", "model": name, "seed": seed, "rate": p, "ratio": ratio, "plain_s": plain})
    return found


def sampled(name: str, rates: Sequence[float], *, steps: int = 4, seed: int = 0) -> list[Row]:
    """Rows of the study "cost" that say how far sampled moments are from all of them, and how far they may be."""
    given = task(name, seed)
    trackers = {p: el.OnlineMoments(given.model, rate=p, seed=seed, layers=given.layers) for p in (1.0, *rates)}
    fourth: dict[str, float] = {}

    def read(layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            lengths = args[0].detach().double().square().sum(-1) + (module.bias is not None)
            fourth[layer] = fourth.get(layer, 0.0) + float(lengths.square().sum())

        return hook

    found = find_layers(given.model, given.layers)
    for number in range(steps):
        hooks = [layer.module.register_forward_pre_hook(read(n)) for n, layer in found.items()]
        for p, tracker in trackers.items():
            with tracker.watch(), torch.no_grad():
                given.loss(given.model, given.batches[number % len(given.batches)])
            tracker.step()
            if p == 1.0:  # once a step
                for hook in hooks:
                    hook.remove()
    whole, rows = trackers[1.0].moments(), []
    for p in rates:
        part = trackers[p].moments()
        for n in whole:
            size = float(whole[n].norm())
            facts = {"study": "cost", "model": name, "seed": seed, "rate": p, "layer": n}
            error = float((part[n] - whole[n]).norm()) / size
            rows.append({**facts, "error": error, "predicted": ((1 / p - 1) * fourth[n]) ** 0.5 / size})
    return rows


# ------------------------------------------------------------------------------------------------------------- forming

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(eq=False)
class Moment:
    """A network and what its layers were shown lately, at one step of training."""

    step: int
    model: nn.Module
    seen: dict[int, el.Moments]

    def engrams(self, seen: Mapping[int, el.Moments] | None = None) -> dict[int, el.Engram]:
        seen = {c: bare(m) for c, m in (self.seen if seen is None else seen).items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "too little data|the cut takes")  # early on there is little, by design
            return el.extract_all(self.model, seen, rcond=RCOND)


def form(data: ImageData, seed: int, *, steps: Sequence[int] = STEPS, half_life: float = 16.0) -> list[Moment]:
    """Train on all digits, and keep the network and its streaming moments at some steps (16 steps are an epoch)."""
    model, part = mlp(SIZES, seed=seed), data.flat().train
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    tracker = el.OnlineMoments(model, concepts=lambda batch: batch[1], half_life=half_life)
    luck, kept, done = torch.Generator().manual_seed(seed), [], 0
    while done < max(steps):
        for rows in torch.randperm(len(part), generator=luck).split(64):
            batch = part.x[rows], part.y[rows]
            with tracker.watch(batch):
                loss = F.cross_entropy(model(batch[0]), batch[1])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            tracker.step()
            done += 1
            if done in steps:
                kept.append(Moment(done, copy.deepcopy(model), tracker.by_concept()))
            if done == max(steps):
                break
    return kept


def forming(history: Sequence[Moment], data: ImageData, seed: int, classes: Sequence[int] = range(10)) -> list[Row]:
    """Rows of the study "forming". `direction`: cosine with the final engram. Beside it that of the weights of the time
    with the final Σ, of the final weights with the Σ of the time (streamed; or collected then from all images, which
    tells a moving network from a stream of few columns), and of the weights themselves."""
    last, test, train = history[-1], data.flat().test, data.flat().train
    final, rows = last.engrams(), []
    for now in history:
        with_end, from_end = now.engrams(last.seen), last.engrams(now.seen)
        anew = el.collect_by_concept(now.model, [(train.x, train.y)], lambda batch: batch[1])
        from_anew, own_anew = last.engrams(anew), now.engrams(anew)
        own = now.engrams()
        weights = matrices(now.model)
        for digit in classes:
            if digit not in own:
                continue
            rest = sum(m for c, m in now.seen.items() if c != digit)
            scores = el.score_criteria(
                now.model,
                own[digit],
                now.seen[digit],
                rest,
                batches=([test.x[test.y == digit]], [test.x[test.y != digit]]),
                draws=0,
            ).network[0]
            shares = [el.analysis.target_share(now.seen[digit][n], rest[n]).shares for n in own[digit]]
            after = right(el.ablate(now.model, own[digit]), test, test.y == digit)
            rows.append(
                {
                    "study": "forming",
                    "seed": seed,
                    "step": now.step,
                    "digit": digit,
                    "accuracy": right(now.model, test, test.y == digit),
                    "ablated": after,
                    "norm": own[digit].norm(),
                    "norm, W_t with the final Σ": with_end[digit].norm(),
                    "norm, final W with Σ_t": from_end[digit].norm(),
                    "weights": float(weights.norm()),
                    "direction": cosine(own[digit], final[digit]),
                    "W_t with the final Σ": cosine(with_end[digit], final[digit]),
                    "final W with Σ_t": cosine(from_end[digit], final[digit]),
                    "final W with Σ collected then": cosine(from_anew[digit], final[digit]),
                    "stream and collect": cosine(own[digit], own_anew[digit]),
                    "weights alone": float(F.cosine_similarity(weights, matrices(last.model), dim=0)),
                    "another digit": cosine(own[digit], final[(digit + 1) % 10]),
                    "share": statistics.fmean(float(s[:8].mean()) for s in shares),
                    **{name: getattr(scores, name) for name in el.analysis.CRITERIA},
                }
            )
    return rows


def cosine(a: el.Engram, b: el.Engram) -> float:
    """Of two engrams as vectors of all layers."""
    return float(F.cosine_similarity(vector(a), vector(b), dim=0))


def vector(engram: el.Engram) -> Tensor:
    return torch.cat([part.double().flatten() for entry in engram.values() for part in entry if part is not None])


def matrices(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


@torch.no_grad()
def right(model: nn.Module, part: Split, rows: Tensor, allowed: Tensor | None = None) -> float:
    """Accuracy on some rows; among the `allowed` classes."""
    logits = model(part.x[rows])
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    return float((logits.argmax(1) == part.y[rows]).double().mean())


def bare(moments: el.Moments) -> el.Moments:
    """The same sums, of no weights in particular: what the network was shown at another time is the question here."""
    return el.Moments({name: moments[name] for name in moments}, moments.count)


# ----------------------------------------------------------------------------------------------------------- continual

TWO = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
FIVE = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
EPOCHS, BATCH, RATE = 10, 20, 1e-3
CUT = 1e-6  # of the projections
REFRESH = 10  # steps after which P is made anew
IMAGE = 64 + 1  # bytes of a stored image: its pixels are whole numbers up to 16; and its label
# Three tries each, placed by runs of seed 0 on validation images: λ of the projections, the part of the energy, the
# penalty, the weight of old images.
KNOBS: dict[str, tuple[float, ...]] = {
    "plain": (0.0,),
    "all data": (0.0,),
    "EWC": (1e3, 1e4, 1e5),
    "replay": (0.3, 1.0, 3.0),
    "subspace": (0.5, 0.7, 0.9),
    "engram": (0.01, 0.1, 1.0),
    "ridge": (0.1, 1.0, 10.0),
    "random": (0.1, 1.0, 10.0),
}
PROJECTIONS = ("subspace", "engram", "ridge", "random")
BUDGETS = (8_000, 50_000)


@dataclass(frozen=True)
class Protection:
    """One way to keep old tasks. `knob` is its strength (see `KNOBS`), `memory` what it may keep of them, in bytes.

    What counts is all that has to be kept from one task to the next beside the weights in use: a number of a moment, a
    basis or a Fisher information 4 bytes, a pixel and a label 1 byte. Moments: the leading k directions of Σ in every
    layer, as many as fit, or the upper half of Σ if that is less. EWC keeps two numbers a weight, whatever it may.
    """

    method: str = "plain"
    knob: float = 0.0
    memory: int = 0

    @property
    def rank(self) -> int:
        """k, of every layer."""
        widths = [d + 1 for d in SIZES[:-1]]
        full = sum(d * (d + 1) // 2 for d in widths) * 4
        return max(widths) if full <= self.memory else int(self.memory // (4 * sum(widths)))

    @property
    def images(self) -> int:
        return self.memory // IMAGE

    @property
    def used(self) -> int:
        """Bytes that it keeps at most."""
        if self.method == "EWC":
            return 2 * 4 * sum((a + 1) * b for a, b in zip(SIZES[:-1], SIZES[1:], strict=True))
        return self.memory


@dataclass(eq=False)
class Memory:
    """What is kept of the tasks before, for each method what it needs."""

    sigma: dict[str, Tensor]
    images: list[Split]
    fisher: dict[str, Tensor]
    anchor: dict[str, Tensor]


def learn(
    data: ImageData,
    tasks: Sequence[Sequence[int]],
    protection: Protection,
    seed: int,
    *,
    setting: str = "shared",
    after: Callable[[int, int, nn.Module], None] | None = None,
) -> list[Row]:
    """Learn the tasks one after the other, and say after each how many of the images of each are right, on both splits.

    `setting`, what the outputs mean: "shared", which of its task's digits an image shows, the same outputs for all
    tasks, and the task is not told (domain-incremental); "told", the network chooses among the digits of the image's
    task, which have outputs of their own (task-incremental); "ten", among all digits (class-incremental).
    `after(task, step, model)` is called after each step.
    """
    data, model = data.flat(), mlp(SIZES, seed=seed)
    output, allowed = outputs(tasks, setting)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x).masked_fill(~allowed[y], -torch.inf), output[y])

    memory, luck = Memory({}, [], {}, {}), torch.Generator().manual_seed(seed)
    history: list[Row] = []
    for number, classes in enumerate(tasks):
        part = data.train.where(torch.isin(data.train.y, torch.tensor(classes)))
        if protection.method == "all data":
            seen = [c for earlier in tasks[: number + 1] for c in earlier]
            part = data.train.where(torch.isin(data.train.y, torch.tensor(seen)))
        _learn_one(model, part, loss, protection, memory, luck, partial(after, number) if after else None)
        _remember(model, part, loss, protection, memory, seed, number + 1)
        for split in ("val", "test"):
            there = data.split(split)
            for old, of in enumerate(tasks[: number + 1]):
                rows = torch.isin(there.y, torch.tensor(of))
                found = right(model, Split(there.x, output[there.y]), rows, allowed[of[0]])
                history.append({"split": split, "after": number, "task": old, "accuracy": found})
    return history


def outputs(tasks: Sequence[Sequence[int]], setting: str) -> tuple[Tensor, Tensor]:
    """(output of each digit, outputs that count for it), for the settings of `learn`."""
    if setting not in ("shared", "told", "ten"):
        raise ValueError(f'setting: expected "shared", "told" or "ten", got {setting!r}')
    output, allowed = torch.arange(10), torch.zeros(10, 10, dtype=torch.bool)
    for classes in tasks:
        for place, c in enumerate(classes):
            output[c] = place if setting == "shared" else c
            allowed[c, list(range(len(classes)) if setting == "shared" else classes)] = True
    return output, allowed if setting != "ten" else torch.ones_like(allowed)


def _learn_one(model, part, loss, protection, memory, luck, after) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    tracker = el.OnlineMoments(model) if protection.method in ("engram", "random") and memory.sigma else None
    projections, step = {}, 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(part), generator=luck).split(BATCH):
            if tracker is None:
                value = loss(part.x[rows], part.y[rows])
            else:
                with tracker.watch():
                    value = loss(part.x[rows], part.y[rows])
                tracker.step()
            if memory.images:
                old = Split(*(torch.cat([getattr(s, k) for s in memory.images]) for k in "xy"))
                some = torch.randperm(len(old), generator=luck)[:BATCH]
                value = value + protection.knob * loss(old.x[some], old.y[some])
            for name, p in model.named_parameters() if memory.fisher else ():
                value = value + 0.5 * protection.knob * (memory.fisher[name] * (p - memory.anchor[name]).square()).sum()
            optimiser.zero_grad()
            value.backward()
            if memory.sigma and step % REFRESH == 0 and (tracker is not None or step == 0):
                projections = _projections(protection, memory, tracker)
            with el.protected(model, projections):
                optimiser.step()
            step += 1
            if after is not None:
                after(step, model)


def _projections(protection: Protection, memory: Memory, tracker: el.OnlineMoments | None) -> dict[str, Tensor]:
    old = el.Moments(memory.sigma, dict.fromkeys(memory.sigma, 1))
    if protection.method == "subspace":
        return el.projections(old, energy=protection.knob, rcond=CUT)
    if protection.method == "ridge":  # what is learned now is taken for noise of the same size in all directions
        noise = {n: torch.eye(len(s), dtype=s.dtype) * s.trace() / len(s) for n, s in memory.sigma.items()}
        return el.projections(old, el.Moments(noise, old.count), specificity=protection.knob, rcond=CUT)
    assert tracker is not None
    now = tracker.moments()
    mean = el.Moments({n: now[n] / now.count[n] for n in now}, dict.fromkeys(now, 1))
    found = el.projections(old, mean, specificity=protection.knob, rcond=CUT)
    if protection.method == "engram":
        return found
    turned = {}
    for number, (name, P) in enumerate(found.items()):  # the same matrix, in a random basis: one for the whole run
        luck = torch.Generator().manual_seed(1000 + number)
        turn, _ = torch.linalg.qr(torch.randn(P.shape, generator=luck, dtype=P.dtype))
        turned[name] = turn @ P @ turn.T
    return turned


def _remember(model, part, loss, protection, memory, seed, number) -> None:
    if protection.method in PROJECTIONS:
        found = el.collect(model, [part.x])
        for name, sigma in found.items():
            mean = sigma / found.count[name] + memory.sigma.get(name, 0.0)
            values, vectors = torch.linalg.eigh(mean)
            top = slice(-protection.rank, None)
            memory.sigma[name] = (vectors[:, top] * values[top].clamp_min(0)) @ vectors[:, top].T
    if protection.method == "replay":
        each = protection.images // number
        memory.images = [Split(s.x[:each], s.y[:each]) for s in memory.images]
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:each]
        memory.images.append(Split(part.x[order], part.y[order]))
    if protection.method == "EWC":
        memory.anchor = {name: p.detach().clone() for name, p in model.named_parameters()}
        squares = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for x, y in zip(part.x.split(1), part.y.split(1), strict=True):
            grads = torch.autograd.grad(loss(x, y), list(model.parameters()))
            for square, g in zip(squares.values(), grads, strict=True):
                square += g.square() / len(part)
        memory.fisher = {n: memory.fisher.get(n, 0.0) + square for n, square in squares.items()}


def summary(history: Sequence[Row], split: str) -> dict[str, float]:
    """`kept`, `first` and `fresh` of one run."""
    last = max(row["after"] for row in history)
    here = runs.select(history, {"split": split})
    end = {row["task"]: row["accuracy"] for row in here if row["after"] == last}
    fresh = [row["accuracy"] for row in here if row["after"] == row["task"]]
    return {"kept": statistics.fmean(end.values()), "first": end[0], "fresh": statistics.fmean(fresh)}


def continual(
    data: ImageData, tasks: Sequence[Sequence[int]], protection: Protection, seed: int, *, setting: str = "shared"
) -> list[Row]:
    """Rows of the study "continual": a run, on both splits."""
    history = learn(data, tasks, protection, seed, setting=setting)
    facts = {"study": "continual", "seed": seed, "tasks": len(tasks), "setting": setting, "method": protection.method}
    facts |= {"memory": protection.memory, "used": protection.used, "knob": protection.knob}
    return [{**facts, "split": split, **summary(history, split)} for split in ("val", "test")]


def tries(method: str, memory: int) -> list[Protection]:
    return [Protection(method, knob, memory) for knob in KNOBS[method]]


def chosen(rows: Sequence[Row], **wanted: object) -> float:
    """The knob whose validation images are right most often, mean over seeds."""
    found = runs.mean_sd(rows, "kept", by=("knob",), where={"study": "continual", "split": "val", **wanted})
    return max(found, key=lambda line: line["mean"])["knob"]


def reported(rows: Sequence[Row], value: str = "kept", **wanted: object) -> list[float]:
    """Test images at the chosen knob, one number a seed."""
    here = {"study": "continual", **wanted}
    knob = chosen(rows, **wanted)
    found = runs.select(rows, {**here, "split": "test", "knob": knob})
    return [row[value] for row in sorted(found, key=lambda row: row["seed"])]


def overwriting(
    data: ImageData, protection: Protection, seed: int, steps: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 250)
) -> list[Row]:
    """Rows of the study "overwriting": two tasks, and the engram of the first while the second is learned.

    `direction` and `norm`: beside the engram at the end of A, of the network and the moments of the time; "with the old
    Σ": of the network of the time and the moments at the end of A. "weights": cosine of all weights with those of then.
    """
    flat, rows, start = data.flat(), [], {}
    a, b = (flat.train.where(torch.isin(flat.train.y, torch.tensor(of))).x for of in TWO)
    output, allowed = outputs(TWO, "shared")
    test, tested = Split(flat.test.x, output[flat.test.y]), torch.isin(flat.test.y, torch.tensor(TWO[0]))
    last = EPOCHS * -(-len(a) // BATCH)

    def watch(task: int, step: int, model: nn.Module) -> None:
        if (task == 0 and step != last) or (task == 1 and step not in steps):
            return
        seen = [bare(el.collect(model, [x])) for x in (a, b)]
        now, weights = el.extract(model, *seen, rcond=RCOND), matrices(model)
        if task == 0:
            start.update(seen=seen, engram=now, weights=weights)
        with_old = el.extract(model, *start["seen"], rcond=RCOND)
        rows.append(
            {
                "study": "overwriting",
                "seed": seed,
                "method": protection.method,
                "step": 0 if task == 0 else step,
                "accuracy": right(model, test, tested, allowed[0]),
                "direction": cosine(now, start["engram"]),
                "with the old Σ": cosine(with_old, start["engram"]),
                "weights": float(F.cosine_similarity(weights, start["weights"], dim=0)),
                "norm": now.norm() / start["engram"].norm(),
            }
        )

    learn(data, TWO, protection, seed, after=watch)
    return rows


# ------------------------------------------------------------------------------------------------------- command line


# (setting, tasks, budgets) that are recorded. Where the task is told, hardly anything is forgotten: no need to protect.
RECORDED = (("shared", FIVE, BUDGETS), ("ten", FIVE, BUDGETS[1:]), ("shared", TWO, BUDGETS[1:]), ("told", FIVE, ()))


def parts(seeds: Sequence[int]) -> Iterator[recording.Part]:
    """What is recorded of digits: every try of every method, by setting, tasks and budget."""
    for setting, tasks, budgets in RECORDED:
        for seed in seeds:
            for method in KNOBS if budgets else ("plain", "all data"):
                for memory in (0,) if method in ("plain", "all data", "EWC") else budgets:
                    facts = {"seed": seed, "setting": setting, "tasks": len(tasks), "method": method, "memory": memory}
                    yield facts, partial(_tried, seed, setting, tasks, method, memory)


def _tried(seed: int, setting: str, tasks: Sequence[Sequence[int]], method: str, memory: int) -> list[Row]:
    data = digits(seed)
    return [row for p in tries(method, memory) for row in continual(data, tasks, p, seed, setting=setting)]


def costs(rounds: Mapping[str, int], seeds: Sequence[int]) -> Iterator[recording.Part]:
    """What is recorded of the cost: ratios and errors, by model and seed."""
    rates = (1.0, 0.25, 0.1)
    for name, number in rounds.items():
        for seed in seeds:
            yield {"model": name, "seed": seed}, partial(cost, name, rates, rounds=number, seed=seed)
            yield {"errors of": name, "seed": seed}, partial(sampled, name, rates[1:], seed=seed)


def main(argv: Sequence[str] | None = None) -> int:
    options = recording.parser("online", __doc__, "online-<part>", seeds=3)
    options.add_argument("--part", choices=("digits", "cost"), help="record one of the two runs")
    args = options.parse_args(argv)
    if not args.record:
        recording.show({"continual": continual(digits(), FIVE, Protection("engram", 0.1, 50_000), 0)})
        return 0
    seeds = range(args.seeds)
    if args.part != "cost":
        config = {"sizes": SIZES, "epochs": EPOCHS, "batch": BATCH, "lr": RATE, "knobs": KNOBS, "budgets": BUDGETS}
        recording.record("online-digits", parts(seeds), args, config=config, seeds=seeds, data=digits())
    if args.part != "digits":
        rounds = {"MLP 784-512-512-10": 30, "Llama, 4 blocks of 128": 12, "Llama, 6 blocks of 512": 4}
        read = [t for name in rounds for batch in task(name).batches for t in tensors_in(batch)]
        made = {"name": "random numbers", "fingerprint": hash_of(*read)}
        recording.record("online-cost", costs(rounds, seeds), args, config={"rounds": rounds}, seeds=seeds, data=made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
