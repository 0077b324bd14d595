"""Erased, or suppressed? What comes back of the authors that a small Llama forgot: chapter 17's recorded run.

    python -m engramlib.lab.studies erasure --record                  # data/runs/erasure-authors.json; resumes
    python -m engramlib.lab.studies erasure --record --data baselines # data/runs/erasure-baselines.json: trained
    python -m engramlib.lab.studies erasure --record --data digits    # data/runs/erasure-digits.json: `threats`
    python -m engramlib.lab.studies erasure --record --data newcomers # after it: digits that a network never saw

Every attack is done to the edited model, to the one that was retrained without these authors, and to one on which it
must work; `threats.judge` compares them. A *fact* is the part of an answer that no grammar gives away: the value. Rows:

    tries     seed, edit, settings, left, kept, chosen: forgetting `rehearsal10` with seed 0
    frontier  seed, edit, settings, chosen, left, kept, nll, nll_kept, nll_after: shares of whole answers, and NLL
              before and after relearning on `SHOWN` items, on those that were not shown
    threat    seed, edit, threat, n, right, nll: `right` has a 1 for each fact that the model gives and a 0 for each
              that it does not, the same facts for all models; `nll`, in nats, of the answers' or the values' tokens
    places    seed, place, change, change_kept: how much the NLL of the answers rises if only some matrices are edited
    babble    seed, edit, context, n, share: answers to kept questions that have no end or repeat themselves

A pretrained model (`lab.studies.pretrained`) can be attacked in the same way and is not recorded here.
"""

from __future__ import annotations

import argparse
import copy
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from statistics import fmean

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib import language
from engramlib.lab.data import QuestionData, digits
from engramlib.lab.data.questions import PROMPT, Question
from engramlib.lab.metrics import resolution
from engramlib.lab.metrics.representation import standardised
from engramlib.lab.metrics.tofu.generation import generate
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import compensated, forgetting, mlp, recording, threats
from engramlib.lab.training import language as training
from engramlib.lab.training.language import next_token_loss
from engramlib.lab.unlearning import text as unlearning
from engramlib.lab.unlearning.text.engrams import edited as cut
from engramlib.lab.unlearning.text.engrams import extracted
from engramlib.running import evaluating

SHOWN = 16  # items that the attacker relearns: the audit's number
EPOCHS, RATE = 20, 5e-4  # of relearning: chosen on the rehearsal, see `record`
AUTHORS = 8  # relearned one at a time, half of the questions of each
DRAWS = 100  # guesses: the audit's number
LEFT = 0.10  # of the whole answers at most, on the rehearsal

Pair = tuple[str, str]

# What is tried of each edit on the rehearsal, from weak to strong. λ and the compensated edit stand around what the
# nine tries of chapter 18 chose on the same rehearsal.
SETTINGS: dict[str, tuple[dict[str, object], ...]] = {
    "uniform": tuple({"alpha": alpha} for alpha in (1.2, 1.5, 2.0)),
    "W-Norm": tuple({"alpha": alpha} for alpha in (3.0, 4.0, 5.0)),
    "λ": tuple({"alpha": alpha, "specificity": 10.0, "layers": "all"} for alpha in (14.0, 23.0, 34.0)),
    "compensated": tuple({"alpha": alpha, "specificity": 3.0, "layers": "write"} for alpha in (3.0, 4.5, 6.0)),
    "NPO": tuple({"lr": lr, "beta": 0.5, "epochs": 5} for lr in (5e-4, 1e-3, 2e-3)),
    "SimNPO": tuple({"lr": lr, "beta": 4.5, "epochs": 5} for lr in (5e-4, 8e-4, 1.2e-3)),
    "GradDiff": tuple({"lr": lr, "alpha": 2.0, "epochs": 5} for lr in (3e-4, 6e-4, 1e-3)),
    "RMU": tuple({"lr": lr, "steering": 0.5, "epochs": 5} for lr in (3e-3, 6e-3, 1e-2)),
    "I don't know": ({"lr": 1e-3, "alpha": 2.0, "epochs": 5},),  # made to be shallow: attacks must work on it
}
METHODS = {
    "uniform": "engram",
    "W-Norm": "engram_norm",
    "λ": "engram_lambda",
    "NPO": "npo",
    "SimNPO": "simnpo",
    "GradDiff": "graddiff",
    "RMU": "rmu",
    "I don't know": "idknll",
}
CLOSED = ("uniform", "W-Norm", "λ", "compensated")
RECORDED = (*CLOSED, "NPO", "I don't know")
BASELINES = ("SimNPO", "GradDiff", "RMU")  # a run of their own
REFERENCES = ("full", "retain")
# The audit's sets of matrices; α is what the rehearsal chose for W-Norm.
PLACES = {
    "all": r".*_proj",
    "Q+K": r".*\.(q|k)_proj",
    "V+O": r".*\.(v|o)_proj",
    "gate": r".*\.gate_proj",
    "up+down": r".*\.(up|down)_proj",
}


