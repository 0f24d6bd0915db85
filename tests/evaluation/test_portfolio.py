"""The greedy order of attacks, by hand, and from every kind of result."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from fastadv.evaluation import Choice, Portfolio, Row, portfolio
from tests.evaluation import nets


def row(name: str, broken: list[int], seconds: float, correct: int = 8) -> Row:
    """Of ten samples, of which the first `correct` are."""
    flags = torch.zeros(10, dtype=torch.bool)
    flags[broken] = True
    right = torch.arange(10) < correct
    return Row(name, right, flags, torch.zeros(10).double(), 0, 0, 0, 0, seconds)


def test_by_hand() -> None:
    """Next is what breaks most of the rest in a second; the seconds are in proportion to the rest."""
    slow = row("slow", [0, 1, 2, 3, 4], 8.0)
    quick = row("quick", [0, 1, 2], 2.0)
    other = row("other", [4, 5], 2.0)
    told = portfolio([slow, quick, other, row("none", [], 0.5), row("same", [0, 1], 4.0)])
    assert told.choices == (
        Choice("quick", 3, 0.5, 2.0),
        Choice("other", 2, 0.3, 2.0 + 2.0 * 5 / 8),
        Choice("slow", 1, 0.2, 3.25 + 8.0 * 3 / 8),
    )
    assert told.superfluous == ("none", "same")
    lines = str(told).splitlines()
    assert lines[2].split() == ["quick", "3", "50.0%", "2.0"]
    assert lines[-1] == "break nothing more: none, same"
    assert "more" not in str(portfolio(quick))
    assert told.to_dict()["choices"][1] == {
        "name": "other", "broken": 2, "robust_accuracy": 0.3, "seconds": 3.25,
    }  # fmt: skip
    assert portfolio(row("none", [], 1.0, correct=0)) == Portfolio((), ("none",))


class Sick(nets.Threshold):
    """No finite logits for sample 3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).masked_fill(x.flatten(1)[:, :1] == 0.9, torch.nan)


@pytest.mark.parametrize(("model", "right"), [(nets.Threshold(), 4), (Sick(), 3)])
def test_tables_folders_and_files_say_the_same(model, right, tmp_path) -> None:
    attacks = {"some": partial(nets.nearest, spare=(1, 3)), "all": partial(nets.nearest, spare=(0,))}
    table = nets.run(tmp_path / "run", attacks=attacks, model=model)
    expected = portfolio(table)
    assert sum(choice.broken for choice in expected.choices) == right
    assert portfolio(table.rows) == expected
    assert portfolio(str(tmp_path / "run")) == expected
    card = {"measured": table.to_dict()}
    fa.runs.files.save_tensors(tmp_path / "out", vars(table.samples), {"card": json.dumps(card)})
    assert portfolio([tmp_path / "out"]) == expected
    more = portfolio([table, replace(table.rows[0], name="again")])
    assert {*(choice.name for choice in more.choices), *more.superfluous} >= {"again"}


def test_what_an_attack_without_a_radius_breaks_counts_within_the_largest_of_the_others() -> None:
    def at(radius: float, name: str, broken: list[int]) -> Row:
        return replace(row(name, broken, 1.0), threat=fa.Linf(radius))

    distance = torch.tensor([0.05, 0.2, 0.4, *[math.inf] * 7]).double()
    free = replace(at(math.inf, "free", [0, 1, 2]), distance=distance)
    for others, broken in (((0.1, 0.3), 2), ((0.3, 0.1), 2), ((0.1,), 1), ((), 3)):
        rows = (free, *(at(radius, f"within {radius}", []) for radius in others))
        table = fa.evaluation.Table(rows, free.correct, ~free.correct, torch.arange(10), 1.0)
        assert [choice.broken for choice in portfolio(table).choices] == [broken]


def test_the_components_of_an_individual_run() -> None:
    model, data = nets.Threshold(), nets.DATA
    out = fa.attacks.autoattack(
        model, data.x, data.y, fa.Linf(0.25), version=["apgd-margin", "apgd-ce"], individual=True
    )
    told = portfolio(out)
    assert told.choices[0].broken == 2
    assert told.choices[-1].robust_accuracy == 2 / 6
    assert {choice.name for choice in told.choices} | {*told.superfluous} == {"apgd-margin", "apgd-ce"}


@pytest.mark.parametrize(
    ("message", "results"),
    [
        ("expected the results of attacks, got none", []),
        ("different names, got a more than once", [row("a", [0], 1.0), row("a", [1], 1.0)]),
        (
            "same samples of one model, got b on others than a",
            [row("a", [0], 1), row("b", [0], 1, correct=7)],
        ),
        ("got .*nowhere, which is not there", "nowhere"),
        ("expected tables, rows, paths or individual results of autoattack, got int", [3]),
    ],
)
def test_what_it_refuses(message: str, results: object) -> None:
    with pytest.raises(InputError, match=message):
        portfolio(results)


def test_paths_that_hold_something_else(tmp_path) -> None:
    with pytest.raises(InputError, match=r"without evaluation\.json"):
        portfolio(tmp_path)
    fa.runs.files.save_tensors(tmp_path / "other", {"x": torch.zeros(1)}, {})
    with pytest.raises(InputError, match="of another kind"):
        portfolio(tmp_path / "other")
    nets.run(tmp_path / "run")
    for part in (tmp_path / "run").glob("part-*-01.safetensors"):
        part.unlink()
    with pytest.raises(InputError, match=r"of 6 samples, got .* with 0 of pgd"):
        portfolio(tmp_path / "run")
