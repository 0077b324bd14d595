"""Progress bars: in a notebook they come when a loop takes long, tick, stand alone and leave nothing behind."""

import functools
import os
import subprocess
import sys
import threading
import time

import IPython
import pytest
import torch
from torch import nn

import engramlib as el
from engramlib import _progress
from engramlib._progress import length, track, wanted
from engramlib.lab.teaching.chapter import Lab


class Events:
    """What IPython does with callbacks."""

    def __init__(self):
        self.callbacks = []

    def register(self, event, function):
        assert event == "post_run_cell"
        self.callbacks.append(function)

    def unregister(self, event, function):
        self.callbacks.remove(function)


class Shell:
    def __init__(self):
        self.events = Events()


@pytest.fixture
def notebook(monkeypatch):
    """A kernel, as far as the bars can tell."""
    shell = Shell()
    monkeypatch.delenv("CI", raising=False)
    for name in [n for n in os.environ if n.startswith("TQDM_")] + ["ENGRAM_PROGRESS", "HF_HUB_DISABLE_PROGRESS_BARS"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel", sys.modules[__name__])
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(_progress, "TICK", 0.1)
    yield shell
    assert _progress._open == [] and shell.events.callbacks == []


def test_a_slow_first_step_shows_a_bar_that_ticks_and_vanishes(notebook, capsys):
    for _ in track(range(2), desc="networks", delay=0.1):
        time.sleep(0.5)
    drawn = capsys.readouterr().err
    assert drawn.count("networks:   0%") >= 2, "drawn while the first step still ran, and again"
    assert "50%" in drawn
    assert drawn.rstrip(" ").endswith("\r") and drawn.split("\r")[-2].strip() == "", "wiped off at the end"


def test_a_short_loop_stays_quiet(notebook, capsys):
    assert list(track(range(3), desc="short")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_one_bar_at_a_time(notebook, capsys):
    for _ in track(range(2), desc="outer", delay=0.05):
        assert not wanted()
        assert list(track("abc", desc="inner", delay=0)) == ["a", "b", "c"]
        time.sleep(0.2)
    drawn = capsys.readouterr().err
    assert "outer" in drawn and "inner" not in drawn
    assert wanted()


def test_an_inner_loop_opened_first_but_run_second(notebook, capsys):
    inner = track("ab", desc="inner", delay=0)
    for _ in track(range(1), desc="outer", delay=0.05):
        assert list(inner) == ["a", "b"]
        time.sleep(0.2)
    assert "inner" not in capsys.readouterr().err


def test_an_error_closes_the_bar_at_the_end_of_the_cell(notebook, capsys):
    threads = threading.active_count()
    steps = track(range(2), desc="broken", delay=0.05)
    next(steps)  # the loop's body raises; the traceback keeps the loop alive
    time.sleep(0.2)
    assert not wanted()
    for callback in list(notebook.events.callbacks):
        callback("result")
    assert wanted() and threading.active_count() <= threads
    capsys.readouterr()
    time.sleep(0.3)
    assert capsys.readouterr().err == ""
    steps.close()


@pytest.mark.parametrize("variable", ["CI", "ENGRAM_PROGRESS", "TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"])
def test_silent_where_nobody_watches(notebook, monkeypatch, capsys, variable):
    monkeypatch.setenv(variable, "0" if variable == "ENGRAM_PROGRESS" else "true")
    for _ in track(range(2), desc="networks", delay=0):
        time.sleep(0.15)
    assert capsys.readouterr().err == ""


RUN = """
import importlib.util, sys, time, types
spec = importlib.util.spec_from_file_location("_progress", PATH)
spec.loader.exec_module(_progress := importlib.util.module_from_spec(spec))
events = types.SimpleNamespace(register=lambda *_: None, unregister=lambda *_: None)
sys.modules["ipykernel"] = sys
_progress._shell = lambda: types.SimpleNamespace(events=events) if SHELL else None
_progress.TICK = 0.05
for number in _progress.track(range(3), desc="again", delay=0.01):
    time.sleep(0.15)
assert number == 2 and not _progress._open
"""


@pytest.mark.parametrize("shell", [True, False])
@pytest.mark.parametrize("switch", ["TQDM_DISABLE=1", "TQDM_LEAVE=1", "TQDM_DELAY=100", ""])
def test_the_switches_of_tqdm_are_respected(switch, shell):
    """tqdm reads them when it is imported, so each has a Python of its own."""
    quiet = ("TQDM_", "CI", "ENGRAM_PROGRESS", "HF_HUB")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(quiet)}
    environment |= dict([switch.split("=")] if switch else [])
    code = RUN.replace("SHELL", str(shell)).replace("PATH", repr(_progress.__file__))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    drawn = found.stderr.decode()
    assert found.returncode == 0, drawn
    shown = {"TQDM_LEAVE=1": "left", "": "wiped"}.get(switch, "nothing")
    last = drawn.split("\r")[-1]
    assert ("again" in last, "again" in drawn) == (shown == "left", shown != "nothing"), drawn


def test_a_bar_that_tqdm_itself_switched_off(notebook, monkeypatch, capsys):
    import tqdm

    monkeypatch.setattr(tqdm, "tqdm", functools.partial(tqdm.tqdm, disable=True))
    for _ in track(range(2), desc="networks", delay=0.01):
        time.sleep(0.1)
        assert wanted()  # nothing is open, so an inner bar may try
    assert capsys.readouterr().err == ""


class Odd:
    """Batches whose len() raises: TypeError is what a DataLoader over an IterableDataset raises."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        raise self.error

    def __iter__(self):
        return iter(torch.ones(2, 5, 4))


@pytest.mark.parametrize("error", [TypeError("no len"), NotImplementedError(), ValueError(), AttributeError()])
@pytest.mark.parametrize("shell", [True, False])
def test_batches_that_do_not_know_how_many_they_are(notebook, monkeypatch, error, shell):
    if not shell:
        monkeypatch.delitem(sys.modules, "ipykernel")
    assert length(Odd(error)) is None and length([1, 2]) == 2 and length(iter([1])) is None
    assert len(list(track(Odd(error), desc="odd"))) == 2
    assert el.collect(nn.Linear(4, 2), Odd(error)).count[""] == 10


def test_a_loader_over_an_iterable_dataset(notebook):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(torch.ones(10, 4))

    loader = torch.utils.data.DataLoader(Stream(), batch_size=5)
    assert el.collect(nn.Linear(4, 2), loader).count[""] == 10


def test_a_chapter_goes_through_its_loops_with_one(notebook, capsys):
    lab = Lab("laptop", None, 0)
    for _ in lab.track({"a": 1, "b": 2}.items(), "edits"):
        time.sleep(1.1)
    assert "edits:   0%| " in capsys.readouterr().err
