"""Open chapters as Colab does: one file, an environment without engramlib, and the setup cell does the rest.

python book/colab.py              every chapter and every assignment, one at a time
python book/colab.py 00 A1        only files whose names begin so
python book/colab.py --clean      with Colab's usual packages installed afresh (2 GB), not linked from this environment
python book/colab.py --record     and write what was measured to book/colab.json and the page Execution times
python book/colab.py --complete   only say whether every chapter is in book/colab.json; a release asks

The repository's address is answered by a local git repository with the files of this working tree. Nothing else of
this machine is seen: an empty home folder, no variable of ours. Needs PyPI, as Colab does.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import nbformat
import psutil
import yaml
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "book" / "colab.json"
PAGE = ROOT / "book" / "execution-times.md"
BEGIN, END = "<!-- colab: written by book/colab.py -->", "<!-- colab: end -->"
# What Colab has before the setup cell runs and chapters may lean on; pip adds whatever else they need.
USUAL = ("torch", "torchvision", "numpy", "scipy", "matplotlib", "seaborn", "scikit-learn", "pandas", "transformers",
         "ipykernel", "ipython", "ipywidgets", "requests", "pip", "setuptools")  # fmt: skip
NOT_OURS = ("PIP_", "SSL_", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")  # the way to PyPI
CELL_TIMEOUT = 1200  # seconds
LONG = 5.0  # seconds on a free core: a longer cell must show that it is at work


class NotAsInColab(RuntimeError):
    """A chapter did not open and run; the message says where."""


# ------------------------------------------------------------------------------------------------ what is opened


def notebooks(root: Path = ROOT) -> list[Path]:
    """Every chapter of _toc.yml, then the student version of every assignment."""
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    listed = [root / f"{chapter['file']}.ipynb" for part in toc["parts"] for chapter in part["chapters"]]
    return [path for path in listed if path.exists()] + sorted((root / "book/assignments/student").glob("*.ipynb"))


def stand_in(root: Path, folder: Path) -> str:
    """Commit the working tree to a new repository in `folder`; its commit. What .gitignore names is not in it."""
    shutil.copytree(root, folder, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv*", "_build"))

    def git(*arguments: str) -> str:
        settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "PATH": os.environ["PATH"]}
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, env=settings)
        if done.returncode:
            raise NotAsInColab(f"git {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    branch = yaml.safe_load((root / "_config.yml").read_text())["repository"]["branch"]
    git("init", "--quiet", f"--initial-branch={branch}")
    git("add", "--all")
    git("-c", "user.name=book", "-c", "user.email=book@localhost", "commit", "--quiet", "-m", "the working tree")
    git("config", "uploadpack.allowFilter", "true")  # pip asks for a clone without old files, as GitHub allows
    git("config", "uploadpack.allowAnySHA1InWant", "true")
    return git("rev-parse", "HEAD")


# ------------------------------------------------------------------------------------------- where it is opened


def with_requirements(names: tuple[str, ...]) -> dict[str, metadata.Distribution]:
    """The installed ones among these packages and everything that they require, by normalised name."""
    found: dict[str, metadata.Distribution] = {}
    todo = [(Requirement(name), "") for name in names]
    seen = set()
    while todo:
        requirement, extra = todo.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # an optional one
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                todo += [(Requirement(line), wanted) for line in found[name].requires or ()]
    return found


def link_packages(folder: Path) -> Path:
    """A folder with links to Colab's usual packages as they are installed here, and to no other."""
    folder.mkdir()
    packages = with_requirements(USUAL)
    if "engramlib" in packages:
        raise NotAsInColab("one of Colab's usual packages requires engramlib: the environment would not be a bare one")
    for package in packages.values():
        for file in package.files or ():
            top = file.parts[0]
            if top in ("..", "__pycache__") or top.endswith(".pth") or (folder / top).exists():
                continue
            (folder / top).symlink_to(Path(package.locate_file(top)).resolve())
    return folder


def clean_packages(folder: Path) -> Path:
    """Colab's usual packages, installed afresh; the folder they lie in."""
    make = [sys.executable, "-m", "venv", folder]
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *USUAL]
    for command in (make, install):
        if subprocess.run(command).returncode:
            raise NotAsInColab(f"could not install Colab's usual packages: {' '.join(map(str, command))} failed")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip())


