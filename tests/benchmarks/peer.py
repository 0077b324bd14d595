"""The authors' package, ai-engram 0.11 (PyPI), called so that it computes the same thing from the same batches.

It is installed for ``make bench`` only, into ``_build/peer``, and no test needs it. What is set:

- ``condition_cap=1e6``, our ``rcond=1e-6``; its own default, d · 1.2e-7, cuts elsewhere and costs the same.
- Everything else as it comes: sums in float32, factorised in float64, layers that read one tensor share a product and
  a factorisation, statistics on the model's device.
- Its total is collected over all data, as its documentation does it: a total merged from parts shares nothing any more
  and would be factorised once for each layer.

Its P is W Σ⁺Σ† of means; times the ratio of counts, its default scaling, it is our W⁺.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from typing import Any

import torch

import engramlib as el
from tests.benchmarks.models import Batch, Scene

CAP = 1e6


def version() -> str | None:
    """Which version there is, None if none."""
    if importlib.util.find_spec("engram") is None:
        return None
    try:
        return metadata.version("ai-engram")
    except metadata.PackageNotFoundError:  # another package of that name
        return None


class Peer:
    """The calls that are timed."""

    def __init__(self, scene: Scene) -> None:
        from engram import EditorConfig, EngramEditor

        self.scene = scene
        self.editor = EngramEditor(scene.model, EditorConfig())

    def inputs(self, batch: Batch) -> Any:
        return {"input_ids": batch["input_ids"]} if self.scene.language else batch[0]

    def collect(self, batches: list[Batch], layers: list[str]) -> Any:
        return self.editor.collect_statistics(batches, target_modules=layers, batch_fn=self.inputs)

    def extract(self, target: Any, total: Any) -> Any:
        return self.editor.compute_engram_weights(target, total, condition_cap=CAP)

    def apply(self, engram: Any, alpha: float) -> None:
        self.editor.apply(engram, alpha=alpha, inplace=True)

    def forget(self, forget: list[Batch], everything: list[Batch], layers: list[str]) -> Any:
        """Collect twice, extract, edit a copy, with the strengths that ours has by default (α_W-Norm)."""
        from engram.scaling import compose, count_ratio, weight_norm

        engram = self.extract(self.collect(forget, layers), self.collect(everything, layers))
        return self.editor.apply(engram, scale=compose(count_ratio(1.0), weight_norm(1.0)))


def as_ours(theirs: Any) -> dict[str, Any]:
    """Their engram in our scale: layer -> W⁺."""
    return {name: layer.projection * (layer.n / layer.N) for name, layer in theirs.layers.items()}


def gap(ours: el.Engram, theirs: Any) -> float:
    """The largest relative difference (Frobenius) of a layer's engram."""
    if set(ours) != set(theirs.layers):
        raise ValueError(f"other layers: {sorted(set(ours) ^ set(theirs.layers))[:4]}")
    return max(relative(other, ours[name].weight) for name, other in as_ours(theirs).items())


def model_gap(ours: torch.nn.Module, theirs: torch.nn.Module, before: torch.nn.Module) -> float:
    """The largest relative difference of what two edits did to a parameter."""
    state = [dict(model.named_parameters()) for model in (ours, theirs, before)]
    edits = [(state[0][n] - w, state[1][n] - w) for n, w in state[2].items() if not torch.equal(state[0][n], w)]
    return max(relative(b.detach(), a.detach()) for a, b in edits)


def relative(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found.double() - right.double()).norm() / right.double().norm())
