"""What an ascent raises under a criterion of one class: its margin, or what leads to a success better."""

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import ConfidentlyWrong, OutsideTopK, Unless, WrongBy
from fastadv.attacks.core import Criterion, Task
from tests.attacks.masking.nets import honest
from tests.attacks.watched import watched

TEST = fa.data.load("digits", "test", limit=80)
X, Y, THREAT = TEST.x, TEST.y, fa.Linf(0.15)
TRAIN, BINARY = fa.data.load("digits", "train"), fa.train.Standard(criterion=fa.attacks.Signs())


@cache
def net() -> nn.Module:
    return honest("standard")


def abstains(x: Tensor) -> Tensor:
    z = net()(x)
    return torch.cat([z, z.amax(1, keepdim=True) + 10 * (0.6 - z.softmax(1).amax(1, keepdim=True))], 1)


def near(x: Tensor) -> Tensor:
    z = net()(x)
    return torch.cat([z, z.topk(2, 1).values[:, 1:] + 1], 1)


CASES: dict[str, tuple[Callable[[Tensor], Tensor], Criterion]] = {
    "confidence": (abstains, Unless(10)), "lead": (near, Unless(-1)),
    "top 2": (lambda x: net()(x), OutsideTopK(2)), "wrong by 2": (lambda x: net()(x), WrongBy(2.0)),
    "sure": (lambda x: net()(x), ConfidentlyWrong(0.9)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_ascents_are_almost_as_strong_as_a_random_search(name: str) -> None:
    model, criterion = CASES[name]
    square = partial(fa.attacks.square, queries=200)
    bim, pgd, best = (
        run(model, X, Y, THREAT, criterion=criterion).robust_accuracy
        for run in (fa.attacks.bim, fa.attacks.pgd, square)
    )
    assert pgd <= best + 0.05
    assert bim <= pgd + 0.12


def test_steps_of_each_attempt_fall_from_two_radii_to_a_fiftieth() -> None:
    points: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        points.append(x.detach().clone())
        return near(x)

    fa.attacks.pgd(watched, X[:6], Y[:6], THREAT, criterion=WrongBy(9.0), steps=20, stop_early=False)
    moves = torch.stack([batch for batch in points if len(batch) == 6]).diff(dim=0).abs().flatten(1).amax(1)
    expected = 2 * THREAT.radius * 0.01 ** (torch.arange(1, 10) / 10)
    for begin in (2, 13):  # after x, the random start and a first step, which the box may shorten
        torch.testing.assert_close(moves[begin : begin + 9], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_loss_that_is_named_stays(name: str) -> None:
    model, criterion = CASES[name]
    named = fa.attacks.pgd(model, X, Y, THREAT, criterion=criterion, loss="margin", steps=4, stop_early=False)
    logits = model(named.x_adv).detach()
    plain = partial(fa.losses.loss_value, loss="margin")
    wanted = criterion.margin(logits, Y, None) if isinstance(criterion, Unless) else plain(logits, Y)
    torch.testing.assert_close(named.loss, wanted)
    default = fa.attacks.pgd(model, X, Y, THREAT, criterion=criterion, steps=4, stop_early=False)
    held = ~default.success
    wanted = criterion.margin(model(default.x_adv).detach(), Y, None)
    torch.testing.assert_close(default.loss[held], wanted[held])


def test_a_detector_is_opposed_on_the_way() -> None:
    """Carlini and Wagner 2017: the class of abstention has the largest logit and what a detector adds."""
    torch.manual_seed(0)
    seen = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    made = fa.attacks.pgd(net(), TRAIN.x, TRAIN.y, THREAT, steps=5).x_adv
    labels = torch.arange(2 * len(made)) // len(made)
    fa.train.fit(
        seen, (torch.cat([TRAIN.x, made]), labels), BINARY, epochs=12, optimizer="adam", learning_rate=3e-3
    )

    def model(x: Tensor) -> Tensor:
        z = net()(x)
        return torch.cat([z, z.amax(1, keepdim=True) + seen.eval()(x)], 1)

    def margin(z: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        others = z[:, :10].scatter(1, y[:, None], -torch.inf).amax(1)
        return others - torch.maximum(z.gather(1, y[:, None])[:, 0], z[:, 10])

    pgd = partial(fa.attacks.pgd, model, X, Y, THREAT, criterion=Unless(10))
    least = pgd(loss=margin).robust_accuracy
    assert least < 0.5
    for out in (pgd(), pgd(loss="margin")):
        assert out.robust_accuracy <= least + 0.04
    quick = fa.attacks.autoattack(model, X, Y, THREAT, criterion=Unless(10), version="quick")
    assert quick.robust_accuracy <= least


@pytest.mark.parametrize("run", [fa.attacks.fgsm, fa.attacks.mim, fa.attacks.pgd, fa.attacks.apgd])
def test_targets_are_aimed_at(run: Callable[..., fa.attacks.AttackResult]) -> None:
    targets = (Y + 1) % 10
    out = run(abstains, X, Y, fa.Linf(0.4), criterion=Unless(10), targets=targets)
    met = abstains(out.x_adv).argmax(1) == targets
    assert torch.equal(met, out.success)
    assert met.any()


def test_points_rank_by_any_class_whatever_class_an_attempt_leads_to():
    model, seen = watched(net())
    lead = WrongBy(9.0)
    out = fa.attacks.pgd(model, X, Y, THREAT, criterion=lead, steps=12, step_size=0.1, stop_early=False)
    values = torch.stack([lead.margin(net()(x).detach(), Y, None) for x in seen[1:]])  # but of x itself
    held = out.status == fa.attacks.Status.HELD
    assert held.sum() > 60
    torch.testing.assert_close(out.loss[held], values.amax(0)[held])


def test_what_leads_by_hand() -> None:
    z = torch.tensor([[3.0, 1, 0, 2], [1, 3, 0, 5], [1, 3, 0, 2]])
    y = torch.zeros(3, dtype=torch.long)
    unless = Unless(3)
    assert unless.leading(z, y, None).tolist() == [-2, pytest.approx(1 / 3), 2]
    assert (unless.margin(z, y, None) > 0).tolist() == [False, False, True]
    assert unless.leading(z, y, y + 2).tolist() == [-3, -1, -1]
    assert unless.rivals(z, y).tolist() == [[1, 2], [1, 2], [1, 2]]
    z = torch.tensor([[3.0, 1, 0, 2], [1, 3, 0, 5]])
    assert OutsideTopK(2).leading(z, y[:2], None).tolist() == [-1.5, 2]
    assert OutsideTopK(2).rivals(z, y[:2]).shape == (2, 0)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_loss_by_name_is_that_of_the_other_classes(place: int, targeted: bool) -> None:
    z, y = torch.tensor([[3.0, 1, 0, 2], [1, 3, 0, 5], [1, 3, 0, 2]]), torch.tensor([0, 1, 3])
    left = torch.tensor([label for label in range(5) if label != place])
    aim = (y + 1) % 4 if targeted else None
    whole, wide_aim = torch.full((3, 5), 9.0).index_copy(1, left, z), left[aim] if targeted else None
    for name in ("ce", "dlr", "bce"):
        loss = Unless(place).loss(name)
        value, slope = fa.losses.loss_and_grad(whole, left[y], loss, wide_aim)
        wanted = fa.losses.loss_and_grad(z, y, name, aim)
        torch.testing.assert_close((value, slope[:, left]), wanted)
        assert not slope[:, place].any()
    run = partial(fa.attacks.pgd, abstains, X[:20], Y[:20], THREAT, criterion=Unless(10), steps=5)
    assert torch.equal(run(loss="ce").x_adv, run(loss=Unless(10).loss("ce")).x_adv)


@pytest.mark.parametrize("criterion", [None, OutsideTopK(2), ConfidentlyWrong(0.9)], ids=str)
def test_an_attack_on_a_task_is_the_call_that_makes_the_task(criterion: Criterion | None) -> None:
    """What runs others raises what a criterion leads to, too."""
    out = fa.attacks.pgd.on(Task.of(net(), X, Y, THREAT, criterion=criterion), steps=6)
    assert torch.equal(out.x_adv, fa.attacks.pgd(net(), X, Y, THREAT, steps=6, criterion=criterion).x_adv)
