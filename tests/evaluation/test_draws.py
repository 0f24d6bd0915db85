"""Several verdicts on each sample: models whose chance to be right is known, and figures by hand."""

import json
import math
import random
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import AttackResult, Status
from fastadv.attacks.core.flags import denied_flags
from fastadv.evaluation import Curve, Row, Table, clopper_pearson, evaluate
from fastadv.evaluation.draws import Draws
from fastadv.evaluation.row import Group
from fastadv.measure import outcome
from fastadv.measure.drawing import SHARED, Drawing
from tests.attacks.contract.conftest import FEW, shorten
from tests.evaluation import nets
from tests.refusals import refuses


class Flips(nets.Threshold):
    """`Threshold` with its two logits swapped with probability p: in each sample, or for a whole batch."""

    def __init__(self, p: float, *, together: bool = False) -> None:
        super().__init__()
        self.p, self.together = p, together

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return torch.where(torch.rand(1 if self.together else len(x), 1) < self.p, -logits, logits)


def nothing(model, x, y, *, ids) -> AttackResult:
    none = torch.zeros_like(y).bool()
    status = torch.full_like(y, int(Status.HELD))
    return AttackResult(x, none, status, y * 0.0, y * 0.0 + math.inf, 0, 0, none)


def many(n: int = 200) -> fa.data.ImageSet:
    return nets.pixels(torch.linspace(0.05, 0.45, n).tolist(), [0] * n)


def drawn(model: nn.Module, draws: int, **options) -> Table:
    settings = {"dataset": many(), "attacks": {"nothing": nothing}, "batch_size": 64}
    return evaluate(model, draws=draws, **settings | options)


def test_draws_by_hand():
    """Three classes, y = 0, four passes: all right, plurality, tie, never, and logits that are not finite."""
    a, b, c = [4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]
    nan = [math.nan, 0.0, 0.0]
    passes = torch.tensor([[a, a, a, b, a], [a, a, a, b, a], [a, b, b, b, a], [a, c, b, b, nan]])
    parts = iter([part for logits in passes for part in logits.split(SHARED)])  # passes of a few samples
    stub = SimpleNamespace(verdict=lambda x: next(parts))
    counted = Drawing(4).draw(stub, torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64), 0)
    assert counted["right"].tolist() == [4, 2, 2, 0, 3]
    assert counted["early"].tolist() == [2, 2, 2, 0, 2]
    assert counted["voted"].tolist() == [True, True, False, False, True]
    verdict = torch.tensor([True, True, False, False, True])
    draws = Draws(4, **counted, verdict=verdict)
    assert (draws.one_draw, draws.majority, draws.worst) == (11 / 20, 0.6, 0.2)
    other = {"right": torch.tensor([1, 4, 4, 4, 4]), "early": torch.tensor([0, 2, 2, 2, 2])}
    other = Draws(4, **(counted | other), verdict=verdict)
    assert other.worst == 0.4  # of four that are right in every draw, the verdict denies two
    both = Draws.together([draws, other])
    assert both.right.tolist() == [1, 2, 2, 0, 3]
    assert (both.worst, both.majority) == (0, 0.6)


