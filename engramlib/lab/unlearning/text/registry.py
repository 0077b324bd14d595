"""Every method by name."""

from engramlib.lab.unlearning.method import Method
from engramlib.lab.unlearning.text import closed_form, distillation, engrams, likelihood, preference, representation

_ORDER = (
    *("graddiff", "idknll", "idkdpo", "undial", "rmu", "npo", "simnpo", "altpo"),
    *("uce", "task_arithmetic", "engram", "engram_norm", "engram_lambda"),
)
_FOUND = {
    method.name: method
    for family in (likelihood, preference, distillation, representation, closed_form, engrams)
    for method in family.METHODS
}
METHODS: dict[str, Method] = {name: _FOUND.pop(name) for name in _ORDER} | _FOUND  # the order of the paper's table
