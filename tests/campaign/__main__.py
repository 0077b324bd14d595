"""The campaign: what is too slow for every run of the tests. ``make campaign``, or ``python -m tests.campaign``.

Prints what it finds, writes ``data/campaign.json`` and the page ``book/how-tested.md``; exits with 1 if anything is
wrong. ``--page`` only writes the page again. Mutation testing is recorded by ``--mutation FILE`` (see there).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engramlib.lab.records import runs
from tests.bad_inputs import table
from tests.bad_inputs.outcome import outcome
from tests.campaign import faults, fuzz, kills, page, precision

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "data" / "campaign.json"
FILES, KILLS, FAULTS = 20_000, 100, 400


def bad_inputs() -> dict[str, Any]:
    """Every row of the table: what it was given, what came of it."""
    rows, wrong = [], []
    for row in table():
        with tempfile.TemporaryDirectory() as folder:
            happened, problems = outcome(row, Path(folder))
            happened = happened.replace(folder, "")
        rows.append([row.function, row.given, " ".join(happened.split())[:400]])
        wrong += [f"{row}: {problem}" for problem in problems]
    return {"rows": rows, "wrong": wrong}


def injected() -> dict[str, Any]:
    reports = faults.main(FAULTS)
    return {
        "calls": [{k: v for k, v in asdict(report).items() if k != "wrong"} for report in reports],
        "wrong": [f"{report.call}: {line}" for report in reports for line in report.wrong],
    }


def killed() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        found = kills.main(KILLS, Path(folder))
    return found | {"wrong": [line for part in found.values() for line in part["wrong"]]}


PARTS = {"bad_inputs": bad_inputs, "files": lambda: fuzz.main(FILES), "kills": killed, "faults": injected}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these of {', '.join(PARTS)}; the rest stays")
    parser.add_argument("--page", action="store_true", help="only write the page again, from the last record")
    parser.add_argument("--mutation", type=Path, help="a JSON of mutation results to record: module -> counts")
    args = parser.parse_args()
    if odd := set(args.parts) - set(PARTS):
        parser.error(f"no part {sorted(odd)[0]!r}; there are {', '.join(PARTS)}")
    last = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if args.mutation:
        last["mutation"] = json.loads(args.mutation.read_text(encoding="utf-8"))
        write(last)
    if args.page or args.mutation:
        return 0 if page.write(last) else 1
    warnings.simplefilter("ignore")
    start, record = time.perf_counter(), {"provenance": runs._session() | {"command": "make campaign"}}
    if args.parts:
        record = last
    for name, part in PARTS.items():
        if args.parts and name not in args.parts:
            continue
        began = time.perf_counter()
        print(f"{name} ...", flush=True)
        record[name] = part()
        record[name]["seconds"] = round(time.perf_counter() - began, 1)
        if args.parts:
            now = runs._session()
            record[name]["again"] = {key: now[key] for key in ("started", "commit")}
        wrong = record[name]["wrong"]
        print(f"{name}: {len(wrong)} wrong, {record[name]['seconds']} s", *wrong[:20], sep="\n  ", flush=True)
    if not args.parts:
        record["precision"] = precision.rows()
        record["mutation"] = last.get("mutation", {})
        record["provenance"]["wall_s"] = round(time.perf_counter() - start, 1)
    write(record)
    page.write(record)
    found = sum(len(record[name]["wrong"]) for name in PARTS)
    print(f"{found} wrong, {time.perf_counter() - start:.0f} s, recorded in {RECORD.relative_to(ROOT)}")
    return bool(found)


def write(record: dict[str, Any]) -> None:
    text = json.dumps(record, ensure_ascii=False, indent=1)
    RECORD.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
