"""Mark a folder of notebooks: one table, and a page of feedback for each student.

python book/assignments/grade.py submissions                  every notebook in it, into grades/
python book/assignments/grade.py submissions --variant 7      handed out with build.py --variant 7
python book/assignments/grade.py submissions --as A1          when notebooks have lost their metadata and names

It runs the archives of `make assignments` (_build/assignments/NAME.zip) on each .ipynb file, each in a process of its
own with a time limit. It writes grades/NAME.csv, a row a student, with empty columns for what is marked by hand, and
grades/feedback/STUDENT.md. A notebook whose grading may have been tampered with gets no sum but "needs a look", with
the reasons beside it; its points stand in the columns, and a person decides.

This runs students' code with your rights: use an account or a container that has nothing to lose.
"""

from __future__ import annotations

import argparse
import ast
import csv
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = MASTERS = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LOOK = "needs a look"


@dataclass
class Marked:
    """What came out of one notebook."""

    name: str
    assignment: str = ""
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)  # question -> points, of how many
    said: dict[str, list[str]] = field(default_factory=dict)  # question -> messages of the checks that failed
    look: list[str] = field(default_factory=list)  # why a person has to look
    failed: str = ""  # why there are no points at all


def load(path: Path) -> dict[str, Any]:
    """A notebook as a dict; ValueError with a plain sentence if it is none."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8-sig"))
        cells = notebook["cells"]
        assert all("source" in cell and "cell_type" in cell for cell in cells)
    except (ValueError, KeyError, TypeError, AssertionError):
        raise ValueError("is no notebook (.ipynb): ask for the file that Jupyter or Colab downloads") from None
    return notebook


def assignment_of(notebook: dict[str, Any], file_name: str, known: list[str]) -> str:
    """Which assignment it is: by its metadata, else by its first heading, else by the file's name; "" if none tells."""
    named = notebook.get("metadata", {}).get("otter", {}).get("assignment_name", "")
    if named in known:
        return named
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"][:5] if cell["cell_type"] == "markdown")
    heading = re.search(r"^# (A\d+) ·", text, re.M)
    for short in ([heading[1]] if heading else []) + re.findall(r"A\d+(?=_)", file_name):
        for name in known:
            if name.startswith(f"{short}_"):
                return name
    return ""


