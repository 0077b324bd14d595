"""The command line of the studies: printed or recorded, and resumed where it was cut off."""

from dataclasses import dataclass

import pytest

from engramlib.lab.records import runs
from engramlib.lab.studies import recording


@dataclass(frozen=True)
class Settings:
    scale: float = 2.0


def summary(rows):
    return {"all": runs.mean_sd(rows, "value")}


def command(run, *argv):
    choices = {"big": (lambda: None, Settings()), "small": (lambda: None, Settings(0.5))}
    return recording.by_seed("toy", "A toy.\nMore.", choices, run, summary, list(argv), seeds=2)


def value(data, settings, seed, *, device):
    return [{"study": "toy", "seed": seed, "value": settings.scale * (seed + 1)}]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_folder", lambda given: tmp_path)
    return tmp_path


def test_printed_summary_and_chosen_data(folder, capsys):
    assert command(value, "--data", "small") == 0
    assert "mean 0.75" in capsys.readouterr().out and not list(folder.glob("*.json"))


def test_recorded_run_holds_rows_config_and_summary(folder):
    assert command(value, "--record", "--seeds", "3") == 0
    run = runs.load("toy-big", folder=folder)
    assert [row["value"] for row in run.rows] == [2.0, 4.0, 6.0]
    assert run.provenance["config"]["settings"] == {"scale": 2.0}
    with pytest.raises(FileExistsError):
        command(value, "--record", "--seeds", "3")


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(folder):
    seen = []

    def breaks(data, settings, seed, *, device):
        seen.append(seed)
        if seed == 1 and len(seen) == 2:
            raise KeyboardInterrupt
        return value(data, settings, seed, device=device)

    with pytest.raises(KeyboardInterrupt):
        command(breaks, "--record")
    command(breaks, "--record")
    assert seen == [0, 1, 1]
    assert [row["value"] for row in runs.load("toy-big", folder=folder).rows] == [2.0, 4.0]


def test_one_command_line_leads_to_every_study(capsys):
    from engramlib.lab.studies.__main__ import STUDIES, main

    assert main([]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]} == set(STUDIES)
    assert main(["telepathy"]) == 2
    capsys.readouterr()
    for name in STUDIES:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        shown = capsys.readouterr().out
        assert stopped.value.code == 0 and f"studies {name}" in shown
        assert {"--record", "--overwrite", "--restart"} <= set(shown.replace("[", " ").replace("]", " ").split())
