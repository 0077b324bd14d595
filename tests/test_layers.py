"""Every layer type against the dense definition: its columns, its matrix, its engram."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import engramlib as el
from engramlib import _recorder
from engramlib._attention import projections
from engramlib._patches import worth_it
from engramlib.layers import Layer, LinearKind, find_layers, kind_of, register
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
SEQUENCES = {
    "1d": dict(kernel_size=3, stride=2, padding=1),
    "1d, groups": dict(kernel_size=2, groups=2, dilation=2),
    "1d, same, circular": dict(kernel_size=4, padding="same", padding_mode="circular"),
    "1d, reflect": dict(kernel_size=3, padding=2, padding_mode="reflect"),
    "1d, pointwise": dict(kernel_size=1),
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
    if name in SEQUENCES:
        return nn.Conv1d(4, 6, bias=bias, **SEQUENCES[name]).to(dtype), torch.randn(12, 4, 9, dtype=dtype), 5
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
@pytest.mark.parametrize("name", ["linear", "tokens", "huggingface", *CONVOLUTIONS, *SEQUENCES])
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


class StackedExperts(nn.Module):
    """Three experts in stacked parameters, as transformers 5 stores them: gated or not, transposed or not, biases."""

    def __init__(self, gated: bool, transposed: bool, bias: bool) -> None:
        super().__init__()
        self.first = "gate_up_proj" if gated else "up_proj"
        self.is_transposed, self.has_gate, self.act_fn = transposed, gated, nn.SiLU()
        for name, shape in ((self.first, (5 * (1 + gated), 4)), ("down_proj", (4, 5))):
            self.register_parameter(
                name, nn.Parameter(torch.randn(3, *(shape[::-1] if transposed else shape)).double())
            )
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.randn(3, shape[0]).double()) if bias else None)

    def linear(self, name: str, e: int) -> tuple[Tensor, Tensor | None]:
        """(W, b) of one expert, out × in."""
        weight, bias = getattr(self, name)[e].detach(), getattr(self, f"{name}_bias")
        return weight.T if self.is_transposed else weight, None if bias is None else bias[e].detach()

    def columns(self, x: Tensor, index: Tensor, e: int) -> tuple[Tensor, Tensor]:
        """What the two projections of one expert read."""
        x = x[(index == e).any(-1)]
        w, b = self.linear(self.first, e)
        z = x @ w.T + (0 if b is None else b)
        if not self.has_gate:
            return x, self.act_fn(z)
        gate, up = z.chunk(2, -1)
        return x, self.act_fn(gate) * up

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        out = torch.zeros_like(hidden_states)
        for e in range(3):
            w, b = self.linear("down_proj", e)
            z = self.columns(hidden_states, top_k_index, e)[1] @ w.T + (0 if b is None else b)
            weights = (top_k_weights * (top_k_index == e)).sum(-1)[(top_k_index == e).any(-1)]
            out[(top_k_index == e).any(-1)] += weights[:, None] * z
        return out


@pytest.mark.parametrize("lam", FACTORS)
@pytest.mark.parametrize("bias", ["absorb", "keep", "none"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_fused_experts_equal_the_dense_formula(gated: bool, transposed: bool, bias: str, lam: float) -> None:
    module = StackedExperts(gated, transposed, bias != "none")
    x, index = torch.randn(40, 4).double(), torch.stack([torch.randperm(3)[:2] for _ in range(40)])
    how = dict(forward=lambda m, b: m(*b), bias="keep" if bias == "none" else bias)
    parts = [(x[:15], index[:15], torch.rand(15, 2).double()), (x[15:], index[15:], torch.rand(25, 2).double())]
    target, reference = (el.collect(module, [part], **how) for part in parts)
    engram = el.extract(module, target, reference, specificity=lam)
    assert list(engram) == [f"{e}.{name}" for e in range(3) for name in (module.first, "down_proj")]
    edited = el.ablate(module, engram, 0.5)
    for e in range(3):
        for number, name in enumerate((module.first, "down_proj")):
            (w, b), (now, offset) = module.linear(name, e), edited.linear(name, e)
            plus, minus = (module.columns(*part[:2], e)[number] for part in parts)
            assert target.count[f"{e}.{name}"] == len(plus)
            if bias == "absorb":
                w, plus, minus = torch.cat([w, b[:, None]], 1), with_one(plus), with_one(minus)
                now = torch.cat([now, offset[:, None]], 1)
            assert close(w - now, 0.5 * dense_engram(w, plus, minus, lam), 1e-5)
            assert bias != "keep" or torch.equal(b, offset)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("name", ["tokens", "same, dilated", "groups"])
def test_narrow_models_are_solved_in_float64(name: str, dtype: torch.dtype, tolerance: float) -> None:
    module, x, k = make(name, dtype=dtype)
    if dtype != torch.float32 and isinstance(module, nn.Conv2d):  # not every CPU has a half-precision convolution
        wide = [None if t is None else t.float() for t in (module.weight, module.bias)]
        module.forward = lambda x: nn.Conv2d._conv_forward(module, x.float(), *wide).to(dtype)
    target, reference = el.collect(module, [x[:k]]), el.collect(module, [x[k:]])
    engram = el.extract(module, target, reference, specificity=3)[""]
    weight, bias = dense(module, x, k, 3, absorb=True)
    assert engram.weight.dtype == torch.float32
    assert close(engram.weight, weight, 1e-6) and close(engram.bias, bias, 1e-6)
    module.__dict__.pop("forward", None)  # a copy would still run it with this module's weights
    edited = el.ablate(module, el.Engram({"": engram}))
    assert edited.weight.dtype == dtype and close(edited.weight, module.weight.double() - weight, tolerance)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", [*CONVOLUTIONS, *SEQUENCES])
def test_a_convolution_is_its_matrix_times_its_columns(name: str) -> None:
    module, x, _ = make(name)
    layer = find_layers(module)[""]
    matrix = layer.matrix(module.weight, module.bias)
    columns = with_one(columns_of(module, x))
    own = layer.kind.columns(module, x)  # (n, positions, d) or (n, positions, groups, d)
    own = own.flatten(0, 1) if own.ndim == 3 else own.flatten(0, 1).transpose(0, 1)
    assert torch.equal(own, columns[..., :-1])
    expected = module(x).detach().flatten(2)  # (n, out, positions)
    z = columns @ matrix.mT  # (n·positions, out) or (groups, n·positions, out)
    z = z if z.ndim == 2 else torch.cat(list(z), -1)
    assert torch.allclose(z.unflatten(0, (len(x), -1)).mT, expected)
    weight, bias = layer.parameters(matrix, absorbed=True)
    assert torch.equal(weight, module.weight) and torch.equal(bias, module.bias)


SIMPLE = [
    name for name, c in {**CONVOLUTIONS, **SEQUENCES}.items() if c.get("stride", 1) == 1 and c.get("groups", 1) == 1
]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", SIMPLE)
def test_correlations_equal_patches(name: str, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortcut of stride 1 is exact wherever it is taken; here it is forced on every kernel and border."""
    module, x, _ = make(name, bias=bias)
    monkeypatch.setattr("engramlib.kinds.worth_it", lambda *_: False)
    plain = el.collect(module, [x])
    calls = []
    monkeypatch.setattr("engramlib.kinds.worth_it", lambda *_: calls.append(1) or True)
    monkeypatch.setattr(_recorder, "_PIECE_BYTES", 8000)
    fast = el.collect(module, [x])
    assert calls and fast.count == plain.count
    assert torch.allclose(fast[""], plain[""], rtol=1e-12, atol=1e-10)


