"""Does a layer compute what its stored weight says? Compared on the first input that it reads, in every pass."""

from __future__ import annotations

import torch
from torch import Tensor

from engramlib.layers import Layer

_ROWS = 8  # inputs of a layer that reads vectors; of one that reads images, one
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}  # half precision: 3e-2


def check_reading(layer: Layer, x: Tensor, output: object) -> bool:
    """Raise ``TypeError`` unless the layer's output is W·columns (+ b), up to the rounding of its precision.

    Returns whether there was anything to compare.

    A subclass of ``nn.Linear`` may mask, standardise or fake-quantise its weight in ``forward``, or pad its input: then
    W, as it is stored, is not what acts on the columns, and an engram of it would be a wrong number.

    Cost: the layer once more, on 8 vectors or one image.
    """
    kind, module = layer.kind, layer.module
    if not isinstance(output, Tensor):
        raise TypeError(_message(layer, f"it returns {type(output).__name__}, not a tensor"))
    base = kind.example_ndim(module)
    if x.ndim == (base or 1):
        x, output = x[None], output[None]
    if base is None:
        if x.shape[:-1] != output.shape[:-1]:
            shapes = f"it turned an input of shape {tuple(x.shape)} into an output of shape {tuple(output.shape)}"
            raise TypeError(_message(layer, shapes))
        x, output = x.flatten(0, -2)[:_ROWS], output.flatten(0, -2)[:_ROWS]
    else:
        x, output = x[:1], output[:1]
    if not x.numel() or not (x.isfinite().all() and output.isfinite().all()):
        return False  # nothing to see, or an error of its own
    dtype = torch.promote_types(layer.weight.dtype, torch.float32)
    columns = kind.columns(module, x).to(dtype)
    weight = kind.matrix(module, layer.weight.detach()).to(dtype)
    z = (columns.unsqueeze(-2) @ weight.mT).squeeze(-2) if weight.ndim == 3 else columns @ weight.mT
    if layer.has_bias and layer.bias is not None:
        z = z + layer.bias.detach().to(dtype).reshape(weight.shape[:-1])
    try:
        ours = kind.outputs(module, z, x, output.shape)
    except RuntimeError:
        raise TypeError(_message(layer, f"its output has shape {tuple(output.shape)}")) from None
    if ours is None:
        return True
    gap = float((ours - output.to(dtype)).norm())
    size = float(output.to(dtype).norm())
    # Where large terms cancel, rounding is relative to the terms.
    noise = 10 * torch.finfo(dtype).eps * float(columns.norm()) * float(weight.norm())
    if gap > _tolerance(layer, x, output) * size + noise:
        raise TypeError(
            _message(layer, f"on the first batch its output differs from that by {gap / (size or gap):.1%}")
        )
    return True


def _tolerance(layer: Layer, x: Tensor, output: Tensor) -> float:
    coarse = max((_TOLERANCE.get(t.dtype, 3e-2) for t in (layer.weight, x, output)), default=3e-2)
    return max(coarse, 1e-2) if x.device.type == "cuda" else coarse  # TF32


def _message(layer: Layer, what: str) -> str:
    return (
        f"layer {layer.name!r} ({type(layer.module).__name__}) does not compute W x + b with the weight that it stores:"
        f" {what}. It seems to change its weight or its input in `forward` (a mask, weight standardisation, fake"
        " quantisation, padding of its own?), so an engram of the stored weight would be wrong; put a plain layer with"
        " the weight that it really uses in its place, teach the package this type (engramlib.layers.register), or"
        " choose other layers with `layers`"
    )
