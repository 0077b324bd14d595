"""ablate, inject, null_state, edited, sweep."""

from __future__ import annotations

import math

import torch
from torch import nn, ones

import engramlib as el
from tests.bad_inputs import Gives, Raises, Row, Scene, small
from tests.bad_inputs.models import (
    aot,
    compiled,
    compiled_forward,
    data_parallel,
    expanded,
    frozen,
    half,
    inference,
    meta,
    parametrised,
    quantised,
    shared,
    shared_by_data,
    tied,
    uncopyable,
    wrapped_forward,
)  # fmt: skip

INF = float("inf")
REMEDY = "inplace=True.*edited"


def moved(result: nn.Module, s: Scene, alpha: float) -> bool:
    """Whether the result is the small network minus α times the engram."""
    old, weights = (
        small(),
        {k.replace("module.", "").replace("_orig_mod.", ""): v for k, v in result.state_dict().items()},
    )
    return all(
        torch.allclose(weights[f"{name}.{part}"], old.get_parameter(f"{name}.{part}") - alpha * change, atol=1e-6)
        for name, entry in s.engram.items()
        for part, change in zip(("weight", "bias"), entry, strict=True)
    )


def one(name: str, weight: torch.Tensor, bias: torch.Tensor | None = None) -> el.Engram:
    return el.Engram({name: (weight, bias)})


def edit_and_fail(s: Scene) -> None:
    with el.edited(s.model, s.engram):
        raise KeyError("mine")


def enter(s: Scene, delta: object) -> None:
    with el.edited(s.model, delta):
        pass


def nested(s: Scene) -> None:
    with el.edited(s.model, s.engram), el.edited(s.model, 2 * s.engram):
        pass


done = Gives("an edited copy, the model as before", lambda r, s: moved(r, s, 1.0) and r is not s.model)
done_here = Gives("the model itself, edited", lambda r, s: moved(r, s, 1.0) and r is s.model)
COPY = Raises(TypeError, "copy|copied", REMEDY)

