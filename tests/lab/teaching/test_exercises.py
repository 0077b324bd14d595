"""The exercise mechanism, and every exercise of every chapter."""

import json
from pathlib import Path

import pytest
import torch

from engramlib.lab.teaching import exercises
from engramlib.lab.teaching.exercises import checking, registry

BOOK = Path(__file__).resolve().parents[3] / "book"
NOTEBOOKS = sorted(BOOK.glob("part*/*.ipynb"))  # coursework has tests of its own


def _readable(path):
    """The exercises, or none: `test_every_notebook_is_complete` says what is missing."""
    try:
        return exercises.solutions(path)
    except ValueError:
        return []


IN_BOOK = [(path, e) for path in NOTEBOOKS for e in _readable(path)]
NAMED = [pytest.param(path, e, id=f"{path.stem}-{e.number}") for path, e in IN_BOOK]

# ---------------------------------------------------------------------------------------- a tiny made-up exercise


@pytest.fixture
def square(monkeypatch):
    monkeypatch.setattr(registry, "_known", {})

    @exercises.exercise("98.1", wrong={"identity": lambda x: x, "off by one": lambda x: x * x + 1})
    def _(square):
        exercises.expect(square(3) == 9, "square(3) should be 9: multiply x by itself.")

    @exercises.exercise("98.2", wrong={"half": 0.5, "shape": [1.0, 2.0]})
    def _(value):
        exercises.close_to(value, 2.0, "Two is what we look for.")

    @exercises.exercise("98.3", wrong={"identity": lambda x: x, "one": lambda x: 1.0})
    def _(root):
        exercises.expect(abs(root(9.0) - 3.0) < 1e-6, "root(9) should be 3.")

    @exercises.exercise("98.4", wrong={"half": 0.5, "three": 3})
    def _(value):
        exercises.expect(float(value) == 2.0, "Two is what we look for.")


def say(capsys, number, answer):
    right = exercises.check(number, answer)
    return right, capsys.readouterr().out.strip()


def test_right_and_wrong(square, capsys):
    assert say(capsys, "98.1", lambda x: x**2) == (True, "✓ Exercise 98.1: right.")
    assert say(capsys, "98.1", lambda x: x) == (
        False,
        "✗ Exercise 98.1: square(3) should be 9: multiply x by itself.",
    )
    assert say(capsys, "98.2", 2) == (True, "✓ Exercise 98.2: right.")
    assert "Expected shape (), got (2,)" in say(capsys, "98.2", [1.0, 2.0])[1]
    assert "got str" in say(capsys, "98.2", "two")[1]


def test_the_untouched_stub_is_not_wrong(square, capsys):
    def stub(x): ...

    def unwritten(x):
        raise NotImplementedError

    for answer in (None, ..., (None, ...), stub, unwritten):
        right, text = say(capsys, "98.1", answer)
        assert not right and text == "○ Exercise 98.1: not attempted yet."


def test_errors_become_messages(square, capsys):
    def broken(x):
        y = x
        return y / 0

    right, text = say(capsys, "98.1", broken)
    assert not right and "line 3 of your function stopped with ZeroDivisionError: division by zero" in text
    assert "asks for a function" not in text
    takes_none = say(capsys, "98.1", lambda: 1)[1]
    assert "called with 1 argument, and does not take that" in takes_none and "as the stub has it" in takes_none
    assert "result cannot be used: TypeError" in say(capsys, "98.3", lambda x: "nine")[1]
    assert "It returned the text 'nine'." in say(capsys, "98.3", lambda x: "nine")[1]
    assert "there is no exercise 98.7; there are: 98.1, 98.2, 98.3, 98.4" in say(capsys, "98.7", 1)[1]
    assert "looks like '00.1'" in say(capsys, "first", 1)[1]


@pytest.mark.parametrize(
    ("number", "answer", "said"),
    [
        ("98.1", "nine", "this asks for a function: give its name, without calling it. You gave the text 'nine'."),
        ("98.1", torch.ones(2, 3), "You gave a tensor of shape (2, 3)."),
        ("98.1", {}, "You gave a dict."),
        ("98.4", lambda x: 2.0, "this asks for one number. You gave a function."),
        ("98.4", (1.0, 2.0), "this asks for one number. You gave a tuple of 2."),
        ("98.4", "two", "this asks for one number. You gave the text 'two'."),
        ("98.4", float("nan"), "your answer contains NaN"),
        ("98.2", [float("nan"), 1.0], "your answer contains NaN"),
        ("98.3", lambda x: x * float("nan"), "your function returns NaN"),
    ],
)
def test_what_a_confused_student_gives_is_named(square, capsys, number, answer, said):
    right, text = say(capsys, number, answer)
    assert not right and text.startswith("✗") and said in text


