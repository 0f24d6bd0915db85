"""What a release says of itself: one version, one floor of torch, and who made it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fastadv
from fastadv._version import OLDEST_TORCH, check_torch
from fastadv.card import machine

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMED = PROJECT["project"]


def cited(key: str) -> str:
    """The value of a key of CITATION.cff, which stands on one line."""
    (value,) = re.findall(rf"^(?:  - )?{key}: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    return value.strip('"')


def test_the_version_stands_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?", fastadv.__version__)
    assert "version" not in NAMED
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "fastadv._version.__version__"}
    assert machine()["fastadv"] == fastadv.__version__ == cited("version")
    assert fastadv.__version__ in (ROOT / "docs" / "static" / "versions.json").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(fastadv.__version__)}(?: |$)", changes, re.MULTILINE)


def test_the_oldest_torch_is_what_pip_asks_for():
    (torch,) = [need for need in NAMED["dependencies"] if re.match(r"torch\b", need)]
    assert torch == f"torch>={OLDEST_TORCH}"


@pytest.mark.parametrize("version", ["1.13", "2.0.1", "2.1.0a0+git12345"])
def test_an_older_torch_is_refused(version):
    with pytest.raises(ImportError, match=f"{OLDEST_TORCH} or later, got {re.escape(version)}; run: pip"):
        check_torch(version)
    for newer in (OLDEST_TORCH, f"{OLDEST_TORCH}.0.dev2026+cpu", "2.100", "10.0.1"):
        check_torch(newer)


def test_wheels_hold_every_file_that_is_no_source():
    package = Path(fastadv.__file__).parent
    files = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    others = {str(path) for path in files if path.suffix not in {".py", ".pyc", ".so"}}
    assert others == set(PROJECT["tool"]["setuptools"]["package-data"]["fastadv"])


@pytest.mark.slow
def test_this_tree_cannot_be_released_under_another_version():
    command = [sys.executable, str(ROOT / ".ci" / "releasable.py"), "v9.9.9"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "got 'v9.9.9'" in done.stderr


def beside(torch, code, folder, *arguments):
    (folder / "torch.py").write_text(torch)
    code = f"import sys; sys.path[:0] = {[str(folder), str(ROOT)]}; {code}"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


OLD = "__version__ = '2.1.0+cu118'"
MISSING = "raise ModuleNotFoundError('No torch')"
COMMAND = "from fastadv_command import main; sys.exit(main())"
REFUSED = (
    f"fastadv {fastadv.__version__}: expected PyTorch {OLDEST_TORCH} or later, got 2.1.0+cu118; run: pip "
)


@pytest.mark.slow
def test_an_older_torch_is_refused_before_anything_of_it_is_used_by_a_command_in_one_line(tmp_path):
    assert beside(OLD, "import fastadv", tmp_path).splitlines()[-1].startswith(f"ImportError: {REFUSED}")
    assert NAMED["scripts"] == {"fastadv": "fastadv_command:main"}
    assert PROJECT["tool"]["setuptools"]["py-modules"] == ["fastadv_command", "fastadv_pytest"]
    for torch, says in ((OLD, REFUSED), (MISSING, "No torch")):
        (line,) = beside(torch, COMMAND, tmp_path, "doctor").splitlines()
        assert line.startswith(f"fastadv: {says}")
    assert "Traceback" in beside(OLD, COMMAND, tmp_path, "doctor", "--debug")
