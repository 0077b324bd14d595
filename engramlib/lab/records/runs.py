"""Recorded runs: the numbers of a long run, and everything needed to judge or repeat it.

with runs.record("mnist-mlp", config={...}, seeds=range(5), data=mnist) as run:
    for seed in run.seeds:
        if run.done(seed=seed):
            continue                      # a cut-off run resumes here
        run.add(rows, seed=seed)          # checkpoint

runs.load("mnist-mlp").mean_sd("after", by=("lam", "alpha"), where={"tested": 3})
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import engramlib

Row = dict[str, Any]
LIBRARIES = ("engramlib", "torch", "torchvision", "numpy", "scikit-learn", "transformers")


def data_dir() -> Path:
    """The folder `data/`: inside the installed package, or at the root of a checkout."""
    package = Path(engramlib.__file__).resolve().parent
    for folder in (package / "data", package.parent / "data"):
        if (folder / "published").is_dir():
            return folder
    raise FileNotFoundError(
        f"engramlib's data folder is neither in {package} nor in {package.parent}. Install the package again."
    )


# ---------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Run:
    """A finished run: `rows`, an optional `summary`, and its `provenance`."""

    name: str
    rows: list[Row]
    summary: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def superseded(self) -> str | None:
        """Why these numbers are to be recorded again (see `supersede`); None where they stand."""
        return self.provenance.get("superseded", {}).get("why")

    def where(self, **wanted: Any) -> list[Row]:
        """The rows whose columns have these values. A list of values means any of them."""
        return select(self.rows, wanted)

    def mean_sd(
        self, value: str, *, by: Sequence[str] = (), where: Mapping[str, Any] | None = None, over: str = "seed"
    ) -> list[Row]:
        """`mean_sd` of this run's rows."""
        return mean_sd(self.rows, value, by=by, where=where, over=over)


def load(name: str, *, folder: Path | None = None) -> Run:
    """The recorded run called `name`. Raises `FileNotFoundError` and names the runs there are."""
    path = _folder(folder) / f"{name}.json"
    if not path.is_file():
        there = ", ".join(names(folder=folder)) or "none yet"
        raise FileNotFoundError(f"no recorded run called {name!r} in {path.parent}. Recorded runs: {there}.")
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Run(name, _unpack(raw["rows"]), raw["summary"], raw["provenance"])


def names(*, folder: Path | None = None) -> list[str]:
    """The names of the recorded runs."""
    return sorted(path.stem for path in _folder(folder).glob("*.json"))


def select(rows: Iterable[Row], wanted: Mapping[str, Any] | None) -> list[Row]:
    """The rows whose columns have the `wanted` values; a list, tuple or set of values means any of them."""
    wanted = wanted or {}

    def fits(row: Row) -> bool:
        return all(row.get(k) in v if isinstance(v, (list, tuple, set)) else row.get(k) == v for k, v in wanted.items())

    return [row for row in rows if fits(row)]


def mean_sd(
    rows: Iterable[Row],
    value: str,
    *,
    by: Sequence[str] = (),
    where: Mapping[str, Any] | None = None,
    over: str = "seed",
) -> list[Row]:
    """Mean and standard deviation of column `value`, for each combination of the columns `by`.

    Rows of one seed are averaged first, so that `sd` (n - 1) is the spread between seeds and `n` their number.
    With one seed `sd` is None. `where` keeps only the rows with these values. `over` names another unit than seed.
    """
    if isinstance(by, str):
        raise TypeError(f"mean_sd: by must be a sequence of column names, as in by=({by!r},).")
    groups: dict[tuple, dict[Any, list[float]]] = {}
    for row in select(rows, where):
        if row.get(value) is not None:
            groups.setdefault(tuple(row.get(b) for b in by), {}).setdefault(row.get(over), []).append(row[value])
    if not groups:
        raise ValueError(f"mean_sd: no row has a value {value!r} with where={dict(where or {})}.")
    out = []
    for key, units in groups.items():
        means = [statistics.fmean(values) for values in units.values()]
        sd = statistics.stdev(means) if len(means) > 1 else None
        out.append({**dict(zip(by, key, strict=True)), "mean": statistics.fmean(means), "sd": sd, "n": len(means)})
    return out


# ---------------------------------------------------------------------------------------------------- recording