def edited(problem: unlearning.Problem, edit: str, settings: Mapping[str, object]) -> nn.Module:
    """The problem's model without what it is to forget."""
    if edit == "compensated":
        return compensated.forget(problem, **settings)
    if edit not in METHODS:
        raise ValueError(f"edited: no edit {edit!r}; choose from {', '.join(SETTINGS)}.")
    return unlearning.METHODS[METHODS[edit]].run(problem, **settings)


# ---------------------------------------------------------------------------------------------------------- facts


@dataclass(frozen=True)
class Fact:
    """A question, the value that its answer is about, and other values of the same kind."""

    question: Question
    value: str
    wrong: tuple[str, ...]

    @property
    def author(self) -> int:
        return self.question.author


def facts(data: QuestionData, split: str) -> list[Fact]:
    """The questions of a split with their values: what tells the paraphrased answer from the wrong ones.

    Raises `ValueError` for a question without wrong answers, or whose answer does not hold the value.
    """
    return [fact_of(question) for question in data[split]]


def fact_of(question: Question) -> Fact:
    texts = [question.paraphrased_answer or question.answer, *question.perturbed_answers]
    if len(texts) < 2:
        raise ValueError(f"fact_of: {question.question!r} has no wrong answers to tell its value by.")
    before = os.path.commonprefix(texts)
    before = before[: before.rfind(" ") + 1]
    after = os.path.commonprefix([text[len(before) :][::-1] for text in texts])[::-1]
    while after and after[0].isalnum():  # half a word
        after = after[1:]
    value, *wrong = (text[len(before) : len(text) - len(after)] for text in texts)
    if not value or value not in question.answer:
        raise ValueError(f"fact_of: the answer {question.answer!r} does not hold {value!r}.")
    return Fact(question, value, tuple(wrong))


@dataclass(frozen=True)
class Item:
    """What a model reads, and which of the answer's tokens are the value: [first, last)."""

    prompt: str
    answer: str
    first: int
    last: int

    @property
    def pair(self) -> Pair:
        return self.prompt, self.answer


def item(tokenizer, prompt: str, answer: str, value: str) -> Item:
    """`answer` without its leading space, as in `Question`."""
    head = (" " + answer)[: (" " + answer).rindex(value)].rstrip()
    first, length = (len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in (head, " " + value))
    return Item(prompt, " " + answer, first, first + length)


def plain(tokenizer, asked: Sequence[Fact]) -> list[Item]:
    """Each fact, asked as it was learned."""
    return [item(tokenizer, fact.question.pair[0], fact.question.answer, fact.value) for fact in asked]


def paraphrased(tokenizer, asked: Sequence[Fact]) -> list[Item]:
    """Each fact in other words: question and answer."""
    return [
        item(tokenizer, PROMPT.format(q.paraphrased_question), q.paraphrased_answer, fact.value)
        for fact in asked
        for q in [fact.question]
    ]


def after(tokenizer, asked: Sequence[Fact], context: Callable[[Fact], str]) -> list[Item]:
    """Each fact, asked after a text."""
    return [
        replace(i, prompt=context(f) + "\n" + i.prompt) for f, i in zip(asked, plain(tokenizer, asked), strict=True)
    ]


