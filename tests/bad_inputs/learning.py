"""OnlineMoments, projections and protected: how a stream fades, what it is of, and updates."""

from __future__ import annotations

import torch
from torch import nn

import engramlib as el
from tests.bad_inputs import Gives, Raises, Row, Scene
from tests.bad_inputs.models import meta, quantised

INF, NAN = float("inf"), float("nan")


def stream(s: Scene, batch: object = "x", watched: object = None, **how: object) -> el.Moments:
    tracker = el.OnlineMoments(s.model, **how)
    with tracker.watch(watched):
        s.model(s.x if isinstance(batch, str) else batch)
    tracker.step()
    return tracker.moments()


def kept(s: Scene, **how: object) -> el.OnlineMoments:
    tracker = el.OnlineMoments(s.model, **how)
    with tracker.watch():
        s.model(s.x)
    tracker.step()
    return tracker


def resumed(s: Scene, state: object) -> None:
    el.OnlineMoments(s.model).load_state_dict(state)


def elsewhere(s: Scene) -> None:
    el.Moments.save(s.target, s.path / "moments")
    el.OnlineMoments(s.model).load(s.path / "moments")


def nested(s: Scene) -> None:
    tracker = el.OnlineMoments(s.model)
    with tracker.watch(), tracker.watch():
        pass


def protect(s: Scene, P: object) -> None:
    with el.protected(s.model, P):
        pass


def as_collected(found: el.Moments, s: Scene) -> bool:
    wanted = el.collect(s.model, [s.x])
    return all(torch.allclose(found[name], wanted[name]) for name in wanted)


right = Gives("the moments that collect gives", as_collected)

