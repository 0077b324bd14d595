"""Every way to make a language model forget its authors, on the same models: chapters 13 and 14, and the recorded runs.

    python -m engramlib.lab.studies forgetting --record                # generated authors, three seeds
    python -m engramlib.lab.studies forgetting --record --places       # which layers, and which W0
    python -m engramlib.lab.studies forgetting --record --cuts         # why the published strengths do little here
    python -m engramlib.lab.studies forgetting --record --data tofu    # real TOFU, after `trained`
    python -m engramlib.lab.studies forgetting --record --data tofu --second-round
    python -m engramlib.lab.studies forgetting --record --data tofu --shares
    python -m engramlib.lab.studies forgetting --record --data tofu-smollm2 --seeds 1           # a published model
    python -m engramlib.lab.studies forgetting --record --data tofu-smollm2 --seeds 1 --cuts
    python -m engramlib.lab.studies forgetting --record --data tofu-smollm2 --seeds 1 --controls  # after the methods
    python -m engramlib.lab.studies forgetting --record --data tofu-smollm2 --seeds 1 --maps

Settings are chosen by forgetting `rehearsal10` from the model of seed 0, and applied to `forget10` of every seed. Nine
studies: the first three in `<data>-forgetting` and `<data>-second-round`, "places" (with its "tuning") in
`<data>-places`, "cuts" and "certainty" in `<data>-cuts`, each other one in a recording of its name:

    methods    one row an entrant and seed: settings, cost, and the aggregates of `metrics.tofu.compare`
    tuning     one row a setting that was tried on the rehearsal, with its cost, the level that was aimed at (`goal`),
               and which of the chosen settings lie at an edge of the grid (`edges`)
    said       what the models say to some questions
    places     one row a choice of layers (Table 8) or of W0 (Table 9), with the aggregates; α as chosen for W-Norm
    shares     one row a layer: what share of its response the engram takes, on the answers to forget and on the others;
               with "tuning" of an engram and "knows", also for models that learned the questions from fresh weights
    cuts       one row a cut, way to share out the strength, and α: what is left and kept. Nothing is chosen by them
    certainty  the same at α_W-Norm = 1 for models whose fine-tuning ended early, which are less sure of the answers
    maps       one row a layer, model, target and cut: the engram's relative norm (Fig. 9), and the shares as above
    controls   one row an engram, as chosen, its parts, and edits as large that should not do it: what is left and kept

A recording resumes after the last entrant.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from statistics import median

import torch
from torch import nn

import engramlib as el
from engramlib import language
from engramlib.lab.data import QuestionData
from engramlib.lab.metrics import share_taken
from engramlib.lab.metrics import tofu as benchmark
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import recording, trained
from engramlib.lab.studies.recording import device, parser
from engramlib.lab.training.precision import arithmetic
from engramlib.lab.unlearning import controls as control_edits
from engramlib.lab.unlearning import text as unlearning
from engramlib.lab.unlearning.method import Settings
from engramlib.lab.unlearning.text.engrams import edited, extracted
from engramlib.lab.unlearning.text.problem import HOLDOUT

# The paper's cut is the first. `BY_WIDTH` is the rule of the authors' package, d times float32's machine epsilon: with
# the widths of a model of a billion parameters 2e-4 to 1e-3 (`TYPICAL` lies between), with ours 1.5e-5 to 9e-5.
CUTS = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3)
TYPICAL = 3e-4
BY_WIDTH, EPSILON = "by width", 1.1920929e-07
STRENGTHS = {"max": (1.0, 2.0, 3.0, 4.0), "median": (0.6, 1.0, 1.5, 2.0), "uniform": (0.6, 1.0)}


@dataclass(frozen=True)
class Setting:
    """What is forgotten, and what the methods are given. `problem`: arguments of `unlearning.text.Problem`.

    `entrants`: the rows of the recorded table, by their names in `ENTRANTS`; None = all. `grids`: what is tried on the
    rehearsal, where it is not the entrant's own. `cuts` and `strengths`: see `CUTS` and `STRENGTHS`.
    """

    name: str
    problem: dict[str, object] = field(default_factory=dict)
    shown: int = 4  # questions of each set whose answers are recorded
    entrants: tuple[str, ...] | None = None
    grids: Mapping[str, tuple[Settings, ...]] = field(default_factory=dict)
    cuts: tuple[float, ...] = CUTS
    strengths: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: STRENGTHS)


AUTHORS = Setting("authors", {"epochs": 5, "batch_size": 16})
# Answers of sixty tokens: whole ones break at the lightest touch, so tokens are counted. Closed forms first: they take
# minutes, a method that trains nine times takes a quarter of an hour on one core.
TOFU = Setting(
    "tofu",
    {"epochs": 5, "batch_size": 16, "unit": "tokens"},
    entrants=(
        *("full", "retain", "engram_06", "engram_norm_1", "engram", "engram_norm", "engram_lambda"),
        *("uce", "task_arithmetic", "npo", "graddiff", "simnpo"),
    ),
)
# A model a hundred times as large: an evaluation takes minutes on one core. So every method that chooses has three
# tries, learning rates are those of a large model, and models are trained and asked in bfloat16 arithmetic, as the
# authors' are.
SMOLLM2 = Setting(
    "tofu-smollm2",
    {"epochs": 5, "batch_size": 16, "unit": "tokens", "validation": 100, "mixed": True},
    entrants=(
        *("full", "retain", "engram_06", "engram_norm_1", "engram_norm", "engram_lambda"),
        *("uce", "task_arithmetic", "npo", "graddiff", "simnpo"),
    ),
    grids={
        "engram_norm": tuple({"alpha": alpha} for alpha in (2.0, 4.0, 8.0)),
        "engram_lambda": tuple({"alpha": alpha, "specificity": 3.0, "layers": "write"} for alpha in (2.0, 6.0, 18.0)),
        "uce": tuple({"keep": keep, "layers": "all"} for keep in (0.3, 0.6, 1.0)),
        "task_arithmetic": tuple({"lr": 1e-4, "alpha": alpha, "epochs": 5} for alpha in (1.0, 2.0, 4.0)),
        "npo": tuple({"lr": lr, "beta": 0.1, "epochs": n} for lr, n in ((5e-5, 5), (1e-4, 5), (1e-4, 10))),
        "graddiff": tuple({"lr": lr, "alpha": 5.0, "epochs": n} for lr, n in ((2e-5, 5), (5e-5, 5), (5e-5, 10))),
        "simnpo": tuple({"lr": lr, "beta": 3.5, "epochs": n} for lr, n in ((5e-5, 5), (1e-4, 5), (1e-4, 10))),
    },
    cuts=(1e-6, 1e-4, 3e-4, 1e-3),
    strengths={"max": (1.0, 2.0, 3.0), "median": (1.0,), "uniform": (0.6, 1.0)},
)
SETTINGS = {s.name: s for s in (AUTHORS, TOFU, SMOLLM2)}


@dataclass(frozen=True)
class Entrant:
    """A row of the table. `method` None: a reference model. `grid` None: the method's own.

    `kind`: "reference", "trains" (gradients), "closed form" (one formula) or "engram".
    """

    label: str
    kind: str
    method: str | None = None
    grid: tuple[Settings, ...] | None = None

    @property
    def settings(self) -> tuple[Settings, ...]:
        return unlearning.METHODS[self.method].grid if self.grid is None else self.grid


ENTRANTS: dict[str, Entrant] = {
    "full": Entrant("Fine-tuned", "reference"),
    "retain": Entrant("Retrained", "reference"),
    **{
        name: Entrant(unlearning.METHODS[name].label, "trains", name)
        for name in ("graddiff", "idknll", "idkdpo", "undial", "rmu", "npo", "simnpo", "altpo")
    },
    "uce": Entrant("UCE", "closed form", "uce"),
    "task_arithmetic": Entrant("Task Arithmetic", "closed form", "task_arithmetic"),
    "engram_06": Entrant("Engram, α = .6", "engram", "engram", ({"alpha": 0.6},)),
    "engram_norm_1": Entrant("Engram, α_W-Norm", "engram", "engram_norm", ({"alpha": 1.0},)),
    "engram": Entrant("Engram, uniform, chosen", "engram", "engram"),
    "engram_norm": Entrant("Engram, W-Norm, chosen", "engram", "engram_norm"),
    "engram_lambda": Entrant("Engram, λ and layers, chosen", "engram", "engram_lambda"),
}

# For entrants whose rehearsal on TOFU chose the strongest setting of its grid: nine beyond it. The grids were laid out
# on generated authors; where a grid ends should not decide who forgets.
SECOND_ROUND: dict[str, Entrant] = {
    "engram_beyond": Entrant(
        "Engram, uniform, stronger",
        "engram",
        "engram",
        tuple({"alpha": alpha} for alpha in (2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 8.0, 10.0)),
    ),
    "engram_norm_beyond": Entrant(
        "Engram, W-Norm, stronger",
        "engram",
        "engram_norm",
        tuple({"alpha": alpha} for alpha in (6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0, 17.0, 20.0)),
    ),
    "engram_lambda_beyond": Entrant(
        "Engram, λ and layers, stronger",
        "engram",
        "engram_lambda",
        tuple({**settings, "alpha": 2 * settings["alpha"]} for settings in unlearning.METHODS["engram_lambda"].grid),
    ),
    "uce_beyond": Entrant(
        "UCE, stronger",
        "closed form",
        "uce",
        tuple({"keep": keep, "layers": layers} for layers in ("all", "write", "mlp") for keep in (0.05, 0.1, 0.2)),
    ),
}

EARLY = (5, 8, 12, 20)  # epochs of fine-tuning, of thirty

# The engrams that have controls, and how often the dice are thrown for each.
CONTROLLED = ("engram_06", "engram_norm_1", "engram_lambda")
DRAWS = 2

COST = ("seconds", "passes", "trained_passes")  # of one run, everything shared included

# Which matrices are edited: Table 8, and each kind alone.
PLACES: dict[str, str] = {
    "all": r".*_proj",
    "Q/K": r".*\.(q|k)_proj",
    "Q/K + gate": r".*\.(q|k|gate)_proj",
    "without Q/K/gate": r".*\.(v|o|up|down)_proj",
    **{kind: rf".*\.{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down")},
}


# ------------------------------------------------------------------------------------------------------ one model


class Case:
    """The models of one seed and everything that is measured against them. `kinds` are loaded when asked for."""

    def __init__(self, setting: Setting, data: QuestionData, seed: int) -> None:
        self.setting, self.data, self.seed = setting, data, seed
        self._models: dict[str, nn.Module] = {}
        self._evaluations: dict[str, benchmark.Evaluation] = {}
        self._problems: dict[bool, unlearning.Problem] = {}
        self.tokenizer = None
        self._level: float | None = None

    def model(self, kind: str) -> nn.Module:
        """The trained model of a kind: "full", "retain" or "pretrained"."""
        if kind not in self._models:
            model, self.tokenizer = trained.load(kind, self.seed, data=self.setting.name)
            self._models[kind] = model.to(device())
        return self._models[kind]

    def problem(self, *, rehearsal: bool = False) -> unlearning.Problem:
        """What the methods get: the full model and the questions to forget, or those of the rehearsal.

        Where the data hold no questions that nobody learned (`holdout10`), the level to aim at is what the retrained
        model gets right of `forget10`: one number, which says what kind of questions these are. Made once, so that all
        entrants share its moments.
        """
        if rehearsal not in self._problems:
            self._problems[rehearsal] = self._problem(rehearsal)
        return self._problems[rehearsal]

    def _problem(self, rehearsal: bool) -> unlearning.Problem:
        splits = {"forget": "rehearsal10", "retain": "rehearsal_retain90"} if rehearsal else {}
        model = self.model("full")
        how = {"seed": self.seed, **splits, **self.setting.problem}
        found = unlearning.Problem(model, self.tokenizer, self.data, **how)
        if found.level is None and HOLDOUT not in self.data:
            if self._level is None:
                asked = unlearning.Problem(model, self.tokenizer, self.data, **self.setting.problem)
                self._level = min(0.99, asked.accuracies(self.model("retain"))[0])
            found = replace(found, level=self._level)
        return found

    def evaluate(self, model: nn.Module) -> benchmark.Evaluation:
        """All numbers of the benchmark for a model, in the arithmetic that the problem asks its answers in.

        Those of the case's own models, which every edit is compared with, are computed once.
        """
        kind = next((kind for kind, known in self._models.items() if known is model), None)
        if kind in self._evaluations:
            return self._evaluations[kind]
        with arithmetic(device(), mixed=bool(self.setting.problem.get("mixed"))):
            found = benchmark.evaluate(model, self.tokenizer, self.data)
        if kind is not None:
            self._evaluations[kind] = found
        return found

    def reference(self, kind: str) -> benchmark.Evaluation:
        """The same for "full" or "retain"."""
        return self.evaluate(self.model(kind))

    def compare(self, model: nn.Module) -> tuple[dict[str, float], benchmark.Evaluation]:
        """The aggregates of a model between "full" and "retain", and what they are made of."""
        found = self.evaluate(model)
        return benchmark.compare(found, self.reference("full"), self.reference("retain")), found


def case(setting: Setting | str = AUTHORS, seed: int = 0, data: QuestionData | None = None) -> Case:
    """The models of one seed. Raises `FileNotFoundError` where they are not trained."""
    setting = SETTINGS[setting] if isinstance(setting, str) else setting
    found = Case(setting, trained.questions(trained.SETTINGS[setting.name]) if data is None else data, seed)
    found.model("full")
    return found


# --------------------------------------------------------------------------------------------------------- studies


def choose(case: Case, name: str) -> list[Row]:
    """Rows of the study "tuning": every setting of an entrant on the rehearsal; `chosen` marks the best."""
    entrant = entrant_of(name)
    problem, grid = case.problem(rehearsal=True), case.setting.grids.get(name, entrant.settings)
    tuned = unlearning.tune(entrant.method, problem, grid=grid)
    facts = {"study": "tuning", "seed": case.seed, "method": name, "goal": problem.goal()}
    return [
        {
            **facts,
            "settings": dict(settings),
            **{key: row[key] for key in ("acc_forget", "acc_keep", "score", *COST, "error")},
            "chosen": settings == tuned.settings,
            "edges": dict(tuned.edges) if settings == tuned.settings else {},
        }
        for settings, row in zip(grid, tuned.tried, strict=True)
    ]


def forget(case: Case, name: str, settings: Settings | None = None) -> list[Row]:
    """Rows of the studies "methods" and "said": one entrant on `forget10`, with the settings that were chosen."""
    entrant = entrant_of(name)
    if entrant.method is None:
        model, settings, cost = case.model(name), {}, dict.fromkeys(COST)
    else:
        found = unlearning.apply(entrant.method, case.problem(), settings)
        model, cost = found.model, {key: found.tried[0][key] for key in COST}
    row, evaluation = case.compare(model)
    facts = {"seed": case.seed, "method": name}
    rows = [{"study": "methods", **facts, "settings": dict(settings), **cost, **row}]
    for role, split in evaluation.splits.items():
        pairs = zip(case.data[split], evaluation.scores[role].said, strict=True)
        rows += [
            {"study": "said", **facts, "role": role, "question": q.question, "answer": q.answer, "said": said}
            for q, said in list(pairs)[:: max(1, len(case.data[split]) // case.setting.shown)][: case.setting.shown]
        ]
    return rows


def places(case: Case, alpha: float = 1.0) -> list[Row]:
    """Rows of the study "places": α_W-Norm from some layers only (Table 8), or with another W0 (Table 9).

    Strengths s_ℓ are those of the whole engram, so that a part of it is a part. `edit`: "tabula rasa" is ΔW = W;
    "naive delta" is ΔW = W - W0, W0 the pretrained weights, where there are any. `scaled`: what is subtracted was
    brought to the norm of the whole edit, so that *where* is not *how much*. `norm` = ‖what is subtracted‖.
    """
    problem = case.problem()
    whole = extracted(problem, 1.0, "all").norm_weighted()
    edits = {("tabula rasa", place): whole.select(names) for place, names in PLACES.items()}
    if "pretrained" in trained.SETTINGS[case.setting.name].kinds:
        plus, minus = problem.moments(None)
        base = case.model("pretrained").state_dict()
        delta = el.extract(problem.model, plus, minus, base=base, rcond=problem.rcond)
        edits["naive delta", "all"] = delta.norm_weighted()
    rows = []
    for (edit, place), engram in edits.items():
        for scaled in (False, True) if (edit, place) != ("tabula rasa", "all") else (False,):
            taken = alpha * engram * (whole.norm() / engram.norm() if scaled else 1.0)
            found, _ = case.compare(edited(problem, taken))
            facts = {"study": "places", "seed": case.seed, "edit": edit, "place": place, "alpha": alpha}
            rows.append({**facts, "scaled": scaled, "norm": taken.norm(), **found})
    return rows


def from_nothing(case: Case) -> Case:
    """The case with a full model that was trained on the questions from fresh weights, without plain text before."""
    settings = trained.SETTINGS[case.setting.name]
    found = Case(case.setting, case.data, case.seed)
    model, _ = trained.fit(settings, case.data, case.tokenizer, "full", case.seed)
    found._models["full"], found.tokenizer = model.to(device()).eval(), case.tokenizer
    return found


def shares(case: Case) -> list[Row]:
    """Rows of the study "shares": of each layer's response to the answers to forget, and of that to the others', the
    share that the engram (λ = 1) takes: `metrics.share_taken`. `data_share` = the target's share of all tokens.
    """
    problem = case.problem()
    plus, minus = problem.moments(None)
    engram = extracted(problem, 1.0, "all")
    target, others = (share_taken(problem.model, engram, side) for side in (plus, minus))
    return [
        {
            "study": "shares",
            "seed": case.seed,
            "layer": name,
            "target": target[name],
            "others": others[name],
            "data_share": plus.count[name] / (plus.count[name] + minus.count[name]),
        }
        for name in engram
    ]


def maps(case: Case, kind: str, target: str) -> list[Row]:
    """Rows of the study "maps": Fig. 9, ‖W⁺‖/‖W‖ of every layer, in a model of this `kind`, at the paper's cut and at
    `TYPICAL`.

    `target`: "forget10", of whom "full" alone was told, or "rehearsal10", of whom "retain" was told as well. A map that
    is the same in a model that was never told about its target does not show where that memory is. `share_target` and
    `share_others`: as in "shares".
    """
    problem = replace(case.problem(rehearsal=target == "rehearsal10"), model=case.model(kind))
    plus, minus = problem.moments(None)
    rows = []
    for cut, engram in el.extract(problem.model, plus, minus, rcond=[problem.rcond, TYPICAL]).items():
        taken, others = (share_taken(problem.model, engram, side) for side in (plus, minus))
        norms = engram.relative_norms()
        rows += [
            {
                "study": "maps",
                "seed": case.seed,
                "model": kind,
                "target": target,
                "cut": cut,
                "layer": name,
                "r": norms[name],
                "share_target": taken[name],
                "share_others": others[name],
                "data_share": plus.count[name] / (plus.count[name] + minus.count[name]),
            }
            for name in engram
        ]
    return rows


def by_cut(problem: unlearning.Problem, numbers: Sequence[float]) -> dict[float | str, el.Engram]:
    """Cut -> the engram (λ = 1) of every layer: those `numbers`, and d · 1.2e-7 under `BY_WIDTH`."""
    plus, minus = problem.moments(None)
    found: dict[float | str, el.Engram] = dict(el.extract(problem.model, plus, minus, rcond=list(numbers)))
    widths: dict[int, list[str]] = {}
    for name in plus:
        widths.setdefault(plus[name].shape[-1], []).append(name)
    parts = [
        el.extract(problem.model, plus.select(names), minus.select(names), rcond=width * EPSILON)
        for width, names in widths.items()
    ]
    found[BY_WIDTH] = sum(parts[1:], parts[0])
    return found


def cuts(case: Case) -> list[Row]:
    """Rows of the study "cuts", on `forget10`: each cut with each way to share out the strength, at every α.

    `shared`: "max" is the paper's α_W-Norm; "median" divides by the median of the r_ℓ instead, so that one noisy layer
    cannot weaken the others; "uniform". `largest`: the layer with the largest r_ℓ, `r` and `r_median` its value and the
    median.
    """
    problem, rows = case.problem(), []
    for cut, engram in by_cut(problem, case.setting.cuts).items():
        norms = engram.relative_norms()
        largest = max(norms, key=norms.__getitem__)
        facts = {"largest": largest, "r": norms[largest], "r_median": median(norms.values())}
        ways = {"max": engram.norm_weighted(), "median": engram.norm_weighted(to="median"), "uniform": engram}
        for shared, change in ways.items():
            for alpha in case.setting.strengths[shared]:
                left, kept = problem.accuracies(edited(problem, change, alpha))
                rows.append(
                    {
                        "study": "cuts",
                        "seed": case.seed,
                        "cut": cut,
                        "shared": shared,
                        "alpha": alpha,
                        "left": left,
                        "kept": kept,
                        **facts,
                    }
                )
    return rows


def certainty(case: Case, epochs: int) -> list[Row]:
    """Rows of the study "certainty": a full model whose fine-tuning ends after so many epochs, and α_W-Norm = 1 on it.

    `nll`: mean over the forgotten answers' tokens before the edit, `nll_after` after it.
    """
    settings = trained.SETTINGS[case.setting.name]
    brief = replace(settings, finetune=replace(settings.finetune, epochs=epochs))
    start = copy.deepcopy(case.model("pretrained"))
    model, _ = trained.fit(brief, case.data, case.tokenizer, "full", case.seed, start=start)
    begun = replace(case.problem(), model=model.to(device()).eval())
    before, rows = begun.accuracies(begun.model), []
    for cut, engram in by_cut(begun, (case.setting.cuts[0], TYPICAL)).items():
        if cut != BY_WIDTH:
            after = edited(begun, engram.norm_weighted())
            left, kept = begun.accuracies(after)
            rows.append(
                {
                    "study": "certainty",
                    "seed": case.seed,
                    "epochs": epochs,
                    "cut": cut,
                    "nll": _nll(begun, begun.model),
                    "nll_after": _nll(begun, after),
                    "known": before[0],
                    "kept_before": before[1],
                    "left": left,
                    "kept": kept,
                }
            )
    return rows


def controls(case: Case, name: str, settings: Settings) -> list[Row]:
    """Rows of the study "controls", on `forget10`: an engram with its settings, its parts, and what is as large as it.

    `edit`: "engram"; "random, equal norm" and "random, equal effect" (`controls.random_subspace`, as large in the
    weights or on the data; one row a `draw`); "other authors": the engram of `rehearsal10`, brought to the norm that
    the engram has in each layer; "largest layer" alone, the one with the largest ‖what is subtracted‖/‖W‖, and "all but
    the largest". `norm` = ‖what is subtracted‖.
    """
    problem, strength = case.problem(), float(settings["alpha"])
    plus, minus = problem.moments(None)

    def found(of: unlearning.Problem) -> el.Engram:
        one = extracted(of, float(settings.get("specificity", 1.0)), str(settings.get("layers", "all")))
        return strength * (one if entrant_of(name).method == "engram" else one.norm_weighted())

    engram, total = found(problem), plus + minus
    edits: dict[tuple[str, int | None], el.Engram] = {("engram", None): engram}
    for draw in range(DRAWS):
        edits["random, equal norm", draw] = control_edits.random_subspace(problem.model, engram, draw)
        edits["random, equal effect", draw] = control_edits.random_subspace(problem.model, engram, draw, moments=total)
    edits["other authors", None] = control_edits.same_norm(found(case.problem(rehearsal=True)), engram)
    norms = engram.relative_norms()
    largest = max(norms, key=norms.__getitem__)
    edits["largest layer", None] = engram.select([largest])
    edits["all but the largest", None] = engram.select([name for name in engram if name != largest])
    rows = []
    for (edit, draw), change in edits.items():
        left, kept = problem.accuracies(edited(problem, change))
        facts = {"study": "controls", "seed": case.seed, "method": name, "settings": dict(settings)}
        facts |= {"edit": edit, "draw": draw, "norm": change.norm(), "largest": largest}
        rows.append({**facts, "left": left, "kept": kept})
    return rows


def _nll(problem: unlearning.Problem, model: nn.Module) -> float:
    answers = language.answer_logprobs(model, problem.tokenizer, problem.forget_pairs, batch_size=64)
    return -float(torch.cat([answer.logprobs for answer in answers]).double().mean())


def entrant_of(name: str) -> Entrant:
    """The entrant of the first or the second round."""
    return ENTRANTS[name] if name in ENTRANTS else SECOND_ROUND[name]


# ---------------------------------------------------------------------------------------------------- command line


def chosen(rows: Sequence[Row], name: str) -> Settings | None:
    """What the rehearsal chose for an entrant, out of the rows of "tuning"; None for the references."""
    entrant = entrant_of(name)
    if entrant.method is None:
        return None
    (found,) = (r["settings"] for r in runs.select(rows, {"study": "tuning", "method": name, "chosen": True}))
    return found


def record(
    setting: Setting,
    *,
    seeds: Sequence[int],
    overwrite: bool = False,
    restart: bool = False,
    entrants: Sequence[str] | None = None,
) -> None:
    """Write `data/runs/<name>-forgetting.json`, entrant by entrant; resumes where it was cut off.

    `entrants`: these alone, of those of the setting; what the run does not have is then not recorded.
    """
    all_of_them = setting.entrants or tuple(ENTRANTS)
    if unknown := [name for name in entrants or () if name not in all_of_them]:
        raise ValueError(f"entrants: {unknown[0]!r} is none of {setting.name}'s: {', '.join(all_of_them)}")
    _record("forgetting", partial(_entrants, entrants or all_of_them), setting, seeds, overwrite, restart)


def record_second_round(
    setting: Setting, *, seeds: Sequence[int], overwrite: bool = False, restart: bool = False
) -> None:
    """Write `data/runs/<name>-second-round.json`: the entrants of `SECOND_ROUND`."""
    _record("second-round", partial(_entrants, tuple(SECOND_ROUND)), setting, seeds, overwrite, restart)


def record_places(setting: Setting, *, seeds: Sequence[int], overwrite: bool = False, restart: bool = False) -> None:
    """Write `data/runs/<name>-places.json`, at the α that the rehearsal chooses for α_W-Norm."""
    _record("places", _places, setting, seeds, overwrite, restart)


def record_shares(setting: Setting, *, seeds: Sequence[int], overwrite: bool = False, restart: bool = False) -> None:
    """Write `data/runs/<name>-shares.json`. Where the models read plain text first, also for models that did not."""
    _record("shares", _shares, setting, seeds, overwrite, restart)


def record_cuts(setting: Setting, *, seeds: Sequence[int], overwrite: bool = False, restart: bool = False) -> None:
    """Write `data/runs/<name>-cuts.json`; "certainty" where the models read plain text first."""
    _record("cuts", _cuts, setting, seeds, overwrite, restart)


def record_controls(setting: Setting, *, seeds: Sequence[int], overwrite: bool = False, restart: bool = False) -> None:
    """Write `data/runs/<name>-controls.json`, at the settings that `<name>-forgetting` (recorded before) chose."""
    rows = runs.load(f"{setting.name}-forgetting").rows
    _record("controls", partial(_controls, rows), setting, seeds, overwrite, restart)


def record_maps(setting: Setting, *, seeds: Sequence[int], overwrite: bool = False, restart: bool = False) -> None:
    """Write `data/runs/<name>-maps.json`: of the model that was told, of two that were not, and of other authors."""
    _record("maps", _maps, setting, seeds, overwrite, restart)


Cases = Mapping[int, Case]


def _entrants(names: Sequence[str], cases: Cases, recorder: runs.Recorder) -> Iterator[recording.Part]:
    first = cases[min(cases)]
    for name in names:
        if entrant_of(name).method is not None:
            yield {"study": "tuning", "method": name}, partial(choose, first, name)
        for seed, case in cases.items():

            def rows(case: Case = case, name: str = name) -> list[Row]:
                return forget(case, name, chosen(recorder.rows, name))

            yield {"study": "methods", "method": name, "seed": seed}, rows


def _places(cases: Cases, recorder: runs.Recorder) -> Iterator[recording.Part]:
    yield {"study": "tuning", "method": "engram_norm"}, partial(choose, cases[min(cases)], "engram_norm")
    for seed, case in cases.items():

        def rows(case: Case = case) -> list[Row]:
            return places(case, chosen(recorder.rows, "engram_norm")["alpha"])

        yield {"study": "places", "seed": seed}, rows


def _shares(cases: Cases, recorder: runs.Recorder) -> Iterator[recording.Part]:
    for seed, case in cases.items():
        published = trained.SETTINGS[case.setting.name].published
        starts = {published or "nothing": lambda case: case}
        if trained.SETTINGS[case.setting.name].pretrain is not None:
            starts = {"plain text": lambda case: case, "nothing": from_nothing}
        for start, make in starts.items():

            def rows(
                case: Case = case, start: str = start, make: Callable[[Case], Case] = make, full: bool = len(starts) > 1
            ) -> list[Row]:
                found = make(case)
                rows = shares(found)
                if full:  # else both are recorded with the models and the methods
                    known = trained.measure(found.model("full"), found.tokenizer, found.data, ("forget10",))
                    rows += choose(found, "engram_lambda")
                    rows += [{"study": "knows", "seed": case.seed, **row} for row in known]
                return [{**row, "start": start} for row in rows]

            yield {"start": start, "seed": seed}, rows


def _cuts(cases: Cases, recorder: runs.Recorder) -> Iterator[recording.Part]:
    for seed, case in cases.items():
        yield {"study": "cuts", "seed": seed}, partial(cuts, case)
        for epochs in EARLY if trained.SETTINGS[case.setting.name].pretrain is not None else ():
            yield {"study": "certainty", "seed": seed, "epochs": epochs}, partial(certainty, case, epochs)


def _controls(rows: Sequence[Row], cases: Cases, recorder: runs.Recorder) -> Iterator[recording.Part]:
    for seed, case in cases.items():
        for name in CONTROLLED:
            yield {"method": name, "seed": seed}, partial(controls, case, name, chosen(rows, name))


def _maps(cases: Cases, recorder: runs.Recorder) -> Iterator[recording.Part]:
    for seed, case in cases.items():
        for kind, target in (
            *(("full", "forget10"), ("retain", "forget10"), ("pretrained", "forget10")),
            ("full", "rehearsal10"),
        ):
            yield {"model": kind, "target": target, "seed": seed}, partial(maps, case, kind, target)


def _record(
    what: str,
    parts: Callable[[Cases, runs.Recorder], Iterator[recording.Part]],
    setting: Setting,
    seeds: Sequence[int],
    overwrite: bool,
    restart: bool,
) -> None:
    data = trained.questions(trained.SETTINGS[setting.name])
    recording.write(
        f"{setting.name}-{what}",
        lambda recorder: parts({seed: case(setting, seed, data) for seed in seeds}, recorder),
        config={"setting": asdict(setting), "models": asdict(trained.SETTINGS[setting.name])},
        seeds=seeds,
        data=data,
        overwrite=overwrite,
        restart=restart,
    )


OTHERS = {
    "second-round": record_second_round,
    "places": record_places,
    "shares": record_shares,
    "cuts": record_cuts,
    "controls": record_controls,
    "maps": record_maps,
}


def main(argv: Sequence[str] | None = None) -> int:
    options = parser("forgetting", __doc__, "<data>-forgetting", seeds=3)
    options.add_argument("--data", choices=list(SETTINGS), default=AUTHORS.name)
    options.add_argument("--entrants", nargs="+", metavar="NAME", help="only these methods, of those of the setting")
    instead = options.add_mutually_exclusive_group()
    for what in OTHERS:
        instead.add_argument(f"--{what}", action="store_true", help=f"record <data>-{what} instead")
    args = options.parse_args(argv)
    if not args.record:
        options.error("this study is only recorded; add --record")
    asked = [function for what, function in OTHERS.items() if getattr(args, what.replace("-", "_"))]
    if asked and args.entrants:
        options.error("--entrants: only the table of methods has entrants")
    function = asked[0] if asked else partial(record, entrants=args.entrants)
    function(SETTINGS[args.data], seeds=range(args.seeds), overwrite=args.overwrite, restart=args.restart)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
