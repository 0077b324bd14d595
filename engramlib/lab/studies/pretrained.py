"""A pretrained language model forgets a concept: chapter 15 small, `data/runs/pretrained-concepts.json` large.

    python -m engramlib.lab.studies pretrained --record     # resumes after the last part that was finished
    python -m engramlib.lab.studies pretrained --record --questions
    python -m engramlib.lab.studies pretrained --record --methods
    python -m engramlib.lab.studies pretrained --record --tofu

What is edited is SmolLM2-135M as it was published; nobody here trained it. Columns are read where the answer is
*predicted* (`shift=True`). Settings are chosen on validation items; what is reported are held-out ones: the forgotten
facts in words that were not used, and other cities, persons, ... that were not used. Only what the model knew before
counts (`Case.known`). Studies, one `study` each:

    before      how much of each part the model knows
    choose      settings on validation items, one row a setting
    edits       the chosen engram, published strengths and the controls, held out, item by item
    layers      the chosen engram from some kinds of layers only (Table 8's question), at several strengths
    map         mean ‖W⁺‖/‖W‖ of each kind of layer (Fig. 9's question), at several cuts
    protect     how many neighbours are needed
    numbers     cuts and floating point
    many        several concepts at once, and in which order
    methods     gradient ascent, NPO, UCE
    tofu map    the map for TOFU's authors, of whom this model never heard (chapter 14)
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import fmean
from typing import NamedTuple

import torch

import engramlib as el
from engramlib import language
from engramlib.lab.data import Question, QuestionData, tofu, world
from engramlib.lab.models import zoo
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import recording
from engramlib.lab.studies.recording import device, parser
from engramlib.lab.unlearning import controls
from engramlib.lab.unlearning import text as unlearning

KINDS = ("q", "k", "v", "o", "gate", "up", "down")
PLACES = {
    "all": r".*_proj",
    "Q/K + gate": r".*\.(q|k|gate)_proj",
    "without Q/K/gate": r".*\.(v|o|up|down)_proj",
    "attention": r".*\.(q|k|v|o)_proj",
    "MLP": r".*\.(gate|up|down)_proj",
    "Q/K": r".*\.(q|k)_proj",
    "V/O": r".*\.(v|o)_proj",
    "O": r".*\.o_proj",
}
_NARROW = ("attention", "Q/K", "V/O", "O")  # the moments of attention alone do for these: a quarter of the work
KEPT = ("near", "senses", "other", "text")
OTHER_OF_ITS_KIND = {"Paris": "London", "London": "Paris", "Apple": "Microsoft", "Shakespeare": "Dickens"}
GOAL = {"target": 0.10, "near": 0.90, "text": 0.05}


@dataclass(frozen=True)
class Edit:
    """How an engram is made and subtracted.

    `white`: so much white noise is added to the reference, as a share of the largest diagonal entry of Σ⁻; it is a
    ridge, and it makes every Σ well enough conditioned for a Cholesky factorisation, which is much faster than the
    eigenvectors that a cut needs. `cut` is `rcond`. `strength`: "norm" (α_W-Norm) or "uniform". `place`: see `PLACES`.
    """

    specificity: float = 10.0
    white: float = 1e-4
    cut: float = 1e-9
    strength: str = "norm"
    alpha: float = 3.0
    place: str = "attention"


class Asked(NamedTuple):
    """What a model says to some items: is the whole answer its greedy one, and the mean NLL of the answer's tokens."""

    right: list[bool]
    nll: list[float]

    @property
    def share(self) -> float | None:
        return fmean(self.right) if self.right else None

    @property
    def mean(self) -> float | None:
        return fmean(self.nll) if self.nll else None


def ask(lm: zoo.LanguageModel, items: Sequence[world.Item], *, batch_size: int = 32) -> Asked:
    """Teacher-forced answers to `items`, in their order; of a text, every token.

    What `language.answer_logprobs` says, a third faster: a wide vocabulary is multiplied only where an answer is
    predicted. For models whose logits are their output layer on the trunk's last state, such as Llama.
    """
    if not items:
        return Asked([], [])
    order = sorted(range(len(items)), key=lambda number: -sum(map(len, items[number])))
    right, nll = [False] * len(items), [0.0] * len(items)
    batches = language.batches(lm.tokenizer, [items[number] for number in order], batch_size=batch_size)
    head, places = lm.model.get_output_embeddings(), iter(order)
    with torch.no_grad():
        for batch in batches:
            batch = {name: tensor.to(lm.model.device) for name, tensor in batch.items()}
            trunk = lm.model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            for states, labels in zip(trunk.last_hidden_state[:, :-1], batch["labels"][:, 1:], strict=True):
                counts = labels != language.IGNORE
                logp = head(states[counts]).log_softmax(-1)
                own, place = logp.gather(-1, labels[counts, None]), next(places)
                right[place] = bool((own == logp.amax(-1, keepdim=True)).all())
                nll[place] = float(-own.double().mean())
    return Asked(right, nll)


def complete(lm: zoo.LanguageModel, prompts: Sequence[str], tokens: int = 10) -> list[str]:
    """What the model goes on to say, greedily; one prompt at a time, so that padding changes nothing."""
    said = []
    for prompt in prompts:
        ids = lm.tokenizer(prompt, return_tensors="pt").to(lm.model.device)
        with torch.no_grad():
            out = lm.model.generate(**ids, max_new_tokens=tokens, do_sample=False)
        said.append(lm.tokenizer.decode(out[0, ids["input_ids"].shape[1] :]))
    return said


class Case:
    """One concept and one model: its sets, its moments, and what every edit is measured against.

    `near`: how many used neighbours are kept; None = all. `rest`: the same of everything else that is kept. `known`:
    count only what the model gets right before; False is for models that know nothing.
    """

    def __init__(
        self,
        lm: zoo.LanguageModel,
        concept: str,
        *,
        near: int | None = None,
        rest: int | None = None,
        known: bool = True,
    ) -> None:
        self.lm, self.concept, self._only_known = lm, concept, known
        self.sets = world.sets(concept, near=near, rest=rest)
        self._answers: dict[tuple[str, str], tuple[list[world.Item], Asked]] = {}
        self._moments: dict[tuple, tuple[el.Moments, el.Moments]] = {}
        self._engram: tuple[tuple, el.Engram] | None = None

    def known(self, part: str, split: str) -> list[world.Item]:
        """The items of a part that the model gets right as it came; all texts."""
        return self._asked(part, split)[0]

    def before(self, part: str, split: str) -> Asked:
        """The same items, as the model answered them before."""
        return self._asked(part, split)[1]

    def _asked(self, part: str, split: str) -> tuple[list[world.Item], Asked]:
        if (part, split) not in self._answers:
            items = self.sets[part][split]
            found = ask(self.lm, items)
            keep = [i for i in range(len(items)) if part == "text" or not self._only_known or found.right[i]]
            answers = Asked([found.right[i] for i in keep], [found.nll[i] for i in keep])
            self._answers[part, split] = [items[i] for i in keep], answers
        return self._answers[part, split]

    @property
    def forget(self) -> list[world.Item]:
        """X⁺: the used wordings of the concept's facts, where the model knows them."""
        return self.known("target", "used")

    @property
    def retain(self) -> list[world.Item]:
        """X⁻: neighbours, other senses, other facts and text. Whether the model knows them does not matter."""
        return [item for part in KEPT for item in self.sets[part]["used"]]

    def collect(self, items: Sequence[world.Item], place: str, **how) -> el.Moments:
        """Σ of some items, for the layers of one of `PLACES`, at the positions that predict the answers."""
        how = {"shift": True, "batch_size": 32, "layers": PLACES[place]} | how
        return language.collect(self.lm.model, self.lm.tokenizer, items, **how)

    def moments(self, place: str, **how) -> tuple[el.Moments, el.Moments]:
        """(Σ⁺, Σ⁻): two passes, once for all edits."""
        place = "attention" if place in _NARROW else "all"
        key = place, *sorted(how.items())
        if key not in self._moments:
            self._moments[key] = tuple(self.collect(items, place, **how) for items in (self.forget, self.retain))
        return self._moments[key]

    def engram(self, edit: Edit, **how) -> el.Engram:
        """The engram of an edit, its strengths in it; α is left to the caller. The last one is kept."""
        key = edit.place, edit.specificity, edit.white, edit.cut, *sorted(how.items())
        if self._engram is None or self._engram[0] != key:
            plus, minus = self.moments(edit.place, **how)
            self._engram = key, extracted(self.lm.model, plus, minus, edit)
        return strengthened(self._engram[1], edit)

    def measure(self, split: str, parts: Iterable[str] = world.PARTS) -> dict[str, Asked]:
        """What the model, as it is now, answers to what it knew."""
        return {part: ask(self.lm, self.known(part, split)) for part in parts}

    def after(self, change: el.Engram, split: str, parts: Iterable[str] = world.PARTS) -> dict[str, Asked]:
        """The same inside an edit, W − `change`, which is undone bit for bit."""
        parts = list(parts)
        for part in parts:
            self.known(part, split)  # as the model came, before the edit
        with el.edited(self.lm.model, -change):
            return self.measure(split, parts)


