"""One command points every link at a fork, and everything that names the repository agrees."""

import contextlib
import re
import shutil
from pathlib import Path

import pytest
import repoint
import yaml

ROOT = Path(__file__).resolve().parents[2]
URL = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
OWNER, NAME = URL.removeprefix("https://github.com/").split("/")


@pytest.fixture
def tree(tmp_path):
    ignore = shutil.ignore_patterns(
        ".git", ".venv*", "_build", "dist", ".*_cache", "__pycache__", "mathjax", "data", "*.pyc"
    )
    shutil.copytree(ROOT, tmp_path / "tree", ignore=ignore)
    return tmp_path / "tree"


def everything(tree):
    """All text of the tree, whatever its kind."""
    texts = []
    for path in sorted(p for p in tree.rglob("*") if p.is_file()):
        with contextlib.suppress(UnicodeDecodeError):
            texts.append(path.read_text(encoding="utf-8"))
    return "\n".join(texts)


def test_everything_follows_and_comes_back(tree):
    before = everything(tree)
    changed = repoint.repoint(tree, "https://github.com/jane-doe/my.fork")
    after = everything(tree)
    names = {path.name for path in changed}
    assert {"_config.yml", "pyproject.toml", "CITATION.cff", "README.md", "intro.md"} <= names
    assert not re.search(rf"{OWNER}/{NAME}|{OWNER}\.github\.io|\bcd {NAME}\b", after)
    assert "$ cd my.fork\n" in (tree / "book" / "how-to-use.md").read_text()
    config = yaml.safe_load((tree / "_config.yml").read_text())
    assert config["repository"]["url"] == "https://github.com/jane-doe/my.fork"
    assert "https://jane-doe.github.io/my.fork/" in (tree / "pyproject.toml").read_text()
    chapters, courses = list(tree.glob("book/part*/*.ipynb")), list(tree.glob("book/assignments/student/*.ipynb"))
    assert chapters
    for notebook in chapters + courses:
        source = notebook.read_text()
        assert "git+https://github.com/jane-doe/my.fork.git" in source, notebook.name
        assert "https://jane-doe.github.io/my.fork/book/how-to-use.html" in source, notebook.name
        assert "colab.research.google.com/github/jane-doe/my.fork/blob/" in source, notebook.name
    repoint.repoint(tree, URL)
    assert everything(tree) == before


def test_a_workflow_or_a_page_that_comes_later_is_reached(tree):
    new = [".github/workflows/new.yml", ".ci/run", "book/part9/page.md", "book/assignments/x/otter.yml", "Makefile"]
    for name in new:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(f"see {URL}/issues and https://{OWNER}.github.io/{NAME}/\n")
    repoint.repoint(tree, "https://github.com/you/fork")
    for name in new:
        assert (tree / name).read_text() == "see https://github.com/you/fork/issues and https://you.github.io/fork/\n"


def test_what_is_not_ours_stays(tree):
    foreign = [tree / folder / "notes.md" for folder in (".venv", "_build", "dist")]
    for path in foreign:
        path.parent.mkdir()
        path.write_text(URL)
    repoint.repoint(tree, "https://github.com/you/fork")
    assert all(path.read_text() == URL for path in foreign)


def test_repositories_with_a_longer_name_stay(tree):
    (tree / "README.md").write_text(f"{URL}-data and {URL}\n")
    repoint.repoint(tree, "https://github.com/you/fork/")
    assert (tree / "README.md").read_text() == f"{URL}-data and https://github.com/you/fork\n"


@pytest.mark.parametrize("wrong", ["", "you/fork", "https://gitlab.com/you/fork", "https://github.com/you"])
def test_a_wrong_address_changes_nothing(tree, wrong):
    before = everything(tree)
    with pytest.raises(ValueError, match="REPO must look like"):
        repoint.repoint(tree, wrong)
    assert everything(tree) == before


def test_the_repository_is_named_the_same_everywhere():
    assert f'Repository = "{URL}"' in (ROOT / "pyproject.toml").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"] == URL
    site = f"https://{OWNER}.github.io/{NAME}/"
    assert yaml.safe_load((ROOT / "_config.yml").read_text())["html"]["baseurl"] == site
    assert site in (ROOT / "pyproject.toml").read_text()
    for page in [ROOT / "README.md", *(ROOT / "book").glob("*.md")]:
        slugs = set(re.findall(r"github(?:\.com)?/([\w-]+/[\w-]+)", page.read_text()))
        assert slugs <= {f"{OWNER}/{NAME}", "you/fork"}, f"{page.name} names {slugs}"
