"""What `import engramlib` costs, and what it shows."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import engramlib as el

HEAVY = (
    "torchvision transformers sklearn scipy matplotlib seaborn pandas IPython tqdm safetensors jaxtyping PIL".split()
)


def test_import_pulls_in_torch_and_nothing_heavier() -> None:
    code = "import torch, sys; before = set(sys.modules); import engramlib; print(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = {module.split(".")[0] for module in run.stdout.split()}
    assert "engramlib" in new and not new & set(HEAVY), new


def test_public_names_have_docstrings_and_a_place_on_the_api_page() -> None:
    page = (Path(__file__).resolve().parents[1] / "book" / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\.\. auto\w+:: engramlib\.(\w+)", page, re.M))
    modules = {"spectral", "analysis", "language", "discover", "distributed"}  # with public names of their own
    for name in set(el.__all__) - modules:
        assert getattr(el, name).__doc__ and name in named, name


def test_the_method_stays_small() -> None:
    """Lines of code, without blank lines, comments and docstrings; and no module that needs a tour."""
    package = Path(el.__file__).parent
    # The language models' rooms, and what goes beyond the paper.
    beside = {"language.py", "_text.py", "_causal.py", "_ties.py", "compensated.py", "_walks.py"}
    beside |= {"online.py", "_streams.py", "protection.py", "discover.py", "_clusters.py"}
    beside |= {"lowrank.py", "distributed.py", "_parts.py"}
    code = 0
    for path in sorted([*package.glob("*.py"), *package.glob("analysis/*.py")]):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 450, f"{path.name} is too long: split it"
        if path.parent == package and path.name not in beside:
            code += len(_lines_of_code(text))
    # 3,300, the guards of edits that the benchmark asked for, doors for what streams, and what keeps Σ in fewer bytes,
    # in files and in parts
    assert code <= 3530, code


def _lines_of_code(text: str) -> set[int]:
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in skipped]
    lines = {line for t in tokens for line in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines
