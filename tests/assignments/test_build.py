"""build.py: what it makes is the same every time, --check finds what is old, and a wrong master is an error."""

import shutil
import sys
from pathlib import Path

import assignment_build as build
import nbformat
import pytest

from engramlib.lab.teaching import coursework
from engramlib.lab.teaching.exercises.registry import Mistake

MASTER = build.masters()[0]


def small_master(folder, *tests: str, points: str = "points: 1\nhidden: false"):
    """A master with one question."""
    cells = [nbformat.v4.new_raw_cell("# ASSIGNMENT CONFIG\nname: A9_small\nconfig_file: ../otter.yml")]
    cells += [nbformat.v4.new_markdown_cell("# A9 · Small"), nbformat.v4.new_code_cell("variant = 0")]
    raw = ["# BEGIN QUESTION\nname: q1", "# BEGIN SOLUTION", "# END SOLUTION", "# BEGIN TESTS"]
    cells += [nbformat.v4.new_raw_cell(raw[0]), nbformat.v4.new_markdown_cell("How much?")]
    cells += [nbformat.v4.new_raw_cell(raw[1]), nbformat.v4.new_code_cell("x = 3  # SOLUTION")]
    cells += [nbformat.v4.new_raw_cell(raw[2]), nbformat.v4.new_raw_cell(raw[3])]
    for test in tests:
        head = f'""" # BEGIN TEST CONFIG\n{points}\n""" # END TEST CONFIG\n' if points else ""
        cells.append(nbformat.v4.new_code_cell(head + test))
    cells += [nbformat.v4.new_raw_cell("# END TESTS"), nbformat.v4.new_raw_cell("# END QUESTION")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    path = folder / "A9_small.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.mark.otter
def test_every_build_gives_the_same_file(tmp_path):
    master = small_master(tmp_path, "def test_x(x):\n    # a comment that stays\n    assert x == 3, 'three'")
    one, two = (build.assign(master, tmp_path / name)["student"] for name in "ab")
    assert one.read_bytes() == two.read_bytes()
    student = nbformat.read(one, as_version=4)
    sources = [cell.source for cell in student.cells]
    assert "x = ..." in sources and 'grader.check("q1")' in sources
    checks = coursework.unpack(sources[2].split('"""')[1])
    assert "    # a comment that stays\n" in checks["q1"], "the check travels as it was written"
    assert len({cell.id for cell in student.cells}) == len(student.cells)


@pytest.mark.otter
def test_it_leaves_the_working_directory_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = small_master(tmp_path, "def test_x(x):\n    assert x == 3")
    broken.write_text(broken.read_text().replace("# END SOLUTION", "# END PROMPT"))
    with pytest.raises(Exception, match="(?i)prompt|block|cell"):
        build.assign(broken, tmp_path / "out")
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(
    ("test", "points", "message"),
    [
        ("assert x == 3", "points: 1", "exactly one function"),
        ("def a(x):\n    pass\n\n\ndef b(x):\n    pass", "points: 1", "exactly one function"),
        ("def test_x(x):\n    assert x == 3", "", "needs its points"),
    ],
)
def test_a_test_that_cannot_travel_is_an_error(tmp_path, test, points, message):
    with pytest.raises(ValueError, match=message):
        build.checks_cell(build.tests_of(small_master(tmp_path, test, points=points)))


@pytest.mark.otter
def test_check_names_what_is_old_missing_or_without_a_master(tmp_path):
    name = MASTER.stem
    assert f"{name}: there is no student notebook" in build.check([name], tmp_path)
    shutil.copy(build.STUDENT / f"{name}.ipynb", tmp_path)
    assert build.check([name], tmp_path) == []
    copy = tmp_path / f"{name}.ipynb"
    copy.write_text(copy.read_text().replace("pencil", "pen", 1))
    shutil.copy(copy, tmp_path / "A0_gone.ipynb")
    assert build.check([name], tmp_path) == [
        f"{name}: the student notebook is not what the master makes",
        "A0_gone: has no master",
    ]


@pytest.mark.otter
def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "STUDENT", tmp_path)
    assert build.main(["--check", MASTER.stem]) == 1
    assert "Run: make assignments" in capsys.readouterr().out
    for arguments, message in (
        (["A0"], "no assignment 'A0'; there are:"),
        (["--check", "--variant", "2"], "which are variant 0"),
        (["--variant", "-1"], "0 or more"),
    ):
        with pytest.raises(SystemExit):
            build.main(arguments)
        assert message in capsys.readouterr().err


