"""Exercises: `check("00.1", answer)` says whether an answer is right, and if not, what is wrong.

A chapter's checks live in `chNN.py` beside this file, each registered with `exercise`:

    @exercise("00.1", wrong={"forgets the square": lambda x: x, "off by one": lambda x: x * x + 1})
    def _(square):
        expect(square(3) == 9, "square(3) should be 9. Did you multiply x by itself?")

The wrong answers are there for the tests: a check that lets one pass is no check.
"""

from engramlib.lab.teaching.exercises.checking import check, evaluate
from engramlib.lab.teaching.exercises.notebook import NotebookExercise, solutions
from engramlib.lab.teaching.exercises.registry import Exercise, all_exercises, close_to, exercise, expect, get

__all__ = [
    "Exercise",
    "NotebookExercise",
    "all_exercises",
    "check",
    "close_to",
    "evaluate",
    "exercise",
    "expect",
    "get",
    "solutions",
]
