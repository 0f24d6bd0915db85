"""What the core does for every rule: which point is kept, who leaves, what counts, and what is proved."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import Status, pgd
from fastadv.attacks.core import asks
from fastadv.attacks.core import samples as staying
from fastadv.attacks.core.record import Rows, Steps
from fastadv.attacks.core.run import run
from fastadv.attacks.core.search import Search
from fastadv.engine import Plain, freeze
from fastadv.losses import loss_value
from fastadv.threat import L0, L2, Linf, Threat

from ..nets import images, labels, mlp


class Line(nn.Module):
    """Three classes by the first coordinate s of each sample: class 1 above 0.5, class 2 above 0.8."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        s = x.flatten(1)[:, 0] * self.one
        return torch.stack([torch.zeros_like(s), s - 0.5, 4 * s - 2.9], 1)


class Hole(Line):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where((x.flatten(1)[:, :1] - 0.9).abs() < 0.01, torch.nan, super().forward(x))


class Surer(Line):
    """In bfloat16, by so much, of class 1."""

    def __init__(self, more: float) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits + torch.tensor([0.0, self.more, 0.0]) * (logits.dtype == torch.bfloat16)


def at(search: Search, *values: float) -> Tensor:
    """Candidates [n, C, ...] whose first coordinate has the values."""
    points = search.x.unsqueeze(1).repeat_interleave(len(values), 1)
    points.flatten(2)[:, :, 0] = torch.tensor(values, dtype=points.dtype)
    return points


def on_line(rule: Callable[[Search], None], *, size: int = 3, y: int = 0, **options: Any) -> Any:
    x = torch.full((size, 4), 0.2)
    threat: Threat = options.pop("threat", Linf(0.7))
    model = options.pop("model", None) or Line()
    return run(model, x, torch.full((size,), y), threat, rule, **options)


Moves = list[tuple[Any, ...]]  # (method, first coordinates, other arguments ...)


def playing(moves: Moves) -> Callable[[Search], None]:
    def rule(search: Search) -> None:
        for method, values, *args in moves:
            points = at(search, *values)
            args = [torch.full((len(points),), value) if isinstance(value, bool) else value for value in args]
            getattr(search, method)(points if len(values) > 1 else points[:, 0], *args)

    return rule


class Sure(Line):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.tensor([500.0, 0.0, 0.0])


OFFERS: Moves = [("offer", (0.6,), True), ("offer", (0.55,), False), ("finish", (0.3,))]
OUTSIDE: Moves = [("offer", (0.75,), True)]
KEPT: list[tuple[str, Moves, dict[str, Any], float, Status]] = [
    ("the largest loss", [("decide", (0.3, 0.9, 0.6))], {"loss": "ce"}, 0.9, Status.BROKEN),
    ("the nearest success", [("decide", (0.9, 0.6, 0.3, 0.7))], {"minimum": True}, 0.6, Status.BROKEN),
    ("an offer", OFFERS, {}, 0.6, Status.BROKEN),
    ("an offer of a minimum", OFFERS, {"minimum": True}, 0.6, Status.BROKEN),
    ("any success over an offer", [("offer", (0.6,), True), ("decide", (0.55,))], {}, 0.55, Status.BROKEN),
    ("no offer outside", OUTSIDE, {"threat": Linf(0.5)}, 0.2, Status.HELD),
    ("no nearest outside", OUTSIDE, {"threat": Linf(0.5), "minimum": True}, 0.2, Status.HELD),
    ("no single one", [("decide", (0.75,))], {"threat": Linf(0.5), "minimum": True}, 0.2, Status.HELD),
    ("none of two", [("decide", (0.75, 0.75))], {"threat": Linf(0.5), "minimum": True}, 0.2, Status.HELD),
    ("the margin of sure ones", [("decide", (0.3, 0.45, 0.4)), ("gradient", (0.42,), "ce")],
     {"model": Sure(), "loss": "ce"}, 0.45, Status.HELD),
    ("x without logits", [("decide", (0.9,)), ("finish", (0.9,))],
     {"model": Hole(), "loss": "margin", "stop_early": True}, 0.2, Status.FAILED),
]  # fmt: skip


