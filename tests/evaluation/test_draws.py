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
from fastadv.errors import InputError
from fastadv.evaluation import Table, evaluate
from fastadv.evaluation.draws import Drawing, Draws
from tests.evaluation import nets
from tests.evaluation.test_resume import Counting


class Flips(nets.Threshold):
    """`Threshold` with its two logits swapped with probability p: in each sample, or for a whole batch."""

    def __init__(self, p: float, *, together: bool = False) -> None:
        super().__init__()
        self.p, self.together = p, together

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        swapped = torch.rand(1 if self.together else len(x), 1) < self.p
        return torch.where(swapped, -logits, logits)


def nothing(model, x, y, *, ids) -> AttackResult:
    """An attack that finds no example."""
    none = torch.zeros_like(y).bool()
    status = torch.full_like(y, int(Status.HELD))
    return AttackResult(x, none, status, y * 0.0, y * 0.0 + math.inf, 0, 0, none)


def many(n: int = 200) -> fa.data.ImageSet:
    x = torch.linspace(0.05, 0.45, n)
    return nets.pixels(x.tolist(), [0] * n)


def drawn(model: nn.Module, draws: int, **options) -> Table:
    settings = {"dataset": many(), "attacks": {"nothing": nothing}, "batch_size": 64}
    return evaluate(model, draws=draws, **settings | options)


def test_draws_by_hand():
    """Three classes, y = 0, four passes: all right, plurality, tie, never, and logits that are not finite."""
    a, b, c = [4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]
    nan = [math.nan, 0.0, 0.0]
    passes = torch.tensor([[a, a, a, b, a], [a, a, a, b, a], [a, b, b, b, a], [a, c, b, b, nan]])
    order = iter(passes)
    stub = SimpleNamespace(verdict=lambda x: next(order))
    found = Drawing(4).draw(stub, torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64))
    assert found["right"].tolist() == [4, 2, 2, 0, 3]
    assert found["voted"].tolist() == [True, True, False, False, True]
    verdict = torch.tensor([True, True, False, False, True])
    draws = Draws(4, **found, verdict=verdict)
    assert (draws.one_draw, draws.majority, draws.worst) == (11 / 20, 0.6, 0.2)
    other = Draws(4, **(found | {"right": torch.tensor([1, 4, 4, 4, 4])}), verdict=verdict)
    assert other.worst == 0.4  # of four that are right in every draw, the verdict denies two
    both = Draws.together([draws, other])
    assert both.right.tolist() == [1, 2, 2, 0, 3]
    assert (both.worst, both.majority) == (0, 0.6)


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.1, 0.7])
def test_the_chance_to_be_right_is_found(p):
    table = drawn(Flips(p), 40)
    for draws in (table.draws, table["nothing"].draws):
        assert draws.one_draw == pytest.approx(1 - p, abs=5 * math.sqrt(p * (1 - p) / 8000))
        assert draws.majority == pytest.approx(float(p < 0.5), abs=0.03)
        assert draws.worst < 0.05
    assert table.draws.verdict.equal(table.correct)
    row = table["nothing"]
    assert row.draws.verdict.equal(row.correct & ~row.broken)
    assert row.flags == ()


def test_a_sample_that_was_not_attacked_counts_as_wrong():
    """Its x would be right in nine of ten draws, but nothing shows what an attack would do."""

    def skipping(model, x, y, *, ids):
        out = nothing(model, x, y, ids=ids)
        out.status[ids % 2 == 0] = int(Status.ALREADY_WRONG)
        return out

    draws = drawn(Flips(0.1), 20, attacks={"skipping": skipping})["skipping"].draws
    assert not draws.right[::2].any()
    assert not draws.voted[::2].any()
    assert (draws.right[1::2] > 10).all()


