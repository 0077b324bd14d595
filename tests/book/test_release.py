"""What a release stands on: one version, workflows that may do no more than they must, and their order."""

import re
from pathlib import Path

import pytest
import yaml

import engramlib

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# Whoever may do more than read, and why.
MAY = {
    "publish": {"pages": "write", "id-token": "write"},  # the site
    "site": {"pages": "write", "id-token": "write"},
    "announce": {"contents": "write"},  # a release page
    "pypi": {"id-token": "write"},  # trusted publishing
}


def jobs(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())["jobs"]


def test_there_is_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    source = (ROOT / project["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "([\d.]+)"$', source, re.M)
    assert engramlib.__version__ == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    released = re.findall(r"^## \[(\d[\d.]*)\] - 20\d\d-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert released[0] == version, "the newest heading of the changelog is another version"


def test_a_recorded_run_keeps_the_version_it_was_made_with(tmp_path):
    """Provenance says what computed a number; a release does not change it, and a new run names its own version."""
    from engramlib.lab import runs

    old = {runs.load(name).provenance["libraries"].get("engramlib") for name in runs.names()}
    assert old - {engramlib.__version__}
    with runs.record("new", config={}, seeds=[0], folder=tmp_path) as run:
        run.add([{"x": 1.0}], seed=0)
    assert runs.load("new", folder=tmp_path).provenance["libraries"]["engramlib"] == engramlib.__version__


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_read_and_no_more(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    more = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert more == {name: MAY[name] for name in more}
    for name in more:  # what may write runs no code of the repository
        steps = workflow["jobs"][name]["steps"]
        assert not [step for step in steps if "checkout" in step.get("uses", "") or "make " in step.get("run", "")]


def test_every_action_is_pinned_to_one_version():
    found: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for action, version in re.findall(r"uses: (\w[\w.-]*/[\w./-]+)@?(\S*)", path.read_text(encoding="utf-8")):
            found.setdefault(action, set()).add(version)
    assert found and all(len(versions) == 1 and re.search(r"v\d", *versions) for versions in found.values()), found


def test_nothing_is_published_before_it_was_tested():
    """Tests, then the wheel, then the site and the rest; PyPI only where somebody switched it on."""
    release = jobs("release.yml")

    def before(name: str) -> set[str]:
        needs = release[name].get("needs", [])
        needs = [needs] if isinstance(needs, str) else needs
        return set(needs).union(*(before(need) for need in needs))

    for name in ("site", "announce", "pypi"):
        assert {"test", "wheel"} <= before(name), name
    assert release["pypi"]["if"] == "vars.PUBLISH_TO_PYPI == 'true'"
    assert [step["run"] for step in jobs("check.yml")["check"]["steps"] if "run" in step] == [
        f"make {target}" for target in ("test", "book", "course-test", "site-test")
    ]


def test_what_is_tested_here_is_what_ci_tests():
    here = re.findall(r"^make (\S+)", (ROOT / ".ci" / "run").read_text(), re.M)
    there = [step["run"] for step in jobs("check.yml")["check"]["steps"] if "run" in step]
    assert there == [f"make {target}" for target in here]
