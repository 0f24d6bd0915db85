"""A success is what the model as given says at the end, whatever the search took for one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import AttackResult, Status, bim, core, mim, pgd
from fastadv.attacks.core import samples as staying
from fastadv.attacks.core.task import Task
from fastadv.attacks.core.trial import Trial
from fastadv.engine import freeze
from fastadv.threat import L2, Linf, Threat, Through

from ..nets import Case, Noisy, images, labels, linear, mlp


class Window(nn.Module):
    """Class 1 inside 0.57 < s < 0.61; in bfloat16 for every s > 0.57, and the surer the larger s."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        s = x.flatten(1)[:, 0] * self.one
        margin = s - 0.57 if s.dtype == torch.bfloat16 else 0.02 - (s - 0.59).abs()
        return torch.stack([torch.zeros_like(margin), 20 * margin], 1)


@pytest.mark.slow
@pytest.mark.parametrize("ascent", [pgd, bim, mim])
@pytest.mark.parametrize("stop_early", [True, False])
def test_a_success_on_a_randomized_model_is_what_a_fresh_pass_says(
    ascent: Callable[..., AttackResult], stop_early: bool
) -> None:
    model, x = Noisy(0.3, net=linear(3, 48)), images(600, (3, 4, 4), dtype=torch.float32)
    y, inside = labels(model.net, x), Linf(0.1)
    torch.manual_seed(1)
    out = ascent(model, x, y, inside, steps=20, stop_early=stop_early)
    assert [flag.partition(": ")[0] for flag in out.flags] == ["denied"]
    assert "denied: " in repr(out)
    # success of those attacked is what a fresh call says, to four standard deviations of as many coins
    attacked = out.correct
    fresh = torch.stack([model(out.x_adv).argmax(1) != y for _ in range(20)]).float().mean(0)
    apart = (out.success.float() - fresh)[attacked]
    assert abs(float(apart.mean())) < 4 * 0.5 / len(apart) ** 0.5
    assert (out.backwards >= 20 * len(apart)) == (not stop_early)
    assert 0.2 < float(out.success.float().mean()) < 0.95


@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.usefixtures("asked_alone")
def test_a_success_of_the_copy_alone_is_none(stop_early, restarts, monkeypatch):
    """In the segment of steps 5 to 8 the search meets true successes and then false ones of higher rank."""
    monkeypatch.setattr(staying, "may_leave", lambda step, device: (step + 1) & step == 0)
    model, x = Window(), torch.full((5, 1, 2, 2), 0.5)
    y = torch.zeros(5, dtype=torch.long)
    frozen = freeze(model, "bf16")
    out = pgd(
        frozen, x, y, Linf(0.3), steps=10, step_size=0.02, random_start=False, stop_early=stop_early,
        restarts=restarts,
    )  # fmt: skip
    assert not frozen.exact
    assert torch.equal(model(out.x_adv).argmax(1) != y, out.success)
    denied = int((~out.success).sum())
    assert [flag[:9] for flag in out.flags] == [f"denied: {denied}"] * bool(denied)
    assert out.backwards <= restarts * 10 * 5