class TestWhichPointIsKept:
    @pytest.mark.parametrize(("what", "moves", "options", "place", "status"), KEPT, ids=[k[0] for k in KEPT])
    def test_kept(self, what, moves, options, place, status):
        out = on_line(playing(moves), **options)
        assert torch.equal(out.x_adv[:, 0], torch.full((3,), place))
        assert out.status.tolist() == [status] * 3
        assert out.flags == () or status == Status.FAILED
        assert out.loss.isfinite().all()
        assert status != Status.BROKEN or out.distance.allclose(torch.tensor(place - 0.2))

    @pytest.mark.parametrize("value", [-1e30, -torch.inf, torch.nan])
    def test_a_success_before_a_failure_of_larger_loss(self, value: float) -> None:
        """The loss may prefer failures, and may be NaN at a success."""
        loss = lambda z, y, targets: torch.where(z[:, 1] > 0, value, -z[:, 1] + 5)  # noqa: E731
        places = (0.3, 0.6, 0.4)
        for moves in ([("score", places, loss)], [("score", (place,), loss) for place in places]):
            out = on_line(playing(moves), loss=loss)
            assert out.success.all()
            assert torch.equal(out.x_adv[:, 0], torch.full((3,), 0.6))

    def test_one_radius_is_no_other_samples(self) -> None:
        out = on_line(playing(OUTSIDE), minimum=True, threat=Linf(torch.tensor([0.5, 0.6, 0.5])))
        assert out.success.tolist() == [False, True, False]

    @pytest.mark.parametrize("other", [None, "margin", lambda logits, y, targets: 1e6 - logits[:, 1]])
    def test_the_order_is_that_of_the_plan(self, other: Any) -> None:
        """Points looked at with another loss, or none, compete by the loss that the attack maximizes."""
        logits, y = Line()(torch.tensor([[0.3]])).detach(), torch.tensor([0])
        asked = loss_value(logits, y, "ce" if other is None else other)

        def rule(search: Search) -> None:
            search.score(at(search, 0.25)[:, 0], other)
            search.gradient(at(search, 0.45)[:, 0])
            for look in (search.score, search.gradient):
                torch.testing.assert_close(look(at(search, 0.3)[:, 0], other).loss, asked.expand(3))
            search.score(at(search, 0.4, 0.35), other)
            search.jacobian(at(search, 0.1)[:, 0], torch.ones(len(search.x), 1, 3))

        assert torch.equal(on_line(rule, loss="ce").x_adv[:, 0], torch.full((3,), 0.45))

    @pytest.mark.parametrize("way", ["candidates", "points", "steps"])
    def test_losses_that_lead_elsewhere_do_not_rank(self, way: str) -> None:
        """Class 1 is nearer at 0.6, and the criterion is met further at 0.9, where class 2 is first."""

        def rule(search: Search) -> None:
            search.aims = torch.ones_like(search.y)
            points = at(search, 0.6, 0.9)
            for place in [points] if way == "candidates" else points.unbind(1):
                if way == "steps":
                    search.rows.points, search.rows.step_size = place.clone(), 0.01
                    search.ascend()
                else:
                    search.score(place, "margin")

        assert torch.equal(on_line(rule, loss="margin", rows=Steps).x_adv[:, 0], torch.full((3,), 0.9))

    @pytest.mark.parametrize("restarts", [1, 2])
    def test_the_last_point_alone_is_passed_once(self, restarts: int) -> None:
        out = on_line(playing([("finish", (0.6,))]), model=Plain(Line()), restarts=restarts)
        assert out.success.all()
        assert out.forwards == 3 + (3 + 3 if restarts == 2 else 0) + 3

    def test_a_last_point_that_is_not_finite_marks_its_own_sample(self) -> None:
        def rule(search: Search) -> None:
            search.finish(at(search, 0.4)[:, 0].index_fill(0, torch.tensor(1), torch.nan))

        masked = on_line(rule, mask=torch.ones(4) > 0)
        assert (masked.threat is None, masked.goal.whole) == (False, False)  # any wrong class, not anywhere
        assert on_line(rule).status.tolist() == [Status.HELD, Status.FAILED, Status.HELD]

    def test_a_nearer_success_of_an_earlier_restart_stays(self) -> None:
        def rule(search: Search) -> None:
            assert (search.restart > 0) == bool(search.best.success.all())
            search.decide(at(search, 0.6 if search.restart == 0 else 0.9)[:, 0])

        assert torch.equal(on_line(rule, minimum=True, restarts=2).x_adv[:, 0], torch.full((3,), 0.6))

    def test_a_point_that_is_put_back_is_no_second_answer(self) -> None:
        out = on_line(playing([("decide", (0.75,))]), threat=Linf(0.5))
        assert [flag.partition(":")[0] for flag in out.flags] == ["outside"]

    def test_a_success_beyond_the_radius_leaves_x_and_its_loss(self) -> None:
        out = on_line(playing([("decide", (0.6,))]), minimum=True, threat=Linf(0.3))
        assert torch.equal(out.x_adv, torch.full((3, 4), 0.2))
        torch.testing.assert_close(out.loss, torch.full((3,), -0.3))
        assert out.forwards == 3 * 3  # x goes back before the last pass, which is one

    @pytest.mark.parametrize("radius", [0.5, 1.7, 40.0])
    def test_the_boundary_of_the_radius_is_inside(self, radius: float) -> None:
        x, threat = images(6, (3, 32, 32), dtype=torch.float32), L2(radius, (-9.0, 9.0))
        weight = images(1, (3072,), dtype=torch.float32)[0] - 0.5
        along = x.flatten(1) @ weight
        near = along.amax() - along < 0.999 * radius * weight.norm()

        def model(x: Tensor) -> Tensor:
            return torch.stack([along.amax().expand(len(x)), x.flatten(1) @ weight], 1)

        def rule(search: Search) -> None:
            search.decide(threat.step(search.x, search.gradient(search.x).gradient, search.x, 1e4))

        out = run(model, x[near], torch.zeros(int(near.sum())).long(), threat, rule, minimum=True)
        assert len(out.success)
        assert out.success.all()


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "last"), [(5, 1), (20, 2), (105, 10)])
def test_of_a_loss_that_rises_evenly_the_last_tenth_of_the_steps_is_unfinished(steps: int, last: int) -> None:
    """At least one step, and at most ten."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    x, options = images(4), {"random_start": False, "stop_early": False, "loss": "margin"}
    out = pgd(model, x, labels(model, x), Linf(1.0, (-9.0, 9.0)), steps=steps, step_size=1e-3, **options)
    torch.testing.assert_close(out.unfinished, torch.full_like(out.unfinished, last / steps))


class TestCandidates:
    """C points a sample, each judged by its own label."""

    @pytest.mark.parametrize("chunk", [1 << 22, 16 * 4, 1])
    @pytest.mark.parametrize("targeted", [False, True])
    def test_each_competes_for_its_own_sample(self, targeted, chunk, monkeypatch):
        monkeypatch.setattr(asks, "CHUNK", chunk)
        net, x, looks = mlp(5), images(7), []
        with torch.no_grad():
            net[3].bias -= net(x).mean(0)
        y, noise = labels(net, x), torch.rand(7, 9, 1, 4, 4, generator=torch.Generator().manual_seed(3)) - 0.5
        goal = (y + 1 + torch.arange(7) % 4) % 5 if targeted else None
        tried = (x.unsqueeze(1) + 0.8 * noise).clamp(0, 1)

        def rule(search: Search) -> None:
            looks.append(search.score(tried[search.ids], "margin"))

        out = run(net, x, y, L2(torch.inf), rule, minimum=True, targets=goal)
        logits = net(tried.flatten(0, 1)).view(7, 9, 5).detach()
        won = logits.argmax(2) != y[:, None] if goal is None else logits.argmax(2) == goal[:, None]
        assert torch.equal(looks[0].adversarial, won)
        index = (y if goal is None else goal)[:, None, None].expand(7, 9, 1)
        lead = logits.scatter(2, index, -torch.inf).amax(2) - logits.gather(2, index)[..., 0]
        torch.testing.assert_close(looks[0].loss, lead if goal is None else -lead)
        away = (tried - x.unsqueeze(1)).flatten(2).norm(dim=2)
        least, place = torch.where(won, away, torch.inf).min(1)
        torch.testing.assert_close(out.distance, least.float())
        assert int(out.success.sum()) > 2
        assert torch.equal(out.x_adv[out.success], tried[torch.arange(7), place][out.success])

    @pytest.mark.parametrize("broken", [True, False])
    def test_nan_at_one(self, broken: bool) -> None:
        """It marks its own sample, and takes nothing from a success among the others."""

        def rule(search: Search) -> None:
            points = at(search, 0.3, 0.3, 0.6 if broken else 0.4)
            points[1, 1, 0] = 0.9
            assert search.decide(points).adversarial.tolist() == [[False, False, broken]] * 3

        for minimum in (True, False):
            out = on_line(rule, model=Hole(), minimum=minimum)
            expected = [Status.BROKEN] * 3 if broken else [Status.HELD, Status.FAILED, Status.HELD]
            assert out.status.tolist() == expected
            assert out.x_adv.isfinite().all()


@pytest.mark.parametrize("model", [Line(), Hole()])
@pytest.mark.parametrize("targets", [None, torch.full((3,), 2)])
def test_correct_is_what_has_its_label_by_finite_logits(model: Line, targets: Tensor | None) -> None:
    x, y = torch.tensor([[0.2], [0.6], [0.9]]), torch.zeros(3, dtype=torch.long)
    out = run(model, x, y, Linf(0.01), lambda search: search.decide(search.x) and None, targets=targets)
    assert out.correct.tolist() == [True, False, False]


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("judge", [True, False])
def test_nan_on_the_way_is_remembered(many: bool, judge: bool) -> None:
    """Points that are finite later, and are no success, do not take the mark away."""

    def rule(search: Search) -> None:
        points = at(search, 0.3)
        points[2, 0, 0] = 0.9
        search.decide(points if many else points[:, 0], judge=judge)
        search.decide(at(search, 0.4)[:, 0])

    assert on_line(rule, model=Hole()).status.tolist() == [Status.HELD, Status.HELD, Status.FAILED]


class TestLeaving:
    @pytest.mark.parametrize("gpu", [False, True])
    def test_rows_follow(self, gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of eight samples one leaves at each step; what a rule remembers stays with its sample."""
        if gpu:
            monkeypatch.setattr(staying, "may_leave", lambda step, device: (step + 1) & step == 0)
        net, x = mlp(), images(8)
        sizes: list[int] = []

        class Mine(Rows):
            mine: Tensor
            plain: str

        def rule(search: Search[Mine]) -> None:
            search.rows.mine, search.rows.plain = search.ids.clone(), "kept"
            for step in range(8):
                look = search.decide(search.x.clone())
                sizes.append(len(look.x_adv))
                assert torch.equal(search.rows.mine, search.ids)
                assert torch.equal(look.x_adv, x[search.ids - 40])
                assert torch.equal(search.y, labels(net, x)[search.ids - 40])
                assert search.rows.plain == "kept"
                search.leave(search.ids == 40 + step)

        out = run(Plain(net), x, labels(net, x), Linf(0.1), rule, rows=Mine, ids=torch.arange(8) + 40)
        assert (out.status == Status.HELD).all()
        # on a GPU only before evaluations 1, 2, 4 and 8
        assert sizes == ([8, 7, 6, 5, 4, 3, 2, 1] if not gpu else [8, 7, 7, 5, 5, 5, 5, 1])
        assert out.forwards == 8 + sum(sizes) + 8

    @pytest.mark.parametrize("way", ["score", "decide"])
    @pytest.mark.parametrize("loss", ["ce", "margin", lambda z, y, targets: z[:, 1] - z[:, 0]])
    def test_a_success_stays_until_its_sample_leaves(self, loss, way, monkeypatch):
        """By the judge of the kernel, and by the general one, so that nothing depends on when it leaves."""
        monkeypatch.setattr(staying, "may_leave", lambda step, device: False)
        out = on_line(playing([(way, (0.6,)), (way, (0.9,))]), loss=loss, stop_early=True)
        assert torch.equal(out.x_adv[:, 0], torch.full((3,), 0.6))

    def test_all_leave(self) -> None:
        def rule(search: Search) -> None:
            search.decide(at(search, 0.6)[:, 0])
            search.leave(torch.ones(len(search.x), dtype=torch.bool))
            search.decide(at(search, 0.9)[:, 0])
            raise AssertionError

        assert torch.equal(on_line(rule).x_adv[:, 0], torch.full((3,), 0.6))

    def test_strength_is_by_the_loss_of_the_plan(self) -> None:
        def rule(search: Search) -> None:
            look = search.score(at(search, 0.4)[:, 0], loss="ce")
            torch.testing.assert_close(search.strength(look), torch.full((3,), -0.1))

        on_line(rule, loss="margin")

    def test_gradients_after_copies_are_on_record(self) -> None:
        """They are 0 up to 0.3."""

        def rule(search: Search) -> None:
            search.gradient(search.x.clone())
            copies, record = search.copied(2)
            copies.gradient(copies.x.clone())
            copies.close()
            for rows in torch.arange(6).chunk(2):
                search.merge(record.take(rows))
            search.gradient(at(search, 0.4)[:, 0])

        def model(x: Tensor) -> Tensor:
            first = (x[:, 0] - 0.3).relu()
            return torch.stack([1 + 0 * first, first, 0 * first], 1)

        assert not on_line(rule, model=model, loss="margin").zero_gradient.any()

    def test_a_broken_sample_has_no_further_restart(self) -> None:
        assert on_line(playing([("decide", (0.6,))]), restarts=3, stop_early=True).forwards == 3 + 3 + 3

    def test_copies_have_the_rows_of_their_samples(self) -> None:
        """Of three samples the first is wrong already."""
        seen, x = list[Tensor](), torch.full((3, 4), 0.2)
        x[0] = 0.6

        def rule(search: Search) -> None:
            seen.append(search.copied(2)[0].per_sample(torch.arange(3)))

        run(Line(), x, torch.zeros(3, dtype=torch.long), Linf(0.1), rule)
        assert seen[0].tolist() == [1, 2, 1, 2]

    def test_a_success_is_proved_before_its_sample_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A false success of a search in bfloat16 is no second answer of the model."""
        monkeypatch.setattr(staying, "may_leave", lambda step, device: step in (0, 2))

        def rule(search: Search) -> None:
            search.decide(at(search, 0.3)[:, 0])
            search.leave(search.decide(at(search, 0.492)[:, 0]).adversarial)
            search.decide(at(search, 0.4)[:, 0])

        frozen = freeze(Surer(0.012), "bf16")
        out = on_line(rule, model=frozen, stop_early=True)
        assert not frozen.exact
        assert (out.status == Status.HELD).all()
        assert out.flags == ()


class TestProof:
    @pytest.mark.parametrize("threat", [Linf(0.1, (0, 255)), L2(0.1, (0, 255))])
    def test_what_rounding_takes_out_of_the_ball_stays(self, threat: Threat) -> None:
        x, model = torch.linspace(100, 200, 64)[:, None], nn.Linear(1, 2)
        out = run(model, x, model(x).argmax(1), threat, lambda search: search.finish(search.x + 0.1))
        assert not threat.contains(x + 0.1, x).all()
        assert torch.equal(out.x_adv, x + 0.1)
        assert not [flag for flag in out.flags if flag.startswith("outside")]

    def test_a_randomized_model_is_not_asked_until_it_agrees(self) -> None:
        """A minimum-norm attack on coins: successes are as frequent as a fresh call has them."""

        def coin(x: Tensor) -> Tensor:
            heads = (x != 0.5).any(1) & (torch.rand(len(x)) < 0.5)
            return torch.stack([torch.zeros(len(x)), torch.where(heads, 1.0, -1.0)], 1)

        def rule(search: Search) -> None:
            for step in range(1, 30):
                search.decide(search.x + 0.001 * step)

        x = torch.full((400, 4), 0.5)
        torch.manual_seed(0)
        out = run(coin, x, torch.zeros(400, dtype=torch.long), Linf(torch.inf), rule, minimum=True)
        assert out.flags
        assert abs(float(out.success.float().mean()) - 0.5) < 4 * 0.5 / 20

    def test_a_success_on_the_edge_is_moved_across_it(self) -> None:
        """The search copy says yes where the model as given says no, by less than a hundredth of the way."""

        def rule(search: Search) -> None:
            points = at(search, 0.49957, 0.6)
            points[..., 3] = 0.9  # which the mask holds
            for each in points.unbind(1):
                search.gradient(each)  # whose logits are in bfloat16

        mask = torch.tensor([True, True, True, False])
        for threat in (L0(1), L0(torch.inf), L2(torch.inf), Linf(0.4)):
            frozen = freeze(Surer(0.001), "bf16")
            out = on_line(rule, model=frozen, minimum=True, threat=threat, mask=mask)
            assert not frozen.exact
            assert out.success.all()
            assert threat.contains(out.x_adv, torch.full((3, 4), 0.2)).all()
            assert (out.x_adv[:, 0] < 0.51).all()
            assert torch.equal(out.x_adv[:, 1:], torch.full((3, 3), 0.2))
            assert torch.equal(Line()(out.x_adv).argmax(1), torch.ones(3, dtype=torch.long))


@pytest.mark.parametrize("poison", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_what_lies_outside_a_mask_is_of_no_interest(inner: bool, poison: bool) -> None:
    """A gradient that is NaN or large there neither fails a sample nor hides that the rest is flat."""

    def model(x: Tensor) -> Tensor:
        first, last = x[:, 0], x[:, -1]
        bent = 0 * (0 * last).sqrt() if poison else last
        return torch.stack([0 * first + 5, first * inner + bent], 1)

    x, mask = images(4, (6,), dtype=torch.float32), torch.arange(6) < 3
    out = pgd(model, x, torch.zeros(4, dtype=torch.long), Linf(0.1), steps=3, mask=mask)
    assert (out.status == Status.HELD).all()
    assert out.zero_gradient.tolist() == [not inner] * 4
