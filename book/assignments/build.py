"""Assignments: from one master each, the student's notebook and the autograder.

python book/assignments/build.py              all of them
python book/assignments/build.py A1           one
python book/assignments/build.py --check      only say whether the committed student notebooks are current
python book/assignments/build.py --variant 7  other data and numbers, for another year or another class

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
import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

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
        shutil.copy(master, work)
        common = yaml.safe_load((HERE / "otter.yml").read_text(encoding="utf-8"))
        common["seed"] |= {"student_value": variant, "autograder_value": variant}
        (work.parent / "otter.yml").write_text(yaml.safe_dump(common), encoding="utf-8")
        made, here = Path(scratch, "made"), Path.cwd()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                otter_assign(str(work / master.name), str(made), no_pdfs=True, no_run_tests=True)
        finally:
            os.chdir(here)
        paths = {
            "student": out / "student" / master.name,
            "solution": out / f"{master.stem}_solution.ipynb",
            "autograder": out / f"{master.stem}.zip",
        }
        paths["student"].parent.mkdir(exist_ok=True)
        every = tests_of(master)
        public = {question: [case for case in cases if not case.hidden] for question, cases in every.items()}
        for kind, folder, tests in (("student", "student", public), ("solution", "autograder", every)):
            notebook = nbformat.read(made / folder / master.name, as_version=4)
            finish(notebook, tests, variant)
            nbformat.write(notebook, paths[kind])
        (archive,) = (made / "autograder").glob("*.zip")
        shutil.copy(archive, paths["autograder"])
    return paths


def finish(notebook: nbformat.NotebookNode, tests: dict[str, list[TestCell]], variant: int) -> None:
    """Put in the checks, and make the file the same at every build."""
    cells = notebook.cells
    setup = next(i for i, cell in enumerate(cells) if cell.cell_type == "code")
    checks = nbformat.v4.new_code_cell(checks_cell(tests))
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


def checks_cell(tests: dict[str, list[TestCell]]) -> str:
    """The source of the cell that carries the test files, one a question."""
    from engramlib.lab.teaching import coursework

    files = {}
    for question, cases in tests.items():
        files[question] = TEST_FILE.format(name=question) + "".join(
            f"\n\n@test_case(points={case.points}, hidden={case.hidden})\n{case.source}\n" for case in cases
        )
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
    parser.add_argument("--variant", type=int, default=0, help="other data and numbers; 0 is the published one")
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
