"""A model comes back as it came, and every layer is seen: whatever the model keeps, draws, compiles or computes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

import engramlib as el
from engramlib._products import full_precision
from engramlib.running import evaluating
from tests.conftest import bits, same


class Odd(nn.Module):
    """Keeps outputs in every way, counts in a buffer, makes new ones, draws random numbers, and merges in `train`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.norm, self.drop = nn.BatchNorm1d(5), nn.Dropout()
        self.register_buffer("seen", torch.zeros(1))
        self.last: Tensor | None = None
        self.kept: list[Tensor] = []
        self.named: dict[str, Tensor] = {}
        self.work = 0

    def train(self, mode: bool = True) -> Odd:
        self.work += 1
        self.first.weight.data += 1.0
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        z = self.drop(self.norm(self.first(x)).relu())
        self.seen += len(x)
        self.last, self.new = z, z
        self.kept.append(z)
        self.named["z"] = z
        self.register_buffer("late", z.mean())
        random.random(), np.random.rand(), torch.rand(1)
        return self.second(F.dropout(z, training=True) * 0 + z)


def everything(model: nn.Module) -> list[object]:
    """All that a pass could change, in comparable form."""
    state: list[object] = [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]
    state += [torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()]
    for name, module in model.named_modules():
        own = {k: v for k, v in vars(module).items() if not k.startswith("_") and not isinstance(v, (list, dict))}
        state += [name, module.training, {k: (id(v) if isinstance(v, Tensor) else v) for k, v in own.items()}]
        state += [list(module._forward_hooks), list(module._forward_pre_hooks), list(module._buffers)]
        state += [len(v) for k, v in vars(module).items() if not k.startswith("_") and isinstance(v, (list, dict))]
        state += [(p.requires_grad, p.grad) for p in module.parameters(recurse=False)]
    return state


@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_as_it_came(training: bool) -> None:
    model = Odd()
    for module in model.modules():
        module.training = training
    model.norm.training = not training  # flags of their own
    model.first.weight.requires_grad_(False)
    x = torch.randn(9, 4)
    before, weights = everything(model), bits(model)
    target, reference = el.collect(model, [x[:4]]), el.collect(model, [x[4:]])
    assert target.count == {"first": 4, "second": 4}
    engram = el.extract(model, target, reference)
    el.score_criteria(model, engram, target, reference, batches=([x[:4]], [x[4:]]), draws=1)
    assert everything(model) == before and same(bits(model), weights)


class Interrupted(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.fc, self.error, self.calls = nn.Linear(4, 4), error, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            raise self.error
        return self.fc(x)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_also_after_an_error(error: BaseException) -> None:
    model = nn.Sequential(Odd(), nn.Linear(3, 4), Interrupted(error))
    weights, x = bits(model), torch.randn(3, 4)
    before = everything(model[0]), [list(m._forward_pre_hooks) for m in model.modules()]
    with pytest.raises(type(error)):
        el.collect(model, [x] * 3)
    assert (everything(model[0]), [list(m._forward_pre_hooks) for m in model.modules()]) == before
    assert same(bits(model), weights) and model.training


def test_random_numbers_that_the_data_draw_are_the_users() -> None:
    """An augmented batch must not be the same one at every pass."""
    model, seen = nn.Linear(2, 2), []

    def batches() -> Iterator[Tensor]:
        seen.append(torch.randn(3, 2))
        yield seen[-1]

    el.collect(model, batches())
    el.collect(model, batches())
    assert not torch.equal(*seen)


# ----------------------------------------------------------------------------------------------------------- compiled


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def whole(model: nn.Sequential) -> nn.Module:
    return torch.compile(model, backend="eager")


def block(model: nn.Sequential) -> nn.Module:
    model[0] = torch.compile(model[0], backend="eager")
    return model


def in_place(model: nn.Sequential) -> nn.Module:
    model.compile(backend="eager")
    return model


def forward(model: nn.Sequential) -> nn.Module:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


@pytest.mark.parametrize("compiled", [whole, block, in_place, forward, nn.DataParallel])
def test_a_compiled_or_wrapped_model_is_the_plain_one(compiled: Callable[[nn.Sequential], nn.Module]) -> None:
    """Warm, so that its graph would call no hook: all columns count, under the plain names, and engrams fit both."""
    torch._dynamo.reset()
    plain, x = small(), torch.randn(21, 4)
    expected = el.collect(plain, x.split(5))
    model = small()
    model.load_state_dict(plain.state_dict())
    model = compiled(model).eval()
    with torch.no_grad():
        for batch in x.split(5):
            model(batch)
    found = el.collect(model, x.split(5))
    assert found.count == expected.count == {"0": 21, "2": 21}
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    half = el.collect(model, [x[:9]]), el.collect(model, [x[9:]])
    engram = el.extract(model, *half, base={k: torch.zeros_like(v) for k, v in model.state_dict().items()})
    want = el.ablate(plain, engram)(x)
    with el.edited(model, -engram), torch.no_grad():
        assert torch.allclose(model(x), want, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))