def test_the_shortcut_is_taken_where_it_pays() -> None:
    assert worth_it(64, 9, (32, 32), (3, 3), (1, 1)) and worth_it(32, 99, (8, 8), (5, 5), (1, 1))
    assert not worth_it(3, 99, (32, 32), (3, 3), (1, 1))  # few channels: products too thin
    assert not worth_it(64, 999, (2, 2), (3, 3), (1, 1))  # mostly border
    assert not worth_it(64, 99, (32, 32), (1, 1), (1, 1))  # nothing to share
    assert not worth_it(64, 6, (8, 8), (3, 3), (1, 1))  # too few patches for so large a Σ
    conv, x = nn.Conv2d(32, 4, 3, padding=1), torch.randn(13, 32, 18, 18)
    columns = with_one(columns_of(conv, x))
    expected = columns.T @ columns
    assert torch.allclose(el.collect(conv, [x], exact=True)[""], expected, rtol=1e-10)
    assert torch.allclose(el.collect(conv, [x])[""], expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("exact", [True, False])
def test_what_is_left_of_a_batch_for_the_shortcut_is_counted_once(exact: bool) -> None:
    """A last part too small for the correlations goes through its patches, and the parts before it do not again."""
    conv = nn.Conv2d(64, 4, 3, padding=1)
    for n in (64, 65, 66, 129):
        x = torch.randn(n, 64, 32, 32)
        moments = el.collect(conv, [x], exact=exact)
        assert moments.count == {"": n * 1024}
        assert float(moments[""][-1, -1]) == n * 1024
        energy = float(F.unfold(x.double(), 3, padding=1).square().sum())
        assert float(moments[""].trace()) == pytest.approx(energy + n * 1024, rel=1e-6)


def check_engram(
    module: nn.Module, halves: list[Tensor], matrix: Tensor, columns: list[Tensor], lam: float, **options: object
) -> el.Engram:
    """Moments and engram against the dense ones of each group, matrix (groups, out, d), columns (groups, n, d)."""
    target, reference = (el.collect(module, [x], **options) for x in halves)
    for moments, x in zip((target, reference), columns, strict=True):
        sigma = moments[""] if moments[""].ndim == 3 else moments[""][None]
        assert torch.allclose(sigma, x.mT @ x, rtol=1e-10, atol=1e-10) and moments.count[""] == x.shape[1]
    engram = el.extract(module, target, reference, specificity=lam)
    expected = torch.stack([dense_engram(*parts, lam) for parts in zip(matrix, *columns, strict=True)])
    layer = find_layers(module, options.get("layers"))[""]
    found = layer.matrix(*engram[""])
    assert torch.allclose(found if found.ndim == 3 else found[None], expected, rtol=1e-8, atol=1e-10)
    again = el.inject(el.ablate(module, engram), engram)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(again.parameters(), module.parameters(), strict=True))
    x = halves[0]
    assert not torch.allclose(el.ablate(module, engram)(x), module(x))
    return engram


