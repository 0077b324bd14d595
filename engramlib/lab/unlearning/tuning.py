"""Choosing settings on validation data, with the same budget for every method.

A problem says what its validation data are (`accuracies`): images in `vision`, questions in `text`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from engramlib._progress import track
from engramlib.lab.training.modes import evaluating
from engramlib.lab.unlearning.base import BaseProblem
from engramlib.lab.unlearning.method import Method, Settings
from engramlib.lab.unlearning.passes import reading

Row = dict[str, object]


@dataclass(frozen=True, eq=False)
class Tuned:
    """What `tune` or `apply` found. Accuracies are of the validation data.

    `tried`: one row a setting, in the order of the grid: the settings themselves, then `acc_forget`, `acc_keep`,
    `score`, `seconds` (what this setting costs alone, everything shared included), `passes` (how often it read the
    training data: examples that entered the network, over their number), `trained_passes` (those with a gradient) and
    `error` (None, or why the model broke). `seconds_per_run`, `passes` and `trained_passes` are those of the chosen
    setting; `seconds` is what all of it took. `edges`: the settings whose chosen value is the smallest or the largest
    that was tried, so that a better one may lie beyond: {"lr": "largest"}.
    """

    method: str
    label: str
    settings: Mapping[str, object]
    model: nn.Module = field(repr=False)
    score: float
    acc_forget: float
    acc_keep: float
    seconds_per_run: float
    seconds: float
    passes: float
    trained_passes: float
    edges: Mapping[str, str]
    tried: tuple[Row, ...] = field(repr=False)


def score(problem: BaseProblem, acc_forget: float, acc_keep: float) -> float:
    """(1 - |acc_forget - goal| / (1 - goal)) (1 - |acc_keep - acc_keep of the original|) on the validation data.

    1 is best, nothing is below 0. `goal` = `problem.goal()`, what a model gets right that never learned it: 0 for a
    class of images, more for answers, of which every model gets some words right. Both factors are ToW's, with the
    goal and the original in place of a retrained model, which nobody has when they unlearn.
    """
    before = problem.once("accuracies of the original", lambda: _of_the_original(problem))
    goal = problem.once("goal", problem.goal)
    return max(0.0, 1 - abs(acc_forget - goal) / (1 - goal)) * (1 - abs(acc_keep - before[1]))


def tune(method: Method | str, problem: BaseProblem, *, grid: Sequence[Settings] | None = None) -> Tuned:
    """Run a method, or the one of that name, with every setting of its grid and keep the model that scores best.

    A setting that breaks the model (a weight, loss or output that is no number) scores 0 and is recorded in `tried`;
    wrong arguments are raised. The first of equal scores wins. `grid` replaces the method's own.
    Cost: the whole grid; one copy of the model is kept.

    Raises `FloatingPointError` if every setting broke the model.
    """
    method = _method(method, problem)
    started = time.perf_counter()
    best: tuple[float, Row, Settings, nn.Module] | None = None
    tried = []
    settings_tried = method.grid if grid is None else tuple(grid)
    if not settings_tried:
        raise ValueError("tune: the grid is empty.")
    for settings in track(settings_tried, desc=f"tuning {method.label}", total=len(settings_tried)):
        row, model = _try(method, problem, settings)
        tried.append(row)
        if model is not None and (best is None or row["score"] > best[0]):
            best = (row["score"], row, settings, model)
    if best is None:
        raise FloatingPointError(f"{method.name}: every setting broke the model; the first: {tried[0]['error']}")
    _, row, settings, model = best
    return Tuned(
        method=method.name,
        label=method.label,
        settings=dict(settings),
        model=model,
        score=row["score"],
        acc_forget=row["acc_forget"],
        acc_keep=row["acc_keep"],
        seconds_per_run=row["seconds"],
        seconds=time.perf_counter() - started,
        passes=row["passes"],
        trained_passes=row["trained_passes"],
        edges=edges(settings, settings_tried),
        tried=tuple(tried),
    )


def edges(chosen: Settings, grid: Sequence[Settings]) -> dict[str, str]:
    """Which numbers of `chosen` are the smallest or the largest of the grid, where it has several.

    >>> edges({"lr": 0.1, "layers": "all", "epochs": 2}, [{"lr": lr, "layers": "all", "epochs": 2} for lr in (0.1, 1)])
    {'lr': 'smallest'}
    """
    found = {}
    for name, value in chosen.items():
        values = sorted({v for s in grid if isinstance(v := s.get(name), (int, float))})
        if len(values) > 1 and value in (values[0], values[-1]):
            found[name] = "smallest" if value == values[0] else "largest"
    return found


def apply(method: Method | str, problem: BaseProblem, settings: Settings) -> Tuned:
    """Run a method with settings that were chosen before, on another seed for instance.

    Raises `FloatingPointError` if they break the model.
    """
    return tune(method, problem, grid=(settings,))


def _try(method: Method, problem: BaseProblem, settings: Settings) -> tuple[Row, nn.Module | None]:
    started, saved, unread = time.perf_counter(), problem.saved_seconds, problem.saved_reading
    row, model = dict(settings), None

    def cost() -> Row:
        """So far, with what others had paid before."""
        seconds = time.perf_counter() - started + problem.saved_seconds - saved
        n, shared = len(problem), problem.saved_reading
        passes = (read.examples + shared.examples - unread.examples) / n
        return {
            "seconds": seconds,
            "passes": passes,
            "trained_passes": (read.trained + shared.trained - unread.trained) / n,
        }

    try:
        with reading(problem.model) as read:
            model = method.run(problem, **settings)
        row |= cost()
        forget, keep = problem.accuracies(model)
        row |= {"acc_forget": forget, "acc_keep": keep, "score": score(problem, forget, keep), "error": None}
    except (ArithmeticError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        row = cost() | row
        row |= {"acc_forget": None, "acc_keep": None, "score": 0.0, "error": str(error)}
        model = None
    return row, model


def _of_the_original(problem: BaseProblem) -> tuple[float, float]:
    with evaluating(problem.model):
        return problem.accuracies(problem.model)


def _method(method: Method | str, problem: BaseProblem) -> Method:
    if isinstance(method, Method):
        return method
    if method not in problem.methods:
        raise ValueError(f"no unlearning method {method!r}; choose from {', '.join(problem.methods)}.")
    return problem.methods[method]
