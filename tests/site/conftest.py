"""Fixtures of the browser tests. They run with `make site-test` after `make book`; `make test` leaves them out."""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

collect_ignore_glob = [] if os.environ.get("ENGRAM_SITE") else ["*.py"]
if os.environ.get("ENGRAM_SITE"):
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "book")]

    from browser import MISSING, chromium, executable
    from served import BASE, CHAPTERS, PAGES, SITE, Pages, Tab
    from visit import visit


def pytest_generate_tests(metafunc):
    """`page_name`: every page of the book. `chapter_name`: those that come from a notebook."""
    for argument, names in (("page_name", PAGES), ("chapter_name", CHAPTERS)):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, names, ids=lambda name: Path(name).stem if "index" not in name else name)


@pytest.fixture(scope="session")
def site() -> str:
    """Where the site is served, with a slash at the end."""
    if not (SITE / "index.html").exists():
        pytest.fail(f"no built site in {SITE}: run make book first", pytrace=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{BASE}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    if executable() is None:
        pytest.skip(MISSING.splitlines()[0] + " (python book/browser.py says how to get one)")
    with chromium() as running:
        yield running


@pytest.fixture
def tab(browser, site):
    """tab(viewport=..., theme=...): a fresh tab."""
    made = []

    def new(**options):
        made.append(Tab(browser, site, **options))
        return made[-1]

    yield new
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def seen(browser, site):
    """seen(page): what one visit of a page finds; made once, read by every test of test_pages.py."""
    tab, known = Tab(browser, site), {}

    def look(name: str) -> dict:
        if name not in known:
            for memory in (tab.errors, tab.failed, tab.outside):
                memory.clear()
            known[name] = visit(tab, name)
        return known[name]

    yield look
    tab.close()
