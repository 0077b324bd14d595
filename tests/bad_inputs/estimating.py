"""extract, extract_all, extract_filtered, Spectrum: statistics, λ, cuts, bases."""

from __future__ import annotations

import math

import torch
from torch import nn, ones

import engramlib as el
from tests.bad_inputs import Gives, Raises, Row, Scene, made, small
from tests.bad_inputs.models import frozen, meta, parametrised

INF = float("inf")


def extract(s: Scene, **options: object) -> el.Engram:
    return el.extract(s.model, s.target, s.reference, **options)


def times(moments: el.Moments, factor: float) -> el.Moments:
    return el.Moments({name: sigma * factor for name, sigma in moments.items()}, moments.count)


def nothing(moments: el.Moments) -> el.Moments:
    return el.Moments({name: sigma * 0 for name, sigma in moments.items()}, dict.fromkeys(moments, 0))


def huge(moments: el.Moments) -> el.Moments:
    return el.Moments({name: 1e308 * torch.eye(len(sigma)).double() for name, sigma in moments.items()}, moments.count)


def as_type(moments: el.Moments, dtype: torch.dtype) -> el.Moments:
    return el.Moments({name: sigma.to(dtype) for name, sigma in moments.items()}, moments.count)


@made
def wider() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


@made
def other_weights() -> nn.Module:
    return small().requires_grad_(False).apply(lambda m: m.weight.mul_(-2) if isinstance(m, nn.Linear) else None)


@made
def one_narrower_with_bias() -> nn.Module:
    """d + 1 of this one's first layer, with its bias, is d of a layer that keeps none."""
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


@made
def with_nan() -> nn.Module:
    model = small()
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    return model


def dense(s: Scene, lam: float, name: str = "0") -> torch.Tensor:
    plus, minus, layer = s.target[name], s.reference[name], s.mlp.get_submodule(name)
    w = torch.cat([layer.weight, layer.bias[:, None]], 1).detach().double()
    return (w @ plus @ torch.linalg.pinv(plus + lam * minus, rtol=1e-6, hermitian=True)).float()


def close(engram: el.Engram, matrix: torch.Tensor, name: str = "0") -> bool:
    found = torch.cat([engram[name].weight, engram[name].bias[:, None]], 1)
    return torch.allclose(found, matrix, rtol=1e-4, atol=1e-5)


def zero(engram: el.Engram) -> bool:
    return not any(t.any() for entry in engram.values() for t in entry if t is not None)


usual = Gives("the engram of ever", lambda r, s: close(r, dense(s, 1.0)))

