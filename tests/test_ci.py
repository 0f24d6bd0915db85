"""Workflows can be read, and what a release lacks is told."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastadv
from tests.test_release import NAMED

ROOT = Path(__file__).parent.parent
CI = ROOT / ".ci"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_oldest_python_is_tried():
    tried = re.search(r"python: \[(.+)\]", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert tried[1].replace('"', "").split(", ")[0] == NAMED["requires-python"].removeprefix(">=")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_are_yaml(path):
    text = path.read_text()
    assert "\t" not in text
    assert all((len(line) - len(line.lstrip())) % 2 == 0 for line in text.splitlines())
    yaml = pytest.importorskip("yaml")
    read = yaml.safe_load(text)
    assert read.keys() >= {"name", "jobs", "permissions"}
    for name, job in read["jobs"].items():
        assert all(step.keys() & {"run", "uses"} for step in job["steps"]), name
        assert job.get("needs", name) in read["jobs"]


@pytest.fixture
def sources(tmp_path):
    """What a release is judged by, as if all of it were done."""
    for name in ("pyproject.toml", "CITATION.cff", "fastadv/_version.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace("/OWNER/", "/someone/"))
    (tmp_path / "CHANGELOG.md").write_text(
        f"# Changelog\n\n## Unreleased\n\n## {fastadv.__version__} (2026-01-31)\n\n- All of it.\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("CITATION.cff", "", "", ""),
        ("CITATION.cff", "version: 0", "version: 9.0", "CITATION.cff: expected version"),
        ("pyproject.toml", "/someone/", "/OWNER/", "the placeholder OWNER"),
        ("CHANGELOG.md", " (2026-01-31)", "", "with the day of the release"),
        ("CHANGELOG.md", "## Unreleased\n", "## Unreleased\n\n- More.\n", "nothing under Unreleased"),
        ("fastadv/_version.py", '__version__ = "', '__version__ = "7', "the tag: expected v7"),
    ],
)
def test_what_a_release_lacks_is_told(sources, file, old, new, says):
    lacks = runpy.run_path(str(CI / "releasable.py"))["lacks"]
    text = (sources / file).read_text()
    assert old in text
    (sources / file).write_text(text.replace(old, new, 1) if old else text)
    found = list(lacks(f"v{fastadv.__version__}", sources))
    assert (not found) if not says else any(says in line for line in found), found


def test_this_tree_cannot_be_released_under_another_version():
    done = subprocess.run(
        [sys.executable, str(CI / "releasable.py"), "v9.9.9"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "got 'v9.9.9'" in done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_their_hash(path):
    used = re.findall(r"uses: (\S+)", path.read_text())
    assert used
    assert all(re.search(r"@[0-9a-f]{40}$", action) for action in used)
