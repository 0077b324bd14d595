"""A published network of a thousand classes, in small: tiny images, a tiny network with a depthwise convolution."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from engramlib.lab.data import DatasetUnavailable, imagenet_samples, imagenette
from engramlib.lab.data.imagenette import CLASSES, INDEX
from engramlib.lab.records import runs
from engramlib.lab.studies import thousand as study
from tests.conftest import bits, same


def picture(path, seed, size=(12, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = torch.randint(0, 256, (*size, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten classes with six and three images, and one image of each of a thousand, in the two folders."""
    top, number = tmp_path_factory.mktemp("images"), 0
    for wnid in CLASSES:
        for part, count in (("train", 6), ("val", 3)):
            for i in range(count):
                number += 1
                picture(top / "imagenette2-160" / part / wnid / f"{wnid}_{i}.JPEG", number)
    others = sorted(f"n{20000000 + i}" for i in range(1000 - len(CLASSES)))
    wnids = others.copy()
    for wnid, (_, index) in CLASSES.items():  # where ImageNet has them, so that the sorted order is the index
        wnids.insert(index, wnid)
    for i, wnid in enumerate(wnids):
        picture(top / "imagenet-samples" / "one-per-class" / f"n{i:08d}_{wnid}.jpg", i)
    return top


@pytest.fixture(scope="module")
def subject(folder):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 1000)
    )
    return study.Subject(model.eval(), imagenette(folder, size=12, val=2), imagenet_samples(folder, size=12))


def test_the_images_are_split_by_class_and_the_test_images_stay_apart(folder):
    data = imagenette(folder, size=12, val=2)
    assert [len(data.split(part)) for part in ("train", "val", "test")] == [40, 20, 30]
    assert data.classes[3] == "chain saw" and data.train[0][0].shape == (3, 12, 12)
    parts = [set(data.split(part).paths) for part in ("train", "val", "test")]
    assert not parts[0] & parts[1] and not parts[2] & (parts[0] | parts[1])
    assert data.test.y.bincount().tolist() == [3] * 10
    image = imagenette(folder, size=8, val=2).train[0][0]  # another size is scaled and cut
    assert image.shape == (3, 8, 8) and 0 <= float(image.min()) <= float(image.max()) <= 1


def test_the_fingerprint_changes_with_a_label_a_name_or_a_size(folder, tmp_path):
    import shutil

    data = imagenette(folder, size=12, val=2)
    assert data.fingerprint() == imagenette(folder, size=8, val=2).fingerprint() != data.test.fingerprint()
    assert imagenette(folder, size=12, val=3).fingerprint() != data.fingerprint()
    other = tmp_path / "imagenette2"
    shutil.copytree(folder / "imagenette2-160", other)
    assert imagenette(tmp_path, size=12, val=2).fingerprint() == data.fingerprint()
    first = next((other / "val").rglob("*.JPEG"))
    first.write_bytes(first.read_bytes() + b" ")
    assert imagenette(tmp_path, size=12, val=2).fingerprint() != data.fingerprint()
    mask = torch.arange(30) < 29
    assert data.test.where(mask).fingerprint() != data.test.fingerprint()


def test_samples_are_numbered_in_the_order_of_their_names(folder):
    samples = imagenet_samples(folder, size=12)
    assert len(samples) == 1000 and samples.y.tolist() == list(range(1000))
    assert "n00000217" in samples.paths[217]


def test_a_zip_is_unpacked_once_and_found_again(folder, tmp_path, monkeypatch):
    import shutil

    shutil.make_archive(str(tmp_path / "there" / "imagenette-small"), "zip", folder, "imagenette2-160")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    first = imagenette(tmp_path / "there", size=12, val=2)
    unpacked = tmp_path / "home" / ".cache" / "engramlib" / "imagenette-small"
    assert len(first.test) == 30 and first.test.paths[0].startswith(str(unpacked))
    assert [p.name for p in unpacked.parent.iterdir()] == ["imagenette-small"]
    (tmp_path / "there" / "imagenette-small.zip").write_bytes(b"no zip")
    assert len(imagenette(tmp_path / "there", size=12, val=2).test) == 30
    shutil.rmtree(unpacked)
    with pytest.raises(DatasetUnavailable, match="imagenette-small.zip cannot be unpacked"):
        imagenette(tmp_path / "there", size=12, val=2)


