"""The vision data sets: generated shapes and faces, and the loaders on tiny folders that the tests write."""

import hashlib
import io
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import engramlib as el
from engramlib.lab.data import (
    AttributeSplit,
    DatasetUnavailable,
    celeba,
    cifar,
    cifar10,
    cifar100,
    faces,
    imagenet,
    shapes,
)
from engramlib.lab.data.cifar import CIFAR10_CLASSES
from engramlib.lab.data.faces import ATTRIBUTES, IDENTITY, render
from engramlib.lab.data.imagenet import _class_names
from engramlib.lab.data.shapes import SHAPES
from engramlib.lab.models.resnet import resnet
from engramlib.lab.training import Recipe, predict, train_classifier

# ---------------------------------------------------------------------------------------------------------- shapes


def _bytes_digest(*tensors: torch.Tensor) -> str:
    """Of pixels as bytes: the data sets come in steps of 1/255."""
    digest = hashlib.sha256()
    for x in tensors:
        pixels = (x * 255.0).round().to(torch.uint8)
        assert torch.equal(pixels.float() / 255.0, x)
        digest.update(pixels.numpy().tobytes())
    return digest.hexdigest()[:16]


def test_shapes_sizes_names_and_groups():
    data = shapes(4, 3, per_class=10, size=12)
    assert [tuple(data.split(s).x.shape) for s in ("train", "val", "test")] == [
        (120, 3, 12, 12),
        (60, 3, 12, 12),
        (60, 3, 12, 12),
    ]
    assert torch.bincount(data.train.y).tolist() == [10] * 12 and torch.bincount(data.test.y).tolist() == [5] * 12
    assert data.train.y.dtype == torch.int64 and not torch.equal(data.train.y, data.train.y.sort().values)
    assert data.superclass_of == (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3) and data.image_shape == (3, 12, 12)
    for name, group in zip(data.classes, data.superclass_of, strict=True):
        assert name.split()[-1] == data.superclasses[group]
    hundred = shapes(10, 10, per_class=2)
    assert len(set(hundred.classes)) == 100 and hundred.superclasses == tuple(SHAPES)
    assert {len(name.split()) for name in hundred.classes} == {3}


def test_shapes_are_the_same_on_every_machine():
    """Pinned on 8-bit pixels. If it changes, the data set changed: recorded numbers of chapters go with it."""
    data = shapes(10, 10, per_class=2)
    assert _bytes_digest(data.train.x, data.val.x, data.test.x) == "425fe5a7f1c4fc73"
    assert shapes(seed=1, per_class=4).fingerprint() == shapes(seed=1, per_class=4).fingerprint()
    assert shapes(seed=1, per_class=4).fingerprint() != shapes(seed=2, per_class=4).fingerprint()


def test_shapes_classes_do_not_depend_on_how_many_there_are():
    few, many = shapes(2, 2, per_class=6), shapes(3, 5, per_class=6)
    for label, name in enumerate(few.classes):
        other = many.classes.index(name)
        a, b = few.test.x[few.test.y == label], many.test.x[many.test.y == other]
        assert {i.numpy().tobytes() for i in a} == {i.numpy().tobytes() for i in b}


def test_shapes_splits_share_no_image():
    data = shapes(per_class=50)
    rows = [{i.numpy().tobytes() for i in data.split(s).x} for s in ("train", "val", "test")]
    assert [len(r) for r in rows] == [500, 250, 250] and len(set.union(*rows)) == 1000


@pytest.mark.parametrize(
    "wrong", [{"n_super": 11}, {"n_super": 0}, {"n_sub": 11}, {"per_class": 1}, {"size": 7}, {"n_sub": 2.0}]
)
def test_shapes_errors_name_the_argument(wrong):
    with pytest.raises(ValueError, match=f"shapes: {next(iter(wrong))} must be"):
        shapes(**wrong)