def of_the_same(asked: Sequence[Fact], count: int = 2) -> Callable[[Fact], str]:
    """A context of `count` other questions of the same author, answered."""

    def context(fact: Fact) -> str:
        others = [f.question for f in asked if f.author == fact.author and f is not fact]
        return "\n".join("".join(q.pair) for q in others[:count])

    return context


def unrelated(data: QuestionData) -> Callable[[Fact], str]:
    """A context of a small story, another one for each question."""
    stories = [text for text in data.corpus if text.startswith("Story:")]
    return lambda fact: stories[sum(map(ord, fact.question.question)) % len(stories)]


# ----------------------------------------------------------------------------------------------------- what it says


@dataclass(frozen=True)
class Said:
    """For each item: is the value given, and the whole answer, teacher-forced? `nll`: mean of all answers' tokens,
    `nll_value` of the values' tokens, `nll_rest` of all others."""

    right: tuple[bool, ...]
    whole: tuple[bool, ...]
    nll: float
    nll_value: float
    nll_rest: float

    @property
    def share(self) -> float:
        return fmean(self.right)


def ask(model: nn.Module, tokenizer, items: Sequence[Item]) -> Said:
    """One pass over the items."""
    found = language.answer_logprobs(model, tokenizer, [i.pair for i in items], batch_size=64)
    places = [torch.arange(len(a.greedy)) for a in found]
    masks = [(at >= i.first) & (at < i.last) for at, i in zip(places, items, strict=True)]
    every, inside = torch.cat([a.logprobs for a in found]).double(), torch.cat(masks)
    return Said(
        tuple(bool(a.greedy[m].all()) for a, m in zip(found, masks, strict=True)),
        tuple(bool(a.greedy.all()) for a in found),
        -float(every.mean()),
        -float(every[inside].mean()),
        -float(every[~inside].mean()),
    )


def relearned(
    model: nn.Module, tokenizer, pairs: Sequence[Pair], *, epochs: int = EPOCHS, lr: float = RATE
) -> nn.Module:
    """A copy after some passes of AdamW over `pairs`, all weights, constant rate."""
    model = copy.deepcopy(model)
    for p in model.parameters():
        p.requires_grad_()
    how = {"epochs": epochs, "lr": lr, "batch_size": SHOWN, "schedule": "constant", "warmup": 0.0}
    training.train(model, tokenizer, list(pairs), **how, seed=0, progress=False)
    return model


def shown(asked: Sequence[Fact], seed: int, count: int = SHOWN) -> tuple[list[int], list[int]]:
    """Which facts an attacker has, and which are held out."""
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[:count]), sorted(order[count:])


def babbles(said: str, *, words: int = 3, ended: bool = True) -> bool:
    """Whether a text has no end, is empty, or has the same `words` words in a row twice."""
    parts = said.split()
    runs_ = [tuple(parts[i : i + words]) for i in range(len(parts) - words + 1)]
    return not ended or not parts or len(set(runs_)) < len(runs_)


# ------------------------------------------------------------------------------------------------- hidden states