TRANSPOSED = {
    "plain": dict(kernel_size=3),
    "strided": dict(kernel_size=(3, 2), stride=2, padding=1, output_padding=(1, 0)),
    "no overlap": dict(kernel_size=2, stride=2),
    "dilated": dict(kernel_size=(2, 3), dilation=(3, 1), stride=(1, 2), output_padding=(2, 1)),
    "groups": dict(kernel_size=3, groups=2, stride=2, padding=(0, 1)),
    "depthwise": dict(kernel_size=2, groups=4),
    "1d": dict(kernel_size=3, stride=2, padding=1, output_padding=1),
}


def transposed(name: str, bias: bool = True) -> tuple[nn.Module, list[Tensor]]:
    kind, shape = (nn.ConvTranspose1d, (7,)) if name == "1d" else (nn.ConvTranspose2d, (3, 5))
    module = kind(4, 8, bias=bias, **TRANSPOSED[name]).double()
    return module, [torch.randn(n, 4, *shape).double() for n in (3, 4)]


@pytest.mark.parametrize("name", TRANSPOSED)
def test_a_transposed_convolution_stamps_its_matrix_times_its_columns(name: str) -> None:
    module, (x, _) = transposed(name)
    layer = find_layers(module)[""]
    matrix, g = layer.matrix(module.weight, None), module.groups
    matrix = matrix if g > 1 else matrix[None]
    assert matrix.shape == (g, 8 // g * module.weight[0, 0].numel(), 4 // g)
    expected = module(x).detach()
    total = torch.zeros_like(expected) + module.bias.detach().view(-1, *[1] * (x.ndim - 2))
    if x.ndim == 3:
        return check_stamps(module, matrix, x.unsqueeze(-2), total.unsqueeze(-2), expected.unsqueeze(-2))
    check_stamps(module, matrix, x, total, expected)


def check_stamps(module: nn.Module, matrix: Tensor, x: Tensor, total: Tensor, expected: Tensor) -> None:
    """Press every pixel's stamp into ``total``, which holds the bias, with plain loops."""
    two = lambda values, fill: (fill,) * (2 - len(values)) + tuple(values)  # noqa: E731
    stride, padding, dilation = two(module.stride, 1), two(module.padding, 0), two(module.dilation, 1)
    kernel = two(module.kernel_size, 1)
    for p in range(x.shape[2]):
        for q in range(x.shape[3]):
            column = x[:, :, p, q].unflatten(1, (len(matrix), -1))  # (n, groups, d)
            stamps = torch.einsum("god,ngd->ngo", matrix, column).reshape(len(x), 8, *kernel)
            for a in range(kernel[0]):
                for b in range(kernel[1]):
                    i = p * stride[0] - padding[0] + a * dilation[0]
                    j = q * stride[1] - padding[1] + b * dilation[1]
                    if 0 <= i < total.shape[2] and 0 <= j < total.shape[3]:
                        total[:, :, i, j] += stamps[..., a, b]
    assert torch.allclose(total, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lam", FACTORS)
@pytest.mark.parametrize("bias", ["absorb", "keep", "none"])
@pytest.mark.parametrize("name", TRANSPOSED)
def test_engram_of_a_transposed_convolution(name: str, bias: str, lam: float) -> None:
    module, halves = transposed(name, bias != "none")
    g = module.groups
    pixels = [x.flatten(2).unflatten(1, (g, -1)).permute(1, 0, 3, 2).flatten(1, 2) for x in halves]  # (groups, n, d)
    if math.isinf(lam):  # a reference that leaves something to the target
        halves[1][:, :: 4 // g] = 0
        pixels[1][..., 0] = 0
    matrix = torch.stack([part.detach().flatten(1).T for part in module.weight.chunk(g)])
    mode = "keep" if bias == "none" else bias
    if g == 4 and math.isinf(lam):
        return  # one channel a group: a zero reference leaves everything, tested at λ = 0.2
    engram = check_engram(module, halves, matrix, pixels, lam, bias=mode)
    assert engram[""].bias is None  # never absorbed
    if bias == "absorb":
        null = el.null_state(module, engram)
        assert null.weight.abs().sum() == 0 and torch.equal(null.bias, module.bias)
        with pytest.raises(ValueError, match="another model"):
            el.extract(module, *[el.Moments({"": torch.eye(4 // g + 1).expand(g, -1, -1)}, {"": 1})] * 2)


def test_a_transposed_and_a_pointwise_convolution_share_their_pixels() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.one = nn.ConvTranspose2d(4, 2, 2, bias=False), nn.Conv2d(4, 3, 1, bias=False)
            self.wide = nn.Conv2d(4, 3, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x).sum() + self.one(x).sum() + self.wide(x).sum()

    moments = el.collect(Fork(), [torch.randn(2, 4, 3, 3)])
    assert moments["up"] is moments["one"] and moments["wide"].shape == (36, 36)


NORMS = {
    "batch norm 2d": (nn.BatchNorm2d(5, eps=0.1), (5, 3, 2)),
    "batch norm 1d": (nn.BatchNorm1d(5), (5,)),
    "batch norm 1d, sequence": (nn.BatchNorm1d(5), (5, 4)),
    "layer norm": (nn.LayerNorm(5, eps=0.01), (5,)),
    "layer norm, tokens": (nn.LayerNorm(5), (3, 5)),
    "layer norm, no bias": (nn.LayerNorm(5, bias=False), (3, 5)),
}


def norm(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, list[Tensor], list[Tensor]]:
    """A normalisation, two sets of inputs for it, and their x̂ by hand: (channels, n)."""
    module, shape = NORMS[name]
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.dtype.is_floating_point:
            tensor.data = torch.rand_like(tensor, dtype=dtype) + 0.5
    halves = [torch.randn(n, *shape).to(dtype) for n in (6, 9)]
    hats = []
    for x in (x.double() for x in halves):
        rows = (
            x.flatten(2).transpose(0, 1).flatten(1) if name.startswith("batch") and x.ndim > 2 else x.reshape(-1, 5).T
        )
        if name.startswith("batch"):
            mean, var = module.running_mean.double()[:, None], module.running_var.double()[:, None]
        else:
            mean, var = rows.mean(0), rows.var(0, correction=0)
        hats.append((rows - mean) / (var + module.eps).sqrt())
    return module.eval().to(dtype), halves, hats


@pytest.mark.parametrize("lam", FACTORS)
@pytest.mark.parametrize("bias", ["absorb", "keep"])
@pytest.mark.parametrize("name", NORMS)
def test_a_normalisation_is_an_affine_map_of_each_channel(name: str, bias: str, lam: float) -> None:
    module, halves, hats = norm(name)
    absorb = bias == "absorb" and module.bias is not None
    parts = [module.weight] + ([module.bias] if absorb else [])
    matrix = torch.stack([p.detach() for p in parts], -1).unsqueeze(1)  # (channels, 1, 1 or 2)
    columns = [with_one(hat.unsqueeze(-1)) if absorb else hat.unsqueeze(-1) for hat in hats]
    layer = find_layers(module, ".*")[""]
    own = [layer.kind.columns(module, x) for x in halves]  # (..., channels, 1)
    assert all(torch.allclose(a.reshape(-1, 5).T, b, rtol=1e-12, atol=1e-12) for a, b in zip(own, hats, strict=True))
    z = (own[0].reshape(-1, 5) * module.weight + (0 if module.bias is None else module.bias)).detach()
    y = module(halves[0]).detach()
    y = y.flatten(2).mT if name.startswith("batch") and y.ndim > 2 else y
    assert torch.allclose(z, y.reshape(-1, 5), rtol=1e-12, atol=1e-12)
    if math.isinf(lam):  # the reference of two columns in a row spans all: nothing is the target's own
        sums = [el.collect(module, [x], layers=".*", bias=bias) for x in halves]
        assert el.extract(module, *sums, specificity=lam).norm() == 0
        return
    engram = check_engram(module, halves, matrix, columns, lam, layers=".*", bias=bias)
    assert (engram[""].bias is not None) == absorb


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "name", ["linear", "tokens", "huggingface", "projection", *CONVOLUTIONS, *SEQUENCES, "3d", *NORMS]
)
def test_outputs_of_the_products_are_the_layer(name: str, bias: bool) -> None:
    """outputs(W columns(x) + b) = module(x), and its transpose brings the gradient at the output to Z = W X."""
    if name in NORMS:
        module, (x, _), _ = norm(name)
    elif name == "3d":
        how = dict(stride=(1, 2, 2), output_padding=(0, 1, 0), padding=(0, 1, 0), groups=2, dilation=(2, 1, 1))
        module, x = nn.ConvTranspose3d(4, 6, (2, 3, 2), bias=bias, **how).double(), torch.randn(3, 4, 2, 3, 2).double()
    elif name == "projection":
        attention = nn.MultiheadAttention(6, 2, bias=bias).double()
        module, x = projections(attention)[1], torch.randn(3, 4, 6).double()
    else:
        module, x, _ = make(name, bias)
    check_outputs(Layer("", module, kind_of(module)), x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", TRANSPOSED)
def test_outputs_of_transposed_convolutions(name: str, bias: bool) -> None:
    module, (x, _) = transposed(name, bias)
    check_outputs(Layer("", module, kind_of(module)), x)


def check_outputs(layer: Layer, x: Tensor) -> None:
    module, kind = layer.module, layer.kind
    expected = module(x).detach()
    columns = kind.columns(module, x)
    matrix = kind.matrix(module, module.weight.detach())
    z = torch.einsum("...gd,god->...go" if matrix.ndim == 3 else "...d,od->...o", columns, matrix)
    if layer.has_bias:
        z = z + module.bias.detach().view(matrix.shape[:-1])
    z.requires_grad_(True)
    found = kind.outputs(module, z, x, expected.shape)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)
    g = torch.randn_like(expected)
    (back,) = torch.autograd.grad(found, z, g)
    # ⟨g, module(x)⟩ has the gradient backᵀ·columns in W.
    weight = module.weight.detach().clone().requires_grad_(True)
    if not isinstance(module.weight, nn.Parameter):
        expected = torch.nn.functional.linear(x, weight)
    else:
        expected = torch.func.functional_call(module, {"weight": weight}, (x,))
    (own,) = torch.autograd.grad(expected, weight, g)
    back, columns = (t.flatten(0, -2 - (matrix.ndim == 3)) for t in (back, columns))
    product = torch.einsum("ngo,ngd->god" if matrix.ndim == 3 else "no,nd->od", back, columns)
    assert torch.allclose(kind.weight(module, product), own, rtol=1e-9, atol=1e-9)


def test_normalisations_of_narrow_models_and_of_chosen_tokens() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        module, (x, _), (hat, _) = norm("batch norm 2d", dtype)
        sigma = el.collect(module, [x], layers=[""], dtype=torch.float64)[""]
        assert torch.allclose(sigma[:, 0, 0], hat.square().sum(1), rtol=1e-10)
        assert torch.allclose(sigma[:, 0, 1], hat.sum(1), rtol=1e-10) and (sigma[:, 1, 1] == 36).all()
    module, (x, _), _ = norm("layer norm, tokens")
    mask = torch.rand(6, 3) > 0.5
    assert torch.equal(
        el.collect(module, [x], layers=[""], rows=lambda _: mask)[""], el.collect(module, [x[mask]], layers=[""])[""]
    )
    concepts = el.collect_by_concept(module, [x], lambda _: torch.arange(6) % 2, layers=[""])
    assert torch.allclose((concepts[0] + concepts[1])[""], el.collect(module, [x], layers=[""])[""])


def test_two_norms_of_one_tensor_share_only_if_they_normalise_alike() -> None:
    class Fork(nn.ModuleDict):
        def forward(self, x: Tensor) -> Tensor:
            return sum(module(x) for module in self.values())

    fork = Fork({"a": nn.LayerNorm(4), "b": nn.LayerNorm(4), "c": nn.LayerNorm(4, eps=0.1), "d": nn.BatchNorm1d(4)})
    moments = el.collect(fork, [torch.randn(9, 4)], layers=".*")
    assert moments["a"] is moments["b"] and len({id(sigma) for sigma in moments.values()}) == 3


@pytest.mark.parametrize(
    "module, reason",
    [
        (nn.LayerNorm(4, elementwise_affine=False), "affine=False"),
        (nn.BatchNorm2d(4, affine=False), "affine=False"),
        (nn.LayerNorm((3, 4)), "2 dimensions"),
        (nn.BatchNorm1d(4, track_running_stats=False), "running statistics"),
    ],
)
def test_normalisations_that_are_no_affine_map_are_refused(module: nn.Module, reason: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), module)
    assert list(find_layers(model)) == ["0"]
    with pytest.raises(TypeError, match=f"layer '1'.*{reason}"):
        el.collect(model, [torch.randn(2, 4)], layers=["1"])


def test_a_single_image_and_a_single_vector_are_batches_of_one() -> None:
    conv, x, _ = make("plain")
    assert torch.allclose(el.collect(conv, [x[0]])[""], el.collect(conv, [x[:1]])[""])
    linear, x, _ = make("linear")
    assert torch.allclose(el.collect(linear, [x[0]])[""], el.collect(linear, [x[:1]])[""])


class TestSelection:
    model = nn.ModuleDict(
        {"block": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "fc1": nn.Linear(2, 2), "norm": nn.LayerNorm(2)}
    )

    def test_normalisations_only_by_name(self) -> None:
        assert list(find_layers(self.model, ["fc1", "norm"])) == ["fc1", "norm"]
        assert "norm" in find_layers(self.model, ".*") and "norm" not in find_layers(self.model)

    def test_suffixes_and_expressions(self) -> None:
        assert list(find_layers(self.model)) == ["block.0", "block.1", "fc1"]
        assert list(find_layers(self.model, ["fc1", "0"])) == ["block.0", "fc1"]
        assert list(find_layers(self.model, r"block\.\d")) == ["block.0", "block.1"]

    @pytest.mark.parametrize("layers", [["c1"], r"bloc", ["fc1", "drop"], "(", []])
    def test_what_matches_nothing_is_an_error(self, layers: object) -> None:
        with pytest.raises(ValueError, match="layers"):
            find_layers(self.model, layers)

    def test_a_model_without_layers(self) -> None:
        with pytest.raises(ValueError, match="no layer of a supported type.*normalisation"):
            find_layers(nn.LayerNorm(3))
        with pytest.raises(ValueError, match="no layer of a supported type"):
            find_layers(nn.ReLU(), ".*")
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
