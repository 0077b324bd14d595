"""A chapter opens as Colab opens it: one file, an environment without engramlib, and its setup cell does the rest.

One chapter here; all of them weekly, and recorded before a release: see .github/workflows/colab.yml.
"""

import json
import re
import shutil
import subprocess
import urllib.request
import warnings
from pathlib import Path

import colab
import nbformat
import pytest

FAST = "00_erase_a_digit.ipynb"
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def online() -> bool:
    try:
        urllib.request.urlopen("https://pypi.org/simple/rouge-score/", timeout=10).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the repository's stand-in and the links to the usual packages; the stand-in's commit."""
    folder = tmp_path_factory.mktemp("colab")
    commit = colab.stand_in(colab.ROOT, folder / "repository")
    colab.link_packages(folder / "usual")
    return folder, commit


def fresh(place, name, **how) -> colab.Colab:
    folder, _ = place
    return colab.Colab(folder / name, folder / "usual", folder / "repository", **how)


def setup_only():
    """The first code cell of a chapter, in a notebook of its own."""
    chapter = nbformat.read(next(p for p in colab.notebooks() if p.name == FAST), as_version=4)
    return nbformat.v4.new_notebook(cells=[next(cell for cell in chapter.cells if cell.cell_type == "code")])


def test_the_stand_in_is_a_commit_of_the_working_tree(place):
    folder, commit = place
    run = ["git", "ls-tree", "-r", "--name-only", commit]
    names = subprocess.run(run, cwd=folder / "repository", capture_output=True, text=True, check=True).stdout.split()
    assert {"pyproject.toml", "engramlib/lab/chapter.py", "data/published/fig11.json"} <= set(names)
    assert not [name for name in names if name.startswith((".venv", "_build")) or "__pycache__" in name]


def test_the_environment_has_the_usual_packages_and_no_other(place):
    bare = fresh(place, "bare")
    assert bare.ask("import torch, sklearn, pandas, ipykernel; print(torch.__version__)")
    for name in ("engramlib", "pytest", "concept_erasure", "jupyter_book", "otter"):
        assert bare.ask(f"import importlib.util as u; print(u.find_spec('{name}'))") == "None", name
    seen = "import importlib.metadata as m; print([d.name for d in m.distributions() if 'engram' in d.name])"
    assert bare.ask(seen) == "[]"
    assert bare.ask("import os; print([k for k in os.environ if k.startswith(('ENGRAM', 'CI', 'OMP'))])") == "[]"
    assert not any((bare.folder / "home").iterdir())


def test_a_student_without_a_network_is_told_where_to_look(place):
    train = fresh(place, "train", offline=True)
    notebook = setup_only()
    train.run(notebook, allow_errors=True)
    said = re.sub(r"\x1b\[[0-9;]*m", "", colab.text_of(notebook.cells[0]))
    assert said.rstrip().endswith("No module named 'engramlib'"), said
    link = re.search(r"says what to do:\n(https://\S+/book/how-to-use\.html)#(\S+)\n", said)
    assert link, said
    page = (colab.ROOT / "book" / "how-to-use.md").read_text()
    assert f"## {link[2].replace('-', ' ').capitalize()}\n" in page
    assert "did not run successfully" in said and "did not run successfully" in page


@pytest.mark.skipif(not online(), reason="needs PyPI: the setup cell installs what Colab lacks")
def test_a_chapter_opens_alone_and_again_after_a_restart(place):
    _, commit = place
    there = fresh(place, "chapter")
    path = next(p for p in colab.notebooks() if p.name == FAST)
    opened = colab.open_alone(path, there, commit)
    assert "Installing engramlib" in opened.setup_output and "scale: laptop" in opened.setup_output
    # Three times the record's limit: a new clone still compiles PyTorch's files, and the other worker runs a chapter.
    silent = [cell for cell in opened.silent if cell[1] > 3 * colab.LONG]
    assert silent == [], "a cell over five seconds needs a progress bar: lab.track(...)"
    assert sorted(p.name for p in (there.folder / "content").iterdir()) == [FAST], "it wrote files beside itself"
    # A restarted runtime: a new kernel, the packages still there.
    notebook = setup_only()
    there.run(notebook)
    said = colab.text_of(notebook.cells[0])
    assert said.startswith("scale: laptop") and "Installing" not in said


# --------------------------------------------------------------------------------------------------- the record


def test_every_recorded_chapter_opened_and_the_page_says_so():
    """A chapter that is not recorded yet is a warning here, and an error for a release (`--complete`)."""
    record = json.loads(colab.RECORD.read_text())
    if lacking := colab.unrecorded():
        names = " ".join(sorted({Path(name).name.split("_")[0] for name in lacking}))
        warnings.warn(f"before the next release run: python book/colab.py --record {names}", stacklevel=1)
    assert record
    for name, row in record.items():
        assert row["silent"] == [], f"{name}: cells over five seconds without progress, use lab.track(...)"
        assert 0 < row["setup_seconds"] < row["seconds"]
        assert re.fullmatch(r"[0-9a-f]{12}\+?", row["commit"]) and re.fullmatch(r"20\d\d-\d\d-\d\d", row["date"])
        assert {"python", "torch", "engramlib", "transformers"} <= set(row["versions"])
    there = {name: row for name, row in record.items() if (colab.ROOT / name).exists()}
    assert colab.table(there) in colab.PAGE.read_text()


def test_a_new_chapter_is_named_until_it_was_opened(tmp_path, monkeypatch, capsys):
    new, *known = [path.relative_to(colab.ROOT).as_posix() for path in colab.notebooks()]
    monkeypatch.setattr(colab, "RECORD", tmp_path / "colab.json")
    monkeypatch.setattr("sys.argv", ["colab.py", "--complete"])
    colab.RECORD.write_text(json.dumps({name: {} for name in known}))
    assert colab.main() == 1 and new in capsys.readouterr().out
    colab.RECORD.write_text(json.dumps({name: {} for name in [new, *known]}))
    assert colab.main() == 0


def test_recording_one_notebook_keeps_the_others(tmp_path, monkeypatch):
    one, two = [path.relative_to(colab.ROOT).as_posix() for path in colab.notebooks()][:2]
    monkeypatch.setattr(colab, "RECORD", tmp_path / "colab.json")
    page = tmp_path / "book" / "page.md"
    page.parent.mkdir()
    page.write_text(f"before\n{colab.BEGIN}\nold\n{colab.END}\nafter\n")
    monkeypatch.setattr(colab, "PAGE", page)
    opened = colab.Opened(61.4, 20.2, "", [], {"python": "3.12.1", "torch": "2.15.0"})
    colab.RECORD.write_text(json.dumps({"book/gone.ipynb": {}}))
    colab.write_record({two: colab.entry(opened, "linked", "0" * 12)})
    colab.write_record({one: colab.entry(opened, "linked", "1" * 12)})
    record = json.loads(colab.RECORD.read_text())
    assert list(record) == [one, two] and record[two]["commit"] == "0" * 12
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert text.count("| 61 | 20 |") == 2


def test_the_workflow_opens_everything_weekly_and_for_releases():
    workflow = (colab.ROOT / ".github" / "workflows" / "colab.yml").read_text()
    assert "book/colab.py --clean --record" in workflow
    assert "schedule:" in workflow and 'tags: ["v*"]' in workflow


def test_assignments_are_opened_too(tmp_path):
    for name in ("_toc.yml", "book/part1/00_x.ipynb", "book/assignments/student/A1_x.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("parts: [{chapters: [{file: book/part1/00_x}, {file: book/page}]}]")
    assert [path.name for path in colab.notebooks(tmp_path)] == ["00_x.ipynb", "A1_x.ipynb"]


def test_a_slip_in_the_setup_cell_is_not_taken_for_success(place, tmp_path):
    """An address that the stand-in does not answer must fail, not reach the real one or an installed package."""
    there = fresh(place, "slip")
    notebook = setup_only()
    notebook.cells[0].source = notebook.cells[0].source.replace('.git"', '-slip.git"')
    path = tmp_path / "99_slip.ipynb"
    nbformat.write(notebook, path)
    with pytest.raises(colab.NotAsInColab, match="99_slip.ipynb did not run to its end"):
        colab.open_alone(Path(path), there, "0" * 40)