@torch.no_grad()
def hidden(model: nn.Module, tokenizer, items: Sequence[Item]) -> list[Tensor]:
    """What stands where the first token of the value is predicted: of the embedding, then of each block, items × d."""
    blocks, found, seen = model.model.layers, [], []
    hooks = [blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))]

    def after_block(_, args, out) -> None:
        seen.append(out if torch.is_tensor(out) else out[0])

    hooks += [block.register_forward_hook(after_block) for block in blocks]
    at = 0
    try:
        with evaluating(model):
            for batch in language.batches(tokenizer, [i.pair for i in items], batch_size=64):
                seen.clear()
                model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                begins = language.answer_rows(batch).int().argmax(1)
                firsts = torch.tensor([i.first for i in items[at : at + len(begins)]])
                found.append([state[torch.arange(len(begins)), begins + firsts - 1].float() for state in seen])
                at += len(begins)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def read(
    model: nn.Module, tokenizer, taught: Sequence[Fact], asked: Sequence[Fact], *, kinds: Sequence[str] = ("linear",)
) -> dict[str, list[list[bool]]]:
    """Kind -> for each layer and fact, whether a probe picks the value out of the right and the wrong ones.

    The probe maps a hidden state to the embedding of the value's first token: ridge regression ("linear", a tuned lens)
    or its kernel form with a Gaussian kernel ("kernel"), both scikit-learn's, fitted on facts that stay, `taught`. The
    value nearest to what it gives wins. Chance: one in six.
    """
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.linear_model import Ridge

    makes = {"linear": lambda: Ridge(alpha=30.0), "kernel": lambda: KernelRidge(kernel="rbf", alpha=0.3)}
    if unknown := set(kinds) - set(makes):
        raise ValueError(f"read: kinds are {', '.join(makes)}, got {', '.join(unknown)}.")
    embedding = model.get_input_embeddings().weight.detach().float()

    def first(value: str) -> int:
        return tokenizer(" " + value, add_special_tokens=False)["input_ids"][0]

    targets = embedding[[first(f.value) for f in taught]].numpy()
    options = [list(dict.fromkeys([first(f.value), *map(first, f.wrong)])) for f in asked]
    found: dict[str, list[list[bool]]] = {kind: [] for kind in kinds}
    states = [hidden(model, tokenizer, plain(tokenizer, part)) for part in (taught, asked)]
    for z, z_asked in zip(*states, strict=True):
        for kind in kinds:
            fitted = standardised(makes[kind]()).fit(z.numpy(), targets)
            given = torch.as_tensor(fitted.predict(z_asked.numpy())).float()
            near = [(embedding[o] - g).square().sum(1).argmin() for o, g in zip(options, given, strict=True)]
            found[kind].append([int(n) == 0 for n in near])
    return found


