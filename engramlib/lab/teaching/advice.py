"""What to do about an error that says what happened but not how to go on: one line below it, in a notebook.

Errors of our own say so themselves. These come from Python, pip's leftovers, the machine.
"""

from __future__ import annotations

import builtins
import errno
import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from types import ModuleType
from typing import Any

EXTRAS = ("", "lab", "language")  # what a chapter needs
AGAIN = "then restart the kernel (Colab: Runtime → Restart session) and run the chapter from the top"


def missing_packages(requirements: Sequence[str] | None = None) -> list[str]:
    """The packages that chapters need and this environment lacks, or has too old, as pip would ask for them.

    `requirements`: lines such as 'torch>=2.2'; None = what the installed engramlib says it needs.
    """
    try:
        from packaging.requirements import Requirement
    except ImportError:  # matplotlib and transformers bring it
        return ["packaging"]
    if requirements is None:
        try:
            requirements = metadata.requires("engramlib") or ()
        except metadata.PackageNotFoundError:  # a checkout on sys.path, not installed: nothing says what it needs
            return []
    missing = []
    for requirement in map(Requirement, requirements):
        wanted = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS)
        if not wanted or requirement.name == "engramlib":
            continue
        try:
            here = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(f"{requirement.name}{requirement.specifier}")
        else:
            if not requirement.specifier.contains(here, prereleases=True):
                missing.append(f"{requirement.name}{requirement.specifier} (here {here})")
    return missing


def check_packages(requirements: Sequence[str] | None = None) -> None:
    """Raise `ImportError` with the line that mends it where `missing_packages` finds one."""
    missing = missing_packages(requirements)
    if missing:
        names = " ".join(f'"{line.split(" (")[0]}"' for line in missing)
        raise ImportError(
            f"The chapters need {', '.join(missing)}, and the Python of this notebook ({sys.executable}) does not have "
            f"that. If another environment does, choose its kernel. Else run in a new cell  %pip install {names}  "
            f"{AGAIN}."
        )


def check_data_folder() -> None:
    """Raise `ValueError` where `ENGRAM_DATA` names no folder: a slip there would cost a second download."""
    named = os.environ.get("ENGRAM_DATA")
    if named and not os.path.isdir(os.path.expanduser(named)):
        raise ValueError(
            f"ENGRAM_DATA is {named!r}, and there is no such folder. Make it, or name the one where your data sets "
            "lie, or leave it unset: laptop scale needs none."
        )


# --------------------------------------------------------------------------------------------- errors of others


def advice(error: BaseException) -> str | None:
    """What to do about `error`, in a sentence or two; None where the error says it or nothing general can be said."""
    for link in _chain(error):
        for rule in (_disk, _memory, _package, _mismatch, _cell_not_run):
            text = rule(link)
            if text:
                return text
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _disk(error: BaseException) -> str | None:
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error):
        return (
            "The disk is full. In Colab: Runtime → Disconnect and delete runtime, then run the chapter from the top. "
            "On your own machine: free 1 GB, or point ENGRAM_DATA at a larger disk; downloads lie in "
            "~/.cache/engramlib."
        )
    return None


def _memory(error: BaseException) -> str | None:
    text = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        text = "The memory is full. Close other notebooks, restart the kernel and run the chapter from the top."
        paper = os.environ.get("ENGRAM_SCALE") == "paper"
        return f"{text} ENGRAM_SCALE is paper; laptop scale needs far less." if paper else text
    return None


def _package(error: BaseException) -> str | None:
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] != "engramlib":
        package = error.name.split(".")[0]
        return (
            f"The package {package} is missing in {sys.executable}. If another environment has it, choose its kernel. "
            f"Else run in a new cell  %pip install {package}  {AGAIN}."
        )
    return None


def _mismatch(error: BaseException) -> str | None:
    """A name or an argument that this engramlib does not have: the chapter is of another date."""
    what = None
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] == "engramlib":
        what = "a name" if "cannot import name" in str(error) else f"the module {error.name}"
    elif isinstance(error, AttributeError) and _ours(getattr(error, "obj", None)):
        what = f"the name {error.name}"
    elif isinstance(error, TypeError):
        call = re.match(r"([\w.]+)\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if call and _has(call[1].split(".")[0]):
            what = f"the argument {call[2]} of {call[1]}"
    if what is None:
        return None
    import engramlib

    return (
        f"This engramlib ({engramlib.__version__}, in {os.path.dirname(engramlib.__file__)}) does not have {what}. "
        "If the chapter asks for it, chapter and package are of different dates; they move together. In Colab: "
        "Runtime → Disconnect and delete runtime, then open the chapter again from the book. In a checkout: git pull "
        "and make install. Elsewhere: run in a new cell  "
        f'%pip install --force-reinstall --no-deps "engramlib @ {_home()}"  {AGAIN}.'
    )


def _ours(thing: Any) -> bool:
    if isinstance(thing, ModuleType):
        name = thing.__name__
    else:
        name = (thing if isinstance(thing, type) else type(thing)).__module__
    return name.split(".")[0] == "engramlib"


def _has(name: str) -> bool:
    """Whether engramlib has a public function or class of this name."""
    for module in [m for n, m in sys.modules.items() if n.split(".")[0] == "engramlib"]:
        if str(getattr(getattr(module, name, None), "__module__", "")).split(".")[0] == "engramlib":
            return True
    return False


def _home() -> str:
    """Where pip gets the package, as its metadata says."""
    try:
        addresses = metadata.metadata("engramlib").get_all("Project-URL") or ()
    except metadata.PackageNotFoundError:
        addresses = ()
    found = [line.split(", ", 1)[1] for line in addresses if line.startswith("Repository, ")]
    return f"git+{found[0]}.git" if found else "git+<address of the book's repository>"


def _cell_not_run(error: BaseException) -> str | None:
    if isinstance(error, NameError) and getattr(error, "name", None) and not hasattr(builtins, error.name):
        return (
            f"Nothing is called {error.name} yet. Unless it is a slip of the pen, a cell above has not run since the "
            "kernel started: Runtime → Run before (Colab), Run → Run All Above Selected Cell (Jupyter)."
        )
    return None


def show_after_errors() -> None:
    """In a notebook, print `advice` below each error that there is some for. Calling it again changes nothing."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is None or getattr(shell, "_engram_advice", False):
        return

    def after(result: Any) -> None:
        text = advice(result.error_in_exec) if result.error_in_exec is not None else None
        if text:
            print(f"What to do: {text}")

    shell.events.register("post_run_cell", after)
    shell._engram_advice = True
