"""The assignments' build script, importable under a name of its own (book/build.py is called `build` too)."""

import importlib.util
import sys
from pathlib import Path

import pytest

_path = Path(__file__).resolve().parents[2] / "book" / "assignments" / "build.py"
_spec = importlib.util.spec_from_file_location("assignment_build", _path)
assert _spec is not None and _spec.loader is not None
sys.modules["assignment_build"] = _module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

# Where otter-grader is not installed, whatever makes or grades a notebook is skipped, and says how to have it.
needs_otter = pytest.mark.skipif(
    importlib.util.find_spec("otter") is None, reason="needs otter-grader: make course-test installs it and runs this"
)


def pytest_collection_modifyitems(items):
    for item in items:
        if "made" in getattr(item, "fixturenames", ()) or item.get_closest_marker("otter"):
            item.add_marker(needs_otter)


def pytest_configure(config):
    config.addinivalue_line("markers", "otter: this test makes or grades a notebook with otter-grader")
