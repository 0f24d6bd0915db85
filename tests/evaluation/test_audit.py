"""An audit: some of the samples that hold, drawn at random and attacked with everything."""

import json
import math
from fractions import Fraction
from functools import partial
from itertools import chain, product
from math import comb
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks.masking.flags import SQUARE_FLAG
from fastadv.evaluation import Audit, Audited, Table, _auditing
from fastadv.evaluation._auditing import drawn_order
from fastadv.evaluation.table import INTERVAL_95
from fastadv.intervals import of_population
from tests.attacks.contract.conftest import FEW, shorten
from tests.defenses import Quantize
from tests.evaluation.nets import Threshold, pixels
from tests.evaluation.worker import audited, found
from tests.processes import go
from tests.refusals import refuses

BALL = fa.Linf(0.9)
N = 40
# sorted by class, as class folders are; samples 0 to 3 are wrong without an attack
Y = [*[1] * 4, *[0] * 16, *[1] * 20]
DATA = pixels([0.1] * 20 + [0.9] * 20, Y)


def across(broken: Any = (), calls: list[Any] | None = None, stop: int | None = None) -> Any:
    """An attack that crosses the boundary for these samples alone, and counts what it is asked for."""

    def attack(model: Any, x: Tensor, y: Tensor, threat: Any, *, ids: Tensor) -> Tensor:
        if calls is not None:
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(ids.tolist())
        hit = torch.isin(ids, torch.tensor([*broken], dtype=torch.int64))
        return torch.where(hit[:, None, None, None], 1 - x, x)

    return attack


NOTHING = across()


def evaluate(audit: Any, screen: Any = NOTHING, **options: Any) -> Table:
    options = {"model": Threshold(), "dataset": DATA, "threat": BALL, "batch_size": 8} | options
    return fa.evaluate(attacks=screen, audit=audit, **options)


def test_the_public_call() -> None:
    """36 samples are right, the screen breaks 6 of them, and the auditor all of one class."""
    audit = Audit(attack=across(range(20)), samples=10, seconds=None, confidence=0.9)
    table = evaluate(audit, across(range(10)))
    found = table.audit
    assert isinstance(found, Audited)
    assert (found.held, found.drawn, found.confidence, found.n) == (30, 10, 0.9, N)
    order = drawn_order(torch.arange(10, N), seed=0)[:10]
    assert torch.equal(found.ids, order)
    assert found.success.tolist() == (order < 20).tolist()
    assert found.estimate == pytest.approx((30 - 30 * found.broken / 10) / N)
    low, high = of_population(found.broken, 10, 30, 0.9)
    assert (found.low, found.high) == ((30 - high) / N, (30 - low) / N)
    assert low <= 10 <= high
    assert table.worst_case == 30 / N >= table.at_most == found.high
    assert evaluate(10).audit.attack == "AutoAttack standard"
    assert str(evaluate(Audit("fgsm", 3, None, 0.999999)).audit).endswith(", 99.9999% sure")
    assert evaluate(None).audit is None
    ticks = list[tuple[int, int]]()
    evaluate(10, progress=lambda *counts: ticks.append(counts))
    assert ticks[-1] == (N + 10, N + 10)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_is_exact_for_every_small_population(level: float) -> None:
    tail = Fraction((1 - level) / 2)
    for size in range(1, 10):
        for drawn, k in product(range(size + 1), range(size + 1)):
            ways = [comb(k, x) * comb(size - k, drawn - x) for x in range(drawn + 1)]
            covered = 0
            for x, count in enumerate(ways):
                low, high = of_population(x, drawn, size, level)
                assert x <= low <= high <= size - drawn + x
                # as narrow as can be: K is left out exactly where a tail is too unlikely
                likely = min(sum(ways[x:]), sum(ways[: x + 1])) > tail * sum(ways)
                assert (low <= k <= high) == likely or not count
                covered += count * (low <= k <= high)
            assert covered >= level * sum(ways)
            assert drawn < size or (low, high) == (x, x)
    assert of_population(0, 500, 5000, 0.95) == (0, 34)  # as scipy.stats.hypergeom has them
    assert of_population(250, 500, 5000, 0.95) == (2288, 2712)


