"""The instructor's guide says what the chapters and assignments say."""

import json
import re

import pytest
from notebooks import CHAPTERS, ROOT, text

PAGE = (ROOT / "book/instructors.md").read_text(encoding="utf-8")
EXERCISE = re.compile(r"^### Exercise (\d\d\.\d+):.*\n+\*Difficulty [●○]+ · (\d+) minutes", re.M)
WORDS = {"five": 5}


def minutes_of(path) -> dict[str, int]:
    """Exercise -> minutes, and "" -> minutes to read, as the chapter's first cell has them."""
    source = text(path)
    found = {number: int(minutes) for number, minutes in EXERCISE.findall(source)}
    need = re.search(r"\*\*You need:\*\*(.*?)\n\n", source + "\n\n", re.S)
    assert need and found, path
    word = re.search(r"(\d+|five) minutes", need[1])
    assert word, f"{path.stem}: no minutes to read"
    return {"": WORDS.get(word[1]) or int(word[1]), **found}


MINUTES = {path.stem[:2]: minutes_of(path) for path in CHAPTERS}


def exercises_in(cell: str) -> list[str]:
    """Numbers such as 02.1, and ranges such as 02.1–02.3."""
    numbers = []
    for first, last in re.findall(r"(\d\d\.\d+)(?:–(\d\d\.\d+))?", cell):
        chapter, start = first.split(".")
        end = last.split(".")[1] if last else start
        assert not last or last.split(".")[0] == chapter
        numbers += [f"{chapter}.{k}" for k in range(int(start), int(end) + 1)]
    return numbers


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its two head rows."""
    section = re.split(r"^#+ ", PAGE.split(f"{heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    lines = [line for line in section.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("plan", ["### Two weeks", "### Six weeks"])
def test_the_minutes_of_a_plan_are_those_of_the_chapters(plan):
    for session, chapters, exercises, minutes, _ in rows(plan):
        asked = exercises_in(exercises)
        read = sum(
            MINUTES[c][""] / (2 if half else 1) for c, half in re.findall(r"\b(\d\d)( \(first half\))?", chapters)
        )
        total = read + sum(MINUTES[number[:2]][number] for number in asked)
        assert abs(total - int(minutes)) <= 5, f"{plan} {session}: {total} minutes, the page says {minutes}"
        assert {number[:2] for number in asked} <= set(re.findall(r"\b\d\d\b", chapters))


def test_the_long_plan_reads_every_chapter_once_in_order():
    plan = rows("### Twelve weeks")
    read = [chapter for row in plan for chapter in re.findall(r"\b\d\d\b", row[1])]
    assert read == [path.stem[:2] for path in CHAPTERS]
    asked = [number for row in plan for number in exercises_in(row[2])]
    assert asked and all(number in MINUTES[number[:2]] for number in asked)


def test_every_session_has_its_row_and_every_plan_its_assignments():
    assert [row[0] for row in rows("## Session by session")] == [path.stem[:2] for path in CHAPTERS]
    for plan, names in (("### Two weeks", "12"), ("### Six weeks", "1234"), ("### Twelve weeks", "1234")):
        column = " ".join(row[-1] for row in rows(plan))
        assert all(f"A{k} out" in column and f"A{k} in" in column for k in names)
        assert ("fingerprint of the A4 plan in" in column) == ("4" in names)


def test_the_points_marked_by_hand_are_those_of_the_assignments():
    said = re.search(r"A1 has (\w+) points?(?:, A2 (\w+))?, A3 (\w+) and A4 (\w+)", PAGE)
    assert said
    values = {None: 0, "three": 3, "four": 4, "five": 5, "six": 6, "twenty": 20}
    for k, word in enumerate(said.groups(), start=1):
        (path,) = ROOT.glob(f"book/assignments/student/A{k}_*.ipynb")
        source = "\n\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
        by_hand = [int(n) for n in re.findall(r"^\*(\d+) points? · \d+ minutes · graded by hand\*$", source, re.M)]
        assert sum(by_hand) == values[word], path.stem


def test_the_files_that_the_page_names_are_there():
    named = set(re.findall(r"\b(?:book|tests)/[\w/]+\.(?:py|yml)", PAGE))
    assert named and all((ROOT / path).is_file() for path in named)
