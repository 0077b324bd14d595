"""`make test` and `make check` say which part runs, run all of them, and say at the end what failed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".ci" / "parts.py"


@pytest.fixture(scope="module")
def parts():
    spec = importlib.util.spec_from_file_location("parts", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_folder_of_tests_has_a_name(parts):
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    assert folders == set(parts.FOLDERS)
    assert parts.part_of("tests/test_edit.py::test_x[a/b]") == "the method"
    assert parts.part_of("book/part1/00_erase_a_digit.ipynb::Cell 0") == "chapters"
    assert parts.part_of("engramlib/edit.py::engramlib.edit.ablate") == "doctests"


def test_a_failure_stops_nothing_and_is_named(parts, capfd):
    python = [sys.executable, "-c"]
    bad, good = [*python, "print('seen'); raise SystemExit(3)"], [*python, "print('the last one ran')"]
    assert parts.run([("lint", bad), ("types", good)]) == ["lint"]
    said = capfd.readouterr().out
    assert said.index("[1/2] lint") < said.index("[1/2] lint: FAILED") < said.index("[2/2] types")
    assert "the last one ran" in said


def test_tests_are_counted_by_part(parts, tmp_path):
    """Passed, failed, skipped, errors in a setup; with workers, as `make test` runs them."""
    for name, text in {
        "tests/lab/test_a.py": "def test_a(): pass\n\ndef test_b(): assert 0\n",
        "tests/test_c.py": "import pytest\n\n@pytest.mark.skip\ndef test_c(): pass\n\ndef test_d(nobody): pass\n",
        "tests/book/test_e.py": "def test_e(): pass\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = tmp_path / "found.json"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent), parts.FOUND: str(found)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "parts", "-p", "no:cacheprovider", "-n", "2", "tests"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    for part in ("the bench", "the method", "the book's text and scripts"):
        assert f"--- {part} ..." in done.stdout, done.stdout
    assert found.exists(), done.stdout + done.stderr
    assert json.loads(found.read_text()) == {
        "the bench": 1, "the method": 1, "the book's text and scripts": 0
    }  # fmt: skip
    lines = [line.split("(")[0].split() for line in done.stdout.splitlines() if " s of tests)" in line]
    assert ["the", "bench", "1", "passed,", "1", "failed"] in lines


def test_the_command_ends_with_what_failed(parts, monkeypatch, capfd):
    """The kinds of tests come from pytest's side; here a command leaves them where the plugin does."""
    leave = f"import os; open(os.environ['{parts.FOUND}'], 'w').write('{{\"chapters\": 2, \"doctests\": 0}}')"
    commands = {"lint": "pass", "types": "raise SystemExit(1)", "tests": f"{leave}; raise SystemExit(1)"}
    given = []

    def checks(paths, options):
        given.append((paths, options))
        return [(name, [sys.executable, "-c", code]) for name, code in commands.items()]

    monkeypatch.setattr(parts, "checks", checks)
    monkeypatch.setattr(sys, "argv", ["parts.py", "tests/analysis", "--", "-q", "-k", "x"])
    assert parts.main() == 1
    assert given == [(["tests/analysis"], ["-q", "-k", "x"])]
    assert capfd.readouterr().out.endswith("\nFAILED:\n  types\n  tests: 2 of chapters\n")
    commands.update(types="pass", tests="pass")
    assert parts.main() == 0
    assert "FAILED" not in capfd.readouterr().out