@dataclass
class Recorder:
    """Collects the rows of a run; see `record`."""

    name: str
    config: dict[str, Any]
    seeds: list[int]
    folder: Path
    data: dict[str, Any] | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    _done: list[Row] = field(default_factory=list)
    _sessions: list[dict[str, Any]] = field(default_factory=list)
    _earlier: float = 0.0
    _began: float = field(default_factory=time.perf_counter)

    @property
    def partial(self) -> Path:
        """The checkpoint: one JSON line a session and a finished part."""
        return self.folder / ".partial" / f"{self.name}.jsonl"

    def done(self, **part: Any) -> bool:
        """Whether the part with this key, for example `seed=3`, was added, now or before the run was cut off."""
        return part in self._done

    def add(self, rows: Iterable[Row], **part: Any) -> None:
        """Keep the `rows` of a finished part and write them down at once."""
        rows = [{name: _plain(value) for name, value in row.items()} for row in rows]
        if self.done(**part):
            raise ValueError(f"record {self.name!r}: the part {part} was added before; ask run.done(...) first.")
        self._write({"part": part, "rows": _pack(rows), "wall_s": self._elapsed()})
        self._done.append(part)
        self.rows += rows
        self.log(f"done: {part}, {len(rows)} rows")

    def log(self, text: str) -> None:
        """Write a line with the time to the log file and to the screen."""
        line = f"{datetime.datetime.now().isoformat(timespec='seconds')} {text}"
        with self.partial.with_suffix(".log").open("a", encoding="utf-8") as out:
            out.write(line + "\n")
        print(line, file=sys.stderr)

    # A context manager, so that only a run that came to its end is published.
    def __enter__(self) -> Recorder:
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        self._resume()
        session = _session()
        self._write({"session": session, "config": self.config, "seeds": self.seeds, "data": self.data})
        self._sessions.append(session)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            self.log(f"stopped: {kind.__name__}: {error}. Start again to resume.")
            return
        last = self._sessions[-1]
        provenance = {
            **last,
            "started": self._sessions[0]["started"],
            "wall_s": round(self._elapsed(), 1),
            "seeds": self.seeds,
            "config": self.config,
            "data": self.data,
            "sessions": self._sessions if len(self._sessions) > 1 else 1,
        }
        _write_run(self.folder / f"{self.name}.json", self.rows, self.summary, provenance)
        self.partial.unlink()
        self.partial.with_suffix(".log").unlink(missing_ok=True)

    def _elapsed(self) -> float:
        return self._earlier + time.perf_counter() - self._began

    def _write(self, entry: dict[str, Any]) -> None:
        with self.partial.open("a", encoding="utf-8") as out:
            out.write(json.dumps(entry, ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())

    def _resume(self) -> None:
        if not self.partial.exists():
            return
        good = []
        for line in self.partial.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                break  # the line that was being written when the run was cut off
            good.append(line)
            if "session" in entry:
                if (entry["config"], entry["seeds"], entry.get("data")) != (self.config, self.seeds, self.data):
                    raise ValueError(
                        f"record {self.name!r}: {self.partial} was begun with another config, other seeds or data. "
                        "Use the same ones to resume, or pass restart=True to begin again."
                    )
                self._sessions.append(entry["session"])
            else:
                self._done.append(entry["part"])
                self.rows += _unpack(entry["rows"])
                self._earlier = entry["wall_s"]
        beside = self.partial.with_suffix(".tmp")  # a kill while it is written must not cost what was done
        beside.write_text("".join(line + "\n" for line in good), encoding="utf-8")
        os.replace(beside, self.partial)


def record(
    name: str,
    *,
    config: Mapping[str, Any],
    seeds: Iterable[int],
    data: Any = None,
    overwrite: bool = False,
    restart: bool = False,
    folder: Path | None = None,
) -> Recorder:
    """Record a run as `data/runs/<name>.json`; use it as `with record(...) as run:`.

    `config`: everything that decides the numbers, as JSON values. `data`: the `ImageData` it runs on (its
    fingerprint is kept), or a dict that describes it. A run that was cut off resumes, if config, seeds and data are the
    same; `restart` begins again. A finished run is only replaced with `overwrite`.
    """
    config = json.loads(json.dumps(dict(config)))  # as it will read when it comes back from the file
    if hasattr(data, "fingerprint"):
        data = {"name": data.name, "fingerprint": data.fingerprint()}
    run = Recorder(name, config, [int(s) for s in seeds], _folder(folder), data)
    finished = run.folder / f"{name}.json"
    if finished.exists() and not overwrite:
        raise FileExistsError(f"record: {finished} exists. Pass overwrite=True to replace it, or choose another name.")
    if restart:
        run.partial.unlink(missing_ok=True)
    return run


def withdraw(
    name: str,
    columns: Sequence[str],
    *,
    why: str,
    where: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> int:
    """Take `columns` out of the recorded rows that `where` selects, because they turned out wrong; how many rows.

    A number that is not there is an empty cell everywhere. What was taken, and `why`, stays in the run's provenance,
    under `withdrawn`, until the run is recorded again. Raises `ValueError` where no row has such a column.
    """
    run, columns = load(name, folder=folder), list(columns)
    hit = [row for row in run.where(**(where or {})) if any(column in row for column in columns)]
    if absent := [column for column in columns if all(column not in row for row in hit)]:
        raise ValueError(f"withdraw {name!r}: no row with {dict(where or {})} has {', '.join(absent)}.")
    for row in hit:
        for column in columns:
            row.pop(column, None)
    note = {"columns": columns, "where": dict(where or {}), "why": why, "date": datetime.date.today().isoformat()}
    provenance = {**run.provenance, "withdrawn": [*run.provenance.get("withdrawn", []), note]}
    _write_run(_folder(folder) / f"{name}.json", run.rows, run.summary, provenance)
    return len(hit)


def supersede(name: str, *, why: str, folder: Path | None = None) -> None:
    """Mark a recorded run whose instruments have changed since: what it holds is not what a run of today would.

    The scoreboard counts it as not recorded; a chapter that shows it says `why`. Recording it again takes the mark off.
    """
    run = load(name, folder=folder)
    note = {"why": why, "date": datetime.date.today().isoformat()}
    _write_run(_folder(folder) / f"{name}.json", run.rows, run.summary, {**run.provenance, "superseded": note})


def _folder(folder: Path | None) -> Path:
    return Path(folder) if folder is not None else data_dir() / "runs"


def _write_run(path: Path, rows: list[Row], summary: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Whole or not at all: written beside its place, then moved there."""
    packed = ",\n".join(_one_row_a_line(table) for table in _pack(rows))
    head = json.dumps({"provenance": provenance, "summary": summary}, ensure_ascii=False, indent=1)
    text = f'{head[:-2]},\n "rows": [{packed}]\n}}\n'
    json.loads(text)  # never put down a file that cannot be read
    beside = path.with_suffix(".tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _one_row_a_line(table: dict[str, Any]) -> str:
    head = json.dumps({name: table[name] for name in ("same", "columns")}, ensure_ascii=False)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in table["values"])
    return f'{head[:-1]}, "values": [\n{lines}\n]}}'


def _pack(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows with the same columns become one table: names once, and once too what is the `same` in every row."""
    tables: dict[tuple[str, ...], list[list]] = {}
    for row in rows:
        tables.setdefault(tuple(row), []).append(list(row.values()))
    packed = []
    for columns, values in tables.items():
        same = {c: v for i, (c, v) in enumerate(zip(columns, values[0], strict=True)) if all(r[i] == v for r in values)}
        keep = [i for i, c in enumerate(columns) if c not in same]
        values = [[row[i] for i in keep] for row in values]
        packed.append({"same": same, "columns": [columns[i] for i in keep], "values": values})
    return packed


def _plain(value: Any) -> Any:
    """A JSON value: numbers out of torch and numpy become Python's, to six decimals; NaN becomes None."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _unpack(tables: Iterable[dict[str, Any]]) -> list[Row]:
    return [{**t["same"], **dict(zip(t["columns"], v, strict=True))} for t in tables for v in t["values"]]


# ---------------------------------------------------------------------------------------------------- provenance


def _session() -> dict[str, Any]:
    """Who runs this, with what, from which state of the code."""
    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": _command(),
        "scale": os.environ.get("ENGRAM_SCALE") or "laptop",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "platform": platform.system(),
        "libraries": {name: v for name in LIBRARIES if (v := _version(name)) is not None},
        **_git(),
    }


def _command() -> str:
    """The command line, without the folders of the machine it ran on."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0] or "python").name
    return " ".join([program, *sys.argv[1:]])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    if name == "engramlib":
        return engramlib.__version__  # of the code that runs: an installed checkout remembers the version it had then
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


_ROOT = Path(engramlib.__file__).resolve().parents[1]


def _git(root: Path = _ROOT) -> dict[str, Any]:
    """Commit and whether code is uncommitted; None where there is no git or no repository.

    A recorded run that is not committed yet does not count: it is a result, and one follows another.
    """

    def ask(*words: str) -> str | None:
        try:
            out = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            return None
        return out.stdout.strip() if out.returncode == 0 else None

    results = ("data/runs", "data/benchmarks.json", "book/how-fast.md", "book/_static/how-fast-*.svg")
    status = ask("status", "--porcelain", "--", ".", *(f":(exclude){result}" for result in results))
    return {"commit": ask("rev-parse", "HEAD"), "uncommitted_changes": None if status is None else bool(status)}


# ---------------------------------------------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m engramlib.lab.runs list|show NAME|withdraw NAME COLUMN ... --why TEXT|supersede NAME --why TEXT`."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m engramlib.lab.runs", description="Recorded runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the runs there are")
    commands.add_parser("show", help="one run's provenance and summary").add_argument("name")
    taking = commands.add_parser("withdraw", help="take columns out that turned out wrong; the reason is kept")
    taking.add_argument("name")
    taking.add_argument("columns", nargs="+")
    taking.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="only from such rows")
    taking.add_argument("--why", required=True)
    marking = commands.add_parser("supersede", help="mark a run whose instruments have changed; the reason is kept")
    marking.add_argument("name")
    marking.add_argument("--why", required=True)
    args = parser.parse_args(argv)
    if args.command == "supersede":
        supersede(args.name, why=args.why)
        return 0
    if args.command == "withdraw":
        where = {key: _typed(value) for key, value in (pair.split("=", 1) for pair in args.where)}
        print(f"{withdraw(args.name, args.columns, why=args.why, where=where)} rows changed")
        return 0
    if args.command == "list":
        for name in names():
            p = load(name).provenance
            print(f"{name}: {p['started'][:10]}, {len(p['seeds'])} seeds, {p['device']}, {p['wall_s'] / 60:.1f} min")
        return 0
    try:
        run = load(args.name)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"provenance": run.provenance, "summary": run.summary, "rows": len(run.rows)}, indent=1))
    return 0


def _typed(text: str) -> Any:
    """A JSON value as it is written, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    raise SystemExit(main())
