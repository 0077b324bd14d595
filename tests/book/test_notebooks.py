"""Every chapter keeps the book's rules: it opens alone in Colab, has no outputs, and tells its pictures."""

import ast
import re

import nbformat
import yaml
from notebooks import CHAPTERS, FILES, ROOT, cells, every_chapter, python, text

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
URL, BRANCH = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]
SITE = CONFIG["html"]["baseurl"]
SLUG = URL.removeprefix("https://github.com/")
COLAB = f"https://colab.research.google.com/github/{SLUG}/blob/{BRANCH}/"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
TAGS = {"hide-input", "remove-input", "remove-cell", "exercise", "claims", "raises-exception"}
CELL_LINES = 45
SETUP = f"""\
# Setup: the same cell in every chapter. Colab installs the package; a laptop already has it.
try:
    from engramlib.lab import chapter
except ImportError:
    print("Installing engramlib, about a minute. Whatever goes wrong, this page says what to do:")
    print("{SITE}book/how-to-use.html#when-something-fails")
    %pip install -q "engramlib[lab] @ git+{URL}.git"
    from engramlib.lab import chapter
lab = chapter.setup()"""


def test_every_notebook_is_in_the_toc():
    """Coursework is made from masters and has tests of its own."""
    elsewhere = {".ipynb_checkpoints", "assignments"}
    there = {path for path in (ROOT / "book").rglob("*.ipynb") if not elsewhere & set(path.parts)}
    assert CHAPTERS, "_toc.yml lists no notebook"
    assert there == set(CHAPTERS)


def test_every_page_is_in_the_toc():
    assert set((ROOT / "book").rglob("*.md")) - set((ROOT / "book" / "_static").rglob("*.md")) == {
        path for path in FILES if path.suffix == ".md"
    }


def test_the_toc_lists_nothing_twice_and_chapters_in_order():
    assert len(FILES) == len(set(FILES))
    numbers = [path.name[:2] for path in CHAPTERS]
    assert numbers == sorted(set(numbers))


@every_chapter
def test_title_carries_the_number_of_the_file(path):
    match = re.fullmatch(r"(\d\d)_[a-z0-9_]+", path.stem)
    assert match, "name chapters NN_short_name.ipynb"
    first = cells(path, "markdown")[0].source
    assert re.match(rf"# {match[1]} · \S", first), f"the first line must be '# {match[1]} · Title'"
    assert len(re.findall(r"^# ", re.sub(r"```.*?```", "", text(path), flags=re.S), re.M)) == 1, "one title only"


@every_chapter
def test_colab_badge_opens_this_chapter(path):
    first = cells(path, "markdown")[0].source
    badge = f"[![Open in Colab]({BADGE})]({COLAB}{path.relative_to(ROOT).as_posix()})"
    assert badge in first, f"the first cell needs the badge {badge}"


@every_chapter
def test_colab_links_stay_in_this_repository(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for slug in re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/", cell.source):
            assert slug == SLUG, f"{slug} should be {SLUG}: run make repoint"


@every_chapter
def test_setup_cell_is_the_same_everywhere(path):
    first = cells(path, "code")[0]
    assert first.source == SETUP
    assert "hide-input" in first.metadata.get("tags", [])
    for cell in cells(path, "code")[1:]:
        assert "pip install" not in cell.source, "the setup cell is the only place that installs"


@every_chapter
def test_committed_without_outputs(path):
    for cell in cells(path, "code"):
        assert cell.outputs == [] and cell.execution_count is None, f"clear the outputs of:\n{cell.source[:200]}"


@every_chapter
def test_format_and_kernel(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5), "cells need ids: save as nbformat 4.5"
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata


@every_chapter
def test_tags_are_known(path):
    for cell in nbformat.read(path, as_version=4).cells:
        unknown = set(cell.metadata.get("tags", [])) - TAGS
        assert not unknown, f"{unknown} in:\n{cell.source[:200]}"


@every_chapter
def test_cells_are_short(path):
    for cell in cells(path, "code"):
        lines = cell.source.count("\n") + 1
        assert lines <= CELL_LINES, f"{lines} lines: move plumbing to engramlib.lab\n{cell.source[:200]}"


@every_chapter
def test_no_output_links_to_a_chapter(path):
    """Sphinx turns `08_....ipynb` into a page's address in Markdown cells only: in an output the link is dead."""
    written = [
        n.value for cell in cells(path, "code") for n in ast.walk(python(cell.source)) if isinstance(n, ast.Constant)
    ]
    assert not [found for text in written if isinstance(text, str) for found in re.findall(r"\]\([^)]*\.ipynb", text)]


@every_chapter
def test_figures_have_caption_and_alternative_text(path):
    for cell in cells(path, "code"):
        for call in (node for node in ast.walk(python(cell.source)) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            owner = getattr(getattr(call.func, "value", None), "id", "")
            assert not (owner in ("plt", "fig") and name == "show"), "show figures with plots.show(...)"
            if owner == "plots" and name in ("show", "frames"):
                given = {keyword.arg for keyword in call.keywords}
                assert {"caption", "alt"} <= given, f"plots.{name} without caption= or alt=:\n{cell.source[:200]}"
    for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text(path)):
        assert alt.strip(), f"{target} has no alternative text"
        assert target == BADGE or not re.match(r"(https?:)?//", target), f"{target} would load from elsewhere"


@every_chapter
def test_no_control_characters(path):
    """A backslash that a script swallowed: "\\alpha" written as a bell and "lpha"."""
    assert not [c for cell in nbformat.read(path, 4).cells for c in cell.source if ord(c) < 32 and c != "\n"]
