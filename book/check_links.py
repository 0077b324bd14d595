"""Ask every address outside the site whether it still answers: python book/check_links.py

The list is collected from the built site in _build/html, so a new link is on it as soon as it is on a page. What
need not or cannot be asked stands in book/links-ignored.yml, with a reason. A scheduled workflow runs this weekly.

--list   only print the addresses and the pages that name them
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
IGNORED = ROOT / "book" / "links-ignored.yml"
# Answers of servers that are there and do not talk to programs; a reader's browser gets through.
SHY = {401, 403, 405, 406, 418, 429, 503, 999}
AGENT = "Mozilla/5.0 (compatible; engram-book link check)"


def collect(site: Path) -> dict[str, list[str]]:
    """Every http(s) address of the built site, without its fragment, with the pages that name it."""
    found: dict[str, set[str]] = defaultdict(set)
    for page in sorted(site.rglob("*.html")):
        name = str(page.relative_to(site))
        if name.startswith("_static"):
            continue
        soup = BeautifulSoup(page.read_bytes(), "html.parser")
        for tag in soup.find_all(href=True):
            address = tag["href"].split("#")[0].strip()
            if urlsplit(address).scheme in ("http", "https"):
                found[address].add(name)
    return {address: sorted(pages) for address, pages in sorted(found.items())}


def read_ignored(path: Path) -> list[re.Pattern]:
    """The patterns of the allow list; each needs a reason."""
    entries = yaml.safe_load(path.read_text()) or {}
    for pattern, reason in entries.items():
        if not isinstance(reason, str) or len(reason) < 10:
            raise ValueError(f"{path.name}: say why {pattern!r} is not checked")
    return [re.compile(pattern) for pattern in entries]


def ask(address: str, *, timeout: float = 20, tries: int = 3, pause: float = 2) -> str | None:
    """None when the address answers, else what is wrong. HEAD first, GET where HEAD is not understood."""
    problem = None
    for attempt in range(tries):
        for method in ("HEAD", "GET"):
            try:
                with urlopen(Request(address, method=method, headers={"User-Agent": AGENT}), timeout=timeout):
                    return None
            except HTTPError as error:
                if error.code in SHY and method == "GET":
                    return None
                problem = f"{error.code} {error.reason}"
                if error.code in (404, 410) and method == "GET":
                    return problem  # a clear no; asking again changes nothing
            except (URLError, TimeoutError, OSError, ValueError) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
        if attempt < tries - 1:
            time.sleep(pause * 2**attempt)
    return problem


def check(found: dict[str, list[str]], ignored: list[re.Pattern], **options) -> dict[str, str]:
    """The addresses that do not answer, with what is wrong. One host gets one question at a time."""
    hosts: dict[str, list[str]] = defaultdict(list)
    for address in found:
        if not any(pattern.search(address) for pattern in ignored):
            hosts[urlsplit(address).netloc].append(address)

    def one_host(addresses):
        return {address: problem for address in addresses if (problem := ask(address, **options))}

    with ThreadPoolExecutor(8) as pool:
        return {address: problem for part in pool.map(one_host, hosts.values()) for address, problem in part.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--list", action="store_true", help="only print the addresses")
    arguments = parser.parse_args()
    if not (SITE / "index.html").exists():
        sys.exit("No built site in _build/html: run make book first.")
    found = collect(SITE)
    if arguments.list:
        for address, pages in found.items():
            print(address, *pages, sep="\n    ")
        return 0
    dead = check(found, read_ignored(IGNORED))
    for address, problem in sorted(dead.items()):
        print(f"{address}\n    {problem}\n    on " + ", ".join(found[address]))
    print(f"{len(found)} addresses, {len(dead)} do not answer")
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
