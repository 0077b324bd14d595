"""One table of points from a folder of otter results.

python book/assignments/collect.py grades > grades.csv

Reads grades/NAME/results.json, as `otter run -o grades/NAME` writes it: a row for each name, a column for each
question. A folder without results is a notebook that could not be marked; its row is empty, and its name is told.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path


def points(folder: Path) -> list[dict[str, object]]:
    """Name, points of each question and their sum, in the order of the names; only the name where there are none."""
    rows: list[dict[str, object]] = []
    for out in sorted(path for path in folder.iterdir() if path.is_dir()):
        file = out / "results.json"
        scores: dict[str, float] = {}
        if file.is_file():
            tests = json.loads(file.read_text(encoding="utf-8"))["tests"]
            scores = {test["name"]: test["score"] for test in tests if "max_score" in test}
        rows.append({"name": out.name, **scores, **({"sum": sum(scores.values())} if scores else {})})
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the folders with results.json are")
    folder = parser.parse_args(arguments).folder
    if not folder.is_dir():
        parser.error(f"there is no folder {folder}; mark with otter run -o {folder}/NAME first")
    rows = points(folder)
    marked = [row for row in rows if "sum" in row]
    if not marked:
        parser.error(f"no */results.json in {folder}; mark with otter run -o {folder}/NAME first")
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "sum"))
    table = csv.DictWriter(sys.stdout, [*columns, "sum"], restval="")
    table.writeheader()
    table.writerows(rows)
    missing = [str(row["name"]) for row in rows if "sum" not in row]
    if missing:
        print(f"Not marked, look at them by hand: {', '.join(missing)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
