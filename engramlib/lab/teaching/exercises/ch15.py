"""Checks of chapter 15, A pretrained model forgets a city."""

from __future__ import annotations

import torch

from engramlib.lab.teaching.exercises.registry import exercise, expect, several

_LABELS = torch.tensor(
    [[-100, -100, -100, 7, -100, -100], [-100, -100, 4, 5, 6, -100], [-100, 3, -100, -100, -100, -100]]
)


def _reading(labels: torch.Tensor) -> torch.Tensor:
    counts = labels != -100
    return torch.cat([counts[:, 1:], torch.zeros_like(counts[:, :1])], dim=1)


def _by_index(labels: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(labels.shape, dtype=torch.bool)
    for row, place in (labels != -100).nonzero().tolist():
        if place > 0:
            found[row, place - 1] = True
    return found


@exercise(
    "15.1",
    wrong={
        "where the answer stands": lambda labels: labels != -100,
        "one to the right": lambda labels: torch.roll(labels != -100, 1, 1),
        "the last token of the prompt only": lambda labels: _reading(labels) & (labels == -100),
        "everything before the answer": lambda labels: (
            (labels != -100).flip(1).cummax(1).values.flip(1) & (labels == -100)
        ),
        "wraps around": lambda labels: torch.roll(labels == -100, -1, 1),
        "wraps around at the first token": lambda labels: torch.roll(labels != -100, -1, 1),
        "where it begins only": lambda labels: _reading(labels) & ~(_reading(labels).roll(1, 1)),
        "the numbers of the positions": lambda labels: _reading(labels).nonzero(),
    },
    right={
        "by index": _by_index,
        "padded, as numbers": lambda labels: torch.nn.functional.pad((labels[:, 1:] != -100).long(), (0, 1)),
        "lists": lambda labels: _reading(labels).tolist(),
    },
)
def _(reading: object) -> None:
    found = torch.as_tensor(reading(_LABELS.clone()))
    expect(found.shape == _LABELS.shape, f"Return one truth value for each position: shape {tuple(_LABELS.shape)}.")
    found = found.bool()
    expect(
        not torch.equal(found, _LABELS != -100), "That is where the answer stands. Its token has been chosen by then."
    )
    right = _reading(_LABELS)
    expect(
        not bool((right & ~found)[1].any()),
        "An answer of three tokens is predicted at three positions, two of which hold tokens of the answer itself.",
    )
    expect(torch.equal(found, right), "A token at position t is predicted at position t - 1, and nowhere else.")
    edge = torch.tensor([[9, 8, -100]])
    found = torch.as_tensor(reading(edge)).bool()
    expect(torch.equal(found, _reading(edge)), "The very first token is predicted by nothing: do not wrap around.")


@exercise(
    "15.2",
    wrong={
        "all": (576, 0),
        "columns are not the bound": (576, 576),
        "rank of the sum": (20, 576),
        "one short": (20, 555),
        "the wrong way round": (556, 20),
        "one too many": (20, 557),
        "pairs of columns": (400, 176),
        "one number": 20,
    },
    right={"a tensor": torch.tensor([20, 556]), "a list of floats": [20.0, 556.0], "as a difference": (20, 576 - 20)},
)
def _(answer: object) -> None:
    rank, left = several(answer, 2, "Give two numbers: (rank, left over).")
    expect(rank != 576, "A sum of 20 matrices x xᵀ of rank one cannot have rank 576.")
    expect(rank == 20, "Each column adds a matrix of rank one. How many columns are there, and how many dimensions?")
    expect(left == 576 - 20, "The rest of the input space: all directions less those that the reference showed.")


def _choose(rows: list[dict], most: float) -> dict:
    enough = [row for row in rows if row["target"] <= most]
    if enough:
        return max(enough, key=lambda row: row["near"])
    return min(rows, key=lambda row: row["target"])


def _with_a_loop(rows: list[dict], most: float) -> dict:
    best = None
    for row in rows:
        if row["target"] <= most and (best is None or row["near"] > best["near"]):
            best = row
    for row in rows if best is None else ():
        if best is None or row["target"] < best["target"]:
            best = row
    assert best is not None
    return best


_ROWS = [
    {"alpha": 1.0, "target": 0.60, "near": 1.00},
    {"alpha": 2.0, "target": 0.10, "near": 0.96},
    {"alpha": 3.0, "target": 0.00, "near": 0.91},
    {"alpha": 4.0, "target": 0.00, "near": 0.80},
]


@exercise(
    "15.3",
    wrong={
        "most neighbours": lambda rows, most: max(rows, key=lambda row: row["near"]),
        "least of the target": lambda rows, most: min(rows, key=lambda row: row["target"]),
        "strictly less": lambda rows, most: _choose(rows, most - 1e-9),
        "the first that does": lambda rows, most: next((row for row in rows if row["target"] <= most), rows[0]),
        "the difference": lambda rows, most: max(rows, key=lambda row: row["near"] - row["target"]),
        "nothing if none does": lambda rows, most: max(
            (row for row in rows if row["target"] <= most), key=lambda row: row["near"], default={}
        ),
        "the fewest neighbours": lambda rows, most: min(
            (row for row in rows if row["target"] <= most), key=lambda row: row["near"], default=rows[-1]
        ),
        "the neighbours, not the row": lambda rows, most: _choose(rows, most)["near"],
    },
    right={
        "sorted by a pair": lambda rows, most: sorted(
            rows,
            key=lambda row: (row["target"] > most, row["target"] if row["target"] > most else -row["near"]),
        )[0],
        "with a loop": _with_a_loop,
    },
)
def _(choose: object) -> None:
    found = choose([dict(row) for row in _ROWS], 0.1)
    expect(isinstance(found, dict) and found in _ROWS, "Return one of the rows.")
    expect(found["target"] <= 0.1, "That row leaves more than `most` of the target.")
    expect(found["alpha"] == 2.0, "Another row leaves little enough of the target and keeps more neighbours.")
    found = choose([dict(row) for row in reversed(_ROWS)], 0.1)
    expect(found["alpha"] == 2.0, "The rows may come in any order.")
    found = choose([dict(row) for row in _ROWS[:1]] + [{"alpha": 1.5, "target": 0.4, "near": 0.5}], 0.1)
    expect(isinstance(found, dict) and found, "If no row leaves little enough, there is still a row to return.")
    expect(found["alpha"] == 1.5, "If no row leaves little enough, take the one that leaves least.")
    scored = [{"alpha": 1.0, "target": 0.0, "near": 0.5}, {"alpha": 2.0, "target": 0.1, "near": 0.55}]
    expect(choose(scored, 0.1)["alpha"] == 2.0, "Among those that forget enough only the neighbours count.")


@exercise(
    "15.4",
    wrong={
        "the list": 1,
        "the engram": 2,
        "the edit": 3,
        "the measure": 4,
        "the report": 6,
        "none": 9,
        "no line at all": 0,
        "two lines at once": 4.5,
    },
    right={"a float": 5.0, "a tensor": torch.tensor(5)},
)
def _(line: int) -> None:
    expect(line in range(1, 7), "Answer with the number of a line, 1 to 6.")
    expect(line != 1, "Trying several strengths is what everybody does. On which items may the best be picked?")
    expect(line != 2, "The engram is made from used items only. What happens to the held-out ones?")
    expect(line not in (3, 4), "Measuring every strength is fine. Which of the numbers may decide?")
    expect(line == 5, "Reporting is not the fault. What was decided before it, and by which items?")
