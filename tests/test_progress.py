"""Progress bars: in a notebook they come when a loop takes long, tick, stand alone and leave nothing behind."""

import sys
import threading
import time

import pytest

from engramlib import _progress
from engramlib._progress import track, wanted
from engramlib.lab.chapter import Lab


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
    monkeypatch.delenv("ENGRAM_PROGRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel", sys.modules[__name__])
    monkeypatch.setattr(_progress, "_shell", lambda: shell)
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


@pytest.mark.parametrize("variable", ["CI", "ENGRAM_PROGRESS"])
def test_silent_where_nobody_watches(notebook, monkeypatch, capsys, variable):
    monkeypatch.setenv(variable, "0" if variable == "ENGRAM_PROGRESS" else "true")
    for _ in track(range(2), desc="networks", delay=0):
        time.sleep(0.15)
    assert capsys.readouterr().err == ""


def test_a_chapter_goes_through_its_loops_with_one(notebook, capsys):
    lab = Lab("laptop", None, 0)
    for _ in lab.track({"a": 1, "b": 2}.items(), "edits"):
        time.sleep(1.1)
    assert "edits:   0%| " in capsys.readouterr().err
