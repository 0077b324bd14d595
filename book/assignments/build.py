"""Assignments: from one master each, the student's notebook and the autograder.

python book/assignments/build.py              all of them
python book/assignments/build.py A1           one
python book/assignments/build.py --check      only say whether the committed student notebooks are current
python book/assignments/build.py --variant 7  other tasks, data and numbers, for another year or another class

A master is book/assignments/NAME/NAME.ipynb in the format of `otter assign`: raw cells mark questions, solutions and
tests. What comes out of it:

  book/assignments/student/NAME.ipynb    no solutions, no hidden tests; committed, since Colab opens it from GitHub
  _build/assignments/NAME.zip            the autograder with all tests: upload it to Gradescope, or use `otter run`
  _build/assignments/NAME_solution.ipynb the solution, which earns full marks

A variant goes to _build/assignments/variant-7 as a whole, student notebooks too, and is not committed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import io
import math
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STUDENT = HERE / "student"
BUILD = ROOT / "_build" / "assignments"

TEST_SETTINGS = re.compile(r'""" # BEGIN TEST CONFIG\n(.*?)\n""" # END TEST CONFIG\n', re.S)
TEST_FILE = """\
from otter.test_files import test_case

OK_FORMAT = False
name = "{name}"
points = None
SHARED = {{}}
"""
# The last test file of every autograder. It earns nothing: it says what a person has to look at.
GUARD_TEST = """\
GUARD = {guard!r}
GIVEN = {given!r}
NAMES = {names!r}


@test_case(points=0, hidden=True)
def test_nothing_was_tampered_with():
    import glob
    import json

    guard = {{"__name__": "guard"}}
    exec(compile(GUARD, "guard.py", "exec"), guard)
    found = guard["changed"](GUARD)
    for path in sorted(glob.glob("*.ipynb")):
        with open(path, encoding="utf-8") as file:
            found += guard["written"](json.load(file), GIVEN, NAMES)
    assert not found, "NEEDS A LOOK: " + "; ".join(found[:12])
"""
CHECKS = '''\
#@title The checks of this assignment: run this cell, no need to read it
from engramlib.lab.teaching import coursework

grader = coursework.grader("""
{packed}
""")'''


def masters(names: list[str] | None = None) -> list[Path]:
    """The master notebooks, in order; `names` are folders or how they begin, such as A1."""
    found = sorted(path for path in HERE.glob("A*/A*.ipynb") if path.stem == path.parent.name)
    for name in names or []:
        if not any(path.stem.startswith(name) for path in found):
            raise ValueError(f"no assignment {name!r}; there are: {', '.join(path.stem for path in found)}")
    return [path for path in found if not names or path.stem.startswith(tuple(names))]


def assign(master: Path, out: Path, variant: int = 0) -> dict[str, Path]:
    """Run `otter assign` on one master; the paths of "student", "solution" and "autograder" under `out`."""
    from otter.assign import main as otter_assign

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        # A copy: Otter works inside the master's folder, and the variant changes the common settings.
        work = Path(scratch, "masters", master.stem)
        work.mkdir(parents=True)
        choices = choose(master, variant)
        chosen = work / master.name
        rewrite(master, chosen, choices)
        common = yaml.safe_load((HERE / "otter.yml").read_text(encoding="utf-8"))
        common["seed"] |= {"student_value": variant, "autograder_value": variant}
        (work.parent / "otter.yml").write_text(yaml.safe_dump(common), encoding="utf-8")
        made, here = Path(scratch, "made"), Path.cwd()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                otter_assign(str(chosen), str(made), no_pdfs=True, no_run_tests=True)
        finally:
            os.chdir(here)
        paths = {
            "student": out / "student" / master.name,
            "solution": out / f"{master.stem}_solution.ipynb",
            "autograder": out / f"{master.stem}.zip",
        }
        paths["student"].parent.mkdir(exist_ok=True)
        every, given = tests_of(chosen), []
        files = {"student": test_files(every), "solution": test_files(every, beginning(master, variant))}
        for kind, folder in (("student", "student"), ("solution", "autograder")):
            notebook = nbformat.read(made / folder / master.name, as_version=4)
            finish(notebook, files[kind], variant)
            nbformat.write(notebook, paths[kind])
            given += [cell.source for cell in notebook.cells if cell.cell_type == "code" and not is_answer(cell)]
        (archive,) = (made / "autograder").glob("*.zip")
        guarded = files["solution"] | {"integrity": guard_file(given, every)}
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(paths["autograder"], "w", zipfile.ZIP_DEFLATED) as new:
            for name in sorted(old.namelist()):
                if not name.startswith("tests/"):
                    new.writestr(name, old.read(name))
            for question, source in guarded.items():
                new.writestr(f"tests/{question}.py", source)
    return paths


