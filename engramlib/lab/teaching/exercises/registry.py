"""Which exercises there are, and what chapter modules need to write one."""

from __future__ import annotations

import importlib
import importlib.util
import numbers
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_NUMBER = re.compile(r"(\d\d)\.(\d+)")
_known: dict[str, Exercise] = {}


@dataclass(frozen=True)
class Exercise:
    """One exercise: its check, named wrong answers that the check must refuse, and other forms of the right one."""

    number: str
    check: Callable[[Any], None]
    wrong: Mapping[str, Any]
    right: Mapping[str, Any]


class Mistake(AssertionError):
    """What a check found wrong; the message is for the student."""


def exercise(
    number: str, *, wrong: Mapping[str, Any], right: Mapping[str, Any] | None = None
) -> Callable[[Callable], Callable]:
    """Register a check, `NN.k` = chapter and exercise. `wrong` = at least two named wrong answers, `right` = forms of
    the right one beside the chapter's solution: rounded, as a tensor, by another way.

    The check takes the answer (a value, or a function that it calls) and uses `expect` to say what is wrong.
    """
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"exercise: number must look like '00.1', got {number!r}.")
    if len(wrong) < 2:
        raise ValueError(f"exercise {number}: name at least two wrong answers, so that the check is tested.")

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        _known[number] = Exercise(number, function, dict(wrong), dict(right or {}))
        return function

    return register


def expect(right: object, message: str) -> None:
    """Refuse the answer with `message` unless `right`. The message says what is off and where to look."""
    if not message.strip():
        raise ValueError("expect: the message is empty; say what is off.")
    if not bool(right):
        raise Mistake(message)


def close_to(answer: object, right: object, message: str, *, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    """Refuse an answer that is not a number or tensor of the right shape and value. A 1 x 1 tensor is a number."""
    if isinstance(answer, numbers.Real):  # a fraction, too
        answer = float(answer)
    try:
        mine = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Mistake(f"{message} Expected a number or a tensor, got {type(answer).__name__}.") from None
    wanted = torch.as_tensor(right, dtype=torch.float64)
    if wanted.ndim == 0 and mine.numel() == 1:
        mine = mine.reshape(())
    if mine.shape != wanted.shape:
        raise Mistake(f"{message} Expected shape {tuple(wanted.shape)}, got {tuple(mine.shape)}.")
    expect(torch.allclose(mine, wanted, rtol=rtol, atol=atol), message)


def several(answer: object, n: int, message: str) -> list:
    """The n parts of an answer: a tuple, a list, or a row of n numbers. Anything else is refused with `message`."""
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    expect(isinstance(answer, (tuple, list)) and len(answer) == n, message)
    assert isinstance(answer, (tuple, list))
    return list(answer)


def line_forms(number: int) -> dict[str, object]:
    """The number of a line as NumPy and torch give it: other forms of a right answer."""
    return {"a tensor": torch.tensor(number), "numpy": np.int64(number), "a float": float(number)}


def letter(answer: object) -> object:
    """Text without spaces around it, in small letters; anything else as it is."""
    return answer.strip().lower() if isinstance(answer, str) else answer


def get(number: str) -> Exercise:
    """The exercise with this number. Loads the chapter's module when it is first asked for."""
    if (match := _NUMBER.fullmatch(str(number))) is None:
        raise KeyError(f"an exercise number looks like '00.1', got {number!r}")
    module = f"{__package__}.ch{match[1]}"
    if number not in _known and importlib.util.find_spec(module) is not None:
        importlib.import_module(module)
    if number not in _known:
        there = ", ".join(sorted(n for n in _known if n.startswith(match[1]))) or "none in this chapter"
        raise KeyError(f"there is no exercise {number}; there are: {there}")
    return _known[number]


def all_exercises() -> list[Exercise]:
    """Every exercise of every chapter module, in order."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        if re.fullmatch(r"ch\d\d", module.name):
            importlib.import_module(f"{__package__}.{module.name}")
    return [_known[n] for n in sorted(_known, key=lambda n: [int(part) for part in n.split(".")])]