def test_shapes_are_neither_trivial_nor_hopeless_and_the_taxonomy_is_in_the_network():
    """What the chapters train, a little shorter."""
    data = shapes()
    model = resnet((16, 32), n_classes=10)
    train_classifier(
        model, data, epochs=7, lr=4e-3, batch_size=64, seed=0, recipe=Recipe(schedule="onecycle"), progress=False
    )
    guess, truth = predict(model, data.test.x), data.test.y
    group = torch.tensor(data.superclass_of)
    assert 0.75 < float((guess == truth).float().mean()) < 0.98
    wrong = guess != truth
    inside = (group[guess] == group[truth])[wrong].float().mean()
    assert float(inside) > 3 / 9  # one of the nine wrong classes shares the superclass: three times chance
    with torch.no_grad():
        features = model.features(data.test.x)
    means = torch.stack([features[truth == c].mean(0) for c in range(10)])
    alike = nn.functional.normalize(means - means.mean(0), dim=1)
    alike = alike @ alike.T
    same, itself = group[:, None] == group[None, :], torch.eye(10, dtype=torch.bool)
    assert float(alike[same & ~itself].mean()) > float(alike[~same].mean()) + 0.3


# ----------------------------------------------------------------------------------------------------------- faces


@pytest.fixture(scope="module")
def people():
    return faces(600)


def test_faces_sizes_and_frequencies(people):
    assert [len(people.split(s)) for s in ("train", "val", "test")] == [400, 100, 100]
    assert (
        people.train.x.shape == (400, 3, 32, 32)
        and people.train.identity.shape == (400, len(people.identity_names))
        and people.identity_names == IDENTITY
    )
    assert people.train.attributes.dtype == torch.bool and people.attributes == ATTRIBUTES
    assert torch.allclose(people.train.attributes.double().mean(0), torch.full((5,), 0.15).double(), atol=0.055)
    some = faces(600, frequencies={"hat": 1.0, "smile": 0.0}, seed=3)
    assert some.has("hat").all() and not some.has("smile").any() and 0.05 < some.has("glasses").float().mean() < 0.3
    assert len(people.test.where(people.has("hat", "test"))) == int(people.has("hat", "test").sum()) > 0


def test_faces_are_the_same_on_every_machine():
    data = faces(60)
    assert _bytes_digest(data.train.x, data.val.x, data.test.x) == "16524decdea7e9b0"
    assert faces(60).fingerprint() == data.fingerprint() != faces(60, seed=1).fingerprint()


def test_attributes_do_not_depend_on_each_other_or_on_the_face():
    data = faces(600, size=16, frequencies=0.5)
    table = torch.cat([data.train.attributes.double(), data.train.identity.double()], dim=1)
    correlation = torch.corrcoef(table.T).fill_diagonal_(0.0)
    assert float(correlation.abs().max()) < 4.5 / 400**0.5


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_counterfactual_changes_the_attribute_and_nothing_else(people, attribute):
    part, has = people.test, people.has(attribute, "test")
    without = people.counterfactual("test", attribute, present=False)
    with_it = people.counterfactual("test", attribute, present=True)
    assert torch.equal(without[~has], part.x[~has]) and torch.equal(with_it[has], part.x[has])
    mask = people.attribute_mask("test", attribute)
    outside = ~mask.unsqueeze(1).expand_as(with_it)
    assert torch.equal(without[outside], with_it[outside])
    area = mask.flatten(1).sum(1)
    assert int(area.min()) >= 10 and int(area.max()) <= 300  # visible in every face, and never all of it
    change = (with_it - without).abs().amax(dim=(1, 2, 3))
    assert float(change.min()) > 0.08
    # Taking it away and putting it back is the identity.
    bare = AttributeSplit(without, part.attributes & (torch.arange(5) != people.column(attribute)), part.identity)
    assert torch.equal(people.counterfactual(bare, attribute, present=True), with_it)


def test_several_attributes_at_once(people):
    drawn = people.draw("val", glasses=False, hat=True)
    wanted = people.val.attributes.clone()
    wanted[:, people.column("glasses")], wanted[:, people.column("hat")] = False, True
    assert torch.equal(drawn, render(people.val.identity, wanted))
    assert torch.equal(people.draw("val"), people.val.x)
    assert torch.equal(people.draw(people.val.where(torch.arange(100) < 3)), people.val.x[:3])  # alone or in a batch