@pytest.mark.parametrize("missed", [0, 20, 200, 1000])
def test_planted_truths_are_covered_over_200_seeds(missed: int) -> None:
    """Of 2,000 samples that hold; those that are missed come first, as in a set sorted by class."""
    ids = 7 * torch.arange(2000)
    ends = [
        of_population(int((drawn_order(ids, seed)[:200] < 7 * missed).sum()), 200, 2000, 0.95)
        for seed in range(200)
    ]
    assert sum(low <= missed <= high for low, high in ends) >= 190


def test_the_draw_goes_by_seed_and_number_and_more_extend_it(monkeypatch) -> None:
    ids = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    whole = drawn_order(ids, 3)
    assert whole.sort().values.equal(torch.arange(500))
    kept = whole[torch.isin(whole, ids[:200])]  # what broke others moves nothing
    assert drawn_order(ids[:200], 3).equal(kept)
    assert not drawn_order(ids, 4).equal(whole)
    few, more = evaluate(5).audit, evaluate(12).audit
    assert more.ids[:5].equal(few.ids)
    assert evaluate(5, seed=1).audit.ids.equal(drawn_order(torch.arange(4, N), 1)[:5])
    monkeypatch.setattr(_auditing.rng, "bits", lambda count, seed, ids: torch.zeros(len(ids), count).long())
    assert drawn_order(ids, 3).equal(torch.arange(500))  # ties go by number


@pytest.mark.slow
def test_the_auditor_does_what_it_does_alone(monkeypatch) -> None:
    shorten(monkeypatch, FEW)
    digits = fa.data.load("digits", "test")
    net = fa.models.create("small_cnn", shape=digits.shape, classes=10, width=4)
    fa.train.fit(net, digits, fa.train.Standard(), epochs=3, optimizer="adam", learning_rate=0.003)
    call = partial(fa.evaluate, net, digits, threat=fa.Linf(0.03), seed=2, limit=90, indicators=False)
    screen, drawn = "uniform_noise:levels=3,repetitions=1", []
    for attack in ("autoattack:version=quick", "square:queries=30"):
        alone = call(attack).rows[0].broken
        for size in (64, 7):
            found = call(screen, audit=Audit(attack, samples=12), batch_size=size).audit
            assert 0 < found.broken < found.drawn == 12
            assert found.success.equal(alone[found.ids])
            drawn.append(found.ids.tolist())
    assert drawn == drawn[:1] * 4


def test_a_stopped_audit_goes_on_and_takes_no_image_twice(tmp_path: Path) -> None:
    wanted, calls = evaluate(Audit(across(range(9)), 36)).audit, list[Any]()
    again = partial(evaluate, run_dir=tmp_path, resume=True, identity="1", batch_size=5)
    with pytest.raises(KeyboardInterrupt):
        again(Audit(across(range(9), calls, stop=2), 20))
    assert len(calls) == 2
    for samples in (20, 6, 36, 36):
        got = again(Audit(across(range(9), calls), samples)).audit
        assert got.ids.equal(wanted.ids[:samples])
        assert got.success.equal(wanted.success[:samples])
    assert sorted(chain(*calls)) == [*range(4, 40)]
    # a stronger screen, and another auditor beside it
    weaker = again(Audit(across(range(9), calls), 36), {"also": NOTHING, "screen": across(range(6))}).audit
    assert (len(calls), weaker.held, weaker.broken) == (8, 34, 3)
    assert again(Audit(partial(fa.attacks.fgsm), 36)).audit.broken == 36


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_any_number_of_processes_draws_and_finds_the_same(tmp_path: Path) -> None:
    alone = found(audited(tmp_path / "alone"))
    go("tests.evaluation.worker", "audit", tmp_path, 2)
    said = [json.loads((tmp_path / f"audited-{rank}").read_text()) for rank in (0, 1)]
    assert said == [[alone, alone]] * 2  # as it is made, and as it is read
    assert len(alone[0]) == 11
    names = [sorted(file.name for file in (tmp_path / one).glob("audit-*")) for one in ("alone", "2")]
    assert len(names[0]) == 3
    assert names[0] == names[1]


