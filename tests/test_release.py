"""What a release says of itself: one version, one floor of torch, and who made it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fastadv
from fastadv._version import OLDEST_TORCH, check_torch
from fastadv.runs.card import machine

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
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(fastadv.__version__)}(?: |$)", changes, re.MULTILINE)


def test_citation_and_license_name_the_authors():
    (author,) = NAMED["authors"]
    assert cited("name") == author["name"]
    assert author["name"] in (ROOT / "LICENSE").read_text()
    assert cited("license") == NAMED["license"].split()[0]


def test_the_oldest_torch_is_what_pip_asks_for():
    (torch,) = [need for need in NAMED["dependencies"] if re.match(r"torch\b", need)]
    assert torch == f"torch>={OLDEST_TORCH}"


@pytest.mark.parametrize("found", ["1.13", "2.0.1", "2.1.0a0+git12345"])
def test_an_older_torch_is_refused(found):
    with pytest.raises(ImportError, match=f"{OLDEST_TORCH} or later, got {re.escape(found)}; run: pip"):
        check_torch(found)


@pytest.mark.parametrize("found", [OLDEST_TORCH, f"{OLDEST_TORCH}.0.dev2026+cpu", "2.100", "3.0", "10.0.1"])
def test_newer_ones_are_not(found):
    check_torch(found)


def test_an_older_torch_is_refused_before_anything_of_it_is_used(tmp_path):
    (tmp_path / "torch.py").write_text("__version__ = '2.1.0+cu118'")
    code = f"import sys; sys.path[:0] = {[str(tmp_path), str(ROOT)]}; import fastadv"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: fastadv 0.1.0: expected PyTorch 2")
