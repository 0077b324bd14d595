import json
import shutil
import subprocess
import sys

import pytest
import torch

from engramlib.lab.data import digits
from engramlib.lab.records import runs

CONFIG = {"epochs": 3, "lams": (1.0, 3.0)}


def record(folder, **kwargs):
    return runs.record("tiny", **{"config": CONFIG, "seeds": range(3), "folder": folder} | kwargs)


def rows_of(seed):
    return [{"seed": seed, "digit": d, "after": (10 * seed + d) / 100} for d in (0, 2)] + [{"seed": seed, "other": "x"}]


def test_a_finished_run_comes_back_whole(tmp_path):
    with record(tmp_path, data=digits()) as run:
        for seed in run.seeds:
            run.add(rows_of(seed), seed=seed)
        run.summary = {"best": 0.1}
    found = runs.load("tiny", folder=tmp_path)
    expected = [r for s in range(3) for r in rows_of(s)]
    assert len(found.rows) == len(expected) and all(r in found.rows for r in expected)
    assert found.summary == {"best": 0.1}
    p = found.provenance
    assert p["seeds"] == [0, 1, 2] and p["config"] == {"epochs": 3, "lams": [1.0, 3.0]}
    assert p["data"] == {"name": "digits", "fingerprint": digits().fingerprint()}
    assert p["libraries"]["torch"] and p["device"] and p["cpu_count"] >= 1 and p["wall_s"] >= 0 and p["sessions"] == 1
    assert {"started", "command", "scale", "commit", "uncommitted_changes", "python"} <= set(p)
    assert [f.name for f in tmp_path.iterdir() if f.is_file()] == ["tiny.json"]
    assert not list((tmp_path / ".partial").iterdir())


def test_a_run_that_was_cut_off_resumes(tmp_path):
    with pytest.raises(RuntimeError, match="power"), record(tmp_path) as run:
        run.add(rows_of(0), seed=0)
        raise RuntimeError("power cut")
    assert not (tmp_path / "tiny.json").exists()
    assert "power cut" in (tmp_path / ".partial" / "tiny.log").read_text()
    with run.partial.open("a") as out:
        out.write('{"part": {"seed": 1}, "rows": [{"colu')  # cut off in the middle of a line

    todo = []
    with record(tmp_path) as run:
        for seed in run.seeds:
            if not run.done(seed=seed):
                todo.append(seed)
                run.add(rows_of(seed), seed=seed)
    assert todo == [1, 2]
    found = runs.load("tiny", folder=tmp_path)
    assert sorted(r["seed"] for r in found.rows) == sorted([0, 1, 2] * 3)
    assert len(found.provenance["sessions"]) == 2


def test_no_resuming_with_another_config(tmp_path):
    with pytest.raises(KeyboardInterrupt), record(tmp_path) as run:
        run.add(rows_of(0), seed=0)
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="another config.*restart=True"), record(tmp_path, config={"epochs": 4}):
        pass
    with pytest.raises(ValueError, match="or data.*restart=True"), record(tmp_path, data=digits()):
        pass
    with record(tmp_path, config={"epochs": 4}, restart=True) as run:
        assert not run.done(seed=0)


def test_a_finished_run_is_not_replaced_by_accident(tmp_path):
    with record(tmp_path) as run:
        run.add(rows_of(0), seed=0)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        record(tmp_path)
    with record(tmp_path, overwrite=True) as run:
        run.add(rows_of(1), seed=1)
    assert {r["seed"] for r in runs.load("tiny", folder=tmp_path).rows} == {1}


def test_a_part_is_added_once(tmp_path):
    with pytest.raises(ValueError, match="added before"), record(tmp_path) as run:
        run.add(rows_of(0), seed=0)
        run.add(rows_of(0), seed=0)