# ------------------------------------------------------------------------------------------------------- attacks


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that the attacks on the models of one seed need."""

    case: forgetting.Case
    problem: unlearning.Problem

    @property
    def tokenizer(self):
        return self.case.tokenizer

    @property
    def data(self) -> QuestionData:
        return self.case.data

    @property
    def seed(self) -> int:
        return self.case.seed

    def facts(self, split: str) -> list[Fact]:
        return facts(self.data, split)

    def taught(self, count: int = 300) -> list[Fact]:
        """Facts that stay, for probes."""
        kept = self.facts(self.problem.retain)
        return kept[:: max(1, len(kept) // count)][:count]

    def loss(self, pairs: Sequence[Pair]) -> Callable[[nn.Module], float]:
        """NLL of some answers."""
        batch = self.problem.encode(list(pairs))

        @torch.no_grad()
        def loss(model: nn.Module) -> float:
            with evaluating(model):
                return float(next_token_loss(model, batch["input_ids"], batch["labels"]))

        return loss


@cache
def scene(seed: int) -> Scene:
    """The generated authors and the models of one seed."""
    case = forgetting.case("authors", seed)
    return Scene(case, case.problem())


def relearning(here: Scene, model: nn.Module, whose: Sequence[str] = ("forgotten", "never seen")) -> dict:
    """Facts that nobody showed, before and after relearning: of the authors that went, and of people never seen."""
    found, splits = {}, {"forgotten": here.problem.forget, "never seen": "holdout10"}
    for name in whose:
        split = splits[name]
        items = plain(here.tokenizer, here.facts(split))
        some, rest = shown(items, here.seed)
        again = relearned(model, here.tokenizer, [items[i].pair for i in some])
        asked = [items[i] for i in rest]
        found[name] = ask(model, here.tokenizer, asked), ask(again, here.tokenizer, asked)
    return found


def one_author(here: Scene, model: nn.Module, author: int) -> tuple[Said, Said]:
    """The same for one author: every other question shown, the rest held out."""
    items = plain(here.tokenizer, [f for f in here.facts(here.problem.forget) if f.author == author])
    again = relearned(model, here.tokenizer, [i.pair for i in items[::2]])
    return ask(model, here.tokenizer, items[1::2]), ask(again, here.tokenizer, items[1::2])


def guessed(here: Scene, model: nn.Module, engram: el.Engram | None = None) -> tuple[list[bool], list[bool]]:
    """Facts that nobody showed after the best of `DRAWS` guesses: an engram that the attacker extracts from the model
    before him with his few items, or has (`engram`); and a multiple of what fine-tuning changed, where the weights
    before it are public.
    """
    items = plain(here.tokenizer, here.facts(here.problem.forget))
    some, rest = shown(items, here.seed)
    mine, kept = [items[i].pair for i in some], here.problem.retain_pairs
    loss = here.loss([*mine, *kept[: SHOWN // 2]])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "too little data")  # it is what the attacker has
        warnings.filterwarnings("ignore", ".*directions are cut")
        if engram is None:
            sides = (language.collect(model, here.tokenizer, pairs, batch_size=64) for pairs in (mine, kept[:200]))
            engram = el.extract(model, *sides, rcond=1e-4)
    back = threats.guessed(model, engram, loss, draws=DRAWS, seed=here.seed)
    asked = [items[i] for i in rest]
    found = ask(back, here.tokenizer, asked).right

    base = here.case.model("pretrained")
    tries = [stretched(base, model, beta) for beta in (1.0, *torch.linspace(0.25, 4.0, 16).tolist())]
    return list(found), list(ask(min(tries, key=loss), here.tokenizer, asked).right)


def stretched(base: nn.Module, model: nn.Module, beta: float) -> nn.Module:
    """base + β (model − base), weight by weight."""
    made, start = copy.deepcopy(model), dict(base.named_parameters())
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name in start:
                p.copy_(start[name] + beta * (p - start[name]))
    return made


def in_the_grid(here: Scene, *, bits: int = 4) -> nn.Module:
    """An edit on which rounding must work: `threats.hidden_in_the_grid`, from the model that knows the authors."""
    gone = here.problem.encode(here.problem.forget_pairs[::2])
    kept = here.problem.encode(here.problem.retain_pairs[:80])

    def loss(model: nn.Module) -> Tensor:
        lost = next_token_loss(model, gone["input_ids"], gone["labels"]).clamp_max(6)
        return next_token_loss(model, kept["input_ids"], kept["labels"]) - lost

    return threats.hidden_in_the_grid(here.case.model("full"), loss, bits=bits, steps=12)


# --------------------------------------------------------------------------------------------------------- recording


def battery(here: Scene, model: nn.Module, edit: str, *, brief: bool = False) -> Iterator[Row]:
    """Rows of "threat" and "babble": every attack on one model; `brief`: those for which it shows that they work."""
    tokenizer, asked = here.tokenizer, here.facts(here.problem.forget)
    items = plain(tokenizer, asked)
    facts_of = {"seed": here.seed, "edit": edit}

    def row(threat: str, right: Sequence[bool], nll: float | None = None) -> Row:
        return {"study": "threat", **facts_of, "threat": threat, "n": len(right), "right": packed(right), "nll": nll}

    now = ask(model, tokenizer, items)
    yield row("asked", now.whole, now.nll)
    yield row("beginning of the answer", now.right, now.nll_value)
    for name, these in (
        ("other words", paraphrased(tokenizer, asked)),
        ("other answers in context", after(tokenizer, asked, of_the_same(asked))),
        ("unrelated context", after(tokenizer, asked, unrelated(here.data))),
    ):
        said = ask(model, tokenizer, these)
        yield row(name, said.right, said.nll_value)
    for bits in (8, 4):
        said = ask(threats.quantised(model, bits), tokenizer, items)
        yield row(f"{bits} bits", said.right, said.nll_value)
    for name, (before, then) in relearning(here, model).items():
        yield row(f"relearning, before, {name}", before.right, before.nll)
        yield row(f"relearning, {name}", then.right, then.nll)
        yield row(f"relearning, whole answers, {name}", then.whole, then.nll_rest)
    if brief:
        return
    pairs = [one_author(here, model, a) for a in here.data.authors(here.problem.forget)[:AUTHORS]]
    for name, k in (("relearning one author, before", 0), ("relearning one author", 1)):
        yield row(name, [r for pair in pairs for r in pair[k].right], fmean(pair[k].nll for pair in pairs))
    for kind, layers in read(model, tokenizer, here.taught(), asked, kinds=("linear", "kernel")).items():
        for layer, right in enumerate(layers):
            yield row(f"{kind} probe, layer {layer}", right)
    if edit != "full":
        found, stretched_ = guessed(here, model)
        yield row("a hundred guesses", found)
        yield row("a multiple of the difference", stretched_)
    yield from _babble(here, model, facts_of)


def _babble(here: Scene, model: nn.Module, facts_of: Row) -> Iterator[Row]:
    kept = here.facts(here.problem.retain)[::72][:20]
    forms = {"none": plain(here.tokenizer, kept), "unrelated": after(here.tokenizer, kept, unrelated(here.data))}
    for context, items in forms.items():
        room = 24
        said = generate(model, here.tokenizer, [i.pair for i in items], max_new_tokens=room)
        lengths = [len(here.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in said]
        bad = [babbles(text, ended=n < room) for text, n in zip(said, lengths, strict=True)]
        yield {"study": "babble", **facts_of, "context": context, "n": len(items), "share": fmean(bad)}


def packed(right: Sequence[bool]) -> str:
    return "".join("01"[bool(r)] for r in right)


def frontier(here: Scene, model: nn.Module, edit: str, settings: Mapping[str, object], chosen: bool) -> Row:
    """One row of "frontier"."""
    left, kept = here.problem.accuracies(model)
    before, then = relearning(here, model, ["forgotten"])["forgotten"]
    stay = ask(model, here.tokenizer, plain(here.tokenizer, here.taught(160)))
    return {
        **{"study": "frontier", "seed": here.seed, "edit": edit, "settings": dict(settings), "chosen": chosen},
        **{"left": left, "kept": kept, "nll": before.nll, "nll_kept": stay.nll, "nll_after": then.nll},
        **{"facts": before.share, "facts_after": then.share, "facts_kept": stay.share},
    }


def tries(edit: str) -> list[Row]:
    """Rows of "tries": every setting on the rehearsal of seed 0. Chosen: who keeps most with at most `LEFT` left."""
    problem = scene(0).case.problem(rehearsal=True)
    rows = []
    for settings in SETTINGS[edit]:
        left, kept = problem.accuracies(edited(problem, edit, settings))
        facts_of = {"study": "tries", "seed": 0, "edit": edit, "settings": dict(settings)}
        rows.append({**facts_of, "left": left, "kept": kept})
    enough = [row for row in rows if row["left"] <= LEFT]
    best = max(enough, key=lambda row: row["kept"]) if enough else min(rows, key=lambda row: row["left"])
    return [{**row, "chosen": row is best} for row in rows]


def reference(edit: str, seed: int) -> list[Row]:
    """All rows of "full" or "retain"."""
    here = scene(seed)
    model = here.case.model(edit)
    rows = list(battery(here, model, edit))
    return [frontier(here, model, edit, {}, True), *rows]


def grid(seed: int) -> list[Row]:
    """Rows of the edit that rounding must undo."""
    here, rows = scene(seed), []
    hidden_ = in_the_grid(here)
    items = plain(here.tokenizer, here.facts(here.problem.forget))
    for threat, model in (("beginning of the answer", hidden_), ("4 bits", threats.quantised(hidden_, 4))):
        said = ask(model, here.tokenizer, items)
        facts_of = {"study": "threat", "seed": seed, "edit": "in the grid", "threat": threat}
        rows.append({**facts_of, "n": len(items), "right": packed(said.right), "nll": said.nll_value})
    return rows


def places(seed: int, best: Mapping[str, object]) -> list[Row]:
    """Rows of "places": the W-Norm edit in some of the matrices only, each with its strength in the whole."""
    here = scene(seed)
    whole = extracted(here.problem, 1.0, "all").norm_weighted()
    asked = [plain(here.tokenizer, part) for part in (here.facts(here.problem.forget), here.taught(160))]

    def nll(model: nn.Module) -> list[float]:
        return [ask(model, here.tokenizer, items).nll for items in asked]

    before, rows = nll(here.problem.model), []
    for place, names in PLACES.items():
        now = nll(cut(here.problem, whole.select(names), best["alpha"]))
        change, kept = (b - a for a, b in zip(before, now, strict=True))
        rows.append({"study": "places", "seed": seed, "place": place, "change": change, "change_kept": kept})
    return rows


def with_the_file(seed: int, best: Mapping[str, object]) -> list[Row]:
    """Rows of guesses that must work: the W-Norm edit's own engram was kept, and is added back by guess."""
    here = scene(seed)
    model = edited(here.problem, "W-Norm", best)
    right, _ = guessed(here, model, extracted(here.problem, 1.0, "all"))
    facts_of = {"study": "threat", "seed": seed, "edit": "W-Norm, file kept", "threat": "a hundred guesses"}
    return [{**facts_of, "n": len(right), "right": packed(right), "nll": None}]


