"""What every chapter has: the contract of the book, point by point. Exceptions are listed, each with its reason."""

import ast
import functools
import json
import re

import pytest
from notebooks import CHAPTERS, ROOT, all_cells, cells, every_chapter, python, tags, text

from engramlib.lab.teaching.exercises.notebook import solutions

PROMISE = "By the end of this chapter you will have shown that"
PART_TWO = pytest.mark.parametrize("path", [p for p in CHAPTERS if p.parent.name == "part2"], ids=lambda p: p.stem)

# Numbers in prose that look like results and are not: (chapter, number) -> what it is.
NOT_RESULTS = {
    ("02", "0.001"): "the range of λ that the next cell plots",
    ("05", "0.3"): "a scale that the next cell chooses",
    ("05", "0.001"): "an eigenvalue that the next cell chooses",
    ("05", "0.1"): "a damping that the cells choose",
    ("08", ".218"): "the authors' own remark on 256 images a class",
    ("08", ".949"): "the same",
    ("10", "95"): "the level of an interval",
    ("12", "1.5"): "a budget that the next cell uses",
    ("12", "1.2"): "a budget that the next cell uses",
    ("12", "15"): "how often the renderer puts glasses on a face",
    ("12", "35"): "a frequency that the next cell chooses",
    ("13", "1.2"): "the size of the model, in millions",
    ("13", "40"): "the k of min-k, part of its definition",
    ("14", "1.2"): "the size of the model, in millions",
    ("14", "3.2"): "the name of a model",
    ("17", "95"): "the level of an interval",
    ("14", ".02"): "the price at which the chapter compares, chosen by it",
}


def number(path) -> str:
    return path.name[:2]


def opening(path) -> str:
    return cells(path, "markdown")[0].source


def bullet(path, name: str) -> str:
    """One of the opening's points, without line breaks."""
    found = re.search(rf"^- \*\*{name}s?:\*\*(.*?)(?=\n- |\n\n|\Z)", opening(path), re.M | re.S)
    assert found, f"the opening has no point '- **{name}:** ...'"
    return " ".join(found[1].split())


def headings(path) -> list[tuple[int, str]]:
    plain = re.sub(r"```.*?```", "", text(path), flags=re.S)
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", plain, re.M)]


def section(path, title: str) -> str:
    """The text of a section of the second level."""
    found = re.search(rf"^## {title}[^\n]*\n(.*?)(?=^## |\Z)", text(path), re.M | re.S)
    assert found, f"there is no section '## {title}'"
    return found[1]


def position(path, title: str) -> int:
    """The cell in which a section begins."""
    pattern = re.compile(rf"^## {title}", re.M)
    found = [i for i, c in enumerate(all_cells(path)) if c.cell_type == "markdown" and pattern.search(c.source)]
    assert found, f"there is no section '## {title}'"
    return found[0]


# ---------------------------------------------------------------------------------------------------- the opening


@every_chapter
def test_opening_promises_something_that_will_be_shown(path):
    assert f"**{PROMISE}**" in opening(path)
    for name in ("Claim", "Model", "Evidence", "Control"):
        assert len(bullet(path, name)) > 20, f"say more under {name}"


@every_chapter
def test_opening_says_what_you_need(path):
    """Earlier chapters or knowledge, minutes, and the machine."""
    need = bullet(path, "You need")
    assert re.search(r"\b(minutes?|about a minute)\b", need), "how many minutes?"
    assert re.search(r"two cores|any laptop", need), "on which machine?"
    assert re.search(r"chapters? \d\d|to have seen|matrix products", need), "which chapters or knowledge?"


@every_chapter
def test_prerequisites_come_earlier(path):
    for other in re.findall(r"chapters? (\d\d)", bullet(path, "You need")):
        assert other < number(path), f"chapter {other} comes later"


# ------------------------------------------------------------------------------------------------ how it is told


