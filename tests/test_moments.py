"""Sums add, subtract, share and travel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engramlib import Engram, Moments


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
