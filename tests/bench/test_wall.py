"""The table of every attack beside others: rows, who is worse, and the page."""

import json
from collections.abc import Iterable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv.attacks
from bench.suite import parity, wall
from bench.suite.case import Case, queries
from bench.suite.models import WALL, Net, Quantized, Scaled
from bench.suite.peers import Peer
from bench.suite.store import STORES, Row, save, stored
from bench.suite.verdict import Line, best, compared
from fastadv.attacks import AttackResult
from fastadv.threat import Threat


class Threshold(nn.Module):
    """Class 1 where the first coordinate is above one half."""

    def forward(self, x: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0]
        return torch.stack([0.5 - first, first - 0.5], 1)


X, Y = torch.tensor([[0.2, 0.1], [0.2, 0.1], [0.05, 0.1]]), torch.tensor([0, 0, 0])


def row(package: str, found: float, radius: float = inf, passes: int = 200, **more: Any) -> Row:
    figure = {"robust_accuracy" if radius < inf else "median": found}
    same = {"net": "linf", "variant": "full", "case": "toy-l2", "attack": "toy", "norm": "l2", "settings": ""}
    spent = {"images": 100, "forwards": 50 * passes, "backwards": 50 * passes, "budget": {"steps": 5}}
    about = {"radius": radius, "package": package, "version": "1", "date": "2026-01-01"}
    return {**same, **about, **figure, **spent, **more}


def line(ours: Row, *peers: Row) -> Line:
    return Line(ours, peers)


def test_rows_come_back_from_the_file_and_a_new_one_replaces_its_like(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [row("b", inf, distances=[0.5, inf]), row("a", 0.5, 0.1)]
    save(rows, path)
    assert stored(path) == rows[::-1]
    save([*rows, row("b", 2.0)], path)
    assert stored(path) == [row("a", 0.5, 0.1), row("b", 2.0)]
    for text in path.read_text().splitlines():
        json.loads(text, parse_constant=pytest.fail)  # inf is no JSON


def test_the_best_found_most_and_of_equals_in_fewest_passes() -> None:
    first, second = row("a", 1.0, passes=300), row("b", 1.0)
    assert best([first, second, row("c", 2.0), row("d", 0.0) | {"error": "broken"}]) is second
    assert best([]) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "radius", "worse"),
    [
        (1.0, 1.0, inf, False), (1.01, 1.0, inf, False), (1.011, 1.0, inf, True), (inf, 1.0, inf, True),
        (inf, inf, inf, False), (0.31, 0.3, 0.1, False), (0.32, 0.3, 0.1, True), (0.2, 0.3, 0.1, False),
    ],
)  # fmt: skip
def test_worse_is_one_percent_farther_or_two_images_more(
    ours: float, theirs: float, radius: float, worse: bool
) -> None:
    assert line(row("fastadv", ours, radius), row("a", theirs, radius)).worse is worse


def test_what_is_missing_is_worse_unless_nobody_has_it() -> None:
    assert line(row("fastadv", 0.0) | {"error": "there is none"}, row("a", 1.0)).worse
    assert not line(row("fastadv", 1.0), row("a", 1.0) | {"error": "broken"}).worse


def test_more_passes_are_seen() -> None:
    peer = row("a", 1.0)
    assert not line(row("fastadv", 1.0, passes=212), peer).dearer
    assert line(row("fastadv", 1.0, passes=213), peer).dearer


def test_lines_are_by_case_net_and_radius() -> None:
    peers = [row("a", 1.0), row("b", 2.0), row("a", 0.3, 0.1), row("a", 1.0) | {"net": "l2"}]
    lines = compared([*peers, row("fastadv", 1.0), row("fastadv", 0.3, 0.1),
                      row("fastadv", 1.0) | {"net": "standard"}])  # fmt: skip
    found = {(at.ours["net"], at.ours["radius"]): [peer["package"] for peer in at.peers] for at in lines}
    assert found == {("linf", inf): ["a", "b"], ("linf", 0.1): ["a"]}


