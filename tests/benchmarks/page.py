"""The page *How fast it is*, from the last record: every number on it comes from there."""
# ruff: noqa: E501, the paragraphs of a page

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.benchmarks import figures, wanted
from tests.benchmarks.steps import ALPHAS, TOLERANCE

BOOK = Path(__file__).resolve().parents[2] / "book"
PAGE = BOOK / "how-fast.md"
Parts = dict[str, Any]

WORDS = {
    "collect": "collect",
    "collect in float32": "collect, float32",
    "collect 10 concepts": "collect 10 concepts",
    "extract": "extract",
    "extract 10 concepts": "extract 10 concepts",
    "extract 100 concepts": "extract 100 concepts",
    "edit in place": "edit in place",
    "forget": "forget",
}


def write(record: dict[str, Any]) -> Path:
    for name, drawing in figures.drawn(record).items():
        (BOOK / "_static" / name).write_text(drawing + "\n", encoding="utf-8")
    PAGE.write_text(text(record), encoding="utf-8")
    return PAGE


def text(record: dict[str, Any]) -> str:
    parts: Parts = {key: part["found"] for key, part in record["parts"].items()}
    sections = [
        "# How fast it is",
        *_where(record),
        *_wanted(parts),
        *_passes(record, parts),
        *_concepts(parts),
        *_beside(parts),
        *_convolutions(parts),
        *_memory(parts),
        *_growth(record, parts),
        *_limit(parts),
    ]
    return "<!-- written by make bench -->\n\n" + "\n\n".join(sections) + "\n"


def _where(record: dict[str, Any]) -> list[str]:
    found = []
    for run in record["runs"].values():
        commit = (run.get("commit") or "unknown")[:10] + (
            ", with uncommitted changes" if run.get("uncommitted_changes") else ""
        )
        settings = run["settings"]
        threads = " and ".join(map(str, settings["threads"]))
        found.append(
            f"Recorded {run['started'][:10]}, commit `{commit}`, {run['device']}, {run['cpu_count']} cores, {threads}"
            f" thread{'s' * (settings['threads'] != [1])}, on {settings['device']}; Python {run['python']}, torch {run['torch']},"
            f" ai-engram {run['peer'] or 'not installed'}; medians of {settings['rounds']} rounds.{_busy(run)}"
        )
    parts = [
        "What the method costs, measured by `make bench`, which writes this page. Seconds mean little on another machine, so"
        " almost everything here is a **ratio** of two times from one run. The two are taken in turn, A B A B, and the ratio is"
        " the median of the rounds' own.",
        *found,
        *_spread(record),
        "The models have the shapes of known ones and random weights. Their inputs are made up, and not white noise, because"
        " whether directions fall below the cut decides how fast Σ is inverted: images have the spectrum of photographs,"
        " texts the frequencies of words.",
    ]
    if (
        len({len(models) for models in _steps({key: part["found"] for key, part in record["parts"].items()}).values()})
        > 1
    ):
        parts.append(
            "A table with fewer models than another is of a run of these alone, with its own number of threads."
        )
    quick = {key.split("/")[0] for key, part in record["parts"].items() if _quick(record, part)}
    if quick:
        all_ = {key.split("/")[0] for key in record["parts"]}
        which = "These numbers are" if quick == all_ else f"The numbers of {', '.join(sorted(quick))} are"
        parts.insert(
            1,
            f":::{{warning}}\n{which} of a **quick run** on small models, made to try the benchmark. They are not to be"
            " quoted.\n:::",
        )
    return parts


def _busy(run: dict[str, Any]) -> str:
    """What else the machine did at the start, where that was known and not little."""
    load = run.get("load", 0.0)
    return f" Other programs ran beside it (load average {load:.1f}): its seconds are too long." if load > 1 else ""


def _quick(record: dict[str, Any], part: dict[str, Any]) -> bool:
    return record["runs"][part["run"]]["settings"]["quick"]


def _spread(record: dict[str, Any]) -> list[str]:
    """How far the rounds are apart."""
    found = [part["found"] for key, part in record["parts"].items() if key.startswith("steps/")]
    rows = [r for part in found for r in (*part["rows"], *part["peer"]["rows"])]
    if not rows:
        return []
    spreads = sorted((r["high"] - r["low"]) / r["ratio"] for r in rows)
    half, most = (spreads[int(share * (len(spreads) - 1))] for share in (0.5, 0.9))
    return [
        f"The quartiles of a ratio's rounds are less than {half:.0%} of it apart for half of the {len(rows)} ratios of the"
        f" models below, and less than {most:.0%} for nine tenths: differences smaller than that mean nothing."
    ]


