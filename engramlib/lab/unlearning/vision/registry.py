"""Every method by name."""

from engramlib.lab.unlearning.method import Method
from engramlib.lab.unlearning.vision import engrams, gradients, readout, relabelling, retraining

METHODS: dict[str, Method] = {
    method.name: method
    for family in (retraining, gradients, relabelling, readout, engrams)
    for method in family.METHODS
}
