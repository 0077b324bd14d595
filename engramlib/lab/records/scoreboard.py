"""The replication scoreboard: every figure and table of the paper, what we found, and a verdict by rule.

    python -m engramlib.lab.records.scoreboard            # one line an object
    python -m engramlib.lab.records.scoreboard fig11      # every number of one object
    python -m engramlib.lab.records.scoreboard --all      # of all

`data/scoreboard.json` says what is compared with what and by which rule; no result is written there. Published numbers
come from `published`, recorded ones from `runs`, the laptop's from the outputs of the executed chapters
(`chapter.replication_table` and `chapter.say` leave their numbers there). What is missing stays empty.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import engramlib
from engramlib.lab.records import published, runs
from engramlib.lab.records.runs import Row

RESULTS = "application/vnd.engram.results+json"  # what a cell's output carries beside what it shows: its numbers
VERDICTS = ("reproduced", "partly", "not", "not yet")
TOLERANCE = 0.05  # five points of accuracy, or of a score between 0 and 1
FACTOR = 2.0  # for costs
AGREEMENT = 0.5  # rank correlation that counts as the same order
SIDES = ("real", "stand_in", "laptop")  # the order in which a statement looks for something to be judged by

Results = Mapping[str, Mapping[str, Any]]  # chapter -> name -> one number a seed, or the text that was shown


# ------------------------------------------------------------------------------------------------------- numbers


@dataclass(frozen=True)
class Value:
    """A number, one value a seed; or a text, which is shown and not judged. `source`, `data`: of the recorded run."""

    mean: float | None
    sd: float | None = None
    seeds: tuple[float, ...] = ()
    text: str | None = None
    source: str | None = None
    data: str | None = None

    @property
    def n(self) -> int | None:
        return len(self.seeds) or None

    def show(self, digits: int = 3) -> str:
        if self.text is not None:
            return self.text
        if self.mean is None:
            return ""
        return decimal(self.mean, digits) + ("" if self.sd is None else f" ± {self.sd:.{digits}f}")


def decimal(number: float, digits: int) -> str:
    """With a real minus, and never "-0.000"."""
    return f"{number:.{digits}f}".replace("-", "−") if round(number, digits) else f"{0:.{digits}f}"


def value(found: Any, source: str | None = None) -> Value | None:
    """One number, one number a seed, or a text, whatever stands in it. None where there is nothing."""
    if found is None or found == "" or found == []:
        return None
    if isinstance(found, str):
        return Value(None, text=found, source=source)
    seeds = tuple(float(v) for v in (found if isinstance(found, Iterable) else [found]))
    if not all(map(math.isfinite, seeds)):
        return None
    sd = statistics.stdev(seeds) if len(seeds) > 1 else None
    return Value(statistics.fmean(seeds), sd, seeds, source=source)


def minus(a: Value | None, b: Value | None) -> Value | None:
    """The difference, seed by seed where both have the same seeds."""
    if a is None or b is None or a.mean is None or b.mean is None:
        return None
    if a.n and a.n == b.n:
        found = value([x - y for x, y in zip(a.seeds, b.seeds, strict=True)]) or Value(None)
    else:
        found = Value(a.mean - b.mean, math.hypot(a.sd or 0, b.sd or 0) if a.sd or b.sd else None)
    return replace(found, source=a.source, data=a.data)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's ρ; equal values share a rank. 0 where one side has no order at all.

    >>> rank_correlation([1, 2, 3], [10, 20, 30]), round(rank_correlation([1, 2, 3], [3, 1, 1]), 3)
    (1.0, -0.866)
    """

    def ranks(values: Sequence[float]) -> list[float]:
        return [sum(w < v for w in values) + (sum(w == v for w in values) - 1) / 2 for v in values]

    x, y = ranks(a), ranks(b)
    if len(set(x)) == 1 or len(set(y)) == 1:
        return 0.0
    return statistics.correlation(x, y)


# -------------------------------------------------------------------------------------------- where numbers come from


def _classwise(rows: list[Row], name: str) -> list[float]:
    """One number a seed, of rows of erased and tested classes."""
    from engramlib.lab.studies import classwise

    if name == "before":
        return [line["mean"] for line in runs.mean_sd(rows, "before", by=("seed",))]
    return [line[name] for line in classwise.effects(rows, by=())]


def _reconstruction(rows: list[Row], name: str) -> list[float]:
    """The same for autoencoders."""
    from engramlib.lab.studies import autoencoder

    seeds = dict.fromkeys(row["seed"] for row in rows)
    return [autoencoder.effects(runs.select(rows, {"seed": seed}), by=())[0][name] for seed in seeds]