def test_every_part_of_the_identity_is_drawn():
    identity, bare = torch.full((1, len(IDENTITY)), 0.3), torch.zeros(1, 5, dtype=torch.bool)
    dressed = ~bare & torch.tensor([[1, 0, 1, 0, 0]]).bool()
    for column, name in enumerate(IDENTITY):
        other = identity.clone()
        other[0, column] = 0.9
        changed = [not torch.equal(render(identity, a), render(other, a)) for a in (bare, dressed)]
        assert changed[1] and (changed[0] or name in ("hat hue", "frame colour")), name


def test_faces_go_through_collect_with_an_attribute_as_rows(people):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4, bias=False))
    column = people.column("glasses")
    moments = el.collect(model, people.batches("test", 64), rows=lambda batch: batch[1][:, column])
    x = people.test.x[people.has("glasses", "test")].flatten(1).double()
    assert moments.count["1"] == len(x) > 0 and torch.allclose(moments["1"], x.T @ x)


def test_faces_errors_name_the_argument(people):
    with pytest.raises(ValueError, match="faces: n must be"):
        faces(5)
    with pytest.raises(ValueError, match="faces: size must be"):
        faces(60, size=8)
    with pytest.raises(ValueError, match=r"frequencies must lie in \[0, 1\], got 1.5 for hat"):
        faces(60, frequencies={"hat": 1.5})
    with pytest.raises(ValueError, match="no attribute 'beard'.*goatee"):
        faces(60, frequencies={"beard": 0.5})
    with pytest.raises(ValueError, match="no attribute 'beard'.*goatee"):
        people.counterfactual("test", "beard")
    with pytest.raises(ValueError, match="no split 'dev'"):
        people.batches("dev")
    with pytest.raises(ValueError, match="size must be at least 1"):
        people.batches("test", 0)
    with pytest.raises(ValueError, match="identity must be N x 24"):
        render(torch.zeros(2, 3), torch.zeros(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="attributes must be 2 x 5"):
        render(torch.zeros(2, 24), torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="must match"):
        AttributeSplit(torch.zeros(2, 1), torch.zeros(3, 1), torch.zeros(2, 1))


# ---------------------------------------------------------------------------------------------------------- CelebA


def _write_celeba(folder: Path, per_part: tuple[int, int, int] = (12, 4, 3)) -> None:
    """Photographs of one colour with a frame that the crop must cut off; attributes count in binary."""
    (folder / "img_align_celeba").mkdir(parents=True)
    attributes, partition = [str(sum(per_part)), "Bald  Smiling Young"], []
    number = 0
    for part, n in enumerate(per_part):
        for _ in range(n):
            number += 1
            picture = np.zeros((218, 178, 3), dtype=np.uint8)
            picture[39:179, 19:159] = (10 * number, 128, 255 - 10 * number)
            file = f"{number:06d}.jpg"
            Image.fromarray(picture).save(folder / "img_align_celeba" / file, quality=100, subsampling=0)
            flags = " ".join(" 1" if number >> bit & 1 else "-1" for bit in range(3))
            attributes.append(f"{file} {flags}")
            partition.append(f"{file} {part}")
    (folder / "list_attr_celeba.txt").write_text("\n".join(attributes) + "\n")
    (folder / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")


@pytest.mark.parametrize("inside", ["celeba", "."])
def test_celeba_reads_the_official_files(tmp_path, monkeypatch, inside):
    _write_celeba(tmp_path / inside)
    monkeypatch.setenv("ENGRAM_DATA", str(tmp_path))
    data = celeba(size=16)
    assert [len(data.split(s)) for s in ("train", "val", "test")] == [12, 4, 3]
    assert data.attributes == ("Bald", "Smiling", "Young") and data.image_shape == (3, 16, 16)
    assert data.name == "CelebA"
    assert data.test.attributes.tolist() == [[bool(n >> bit & 1) for bit in range(3)] for n in (17, 18, 19)]
    assert data.val.x.shape == (4, 3, 16, 16) and data.val.identity.shape == (4, 0)
    colour = data.val.x[0].mean(dim=(1, 2)) * 255  # number 13: all of it inside the crop
    assert torch.allclose(colour, torch.tensor([130.0, 128.0, 125.0]), atol=4)
    assert float(data.val.x.flatten(2).std(dim=2).max()) < 0.03
    assert torch.equal(data.has("Young", "val"), torch.tensor([n >> 2 & 1 == 1 for n in (13, 14, 15, 16)]))


def test_celeba_at_half_size_and_from_a_zip(tmp_path, monkeypatch):
    """The crop is the same share of a smaller photograph; a zip is unpacked into the cache, once."""
    folder = tmp_path / "made" / "celeba-half"
    _write_celeba(folder)
    for file in (folder / "img_align_celeba").iterdir():
        with Image.open(file) as image:
            small = image.resize((89, 109), Image.Resampling.BOX)
        small.save(file, quality=100, subsampling=0)
    data = celeba(folder, size=16)
    assert float(data.val.x.flatten(2).std(dim=2).max()) < 0.03  # no frame
    assert data.name == "CelebA, half size"

    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "zips").mkdir()
    shutil.make_archive(str(tmp_path / "zips" / "celeba-half"), "zip", tmp_path / "made", "celeba-half")
    again = celeba(tmp_path / "zips", size=16)
    assert torch.equal(again.train.x, data.train.x)
    assert (home / ".cache/engramlib/celeba-half/img_align_celeba").is_dir()
    (tmp_path / "zips" / "celeba-half.zip").write_bytes(b"no zip")
    assert torch.equal(celeba(tmp_path / "zips", size=16).train.x, data.train.x)


def test_celeba_limit(tmp_path):
    _write_celeba(tmp_path)
    data = celeba(tmp_path, size=8, limit=10)
    assert [len(data.split(s)) for s in ("train", "val", "test")] == [10, 2, 2]
    assert torch.equal(data.train.x, celeba(tmp_path, size=8, limit=None).train.x[:10])
    for wrong in ({"limit": 4}, {"size": 7}, {"size": 200}):
        with pytest.raises(ValueError, match=f"celeba: {next(iter(wrong))} must be"):
            celeba(tmp_path, **wrong)


def test_celeba_errors_say_what_to_do(tmp_path):
    with pytest.raises(DatasetUnavailable, match="mmlab.ie.cuhk.edu.hk.*ENGRAM_DATA") as caught:
        celeba(tmp_path)
    assert str(tmp_path / "celeba") in str(caught.value) and "\n" not in str(caught.value)

    _write_celeba(tmp_path)
    image = tmp_path / "img_align_celeba" / "000002.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:300])
    with pytest.raises(DatasetUnavailable, match="000002.jpg cannot be read"):
        celeba(tmp_path)
    image.write_bytes(whole)

    for file, damage, message in (
        ("list_attr_celeba.txt", lambda t: t.replace("000003.jpg  1", "000003.jpg  7"), "line 5 of .*list_attr"),
        ("list_attr_celeba.txt", lambda t: t.replace("000004.jpg", "4.jpg"), "no line for 000004.jpg"),
        ("list_attr_celeba.txt", lambda t: "", "no line for 000001.jpg"),
        ("list_eval_partition.txt", lambda t: t.replace("000001.jpg 0", "000001.jpg 3"), "line 1 of .*partition"),
        ("list_eval_partition.txt", lambda t: "000001.jpg 0\n", "lists no val"),
    ):
        text = (tmp_path / file).read_text()
        (tmp_path / file).write_text(damage(text))
        with pytest.raises(DatasetUnavailable, match=message):
            celeba(tmp_path)
        (tmp_path / file).write_text(text)
    (tmp_path / "list_eval_partition.txt").unlink()
    with pytest.raises(DatasetUnavailable, match="list_eval_partition.txt missing"):
        celeba(tmp_path)


# -------------------------------------------------------------------------------------------------------- ImageNet


def _write_imagenet(folder: Path, classes: int = 6, train: int = 20, val: int = 3) -> None:
    """Class c is grey level 40 c, wider than high, with black bars that the middle cut must remove."""
    for part, n in (("train", train), ("val", val)):
        for c in range(classes):
            place = folder / part / f"n{c:08d}"
            place.mkdir(parents=True)
            for i in range(n):
                picture = np.zeros((24, 48, 3), dtype=np.uint8)
                picture[:, 12:36] = 40 * c
                Image.fromarray(picture).save(place / f"{i:03d}.JPEG", quality=100)


@pytest.mark.parametrize("inside", ["imagenet", "."])
def test_imagenet_is_read_batch_by_batch(tmp_path, monkeypatch, inside):
    _write_imagenet(tmp_path / inside)
    monkeypatch.setenv("ENGRAM_DATA", str(tmp_path))
    data = imagenet(size=14, group=4)
    assert [len(data.split(s)) for s in ("train", "val", "test")] == [108, 12, 18]  # a tenth of 20 is held out
    assert data.n_classes == 6 and data.classes[1] == "n00000001" and data.image_shape == (3, 14, 14)
    assert data.superclass_of == (0, 0, 0, 0, 1, 1) and data.superclasses[1] == "n00000004 ... n00000005"
    assert not set(data.train.paths) & set(data.val.paths) and Path(data.val.paths[0]).name == "018.JPEG"
    batches = data.batches("test", 5)
    assert len(batches) == 4 and [len(y) for _, y in batches] == [5, 5, 5, 3] == [len(y) for _, y in batches]
    x, y = (torch.cat(z) for z in zip(*batches, strict=True))
    assert x.shape == (18, 3, 14, 14) and torch.equal(y, data.test.y)
    assert torch.allclose(x.mean(dim=(1, 2, 3)), 40 / 255 * y, atol=0.01)


def test_imagenet_goes_through_collect_and_samples_lazily(tmp_path):
    _write_imagenet(tmp_path)
    data = imagenet(tmp_path, size=8)
    some = data.train.sample(4, seed=1)
    assert torch.bincount(some.y).tolist() == [4] * 6 and set(some.paths) <= set(data.train.paths)
    assert some.paths != data.train.sample(4, seed=2).paths and len(data.train.sample(99)) == 108
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    moments = el.collect_by_concept(model, data.batches(some, 7), lambda batch: batch[1])
    assert sorted(moments) == list(range(6)) and {m.count["1"] for m in moments.values()} == {4}
    Path(data.train.paths[0]).unlink()  # nothing of it was read so far
    with pytest.raises(DatasetUnavailable, match="000.JPEG cannot be read"):
        data.train[0]
    with pytest.raises(ValueError, match="per_class"):
        data.train.sample(0)
    with pytest.raises(ValueError, match="no split"):
        data.batches("dev")
    with pytest.raises(ValueError, match="size"):
        data.batches("val", 0)


def test_imagenet_transform_takes_the_place_of_the_pixels(tmp_path):
    _write_imagenet(tmp_path, classes=2)
    data = imagenet(tmp_path, transform=lambda picture: torch.full((1, 2, 2), float(picture.size[0])))
    assert data.image_shape == (1, 2, 2) and float(data.test[0][0][0, 0, 0]) == 48


def test_imagenet_has_english_names_for_its_thousand_classes():
    names = _class_names([f"n{i:08d}" for i in range(1000)])
    assert names[0] == "tench" and names[207] == "golden retriever" and len(names) == 1000
    assert _class_names([f"n{i:08d}" for i in range(999)])[0] == "n00000000"
    assert _class_names([f"class {i}" for i in range(1000)])[0] == "class 0"


def test_imagenet_errors_say_what_to_do(tmp_path):
    with pytest.raises(DatasetUnavailable, match="image-net.org.*ENGRAM_DATA"):
        imagenet(tmp_path)
    _write_imagenet(tmp_path, classes=2)
    (tmp_path / "train" / "n00000009").mkdir()
    with pytest.raises(DatasetUnavailable, match="cannot be read.*n00000009"):
        imagenet(tmp_path)
    Image.new("RGB", (20, 20)).save(tmp_path / "train" / "n00000009" / "0.JPEG")
    with pytest.raises(DatasetUnavailable, match="different classes.*n00000009"):
        imagenet(tmp_path)
    with pytest.raises(ValueError, match="group must be"):
        imagenet(tmp_path, group=0)


def test_imagenet_val_without_class_folders(tmp_path):
    _write_imagenet(tmp_path / "a", classes=2)
    (tmp_path / "train").symlink_to(tmp_path / "a" / "train")
    (tmp_path / "val").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DatasetUnavailable, match="one folder a class"):
        imagenet(tmp_path)