class Doubtful(nets.Threshold):
    """Dark images are right in a share of all passes, light ones never."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        wrong = (torch.rand(len(x), 1) > self.share) & (logits[:, :1] > 0)
        return torch.where(wrong, -logits, logits)


class Moves(nn.Module):
    """A random shift or a random size, one for all images of a pass."""

    def __init__(self, sizes: bool) -> None:
        super().__init__()
        self.net, self.sizes = fa.models.create("softmax", shape=(1, 8, 8), classes=2, seed=0), sizes

    def forward(self, x: Tensor) -> Tensor:
        if self.sizes:
            x = nn.functional.interpolate(x, size=int(torch.randint(3, 9, (1,))))
            return self.net(nn.functional.pad(x, (0, 8 - x.shape[3], 0, 8 - x.shape[2])))
        return self.net(x.roll(tuple(torch.randint(-2, 3, (2,)).tolist()), (2, 3)))


def squares(n: int = 60) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, fa.models.create("softmax", shape=(1, 8, 8), classes=2, seed=0)(x).argmax(1)


# models, data, and the chance to be right where it is known
RANDOM = {
    "each sample": (Flips(0.4), many(60), 0.6),
    "a whole pass": (Flips(0.4, together=True), many(60), 0.6),
    "seldom right": (Doubtful(0.1), many(60), 0.1),
    "shifts": (Moves(sizes=False), squares(), None),
    "sizes": (Moves(sizes=True), squares(), None),
    "dropout": (nn.Sequential(nn.Dropout(0.4).train(), Moves(sizes=False)), squares(), None),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_an_attack_that_changes_nothing_leaves_what_there_was(kind):
    model, data, chance = RANDOM[kind]
    null = partial(fa.attacks.pgd, threat=fa.Linf(1e-7), steps=2, eot=4)
    attacks = {"null": null, "again": partial(fa.attacks.square, threat=fa.Linf(1e-7), queries=10)}
    table = drawn(model, 8, dataset=data, attacks=attacks, seed=3, indicators=False)
    assert 0.02 < table.clean_accuracy < 0.98
    assert chance is None or table.clean_accuracy == pytest.approx(chance, abs=0.12)
    for row in table.rows:
        assert row.draws.right.equal(table.draws.right)
        assert (row.robust_accuracy, row.success_rate) == (table.clean_accuracy, 0)
    assert table.worst_case == pytest.approx(table.clean_accuracy, abs=0.05)
    main, (_, *cells) = table.cells()[1:], table.details()["each sample classified 8 times"]
    assert [line[:2] for line in main] == [line[:2] for line in cells]


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["fgsm", "pgd", "square", "autoattack"])
def test_every_sample_that_is_right_in_some_draw_is_attacked(attack, monkeypatch):
    """One verdict finds nine of ten wrong."""
    seen, write = list[AttackResult](), outcome.write
    monkeypatch.setattr(outcome, "write", lambda *args: (seen.append(args[1]), write(*args)))
    brief = {"autoattack": {"version": ["square"]}, "square": {"queries": 30}, "pgd": {"steps": 9}}
    run = partial(getattr(fa.attacks, attack), threat=fa.Linf(0.5), **brief.get(attack, {}))
    shorten(monkeypatch, FEW)
    table = drawn(Doubtful(0.1), 10, dataset=many(40), attacks={"one": run}, indicators=False)
    right = table.draws.right > 0
    assert 10 < int(right.sum()) < 40
    assert int(table.correct.sum()) < 10
    (out,) = seen
    assert not (out.status[right] == int(Status.ALREADY_WRONG)).any()
    assert out.correct[right].all()


def test_what_is_wrong_in_every_draw_is_left_alone() -> None:
    data = nets.pixels([0.1] * 8, [1] * 8)  # class 0, whatever is drawn
    attack = partial(fa.attacks.pgd, threat=fa.Linf(0.1), steps=2)
    assert drawn(nets.Threshold(), 3, dataset=data, attacks={"pgd": attack})["pgd"].backwards == 0


def test_the_worst_of_several_is_no_luck():
    """Of ten attacks that find nothing, each by a model that is right in half of all draws."""
    votes = (torch.rand(10, 400, 20, generator=torch.Generator().manual_seed(0)) < 0.5).long()
    yes = torch.ones(400, dtype=torch.bool)
    several = [Draws(20, one.sum(1), yes, yes, one[:, :10].sum(1)) for one in votes]
    assert Draws.together(several).one_draw == pytest.approx(0.5, abs=0.03)
    assert torch.stack([one.right for one in several]).amin(0).double().mean() < 0.35 * 20
    worst = replace(several[0], right=several[0].right * 0, early=several[0].early * 0)
    assert Draws.together([*several, worst]).one_draw == pytest.approx(0, abs=0.01)


@pytest.mark.slow
def test_table_and_verdict_tell_the_draws():
    table = drawn(Flips(0.3), 5, attacks={"pgd": partial(nets.pgd(0.01), eot=4)})
    one, worst = (f"{100 * share:.1f}%" for share in (table.worst_case, table["pgd"].draws.worst))
    assert table.worst_case == table["pgd"].robust_accuracy == table.to_dict()["worst_case"]
    assert f"Randomized: at most {one} of one draw, {worst} worst of 5 draws (eot=4)." in table.verdict
    table = drawn(Flips(0.3), 5, attacks={"pgd": nets.pgd(0.01), "still": nothing})
    assert table.headline.endswith(f"At most {100 * table.worst_case:.1f}% of one draw.")
    as_json = json.loads(json.dumps(table.to_dict()))
    assert as_json["draws"] == table.draws.to_dict()
    assert [row["draws"] for row in as_json["attacks"]] == [row.draws.to_dict() for row in table.rows]
    cells = table.details()["each sample classified 5 times"]
    assert cells[0] == ["attack", "one draw", "majority", "worst of 5"]
    assert [line[0] for line in cells[1:]] == ["none", "pgd", "still", "worst of all"]
    assert cells[1][1] == f"{100 * table.draws.one_draw:.1f}%"


def state() -> tuple:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


SEEDS = set[int]()  # of which passes drew


class Doubts(nn.Module):
    """Two classes and "none", by noise of two generators; some logits are not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) / 8)

    def forward(self, x: Tensor) -> Tensor:
        SEEDS.add(torch.initial_seed())
        noise = torch.randn(len(x), 3) + torch.tensor([np.random.randn(), 0.0, 0.0])
        return (x.flatten(1) - 0.5) @ self.weight + noise.masked_fill(torch.rand(len(x), 1) < 0.1, math.nan)


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [None, True])
def test_every_figure_follows_from_the_seed_and_the_generators_stay(freeze):
    near = partial(fa.attacks.pgd, threat=fa.Linf(0.02), steps=40, stop_early=False)
    attacks = {"pgd": near, "again": near}
    attacks["square"] = partial(fa.attacks.square, threat=fa.Linf(0.1), queries=9)
    options = {"dataset": squares(40), "attacks": attacks, "criterion": fa.attacks.Unless(2)}
    options["freeze"] = freeze

    def texts(seed: int) -> dict[str, str]:
        table = drawn(Doubts(), 3, seed=seed, batch_size=16, **options)
        figures = {name: str([getattr(table, name)]) for name in ("correct", "failed", "indicators")}
        for row in (table, *table.rows):
            name = getattr(row, "name", "clean")
            figures |= {f"{name} {part}": str(value) for part, value in row.sums.items()}
            figures |= {f"{name} {part}": str(value) for part, value in vars(row.draws).items()}
        return figures | {"all": str(nets.timeless(table.to_dict()))}

    before, first = state(), texts(2)
    assert state() == before
    torch.rand(3), np.random.rand(3)
    assert texts(2) == first
    other = texts(3)
    same = {name for name in first if first[name] == other[name]}
    assert {name.split()[-1] for name in same} <= {"count", "indicators"}
    assert len({first[f"{name} right"] for name in ("clean", "pgd", "again", "square")}) == 4


