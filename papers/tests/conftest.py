"""Stand-ins for attacks, and a study that draws nothing."""

from functools import partial

import pytest

from papers.schott2018 import figures, paper
from papers.tests.schott import FakeAttacks


@pytest.fixture
def attacks(monkeypatch):
    made = FakeAttacks().installed(partial(monkeypatch.setattr, raising=False))
    monkeypatch.setattr(paper, "BATCH_SIZE", 3)
    monkeypatch.setattr(paper, "DEAR_BATCH_SIZE", 3)
    return made


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda *given: {})