# ------------------------------------------------------------------------------- weights that are not what acts


class Masked(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * (self.weight > 0), self.bias)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, w, self.bias)


class PadsItself(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1)))


class Scaled(nn.ConvTranspose2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, 2 * self.weight, self.bias)


class Rounded(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, (self.weight * 64).round() / 64, self.bias)


class Beside(nn.Linear):
    """Low-rank factors beside the weight, as loralib's, under names that say nothing."""

    def __init__(self, d: int, out: int) -> None:
        super().__init__(d, out)
        self.a, self.b = nn.Parameter(torch.randn(2, d)), nn.Parameter(torch.randn(out, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.a.T @ self.b.T


class Tupled(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return super().forward(x), None


IMAGE, ROWS = (2, 3, 7, 6), (9, 4)
ODD_LAYERS = {
    "mask": (Masked(4, 5), ROWS),
    "weight standardisation": (Standardised(3, 4, 3), IMAGE),
    "its own padding": (PadsItself(3, 4, 3), IMAGE),
    "scaled": (Scaled(3, 4, 2, 2), IMAGE),
    "fake quantisation": (Rounded(4, 5), ROWS),
    "low rank": (Beside(4, 5), ROWS),
    "tuple": (Tupled(4, 5), ROWS),
}


@pytest.mark.parametrize("name", ODD_LAYERS)
def test_a_weight_that_is_computed_in_forward_is_refused(name: str) -> None:
    layer, shape = ODD_LAYERS[name]
    with pytest.raises(TypeError, match=r"'0'.*does not compute W x \+ b.*choose\s+other layers"):
        el.collect(nn.Sequential(layer), [torch.randn(shape)])


def test_a_first_batch_without_rows_does_not_count_as_checked() -> None:
    with pytest.raises(TypeError, match="does not compute"):
        el.collect(nn.Sequential(Masked(4, 5)), [torch.zeros(0, 4), torch.randn(3, 4)])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_block_that_torch_jit_compiled_is_not_passed_over(how: str) -> None:
    inner = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    inner = torch.jit.script(inner) if how == "script" else torch.jit.trace(inner, torch.randn(2, 4))
    model = nn.Sequential(inner, nn.Linear(5, 3))
    with pytest.raises(TypeError, match=r"'0\.0'.*torch\.jit"):
        el.collect(model, [torch.randn(9, 4)])
    assert el.collect(model, [torch.randn(9, 4)], layers=["1"]).count == {"1": 9}


class Renamed(nn.Linear):
    """A subclass that computes what its parent does."""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_rounding_is_not_taken_for_another_weight(dtype: torch.dtype, scale: float) -> None:
    """Also where large terms cancel in the output, and behind a user's own hooks, which change it."""
    torch.manual_seed(1)
    layer = Renamed(300, 7).to(dtype)
    x = scale * torch.randn(20, 300).to(dtype)
    layer.weight.data -= (layer.weight.double() @ torch.linalg.pinv(x.double()) @ x.double()).to(dtype) * 0.999
    layer.register_forward_hook(lambda module, args, out: out * 3)
    assert el.collect(nn.Sequential(layer), [x]).count == {"0": 20}


def test_adapters_are_refused_and_the_rest_of_the_model_is_not() -> None:
    class LoraLinear(nn.Module):  # as PEFT's: the base layer, and the factors in dicts
        def __init__(self) -> None:
            super().__init__()
            self.base_layer = nn.Linear(4, 4)
            self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
            self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)})

        def forward(self, x: Tensor) -> Tensor:
            return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))

    model = nn.Sequential(LoraLinear(), nn.Linear(4, 3))
    x = torch.randn(9, 4)
    with pytest.raises(TypeError, match="merge_and_unload"):
        el.collect(model, [x])
    assert list(el.collect(model, [x], layers=["1"])) == ["1"]
    with pytest.raises(ValueError, match="matches none"):
        el.collect(model, [x], layers=["base_layer"])


# ---------------------------------------------------------------------------------------- batches of the wrong kind


class Stream(IterableDataset):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.x)

    def __len__(self) -> int:
        raise TypeError("a stream has no length")


def test_a_stream_without_a_length() -> None:
    x = torch.randn(11, 4)
    found = el.collect(nn.Linear(4, 2, bias=False), DataLoader(Stream(x), batch_size=3))
    assert torch.allclose(found[""], x.double().T @ x.double())


