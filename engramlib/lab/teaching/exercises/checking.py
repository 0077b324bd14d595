"""Check an answer: right, wrong with a reason, or not attempted. Never an exception."""

from __future__ import annotations

import functools
import inspect
import math
import traceback
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engramlib.lab.teaching.exercises.registry import Mistake, get

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
    if _has_nan(answer):
        return Outcome(WRONG, f"your answer contains NaN, which is not a number. {_NAN}")
    watched = _Watched(answer) if _is_function(answer) else None
    try:
        exercise.check(watched or answer)
    except NotAttempted:
        return Outcome(UNTOUCHED, "not attempted yet.")
    except Mistake as mistake:
        return Outcome(WRONG, str(mistake))
    except Exception as error:
        return Outcome(WRONG, _explain(error, answer, watched, wanted=_kinds(exercise.wrong.values())))
    return Outcome(RIGHT, "right.")


_NAN = "Somewhere 0 is divided by 0, or a root or logarithm is taken of a negative number."


def _is_blank(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return bool(value) and all(_is_blank(v) for v in value)
    return value is None or value is ...


def _has_nan(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_has_nan(v) for v in value)
    if isinstance(value, torch.Tensor):
        return bool(value.isnan().any())
    return isinstance(value, float) and math.isnan(value)


def _is_function(answer: Any) -> bool:
    return isinstance(answer, (types.FunctionType, types.BuiltinFunctionType, functools.partial))


class _Watched:
    """The student's function. A stub that returns nothing, or says it is not written, ends the check."""

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.results: list[Any] = []  # the last one, if it came to an end

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.results.clear()
        self._fits(args, kwargs)
        try:
            result = self.function(*args, **kwargs)
        except NotImplementedError:
            raise NotAttempted from None
        if _is_blank(result):
            raise NotAttempted
        if _has_nan(result):
            raise Mistake(f"your function returns NaN, which is not a number. {_NAN}")
        self.results.append(result)
        return result

    def _fits(self, args: tuple, kwargs: dict) -> None:
        """Whether the function takes what the stub's function takes."""
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):  # some built-in functions do not say
            return
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            many = f"{len(args)} argument{'s' if len(args) != 1 else ''}"
            named = f" and {', '.join(kwargs)}=..." if kwargs else ""
            raise Mistake(
                f"your function is called with {many}{named}, and does not take that ({error}). "
                "Keep the line with def as the stub has it."
            ) from None


# What an exercise asks for, seen from its wrong answers, which have the right kind.
_ASKS = {
    "function": "a function: give its name, without calling it",
    "number": "one number",
    "text": "text in quotation marks",
    "several values": "several values, with commas between them",
    "tensor": "a tensor",
}


def _kind(value: Any) -> str:
    if _is_function(value):
        return "function"
    if isinstance(value, str):
        return "text"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, (tuple, list)):
        return "several values"
    return "tensor" if isinstance(value, torch.Tensor) else type(value).__name__


def _kinds(values: Iterable[Any]) -> set[str]:
    return {_kind(v) for v in values}


def _what(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f"{'a tensor' if isinstance(value, torch.Tensor) else 'an array'} of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str):
        return f"the text {value[:30]!r}"
    if isinstance(value, (bool, int, float, complex)):
        return f"{value}"
    return "a function" if _is_function(value) else f"a {type(value).__name__}"


def _explain(error: Exception, answer: Any, watched: _Watched | None, *, wanted: set[str]) -> str:
    """The error in the student's terms: another kind of answer, or the line of the function where it came up."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    asks = _ASKS.get(next(iter(wanted))) if len(wanted) == 1 else None
    if asks and _kind(answer) not in wanted:
        return f"this asks for {asks}. You gave {_what(answer)}."
    if watched is None:
        return f"your answer, {_what(answer)}, cannot be used here: {reason}."
    code = getattr(answer, "__code__", None)
    frames = traceback.extract_tb(error.__traceback__) if code else []
    inside = [f.lineno for f in frames if code and f.filename == code.co_filename]
    if inside and not watched.results:
        return f"line {inside[-1] - code.co_firstlineno + 1} of your function stopped with {reason}."
    given = f" It returned {_what(watched.results[0])}." if watched.results else ""
    return f"your function's result cannot be used: {reason}.{given}"
