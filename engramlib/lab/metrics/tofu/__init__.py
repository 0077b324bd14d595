"""The TOFU benchmark: what a language model still knows of a forget set, what it kept, and what an attacker sees.

`score` = one set of questions, `evaluate` = all sets for one model, `compare` = the paper's aggregates for an edited
model between the full and the retrained one. Definitions: the paper's section 5 with TOFU (Maini et al. 2024,
arXiv:2401.06121) and open-unlearning (Dorna et al. 2025, arXiv:2506.12618). Where these leave something open or
disagree, this is what was chosen:

- **Answer tokens.** The end token is part of an answer; `data.questions.ANSWERS_END` says what counts it.
- **EM, ES** are teacher-forced. ES = 1 - k/n is 0 where no suffix is right (open-unlearning's loop ends at 1/n there).
- **Truth ratio** t = exp(-mean loss of the wrong answers) / exp(-loss of the paraphrase), both losses means over
  tokens. The mean over the wrong answers is one of losses, so t takes a geometric mean of probabilities, as the code of
  TOFU and of open-unlearning does; TOFU's text writes an arithmetic one. Where there is no paraphrase (real authors,
  world facts) the answer stands in. On the **forget** set it is reported as min(t, 1/t) (`truth_forget`): only the
  middle, where the right answer is no likelier than the wrong ones, is forgotten, while a reversed preference is a
  trace too. On **all other** sets it is max(0, 1 - t) (`truth_utility`): there the right answer should win.
- **Probability** is exp(-mean loss); in the utility of real authors and world facts it is `choice`, the right answer's
  share among right and wrong answers, because a good model may word a fact in many ways.
- **ROUGE-L recall** of greedy generations; Porter's stemmer, as both do. Cut after a quarter more tokens than the
  longest right answer (both allow 200).
- **Utility** cuts each of its two ratios off at 1, not their mean; all means are floored: see `compare`.
- **FF** is the mean fluency of what is said to the *forget* questions, where an edit does its damage, as in
  open-unlearning. The judge is ours: see `Fluency`.
- **Attacks**: loss; loss over zlib bytes of the answer; min-k and min-k++ with k = .4. As in the paper, but unlike
  open-unlearning, which sets a holdout against the forget set, the AUC is taken between the edited and the retrained
  model on the forget set: .5 means that the edited model looks like one that never saw it.
"""

from engramlib.lab.metrics.tofu.aggregates import attack_auc, compare, forget_quality, left_over
from engramlib.lab.metrics.tofu.fluency import Fluency, fluency_of
from engramlib.lab.metrics.tofu.generation import generate, rouge_recall
from engramlib.lab.metrics.tofu.scores import Evaluation, Scores, evaluate, harmonic_mean, score

__all__ = [
    "Evaluation",
    "Fluency",
    "Scores",
    "compare",
    "evaluate",
    "fluency_of",
    "forget_quality",
    "generate",
    "harmonic_mean",
    "left_over",
    "attack_auc",
    "rouge_recall",
    "score",
]
