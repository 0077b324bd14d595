"""score_criteria, random_engram and engramlib.analysis."""

from __future__ import annotations

import torch
from torch import eye, nn, ones

import engramlib as el
from engramlib import analysis
from tests.bad_inputs import Gives, Raises, Row, Scene, made
from tests.bad_inputs.models import conv, trained

NAN, INF = float("nan"), float("inf")
CE = torch.nn.functional.cross_entropy


def score(s: Scene, **options: object) -> analysis.Criteria:
    return el.score_criteria(s.model, s.engram, s.target, s.reference, **options)


def gradient(s: Scene) -> el.Engram:
    return analysis.loss_gradient(s.mlp, [(s.x, s.y)], lambda z, b: CE(z, b[1], reduction="sum"))


def loss(z: torch.Tensor, batch: object) -> torch.Tensor:
    return z.square().sum()


ROWS = [
    Row("score_criteria", "a dict of engrams", lambda s: el.score_criteria(s.model, {0: s.engram}, s.target, s.reference), Raises(TypeError, "engram", "expected an Engram")),
    Row("score_criteria", "an engram of other layers than the moments", lambda s: el.score_criteria(s.model, s.engram, s.target.select(["0"]), s.reference.select(["0"])), Raises(ValueError, "engram.*'2'", "no moments")),
    Row("score_criteria", "an engram of another bias mode", lambda s: el.score_criteria(s.model, el.Engram({"0": (ones(8, 6), None)}), s.target, s.reference), Raises(ValueError, "'0'", "bias mode")),
    Row("score_criteria", "draws < 0", lambda s: score(s, draws=-1), Raises(ValueError, "draws", ">= 0")),
    Row("score_criteria", "draws a float", lambda s: score(s, draws=1.5), Raises(ValueError, "draws", "integer")),
    Row("score_criteria", "batches that are no pair", lambda s: score(s, batches=[s.x]), Raises((TypeError, ValueError), "batches", "pair|two|target")),
    Row("score_criteria", "a wrong engram of other layers", lambda s: score(s, wrong=s.engram.select(["0"])), Raises(ValueError, "wrong", "select")),
    Row("score_criteria", "a reference with a layer less", lambda s: el.score_criteria(s.model, s.engram, s.target, s.reference.select(["0"])), Raises(ValueError, "reference", "not in all")),
    Row("score_criteria", "readout that is no function", lambda s: score(s, batches=([s.x[:15]], [s.x[15:]]), readout=1), Raises(TypeError, "readout", "function")),
    Row("score_criteria", "readout that raises", lambda s: score(s, batches=([s.x[:15]], [s.x[15:]]), readout=_fail), Raises(KeyError, "mine", "")),
    Row("score_criteria", "no batches for the target", lambda s: score(s, batches=([], [s.x])), Raises(ValueError, "batches", "none|empty")),
    Row("score_criteria", "NaN in the batches", lambda s: score(s, batches=([s.x * NAN], [s.x])), Raises(ValueError, "", "NaN|finite")),
    Row("random_engram", "moments", lambda s: el.random_engram(s.model, s.target), Raises(TypeError, "engram", "expected an Engram")),
    Row("random_engram", "an engram of another model", lambda s: el.random_engram(s.model, el.Engram({"9": (ones(2, 2), None)})), Raises(ValueError, "'9'", "another model")),
    Row("random_engram", "an engram of other shapes", lambda s: el.random_engram(s.model, el.Engram({"0": (ones(2, 2), None)})), Raises(ValueError, "'0'", "another model")),
    Row("random_engram", "a seed that is a text", lambda s: el.random_engram(s.model, s.engram, seed="x"), Raises((TypeError, RuntimeError), "seed", "long|int")),
    Row("analysis.Cut", "a rule that returns too few", lambda s: analysis.Cut("mine", lambda v, n: v[:1])(ones(3)), Raises(ValueError, "'mine'", "3 eigenvalues")),
    Row("analysis.Cut", "a rule that returns NaN", lambda s: analysis.Cut("mine", lambda v, n: v * NAN)(ones(3)), Raises(ValueError, "'mine'", "infinite|NaN")),
    Row("analysis.relative", "rcond = 1", lambda s: analysis.relative(1.0), Raises(ValueError, "rcond", r"\[0, 1\)")),
    Row("analysis.energy", "a share of 0", lambda s: analysis.energy(0.0), Raises(ValueError, "share", r"\(0, 1\]")),
    Row("analysis.energy", "a share of NaN", lambda s: analysis.energy(NAN), Raises(ValueError, "share", r"\(0, 1\]")),
    Row("analysis.edge", "no count", lambda s: analysis.edge()(ones(4)), Raises(ValueError, "count", "columns|number")),
    Row("analysis.ridge", "strength 0", lambda s: analysis.ridge(0.0), Raises(ValueError, "strength", "positive")),
    Row("analysis.ridge", "strength NaN", lambda s: analysis.ridge(NAN), Raises(ValueError, "strength", "positive")),
    Row("analysis.bulk_edge", "negative columns", lambda s: analysis.bulk_edge(ones(4), -3, 4), Raises(ValueError, "count", "columns|positive|>= 1")),
    Row("analysis.compare_cuts", "Σ that is not square", lambda s: analysis.compare_cuts(ones(2, 3)), Raises(ValueError, "sigma", "square")),
    Row("analysis.compare_cuts", "NaN", lambda s: analysis.compare_cuts(eye(3) * NAN), Raises(ValueError, "sigma", "NaN")),
    Row("analysis.effective_rank", "all zero", lambda s: analysis.effective_rank(torch.zeros(3)), Raises(ValueError, "values", "above zero")),
    Row("analysis.effective_rank", "no values", lambda s: analysis.effective_rank(torch.zeros(0)), Raises(ValueError, "values", "above zero")),
    Row("analysis.effective_rank", "NaN", lambda s: analysis.effective_rank(ones(3) * NAN), Raises(ValueError, "values", "")),
    Row("analysis.foresee", "a dict of engrams", lambda s: analysis.foresee(s.model, {0: s.engram}, s.target, s.reference), Raises(TypeError, "engram", "expected an Engram")),
    Row("analysis.foresee", "batches instead of moments", lambda s: analysis.foresee(s.model, s.engram, [s.x], s.reference), Raises(TypeError, "target", "expected Moments")),
    Row("analysis.foresee", "a reference with a layer less", lambda s: analysis.foresee(s.model, s.engram, s.target, s.reference.select(["0"])), Raises(ValueError, "reference.*'2'", "no moments")),
    Row("analysis.foresee", "an engram of another bias mode", lambda s: analysis.foresee(s.model, el.Engram({"0": (ones(8, 6), None)}), s.target, s.reference), Raises(ValueError, "engram.*'0'", "bias mode")),
    Row("analysis.foresee", "an engram of other shapes", lambda s: analysis.foresee(s.model, el.Engram({"0": (ones(2, 2), None)}), s.target, s.reference), Raises(ValueError, "engram.*'0'", "shape")),
    Row("analysis.overall", "no layers", lambda s: analysis.overall({}), Raises(ValueError, "layers", "at least one")),
    Row("analysis.overall", "numbers", lambda s: analysis.overall({"0": 1.0}), Raises(TypeError, "layers", "Foresight")),
    Row("analysis.Foresight", "an alpha of NaN", lambda s: analysis.Foresight(1.0, 1.0, 0.0).left(NAN), Raises(ValueError, "alpha", "finite")),
    Row("analysis.Foresight", "an alpha that is a text", lambda s: analysis.Foresight(1.0, 1.0, 0.0).moved("1"), Raises(ValueError, "alpha", "finite")),
    Row("analysis.target_share", "Σ⁺ and Σ⁻ of different shapes", lambda s: analysis.target_share(eye(2), eye(3)), Raises(ValueError, "minus|shape", "")),
    Row("analysis.target_share", "NaN", lambda s: analysis.target_share(eye(2) * NAN, eye(2)), Raises(ValueError, "plus", "NaN")),
    Row("analysis.target_share", "a Σ⁻ that is not positive", lambda s: analysis.target_share(eye(2), -0.5 * eye(2)), Raises(ValueError, "share|minus", "contained|semi-definite")),
    Row("analysis.specificity", "λ < 0", lambda s: analysis.specificity(-1), Raises(ValueError, "lam", ">= 0")),
    Row("analysis.threshold", "0", lambda s: analysis.threshold(0), Raises(ValueError, "at", r"\(0, 1\]")),
    Row("analysis.apply_filter", "a text", lambda s: analysis.apply_filter("half", ones(3)), Raises(TypeError, "filter", "function")),
    Row("analysis.filtered", "a weight of another width", lambda s: analysis.filtered(ones(2, 3), eye(4), eye(4)), Raises(ValueError, "weight", "does not act")),
    Row("analysis.filtered", "groups of another number", lambda s: analysis.filtered(ones(2, 2, 3), ones(3, 3, 3), ones(3, 3, 3)), Raises(ValueError, "weight", "same number of groups")),
    Row("analysis.extract_filtered", "moments of another model", lambda s: analysis.extract_filtered(s.model, s.target, s.reference), Raises(ValueError, "'0'|'2'", "another model"), made(lambda: nn.Sequential(nn.Linear(2, 2)))),
    Row("analysis.output_factors", "an unknown loss", lambda s: analysis.output_factors(s.model, [s.x], loss="hinge"), Raises(ValueError, "loss", "cross_entropy")),
    Row("analysis.output_factors", "an unknown fisher", lambda s: analysis.output_factors(s.model, [s.x], fisher="empirical"), Raises(ValueError, "fisher", "exact")),
    Row("analysis.output_factors", "no batches", lambda s: analysis.output_factors(s.model, []), Raises(ValueError, "batches", "none|empty")),
    Row("analysis.output_factors", "NaN in the data", lambda s: analysis.output_factors(s.model, [s.x * NAN]), Raises(ValueError, "", "NaN|finite")),
    Row("analysis.output_factors", "inside no_grad", lambda s: _no_grad(lambda: analysis.output_factors(s.model, [s.x])), Gives("the factors of ever", lambda r, s: torch.equal(r["4"], analysis.output_factors(s.model, [s.x])["4"]))),
    Row("analysis.output_factors", "train mode with BatchNorm and dropout", lambda s: analysis.output_factors(s.model, [s.x]), Gives("runs in evaluation mode; flags and running statistics as before", lambda r, s: torch.equal(r["0"], analysis.output_factors(s.model.eval(), [s.x])["0"])), trained),
    Row("analysis.fisher_block", "a layer that is not there", lambda s: analysis.fisher_block(s.model, [s.x], "9"), Raises(ValueError, "'9'", "'0'|layer")),
    Row("analysis.fisher_block", "a grouped convolution", lambda s: analysis.fisher_block(s.model, [torch.ones(3, 2, 5, 5)], "0"), Gives("one square matrix over the parameters of all groups", lambda r, s: r.shape == (4 * 10, 4 * 10)), conv),
    Row("analysis.fisher_block", "more parameters than the limit", lambda s: analysis.fisher_block(s.model, [s.x], "0", limit=10), Raises(ValueError, "'0'|limit", "limit|bytes|B")),
    Row("analysis.fisher_block", "another word for bias", lambda s: analysis.fisher_block(s.model, [s.x], "0", bias="no"), Raises(ValueError, "bias", '"absorb" or "keep"')),
    Row("analysis.loss_gradient", "a loss that is no function", lambda s: analysis.loss_gradient(s.model, [s.x], "cross_entropy"), Raises(TypeError, "loss", "function")),
    Row("analysis.loss_gradient", "a loss that is not a scalar", lambda s: analysis.loss_gradient(s.model, [s.x], lambda z, b: z), Raises(ValueError, "loss", "scalar|one number")),
    Row("analysis.loss_gradient", "a loss that does not depend on the model", lambda s: analysis.loss_gradient(s.model, [s.x], lambda z, b: torch.zeros(())), Raises(ValueError, "loss|gradient", "")),
    Row("analysis.loss_gradient", "a loss that is NaN", lambda s: analysis.loss_gradient(s.model, [s.x], lambda z, b: z.sum() * NAN), Raises(ValueError, "loss|'0'|gradient", "NaN|finite")),
    Row("analysis.loss_gradient", "frozen weights, inside no_grad", lambda s: _no_grad(lambda: analysis.loss_gradient(s.model.requires_grad_(False), [s.x], loss)), Gives("the gradient of ever", lambda r, s: torch.allclose(r["0"].weight, analysis.loss_gradient(s.mlp, [s.x], loss)["0"].weight)), edits=True),
    Row("analysis.anisotropy", "a matrix that is not square", lambda s: analysis.anisotropy(ones(2, 3)), Raises(ValueError, "factor", "square|shape")),
    Row("analysis.anisotropy", "zero", lambda s: analysis.anisotropy(torch.zeros(2, 2)), Raises(ValueError, "factor", "zero")),
    Row("analysis.natural_gradient", "damping < 0", lambda s: analysis.natural_gradient(s.model, s.engram, s.target, damping=-1.0), Raises(ValueError, "damping", ">= 0")),
    Row("analysis.natural_gradient", "factors without a layer", lambda s: analysis.natural_gradient(s.model, s.engram, s.target, {"0": eye(8)}), Raises(ValueError, "factors", "'2'|layer|2")),
    Row("analysis.natural_gradient", "factors of another size", lambda s: analysis.natural_gradient(s.model, s.engram.select(["0"]), s.target.select(["0"]), {"0": eye(7)}), Raises(ValueError, "factor.*'0'|'0'.*factor|factors", "8|shape|expected")),
    Row("analysis.forgetting_step", "moments of different layers", lambda s: analysis.forgetting_step(s.model, s.target, s.reference.select(["0"])), Raises(ValueError, "reference", "not in all")),
    Row("analysis.forgetting_step", "damping NaN", lambda s: analysis.forgetting_step(s.model, s.target, s.reference, damping=NAN), Raises(ValueError, "damping", ">= 0")),
    Row("analysis.exact_forgetting_step", "F of another size", lambda s: analysis.exact_forgetting_step(s.model, s.target, s.reference, "4", eye(5)), Raises(ValueError, "fisher", "18|shape|size|expected")),
    Row("analysis.exact_forgetting_step", "a layer that is not there", lambda s: analysis.exact_forgetting_step(s.model, s.target, s.reference, "9", eye(5)), Raises(ValueError, "'9'", "layer")),
    Row("analysis.objective", "shapes that do not fit", lambda s: analysis.objective(ones(2, 3), ones(2, 4), eye(3), eye(3)), Raises(ValueError, "delta|v", "shape|expected")),
    Row("analysis.metric_minimiser", "a metric that is not symmetric", lambda s: analysis.metric_minimiser(ones(2, 3), eye(3), eye(3), ones(2, 2).triu()), Raises(ValueError, "metric", "symmetric")),
    Row("analysis.metric_minimiser", "too many unknowns", lambda s: analysis.metric_minimiser(ones(80, 80), eye(80), eye(80), eye(80)), Raises(ValueError, "6400|6000", "6000|small")),
    Row("analysis.compare", "engrams of other layers", lambda s: analysis.compare(s.engram, s.engram.select(["0"])), Raises(ValueError, "layer '2'", "only in one")),
    Row("analysis.compare", "a direction that is zero", lambda s: analysis.compare(s.engram, 0 * s.engram), Raises(ValueError, "'0'|zero", "zero")),
]  # fmt: skip


def _fail(*_: object) -> None:
    raise KeyError("mine")


def _no_grad(call: object) -> object:
    with torch.no_grad():
        return call()
