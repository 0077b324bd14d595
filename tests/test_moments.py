"""Sums add, subtract, share and travel."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engramlib import Engram, Moments, collect
from engramlib.moments import Identity


def outer(n: int, d: int = 4) -> Tensor:
    x = torch.randn(n, d).double()
    return x.T @ x


@pytest.fixture
def shared() -> Moments:
    sigma = outer(9)
    return Moments(
        {"q": sigma, "k": sigma, "o": outer(9, 3), "conv": torch.stack([outer(5, 2), outer(5, 2)])},
        dict.fromkeys("qko", 9) | {"conv": 5},
    )


def test_arithmetic_keeps_sharing(shared: Moments) -> None:
    for result in (
        shared + shared,
        shared - shared,
        shared.to("cpu"),
        sum([shared, shared, shared]),
        shared.select(["q", "k"]),
    ):
        assert result["q"] is result["k"]
    total = shared + shared
    assert torch.equal(total["conv"], 2 * shared["conv"]) and total.count == {"q": 18, "k": 18, "o": 18, "conv": 10}
    rest = total - shared
    assert all(torch.equal(rest[n], shared[n]) for n in shared) and rest.count == shared.count
    assert shared.count["q"] == 9  # the operands are untouched
    assert "3 distinct" in repr(shared)


def test_sharing_that_only_one_side_has_is_given_up() -> None:
    sigma, other = outer(4), [outer(4), outer(4)]
    total = Moments({"a": sigma, "b": sigma}, {"a": 4, "b": 4}) + Moments(
        {"a": other[0], "b": other[1]}, {"a": 4, "b": 4}
    )
    assert torch.equal(total["a"], sigma + other[0]) and torch.equal(total["b"], sigma + other[1])


def test_save_and_load(shared: Moments, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "m.safetensors"
    shared.save(path)
    again = Moments.load(path)
    assert list(again) == list(shared) and again.count == shared.count and again["q"] is again["k"]
    assert all(torch.equal(again[n], shared[n]) for n in shared)
    assert [p.name for p in path.parent.iterdir()] == ["m.safetensors"]  # no temporary file stays


def test_damaged_and_foreign_files(shared: Moments, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    shared.save(path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not tensors at all", whole[:8] + b"x" * 40):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="m.safetensors"):
            Moments.load(path)
    Engram({"fc": (torch.ones(1, 1), None)}).save(path)
    with pytest.raises(ValueError, match="engramlib.engram"):
        Moments.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Moments.load(tmp_path / "nowhere")


def test_a_failed_save_keeps_the_old_file(shared: Moments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    shared.save(path)
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        (shared + shared).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_errors_name_the_layer(shared: Moments) -> None:
    with pytest.raises(ValueError, match="'fc'.*shape"):
        Moments({"fc": torch.ones(2, 3)}, {"fc": 1})
    with pytest.raises(ValueError, match="'fc'.*count"):
        Moments({"fc": torch.eye(2)}, {})
    with pytest.raises(ValueError, match="'fc'.*NaN"):
        Moments({"fc": torch.full((2, 2), torch.nan)}, {"fc": 1})
    with pytest.raises(ValueError, match="conv, k, o"):
        shared + shared.select(["q"])
    with pytest.raises(ValueError, match="'fc' differ in shape"):
        Moments({"fc": torch.eye(2)}, {"fc": 1}) + Moments({"fc": torch.eye(3)}, {"fc": 1})
    with pytest.raises(ValueError, match="not contained"):
        shared - (shared + shared)
    with pytest.raises(ValueError, match="not contained"):
        Moments({"fc": torch.eye(2)}, {"fc": 5}) - Moments({"fc": 2 * torch.eye(2)}, {"fc": 5})
    with pytest.raises(KeyError, match="no moments of layer 'v'"):
        shared["v"]
    with pytest.raises(TypeError):
        shared + 1
    with pytest.raises(ValueError, match="layers"):
        shared.select(["z"])


def linear(seed: int, out: int = 3, **options: object) -> Moments:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, out))
    return collect(model, [torch.randn(20, 4)], **options)


def test_operations_keep_the_identity(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    a, b = (collect(model, [torch.randn(20, 4)]) for _ in range(2))
    a.save(tmp_path / "a")
    for m in (a + b, (a + b) - b, sum([a, b]), a.to("cpu"), a.select(["0"]), Moments.load(tmp_path / "a")):
        assert m.identity == a.identity
    own = a.identity["0"]
    assert own.weight == (3, 4) and own.absorbed and len(own.stamp) == 12
    assert not collect(model, [torch.randn(20, 4)], bias="keep").identity["0"].absorbed


def test_of_two_kinds() -> None:
    a = linear(0)
    with pytest.raises(ValueError, match="layer '0' are of different models.*shape"):
        a + linear(0, out=5)
    with pytest.raises(ValueError, match="layer '0' are of different.*bias modes"):
        a - linear(0, bias="keep")
    mixed = a + linear(1)  # the same architecture at other weights
    assert mixed.identity["0"].stamp == () and mixed.identity["0"].weight == (3, 4)
    assert (mixed + a).identity["0"].stamp == ()
    assert (a + Moments(dict(a), a.count)).identity == {}  # by hand: nobody knows


def test_sums_that_are_none() -> None:
    good = torch.eye(2)
    for sigma, message in (
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (torch.tensor([[1.0, 0.5], [0.5, -1.0]]), "negative variance"),
        (torch.tensor([[1.0, 5.0], [5.0, 1.0]]), "larger than its variances"),
        (torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]), "NaN"),
        (torch.tensor([[1.0, torch.inf], [torch.inf, 1.0]]), "infinite"),
        (torch.zeros(0, 0), "shape"),
    ):
        with pytest.raises(ValueError, match=f"layer 'fc'.*{message}"):
            Moments({"fc": sigma}, {"fc": 3})
    for sigma in (torch.eye(2, dtype=torch.complex64), [[1.0]], torch.eye(2) > 0):
        with pytest.raises(TypeError, match="layer 'fc'.*real"):
            Moments({"fc": sigma}, {"fc": 3})
    for count in (-1, 2.5, float("nan"), float("inf"), 10**400, "many"):
        with pytest.raises(ValueError, match="layer 'fc'"):
            Moments({"fc": good}, {"fc": count})
    with pytest.raises(ValueError, match="count of 0"):
        Moments({"fc": good}, {"fc": 0})
    half = (torch.randn(500, 6).half().T @ torch.randn(500, 6).half()).half()
    x = torch.randn(500, 6).half()
    assert (
        Moments({"fc": x.T @ x, "whole": torch.eye(2).long()}, {"fc": np.int64(500), "whole": 2.0}).count["fc"] == 500
    )
    with pytest.raises(ValueError, match="not symmetric"):
        Moments({"fc": half}, {"fc": 1})


def test_nothing_left_is_nothing() -> None:
    a, b = (Moments({"fc": outer(9)}, {"fc": 9}) for _ in range(2))
    rest = (a + b - a) - b  # in floating point not zero
    assert rest.count["fc"] == 0 and rest["fc"].abs().max() == 0
    with pytest.raises(ValueError, match="not contained"):
        a - Moments({"fc": 0.5 * a["fc"]}, {"fc": 9})  # as many columns, but other data
    assert np.float64(0) + a is a
    with pytest.raises(TypeError):
        np.float64(3) + a


@pytest.mark.parametrize("factor", [2.0, 0.5, -1.0, 1.02])
def test_other_weights_are_seen_whichever_comes_first(factor: float) -> None:
    layer, other = torch.nn.Linear(40, 30), torch.nn.Linear(40, 30)
    with torch.no_grad():
        other.weight.copy_(factor * layer.weight)
    one, two = (Identity.of(module, "vectors", True) for module in (layer, other))
    assert not one.same_weights(two) and not two.same_weights(one) and one.same_weights(one)


def test_other_weights_are_seen_wherever_they_are() -> None:
    layer = torch.nn.Linear(40, 30)
    for rows in (slice(0, 10), slice(10, 20), slice(20, 30), slice(29, 30)):
        other = torch.nn.Linear(40, 30)
        with torch.no_grad():
            other.weight.copy_(layer.weight)
            other.weight[rows] += 1.0
        pair = [Identity.of(module, "vectors", True) for module in (layer, other)]
        assert not pair[0].same_weights(pair[1]), rows


def test_weights_of_lower_precision_are_the_same_weights() -> None:
    layer = torch.nn.Linear(40, 30)
    one = Identity.of(layer, "vectors", True)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert one.same_weights(Identity.of(copy.deepcopy(layer).to(dtype), "vectors", True)), dtype


def test_counts_are_subtracted_to_nothing_and_not_below() -> None:
    one = Moments({"fc": torch.eye(2)}, {"fc": 5})
    assert (one - one).count == {"fc": 0} and not (one - one)["fc"].any()
    with pytest.raises(ValueError, match="not contained"):
        one - Moments({"fc": torch.eye(2)}, {"fc": 6})


def test_the_size_that_is_shown() -> None:
    sigma = torch.eye(256).double()
    assert repr(Moments({"a": sigma, "b": sigma}, {"a": 1, "b": 1})) == "Moments(2 layers, 1 distinct Σ, 0.5 MiB)"