def test_no_two_parts_of_an_evaluation_have_the_same_noise():
    """Verdict, draws, and each attack on each batch; what counts at x and at each x_adv has one noise."""
    seen = []

    def asks(model, x, y, *, ids):
        outside = {*SEEDS}
        SEEDS.clear()
        model(x)
        seen.append((outside, {*SEEDS}))
        SEEDS.clear()
        return nothing(model, x, y, ids=ids)

    SEEDS.clear()
    drawn(Doubts(), 3, dataset=squares(8), attacks={"one": asks, "two": asks}, batch_size=4, indicators=False)
    inside = [one for _, one in seen]
    assert [len(one) for one in inside] == [1, 1, 1, 1]
    assert len(set.union(*inside)) == 4
    (before, one), (between, two), (later, _), _ = seen
    assert (len(before), len(between), len(later)) == (2, 2, 4)
    # what an attack returns is judged in its own noise, and drawn in that of x
    assert between - before == one
    assert later & before == between & before
    assert later & set.union(*inside) == two
    assert not before & set.union(*inside)


@pytest.mark.slow
def test_one_draw_of_a_randomized_model_is_flagged():
    table = evaluate(Flips(0.3), many(), {"pgd": nets.pgd(0.1)})
    assert any(text.startswith("denied: ") for text in table["pgd"].flags)
    (flag,) = [text for text in table["pgd"].flags if text.startswith("randomized: ")]
    assert "draws=20" in flag
    assert flag in str(table)
    assert (table.draws, table["pgd"].draws, table.to_dict()["draws"]) == (None,) * 3
    assert not evaluate(nets.Threshold(), many(), {"pgd": nets.pgd(0.1)})["pgd"].flags


