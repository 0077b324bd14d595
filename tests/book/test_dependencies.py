"""What is imported is declared, where it is imported; what only some commands need is installed by them."""

import ast
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Guarded imports: a bare environment is told what to do, or does without. A part of matplotlib; names of types only.
OPTIONAL = {"packaging", "ipywidgets", "cycler", "jaxtyping"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def declared(*extras: str) -> set[str]:
    """The packages that these extras name, and those of the extras that they include."""
    found = {normal(line) for line in PROJECT["dependencies"]}
    for extra in extras:
        for line in EXTRAS[extra]:
            inner = re.fullmatch(r"engramlib\[([\w,]+)\]", line)
            found |= declared(*inner[1].split(",")) if inner else {normal(line)}
    return found


def imported(folder: Path, *, but: str = "") -> dict[str, str]:
    """Third-party packages that the modules of a folder import anywhere, each with one module that does."""
    found = {}
    providers = metadata.packages_distributions()
    for path in sorted(folder.rglob("*.py")):
        if but and path.is_relative_to(folder / but):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"engramlib"}:
                found[normal(providers.get(name, [name])[0])] = path.relative_to(ROOT).as_posix()
    return found


@pytest.mark.parametrize(
    ("folder", "but", "extras"),
    [("engramlib", "lab", ("language",)), ("engramlib/lab", "", ("lab", "course", "book"))],
    ids=["the method", "the bench"],
)
def test_what_is_imported_is_declared(folder, but, extras):
    missing = {n: at for n, at in imported(ROOT / folder, but=but).items() if n not in declared(*extras) | OPTIONAL}
    missing.pop("otter", None)  # otter-grader's name where it is not installed
    assert not missing


def test_heavy_tools_are_in_extras_of_their_own():
    """A contributor who never grades and never opens a browser needs neither; a user of language models no ROUGE."""
    everyday = declared("lab", "language", "book", "dev")
    assert not everyday & {"otter-grader", "playwright", "axe-playwright-python", "pypdf"}
    assert "rouge-score" in declared("lab") - declared("language")
    assert {"scipy", "pillow"} <= declared("lab")


def test_requirements_name_what_the_book_stands_on_and_no_version():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert {"jupyter-book", "torch", "torchvision", "matplotlib", "seaborn", "nbval"} < set(lines)
    (everything,) = [line for line in lines if line.startswith("-e ")]
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", everything)[1].split(",")
    assert all(line == normal(line) and line in declared(*extras) for line in set(lines) - {everything})


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("target", "extra"),
    [
        ("assignments", "course"),
        ("course-test", "course"),
        ("site-test", "site"),
        ("pdf", "site"),
        ("slides", "site"),
        ("test", None),
    ],
)
def test_a_command_installs_its_extra_and_no_other(target, extra, tmp_path):
    """As `make` would do it on a machine where nothing was installed (dry run)."""
    run = ["make", "-n", f"VENV={tmp_path / 'venv'}", target]
    said = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r'-e "\.\[(\w+)\]"', said) == ([extra] if extra else [])
    for path in re.findall(r"\btests/[\w/.]+", said):
        assert (ROOT / path).exists(), f"make {target} names {path}"
    assert said.index("book/start.py --all") < (said.index('-e ".[') if extra else said.index(".ci/parts.py"))
