"""The assignments' build script, importable under a name of its own (book/build.py is called `build` too)."""

import importlib.util
import sys
from pathlib import Path

_path = Path(__file__).resolve().parents[2] / "book" / "assignments" / "build.py"
_spec = importlib.util.spec_from_file_location("assignment_build", _path)
assert _spec is not None and _spec.loader is not None
sys.modules["assignment_build"] = _module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
