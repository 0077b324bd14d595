import random

import numpy as np
import pytest
import torch

from engramlib.lab import plots
from engramlib.lab.teaching import chapter


@pytest.fixture
def shown(monkeypatch):
    out = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw=False: out.append(data))
    monkeypatch.delenv("ENGRAM_SCALE", raising=False)
    return out


def test_setup_seeds_styles_and_says_one_line(shown, capsys):
    draws = []
    for _ in range(2):
        lab = chapter.setup(seed=5)
        draws.append((random.random(), np.random.rand(), float(torch.rand(()))))
    assert draws[0] == draws[1]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "scale: laptop" in lines[0] and torch.__version__ in lines[0]
    assert shown[0]["text/html"] == plots.css()
    assert (lab.scale, lab.seed, lab.device.type) == ("laptop", 5, "cuda" if torch.cuda.is_available() else "cpu")
    assert lab.pick(laptop=1, paper=2) == 1


def test_scale_comes_from_the_environment(shown, monkeypatch):
    monkeypatch.setenv("ENGRAM_SCALE", "paper")
    assert chapter.setup().pick(laptop=1, paper=2) == 2
    monkeypatch.setenv("ENGRAM_SCALE", "papr")
    with pytest.raises(ValueError, match="ENGRAM_SCALE is 'papr'.*'laptop' or 'paper'"):
        chapter.setup()


def test_say_is_markdown(shown):
    chapter.say("**0.03** left")
    assert shown[0] == {"text/markdown": "**0.03** left", "text/plain": "**0.03** left"}


def test_say_carries_numbers_that_it_does_not_show(shown):
    chapter.say("Most is left.", results={"left": torch.tensor([0.5, 0.75])})
    assert shown[0][chapter.RESULTS] == {"left": [0.5, 0.75]}
    assert "0.5" not in shown[0]["text/markdown"]


def test_pm():
    assert chapter.pm([0.027, 0.031, 0.035]) == "0.031 ± 0.004"
    assert chapter.pm(torch.tensor([1.0, 3.0]), digits=1) == "2.0 ± 1.4"
    assert chapter.pm(0.5) == chapter.pm([0.5]) == chapter.pm(torch.tensor(0.5)) == "0.500"
    assert chapter.pm([]) == ""


def test_replication_rows_leave_missing_cells_empty():
    rows = chapter.replication_rows([{"what": "erased", "published": 0.037, "this_run": [0.02, 0.04]}], digits=2)
    assert list(rows[0].values()) == ["erased", "0.04", "", "0.03 ± 0.01"]
    with pytest.raises(ValueError, match="publishd"):
        chapter.replication_rows([{"what": "x", "publishd": 1.0}])


def test_replication_table_is_shown(shown):
    chapter.replication_table([{"what": "erased", "recorded": [0.1, 0.1]}], "Beside each other.")
    text = shown[0]["text/html"]
    assert "recorded real-data run" in text and "0.100 ± 0.000" in text


def test_replication_table_carries_the_numbers_of_this_run(shown):
    rows = [
        {"what": "erased", "published": 0.1, "this_run": [0.25, 0.75]},
        {"what": "empty", "recorded": [1.0]},
        {"what": "shown", "this_run": "0.2 ± 0.1"},
    ]
    chapter.replication_table(rows, "Beside each other.")
    assert shown[0][chapter.RESULTS] == {"erased": [0.25, 0.75], "shown": "0.2 ± 0.1"}