def by_hand(assignment: str) -> dict[str, float]:
    """Question -> points, of the questions that a person marks."""
    found = {}
    for cell in load(MASTERS / assignment / f"{assignment}.ipynb")["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "raw" and source.startswith("# BEGIN QUESTION"):
            question = yaml.safe_load(source)
            if question.get("manual"):
                found[question["name"]] = float(question["points"])
    return found


def settings(archive: Path) -> tuple[list[str], list[str]]:
    """Digests of the given cells and names that the checks read, as the archive's guard has them."""
    with zipfile.ZipFile(archive) as files:
        text = files.read("tests/integrity.py").decode()
    given, names = (re.search(rf"^{name} = (\[.*\])$", text, re.M) for name in ("GIVEN", "NAMES"))
    assert given and names, archive
    return ast.literal_eval(given[1]), ast.literal_eval(names[1])


def guard() -> Any:
    """guard.py as a module."""
    spec = importlib.util.spec_from_file_location("assignment_guard", HERE / "guard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mark(path: Path, archives: dict[str, Path], limit: float, given_name: str = "") -> Marked:
    """Grade one notebook in a process of its own."""
    done = Marked(path.stem)
    try:
        notebook = load(path)
    except ValueError as error:
        done.failed = f"{path.name} {error}"
        return done
    done.assignment = given_name or assignment_of(notebook, path.name, list(archives))
    if done.assignment not in archives:
        done.failed = (
            f"{path.name} does not say which assignment it is: its metadata, heading and name are gone. "
            "Say it with --as A1, or give the file a name that begins with A1_"
        )
        return done
    archive = archives[done.assignment]
    given, names = settings(archive)
    done.look = guard().written(notebook, given, names)
    # Otter refuses a notebook without its name, which Colab or a converter may have dropped.
    notebook.setdefault("metadata", {})["otter"] = {"assignment_name": done.assignment}
    notebook["metadata"].setdefault("kernelspec", {"name": "python3", "display_name": "Python 3", "language": "python"})
    with tempfile.TemporaryDirectory() as folder:
        copy, out = Path(folder, f"{done.assignment}.ipynb"), Path(folder, "results.json")
        copy.write_text(json.dumps(notebook), encoding="utf-8")
        command = [sys.executable, str(Path(__file__).resolve()), "--one", str(copy), str(archive), str(out)]
        log = Path(folder, "log.txt")
        with log.open("wb") as said:
            try:
                subprocess.run(command, timeout=limit, stdout=said, stderr=said, stdin=subprocess.DEVNULL, cwd=folder)
            except subprocess.TimeoutExpired:  # the kernel notices that its parent is gone, and ends
                done.failed = f"{path.name} ran longer than {limit:.0f} seconds: mark it by hand, or raise --limit"
                return done
        if not out.exists():
            last = log.read_text(encoding="utf-8", errors="replace").strip().split("\n")[-1]
            done.failed = f"{path.name} could not be graded: {last[:300]}"
            return done
        results = json.loads(out.read_text(encoding="utf-8"))
    integrity = results.pop("integrity", None)
    if integrity is None:
        done.look.append("the check for tampering did not run")
    for text in (integrity or {}).get("said", []):
        done.look += [reason for reason in text.removeprefix("NEEDS A LOOK: ").split("; ") if reason not in done.look]
    for question, result in results.items():
        done.scores[question] = result["score"], result["possible"]
        done.said[question] = result["said"]
    return done


def one(notebook: Path, archive: Path, out: Path) -> None:
    """What the process of its own does: Otter's grading, written down as plain JSON."""
    from otter.api import grade_submission

    from engramlib.lab.teaching.coursework import plain

    result = grade_submission(str(notebook), str(archive), quiet=True)
    found = {}
    for name, test in result.results.items():
        # The guard's message counts even where the test is said to have passed: that may have been written over.
        cases = [case for case in test.test_case_results if not case.passed or "NEEDS A LOOK" in (case.message or "")]
        failed = [plain(case.message or "").removeprefix("❌ ") for case in cases]
        failed = [re.sub(r"^Test case failed\n?", "", text).strip() for text in failed]
        score, possible = float(test.score), float(test.possible)
        found[name] = {"score": max(0.0, min(score, possible)), "possible": possible, "said": failed}
    out.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")


def feedback(done: Marked, hand: dict[str, float]) -> str:
    """A page for the student."""
    if done.failed:
        return f"# {done.name}\n\nNot marked yet: {done.failed}.\n"
    got, possible = (sum(pair[k] for pair in done.scores.values()) for k in (0, 1))
    lines = [f"# {done.name}: {done.assignment}", ""]
    if done.look:
        lines += [f"**This notebook {LOOK} by a person before its mark counts.** That is no verdict. Noticed:", ""]
        lines += [*(f"- {reason}" for reason in done.look), ""]
    to_come = ", ".join(f"{question} ({points:g})" for question, points in hand.items())
    lines += [
        f"Checks: **{got:g} of {possible:g} points**." + (f" By hand, still to come: {to_come}." * bool(hand)),
        "",
    ]
    lines += ["| question | points | of |", "|---|---|---|"]
    lines += [f"| {q} | {score:g} | {most:g} |" for q, (score, most) in done.scores.items()]
    for question, messages in done.said.items():
        if messages:
            lines += ["", f"## {question}", "", *(f"- {' '.join(text.split())}" for text in messages)]
    return "\n".join(lines) + "\n"


def table(marked: list[Marked], hand: dict[str, float], file: Path) -> None:
    """The table of one assignment: the maxima in the first row, then a row a student."""
    full: dict[str, float] = {}
    for done in marked:
        full |= {question: most for question, (_, most) in done.scores.items()}
    questions = sorted(full, key=_order)
    columns = ["name", *questions, "checks", *(f"{question} by hand" for question in hand), "sum", "look"]
    with file.open("w", newline="", encoding="utf-8-sig") as out:  # so that Excel reads the letters right
        rows = csv.writer(out)
        rows.writerow(columns)
        rows.writerow(
            ["(of)", *(f"{full[q]:g}" for q in questions), f"{sum(full.values()):g}",
             *(f"{p:g}" for p in hand.values()), f"{sum(full.values()) + sum(hand.values()):g}", ""]
        )  # fmt: skip
        for done in marked:
            got = [f"{done.scores[q][0]:g}" if q in done.scores else "" for q in questions]
            checks = f"{sum(score for score, _ in done.scores.values()):g}" if done.scores else ""
            total = LOOK if done.look or done.failed else "" if hand else checks
            reasons = "; ".join([done.failed] * bool(done.failed) + done.look)
            rows.writerow([_text(done.name), *got, checks, *([""] * len(hand)), total, _text(reasons)])


def _text(value: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{value}" if value[:1] in "=+-@" and value else value


def _order(question: str) -> tuple[str, int]:
    letters, digits = re.fullmatch(r"(\D*)(\d*).*", question).groups()  # type: ignore[union-attr]
    return letters, int(digits or 0)


def main(arguments: list[str] | None = None) -> int:
    if arguments is None:
        arguments = sys.argv[1:]
    if arguments[:1] == ["--one"]:
        one(*map(Path, arguments[1:4]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the notebooks are, one file a student")
    parser.add_argument("--as", dest="name", default="", metavar="A1", help="the assignment, if the files do not say")
    parser.add_argument("--variant", type=int, default=0, help="the variant that was handed out")
    parser.add_argument("--limit", type=float, default=900, help="seconds for each notebook (900)")
    parser.add_argument("--out", type=Path, default=Path("grades"), help="where the marks go (grades)")
    options = parser.parse_args(arguments)
    files = sorted(options.folder.glob("*.ipynb")) if options.folder.is_dir() else []
    if not files:
        parser.error(f"there is no .ipynb file in {options.folder}: put what came in there, one file a student")
    built = ROOT / "_build" / "assignments" / (f"variant-{options.variant}" if options.variant else "")
    archives = {path.stem: path for path in sorted(built.glob("A*_*.zip"))}
    if not archives:
        how = f"python book/assignments/build.py --variant {options.variant}" if options.variant else "make assignments"
        parser.error(f"there is no autograder in {built}. Make it first: {how}")
    chosen = next((name for name in archives if name == options.name or name.startswith(f"{options.name}_")), "")
    if options.name and not chosen:
        parser.error(f"--as {options.name}: there are {', '.join(archives)}")
    pages = options.out / "feedback"
    pages.mkdir(parents=True, exist_ok=True)
    every = []
    for path in files:
        done = mark(path, archives, options.limit, chosen)
        every.append(done)
        hand = by_hand(done.assignment) if done.assignment else {}
        (pages / f"{path.stem}.md").write_text(feedback(done, hand), encoding="utf-8")
        points = f"{sum(score for score, _ in done.scores.values()):g}" if done.scores else "-"
        print(f"{path.stem}: {done.failed or points}{f' ({LOOK})' if done.look else ''}", flush=True)
    for name in sorted({done.assignment for done in every}):
        rows = [done for done in every if done.assignment == name]
        table(rows, by_hand(name) if name else {}, options.out / f"{name or 'unknown'}.csv")
        print(f"{len(rows)} in {options.out / (name or 'unknown')}.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