def test_an_auditor_that_does_not_serve_the_threat_is_refused() -> None:
    def unfit(model: Any, x: Tensor, y: Tensor, threat: Any) -> Tensor:
        raise fa.InputError("threat: expected another")

    refuses("audit: threat: expected another", evaluate, Audit(unfit, 3))


def test_the_auditor_has_the_goal_of_the_call() -> None:
    for criterion, broken in ((None, 36), (fa.attacks.WrongBy(9.0), 0)):
        audit = evaluate(Audit(partial(fa.attacks.pgd, steps=3), N), criterion=criterion).audit
        assert audit.broken == broken
        assert "sure" not in str(audit)  # all were drawn
        if criterion is None:
            alone = evaluate(None, partial(fa.attacks.pgd, steps=3)).rows[0]
            assert audit.backwards == alone.backwards < audit.forwards
            assert alone.forwards - audit.forwards == N - 36  # the last verdict is of all
    second = partial(fa.attacks.fgsm, threat=BALL, mask=torch.tensor([[[[False, True]]]]))
    two = DATA.x.repeat(1, 1, 1, 2), torch.tensor(Y)  # pixels, of which the model reads the first
    assert evaluate(Audit("fgsm", N), second, dataset=two, threat=None).audit.broken == 0


def test_what_casts_doubt_on_the_auditor_is_said() -> None:
    """Here that its queries broke many samples that gradients left."""
    auto = Audit(partial(fa.attacks.autoattack, version=["apgd-ce", "square"]), N)
    table = evaluate(auto, model=nn.Sequential(Quantize(50), Threshold()))
    assert (table.audit.broken, table.audit.flags.count(SQUARE_FLAG)) == (36, 1)
    assert f"audit, L∞ 0.9: {SQUARE_FLAG}" in table.notes()


@pytest.mark.slow
def test_an_auditor_that_cannot_run_is_no_audit(monkeypatch) -> None:
    shorten(monkeypatch, FEW)

    def black_box(x: Tensor) -> Tensor:
        return Threshold()(x).detach()

    screen = "uniform_noise:levels=3,repetitions=1"
    table = evaluate(Audit("apgd", 3), screen, model=black_box, threat=fa.Linf(0.1))
    assert table.audit.broken == 0
    assert table.headline.startswith("Not a robust accuracy: the auditor could not run")
    assert not evaluate(3, screen, model=black_box, threat=fa.Linf(0.1)).headline


def test_a_folder_of_other_data_gives_no_audit(tmp_path: Path) -> None:
    ask = partial(evaluate, run_dir=tmp_path, resume=True, identity="1")
    auditor = Audit(lambda model, x, y: torch.where(x > 0.85, 1 - x, x), 36)
    assert ask(auditor, {"a": NOTHING}).audit.broken == 20
    other = pixels([0.1] * 20 + [0.8] * 20, Y)
    assert ask(auditor, {"b": NOTHING}, dataset=other).audit.broken == 0


class Clock:
    """The time that attacks take: a second for each sample that holds, a tenth of one for a broken one."""

    def __init__(self, monkeypatch: Any) -> None:
        self.now = 0.0
        monkeypatch.setattr(_auditing.time, "perf_counter", lambda: self.now)

    def auditor(self, broken: Any = ()) -> Any:
        attack = across(broken)

        def timed(model: Any, x: Tensor, y: Tensor, threat: Any, *, ids: Tensor) -> Tensor:
            self.now += sum(0.1 if k in broken else 1 for k in ids.tolist())
            return attack(model, x, y, threat, ids=ids)

        return timed


def test_a_limit_of_seconds_is_kept_where_many_are_broken(monkeypatch) -> None:
    """By what a sample that holds took, also after batches without one; the screen's passes are not known."""
    clock = Clock(monkeypatch)
    for seed in range(8):
        clock.now = 0.0
        audit = evaluate(Audit(clock.auditor(range(4, 34)), 36, 4.0), clock.auditor(), seed=seed).audit
        assert clock.now - N <= 4
        assert audit.drawn >= 8


