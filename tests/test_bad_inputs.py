"""One test of each row of the table of bad inputs (tests/bad_inputs), and the state of the model after each."""

from __future__ import annotations

from pathlib import Path

import pytest

import engramlib as el
from tests.bad_inputs import Row, table
from tests.bad_inputs.outcome import outcome

TABLE = table()


@pytest.mark.parametrize("row", [pytest.param(row, id=str(row)) for row in TABLE])
def test_row(row: Row, tmp_path: Path) -> None:
    _, wrong = outcome(row, tmp_path)
    assert not wrong, "\n".join(wrong)


def test_the_table_speaks_of_every_public_function() -> None:
    assert len(TABLE) >= 90
    spoken = {row.function.partition(".")[0] for row in TABLE} | {row.function for row in TABLE}
    rooms = ("language", "analysis", "spectral", "discover", "distributed")
    names = [name for name in el.__all__ if name not in rooms]
    names += [f"analysis.{name}" for name in el.analysis.__all__ if callable(getattr(el.analysis, name))]
    names += [f"distributed.{name}" for name in "collect all_reduce merge".split()]
    names += [f"language.{name}" for name in "batches answer_rows collect forget untie answer_logprobs".split()]
    names += [f"discover.{n}" for n in el.discover.__all__ if callable(getattr(el.discover, n))]
    results = {"Criteria", "CriteriaRow", "TargetShare", "Comparison", "Anisotropy", "Filter"}  # made by the package
    missing = {n for n in names if n not in spoken and n.rpartition(".")[2] not in results | spoken}
    assert not missing, missing