@every_chapter
def test_headings_are_in_order(path):
    levels = [level for level, _ in headings(path)]
    assert levels[0] == 1 and levels.count(1) == 1, "one title, and it comes first"
    for (above, _), (level, title) in zip(headings(path), headings(path)[1:], strict=False):
        assert level <= above + 1, f"'{title}' skips a level"


@every_chapter
def test_a_picture_comes_before_the_first_displayed_formula(path):
    kinds = all_cells(path)
    formula = [i for i, c in enumerate(kinds) if c.cell_type == "markdown" and re.search(r"\$\$|\\begin\{", c.source)]
    picture = [i for i, c in enumerate(kinds) if c.cell_type == "code" and re.search(r"plots\.\w+\(", c.source)]
    assert picture, "no picture at all"
    assert not formula or picture[0] < formula[0], "a formula before the first picture"


@pytest.mark.parametrize("path", [p for p in CHAPTERS if p.name[:2] <= "15"], ids=lambda p: p.stem)
def test_the_same_picture_opens_every_chapter_with_its_own_question(path):
    """Right after the set-up cell, so that nothing has to be computed for it."""
    setup, first = cells(path, "code")[:2]
    assert "plots.opening(" in first.source and "hide-input" in tags(first)
    asked = {c.source for p in CHAPTERS for c in cells(p, "code") if "plots.opening(" in c.source}
    questions = [re.search(r'question="([^"]+)"', source)[1] for source in asked]
    assert len(set(questions)) == len(questions) == len(asked)


@every_chapter
def test_a_chapter_shows_code_that_can_be_read_and_few_tables(path):
    """What derives is shown; what repeats it over networks and settings is folded, or stands in `studies`."""
    shown = [c.source for c in cells(path, "code") if not {"hide-input", "exercise"} & set(tags(c))]
    lines = sum(bool(line.strip()) for source in shown for line in source.splitlines())
    drawn = sum(len(re.findall(r"plots\.table\(|replication_table\(", c.source)) for c in cells(path, "code"))
    assert lines <= 250 and drawn <= 5, f"{lines} lines of visible code, {drawn} tables"


LONG_LINES = {"08", "09", "13", "17", "19", "21"}  # still to be wrapped


@pytest.mark.parametrize("path", [p for p in CHAPTERS if p.name[:2] not in LONG_LINES], ids=lambda p: p.stem)
def test_code_that_is_shown_fits_the_page(path):
    """At 1280 pixels 80 letters stand in a line."""
    shown = [c.source for c in cells(path, "code") if "hide-input" not in tags(c)]
    assert not [line for source in shown for line in source.splitlines() if len(line) > 80]


WORDS_A_MINUTE = (130, 230)


@pytest.mark.parametrize("path", [p for p in CHAPTERS if p.name[:2] <= "15"], ids=lambda p: p.stem)
def test_minutes_to_read_are_honest(path):
    """Words in Markdown and in captions, formulas counted as a word each; exercises have minutes of their own."""
    told = int(re.search(r"(\d+) minutes", bullet(path, "You need"))[1])
    slow, fast = (words_to_read(path) / pace for pace in WORDS_A_MINUTE)
    assert fast - 2.5 <= told <= slow + 5, f"{words_to_read(path)} words in {told} minutes"


