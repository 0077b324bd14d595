"""Errors that say what happened but not what to do get a line that does."""

import errno
import sys
from pathlib import Path

import pytest

import engramlib as el
from engramlib.lab import data as datasets
from engramlib.lab.teaching import advice, chapter


def caught(code: str) -> BaseException:
    """The error that this piece of a chapter raises."""
    try:
        exec(code, {"el": el, "chapter": chapter, "datasets": datasets})
    except Exception as error:
        return error
    raise AssertionError(f"no error: {code}")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        # A chapter that is newer, or older, than the package: a name, an argument, a module it does not have.
        ("el.forget_everything()", [el.__version__, "the name forget_everything", "different dates", "move together"]),
        ("chapter.setup(book='2.0')", ["the argument book of setup", "Disconnect and delete runtime"]),
        ("el.Moments({}, {}).median", ["the name median", "--force-reinstall --no-deps"]),
        ("from engramlib.lab import telepathy", ["a name", "git pull"]),
        ("import engramlib.telepathy", ["the module engramlib.telepathy"]),
        # Packages, kernels, cells.
        (
            "import no_such_package",
            ["no_such_package is missing", sys.executable, "%pip install", "restart the kernel"],
        ),
        ("lab.pick(laptop=1, paper=2)", ["Nothing is called lab", "Run before", "Run All Above"]),
        # The machine.
        (f"raise OSError({errno.ENOSPC}, 'No space left on device')", ["disk is full", "free 1 GB"]),
        ("raise RuntimeError('x.pt: No space left on device (os error 28)')", ["disk is full", "ENGRAM_DATA"]),
        ("raise MemoryError", ["memory is full", "restart the kernel"]),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", ["memory is full"]),
    ],
)
def test_advice_names_the_way_out(code, words):
    text = advice.advice(caught(code))
    assert text and all(word in text for word in words), text
    assert "\n" not in text


@pytest.mark.parametrize(
    "code",
    [
        "1 / 0",
        "raise ValueError('ENGRAM_SCALE is wrong; set it to laptop')",
        "'a'.median",  # an attribute of somebody else's
        "sorted([1], upwards=True)",  # an argument of somebody else's
        "raise NameError('no name in it')",
    ],
)
def test_no_advice_where_nothing_general_can_be_said(code):
    assert advice.advice(caught(code)) is None


def test_the_cause_counts_and_a_hidden_context_does_not():
    full = "try:\n    raise OSError(28, 'No space left on device')\nexcept OSError as e:\n    raise ValueError from "
    assert "disk is full" in advice.advice(caught(full + "e"))
    assert advice.advice(caught(full + "None")) is None


def test_paper_scale_is_named_where_memory_is_short(monkeypatch):
    monkeypatch.setenv("ENGRAM_SCALE", "paper")
    assert "ENGRAM_SCALE is paper" in advice.advice(MemoryError())


# ------------------------------------------------------------------------------------------------- packages


def test_this_environment_has_what_the_chapters_need():
    assert advice.missing_packages() == []
    advice.check_packages()


def test_too_old_and_missing_packages_are_named_with_the_line_that_mends_it():
    asked = ["torch>=99", "no-such-package>=1", "numpy>=1", 'seaborn>=99; extra == "lab"', 'ruff>=99; extra == "dev"']
    with pytest.raises(ImportError) as error:
        advice.check_packages(asked)
    text = str(error.value)
    assert "torch>=99 (here " in text and sys.executable in text and "restart the kernel" in text
    assert '%pip install "torch>=99" "no-such-package>=1" "seaborn>=99"' in text
    assert "numpy" not in text and "ruff" not in text


def test_a_missing_packaging_is_named_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    with pytest.raises(ImportError, match='%pip install "packaging"'):
        advice.check_packages()


def test_a_data_folder_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("ENGRAM_DATA", str(tmp_path / "dta"))
    with pytest.raises(ValueError, match="ENGRAM_DATA is .*dta.*no such folder.*leave it unset"):
        chapter.setup()
    monkeypatch.setenv("ENGRAM_DATA", str(tmp_path))
    advice.check_data_folder()


# ----------------------------------------------------------------------------------------------- in a notebook


def test_a_notebook_shows_it_below_the_error_once(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    had_one = InteractiveShell.initialized()
    shell = InteractiveShell.instance()
    try:
        advice.show_after_errors()
        advice.show_after_errors()
        shell.run_cell("no_such_name")
        assert capsys.readouterr().out.count("What to do: Nothing is called no_such_name") == 1
        shell.run_cell("1 + 1")
        shell.run_cell("1 / 0")
        assert "What to do" not in capsys.readouterr().out
    finally:
        if not had_one:
            InteractiveShell.clear_instance()


def test_outside_a_notebook_nothing_happens():
    advice.show_after_errors()


def test_the_page_on_errors_lists_what_these_say():
    page = (Path(__file__).resolve().parents[3] / "book" / "how-to-use.md").read_text(encoding="utf-8")
    for words in ("The chapters need", "This engramlib", "ENGRAM_SCALE is", "no such folder", "No space left on"):
        assert words in page, words
    assert "*What to do*" in page and "and the download failed" in page
