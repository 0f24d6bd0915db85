"""The card of a result says which sources made it."""

import subprocess
from pathlib import Path

import pytest

from fastadv.runs.card import machine

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_the_commit_is_that_of_the_sources():
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout
    commit = machine()["commit"].rstrip("+")
    assert len(commit) == 12
    assert head.startswith(commit)
