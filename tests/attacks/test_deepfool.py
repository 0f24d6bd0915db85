"""DeepFool: its first step by hand, and linear models in the dimensions of images, where it ends at once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import ConfidentlyWrong, OutsideTopK, Status, deepfool
from fastadv.errors import InputError
from fastadv.threat import L1, L2, THREATS, Linf

from .contract.cases import boundary_distance
from .nets import Counted, images, labels, linear, mlp

DUAL = {"linf": 1, "l2": 2}


def nearest(model: nn.Module, x: Tensor, y: Tensor, norm: str, targets: Tensor | None) -> Tensor:
    """[B] the distance in the box to the boundary with the target, or to the nearest boundary."""
    weight, logits = model[1].weight.detach(), model(x).detach()  # type: ignore[index]
    columns = []
    for other in range(logits.shape[1]):
        column = torch.full((len(x),), torch.inf, dtype=torch.float64)
        for label in y.unique():
            rows = (y == label) & (label != other)
            need = logits[rows, label] - logits[rows, other]
            if len(need):
                column[rows] = boundary_distance(x[rows], weight[other] - weight[label], need, norm)
        columns.append(column)
    distance = torch.stack(columns, 1)
    return distance.amin(1) if targets is None else distance.gather(1, targets[:, None]).squeeze(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)], ids=str)
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("targeted", [False, True])
def test_linear_models(norm: str, shape: tuple[int, ...], classes: int, targeted: bool) -> None:
    """Half of the pixels are saturated; for two classes the result is the nearest point but for 3 %."""
    x = (images(4, shape) * 2 - 0.5).clamp(0, 1)
    model = linear(classes, x[0].numel()).double()
    y = labels(model, x)
    targets = (y + 1) % classes if targeted else None
    distance = nearest(model, x, y, norm, targets)
    # a target far behind may need several boundaries at once, which no single one knows of
    closed = classes == 2 or not targeted
    out = deepfool(model, x, y, THREATS[norm](torch.inf), steps=50, candidates=None, targets=targets)
    assert out.success.all()
    decided = labels(model, out.x_adv)
    assert torch.equal(decided, targets) if targets is not None else (decided != y).all()
    assert (out.distance >= distance * (1 - 1e-6)).all()
    if closed:
        assert (out.distance <= distance * 1.03 + 3e-4 * (x[0].numel() ** 0.5 if norm == "l2" else 1)).all()


@pytest.mark.parametrize(("norm", "kind"), [("linf", Linf), ("l2", L2)])
@pytest.mark.parametrize("overshoot", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-3.0, 5.0), (-torch.inf, torch.inf)], ids=str)
def test_the_first_step_by_hand(
    norm: str, kind: Callable[..., Linf | L2], overshoot: float, box: tuple[float, float]
) -> None:
    """To the nearest of three boundaries and beyond it: never the one of the smallest gap or gradient."""
    net, x = mlp(4), images(24) * 0.5 + 0.25
    y, seen = labels(net, x), []

    def model(z: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        logits: Tensor = net(z)
        return logits

    deepfool(model, x, y, kind(torch.inf, box), steps=1, overshoot=overshoot)
    leaf = x.clone().requires_grad_()
    logits = net(leaf)
    best, moved = torch.full((24,), torch.inf, dtype=torch.float64), torch.zeros_like(x)
    choices = torch.zeros(24, dtype=torch.long)
    for step in range(1, 4):
        other = (y + step) % 4
        lack = (logits.gather(1, y[:, None]) - logits.gather(1, other[:, None])).squeeze(1)
        (gradient,) = torch.autograd.grad(-lack.sum(), leaf, retain_graph=True)
        size = gradient.flatten(1).norm(p=DUAL[norm], dim=1)
        unit = gradient.sign() if norm == "linf" else gradient / size.view(-1, 1, 1, 1)
        distance = (lack / size).detach()
        nearer = distance < best
        width = box[1] - box[0] if box[1] < torch.inf else 1.0
        length = (1 + overshoot) * (distance + 1e-4 * width)
        moved = torch.where(nearer.view(-1, 1, 1, 1), unit * length.view(-1, 1, 1, 1), moved)
        best, choices = torch.where(nearer, distance, best), torch.where(nearer, other, choices)
    runner_up = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    assert (choices != runner_up).any()  # or the test would not tell distances from gaps
    points = (x + moved).clamp(*box)
    assert any(len(z) == 24 and torch.allclose(z, points, rtol=0, atol=1e-9) for z in seen)


def test_candidates_bound_the_rivals_and_the_passes() -> None:
    """The class with the second largest logit is far away, the third is near."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 3)).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 784, generator=draw) * torch.tensor([[0.0], [0.1], [3.0]]))
        model[1].bias.copy_(torch.tensor([1.0, 0.5, 0.0]) - model[1].weight.sum(1) / 2)
    x, y = torch.full((2, 1, 28, 28), 0.5, dtype=torch.float64), torch.tensor([0, 0])
    backwards: list[int] = []
    counted = Counted(model, lambda n: None, backwards.append)
    both = deepfool(counted, x, y, L2(torch.inf), steps=5)
    second = deepfool(model, x, y, L2(torch.inf), steps=5, candidates=1)
    assert (labels(model, both.x_adv) == 2).all()
    assert (labels(model, second.x_adv) == 1).all()
    assert (second.distance > 1.2 * both.distance).all()
    assert both.backwards == sum(backwards) == 2 * second.backwards
    assert second.backwards == 2 * 2  # at x, and where the decision changed