def test_bad_draws_and_seeds_are_named():
    for bad in (0, -1, True, 2.0, "3", None):
        refuses("draws: expected an integer >= 1", drawn, nets.Threshold(), bad)
        if bad != 0:
            refuses("seed: expected", drawn, nets.Threshold(), 2, seed=bad)


def test_shares_of_samples_are_rounded_to_their_number():
    """29 / 100 * 100 is less than 29."""
    right = torch.arange(100) < 29
    cost = {"failed": 0, "unmoved": 0, "forwards": 0, "backwards": 0, "seconds": 0.0}
    row = Row("one", right | ~right, ~right, right * math.inf, **cost)
    assert row.accuracy_interval == clopper_pearson(29, 100)
    drawn = replace(row, draws=Draws(2, 2 * right, right, right, right.long()))
    assert Group(None, (drawn,)).right([drawn]) == 29
    # right more often at x_adv than at x, by luck
    assert replace(drawn, clean=Draws(2, right.long(), right, right, right.long())).success_rate == 0
    title, head, _, line = str(drawn.draws).splitlines()
    assert (title, head) == ("each sample classified 2 times", "one draw  majority  worst of 2")
    assert line.split() == ["29.0%"] * 3
    low, high = Curve(np.zeros(1), np.array([0.29])).band(100)
    assert (low.accuracy[0], high.accuracy[0]) == clopper_pearson(29, 100)


def test_of_a_search_that_stops_early_no_flag_says_that_it_went_to_the_last_step() -> None:
    early = partial(fa.attacks.pgd, threat=fa.Linf(0.1), steps=20, stop_early=True)
    flags = drawn(Flips(0.3), 3, attacks={"early": early}, dataset=many(60)).rows[0].flags
    assert any(flag.startswith("the model gives two answers") for flag in flags)
    assert not any("last step" in flag for flag in flags)


def test_no_luck_of_a_draw_ends_a_search_of_any_kind_or_keeps_it_from_a_sample() -> None:
    pgd = partial(fa.attacks.pgd, threat=fa.Linf(0.1), steps=20)
    attacks = {"whole": pgd, "early": partial(pgd, stop_early=True), "own": lambda *batch: pgd(*batch)}
    attacks["mean"] = partial(pgd, eot=2)
    model, frozen = Flips(0.3), fa.freeze(Flips(0.3))
    rows = drawn(model, 3, attacks=attacks, dataset=many(60), indicators=False).rows
    for row in rows:
        assert row.backwards >= 20 * (1 + (row.name == "mean")) * int((row.clean.right > 0).sum())
    drawn(frozen, 3, attacks=attacks, dataset=many(6), indicators=False)
    assert not frozen.patient


def test_what_batches_deny_is_counted_together() -> None:
    def denies(model, x, y, *, ids) -> AttackResult:
        return replace(nothing(model, x, y, ids=ids), flags=denied_flags(2))

    (row,) = evaluate(nets.Threshold(), many(), {"denies": denies}, batch_size=64).rows
    assert [flag for flag in row.flags if flag.startswith("denied")] == list(denied_flags(8))
