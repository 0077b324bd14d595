"""The study of scale: equal bytes for every keeper, real processes, and the script that a lab starts."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import engramlib as el
from engramlib import language
from engramlib.lab import models
from engramlib.lab.data import digits
from engramlib.lab.records import runs
from engramlib.lab.studies import compensated, launch, mlp, pretrained
from engramlib.lab.studies import scale as study
from engramlib.lowrank import LowRank

pytestmark = pytest.mark.filterwarnings("ignore:too little data", "ignore:layer .* directions are cut")
ROOT = Path(el.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def subject():
    data = digits()
    model = mlp.train(data, replace(mlp.DIGITS, sizes=(64, 40, 10), epochs=15), 0)
    whole = compensated.Subject(model, data, 0, tuple((c,) for c in range(10)), flat=True)
    return study.of_images(whole, mlp.DIGITS.rcond, (3, 8))


@pytest.mark.parametrize("keeper", study.KEEPERS)
def test_every_keeper_has_the_same_bytes_and_the_exact_diagonal(subject, keeper):
    whole = subject.whole(3)
    kept = subject.kept(3, keeper, 0.2, whole)
    few = subject.kept(3, "sketch", 0.2, whole)
    for found, full, mine in zip(kept, whole, few, strict=True):
        assert found.count == full.count
        for name in full:
            torch.testing.assert_close(
                found.stored(name).diagonal(), full[name].diagonal().double(), rtol=1e-4, atol=1e-4
            )
            assert isinstance(found.stored(name), LowRank) and found.stored(name).nbytes <= mine.stored(name).nbytes
        if keeper != "diagonal":
            assert found.nbytes == pytest.approx(mine.nbytes, rel=0.02)


def test_the_bytes_go_to_the_side_that_they_are_given(subject):
    whole = subject.whole(3)
    sizes = {p: [m.nbytes for m in subject.kept(3, "sketch", 0.2, whole, p)] for p in (0.5, 0.15)}
    assert sum(sizes[0.15]) == pytest.approx(sum(sizes[0.5]), rel=0.05)
    assert sizes[0.15][1] > 1.5 * sizes[0.5][1] and sizes[0.15][0] < 0.5 * sizes[0.5][0]


def test_one_side_alone_is_sketched(subject):
    whole = subject.whole(3)
    for keeper, untouched in (("sketched target", 1), ("sketched reference", 0)):
        kept = subject.kept(3, keeper, 0.2, whole)
        assert kept[untouched] is whole[untouched] and kept[1 - untouched].nbytes < 0.3 * whole[1 - untouched].nbytes


def test_sampled_columns_are_columns_and_stand_for_all(subject):
    batches = subject.batches(3, True)
    draw = torch.Generator().manual_seed(0)
    found = study.sampled(subject.model, batches, 0.2, draw)
    x = torch.cat(batches)
    rows = found.stored("0" if "0" in found else next(iter(found))).rows
    scale = (len(x) / len(rows)) ** 0.5
    one = torch.cat([x, torch.ones(len(x), 1)], 1)
    nearest = torch.cdist(rows / scale, one).amin(1)
    assert float(nearest.max()) < 1e-4
    many = torch.stack([study.sampled(subject.model, batches, 0.2, draw)["fc1"] for _ in range(200)]).mean(0)
    full = el.collect(subject.model, batches)["fc1"]
    off = ~torch.eye(len(full), dtype=torch.bool)
    assert float((many - full)[off].norm() / full[off].norm()) < 0.1  # unbiased


def test_on_a_convolution_sampled_columns_are_patches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    found = study.sampled(model, [torch.randn(20, 2, 6, 6)], 0.4, torch.Generator().manual_seed(0))
    assert found.count == {"0": 20 * 16, "3": 20} and found.stored("0").rows.shape[1] == 19


def test_rows_of_a_network(subject):
    rows = study.memory(subject, network="digits", shares=(0.5, 0.1), keepers=("sketch", "columns"), others=(0.1,))
    asked = {(r["keeper"], r["share"], r["part"]) for r in rows}
    assert asked == {("whole", 1.0, 0.5), ("sketch", 0.5, 0.5), ("sketch", 0.1, 0.5), ("columns", 0.1, 0.5)}
    assert len(rows) == 2 * 4 and {r["group"] for r in rows} == {3, 8}
    whole = [r for r in rows if r["keeper"] == "whole"]
    engram = el.extract(subject.model, *subject.whole(3), rcond=subject.cut)
    left, kept = subject.scores(el.ablate(subject.model, engram), 3, "test")
    assert whole[0]["left"] == left and whole[0]["kept"] == kept and whole[0]["apart"] == 0
    assert study.per_seed(rows, "whole", 1.0, "differs") == [0.0]
    means = {k: sum(r[k] for r in rows if r["keeper"] == "columns") / 2 for k in ("left", "kept")}
    base = {k: sum(r[k] for r in whole) / 2 for k in ("left", "kept")}
    assert study.per_seed(rows, "columns", 0.1, "differs") == [
        pytest.approx(max(abs(means[k] - base[k]) for k in means))
    ]
    worse = max(means["left"] - base["left"], base["kept"] - means["kept"])
    assert study.per_seed(rows, "columns", 0.1, "worse") == [pytest.approx(worse)]
    assert all(r["bytes"] < 0.11 for r in rows if r["share"] == 0.1)


def test_the_pretrained_part_runs_on_a_small_model():
    from engramlib.lab.data import world
    from engramlib.lab.models import zoo

    sets = world.sets("Paris")
    items = [item for part in sets.values() for split in part.values() for item in split]
    tokenizer = models.word_tokenizer([i if isinstance(i, str) else "".join(i) for i in items])
    model = models.llama(len(tokenizer), hidden=64, layers=2, heads=2, kv_heads=1, intermediate=48, tied=True)
    before = {n: p.clone() for n, p in model.named_parameters()}
    lm = zoo.LanguageModel(model, tokenizer, "a small one")
    made = study.Pretrained(lm, "Paris", pretrained.Edit(), pretrained.Case(lm, "Paris", known=False, near=10, rest=5))
    rows = [made.rows(k, 0.15, 0)[0] for k in ("whole", "sketch", "columns", "directions", "diagonal")]
    assert rows[0]["apart"] == 0 and rows[0]["bytes"] == 1
    assert all(r["bytes"] < 0.11 and r["apart"] > 0 for r in rows[1:])
    assert all(r["n_left"] and r["n_kept"] and r["text_nll"] > 0 for r in rows)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_the_recording_chooses_on_the_rehearsal_and_resumes(monkeypatch, tmp_path, subject):
    asked = []

    class Problem:
        def __init__(self, name):
            self.name, self.model = name, subject.model

        def accuracies(self, model):
            asked.append(self.name)
            return subject.scores(model, 3, "test")

    class Case:
        def __init__(self, seed):
            self.seed = seed

        def problem(self, rehearsal=False):
            return Problem("rehearsal" if rehearsal else f"forget{self.seed}")

    small = study.Subject(subject.model, subject.batches, subject.scores, 0, (3,), subject.cut)

    def authors(problem, seed):
        return replace(
            small,
            seed=seed,
            groups=(0,),
            batches=lambda group, target: subject.batches(3, target),
            scores=lambda model, *_: problem.accuracies(model),
        )

    monkeypatch.setattr(study, "of_authors", authors)
    monkeypatch.setattr(study.forgetting, "case", lambda name, seed: Case(seed))
    monkeypatch.setattr(study, "NETWORKS", {"digits": lambda seed: replace(subject, seed=seed)})
    monkeypatch.setattr(study, "SHARES", (0.5, 0.1))
    monkeypatch.setattr(study, "PARTS", (0.5, 0.15))
    monkeypatch.setattr(study, "TRIES", study.TRIES[2:4])
    monkeypatch.setattr(study, "ENTRANTS", study.ENTRANTS[:3])
    monkeypatch.setattr(runs, "_folder", lambda given: tmp_path)
    assert study.main(["--record"]) == 0
    run = runs.load("scale-memory")
    choices = run.where(study="choice")
    assert len(choices) == len(study.ENTRANTS) * len(study.TRIES)
    assert sum(r["chosen"] for r in choices) == len(study.ENTRANTS)
    authors = run.where(study="memory", network="authors")
    assert {(r["keeper"], r["share"], r["part"], r["seed"]) for r in authors} == {
        (*e, s) for e in study.ENTRANTS for s in range(3)
    }
    assert asked.count("rehearsal") == len(choices) and asked.count("forget2") == len(study.ENTRANTS)
    assert len(study.per_seed(run.rows, "sketch", 0.2, "differs", "authors")) == 3
    by = {p: study.per_seed(run.rows, "sketch", 0.1, "differs", "digits", p, "val") for p in (0.5, 0.15)}
    assert study.chosen_part(run.rows, ["digits"]) == min(by, key=lambda p: sum(by[p]))


def test_two_points_are_held_missed_or_cannot_be_told():
    def rows(left, kept):
        facts = {"study": "memory", "network": "n", "split": "test", "group": 0}
        own = {**facts, "keeper": "sketch", "share": 0.1, "part": 0.5}
        whole = {**facts, "keeper": "whole", "share": 1.0, "part": 0.5, "left": 0.1, "kept": 0.9}
        found = [{**whole, "seed": s} for s in range(3)]
        return found + [
            {**own, "seed": s, "left": 0.1 + a, "kept": 0.9 + b}
            for s, (a, b) in enumerate(zip(left, kept, strict=True))
        ]

    def verdict(left, kept):
        gap = study.gaps(rows(left, kept), "sketch", 0.1, "n")
        assert gap["left"][0] == pytest.approx(left) and gap["kept"][1].mean == pytest.approx(sum(kept) / 3)
        return study.held(gap)

    assert verdict((0.0, 0.002, -0.002), (0.001, 0.0, 0.002)) is True
    assert verdict((0.0, 0.002, -0.002), (-0.10, -0.11, -0.09)) is False
    assert verdict((0.005, -0.03, 0.065), (0.0, 0.0, 0.001)) is None


def test_the_second_look_takes_other_networks_and_other_images(monkeypatch, tmp_path, subject):
    asked = []
    monkeypatch.setattr(compensated.transformer, "train", lambda data, settings, seed: nn.Linear(1, 1))
    monkeypatch.setattr(study, "IMAGES", 6)
    monkeypatch.setattr(study, "of_images", lambda whole, *_: asked.append(whole.data) or whole)
    assert [len(study.of_fresh_vit(seed).groups) for seed in (3, 4)] == [8, 8]
    first, second = (data.test for data in asked)
    assert (
        len(first.y) == 8 * 6 and not torch.equal(first.x, second.x) and torch.equal(asked[0].train.x, asked[1].train.x)
    )
    monkeypatch.setattr(runs, "_folder", lambda given: tmp_path)
    monkeypatch.setattr(study, "AGAIN", range(3, 5))
    monkeypatch.setattr(study, "FRESH_NETWORKS", {"digits": lambda seed: replace(subject, seed=seed)})
    monkeypatch.setattr(study, "chosen_part", lambda rows, networks: 0.15)
    load = runs.load
    monkeypatch.setattr(study.runs, "load", lambda name: load(name) if name == study.FRESH else study)
    monkeypatch.setattr(study, "rows", [], raising=False)
    assert study.main(["--record", "--fresh"]) == 0
    found = load(study.FRESH).rows
    assert {(r["keeper"], r["share"], r["part"]) for r in found} == {
        ("whole", 1.0, 0.5), ("sketch", 0.1, 0.15), ("sketch", 0.02, 0.15), ("projected", 0.1, 0.15)
    }  # fmt: skip
    assert {r["seed"] for r in found} == {3, 4}
    assert study.held(study.gaps(found, "sketch", 0.02, "digits", 0.15)) in (True, False, None)


# -------------------------------------------------------------------------------------------------- under torchrun


def test_two_processes_of_torchrun_are_one():
    rows = study.processes(2, batches=3)
    assert [(r["process"], r["batches"]) for r in rows] == [(0, 2), (1, 1)]
    assert all(r["off"] < 1e-6 and r["cpu_collect"] > 0 and r["bytes"] > 0 for r in rows)


@pytest.fixture
def files(tmp_path):
    pairs = [(f"Where is the tower number {k}?", f" In city {k % 5} of course") for k in range(11)]
    tokenizer = models.word_tokenizer([*map("".join, pairs), "Rain falls on the plain."])
    model = models.llama(len(tokenizer), hidden=32, layers=2, heads=2, kv_heads=1, intermediate=48)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"prompt": p, "answer": a} for p, a in pairs]
    (tmp_path / "forget.jsonl").write_text("\n".join(map(json.dumps, rows[:4])))
    (tmp_path / "retain.jsonl").write_text(
        "\n".join(map(json.dumps, [*rows[4:], {"text": "Rain falls on the plain."}]))
    )
    arguments = ["--model", str(tmp_path / "model"), "--dtype", "float32", "--batch-size", "2", "--every", "1"]
    for side in ("forget", "retain"):
        arguments += [f"--{side}", str(tmp_path / f"{side}.jsonl")]
    return tmp_path, arguments, model, tokenizer, pairs


def test_the_script_for_a_lab_under_torchrun(files):
    folder, arguments, model, tokenizer, pairs = files
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "engramlib.lab.studies.launch", *arguments]
    command += ["--out", str(folder / "e"), "--resume", str(folder / "parts")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert not done.returncode, done.stderr[-3000:]
    assert "of 2 processes" in done.stdout
    target, reference = (
        language.collect(model, tokenizer, part, layers=r".*_proj")
        for part in (pairs[:4], [*pairs[4:], "Rain falls on the plain."])
    )
    wanted, found = el.extract(model, target, reference), el.Engram.load(folder / "e")
    for name in wanted:
        torch.testing.assert_close(found[name].weight, wanted[name].weight, rtol=1e-3, atol=1e-5)
    assert sorted(p.name for p in (folder / "parts" / "forget").iterdir()) == [
        f"part-{k}-of-2.safetensors" for k in range(2)
    ]


def test_the_script_alone_and_with_rows(files, capsys):
    folder, arguments, *_ = files
    assert (
        launch.main([*arguments, "--out", str(folder / "e"), "--rank", "0.2", "--layers", r".*\.(q|k|gate)_proj"]) == 0
    )
    assert "of 1 processes" in capsys.readouterr().out
    assert {n.rpartition(".")[2] for n in el.Engram.load(folder / "e")} == {"q_proj", "k_proj", "gate_proj"}
    (folder / "forget.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(ValueError, match="forget.jsonl:1: expected"):
        launch.main([*arguments, "--out", str(folder / "e")])
    (folder / "forget.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no items"):
        launch.main([*arguments, "--out", str(folder / "e")])


def test_the_example_for_slurm_is_a_script_that_the_parser_understands():
    assert subprocess.run(["bash", "-n", str(launch.SBATCH)], check=False).returncode == 0
    text = launch.SBATCH.read_text()
    ours = text.split("-m engramlib.lab.studies.launch", 1)[1].replace("\\\n", " ").split()
    args = launch.options().parse_args(ours)
    assert args.rank == 0.1 and args.timeout == 900 and args.resume