class Poisoned(nets.Threshold):
    """Bright images have no finite logits."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.flatten(1)[:, :1] > 0.8, torch.nan, super().forward(x))


@pytest.mark.parametrize("batch_size", [2, 4, 6])
@pytest.mark.parametrize("draws", [2, 5])
def test_a_model_with_one_answer_has_the_same_figures_for_any_draws(draws, batch_size):
    attacks = {"near": nets.nearest, "held": partial(nets.nearest, spare=(1, 2)), "pgd": nets.pgd(0.25)}
    table = evaluate(Poisoned(), nets.DATA, attacks, batch_size=batch_size, draws=draws)
    alone = evaluate(Poisoned(), nets.DATA, attacks, batch_size=batch_size)
    assert table.correct.equal(alone.correct)
    assert table.worst_case == alone.worst_case
    for draws_of, accuracy in (
        (table.draws, alone.clean_accuracy),
        *((table[name].draws, alone[name].robust_accuracy) for name in attacks),
    ):
        assert (draws_of.one_draw, draws_of.majority, draws_of.worst) == pytest.approx((accuracy,) * 3)


def state() -> tuple:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


@pytest.mark.slow
def test_draws_follow_from_the_seed_and_leave_the_generators_alone():
    attacks = {"pgd": nets.pgd(0.1)}
    before = state()
    first = drawn(Flips(0.2), 3, attacks=attacks)
    assert state() == before
    torch.rand(3)
    again, other = drawn(Flips(0.2), 3, attacks=attacks), drawn(Flips(0.2), 3, attacks=attacks, seed=1)
    assert nets.timeless(first.to_dict()) == nets.timeless(again.to_dict())
    assert first["pgd"].draws.right.equal(again["pgd"].draws.right)
    assert not first.draws.right.equal(other.draws.right)
    assert not first.draws.right[:64].equal(first.draws.right[64:128])


@pytest.mark.slow
def test_one_draw_of_a_randomized_model_is_flagged():
    table = evaluate(Flips(0.3), many(), {"pgd": nets.pgd(0.1)})
    flag = [text for text in table["pgd"].flags if text.startswith("randomized: ")]
    assert len(flag) == 1
    assert "draws=20" in flag[0]
    assert flag[0] in str(table)
    assert table.draws is None
    assert table["pgd"].draws is None
    assert table.to_dict()["draws"] is None
    assert not evaluate(nets.Threshold(), many(), {"pgd": nets.pgd(0.1)})["pgd"].flags


@pytest.mark.parametrize("whole", [True, False])
def test_another_answer_in_a_smaller_batch_may_be_rounding(whole):
    class Sick(nets.Threshold):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).masked_fill(x.flatten(1)[:, :1] == 0.9, math.nan)

    def denies(model, x, y, *, ids):
        out = nets.nearest(model, x, y, ids=ids)
        return replace(out, status=torch.full_like(out.status, int(Status.ALREADY_WRONG)))

    table = evaluate(nets.Threshold() if whole else Sick(), nets.DATA, {"denies": denies}, indicators=False)
    assert bool(table["denies"].flags) == whole


@pytest.mark.slow
def test_the_table_tells_the_draws():
    table = drawn(Flips(0.2), 5, attacks={"pgd": nets.pgd(0.1), "none": nothing})
    told = json.loads(json.dumps(table.to_dict()))
    assert told["draws"] == table.draws.to_dict()
    assert [*told["draws"]] == ["count", "one_draw", "majority", "worst"]
    for one, row in zip(told["attacks"], table.rows, strict=True):
        assert one["draws"] == row.draws.to_dict()
    cells = table.details()["each sample classified 5 times"]
    assert cells[0] == ["attack", "one draw", "majority", "worst"]
    assert [line[0] for line in cells[1:]] == ["none", "pgd", "none", "worst of all"]
    alone = drawn(Flips(0.2), 2).details()["each sample classified 2 times"]
    assert [line[0] for line in alone] == ["attack", "none", "nothing"]
    assert cells[1][1] == f"{100 * table.draws.one_draw:.1f}%"
    assert "each sample classified 5 times" in str(table)
    assert "worst: correct in the verdict" in str(table)


@pytest.mark.slow
def test_a_stopped_evaluation_goes_on_with_the_same_draws(tmp_path):
    settings = {"model": Flips(0.3), "draws": 4, "seed": 2, "batch_size": 2}
    with pytest.raises(KeyboardInterrupt):
        nets.run(tmp_path, attacks={"near": Counting(stop=2)}, **settings)
    again = Counting()
    table = nets.run(tmp_path, attacks={"near": again}, resume=True, **settings)
    assert again.calls == [[4, 5]]
    whole = nets.run(None, attacks={"near": Counting()}, **settings)
    nets.assert_same(table, whole)
    for name in ("right", "voted", "verdict"):
        assert getattr(table["near"].draws, name).equal(getattr(whole["near"].draws, name))
        assert getattr(table.draws, name).equal(getattr(whole.draws, name))
    for other in ({"draws": 5}, {"seed": 3}, {"draws": 1}):
        with pytest.raises(InputError, match=f"another .*{next(iter(other))}"):
            nets.run(tmp_path, attacks={"near": again}, resume=True, **settings | other)


@pytest.mark.parametrize("bad", [0, -1, True, 2.0, "3", None])
def test_bad_draws_and_seeds_are_named(bad):
    with pytest.raises(InputError, match="draws: expected an integer >= 1"):
        drawn(nets.Threshold(), bad)
    if bad != 0:
        with pytest.raises(InputError, match="seed: expected"):
            drawn(nets.Threshold(), 2, seed=bad)
