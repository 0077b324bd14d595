"""Ways to make a language model forget answers, behind the interface of `unlearning`: Tables 3, 6 and 4.

    rehearsal = language.Problem(model, tokenizer, data, forget="rehearsal10", retain="rehearsal_retain90")
    tuned = language.tune("npo", rehearsal)                        # chooses settings on the rehearsal
    problem = language.Problem(model, tokenizer, data)             # forget10, retain90
    found = language.apply("npo", problem, tuned.settings)         # the same settings on what is reported

Eight methods that train, two closed-form ones and three engrams; nine settings for each. A setting's score is
(1 - exact_forget) (1 - |exact_retain - exact_retain before|), `Tuned.acc_forget` and `.acc_keep` being the shares of
whole answers that are right, teacher-forced (of tokens, with `unit="tokens"`): `Problem.accuracies`. Nothing here looks
at a retrained model, at paraphrases or at wrong answers.
`metrics.flops(lambda: METHODS["npo"].run(problem, **settings))` counts what one costs.

The grids were laid out by forgetting `rehearsal10` of the generated authors with the small Llama; `forget10` was not
looked at.

To add a method: a function `(problem, **settings) -> model'` that leaves `problem.model` alone, with the loss, the
paper and what is trained in its docstring, and a `Method` in its file's list.
"""

from __future__ import annotations

from collections.abc import Sequence

from engramlib.lab.unlearning import tuning
from engramlib.lab.unlearning.language.engrams import LAYERS
from engramlib.lab.unlearning.language.problem import IDK, Problem
from engramlib.lab.unlearning.language.registry import METHODS
from engramlib.lab.unlearning.method import Method, Settings
from engramlib.lab.unlearning.tuning import Tuned, score

__all__ = ["IDK", "LAYERS", "METHODS", "Method", "Problem", "Tuned", "apply", "score", "tune"]


def tune(method: Method | str, problem: Problem, *, grid: Sequence[Settings] | None = None) -> Tuned:
    """Run a method with every setting of its grid and keep the model with the best score: `unlearning.tune`."""
    return tuning.tune(_method(method), problem, grid=grid)


def apply(method: Method | str, problem: Problem, settings: Settings) -> Tuned:
    """Run a method with settings that were chosen before, on other questions for instance: `unlearning.apply`."""
    return tuning.apply(_method(method), problem, settings)


def _method(method: Method | str) -> Method:
    if isinstance(method, str) and method not in METHODS:
        raise ValueError(f"no unlearning method {method!r}; choose from {', '.join(METHODS)}.")
    return METHODS[method] if isinstance(method, str) else method