class Elsewhere(Window):
    """Class 1 where the first coordinate is above 0.57; from 0.55 on, but in bfloat16, the next one."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = (x.flatten(1) * self.one)[:, :2].unbind(1)
        if first.dtype != torch.bfloat16:
            first = torch.where(first > 0.55, second + 0.05, first)
        return torch.stack([torch.zeros_like(first), first - 0.57], 1)


@pytest.mark.parametrize(
    "threat", [Linf(0.3), Through(lambda x, t: t, Linf(0.3), still=torch.clone)], ids=str
)
@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.usefixtures("asked_alone")
def test_what_the_model_denies_of_its_copy_holds(stop_early: bool, threat: Threat) -> None:
    """Whether it is denied as it leaves or at the end; by a loss that tells nothing of the copy."""
    model, x, y = Elsewhere(), torch.full((5, 1, 2, 2), 0.5), torch.zeros(5, dtype=torch.long)
    x[3:] = 0.1  # too far
    frozen, loss = freeze(model, "bf16"), lambda logits, y, targets: logits[:, 1] - logits[:, 0]
    options = {"steps": 4, "step_size": 0.1, "random_start": False, "stop_early": stop_early, "loss": loss}
    out = pgd(frozen, x, y, threat, **options)
    assert not frozen.exact
    assert out.status.tolist() == [Status.HELD] * 5
    assert not (model(out.x_adv).argmax(1) != y).any()
    assert out.flags[0].startswith("denied: 3 of the successes")
    assert out.backwards == 4 * 5


def test_a_nan_row_is_no_success_whatever_its_label(attack: Case) -> None:
    """argmax of a NaN row is its first NaN: for another label than that it would pass for a success."""
    net = mlp()

    def trap(x: Tensor) -> Tensor:
        return torch.where(x.flatten(1)[:, :1] > 0.3, torch.tensor([1.0, torch.nan, 2.0]).double(), net(x))

    x = images(30)
    x.flatten(1)[:, 0] = 0.29
    y = labels(net, x)
    assert (y != 1).any()
    for targets in (None, torch.where(y == 1, 0, 1)):
        out = attack(trap, x, y, Linf(0.1), **({} if targets is None else {"targets": targets}))
        fresh = trap(out.x_adv)
        assert fresh.isfinite().all(1)[out.success].all()
        assert (out.status[~fresh.isfinite().all(1)] == Status.FAILED).all()
        assert (fresh.argmax(1)[out.success] != y[out.success]).all()


def test_an_already_wrong_sample_that_turns_right_is_no_success() -> None:
    x, y, first = images(4, dtype=torch.float32), torch.tensor([0, 0, 1, 1]), [1.0]

    def model(x: Tensor) -> Tensor:
        """Decides for class 1 in the first call, and for class 0 in all others."""
        return torch.stack(
            [torch.zeros(len(x)), (first.pop() if first else -1.0) + 0 * x.flatten(1).sum(1)], 1
        )

    out = pgd(model, x, y, Linf(0.1), steps=2)
    assert out.status.tolist() == [Status.HELD] * 2 + [Status.BROKEN] * 2
    assert out.correct.tolist() == [False] * 2 + [True] * 2
    assert out.flags[0].startswith("denied: 2 ")


class Quantized(nn.Module):
    """Two classes by the first coordinate, which passes in steps of 0.3 where no gradient is followed."""

    def forward(self, x: Tensor) -> Tensor:
        s = x.flatten(1)[:, 0]
        s = s if torch.is_grad_enabled() else (s / 0.3).floor() * 0.3
        return torch.stack([s - 0.5, 0.5 - s], 1)


def test_the_clean_verdict_is_one_without_a_gradient() -> None:
    """Of a function: where the first gradient is taken at x, one pass of a module gives both."""
    x = torch.tensor([0.7, 0.55, 0.45, 0.3])[:, None].expand(-1, 4).clone()
    y = torch.tensor([0, 0, 0, 1])
    for attack in (bim, pgd):
        out = attack(Quantized().forward, x, y, Linf(0.2), steps=4)
        with torch.no_grad():
            right, wrong = Quantized()(x).argmax(1) == y, Quantized()(out.x_adv).argmax(1) != y
        assert right.tolist() == [True, False, False, True]
        assert torch.equal(out.correct, right)
        assert torch.equal(out.success, wrong)


def test_ties_are_no_second_answer() -> None:
    """A model of equal logits decides for class 0, by a margin of zero, whenever it is asked."""
    x, y = images(6, dtype=torch.float32), torch.tensor([0, 1, 2, 0, 1, 2])
    out = bim(lambda x: (0 * x.flatten(1).sum(1, keepdim=True)).expand(-1, 3), x, y, Linf(0.1), steps=2)
    assert out.success.tolist() == (y != 0).tolist()
    assert out.flags == ()
    assert out.zero_gradient.tolist() == (y == 0).tolist()


def test_what_the_rounding_of_a_larger_batch_denies_holds() -> None:
    """Of 12 samples three are broken by a small step, by less than the rounding of a large batch."""

    def model(x: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0]
        return torch.stack([0.6 + 0 * first + 1e-8 * (len(x) > 8), first], 1)

    x = torch.full((12, 1, 4, 4), 0.2, dtype=torch.float64)
    x[:3, 0, 0, 0] = 0.55 + 5e-9
    y = torch.zeros(12, dtype=torch.long)
    y[3:7] = 1  # wrong already, so that eight are attacked
    out = bim(model, x, y, Linf(0.2), steps=4, step_size=0.05)
    assert torch.equal(model(out.x_adv).argmax(1) != y, out.success)
    assert out.status[:3].tolist() == [Status.HELD] * 3
    assert out.flags[0].startswith("denied: 3 ")
    assert out.backwards == 8 * 4 - 3 * 2  # three of eight left after one step


def test_only_what_rounding_denies_goes_further_from_x() -> None:
    """Of eight minima three are successes of small batches alone; four more samples are wrong already."""

    def model(x: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0]
        return torch.stack([0.6 + 0 * first + 1e-8 * (len(x) > 8), first], 1)

    def rule(search: core.Search) -> None:
        points = search.x.clone()
        points[:, 0] = torch.tensor([0.6 + 5e-9] * 3 + [0.7] * 5, dtype=torch.float64)
        search.decide(points)

    x, y = torch.full((12, 4), 0.2, dtype=torch.float64), (torch.arange(12) >= 8).long()
    out = core.run(model, x, y, L2(torch.inf), rule, minimum=True)
    assert out.success.all()
    assert (out.x_adv[:3, 0] > 0.6 + 1e-8).all()
    assert torch.equal(out.x_adv[3:8, 0], torch.full((5,), 0.7, dtype=torch.float64))


def test_a_minimum_that_is_denied_does_not_leave_the_radius() -> None:
    """What is a success begins a four hundredth farther from x than the point that was offered."""
    x, y = torch.full((2, 4), 0.2, dtype=torch.float64), torch.zeros(2, dtype=torch.long)

    def model(x: Tensor) -> Tensor:
        return torch.stack([0.601 + 0 * x[:, 0], x[:, 0]], 1)

    def rule(search: core.Search) -> None:
        search.offer(search.x + torch.tensor([0.4, 0, 0, 0]), torch.tensor([True, True]))

    out = core.run(model, x, y, L2(torch.tensor([0.4, 0.5])), rule, minimum=True)
    assert out.status.tolist() == [Status.HELD, Status.BROKEN]
    assert torch.equal(out.x_adv[0], x[0])


@pytest.mark.parametrize("wrong", [0, 30, 600])
def test_a_share_of_flat_samples_is_one_of_those_that_were_right(wrong: int) -> None:
    for flat, right, says in ((6, 30, "every gradient was zero on 6 of 30 samples"), (6, 300, "")):
        place, some = torch.arange(right + wrong), torch.zeros(right + wrong)
        correct = place < right
        status = torch.where(correct, Status.HELD.value, Status.ALREADY_WRONG.value)
        zero = (place < flat) | ~correct
        lead = AttackResult(some[:, None], ~correct, status, some, some, 0, 0, zero_gradient=zero).lead
        assert says in lead
        assert bool(lead) == bool(says)


def test_what_is_denied_on_the_surface_of_the_ball_stays_there() -> None:
    """Further from x it were outside; the other point lies within."""
    x, y = torch.full((2, 4), 0.5), torch.zeros(2, dtype=torch.long)
    task = Task.of(lambda x: torch.stack([1 + 0 * x[:, 0], x[:, 0]], 1), x, y, Linf(0.1))
    trial, x_adv = Trial(task), torch.tensor([0.6, 0.55])[:, None].expand(-1, 4).clone()
    before = x_adv.clone()
    trial.overshoot(x_adv, torch.tensor([True, True]), trial.verdict(x_adv))
    assert torch.equal(x_adv[0], before[0])
    assert (x_adv[1] > before[1]).all()
    assert not trial.outside.any()