def extracted(model, plus: el.Moments, minus: el.Moments, edit: Edit) -> el.Engram:
    """W Σ⁺(Σ⁺ + λ(Σ⁻ + ρI))†."""
    return el.extract(model, plus, whitened(minus, edit.white), specificity=edit.specificity, rcond=edit.cut)


def whitened(moments: el.Moments, share: float) -> el.Moments:
    """The moments with white noise added: ρI, ρ = `share` of the largest diagonal entry. Layers go on sharing Σ.

    The noise counts as one column: it must not hide from `el.extract` that there are too few of the real ones.
    """
    if not share:
        return moments
    made: dict[int, torch.Tensor] = {}
    for name in moments:
        sigma = moments.stored(name)
        if id(sigma) not in made:
            diagonal = sigma.diagonal(dim1=-2, dim2=-1)
            made[id(sigma)] = torch.diag_embed(torch.full_like(diagonal, share * float(diagonal.max())))
    noise = {name: made[id(moments.stored(name))] for name in moments}
    return moments + el.Moments(noise, dict.fromkeys(noise, 1), moments.identity)


def strengthened(engram: el.Engram, edit: Edit) -> el.Engram:
    """The engram of the layers that are edited, each with its strength."""
    part = engram.select(PLACES[edit.place])
    return part.norm_weighted() if edit.strength == "norm" else part


def mean_norms(engram: el.Engram) -> dict[str, float]:
    """Kind of layer -> mean ‖W⁺‖/‖W‖ over the blocks: the map of Fig. 9."""
    norms = engram.relative_norms()
    return {kind: fmean(v for name, v in norms.items() if f".{kind}_proj" in name) for kind in KINDS}


# ------------------------------------------------------------------------------------------------------- choosing


def choose(case: Case, edits: Sequence[Edit], alphas: Sequence[float]) -> list[Row]:
    """Rows of the study "choose": each edit at each α · λ^½ / 3, ascending, on validation items.

    (An engram shrinks as λ grows; the factor keeps ladders of different λ side by side.) An edit is left when the
    target is gone or the neighbours suffer: what is stronger still cannot be chosen. `chosen` marks the setting that
    keeps most neighbours among those that leave at most `GOAL["target"]` of the target; of equals, the one that moves
    their NLL least. If no setting does, the one that leaves least of the target.
    """
    rows: list[Row] = []
    for edit in edits:
        engram = case.engram(edit)
        for alpha in (round(a * edit.specificity**0.5 / 3, 2) for a in alphas):
            found = case.after(alpha * engram, "validation", ("target", "near"))
            rows.append(
                {
                    "study": "choose",
                    "concept": case.concept,
                    **asdict(replace(edit, alpha=alpha)),
                    **_shares(found),
                    "chosen": False,
                }
            )
            if found["target"].share <= GOAL["target"] / 2 or found["near"].share < 0.7:
                break
    _best(rows)["chosen"] = True
    return rows


