"""What an assignment needs besides the chapters: its checks, carried by the notebook itself."""

from __future__ import annotations

import base64
import bz2
import inspect
import json
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from engramlib.lab.teaching.exercises.registry import Mistake


def grader(packed: str) -> Any:
    """Otter's grader, with the visible checks of this notebook (from `pack`).

    Otter looks for checks in the notebook's metadata or in a folder beside it. In Colab there is one file and no
    folder, and Otter refuses metadata there. So a cell of the notebook carries the checks, and here they become a
    folder. When Otter grades a submission it uses the autograder's own checks, hidden ones included, and not these.
    """
    try:
        import otter
        from otter.test_files.exception_test import ExceptionTestFile
    except ImportError:
        raise ImportError(
            "coursework.grader needs otter-grader: pip install 'engramlib[course]', then restart the notebook."
        ) from None

    shortened = ExceptionTestFile._generate_error_message

    def whole(test: Any, error: Exception, context: int = 0) -> str:
        """Otter's text about an error, with the quotation marks that it strips from both ends."""
        shown, text = shortened(test, error, context), str(error)
        return shown if shown.endswith(text) else shown.removesuffix(text.strip("'")) + text

    class Grader(otter.Notebook):
        """Otter's, with messages for students: not the line of the check, which may give the answer away."""

        def check(self, question: str, global_env: dict[str, Any] | None = None) -> Any:
            caller = inspect.currentframe().f_back
            with patch.object(ExceptionTestFile, "_generate_error_message", whole):
                result = super().check(question, caller.f_globals if global_env is None else global_env)
            for outcome in result.test_case_results:
                outcome.message = plain(outcome.message)
            return result

    folder = Path(tempfile.mkdtemp(prefix="checks-"))
    for question, source in unpack(packed).items():
        (folder / f"{question}.py").write_text(source, encoding="utf-8")
    return Grader(tests_dir=str(folder))


def plain(message: str) -> str:
    """What Otter says about a test, without the line of the test that failed.

    >>> plain("❌ Test case failed\\nError at line 3 in test q1:\\n  expect(x == 3, 'Three.')\\nMistake: Three.")
    '❌ Three.'
    """
    found = re.fullmatch(r"❌ Test case failed\nError at line \d+ in test [^\n]*:\n[^\n]*\n(\w+): ?(.*)", message, re.S)
    if not found:
        return message
    kind, text = found.groups()
    if kind in ("Mistake", "AssertionError", "Wrong"):
        return f"❌ {text}"
    mixed = re.search(r"numpy|ndarray", text) and kind in ("TypeError", "AttributeError", "RuntimeError", "ValueError")
    hint = " (NumPy and torch do not mix here: torch.from_numpy makes a tensor of an array.)" if mixed else ""
    return f"❌ Your answer stopped the check with {kind}: {text}{hint}"


def pack(tests: Mapping[str, str]) -> str:
    """Test files as a few lines of text: question -> source. They are packed to be short, not to be secret.

    >>> unpack(pack({"q1": "pass"}))
    {'q1': 'pass'}
    """
    for question in tests:
        if not question.isidentifier():
            raise ValueError(f"coursework.pack: {question!r} cannot name a question; use letters, digits and _.")
    data = bz2.compress(json.dumps(dict(tests), ensure_ascii=False).encode())
    return "\n".join(textwrap.wrap(base64.b64encode(data).decode(), 116))


def unpack(packed: str) -> dict[str, str]:
    """What `pack` packed."""
    try:
        return json.loads(bz2.decompress(base64.b64decode("".join(packed.split()), validate=True)))
    except (ValueError, OSError, EOFError):
        raise ValueError(
            "The cell with the checks was changed by accident. Copy it anew from a fresh copy of the assignment."
        ) from None


