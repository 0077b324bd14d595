"""Edits: exact, undone, and refused when they do not fit."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import engramlib as el
from engramlib.edit import shifted
from tests.conftest import bits, same


@pytest.fixture
def pair(mlp: nn.Sequential) -> tuple[nn.Sequential, el.Engram]:
    x = torch.randn(60, 6)
    return mlp, el.extract(mlp, el.collect(mlp, [x[:20]]), el.collect(mlp, [x[20:]]))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def test_ablate_subtracts_and_leaves_the_model_alone(pair: tuple[nn.Sequential, el.Engram]) -> None:
    model, engram = pair
    before = state(model)
    result = el.ablate(model, engram, 0.6)
    assert equal(before, state(model)) and result is not model
    for name in engram:
        assert torch.allclose(
            result.get_parameter(f"{name}.weight"), before[f"{name}.weight"] - 0.6 * engram[name].weight
        )
        assert torch.allclose(result.get_parameter(f"{name}.bias"), before[f"{name}.bias"] - 0.6 * engram[name].bias)


def test_inject_undoes_ablate(pair: tuple[nn.Sequential, el.Engram]) -> None:
    model, engram = pair
    again = state(el.inject(el.ablate(model, engram, 1.7), engram, 1.7))
    assert all(torch.allclose(again[k], v, atol=1e-6) for k, v in state(model).items())


def test_inplace_and_strength_per_layer(pair: tuple[nn.Sequential, el.Engram]) -> None:
    model, engram = pair
    expected = state(el.ablate(model, engram.scaled({"0": 0.0, "2": 2.0})))
    assert el.ablate(model, engram, {"0": 0.0, "2": 2.0, "4": 1.0}, inplace=True) is model
    assert all(torch.allclose(v, expected[k]) for k, v in state(model).items())


def test_null_state_and_sufficiency(pair: tuple[nn.Sequential, el.Engram]) -> None:
    model, engram = pair
    null = el.null_state(model, engram.select(["2"]))
    assert null[2].weight.abs().sum() == 0 == null[2].bias.abs().sum() and torch.equal(null[0].weight, model[0].weight)
    injected = el.inject(el.null_state(model, engram), engram)
    assert torch.allclose(injected[0].weight, engram["0"].weight)
    keep = el.Engram({"2": (engram["2"].weight, None)})
    assert torch.equal(
        el.null_state(model, keep)[2].bias, model[2].bias
    )  # a bias that was kept is not part of the memory


def test_edited_restores_every_bit(pair: tuple[nn.Sequential, el.Engram]) -> None:
    model, engram = pair
    before, x = state(model), torch.randn(3, 6)
    with el.edited(model, -0.5 * engram) as inside:
        assert inside is model
        assert torch.allclose(model(x), el.ablate(el.inject(model, engram, 0.5), engram, 0.5)(x), atol=1e-6)
        outer = state(model)
        with el.edited(model, 3 * engram):
            assert not equal(outer, state(model))
        assert equal(outer, state(model))
    assert equal(before, state(model))
    with pytest.raises(KeyError, match="inside"), el.edited(model, engram):
        raise KeyError("inside")
    assert equal(before, state(model))


def test_edited_restores_after_a_failing_edit(
    pair: tuple[nn.Sequential, el.Engram], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, engram = pair
    before = state(model)
    broken = el.Engram({**engram, "4": (engram["4"].weight, torch.ones(7))})
    with pytest.raises(ValueError, match="'4'.*bias"), el.edited(model, broken):
        pass
    with pytest.raises(ValueError, match="'4'.*bias"):
        el.ablate(model, broken, inplace=True)
    assert equal(before, state(model))


def test_half_precision_is_rounded_once() -> None:
    model = nn.Linear(4, 3, bias=False).bfloat16()
    delta = el.Engram({"": (torch.full((3, 4), 1e-3), None)})
    small = el.Engram({"": (torch.full((3, 4), 1e-3 / 1000), None)})
    exact = (model.weight.float() - 1e-3).bfloat16()
    assert torch.equal(el.ablate(model, delta).weight, exact)
    assert torch.equal(el.ablate(model, sum([small] * 1000)).weight, exact)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda(pair: tuple[nn.Sequential, el.Engram]) -> None:
    model, engram = pair
    x = torch.randn(50, 6)
    on_gpu = copy.deepcopy(model).cuda()
    moments = el.collect(on_gpu, [x])
    assert moments["0"].is_cuda
    found = el.extract(on_gpu, moments, moments)
    expected = el.extract(model, el.collect(model, [x]), el.collect(model, [x]))
    assert torch.allclose(found["4"].weight.cpu(), expected["4"].weight, rtol=1e-3, atol=1e-5)
    assert el.ablate(on_gpu, engram)[0].weight.is_cuda


class TestErrors:
    @pytest.mark.parametrize("alpha", [math.nan, math.inf, True, {"0": 1.0}, {"0": 1.0, "2": 1.0, "4": 1.0, "9": 1.0}])
    def test_alpha(self, pair: tuple[nn.Sequential, el.Engram], alpha: object) -> None:
        with pytest.raises(ValueError, match="alpha"):
            el.ablate(*pair, alpha)

    @pytest.mark.parametrize(
        "function", [el.ablate, el.inject, el.null_state, lambda m, e: el.edited(m, e).__enter__()]
    )
    def test_an_engram_of_another_model(self, pair: tuple[nn.Sequential, el.Engram], function: object) -> None:
        model, engram = pair
        before = state(model)
        with pytest.raises(ValueError, match="another model"):
            function(model, el.Engram({**engram, "fc": engram["0"]}))
        with pytest.raises(ValueError, match="layer '0'.*another model"):
            function(model, el.Engram({**engram, "0": (torch.ones(2, 2), None)}))
        with pytest.raises(TypeError, match=r"expected an Engram.*sum\(engrams"):
            function(model, {0: engram})
        with pytest.raises(TypeError, match="model"):
            function("model", engram)
        assert equal(before, state(model))

    def test_two_layers_with_one_weight(self) -> None:
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        model[1].weight = model[0].weight
        one = (torch.ones(3, 3), None)
        with pytest.raises(ValueError, match="'0' and '1' share one weight"):
            el.ablate(model, el.Engram({"0": one, "1": one}))
        assert el.ablate(model, el.Engram({"0": one}))[0].weight is not model[0].weight


def test_a_tied_embedding_is_named() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    with pytest.warns(UserWarning, match="'head' shares its weight with embed"):
        el.ablate(Tied(), el.Engram({"head": (torch.ones(5, 3), None)}))


def test_a_module_with_two_names_is_no_tie(recwarn: pytest.WarningsRecorder) -> None:
    layer = nn.Linear(3, 3)
    el.ablate(nn.Sequential(layer, layer), el.Engram({"0": (torch.ones(3, 3), torch.ones(3))}))
    assert not recwarn.list


def test_what_cannot_be_edited_is_refused(pair: tuple[nn.Sequential, el.Engram]) -> None:
    model, engram = pair
    before = state(model)
    with pytest.raises(ValueError, match="'0'.*NaN"):
        el.ablate(model, engram * float("nan"), inplace=True)
    assert equal(before, state(model))
    nn.utils.parametrize.register_parametrization(model[0], "bias", nn.Tanh())
    with pytest.raises(TypeError, match="'0' computes its bias"):
        el.ablate(model, engram)
    for alpha in ("x", None, 1j, torch.ones(2)):
        with pytest.raises(ValueError, match="alpha"):
            el.ablate(model, engram, alpha)


# ------------------------------------------------------------------------------------------- one memory, two names


def _data(a: nn.Linear, b: nn.Linear) -> None:
    b.weight.data = a.weight.data


def _transpose(a: nn.Linear, b: nn.Linear) -> None:
    b.weight = nn.Parameter(a.weight.data.T)


def _view(a: nn.Linear, b: nn.Linear) -> None:
    b.weight = nn.Parameter(a.weight.data.view(-1)[: b.weight.numel()].view_as(b.weight))


def _same(a: nn.Linear, b: nn.Linear) -> None:
    b.weight = a.weight


@pytest.mark.parametrize("tie", [_data, _transpose, _view, _same], ids=lambda f: f.__name__.strip("_"))
def test_ties_are_seen_in_memory(tie: Callable[[nn.Linear, nn.Linear], None]) -> None:
    """Two edits of one memory would add up: refused. An edit of one layer that reaches another is said."""
    model, x = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)), torch.randn(30, 4)
    tie(*model)
    engram = el.extract(model, el.collect(model, [x[:9]]), el.collect(model, [x[9:]]))
    before = bits(model)
    with pytest.raises(ValueError, match="'0' and '1' share one weight"):
        el.ablate(model, engram, inplace=True)
    assert same(bits(model), before)
    with pytest.warns(UserWarning, match="'0' shares its weight with 1"):
        edited = el.ablate(model, engram.select(["0"]))
    assert not torch.equal(edited[1].weight, model[1].weight)  # it does reach further
    with pytest.warns(UserWarning, match="'0' shares"), el.edited(model, engram.select(["0"])):
        pass
    assert same(bits(model), before)


def test_an_output_layer_tied_by_data_is_left_out_too() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False))
    model[2].weight.data = model[0].weight.data
    assert list(el.collect(model, [torch.arange(7)])) == ["1"]


def test_neighbours_in_one_storage_are_not_tied() -> None:
    """Weights that are slices of one buffer (a flat checkpoint, an attention's q, k and v) do not overlap."""
    flat = torch.randn(32)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    for number, layer in enumerate(model):
        layer.weight.data = flat[16 * number : 16 * (number + 1)].view(4, 4)
    x = torch.randn(30, 4)
    engram = el.extract(model, el.collect(model, [x[:9]]), el.collect(model, [x[9:]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        el.ablate(model, engram)


# ---------------------------------------------------------------------------------------------------- all or nothing


def test_a_failed_edit_in_place_changes_nothing(monkeypatch: pytest.MonkeyPatch, mlp: nn.Sequential) -> None:
    x = torch.randn(60, 6)
    engram = el.extract(mlp, el.collect(mlp, [x[:20]]), el.collect(mlp, [x[20:]]))
    before, copies = bits(mlp), 0

    def interrupted(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
        nonlocal copies
        copies += 1
        if copies == 3:
            raise KeyboardInterrupt
        return torch.float64

    with monkeypatch.context() as patch:
        patch.setattr(torch, "promote_types", interrupted)
        with pytest.raises(KeyboardInterrupt):
            el.ablate(mlp, engram, inplace=True)
    assert copies == 3 and same(bits(mlp), before)
    with pytest.raises(ZeroDivisionError):
        el.sweep(mlp, engram, [0.5, 1.0], lambda model: 1 / 0)
    assert same(bits(mlp), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("way", ["copy", "in place", "edited", "sweep", "own copy"])
def test_no_way_of_editing_leaves_the_range(way: str, dtype: torch.dtype) -> None:
    """Also where the sum is written over what it started from."""
    model = nn.Linear(3, 3, bias=False).to(dtype)
    before, change = model.weight.detach().clone(), torch.full((3, 3), torch.finfo(dtype).max, dtype=dtype)
    engram = el.Engram({"": (change, None)})
    calls: dict[str, Callable[[], object]] = {
        "copy": lambda: el.ablate(model, engram, 4.0),
        "in place": lambda: el.inject(model, engram, 4.0, inplace=True),
        "edited": lambda: el.edited(model, 4.0 * (0.5 * engram)).__enter__(),
        "sweep": lambda: el.sweep(model, engram, [0.0, 4.0], lambda m: None),
        "own copy": lambda: shifted(copy.deepcopy(model), engram, 4.0, 1, inplace=True, undo=False),
    }
    with pytest.raises(ValueError, match="range of|infinite"):
        calls[way]()
    assert torch.equal(model.weight, before)


def test_an_edit_out_of_range_is_refused(mlp: nn.Sequential) -> None:
    half, before = mlp.half(), bits(mlp.half())
    engram = el.Engram({"0": (torch.ones(8, 6), None)})
    with pytest.raises(ValueError, match=r"alpha.*layer '0'.*float16"):
        el.ablate(half, engram, 1e6, inplace=True)
    assert same(bits(half), before)


def test_a_sweep_is_the_copies_that_it_saves(mlp: nn.Sequential) -> None:
    x = torch.randn(60, 6)
    engram = el.extract(mlp, el.collect(mlp, [x[:20]]), el.collect(mlp, [x[20:]]))
    alphas = [0.0, 0.3, 1.0, -2.0, {"0": 1.0, "2": 0.0, "4": 2.0}]
    before = bits(mlp)
    found = el.sweep(mlp, engram, alphas, lambda model: model(x).detach())
    assert same(bits(mlp), before)
    for alpha, output in zip(alphas, found, strict=True):
        assert torch.equal(output, el.ablate(mlp, engram, alpha)(x))
    with pytest.raises(ValueError, match="alpha"):
        el.sweep(mlp, engram, [1.0, float("nan")], lambda model: pytest.fail("measured before all were checked"))
    with pytest.raises(TypeError, match="measure"):
        el.sweep(mlp, engram, [1.0], "loss")


def test_weights_that_cannot_be_written_are_named() -> None:
    with torch.inference_mode():
        model = nn.Linear(4, 3)
    with pytest.raises(TypeError, match="inference_mode"):
        el.ablate(model, el.Engram({"": (torch.ones(3, 4), None)}), inplace=True)
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(torch.zeros(1, 4).expand(3, 4))
    with pytest.raises(TypeError, match="expanded"):
        el.collect(model, [torch.ones(2, 4)])


def test_edits_act_inside_autocast(mlp: nn.Sequential) -> None:
    """autocast keeps casts of the weights, which an edit of the weights must not leave in use."""
    x = torch.randn(60, 6)
    engram = el.extract(mlp, el.collect(mlp, [x[:20]]), el.collect(mlp, [x[20:]]))
    expected = {alpha: el.ablate(mlp, engram, alpha)(x) for alpha in (0.0, 1.0)}
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        mlp(x)
        before = mlp(x)
        with el.edited(mlp, -engram):
            inside = mlp(x)
        after = mlp(x)
        swept = el.sweep(mlp, engram, [0.0, 1.0], lambda model: model(x))
        nothing = el.null_state(mlp, engram, inplace=True)(x)
    assert torch.equal(before, after) and torch.equal(swept[0], before) and torch.equal(swept[1], inside)
    for alpha, output in ((0.0, before), (1.0, inside)):
        assert torch.allclose(output.float(), expected[alpha], atol=0.05)
    assert not nothing.any() and (before.float() - inside.float()).norm() > 0.1 * before.float().norm()


def test_messages_name_what_is_odd(pair: tuple[nn.Sequential, el.Engram]) -> None:
    model, engram = pair
    with pytest.raises(ValueError, match="the engram; 9 is only in one of them"):
        el.ablate(model, engram, dict.fromkeys((*engram, "9"), 1.0))
    with pytest.raises(ValueError, match="the engram; 2 is only in one of them"):
        el.ablate(model, engram, {"0": 1.0, "4": 1.0})
    for weight, what in ((torch.ones(8, 6) * 1j, "complex"), (torch.ones(8, 6, device="meta"), "not in memory")):
        with pytest.raises(TypeError, match=f"'0': the engram's weight .*{what}"):
            el.ablate(model, el.Engram({"0": (weight, None)}))


@pytest.mark.parametrize(
    "view", [lambda w: w, lambda w: w.T, lambda w: w.view(9).view(3, 3)], ids=["same", "T", "view"]
)
@pytest.mark.parametrize("way", ["ablate", "edited", "sweep", "null_state"])
def test_an_engram_made_of_the_weights_themselves_is_refused_in_place(
    view: Callable[[torch.Tensor], torch.Tensor], way: str
) -> None:
    """It would change with them: the second step of a sweep, and every undo by arithmetic, would be wrong."""
    model = nn.Linear(3, 3, bias=False)
    before, engram = model.weight.detach().clone(), el.Engram({"": (view(model.weight.detach()), None)})
    with pytest.raises(ValueError, match=r"own memory.*clone"):
        if way == "edited":
            el.edited(model, engram).__enter__()
        elif way == "sweep":
            el.sweep(model, engram, [0.0, 1.0, 2.0], lambda m: float(m.weight.sum()))
        else:
            getattr(el, way)(model, engram, inplace=True)
    assert torch.equal(model.weight, before)
    assert torch.equal(el.ablate(model, engram).weight, before - view(before))  # a copy has memory of its own
