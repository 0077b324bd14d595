"""Ask every address outside the site whether it still answers, and has the place it points to: make links

Sphinx's own link check on the pages that `make book` made. How it asks, and what it leaves out and why, stands in
_config.yml (linkcheck_...). Its answers are read again here, because it counts a server that only refuses programs as
a dead link. A scheduled workflow runs this weekly.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
ANSWERS = "output.json"  # what Sphinx's check leaves beside the pages, and output.txt with the same
# Answers of servers that are there and do not talk to programs; a reader's browser gets through.
SHY = re.compile(r"\b(403|405|406|418|429|999) (Client|Server) Error|rate-limited|unauthorized")


def dead(answers: Path) -> dict[str, tuple[str, list[str]]]:
    """The addresses that do not answer: what is wrong, and the pages that name them."""
    found: dict[str, tuple[str, list[str]]] = {}
    for line in answers.read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)
        if answer["status"] in ("broken", "timeout") and not SHY.search(answer["info"]):
            problem, pages = found.setdefault(answer["uri"], (answer["info"] or answer["status"], []))
            pages.append(answer["filename"])
    return found


def main() -> int:
    if not (SITE / "index.html").exists():
        sys.exit("No built site in _build/html: run make book first.")
    print("Asking every address outside the book, some minutes ...", flush=True)
    tool = Path(sys.executable).parent / "jupyter-book"
    done = subprocess.run([tool, "build", ROOT, "--builder", "linkcheck", "-q"], capture_output=True, text=True)
    answers = SITE / ANSWERS
    if not answers.exists():  # its exit status says no more than that something is dead
        sys.exit(f"{done.stdout}\n{done.stderr}\nThe check did not run to its end, see above.")
    lines = map(json.loads, answers.read_text(encoding="utf-8").splitlines())
    asked = len({line["uri"] for line in lines if line["status"] not in ("ignored", "unchecked", "local")})
    problems = dead(answers)
    for leftover in (answers, answers.with_suffix(".txt")):  # they are no part of the site
        leftover.unlink(missing_ok=True)
    for address, (problem, pages) in sorted(problems.items()):
        print(f"{address}\n    {problem}\n    on {', '.join(sorted(set(pages)))}")
    print(f"{asked} addresses, {len(problems)} do not answer")
    return 1 if problems or not asked else 0


if __name__ == "__main__":
    sys.exit(main())
