"""Do the tests notice when a line of the method is changed? ``make mutation``, or

    python -m tests.campaign.mutation [--each 40] [--only spectral edit]

The mutants are cosmic-ray's (installed by ``make mutation``, not needed otherwise), a sample of each module's. Each
runs in a fork of a process that has torch loaded, with the changed module in place of the module, so that nothing is
written and a mutant costs what its tests cost. The result goes into ``data/campaign.json`` and onto its page.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
LIMIT = 240  # seconds; a mutant that runs for ever is noticed, too
# Each module of the method's core, and the tests that are about it.
TESTS = {
    "moments": ["test_moments.py", "test_files.py"],
    "_products": ["test_products.py", "test_collecting.py", "test_running.py"],
    "_patches": ["test_layers.py"],
    "_recorder": ["test_collecting.py", "test_running.py", "test_examples.py"],
    "collecting": ["test_collecting.py", "test_running.py", "test_bad_inputs.py"],
    "spectral": ["test_spectral.py", "test_estimator.py"],
    "estimator": ["test_estimator.py"],
    "_fitting": ["test_estimator.py"],
    "engram": ["test_engram.py", "test_files.py"],
    "edit": ["test_edit.py", "test_copies.py"],
}


class Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the changed source in place of one module of the package."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self.name, self.path, self.source = name, path, source

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def mutants(source: str) -> list[str]:
    """All changed sources that differ in what runs: not in annotations or docstrings alone."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    found, plain = [], _running(source)
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if operator.arguments():  # needs settings of its own
            continue
        for occurrence in range(10_000):
            changed = mutate_code(source, operator(), occurrence)
            if changed is None:
                break
            try:
                if _running(changed) != plain:
                    found.append(changed)
            except SyntaxError:
                continue
    return found


def _running(source: str) -> str:
    """The code as a tree, without what never runs."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def killed(module: str, source: str, tests: list[str]) -> bool:
    """Whether the tests fail with this source in the module's place."""
    child = os.fork()
    if not child:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        signal.alarm(LIMIT)
        sys.meta_path.insert(0, Instead(f"engramlib.{module}", ROOT / f"engramlib/{module}.py", source))
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.mkdtemp()
        import pytest

        code = 3
        try:
            paths = [str(ROOT / "tests" / test) for test in tests]
            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *paths]))
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) != 0


def main() -> None:
    """Sample, try, print the survivors, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=40, help="mutants of each module")
    parser.add_argument("--only", nargs="*", default=list(TESTS), choices=list(TESTS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.dont_write_bytecode = True
    import hypothesis  # noqa: F401  loaded once, before the forks
    import safetensors.torch  # noqa: F401
    import torch

    torch.set_num_threads(1)
    results = {}
    for module in args.only:
        source = (ROOT / f"engramlib/{module}.py").read_text(encoding="utf-8")
        if killed(module, source, TESTS[module]):
            raise SystemExit(f"{module}: its tests fail without any change")
        every = mutants(source)
        sample = random.Random(f"{args.seed} {module}").sample(every, min(args.each, len(every)))
        count = 0
        for changed in sample:
            if killed(module, changed, TESTS[module]):
                count += 1
                continue
            lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)
            print(f"survived in {module}:", *(line for line in lines if line[:2] not in ("--", "++", "@@")), sep="\n  ")
        results[module] = {"mutants": len(every), "sampled": len(sample), "killed": count}
        print(module, results[module], flush=True)
        _record(results)


def _record(results: dict[str, dict[str, int]]) -> None:
    path = ROOT / "data/campaign.json"
    last = json.loads(path.read_text(encoding="utf-8"))
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump({**last.get("mutation", {}), **results}, file)
    os.system(f"{sys.executable} -m tests.campaign --mutation {file.name}")
    os.unlink(file.name)


if __name__ == "__main__":
    main()
