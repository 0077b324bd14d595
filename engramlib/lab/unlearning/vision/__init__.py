"""Ways to make a classifier forget classes, behind one interface: retraining, the baselines of Table 2, engrams.

    problem = vision.Problem(model, data, forget=(3,), seed=0)
    tuned = vision.tune("salun", problem)                  # chooses settings on the validation images
    again = vision.apply("salun", other_seed, tuned.settings)  # the same settings on another model

Nine settings for each method that has something to tune, one for each that has not. Nothing here looks at the test
images or at a retrained model.

The same for language models that should forget answers: `engramlib.lab.unlearning.text`.

To add a method: a function `(problem, **settings) -> model'` that leaves `problem.model` alone, with the loss, the
paper, what is trained and the mode of BatchNorm in its docstring, and a `Method` in its file's list.
"""

from engramlib.lab.unlearning.method import Method
from engramlib.lab.unlearning.tuning import Tuned, apply, score, tune
from engramlib.lab.unlearning.vision.leace import ErasedFeatures
from engramlib.lab.unlearning.vision.problem import Problem
from engramlib.lab.unlearning.vision.registry import METHODS

__all__ = ["METHODS", "ErasedFeatures", "Method", "Problem", "Tuned", "apply", "score", "tune"]
