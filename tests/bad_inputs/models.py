"""Models that are odd in one way each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.bad_inputs import made, small


@made
def frozen() -> nn.Module:
    return small().requires_grad_(False)


@made
def meta() -> nn.Module:
    return small().to("meta")


@made
def quantised() -> nn.Module:
    return nn.Sequential(Int8Linear(6, 8), nn.ReLU())


class Int8Linear(nn.Module):
    """A linear layer that stores codes, as quantising libraries do."""

    def __init__(self, d: int, out: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(out, d, dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.to(x.dtype).T


@made
def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3))


@made
def parametrised() -> nn.Module:
    model = small()
    nn.utils.parametrizations.weight_norm(model[0])
    return model


class Standardised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight - self.weight.mean(), self.bias)


@made
def subclass() -> nn.Module:
    return nn.Sequential(Standardised(6, 8))


@made
def inference() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(nn.Linear(6, 8))


@made
def expanded() -> nn.Module:
    model = small()
    model[0].weight = nn.Parameter(torch.ones(1, 6).expand(8, 6))
    return model


@made
def trained() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 5)).train()


@made
def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False))


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fc(x))


calls_twice = made(CalledTwice)


@made
def shared() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    return model


@made
def shared_by_data() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 6, bias=False))
    model[2].weight.data = model[0].weight.data.T
    return model


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc, self.head = nn.Embedding(5, 6), nn.Linear(6, 6), nn.Linear(6, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(self.embed(x)))


tied = made(Tied)


@made
def compiled() -> nn.Module:
    return torch.compile(small(), backend="eager")


@made
def aot() -> nn.Module:
    """Compiled, and warm for the shapes that come."""
    model = torch.compile(small(), backend="eager")
    with torch.no_grad():
        for n in (15, 25, 40):
            model(torch.zeros(n, 6))
    return model


@made
def compiled_forward() -> nn.Module:
    model = small()
    model.forward = torch.compile(model.forward, backend="eager")
    return model


@made
def wrapped_forward() -> nn.Module:
    model = small()
    old = model.forward
    model.forward = lambda x: old(x)
    return model


@made
def data_parallel() -> nn.Module:
    return nn.DataParallel(small())


@made
def half() -> nn.Module:
    return small().half()


@made
def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(4 * 9, 3))


@made
def sequence_first() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16)


class Uncopyable(nn.Sequential):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("no copies of me")


@made
def uncopyable() -> nn.Module:
    return Uncopyable(*small())
