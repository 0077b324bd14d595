"""One command points every link at a fork, and everything that names the repository agrees."""

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
    for name in ("_config.yml", "_toc.yml", "pyproject.toml", "CITATION.cff", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in ("book", "engramlib"):
        ignore = shutil.ignore_patterns("__pycache__", "mathjax", ".ipynb_checkpoints")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    return tmp_path


def everything(tree):
    kinds = (".md", ".ipynb", ".yml", ".toml", ".cff", ".py")
    return "\n".join(p.read_text(encoding="utf-8") for p in sorted(tree.rglob("*")) if p.suffix in kinds)


def test_everything_follows_and_comes_back(tree):
    before = everything(tree)
    changed = repoint.repoint(tree, "https://github.com/jane-doe/my.fork")
    after = everything(tree)
    names = {path.name for path in changed}
    assert {"_config.yml", "pyproject.toml", "CITATION.cff", "README.md", "intro.md"} <= names
    assert not re.search(rf"{OWNER}/{NAME}|{OWNER}\.github\.io", after)
    config = yaml.safe_load((tree / "_config.yml").read_text())
    assert config["repository"]["url"] == "https://github.com/jane-doe/my.fork"
    assert "https://jane-doe.github.io/my.fork/" in (tree / "pyproject.toml").read_text()
    for chapter in tree.glob("book/part*/*.ipynb"):
        source = chapter.read_text()
        assert "colab.research.google.com/github/jane-doe/my.fork/blob/" in source
        assert "git+https://github.com/jane-doe/my.fork.git" in source
    repoint.repoint(tree, URL)
    assert everything(tree) == before


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
