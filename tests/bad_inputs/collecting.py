"""collect and collect_by_concept: models, data, masks."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy
import torch
from torch import Tensor, nn

import engramlib as el
from tests.bad_inputs import Gives, Raises, Row, Scene
from tests.bad_inputs.models import (
    aot,
    calls_twice,
    compiled,
    data_parallel,
    frozen,
    inference,
    lazy,
    meta,
    parametrised,
    quantised,
    sequence_first,
    shared,
    subclass,
    tied,
    trained,
)  # fmt: skip


def dense(model: nn.Module, x: Tensor) -> bool:
    """Whether layer 0's moments of x are those of the formula."""
    found = el.collect(model, [x], layers=["0"])
    one = torch.cat([x.double(), torch.ones(len(x), 1).double()], 1)
    return torch.allclose(found["0"], one.T @ one) and found.count["0"] == len(x)


def like(scene: Scene, found: el.Moments) -> bool:
    """Whether they are the moments of the small network on all data."""
    whole = scene.target + scene.reference
    return (
        all(torch.allclose(found[name], whole[name], rtol=1e-5, atol=1e-6) for name in whole)
        and found.count == whole.count
    )


def within(context: Any, call: Any) -> Any:
    with context:
        return call()


def fail(*_: object) -> None:
    raise KeyError("mine")


right = Gives("the same moments as ever", lambda r, s: like(s, r))

