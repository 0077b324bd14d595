"""What explains and judges an engram. The method never imports it.

``criteria``: is it a memory? · ``cuts`` and ``shares``: what of Σ is inverted, and whose each direction is ·
``curvature`` and ``natural_gradient``: the Fisher metric, and the engram as a step in it · ``foresight``: what an edit
will do, before it is made.
"""

from engramlib.analysis.criteria import CRITERIA, Criteria, CriteriaRow, random_engram, score_criteria
from engramlib.analysis.curvature import Anisotropy, anisotropy, fisher_block, loss_gradient, output_factors
from engramlib.analysis.cuts import Cut, bulk_edge, compare_cuts, edge, effective_rank, energy, relative, ridge
from engramlib.analysis.foresight import Foresight, foresee, overall
from engramlib.analysis.natural_gradient import (
    Comparison,
    compare,
    exact_forgetting_step,
    forgetting_step,
    metric_minimiser,
    natural_gradient,
    objective,
)
from engramlib.analysis.shares import (
    Filter,
    TargetShare,
    apply_filter,
    extract_filtered,
    filtered,
    specificity,
    target_share,
    threshold,
)

__all__ = [
    # is it a memory?
    "CRITERIA",
    "Criteria",
    "CriteriaRow",
    "random_engram",
    "score_criteria",
    # what of Σ is inverted
    "Cut",
    "bulk_edge",
    "compare_cuts",
    "edge",
    "effective_rank",
    "energy",
    "relative",
    "ridge",
    # whose each direction is
    "Filter",
    "TargetShare",
    "apply_filter",
    "extract_filtered",
    "filtered",
    "specificity",
    "target_share",
    "threshold",
    # what an edit will do
    "Foresight",
    "foresee",
    "overall",
    # the metric
    "Anisotropy",
    "anisotropy",
    "fisher_block",
    "loss_gradient",
    "output_factors",
    # steps in it
    "Comparison",
    "compare",
    "exact_forgetting_step",
    "forgetting_step",
    "metric_minimiser",
    "natural_gradient",
    "objective",
]