ROWS = [
    Row("OnlineMoments", "one batch", stream, right),
    Row("OnlineMoments", "an empty batch beside it", lambda s: _two(s), right),
    Row("OnlineMoments", "a batch without being asked for one", lambda s: stream(s, "x", (s.x, s.y)), right),
    Row("OnlineMoments", "a model for text", lambda s: el.OnlineMoments("model"), Raises(TypeError, "model", "torch.nn.Module")),
    Row("OnlineMoments", "copies that nobody watches", lambda s: el.OnlineMoments(nn.DataParallel(s.model)), Raises(TypeError, "DataParallel", "watch the model that it wraps")),
    Row("OnlineMoments", "a decay above one", lambda s: el.OnlineMoments(s.model, decay=1.1), Raises(ValueError, "decay", "<= 1")),
    Row("OnlineMoments", "a decay of zero", lambda s: el.OnlineMoments(s.model, decay=0), Raises(ValueError, "decay", "> 0")),
    Row("OnlineMoments", "a decay that is NaN", lambda s: el.OnlineMoments(s.model, decay=NAN), Raises(ValueError, "decay", "> 0")),
    Row("OnlineMoments", "a half-life of nothing", lambda s: el.OnlineMoments(s.model, half_life=0), Raises(ValueError, "half_life", "> 0")),
    Row("OnlineMoments", "an endless half-life", lambda s: el.OnlineMoments(s.model, half_life=INF), Raises(ValueError, "half_life", "a number")),
    Row("OnlineMoments", "a window of half a step", lambda s: el.OnlineMoments(s.model, window=0.5), Raises(ValueError, "window", "whole number of steps")),
    Row("OnlineMoments", "a window of no step", lambda s: el.OnlineMoments(s.model, window=0), Raises(ValueError, "window", ">= 1")),
    Row("OnlineMoments", "decay and window", lambda s: el.OnlineMoments(s.model, decay=0.9, window=3), Raises(ValueError, "decay, half_life, window", "one of them")),
    Row("OnlineMoments", "a rate above one", lambda s: el.OnlineMoments(s.model, rate=2), Raises(ValueError, "rate", "<= 1")),
    Row("OnlineMoments", "a rate as a text", lambda s: el.OnlineMoments(s.model, rate="0.1"), Raises(ValueError, "rate", "number")),
    Row("OnlineMoments", "a seed as a text", lambda s: el.OnlineMoments(s.model, seed="0"), Raises(TypeError, "seed", "integer")),
    Row("OnlineMoments", "labels for a function", lambda s: el.OnlineMoments(s.model, concepts=s.y), Raises(TypeError, "concepts", "function of a batch")),
    Row("OnlineMoments", "rows that are no function", lambda s: el.OnlineMoments(s.model, rows=s.y > 0), Raises(TypeError, "rows", "function")),
    Row("OnlineMoments", "an unknown bias mode", lambda s: el.OnlineMoments(s.model, bias="both"), Raises(ValueError, "bias", "absorb")),
    Row("OnlineMoments", "a layer that is not there", lambda s: el.OnlineMoments(s.model, layers="nowhere"), Raises(ValueError, "nowhere", "layers")),
    Row("OnlineMoments", "sums of half precision", lambda s: el.OnlineMoments(s.model, dtype=torch.float16), Raises(ValueError, "dtype", "float32")),
    Row("OnlineMoments", "quantised weights", lambda s: el.OnlineMoments(s.model), Raises(TypeError, "quanti", ""), quantised),
    Row("OnlineMoments", "weights that are not in memory", lambda s: stream(s), Raises((TypeError, ValueError, RuntimeError), "memory|meta", ""), meta),
    Row("OnlineMoments", "moments before the first step", lambda s: el.OnlineMoments(s.model).moments(), Raises(ValueError, "no moments yet", r"tracker\.step")),
    Row("OnlineMoments", "a concept that never came", lambda s: kept(s).moments(7), Raises(ValueError, "concept: no column of 7", "there are None")),
    Row("OnlineMoments", "labels, but no batch", lambda s: stream(s, concepts=lambda b: b[1]), Raises(ValueError, "batch", "watch.batch")),
    Row("OnlineMoments", "labels of another number", lambda s: stream(s, "x", (s.x, s.y[:7]), concepts=lambda b: b[1]), Raises(ValueError, "layer '0'", "one value per example")),
    Row("OnlineMoments", "labels that are no integers", lambda s: stream(s, "x", (s.x, s.x[:, 0]), concepts=lambda b: b[1]), Raises(ValueError, "concepts", "integers")),
    Row("OnlineMoments", "NaN", lambda s: stream(s, s.x * NAN), Raises(ValueError, "layer '0'", "NaN")),
    Row("OnlineMoments", "NaN in a sample", lambda s: stream(s, s.x * NAN, rate=0.5), Raises(ValueError, "layer '0'", "NaN")),
    Row("OnlineMoments", "a block in a block", nested, Raises(RuntimeError, "open already", "twice")),
    Row("OnlineMoments", "a state of something else", lambda s: resumed(s, {"weights": 1}), Raises(ValueError, "state", r"state_dict\(\)")),
    Row("OnlineMoments", "a state of another decay", lambda s: resumed(s, kept(s, decay=0.5).state_dict()), Raises(ValueError, "decay was 0.5", "here it is 1.0")),
    Row("OnlineMoments", "a file of moments", elsewhere, Raises(ValueError, "holds 'engramlib.moments'", "not 'engramlib.online'")),
    Row("projections", "a projection of the digits' kind", lambda s: el.projections(s.target, s.reference), Gives("one matrix a layer", lambda P, s: {n: m.shape for n, m in P.items()} == {n: s.target[n].shape for n in s.target})),
    Row("projections", "a batch for moments", lambda s: el.projections(s.x), Raises(TypeError, "moments", "expected Moments")),
    Row("projections", "a batch to learn", lambda s: el.projections(s.target, s.x), Raises(TypeError, "against", "expected Moments")),
    Row("projections", "moments of other layers", lambda s: el.projections(s.target, s.reference.select(["0"])), Raises(ValueError, "against", "other layers")),
    Row("projections", "another bias mode", lambda s: el.projections(s.target, el.collect(s.mlp, [s.x], bias="keep")), Raises(ValueError, "against", "layer '0' has shape")),
    Row("projections", "no λ", lambda s: el.projections(s.target, s.reference, specificity=0), Raises(ValueError, "specificity", "> 0")),
    Row("projections", "an infinite λ", lambda s: el.projections(s.target, s.reference, specificity=INF), Raises(ValueError, "specificity", "a number")),
    Row("projections", "more than all energy", lambda s: el.projections(s.target, energy=1.5), Raises(ValueError, "energy", "<= 1")),
    Row("projections", "a negative cut", lambda s: el.projections(s.target, rcond=-1), Raises(ValueError, "rcond", "expected")),
    Row("protected", "a layer that is not there", lambda s: protect(s, {"nowhere": torch.eye(6)}), Raises(ValueError, "nowhere", "supported layer")),
    Row("protected", "a matrix of another width", lambda s: protect(s, {"0": torch.eye(5)}), Raises(ValueError, "layer '0'", "columns of height 6")),
    Row("protected", "a matrix that is not square", lambda s: protect(s, {"0": torch.ones(3, 6)}), Raises(ValueError, "layer '0'", "P has shape")),
    Row("protected", "a matrix with NaN", lambda s: protect(s, {"0": torch.full((6, 6), NAN)}), Raises(ValueError, "layer '0'", "NaN")),
    Row("protected", "a number for a matrix", lambda s: protect(s, {"0": 1.0}), Raises(ValueError, "layer '0'", "P")),
    Row("protected", "moments for projections", lambda s: protect(s, s.x), Raises(TypeError, "projections", "dict")),
]  # fmt: skip


def _two(s: Scene) -> el.Moments:
    tracker = el.OnlineMoments(s.model)
    for part in (s.x, s.x[:0]):
        with tracker.watch():
            s.model(part)
        tracker.step()
    return tracker.moments()