ROWS = [
    # the model
    Row("collect", "a function for a model", lambda s: el.collect(lambda x: x, [s.x]), Raises(TypeError, "model", "torch.nn.Module")),
    Row("collect", "a model without a layer", lambda s: el.collect(nn.ReLU(), [s.x]), Raises(ValueError, "ReLU", "supported type")),
    Row("collect", "frozen weights", lambda s: el.collect(s.model, [s.x]), right, frozen),
    Row("collect", "weights on device meta", lambda s: el.collect(s.model, [s.x]), Raises(TypeError, "'0'.*meta", "load the model"), meta),
    Row("collect", "quantised weights", lambda s: el.collect(s.model, [s.x]), Raises(TypeError, "'0'.*quantised", "bf16 or float32"), quantised),
    Row("collect", "a lazy layer that never ran", lambda s: el.collect(s.model, [s.x]), Raises(TypeError, "lazy", "run the model once"), lazy),
    Row("collect", "a weight that is a parametrization", lambda s: el.collect(s.model, [s.x]), Raises(TypeError, "'0' computes its weight", "remove"), parametrised),
    Row("collect", "a subclass that changes its weight in forward", lambda s: el.collect(s.model, [s.x]), Raises(TypeError, "'0'", "choose other layers|plain layer"), subclass),
    Row("collect", "parameters made in inference_mode", lambda s: el.collect(s.model, [s.x]), Raises(TypeError, "inference_mode", "outside"), inference),
    Row("collect", "train mode with BatchNorm and dropout", lambda s: el.collect(s.model, [s.x]), Gives("runs in evaluation mode; flags and running statistics as before", lambda r, s: torch.allclose(r["0"], el.collect(s.model, [s.x])["0"])), trained),
    Row("collect", "a layer that is called twice", lambda s: el.collect(s.model, [s.x]), Gives("both calls count", lambda r, s: r.count["fc"] == 2 * len(s.x)), calls_twice),
    Row("collect", "two layers with one weight", lambda s: el.collect(s.model, [s.x]), Gives("moments of each layer's own inputs", lambda r, s: set(r) == {"0", "2"}), shared),
    Row("collect", "an output tied to the embedding", lambda s: el.collect(s.model, [torch.arange(5)]), Gives("left out unless it is named", lambda r, s: set(r) == {"fc"}), tied),
    Row("collect", "a compiled model", lambda s: el.collect(s.model, [s.x]), right, compiled),
    Row("collect", "a compiled model that is warm", lambda s: el.collect(s.model, [s.x]), right, aot),
    Row("collect", "DataParallel", lambda s: el.collect(s.model, [s.x]), right, data_parallel),
    Row("collect", "inside autocast", lambda s: within(torch.autocast("cpu", torch.bfloat16), lambda: el.collect(s.model, [s.x], layers=["0"])), Gives("sums in float64 all the same", lambda r, s: torch.allclose(r["0"], s.target["0"] + s.reference["0"]))),
    Row("collect", "inside inference_mode", lambda s: within(torch.inference_mode(), lambda: el.collect(s.model, [s.x])), right),
    Row("collect", "where gradients are on", lambda s: el.collect(s.model, [s.x.clone().requires_grad_()]), Gives("no graph hangs on the sums", lambda r, s: not r["0"].requires_grad)),
    Row("collect", "where the default dtype is float64", lambda s: within(default(torch.float64), lambda: el.collect(s.model, [s.x])), right),
    # batches
    Row("collect", "a number for batches", lambda s: el.collect(s.model, 7), Raises(TypeError, "batches", "iterable")),
    Row("collect", "a text for batches", lambda s: el.collect(s.model, "data"), Raises(TypeError, "batches", "iterable")),
    Row("collect", "a model for batches", lambda s: el.collect(s.model, s.model), Raises(TypeError, "batches", "iterable")),
    Row("collect", "None for batches", lambda s: el.collect(s.model, None), Raises(TypeError, "batches", "iterable")),
    Row("collect", "no batches", lambda s: el.collect(s.model, []), Raises(ValueError, "batches", "empty list, or a generator")),
    Row("collect", "a generator that is used up", lambda s: el.collect(s.model, iter(())), Raises(ValueError, "batches", "generator")),
    Row("collect", "one (x, y) pair instead of a list", lambda s: el.collect(s.model, (s.x, s.y)), Raises(ValueError, "batches", r"\[\(x, y\)\]")),
    Row("collect", "a numpy array", lambda s: el.collect(s.model, numpy.ones((4, 6))), Raises(TypeError, "numpy", "torch.as_tensor")),
    Row("collect", "a list of numpy arrays", lambda s: el.collect(s.model, [numpy.ones((4, 6))]), Raises(TypeError, "numpy", "torch.as_tensor")),
    Row("collect", "a batch that is None", lambda s: el.collect(s.model, [None]), Raises(TypeError, "batches", "expected tensors")),
    Row("collect", "a batch that is a text", lambda s: el.collect(s.model, ["text"]), Raises(TypeError, "batches", "expected tensors")),
    Row("collect", "a batch without examples", lambda s: el.collect(s.model, [s.x[:0]]), Raises(ValueError, "", "example|empty|none")),
    Row("collect", "an empty batch among others", lambda s: el.collect(s.model, [s.x[:9], s.x[:0], s.x[9:]]), right),
    Row("collect", "inputs of another width", lambda s: el.collect(s.model, [torch.ones(4, 7)]), Raises(ValueError, "'0'", "shape")),
    Row("collect", "a negative number of rows", lambda s: el.collect(s.model, [s.x], rank=-3), Raises(ValueError, "rank.*-3", ">= 1")),
    Row("collect", "a folder that is not there", lambda s: el.collect(s.model, [s.x], folder=s.path / "none"), Raises(ValueError, "folder.*none", "that is there")),
    Row("collect", "a folder that is there", lambda s: el.collect(s.model, [s.x], folder=s.path), right),
    Row("distributed.collect", "one process", lambda s: el.distributed.collect(s.model, [s.x]), right),
    Row("distributed.collect", "no time to wait", lambda s: el.distributed.collect(s.model, [s.x], timeout=0), Raises(ValueError, "timeout.*0", "above 0")),
    Row("distributed.collect", "no batches", lambda s: el.distributed.collect(s.model, []), Raises(ValueError, "batches", "no process had any")),
    Row("distributed.collect", "an argument that collect has not", lambda s: el.distributed.collect(s.model, [s.x], colour=1), Raises(TypeError, "colour", "those of collect are")),
    Row("distributed.all_reduce", "a list", lambda s: el.distributed.all_reduce([s.target]), Raises(TypeError, "list", "expected Moments")),
    Row("distributed.merge", "moments of another model", lambda s: el.distributed.merge([s.target, el.Moments({name: torch.eye(9) for name in "024"}, dict.fromkeys("024", 9))]), Raises(ValueError, "'0'", "shape")),
    Row("distributed.merge", "nothing", lambda s: el.distributed.merge([]), Raises(ValueError, "parts", "none")),
    Row("collect", "integer inputs", lambda s: el.collect(s.model, [torch.ones(4, 6, dtype=torch.long)]), Raises((TypeError, ValueError, RuntimeError), "dtype", "Float|float")),
    Row("collect", "boolean inputs", lambda s: el.collect(s.model, [torch.ones(4, 6, dtype=torch.bool)]), Raises((TypeError, ValueError, RuntimeError), "dtype", "Float|float")),
    Row("collect", "complex inputs", lambda s: el.collect(s.model, [torch.ones(4, 6, dtype=torch.complex64)]), Raises((TypeError, ValueError, RuntimeError), "dtype|complex", "Float|float")),
    Row("collect", "half-precision inputs of a float32 model", lambda s: el.collect(s.model, [s.x.half()]), Raises((TypeError, ValueError, RuntimeError), "dtype", "Float|float")),
    Row("collect", "inputs on device meta", lambda s: el.collect(s.model, [s.x.to("meta")]), Raises((TypeError, ValueError, NotImplementedError), "meta", "no data|memory|data")),
    Row("collect", "sparse inputs", lambda s: el.collect(s.model, [s.x.to_sparse()]), Raises(TypeError, "sparse", "to_dense")),
    Row("collect", "NaN in the data", lambda s: el.collect(s.model, [s.x * torch.nan]), Raises(ValueError, "'0'", "NaN")),
    Row("collect", "an infinite value in the data", lambda s: el.collect(s.model, [s.x / 0]), Raises(ValueError, "'0'", "infinite")),
    Row("collect", "values whose squares leave float32", lambda s: el.collect(s.model, [s.x * 1e25], layers=["0"]), Gives("finite sums in float64", lambda r, s: torch.allclose(r["0"][:6, :6], 1e50 * (s.target["0"] + s.reference["0"])[:6, :6]))),
    Row("collect", "values whose squares leave float32, in float32", lambda s: el.collect(s.model, [s.x * 1e25], layers=["0"], dtype=torch.float32), Raises(ValueError, "'0'", "infinite|float64")),
    Row("collect", "the same example again and again", lambda s: el.collect(s.model, [s.x[:1].expand(9, -1)]), Gives("a Σ of rank one", lambda r, s: torch.linalg.matrix_rank(r["0"], hermitian=True, rtol=1e-9) == 1)),
    Row("collect", "inputs that are all zero", lambda s: el.collect(s.model, [s.x * 0], bias="keep"), Gives("Σ = 0 at the first layer", lambda r, s: not r["0"].any())),
    # layers, rows, forward, options
    Row("collect", "layers that match nothing", lambda s: el.collect(s.model, [s.x], layers=["conv"]), Raises(ValueError, "'conv'", "'0'")),
    Row("collect", "a broken expression for layers", lambda s: el.collect(s.model, [s.x], layers="(0"), Raises(ValueError, "layers", "regular expression")),
    Row("collect", "an empty list of layers", lambda s: el.collect(s.model, [s.x], layers=[]), Raises(ValueError, "layers", "leave it out")),
    Row("collect", "numbers for layers", lambda s: el.collect(s.model, [s.x], layers=[0]), Raises(TypeError, "layers", "names")),
    Row("collect", "one number for layers", lambda s: el.collect(s.model, [s.x], layers=3), Raises(TypeError, "layers", "names|expected")),
    Row("collect", "rows that are no function", lambda s: el.collect(s.model, [s.x], rows=[True]), Raises(TypeError, "rows", "function")),
    Row("collect", "a mask of the wrong length", lambda s: el.collect(s.model, [s.x], rows=lambda b: torch.ones(7).bool()), Raises(ValueError, "'0'", "one value per example")),
    Row("collect", "a mask that is longer than the batch", lambda s: el.collect(s.model, [s.x], rows=lambda b: torch.ones(80).bool()), Raises(ValueError, "'0'", "one value per example")),
    Row("collect", "a mask of floats", lambda s: el.collect(s.model, [s.x], rows=lambda b: torch.rand(len(b), generator=torch.Generator())), Raises(ValueError, "rows", "boolean")),
    Row("collect", "a mask that is a number", lambda s: el.collect(s.model, [s.x], rows=lambda b: True), Raises(ValueError, "rows", "shape")),
    Row("collect", "a mask that is None", lambda s: el.collect(s.model, [s.x], rows=lambda b: None), Raises((TypeError, ValueError), "rows", "boolean|mask")),
    Row("collect", "a mask that chooses nothing", lambda s: el.collect(s.model, [s.x], rows=lambda b: torch.zeros(len(b)).bool()), Raises(ValueError, "rows", "no example was chosen")),
    Row("collect", "rows that raise", lambda s: el.collect(s.model, [s.x], rows=fail), Raises(KeyError, "mine", "")),
    Row("collect", "forward that is no function", lambda s: el.collect(s.model, [s.x], forward=1), Raises(TypeError, "forward", "function")),
    Row("collect", "forward that raises", lambda s: el.collect(s.model, [s.x], forward=fail), Raises(KeyError, "mine", "")),
    Row("collect", "forward that calls no layer", lambda s: el.collect(s.model, [s.x], forward=lambda m, b: None), Raises(ValueError, "never called layer '0'", "no moments")),
    Row("collect", "another word for bias", lambda s: el.collect(s.model, [s.x], bias="no"), Raises(ValueError, "bias", '"absorb" or "keep"')),
    Row("collect", "sums in half precision", lambda s: el.collect(s.model, [s.x], dtype=torch.float16), Raises(ValueError, "dtype", "float64 or torch.float32")),
    Row("collect", "a device that is not there", lambda s: el.collect(s.model, [s.x], device="xpu:9"), Raises(ValueError, "device", "xpu:9")),
    Row("collect", "sums on device meta", lambda s: el.collect(s.model, [s.x], device="meta"), Raises((TypeError, ValueError), "device", "meta")),
    # concepts
    Row("collect_by_concept", "concepts that are no function", lambda s: el.collect_by_concept(s.model, [(s.x, s.y)], s.y), Raises(TypeError, "concepts", "lambda batch")),
    Row("collect_by_concept", "concepts that are floats", lambda s: el.collect_by_concept(s.model, [s.x], lambda b: b[:, 0]), Raises(ValueError, "concepts", "integers")),
    Row("collect_by_concept", "concepts that are boolean", lambda s: el.collect_by_concept(s.model, [s.x], lambda b: b[:, 0] > 0), Raises(ValueError, "concepts", "integers")),
    Row("collect_by_concept", "concepts of the wrong length", lambda s: el.collect_by_concept(s.model, [s.x], lambda b: torch.zeros(3).long()), Raises(ValueError, "'0'", "one value per example")),
    Row("collect_by_concept", "every concept negative", lambda s: el.collect_by_concept(s.model, [s.x], lambda b: torch.full((len(b),), -1)), Raises(ValueError, "concepts", "no example belongs")),
    Row("collect_by_concept", "a mask that does not fit the concepts", lambda s: el.collect_by_concept(s.model, [(s.x, s.y)], lambda b: b[1], rows=lambda b: torch.ones(3).bool()), Raises(ValueError, "rows and concepts", "shape")),
    Row("collect_by_concept", "one concept only", lambda s: el.collect_by_concept(s.model, [s.x], lambda b: torch.zeros(len(b)).long()), Gives("a dict with that one", lambda r, s: list(r) == [0] and like(s, r[0]))),
    Row("collect_by_concept", "a batch without examples", lambda s: el.collect_by_concept(s.model, [(s.x[:0], s.y[:0])], lambda b: b[1]), Raises(ValueError, "concepts", "no example belongs")),
    Row("collect_by_concept", "sequence-first data, as many tokens as examples", lambda s: (el.collect_by_concept(s.model, [s.x.repeat(1, 2)[:16, :8].reshape(4, 4, 8)], lambda b: torch.arange(4))), Gives("each concept as if it came alone, or refused", lambda r, s: all(torch.allclose(r[c]["linear1"], el.collect(s.model, [s.x.repeat(1, 2)[:16, :8].reshape(4, 4, 8)[:, c : c + 1]])["linear1"], rtol=1e-4) for c in range(4))), sequence_first),
]  # fmt: skip


@contextlib.contextmanager
def default(dtype: torch.dtype) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