def _best(rows: Sequence[Row]) -> Row:
    """The row that keeps most neighbours and leaves little enough of the target; else the one that leaves least."""
    enough = [row for row in rows if row["target"] <= GOAL["target"]]
    if enough:
        return max(enough, key=lambda row: (row["near"], -row["near_nll"]))
    return min(rows, key=lambda row: (row["target"], -row["near"]))


def _shares(found: Mapping[str, Asked]) -> Row:
    """part -> share right, part_nll -> mean NLL."""
    return {part: a.share for part, a in found.items()} | {f"{part}_nll": a.mean for part, a in found.items()}


def chosen(rows: Iterable[Row], concept: str) -> Edit:
    """The edit that validation chose for a concept, out of the rows of `choose`."""
    (row,) = (r for r in rows if r["study"] == "choose" and r["concept"] == concept and r["chosen"])
    return Edit(**{key: row[key] for key in asdict(Edit())})


# ------------------------------------------------------------------------------------------------------ held out


def rows_of(case: Case, name: str, found: Mapping[str, Asked], split: str = "held_out", **facts) -> list[Row]:
    """One row a part: shares and NLL after and before, and every item's, for intervals."""
    rows = []
    for part, asked in found.items():
        before = case.before(part, split)
        rows.append(
            {
                "study": "edits",
                "concept": case.concept,
                "edit": name,
                "part": part,
                "split": split,
                "n": len(asked.nll),
                "asked": len(case.sets[part][split]),
                "share": asked.share,
                "nll": asked.mean,
                "nll_before": before.mean,
                "right": [int(r) for r in asked.right],
                "rise": [round(a - b, 4) for a, b in zip(asked.nll, before.nll, strict=True)],
                **facts,
            }
        )
    return rows


def held_out(case: Case, edit: Edit, *, seed: int = 0) -> list[Row]:
    """Rows of the study "edits": the chosen edit beside its controls, all as large as it is.

    "random": a random part of the same weights, as large *on the data*; "shuffled": the engram of as many of the facts
    that are kept; "nothing": the engram of as many tokens of plain text; "another of its kind": that of another city,
    for a city. All are extracted against the same Σ⁻.
    """
    engram = edit.alpha * case.engram(edit)
    rows = rows_of(case, "engram", case.after(engram, "held_out"), **asdict(edit))
    for name, change in control_engrams(case, edit, engram, seed).items():
        rows += rows_of(case, name, case.after(change, "held_out", ("target", "near", "text")))
    return rows


