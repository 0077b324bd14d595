"""The study of engrams while learning: what is counted and kept; choices look at validation images only."""

import pytest
import torch

import engramlib as el
from engramlib.lab.data import digits
from engramlib.lab.models import mlp
from engramlib.lab.records import runs
from engramlib.lab.studies import online as study

pytestmark = pytest.mark.filterwarnings("ignore:too little data")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(study, "EPOCHS", 1)
    return digits()


def test_memory_is_counted_in_bytes():
    widths = [65, 101, 101]
    for memory in (2_000, 8_000, 49_000):
        rank = study.Protection("engram", 0.1, memory).rank
        assert 4 * rank * sum(widths) <= memory < 4 * (rank + 1) * sum(widths)
    assert study.Protection("engram", 0.1, 50_000).rank == 101  # the upper halves of all three fit: nothing is cut
    assert 4 * sum(d * (d + 1) // 2 for d in widths) <= 50_000
    net = mlp(study.SIZES)
    assert study.Protection("EWC").used == 8 * sum(p.numel() for p in net.parameters())
    assert study.Protection("replay", 1.0, 8_000).images * 65 <= 8_000


@pytest.mark.parametrize("method", study.PROJECTIONS)
def test_what_is_kept_of_moments_fits_and_is_of_its_rank(quick, method):
    way = study.Protection(method, study.KNOBS[method][1], 8_000)
    memory, part = study.Memory({}, [], {}, {}), quick.flat().train
    for number, classes in enumerate(study.FIVE):
        rows = torch.isin(part.y, torch.tensor(classes))
        study._remember(mlp(study.SIZES), part.where(rows), None, way, memory, 0, number + 1)
        for sigma in memory.sigma.values():
            values = torch.linalg.eigvalsh(sigma)
            assert int((values > 1e-9 * values[-1]).sum()) <= way.rank and float(values[0]) > -1e-9


def test_stored_images_fit_and_every_task_has_its_share(quick):
    way, memory, part = study.Protection("replay", 1.0, 8_000), study.Memory({}, [], {}, {}), quick.flat().train
    for number, classes in enumerate(study.FIVE):
        rows = torch.isin(part.y, torch.tensor(classes))
        study._remember(None, part.where(rows), None, way, memory, 0, number + 1)
        assert sum(map(len, memory.images)) * study.IMAGE <= 8_000
    assert {len(images) for images in memory.images} == {way.images // 5}


def test_the_control_has_the_engrams_singular_values():
    torch.manual_seed(0)
    x = torch.randn(60, 64)
    net = mlp(study.SIZES)
    memory, tracker = study.Memory({}, [], {}, {}), el.OnlineMoments(net)
    study._remember(net, digits().flat().train, None, study.Protection("engram", 0.1, 50_000), memory, 0, 1)
    with tracker.watch():
        net(x)
    tracker.step()
    found, turned = (
        study._projections(study.Protection(m, 0.1, 50_000), memory, tracker) for m in ("engram", "random")
    )
    for name in found:
        a, b = (torch.linalg.svdvals(P[name]) for P in (found, turned))
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9) and not torch.allclose(found[name], turned[name], atol=1e-2)


@pytest.mark.parametrize("setting", ["shared", "told", "ten"])
def test_outputs_say_what_counts(setting):
    output, allowed = study.outputs(study.FIVE, setting)
    assert output.tolist() == ([0, 1] * 5 if setting == "shared" else list(range(10)))
    assert all(allowed[c, output[c]] for c in range(10))
    assert allowed.sum(1).tolist() == [10 if setting == "ten" else 2] * 10
    with pytest.raises(ValueError, match="setting"):
        study.outputs(study.FIVE, "none")


def test_every_method_runs_and_reports_all_tasks(quick):
    for method, knobs in study.KNOBS.items():
        rows = study.continual(quick, study.TWO, study.Protection(method, knobs[0], 8_000), 0)
        assert [row["split"] for row in rows] == ["val", "test"]
        assert all(0 <= row[key] <= 1 for row in rows for key in ("kept", "first", "fresh"))
    history = study.learn(quick, study.FIVE, study.Protection(), 0)
    assert len(history) == 2 * (1 + 2 + 3 + 4 + 5)
    again = study.learn(quick, study.FIVE, study.Protection(), 0)
    assert history == again


def test_old_answers_stay_where_the_projection_leaves_no_room(quick):
    """Nearly all of the energy: what the first task's images are answered hardly moves, and plain learning moves it."""
    moved, x = {}, quick.flat().train.where(quick.train.y < 2).x
    for name, way in {"plain": study.Protection(), "subspace": study.Protection("subspace", 1.0, 50_000)}.items():
        answers = []

        def keep(task, step, model, answers=answers):
            with torch.no_grad():
                answers.append(model(x))

        study.learn(quick, study.FIVE[:2], way, 0, after=keep)
        first = next(i for i in range(len(answers)) if i == -(-len(x) // study.BATCH) - 1)
        moved[name] = float((answers[-1] - answers[first]).norm() / answers[first].norm())
    assert moved["subspace"] < 0.2 * moved["plain"]


def test_the_choice_looks_at_validation_images_only():
    def row(knob, split, kept, seed=0):
        return {"study": "continual", "method": "m", "knob": knob, "split": split, "kept": kept, "seed": seed}

    rows = [row(1.0, "val", 0.9), row(2.0, "val", 0.8), row(1.0, "test", 0.1), row(2.0, "test", 1.0)]
    assert study.chosen(rows, method="m") == 1.0
    assert study.reported(rows, method="m") == [0.1]


def test_an_engram_ends_where_it_ends():
    data = digits()
    rows = study.forming(study.form(data, 0, steps=(4, 20)), data, 0, classes=(3,))
    assert [row["step"] for row in rows] == [4, 20]
    for key in ("direction", "W_t with the final Σ", "final W with Σ_t", "weights alone"):
        assert rows[-1][key] == pytest.approx(1.0) and rows[0][key] < 0.999
    assert rows[-1]["norm"] == pytest.approx(rows[-1]["norm, final W with Σ_t"])


def test_cost_is_a_ratio_and_the_error_keeps_to_its_bound():
    (row,) = study.cost("MLP 784-512-512-10", [0.1], rounds=3)
    assert row["ratio"] > 0.5 and row["plain_s"] > 0
    rows = study.sampled("MLP 784-512-512-10", [0.1], steps=2)
    assert len(rows) == 3 and all(0 < r["error"] < 2 * r["predicted"] for r in rows)


def test_the_recording_has_every_part_once():
    parts = [facts for facts, _ in study.parts(range(2))]
    assert len(parts) == len({tuple(f.items()) for f in parts})
    assert not runs.select(parts, {"setting": "told", "method": "engram"})
