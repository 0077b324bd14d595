"""What unlearning did: accuracies, representations, what is left behind, privacy, cost. One file a family.

Every function leaves the model's weights, its mode and torch's random state as they were.
"""

from engramlib.lab.metrics import arithmetic, resolution, tofu
from engramlib.lab.metrics.accuracy import ToW, erased_and_kept, tow
from engramlib.lab.metrics.cost import PeakMemory, Timer, flops, operations, timed
from engramlib.lab.metrics.membership import Membership, membership, membership_auc
from engramlib.lab.metrics.representation import clustering, features, linear_cka, separability, share_taken
from engramlib.lab.metrics.residue import FewShot, Probe, Relearned, binary_probe, few_shot, probe, relearn

__all__ = [
    "FewShot",
    "Membership",
    "PeakMemory",
    "Probe",
    "Relearned",
    "Timer",
    "ToW",
    "arithmetic",
    "binary_probe",
    "clustering",
    "erased_and_kept",
    "features",
    "few_shot",
    "flops",
    "linear_cka",
    "membership",
    "membership_auc",
    "operations",
    "probe",
    "relearn",
    "resolution",
    "separability",
    "share_taken",
    "timed",
    "tofu",
    "tow",
]
