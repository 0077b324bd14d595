from dataclasses import dataclass, replace

import pytest
import torch

from engramlib.lab.data import ImageData, shapes
from engramlib.lab.records import runs
from engramlib.lab.studies import thin
from engramlib.lab.studies.classwise import effects, matrix


@dataclass(frozen=True)
class Tiny(thin.Network):
    """Nobody published eight layers: first weights stand in."""

    def published(self) -> thin.Thin:
        return self.fresh(100 + self.depth)


TINY = tuple(Tiny(depth, 8, lr=0.1, scratch_epochs=4, scratch_lr=0.1, batch_size=64, seen=30) for depth in (8, 14))


@pytest.fixture(scope="module")
def data() -> ImageData:
    return shapes(per_class=60)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, data):
    """All three recordings, with four methods, on networks that are trained in seconds."""
    folder = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.setenv("ENGRAM_CHECKPOINTS", str(folder / "checkpoints"))
    patch.setattr(thin, "TARGET", 20)
    patch.setattr(thin, "REFERENCE", 15)
    patch.setattr(thin, "COMPENSATED_CLASSES", ((0, 3), (0,)))
    patch.setattr(thin, "COMPENSATED", thin.COMPENSATED[2:4])
    patch.setattr(thin, "PAIRS", ((1.0, 1.0), (3.0, 1.5)))
    few = {name: thin.ENTRANTS[name] for name in ("logit_mask", "engram_plain", "finetune", "compensated")}
    few |= {name: replace(few[name], grid=few[name].settings[:2]) for name in ("finetune", "compensated")}
    patch.setattr(thin, "ENTRANTS", few)
    patch.setattr(runs, "_folder", lambda given: folder)
    thin.record(data, TINY, overwrite=False, restart=False)
    thin.record_frontier(data, TINY, overwrite=False, restart=False)
    thin.record_table2(data, TINY[0], seeds=2, overwrite=False, restart=False)
    patch.undo()
    return folder


def test_every_network_has_its_accuracies_and_a_heatmap(recorded):
    run = runs.load("cifar10-thin", folder=recorded)
    for seed, depth in ((0, 8), (1, 14)):
        for stage in ("published", "fine-tuned"):
            assert len(run.where(study="base", seed=seed, depth=depth, stage=stage, split="test")) == 10
        for edit in ("plain", "plain, refitted"):
            rows = run.where(study="heatmap", seed=seed, edit=edit)
            assert len(rows) == 100 and not matrix(rows, 10).isnan().any()
    drawn = run.where(study="heatmap", edit="random, equal effect")
    assert {(row["seed"], row["erased"]) for row in drawn} == {(0, c) for c in thin.CONTROLS}
    base = {(r["seed"], r["tested"]): r["accuracy"] for r in run.where(study="base", stage="fine-tuned", split="test")}
    assert all(r["before"] == base[r["seed"], r["tested"]] for r in run.where(study="heatmap", edit="plain"))
    published = [r["accuracy"] for r in run.where(study="base", stage="published", split="test")]
    assert sum(published) < sum(base.values())  # first weights know nothing


def test_an_engram_takes_its_class_and_a_random_edit_does_not(recorded):
    run = runs.load("cifar10-thin", folder=recorded)
    (line,) = effects(run.where(study="heatmap", seed=0, edit="plain"), by=("edit",))
    (drawn,) = effects(run.where(study="heatmap", seed=0, edit="random, equal effect"), by=("edit",))
    assert line["others"] - line["erased"] > 0.3 > drawn["others"] - drawn["erased"]


def test_the_first_network_chooses_for_all(recorded):
    run = runs.load("cifar10-thin-frontier", folder=recorded)
    for how, edit, found in (
        ("compensated", "compensated", thin.chosen(run.rows, "compensated")),
        ("plain", "chosen", thin.chosen(run.rows, "plain", refitted=True)),
    ):
        tried = {(r["lam"], r["alpha"]) for r in run.where(study="frontier", how=how)}
        used = {(row["lam"], row["alpha"]) for row in run.where(study="heatmap", edit=edit)}
        assert used == {(found["lam"], found["alpha"])} < tried
    assert {r["erased"] for r in run.where(study="heatmap", edit="compensated", seed=0)} == {0, 3}
    assert {r["erased"] for r in run.where(study="heatmap", edit="compensated", seed=1)} == {0}
    for images in ("augmented", "plain"):
        assert len(run.where(study="heatmap", edit="chosen", images=images, seed=0)) == 100
    with pytest.raises(ValueError, match="no row of the frontier"):
        thin.chosen(run.rows, "by hand")


def test_choosing_asks_validation_images(recorded):
    run = runs.load("cifar10-thin-frontier", folder=recorded)
    rows = run.where(study="frontier")
    found = thin.chosen(rows, "compensated")
    changed = [{**row, "test_erased": 1.0, "test_kept": 0.0} for row in rows]
    assert thin.chosen(changed, "compensated") == found


def test_table2_compares_with_a_network_that_never_saw_the_class(recorded):
    run = runs.load("cifar10-thin-table2", folder=recorded)
    rows = {row["method"]: row for row in run.where(seed=0)}
    assert list(rows) == ["original", "retrain", "logit_mask", "engram_plain", "finetune", "compensated"]
    assert rows["retrain"]["tow"] == 1 and rows["retrain"]["test_erased"] == 0
    assert rows["logit_mask"]["probe_erased"] == rows["original"]["probe_erased"]
    assert set(rows["compensated"]["settings"]) == {"specificity", "alpha"} and "epochs" in rows["finetune"]["settings"]
    said = [{r["method"]: r["settings"] for r in run.where(seed=seed)} for seed in (0, 1)]
    assert said[0] == said[1]


def test_features_and_classifier_make_the_published_network():
    net = TINY[0].fresh(3).eval()
    x = torch.rand(2, 3, 16, 16)
    again = thin.zoo.thin_resnet(8)
    again.network.load_state_dict({**net.body.state_dict(), "linear.weight": net.fc.weight, "linear.bias": net.fc.bias})
    with torch.no_grad():
        assert torch.allclose(net(x), net.fc(net.features(x)))
        assert torch.allclose(net(x), again.eval()(x), atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), TINY[0].fresh(3).parameters(), strict=True))


def test_compensation_is_scaled_as_if_it_had_read_as_many_of_each(data, monkeypatch):
    """λ means the same whatever number of the others is read."""
    asked = []
    monkeypatch.setattr(thin.el, "erase", lambda *args, **how: asked.append(how["specificity"]) or args[0])
    monkeypatch.setattr(thin, "TARGET", 30)
    problem = thin.problem_of(TINY[0], data, TINY[0].fresh(0), 0)
    for reference in (30, 10):
        monkeypatch.setattr(thin, "REFERENCE", reference)
        thin.compensate(problem, alpha=1.0, specificity=2.0)
    assert asked == pytest.approx([2.0, 6.0])