def test_values_from_torch_and_nan_are_plain_json(tmp_path):
    with record(tmp_path) as run:
        run.add([{"seed": 0, "a": torch.tensor(0.25), "b": float("nan"), "c": torch.tensor(3)}], seed=0)
    text = (tmp_path / "tiny.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert runs.load("tiny", folder=tmp_path).rows == [{"seed": 0, "a": 0.25, "b": None, "c": 3}]


def test_works_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with record(tmp_path) as run:
        run.add(rows_of(0), seed=0)
    p = runs.load("tiny", folder=tmp_path).provenance
    assert p["commit"] is None and p["uncommitted_changes"] is None


def test_mean_sd_averages_within_a_seed_first():
    rows = [
        {"seed": s, "lam": lam, "digit": d, "after": v}
        for lam, s, d, v in [(1, 0, 0, 0.0), (1, 0, 1, 0.2), (1, 1, 0, 0.3), (3, 0, 0, 0.5), (3, 0, 1, None)]
    ]
    one, three = runs.mean_sd(rows, "after", by=("lam",))
    assert one == {"lam": 1, "mean": pytest.approx(0.2), "sd": pytest.approx(0.2 / 2**0.5), "n": 2}
    assert three == {"lam": 3, "mean": 0.5, "sd": None, "n": 1}
    assert runs.mean_sd(rows, "after", where={"digit": [0], "lam": 1})[0]["mean"] == pytest.approx(0.15)
    with pytest.raises(ValueError, match="no row has a value 'befor'"):
        runs.mean_sd(rows, "befor")
    with pytest.raises(TypeError, match=r"by=\('lam',\)"):
        runs.mean_sd(rows, "after", by="lam")


def test_unknown_run_names_the_known(tmp_path):
    with pytest.raises(FileNotFoundError, match="none yet"):
        runs.load("x", folder=tmp_path)
    with record(tmp_path) as run:
        run.add(rows_of(0), seed=0)
    with pytest.raises(FileNotFoundError, match="'x'.*tiny"):
        runs.load("x", folder=tmp_path)


def test_withdrawn_columns_are_gone_and_the_reason_stays(tmp_path):
    with record(tmp_path) as run:
        run.add([{"seed": 0, "kind": k, "right": 0.5, "wrong": 0.0} for k in "ab"], seed=0)
    assert runs.withdraw("tiny", ["wrong"], where={"kind": "b"}, why="a cell lied", folder=tmp_path) == 1
    found = runs.load("tiny", folder=tmp_path)
    assert found.where(kind="a") == [{"seed": 0, "kind": "a", "right": 0.5, "wrong": 0.0}]
    assert found.where(kind="b") == [{"seed": 0, "kind": "b", "right": 0.5}]
    (note,) = found.provenance["withdrawn"]
    assert note["columns"] == ["wrong"] and note["where"] == {"kind": "b"} and note["why"] == "a cell lied"
    with pytest.raises(ValueError, match="no row with {'kind': 'b'} has wrong"):
        runs.withdraw("tiny", ["wrong"], where={"kind": "b"}, why="again", folder=tmp_path)


def test_a_superseded_run_keeps_its_numbers_and_says_why(tmp_path):
    with record(tmp_path) as run:
        run.add(rows_of(0), seed=0)
    before = runs.load("tiny", folder=tmp_path)
    assert before.superseded is None
    runs.supersede("tiny", why="The ruler was bent.", folder=tmp_path)
    after = runs.load("tiny", folder=tmp_path)
    assert after.superseded == "The ruler was bent." and after.rows == before.rows
    with record(tmp_path, overwrite=True) as run:
        run.add(rows_of(0), seed=0)
    assert runs.load("tiny", folder=tmp_path).superseded is None


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "data_dir", lambda: tmp_path)
    (tmp_path / "runs").mkdir()
    with record(tmp_path / "runs") as run:
        run.add(rows_of(0), seed=0)
    assert runs.main(["list"]) == 0 and "tiny: " in capsys.readouterr().out
    assert runs.main(["show", "tiny"]) == 0 and json.loads(capsys.readouterr().out)["rows"] == 3
    assert runs.main(["show", "none"]) == 1 and "tiny" in capsys.readouterr().err
    assert runs.main(["supersede", "tiny", "--why", "a test"]) == 0 and runs.load("tiny").superseded == "a test"
    assert runs.main(["withdraw", "tiny", "after", "--where", "digit=2", "--why", "a test"]) == 0
    assert {row["digit"]: row.get("after") for row in runs.load("tiny").rows if "digit" in row} == {0: 0.0, 2: None}


def test_module_runs_as_a_command():
    out = subprocess.run([sys.executable, "-m", "engramlib.lab.runs", "list"], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr


@pytest.mark.parametrize("name", runs.names())
def test_recorded_runs_can_be_judged(name):
    found = runs.load(name)
    p = found.provenance
    assert found.rows and p["seeds"] and p["data"]["fingerprint"] and p["device"] and p["wall_s"] > 0
    only = p["seeds"][0] if "pretrained" in name else None  # a model that others trained has no seed in its rows
    assert {r.get("seed", only) for r in found.rows} == set(p["seeds"])


def test_data_dir_holds_the_published_numbers():
    assert (runs.data_dir() / "published" / "fig11.json").is_file()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_recorded_run_that_waits_for_its_commit_is_no_change_of_code(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    (tmp_path / "data" / "runs").mkdir(parents=True)
    (tmp_path / "data" / "runs" / "new.json").write_text("{}")
    assert runs._git(tmp_path)["uncommitted_changes"] is False
    (tmp_path / "code.py").write_text("2")
    assert runs._git(tmp_path)["uncommitted_changes"] is True
