"""Each assignment, graded as a course would: the solution, the empty notebook, and typical wrong solutions.

The solution and the empty notebook go through Otter's autograder with the archive that Gradescope would get. The wrong
solutions (`wrong.yml` beside each master) run in this process, with the same test files: a kernel each would take
minutes.
"""

import contextlib
import copy
import functools
import hashlib
import io
import json
import os
import re
import tempfile
import warnings
import zipfile
from pathlib import Path

import assignment_build as build
import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager

from engramlib import language
from engramlib.lab.teaching import coursework

MASTERS = build.masters()
NAMES = [path.stem for path in MASTERS]
CONFIG = yaml.safe_load((build.ROOT / "_config.yml").read_text(encoding="utf-8"))
URL, SITE = CONFIG["repository"]["url"], CONFIG["html"]["baseurl"]
SETUP = f"""\
# Setup: the same cell in every assignment. Colab installs the package; a laptop already has it.
try:
    import otter  # noqa: F401
    from engramlib.lab import chapter
except ImportError:
    print("Installing engramlib, about a minute. Whatever goes wrong, this page says what to do:")
    print("{SITE}book/how-to-use.html#when-something-fails")
    %pip install -q "engramlib[course] @ git+{URL}.git"
    from engramlib.lab import chapter
lab = chapter.setup()"""
POINTS = re.compile(r"^\*(\d+) points? · (\d+) minutes(?: · ([^*]+))?\*$", re.M)
TOTALS = re.compile(r"^\*\*(\d+) points · (\d+) minutes · runs in (\d+) (seconds|minutes)\*\*$", re.M)


def wrong_solutions(name: str) -> list[dict]:
    path = build.HERE / name / "wrong.yml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else []


CASES = [pytest.param(name, case, id=f"{name}-{case['name']}") for name in NAMES for case in wrong_solutions(name)]
every_assignment = pytest.mark.parametrize("name", NAMES)


def test_there_are_assignments():
    assert MASTERS, "no master in book/assignments"


@pytest.fixture(autouse=True)
def _no_progress_bars(monkeypatch):
    monkeypatch.setenv("ENGRAM_PROGRESS", "0")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What build.py makes of a master, made once."""
    folder, done = tmp_path_factory.mktemp("assignments"), {}

    def make(name: str, variant: int = 0) -> dict[str, Path]:
        if (name, variant) not in done:
            (master,) = (path for path in MASTERS if path.stem == name)
            done[name, variant] = build.assign(master, folder / f"{variant}", variant)
        return done[name, variant]

    return make


def possible(archive: Path) -> dict[str, float]:
    """The points of each question that the autograder marks."""
    from otter.test_files import create_test_file

    with zipfile.ZipFile(archive) as files, tempfile.TemporaryDirectory() as folder:
        files.extractall(folder)
        tests = sorted(path for path in Path(folder, "tests").glob("*.py") if path.stem != "integrity")
        return {path.stem: create_test_file(str(path), None).possible for path in tests}


def autograde(submission: Path, archive: Path):
    """Otter's own grading, without a container; the result and the errors that cells of the notebook raised."""
    from otter.api import grade_submission

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = grade_submission(str(submission), str(archive), quiet=True)
    cells = [cell for cell in result.notebook.cells if cell.cell_type == "code"]
    errors = [f"{o.ename}: {o.evalue}\n{c.source[:200]}" for c in cells for o in c.outputs if o.output_type == "error"]
    return result, errors


def guarded(result) -> list[str]:
    """What the archive's guard has to say of a graded notebook."""
    return [case.message for case in result.results["integrity"].test_case_results if not case.passed]


@functools.lru_cache(maxsize=8)
def _written(tokenizer) -> bytes:
    return tokenizer.backend_tokenizer.to_str().encode()


def _fingerprint(model, tokenizer, *rest) -> bytes:
    """The same for two calls that find the same: weights, mode, tokenizer, items and options."""
    digest = hashlib.sha256(repr((type(model), model.training, rest)).encode())
    digest.update(_written(tokenizer))
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy())
    return digest.digest()


