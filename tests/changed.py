"""`pytest --changed [REF]`: only the files of tests that a change since REF can reach, by imports.

A file reaches what imports it, directly or through others; of `import fastadv as fa` what is used counts. C++
reaches what imports the extension, docs and examples what names their folder, a conftest the tests below it.
Any other file that is not a module, is gone, or reaches no test by imports reaches everything. Tests that go
through the tree always run.
"""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.test_layers import imported

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("fastadv", "tests", "bench", "papers", "tools")
NAMED = ("docs", "examples")
TREE = "the tree"  # what tests go through file by file
PUBLIC = {name.rpartition(".")[2]: name for name in imported((ROOT / "fastadv" / "__init__.py").read_text())}
USED = re.compile(r"\b(?:fa|fastadv)\.(\w+)((?:\.\w+)?)")


class Changed:
    """Leaves out other files of tests before they are imported."""

    def __init__(self, ref: str) -> None:
        self.files = reached(differing(ref))

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        test = collection_path.match("test_*.py")
        return (test and collection_path.relative_to(ROOT).as_posix() not in self.files) or None

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:  # nothing has changed
            session.exitstatus = pytest.ExitCode.OK


def differing(ref: str) -> set[str]:
    """The files that differ from a commit, those that are not tracked included."""
    commands = (["diff", "--name-only", ref, "--"], ["ls-files", "--others", "--exclude-standard"])
    runs = [subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True) for args in commands]
    if runs[0].returncode:
        raise pytest.UsageError(f"--changed: {runs[0].stderr.strip()}")
    return {path for run in runs for path in run.stdout.splitlines()}


@cache
def graph() -> dict[str, set[str]]:
    """The files that import each file, and what C++ and folders without modules reach."""
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in files}
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources}
    importing: dict[str, set[str]] = {path: set() for path in [*sources, "csrc", TREE, *NAMED]}
    for path, source in sources.items():
        package = path.rpartition("/")[0].replace("/", ".")
        used = [PUBLIC.get(word, f"fastadv.{word}") + rest for word, rest in USED.findall(source)]
        every = [*imported(source, package.split("."))]
        for name in every + used if used and "fastadv" in every else every:
            beside, each = modules.get(f"{package}.{name.partition('.')[0]}"), name  # as in tests/bench
            while each and each not in modules:
                each = each.rpartition(".")[0]
            if name != "fastadv" or not used:
                importing[modules.get(each) or beside or path].add(path)
        if "fastadv._C" in source:
            importing["csrc"].add(path)
        if "/test_" in path and "rglob(" in source:
            importing[TREE].add(path)
        for folder in NAMED if path.startswith("tests/") else ():
            if f'"{folder}' in source or f"{folder}/" in source:
                importing[folder].add(path)
    importing["tests/changed.py"] = {"tests/test_changed.py"}  # what selects tests is no part of each
    return importing


def reached(changed: set[str]) -> set[str]:
    if not changed:
        return set()
    importing = graph()
    waiting = {path if path in importing else path.partition("/")[0] for path in changed}
    if not waiting <= importing.keys():
        return {*importing}
    seen: set[str] = set()
    while waiting:
        seen |= waiting
        below = tuple(path.removesuffix("conftest.py") for path in waiting if path.endswith("conftest.py"))
        waiting = {other for path in waiting for other in importing[path]}
        waiting |= {path for path in importing if path.startswith(below)}
        waiting -= seen
    if not any("/test_" in path for path in seen):  # what is loaded by its name
        return {*importing}
    return seen | importing[TREE]
