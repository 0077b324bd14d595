"""Multilayer perceptrons."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn


def mlp(sizes: Sequence[int], *, bias: bool = True, seed: int = 0) -> nn.Sequential:
    """A ReLU network with layers fc1, relu1, fc2, ..., the last one linear.

    `sizes` = widths from input to output: `mlp([784, 500, 100, 10], bias=False)` is the paper's (Fig. 11).
    Input N x sizes[0], output N x sizes[-1] logits. `seed` fixes the weights and leaves torch's own
    random state as it was.

    >>> mlp([64, 256, 10])
    Sequential(
      (fc1): Linear(in_features=64, out_features=256, bias=True)
      (relu1): ReLU()
      (fc2): Linear(in_features=256, out_features=10, bias=True)
    )
    """
    if len(sizes) < 2 or any(int(s) != s or s < 1 for s in sizes):
        raise ValueError(f"mlp: sizes needs at least two positive widths, input and output; got {list(sizes)}.")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for i, (d_in, d_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True), start=1):
            layers[f"fc{i}"] = nn.Linear(d_in, d_out, bias=bias)
            if i < len(sizes) - 1:
                layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)
