"""Every layer type against the dense definition: its columns, its matrix, its engram."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor, nn

import engramlib as el
from engramlib._patches import worth_it
from engramlib.layers import LinearKind, find_layers, register
from tests.conftest import columns_of, with_one

CONVOLUTIONS = {
    "plain": dict(kernel_size=3),
    "stride and padding": dict(kernel_size=3, stride=2, padding=1),
    "uneven kernel": dict(kernel_size=(2, 3), stride=(1, 2), padding=(0, 1)),
    "same": dict(kernel_size=4, padding="same"),
    "same, dilated": dict(kernel_size=(3, 2), padding="same", dilation=2),
    "valid": dict(kernel_size=2, padding="valid"),
    "reflect": dict(kernel_size=3, padding=2, padding_mode="reflect"),
    "replicate": dict(kernel_size=3, padding=(1, 2), padding_mode="replicate"),
    "circular": dict(kernel_size=3, padding=1, padding_mode="circular"),
    "same, circular": dict(kernel_size=4, padding="same", padding_mode="circular"),
    "dilated": dict(kernel_size=3, dilation=(2, 1), padding=2),
    "groups": dict(kernel_size=3, groups=2, padding=1),
    "depthwise": dict(kernel_size=3, groups=4, stride=2),
    "pointwise": dict(kernel_size=1),
    "pointwise, strided": dict(kernel_size=1, stride=2),
}
FACTORS = [0.2, 1.0, 3.0, math.inf]


def make(name: str, bias: bool = True, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, int]:
    """A layer, 12 inputs for it, and how many of them are the target."""
    if name == "linear":
        return nn.Linear(7, 4, bias=bias).to(dtype), torch.randn(12, 7, dtype=dtype), 5
    if name == "tokens":
        return nn.Linear(7, 9, bias=bias).to(dtype), torch.randn(12, 5, 7, dtype=dtype), 5
    if name == "huggingface":
        conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D(9, 6).to(dtype)
        nn.init.normal_(conv1d.bias)
        return conv1d, torch.randn(12, 4, 6, dtype=dtype), 5
    return nn.Conv2d(4, 8, bias=bias, **CONVOLUTIONS[name]).to(dtype), torch.randn(12, 4, 7, 8, dtype=dtype), 5


def dense_engram(w: Tensor, plus: Tensor, minus: Tensor, lam: float) -> Tensor:
    """The estimator written out with numpy-style dense algebra, from the columns themselves (as rows)."""
    a, b = plus.mT @ plus, minus.mT @ minus
    if math.isinf(lam):
        values, vectors = torch.linalg.eigh(b)
        v = vectors[:, values <= 1e-6 * values[-1]]
        if v.shape[1] == 0 or (plus @ v).norm() < 1e-8 * plus.norm():
            return torch.zeros_like(w)
        n = v @ v.T
        return w @ a @ n @ torch.linalg.pinv(n @ a @ n, rtol=1e-6, hermitian=True)
    return w @ a @ torch.linalg.pinv(a + lam * b, rtol=1e-6, hermitian=True)


def dense(module: nn.Module, x: Tensor, k: int, lam: float, absorb: bool) -> tuple[Tensor, Tensor | None]:
    """(weight, bias) of the engram of the first k inputs, in the layer's own shapes."""
    transposed = type(module).__name__ == "Conv1D"
    groups = getattr(module, "groups", 1)
    w = (module.weight.T if transposed else module.weight.flatten(1)).detach().double()
    blocks, biases = [], []
    for g in range(groups):
        wg = w.chunk(groups)[g]
        plus, minus = (
            columns_of(module, part)[g] if groups > 1 else columns_of(module, part) for part in (x[:k], x[k:])
        )
        if absorb:
            wg = torch.cat([wg, module.bias.detach().double().chunk(groups)[g][:, None]], 1)
            plus, minus = with_one(plus), with_one(minus)
        e = dense_engram(wg, plus, minus, lam)
        blocks.append(e[:, : w.shape[1]])
        biases.append(e[:, -1])
    weight = torch.cat(blocks)
    return (weight.T if transposed else weight.view(module.weight.shape)), torch.cat(biases) if absorb else None