def test_a_cell_is_bold_where_ours_is_worse() -> None:
    assert wall.cell(line(row("fastadv", 1.2345), row("a", 1.5))) == "1.23 / 1.5"
    assert wall.cell(line(row("fastadv", 0.4, 0.1), row("a", 0.3, 0.1))) == "**40% / 30%**"
    assert wall.cell(line(row("fastadv", 1.0, passes=400), row("a", inf))) == "1 / ∞+"
    absent = {"package": "fastadv", "radius": inf, "error": "there is none"}
    assert wall.cell(line(absent, row("a", 1.0))) == "**- / 1**"


def test_the_page_shows_the_stored_rows() -> None:
    assert wall.PAGE.read_text() == wall.page(stored(STORES["full"])), "run `python -m bench.suite.wall`"


def test_the_page_says_what_is_worse() -> None:
    rows = [row("fastadv", 2.0), row("a", 1.0), row("fastadv", 0.1, 0.5), row("a", 0.1, 0.5)]
    text = wall.page(rows)
    assert "2 comparisons: 1 no worse, 1 worse" in text
    assert "| toy-l2 | linf | ∞ | 2 | 1 | a  | 200 | 200 |" in text
    assert "Nowhere." in wall.page(rows[2:])


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """An attack of ours and three peers, of which one fails and one is not there; what ours was asked."""
    asked: list[Any] = []

    def toy(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, queries: int) -> AttackResult:
        asked.append((threat.radius, queries))
        nothing = torch.zeros(len(x))
        return AttackResult(x + torch.tensor([0.4, 0.0]), nothing, nothing, nothing, nothing, 6, 4, nothing)

    def peer(model: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int) -> Tensor:
        for _ in range(steps):
            model(x)
        return x + torch.tensor([0.35, 0.0])

    def broken(*given: object, **options: object) -> Tensor:
        raise ValueError("no")

    def absent(*given: object, **options: object) -> Tensor:
        raise ImportError("no such package")

    peers = tuple(Peer(run.__name__, "", run) for run in (peer, broken, absent))
    case = Case("toy", "l2", peers, {"steps": 30}, {"steps": 3}, ours=queries)
    net = Net(lambda *_: Threshold(), {"l2": 0.4})
    monkeypatch.setattr(fastadv.attacks, "toy", toy, raising=False)
    monkeypatch.setattr(parity, "WALL", {"toy": net})
    monkeypatch.setattr(parity, "NETS", {"toy": net})
    monkeypatch.setattr(parity, "TESTED", ("toy",))
    monkeypatch.setattr(parity, "cases_on", lambda net: (case,))
    monkeypatch.setattr(parity, "problem", lambda *given: (Threshold(), X, Y))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return asked


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr("sys.argv", ["parity", *options])
    parity.main()


def figures(rows: Iterable[Row]) -> dict[tuple[str, float], Any]:
    return {
        (r["package"], r["radius"]): r.get("error", r.get("median", r.get("robust_accuracy"))) for r in rows
    }


