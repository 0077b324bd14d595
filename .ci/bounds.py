"""What the method's unit tests need, a requirement a line, read from pyproject.toml, where alone versions stand.

    python .ci/bounds.py oldest     # torch==2.6: exactly the lower bounds, for `make test-oldest`
    python .ci/bounds.py newest     # torch>=2.6: as they stand, for `make test-newest`
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10: nothing is installed yet, but pip brings one
    from pip._vendor import tomli as tomllib

# Of each group all of it, or what those tests import.
NEEDED: dict[str, set[str] | None] = {
    "dependencies": None,
    "language": None,
    "lab": {"numpy", "torchvision"},
    "dev": {"pytest", "hypothesis", "curvlinops-for-pytorch"},
}


def requirements(pyproject: Path) -> list[str]:
    """The lines of pyproject.toml that `NEEDED` names."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    groups = {"dependencies": project["dependencies"]} | project["optional-dependencies"]
    found = []
    for group, names in NEEDED.items():
        lines = {re.match(r"[\w.-]+", line)[0]: line for line in groups[group]}
        if missing := (names or set()) - set(lines):
            raise SystemExit(f"pyproject.toml: {group} no longer has {', '.join(sorted(missing))}; mend .ci/bounds.py")
        found += [line for name, line in lines.items() if names is None or name in names]
    return found


def lowest(requirement: str) -> str:
    """'torch>=2.6,<3' -> 'torch==2.6'"""
    bound = re.fullmatch(r"([\w.-]+)>=([\w.]+)(,<[\w.]+)?", requirement)
    if not bound:
        raise SystemExit(f"pyproject.toml: {requirement!r} should be a name with one lower bound, as in 'torch>=2.6'")
    return f"{bound[1]}=={bound[2]}"


def main(pyproject: Path) -> None:
    if sys.argv[1:] not in (["oldest"], ["newest"]):
        raise SystemExit("usage: python .ci/bounds.py oldest|newest")
    for line in requirements(pyproject):
        print(lowest(line) if sys.argv[1] == "oldest" else line)


if __name__ == "__main__":
    main(Path(__file__).resolve().parents[1] / "pyproject.toml")