def answered(answer: Any, name: str) -> Any:
    """`answer`, unless it is still the stub (None, or the dots); then the check ends with a plain message.

    >>> answered(3, "share")
    3
    >>> answered(..., "share")
    Traceback (most recent call last):
    ...
    engramlib.lab.teaching.exercises.registry.Mistake: share: no answer yet. Replace the dots, ...
    """
    if answer is None or answer is ...:
        raise Mistake(f"{name}: no answer yet. Replace the dots, run the cell, then check again.")
    return answer


def number(answer: Any, name: str) -> float:
    """`answer` as one number. A list, a function or a text ends the check with a plain message.

    >>> number(torch.tensor(0.5), "share")
    0.5
    >>> number([1, 2], "share")
    Traceback (most recent call last):
    ...
    engramlib.lab.teaching.exercises.registry.Mistake: share should be one number. Yours has the shape (2,).
    """
    found = _as_tensor(answered(answer, name))
    if found is None or found.numel() != 1:
        raise Mistake(f"{name} should be one number. {_described(answer, found)}")
    return float(_without_nan(found, name))


def numbers(answer: Any, name: str, count: int, message: str) -> list[float]:
    """`answer` as a list of `count` numbers; `message` says which ones they should be.

    >>> numbers((1, 2), "pair", 2, "Give a pair.")
    [1.0, 2.0]
    >>> numbers(3, "pair", 2, "Give a pair.")
    Traceback (most recent call last):
    ...
    engramlib.lab.teaching.exercises.registry.Mistake: pair: Give a pair. Yours is a single number.
    """
    found = _as_tensor(answered(answer, name))
    if found is None or found.shape != (count,):
        raise Mistake(f"{name}: {message} {_described(answer, found)}")
    return _without_nan(found, name).tolist()


def tensor(answer: Any, name: str, shape: tuple[int, ...] | None = None, *, nan: bool = False) -> torch.Tensor:
    """`answer` as a float64 tensor; a NumPy array or a list is as good. NaN is a mistake of its own unless `nan`.

    >>> tensor([[1, 2]], "W")
    tensor([[1., 2.]], dtype=torch.float64)
    >>> tensor([[1, 2]], "W", (2, 1))
    Traceback (most recent call last):
    ...
    engramlib.lab.teaching.exercises.registry.Mistake: W should have the shape (2, 1). Yours has the shape (1, 2).
    """
    found = _as_tensor(answered(answer, name))
    if found is None:
        raise Mistake(f"{name} should be a tensor (a NumPy array is as good). {_described(answer, found)}")
    if shape is not None and tuple(found.shape) != tuple(shape):
        raise Mistake(f"{name} should have the shape {tuple(shape)}. {_described(answer, found)}")
    return found if nan else _without_nan(found, name)


def calls(function: Callable[..., Any], *arguments: Any) -> tuple[Any, set[tuple[str, str]]]:
    """What `function` returns, and which Python functions it called on the way: (file, name).

    >>> calls(textwrap.shorten, "a b", 9)[0]
    'a b'
    """
    seen: set[tuple[str, str]] = set()

    def note(frame: Any, event: str, what: Any) -> None:
        if event == "call":
            seen.add((frame.f_code.co_filename.replace("\\", "/"), frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        answer = function(*arguments)
    finally:
        sys.setprofile(before)
    return answer, seen


def _without_nan(found: torch.Tensor, name: str) -> torch.Tensor:
    if bool(torch.isnan(found).any()):
        raise Mistake(
            f"{name}: there is NaN in it, not a number. It comes from 0 / 0, from ∞ − ∞ or ∞ · 0, or from the root or "
            "logarithm of something negative: look for such a step."
        )
    return found


def _as_tensor(answer: Any) -> torch.Tensor | None:
    try:
        return torch.as_tensor(answer, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        return None


def _described(answer: Any, found: torch.Tensor | None) -> str:
    if found is None:
        return f"Yours is of type {type(answer).__name__}, or holds something that is no number."
    return "Yours is a single number." if found.ndim == 0 else f"Yours has the shape {tuple(found.shape)}."
