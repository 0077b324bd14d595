from dataclasses import replace

import pytest
import torch

from engramlib.lab.data import ImageData, shapes
from engramlib.lab.records import runs
from engramlib.lab.studies import cifar
from engramlib.lab.studies import unlearning as study
from engramlib.lab.studies.classwise import effects, matrix

TINY = cifar.Network("tiny", (8, 16), 1, epochs=3, lr=0.05, batch_size=64, seen=30)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return shapes(per_class=60)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, data):
    """The whole recording, with four methods, on a network that is trained in a second."""
    folder = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.setenv("ENGRAM_CHECKPOINTS", str(folder / "checkpoints"))
    patch.setitem(cifar.STUDIES, "tiny", cifar.STUDIES["resnet10"])
    few = {name: study.ENTRANTS[name] for name in ("retrain", "logit_mask", "leace", "engram_bn", "engram_bn_all")}
    few["salun"] = replace(study.ENTRANTS["salun"], grid=study.ENTRANTS["salun"].settings[:1])
    patch.setattr(study, "ENTRANTS", few)
    patch.setattr(runs, "_folder", lambda given: folder)
    cifar.record(TINY, data, seeds=2, overwrite=False, restart=False)
    patch.undo()
    return folder


def test_every_study_of_every_seed_is_there(recorded):
    run = runs.load("cifar10-tiny", folder=recorded)
    assert {(r["study"], r["seed"]) for r in run.rows} == {
        (study, seed) for study in cifar.STUDIES["resnet10"] for seed in (0, 1)
    }
    assert run.provenance["config"]["network"]["widths"] == [8, 16]
    retrained = run.where(study="base", without=0, tested=0)
    assert [row["accuracy"] for row in retrained] == [0, 0]  # a class that was never trained on is never answered


def test_heatmap_rows_read_as_those_of_the_mlp(recorded):
    run = runs.load("cifar10-tiny", folder=recorded)
    for edit in ("plain", "plain, refitted", "chosen"):
        rows = run.where(study="heatmap", edit=edit)
        assert len(rows) == 200 and not matrix(rows, 10).isnan().any()
        for line in effects(rows, by=("edit",)):
            assert line["erased"] < 0.2
    base = {(r["seed"], r["tested"]): r["accuracy"] for r in run.where(study="base", without=None)}
    assert all(r["before"] == base[r["seed"], r["tested"]] for r in run.where(study="heatmap"))


def test_settings_chosen_on_seed_0_are_used_on_seed_1(recorded):
    run = runs.load("cifar10-tiny", folder=recorded)
    said = [{r["method"]: r["settings"] for r in run.where(study="unlearning", seed=seed)} for seed in (0, 1)]
    assert said[0] == said[1] and "alpha" in said[0]["engram_bn_all"] and said[0]["logit_mask"] == {}
    assert cifar.chosen_settings(run.rows)["engram_bn_all"]["layers"] == "all"
    rows = {r["method"]: r for r in run.where(study="unlearning", seed=0)}
    assert rows["engram_bn_all"]["tuning_seconds"] > 0 and set(rows["engram_bn_all"]["edges"]) <= {
        "alpha",
        "specificity",
    }
    assert rows["salun"]["passes"] > rows["engram_bn"]["passes"] > 1 > rows["original"]["passes"] == 0
    assert rows["original"]["relearn_needed"] == 0 and rows["original"]["cka_original"] == pytest.approx(1, abs=1e-4)
    assert rows["retrain"]["tow"] == 1 and rows["retrain"]["cka_retrained"] == pytest.approx(1, abs=1e-4)
    assert rows["logit_mask"]["test_erased"] == 0
    assert rows["logit_mask"]["probe_erased"] == rows["original"]["probe_erased"]  # it only masks


def test_read_outs_that_train_see_what_a_network_in_bfloat16_knows(recorded):
    """Once they trained inside one autocast, and every network read 0."""
    run = runs.load("cifar10-tiny", folder=recorded)
    for seed in (0, 1):
        rows = {r["method"]: r for r in run.where(study="unlearning", seed=seed)}
        shots = [rows["original"][f"few_shot_{k}"] for k in (1, 4, 16)]
        assert shots[2] > 0.15 and len(set(shots)) > 1, shots  # chance is .1, and it grows with the images
        assert rows["logit_mask"]["few_shot_16"] == shots[2]
        assert rows["logit_mask"]["relearn_limit"] > 0 == rows["original"]["relearn_needed"]


