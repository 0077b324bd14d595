"""Where a browser is on this machine, and how it is started.

python book/browser.py   says which one the site is tested in, or how to get one
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
MISSING = (
    "no chromium on this machine, so the site was NOT tested in a browser. Get one with\n"
    "  sudo apt-get install chromium            (Debian; on Ubuntu install Google Chrome)\n"
    "  .venv/bin/playwright install chromium    (any system)\n"
    "or name one: ENGRAM_BROWSER=/path/to/chrome"
)


def executable() -> str | None:
    """ENGRAM_BROWSER, else a browser on the PATH, else the one that playwright installed; None when there is none."""
    named = os.environ.get("ENGRAM_BROWSER")
    if named:
        if not Path(named).exists():
            raise FileNotFoundError(f"ENGRAM_BROWSER names {named}, which is not there")
        return named
    for name in NAMES:
        if found := shutil.which(name):
            return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


@contextmanager
def chromium() -> Iterator:
    """A running browser. RuntimeError with what to do when the machine has none."""
    from playwright.sync_api import sync_playwright

    path = executable()
    if path is None:
        raise RuntimeError(MISSING)
    # In a container /dev/shm is small and there is no user namespace to make a sandbox of.
    arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


if __name__ == "__main__":
    path = executable()
    print(f"Testing the site in {path}" if path else f"WARNING: {MISSING}", flush=True)