def choose(master: Path, variant: int) -> dict[str, list[list[str]]]:
    """Task of variants.yml -> the texts that this variant puts in place of others. Nothing for the published one."""
    file = master.with_name("variants.yml")
    tasks = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else []
    ways = math.prod(len(task["choices"]) for task in tasks)
    # All combinations but the published one, in turn.
    number, found = (1 + (variant - 1) % (ways - 1) if variant and ways > 1 else 0), {}
    for task in tasks:
        number, k = divmod(number, len(task["choices"]))
        found[task["task"]] = task["choices"][k] or []
    return found


def rewrite(master: Path, copy: Path, choices: dict[str, list[list[str]]]) -> None:
    """A copy of the master that asks what a variant asks."""
    notebook = nbformat.read(master, as_version=4)
    for task, pairs in choices.items():
        for old, new in pairs:
            cells = [cell for cell in notebook.cells if old in cell.source]
            if not cells:
                raise ValueError(f"{master.stem}, variants.yml, {task}: the master has no {old!r}")
            for cell in cells:
                cell.source = cell.source.replace(old, new)
    nbformat.write(notebook, copy)


def is_answer(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell is one that the student fills (or, in the solution, that is filled)."""
    return bool({"otter_answer_cell", "otter_assign_solution_cell"} & set(cell.metadata.get("tags", [])))


def beginning(master: Path, variant: int) -> str:
    """What stands before the hidden checks: their own comparisons, and how to make anew what the notebook gives."""
    texts = [(HERE / "hidden.py").read_text(encoding="utf-8"), f"VARIANT = {variant}\n"]
    given = master.with_name("given.py")
    if given.exists():
        texts.append(given.read_text(encoding="utf-8"))
    return "\n\n" + "\n\n".join(texts)


def guard_file(given: list[str], tests: dict[str, list[TestCell]]) -> str:
    """The test file that looks for tampering: guard.py, and what it must know of this assignment."""
    text = (HERE / "guard.py").read_text(encoding="utf-8")
    asked = {
        argument.arg for cases in tests.values() for case in cases
        for argument in ast.parse(case.source).body[0].args.args  # type: ignore[attr-defined]
    }  # fmt: skip
    made: set[str] = set()
    for source in given:
        # A name at the top of a given cell; lines that are no Python, such as %pip, are in the first cell alone.
        tree = ast.parse(re.sub(r"^(\s*)%.*$", r"\1pass", source, flags=re.M))
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                made.add(node.name)
            elif isinstance(node, ast.Assign):
                targets = [name for target in node.targets for name in ast.walk(target)]
                made |= {name.id for name in targets if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
    digests = sorted({guard().digest(source) for source in given})
    head = TEST_FILE.format(name="integrity")
    return head + GUARD_TEST.format(guard=text, given=digests, names=sorted(made & asked))


def guard() -> Any:
    """guard.py as a module; this folder is no package."""
    if "assignment_guard" not in sys.modules:
        spec = importlib.util.spec_from_file_location("assignment_guard", HERE / "guard.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules["assignment_guard"] = module
    return sys.modules["assignment_guard"]


def finish(notebook: nbformat.NotebookNode, files: dict[str, str], variant: int) -> None:
    """Put in the checks, and make the file the same at every build."""
    cells = notebook.cells
    setup = next(i for i, cell in enumerate(cells) if cell.cell_type == "code")
    checks = nbformat.v4.new_code_cell(checks_cell(files))
    checks.metadata = nbformat.from_dict(
        {"cellView": "form", "jupyter": {"source_hidden": True}, "deletable": False, "editable": False}
    )
    cells.insert(setup + 1, checks)
    if variant:  # the badge would open the published variant
        lines = cells[0].source.split("\n")
        cells[0].source = "\n".join(line for line in lines if "colab.research.google.com" not in line)
    for number, cell in enumerate(cells):  # Otter numbers the cells it adds at random
        cell.id = f"cell-{number:03d}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            # Otter does so in the student's notebook only; the solution is to be of the same variant.
            cell.source = re.sub(r"^variant = 0$", f"variant = {variant}", cell.source, flags=re.M)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    own = {"kernelspec": kernel, "language_info": {"name": "python"}}
    if "otter" in notebook.metadata:  # the assignment's name: the autograder of another assignment refuses it
        own["otter"] = notebook.metadata["otter"]
    notebook.metadata = nbformat.from_dict(own)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)


def test_files(tests: dict[str, list[TestCell]], beginning: str = "") -> dict[str, str]:
    """A file for each question: with all checks after this `beginning`, without one the visible checks alone."""
    return {
        question: TEST_FILE.format(name=question) + beginning + "".join(
            f"\n\n@test_case(points={case.points}, hidden={case.hidden})\n{case.source}\n"
            for case in cases if beginning or not case.hidden
        )
        for question, cases in tests.items()
    }  # fmt: skip


def checks_cell(files: dict[str, str]) -> str:
    """The source of the cell that carries the test files, one a question."""
    from engramlib.lab.teaching import coursework

    return CHECKS.format(packed=coursework.pack(files))


class TestCell(NamedTuple):
    """A test of a master: its function as it stands there, comments and all."""

    points: float
    hidden: bool
    source: str


def tests_of(master: Path) -> dict[str, list[TestCell]]:
    """Question -> its tests, in order. Otter's own copies lose line breaks, and depend on the version of Python."""
    found: dict[str, list[TestCell]] = {}
    question, inside = "", False
    for cell in nbformat.read(master, as_version=4).cells:
        head = cell.source.split("\n")[0].strip().upper()
        if cell.cell_type == "raw":
            if head == "# BEGIN QUESTION":
                question = yaml.safe_load(cell.source)["name"]
            inside = {"# BEGIN TESTS": True, "# END TESTS": False}.get(head, inside)
        elif inside:
            settings = TEST_SETTINGS.match(cell.source)
            functions = [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)]
            if not settings or len(functions) != 1:
                raise ValueError(f"{master.stem}, {question}: a test cell needs its points and exactly one function")
            keys = yaml.safe_load(settings[1])
            source = ast.get_source_segment(cell.source, functions[0])
            found.setdefault(question, []).append(TestCell(keys["points"], keys.get("hidden", False), source or ""))
    return found


