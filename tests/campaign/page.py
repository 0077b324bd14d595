"""The page *How it was tested*, from the last record."""
# ruff: noqa: E501, the paragraphs of a page

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "book" / "how-tested.md"


def write(record: dict[str, Any]) -> Path:
    PAGE.write_text(text(record), encoding="utf-8")
    return PAGE


def text(record: dict[str, Any]) -> str:
    p, kills, calls = record["provenance"], record["kills"], record["faults"]["calls"]
    commit = (p.get("commit") or "unknown")[:10] + (
        ", with uncommitted changes" if p.get("uncommitted_changes") else ""
    )
    files, rows = record["files"], record["bad_inputs"]["rows"]
    parts = [
        "# How it was tested",
        "The method gives the right number, or refuses with a message that says what to do, and a model that it was given"
        " comes back as it came. `make test` checks that on every change. What follows is the last **campaign**, the part"
        " that is too slow for that: `make campaign` runs it and writes this page.",
        f"Recorded {p['started'][:10]}, commit `{commit}`, {p['wall_s'] / 60:.0f} minutes on one core ({p['device']});"
        f" Python {p['python']}, torch {p['libraries'].get('torch')}.",
        *(
            f"The part *{name.replace('_', ' ')}* was run again on {again['started'][:10]}, commit `{again['commit'][:10]}`."
            for name, again in (
                (name, record[name].get("again")) for name in ("bad_inputs", "files", "kills", "faults")
            )
            if again
        ),
        _table(
            ["Campaign", "Tried", "Wrong"],
            [
                ["Bad inputs, see the table below", f"{len(rows)} rows", len(record["bad_inputs"]["wrong"])],
                ["Damaged and foreign files, read", f"{files['files']:,} files", len(files["wrong"])],
                [
                    "Processes killed while they save",
                    f"{kills['moments']['kills']} (statistics), {kills['recorded runs']['kills']} (recorded runs)",
                    len(kills["wrong"]),
                ],
                [
                    "Faults injected into every public call",
                    f"{sum(c['injected'] for c in calls):,} faults in {len(calls)} calls",
                    len(record["faults"]["wrong"]),
                ],
            ],
        ),
        *_wrong(record),
        "## Damaged files",
        "Whole files, truncated, with bits flipped, with lengths and headers that lie, and files of other formats, among"
        " them pickles that would write a file if anybody unpickled them. Nothing was executed, no process ended, and the"
        " only errors are `ValueError` and `FileNotFoundError`, which name the file. Some files are still read: the"
        " flipped bit was one of a number, or the edit changed nothing that counts.",
        _table(
            ["File", "Refused", "Read"],
            [
                [kind, files["outcomes"].get(f"{kind}: refused", 0), files["outcomes"].get(f"{kind}: read", 0)]
                for kind in sorted({key.partition(":")[0] for key in files["outcomes"]})
            ],
        ),
        "## Killed processes",
        "A process collects, adds and saves to one path again and again; another records a run part by part. SIGKILL"
        " comes at random times, and at random lines while a file is written. After each kill the file is a complete"
        " version, at most one newer than the last that was announced, and the next process goes on from it: no part is"
        f" lost, none counted twice ({kills['moments']['versions']} versions, {kills['recorded runs']['runs']} runs).",
        "## Faults at every step",
        "The k-th line that a call executes in the package raises an error, or Ctrl-C. Then the model (weights, buffers,"
        " gradients, flags, hooks, attributes), the random numbers, torch's switches and the files are compared with what"
        " they were, to the last bit. An edit in place may also be complete, never half done. Where there are too many"
        " steps, a sample holds the first and the last execution of distinct lines. Left out are the lines that put things"
        " back, and the step from the end of a `with` block to its `__exit__`, for which Python gives no guarantee.",
        _table(["Call", "Steps", "Faults"], [[c["call"], c["steps"], c["injected"]] for c in calls]),
        "## float32 and float64",
        "Relative error (Frobenius) of Σ⁺ and of W⁺ against the formula in float64, for data of a given condition number"
        " (that of Σ); 24 inputs, 10 outputs, 400 examples. The data are rounded to the model's dtype first. *At the"
        " cut* is the default `rcond=1e-6`, *uncut* is 1e-15. Sums in float64, the default, are right whatever the"
        " model's dtype. Sums in float32 hold eigenvalues down to about 1e-7 of the largest, so that small directions are"
        " noise: use them for well-conditioned inputs. (At 1e6 the smallest eigenvalue lies on the cut itself.)",
        _table(
            ["Condition", "Model", "Sums", "Σ⁺", "W⁺ at the cut", "W⁺ uncut"],
            [
                [f"{r['condition']:.0e}", r["model"], r["sums"], *(f"{r[k]:.0e}" for k in ("sigma", "engram", "uncut"))]
                for r in record["precision"]
            ],
        ),
        *_mutation(record.get("mutation") or {}),
        "## The table of bad inputs",
        f"{len(rows)} rows, a test each (`tests/bad_inputs`). After each call the model is as before, to the last bit. An"
        " error shows its message; what stands without one is what the call does instead.",
    ]
    for function in dict.fromkeys(row[0] for row in rows):
        parts.append(f"### `{function}`")
        parts.append(_table(["Given", "What happens"], [row[1:] for row in rows if row[0] == function]))
    return "<!-- written by make campaign -->\n\n" + "\n\n".join(parts) + "\n"


def _wrong(record: dict[str, Any]) -> list[str]:
    lines = [line for name in ("bad_inputs", "files", "kills", "faults") for line in record[name]["wrong"]]
    return ["What was wrong:", "\n".join(f"- {_cell(line)}" for line in lines)] if lines else []


def _mutation(found: dict[str, Any]) -> list[str]:
    if not found:
        return []
    return [
        "## Mutation testing",
        "A mutant is the module with one small change (`<` for `<=`, a number plus one, a `not`); it is killed if a test"
        " of that module fails. Mutants are cosmic-ray's, drawn at random from all of the module's code; survivors were tried"
        " again after tests had been added. Most that are left compute the same (`is` for `==`, `shape[~1]` of a square) or"
        " change a constant of speed (how many rows make a product, the width of a block).",
        _table(
            ["Module", "Mutants", "Sampled", "Killed"],
            [[f"`{m}`", r["mutants"], r["sampled"], f"{r['killed']} ({r['killed'] / r['sampled']:.0%})"] for m, r in found.items()],
        ),
    ]  # fmt: skip


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = " ".join(str(value).split())
    if re.match(r"\w+Error: ", text):  # a message, as it reads
        return "`` " + text.replace("`", "'").replace("|", "\\|") + " ``"
    return text if text.startswith("`") else re.sub(r"([\\`*_\[\]<>$|#{}])", r"\\\1", text)
