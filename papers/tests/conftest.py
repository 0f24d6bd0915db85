"""Stand-ins for attacks, and what the library's own tests share."""

from functools import partial

import pytest

from papers.schott2018 import paper
from papers.tests.schott import FakeAttacks
from tests.conftest import logged  # noqa: F401 - a fixture


@pytest.fixture
def attacks(monkeypatch):
    made = FakeAttacks().installed(partial(monkeypatch.setattr, raising=False))
    monkeypatch.setattr(paper, "BATCH_SIZE", 3)
    monkeypatch.setattr(paper, "DEAR_BATCH_SIZE", 3)
    return made


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Commands run in an empty folder, and see no data sets but the embedded one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTADV_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path