# ----------------------------------------------------------------------------------------------------------- CIFAR


@pytest.fixture
def small_val(monkeypatch):
    monkeypatch.setattr(cifar, "VAL_PER_CLASS", {"CIFAR-10": 2, "CIFAR-100": 1})


def _jpeg(level: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), level, dtype=np.uint8)).save(file, "JPEG", quality=100)
    return file.getvalue()


def _cifar10_jpegs(train: int = 5, test: int = 2) -> dict[str, bytes]:
    """The grey level tells the class and the number of the image: 20 c + i, and 100 more would be a test image."""
    files = {}
    for split, n in (("train", train), ("test", test)):
        for c, name in enumerate(CIFAR10_CLASSES):
            for i in range(n):
                files[f"cifar10-images/{split}/{name}/{i:04d}.jpg"] = _jpeg(20 * c + 2 * i + (split == "test"))
    return files


def _levels(part) -> list[int]:
    return (part.x[:, 0, 0, 0] * 255).round().int().tolist()


def _check_jpegs(data) -> None:
    assert data.name == "CIFAR-10 (JPEG)" and data.classes == CIFAR10_CLASSES and data.image_shape == (3, 32, 32)
    assert [len(data.split(s)) for s in ("train", "val", "test")] == [30, 20, 20]
    classes = torch.arange(10)
    assert torch.equal(data.train.y, classes.repeat_interleave(3)) and torch.equal(
        data.val.y, classes.repeat_interleave(2)
    )
    assert _levels(data.train) == [20 * c + 2 * i for c in range(10) for i in (0, 1, 2)]
    assert _levels(data.val) == [20 * c + 2 * i for c in range(10) for i in (3, 4)]  # the last of each class
    assert _levels(data.test) == [20 * c + 2 * i + 1 for c in range(10) for i in (0, 1)]