@pytest.mark.slow
def test_a_thousand_classes() -> None:
    model, x = linear(1000, 784).double(), images(3, (1, 28, 28)) * 0.2 + 0.4
    y = labels(model, x)
    distance = nearest(model, x, y, "l2", None)
    out = deepfool(model, x, y, L2(torch.inf))
    assert (out.distance <= distance * 1.05 + 3e-4 * 28).all()
    assert out.backwards == 10 * (out.forwards - 3 * 2)  # verdicts on x and x_adv pass once each


def test_units_do_not_matter() -> None:
    net, x = mlp(), images(8)
    y = labels(net, x)
    small = deepfool(net, x, y, L2(torch.inf), steps=20)
    large = deepfool(lambda z: net(z / 255), x * 255, y, L2(torch.inf, (0.0, 255.0)), steps=20)
    torch.testing.assert_close(large.x_adv / 255, small.x_adv, rtol=0, atol=1e-8)


@pytest.mark.parametrize("criterion", [ConfidentlyWrong(0.7), OutsideTopK(2)], ids=str)
def test_criterion_with_mask(criterion: ConfidentlyWrong | OutsideTopK) -> None:
    net, x = linear(5).double(), images(20)
    with torch.no_grad():
        net[1].weight.mul_(5)
    y, mask = labels(net, x), torch.ones(1, 4, 4, dtype=torch.bool)
    mask[0, 0, :2] = False
    out = deepfool(net, x, y, Linf(torch.inf), steps=50, criterion=criterion, mask=mask)
    plain = deepfool(net, x, y, Linf(torch.inf), steps=50, mask=mask)
    assert out.success.sum() > 10
    logits = net(out.x_adv).detach()
    assert torch.equal(criterion.met(logits, y, None) & logits.isfinite().all(1), out.success)
    assert torch.equal(out.x_adv[:, 0, 0, :2], x[:, 0, 0, :2])
    both = out.success & plain.success
    assert (out.distance[both] > plain.distance[both]).float().mean() > 0.9


@pytest.mark.slow
def test_a_target_that_is_not_the_nearest() -> None:
    net, x = mlp(5), images(20)
    y = labels(net, x)
    targets = net(x).detach().argmin(1)
    out = deepfool(net, x, y, L2(torch.inf), steps=100, targets=targets)
    assert out.success.sum() > 10
    assert torch.equal(labels(net, out.x_adv)[out.success], targets[out.success])
    assert (
        out.distance >= deepfool(net, x, y, L2(torch.inf), steps=100, candidates=None).distance * 0.9
    ).all()


def test_gradients_that_are_zero_or_not_finite_move_nothing() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            away = (x.flatten(1)[:, :2] - 0.95).abs().sqrt()  # without a derivative at 0.95
            return 0 * away + torch.tensor([1.0, 0.0])

    x = torch.full((2, 1, 4, 4), 0.5)
    x[1, 0, 0, 0] = 0.95
    out = deepfool(Flat(), x, torch.zeros(2, dtype=torch.long), L2(torch.inf), steps=3)
    assert out.status.tolist() == [Status.HELD, Status.FAILED]
    assert torch.equal(out.x_adv, x)
    assert out.zero_gradient.tolist() == [True, False]


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("steps: expected an integer >= 1", {"steps": 0}),
        ("candidates: expected an integer >= 1", {"candidates": 0}),
        ("overshoot: expected a finite number >= 0", {"overshoot": -0.1}),
        ("threat: expected one of Linf, L2, which deepfool serves, got L1", {"threat": L1(torch.inf)}),
    ],
)
def test_bad_arguments(message: str, options: dict[str, object]) -> None:
    net, x = mlp(), images(2)
    with pytest.raises(InputError, match=message):
        deepfool(**{"model": net, "x": x, "y": labels(net, x), "threat": L2(torch.inf), **options})  # type: ignore[arg-type]