def control_engrams(case: Case, edit: Edit, engram: el.Engram, seed: int) -> dict[str, el.Engram]:
    """Edits as large as `engram`, by name; see `held_out`."""
    plus, minus = case.moments(edit.place)
    drawn = random.Random(seed)
    found = {
        "random": controls.random_subspace(
            case.lm.model, engram, seed, moments=(plus + minus).select(PLACES[edit.place])
        )
    }
    facts = [item for item in case.retain if not isinstance(item, str)]
    texts = case.sets["text"]["used"]
    chosen_items = {
        "shuffled": drawn.sample(facts, min(len(case.forget), len(facts))),
        "nothing": drawn.sample(texts, max(1, min(len(texts), len(case.forget) // 40))),  # texts of forty tokens
    }
    if other := OTHER_OF_ITS_KIND.get(case.concept):
        chosen_items["another of its kind"] = world.sets(other)["target"]["used"]
    for name, items in chosen_items.items():
        part = case.collect(items, "attention" if edit.place in _NARROW else "all")
        found[name] = controls.same_norm(strengthened(extracted(case.lm.model, part, minus, edit), edit), engram)
    return found


# --------------------------------------------------------------------------------------------- what a reader would try


def layers(case: Case, edit: Edit, alphas: Sequence[float] = (1.0, 2.0, 3.0, 4.0, 6.0)) -> list[Row]:
    """Rows of the study "layers": the same engram from some kinds of layers only, at several strengths (Table 8)."""
    rows = []
    for place in PLACES:
        part = replace(edit, place=place)
        engram = case.engram(part)
        for alpha in alphas:
            found = case.after(alpha * engram, "validation", ("target", "near"))
            rows.append({"study": "layers", "concept": case.concept, "place": place, "alpha": alpha, **_shares(found)})
            if found["target"].share == 0:
                break
    return rows


def where(case: Case, cuts: Sequence[float] = (1e-6, 1e-4)) -> list[Row]:
    """Rows of the study "map": mean ‖W⁺‖/‖W‖ of each kind of layer at the paper's λ = 1, and at several cuts."""
    plus, minus = case.moments("all")
    found = el.extract(case.lm.model, plus, minus, rcond=list(cuts))
    return [{"study": "map", "concept": case.concept, "cut": cut, **mean_norms(found[cut])} for cut in cuts]


def tofu_map(lm: zoo.LanguageModel, cuts: Sequence[float] = (1e-6, 1e-4)) -> list[Row]:
    """Rows of the study "tofu map": what `where` measures, for authors of whom the model never heard.

    The target is 60 of forget10's questions, or as control 60 about other authors (`target`); 540 further questions
    about others are kept. Columns are where the answers' tokens stand, as in chapter 13 and the published map.
    """
    data = tofu()
    retain = data.pairs("retain90")
    sides = {"forget10": data.pairs("forget10")[:60], "other authors": retain[:60], "kept": retain[60:600]}
    how = {"layers": PLACES["all"], "batch_size": 16}
    moments = {side: language.collect(lm.model, lm.tokenizer, pairs, **how) for side, pairs in sides.items()}
    rows = []
    for target in ("forget10", "other authors"):
        found = el.extract(lm.model, moments[target], moments["kept"], rcond=list(cuts))
        rows += [
            {"study": "tofu map", "seed": 0, "target": target, "cut": cut, **mean_norms(found[cut])} for cut in cuts
        ]
    return rows


def protect(lm: zoo.LanguageModel, concept: str, edit: Edit, near: Sequence[int], rest: Sequence[int]) -> list[Row]:
    """Rows of the study "protect": the same edit with fewer neighbours, or with less of everything else, kept."""
    rows = []
    for kept in [{"near": n} for n in near] + [{"rest": n} for n in rest]:
        case = Case(lm, concept, **kept)
        found = case.after(edit.alpha * case.engram(edit), "validation", ("target", "near", "other", "text"))
        count = next(iter(case.moments(edit.place)[1].count.values()))
        before = {f"{part}_nll_before": case.before(part, "validation").mean for part in found}
        counts = {"near_items": len(case.sets["near"]["used"]), "columns": count}
        rows.append({"study": "protect", "concept": concept, **kept, **counts, **_shares(found), **before})
    return rows


def numbers(case: Case, edit: Edit) -> list[Row]:
    """Rows of the study "numbers": other cuts, other ridges, and sums in float32."""
    tries = [({"white": 0.0, "cut": cut}, {}) for cut in (1e-3, 1e-4, 1e-5, 1e-6)]
    tries += [({"white": white}, {}) for white in (1e-2, 1e-3, 1e-4, 1e-5)]
    tries += [({}, {"dtype": torch.float32}), ({"white": 0.0, "cut": 1e-6}, {"dtype": torch.float32})]
    rows = []
    for change, how in tries:
        made = replace(edit, **change)
        engram = case.engram(made, **how)
        found = case.after(edit.alpha * engram, "validation", ("target", "near"))
        facts = {"white": made.white, "cut": made.cut, "dtype": str(how.get("dtype", torch.float64)).split(".")[1]}
        rows.append({"study": "numbers", "concept": case.concept, **facts, "norm": engram.norm(), **_shares(found)})
    return rows


def many(lm: zoo.LanguageModel, edits: Mapping[str, Edit], counts: Sequence[int]) -> list[Row]:
    """Rows of the study "many": the first k concepts forgotten at once, by adding their engrams."""
    rows, total = [], None
    cases: list[Case] = []
    for concept, edit in edits.items():
        case = Case(lm, concept)
        part = edit.alpha * case.engram(edit)
        total = part if total is None else total + part
        cases.append(case)
        if len(cases) not in counts:
            continue
        gone = {answer for c in cases for answer in (world.CONCEPTS[c.concept].answer,)}
        for tested in cases:
            found = tested.after(total, "held_out", ("target", "near", "text"))
            items = tested.known("near", "held_out")
            kept = [r for item, r in zip(items, found["near"].right, strict=True) if item[1].strip() not in gone]
            facts = {"study": "many", "k": len(cases), "concept": tested.concept}
            rows.append(
                {
                    **facts,
                    **_shares(found),
                    "near": fmean(kept),
                    "text_nll_before": tested.before("text", "held_out").mean,
                }
            )
    return rows


def order(lm: zoo.LanguageModel, edits: Mapping[str, Edit]) -> list[Row]:
    """Rows of the study "order": engrams extracted again after each cut, forwards and backwards, against all at once.

    `distance` = ‖sequential − at once‖ / ‖at once‖, `between` = ‖forwards − backwards‖ / ‖at once‖.
    """
    once = sum(edit.alpha * Case(lm, concept).engram(edit) for concept, edit in edits.items())
    ways = {}
    for way, concepts in (("forwards", list(edits)), ("backwards", list(edits)[::-1])):
        done: el.Engram | None = None
        for concept in concepts:
            case = Case(lm, concept)
            _ = case.forget  # what the model knew before anything was cut
            if done is None:
                done = edits[concept].alpha * case.engram(edits[concept])
                continue
            with el.edited(lm.model, -done):
                again = edits[concept].alpha * case.engram(edits[concept])
            done = done + again
        ways[way] = done
    size = once.norm()
    between = (ways["forwards"] - ways["backwards"]).norm() / size
    rows = []
    for way, change in (("at once", once), *ways.items()):
        for concept in edits:
            found = Case(lm, concept).after(change, "held_out", ("target", "near"))
            facts = {"study": "order", "way": way, "distance": (change - once).norm() / size, "between": between}
            rows.append({**facts, "concept": concept, **_shares(found)})
    return rows


# ------------------------------------------------------------------------------------------------------ intervals


def interval(groups: Sequence[Sequence[float]], *, level: float = 0.95, draws: int = 2000, seed: int = 0):
    """(mean, low, high) of a mean over groups of items: groups are drawn with replacement, then items within them.

    The groups are the concepts: the question is what another concept would give.
    """
    groups = [list(group) for group in groups if len(group)]
    if not groups:
        raise ValueError("interval: there are no items.")
    drawn = random.Random(seed)
    means = sorted(
        fmean(fmean(drawn.choices(group, k=len(group))) for group in drawn.choices(groups, k=len(groups)))
        for _ in range(draws)
    )
    tail = (1 - level) / 2
    return fmean(map(fmean, groups)), means[int(tail * draws)], means[int((1 - tail) * draws) - 1]


# ------------------------------------------------------------------------------------------------ other methods


class Completion(Question):
    """A prompt and what follows it, as they are: no "Question:" and no "Answer:" around them."""

    @property
    def pair(self) -> tuple[str, str]:
        return self.question, " " + self.answer


TRIES = {
    "graddiff": tuple({"lr": lr, "alpha": 1.0, "epochs": 3} for lr in (3e-5, 1e-4, 3e-4)),
    "npo": tuple({"lr": lr, "beta": 0.1, "epochs": 3} for lr in (3e-5, 1e-4, 3e-4)),
    "uce": tuple({"keep": keep, "layers": PLACES["attention"]} for keep in (0.3, 1.0, 3.0)),
}


def problem(case: Case) -> unlearning.Problem:
    """What the other methods are given: the same facts to forget, and the same prompts to keep."""
    sides: dict[str, list] = {
        "forget": list(case.forget),
        "retain": [item for item in case.retain if not isinstance(item, str)],
    }
    data = QuestionData(
        case.concept,
        {side: tuple(Completion(p, a.strip()) for p, a in dict.fromkeys(items)) for side, items in sides.items()},
    )
    how = {"forget": "forget", "retain": "retain", "validation": 1, "eos": False, "shift": True, "rcond": 1e-4}
    return unlearning.Problem(case.lm.model, case.lm.tokenizer, data, **how)


def methods(case: Case, tries: Mapping[str, Sequence[Mapping]]) -> list[Row]:
    """Rows of the study "methods": each setting of each method on validation and on held-out items, and its cost.

    `chosen` marks the setting that the rule of `choose` takes, on validation. Seconds are of this machine.
    """
    rows = []
    for name, settings_tried in tries.items():
        asked = problem(case)
        own = []
        for settings in settings_tried:
            began = time.process_time()
            model = unlearning.METHODS[name].run(asked, **dict(settings))
            seconds = time.process_time() - began
            lm, parts = case.lm._replace(model=model), ("target", "near", "text")
            found = {s: {p: ask(lm, case.known(p, s)) for p in parts} for s in ("validation", "held_out")}
            held = {f"held_{key}": value for key, value in _shares(found["held_out"]).items()}
            facts = {"study": "methods", "concept": case.concept, "method": name, "settings": dict(settings)}
            before = {"held_text_nll_before": case.before("text", "held_out").mean}
            own.append({**facts, **_shares(found["validation"]), **held, **before, "cpu_seconds": seconds})
            del model, lm
        best = _best(own)
        rows += [{**row, "chosen": row is best} for row in own]
    return rows


# -------------------------------------------------------------------------------------------------------- reading


def recorded(name: str) -> list[Row]:
    """The rows of a recorded run; none where it is not recorded."""
    return runs.load(name).rows if name in runs.names() else []


def by_concept(rows: Iterable[Row], edit: str, part: str, key: str = "share") -> dict[str, float]:
    """Concept -> what "edits" found in one part, where it is not empty; "rise" is the mean rise of the NLL."""
    found = runs.select(rows, {"study": "edits", "edit": edit, "part": part})
    return {r["concept"]: fmean(r["rise"]) if key == "rise" else r[key] for r in found if r["n"]}


def over_concepts(rows: Iterable[Row], edit: str, part: str, key: str = "right") -> tuple[float, float, float]:
    """(mean, low, high) over concepts and items: see `interval`. `key`: "right" (shares) or "rise" (NLL)."""
    found = runs.select(rows, {"study": "edits", "edit": edit, "part": part})
    return interval([r[key] for r in found if r["n"]])


# --------------------------------------------------------------------------------------------------- command line

CONCEPTS, QUESTIONS, METHODS = "pretrained-concepts", "pretrained-questions", "pretrained-methods"
TOFU = "pretrained-tofu"
RECORDED = ("Paris", "Shakespeare", "Spanish", "Apple", "biology")
GRID = (
    Edit(specificity=30.0),
    Edit(specificity=10.0, strength="uniform"),
    Edit(specificity=30.0, strength="uniform"),
)
WIDER = (*GRID, Edit(specificity=1.0, white=1e-3), Edit(specificity=10.0))  # tried on Paris alone
LADDER = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)


def before(case: Case) -> list[Row]:
    """Rows of the study "before": how much of each part the model knows, of all that was asked."""
    return [
        {
            "study": "before",
            "concept": case.concept,
            "part": part,
            "split": split,
            "asked": len(case.sets[part][split]),
            "known": len(case.known(part, split)),
        }
        for part, split in (
            ("target", "used"),
            ("target", "validation"),
            ("near", "validation"),
            *((p, "held_out") for p in world.PARTS),
        )
    ]


def main(argv: Sequence[str] | None = None) -> int:
    options = parser("pretrained", __doc__, f"{CONCEPTS} (or {QUESTIONS}, {METHODS}, {TOFU})")
    options.add_argument("--questions", action="store_true", help="what a reader would try, after the concepts")
    options.add_argument("--methods", action="store_true", help="other ways to forget, on the same facts")
    options.add_argument("--tofu", action="store_true", help="the map for TOFU's authors; needs TOFU")
    options.add_argument("--precision", choices=zoo.language.PRECISIONS, default=None)
    args = options.parse_args(argv)
    lm = zoo.smollm2(args.precision)
    lm = lm._replace(model=lm.model.to(device()))
    others = {QUESTIONS: (args.questions, _questions), METHODS: (args.methods, _methods), TOFU: (args.tofu, _tofu)}
    asked = ((name, parts) for name, (wanted, parts) in others.items() if wanted)
    name, parts = next(asked, (CONCEPTS, _concepts))
    config = {
        "model": lm.label,
        "weights": zoo.fingerprint(lm.model),
        "ladder": LADDER,
        "goal": GOAL,
        "grid": [asdict(edit) for edit in GRID],
    }
    if not args.record:
        case = Case(lm, "Paris")
        for row in [*before(case), *choose(case, GRID[:1], LADDER)]:
            print(row)
        return 0
    data = tofu() if args.tofu else {"name": "facts of the world", "fingerprint": world.fingerprint()}

    def timed(recorder: runs.Recorder) -> Iterable[recording.Part]:
        return ((facts, partial(_with_cost, facts["part"], rows)) for facts, rows in parts(lm, recorder))

    recording.record(name, timed, args, config=config, seeds=[0], data=data)
    return 0


def _with_cost(part: str, make: Callable[[], list[Row]]) -> list[Row]:
    """The rows of a part, and one of the study "cost": seconds that passed, and that a core worked."""
    wall, cpu = time.perf_counter(), time.process_time()
    rows = make()
    cost = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return [*rows, {"study": "cost", "of": part, **cost}]


def _concepts(lm: zoo.LanguageModel, recorder: runs.Recorder) -> Iterable[recording.Part]:
    """The parts of the first recording, a concept at a time: its moments are large."""
    for concept in RECORDED:
        case = Case(lm, concept)

        def report(case=case) -> list[Row]:
            return held_out(case, chosen(recorder.rows, case.concept))

        yield {"part": "before", "concept": concept}, lambda case=case: before(case)
        yield (
            {"part": "choose", "concept": concept},
            lambda case=case: choose(case, WIDER if case.concept == "Paris" else GRID, LADDER),
        )
        yield {"part": "held_out", "concept": concept}, report


def _methods(lm: zoo.LanguageModel, recorder: runs.Recorder) -> Iterable[recording.Part]:
    """Settings are chosen on Paris; another concept gets the chosen ones."""
    paris = Case(lm, "Paris")
    for name, tries in TRIES.items():
        yield {"part": name, "concept": "Paris"}, lambda name=name, tries=tries: methods(paris, {name: tries})
    other = Case(lm, "Spanish")
    for name in TRIES:

        def again(name=name) -> list[Row]:
            (row,) = (r for r in recorder.rows if r.get("method") == name and r["concept"] == "Paris" and r["chosen"])
            return methods(other, {name: [row["settings"]]})

        yield {"part": name, "concept": "Spanish"}, again


def _questions(lm: zoo.LanguageModel, recorder: runs.Recorder) -> Iterable[recording.Part]:
    """The parts of the second recording, with the edits that the first one chose."""
    rows = runs.load(CONCEPTS).rows
    edits = {concept: chosen(rows, concept) for concept in RECORDED}
    paris, edit = Case(lm, "Paris"), edits["Paris"]
    yield {"part": "layers"}, lambda: layers(paris, edit)
    yield {"part": "numbers"}, lambda: numbers(paris, edit)
    yield {"part": "protect"}, lambda: protect(lm, "Paris", edit, near=(0, 22, 63, 150), rest=(0, 10))
    yield {"part": "many"}, lambda: many(lm, edits, (1, 2, len(RECORDED)))
    yield {"part": "order"}, lambda: order(lm, {c: edits[c] for c in RECORDED[:3]})
    yield {"part": "map"}, lambda: where(paris)


def _tofu(lm: zoo.LanguageModel, recorder: runs.Recorder) -> Iterable[recording.Part]:
    yield {"part": "tofu map"}, lambda: tofu_map(lm)