ROWS = [
    Row("extract", "a function for a model", lambda s: el.extract(len, s.target, s.reference), Raises(TypeError, "model", "torch.nn.Module")),
    Row("extract", "data in the place of moments", lambda s: el.extract(s.model, s.x, s.reference), Raises(TypeError, "target", "Moments")),
    Row("extract", "a dict of moments by concept", lambda s: el.extract(s.model, s.by_concept, s.reference), Raises(TypeError, "target", "Moments")),
    Row("extract", "None for the reference", lambda s: el.extract(s.model, s.target, None), Raises(TypeError, "reference", "Moments")),
    Row("extract", "a reference with a layer less", lambda s: el.extract(s.model, s.target, s.reference.select(["0"])), Raises(ValueError, "reference.*2", "not in all")),
    Row("extract", "a target with a layer less", lambda s: el.extract(s.model, s.target.select(["0"]), s.reference), Raises(ValueError, "2", "not in all")),
    Row("extract", "moments of another, wider model", lambda s: extract(s), Raises(ValueError, "'0'", "another model"), wider),
    Row("extract", "moments of a model without such layers", lambda s: extract(s), Raises(ValueError, "'2'", "another model"), made(lambda: nn.Sequential(nn.Linear(6, 8)))),
    Row("extract", "bias kept in the target, absorbed in the reference", lambda s: el.extract(s.model, el.collect(s.mlp, [s.x], bias="keep"), s.reference), Raises(ValueError, "'0'", "bias mode")),
    Row("extract", "kept moments of a model one wider, where absorbed ones fit", lambda s: el.extract(s.model, *(el.collect(s.mlp, [x], bias="keep", layers=["0"]) for x in (s.x[:15], s.x[15:]))), Raises(ValueError, "'0'", "another model|bias mode"), one_narrower_with_bias),
    Row("extract", "moments of a model of the same shapes", lambda s: extract(s), Gives("a warning or an error: they are of another model", lambda r, s: True, warns="another model|other weights"), other_weights),
    Row("extract", "λ < 0", lambda s: extract(s, specificity=-1.0), Raises(ValueError, "specificity", ">= 0")),
    Row("extract", "λ = NaN", lambda s: extract(s, specificity=math.nan), Raises(ValueError, "specificity", ">= 0")),
    Row("extract", "λ = −∞", lambda s: extract(s, specificity=-INF), Raises(ValueError, "specificity", ">= 0")),
    Row("extract", "λ a text", lambda s: extract(s, specificity="1"), Raises(ValueError, "specificity", "number")),
    Row("extract", "λ complex", lambda s: extract(s, specificity=1j), Raises(ValueError, "specificity", "number")),
    Row("extract", "λ = 0", lambda s: extract(s, specificity=0), Gives("ΔW on the span of the target", lambda r, s: close(r, dense(s, 0.0)))),
    Row("extract", "λ = ∞ with a reference that spans everything", lambda s: extract(s, specificity=INF), Gives("zero where the reference spans the space", lambda r, s: float(r["0"].weight.norm()) < 1e-5)),
    Row("extract", "λ huge, 1e300", lambda s: extract(s, specificity=1e300), Gives("finite numbers", lambda r, s: math.isfinite(r.norm()))),
    Row("extract", "rcond = 1", lambda s: extract(s, rcond=1.0), Raises(ValueError, "rcond", r"\[0, 1\)")),
    Row("extract", "rcond < 0", lambda s: extract(s, rcond=-1e-6), Raises(ValueError, "rcond", r"\[0, 1\)")),
    Row("extract", "rcond = NaN", lambda s: extract(s, rcond=math.nan), Raises(ValueError, "rcond", r"\[0, 1\)")),
    Row("extract", "rcond None", lambda s: extract(s, rcond=None), Raises(ValueError, "rcond", "number")),
    Row("extract", "base a path", lambda s: extract(s, base="base.pt"), Raises(TypeError, "base", "state dict or a module")),
    Row("extract", "base without a layer", lambda s: extract(s, base={"0.weight": s.mlp[0].weight}), Raises(ValueError, "base.*'0.bias'|base.*'2.weight'", "no entry")),
    Row("extract", "base of another shape", lambda s: extract(s, base=wider()), Raises(ValueError, "base.*'0.weight'", "shape")),
    Row("extract", "base with NaN", lambda s: extract(s, base=with_nan()), Raises(ValueError, "base|'0'", "NaN")),
    Row("extract", "base that is the model", lambda s: extract(s, base=s.model), Gives("zero: nothing was learned", lambda r, s: zero(r))),
    Row("extract", "weights with NaN", lambda s: extract(s), Raises(ValueError, "'0'", "NaN"), with_nan),
    Row("extract", "a target without data", lambda s: el.extract(s.model, nothing(s.target), s.reference), Gives("zero: the engram of nothing", lambda r, s: zero(r), warns="")),
    Row("extract", "a reference without data", lambda s: el.extract(s.model, s.target, nothing(s.reference)), Gives("ΔW on the span of the target", lambda r, s: close(r, dense(s, 0.0)))),
    Row("extract", "target and reference both 1e-12 as large", lambda s: el.extract(s.model, times(s.target, 1e-12), times(s.reference, 1e-12)), usual),
    Row("extract", "target and reference both 1e12 as large", lambda s: el.extract(s.model, times(s.target, 1e12), times(s.reference, 1e12)), usual),
    Row("extract", "moments so large that their sum is infinite", lambda s: el.extract(s.model, huge(s.target), huge(s.reference)), Raises(ValueError, "'0'", "infinite|large|finite")),
    Row("extract", "float32 moments", lambda s: el.extract(s.model, as_type(s.target, torch.float32), as_type(s.reference, torch.float32)), Gives("float32's digits of it", lambda r, s: torch.allclose(r["0"].weight, dense(s, 1.0)[:, :6], atol=1e-3))),
    Row("extract", "frozen weights", lambda s: extract(s), usual, frozen),
    Row("extract", "weights on device meta", lambda s: extract(s), Raises(TypeError, "'0'.*meta", "load the model"), meta),
    Row("extract", "a weight that is a parametrization", lambda s: extract(s), Raises(TypeError, "'0' computes its weight", "remove"), parametrised),
    Row("extract", "inside autocast", lambda s: _autocast(lambda: extract(s)), usual),
    Row("extract", "inside inference_mode", lambda s: _inference(lambda: extract(s)), usual),
    Row("extract_all", "no concepts", lambda s: el.extract_all(s.model, {}), Raises(ValueError, "moments_by_concept", "at least (one|two)")),
    Row("extract_all", "a list of moments", lambda s: el.extract_all(s.model, list(s.by_concept.values())), Raises(ValueError, "moments_by_concept", "dict concept -> Moments")),
    Row("extract_all", "one Moments", lambda s: el.extract_all(s.model, s.target), Raises(ValueError, "one Moments", "collect_by_concept")),
    Row("extract_all", "a value that is no Moments", lambda s: el.extract_all(s.model, {0: s.target, 1: s.x}), Raises(TypeError, "concept 1", "Moments")),
    Row("extract_all", "a concept with a layer less", lambda s: el.extract_all(s.model, {0: s.target, 1: s.reference.select(["0"])}), Raises(ValueError, "concept 1.*2", "not in all")),
    Row("extract_all", "one concept only", lambda s: el.extract_all(s.model, {0: s.target}), Raises(ValueError, "concept 0", "at least two")),
    Row("extract_all", "λ < 0", lambda s: el.extract_all(s.model, s.by_concept, specificity=-2), Raises(ValueError, "specificity", ">= 0")),
    Row("extract_all", "rcond a text", lambda s: el.extract_all(s.model, s.by_concept, rcond="small"), Raises(ValueError, "rcond", "number")),
    Row("extract_all", "a model one narrower", lambda s: el.extract_all(s.model, s.by_concept), Raises(ValueError, "'0'", "another model|bias mode"), one_narrower_with_bias),
    Row("extract_filtered", "a filter that is no function", lambda s: el.extract_filtered(s.model, s.target, s.reference, filter=0.5), Raises(TypeError, "filter", "function")),
    Row("extract_filtered", "a filter that returns NaN", lambda s: el.extract_filtered(s.model, s.target, s.reference, filter=lambda v: v * torch.nan), Raises(ValueError, "filter", "finite numbers")),
    Row("extract_filtered", "a filter that returns one number", lambda s: el.extract_filtered(s.model, s.target, s.reference, filter=lambda v: 1.0), Raises(ValueError, "filter", "one per share")),
    Row("extract_filtered", "a cut that is a number", lambda s: el.extract_filtered(s.model, s.target, s.reference, cut=1e-6), Raises(TypeError, "cut", "Cut")),
    Row("extract_filtered", "a reference with a layer less", lambda s: el.extract_filtered(s.model, s.target, s.reference.select(["0"])), Raises(ValueError, "reference", "not in all")),
    Row("spectral.Spectrum", "Σ that is not square", lambda s: el.spectral.Spectrum(ones(2, 3)), Raises((ValueError, RuntimeError), "", "square|shape")),
    Row("spectral.Spectrum", "rcond = 2", lambda s: el.spectral.Spectrum(torch.eye(2), 2.0), Raises(ValueError, "rcond", r"\[0, 1\)")),
    Row("spectral.Spectrum", "NaN", lambda s: el.spectral.Spectrum(torch.eye(2) * torch.nan), Raises((ValueError, RuntimeError), "", "NaN|non-finite|finite|converge")),
    Row("spectral.Spectrum", "Σ = 0", lambda s: el.spectral.Spectrum(torch.zeros(3, 3)), Gives("rank 0 and Σ† = 0", lambda r, s: int(r.rank) == 0 and not r.pinv().any())),
    Row("spectral.check_rcond", "a list", lambda s: el.spectral.check_rcond([1e-6]), Raises(ValueError, "rcond", "number")),
]  # fmt: skip


def _autocast(call: object) -> object:
    with torch.autocast("cpu", torch.bfloat16):
        return call()


def _inference(call: object) -> object:
    with torch.inference_mode():
        return call()