def _wanted(parts: Parts) -> list[str]:
    lines = wanted.lines(parts)
    if not any(key.startswith("reach/") for key in parts):
        return []
    met = sum(line[3] == "yes" for line in lines)
    return [
        "## What was wanted, and what is reached?",
        f"{met} of {len(lines)} goals are met. A *floor* is what the arithmetic and the"
        " bytes of the step take at this machine's rates (last section), or what the step contains in any case: no program"
        " gets below it.",
        _table(["Step", "Wanted", "Reached", "Met", "Floor", "Why"], lines).replace("--:", "---"),
    ]


# ------------------------------------------------------------------------------------------ what one step costs


def _steps(parts: Parts) -> dict[int, dict[str, Any]]:
    """Threads -> model -> what was found, in the order of the models."""
    found: dict[int, dict[str, Any]] = {}
    for key, part in parts.items():
        kind, name, *rest = key.split("/")
        if kind == "steps":
            found.setdefault(int(rest[0]), {})[name] = part
    return dict(sorted(found.items(), reverse=True))


def row(part: dict[str, Any], step: str, beside: str) -> dict[str, Any] | None:
    return next((r for r in part["rows"] if (r["step"], r["beside"]) == (step, beside)), None)


def _passes(record: dict[str, Any], parts: Parts) -> list[str]:
    steps = _steps(parts)
    if not steps:
        return []
    found = [
        "## What does it cost beside a forward pass?",
        "A forward pass over the same batches is 1. *Collect* includes that pass. *Extract* has no data in it: it is one"
        " engram of the layers named below. *Edit and undo* is `el.edited` with nothing inside; *sweep* is 20 strengths, each"
        f" measured on one batch, beside the {len(ALPHAS)} forward passes alone; *forget* is `el.forget`, from texts to the edited copy.",
        _picture(record, "cost"),
    ]
    for threads, models in steps.items():
        lines = []
        for part in models.values():
            lines.append(
                [part["title"], f"{part['columns']:,}"]
                + [_ratio(row(part, name, "forward")) for name in ("collect", "extract", "edit and undo")]
                + [_ratio(row(part, "sweep", "20 forward passes")), _ratio(row(part, "forget", "forward"))]
            )
        head = ["Model", "Examples or tokens", "Collect", "Extract", "Edit and undo", "Sweep", "Forget"]
        found += [f"Times a forward pass, {_threads(threads)}:", _table(head, lines)]
    notes = [
        f"{part['title']}: {part['cut']['cut']} of {part['cut']['directions']:,} directions are below the cut, in"
        f" {part['cut']['with a cut']} of {part['cut']['matrices']} matrices"
        + (f"; {part['note']}." if part["note"] else ".")
        for part in next(iter(steps.values())).values()
    ]
    return [*found, "\n".join(f"- {note}" for note in notes)]


def _concepts(parts: Parts) -> list[str]:
    steps = _steps(parts)
    if not steps:
        return []
    pairs = [
        ("Collect 10 : 1", "collect 10 concepts", "collect 1 concept"),
        ("Collect 100 : 1", "collect 100 concepts", "collect 1 concept"),
        ("Extract 10 : 1", "extract 10 concepts", "extract 1 concept"),
        ("Extract 100 : 10", "extract 100 concepts", "extract 10 concepts"),
        ("One by one : at once, 10", "extract 10 one by one", "extract 10 concepts"),
    ]
    found = [
        "## What do ten concepts cost, or a hundred?",
        "Each example is multiplied once, whatever the number of concepts, and at λ = 1 all of them share one inverse."
        " Measured at a few layers of each model, because a hundred engrams of all of them would not fit into memory."
        " Ratios of times:",
    ]
    for threads, models in steps.items():
        lines = [[p["title"], *(_ratio(row(p, step, beside)) for _, step, beside in pairs)] for p in models.values()]
        found += [f"{_capital(_threads(threads))}:", _table(["Model", *(title for title, *_ in pairs)], lines)]
    return found


# ---------------------------------------------------------------------------------------------------- the peer