@pytest.fixture(scope="module")
def _found() -> dict[bytes, object]:
    return {}


@pytest.fixture
def remembers(monkeypatch, _found):
    """The wrong solutions of one assignment share most of their steps: what a model reads and says is computed once.

    Only a call with the very same weights, items and options is answered from memory.
    """

    def remembering(function):
        def call(model, tokenizer, items, **options):
            items = list(items)
            key = _fingerprint(model, tokenizer, function.__name__, items, sorted(options.items()))
            if key not in _found:
                _found[key] = function(model, tokenizer, items, **options)
            return copy.copy(_found[key])

        return call

    for function in (language.collect, language.answer_logprobs):
        monkeypatch.setattr(language, function.__name__, remembering(function))


def grade_here(paths: dict[str, Path], folder: Path, replace: dict[str, str] | None = None, variant: int = 0):
    """Run the solution with some answers replaced; question -> Otter's test file with its results."""
    import otter
    from otter.execute import Checker

    notebook = nbformat.read(paths["solution"], as_version=4)
    for question, source in (replace or {}).items():
        answer_of(notebook, question).source = source
    with zipfile.ZipFile(paths["autograder"]) as files:
        files.extractall(folder)
    checks = [number for number, cell in enumerate(notebook.cells) if cell.source.startswith("grader.check(")]
    marked = notebook.cells[: checks[-1] + 1]  # what comes after the last check earns nothing
    scope: dict = {"__name__": "__main__"}
    transform = TransformerManager().transform_cell
    here = Path.cwd()
    os.chdir(folder)  # Otter writes its log here
    with contextlib.redirect_stdout(io.StringIO()):
        otter.Notebook.init_grading_mode(str(folder / "tests"))
        try:
            for cell in marked:
                if cell.cell_type == "code":
                    # As Otter does: the variant is set before each cell, and an error does not end the run.
                    with contextlib.suppress(Exception):
                        exec(compile(transform(f"variant = {variant}\n{cell.source}"), "<cell>", "exec"), scope)
            results = Checker.get_results()
        finally:
            os.chdir(here)
            otter.Notebook._grading_mode, otter.Notebook._tests_dir_override = False, None
            Checker.disable_tracking()
            Checker.clear_results()
    return {test.name: test for test in results}


def answer_of(notebook, question: str):
    """The one code cell between a question and its check that holds the answer."""
    checks = [i for i, cell in enumerate(notebook.cells) if cell.source == f'grader.check("{question}")']
    assert len(checks) == 1, f"no check cell for {question}"
    tag = "otter_assign_solution_cell"
    before = notebook.cells[: checks[0]]
    answers = [cell for cell in before if cell.cell_type == "code" and tag in cell.metadata.get("tags", [])]
    assert answers, f"{question} has no answer cell"
    return answers[-1]


def carried(notebook) -> dict[str, str]:
    """The visible checks that a notebook carries: question -> test file."""
    (cell,) = (cell for cell in notebook.cells if cell.source.startswith("#@title"))
    return coursework.unpack(cell.source.split('"""')[1])


def first_cell(notebook) -> str:
    return notebook.cells[0].source


# ----------------------------------------------------------------------------------------------------- the student file


@every_assignment
def test_the_committed_student_notebook_is_current(name, made):
    fresh, committed = made(name)["student"], build.STUDENT / f"{name}.ipynb"
    assert committed.exists() and committed.read_text() == fresh.read_text(), "run: make assignments"


@every_assignment
def test_the_student_file_gives_nothing_away(name, made):
    notebook = nbformat.read(made(name)["student"], as_version=4)
    student = made(name)["student"].read_text(encoding="utf-8") + "".join(carried(notebook).values())
    master = nbformat.read(build.HERE / name / f"{name}.ipynb", as_version=4)
    assert "SOLUTION" not in student and "hidden=True" not in student and "BEGIN TEST" not in student
    hidden = [c.source for c in master.cells if re.match(r'""" # BEGIN TEST CONFIG.*?hidden: true', c.source, re.S)]
    assert hidden, "an assignment needs hidden tests"
    for source in hidden:
        function = re.search(r"def (test_\w+)", source)
        assert function and function[1] not in student, f"{function} is hidden, and in the student file"
    text = "\n".join(cell.source for cell in notebook.cells)
    checks = "\n".join(carried(notebook).values())
    for line in solution_lines(master):
        assert line not in text, f"a line of the solution is in the student file: {line}"
        assert line not in checks, f"a line of the solution is in a visible check: {line}"