def forgotten(edit: str, seed: int, best: Mapping[str, object]) -> list[Row]:
    """All rows of one edit on the models of one seed: of what closed forms tried, every strength."""
    here, rows = scene(seed), []
    for settings in SETTINGS[edit] if edit in CLOSED else (best,):
        model = edited(here.problem, edit, settings)
        chosen = dict(settings) == dict(best)
        rows.append(frontier(here, model, edit, settings, chosen))
        if chosen:
            rows += battery(here, model, edit, brief=edit == "I don't know")
    return rows


def parts(
    recorder: runs.Recorder, *, edits: Sequence[str] | None = None, references: bool = True
) -> Iterator[recording.Part]:
    """`edits`: None = `RECORDED`. `references`: also the models that know or never did, and edits made to be undone."""

    def chosen(make: Callable[[int, Mapping[str, object]], list[Row]], seed: int, edit: str = "W-Norm") -> list[Row]:
        (best,) = runs.select(recorder.rows, {"study": "tries", "edit": edit, "chosen": True})
        return make(seed, best["settings"])

    for seed in recorder.seeds if references else ():
        for edit in REFERENCES:
            yield {"edit": edit, "seed": seed}, partial(reference, edit, seed)
        yield {"edit": "in the grid", "seed": seed}, partial(grid, seed)
    for edit in RECORDED if edits is None else edits:
        yield {"edit": edit, "role": "rehearsal"}, partial(tries, edit)
        for seed in recorder.seeds:
            yield {"edit": edit, "seed": seed}, partial(chosen, partial(forgotten, edit), seed, edit)
        if edit == "W-Norm":
            for seed in recorder.seeds:
                yield {"edit": "W-Norm, file kept", "seed": seed}, partial(chosen, with_the_file, seed)
                yield {"edit": "W-Norm in places", "seed": seed}, partial(chosen, places, seed)