def test_frontier_covers_the_grid(recorded):
    rows = runs.load("cifar10-tiny", folder=recorded).where(study="frontier", seed=0)
    assert (
        len(rows) == len(cifar.PAIRS) * 3 * 2 == len({(r["lam"], r["alpha"], r["layers"], r["refitted"]) for r in rows})
    )
    assert all(0 <= r["probe_erased"] <= 1 for r in rows)


def test_statistics_have_both_marks_and_every_source(recorded):
    rows = runs.load("cifar10-tiny", folder=recorded).where(study="statistics", seed=0)
    assert len(rows) == 3 * 3 + 1 and {r["statistics"] for r in rows} == {"kept", "plain", "augmented"}
    (original,) = runs.select(rows, {"alpha": 0.0, "statistics": "kept", "without": None})
    (retrained,) = runs.select(rows, {"without": 0})
    (edited,) = runs.select(rows, {"alpha": 1.0, "statistics": "kept"})
    assert original["test_erased"] > retrained["test_erased"] == 0 == edited["test_erased"]
    asked = {"seed": 0, "lam": 1.0, "alpha": 1.0, "layers": "all", "refitted": True}
    (there,) = runs.load("cifar10-tiny", folder=recorded).where(study="frontier", **asked)
    (here,) = runs.select(rows, {"alpha": 1.0, "statistics": "augmented"})
    assert here["test_kept"] == there["test_kept"]  # the same edit, refitted in the same way
    probed = {r["statistics"]: (r["test_kept"], r["probe_auc"]) for r in runs.select(rows, {"alpha": 1.0})}
    assert len(set(probed.values())) == 3  # it does matter where they come from


def test_networks_are_trained_once(recorded, data, monkeypatch):
    monkeypatch.setenv("ENGRAM_CHECKPOINTS", str(recorded / "checkpoints"))
    first, history = cifar.trained(TINY, data, 0)
    again, same = cifar.trained(TINY, data, 0)
    assert history == same and len(history.loss) == 3
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="lr 0.05, now 0.06"):
        cifar.trained(replace(TINY, lr=0.06), data, 0)


def test_two_versions_of_the_images_have_two_checkpoints(data, tmp_path, monkeypatch):
    monkeypatch.setenv("ENGRAM_CHECKPOINTS", str(tmp_path))
    short = replace(TINY, epochs=1)
    for name in ("CIFAR-10", "CIFAR-10 (JPEG)"):
        cifar.trained(short, replace(data, name=name), 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "cifar-10-jpeg-tiny-all-seed0.pt",
        "cifar-10-tiny-all-seed0.pt",
    ]


def test_networks_are_the_ones_the_book_names():
    assert sum(p.numel() for p in cifar.NETWORKS["resnet18"].fresh(0).parameters()) == 11_173_962


def test_what_a_recorded_edit_leaves_and_costs():
    run = runs.load("cifar10-resnet10")
    left, lost = cifar.left_and_lost(run, lam=1.0, alpha=1.0)
    rows = run.where(study="frontier", layers="all", refitted=False, lam=1.0, alpha=1.0)
    assert left == pytest.approx(sum(r["test_erased"] for r in rows) / len(rows))
    assert lost == pytest.approx(sum(cifar.points_lost(run, rows)) / len(rows)) and lost > 10
    nothing = run.where(study="statistics", alpha=0.0, statistics="kept", without=None)
    assert cifar.points_lost(run, nothing) == [0.0] * len(nothing)
    with pytest.raises(ValueError, match="no edit with"):
        cifar.left_and_lost(run, lam=2.0, alpha=1.0)


def test_the_best_edit_is_chosen_on_validation_images():
    run = runs.load("cifar10-resnet10")
    marks = cifar.marks(run)
    assert {r["without"] for r in marks["as trained"]} == {None} and {r["without"] for r in marks["retrained"]} == {0}
    best = cifar.best_edit(run, refitted=True)
    assert set(best) == set(cifar.EDIT) and best["refitted"] is True
    rows = run.where(study="frontier", **best)
    left, lost, read = cifar.wishes(run, rows)
    assert len(left) == len(lost) == len(read) == len(rows) == 3
    worse = run.where(study="frontier", lam=1.0, alpha=1.0, layers="all", refitted=False)
    kept = {r["seed"]: r["val_kept"] for r in marks["as trained"]}

    def score(found):
        return sum((1 - r["val_erased"]) * (1 - abs(r["val_kept"] - kept[r["seed"]])) for r in found)

    assert score(rows) > score(worse)