@pytest.mark.parametrize(
    ("batches", "what"),
    [
        (np.zeros((3, 4)), "numpy"),
        ([np.zeros((3, 4))], "numpy"),
        ((np.zeros((3, 4)), np.zeros(3)), "numpy"),
        ([(np.zeros((3, 4)), np.zeros(3))], "numpy"),
        ([{"input": np.zeros((3, 4))}], "numpy"),
        ([torch.zeros(3, 4).to_sparse()], "sparse"),
        ([torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(1, 4)])], "nested"),
        ("text", "str"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_is_no_dense_tensor_is_named(batches: object, what: str) -> None:
    with pytest.raises(TypeError, match=what):
        el.collect(nn.Linear(4, 2), batches)


def test_weights_that_are_elsewhere_are_named() -> None:
    model = small()
    model[2].to("meta")
    with pytest.raises(TypeError, match="'2'.*offloaded"):
        el.collect(model, [torch.zeros(3, 4)])
    engram = el.Engram({"2": (torch.zeros(3, 5), None)})
    with pytest.raises(TypeError, match="'2'.*offloaded"):
        el.ablate(model, engram)
    embedded = nn.Sequential(nn.Linear(4, 5, device="meta"), nn.Linear(4, 3))
    found = el.collect(embedded, [torch.randn(3, 4)], layers=["1"], forward=lambda model, x: model[1](x))
    assert found.count == {"1": 3}  # its inputs were not moved to meta


def test_evaluating_nests() -> None:
    model = Odd()
    with evaluating(model), evaluating(model):
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("images", [8, 32])  # few: through their patches; many: through correlations (see _patches)
def test_sums_inside_autocast_are_those_outside(dtype: torch.dtype, images: int) -> None:
    model = nn.Sequential(nn.Conv2d(32, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 256, 3))
    x = torch.randn(images, 32, 16, 16)
    expected = el.collect(model, [x], dtype=dtype, layers=["0"])
    with torch.autocast("cpu"):
        found = el.collect(model, [x], dtype=dtype, layers=["0"])
    assert torch.equal(found["0"], expected["0"])


def test_full_precision_is_for_the_block_alone() -> None:
    a = torch.randn(50, 50)
    exact = a @ a
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            with full_precision():
                assert torch.get_float32_matmul_precision() == "highest" and torch.equal(a @ a, exact)
            assert (a @ a).dtype == torch.bfloat16
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_sums_are_kept_where_they_are_asked_to(mlp: nn.Sequential) -> None:
    x = torch.randn(9, 6)
    found, usual = el.collect(mlp, [x], device="cpu"), el.collect(mlp, [x])
    assert all(torch.equal(found[name], usual[name]) and found[name].device.type == "cpu" for name in usual)
    for device in ("meta", "cuda:99", "nowhere"):
        with pytest.raises(ValueError, match="device"):
            el.collect(mlp, [x], device=device)


def test_a_default_device_is_not_where_things_are() -> None:
    """torch.set_default_device moves what is made without a place: nothing of ours may be."""
    x, y = torch.randn(60, 1, 4, 4), torch.arange(60) % 2
    model = nn.Sequential(nn.ConvTranspose2d(1, 2, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5), nn.Linear(5, 2))

    def everything() -> list[Tensor]:
        moments = el.collect_by_concept(model, [(x, y)], lambda batch: batch[1])
        engram = el.extract_all(model, moments)[1]
        engram = engram + 0.1 * el.random_engram(model, engram.norm_weighted(to="median"))
        scores = el.score_criteria(model, engram, moments[1], moments[0], batches=([x[:9]], [x[9:]]), draws=1)
        block = el.analysis.fisher_block(model, [x[:5]], "4", fisher="sample")
        out = el.ablate(model, engram)(x).detach()
        return [out, block, torch.tensor([row.specificity for row in scores.network], device="cpu")]

    expected = everything()
    with torch.device("meta"):
        found = everything()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_inference_mode_around_everything() -> None:
    model, x = small(), torch.randn(60, 4)
    with torch.inference_mode():
        target, reference = el.collect(model, [x[:20]]), el.collect(model, [x[20:]])
        engram = el.extract(model, target, reference)
        with el.edited(model, -engram):
            inside = model(x).clone()
    before = model(x)
    assert torch.allclose(el.ablate(model, engram)(x), inside, atol=1e-6)
    assert torch.equal(model(x), before)
    model(x).sum().backward()  # the weights are still to be trained


def test_complex_weights_are_named() -> None:
    model = nn.Linear(4, 3).to(torch.complex64)
    with pytest.raises(TypeError, match="complex"):
        el.collect(model, [torch.randn(5, 4, dtype=torch.complex64)])
