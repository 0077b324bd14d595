"""Run the checks one after the other, say which one runs, and say at the end what failed.

    python .ci/parts.py PATH ... -- OPTIONS     lint, import directions, types, then pytest on the paths
    python .ci/parts.py -- OPTIONS              the same with all tests

A check that fails does not stop the others. For pytest this file is a plugin as well (`-p parts`): it names each kind
of test when its first result comes, and counts them at the end. Nothing is imported that is not in Python itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOUND = "ENGRAM_PARTS"  # names the file in which the plugin leaves its counts for us
FOLDERS = {
    "analysis": "the method",
    "lab": "the bench",
    "book": "the book's text and scripts",
    "assignments": "coursework",
    "colab": "opened as in Colab",
    "site": "the site in a browser",
    "campaign": "the campaign",
    "benchmarks": "the benchmark",
}


def part_of(test: str) -> str:
    """The kind of test that a name such as 'tests/lab/test_runs.py::test_x' belongs to."""
    path = test.split("::")[0].split("/")
    if path[0] == "engramlib":
        return "doctests"
    if path[-1].endswith(".ipynb"):
        return "chapters"
    return FOLDERS.get(path[1], path[1]) if len(path) > 2 else "the method"


# -------------------------------------------------------------------------------------------------- inside pytest


class Parts:
    """Names each kind of test at its first result; counts at the end."""

    def __init__(self, terminal) -> None:
        self.terminal = terminal
        self.counts: dict[str, Counter] = {}
        self.seconds: Counter = Counter()

    def pytest_runtest_logreport(self, report) -> None:
        part = part_of(report.nodeid)
        if part not in self.counts:
            self.counts[part] = Counter()
            self.terminal.ensure_newline()
            self.terminal.write_line(f"--- {part} ...")
        self.seconds[part] += report.duration
        if report.when == "call" or report.outcome != "passed":  # a skip or an error is often of the setup
            self.counts[part][report.outcome] += 1

    def pytest_terminal_summary(self) -> None:
        if not self.counts:
            return
        self.terminal.section("parts")
        for part, count in self.counts.items():
            said = [f"{count[how]} {how}" for how in ("passed", "failed", "skipped") if count[how]]
            self.terminal.write_line(f"{part:<28} {', '.join(said)} ({self.seconds[part]:.0f} s of tests)")
        if file := os.environ.get(FOUND):
            Path(file).write_text(json.dumps({part: count["failed"] for part, count in self.counts.items()}))


def pytest_sessionstart(session) -> None:
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(session.config, "workerinput"):  # only where the results come together
        session.config.pluginmanager.register(Parts(terminal))


# ----------------------------------------------------------------------------------------------------- the command


def checks(paths: list[str], options: list[str]) -> list[tuple[str, list[str]]]:
    """(name, command) in the order in which they run: what takes seconds comes first."""
    tools = Path(sys.executable).parent
    return [
        ("lint", [str(tools / "ruff"), "check", "."]),
        ("import directions", [str(tools / "lint-imports")]),
        ("types", [str(tools / "mypy")]),
        ("tests", [sys.executable, "-m", "pytest", "-p", "parts", *options, *paths]),
    ]


def run(commands: list[tuple[str, list[str]]]) -> list[str]:
    """Run them all; what failed, as lines."""
    failed = []
    for i, (name, command) in enumerate(commands, 1):
        print(f"[{i}/{len(commands)}] {name} ...", flush=True)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder, "parts.json")
            path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
            code = subprocess.run(command, env={**os.environ, "PYTHONPATH": path, FOUND: str(found)}).returncode
            parts = json.loads(found.read_text()) if found.exists() else {}
        print(f"[{i}/{len(commands)}] {name}: {'FAILED' if code else 'right'}, {time.perf_counter() - start:.0f} s")
        if code:
            where = ", ".join(f"{count} of {part}" for part, count in parts.items() if count)
            failed.append(f"{name}: {where}" if where else name)
    return failed


def main() -> int:
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    failed = run(checks(sys.argv[1:at], sys.argv[at + 1 :]))
    print("\n".join(["", "FAILED:", *(f"  {line}" for line in failed)]) if failed else "\nAll checks passed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
