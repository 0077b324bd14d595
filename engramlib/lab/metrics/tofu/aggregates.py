"""Memorization, Utility, Privacy and Overall: one edited model between the full and the retrained one."""

from __future__ import annotations

import math

import numpy as np

from engramlib.lab.metrics.tofu.scores import Evaluation, harmonic_mean

MEMORY = {"EM": "em", "ES": "es", "PP": "probability", "TR": "truth_forget"}
ATTACKS = ("loss", "zlib", "mink", "minkpp")
FLOOR = 1e-10


def left_over(value: float, full: float, retain: float) -> float:
    """s = |m - m_retain| / |m_full - m_retain|, cut off at 1: how much of the way from full to retrained is left.

    0 = like the retrained model, 1 = like the full one or farther off. Where the two references agree the metric cannot
    see any memory: 0 for that same value, else 1.

    >>> left_over(0.4, full=1.0, retain=0.2), left_over(0.0, full=1.0, retain=0.5), left_over(1.3, full=1.0, retain=0.5)
    (0.25, 1.0, 1.0)
    """
    if full == retain:
        return float(value != retain)
    return min(1.0, abs(value - retain) / abs(full - retain))


def attack_auc(a: np.ndarray, b: np.ndarray) -> float:
    """How often a question of `a` has a lower score than one of `b`, ties counted half: the AUC, .5 = alike.

    >>> attack_auc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
    0.875
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.repeat([1, 0], [len(a), len(b)]), -np.concatenate([a, b])))


def forget_quality(edited: Evaluation, retain: Evaluation) -> float:
    """FQ = log10 of the p-value of the two-sample Kolmogorov-Smirnov test on the forget set's truth ratios t.

    0 at the most; above log10(.05) ≈ -1.3 the test cannot tell the two models apart. TOFU tests 1/t or t: the statistic
    is the same. scipy's `ks_2samp`, two-sided, exact where it can be; not below -300.
    """
    from scipy.stats import ks_2samp

    return math.log10(max(1e-30, ks_2samp(edited.forget.truth_ratio, retain.forget.truth_ratio).pvalue))


def compare(edited: Evaluation, full: Evaluation, retain: Evaluation) -> dict[str, float]:
    """The paper's table row for `edited`, between `full` (trained on all) and `retain` (never saw the forget set).

    Keys, the upper-case ones as in the published tables:
    - EM, ES, PP, TR: `left_over` of em, es, probability and min(t, 1/t) on the forget set. Down is better.
      Mem = harmonic mean of 1 - EM, 1 - ES, 1 - PP, 1 - TR.
    - Util = harmonic mean of min(1, MU/MU_full) and min(1, FF/FF_full): each ratio is cut off at 1, so that being more
      fluent than the full model makes up for nothing.
    - Priv = harmonic mean over loss, zlib, min-k, min-k++ of 1 - 2 |AUC - .5|, with AUC = `attack_auc` between the
      edited and the retrained model on the forget set. 1 = no attack can tell them apart.
    - Overall = harmonic mean of Mem, Util, Priv. FQ: `forget_quality`. Nothing that enters a mean is below 1e-10.
    - what they are made of, of the edited model: em, es, probability, truth_ratio (mean of min(t, 1/t)), exact, loss on
      the forget set; retain em, retain exact, retain loss; MU, FF; auc loss, auc zlib, auc mink, auc minkpp (above
      .5: the edited model has the lower scores, so the questions look more like members in it).

    edited = retain: Mem, Priv 1. edited = full: Mem below 1e-9, Util 1. The rules are those of the authors' package
    (ai-engram 0.11, `engram.benchmarks`). Raises `ValueError` for evaluations of different
    questions, or a full model without utility. Source: paper, section 5.1 and Tables 3 and 6; chapter 13.
    """
    for name, other in (("full", full), ("retain", retain)):
        a, b = ((e.data, dict(e.splits), len(e.forget)) for e in (edited, other))
        if a != b:
            raise ValueError(f"compare: edited and {name} were evaluated on different questions: {a} and {b}.")
    if not full.utility * full.fluency > 0:
        raise ValueError(f"compare: the full model has no utility to keep (MU {full.utility}, FF {full.fluency}).")
    e, f, r = (ev.means["forget"] for ev in (edited, full, retain))
    left = {key: left_over(e[m], f[m], r[m]) for key, m in MEMORY.items()}
    auc = {a: attack_auc(getattr(edited.forget, a), getattr(retain.forget, a)) for a in ATTACKS}
    mem = harmonic_mean((1 - s for s in left.values()), floor=FLOOR)
    ratios = edited.utility / full.utility, edited.fluency / full.fluency
    util = harmonic_mean((min(1.0, ratio) for ratio in ratios), floor=FLOOR)
    priv = harmonic_mean((max(0.0, 1 - 2 * abs(a - 0.5)) for a in auc.values()), floor=FLOOR)
    kept = edited.means["retain"]
    return {
        "Overall": harmonic_mean((mem, util, priv), floor=FLOOR),
        "Mem": mem,
        "Util": util,
        "Priv": priv,
        **left,
        "FQ": forget_quality(edited, retain),
        **{name: e[name] for name in ("em", "es", "probability")},
        "truth_ratio": e["truth_forget"],
        **{name: e[name] for name in ("exact", "loss", "rouge")},
        **{f"retain {name}": kept[name] for name in ("em", "exact", "loss", "rouge")},
        "MU": edited.utility,
        "FF": edited.fluency,
        **{f"auc {name}": value for name, value in auc.items()},
    }
