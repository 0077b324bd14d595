"""The build knows its pages and runs chapters again whenever their result might change."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import build
import nbformat
import pytest
from jupyter_cache import get_cache
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[2]


def notebook(path: Path, source: str) -> Path:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, path)
    return path


@pytest.fixture
def tree(tmp_path):
    for name in ("engramlib/a.py", "engramlib/lab/b.py", "data/runs/r.json", "README.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    return tmp_path


@pytest.mark.parametrize("name", ["engramlib/a.py", "engramlib/lab/b.py", "data/runs/r.json"])
def test_fingerprint_follows_package_and_data(tree, name):
    before = build.fingerprint(tree)
    assert build.fingerprint(tree) == before
    (tree / name).write_text("2")
    changed = build.fingerprint(tree)
    assert changed != before
    (tree / name).rename(tree / "engramlib" / "moved.py")
    assert build.fingerprint(tree) not in (before, changed)


def test_fingerprint_ignores_what_no_chapter_reads(tree):
    before = build.fingerprint(tree)
    (tree / "README.md").write_text("2")
    assert build.fingerprint(tree) == before


def test_fingerprint_follows_libraries_and_scale(tree, monkeypatch):
    before = build.fingerprint(tree)
    monkeypatch.setenv("ENGRAM_SCALE", "paper")
    scaled = build.fingerprint(tree)
    monkeypatch.setattr(build, "with_requirements", lambda names: {})
    assert len({before, scaled, build.fingerprint(tree)}) == 3


def test_a_tool_that_no_chapter_imports_makes_none_run_again():
    """What `make site-test` or `make course-test` installs between two builds is none of the chapters' business."""
    names = set(build.with_requirements(build.LIBRARIES))
    assert {"torch", "numpy", "transformers", "matplotlib", "ipykernel"} <= names
    assert not names & {"pytest", "playwright", "otter-grader", "jupyter-book"}


def test_stale_cache_is_dropped_and_a_fresh_one_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BUILD", tmp_path)
    monkeypatch.setattr(build, "CACHE", tmp_path / "cache")
    now = ["a"]
    monkeypatch.setattr(build, "fingerprint", lambda: now[0])
    (tmp_path / "cache").mkdir()
    build.drop_stale_cache()
    assert not (tmp_path / "cache").exists(), "a cache of unknown origin is not trusted"
    (tmp_path / "cache").mkdir()
    build.drop_stale_cache()
    assert (tmp_path / "cache").exists()
    now[0] = "b"
    build.drop_stale_cache()
    assert not (tmp_path / "cache").exists()


def test_chapter_runs_once_and_again_when_it_changes(tmp_path):
    cache = get_cache(str(tmp_path / "cache"))
    path = notebook(tmp_path / "a.ipynb", "print(6 * 7)")
    assert build.execute(path, cache) > 0
    assert build.execute(path, cache) is None
    _, merged = cache.merge_match_into_notebook(nbformat.read(path, as_version=4))
    assert merged.cells[0].outputs[0].text == "42\n"
    assert build.execute(notebook(path, "print(6 * 8)"), cache) > 0


def test_an_error_in_a_chapter_is_fatal_and_not_cached(tmp_path):
    cache = get_cache(str(tmp_path / "cache"))
    path = notebook(tmp_path / "a.ipynb", "1 / 0")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        build.execute(path, cache)
    assert not cache.list_cache_records()


def test_toc_files_are_found_and_a_missing_one_is_named(tmp_path):
    (tmp_path / "book").mkdir()
    for name in ("book/intro.md", "book/00_a.ipynb"):
        (tmp_path / name).write_text("")
    toc = tmp_path / "_toc.yml"
    start = "format: jb-book\nroot: book/intro\n"
    toc.write_text(f"{start}parts:\n  - caption: P\n    chapters:\n      - file: book/00_a\n")
    assert build.toc_files(tmp_path) == [tmp_path / "book/intro.md", tmp_path / "book/00_a.ipynb"]
    toc.write_text(f"{start}chapters:\n  - file: book/09_b\n")
    with pytest.raises(FileNotFoundError, match="book/09_b"):
        build.toc_files(tmp_path)


def test_import_directions_are_checked():
    """The linter runs, and a method module that imports the bench breaks the contract."""
    linter = Path(sys.executable).parent / "lint-imports"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_wrong_import_direction_is_caught(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "engramlib"
    shutil.copytree(ROOT / "engramlib", package, ignore=shutil.ignore_patterns("__pycache__"))
    for above, below in (
        ("lab", "moments.py"),
        ("lab.studies", "lab/metrics/cost.py"),
        ("lab.data", "lab/plots/css.py"),
    ):
        with (package / below).open("a") as file:
            file.write(f"\nimport engramlib.{above}\n")
    linter = Path(sys.executable).parent / "lint-imports"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([linter, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    for wrong in (
        "moments -> engramlib.lab",
        "lab.metrics.cost -> engramlib.lab.studies",
        "lab.plots.css -> engramlib.lab.data",
    ):
        assert f"engramlib.{wrong} (" in done.stdout, wrong