@pytest.mark.usefixtures("recwarn")
def test_a_peer_is_judged_with_and_without_the_radius_and_ours_gets_its_passes(
    toys: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    run(monkeypatch, "--out", str(path))
    rows = stored(path)
    assert figures(rows) == {
        ("peer", inf): 0.35, ("peer", 0.4): 0.3333, ("broken", inf): "ValueError: no",
        ("broken", 0.4): "ValueError: no", ("fastadv", inf): 0.4, ("fastadv", 0.4): 0.3333,
    }  # fmt: skip
    assert toys == [(inf, 30), (0.4, 30)]
    spent = {r["package"]: (r["forwards"], r["backwards"]) for r in rows if "error" not in r}
    assert spent == {"peer": (90, 0), "fastadv": (6, 4)}
    assert not any("distances" in r for r in rows)


@pytest.mark.usefixtures("recwarn")
def test_what_is_stored_is_measured_again_only_when_asked(
    toys: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    for options, count in (((), 2), ((), 2), (("--only", "other"), 2), (("--again", "ours"), 4)):
        run(monkeypatch, "--out", str(path), *options)
        assert len(toys) == count
        assert len(stored(path)) == 6
    rows = stored(path)
    save([r for r in rows if (r["package"], r["radius"]) != ("peer", 0.4)], path)
    run(monkeypatch, "--out", str(path))
    assert figures(stored(path)) == figures(rows)


def test_one_run_of_a_peer_serves_two_cases() -> None:
    peer = Peer("a", "set", lambda *given, **options: pytest.fail("it ran again"))
    first, second = (Case("toy", "l2", (peer,), {"steps": 5}, {}, 1.6, label) for label in ("", "quick"))
    stored_row = row("a", 0.5, 1.6, case=first.name, settings="set")
    found = parity.measured(second, "linf", "full", (), lambda: [stored_row], (Threshold(), X, Y))
    assert next(found) == {**stored_row, "case": "toy-quick-l2-1.6"}


def test_runs_with_several_seeds_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_seed(model: nn.Module, x: Tensor, y: Tensor, radius: float, seed: int = 9) -> Tensor:
        model(x)
        return x + torch.tensor([0.35, 0.0]) * (seed == 1)

    def toy(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, seed: int = 9) -> AttackResult:
        nothing = torch.zeros(len(x))
        return AttackResult(by_seed(model, x, y, 0, seed), *[nothing] * 4, 3, 2, nothing)

    monkeypatch.setattr(fastadv.attacks, "toy", toy, raising=False)
    case = Case("toy", "l2", (Peer("a", "", by_seed),), {}, {}, 0.4, chance=True, seeds=3)
    rows = list(parity.measured(case, "linf", "full", (), list, (Threshold(), X, Y)))
    assert [r["robust_accuracy"] for r in rows] == [round(7 / 9, 4)] * 2
    assert [(r["images"], r["forwards"], r["backwards"]) for r in rows] == [(9, 9, 0), (9, 9, 6)]
    (short,) = parity.measured(case, "linf", "quick", (), list, (Threshold(), X, Y))
    assert (short["images"], short["robust_accuracy"]) == (3, 1.0)


@pytest.mark.usefixtures("recwarn")
def test_the_short_rows_are_of_the_peers_with_every_distance(
    toys: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    run(monkeypatch, "--out", str(path), "--variant", "quick")
    assert toys == []
    found = {r["radius"]: r["distances"] for r in stored(path) if r["package"] == "peer"}
    assert found == {inf: [0.35, 0.35, inf], 0.4: [0.35, 0.35, inf]}


def test_a_quantized_net_rounds_and_its_gradient_is_that_of_the_net() -> None:
    layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    model = Quantized(layers, input_levels=8, levels=4)
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    inner = (layers[0]((x * 8).round() / 8).relu() * 4).round() / 4
    torch.testing.assert_close(model(x), layers[2](inner))
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    slopes = (layers[0]((x * 8).round() / 8) > 0).float()
    torch.testing.assert_close(gradient, (slopes * layers[2].weight[0]) @ layers[0].weight)
    assert not model.training


def test_a_saturated_net_has_no_gradient_of_cross_entropy() -> None:
    model, x = Scaled(nn.Identity()), torch.tensor([[1.0, 0.0]], requires_grad=True)
    assert model(x).tolist() == [[200.0, 0.0]]
    loss = nn.functional.cross_entropy(model(x), torch.tensor([0]))
    assert not torch.autograd.grad(loss, x)[0].any()


def test_the_nets_of_the_table_are_of_five_kinds() -> None:
    assert set(wall.NETS) == set(WALL) == {"linf", "l2", "saturated", "quantized", "standard"}
    normalized = {name for name in WALL if any(
        isinstance(part, nn.BatchNorm2d) for part in WALL[name].load(Path(), Path()).modules()
    )}  # fmt: skip
    assert normalized == {"l2", "quantized", "standard"}