def check(names: list[str] | None = None, student: Path | None = None) -> list[str]:
    """What is not current about the committed student notebooks; empty when all is."""
    problems, student = [], student or STUDENT
    with tempfile.TemporaryDirectory() as folder:
        for master in masters(names):
            fresh = assign(master, Path(folder))["student"]
            committed = student / master.name
            if not committed.exists():
                problems.append(f"{master.stem}: there is no student notebook")
            elif committed.read_text(encoding="utf-8") != fresh.read_text(encoding="utf-8"):
                problems.append(f"{master.stem}: the student notebook is not what the master makes")
    known = {master.name for master in masters()}
    problems += [f"{path.stem}: has no master" for path in sorted(student.glob("*.ipynb")) if path.name not in known]
    return problems


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="which ones, such as A1; all when left out")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a student notebook is old")
    parser.add_argument("--variant", type=int, default=0, help="other tasks and numbers; 0 is the published one")
    options = parser.parse_args(arguments)
    if options.variant < 0:
        parser.error("--variant must be 0 or more")
    if options.check and options.variant:
        parser.error("--check is about the committed notebooks, which are variant 0")
    try:
        chosen = masters(options.names)
    except ValueError as error:
        parser.error(str(error))
    if options.check:
        problems = check(options.names)
        for problem in problems:
            print(f"  {problem}")
        print("Run: make assignments" if problems else f"{len(chosen)} student notebooks are current")
        return 1 if problems else 0
    out = BUILD / f"variant-{options.variant}" if options.variant else BUILD
    for master in chosen:
        paths = assign(master, out, options.variant)
        student = paths["student"]
        if not options.variant:
            STUDENT.mkdir(exist_ok=True)
            shutil.copy(student, STUDENT)
            student = STUDENT / student.name
        print(f"{master.stem}: {student.relative_to(ROOT)}, {paths['autograder'].relative_to(ROOT)}")
        changed = [task for task, pairs in choose(master, options.variant).items() if pairs]
        if options.variant:
            print(f"  asks otherwise: {'; '.join(changed) or 'nothing but its numbers and data change'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