def solution_lines(master) -> list[str]:
    """Lines that only a solution has: long enough to be no accident, and in no given cell."""
    inside, lines, given = False, [], []
    for cell in master.cells:
        if cell.cell_type == "raw":
            inside = {"# BEGIN SOLUTION": True, "# END SOLUTION": False}.get(cell.source.strip(), inside)
        else:
            found = [line.strip() for line in cell.source.split("\n")]
            (lines if inside else given).extend(found)
    given = [line for line in given if line]
    return [
        line for line in lines if len(line) > 25 and "SOLUTION" not in line and "PROMPT" not in line
        and not line.startswith(("def ", "#", "class ")) and line not in given
    ]  # fmt: skip


@every_assignment
def test_points_and_minutes_are_stated_and_add_up(name, made):
    notebook = nbformat.read(made(name)["student"], as_version=4)
    totals = TOTALS.search(first_cell(notebook))
    assert totals, "the first cell needs the line **30 points · 120 minutes · runs in 20 seconds**"
    stated = POINTS.findall("\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown"))
    marked = possible(made(name)["autograder"])
    by_check = [int(points) for points, _, how in stated if how != "graded by hand"]
    assert len(by_check) == len(marked) and sum(by_check) == sum(marked.values())
    assert sum(int(points) for points, *_ in stated) == int(totals[1])
    assert sum(int(minutes) for _, minutes, _ in stated) == int(totals[2])


