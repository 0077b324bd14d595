"""`make` on a machine where something is missing says in one line what to do, and leaves nothing half done."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(tree: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=tree, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def tree(tmp_path):
    for folder in (".ci", "book/part1"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "book/part1/00_first.ipynb").touch()
    for name in ("Makefile", "pyproject.toml", "requirements.txt", ".ci/bounds.py", "book/start.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def fake_python(tree: Path, script: str) -> str:
    path = tree / "fakepython"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"PYTHON={path}"


def test_help_is_the_default_and_names_every_command(tree):
    done = make(tree)
    assert done.returncode == 0
    commands = (
        "book test chapter check course-test site-test epub pdf slides links myst wheel bench "
        "test-oldest test-newest serve clean"
    )
    for command in [*commands.split(), "repoint"]:
        assert f"make {command} " in done.stdout
    assert "PYTHON=" in done.stdout and "ENGRAM_DATA=" in done.stdout
    assert done.stdout == make(tree, "help").stdout


@pytest.mark.parametrize("target", ["book", "test"])
def test_missing_python(tree, target):
    done = make(tree, target, "PYTHON=no-such-python")
    assert done.returncode != 0
    assert done.stdout.splitlines() == [
        "No no-such-python found: install Python 3.10 or newer, or name yours: make PYTHON=/path/to/python"
    ]
    assert not (tree / ".venv").exists()


def test_python_too_old(tree):
    old = fake_python(tree, 'case "$1" in --version) echo Python 3.8.1;; *) exit 1;; esac')
    done = make(tree, "test", old)
    assert done.returncode != 0
    assert done.stdout.startswith("Python 3.8.1 is too old: Python 3.10 or newer") and done.stdout.count("\n") == 1
    assert not (tree / ".venv").exists()


def test_python_without_venv(tree):
    done = make(tree, "book", fake_python(tree, 'case "$2" in *ensurepip*) exit 1;; esac'))
    assert done.returncode != 0
    assert "apt install python3-venv" in done.stdout and done.stdout.count("\n") == 1
    assert not (tree / ".venv").exists()


def test_failed_install_is_not_remembered(tree):
    """The environment is there, and its pip fails."""
    (tree / ".venv" / "bin").mkdir(parents=True)
    (tree / ".venv" / "bin" / "python").write_text("#!/bin/sh\necho $* >> asked\nexit 3\n")
    (tree / ".venv" / "bin" / "python").chmod(0o755)
    done = make(tree, "book", f"PYTHON={sys.executable}", "GPU=1")  # CUDA on Linux: no index but PyPI is asked
    assert done.returncode != 0
    assert "python failed (3). See above. Check the network and the disk" in done.stderr
    assert "[1/1] Installing PyTorch and what the book and its tests need ..." in done.stdout
    assert (tree / "asked").read_text().endswith("-r " + str(tree / "requirements.txt") + "\n")
    assert not (tree / ".venv" / ".installed").exists() and not (tree / ".venv" / ".started").exists()


def test_serve_without_a_book_says_how_to_make_one(tree):
    done = make(tree, "serve")
    assert done.returncode != 0 and "make book" in done.stdout


@pytest.mark.parametrize("end", ["oldest", "newest"])
def test_no_python_at_this_end_of_the_bounds(tree, end):
    variable = f"PYTHON_{end.upper()}"
    done = make(tree, f"test-{end}", f"{variable}=no-such-python")
    assert done.returncode != 0
    assert done.stdout.splitlines() == [
        "No no-such-python that can make virtual environments found: "
        f"install it, or name yours: make test-{end} {variable}=/path/to/python"
    ]
    assert not (tree / f".venv-{end}").exists()


def test_the_oldest_python_is_the_one_promised(tree):
    (promised,) = re.findall(r'^requires-python = ">=(.*)"$', (tree / "pyproject.toml").read_text(), re.M)
    assert f"PYTHON_OLDEST ?= python{promised}\n" in (tree / "Makefile").read_text()


def bounds(tree: Path, end: str) -> subprocess.CompletedProcess:
    command = [sys.executable, tree / ".ci" / "bounds.py", end]
    return subprocess.run(command, capture_output=True, text=True)


def test_pins_are_the_lower_bounds_of_pyproject(tree):
    pins, ranges = (bounds(tree, end).stdout.split() for end in ("oldest", "newest"))
    text = (tree / "pyproject.toml").read_text()
    assert all(f'"{line}"' in text for line in ranges)
    assert pins == [line.replace(">=", "==") for line in ranges]
    named = {pin.split("==")[0] for pin in pins}
    assert {"torch", "safetensors", "tqdm", "transformers", "torchvision", "numpy", "pytest"} <= named


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('"numpy>=', '"numpi>=', "lab no longer has numpy"),
        ('"torch>=', '"torch<=', "'torch<=.*' should be a name with one lower bound"),
        ('"pytest>=', '"pytest!=3,>=', "'pytest!=3,>=.*' should be"),
    ],
)
def test_a_requirement_that_cannot_be_pinned_is_named(tree, old, new, message):
    path = tree / "pyproject.toml"
    path.write_text(path.read_text().replace(old, new))
    done = bounds(tree, "oldest")
    assert done.returncode != 0 and re.search(message, done.stderr)