def test_cifar10_from_jpeg_folders(tmp_path, monkeypatch, small_val):
    for path, content in _cifar10_jpegs().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    monkeypatch.setenv("ENGRAM_DATA", str(tmp_path))
    _check_jpegs(cifar10())


def _write_zips(folder: Path, files: dict[str, bytes]) -> None:
    """Two archives, each with half of the files, in an order that says nothing."""
    for number, archive in enumerate(("cifar10-images-a.zip", "cifar10-images-b.zip")):
        with zipfile.ZipFile(folder / archive, "w") as target:
            for path in sorted(files, key=lambda p: hashlib.sha256(p.encode()).digest())[number::2]:
                target.writestr(path, files[path])


def test_cifar10_from_jpegs_in_zips(tmp_path, small_val):
    _write_zips(tmp_path, _cifar10_jpegs())
    _check_jpegs(cifar10(tmp_path))


def test_cifar10_jpegs_that_are_missing_or_damaged(tmp_path, small_val):
    files = _cifar10_jpegs()
    _write_zips(tmp_path, {p: b for p, b in files.items() if "/test/cat/" not in p})
    with pytest.raises(DatasetUnavailable, match="no JPEG files for test/cat. Is a zip missing"):
        cifar10(tmp_path)
    _write_zips(tmp_path, files | {"cifar10-images/train/dog/0001.jpg": b"not a picture"})
    with pytest.raises(DatasetUnavailable, match="cannot be read.*Fetch it again"):
        cifar10(tmp_path)


