import os
import struct
from pathlib import Path

import pytest
import torch

from engramlib.lab.data import DatasetUnavailable, ImageData, Split, digits, mnist


def test_digits_sizes_and_stratification():
    data = digits()
    assert [len(data.split(s)) for s in ("train", "val", "test")] == [1000, 297, 500]
    assert data.train.x.shape == (1000, 1, 8, 8) and data.train.x.min() == 0 and data.train.x.max() == 1
    everything = torch.bincount(torch.cat([data.train.y, data.val.y, data.test.y]), minlength=10) / 1797
    for part in (data.train, data.val, data.test):
        assert torch.allclose(torch.bincount(part.y, minlength=10) / len(part), everything, atol=0.003)


def test_digits_parts_are_disjoint_and_complete():
    from sklearn.datasets import load_digits

    data = digits(seed=3)
    parts = [[row.numpy().tobytes() for row in data.split(s).x] for s in ("train", "val", "test")]
    raw = [torch.tensor(image / 16.0, dtype=torch.float32).numpy().tobytes() for image in load_digits().images]
    assert sorted(sum(parts, [])) == sorted(raw)
    assert len(set(raw)) == 1797  # no duplicates in the source, so disjoint parts share no image
    assert not set(parts[0]) & set(parts[1]) and not set(parts[0]) & set(parts[2]) and not set(parts[1]) & set(parts[2])


def test_digits_are_fixed_by_the_seed():
    assert digits(seed=1).fingerprint() == digits(seed=1).fingerprint() != digits(seed=2).fingerprint()


def test_batches_flat_and_samples():
    data = digits().flat()
    batches = data.batches("train", size=300)
    assert [len(y) for _, y in batches] == [300, 300, 300, 100]
    assert torch.equal(torch.cat([x for x, _ in batches]), data.train.x) and data.train.x.shape == (1000, 64)
    some = data.train.sample(7, seed=1)
    assert torch.equal(torch.bincount(some.y), torch.full((10,), 7))
    rows = {row.numpy().tobytes() for row in some.x}
    assert len(rows) == 70 and rows <= {row.numpy().tobytes() for row in data.train.x}
    assert not torch.equal(some.x, data.train.sample(7, seed=2).x)
    assert len(data.train.sample(10_000)) == 1000


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="no split 'dev'.*train, val, test"):
        digits().batches("dev")
    with pytest.raises(ValueError, match="x has 2 rows but y has 3"):
        Split(torch.zeros(2, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="per_class"):
        digits().train.sample(0)


def test_fingerprint_changes_with_one_pixel():
    part = Split(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]))
    other = Split(part.x.clone(), part.y)
    other.x[1, 0, 1, 1] = 0.5
    data = ImageData("tiny", ("a", "b"), (1, 2, 2), part, part, part)
    changed = ImageData("tiny", ("a", "b"), (1, 2, 2), part, part, other)
    assert data.fingerprint() != changed.fingerprint()


def _write_idx(folder: Path, n_train: int = 5200, n_test: int = 30) -> None:
    """A small MNIST in the official format."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, n in (("train", n_train), ("t10k", n_test)):
        pixels = (torch.arange(n).view(-1, 1).expand(n, 784) % 256).to(torch.uint8).numpy().tobytes()
        labels = (torch.arange(n) % 10).to(torch.uint8).numpy().tobytes()
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, n, 28, 28) + pixels)
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, n) + labels)


def test_mnist_reads_a_folder_and_takes_val_from_the_end(tmp_path, monkeypatch):
    _write_idx(tmp_path)
    monkeypatch.setenv("ENGRAM_DATA", str(tmp_path))
    data = mnist()
    assert [len(data.split(s)) for s in ("train", "val", "test")] == [200, 5000, 30]
    assert data.val.x.shape == (5000, 1, 28, 28) and data.val.x.max() == 1
    assert float(data.val.x[0, 0, 0, 0]) == pytest.approx(200 / 255) and int(data.val.y[3]) == 3


def _offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def test_mnist_offline_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    _offline(monkeypatch)
    with pytest.raises(DatasetUnavailable) as caught:
        mnist(tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "MNIST" / "raw") in message and "ENGRAM_DATA" in message and "\n" not in message


def test_mnist_damaged_file_is_named(tmp_path, monkeypatch):
    _offline(monkeypatch)
    _write_idx(tmp_path)
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:1000])
    with pytest.raises(DatasetUnavailable, match="cannot be read.*Delete"):
        mnist(tmp_path)


def test_mnist_where_nothing_can_be_written(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(DatasetUnavailable, match="no folder there can be written"):
        mnist(blocked)


@pytest.mark.skipif(not Path(os.environ.get("ENGRAM_DATA", ""), "MNIST").is_dir(), reason="real MNIST: set ENGRAM_DATA")
def test_real_mnist():
    data = mnist()
    assert [len(data.split(s)) for s in ("train", "val", "test")] == [55_000, 5_000, 10_000]
    assert torch.bincount(data.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
