"""erase: models, data, strengths."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import engramlib as el
from tests.bad_inputs import Gives, Raises, Row, Scene, small
from tests.bad_inputs.models import calls_twice, made, meta, quantised, shared, tied, uncopyable

INF, NAN = float("inf"), float("nan")


class OtherWay(nn.Module):
    """Batches of more than 20 reach its layers in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.a, self.b) if len(x) > 20 else (self.b, self.a)
        return second(first(x))


def erase(s: Scene, target: object = None, reference: object = None, **how: object) -> nn.Module:
    target = [s.x[:15]] if target is None else target
    return el.erase(s.model, target, [s.x[15:]] if reference is None else reference, **how)


def usual(result: nn.Module, s: Scene) -> bool:
    """Whether its first layer is edited as by the plain edit, which is what it is where nothing lies below."""
    return torch.allclose(result[0].weight, el.ablate(small(), s.engram)[0].weight, atol=1e-4)


right = Gives("the first layer's edit is the paper's", usual)

ROWS = [
    Row("erase", "a list of batches, and a generator", lambda s: erase(s, [s.x[:15]], (part for part in s.x[15:].split(5))), right),
    Row("erase", "a model for text", lambda s: el.erase("model", [s.x], [s.x]), Raises(TypeError, "model", "torch.nn.Module")),
    Row("erase", "no batches to erase", lambda s: erase(s, []), Raises(ValueError, "target", "no batches")),
    Row("erase", "a used-up generator", lambda s: erase(s, None, iter(())), Raises(ValueError, "reference", "used up")),
    Row("erase", "a text for batches", lambda s: erase(s, "Paris"), Raises(TypeError, "target", "iterable of batches")),
    Row("erase", "moments for batches", lambda s: erase(s, s.target), Raises((TypeError, ValueError), "target", "batches")),
    Row("erase", "NaN in the reference", lambda s: erase(s, None, [s.x[15:] * NAN]), Raises(ValueError, "layer '0'", "NaN")),
    Row("erase", "inputs of another width", lambda s: erase(s, [s.x[:, :5]]), Raises(RuntimeError, "shapes", "5")),
    Row("erase", "α that is NaN", lambda s: erase(s, alpha=NAN), Raises(ValueError, "alpha", "finite")),
    Row("erase", "α as a text", lambda s: erase(s, alpha="1"), Raises(ValueError, "alpha", "number")),
    Row("erase", "α for some of the layers", lambda s: erase(s, alpha={"0": 1.0}), Raises(ValueError, "alpha", "exactly the layers that are edited")),
    Row("erase", "a negative λ", lambda s: erase(s, specificity=-1), Raises(ValueError, "specificity", ">= 0")),
    Row("erase", "an infinite λ", lambda s: erase(s, specificity=INF), Raises(ValueError, "specificity", "finite")),
    Row("erase", "a list of λ", lambda s: erase(s, specificity=[1, 2]), Raises(ValueError, "specificity", "number")),
    Row("erase", "a negative cut", lambda s: erase(s, rcond=-1), Raises(ValueError, "rcond", "expected")),
    Row("erase", "an unknown bias mode", lambda s: erase(s, bias="both"), Raises(ValueError, "bias", "absorb")),
    Row("erase", "less memory than none", lambda s: erase(s, memory=-1), Raises(ValueError, "memory", "bytes")),
    Row("erase", "a layer that is not there", lambda s: erase(s, layers="nowhere"), Raises(ValueError, "nowhere", "layers")),
    Row("erase", "rows of another number", lambda s: erase(s, rows=lambda batch: torch.ones(3, dtype=torch.bool)), Raises(ValueError, "layer '0'", "one value per example")),
    Row("erase", "a layer that is called twice", lambda s: erase(s, [s.x[:15]]), Raises(ValueError, "called 2 times", "Leave it out"), calls_twice),
    Row("erase", "a weight of two layers", lambda s: erase(s), Raises(ValueError, "'0' shares its weight with '2'", "Leave it out"), shared),
    Row("erase", "a tied output layer, named", lambda s: erase(s, [torch.arange(5)], [torch.arange(5)], layers=["fc", "head"]), Raises(ValueError, "'head' shares its weight with 'embed'", "Leave it out"), tied),
    Row("erase", "batches that go other ways", lambda s: erase(s), Raises(ValueError, "comes next", "one way"), made(OtherWay)),
    Row("erase", "a model that cannot be copied", lambda s: erase(s), Raises(TypeError, "cop", "inplace|edited"), uncopyable),
    Row("erase", "weights that are not in memory", lambda s: erase(s), Raises((TypeError, ValueError, RuntimeError), "memory|meta", ""), meta),
    Row("erase", "quantised weights", lambda s: erase(s), Raises(TypeError, "quanti", ""), quantised),
]  # fmt: skip
