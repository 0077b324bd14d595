"""discover: what is looked at, how many concepts, what is known."""

from __future__ import annotations

import sklearn.cluster  # noqa: F401 - its first import draws from the random state that the rows look at
import torch
from torch import Tensor

from engramlib import discover
from tests.bad_inputs import Gives, Raises, Row, Scene
from tests.bad_inputs.models import calls_twice

NAN, INF = float("nan"), float("inf")


def look(s: Scene, batches: object = None, **how: object) -> discover.Discovery:
    how = {"layer": "2", "k": 3, **how}
    return discover.concepts(s.model, [s.x] if batches is None else batches, **how)


def found(s: Scene) -> discover.Discovery:
    return look(s)


def few(s: Scene, **change: object) -> dict:
    return {0: [0, 3], 1: [1, 4], 2: [2, 5]} | change


def labels(s: Scene) -> Tensor:
    return torch.arange(40) % 3


right = Gives(
    "forty labels of three concepts",
    lambda found, s: found.labels.unique().tolist() == [0, 1, 2] and len(found.labels) == 40,
)

ROWS = [
    Row("discover.concepts", "a list of batches, and a generator", lambda s: look(s, (part for part in s.x.split(7))), right),
    Row("discover.concepts", "a model for text", lambda s: discover.concepts("model", [s.x], layer="2"), Raises(TypeError, "model", "torch.nn.Module")),
    Row("discover.concepts", "no batches", lambda s: look(s, []), Raises(ValueError, "batches", "none")),
    Row("discover.concepts", "a text for batches", lambda s: look(s, "Paris"), Raises(TypeError, "batches", "iterable of batches")),
    Row("discover.concepts", "a layer that is not there", lambda s: look(s, layer="nowhere"), Raises(ValueError, "nowhere", "layers")),
    Row("discover.concepts", "two layers", lambda s: look(s, layer=["0", "2"]), Raises(TypeError, "layer", "one layer")),
    Row("discover.concepts", "a layer that is called twice", lambda s: look(s, layer="fc"), Raises(ValueError, "2 times", "called once"), calls_twice),
    Row("discover.concepts", "NaN in the data", lambda s: look(s, [s.x * NAN]), Raises(ValueError, "layer '2'", "NaN")),
    Row("discover.concepts", "infinite values in the data", lambda s: look(s, [s.x * INF], layer="0"), Raises(ValueError, "layer '0'", "NaN or infinite")),
    Row("discover.concepts", "examples that are all alike", lambda s: look(s, [s.x[:1].expand(40, 6)]), Raises(ValueError, "layer '2'", "look alike")),
    Row("discover.concepts", "more concepts than examples", lambda s: look(s, [s.x[:3]]), Raises(ValueError, "k: 3 concepts of 3", "fewer")),
    Row("discover.concepts", "room for more than there are", lambda s: look(s, k=None, most=40), Raises(ValueError, "most: 40", "fewer")),
    Row("discover.concepts", "one concept", lambda s: look(s, k=1), Raises(ValueError, "k", "at least 2")),
    Row("discover.concepts", "k a float", lambda s: look(s, k=3.0), Raises(ValueError, "k", "whole number")),
    Row("discover.concepts", "most = 1", lambda s: look(s, k=None, most=1), Raises(ValueError, "most", "at least 2")),
    Row("discover.concepts", "an unknown method", lambda s: look(s, method="tsne"), Raises(ValueError, "method.*tsne|method", "mixture, spectral")),
    Row("discover.concepts", "an unknown rule", lambda s: look(s, rule="elbow"), Raises(ValueError, "rule", "shares, bic")),
    Row("discover.concepts", "BIC of what is no mixture", lambda s: look(s, k=None, method="kmeans", rule="bic", most=5), Raises(ValueError, "rule", "take 'stability'")),
    Row("discover.concepts", "more components than there are", lambda s: look(s, components=9), Raises(ValueError, "components: 9", "of 8")),
    Row("discover.concepts", "components = 0", lambda s: look(s, components=0), Raises(ValueError, "components", "expected")),
    Row("discover.concepts", "twice the variance", lambda s: look(s, components=2.0), Raises(ValueError, "components", "part of the variance")),
    Row("discover.concepts", "whiten as a text", lambda s: look(s, whiten="yes"), Raises(ValueError, "whiten", "True or False")),
    Row("discover.concepts", "a seed below 0", lambda s: look(s, seed=-1), Raises(ValueError, "seed", "at least 0")),
    Row("discover.concepts", "rows of another number", lambda s: look(s, rows=lambda batch: torch.ones(3, dtype=torch.bool)), Raises(ValueError, "layer '2'", "one value per example")),
    Row("discover.concepts", "rows that choose nobody", lambda s: look(s, rows=lambda batch: torch.zeros(40, dtype=torch.bool)), Raises(ValueError, "rows", "no example")),
    Row("discover.concepts", "known as a list", lambda s: look(s, k=None, known=[[0], [1]]), Raises(TypeError, "known", "dict")),
    Row("discover.concepts", "one known concept", lambda s: look(s, k=None, known={0: [0, 3]}), Raises(ValueError, "known: 1 concept", "concept_of")),
    Row("discover.concepts", "a known concept without examples", lambda s: look(s, k=None, known=few(s) | {3: []}), Raises(ValueError, r"known\[3\]", "one at least")),
    Row("discover.concepts", "an example that is not there", lambda s: look(s, k=None, known=few(s) | {3: [40]}), Raises(ValueError, r"known\[3\]", "40 examples")),
    Row("discover.concepts", "an example in two concepts", lambda s: look(s, k=None, known=few(s) | {3: [0]}), Raises(ValueError, "known", "twice")),
    Row("discover.concepts", "a concept that is a text", lambda s: look(s, k=None, known={"cat": [0], "dog": [1]}), Raises(ValueError, "known", "whole numbers")),
    Row("discover.concepts", "known, and another k", lambda s: look(s, k=5, known=few(s)), Raises(ValueError, "k: 5", "leave k out")),
    Row("discover.concepts", "an example that rows leave out", lambda s: look(s, k=None, known=few(s), rows=lambda batch: torch.arange(40) > 0), Raises(ValueError, "known", "left out")),
    Row("discover.activations", "no layer of that name", lambda s: discover.activations(s.model, [s.x], layer="9"), Raises(ValueError, "9", "layers")),
    Row("discover.activations", "inputs of another width", lambda s: discover.activations(s.model, [s.x[:, :5]], layer="2"), Raises(RuntimeError, "shapes", "5")),
    Row("Discovery", "a batch with an example that was not there", lambda s: found(s)(s.x + 1), Raises(ValueError, "40 of 40", "as they were")),
    Row("Discovery.concept_of", "an index that is not there", lambda s: found(s).concept_of([50]), Raises(ValueError, "indices", "numbered from 0")),
    Row("Discovery.concept_of", "no index", lambda s: found(s).concept_of([]), Raises(ValueError, "indices", "one at least")),
    Row("Discovery.concept_of", "a number", lambda s: found(s).concept_of(3), Raises(TypeError, "indices", "indices of examples")),
    Row("discover.shares", "labels for other rows", lambda s: discover.shares(s.x, torch.arange(3)), Raises(ValueError, "labels", "for each row")),
    Row("discover.shares", "nobody in a concept", lambda s: discover.shares(s.x, torch.full((40,), -1)), Raises(ValueError, "labels", "no example")),
    Row("discover.shares", "NaN", lambda s: discover.shares(s.x * NAN, labels(s)), Raises(ValueError, "columns", "NaN")),
    Row("discover.sharpness", "a vector", lambda s: discover.sharpness(s.x[0], labels(s)), Raises(ValueError, "columns", r"\(examples, d\)")),
    Row("discover.sharpness", "one concept alone", lambda s: discover.sharpness(s.x, torch.zeros(40, dtype=torch.long)), Gives("0: it splits nothing", lambda value, s: value == 0.0)),
]  # fmt: skip
