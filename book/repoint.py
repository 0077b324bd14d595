"""Point every link of the book at another repository: python book/repoint.py https://github.com/you/fork"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import yaml

ADDRESS = re.compile(r"https://github\.com/([A-Za-z0-9][A-Za-z0-9-]*)/([A-Za-z0-9._-]+?)(?:\.git)?/?")
# Whatever may name the repository: links and badges, setup cells, workflows, the package's metadata.
KINDS = set(".bib .cff .css .html .ipynb .js .md .py .svg .toml .txt .yaml .yml".split())
NAMES = {"Makefile", "LICENSE", "run"}  # .ci/run
SKIPPED = {"_build", "__pycache__", "dist", "mathjax", "tests"}  # made, foreign, or asking _config.yml; hidden ones too
SHOWN = {".ci", ".github"}  # hidden, and ours


def files(root: Path) -> list[Path]:
    """Every file of the project that may name the repository, notebooks of the assignments included."""
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(d for d in inner if d in SHOWN or not (d in SKIPPED or d.startswith(".")))
        found += [Path(folder, name) for name in sorted(names) if name in NAMES or Path(name).suffix in KINDS]
    return found


def repoint(root: Path, new_url: str) -> list[Path]:
    """Replace the old owner/name by the new in every file that names it; the files that changed."""
    new = ADDRESS.fullmatch(new_url)
    if not new:
        raise ValueError(f"REPO must look like https://github.com/you/fork, not {new_url!r}")
    old = ADDRESS.fullmatch(yaml.safe_load((root / "_config.yml").read_text())["repository"]["url"])
    if not old:
        raise ValueError("repository.url in _config.yml is not a GitHub address")
    (old_owner, old_name), (owner, name) = old.groups(), new.groups()
    # github.com/OWNER/NAME, Colab's .../github/OWNER/NAME, and the site at OWNER.github.io/NAME; a longer name
    # that begins the same is another repository.
    end = r"(?![A-Za-z0-9_-])"
    rules = [
        (re.compile(rf"(github(?:\.com)?/){re.escape(old_owner)}/{re.escape(old_name)}{end}"), rf"\g<1>{owner}/{name}"),
        (re.compile(rf"\b{re.escape(old_owner)}\.github\.io/{re.escape(old_name)}{end}"), f"{owner}.github.io/{name}"),
        # The line after git clone, in a shell or a page that shows one.
        (re.compile(rf"^(\s*(?:\$ )?cd ){re.escape(old_name)}$", re.M), rf"\g<1>{name}"),
    ]
    changed = []
    for path in files(root):
        text = before = path.read_text(encoding="utf-8")
        for rule, replacement in rules:
            text = rule.sub(replacement, text)
        if text != before:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    try:
        changed = repoint(root, sys.argv[1] if len(sys.argv) == 2 else "")
    except ValueError as error:
        print(error)
        return 1
    print(f"{len(changed)} files now point at {sys.argv[1]}:")
    for path in changed:
        print(f"  {path.relative_to(root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
