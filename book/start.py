"""From a checkout to the first chapter, on Windows, macOS and Linux: `python book/start.py`.

Makes the environment .venv, installs PyTorch (without CUDA, which is 4 GB smaller), the package and JupyterLab, opens
chapter 00. The next time it only opens. Needs Python 3.10 or newer and nothing else.

    python book/start.py 04          open another chapter
    python book/start.py --gpu       with CUDA, on Linux and Windows
    python book/start.py --dry-run   say what would be done
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time

# Also an old Python must get as far as to say that it is too old: no syntax and no module here that 3.6 does not know.
OLDEST = (3, 10)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYPROJECT = os.path.join(ROOT, "pyproject.toml")
CPU = "https://download.pytorch.org/whl/cpu"
CUDA = "https://download.pytorch.org/whl/cu126"  # Windows only: PyPI's PyTorch is without CUDA there, with it on Linux
NEEDS = {False: 3.0, True: 8.0}  # GB of disk, without and with CUDA


def too_old(version=None):
    """What to say to a Python that is too old; empty otherwise."""
    version = tuple(version or sys.version_info)[:2]
    if version >= OLDEST:
        return ""
    here, oldest = (".".join(map(str, v)) for v in (version, OLDEST))
    return f"This is Python {here}; the book needs {oldest} or newer. Get one from https://www.python.org/downloads"


def python_in(folder, windows=os.name == "nt"):
    """The Python of an environment."""
    return os.path.join(folder, "Scripts", "python.exe") if windows else os.path.join(folder, "bin", "python")


def index(gpu, system=None):
    """Where PyTorch comes from beside PyPI: an address, or None where PyPI has the right one."""
    system = system or platform.system()
    if system == "Linux":
        return None if gpu else CPU
    return CUDA if system == "Windows" and gpu else None


def install_command(python, gpu, system=None):
    """pip's command; it shows its own progress."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    more = index(gpu, system)
    return command + (["--extra-index-url", more] if more else []) + ["-e", ROOT + "[lab]", "jupyterlab"]


def fingerprint(gpu, pyproject=PYPROJECT):
    """Which PyTorch, and what the package asks for."""
    with open(pyproject, "rb") as file:
        return ("gpu " if gpu else "cpu ") + hashlib.sha256(file.read()).hexdigest()


def found(folder):
    """The fingerprint that an environment was finished with; empty when it was not."""
    try:
        with open(os.path.join(folder, ".started")) as file:
            return file.read() if os.path.exists(python_in(folder)) else ""
    except OSError:
        return ""


def other_kind(folder, gpu):
    """What to say to an environment with the other PyTorch: pip would leave it there. Empty otherwise."""
    before, now = found(folder)[:3], fingerprint(gpu)[:3]
    if before in ("", now):
        return ""
    return f"{folder} was made for {before}. Remove it, or name another folder: --venv {folder}-{now}"


def free_at(folder):
    """Bytes that are free where a folder is, or will be."""
    folder = os.path.abspath(folder)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


def too_full(free, gpu):
    """What to say when the disk is too full; empty otherwise. `free` in bytes."""
    if free >= NEEDS[gpu] * 1e9:
        return ""
    return f"{free / 1e9:.1f} GB are free here, and about {NEEDS[gpu]:.0f} GB are needed."


def chapter(number, root=ROOT):
    """The file of a chapter, relative to `root`; ValueError with the ones there are."""
    there = {}
    book = os.path.join(root, "book")
    for part in sorted(os.listdir(book)):
        folder = os.path.join(book, part)
        if part.startswith("part") and os.path.isdir(folder):
            for name in sorted(os.listdir(folder)):
                if name.endswith(".ipynb") and name[:2].isdigit():
                    there[name[:2]] = os.path.join("book", part, name)
    if number.zfill(2) not in there:
        raise ValueError(f"There is no chapter {number}. There are {', '.join(sorted(there))}.")
    return there[number.zfill(2)]


def run(command, why):
    """Run a step; when it fails, end with what to do."""
    try:
        code = subprocess.call(command, cwd=ROOT)
    except OSError as error:
        code = error
    if code:
        sys.exit(f"\n{os.path.basename(str(command[0]))} failed ({code}). {why}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("chapter", nargs="?", default="00", help="its number (00)")
    parser.add_argument("--gpu", action="store_true", help="PyTorch with CUDA")
    parser.add_argument("--venv", default=os.path.join(ROOT, ".venv"), help="where the environment is made (.venv)")
    parser.add_argument("--no-open", action="store_true", help="install only")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    given = parser.parse_args(arguments)

    problem = too_old() or other_kind(given.venv, given.gpu)
    if problem:
        sys.exit(problem)
    try:
        page = chapter(given.chapter)
    except ValueError as error:
        sys.exit(str(error))
    python = python_in(given.venv)
    make = [sys.executable, "-m", "venv", given.venv]
    install = install_command(python, given.gpu)
    lab = [python, "-m", "jupyterlab", page]
    ready = found(given.venv) == fingerprint(given.gpu)
    steps = ([] if ready or os.path.exists(python) else [make]) + ([] if ready else [install])
    if given.dry_run:
        for step in steps + ([] if given.no_open else [lab]):
            print(" ".join(step))
        return 0

    started = time.time()
    if steps:
        problem = too_full(free_at(given.venv), given.gpu)
        if problem:
            sys.exit(problem)
        print(f"Installing into {given.venv}: some minutes, once. pip shows how far it is.", flush=True)
    for number, step in enumerate(steps, 1):
        what = "Making the environment" if step is make else "Installing PyTorch, the package and JupyterLab"
        print(f"[{number}/{len(steps)}] {what} ...", flush=True)
        if step is make:
            run(step, "On Debian or Ubuntu: sudo apt install python3-venv. Then run this again.")
        else:
            run(step, "See above. Check the network and the disk, then run this again: it goes on where it stopped.")
    if steps:
        with open(os.path.join(given.venv, ".started"), "w") as file:
            file.write(fingerprint(given.gpu))
        print(f"Installed in {time.time() - started:.0f} s.", flush=True)
    if given.no_open:
        return 0
    print(f"Opening {page} in JupyterLab; Ctrl-C here ends it.", flush=True)
    try:
        return subprocess.call(lab, cwd=ROOT)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