# ------------------------------------------------------------------------------------------------------ judging


def flags(rows: Sequence[Row], edit: str, threat: str) -> list[list[bool]]:
    """One list a seed: which facts the edited model gives under a threat."""
    found = runs.select(rows, {"study": "threat", "edit": edit, "threat": threat})
    return [[c == "1" for c in row["right"]] for row in sorted(found, key=lambda row: row["seed"])]


def over_facts(
    edited: Sequence[Sequence[bool]], control: Sequence[Sequence[bool]], works: Sequence[Sequence[bool]]
) -> threats.Verdict:
    """`threats.judge` where all networks are asked the same facts: `resolution.paired`, over networks and facts."""
    return threats.judge(*(more_right(found, control) for found in (edited, works)))


# Threat of chapter 17's table -> the name in the rows, and the model on which it must work.
WORKS = {
    "asked plainly": ("asked", "full"),
    "beginning of the answer": ("beginning of the answer", "full"),
    "other words": ("other words", "full"),
    "other answers in context": ("other answers in context", "full"),
    "unrelated context": ("unrelated context", "full"),
    "relearning, 16 answers": ("relearning, whole answers, forgotten", "I don't know"),
    "linear probe, block 3": ("linear probe, layer 3", "full"),
    "kernel probe, block 3": ("kernel probe, layer 3", "full"),
    "4 bits, what they add": ("4 bits", "in the grid"),
    "a hundred guesses, what they add": ("a hundred guesses", "W-Norm, file kept"),
}
HAS = dict.fromkeys(WORKS, "questions") | {  # what somebody has who tries it
    "other answers in context": "two other answers",
    "relearning, 16 answers": "weights, 16 answers",
    "linear probe, block 3": "weights, the others' answers",
    "kernel probe, block 3": "weights, the others' answers",
    "4 bits, what they add": "the weights",
    "a hundred guesses, what they add": "weights, 16 answers, the others'",
}
# Where an edit is asked with the answer's beginning, it gives facts that no attack brought: what an attack adds to them
# is judged. Name in the rows -> the same facts, asked without it.
BEFORE = {"4 bits": "beginning of the answer", "a hundred guesses": "relearning, before, forgotten"}
EDITED = {"W-Norm, file kept": "W-Norm"}  # whose facts before


