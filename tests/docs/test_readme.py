"""README is short, its blocks run one after another, and what they print is what it shows."""

import re
from functools import partial
from pathlib import Path

import pytest

import fastadv as fa
from fastadv.attacks.core.card import REGISTRY

README = (Path(__file__).parents[2] / "README.md").read_text()
SHOWN = re.compile(r"```text\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"[\d.,]*\d")
TOLERANCE = 4  # in points of a percentage: another machine trains a slightly different network


def form(line: str) -> str:
    """The line without its numbers and the widths of its columns."""
    return " ".join(NUMBER.sub("0", line).split())


def shares(line: str) -> list[float]:
    return [float(share) for share in re.findall(r"([\d.]+)\\?%", line)]


def test_it_is_short_and_counts_what_there_is():
    assert len(README.splitlines()) <= 120
    assert f"AutoAttack and {len(REGISTRY) - 1} other attacks" in README
    assert {"make demo", "make test"} <= {line.partition("  ")[0] for line in README.splitlines()}


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.filterwarnings("ignore")
def test_the_blocks_run_in_order_and_print_what_it_shows(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {"quick": partial(fa.attacks.autoattack, version="quick")}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(code.replace('"autoattack"', '{"autoattack": quick}'), names)
    printed = iter(capsys.readouterr().out.replace("AutoAttack quick", "AutoAttack standard").splitlines())
    shown = [line for text in SHOWN.findall(README) for line in text.splitlines() if line != "..."]
    assert len(shown) == 11
    for line in shown:
        same = next((other for other in printed if form(other) == form(line)), None)
        assert same, f"{line} is not what runs"
        assert shares(same) == pytest.approx(shares(line), abs=TOLERANCE)