def _beside(parts: Parts) -> list[str]:
    steps = {
        threads: {name: part for name, part in models.items() if part["peer"]["rows"]}
        for threads, models in _steps(parts).items()
    }
    if not any(steps.values()):
        return []
    found = [
        "## Beside the authors' package?",
        "The same model, batches and layers, the same cut (its `condition_cap=1e6` is our `rcond=1e-6`), no convolutions,"
        " which it does not reach. How many times as long it takes as ours: above 1 ours is faster. Its sums are float32, ours"
        " float64 unless it says otherwise; its ten concepts are ten passes and ten extractions, because it has no call"
        f" for several; *edit in place* is an edit and its reverse. Both answers are compared in the same run; † marks those that differ by more than {TOLERANCE:.0%}.",
    ]
    for threads, models in steps.items():
        lines = []
        columns = [name for name in WORDS if any(_theirs(part, name) for part in models.values())]
        for part in models.values():
            lines.append([part["title"], *(_theirs(part, name) or "–" for name in columns)])
        found += [f"Times ours, {_threads(threads)}:", _table(["Model", *(_capital(WORDS[c]) for c in columns)], lines)]
    rows = [r for models in steps.values() for part in models.values() for r in part["peer"]["rows"]]
    lost = sorted({WORDS[r["ours"]] for r in rows if r["ratio"] < 1}, key=list(WORDS.values()).index)
    gaps = [r["gap"] for r in rows if r["gap"] is not None]
    said = f"Ours is the faster one in {sum(r['ratio'] >= 1 for r in rows)} of {len(rows)} measurements"
    said += f", and the slower one, on some model at least, in: {'; '.join(lost)}." if lost else "."
    if any(r["step"] == "edit in place" and r["ratio"] < 1 for r in rows):
        said += " An edit of ours checks shapes, ties and the result, and keeps what it needs to be undone if anything fails;"
        said += " theirs subtracts."
    if gaps:
        said += f" The answers differ by {max(gaps):.1g} at most."
    for part in (part for models in steps.values() for part in models.values()):
        for who in [r["settled"] for r in part["peer"]["rows"] if "settled" in r][:1]:
            said += f" On {part['title']} an eigenvalue lies within {who['nearest']:.1g} of the cut, relatively, and rounding decides"
            said += f" its side: from the dense formula on float64 sums ours is {who['ours']:.1g} away, theirs {who['theirs']:.1g}."
    return [*found, said]


def _theirs(part: dict[str, Any], ours: str) -> str:
    for r in part["peer"]["rows"]:
        if r["ours"] == ours:
            return _number(r["ratio"]) + ("†" if (r["gap"] or 0) > TOLERANCE else "")
    return ""


# ----------------------------------------------------------------------------------- convolutions, memory, growth


def _convolutions(parts: Parts) -> list[str]:
    timed = {int(key.split("/")[1]): part for key, part in parts.items() if key.startswith("conv/")}
    if not timed:
        return []
    threads = sorted(timed, reverse=True)
    weighed = parts.get("memory/conv") or [None] * len(timed[threads[0]])
    lines = []
    for i, shape in enumerate(timed[threads[0]]):
        kernel = f"{shape['kernel']} × {shape['kernel']}" + (
            f", stride {shape['stride']}" if shape["stride"] > 1 else ""
        )
        memory = weighed[i]
        lines.append(
            [shape["channels"], f"{shape['side']} × {shape['side']}", kernel, shape["images"]]
            + [_ratio(timed[t][i]["speed-up"]) for t in threads]
            + ([_mb(memory["MB"]), _mb(memory["unfold MB"])] if memory else ["–", "–"])
            + [f"{shape['gap']:.0e}"]
        )
    slower = sum(r["speed-up"]["ratio"] < 1 for part in timed.values() for r in part)
    said = (
        f" It is slower than unfolding in {slower} of {sum(map(len, timed.values()))} measurements." if slower else ""
    )
    return [
        "## And for convolutions?",
        "A convolution reads patches. The straightforward way unfolds them in float64 and multiplies; `el.collect` does it"
        f" with fewer products where it can, and otherwise multiplies half.{said} How many times as long unfolding takes, the peak"
        " memory of both, and how far the two Σ are apart (relative):",
        _table(
            [
                "Channels",
                "Image",
                "Kernel",
                "Images",
                *(f"Time, {_threads(t)}" for t in threads),
                "MB",
                "MB, unfolded",
                "Difference",
            ],
            lines,
        ),
    ]


def _memory(parts: Parts) -> list[str]:
    models = {
        key.split("/")[1]: part for key, part in parts.items() if key.startswith("memory/") and key != "memory/conv"
    }
    if not models:
        return []
    columns = {
        "forward": "Forward", "collect": "Collect", "collect 10 concepts": "Collect 10", "extract": "Extract",
        "extract 10 concepts": "Extract 10", "edit in place": "Edit in place", "forget": "Forget",
        "theirs: collect": "Authors' collect", "theirs: extract": "Authors' extract",
    }  # fmt: skip
    lines = []
    for part in models.values():
        cells = []
        for step in columns:
            found = next((r for r in part["rows"] if r["step"] == step), None)
            result = f" ({_mb(found['result MB'])})" if found and found["result MB"] is not None else ""
            cells.append(_mb(found["MB"]) + result if found else "–")
        lines.append([part["title"], *cells])
    return [
        "## How much memory?",
        "The most that a step had at any moment above what was there before it, in MB, in a process of its own on one thread;"
        " in brackets what of that is the result. *Collect* and *forget* contain a forward pass. Σ is float64 here, and"
        " float32 in the authors' package. Ten concepts are of a few layers, as above.",
        _table(["Model", *columns.values()], lines),
    ]


