"""The book's own scripts are not a package, nor are these tests: make them importable here."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "book")]
