"""Marks that count: what a cheat earns, what an honest but odd notebook keeps, and grade.py, which marks a folder.

A small assignment of its own, with a question of each kind: a number, a function, a comparison with engramlib. Its
notebooks run in a child of this process each (a fork: what a cheat replaces is gone with it), with the test files of
its archive, guard included. Two of them go through Otter and grade.py as in a course.
"""

import contextlib
import csv
import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import assignment_build as build
import nbformat
import pytest

_spec = importlib.util.spec_from_file_location("assignment_grade", build.HERE / "grade.py")
assert _spec is not None and _spec.loader is not None
sys.modules["assignment_grade"] = grade = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(grade)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="cheats run in a fork of this process")

GIVEN = """\
import torch
import engramlib as el

size = 8
looked_at = []
model = torch.nn.Sequential(torch.nn.Linear(3, 2))"""
QUESTIONS = {
    "q1": (
        "half = size / 2  # SOLUTION",
        (1, False, 'def test_q1_small(half, size):\n    from engramlib.lab.teaching.exercises import close_to\n'
                   '    close_to(half, size / 2, "Not half.")'),
        (1, True, 'def test_q1_value(half):\n    same(number(half, "half"), 4.0, "Not half of 8.")'),
    ),
    "q2": (
        "def moment(x):\n    return x.T @ x  # SOLUTION",
        (1, False, 'def test_q2_shape(moment):\n    import torch\n'
                   '    from engramlib.lab.teaching.coursework import tensor\n'
                   '    from engramlib.lab.teaching.exercises import expect\n'
                   '    x = torch.tensor([[1.0, 2.0], [0.0, 3.0]])\n'
                   '    mine = tensor(moment(x), "moment(x)", (2, 2))\n'
                   '    expect(torch.allclose(mine, torch.tensor([[1.0, 2.0], [2.0, 13.0]]).double()), "Wrong.")'),
        (2, True, 'def test_q2_elsewhere(moment):\n    import torch\n'
                  '    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))\n'
                  '    mine = floats(moment(x.clone()), "moment(x)")\n'
                  '    right = floats(x.T @ x)\n'
                  '    need(mine[0] == right[0], "shape")\n'
                  '    same(mine[1], right[1], "moment")'),
    ),
    "q3": (
        "def own(plus, minus):\n    W = model[0].weight.detach().double()\n"
        "    return W @ plus @ torch.linalg.pinv(plus + minus)  # SOLUTION",
        (0, False, 'def test_q3_there(own):\n    from engramlib.lab.teaching.coursework import answered\n'
                   '    import torch\n    answered(own(torch.eye(3).double(), torch.eye(3).double()), "own(...)")'),
        (3, True, 'def test_q3_library(own, model):\n    import torch\n    import engramlib as el\n'
                  '    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(2))\n'
                  '    plus, minus = (el.collect(model, [part], bias="keep") for part in (x[:4], x[4:]))\n'
                  '    mine = own(plus["0"].double(), minus["0"].double())\n'
                  '    right = el.extract(model, plus, minus)["0"].weight\n'
                  '    need(gap(mine, right) < 1e-4, "differs")'),
    ),
}  # fmt: skip
FULL = {"q1": 2.0, "q2": 3.0, "q3": 3.0}
NOTHING = {"q1": 0.0, "q2": 0.0, "q3": 0.0}
WRONG = {
    "q1": "half = 3",
    "q2": "def moment(x):\n    return 0 * (x.T @ x)",
    "q3": "def own(plus, minus):\n    return torch.zeros(2, 3)",
}