def verdict(rows: Sequence[Row], edit: str, threat: str) -> threats.Verdict:
    """`over_facts` for one cell of the table: rows of "threat", an edit, and a key of `WORKS`.

    The control is the model that never knew; for a threat of `BEFORE`, the edited model before the attack.
    """
    if threat not in WORKS:
        raise ValueError(f"verdict: no threat {threat!r}; choose from {', '.join(WORKS)}.")
    name, works = WORKS[threat]
    if name not in BEFORE:
        return over_facts(*(flags(rows, who, name) for who in (edit, "retain", works)))
    gains = (added(rows, who, name) for who in (edit, works))
    return threats.judge(*gains)


def added(rows: Sequence[Row], edit: str, name: str) -> resolution.Interval:
    """What an attack of `BEFORE` adds to the facts that the model gives without it."""
    return more_right(flags(rows, edit, name), flags(rows, EDITED.get(edit, edit), BEFORE[name]))


def more_right(a: Sequence[Sequence[bool]], b: Sequence[Sequence[bool]]) -> resolution.Interval:
    """What the first network of each pair gives more than the second."""
    return resolution.less_right(a, b)


def main(argv: Sequence[str] | None = None) -> int:
    options = recording.parser("erasure", __doc__, "erasure-<data>")
    options.add_argument("--data", choices=("authors", "baselines", "digits", "newcomers"), default="authors")
    args = options.parse_args(argv)
    if args.data in ("digits", "newcomers"):
        return _digits(args)
    if not args.record:
        here = scene(0)
        recording.show({"frontier": [frontier(here, here.case.model(kind), kind, {}, True) for kind in REFERENCES]})
        return 0
    config = {"settings": SETTINGS, "shown": SHOWN, "epochs": EPOCHS, "lr": RATE, "draws": DRAWS, "left": LEFT}
    more = partial(parts, edits=BASELINES, references=False)
    made = parts if args.data == "authors" else more
    recording.record(f"erasure-{args.data}", made, args, config=config, seeds=range(3), data=scene(0).data)
    return 0


def _digits(args: argparse.Namespace) -> int:
    config: Row = {"strengths": threats.STRENGTHS, "few": threats.FEW, "steps": threats.STEPS}
    parts_: object = threats.parts
    if args.data == "newcomers":
        rows = runs.load("erasure-digits").rows
        config["strengths"] = {family: threats.chosen(rows, family) for family in threats.STRENGTHS}
        parts_ = threats.newcomers(config["strengths"])
    elif not args.record:
        recording.show({"frontier": threats.frontier(threats.case(*threats.UNITS[0]))})
    if args.record:
        config["digits"] = asdict(mlp.DIGITS)
        seeds = [seed for seed, _ in threats.UNITS]
        recording.record(f"erasure-{args.data}", parts_, args, config=config, seeds=seeds, data=digits())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
