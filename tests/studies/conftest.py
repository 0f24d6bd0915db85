"""Stand-ins for attacks, and a study that draws nothing."""

import pytest

import fastadv as fa
from fastadv.studies.schott2018 import figures, paper, plan
from tests.studies.schott import METHODS, FakeAttacks


@pytest.fixture
def attacks(monkeypatch):
    made = FakeAttacks()
    for name in ("push", "flip", "jolt"):
        monkeypatch.setattr(fa.attacks, name, getattr(made, name), raising=False)
    monkeypatch.setattr(plan, "METHODS", METHODS)
    monkeypatch.setattr(paper, "BATCH_SIZE", 3)
    monkeypatch.setattr(paper, "DEAR_BATCH_SIZE", 3)
    return made


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda *given: {})