ODD_ANSWERS = {
    "text": "seven",
    "number": 0.12345,
    "NaN": float("nan"),
    "tensor": torch.full((2, 3), 0.12345),
    "pair of texts": ("a", "z"),
    "empty": [],
    "dict": {},
    "class": type("Answer", (), {}),
    "returns text": lambda *args, **named: "seven",
    "returns NaN": lambda *args, **named: float("nan"),
    "returns a wrong shape": lambda *args, **named: torch.full((7,), 0.12345),
    "takes nothing": lambda: 1,
    "raises": lambda *args, **named: {}["key"],
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_no_odd_answer_passes_or_breaks_a_check(name):
    """In every exercise: a wrong kind, shape or error is a message for the student, never an exception."""
    for exercise in exercises.all_exercises():
        outcome = exercises.evaluate(exercise.number, ODD_ANSWERS[name])
        assert outcome.status == checking.WRONG and len(outcome.message) > 10, (exercise.number, outcome)
        assert "not callable" not in outcome.message


def test_registering_needs_two_wrong_answers():
    with pytest.raises(ValueError, match="two wrong answers"):
        exercises.exercise("98.1", wrong={"one": 1})
    with pytest.raises(ValueError, match="number"):
        exercises.exercise("1", wrong={"a": 1, "b": 2})


HEAD = "### Exercise 98.1: Squares\n*Difficulty ●○○ · 5 minutes*\n\nWhat is x times x?\n"
STUB = 'def square(x):\n    ...  # your code\n\n\nexercises.check("98.1", square)\n'
HINT = "<details><summary>Hint</summary>\n\nThink.\n\n</details>\n"
SOLUTION = (
    "<details><summary>Solution</summary>\n\n```python\ndef square(x):\n    return x * x\n```\n\nSo.\n\n</details>\n"
)


def notebook(tmp_path, *, head=HEAD, stub=STUB, folded=HINT + SOLUTION, tags=("exercise",)):
    def cell(kind, source, **metadata):
        return {"cell_type": kind, "source": source.splitlines(keepends=True), "metadata": metadata}

    cells = [
        cell("markdown", "# Chapter\n"),
        cell("code", "1 + 1"),
        cell("markdown", head),
        cell("code", stub, tags=list(tags)),
        cell("markdown", folded),
        cell("markdown", "## Summary\n"),
        cell("code", "the_rest = 1"),
    ]
    path = tmp_path / "98_squares.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return path


def test_stub_and_solution_come_out_of_a_notebook(square, tmp_path):
    (found,) = exercises.solutions(notebook(tmp_path))
    assert (found.number, found.title, found.answer) == ("98.1", "Squares", "square")
    assert (found.difficulty, found.minutes) == (1, 5)
    assert found.solution == "def square(x):\n    return x * x\n"
    assert exercises.evaluate("98.1", found.solution_answer()).status == "right"
    assert exercises.evaluate("98.1", found.stub_answer()).status == "not attempted"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"head": HEAD.replace("Difficulty", "Level")}, "no line like"),
        ({"head": HEAD.replace("●○○", "○●○")}, "no line like"),
        ({"tags": ()}, "one code cell tagged"),
        ({"folded": SOLUTION}, "no folded Hint"),
        ({"folded": HINT}, "no folded Solution"),
        ({"folded": HINT + SOLUTION.replace("```python", "```")}, "one ```python block"),
        ({"stub": "def square(x): ...\n"}, "does not call"),
        ({"stub": STUB.replace("98.1", "98.2")}, "the stub checks exercise 98.2"),
    ],
)
def test_an_incomplete_exercise_is_refused_by_name(tmp_path, change, complaint):
    with pytest.raises(ValueError, match=r"98_squares.ipynb, exercise 98.1: .*" + complaint):
        exercises.solutions(notebook(tmp_path, **change))


def test_a_solution_relies_on_the_prelude_only(tmp_path):
    folded = HINT + SOLUTION.replace("x * x", "x * x").replace("def square", "the_rest\ndef square")
    (found,) = exercises.solutions(notebook(tmp_path, folded=folded))
    with pytest.raises(NameError, match="the_rest"):
        found.solution_answer()


# ------------------------------------------------------------------------------------------ the book's own exercises


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_notebook_is_complete(path):
    assert len(exercises.solutions(path)) >= 3


@pytest.mark.parametrize(("path", "found"), NAMED)
def test_every_solution_passes_its_check(path, found):
    outcome = exercises.evaluate(found.number, found.solution_answer())
    assert outcome.status == checking.RIGHT, outcome.message


@pytest.mark.parametrize(("path", "found"), NAMED)
def test_every_stub_is_not_attempted(path, found, capsys):
    outcome = exercises.evaluate(found.number, found.stub_answer())
    assert outcome.status == checking.UNTOUCHED, outcome.message


@pytest.mark.parametrize(("number", "name"), [(e.number, name) for e in exercises.all_exercises() for name in e.wrong])
def test_every_wrong_answer_fails_with_a_message(number, name):
    outcome = exercises.evaluate(number, exercises.get(number).wrong[name])
    assert outcome.status == checking.WRONG and outcome.message.strip(), (name, outcome)


@pytest.mark.parametrize(("number", "name"), [(e.number, name) for e in exercises.all_exercises() for name in e.right])
def test_every_other_form_of_the_right_answer_passes(number, name):
    outcome = exercises.evaluate(number, exercises.get(number).right[name])
    assert outcome.status == checking.RIGHT, outcome.message


@pytest.mark.parametrize("exercise", [e for e in exercises.all_exercises() if e.number < "16"], ids=lambda e: e.number)
def test_exercises_know_many_answers(exercise):
    """What readers give: four mistakes and two other forms of the right answer at least."""
    assert len(exercise.wrong) >= 4 and len(exercise.right) >= 2


@pytest.mark.parametrize(
    ("number", "answer", "said"),
    [
        ("00.2", lambda w, a, b: w @ a.T @ a @ torch.linalg.inv(a.T @ a + b.T @ b), "a black pixel"),
        ("02.3", exercises.get("02.3").wrong["λ = 1e8"], "A large λ is not infinite"),
        ("06.3", exercises.get("06.3").wrong["text for False"], "without quotation marks"),
    ],
)
def test_a_near_miss_is_told_what_it_misses(number, answer, said):
    assert said in exercises.evaluate(number, answer).message


def test_checks_and_notebooks_agree():
    """No exercise without a check, no check without an exercise, and each in the chapter it is numbered for."""
    assert [e.number for _, e in IN_BOOK] == sorted(
        (e.number for e in exercises.all_exercises()), key=lambda n: [int(part) for part in n.split(".")]
    )
    assert all(path.name.startswith(e.number[:2]) for path, e in IN_BOOK)
