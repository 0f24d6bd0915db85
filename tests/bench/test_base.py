"""`bench/run.py`, its rows and failures; with --base REF, a slower process is told from noise."""

import json
import random
from functools import partial

import pytest

from bench import run, stage, turns
from bench.compare import Comparison
from bench.nets import resnet18
from bench.session import Case, Row
from runs import OnCPU, known


def comparison(here, there):
    return Comparison("case", list(here), list(there))


class TestComparison:
    @pytest.mark.parametrize(("slower", "lost"), [(1.0, False), (1.04, False), (1.08, True), (0.5, False)])
    def test_more_than_five_percent_beyond_the_noise_is_lost(self, slower, lost):
        draw = random.Random(1)
        here = [slower * draw.uniform(0.98, 1.02) for _ in range(15)]
        there = [draw.uniform(0.98, 1.02) for _ in range(15)]
        assert comparison(here, there).lost is lost

    def test_what_noise_could_explain_is_not_lost(self):
        assert not comparison([0.7, 1.9, 1.2, 0.8, 1.5], [1.0] * 5).lost


@pytest.fixture
def small(monkeypatch):
    nets = {net: (create, (2, *shape[1:]), r, s, 1) for net, (create, shape, r, s, _) in turns.PGD.items()}
    nets["ResNet-18"] = (partial(resnet18, tiny=True), *nets["ResNet-18"][1:])
    monkeypatch.setattr(turns, "PGD", nets)
    monkeypatch.setattr(turns, "SHAPE", (2, 3, 4, 4))
    yield
    turns.prepared.cache_clear()
    turns.problem.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("case", [case for part in turns.CASES.values() for case in part])
def test_every_case_runs(case):
    assert 0 < turns.turn(case, 0.0) < 60_000


class TestRun:
    def test_rows_are_appended_and_failures_are_told_instead(self, tmp_path, monkeypatch, capsys):
        def broken():
            yield {"what": "a", "provider": "fastadv", "p50_ms": 1.0}
            yield {"what": "a", "provider": "foolbox", "error": "E"}
            raise ValueError("no")

        cases = [Case("ours", broken), Case("next", lambda: iter([{"what": "b", "provider": "fastadv"}]))]
        monkeypatch.setattr(stage, "cases_of", lambda part, session: cases)
        out = tmp_path / "rows.jsonl"
        for _ in range(2):
            assert run.measure(known(OnCPU), ["ops"], out, {"date": "today"}) == 1
        rows: list[Row] = [json.loads(line) for line in out.read_text().splitlines()]
        assert rows == [
            {"what": "a", "provider": "fastadv", "p50_ms": 1.0, "date": "today"},
            {"what": "b", "provider": "fastadv", "date": "today"},
        ] * 2  # fmt: skip
        assert "ops | ours: failed: ValueError: no" in capsys.readouterr().out
