"""erase: each layer solved on what the edited layers below give it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import engramlib as el

pytestmark = pytest.mark.filterwarnings("ignore:too little data")


def plain(model: nn.Module, target: list, reference: list, alpha: float = 1.0, **how: object) -> nn.Module:
    where = {key: how.pop(key) for key in ("layers", "bias", "rows", "forward") if key in how}
    moments = [el.collect(model, batches, exact=True, **where) for batches in (target, reference)]
    return el.ablate(model, el.extract(model, *moments, **how), alpha)


def gap(a: nn.Module, b: nn.Module) -> float:
    return max(float((x - y).detach().abs().max()) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def walks() -> int:
    """Passes that wait somewhere."""
    return sum(thread.name == "engramlib walk" for thread in threading.enumerate())


def net(*, bias: bool = True, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8, bias), nn.ReLU(), nn.Linear(8, 7, bias), nn.ReLU(), nn.Linear(7, 3, bias)]
    return nn.Sequential(*layers).to(dtype)


def data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(40, 6, dtype=dtype) + 0.5, torch.randn(90, 6, dtype=dtype)


# ------------------------------------------------------------------------------------------------ the formula


@pytest.mark.parametrize("alpha", [1.0, 2.5, -0.5])
@pytest.mark.parametrize("lam", [0.0, 1.0, 7.0])
def test_where_nothing_was_edited_below_it_is_the_papers_edit(alpha: float, lam: float) -> None:
    (plus, minus), model = data(), net()
    for name in ("0", "2", "4"):  # one layer alone: what lies below is as it came
        found = el.erase(model, [plus], [minus], alpha=alpha, specificity=lam, layers=[name])
        assert gap(found, plain(model, [plus], [minus], alpha, specificity=lam, layers=[name])) < 1e-9


@pytest.mark.parametrize("bias", ["absorb", "keep"])
@pytest.mark.parametrize(("alpha", "lam"), [(1.0, 1.0), (3.0, 4.0)])
def test_every_layer_is_the_least_squares_solution_on_what_it_reads_now(bias: str, alpha: float, lam: float) -> None:
    (plus, minus), model = data(), net()
    found = el.erase(model, [plus], [minus], alpha=alpha, specificity=lam, bias=bias)
    was, now = (plus, minus), (plus, minus)
    for old, new in zip(model, found, strict=True):
        if isinstance(old, nn.Linear):
            wanted = [(1 - alpha) * old(was[0]), old(was[1])]
            if bias == "keep":  # the bias is not of the memory: the goal is for W x alone
                wanted = [(1 - alpha) * (old(was[0]) - old.bias), old(was[1]) - old.bias]
            columns = [F.pad(x, (0, 1), value=1.0) if bias == "absorb" else x for x in now]
            weigh = (1.0, lam**0.5)
            left = torch.cat([w * x for w, x in zip(weigh, columns, strict=True)])
            right = torch.cat([w * z for w, z in zip(weigh, wanted, strict=True)])
            inverse = torch.linalg.pinv(left, rtol=1e-6)
            matrix = torch.cat([old.weight, old.bias[:, None]], 1) if bias == "absorb" else old.weight
            unseen = torch.eye(left.shape[1], dtype=left.dtype) - inverse @ left
            best = (inverse @ right).T + matrix @ unseen  # of all that fit best, the nearest to W
            assert torch.allclose(new.weight, best[:, : new.in_features], atol=1e-7)
            assert torch.allclose(new.bias, best[:, -1] if bias == "absorb" else old.bias, atol=1e-7)
        was, now = tuple(map(old, was)), tuple(map(new, now))


def test_directions_without_data_keep_their_weights() -> None:
    (plus, minus), model = data(), net()
    plus[:, 3:], minus[:, 3:] = 0.0, 0.0
    found = el.erase(model, [plus], [minus], alpha=2.0)
    assert torch.equal(found[0].weight[:, 3:], model[0].weight[:, 3:])
    assert not torch.allclose(found[0].weight[:, :3], model[0].weight[:, :3])
    dead = model[:2](torch.cat([plus, minus])).amax(0) + found[:2](torch.cat([plus, minus])).amax(0) == 0
    assert torch.allclose(found[2].weight[:, dead], model[2].weight[:, dead], atol=1e-12)


def test_nothing_is_lost_that_more_of_the_reference_protects() -> None:
    """λ → ∞ with a reference that fills the space: the survivors keep their outputs, whatever α."""
    (plus, minus), model = data(), net()
    found = el.erase(model, [plus], [minus], alpha=1.0, specificity=1e9, rcond=1e-15)
    assert torch.allclose(found(minus), model(minus), atol=1e-5)


def test_survivors_drift_less_than_after_the_plain_edit() -> None:
    (plus, minus), model = data(), net()
    rest = torch.randn(500, 6, dtype=torch.float64)
    drift = [
        float((edit(rest) - model(rest)).detach().norm())
        for edit in (el.erase(model, [plus], [minus], alpha=1.0), plain(model, [plus], [minus]))
    ]
    assert drift[0] < drift[1]


# ------------------------------------------------------------------------------------- how the passes are made


def test_the_split_into_batches_and_what_waits_do_not_matter() -> None:
    (plus, minus), model = data(), net()
    whole = el.erase(model, [plus], [minus])
    for memory in (4e9, 20_000.0, 0.0):  # all wait; some; none
        parts = el.erase(model, plus.split(7), iter(minus.split(11)), memory=memory)
        assert gap(whole, parts) < 1e-9


def test_one_pass_through_each_model_whatever_the_depth() -> None:
    (plus, minus), calls = data(), []
    model = nn.Sequential(*[part for _ in range(6) for part in (nn.Linear(6, 6), nn.Tanh())]).double()
    model.forward_ = None
    calls = [0]

    def forward(m: nn.Module, batch: Tensor) -> Tensor:
        calls[0] += 1
        return m(batch)

    el.erase(model, plus.split(20), minus.split(30), forward=forward)
    assert calls[0] == 2 * (2 + 3) + 1  # and one to find the order


def test_what_is_left_behind() -> None:
    (plus, minus), model = data(), net()
    before, threads = {k: v.clone() for k, v in model.state_dict().items()}, walks()
    model.train()
    el.erase(model, plus.split(10), minus.split(10))
    assert walks() == threads and model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_an_error_on_the_way_comes_through_and_leaves_nothing() -> None:
    (plus, minus), model, threads = data(), net(), walks()
    passes = [0]

    def forward(m: nn.Module, batch: Tensor) -> Tensor:
        passes[0] += 1
        if passes[0] == 4:
            m[:2](batch)
            raise RuntimeError("half way")
        return m(batch)

    with pytest.raises(RuntimeError, match="half way"):
        el.erase(model, plus.split(10), minus.split(10), forward=forward)
    assert walks() == threads
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_ctrl_c_leaves_nothing() -> None:
    (plus, minus), model, threads = data(), net(), walks()
    passes = [0]

    def forward(m: nn.Module, batch: Tensor) -> Tensor:
        passes[0] += 1
        if passes[0] == 5:
            raise KeyboardInterrupt
        return m(batch)

    with pytest.raises(KeyboardInterrupt):
        el.erase(model, plus.split(10), minus.split(10), forward=forward)
    assert walks() == threads


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) + torch.randn(len(x), 5))


def test_both_models_draw_the_same_random_numbers() -> None:
    torch.manual_seed(0)
    model, (plus, minus) = Noisy(), data(torch.float32)
    state = torch.get_rng_state()
    found = el.erase(model, [plus], [minus], alpha=0.0)  # asks for no change: other noise in one model would be one
    assert torch.equal(torch.get_rng_state(), state)
    assert gap(found, model) < 1e-5


def test_autocast_of_the_caller_reaches_the_passes() -> None:
    (plus, minus), model, seen = data(torch.float32), net(dtype=torch.float32), []
    model[2].register_forward_pre_hook(lambda m, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        el.erase(model, [plus], [minus])
    assert set(seen) == {torch.bfloat16}


# --------------------------------------------------------------------------------------------------- the layers


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.out, self.skip = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.q(x)) * self.k(x)) + self.skip(x)


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2))


def transposed() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(4, 5, 3, stride=2), nn.ReLU(), nn.Conv2d(5, 2, 1))


def normed() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3))
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    return model


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attention(x, x, x)[0])


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "branches": (Branches, (6,)),
    "tokens": (Branches, (5, 6)),
    "grouped": (grouped, (4, 7, 7)),
    "transposed": (transposed, (4, 4, 4)),
    "normed": (normed, (4, 9, 9)),
    "attention": (Attention, (5, 8)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(4, 5, 3), nn.GELU(), nn.Conv1d(5, 3, 2, dilation=2)), (4, 9)),
}


def drifts(found: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((found(x) - model(x)).norm() / model(x).norm())


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_layer(case: str) -> None:
    """No edit asked for: none made. An edit asked for: the first layer's is the paper's, and survivors drift less."""
    torch.manual_seed(0)
    build, shape = CASES[case]
    model = build().double().eval()
    plus, minus = torch.randn(20, *shape).double() + 1, torch.randn(200, *shape).double()
    layers = None if case != "normed" else ".*"
    assert gap(el.erase(model, [plus], [minus], alpha=0.0, layers=layers), model) < 1e-8
    found, engram = el.erase(
        model, plus.split(8), minus.split(70), alpha=1.0, specificity=3.0, layers=layers, return_engram=True
    )
    other = plain(model, [plus], [minus], layers=layers, specificity=3.0)
    first = next(iter(dict(found.named_modules()).keys() & {"0", "q", "attention"}))
    one, two = (next(iter(m.get_submodule(first).parameters())) for m in (found, other))
    if case != "attention":  # all three blocks of in_proj are solved there: q and k before v
        assert torch.allclose(one, two, atol=1e-8)
    assert drifts(found, model, minus) < drifts(other, model, minus)
    assert gap(el.ablate(model, engram), found) == 0


def test_normalisations_are_solved_in_their_turn() -> None:
    torch.manual_seed(0)
    model = normed().double().eval()
    plus, minus = torch.randn(20, 4, 9, 9).double() + 1, torch.randn(60, 4, 9, 9).double()
    _, engram = el.erase(model, [plus], [minus], layers=".*", return_engram=True)
    assert set(engram) == {"0", "1", "3"} and engram["1"].weight.shape == (6,) and engram["1"].bias is not None


def test_tokens_that_do_not_count() -> None:
    torch.manual_seed(0)
    model = Branches().double()
    plus, minus = torch.randn(9, 5, 6).double() + 1, torch.randn(60, 5, 6).double()
    masks = {9: torch.rand(9, 5) < 0.5, 60: torch.rand(60, 5) < 0.7}
    found = el.erase(model, [plus], [minus], rows=lambda batch: masks[len(batch)])
    chosen = el.erase(model, [plus[masks[9]]], [minus[masks[60]]])
    assert gap(found, chosen) < 1e-9


def test_strengths_by_layer() -> None:
    (plus, minus), model = data(), net()
    found = el.erase(model, [plus], [minus], alpha={"0": 0.0, "2": 0.0, "4": 1.5})
    assert gap(found, plain(model, [plus], [minus], 1.5, layers=["4"])) < 1e-9


def test_half_precision_is_solved_in_float64() -> None:
    (plus, minus), model = data(torch.bfloat16), net(dtype=torch.bfloat16)
    found = el.erase(model, [plus], [minus])
    wide = el.erase(net(dtype=torch.bfloat16).double(), [plus.double()], [minus.double()])
    assert found[0].weight.dtype == torch.bfloat16
    assert torch.allclose(found[0].weight.double(), wide[0].weight, atol=2e-2)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_language_models(family: str) -> None:
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    config = {
        "llama": lambda: LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        ),
        "gpt2": lambda: GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32),
    }[family]()  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(0, 50, (30, 8))
    target, reference = [{"input_ids": ids[:6]}], [{"input_ids": part} for part in ids[6:].split(8)]
    found, engram = el.erase(model, target, reference, alpha=1.0, specificity=2.0, return_engram=True)
    assert len(engram) == (15 if family == "llama" else 8)  # GPT-2's output is tied to its embedding
    first = "model.layers.0.self_attn.q_proj" if family == "llama" else "transformer.h.0.attn.c_attn"
    usual = el.extract(model, el.collect(model, target), el.collect(model, reference), specificity=2.0)
    assert torch.allclose(engram[first].weight, usual[first].weight, atol=1e-4)
    with torch.no_grad():
        logits = [m(ids[6:]).logits for m in (model, found, el.ablate(model, usual))]
    assert (logits[1] - logits[0]).norm() < (logits[2] - logits[0]).norm()


# -------------------------------------------------------------------------------------------- what is handed back


def test_the_engram_is_what_was_subtracted(tmp_path: Path) -> None:
    (plus, minus), model = data(torch.float32), net(dtype=torch.float32)
    found, engram = el.erase(model, [plus], [minus], alpha=2.0, return_engram=True)
    engram.save(tmp_path / "e.safetensors")
    again = el.ablate(model, el.Engram.load(tmp_path / "e.safetensors"))
    assert gap(again, found) == 0
    assert gap(el.inject(found, engram), model) < 1e-6


# --------------------------------------------------------------------------------------------------- refusals


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(torch.tanh(self.a(x)))


class Either(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.a, self.b) if len(x) > 45 else (self.b, self.a)
        return self.c(second(torch.tanh(first(x))))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"alpha": float("nan")}, ValueError, "alpha"),
        ({"alpha": {"0": 1.0}}, ValueError, "alpha.*exactly"),
        ({"alpha": "1"}, ValueError, "alpha"),
        ({"specificity": -1}, ValueError, "specificity"),
        ({"specificity": float("inf")}, ValueError, "specificity"),
        ({"specificity": [1, 2]}, ValueError, "specificity"),
        ({"rcond": -1}, ValueError, "rcond"),
        ({"bias": "both"}, ValueError, "bias"),
        ({"memory": -1}, ValueError, "memory"),
        ({"layers": "nowhere"}, ValueError, "nowhere"),
        ({"target": []}, ValueError, "target"),
        ({"reference": iter(())}, ValueError, "reference"),
        ({"target": "text"}, TypeError, "target"),
        ({"model": Twice()}, ValueError, "'a' is called 2 times"),
        ({"model": Either()}, ValueError, "one way"),
        ({"model": "model"}, TypeError, "model"),
    ],
)
def test_refusals(change: dict, error: type[Exception], match: str) -> None:
    plus, minus = data(torch.float32)
    what = {"model": net(dtype=torch.float32), "target": [plus], "reference": [minus]} | change
    with pytest.raises(error, match=match):
        el.erase(what.pop("model"), what.pop("target"), what.pop("reference"), **what)


def test_inputs_that_are_no_numbers_name_the_layer() -> None:
    (plus, minus), model = data(), net()
    minus[3, 2] = float("nan")
    with pytest.raises(ValueError, match=r"'0'.*NaN"):
        el.erase(model, [plus], [minus])


def test_too_few_survivors_are_a_warning() -> None:
    (plus, minus), model = data(), net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        el.erase(model, [plus], [minus])
        with pytest.raises(UserWarning, match=r"too little data.*reads 9 inputs.*5 columns"):
            el.erase(model, [plus], [minus[:5]])
