"""`python book/start.py`: what it would do on each system, and what it says when it cannot."""

import ast
import os
import subprocess
import sys

import pytest
import start
from notebooks import CHAPTERS, ROOT

SOURCE = (ROOT / "book" / "start.py").read_text(encoding="utf-8")


def test_an_old_python_gets_as_far_as_the_message():
    """No syntax that Python 3.6 does not know, and nothing imported that is not in Python itself."""
    tree = ast.parse(SOURCE, feature_version=(3, 6))
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    assert names <= sys.stdlib_module_names and not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]


@pytest.mark.parametrize(("version", "old"), [((3, 9, 1), True), ((3, 10, 0), False), ((3, 14), False), ((2, 7), True)])
def test_which_python_is_too_old(version, old):
    said = start.too_old(version)
    assert bool(said) == old
    if old:
        assert f"Python {version[0]}.{version[1]};" in said and "3.10 or newer" in said and "python.org" in said


@pytest.mark.parametrize(
    ("system", "gpu", "ends"),
    [
        ("Linux", False, "/cpu"), ("Linux", True, None), ("Windows", False, None), ("Windows", True, "/cu126"),
        ("Darwin", False, None), ("Darwin", True, None),
    ],
)  # fmt: skip
def test_where_pytorch_comes_from(system, gpu, ends):
    found = start.index(gpu, system)
    assert found is None if ends is None else found.endswith(ends)
    command = start.install_command("python", gpu, system)
    assert command[-1] == "jupyterlab" and command[-2].endswith("[lab]")
    assert ("--extra-index-url" in command) == (ends is not None)
    assert "--quiet" not in command, "progress is to be seen"


def test_the_python_of_an_environment():
    assert start.python_in("e", windows=True) == os.path.join("e", "Scripts", "python.exe")
    assert start.python_in("e", windows=False) == os.path.join("e", "bin", "python")


def test_it_installs_again_when_something_changed(tmp_path):
    assert start.found(str(tmp_path)) == ""
    (tmp_path / ".started").write_text(start.fingerprint(False))
    assert start.found(str(tmp_path)) == "", "an environment without a Python"
    for folder, name in (("bin", "python"), ("Scripts", "python.exe")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    assert start.found(str(tmp_path)) == start.fingerprint(False) and not start.other_kind(str(tmp_path), False)
    assert "was made for cpu" in start.other_kind(str(tmp_path), True)
    other = tmp_path / "pyproject.toml"
    other.write_text("[project]")
    assert start.fingerprint(False, str(other)) != start.fingerprint(False)


@pytest.mark.parametrize(("free", "gpu", "fits"), [(4e9, False, True), (2e9, False, False), (4e9, True, False)])
def test_a_full_disk_is_told_before_anything_is_fetched(free, gpu, fits):
    said = start.too_full(free, gpu)
    assert said == "" if fits else "GB are free here" in said


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert start.free_at(str(tmp_path / "a" / "b" / "c")) > 0


def test_chapters_are_found_by_number():
    for path in CHAPTERS:
        assert ROOT / start.chapter(path.name[:2]) == path
    assert start.chapter("4") == start.chapter("04")
    with pytest.raises(ValueError, match="no chapter 99. There are 00, 01"):
        start.chapter("99")


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path):
    folder = tmp_path / "env"
    command = [sys.executable, ROOT / "book" / "start.py", "--dry-run", "--venv", folder, "03"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    make, install, lab = done.stdout.splitlines()
    assert " -m venv " in make and "pip install" in install and lab.endswith("03_soft_projection.ipynb")
    assert not folder.exists()


def test_a_wrong_chapter_ends_in_one_line():
    done = subprocess.run([sys.executable, ROOT / "book" / "start.py", "77"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no chapter 77" in done.stderr


def test_a_step_that_fails_says_what_to_do(capsys):
    with pytest.raises(SystemExit, match="failed .3.. Do that"):
        start.run([sys.executable, "-c", "raise SystemExit(3)"], "Do that.")
    with pytest.raises(SystemExit, match="Do that"):
        start.run([os.path.join("no", "such", "program")], "Do that.")
