"""Files that are read are checked, files that are written are whole."""

from __future__ import annotations

import errno
import json
import os
import random
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

import engramlib as el
from engramlib import Engram, Moments


def some_moments() -> Moments:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Conv1d(1, 2, 2), nn.Linear(3, 2))
    return el.collect(model, [torch.randn(9, 1, 3)])


def rewritten(path: Path, change: object) -> None:
    """Change the JSON inside a file: ``change(metadata, header)``."""
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    outer = json.loads(raw[8 : 8 + n])
    header = json.loads(outer["__metadata__"]["header"])
    result = change(outer["__metadata__"], header)
    outer["__metadata__"]["header"] = result if isinstance(result, str) else json.dumps(header)
    text = json.dumps(outer).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + n :])


def test_what_was_loaded_does_not_change_with_the_file(tmp_path: Path) -> None:
    path, moments = tmp_path / "m", some_moments()
    moments.save(path)
    loaded = Moments.load(path)
    before = {name: sigma.clone() for name, sigma in loaded.items()}
    with path.open("r+b") as file:  # in place: the same inode, which a memory map would follow
        file.seek(0)
        file.write(b"\xff" * path.stat().st_size)
    assert all(torch.equal(loaded[name], before[name]) for name in before)
    engram = Engram({"fc": (torch.ones(20, 30), None)})
    engram.save(path)
    loaded = Engram.load(path)
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    assert torch.equal(loaded["fc"].weight, torch.ones(20, 30))


def test_identity_travels(tmp_path: Path) -> None:
    moments = some_moments()
    assert set(moments.identity) == set(moments)
    moments.save(tmp_path / "m")
    assert Moments.load(tmp_path / "m").identity == moments.identity


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    path, moments = tmp_path / "m", some_moments()
    moments.save(path)

    def older(metadata: dict, header: dict) -> None:
        metadata["version"] = "1"
        del header["identity"]

    rewritten(path, older)
    loaded = Moments.load(path)
    assert loaded.identity == {} and loaded.count == moments.count
    rewritten(path, lambda metadata, header: metadata.update(version="99"))
    with pytest.raises(ValueError, match="version 99"):
        Moments.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda m, h: h.update(layers=[1, 2]),
        lambda m, h: h.update(layers={"0": ["0", -1]}),
        lambda m, h: h.update(layers={"0": ["0", 1.5]}),
        lambda m, h: h.update(layers={"0": ["0", float("nan")]}),
        lambda m, h: h.update(layers={"0": ["0", float("inf")]}),
        lambda m, h: h.update(layers={"0": ["0", 10**30]}),
        lambda m, h: h.update(layers={"0": ["0", "9"]}),
        lambda m, h: h.update(layers={"0": ["0", True]}),
        lambda m, h: h.update(layers={"0": ["77", 9]}),
        lambda m, h: h.update(layers={"0": [["0"], 9]}),
        lambda m, h: h.update(layers={"0": "0"}),
        lambda m, h: h.update(layers={}),
        lambda m, h: h.pop("layers") and None,
        lambda m, h: h.update(identity={"0": 3}),
        lambda m, h: h.update(identity=[3]),
        lambda m, h: h["identity"]["0"].update(weight=["a"]),
        lambda m, h: h["identity"]["0"].update(stamp=[1.0] * 10_000),
        lambda m, h: h["identity"]["0"].update(absorbed=2),
        lambda m, h: "[" * 100_000,
        lambda m, h: "null",
        lambda m, h: '{"layers": {"0": ["0", 9], "0": ["1", 9]}}',
        lambda m, h: m.pop("kind") and None,
    ],
)
def test_headers_that_do_not_fit(change: object, tmp_path: Path) -> None:
    path = tmp_path / "m"
    some_moments().save(path)
    rewritten(path, change)
    with pytest.raises(ValueError, match=str(path)):
        Moments.load(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"0": torch.eye(3, dtype=torch.int64)},
        {"0": torch.ones(2, 3)},
        {"0": torch.ones(3)},
        {"0": torch.zeros(0, 0)},
        {"0": torch.full((2, 2), torch.nan)},
        {"0": torch.tensor([[1.0, 2.0], [0.0, 1.0]])},
        {"0": -torch.eye(2)},
        {"0": torch.eye(2), "1": torch.eye(2)},
    ],
)
def test_tensors_that_are_no_moments(tensors: dict, tmp_path: Path) -> None:
    from engramlib import _files

    _files.save(tmp_path / "m", "engramlib.moments", tensors, {"layers": {"fc": ["0", 2]}})
    with pytest.raises(ValueError, match="damaged"):
        Moments.load(tmp_path / "m")


@pytest.mark.parametrize("header", [{"layers": ["a", "a"]}, {"layers": [1]}, {"layers": 3}, {"layers": ["a", "b"]}, {}])
def test_headers_of_engrams(header: dict, tmp_path: Path) -> None:
    from engramlib import _files

    tensors = {"0.weight": torch.ones(2, 2)}
    for norms in ({"a": 1.0}, {"a": -1.0}, {"a": "x"}, [1]):
        _files.save(tmp_path / "e", "engramlib.engram", tensors, {"norms": norms} | header)
        with pytest.raises(ValueError, match="damaged"):
            Engram.load(tmp_path / "e")
        if norms != {"a": 1.0}:
            _files.save(tmp_path / "e", "engramlib.engram", tensors, {"norms": norms, "layers": ["a"]})
            with pytest.raises(ValueError, match="damaged"):
                Engram.load(tmp_path / "e")


def test_flipped_bytes(tmp_path: Path) -> None:
    """400 damaged files: each is refused with a ValueError, or was damaged in a number only."""
    path, luck = tmp_path / "m", random.Random(0)
    some_moments().save(path)
    whole = path.read_bytes()
    refused = 0
    for _ in range(400):
        raw = bytearray(whole)
        for _ in range(luck.choice([1, 1, 3, 20])):
            raw[luck.randrange(len(raw) if luck.random() < 0.3 else 1000)] = luck.randrange(256)
        end = luck.choice([len(raw), len(raw), luck.randrange(len(raw))])
        path.write_bytes(bytes(raw[:end]) + b"x" * luck.choice([0, 0, 9]))
        try:
            Moments.load(path)
        except ValueError:
            refused += 1
    assert refused > 200


def test_places_that_are_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="is a directory"):
        Moments.load(tmp_path)
    with pytest.raises(IsADirectoryError, match="is a directory"):
        some_moments().save(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty is damaged"):
        Moments.load(tmp_path / "empty")
    monkeypatch.setattr(Path, "open", lambda *args: (_ for _ in ()).throw(PermissionError(13, "denied", "empty")))
    with pytest.raises(PermissionError):
        Moments.load(tmp_path / "empty")


@pytest.mark.parametrize("error", [PermissionError(1, "not permitted"), OSError(errno.ENOTSUP, "not supported")])
def test_file_systems_without_chmod(error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(os, "chmod", refuse)
    moments = some_moments()
    moments.save(tmp_path / "m")
    assert Moments.load(tmp_path / "m").count == moments.count


@pytest.mark.parametrize("step", ["close", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_the_old_file_alone(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m"
    some_moments().save(path)
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(type(error)):
            some_moments().save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["m"]


def test_links_and_permissions_survive(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "m"
    some_moments().save(target)
    target.chmod(0o600)
    (tmp_path / "link").symlink_to(target)
    moments = some_moments()
    moments.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and target.stat().st_mode & 0o777 == 0o600
    assert torch.equal(Moments.load(target)["0"], moments["0"])
    moments.save(tmp_path / ("n" * 250))  # the temporary file's name must not be too long
