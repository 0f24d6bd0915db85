"""`bench/run.py`; with --base REF, REF's package is timed, and a slower process is told from noise."""

import json
import random
import sys
from contextlib import closing
from functools import partial

import pytest

from bench import base, compare, run, stage, turns
from bench.compare import Comparison, Process
from bench.nets import resnet18
from bench.session import Case, Row
from runs import OnCPU, known

# answers as bench/turns.py does, with times around the given one
FAKE = """
import json, random, sys
milliseconds, seed = float(sys.argv[1]), int(sys.argv[2])
draw = random.Random(seed)
print(json.dumps({"fastadv": sys.argv[3] + "/fastadv/__init__.py"}), flush=True)
for line in sys.stdin:
    print(json.dumps({"ms": milliseconds * draw.uniform(0.97, 1.03)}), flush=True)
"""
REPOSITORY = pytest.mark.skipif(not (base.ROOT / ".git").exists(), reason="no git history here")


def fake(root, milliseconds, seed):
    return Process(root, (sys.executable, "-c", FAKE, str(milliseconds), str(seed), str(root)))


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

    def test_a_slow_moment_of_both_is_no_noise(self):
        both = [1.0, 7.0, 3.0, 1.0, 2.0]
        assert comparison([1.2 * b for b in both], both).noise == pytest.approx(0)
        assert comparison([1.2 * b for b in both], both).ratio == pytest.approx(1.2)

    def test_the_noise_is_two_standard_errors_of_the_median(self):
        draw = random.Random(2)
        medians = [comparison([draw.gauss(1, 0.05) for _ in range(25)], [1.0] * 25) for _ in range(400)]
        inside = sum(abs(c.ratio - 1) < c.noise for c in medians) / 400
        assert 0.88 < inside < 0.99


@REPOSITORY
class TestTrees:
    @pytest.mark.slow
    def test_head_against_head(self, tmp_path, monkeypatch):
        """The process of HEAD has HEAD's package: no build. Which is faster is up to other work here."""
        if base.git("diff", "--name-only", "HEAD", "--", *base.SOURCES):
            pytest.skip("the C++ sources are changed: HEAD's extension would be built")
        root = base.tree("HEAD", tmp_path)
        built = [path.name for path in (base.ROOT / "fastadv").glob("_C*.so")]
        assert [path.name for path in (root / "fastadv").glob("_C*.so")] == built
        monkeypatch.setattr(compare, "TURNS", 5)
        monkeypatch.setattr(compare, "SECONDS", 0.01)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        with closing(fake(base.ROOT, 5.0, 0)) as here, closing(Process(root)) as there:
            (found,) = compare.compared(here, there, ["linf_step_"])
        assert len(found.here) == len(found.base) == 5
        assert min(found.here + found.base) > 0


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