@pytest.mark.otter
def test_checks_survive_the_packing_and_damage_is_noticed():
    tests = {"q1": "x = 'ß ‖·‖ \\n'\n" * 50, "q2": '"""doc"""'}
    packed = coursework.pack(tests)
    assert coursework.unpack(packed) == coursework.unpack(f"\n{packed}\n") == tests
    assert max(map(len, packed.split("\n"))) <= 120
    for damaged in (packed[:-9], packed[9:], packed.replace("\n", "?"), ""):
        with pytest.raises(ValueError, match="fresh copy of the assignment"):
            coursework.grader(damaged)
    with pytest.raises(ValueError, match="cannot name a question"):
        coursework.pack({"../q1": ""})


@pytest.mark.otter
def test_a_grader_sees_the_notebook_and_speaks_plainly(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Otter writes a log
    head = build.TEST_FILE.format(name="q1") + "\n@test_case(points=1)\ndef test_x(x):\n"
    body = (
        "    from engramlib.lab.teaching.exercises import expect\n    expect(x + 1 == 4, 'x + 1 should be\\nfour.')\n"
    )
    scope = {"grader": coursework.grader(coursework.pack({"q1": head + body})), "x": 3}

    def says():
        exec('result = grader.check("q1")', scope)  # as a cell does
        return scope["result"].test_case_results[0].message

    assert says() == "✅ Test case passed"
    scope["x"] = 4
    assert says() == "❌ x + 1 should be\nfour."
    scope["x"] = "4"
    assert says().startswith("❌ Your answer stopped the check with TypeError: can only concatenate str")


@pytest.mark.otter
def test_a_message_keeps_the_quotation_marks_at_its_ends(tmp_path, monkeypatch):
    """Otter strips them: LayerEngram' object has no attribute 'shape."""
    monkeypatch.chdir(tmp_path)
    head = build.TEST_FILE.format(name="q1") + "\n@test_case(points=1)\ndef test_x(x):\n"
    scope = {"grader": coursework.grader(coursework.pack({"q1": head + "    x()\n"}))}
    for error, text in (
        (AttributeError("'LayerEngram' object has no attribute 'shape'"), None),
        (TypeError("float() argument must be a string or a real number, not 'function'"), None),
        (KeyError("fc1"), "'fc1'"),
        (ValueError("no marks"), None),
        (ValueError("''"), None),
        (ValueError(), ""),
    ):

        def stop(error=error):
            raise error

        scope["x"] = stop
        exec('result = grader.check("q1")', scope)
        said = scope["result"].test_case_results[0].message
        expected = str(error) if text is None else text
        assert said == f"❌ Your answer stopped the check with {type(error).__name__}: {expected}"


@pytest.mark.parametrize("answer", [3, "3", (1, 2, 3), (1, ...), print, None, ...])
def test_an_answer_that_is_no_list_of_numbers_gets_a_plain_message(answer):
    with pytest.raises(Mistake, match="no answer yet" if answer in (None, ...) else "pair: Give a pair. Yours "):
        coursework.numbers(answer, "pair", 2, "Give a pair.")


@pytest.mark.parametrize("answer", ["0.5", [0.5, 0.5], (), print, None, ...])
def test_an_answer_that_is_no_number_gets_a_plain_message(answer):
    said = "no answer yet" if answer in (None, ...) else "share should be one number. Yours "
    with pytest.raises(Mistake, match=said):
        coursework.number(answer, "share")
    assert coursework.number([[0.5]], "share") == 0.5


def test_a_grader_without_otter_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "otter", None)
    with pytest.raises(ImportError, match=r"pip install 'engramlib\[course\]'"):
        coursework.grader(coursework.pack({}))


@pytest.mark.parametrize("master", build.masters(), ids=lambda path: path.stem)
def test_no_variant_asks_what_the_published_one_asks(master, tmp_path):
    """Every choice of variants.yml finds its place in the master; and a variant differs from the published tasks."""
    if not master.with_name("variants.yml").exists():
        assert build.choose(master, 5) == {}
        return
    assert not any(build.choose(master, 0).values())
    asked = set()
    for variant in range(1, 13):
        chosen = build.choose(master, variant)
        assert any(chosen.values()), f"variant {variant} asks what the published one asks"
        build.rewrite(master, tmp_path / "copy.ipynb", chosen)
        asked.add((tmp_path / "copy.ipynb").read_text(encoding="utf-8"))
    assert len(asked) >= 5 and master.read_text(encoding="utf-8") not in asked


def test_a_choice_that_has_no_place_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="the master has no 'gone'"):
        build.rewrite(MASTER, tmp_path / "copy.ipynb", {"task": [["gone", "come"]]})