def _write_pickles(monkeypatch, folder: Path, source: str, batches: dict[str, dict], meta: tuple[str, dict]) -> None:
    """torchvision's files with torchvision's checksums, of a CIFAR of a few images."""
    from torchvision import datasets

    where = folder / getattr(datasets, source).base_folder
    where.mkdir(parents=True)
    sums = {}
    for name, content in (*batches.items(), meta):
        (where / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((where / name).read_bytes()).hexdigest()
    test = [name for name in batches if name.startswith("test")]
    for attribute, names in (("test_list", test), ("train_list", [n for n in batches if n not in test])):
        monkeypatch.setattr(getattr(datasets, source), attribute, [[n, sums[n]] for n in names])
    key = "label_names" if source == "CIFAR10" else "fine_label_names"
    monkeypatch.setattr(getattr(datasets, source), "meta", {"filename": meta[0], "key": key, "md5": sums[meta[0]]})


def _picture_rows(n: int) -> np.ndarray:
    """Image i: red i, green 100 + i, blue 200 + i, as CIFAR's rows of 3,072 bytes."""
    return np.repeat(np.arange(n)[:, None] + np.array([0, 100, 200]), 1024, axis=1).astype(np.uint8)


def test_cifar10_from_torchvisions_files(tmp_path, monkeypatch, small_val):
    batches = {
        "data_batch_1": {"data": _picture_rows(20), "labels": [i % 10 for i in range(20)]},
        "data_batch_2": {"data": _picture_rows(20) + 20, "labels": [i % 10 for i in range(20)]},
        "test_batch": {"data": _picture_rows(10), "labels": list(range(10))},
    }
    _write_pickles(monkeypatch, tmp_path, "CIFAR10", batches, ("batches.meta", {"label_names": list(CIFAR10_CLASSES)}))
    data = cifar10(tmp_path)
    assert data.name == "CIFAR-10" and data.classes == CIFAR10_CLASSES and data.superclasses == ()
    assert [len(data.split(s)) for s in ("train", "val", "test")] == [20, 20, 10]
    assert _levels(data.train) == list(range(20)) and _levels(data.val) == list(range(20, 40))
    colour = (data.test.x[7].mean(dim=(1, 2)) * 255).round().tolist()
    assert colour == [7, 107, 207] and data.test.y.tolist() == list(range(10))


def test_cifar100_from_torchvisions_files_with_its_superclasses(tmp_path, monkeypatch, small_val):
    fine = [i % 6 for i in range(18)]
    train = {"data": _picture_rows(18), "fine_labels": fine, "coarse_labels": [(f * 5 + 2) % 3 for f in fine]}
    test = {"data": _picture_rows(6), "fine_labels": list(range(6)), "coarse_labels": [0] * 6}
    meta = {"fine_label_names": [f"fine {i}" for i in range(6)], "coarse_label_names": ["x", "y", "z"]}
    _write_pickles(monkeypatch, tmp_path, "CIFAR100", {"train": train, "test": test}, ("meta", meta))
    data = cifar100(tmp_path)
    assert data.name == "CIFAR-100" and data.classes[4] == "fine 4" and data.superclasses == ("x", "y", "z")
    assert data.superclass_of == (2, 1, 0, 2, 1, 0)
    assert _levels(data.train) == list(range(12)) and _levels(data.val) == list(range(12, 18)) and len(data.test) == 6


@pytest.mark.parametrize(("load", "name"), [(cifar10, "CIFAR-10"), (cifar100, "CIFAR-100")])
def test_cifar_offline_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch, load, name):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DatasetUnavailable, match=f"{name} is not in .*ENGRAM_DATA") as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "no network" in str(caught.value)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(DatasetUnavailable, match="no folder there can be written"):
        load(blocked)