@pytest.mark.parametrize("seconds", [0.5, 3.0, 20.0, 50.0])
def test_a_limit_of_seconds_is_kept(monkeypatch, tmp_path: Path, seconds: float) -> None:
    clock = Clock(monkeypatch)
    ask = partial(evaluate, run_dir=tmp_path, resume=True, identity="1")
    table = ask(Audit(clock.auditor(), 30, seconds))
    first = table.audit
    assert first.seconds == clock.now <= max(seconds, 1)
    assert min(seconds, 30) - 4 < first.drawn <= 30
    assert ("its limit of seconds ended it before 30" in str(table)) == (first.drawn < 30)
    assert first.ids.equal(drawn_order(torch.arange(4, 40), 0)[: first.drawn])
    table = ask(Audit(clock.auditor(), 30, 40.0))
    assert (table.audit.drawn, table.audit.seconds) == (30, 30)
    assert table.seconds == pytest.approx(30)  # those of before, too


def test_threats_share_the_seconds(monkeypatch) -> None:
    clock = Clock(monkeypatch)
    audits = evaluate(Audit(clock.auditor(), 30, 20.0), threat=[BALL, fa.L2(0.9)]).audits
    assert clock.now <= 20
    assert min(audit.drawn for audit in audits) >= 8


def test_a_stopped_audit_counts_what_was_drawn_without_a_gap(monkeypatch, tmp_path: Path) -> None:
    """Samples that a folder has from an audit of fewer are no reason to draw these first."""
    clock = Clock(monkeypatch)
    ask = partial(evaluate, run_dir=tmp_path, resume=True, identity="1")
    assert ask(Audit(clock.auditor(), 10), limit=20).audit.drawn == 10
    got = ask(Audit(clock.auditor(), 36, 8.0)).audit
    assert clock.now <= 18
    assert 5 < got.drawn < 36
    assert got.ids.equal(drawn_order(torch.arange(4, 40), 0)[: got.drawn])


@pytest.mark.parametrize(("held", "low", "high"), [((), 0, 0), ((17,), 0, 0), ((17, 30), 1, 1)])
def test_few_that_hold(held: tuple[int, ...], low: int, high: int) -> None:
    table = evaluate(Audit(across([17]), 5), across({*range(40)} - {*held}))
    got = table.audit
    assert (got.held, got.drawn, got.low, got.high) == (len(held), len(held), low / N, high / N)
    assert got.estimate == low / N
    assert "its limit" not in str(got)
    json.loads(json.dumps(table.to_dict(), allow_nan=False))


def test_samples_that_are_wrong_or_without_logits_are_not_drawn() -> None:
    class Gaps(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).masked_fill(x.flatten(1)[:, :1] == 0.125, math.nan)

    data = pixels([0.1] * 16 + [0.125] * 4 + [0.9] * 20, Y)
    calls = list[Any]()
    table = evaluate(Audit(across(range(40), calls), 40), model=Gaps(), dataset=data)
    assert sorted(chain(*calls)) == [*range(4, 16), *range(20, 40)]
    assert (table.audit.held, table.audit.broken, table.audit.low, table.audit.high) == (32, 32, 0, 0)

    def sick(model: Any, x: Tensor, y: Tensor, threat: Any, *, ids: Tensor) -> Tensor:
        return torch.full_like(x, math.nan)

    assert evaluate(Audit(sick, 5)).audit.broken == 0


def test_some_of_each_class_of_a_sorted_set_are_drawn_with_a_limit() -> None:
    table = evaluate(Audit(across(), 14), limit=20)
    assert table.chosen
    assert table.audit.n == 20
    assert torch.isin(table.audit.ids, table.ids[table.held]).all()
    assert (table.audit.held, table.audit.drawn) == (16, 14)


