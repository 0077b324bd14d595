"""A vector space with names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import engramlib as el
from engramlib import Engram


def engram(seed: int = 0, layers: str = "ab") -> Engram:
    g = torch.Generator().manual_seed(seed)
    bias = {"a": torch.randn(3, generator=g), "b": None}
    return Engram({n: (torch.randn(3, 2, generator=g), bias[n]) for n in layers}, {n: 2.0 for n in layers})


def same(x: Engram, y: Engram) -> bool:
    pairs = [(x[n][i], y[n][i]) for n in x for i in (0, 1)]
    return set(x) == set(y) and all((a is None and b is None) or torch.allclose(a, b, atol=1e-6) for a, b in pairs)


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_vector_space(r: float, s: float) -> None:
    x, y = engram(0), engram(1)
    assert same(x + y, y + x) and same(r * (x + y), r * x + y * r) and same((r + s) * x, r * x + s * x)
    assert same(x - y, x + -y) and same(x + 0 * y, x) and same(sum([x, y, x]), 2 * x + y) and same(x / 2, 0.5 * x)


def test_operands_are_untouched() -> None:
    x = engram()
    before = x["a"].weight.clone()
    _ = (3 * x + x - x).scaled({"a": 2.0}).norm_weighted()
    assert torch.equal(x["a"].weight, before)


def test_missing_layers_count_as_zero() -> None:
    x, part = engram(0), engram(1, "b")
    assert torch.equal((x + part)["a"].weight, x["a"].weight) and list(part + x) == ["b", "a"]
    assert torch.allclose((x - part)["b"].weight, x["b"].weight - part["b"].weight)
    keep, absorb = Engram({"a": (torch.ones(2, 2), None)}), Engram({"a": (torch.ones(2, 2), torch.ones(2))})
    assert torch.equal((keep + absorb)["a"].bias, torch.ones(2))


def test_choosing_and_weighting() -> None:
    x = engram()
    assert list(x.select(["b"])) == ["b"] and list(x.select("a|b")) == ["a", "b"]
    r = x.relative_norms()
    assert r["a"] == pytest.approx(float(x["a"].weight.norm()) / 2.0)
    assert r["b"] == pytest.approx(float((3 * x)["b"].weight.norm()) / 6.0)
    scaled = x.scaled({"a": 0.5})
    assert torch.equal(scaled["a"].bias, 0.5 * x["a"].bias) and torch.equal(scaled["b"].weight, x["b"].weight)
    weighted, largest = x.norm_weighted(2), max(r.values())
    assert all(torch.allclose(weighted[n].weight, (r[n] / largest) ** 2 * x[n].weight) for n in x)
    zero = 0 * x
    assert same(zero.norm_weighted(), zero)


def test_save_and_load(tmp_path: Path) -> None:
    x = engram()
    x.save(tmp_path / "e.safetensors")
    again = Engram.load(tmp_path / "e.safetensors")
    assert same(x, again) and again.norms == x.norms and list(again) == list(x)
    half = Engram({"h": (torch.ones(2, 2, dtype=torch.bfloat16).T, None)})
    half.save(tmp_path / "h.safetensors")
    assert Engram.load(tmp_path / "h.safetensors")["h"].weight.dtype == torch.bfloat16
    (tmp_path / "e.safetensors").write_bytes((tmp_path / "e.safetensors").read_bytes()[:-5])
    with pytest.raises(ValueError, match="damaged"):
        Engram.load(tmp_path / "e.safetensors")


def test_errors() -> None:
    x = engram()
    with pytest.raises(ValueError, match="layer 'a'.*different models"):
        x + Engram({"a": (torch.ones(4, 4), None)})
    with pytest.raises(ValueError, match="layers"):
        x.select(["c"])
    with pytest.raises(ValueError, match="no layer 'c'"):
        x.scaled({"c": 1.0})
    with pytest.raises(KeyError, match="no layer 'c'"):
        x["c"]
    with pytest.raises(ValueError, match="norm.*unknown.*'a'"):
        Engram({"a": (torch.ones(2, 2), None)}).relative_norms()
    for wrong in ("2", x, torch.ones(2)):
        with pytest.raises(TypeError):
            x * wrong
    with pytest.raises(TypeError):
        x + 1


def test_norms_come_from_the_model() -> None:
    model, x = nn.Linear(4, 3), torch.randn(30, 4)
    found = el.extract(model, el.collect(model, [x]), el.Moments({"": torch.zeros(5, 5)}, {"": 0}))
    assert found.relative_norms()[""] == pytest.approx(1.0, abs=1e-5)  # everything is target: W⁺ = W


def test_numbers_of_numpy() -> None:
    x = engram()
    for half in (np.float64(0.5), np.float32(0.5)):
        assert same(half * x, 0.5 * x) and same(x * half, 0.5 * x) and same(x / half, 2 * x)


def test_entries_are_pairs_of_tensors() -> None:
    for entry in (torch.ones(2, 3), (torch.ones(2, 3),), ([1.0], None), (torch.ones(2, 3), 1.0)):
        with pytest.raises(TypeError, match="'fc'.*pair"):
            Engram({"fc": entry})


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    z = torch.ones(2, 3)
    Engram({"a/b": (z, None), "": (z, z[0])}).save(tmp_path / "e")
    again = Engram.load(tmp_path / "e")
    assert list(again) == ["a/b", ""] and torch.equal(again[""].bias, z[0])
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "e").stat().st_mode & 0o777 == 0o666 & ~umask


def test_one_noisy_layer() -> None:
    """Beside an outlier, the largest norm weakens all others; the median and a quantile do not."""
    g = torch.Generator().manual_seed(0)
    layers = {str(i): (torch.randn(3, 2, generator=g), None) for i in range(9)}
    noisy = layers | {"4": (1e4 * layers["4"][0], None)}
    calm, loud = (Engram(each, dict.fromkeys(each, 2.0)) for each in (layers, noisy))

    def strengths(x: Engram, **options: object) -> dict[str, float]:
        weighted = x.norm_weighted(**options)
        return {n: float(weighted[n].weight.norm() / x[n].weight.norm()) for n in x}

    assert max(s for n, s in strengths(loud).items() if n != "4") < 1e-3
    for to in ("median", 0.5, 0.8):
        before, after = strengths(calm, to=to), strengths(loud, to=to)
        assert after["4"] == pytest.approx(1.0)
        assert min(after[n] / before[n] for n in after) > 0.5
        r = calm.relative_norms()
        reference = float(np.quantile(list(r.values()), 0.5 if to == "median" else to))
        assert before == pytest.approx({n: min(1.0, r[n] / reference) for n in r}, rel=1e-5)
    assert same(calm.norm_weighted(2, to=1.0), calm.norm_weighted(2))
    mostly_zero = Engram({n: (w * (n == "4"), None) for n, (w, _) in noisy.items()}, loud.norms)
    assert same(mostly_zero.norm_weighted(to="median"), mostly_zero)
    for to in ("mean", 0.0, 1.5, True, None, float("nan")):
        with pytest.raises(ValueError, match="to: expected"):
            calm.norm_weighted(to=to)
    for power in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="power"):
            calm.norm_weighted(power)


def test_factors_that_are_none() -> None:
    x = engram()
    for bad in (float("nan"), float("inf"), np.float64("nan"), torch.tensor(torch.inf)):
        for wrong in (lambda b=bad: x * b, lambda b=bad: b * x, lambda b=bad: x / b, lambda b=bad: x.scaled({"a": b})):
            with pytest.raises(ValueError, match="finite number"):
                wrong()
    for bad in (True, "2", 1j, None, np.bool_(True), torch.tensor(True), torch.tensor(1j), torch.ones(1), np.ones(2)):
        for wrong in (lambda b=bad: x * b, lambda b=bad: b * x, lambda b=bad: x / b, lambda b=bad: x.scaled({"a": b})):
            with pytest.raises(TypeError):
                wrong()
    for zero in (0, 0.0, np.float64(0), torch.tensor(0.0)):
        with pytest.raises(ZeroDivisionError):
            x / zero
    for two in (2, 2.0, np.int64(2), np.float32(2), torch.tensor(2), torch.tensor(2.0)):
        assert same(x * two, x + x) and same(two * x, x + x) and same((x / two) * two, x)
        assert same(x.scaled({"a": two, "b": two}), x + x)
    with pytest.raises(TypeError, match="dict"):
        x.scaled([1.0, 2.0])


def test_results_share_no_memory_with_what_went_in() -> None:
    x, part = engram(0), engram(1, "b")
    keep, absorb = Engram({"a": (torch.ones(3, 2), None)}), engram(0, "a")
    for result in (x + part, part + x, x - part, sum([x]), 1 * x, -x, x / 1, keep + absorb, absorb + keep):
        inputs = [t for e in (x, part, keep, absorb) for entry in e.values() for t in entry if t is not None]
        before = [t.clone() for t in inputs]
        for entry in result.values():
            for tensor in entry:
                if tensor is not None:
                    tensor.fill_(7.0)
        assert all(torch.equal(t, b) for t, b in zip(inputs, before, strict=True))


def test_dtypes_mix_upwards() -> None:
    half, wide = (Engram({"a": (torch.ones(2, 2, dtype=t) / 3, None)}) for t in (torch.bfloat16, torch.float64))
    assert (half + wide)["a"].weight.dtype == (wide + half)["a"].weight.dtype == torch.float64


def test_norms_that_are_none() -> None:
    for norm in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="layer 'a'.*norm"):
            Engram({"a": (torch.ones(2, 2), None)}, {"a": norm})


def test_the_norm_is_that_of_all_numbers_together() -> None:
    engram = el.Engram({"a": (torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])), "b": (torch.tensor([[12.0]]), None)})
    assert engram.norm() == 13.0 and el.Engram({}).norm() == 0.0


def test_the_layer_whose_norm_is_unknown_is_named() -> None:
    engram = el.Engram({name: (torch.ones(1, 1), None) for name in ("known", "first", "second")}, {"known": 1.0})
    with pytest.raises(ValueError, match="unknown for layer 'first'"):
        engram.relative_norms()