def close(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> bool:
    return bool((a.double() - b.double()).norm() <= tolerance * b.double().norm() + 1e-12)


@pytest.mark.parametrize("lam", FACTORS)
@pytest.mark.parametrize("bias", ["absorb", "keep", "none"])
@pytest.mark.parametrize("name", ["linear", "tokens", "huggingface", *CONVOLUTIONS])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_engram_equals_the_dense_formula(name: str, bias: str, lam: float) -> None:
    if name == "huggingface" and bias == "none":
        bias = "keep"  # this layer always has one
    module, x, k = make(name, bias=bias != "none")
    mode = "keep" if bias == "none" else bias
    target, reference = el.collect(module, [x[:k]], bias=mode), el.collect(module, [x[k:]], bias=mode)
    engram = el.extract(module, target, reference, specificity=lam)[""]
    weight, offset = dense(module, x, k, lam, absorb=bias == "absorb")
    assert engram.weight.shape == module.weight.shape
    assert close(engram.weight, weight)
    assert (engram.bias is None) == (offset is None)
    assert offset is None or close(engram.bias, offset)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("name", ["tokens", "same, dilated", "groups"])
def test_narrow_models_are_solved_in_float64(name: str, dtype: torch.dtype, tolerance: float) -> None:
    module, x, k = make(name, dtype=dtype)
    if dtype != torch.float32 and isinstance(module, nn.Conv2d):
        module.forward = lambda x: x  # not every CPU has a half-precision convolution; only its input matters here
    target, reference = el.collect(module, [x[:k]]), el.collect(module, [x[k:]])
    engram = el.extract(module, target, reference, specificity=3)[""]
    weight, bias = dense(module, x, k, 3, absorb=True)
    assert engram.weight.dtype == torch.float32
    assert close(engram.weight, weight, 1e-6) and close(engram.bias, bias, 1e-6)
    edited = el.ablate(module, el.Engram({"": engram}))
    assert edited.weight.dtype == dtype and close(edited.weight, module.weight.double() - weight, tolerance)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_its_matrix_times_its_columns(name: str) -> None:
    module, x, _ = make(name)
    layer = find_layers(module)[""]
    matrix = layer.matrix(module.weight, module.bias)
    columns = with_one(columns_of(module, x))
    expected = module(x).detach().flatten(2)  # (n, out, positions)
    z = columns @ matrix.mT  # (n·positions, out) or (groups, n·positions, out)
    z = z if z.ndim == 2 else torch.cat(list(z), -1)
    assert torch.allclose(z.unflatten(0, (len(x), -1)).mT, expected)
    weight, bias = layer.parameters(matrix, absorbed=True)
    assert torch.equal(weight, module.weight) and torch.equal(bias, module.bias)


SIMPLE = [name for name, c in CONVOLUTIONS.items() if c.get("stride", 1) == 1 and c.get("groups", 1) == 1]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", SIMPLE)
def test_correlations_equal_patches(name: str, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortcut of stride 1 is exact wherever it is taken; here it is forced on every kernel and border."""
    module, x, _ = make(name, bias=bias)
    monkeypatch.setattr("engramlib.layers.worth_it", lambda *_: False)
    plain = el.collect(module, [x])
    calls = []
    monkeypatch.setattr("engramlib.layers.worth_it", lambda *_: calls.append(1) or True)
    monkeypatch.setattr(sys.modules["engramlib.collect"], "_PIECE_BYTES", 8000)
    fast = el.collect(module, [x])
    assert calls and fast.count == plain.count
    assert torch.allclose(fast[""], plain[""], rtol=1e-12, atol=1e-10)


def test_the_shortcut_is_taken_where_it_pays() -> None:
    assert worth_it(64, (32, 32), (3, 3), (1, 1)) and worth_it(16, (8, 8), (5, 5), (1, 1))
    assert not worth_it(3, (32, 32), (3, 3), (1, 1))  # few channels: products too thin
    assert not worth_it(64, (2, 2), (3, 3), (1, 1))  # mostly border
    assert not worth_it(64, (32, 32), (1, 1), (1, 1))  # nothing to share
    conv, x = nn.Conv2d(16, 4, 3, padding=1), torch.randn(3, 16, 9, 9)
    columns = with_one(columns_of(conv, x))
    assert torch.allclose(el.collect(conv, [x])[""], columns.T @ columns, rtol=1e-10)


def test_a_single_image_and_a_single_vector_are_batches_of_one() -> None:
    conv, x, _ = make("plain")
    assert torch.allclose(el.collect(conv, [x[0]])[""], el.collect(conv, [x[:1]])[""])
    linear, x, _ = make("linear")
    assert torch.allclose(el.collect(linear, [x[0]])[""], el.collect(linear, [x[:1]])[""])


class TestSelection:
    model = nn.ModuleDict(
        {"block": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "fc1": nn.Linear(2, 2), "norm": nn.LayerNorm(2)}
    )

    def test_suffixes_and_expressions(self) -> None:
        assert list(find_layers(self.model)) == ["block.0", "block.1", "fc1"]
        assert list(find_layers(self.model, ["fc1", "0"])) == ["block.0", "fc1"]
        assert list(find_layers(self.model, r"block\.\d")) == ["block.0", "block.1"]

    @pytest.mark.parametrize("layers", [["c1"], r"bloc", ["fc1", "norm"], "(", []])
    def test_what_matches_nothing_is_an_error(self, layers: object) -> None:
        with pytest.raises(ValueError, match="layers"):
            find_layers(self.model, layers)

    def test_a_model_without_layers(self) -> None:
        with pytest.raises(ValueError, match="no layer of a supported type"):
            find_layers(nn.LayerNorm(3))
        with pytest.raises(TypeError, match="model"):
            find_layers("model")


def test_quantised_and_computed_weights_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match="'1'.*parametrization"):
        find_layers(model)
    assert list(find_layers(model, ["0"])) == ["0"]
    quantised = nn.Linear(2, 2)
    quantised._parameters["weight"] = torch.zeros(2, 2, dtype=torch.int8)
    with pytest.raises(TypeError, match="quantised"):
        find_layers(quantised)
    with pytest.raises(TypeError, match="lazy"):
        find_layers(nn.LazyLinear(3))


def test_a_new_layer_type_is_one_class() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            return 2 * x @ self.weight.T

    class DoubledKind(LinearKind):
        def matches(self, module: nn.Module) -> bool:
            return isinstance(module, Doubled)

        def columns(self, module: nn.Module, x: Tensor) -> Tensor:
            return 2 * x

        def reading(self, module: nn.Module) -> str:
            return "doubled"

    from engramlib import layers

    register(DoubledKind())
    try:
        x = torch.randn(9, 4)
        moments = el.collect(Doubled(), [x])
        assert torch.allclose(moments[""], 4 * x.double().T @ x.double())
    finally:
        del layers._KINDS[0]
