"""Every method by name."""

from engramlib.lab.unlearning import engrams, gradients, readout, relabelling, retraining
from engramlib.lab.unlearning.method import Method

METHODS: dict[str, Method] = {
    method.name: method
    for family in (retraining, gradients, relabelling, readout, engrams)
    for method in family.METHODS
}
