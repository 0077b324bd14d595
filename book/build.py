"""Build the book: run the chapters, render the pages, check the site.

python book/build.py           everything
python book/build.py --check   only the checks, on the site in _build/html
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import yaml
from check_site import check
from colab import with_requirements
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
SITE = BUILD / "html"
CACHE = BUILD / ".jupyter_cache"  # where Jupyter Book looks, so rendering finds what ran here
CELL_TIMEOUT = 600  # seconds
LIBRARIES = ("engramlib[lab]", "ipykernel")  # what chapters need, with all that it needs; other tools change no chapter
CACHE_LOCK = threading.Lock()  # two chapters run at a time, one writes


def toc_files(root: Path = ROOT) -> list[Path]:
    """The files _toc.yml lists, with their suffix, in reading order."""

    def names(node):
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("root", "file"):
                    yield value
                else:
                    yield from names(value)
        elif isinstance(node, list):
            for item in node:
                yield from names(item)

    files = []
    for name in names(yaml.safe_load((root / "_toc.yml").read_text())):
        found = [path for suffix in (".ipynb", ".md") if (path := root / (name + suffix)).exists()]
        if not found:
            raise FileNotFoundError(f"_toc.yml lists {name}, but there is no {name}.ipynb or {name}.md")
        files.append(found[0])
    return files


def fingerprint(root: Path = ROOT) -> str:
    """Changes whenever a chapter might compute something else: package, data, libraries, Python, scale."""
    digest = hashlib.sha256()
    for folder, pattern in (("engramlib", "*.py"), ("data", "*")):
        for path in sorted((root / folder).rglob(pattern)):
            if path.is_file():
                digest.update(f"{path.relative_to(root)}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    libraries = with_requirements(LIBRARIES)
    digest.update("\n".join(sorted(f"{name}=={d.version}" for name, d in libraries.items())).encode())
    settings = [os.environ.get(name, "") for name in ("ENGRAM_SCALE", "ENGRAM_DATA")]
    digest.update(repr((platform.python_version(), platform.machine(), *settings)).encode())
    return digest.hexdigest()


def drop_stale_cache() -> None:
    """Empty the execution cache when it was filled under another fingerprint."""
    now, stamp = fingerprint(), BUILD / ".fingerprint"
    if CACHE.exists() and not (stamp.exists() and stamp.read_text() == now):
        print("engramlib, data or a library changed: every chapter runs again.", flush=True)
        shutil.rmtree(CACHE)
    BUILD.mkdir(exist_ok=True)
    stamp.write_text(now)


def execute(path: Path, cache) -> float | None:
    """Run one notebook and store it in the cache; its seconds, or None when the cache had it."""
    notebook = nbformat.read(path, as_version=4)
    try:
        with CACHE_LOCK:
            cache.match_cache_notebook(notebook)
        return None
    except KeyError:
        pass
    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        extra_arguments=["--log-level=ERROR"],  # the kernel's advice about its sockets would break the line
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,  # times in the cells would change the key of the cache
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    seconds = time.perf_counter() - start
    bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": seconds})
    with CACHE_LOCK:
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    return seconds


def execute_all(notebooks: list[Path]) -> None:
    """Run every chapter, two at a time since each runs on one thread, one line each; an error ends the build.

    The last chapters are the longest: they start first, so that neither core waits at the end.
    """
    cache = get_cache(str(CACHE))
    os.environ["ENGRAM_PROGRESS"] = "0"  # progress bars are for readers who run a chapter, not for pages
    os.environ["ENGRAM_LIVE"] = "0"  # nor are live controls, also when the build starts from inside a notebook
    workers = min(2, os.cpu_count() or 1)
    print(f"Running {len(notebooks)} chapters, {workers} at a time ...", flush=True)
    with ThreadPoolExecutor(workers) as pool:
        jobs = {pool.submit(execute, path, cache): path.relative_to(ROOT) for path in reversed(notebooks)}
        for done, job in enumerate(as_completed(jobs), 1):
            try:
                seconds = job.result()
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                pool.shutdown(wait=False, cancel_futures=True)
                sys.exit(
                    f"{jobs[job]} failed\n\n{error}\n\nIt did not run to its end. Fix it, then run make book again."
                )
            how = "unchanged, from the cache" if seconds is None else f"{seconds:.1f} s"
            print(f"[{done}/{len(notebooks)}] {jobs[job]}  {how}", flush=True)


def render() -> None:
    """Jupyter Book, warnings are errors. Pages are always made afresh: it takes seconds and nothing is stale."""
    print("Rendering the pages ...", flush=True)
    for stale in (SITE, BUILD / ".doctrees"):
        shutil.rmtree(stale, ignore_errors=True)
    tool = Path(sys.executable).parent / "jupyter-book"
    command = [tool, "build", ROOT, "-W", "--keep-going", "-q"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}\nThe pages have errors or warnings, see above.")


def check_all(files: list[Path]) -> int:
    """Print what is wrong with the built site; the number of problems."""
    if not SITE.exists():
        sys.exit("No built site in _build/html: run make book first.")
    pages = [path.relative_to(ROOT).with_suffix(".html") for path in files]
    executed = [path.relative_to(ROOT).with_suffix(".html") for path in files if path.suffix == ".ipynb"]
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    moved = tuple(config["sphinx"]["config"]["redirects"])
    base = urlsplit(config["html"]["baseurl"]).path
    problems = check(SITE, pages=pages, executed=executed, moved=moved, base=base)
    for problem in problems:
        print(f"  {problem}")
    print(
        f"Checked {len(pages)} pages, {len(executed)} of them executed chapters: "
        + (f"{len(problems)} problems" if problems else "all as _toc.yml says, nothing loaded from elsewhere")
    )
    return len(problems)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only check the built site")
    arguments = parser.parse_args()
    try:
        files = toc_files()
    except FileNotFoundError as error:
        sys.exit(str(error))
    if not arguments.check:
        start = time.perf_counter()
        drop_stale_cache()
        execute_all([path for path in files if path.suffix == ".ipynb"])
        render()
        print(f"Built in {time.perf_counter() - start:.0f} s", flush=True)
    if check_all(files):
        return 1
    if not arguments.check:
        print(f"Open {(SITE / 'index.html').as_uri()}  or run: make serve")
    return 0


if __name__ == "__main__":
    sys.exit(main())
