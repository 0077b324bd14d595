"""The copy that is edited computes with its own weights, or there is no copy."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import engramlib as el

Change = Callable[[nn.Sequential], None]
ELSEWHERE: nn.Module | None = None


def compiled_forward(model: nn.Sequential) -> None:
    model.forward = torch.compile(model.forward, backend="eager")


def closure(model: nn.Sequential) -> None:
    old = model.forward
    model.forward = lambda x: old(x) + 1


def wrapped_layer(model: nn.Sequential) -> None:
    @functools.wraps(model[0].forward)
    def forward(x: Tensor, layer: nn.Module = model[0]) -> Tensor:  # a default holds it, too
        return nn.Linear.forward(layer, x)

    model[0].forward = forward


def hook_on_a_layer(model: nn.Sequential) -> None:
    layer = model[0]
    model[2].register_forward_pre_hook(lambda module, args: (args[0] + layer.weight.sum(),))


def a_global(model: nn.Sequential) -> None:
    global ELSEWHERE
    ELSEWHERE = model
    model.forward = lambda x: ELSEWHERE[2](ELSEWHERE[0](x))


def weak(model: nn.Sequential) -> None:
    model.reference = weakref.ref(model[0])


class Shared:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __deepcopy__(self, memo: object) -> Shared:
        return self


def shared_object(model: nn.Sequential) -> None:
    model.helper = {"here": [Shared(model[0].weight)]}


def last_output(model: nn.Sequential) -> None:
    model.last = model(torch.randn(2, 4))  # not a leaf of its graph: torch will not copy it


REFUSED = [compiled_forward, closure, wrapped_layer, hook_on_a_layer, a_global, weak, shared_object, last_output]


def bound(model: nn.Sequential) -> None:
    model.forward = model.forward


def partial(model: nn.Sequential) -> None:
    model.forward = functools.partial(nn.Sequential.forward, model)


def harmless_hook(model: nn.Sequential) -> None:
    model[0].register_forward_hook(lambda module, args, out: 2 * out)


def own_list(model: nn.Sequential) -> None:
    model.parts = [model[0].weight, model[2]]


def in_place(model: nn.Sequential) -> None:
    model.compile(backend="eager")


FINE = [bound, partial, harmless_hook, own_list, in_place]


def net() -> tuple[nn.Sequential, el.Engram, Tensor]:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), torch.randn(30, 4)
    return model, el.extract(model, el.collect(model, [x[:10]]), el.collect(model, [x[10:]])), x


@pytest.mark.parametrize("change", REFUSED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("call", [el.ablate, el.inject, el.null_state], ids=lambda f: f.__name__)
def test_a_copy_that_would_run_the_originals_weights_is_refused(change: Change, call: Callable[..., object]) -> None:
    torch._dynamo.reset()
    model, engram, _ = net()
    change(model)
    with pytest.raises(TypeError, match=r"inplace=True.*edited"):
        call(model, engram)


@pytest.mark.parametrize("change", [*REFUSED, *FINE], ids=lambda f: f.__name__)
def test_editing_the_model_itself_always_edits(change: Change) -> None:
    torch._dynamo.reset()
    model, engram, x = net()
    change(model)
    with torch.no_grad():
        before = model(x)
        with el.edited(model, -engram):
            inside = model(x)
        assert torch.equal(model(x), before) and not torch.allclose(inside, before)
        assert torch.equal(el.sweep(model, engram, [1.0], lambda m: m(x))[0], inside)
        assert torch.equal(el.ablate(model, engram, inplace=True)(x), inside)


@pytest.mark.parametrize("change", FINE, ids=lambda f: f.__name__)
def test_a_real_copy_is_edited_alone(change: Change) -> None:
    torch._dynamo.reset()
    model, engram, x = net()
    change(model)
    with torch.no_grad():
        before = model(x)
        edited = el.ablate(model, engram)(x)
        assert torch.equal(model(x), before)
        with el.edited(model, -engram):
            assert torch.allclose(model(x), edited, atol=1e-6)