def test_what_is_missing_or_wrong_is_named(folder, tmp_path):
    with pytest.raises(DatasetUnavailable, match="Imagenette: no folder or zip imagenette-small.*torchvision"):
        imagenette(tmp_path)
    with pytest.raises(DatasetUnavailable, match="EliSchwartz"):
        imagenet_samples(tmp_path)
    with pytest.raises(DatasetUnavailable, match="class n01440764 has 6 training and 3 test images; more than 40"):
        imagenette(folder)
    for name, value in (("size", 0), ("size", 2.5), ("val", 0), ("val", True)):
        with pytest.raises(ValueError, match=f"imagenette: {name} must be a whole number"):
            imagenette(folder, **{name: value})
    picture(tmp_path / "imagenet-samples" / "n01440764_tench.jpg", 0)
    with pytest.raises(DatasetUnavailable, match="1 classes have an image, not 1000"):
        imagenet_samples(tmp_path)


def test_witnesses_are_in_no_reference_and_none_is_one_of_the_ten(subject):
    used, seen = set(subject.others.y.tolist()), set(subject.witnesses.y.tolist())
    assert not used & seen and not (used | seen) & set(INDEX) and len(used | seen) == 990
    assert subject.moments[-1].count["5"] == len(used) and subject.moments[3].count["5"] == 4


def test_the_share_is_the_targets_part_of_what_was_collected(subject):
    assert subject.share(study.Edit()) == pytest.approx(1 / 10)
    wide, weighed = (subject.share(study.Edit("nine and five hundred", lam=lam)) for lam in (1.0, 10.0))
    assert wide == pytest.approx(4 / (40 + len(subject.others)))
    assert weighed == pytest.approx(4 / (4 + 10 * (36 + len(subject.others))))


def test_refitted_statistics_are_those_of_the_edited_network_and_go_away_again(folder):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 1000))
    subject = study.Subject(model.eval(), imagenette(folder, size=12, val=2), imagenet_samples(folder, size=12))
    before = bits(model)
    subject.erase(study.Edit("nine and five hundred", control="refitted"), 2)
    assert same(before, bits(model)) and not model.training
    part = subject.data.train.where(subject.data.train.y != 2)
    x = torch.cat([x for split in (part, subject.others) for x, _ in subject.data.batches(split)])  # fewer than REFIT
    with subject.refitted(2), torch.no_grad():
        seen = model[0](x)
        torch.testing.assert_close(model[1].running_mean, seen.mean((0, 2, 3)), rtol=0.02, atol=0.02)
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert same(before, bits(model))
    (row,) = [r for r in subject.erase(study.Edit(alpha=0.0, control="refitted"), 2) if r["tested"] == "witnesses"]
    with subject.refitted():
        assert row["before"] == pytest.approx(float(subject.right()["witnesses"].double().mean()))


def test_rows_count_what_changed_and_the_network_is_handed_back(subject):
    before = bits(subject.model)
    for edit in (study.Edit(), study.Edit("nine and five hundred", control="random"), study.Edit(alpha=0.0)):
        rows = subject.erase(edit, 4)
        assert [(r["tested"], r["n"]) for r in rows] == [
            ("own", 3),
            ("nine", 27),
            ("witnesses", len(subject.witnesses)),
        ]
        for row in rows:
            assert (row["after"] - row["before"]) * row["n"] == pytest.approx(row["won"] - row["lost"])
        assert edit.alpha or all(r["lost"] == r["won"] == 0 for r in rows)
    assert same(before, bits(subject.model))


def test_the_answer_counts_among_a_thousand_classes(subject):
    """A network that names the right one of ImageNet's thousand is right; one that names 0 to 9 is not."""
    index = torch.tensor(INDEX)
    for answers, share in ((index[subject.data.test.y], 1.0), (subject.data.test.y, 0.1)):
        stream = iter(answers.split(64))
        other = SimpleNamespace(
            model=nn.Flatten(), mixed=False, data=subject.data, index=index, witnesses=subject.witnesses
        )
        other.model.register_parameter("weight", nn.Parameter(torch.zeros(1)))
        other.model.forward = lambda x, stream=stream: nn.functional.one_hot(next(stream), 1000).float()
        right = study.Subject._answered(other, subject.data.test)
        assert float(right.double().mean()) == pytest.approx(share)  # of 0 to 9 only class 0, tench, is its own number


def test_recorded_class_by_class(subject, monkeypatch, tmp_path):
    monkeypatch.setattr(study, "subject", lambda: subject)
    monkeypatch.setattr(study, "EDITS", (study.Edit(), study.Edit("nine and five hundred")))
    monkeypatch.setattr(runs, "_folder", lambda given: tmp_path)
    assert study.main(["--record"]) == 0
    run = runs.load("pretrained-imagenet", folder=tmp_path)
    assert len(run.where(study="classes")) == 2 * 10 * 3 and run.provenance["data"]["fingerprint"]
    assert len(run.summary["classes"]) == 2 * 3
    own = run.where(study="classes", reference="nine", tested="own")
    assert run.summary["classes"][0]["after"] == pytest.approx(sum(r["after"] for r in own) / 10)
