"""The tables of the site can be made, without Sphinx, and the costs of attacks are right."""

import inspect
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from fastadv.attacks.core.card import REGISTRY
from fastadv.card import about, telling
from fastadv.evaluation.figures import style

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.setitem(sys.modules, "sphinx", None)  # the extra [test] has none


@pytest.mark.slow
@pytest.mark.docs
def test_costs() -> None:
    from _site.costs import cost

    costs = {name: cost(card) for name, card in REGISTRY.items()}
    step = "1 forward + 1 backward a step"
    for name in ("pgd", "bim", "mim", "apgd", "cw", "ddn", "fmn", "segpgd"):
        assert costs[name] == step
    assert costs["sea"] == "4 forward + 4 backward a step"  # its four losses
    assert costs["deepfool"] == "1 forward + 9 backward a step"  # the other classes
    for name in ("square", "boundary", "hopskipjump", "nes"):
        assert costs[name] == "1 forward a query"
    assert costs["minimum_norm"] == costs["autoattack"] == "-"


def test_the_page_of_an_attack_explains_all_its_arguments() -> None:
    from _site.attacks import SECTIONS, explained

    for card in REGISTRY.values():
        text = inspect.getdoc(card.run) or ""
        text = text if card.name == "pgd" else explained(text, card.parameters)
        arguments = re.findall(r"^    (\w+): ", text.partition("\nReturns:")[0], re.MULTILINE)
        assert arguments == [*card.parameters], card.name
        headings = re.findall(r"^([A-Z]\w+):$", text, re.MULTILINE)
        assert headings == [heading for heading in SECTIONS if heading in headings]
        assert {"Args", "Returns", "Raises"} <= {*headings}


@pytest.mark.slow
@pytest.mark.docs
def test_each_table_that_a_page_shows_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from _site import tables
    from _site.tables import TABLES

    monkeypatch.setattr(tables, "cost", lambda card: "1 forward a step")  # `test_costs` runs the attacks
    pages = "".join(path.read_text() for path in DOCS.rglob("*.md"))
    assert set(re.findall(r"```\{registry\} (\w+)", pages)) == TABLES.keys()
    for name, table in TABLES.items():
        lines = [line for line in table().splitlines() if line]
        columns = {len(line.replace("\\|", "").split("|")) for line in lines if line.startswith("| ")}
        assert len(lines) > 3, name
        assert columns or name in ("numbers", "others"), name
        assert name == "commands" or len(columns) < 2, name  # it has many tables


FIGURES = Path(__file__).parents[2] / "docs" / "figures"
TOLD = {"command", "seed", "machine", "date"}


@pytest.mark.parametrize("path", sorted(FIGURES.glob("*.png")), ids=lambda path: path.stem)
def test_a_picture_is_small_and_tells_what_made_it(path):
    with Image.open(path) as picture:
        missing = TOLD - {name for name, text in picture.info.items() if text}
        assert picture.mode == "P", "run python docs/figures/small.py"
    assert not missing
    assert path.stat().st_size < 250_000


@pytest.mark.parametrize("path", sorted(FIGURES.glob("*.svg")), ids=lambda path: path.stem)
def test_a_recording_is_small_asks_no_server_and_tells_what_made_it(path):
    text = path.read_text()
    root = ElementTree.fromstring(text)
    assert len(text) < 60_000
    assert not [part for part in ("url(http", "href", "@import", "@font-face", "<script") if part in text]
    assert dict(part.split(": ", 1) for part in root[0].text.split("; ")).keys() >= TOLD


def test_what_is_told_is_kept_in_the_picture(tmp_path):
    with telling(command="fastadv demo", seed=3):
        style.save(style.new_figure(1, 1), tmp_path / "a.png", {"date": "long ago"})
    with Image.open(tmp_path / "a.png") as picture:
        kept = {name: picture.info[name] for name in TOLD}
    assert kept == {
        "command": "fastadv demo", "seed": "3", "machine": about()["machine"], "date": "long ago",
    }  # fmt: skip
    assert not {"command", "seed"} & about().keys()


def test_rows_before_the_last_change_of_the_code_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from _site import results

    assert results.DAY.fullmatch(results.changed() or "2026-01-01")
    monkeypatch.setattr(results, "changed", lambda: "2099-01-01")
    for name, told in (("results/pgd", True), ("guides/pgd", False)):
        source = ["```{include} ../../bench/results/pgd.md\n```\n"]
        results.to_pages(None, name, source)  # type: ignore[arg-type]
        assert ("Rows of 20" in source[0]) == told
    told = results.old(["2026-11-23", "2026-11-29", "2026-11-24", "2026-11-23"], "2026-11-28")
    assert "Rows of 2026-11-23 to 2026-11-24 are of an earlier version" in told
    assert "changed on 2026-11-28" in told
    assert "Rows of 2026-11-01 are of" in results.old(["2026-11-01"], "2026-11-28")
    assert results.old(["2026-11-28"], "2026-11-28") == results.old(["2026-11-01"], "") == ""
