"""From a checkout to the first chapter, on Windows, macOS and Linux: `python book/start.py`.

Makes the environment .venv, installs PyTorch (without CUDA, which is 4 GB smaller), the package and JupyterLab, opens
chapter 00. The next time it only opens. Needs Python 3.10 or newer and nothing else.

    python book/start.py 04          open another chapter
    python book/start.py --run 00    run it to its end without a browser, and say where the page is
    python book/start.py --gpu       with CUDA, on Linux and Windows
    python book/start.py --all       all that the book and its tests need, no JupyterLab: what `make` runs
    python book/start.py --dry-run   say what would be done
"""

import argparse
import hashlib
import os
import platform
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request

# Also an old Python must get as far as to say that it is too old: no syntax and no module here that 3.6 does not know.
OLDEST = (3, 10)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FILES = tuple(os.path.join(ROOT, name) for name in ("pyproject.toml", "requirements.txt"))
CPU = "https://download.pytorch.org/whl/cpu"
CUDA = "https://download.pytorch.org/whl/cu126"  # Windows only: PyPI's PyTorch is without CUDA there, with it on Linux
RUN = os.path.join("_build", "run")
NEEDS = {"cpu": 3.0, "gpu": 8.0}  # GB of disk


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


def answers(address, seconds=10):
    """Whether a package index can be reached, asked as pip would: the same proxy, the same certificates."""
    try:
        context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
        with urllib.request.urlopen(address + "/torch/", timeout=seconds, context=context) as reply:
            return reply.status == 200
    except (OSError, ValueError):
        return False


def chosen_index(gpu, system=None, reached=answers):
    """(the address of PyTorch beside PyPI or None, which PyTorch it will be, what to say when it is not as asked)"""
    address, kind = index(gpu, system), "gpu" if gpu else "cpu"
    if address is None or reached(address):
        return address, kind, ""
    if gpu:
        return None, "cpu", f"{address} cannot be reached: PyTorch comes from PyPI, without CUDA."
    return None, "gpu", f"{address} cannot be reached: PyTorch comes from PyPI, with CUDA, which is 4 GB more."


def install_command(python, address, everything=False, quiet=False):
    """pip's command; it shows its own progress, where somebody looks."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += (["--quiet"] if quiet else []) + (["--extra-index-url", address] if address else [])
    return command + (["-r", FILES[1]] if everything else ["-e", ROOT + "[lab]", "jupyterlab"])


def fingerprint(files=FILES):
    """What the package and the book ask for."""
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            digest.update(file.read().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def found(folder):
    """(cpu or gpu, what was installed there for today's fingerprint) of an environment; ("", set()) of none."""
    try:
        with open(os.path.join(folder, ".started")) as file:
            kind, stamp, parts = file.read().split()
    except (OSError, ValueError):
        return "", set()
    if not os.path.exists(python_in(folder)):
        return "", set()
    return kind, set(parts.split("+")) if stamp == fingerprint() else set()


def remember(folder, kind, parts):
    """Write down what `found` reads."""
    with open(os.path.join(folder, ".started"), "w") as file:
        file.write(" ".join((kind, fingerprint(), "+".join(sorted(parts)))))


def other_kind(folder, gpu):
    """What to say to one who asks for CUDA where there is none: pip would leave it so. Empty otherwise."""
    if not gpu or found(folder)[0] != "cpu":
        return ""
    return f"{folder} was made without CUDA. Remove it, or name another folder: --venv {folder}-gpu"


def free_at(folder):
    """Bytes that are free where a folder is, or will be."""
    folder = os.path.abspath(folder)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


def too_full(free, kind):
    """What to say when the disk is too full; empty otherwise. `free` in bytes."""
    if free >= NEEDS[kind] * 1e9:
        return ""
    return f"{free / 1e9:.1f} GB are free here, and about {NEEDS[kind]:.0f} GB are needed."


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
    parser.add_argument("--all", action="store_true", help="all that the book and its tests need, no JupyterLab")
    parser.add_argument("--venv", default=os.path.join(ROOT, ".venv"), help="where the environment is made (.venv)")
    parser.add_argument("--run", action="store_true", help="run the chapter to its end, without a browser")
    parser.add_argument("--no-open", action="store_true", help="install only")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    given = parser.parse_args(arguments)
    given.venv = os.path.abspath(given.venv)  # steps run in the root of the repository

    problem = too_old() or other_kind(given.venv, given.gpu)
    if problem:
        sys.exit(problem)
    try:
        page = chapter(given.chapter)
    except ValueError as error:
        sys.exit(str(error))
    python = python_in(given.venv)
    make = [sys.executable, "-m", "venv", given.venv]
    lab = [python, "-m", "jupyterlab", page]
    if given.run:
        lab = [python, "-m", "nbconvert", "--execute", "--to", "html", "--output-dir", RUN, page]
    kind, parts = found(given.venv)
    part = "all" if given.all else "lab"
    steps = [] if os.path.exists(python) else [make]
    if part not in parts:
        there = kind  # where PyTorch is already, pip keeps it
        gpu = given.gpu or there == "gpu"
        address, kind, note = chosen_index(gpu, reached=(lambda address: True) if given.dry_run else answers)
        kind, note = there or kind, "" if there else note
        quiet = bool(os.environ.get("CI")) or not sys.stdout.isatty()
        steps.append(install_command(python, address, given.all, quiet))
    opens = not (given.no_open or given.all)
    if given.dry_run:
        for step in steps + ([lab] if opens else []):
            print(" ".join(step))
        return 0

    started = time.time()
    if part not in parts:
        problem = "" if os.path.exists(python) else too_full(free_at(given.venv), kind)
        if problem:
            sys.exit(problem)
        if note:
            print(note, flush=True)
        size = f"about {NEEDS[kind]:.0f} GB, some minutes, once"
        print(f"Installing into {given.venv}: {size}.{'' if quiet else ' pip shows how far it is.'}", flush=True)
    what_else = "what the book and its tests need" if given.all else "the package and JupyterLab"
    for number, step in enumerate(steps, 1):
        what = "Making the environment" if step is make else f"Installing PyTorch and {what_else}"
        print(f"[{number}/{len(steps)}] {what} ...", flush=True)
        if step is make:
            run(step, "On Debian or Ubuntu: sudo apt install python3-venv. Then run this again.")
        else:
            run(step, "See above. Check the network and the disk, then run this again: it goes on where it stopped.")
    if part not in parts:
        remember(given.venv, kind, parts | {part})
        print(f"Installed in {time.time() - started:.0f} s.", flush=True)
    if not opens:
        return 0
    if given.run:
        print(f"Running {page} ...", flush=True)
        run(lab, "The chapter did not run to its end. The page how-to-use has a list of what may be wrong.")
        name = os.path.splitext(os.path.basename(page))[0] + ".html"
        print(f"It ran to its end: {os.path.join(ROOT, RUN, name)}")
        return 0
    print(f"Opening {page} in JupyterLab; Ctrl-C here ends it.", flush=True)
    try:
        return subprocess.call(lab, cwd=ROOT)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