@pytest.mark.parametrize("many", [False, True])
def test_what_is_said_where_the_screen_is_enough_and_where_not(many: bool, tmp_path: Path) -> None:
    table = evaluate(Audit(across(range(20 if many else 5)), 30), keep_samples=True)
    audit, lead = table.audit, "Not a robust accuracy: the audit broke"
    ends = f"{100 * audit.low:.2f}% to {100 * audit.high:.2f}%"
    headline, text = table.headline, str(table)
    assert headline.startswith(lead) == many
    assert headline.endswith(f"{ends} in L∞ 0.9, of these samples.") == many
    assert ("The screen is not enough for this model." in table.verdict) == many
    assert (table.to_dict()["indicators"]["verdict"] == table.verdict) == (table.indicators is not None)
    assert text.startswith(lead) == many
    assert f"drawn from 36 samples that the attacks left; of these 40 samples {ends} are right" in text
    assert INTERVAL_95 in text
    name = "audited by attack, these samples"
    (line,) = (line for line in table.cells() if line[0] == name)
    assert line[1:3] == [ends, ""]  # the sampling interval is of rows alone
    (record,) = (one for one in table.records() if one["attack"] == name)
    assert (record["these samples"], record["confidence"]) == ([audit.low, audit.high], 0.95)
    assert "95%" not in record
    assert f"{name} & {ends.replace('%', chr(92) + '%')} &  & " in table.to_latex()
    assert table.to_dict()["audits"][0]["of"] == "these samples"
    assert "audits" not in table.to_dict()["intervals"]
    fa.evaluation.report(table, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f"{ends} are right under all attacks" in page
    assert "Intervals but that of the audit hold for new samples" in page
    assert ("Robust accuracy before the audit 90.0% (95% interval" in page) != many
    assert f"\n% {audit}\n" in f"\n{table.to_latex()}"
    assert (lead in page) == many


def test_each_of_several_threats_has_an_audit() -> None:
    table = evaluate(Audit(across(range(20)), 30), ["fgsm", NOTHING], threat=[fa.Linf(0.1), fa.L2(0.9)])
    assert [(one.within, one.held) for one in table.audits] == [("L∞ 0.1", 36), ("L2 0.9", 0)]
    refuses("audit: expected one threat, got 2; read table.audits", lambda: table.audit)
    own = partial(fa.attacks.fgsm, threat=fa.L2(0.1))
    table = evaluate(Audit(own, 3), {"a": own, "b": "fgsm"}, threat=fa.Linf(0.1))
    assert table.audit.within == "L2 0.1"
    targets = 1 - torch.tensor(Y)  # the auditor reaches for those of the screen
    towards = partial(fa.attacks.fgsm, threat=fa.Linf(0.1), targets=targets)
    assert evaluate(Audit("fgsm:restarts=1", 30), towards, threat=None).audit.held == 36
    both = {"any": partial(fa.attacks.fgsm, threat=fa.Linf(0.1)), "towards": towards}
    assert len(evaluate(Audit("fgsm", 3), both, threat=None).audits) == 2


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"audit": 0}, "samples: expected an integer >= 1, got 0"),
        ({"audit": True}, "audit: expected a number of samples or an Audit, got True"),
        ({"audit": "autoattack"}, "audit: expected a number of samples or an Audit, got 'autoattack'"),
        ({"draws": 2}, "audit: expected draws=1, got 2"),
        ({"screen": None, "threat": None}, "audit: expected attacks within a radius, got none"),
        ({"threat": fa.Linf(math.inf), "screen": "fmn"}, "audit: expected attacks within a radius, got none"),
        ({"audit": 5, "threat": fa.L0(1), "screen": "sparse_rs"}, "audit: threat: expected one of Linf"),
        ({"audit": Audit("fgsm:radius=0.1")}, "audit: expected attacks within the radius that is bound"),
        ({"audit": 5, "criterion": fa.attacks.Beyond(9.0), "dataset": (DATA.x, torch.zeros(N, 2))},
         "audit: expected an attack that serves Beyond"),
        ({"audit": Audit("fgms")}, "did you mean 'fgsm'"),
        ({"audit": Audit(3)}, r"attacks\['audit'\]: expected a name or a function"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_the_work(asked: dict[str, Any], says: str) -> None:
    calls = list[Any]()
    asked = {"audit": Audit("fgsm", 3), "screen": across((), calls)} | asked
    refuses(says, evaluate, **asked)
    assert not calls


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"samples": 0}, "samples: expected an integer >= 1"),
        ({"confidence": 1.0}, r"confidence: expected a number in \(0, 1\), got 1.0"),
        ({"seconds": 0}, "seconds: expected a number above 0, got 0"),
        ({"seconds": math.nan}, "seconds: expected a finite number"),
    ],
)
def test_an_audit_checks_its_arguments(wrong: dict[str, Any], says: str) -> None:
    refuses(says, Audit, **wrong)