@dataclass
class Colab:
    """A fresh environment: `packages` are there, engramlib is not, and the repository's address leads to `repository`.

    `offline`: the address leads nowhere, as on a train.
    """

    folder: Path
    packages: Path
    repository: Path
    offline: bool = False

    def __post_init__(self) -> None:
        for name in ("home", "content", "tmp"):
            (self.folder / name).mkdir(parents=True)
        make = [sys.executable, "-m", "venv", "--without-pip", self.folder / "venv"]
        subprocess.run(make, check=True, capture_output=True)
        # A line in a .pth file makes the folder importable, and processes no .pth inside it.
        (self.library / "usual.pth").write_text(f"{self.packages}\n")
        argv = [str(self.python), "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        spec = self.folder / "kernels" / "python3"
        spec.mkdir(parents=True)
        (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
        if self.ask("import importlib.util as u; print(u.find_spec('engramlib'))") != "None":
            raise NotAsInColab("engramlib is there before the setup cell ran")

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def library(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "venv" / "lib" / version / "site-packages"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the kernel: nothing of ours, and git finds the stand-in behind the public address."""
        kept = {key: value for key, value in os.environ.items() if key.upper().startswith(NOT_OURS)}
        url = yaml.safe_load((self.repository / "_config.yml").read_text())["repository"]["url"]
        target = self.folder / "nowhere" if self.offline else self.repository
        return kept | {
            "PATH": f"{self.folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "LANG": "C.UTF-8",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{target.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": f"{url}.git",
            "GIT_ALLOW_PROTOCOL": "file",  # an address that does not lead to the stand-in is an error
        }

    def ask(self, code: str) -> str:
        """What this line prints in the environment."""
        run = [self.python, "-c", code]
        done = subprocess.run(
            run, capture_output=True, text=True, env=self.environment, cwd=self.folder / "content", check=True
        )
        return done.stdout.strip()

    def run(self, notebook: nbformat.NotebookNode, *, allow_errors: bool = False) -> Watched:
        """Run the notebook in a new kernel, from top to bottom; its cells then have their outputs."""
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=KernelSpecManager(
                kernel_dirs=[str(self.folder / "kernels")], ensure_native_kernel=False
            ),
        )
        client = Watched(notebook, km=manager, timeout=CELL_TIMEOUT, allow_errors=allow_errors)
        try:
            client.execute(env=self.environment, cwd=str(self.folder / "content"))
        finally:  # a kernel manager that was handed over is not nbclient's to stop
            if manager.has_kernel:
                asyncio.run(manager.shutdown_kernel(now=True))
        return client

    def check_install(self, commit: str) -> None:
        """Raise unless the package came through the repository's address, as a wheel with its data."""
        lines = self.ask(
            "import engramlib, importlib.metadata as m; from engramlib.lab.records.runs import data_dir; "
            "print(engramlib.__file__); print(data_dir()); "
            "print(m.distribution('engramlib').read_text('direct_url.json'))"
        ).splitlines()
        package, data, origin = Path(lines[0]).parent, Path(lines[1]), json.loads(lines[2])
        if package != self.library / "engramlib" or data != package / "data":
            raise NotAsInColab(f"engramlib is at {package} and its data at {data}, not installed in {self.library}")
        if origin["vcs_info"]["commit_id"] != commit:
            raise NotAsInColab(f"engramlib was installed from {origin}, not from commit {commit}")
        there = {path.relative_to(data) for path in data.rglob("*") if path.is_file()}
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "data"], cwd=self.repository, capture_output=True, text=True, check=True
        )
        lost = {Path(name).relative_to("data") for name in tracked.stdout.split("\0") if name} - there
        if lost:
            raise NotAsInColab(f"the wheel lacks {', '.join(sorted(map(str, lost)))} of data/")


class Watched(NotebookClient):
    """Runs a notebook and notes, for each cell, how long it took and whether it showed a progress bar."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.moments: dict[int, list[tuple[float, float]]] = {}  # wall clock and the kernel's CPU, seconds
        self.bars: set[int] = set()

    def process_message(self, msg, cell, cell_index):
        kernel = psutil.Process(self.km.provisioner.pid).cpu_times()
        self.moments.setdefault(cell_index, []).append((time.perf_counter(), kernel.user + kernel.system))
        if msg["msg_type"] == "stream" and "\r" in msg["content"]["text"]:
            self.bars.add(cell_index)
        return super().process_message(msg, cell, cell_index)

    def seconds(self, index: int) -> float:
        """How long the cell with this index took."""
        return self.moments[index][-1][0] - self.moments[index][0][0] if index in self.moments else 0.0

    def seconds_on_a_free_core(self, index: int) -> float:
        """How long it would have taken had it not shared its core."""
        cpu = self.moments[index][-1][1] - self.moments[index][0][1] if index in self.moments else 0.0
        return min(cpu, self.seconds(index))


# ------------------------------------------------------------------------------------------------- one notebook


@dataclass
class Opened:
    """How a notebook fared. `silent`: cells longer than `LONG` that showed no progress, with their seconds."""

    seconds: float
    setup_seconds: float
    setup_output: str
    silent: list[tuple[str, int]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def text_of(cell: nbformat.NotebookNode) -> str:
    """What a cell printed, errors included."""
    return "".join(output.get("text", "") or "\n".join(output.get("traceback", [])) for output in cell.outputs)


def open_alone(path: Path, colab: Colab, commit: str) -> Opened:
    """Open this one file in `colab` and run it to its end. Raises `NotAsInColab`."""
    copy = colab.folder / "content" / path.name
    shutil.copy(path, copy)
    notebook = nbformat.read(copy, as_version=4)
    start = time.perf_counter()
    try:
        client = colab.run(notebook)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise NotAsInColab(f"{path.name} did not run to its end:\n{error}") from error
    seconds = time.perf_counter() - start
    code = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    colab.check_install(commit)
    setup = text_of(notebook.cells[code[0]])
    if re.search(r"\b(ERROR|WARNING|Traceback)\b", setup):
        raise NotAsInColab(f"{path.name}: the setup cell worked, but what it printed will worry a student:\n{setup}")
    silent = [i for i in code[1:] if client.seconds_on_a_free_core(i) > LONG and i not in client.bars]
    names = ("engramlib", "torch", "numpy", "transformers")
    versions = colab.ask(f"import importlib.metadata as m; print(*[m.version(n) for n in {names}])").split()
    return Opened(
        seconds,
        client.seconds(code[0]),
        setup,
        [(notebook.cells[i].source.strip().splitlines()[0], round(client.seconds_on_a_free_core(i))) for i in silent],
        {"python": platform.python_version(), **dict(zip(names, versions, strict=True))},
    )


# --------------------------------------------------------------------------------------------------- the record


def entry(opened: Opened, packages: str, commit: str) -> dict:
    """What book/colab.json keeps of one notebook."""
    return {
        "seconds": round(opened.seconds),
        "setup_seconds": round(opened.setup_seconds),
        "silent": [list(cell) for cell in opened.silent],
        "packages": packages,
        "versions": opened.versions,
        "commit": commit,
        "date": datetime.date.today().isoformat(),
    }


def commit_of(root: Path = ROOT) -> str:
    """The commit of the working tree; '+' where files differ from it."""
    run = {"cwd": root, "capture_output": True, "text": True}
    head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **run).stdout.strip()
    return head + ("+" if subprocess.run(["git", "status", "--porcelain"], **run).stdout.strip() else "")


def table(record: dict, page: Path = PAGE, root: Path = ROOT) -> str:
    """The record as a Markdown table, in the order of the book."""
    lines = ["| Opened alone | Seconds | of them setup | Date | Python, torch |", "|---|---|---|---|---|"]
    for name, row in record.items():
        first = next(cell for cell in nbformat.read(root / name, as_version=4).cells if cell.cell_type == "markdown")
        title = re.search(r"^#+ +(.+)$", first.source, re.M)[1]
        target = os.path.relpath(root / name, page.parent)
        versions = f"{row['versions']['python']}, {row['versions']['torch']}"
        # An assignment is no page of the book: its title stands without a link.
        shown = title if "/student/" in name else f"[{title}]({target})"
        lines.append(f"| {shown} | {row['seconds']} | {row['setup_seconds']} | {row['date']} | {versions} |")
    return "\n".join(lines)


def write_record(news: dict[str, dict]) -> None:
    """Merge what was measured into book/colab.json, drop what is gone, and bring the page up to date."""
    old = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    names = [path.relative_to(ROOT).as_posix() for path in notebooks()]
    record = {name: news.get(name) or old[name] for name in names if name in news or name in old}
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(record)}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def unrecorded() -> list[str]:
    """The chapters and assignments that book/colab.json does not have, and names in it that are gone from the book."""
    record = set(json.loads(RECORD.read_text())) if RECORD.exists() else set()
    return sorted(record ^ {path.relative_to(ROOT).as_posix() for path in notebooks()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of file names; none means all")
    parser.add_argument("--clean", action="store_true", help="install Colab's usual packages afresh")
    parser.add_argument("--show", action="store_true", help="show what the setup cell printed")
    parser.add_argument("--record", action="store_true", help="write book/colab.json and the page")
    parser.add_argument("--complete", action="store_true", help="only say which chapters the record lacks")
    arguments = parser.parse_args()
    if arguments.complete:
        lacking = unrecorded()
        print("\n".join(f"not recorded, or gone: {name}" for name in lacking) or "Every chapter is recorded.")
        return 1 if lacking else 0
    chosen = [p for p in notebooks() if not arguments.names or p.name.startswith(tuple(arguments.names))]
    if not chosen:
        print(f"No notebook begins with {' or '.join(arguments.names)}: {', '.join(p.name for p in notebooks())}")
        return 1
    failed, commit_here = 0, commit_of()
    with tempfile.TemporaryDirectory(prefix="colab-") as temporary:
        work = Path(temporary).resolve()
        commit = stand_in(ROOT, work / "repository")
        packages = clean_packages(work / "clean") if arguments.clean else link_packages(work / "usual")
        for number, path in enumerate(chosen, 1):
            name = path.relative_to(ROOT).as_posix()
            label = f"[{number}/{len(chosen)}] {name}"
            folder = work / f"colab{number}"
            try:
                opened = open_alone(path, Colab(folder, packages, work / "repository"), commit)
            except NotAsInColab as error:
                failed += 1
                print(f"{label}  FAILED\n{error}", flush=True)
                continue
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            print(f"{label}  {opened.seconds:.0f} s, setup {opened.setup_seconds:.0f} s", flush=True)
            if arguments.show:
                print(opened.setup_output, flush=True)
            for source, seconds in opened.silent:
                print(f"    {seconds:.0f} s without a sign of progress: {source}", flush=True)
            if arguments.record:
                write_record({name: entry(opened, "installed" if arguments.clean else "linked", commit_here)})
    print(f"{len(chosen) - failed} of {len(chosen)} notebooks opened alone and ran to their end")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