@every_assignment
def test_opens_in_colab(name, made):
    notebook = nbformat.read(made(name)["student"], as_version=4)
    slug = URL.removeprefix("https://github.com/")
    place = f"{slug}/blob/{CONFIG['repository']['branch']}/book/assignments/student/{name}.ipynb"
    assert f"](https://colab.research.google.com/github/{place})" in first_cell(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source == SETUP
    assert not any("pip install" in cell.source for cell in code[1:])
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@every_assignment
@pytest.mark.parametrize("place", ["colab", "jupyter"])
def test_the_notebook_carries_its_own_checks(name, place, made, tmp_path, monkeypatch):
    """One file is enough, also in Colab, where Otter refuses checks in the notebook's metadata."""
    import otter

    notebook = nbformat.read(made(name)["student"], as_version=4)
    monkeypatch.chdir(tmp_path)
    carrier = next(cell for cell in notebook.cells if cell.source.startswith("#@title"))
    if place == "colab":
        monkeypatch.setattr("otter.check.utils.get_ipython", lambda: "<google.colab._shell.Shell object>")
        with pytest.raises(ValueError, match="does not exist"):
            otter.Notebook()  # so it is believed
    scope: dict = {}
    exec(carrier.source, scope)
    asked = re.findall(r'^grader\.check\("(\w+)"\)$', "\n".join(cell.source for cell in notebook.cells), re.M)
    assert sorted(asked) == sorted(possible(made(name)["autograder"])) == sorted(carried(notebook))
    for question in asked:
        result = scope["grader"].check(question, global_env={})
        assert not any(case.passed for case in result.test_case_results), f"{question} passes without an answer"
        assert not any(case.hidden for case in result.test_cases)
        assert all(case.message.startswith("❌ ") for case in result.test_case_results)
        assert "in test" not in result.summary(), "the line of a check may give the answer away"


@every_assignment
def test_the_course_page_tells_what_the_notebook_tells(name, made):
    page = (build.HERE / "index.md").read_text(encoding="utf-8")
    head = first_cell(nbformat.read(made(name)["student"], as_version=4))
    title, totals = re.search(r"^# (\w+) · (.+)$", head, re.M), TOTALS.search(head)
    assert title and totals
    rows = [line for line in page.split("\n") if line.startswith(f"| **{title[1]}** ")]
    assert len(rows) == 2, f"{name} needs a row in both tables of index.md"
    facts, links = ([cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows)
    assert facts[0] == f"**{title[1]}** {title[2]}"
    assert facts[3:] == [totals[1], totals[2], f"{totals[3]} {totals[4][0] if totals[4] == 'seconds' else 'min'}"]
    assert all((build.HERE / target).resolve().with_suffix(".ipynb").exists()
               for target in re.findall(r"\]\(([^)]+)\)", facts[2]))  # fmt: skip
    assert f"/book/assignments/student/{name}.ipynb)" in links[1] and f"<student/{name}.ipynb>" in links[2]


def test_the_site_gets_the_student_files_and_nothing_else():
    """Solutions and hidden checks are on no page: what a page links or hands out lies in student/."""
    for page in build.ROOT.glob("book/**/*.md"):
        for master in NAMES:
            assert f"{master}/" not in page.read_text(encoding="utf-8"), f"{page.name} leads to the master {master}"
    toc = (build.ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert not any(name in toc for name in NAMES)


# ---------------------------------------------------------------------------------------------------------------- marks


@every_assignment
def test_the_solution_earns_full_marks(name, made):
    paths = made(name)
    result, errors = autograde(paths["solution"], paths["autograder"])
    assert not errors, "\n".join(errors)
    lost = [test.summary() for test in result.results.values() if test.score < test.possible]
    assert not lost, "\n".join(lost)
    assert result.total == result.possible == sum(possible(paths["autograder"]).values())
    assert not guarded(result), "an honest notebook is no cheat"


@every_assignment
def test_the_empty_notebook_earns_nothing_and_runs_to_its_end(name, made):
    paths = made(name)
    result, errors = autograde(paths["student"], paths["autograder"])
    assert not errors, "\n".join(errors)
    assert result.total == 0 and result.possible > 0
    assert not guarded(result), "an honest notebook is no cheat"
    for test in result.results.values():
        if test.name == "integrity":
            continue
        assert "no answer yet" in test.summary(public_only=True), f"{test.name} does not say that it is unanswered"


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_wrong_solution_earns_what_it_should(name, case, made, tmp_path, remembers):
    assert case["marks"] and case["says"], "name the questions that lose points, and what their checks say"
    results = grade_here(made(name), tmp_path, case["replace"])
    full = possible(made(name)["autograder"])
    assert {q: test.score for q, test in results.items()} == {**full, **case["marks"]}
    assert all(case["marks"][question] < full[question] for question in case["marks"])
    for question, words in case["says"].items():
        message = results[question].summary(public_only=True)
        assert words in message, f"{question} says:\n{message}"


@every_assignment
def test_at_least_three_wrong_solutions_are_named(name):
    cases = wrong_solutions(name)
    assert len({case["name"] for case in cases}) == len(cases) >= 3


@every_assignment
def test_another_variant_is_another_assignment_with_the_same_marks(name, made, tmp_path, remembers):
    paths = made(name, 3)
    student = nbformat.read(paths["student"], as_version=4)
    sources = [cell.source for cell in student.cells if cell.cell_type == "code"]
    assert sum(bool(re.search(r"^variant = 3$", source, re.M)) for source in sources) == 1
    assert "colab.research.google.com" not in first_cell(student), "the badge would open the published variant"
    with zipfile.ZipFile(paths["autograder"]) as files:
        settings = json.loads(files.read("otter_config.json"))
    assert (settings["seed_variable"], settings["seed"]) == ("variant", 3)
    tasks = build.choose(build.HERE / name / f"{name}.ipynb", 3)
    for new in (new for pairs in tasks.values() for _, new in pairs):
        assert new not in (build.HERE / name / f"{name}.ipynb").read_text(encoding="utf-8")
    results = grade_here(paths, tmp_path, variant=3)
    lost = [test.summary() for test in results.values() if test.score < test.possible]
    assert not lost, "\n".join(lost)
