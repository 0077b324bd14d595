"""Check an answer: right, wrong with a reason, or not attempted. Never an exception."""

from __future__ import annotations

import functools
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engramlib.lab.exercises.registry import Mistake, get

RIGHT, WRONG, UNTOUCHED = "right", "wrong", "not attempted"
_MARKS = {RIGHT: "✓", WRONG: "✗", UNTOUCHED: "○"}


@dataclass(frozen=True)
class Outcome:
    """`status` is "right", "wrong" or "not attempted"; `message` says why."""

    status: str
    message: str


class NotAttempted(Exception):
    """The answer is still the stub."""


def check(number: str, answer: Any) -> bool:
    """Print a tick, a cross with a reason, or "not attempted yet"; return whether the answer is right."""
    outcome = evaluate(number, answer)
    print(f"{_MARKS[outcome.status]} Exercise {number}: {outcome.message}")
    return outcome.status == RIGHT


def evaluate(number: str, answer: Any) -> Outcome:
    """What `check` prints, as data."""
    try:
        exercise = get(number)
    except KeyError as error:
        return Outcome(WRONG, f"{error.args[0]}.")
    if _is_blank(answer):
        return Outcome(UNTOUCHED, "not attempted yet.")
    try:
        exercise.check(_watched(answer) if _is_function(answer) else answer)
    except NotAttempted:
        return Outcome(UNTOUCHED, "not attempted yet.")
    except Mistake as mistake:
        return Outcome(WRONG, str(mistake))
    except Exception as error:
        return Outcome(WRONG, _explain(error, answer))
    return Outcome(RIGHT, "right.")


def _is_blank(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return bool(value) and all(_is_blank(v) for v in value)
    return value is None or value is ...


def _is_function(answer: Any) -> bool:
    return isinstance(answer, (types.FunctionType, types.BuiltinFunctionType, functools.partial))


def _watched(function: Callable) -> Callable:
    """The student's function; a stub that returns nothing, or says it is not written, ends the check."""

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
        except NotImplementedError:
            raise NotAttempted from None
        if _is_blank(result):
            raise NotAttempted
        return result

    return call


def _explain(error: Exception, answer: Any) -> str:
    """The error, with the line of the student's function where it came up."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    code = getattr(answer, "__code__", None)
    if code is None:
        return f"your answer cannot be used here: {reason}."
    inside = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == code.co_filename]
    if inside:
        return f"line {inside[-1] - code.co_firstlineno + 1} of your function stopped with {reason}."
    return f"your function's result cannot be used: {reason}. Look at its type and shape."
