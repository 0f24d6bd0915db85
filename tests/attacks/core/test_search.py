"""The shared ascent: proof, compaction, segments, step sizes, and the plain last iterate."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import AttackResult, Status, bim, last_iterate, mim, pgd
from fastadv.attacks.core import GradientRule, run, samples
from fastadv.attacks.core import search as searching
from fastadv.attacks.core.judge import Judge
from fastadv.attacks.core.record import Record
from fastadv.attacks.core.search import Search
from fastadv.engine import Plain, freeze
from fastadv.losses import loss_value
from fastadv.threat import L2, Linf

from ..nets import convnet, images, labeled, labels, mlp, threat
from ..watched import watched


def test_samples_that_take_no_part_in_another_search_stay_as_they_are() -> None:
    one, other = Record.start(torch.zeros(4, 2)), Record.start(torch.ones(4, 2))
    still, every = torch.tensor([True, False, True, False]), torch.ones(4, dtype=torch.bool)
    one.success = ~still  # as where an attack stops early
    other.refuted, other.not_finite, other.largest_gradient = every, every, torch.full((4,), 2.0)
    other.rank, other.success = torch.zeros(4), torch.tensor([True, True, False, False])
    one.merge(other, still)
    assert torch.equal(one.refuted, still)
    assert torch.equal(one.not_finite, still)
    assert one.largest_gradient.tolist() == [2.0, -torch.inf, 2.0, -torch.inf]
    assert one.success.tolist() == [True, True, False, True]
    assert one.x_adv[:, 0].tolist() == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("loss", "targeted"), [("ce", True), ("margin", False), ("dlr", True), ("cw", False)]
)
def test_the_best_point_is_a_success_and_then_the_largest_loss(loss, targeted):
    """Of all points shown to the model, in three restarts with steps too long for the loss to rise."""
    net, x, y = labeled(mlp(4), images(20))
    model, seen = watched(net)
    goal = {"targets": (y + 1) % 4} if targeted else {}
    args = {"steps": 5, "step_size": 0.25, "restarts": 3, "loss": loss, "stop_early": False}
    out = bim(model, x, y, Linf(0.3), **args, **goal)
    points = torch.stack(seen[1:-1])  # the first pass is the clean one, the last the verdict
    assert len(points) == 3 * 6
    logits = torch.stack([net(z).detach() for z in points])
    value = torch.stack([loss_value(rows, y, loss, *goal.values()) for rows in logits])
    success = logits.argmax(2) == goal["targets"] if targeted else logits.argmax(2) != y
    best = torch.where(success, value, value - 1e6).argmax(0)
    assert len(set(best.tolist())) > 2
    assert out.success.any()
    torch.testing.assert_close(out.loss, value[best, torch.arange(20)])
    assert torch.equal(out.success, success.any(0))
    if loss != "cw":  # which is 0 for every success
        torch.testing.assert_close(out.x_adv, points[best, torch.arange(20)], rtol=0, atol=0)


def test_last_iterate_is_the_plain_ascent() -> None:
    model, x = convnet().eval(), images(6, (2, 8, 8), dtype=torch.float32)
    y, inside = labels(model, x), L2(0.5)
    frozen = Plain(model)
    start = inside.random_start(x, seed=3)
    z = start.clone()
    for _ in range(3):
        z = inside.step(z, frozen.input_gradient(z, y, "margin")[2], x, 0.2)
    with torch.inference_mode():
        last = last_iterate(frozen, x, y, inside, steps=3, step_size=0.2, loss="margin", start=start)
    torch.testing.assert_close(last, z)
    assert not last.requires_grad
    assert torch.equal(last_iterate(frozen, x, y, inside, steps=0, step_size=0.2), x)


@pytest.mark.slow
def test_last_iterate_without_labels_or_bounds() -> None:
    model, x = convnet().eval(), images(6, (2, 8, 8), dtype=torch.float32)
    frozen, wide = freeze(model), L2(float("inf"))
    goal = frozen(images(6, (2, 8, 8), seed=7, dtype=torch.float32))
    near = last_iterate(
        frozen, x, None, wide, steps=30, step_size=0.1, loss=lambda z, y, targets: -(z - goal).pow(2).sum(1)
    )
    assert ((frozen(near) - goal).norm(dim=1) < 0.5 * (frozen(x) - goal).norm(dim=1)).all()
    reached = last_iterate(frozen, x, None, wide, steps=30, step_size=0.1, targets=torch.full((6,), 2))
    assert (frozen(reached).argmax(1) == 2).all()


def test_parts_lead_where_the_whole_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """What parts have found competes with the last points, and as many samples pass as may be held."""
    monkeypatch.setattr(searching, "LEAST", 1)
    seen, (model, x, y) = list[Tensor](), labeled(mlp(), images(6))

    def rule(search: Search) -> None:
        search.aims = torch.arange(6) % 3
        search.in_parts(10, look)
        search.finish(search.x)

    def look(part: Search, rows: Tensor) -> None:
        seen.append(part.aims)
        part.decide(torch.zeros_like(part.x))

    out = run(model, x, y, L2(9.0), rule, stop_early=False)
    assert [len(aims) for aims in seen] == [2, 2, 2]
    assert torch.equal(torch.cat(seen), torch.arange(6) % 3)
    assert out.success.all()


def test_arguments_of_single_samples_follow_those_who_stay() -> None:
    seen = list[Tensor]()

    def rule(search: Search) -> None:
        search.leave(search.ids % 2 == 0)
        search.decide(search.x)
        seen.append(search.per_sample(torch.arange(6)))

    run(*labeled(mlp(), images(6)), threat("l2"), rule)
    assert seen[0].tolist() == [1, 3, 5]


def test_what_a_copy_of_a_sample_has_met_is_told_of_that_sample() -> None:
    x = torch.tensor([[0.2], [0.3], [0.4]]).expand(3, 4)

    def model(x: Tensor) -> Tensor:
        gone = torch.where(x[:, :1] > 0.45, torch.nan, 0.0)
        return torch.cat([torch.ones_like(gone), gone], 1)

    def rule(search: Search) -> None:
        part, record = search.copied(1)
        part.decide(part.x + 0.1)
        search.merge(record)

    out = run(model, x, torch.zeros(3, dtype=torch.long), Linf(0.2), rule)
    assert out.status.tolist() == [Status.HELD, Status.HELD, Status.FAILED]


def test_a_gradient_rule_remembers_the_samples_that_stay() -> None:
    left = list[int]()

    class Remembers(GradientRule):
        def __call__(self, search: Any, points: Tensor, ask: Any) -> Tensor:
            if not search.evaluations:
                search.memory["ids"] = search.ids
            assert torch.equal(search.memory["ids"], search.ids)
            left.append(len(points))
            return ask(points)

    bim(*labeled(mlp(), images(8)), threat("linf", 2), steps=10, gradient=Remembers())
    assert 8 == max(left) > min(left)


def test_a_point_without_a_rank_denies_no_search_copy() -> None:
    """The last points alone, which no look has judged, have no loss that the verdict could belie."""
    frozen, x = freeze(convnet()), torch.rand(4, 2, 8, 8)
    out = run(frozen, x, frozen.verdict(x).argmax(1), Linf(0.1), lambda s: s.finish(s.x / 1.01))
    assert not torch.equal(out.x_adv, x)
    assert frozen.search is not None
    assert not [note for note in frozen.notes if "differed" in note]


def test_zero_steps_return_the_start() -> None:
    model, x, y = labeled(mlp(), images(6))
    assert torch.equal(bim(model, x, y, threat("l2"), steps=0).x_adv, x)
    start = threat("l2").random_start(x, seed=5)
    assert torch.equal(pgd(model, x, y, threat("l2"), steps=0, seed=5).x_adv, start)


@pytest.mark.slow
def test_default_steps() -> None:
    question = (*labeled(mlp(), images(6)), Linf(0.2))
    for attack, size in ((pgd, 0.05), (bim, 0.025), (mim, 0.02)):
        by_default, by_hand = attack(*question, steps=10), attack(*question, steps=10, step_size=size)
        torch.testing.assert_close(by_default.x_adv, by_hand.x_adv)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("ascent", "options"),
    [
        (pgd, {}), (pgd, {"loss": "ce"}), (pgd, {"loss": "dlr", "targets": None}), (mim, {}),
        (pgd, {"loss": lambda z, y, targets: z.logsumexp(1), "step_size": torch.linspace(0.01, 0.1, 24)}),
        (mim, {"targets": None}), (pgd, {"threat": L2(1.0)}),
    ],
    ids=["default", "ce", "targets", "mim", "own", "targeted", "L2"],
)  # fmt: skip
def test_steps_judged_at_once_are_those_of_single_calls(ascent, options, early, monkeypatch):
    """To the bit, where the loss of sure samples is 0, and gradients are not always finite."""
    net, x = mlp(dtype=torch.float32), images(24, dtype=torch.float32)
    with torch.no_grad():
        net[3].weight.mul_(300)

    def model(x: Tensor) -> Tensor:
        place = x[:, 0, 0, :1]
        return net(x) + ((0.8 - place) * (place < 0.8)).sqrt()

    y = labels(net, x)
    arguments = {"threat": Linf(0.2), **options, "steps": 12, "stop_early": early}
    if "targets" in arguments:
        arguments["targets"] = (y + 1) % 3
    at_once = ascent(model, x, y, **arguments)
    monkeypatch.setattr(samples, "judge_for", lambda *about: Judge(*about[:3]))
    monkeypatch.setattr(Search, "_bound", lambda search, loss: None)
    single = ascent(model, x, y, **arguments)
    for name, value in vars(single).items():
        if isinstance(value, Tensor):
            assert torch.equal(getattr(at_once, name).nan_to_num(-7.0), value.nan_to_num(-7.0)), name
    assert {Status.BROKEN, *([] if "threat" in options else [Status.FAILED])} <= {*single.status.tolist()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_no_look_has_a_gradient_that_is_not_finite_or_outside_the_mask(masked, dtype):
    gradients: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        """The gradient of the second logit where x is 0: infinite either way, NaN, and 1."""
        up, down, nowhere, slope = x.unbind(1)
        return torch.stack([1 + 0 * slope, up.sqrt() - down.sqrt() + 0 * nowhere.sqrt() + slope], 1)

    def rule(search: Search) -> None:
        both = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=dtype).expand(len(search.x), 2, 2)
        gradients.append(search.gradient(search.start(), "margin").gradient)
        gradients.extend(search.jacobian(search.start(), both).gradients.unbind(1))

    x, y = torch.zeros(2, 4, dtype=dtype), torch.zeros(2, dtype=torch.long)
    mask = torch.tensor([[True, True, True, True], [True, True, True, not masked]])
    x[1, 2] = 0.5  # whose gradient is finite there
    out = run(model, x, y, Linf(0.1), rule, loss="margin", mask=mask if masked else None)
    assert (out.status == Status.FAILED).all()
    expected = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, float(not masked)]], dtype=dtype)
    for gradient, sign in zip(gradients, (1, 1, -1), strict=True):
        assert torch.equal(gradient, sign * expected)


@pytest.mark.parametrize("how", ["gradient", "score", "decide"])
def test_what_is_not_judged_is_not_kept(how: str) -> None:
    x, looks = torch.full((2, 3), 0.2), []

    def model(x: Tensor) -> Tensor:
        first = 1 + x[:, 0]
        return torch.stack([first, 2 * first * (x[:, 0] > 0.5)], 1)

    def rule(search: Search) -> None:
        looks.append(getattr(search, how)(torch.full_like(search.x, 0.6), judge=False))
        search.decide(search.x)

    out = run(model, x, torch.zeros(2, dtype=torch.long), Linf(0.5), rule)
    assert looks[0].adversarial.all()
    assert out.status.tolist() == [Status.HELD] * 2
    assert torch.equal(out.x_adv, x)


def test_an_infinite_logit_is_no_success_and_does_not_compete() -> None:
    """Though its loss, which does not read that logit, is finite and larger."""
    x, adversarial, finite = torch.full((2, 3), 0.25), [], torch.tensor([0.0, 0.1, 0.0])

    def model(x: Tensor) -> Tensor:
        far = torch.where(x[:, 1] > 0.5, torch.inf, 0.0)
        return torch.stack([1 + x[:, 2], x[:, 0].sqrt() + x[:, 1] + far], 1)

    def loss(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return -logits[:, 0]

    def rule(search: Search) -> None:
        for step in (torch.tensor([0.0, 0.4, -0.1]), finite):
            adversarial.append(search.decide(search.x + step).adversarial)

    out = run(model, x, torch.zeros(2, dtype=torch.long), Linf(0.5), rule, loss=loss, stop_early=False)
    assert not adversarial[0].any()
    assert out.status.tolist() == [Status.FAILED] * 2
    torch.testing.assert_close(out.x_adv, x + finite)


@pytest.mark.parametrize(("places", "flat"), [((0.7, 0.2), False), ((0.2, 0.7), False), ((0.2,), True)])
def test_one_gradient_is_enough(places: tuple[float, ...], flat: bool) -> None:
    """A later gradient of zero does not take the place of the largest."""

    def model(x: Tensor) -> Tensor:
        return torch.stack([torch.ones(len(x)), (x[:, 0] - 0.5).relu()], 1)

    def rule(search: Search) -> None:
        for place in places:
            search.gradient(torch.full_like(search.x, place), "margin")

    out = run(model, torch.full((2, 3), 0.3), torch.zeros(2, dtype=torch.long), Linf(0.5), rule)
    assert out.zero_gradient.tolist() == [flat] * 2


def test_a_sample_that_met_a_nan_has_no_zero_gradient() -> None:
    def flat(x: Tensor) -> Tensor:
        gone = torch.where(x[:, :1] > 0.52, torch.nan, 0.0)
        return torch.cat([torch.ones_like(gone), 0 * x.sum(1, keepdim=True) + gone], 1)

    def rule(search: Search) -> None:
        search.gradient(search.start())
        search.decide(search.x + 0.05)

    x = torch.tensor([[0.2], [0.5]]).expand(2, 4)
    out = run(flat, x, torch.zeros(2, dtype=torch.long), Linf(0.1), rule)
    assert out.zero_gradient.tolist() == [True, False]


@pytest.mark.parametrize("how", ["decide", "score", "gradient"])
def test_one_point_for_all_rows_is_judged_as_its_copies(how: str) -> None:
    def line(x: Tensor) -> Tensor:
        return torch.stack([0 * x, x - 0.5], 1).flatten(1)

    x, outs = torch.full((3, 1, 1, 1), 0.2), list[AttackResult]()
    for copies in (False, True):

        def rule(search: Search) -> None:
            point = torch.full((1, 1, 1, 1), 0.7).expand_as(search.x)
            getattr(search, how)(point.clone() if copies else point)  # noqa: B023

        outs.append(run(line, x, torch.zeros(3, dtype=torch.long), Linf(0.6), rule))
    assert outs[0].success.all()
    assert torch.equal(outs[0].x_adv, outs[1].x_adv)
