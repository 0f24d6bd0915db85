"""The costs on the page of attacks: every attack has one that can be counted, and known ones are right."""

from pathlib import Path

import pytest

from fastadv.attacks.core.card import REGISTRY

DOCS = Path(__file__).parents[2] / "docs"


def test_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    from _site.costs import cost

    found = {name: cost(card) for name, card in REGISTRY.items()}
    step = "1 forward + 1 backward a step"
    for name in ("pgd", "bim", "mim", "apgd", "cw", "ddn", "fmn", "segpgd"):
        assert found[name] == step
    assert found["sea"] == "3 forward + 3 backward a step"  # its three losses
    assert found["deepfool"] == "1 forward + 9 backward a step"  # the other classes
    for name in ("square", "boundary", "hopskipjump", "nes"):
        assert found[name] == "1 forward a query"
    assert found["minimum_norm"] == found["autoattack"] == "-"