def _column(rows: list[Row], name: str) -> list[float]:
    """A column of the rows, averaged over each seed."""
    return [line["mean"] for line in runs.mean_sd(rows, name, by=("seed",))]


def _superclass(rows: list[Row], name: str) -> list[float]:
    """Change (negative: lost) on classes of the "same" superclass or on "other" ones, out of rows of `points` lost.

    Classes are numbered superclass by superclass, as many of each as there are superclasses.
    """
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        side = math.isqrt(len(row["points"]))
        for tested, points in enumerate(row["points"]):
            same = tested // side == row["erased"] // side
            if tested != row["erased"] and same == (name == "same"):
                by_seed.setdefault(row["seed"], []).append(-points)
    return [statistics.fmean(values) for values in by_seed.values()]


def _kind(rows: list[Row], name: str) -> list[float]:
    """The relative norm r of the layers of one kind, "q" or "down", averaged over each seed."""
    from engramlib.lab.studies import located

    return _column([row for row in rows if located.kind_of(row["layer"]) == name], "r")


def _recovery(rows: list[Row], name: str) -> list[float]:
    """(before − after) / before of an NLL, one number a seed, where the model that knows has next to none."""
    return [(row[name] - row[f"{name}_after"]) / row[name] for row in sorted(rows, key=lambda row: row["seed"])]


def _judged(rows: list[Row], name: str) -> list[float]:
    """What a judge of photographs says of edits, over the attributes, one number a seed."""
    from engramlib.lab.studies import judged

    return judged.each_seed(judged.counted(rows), name)


READERS: dict[str, Callable[[list[Row], str], list[float]]] = {
    "classwise": _classwise,
    "reconstruction": _reconstruction,
    "column": _column,
    "superclass": _superclass,
    "kind": _kind,
    "recovery": _recovery,
    "judged": _judged,
}


@functools.cache
def _load(name: str, folder: Path | None) -> runs.Run:
    return runs.load(name, folder=folder)


def recorded(
    spec: Mapping[str, Any], needs: str | None, folder: Path | None = None, *, superseded: bool = False
) -> dict[str, Value]:
    """What the recorded runs of a row say: on the paper's data ("real"), and on other data ("stand_in").

    Of several runs in `spec["run"]` the first that is there counts on each side; one without such rows is passed over,
    and so is one whose instruments have changed since (`Run.superseded`), unless `superseded` asks for those too.
    """
    found: dict[str, Value] = {}
    for name in spec["run"]:
        if name not in runs.names(folder=folder):
            continue
        run = _load(name, folder)
        if run.superseded and not superseded:
            continue
        side = "real" if is_the_papers_data(run, needs) else "stand_in"
        rows = run.where(**spec.get("where", {}))
        if side not in found and rows and (numbers := value(READERS[spec["reader"]](rows, spec["value"]), name)):
            found[side] = replace(numbers, data=data_of(run))
    return found


def is_the_papers_data(run: runs.Run, needs: str | None) -> bool:
    """Whether a run's data are the ones of the figure: CIFAR-10 from JPEG files, "CIFAR-10 (JPEG)", is CIFAR-10, and
    fifty of its authors, "TOFU, 50 authors", are TOFU.
    """
    name = data_of(run)
    return needs is None or name == needs or name.startswith((f"{needs} (", f"{needs}, "))


def data_of(run: runs.Run) -> str:
    """The name of the data that a run used."""
    return (run.provenance.get("data") or {}).get("name", "no data")


def published_value(path: Any) -> Value | None:
    """The number at `["fig11", "erased"]`; `{"minus": [path, path]}` is a difference. None: not known to us."""
    if path is None:
        return None
    if isinstance(path, Mapping):
        return minus(*(published_value(p) for p in path["minus"]))
    name, *keys = path
    found: Any = published.get(name).values
    for key in keys:
        found = found[key]
    return value(found)


# ---------------------------------------------------------------------------------------------------- the laptop's run