ROWS = [
    Row("ablate", "a dict of engrams", lambda s: el.ablate(s.model, {0: s.engram}), Raises(TypeError, "engram", r"sum\(engrams")),
    Row("ablate", "moments for an engram", lambda s: el.ablate(s.model, s.target), Raises(TypeError, "engram", "expected an Engram")),
    Row("ablate", "a text for a model", lambda s: el.ablate("model", s.engram), Raises(TypeError, "model", "torch.nn.Module")),
    Row("ablate", "an engram with a layer more", lambda s: el.ablate(s.model, s.engram + one("9", ones(2, 2))), Raises(ValueError, "'9'", "another model")),
    Row("ablate", "an engram of other shapes", lambda s: el.ablate(s.model, one("0", ones(8, 7))), Raises(ValueError, "'0'.*weight", "another model")),
    Row("ablate", "an engram with a bias that the layer has not", lambda s: el.ablate(s.model, one("0", ones(6, 8).T, ones(8))), Raises(ValueError, "'0'.*bias", "another model"), shared_by_data),
    Row("ablate", "an engram with NaN", lambda s: el.ablate(s.model, one("0", ones(8, 6) * torch.nan), inplace=True), Raises(ValueError, "'0'", "NaN")),
    Row("ablate", "an engram with an infinite entry", lambda s: el.ablate(s.model, one("0", ones(8, 6) / 0), inplace=True), Raises(ValueError, "'0'", "infinite")),
    Row("ablate", "a complex engram", lambda s: el.ablate(s.model, one("0", ones(8, 6) * 1j)), Raises((TypeError, ValueError), "'0'", "complex|real|float")),
    Row("ablate", "a boolean engram", lambda s: el.ablate(s.model, one("0", ones(8, 6).bool())), Gives("zeros and ones", lambda r, s: torch.equal(r[0].weight, small()[0].weight - 1))),
    Row("ablate", "an engram on device meta", lambda s: el.ablate(s.model, one("0", ones(8, 6, device="meta"))), Raises((TypeError, ValueError), "'0'", "meta")),
    Row("ablate", "an engram without a layer", lambda s: el.ablate(s.model, el.Engram({})), Gives("the zero vector: a copy with the same weights", lambda r, s: torch.equal(r[0].weight, s.model[0].weight))),
    Row("ablate", "α = NaN", lambda s: el.ablate(s.model, s.engram, math.nan), Raises(ValueError, "alpha", "finite number")),
    Row("ablate", "α = ∞", lambda s: el.ablate(s.model, s.engram, INF), Raises(ValueError, "alpha", "finite number")),
    Row("ablate", "α a text", lambda s: el.ablate(s.model, s.engram, "1"), Raises(ValueError, "alpha", "finite number")),
    Row("ablate", "α = None", lambda s: el.ablate(s.model, s.engram, None), Raises(ValueError, "alpha", "finite number")),
    Row("ablate", "α = True", lambda s: el.ablate(s.model, s.engram, True), Raises(ValueError, "alpha", "finite number")),
    Row("ablate", "α a tensor of two", lambda s: el.ablate(s.model, s.engram, ones(2)), Raises(ValueError, "alpha", "finite number")),
    Row("ablate", "α a list", lambda s: el.ablate(s.model, s.engram, [1.0, 1.0, 1.0]), Raises(ValueError, "alpha", "finite number")),
    Row("ablate", "α a dict that leaves a layer out", lambda s: el.ablate(s.model, s.engram, {"0": 1.0, "2": 1.0}), Raises(ValueError, "alpha.*4", "exactly the layers")),
    Row("ablate", "α a dict with a layer more", lambda s: el.ablate(s.model, s.engram, dict.fromkeys(("0", "2", "4", "9"), 1.0)), Raises(ValueError, "alpha.*9", "exactly the layers")),
    Row("ablate", "α a dict with NaN", lambda s: el.ablate(s.model, s.engram, {"0": 1.0, "2": math.nan, "4": 1.0}), Raises(ValueError, "alpha.*'2'", "finite number")),
    Row("ablate", "α that leaves the range of the dtype", lambda s: el.ablate(s.model, s.engram, 1e38 * 1e3, inplace=True), Raises(ValueError, "alpha", "range of")),
    Row("ablate", "α that leaves the range of half precision", lambda s: el.ablate(s.model, s.engram, 1e6, inplace=True), Raises(ValueError, "alpha", "range of torch.float16"), half),
    Row("ablate", "frozen weights", lambda s: el.ablate(s.model, s.engram), Gives("an edited copy, frozen too", lambda r, s: moved(r, s, 1.0) and not r[0].weight.requires_grad), frozen),
    Row("ablate", "half-precision weights", lambda s: el.ablate(s.model, s.engram), Gives("rounded once", lambda r, s: torch.equal(r[0].weight, (s.model[0].weight.float() - s.engram["0"].weight).half())), half),
    Row("ablate", "weights on device meta", lambda s: el.ablate(s.model, s.engram), Raises(TypeError, "'0'.*meta", "load the model"), meta),
    Row("ablate", "quantised weights", lambda s: el.ablate(s.model, one("0", ones(8, 6))), Raises(TypeError, "'0'.*quantised", "bf16 or float32"), quantised),
    Row("ablate", "a weight that is a parametrization", lambda s: el.ablate(s.model, s.engram), Raises(TypeError, "'0' computes its weight", "remove"), parametrised),
    Row("ablate", "a weight that is expanded", lambda s: el.ablate(s.model, s.engram), Raises(TypeError, "'0'.*expanded", "clone"), expanded),
    Row("ablate", "weights made in inference_mode", lambda s: el.ablate(s.model, one("0", ones(8, 6)), inplace=True), Raises(TypeError, "'0'.*inference_mode", "outside"), inference),
    Row("ablate", "two layers with one weight, both in the engram", lambda s: el.ablate(s.model, el.Engram({"0": (ones(6, 6), None), "2": (ones(6, 6), None)})), Raises(ValueError, "'0' and '2'", "select one"), shared),
    Row("ablate", "a weight and its transpose in one memory, both in the engram", lambda s: el.ablate(s.model, el.Engram({"0": (ones(8, 6), None), "2": (ones(6, 8), None)})), Raises(ValueError, "'0' and '2'", "select one"), shared_by_data),
    Row("ablate", "two layers with one weight, one in the engram", lambda s: el.ablate(s.model, one("0", ones(6, 6))), Gives("both change, and a warning says so", lambda r, s: torch.equal(r[0].weight, r[2].weight), warns="'0' shares its weight with 2"), shared),
    Row("ablate", "an output tied to the embedding", lambda s: el.ablate(s.model, one("head", ones(5, 6))), Gives("both change, and a warning says so", lambda r, s: torch.equal(r.embed.weight, r.head.weight), warns="'head' shares its weight with embed"), tied),
    Row("ablate", "a compiled model", lambda s: el.ablate(s.model, s.engram), Gives("an edited copy, or refused: never the original's weights", lambda r, s: moved(r, s, 1.0) and torch.allclose(r(s.x), el.ablate(s.mlp, s.engram)(s.x), atol=1e-5)), compiled),
    Row("ablate", "a compiled forward on the instance", lambda s: el.ablate(s.model, s.engram), COPY, compiled_forward),
    Row("ablate", "a wrapped forward on the instance", lambda s: el.ablate(s.model, s.engram), COPY, wrapped_forward),
    Row("ablate", "a model that cannot be copied", lambda s: el.ablate(s.model, s.engram), Raises(TypeError, "cannot be copied.*no copies of me", REMEDY), uncopyable),
    Row("ablate", "a wrapped forward, in place", lambda s: el.ablate(s.model, s.engram, inplace=True), done_here, wrapped_forward, edits=True),
    Row("ablate", "a warm compiled model, in place", lambda s: el.ablate(s.model, s.engram, inplace=True), Gives("its output is the edited one's", lambda r, s: torch.allclose(r(s.x), el.ablate(s.mlp, s.engram)(s.x), atol=1e-5)), aot, edits=True),
    Row("ablate", "DataParallel", lambda s: el.ablate(s.model, s.engram), done, data_parallel),
    Row("ablate", "inside inference_mode", lambda s: _inference(lambda: el.ablate(s.model, s.engram)), Raises(TypeError, "inference_mode", "outside")),
    Row("ablate", "inside autocast", lambda s: _autocast(lambda: el.ablate(s.model, s.engram)), done),
    Row("inject", "α = NaN", lambda s: el.inject(s.model, s.engram, math.nan), Raises(ValueError, "alpha", "finite number")),
    Row("inject", "an engram of other shapes", lambda s: el.inject(s.model, one("2", ones(2, 2))), Raises(ValueError, "'2'", "another model")),
    Row("inject", "a compiled forward on the instance", lambda s: el.inject(s.model, s.engram), COPY, compiled_forward),
    Row("null_state", "a number for an engram", lambda s: el.null_state(s.model, 1.0), Raises(TypeError, "engram", "expected an Engram")),
    Row("null_state", "an engram of other shapes", lambda s: el.null_state(s.model, one("2", ones(2, 2)), inplace=True), Raises(ValueError, "'2'", "another model")),
    Row("null_state", "a wrapped forward on the instance", lambda s: el.null_state(s.model, s.engram), COPY, wrapped_forward),
    Row("edited", "a dict of engrams", lambda s: enter(s, {0: s.engram}), Raises(TypeError, "engram", r"sum\(engrams")),
    Row("edited", "an engram with NaN", lambda s: enter(s, one("0", ones(8, 6) * torch.nan)), Raises(ValueError, "'0'", "NaN")),
    Row("edited", "an engram with a bias of another shape", lambda s: enter(s, el.Engram({**s.engram, "4": (s.engram["4"].weight, ones(7))})), Raises(ValueError, "'4'.*bias", "another model")),
    Row("edited", "an error inside the block", edit_and_fail, Raises(KeyError, "mine", "")),
    Row("edited", "a block in a block", nested, Gives("every bit as before", lambda r, s: True)),
    Row("edited", "an engram so large that the weights overflow", lambda s: enter(s, one("0", ones(8, 6, dtype=torch.float64) * 1e300)), Raises(ValueError, "'0'|alpha", "range of")),
    Row("sweep", "measure that is no function", lambda s: el.sweep(s.model, s.engram, [1.0], 3), Raises(TypeError, "measure", "function")),
    Row("sweep", "measure that raises", lambda s: el.sweep(s.model, s.engram, [1.0], _fail), Raises(KeyError, "mine", "")),
    Row("sweep", "one number for alphas", lambda s: el.sweep(s.model, s.engram, 1.0, len), Raises(TypeError, "alphas", "list|iterable|sequence")),
    Row("sweep", "NaN as the last α", lambda s: el.sweep(s.model, s.engram, [0.5, math.nan], _fail), Raises(ValueError, "alpha", "finite number")),
    Row("sweep", "an α that overflows, in the middle", lambda s: el.sweep(s.model, s.engram, [0.5, 1e300], lambda m: 0), Raises(ValueError, "alpha", "range of")),
    Row("sweep", "no α", lambda s: el.sweep(s.model, s.engram, [], lambda m: 0), Gives("an empty list", lambda r, s: r == [])),
    Row("sweep", "measure that edits the model", lambda s: el.sweep(s.model, s.engram, [1.0], lambda m: nn.init.ones_(m[0].weight) is None), Gives("every bit as before", lambda r, s: r == [False])),
]  # fmt: skip


def _fail(*_: object) -> None:
    raise KeyError("mine")


def _autocast(call: object) -> object:
    with torch.autocast("cpu", torch.bfloat16):
        return call()


def _inference(call: object) -> object:
    with torch.inference_mode():
        return call()