def words_to_read(path) -> int:
    prose = re.sub(r"```.*?```|<details>.*?</details>", "", text(path), flags=re.S)
    prose = re.sub(r"^### Exercise.*?(?=^## )", "", prose, flags=re.S | re.M)
    prose = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`", " x ", prose, flags=re.S)
    captions = [
        piece.value
        for cell in cells(path, "code")
        for node in ast.walk(python(cell.source))
        if isinstance(node, ast.keyword) and node.arg == "caption"
        for piece in ast.walk(node.value)
        if isinstance(piece, ast.Constant) and isinstance(piece.value, str)
    ]
    return len(" ".join([prose, *captions]).split())


def built_by_hand(path) -> list[tuple[int, str]]:
    """(cell, name) of what a chapter builds from scratch: its names are `mine` or `my_...`."""
    found = []
    for i, cell in enumerate(all_cells(path)):
        if cell.cell_type != "code" or "exercise" in tags(cell):
            continue
        for node in python(cell.source).body:
            names = [node.name] if isinstance(node, ast.FunctionDef) else []
            if isinstance(node, ast.Assign):
                names = [n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            found += [(i, name) for name in names if name == "mine" or name.startswith(("mine_", "my_"))]
    return found


@every_chapter
def test_what_is_built_from_scratch_is_compared(path):
    """`mine` meets an assertion in its own cell or the next two code cells."""
    kinds = all_cells(path)
    for at, name in built_by_hand(path):
        near = [c.source for c in kinds[at:] if c.cell_type == "code"][:3]
        asserts = [n for source in near for n in ast.walk(python(source)) if isinstance(n, ast.Assert)]
        used = {n.id for node in asserts for n in ast.walk(node) if isinstance(n, ast.Name)}
        later = any(re.search(rf"\b{name}\b", source) for source in near) and asserts
        assert name in used or later, f"{name} (cell {at}) is not compared with the package"


@every_chapter
def test_the_package_is_checked_against_the_formula(path):
    """Somewhere a formula is computed by hand and must give what engramlib gives."""
    trees = [python(c.source) for c in cells(path, "code") if "claims" not in tags(c)]
    asserts = [ast.unparse(n.test) for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Assert)]
    assert any("allclose" in test or re.search(r"abs\(.*\) <|norm\(\) <", test) for test in asserts)


@every_chapter
def test_numbers_in_prose_come_from_cells(path):
    """A decimal number or a percentage in Markdown is published, a setting, or listed above: results are computed."""
    unknown = [(found, around) for found, around in measured_looking(path) if (number(path), found) not in NOT_RESULTS]
    assert not unknown, "typed by hand? use chapter.say, or list it:\n" + "\n".join(f"{n}: … {a} …" for n, a in unknown)


def test_no_exception_is_left_over():
    there = {(number(path), found) for path in CHAPTERS for found, _ in measured_looking(path)}
    assert set(NOT_RESULTS) <= there, f"no longer in the book: {set(NOT_RESULTS) - there}"


# Not prose: code, formulas, link targets, directives; and what a number may follow: a reference, a Greek letter.
NO_PROSE = r"```.*?```|<details.*?</details>|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)|:::\{.*?:::"
POINTS_ELSEWHERE = (
    r"(?:(?:Exercise|Definition|Theorem|Remark|Section|Corollary)s?\s+(?:[\d.]+\s+and\s+)?|arXiv:|[αλ]\s?=\s?)$"
)
LOOKS_MEASURED = re.compile(r"(?<![\w.])(\d*\.\d+|\d+(?:\.\d+)?(?= ?%))(?![\w.]*\d)")


def measured_looking(path) -> list[tuple[str, str]]:
    """Numbers of a chapter's prose that look like results and are not published ones, each with what is around it."""
    found, in_exercises = [], False
    for cell in cells(path, "markdown"):
        if re.search(r"^### Exercise", cell.source, re.M):
            in_exercises = True
        elif re.match(r"##? ", cell.source):
            in_exercises = False
        if in_exercises:  # their arithmetic is checked with their solutions
            continue
        prose = re.sub(NO_PROSE, "", cell.source, flags=re.S)
        for match in LOOKS_MEASURED.finditer(prose):
            before = prose[: match.start()]
            if re.search(POINTS_ELSEWHERE, before, re.I) or round(float(match[1]), 6) in published_numbers():
                continue
            around = " ".join(prose[max(0, match.start() - 50) : match.end() + 30].split())
            found.append((match[1], around))
    return found


@functools.cache
def published_numbers() -> frozenset[float]:
    """All published numbers, also as percentages."""

    def walk(value):
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from walk(item)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield from (round(abs(value), 6), round(100 * abs(value), 4))

    files = sorted((ROOT / "data" / "published").glob("*.json"))
    return frozenset(n for file in files for n in walk(json.loads(file.read_text(encoding="utf-8"))["values"]))


@pytest.mark.parametrize(
    ("prose", "found"),
    [
        ("It leaves .043 of the class.", [".043"]),
        ("The others lose 77.7 % and 7.25 points.", ["77.7", "7.25"]),
        ("See Exercise\n07.1, Definitions 3.1 and\n3.2, arXiv:2607.24805.", []),
        ("At λ = 1.25 the formula $0.123$ and `rcond=0.001` are settings; .037 is published.", []),
    ],
)
def test_what_looks_measured_is_found(prose, found, tmp_path):
    import nbformat

    cell = nbformat.v4.new_markdown_cell(prose)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "99_x.ipynb")
    assert [n for n, _ in measured_looking(tmp_path / "99_x.ipynb")] == found


# ------------------------------------------------------------------------------------------------------ the findings


@PART_TWO
def test_replication_table(path):
    """published | recorded | this run, with something in the first and the last column."""
    calls = [
        node
        for cell in cells(path, "code")
        for node in ast.walk(python(cell.source))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "replication_table"
    ]
    assert calls, "no chapter.replication_table"
    assert all(any(k.arg == "caption" for k in call.keywords) for call in calls)
    source = "\n".join(c.source for c in cells(path, "code"))
    assert '"published"' in source and '"this_run"' in source


@every_chapter
def test_a_control_must_fail(path):
    """Named in the opening, and asserted among the claims."""
    words = r"control|random|shuffl|wrong|rival|impostor|mask|mute|noise"
    assert any(re.search(words, cell.source, re.I) for cell in claims(path)), "no claim is about a control"


@every_chapter
def test_says_what_did_not_replicate(path):
    at = position(path, "What did not replicate")
    after = all_cells(path)[at + 1]
    said = section(path, "What did not replicate").strip()
    computed = after.cell_type == "code" and re.search(r"chapter\.(say|replication_table)|print\(", after.source)
    assert len(said) > 200 or computed, "the section says nothing"


def claims(path) -> list:
    """The cells that assert what the chapter found, without a break after the heading 'Claims'."""
    tagged = [cell for cell in cells(path, "code") if "claims" in tags(cell)]
    at = position(path, "Claims") + 1
    assert tagged and all_cells(path)[at : at + len(tagged)] == tagged, "cells tagged 'claims' follow the heading"
    return tagged


@every_chapter
def test_claims_are_asserted(path):
    tree = python("\n".join(cell.source for cell in claims(path)))
    asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert len(asserts) >= 3
    constant = [ast.unparse(a) for a in asserts if not any(isinstance(n, ast.Name) for n in ast.walk(a.test))]
    assert not constant, f"nothing is measured in {constant}"
    assert not any(isinstance(node, ast.Try) for node in ast.walk(tree)), "a claim that is caught is no claim"


# --------------------------------------------------------------------------------------------------------- the end


@every_chapter
def test_exercises_are_complete(path):
    """At least three, numbered in order; the reader itself insists on stub, difficulty, minutes, hint and solution."""
    found = solutions(path)
    assert len(found) >= 3
    assert [e.number for e in found] == [f"{number(path)}.{k}" for k in range(1, len(found) + 1)]
    assert all(1 <= e.minutes <= 60 for e in found)


@every_chapter
def test_order_of_the_sections_at_the_end(path):
    order = [position(path, title) for title in ("What did not replicate", "Claims", "Exercises", "Summary")]
    assert order == sorted(order)


@every_chapter
def test_summary_and_further_reading(path):
    summary = section(path, "Summary")
    assert "**Further reading**" in summary
    said, reading = summary.split("**Further reading**")
    assert len(re.findall(r"^- ", said, re.M)) >= 3, "the summary has at least three points"
    items = re.findall(r"^- .*(?:\n  .*)*", reading, re.M)
    assert 3 <= len(items) <= 6, f"three to six things to read, not {len(items)}"
    for item in items:
        assert re.search(r"\[[^\]]+\]\(https://|\{cite", item), f"not cited: {item[:80]}"
