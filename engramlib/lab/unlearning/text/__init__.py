"""Ways to make a language model forget answers, behind the interface of `unlearning`: Tables 3, 6 and 4.

    rehearsal = text.Problem(model, tokenizer, data, forget="rehearsal10", retain="rehearsal_retain90")
    tuned = text.tune("npo", rehearsal)                        # chooses settings on the rehearsal
    problem = text.Problem(model, tokenizer, data)             # forget10, retain90
    found = text.apply("npo", problem, tuned.settings)         # the same settings on what is reported

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

from engramlib.lab.data.questions import IDK
from engramlib.lab.unlearning.method import Method
from engramlib.lab.unlearning.text.engrams import LAYERS
from engramlib.lab.unlearning.text.problem import Problem
from engramlib.lab.unlearning.text.registry import METHODS
from engramlib.lab.unlearning.tuning import Tuned, apply, score, tune

__all__ = ["IDK", "LAYERS", "METHODS", "Method", "Problem", "Tuned", "apply", "score", "tune"]
