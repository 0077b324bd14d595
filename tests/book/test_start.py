"""`python book/start.py`: what it would do on each system, and what it says when it cannot."""

import ast
import functools
import http.server
import os
import re
import subprocess
import sys
import threading

import pytest
import start
import yaml
from notebooks import CHAPTERS, ROOT

SOURCE = (ROOT / "book" / "start.py").read_text(encoding="utf-8")


def test_an_old_python_gets_as_far_as_the_message():
    """No syntax that Python 3.6 does not know, and nothing imported that is not in Python itself."""
    tree = ast.parse(SOURCE, feature_version=(3, 6))
    names = {a.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
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
    command = start.install_command("python", found)
    assert command[-1] == "jupyterlab" and command[-2].endswith("[lab]")
    assert ("--extra-index-url" in command) == (ends is not None)
    assert "--quiet" not in command, "progress is to be seen"
    assert start.install_command("python", found, everything=True)[-2:] == ["-r", str(ROOT / "requirements.txt")]


@pytest.mark.parametrize(
    ("system", "gpu", "reached", "kind", "says"),
    [
        ("Linux", False, True, "cpu", ""), ("Linux", False, False, "gpu", "with CUDA, which is 4 GB more"),
        ("Linux", True, False, "gpu", ""), ("Windows", True, True, "gpu", ""),
        ("Windows", True, False, "cpu", "without CUDA"), ("Darwin", False, False, "cpu", ""),
    ],
)  # fmt: skip
def test_an_index_that_cannot_be_reached_is_told_in_a_line_and_done_without(system, gpu, reached, kind, says):
    asked = []
    address, found, note = start.chosen_index(gpu, system, reached=lambda address: asked.append(address) or reached)
    assert found == kind and says in note and bool(note) == bool(says) and "\n" not in note
    assert address == (start.index(gpu, system) if reached else None)
    assert asked == ([start.index(gpu, system)] if start.index(gpu, system) else []), "PyPI alone is not asked"


def test_a_place_that_does_not_answer():
    assert not start.answers("http://127.0.0.1:9") and not start.answers("no address")


def test_an_index_that_answers(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "index.html").write_text("torch")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert start.answers(f"http://127.0.0.1:{server.server_port}")
        assert not start.answers(f"http://127.0.0.1:{server.server_port}/elsewhere")
        server.shutdown()


def test_the_python_of_an_environment():
    assert start.python_in("e", windows=True) == os.path.join("e", "Scripts", "python.exe")
    assert start.python_in("e", windows=False) == os.path.join("e", "bin", "python")


def environment(folder):
    for place, name in (("bin", "python"), ("Scripts", "python.exe")):
        (folder / place).mkdir(parents=True)
        (folder / place / name).touch()
    return str(folder)


def test_it_installs_again_when_something_changed(tmp_path, monkeypatch):
    start.remember(str(tmp_path), "cpu", {"lab"})
    assert start.found(str(tmp_path)) == ("", set()), "an environment without a Python"
    folder = environment(tmp_path)
    assert start.found(folder) == ("cpu", {"lab"})
    start.remember(folder, "gpu", {"lab", "all"})
    assert start.found(folder) == ("gpu", {"lab", "all"})
    other = tmp_path / "pyproject.toml"
    other.write_text("[project]")
    monkeypatch.setattr(start.fingerprint, "__defaults__", ((str(other),),))
    assert start.found(folder) == ("gpu", set())
    (tmp_path / ".started").write_text("cpu")  # as an older version wrote it, or half of it
    assert start.found(folder) == ("", set())


def test_only_who_asks_for_cuda_is_told_that_there_is_none(tmp_path):
    folder = environment(tmp_path)
    assert not start.other_kind(folder, True)
    start.remember(folder, "cpu", {"lab"})
    assert "made without CUDA" in start.other_kind(folder, True) and not start.other_kind(folder, False)
    start.remember(folder, "gpu", {"lab"})
    assert not start.other_kind(folder, True) and not start.other_kind(folder, False)


@pytest.mark.parametrize(("free", "kind", "fits"), [(4e9, "cpu", True), (2e9, "cpu", False), (4e9, "gpu", False)])
def test_a_full_disk_is_told_before_anything_is_fetched(free, kind, fits):
    said = start.too_full(free, kind)
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
    done = subprocess.run([*command, "--run"], capture_output=True, text=True)
    assert " --execute " in done.stdout.splitlines()[-1], "run it, open nothing"
    done = subprocess.run([*command, "--all"], capture_output=True, text=True)
    make, install = done.stdout.splitlines()
    assert install.endswith("requirements.txt"), "what make runs opens nothing"


def test_what_is_installed_is_not_installed_again(tmp_path):
    folder = environment(tmp_path)
    start.remember(folder, "cpu", {"all"})
    command = [sys.executable, ROOT / "book" / "start.py", "--dry-run", "--venv", folder, "--no-open"]
    assert not subprocess.run([*command, "--all"], capture_output=True, text=True).stdout
    (lab,) = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    assert lab.endswith("jupyterlab"), "the one part does not stand for the other"


def test_a_wrong_chapter_ends_in_one_line():
    done = subprocess.run([sys.executable, ROOT / "book" / "start.py", "77"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no chapter 77" in done.stderr


def test_a_step_that_fails_says_what_to_do(capsys):
    with pytest.raises(SystemExit, match="failed .3.. Do that"):
        start.run([sys.executable, "-c", "raise SystemExit(3)"], "Do that.")
    with pytest.raises(SystemExit, match="Do that"):
        start.run([os.path.join("no", "such", "program")], "Do that.")


def test_every_way_in_that_the_page_names_runs_chapter_00_elsewhere():
    """Windows and macOS are not here: a workflow goes through each door, with the lines of the page."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "doors.yml").read_text(encoding="utf-8"))
    jobs = workflow["jobs"]
    assert {"windows-latest", "macos-latest"} <= set(jobs["start"]["strategy"]["matrix"]["system"])
    page = (ROOT / "book" / "how-to-use.md").read_text(encoding="utf-8")
    for name, job in jobs.items():
        lines = [step["run"].split(" #")[0] for step in job["steps"] if "run" in step]
        assert any("00" in line for line in lines)
        for line in lines:
            said = re.sub(r"^\$CONDA/bin/(conda run --name engram )?|--yes |--torch-backend cpu ", "", line)
            if "nbconvert" not in said and "--run" not in said:
                assert f"$ {said}" in page, f"{name}: the page has no line {said!r}"
    assert "$ python book/start.py" in page and "start.py --run" in page