def outputs(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that the cells of an executed notebook carry. Raises `ValueError` where a name has two values."""
    found: dict[str, Any] = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            for name, result in (output.get("data", {}).get(RESULTS) or {}).items():
                if found.setdefault(name, result) != result:
                    raise ValueError(f"two results are called {name!r}: {found[name]} and {result}.")
    return found


def chapters(root: Path) -> dict[str, Path]:
    """The notebooks of a checkout by number: {"07": .../07_mlp.ipynb}."""
    return {path.name[:2]: path for path in sorted((root / "book").glob("part*/[0-9][0-9]_*.ipynb"))}


def executed(root: Path | None = None, cache: Path | None = None) -> Results:
    """The results of the chapters as the last build ran them; empty where there was none, or a chapter has changed."""
    root = root or Path(engramlib.__file__).resolve().parents[1]
    cache = cache or root / "_build" / ".jupyter_cache"
    if not cache.is_dir():
        return {}
    try:
        import nbformat
        from jupyter_cache import get_cache
    except ImportError:  # both come with the book, not with the package
        return {}
    store, found = get_cache(str(cache)), {}
    for number, path in chapters(root).items():
        try:
            record = store.match_cache_notebook(nbformat.read(path, as_version=4))
        except KeyError:
            continue
        found[number] = outputs(store.get_cache_bundle(record.pk).nb)
    return found


# --------------------------------------------------------------------------------------------------------- statements


@dataclass(frozen=True)
class Statement:
    """One quantity of an object. `values`: side ("real", "stand_in", "laptop") -> what was found there."""

    what: str
    published: Value | None
    values: dict[str, Value]
    spec: dict[str, Any] = field(repr=False)
    sides: tuple[str, ...] = SIDES
    given: Statement | None = field(default=None, repr=False)  # judged only where this one holds

    @property
    def digits(self) -> int:
        return self.spec.get("digits", 3)

    @property
    def rule(self) -> str | None:
        return self.spec.get("rule")

    @property
    def side(self) -> str | None:
        """What the statement is judged by: the first side that has a number."""
        return next((s for s in self.sides if s in self.values and self.values[s].mean is not None), None)

    @property
    def ours(self) -> Value | None:
        return self.values[self.side] if self.side else None

    @property
    def bound(self) -> float | None:
        """What our number is held against."""
        if "bound" in self.spec:
            return self.spec["bound"]
        return None if self.published is None else self.published.mean

    @property
    def holds(self) -> bool | None:
        """By the rule; None where there is no rule, no number of ours, nothing to hold it against, or what it is given
        does not hold.
        """
        if self.rule is None or self.ours is None or (self.given and not self.given.holds):
            return None
        mean, spread = self.ours.mean, self.ours.sd or 0.0
        if self.rule == "positive":
            return mean > spread
        if self.bound is None:
            return None
        slack = 0.0 if "bound" in self.spec else self.spec.get("tolerance", TOLERANCE)
        return {
            "near": abs(mean - self.bound) <= slack,
            "at most": mean <= self.bound + slack,
            "at least": mean >= self.bound - slack,
            "factor": mean > 0 and 1 / FACTOR <= mean / self.bound <= FACTOR if self.bound else False,
            "same sign": mean * self.bound > 0 and abs(mean) > spread,
        }[self.rule]

    @property
    def conditional(self) -> bool:
        """Measured, and not judged because what it is given does not hold: it was not the published edit."""
        return self.rule is not None and self.ours is not None and self.given is not None and self.given.holds is False

    @property
    def test(self) -> str:
        """The rule in words, for a table."""
        if self.rule is None:
            return ""
        if self.conditional:
            return "not judged: the class is not gone"
        if self.rule == "positive":
            return "above 0, by more than ±"
        if self.rule == "same sign":
            return "same sign, by more than ±"
        if self.rule == "factor":
            return f"within a factor of {FACTOR:g}"
        if "bound" in self.spec:
            return f"{self.rule} {self.bound:g} (ours)"
        slack = f"{self.spec.get('tolerance', TOLERANCE):g}"
        side = {"near": "within {} of it", "at most": "no more than {} above", "at least": "no more than {} below"}
        return side[self.rule].format(slack)


@dataclass(frozen=True)
class Entry:
    """One figure or table: what we found, and the verdict."""

    id: str
    covers: tuple[str, ...]
    title: str
    group: str
    chapter: str
    needs: str | None
    statements: tuple[Statement, ...]
    verdict: str
    evidence: str  # what the verdict rests on: data, "argument", or nothing
    why: str

    @property
    def names(self) -> str:
        return ", ".join(self.covers)

    @property
    def counts(self) -> tuple[int, int]:
        """How many statements hold, of how many that could be judged."""
        judged = [s.holds for s in self.statements if s.holds is not None]
        return sum(judged), len(judged)


def rules() -> str:
    """How a verdict comes about, in Markdown. The numbers are those that `Statement.holds` uses."""
    return f"""\
Each figure or table is taken apart into statements, and each statement is judged by one number of ours, the mean over
the seeds: that of a recorded run on the paper's data; where there is none, of a recorded run on generated data; where
there is none, of the run on a laptop that built these pages.

- A number counts as found again **within {TOLERANCE:g}** of the published one (five points of accuracy) where nothing
  else is said. Of an erased concept, less may be left than published, not {TOLERANCE:g} more. Costs count within a
  factor of {FACTOR:g}. A comparison counts if the difference has the published sign and is larger than its spread over
  the seeds, an order if its rank correlation with the published one is at least {AGREEMENT:g}.
- **What others pay counts only where the class is gone**: an edit that takes less costs less. Where more is left of the
  erased class than that, the price is shown and not judged.
- Where the paper has words or pictures, the bound is ours and is printed beside the number.
- Once one statement is measured on the paper's data, only those that are count.
- **reproduced**: every statement holds, on the paper's data (the model may be a smaller one; the runs are named).
  **partly**: at least half of them hold; and never more than this while the paper's data are still to come. **not**:
  fewer than half hold, on the data that the sentence names. **not yet**: nothing is measured.
- Figures of definitions and identities have no number. Their verdict is an argument, and the sentence says which."""


def _statement(spec: dict[str, Any], chapter: str, needs: str | None, results: Results, earlier, folder) -> Statement:
    if "difference" in spec or "order" in spec:
        return _derived(spec, earlier)
    found = recorded(spec["recorded"], needs, folder) if "recorded" in spec else {}
    if (laptop := value(results.get(chapter, {}).get(spec.get("laptop")))) is not None:
        found["laptop"] = laptop
    text = spec.get("published_text")
    known = Value(None, text=text) if text else published_value(spec.get("published"))
    return Statement(spec["what"], known, found, spec, given=_given(spec, earlier))


def _given(spec: Mapping[str, Any], earlier: Mapping[str, Statement]) -> Statement | None:
    """The statement without which this one says nothing: the price of an edit, without the erasure."""
    return earlier[spec["given"]] if "given" in spec else None


def _derived(spec: dict[str, Any], earlier: Mapping[str, Statement]) -> Statement:
    """A difference of two statements, or the rank correlation of several with the published numbers."""
    parts = [earlier[name] for name in spec.get("difference", spec.get("order"))]
    found: dict[str, Value] = {}
    for side in SIDES:
        there = [s.values.get(side) for s in parts]
        if any(v is None or v.mean is None for v in there):
            continue
        if "difference" in spec:
            found[side] = minus(*there)
        else:
            order = rank_correlation([s.published.mean for s in parts], [v.mean for v in there])
            found[side] = Value(order, source=there[0].source, data=there[0].data)
    text = spec.get("published_text")
    known = Value(None, text=text) if text else None
    if "difference" in spec and known is None:
        known = minus(*(s.published for s in parts))
    given = _given(spec, earlier)
    if "order" in spec:
        spec = {**spec, "bound": AGREEMENT}
    return Statement(spec["what"], known, found, spec, given=given)


def _entry(spec: Mapping[str, Any], results: Results, folder: Path | None) -> Entry:
    statements: dict[str, Statement] = {}
    for row in spec.get("rows", ()):
        one = _statement(row, spec["chapter"], spec.get("needs"), results, statements, folder)
        if one.what in statements:
            raise ValueError(f"scoreboard, {spec['id']}: two rows are called {one.what!r}.")
        statements[one.what] = one
    found = tuple(statements.values())
    if any(s.side == "real" and s.holds is not None for s in found):  # what is measured on the paper's data decides
        found = tuple(replace(s, sides=("real",), given=s.given and replace(s.given, sides=("real",))) for s in found)
    if "verdict" in spec:
        verdict, evidence, why = spec["verdict"]["is"], "argument", spec["verdict"]["why"]
    else:
        verdict, evidence, why = _verdict(found, spec.get("needs"))
        stand_in = any(s.side != "real" for s in found if s.holds is not None)
        notes = ("pending",) if verdict == "not yet" else ("note_stand_in", "note") if stand_in else ("note",)
        why = " ".join(filter(None, (why, *map(spec.get, notes))))
    facts = {key: spec[key] for key in ("id", "title", "group", "chapter")}
    facts |= {"covers": tuple(spec["covers"]), "needs": spec.get("needs")}
    return Entry(**facts, statements=found, verdict=verdict, evidence=evidence, why=why)


def _verdict(statements: Sequence[Statement], needs: str | None) -> tuple[str, str, str]:
    """The verdict by rule, what it rests on, and the sentence that says so."""
    judged = [s for s in statements if s.holds is not None]
    waiting = [s for s in statements if s.rule is not None and s.holds is None and not s.conditional]
    beside = [s for s in statements if s.conditional]
    if not judged:
        return "not yet", "", f"Needs {needs}; nothing is measured yet." if needs else "Nothing is measured yet."
    hold = [s for s in judged if s.holds]
    all_real = needs is None or all(s.side == "real" for s in judged)
    if len(hold) == len(judged) and all_real and not waiting:
        verdict = "reproduced"
    else:
        verdict = "partly" if 2 * len(hold) >= len(judged) else "not"
    on = " and ".join(dict.fromkeys(_place(s, needs) for s in judged))
    sentence = f"{_count(len(hold), len(judged))}, on {on}."
    if hold and len(hold) < len(judged):
        sentence += f" Not: {'; '.join(s.what for s in judged if not s.holds)}."
    if not all_real:
        sentence += f" {needs} itself is still to come."
    elif waiting:
        sentence += f" Not measured there: {'; '.join(s.what for s in waiting)}."
    if beside:
        sentence += f" Not judged, since too much is left of the erased class: {'; '.join(s.what for s in beside)}."
    return verdict, on, sentence


def _count(hold: int, judged: int) -> str:
    if judged == 1:
        return "The one statement holds" if hold else "The one statement does not hold"
    if hold == judged:
        return "Both statements hold" if judged == 2 else f"All {judged} statements hold"
    return f"{hold or 'None'} of {judged} statements {'hold' if hold > 1 else 'holds'}"


def _place(statement: Statement, needs: str | None) -> str:
    """What a statement was judged on."""
    if statement.side == "laptop":
        return "a laptop" if needs is None else "a laptop's stand-in"
    data = statement.ours.data
    return data if statement.side == "real" else f"{data[0].lower()}{data[1:]} (a stand-in)"


def entries(results: Results | None = None, *, folder: Path | None = None) -> list[Entry]:
    """Every object of `data/scoreboard.json`, filled in. `results` = the laptop's (default: of the last build).

    `folder` = another folder of recorded runs. Raises `ValueError` where the file contradicts itself.
    """
    results = executed() if results is None else results
    specs = json.loads((runs.data_dir() / "scoreboard.json").read_text(encoding="utf-8"))["objects"]
    return [_entry(spec, results, folder) for spec in specs]


def missing(found: Sequence[Entry], results: Results) -> list[str]:
    """Laptop numbers that an executed chapter should carry and does not: a row of its table was renamed or removed."""
    return [
        f"chapter {entry.chapter} has no result called {s.spec['laptop']!r} ({entry.names}, {s.what})"
        for entry in found
        for s in entry.statements
        if "laptop" in s.spec and entry.chapter in results and s.spec["laptop"] not in results[entry.chapter]
    ]


# ------------------------------------------------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m engramlib.lab.records.scoreboard", description=__doc__.split("\n")[0]
    )
    parser.add_argument("object", nargs="*", help="show every number of these, for instance: fig11 table2")
    parser.add_argument("--all", action="store_true", help="show every number of all")
    args = parser.parse_args(argv)
    results = executed()
    found = entries(results)
    if unknown := set(args.object) - {entry.id for entry in found}:
        known = ", ".join(entry.id for entry in found)
        print(f"No object called {', '.join(sorted(unknown))}; there are: {known}.", file=sys.stderr)
        return 1
    if args.object or args.all:
        for entry in found:
            if args.all or entry.id in args.object:
                print(_details(entry) + "\n")
        return 0
    for entry in found:
        hold, judged = entry.counts
        rests = f"{hold}/{judged} on {entry.evidence}" if judged else entry.evidence
        print(f"{entry.verdict:10s}  ch. {entry.chapter}  {entry.names}: {entry.title}", f"[{rests}]" if rests else "")
    print("\n" + ", ".join(f"{sum(e.verdict == v for e in found)} {v}" for v in VERDICTS))
    if not results:
        print("No laptop numbers: they come from the chapters that `make book` ran.", file=sys.stderr)
    return 0


def _details(entry: Entry) -> str:
    lines = [f"{entry.names}: {entry.title} (chapter {entry.chapter})", f"  {entry.verdict}. {entry.why}"]
    for s in entry.statements:
        cells = [f"{side.replace('_', '-')} {v.show(s.digits)}" for side, v in s.values.items()]
        known = f"published {s.published.show(s.digits)}" if s.published else ""
        mark = {True: "holds", False: "does not hold", None: ""}[s.holds]
        lines.append(f"  {s.what}: " + " | ".join(filter(None, (known, *cells, s.test, mark))))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
