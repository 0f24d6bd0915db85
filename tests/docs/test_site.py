"""The tables of the site can be made, without Sphinx, and the costs of attacks are right."""

import re
import sys
from pathlib import Path

import pytest

from fastadv.attacks.core.card import REGISTRY

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.setitem(sys.modules, "sphinx", None)  # the extra [test] has none


def test_costs() -> None:
    from _site.costs import cost

    found = {name: cost(card) for name, card in REGISTRY.items()}
    step = "1 forward + 1 backward a step"
    for name in ("pgd", "bim", "mim", "apgd", "cw", "ddn", "fmn", "segpgd"):
        assert found[name] == step
    assert found["sea"] == "4 forward + 4 backward a step"  # its four losses
    assert found["deepfool"] == "1 forward + 9 backward a step"  # the other classes
    for name in ("square", "boundary", "hopskipjump", "nes"):
        assert found[name] == "1 forward a query"
    assert found["minimum_norm"] == found["autoattack"] == "-"


@pytest.mark.slow
def test_each_table_that_a_page_shows_can_be_made() -> None:
    from _site.tables import TABLES

    pages = "".join(path.read_text() for path in DOCS.rglob("*.md"))
    assert set(re.findall(r"```\{registry\} (\w+)", pages)) == TABLES.keys()
    for name, table in TABLES.items():
        lines = [line for line in table().splitlines() if line]
        columns = {len(line.replace("\\|", "").split("|")) for line in lines if line.startswith("| ")}
        assert len(lines) > 3, name
        assert columns or name in ("numbers", "others"), name
        assert name == "commands" or len(columns) < 2, name  # it has many tables
