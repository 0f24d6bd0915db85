"""What the commands print and write equals what the library's own calls give."""

import re
from pathlib import Path

from fastadv.attacks.core.card import REGISTRY
from fastadv.cli._output import PIPE_WIDTH, print_table

HEAD = ["attack", *(f"accuracy at {radius}" for radius in range(12))]


def test_a_pipe_gets_each_figure_whole(capsys):
    figures = [f"12,345,67{place}" for place in range(12)]
    print_table("title", [HEAD, ["autoattack-standard", *figures]])
    lines = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in lines[1:]}) == 1
    assert len(lines[1]) > PIPE_WIDTH
    assert all(text in lines[2] for text in HEAD)
    assert all(text in lines[4] for text in figures)


def test_a_pipe_gets_prose_in_lines(capsys):
    words = " ".join(["word"] * 60)
    print_table("title", [["name", "what it does"], ["pgd", words]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= PIPE_WIDTH
    assert sum(line.count("word") for line in lines) == 60


def test_departures_name_attacks_and_rows_of_the_table_of_parity():
    root = Path(__file__).resolve().parents[2]
    pages = ("bench/results/parity.md", "docs/departures.md")
    table, departures = ((root / page).read_text() for page in pages)
    rows = {line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")}
    named = re.findall(r"Row: (.*)\.$", departures, re.MULTILINE)
    assert len(named) > 20
    assert set(named) <= rows
    assert set(re.findall(r"^## (\w+)$", departures, re.MULTILINE)) <= set(REGISTRY)