def small_master(folder: Path) -> Path:
    raw, code = nbformat.v4.new_raw_cell, nbformat.v4.new_code_cell
    cells = [raw("# ASSIGNMENT CONFIG\nname: A9_small\nconfig_file: ../otter.yml"), code("variant = 0"), code(GIVEN)]
    for question, (answer, *tests) in QUESTIONS.items():
        cells += [raw(f"# BEGIN QUESTION\nname: {question}"), nbformat.v4.new_markdown_cell("How much?")]
        cells += [raw("# BEGIN SOLUTION"), code(answer), raw("# END SOLUTION"), raw("# BEGIN TESTS")]
        for points, hidden, test in tests:
            head = f'""" # BEGIN TEST CONFIG\npoints: {points}\nhidden: {str(hidden).lower()}\n""" # END TEST CONFIG\n'
            cells.append(code(head + test))
        cells += [raw("# END TESTS"), raw("# END QUESTION")]
    cells.insert(1, nbformat.v4.new_markdown_cell("# A9 · Small"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "A9_small" / "A9_small.ipynb"
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return build.assign(small_master(folder), folder / "out")


def handed_in(paths, answers, first="", last=""):
    """The student's notebook with these answers, a cell before all others and one after the last answer."""
    notebook = nbformat.read(paths["student"], as_version=4)
    for question, source in answers.items():
        (check,) = (k for k, cell in enumerate(notebook.cells) if cell.source == f'grader.check("{question}")')
        answer = max(k for k in range(check) if build.is_answer(notebook.cells[k]))
        notebook.cells[answer].source = source
    if first:  # after the imports, before any answer
        place = next(k for k, cell in enumerate(notebook.cells) if build.is_answer(cell))
        notebook.cells.insert(place, nbformat.v4.new_code_cell(first))
    if last:
        notebook.cells.append(nbformat.v4.new_code_cell(last))
    return notebook


def right_answers(paths):
    solution = nbformat.read(paths["solution"], as_version=4)
    return {
        question: next(
            cell.source for cell in solution.cells if build.is_answer(cell) and answer.split("  #")[0] in cell.source
        )
        for question, (answer, *_) in QUESTIONS.items()
    }


def grade_in_fork(paths, notebook, folder):
    """(points of each question, what the guard says after the run, what it says of the text)."""
    nbformat.write(notebook, folder / "A9_small.ipynb")
    with zipfile.ZipFile(paths["autograder"]) as files:
        files.extractall(folder)
    given, names = grade.settings(paths["autograder"])
    text = grade.guard().written(json.loads((folder / "A9_small.ipynb").read_text()), given, names)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # never comes back to pytest
        try:
            os.close(reading)
            os.chdir(folder)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                found = _run(notebook, folder)
            os.write(writing, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    assert data, "the notebook took the grading process with it: no result is no mark"
    points, said = json.loads(data)
    (left,) = said or [""]
    # The guard's test reads the notebook too; what is left of its text is what it saw of the modules.
    # (pytest rewrites the asserts of otter/test_files/abstract_test.py, since the file is called so.)
    modules = left.split("NEEDS A LOOK: ")[-1].split("; ")
    modules = [reason for reason in modules if reason and "cell " not in reason and "TestFile is not" not in reason]
    return points, modules, text


def _run(notebook, folder):
    import otter
    from IPython.core.interactiveshell import InteractiveShell
    from otter.execute import Checker

    shell = InteractiveShell.instance()
    otter.Notebook.init_grading_mode(str(folder / "tests"))
    check = Checker.check_if_not_already_checked
    scope = {"__name__": "__main__", "get_ipython": lambda: shell}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            with contextlib.suppress(Exception):
                text = shell.transform_cell(f"variant = 0\n{cell.source}")
                exec(compile(text, "<cell>", "exec"), scope)
    for path in ["q1", "q2", "q3", "integrity"]:
        check(str(folder / "tests" / f"{path}.py"), global_env=scope)
    tests = {test.name: test for test in Checker.get_results()}
    points = {name: float(tests[name].score) for name in ("q1", "q2", "q3")}
    messages = [case.message or "" for case in tests["integrity"].test_case_results]
    return points, [message for message in messages if "NEEDS A LOOK" in message]


# --------------------------------------------------------------------------------------------------------------- cheats

# name -> (a cell before the answers, answers that differ from the wrong ones, which looks have to see it)
CHEATS = {
    "everything is close": (
        "import torch\ntorch.allclose = lambda *a, **k: True\ntorch.Tensor.norm = lambda self, *a: torch.zeros(())",
        {}, {"text", "modules"},
    ),
    "checks that refuse nothing": (
        "from engramlib.lab.teaching import exercises as e\n"
        "e.expect = e.close_to = e.registry.expect = lambda *a, **k: None",
        {}, {"text", "modules"},
    ),
    "the library gives my numbers": (
        "import types\nmine = el.Engram({'0': (torch.ones(2, 3), None)})\n"
        "setattr(el, 'ex' + 'tract', lambda *a, **k: mine)",
        {"q3": "def own(plus, minus):\n    return torch.ones(2, 3)"}, {"text", "modules"},
    ),
    "another comparison under an alias": (
        "for place in [torch]:\n    place.allclose = place.equal = lambda *a, **k: True",
        {}, {"text", "modules"},
    ),
    "a grader that is content": (
        "from otter.execute import Checker\nold = Checker.get_results\n"
        "def content():\n    for test in old():\n        for case in test.test_case_results:\n"
        "            case.passed = True\n    return old()\n"
        "Checker.get_results = content\n"
        "class Content:\n    def check(self, q):\n        return 'all right'\ngrader = Content()",
        {}, {"text", "modules"},
    ),
    "an object that equals everything": (
        "class Same:\n    def __eq__(self, other):\n        return True\n    def __float__(self):\n        return 4.0\n"
        "    def __abs__(self):\n        return 0.0\n    def __sub__(self, other):\n        return self\n"
        "    def __lt__(self, other):\n        return True\n    __le__ = __gt__ = __ge__ = __lt__\n    shape = (2, 3)",
        {"q1": "half = Same()", "q2": "def moment(x):\n    return Same()", "q3": "def own(a, b):\n    return Same()"},
        {"text"},
    ),
    "builtins": (
        "import builtins\nbuiltins.abs = lambda x: 0.0\nbuiltins.all = lambda x: True", {}, {"text", "modules"},
    ),
    "another module in its place": (
        "import sys, types\nfake = types.ModuleType('engramlib.lab.teaching.exercises')\n"
        "fake.expect = fake.close_to = lambda *a, **k: None\nsys.modules[fake.__name__] = fake",
        {}, {"text", "modules"},
    ),
    "a string that is run": (
        "exec('import torch' + chr(10) + 'torch.all' + 'close = lambda *a, **k: True')", {}, {"text", "modules"},
    ),
    "reads the hidden checks": (
        "import glob\ntext = ''.join(open(f).read() for f in glob.glob('tests/*.py'))",
        {"q1": "half = 4.0 if '4.0' in text else 3"}, {"text"},
    ),
    "asks its caller for the right answer": (
        "import inspect",
        {"q2": "def moment(x):\n    return inspect.currentframe().f_back.f_locals.get('right', x.T @ x * 0)"}, {"text"},
    ),
    "a mode that changes torch": (
        "from torch.overrides import TorchFunctionMode\n"
        "class Mode(TorchFunctionMode):\n    def __torch_function__(self, f, types, args=(), kwargs=None):\n"
        "        return True if f is torch.allclose else f(*args, **(kwargs or {}))\nMode().__enter__()",
        {}, {"text", "modules"},
    ),
    "makes the given numbers easy": ("size = 6\nlooked_at = []", {}, {"text"}),
    "hides behind a magic": (
        "torch.allclose?\nget_ipython().run_cell_magic('time', '', 'torch.allclose = torch.equal')",
        {}, {"text"},
    ),
    "takes a module's dictionary": (
        "book = vars(torch)\nbook['allclose'] = lambda *a, **k: True", {}, {"text", "modules"},
    ),
    "changes what a function is, not its name": (
        "from engramlib.lab.teaching.exercises.registry import expect\n"
        "expect.__code__ = (lambda right, message: None).__code__",
        {}, {"text", "modules"},
    ),
}  # fmt: skip


@needs_fork
@pytest.mark.otter
@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_seen(cheat, made, tmp_path):
    first, answers, seen = CHEATS[cheat]
    points, modules, text = grade_in_fork(made, handed_in(made, WRONG | answers, first), tmp_path)
    assert ("text" in seen) <= bool(text), "the text was not seen"
    assert ("modules" in seen) <= bool(modules), f"what it left was not seen; points {points}"


@needs_fork
@pytest.mark.otter
def test_the_hidden_checks_of_a_cheat_earn_nothing(made, tmp_path):
    """Comparisons of their own: what torch, numpy and engramlib say no longer counts."""
    first = (
        "import numpy, torch\nfrom engramlib.lab.teaching import coursework, exercises\n"
        "yes = lambda *a, **k: True\n"
        "torch.allclose = torch.equal = torch.isclose = numpy.allclose = torch.Tensor.allclose = yes\n"
        "torch.Tensor.__eq__ = torch.Tensor.__lt__ = torch.Tensor.__bool__ = yes\n"
        "exercises.expect = exercises.close_to = coursework.number = yes"
    )
    points, modules, text = grade_in_fork(made, handed_in(made, WRONG, first), tmp_path)
    assert points["q1"] <= 1 and points["q2"] <= 1 and points["q3"] == 0, "only what a visible check gives"
    assert modules and text, "and that is seen"


@needs_fork
@pytest.mark.otter
def test_wrong_answers_alone_earn_nothing_and_are_no_cheat(made, tmp_path):
    assert grade_in_fork(made, handed_in(made, WRONG), tmp_path) == (NOTHING, [], [])


# --------------------------------------------------------------------------------------------------- honest, and odd

HONEST = {
    "the solution": ("", {}, ""),
    "NumPy answers": (
        "import numpy as np",
        {
            "q1": "half = np.float64(size) / 2",
            "q2": "def moment(x):\n    a = np.asarray(x, dtype=np.float64)\n    return a.T @ a",
            "q3": "def own(plus, minus):\n    W = model[0].weight.detach().double().numpy()\n"
                  "    return W @ plus.numpy() @ np.linalg.pinv((plus + minus).numpy())",
        }, "",
    ),
    "float64 throughout, and a tensor for a number": (
        "",
        {
            "q1": "half = torch.tensor(size, dtype=torch.float64) / 2",
            "q2": "def moment(x):\n    return x.double().T @ x.double()",
        }, "",
    ),
    "cells of its own": (
        "%time sum(range(10))\n%matplotlib inline\nimport matplotlib.pyplot as plt\nimport pandas as pd\n"
        "from collections import Counter\nresults = {}\nfor layer in ('fc1', 'fc2'):\n    results[layer] = len(layer)\n"
        "table = pd.DataFrame([results])\ntorch.manual_seed(0)\ntorch.set_printoptions(precision=3)\n"
        "fig, ax = plt.subplots()\nax.plot([1, 2])\nax.title.set_text('mine')\nplt.close(fig)",
        {}, "help(torch.allclose)\nassert abs(half - 4) < 1e-9\nprint('done', sorted(results))",
    ),
    "other names, helpers in between": (
        "",
        {
            "q1": "the_size_that_was_given = size\nhalf_of_it = the_size_that_was_given * 0.5\nhalf = half_of_it",
            "q2": "class Rows:\n    def __init__(self, x):\n        self.x = x\n\n    def __len__(self):\n"
                  "        return len(self.x)\n\n\ndef outer(r):\n    size = len(r)\n    return torch.outer(r, r)\n\n\n"
                  "def moment(x):\n    rows, looked_at = Rows(x), 0\n    return sum(outer(r) for r in rows.x)",
        }, "",
    ),
    "helpers named as the library's": (
        "def allclose(a, b):\n    return (a - b).abs().max() < 1e-9\n\n\ndef extract(W, plus, minus):\n"
        "    return W @ plus @ torch.linalg.pinv(plus + minus)\n\n\ndef expect(x):\n    return x\n\n\n"
        "def same(a, b):\n    return a == b\n\n\ndef floats(x):\n    return 'mine'",
        {"q3": "def own(plus, minus):\n    return extract(model[0].weight.detach().double(), plus, minus)"}, "",
    ),
}  # fmt: skip


@needs_fork
@pytest.mark.otter
@pytest.mark.parametrize("odd", HONEST)
def test_an_honest_notebook_loses_nothing(odd, made, tmp_path):
    first, answers, last = HONEST[odd]
    notebook = handed_in(made, right_answers(made) | answers, first, last)
    assert grade_in_fork(made, notebook, tmp_path) == (FULL, [], [])


# ------------------------------------------------------------------------------------------------------------- grade.py


@pytest.mark.otter
def test_a_folder_is_marked_by_one_command(made, tmp_path, monkeypatch, capsys):
    """Through Otter, a process each: a solution without metadata, the two-line cheat, a stranger, no notebook."""
    folder, built = tmp_path / "submissions", tmp_path / "_build/assignments"
    folder.mkdir(), built.mkdir(parents=True)
    (built / "A9_small.zip").write_bytes(made["autograder"].read_bytes())
    monkeypatch.setattr(grade, "ROOT", tmp_path)
    monkeypatch.setattr(grade, "MASTERS", made["student"].parents[2])
    lost = handed_in(made, right_answers(made))
    lost.metadata = nbformat.from_dict({})
    nbformat.write(lost, folder / "ada.ipynb")
    cheat = "import torch\ntorch.allclose = lambda *a, **k: True"
    nbformat.write(handed_in(made, WRONG, cheat), folder / "ben.ipynb")
    nameless = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    nbformat.write(nameless, folder / "cleo.ipynb")
    (folder / "dan.ipynb").write_text("%PDF")
    assert grade.main([str(folder), "--out", str(tmp_path / "grades")]) == 0
    said = capsys.readouterr().out
    assert "ada: 8" in said and "ben: 2 (needs a look)" in said and "--as A1" in said and "is no notebook" in said
    with (tmp_path / "grades/A9_small.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"name": "(of)", "q1": "2", "q2": "3", "q3": "3", "checks": "8", "sum": "8", "look": ""}
    assert rows[1] == {"name": "ada", "q1": "2", "q2": "3", "q3": "3", "checks": "8", "sum": "8", "look": ""}
    assert rows[2]["name"] == "ben" and rows[2]["sum"] == "needs a look" and rows[2]["checks"] == "2"
    assert "writes to torch.allclose" in rows[2]["look"] and "torch.allclose is not what it is" in rows[2]["look"]
    page = (tmp_path / "grades/feedback/ben.md").read_text(encoding="utf-8")
    assert "needs a look" in page and "torch.allclose" in page and "Not half of 8" in page
    assert "8 of 8" in (tmp_path / "grades/feedback/ada.md").read_text(encoding="utf-8")
    assert (tmp_path / "grades/unknown.csv").is_file()


@pytest.mark.otter
def test_a_notebook_that_never_ends_costs_no_more_than_its_limit(made, tmp_path):
    path = tmp_path / "A9_ever.ipynb"
    nbformat.write(handed_in(made, {"q1": "while True:\n    pass"}), path)
    done = grade.mark(path, {"A9_small": made["autograder"]}, limit=8)
    assert "ran longer than 8 seconds" in done.failed and not done.scores
    assert "Not marked yet" in grade.feedback(done, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no .ipynb file"),
        (["."], "make assignments"),
        ([".", "--variant", "7"], "build.py --variant 7"),
    ],
)
def test_what_is_missing_is_said(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grade, "ROOT", tmp_path)
    (tmp_path / "x.ipynb").write_text("{}")
    with pytest.raises(SystemExit):
        grade.main(arguments)
    assert message in capsys.readouterr().err


def test_the_table_has_room_for_what_is_marked_by_hand(tmp_path):
    hand = grade.by_hand("A1_estimator")
    assert hand == {"q12": 4.0}
    ada = grade.Marked("ada", "A1_estimator", {"q1": (1.0, 2.0), "q10": (2.0, 2.0), "q2": (0.0, 2.0)})
    evil = grade.Marked("=1+1", "A1_estimator", failed="ran longer than 9 seconds")
    grade.table([ada, evil], hand, tmp_path / "a.csv")
    rows = list(csv.reader((tmp_path / "a.csv").open(encoding="utf-8-sig")))
    assert rows[0] == ["name", "q1", "q2", "q10", "checks", "q12 by hand", "sum", "look"]
    assert rows[1] == ["(of)", "2", "2", "2", "6", "4", "10", ""]
    assert rows[2] == ["ada", "1", "0", "2", "3", "", "", ""]
    assert rows[3][0] == "'=1+1" and rows[3][-2:] == ["needs a look", "ran longer than 9 seconds"]


def test_students_work_and_marks_stay_out_of_git():
    for name in ("grades/A1_estimator.csv", "submissions/ada.ipynb"):
        done = subprocess.run(["git", "check-ignore", "-q", name], cwd=build.ROOT)
        assert done.returncode == 0, name