def _growth(record: dict[str, Any], parts: Parts) -> list[str]:
    axes = [part for key, part in parts.items() if key.startswith("growth/")]
    if not axes:
        return []
    lines = []
    for part in axes:
        exponents = [f"{f['exponent']:.2f} ± {f['error']:.2f}".replace("-", "−") for f in part["steps"].values()]
        lines.append([part["axis"], f"{part['sizes'][0]:,} to {part['sizes'][-1]:,}", *exponents])
    return [
        "## How does it grow?",
        "Time ∝ sizeᵖ. The exponents p are fitted by least squares on logarithmic scales, ± the standard error. Small"
        " Llamas, one size after the other in turn. Counting operations promises: *collect* as the forward pass, with the"
        " square of the width, and in proportion to tokens and layers; *extract* with the cube of the width, in proportion to"
        " layers, and not at all with tokens. Fixed costs make small sizes look flatter than that.",
        _table(["What grows", "From, to", *(f"{s.capitalize()}, p" for s in axes[0]["steps"])], lines),
        _picture(record, "growth"),
    ]


def _limit(parts: Parts) -> list[str]:
    roofs: dict[int, list[dict[str, Any]]] = {}
    for key, part in parts.items():
        if key.startswith("roofline/"):
            roofs.setdefault(int(key.split("/")[2]), []).append(part)
    if not roofs:
        return []
    rates, lines = [], []
    for threads, models in sorted(roofs.items(), reverse=True):
        ranges = []
        for name in ("float32", "float64", "bfloat16", "bytes"):
            values = sorted(part["rates"][name] / 1e9 for part in models)
            low, high = _number(values[0]), _number(values[-1])
            ranges.append(low if low == high else f"{low} to {high}")
        rates.append([threads, *ranges])
        for part in models:
            shares = {r["step"]: f"{r['share']:.0%}" + ("ᵐ" if r["bound"] == "memory" else "") for r in part["rows"]}
            lines.append([part["title"], threads, *shares.values()])
    names = [r["step"].capitalize() for r in part["rows"]]
    return [
        "## How far from the machine's limit?",
        "No program is faster than its arithmetic at the machine's rate, or its bytes at the machine's bandwidth, whichever"
        " takes longer. The rates are those of large products and of a large copy, measured in the same rounds (over the"
        " models, from the lowest to the highest):",
        _table(["Threads", "float32, Gflop/s", "float64, Gflop/s", "bfloat16, Gflop/s", "Copy, GB/s"], rates),
        "How much of that limit each step reaches; ᵐ where memory is the limit. Counted is the cheapest way we know: for"
        " *collect* the forward pass and half of XXᵀ in float64; for *extract* a Cholesky factorisation (d³/3) where nothing"
        " is cut and an eigendecomposition (9 d³) where something is, with the products of both; for an edit two reads and a"
        " write for each weight. Checks, conversions and small products are not counted, so they show as distance. The"
        " formulas are in `tests/benchmarks/roofline.py`; those of forward passes are counted by torch.",
        _table(["Model", "Threads", *names], lines),
    ]


# ------------------------------------------------------------------------------------------------------ writing


def _picture(record: dict[str, Any], name: str) -> str:
    caption = figures.CAPTIONS[name]
    return (
        f'```{{raw}} html\n<figure class="engram-figure">\n```\n```{{raw}} html\n:file: _static/how-fast-{name}.svg\n```\n'
        f"```{{raw}} html\n<figcaption>{caption}</figcaption></figure>\n```"
        if figures.alt(record, name)
        else ""
    )


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _threads(count: int) -> str:
    return f"{count} thread" + "s" * (count > 1)


def _ratio(found: dict[str, Any] | None) -> str:
    return "–" if found is None else _number(found["ratio"])


def _number(value: float) -> str:
    """Two digits that count, three from 100 on."""
    if value == 0:
        return "0"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}" if value < 1 else f"{value:.2f}"


def _mb(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _table(head: list[str], rows: list[list[Any]]) -> str:
    align = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [head, align, *rows])
