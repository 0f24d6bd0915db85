"""What every attack promises of maps of parameters: all maps and all attacks that serve them."""

import math
from collections import Counter
from functools import cache, partial
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import AttackResult, Status, core
from fastadv.attacks.core.card import REGISTRY
from fastadv.engine import mapped
from fastadv.errors import NoGradientError
from fastadv.threat import Through
from tests.refusals import refuses
from tests.threat.test_through import MAPS

from ..nets import Counted, Noisy, images, labels, seed_cpu
from .cases import NAMED

SHAPE = (3, 4, 5)
MOVED = fa.Moved(1, 5)
GRID: dict[str, Any] = {"points": (3, 3, 4)}


@cache
def net(dtype: torch.dtype = torch.float64) -> nn.Module:
    seed_cpu(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ELU(), nn.Flatten(), nn.Linear(80, 12), nn.Tanh(), nn.Linear(12, 3)
    ).double()
    with torch.no_grad():  # all classes, near to each other
        model[3].weight.mul_(2)
        model[5].bias.sub_(model(images(64, SHAPE)).mean(0))
    return model.to(dtype)


@cache
def rows(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = images(8, SHAPE, dtype=dtype)
    y = labels(net(dtype), x)
    y[0] = (y[0] + 1) % 3
    return x, y


def attacked(name, threat, part=slice(None), model=None):
    (x, y), call = rows(), partial(fa.attacks.grid, **GRID) if name == "grid" else NAMED[name]
    return call(model or net(), x[part], y[part], threat, ids=torch.arange(8)[part])


def check(threat: Through, out: AttackResult, part: slice | Tensor = slice(None)) -> None:
    """What the result says is what the model says of the images, and the parameters lie in the ball."""
    (x, y), ids = rows(), torch.arange(8)[part]
    x, y = x[part], y[part]
    t, broken = threat.parameters(x, ids), out.status == Status.BROKEN
    assert out.parameters.shape == t.shape
    assert torch.equal(out.x_adv, threat.image(out.parameters, x, ids))
    threat.check_images(out.x_adv)
    assert threat.ball.contains(out.parameters, t).all()
    assert torch.equal(out.success, labels(net(), out.x_adv) != y)
    torch.testing.assert_close(out.distance[broken], threat.distance(out.parameters, t)[broken].float())
    already = out.status == Status.ALREADY_WRONG
    assert torch.equal(out.x_adv[already], x[already])
    assert out.threat is threat


# of each kind of search some, and all maps; that each attack takes a map, the relations say of the identity
PAIRS = [*zip(["apgd", "fmn", "deepfool", "spsa", "hopskipjump", "minimum_norm", "square"], cycle(MAPS))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "map"), [*PAIRS, ("square", "moved"), ("grid", "moved"), ("autoattack", "moved")]
)
def test_attacks_serve_maps(name: str, map: str) -> None:
    x, whole, seen = rows()[0], MAPS[map](SHAPE), Counter[str]()
    threat = whole.with_radius(0.4 * whole.radius)
    if name != "grid" and NAMED[name].entry.through == "images" and len(threat.parameters(x).shape) != 4:
        refuses(f"a map of parameters .* for {name}", attacked, name, threat)
        return
    model = Counted(net(), lambda n: seen.update(forward=n), lambda n: seen.update(backward=n))
    out = attacked(name, threat, model=model)
    # indicators call parts of the model by themselves
    assert name == "autoattack" or (out.forwards, out.backwards) == (seen["forward"], seen["backward"])
    check(threat, out)
    assert out.status[0] == Status.ALREADY_WRONG
    assert out.success[1:].any()
    some = torch.tensor([6, 1, 4])
    alone = attacked(name, threat, some)
    check(threat, alone, some)
    torch.testing.assert_close(alone.parameters, out.parameters[some], rtol=1e-6, atol=1e-6)
    assert torch.equal(alone.status, out.status[some])
    still = attacked(name, threat.with_radius(0.0))
    assert torch.equal(still.x_adv, x)
    assert (still.status[1:] == Status.HELD).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "map"), [("grid", "moved"), ("spsa", "patch anywhere")])
def test_parts_of_a_batch_are_made_of_its_own_images(name, map, monkeypatch):
    """However many images pass at once."""
    threat, passed, batches, outs = MAPS[map](SHAPE), list[int](), list[int](), list[AttackResult]()

    def model(images: Tensor) -> Tensor:
        passed.append(len(images))
        return net()(images)

    for count in (1000, 1, 3):
        monkeypatch.setattr(mapped, "VALUES", count * 60)
        passed.clear()
        outs.append(attacked(name, threat, model=model))
        batches.append(len(passed))
    for out in outs[1:]:
        torch.testing.assert_close(out.parameters, outs[0].parameters, rtol=1e-9, atol=1e-9)
        assert torch.equal(out.status, outs[0].status)
        assert (out.flags, out.forwards) == (outs[0].flags, outs[0].forwards)
    assert batches[1] > batches[2] > batches[0]


def test_attacks_that_ask_others_of_images_refuse() -> None:
    x, y = rows()
    for name, card in REGISTRY.items():
        if card.through == "none":
            given: dict[str, Any] = {"source": net(), "attack": fa.attacks.bim} if name == "transfer" else {}
            refuses(f"no map of parameters for {name}", card.run, net(), x, y, MOVED, **given)
    refuses(r"\[C, H, W\] for square, got Moved", fa.attacks.square, net(), x, y, MOVED)
    table, threat = x.flatten(1), fa.Scaled(torch.full((x[0].numel(),), 0.1))
    assert fa.attacks.square(lambda z: net()(z.view(-1, *SHAPE)), table, y, threat, queries=9).success.any()
    for refused in (
        lambda: fa.attacks.last_iterate(net(), x, y, MOVED, steps=1, step_size=0.1),
        lambda: fa.attacks.indicators(net(), x, y, MOVED),
        lambda: fa.train.PGDTraining(MOVED),
    ):
        refuses("got Moved .*, a map of parameters, which serves attacks", refused)


class Rule(core.GradientRule):
    def __call__(self, search: core.Search[Any], points: Tensor, ask: Any) -> Tensor:
        return ask(points)


def test_wrong_calls_are_answered() -> None:
    x, y = rows()
    pgd = partial(fa.attacks.pgd, net(), steps=2)
    for call, message in (
        (lambda: pgd(x, y, MOVED, ids=torch.arange(8) % 7), "ids: .* got one twice"),
        (lambda: pgd(x + 1, y, MOVED), r"x: expected values in the box \[0, 1\]"),
        (lambda: pgd(x, y.double(), MOVED), "y: expected"),
        (lambda: pgd(x, y, MOVED, gradient=Rule()), "gradient: expected no rules with Moved"),
        (lambda: pgd(x, y, Through(torch.add, fa.Linf(1, (-9, 9)), torch.zeros_like)), "box .* of Through"),
        (lambda: pgd(x, y, Through(torch.add, fa.Linf(1), lambda x: x)), "bit for bit"),
        (lambda: fa.attacks.fgsm(net(), x, y, MOVED.with_radius(math.inf)), "radius: expected a finite one"),
    ):  # fmt: skip
        refuses(message, call)


@pytest.mark.slow
def test_what_is_said_of_the_model_reaches_it() -> None:
    """eot, freeze, one radius a sample, masks of parameters, and half precision."""
    (x, y), threat = rows(), fa.Moved(2, 30)

    def pgd(model: Any = None, x: Tensor = x, threat: Through = threat, **given: Any) -> AttackResult:
        return fa.attacks.pgd(model or net(), x, y, threat, steps=5, **given)

    assert pgd(Noisy(0.01, net=net()), eot=3).backwards % 3 == 0
    assert torch.equal(pgd(freeze=True).success, pgd().success)
    radii = torch.linspace(0, 1, 8)
    one = pgd(threat=threat.with_radius(radii))
    assert (threat.distance(one.parameters, torch.zeros(8, 3).double()) <= radii * (1 + 1e-6)).all()
    turned = pgd(mask=torch.tensor([False, False, True]))
    assert (turned.parameters[:, :2] == 0).all()
    assert turned.parameters[1:, 2].any()
    half = pgd(net(torch.float32), x.half())
    assert half.x_adv.dtype == torch.float32
    assert torch.equal(half.success, labels(net(torch.float32), half.x_adv) != y)
    aimed = pgd(targets=(y + 1) % 3)
    assert not aimed.goal.whole
    assert torch.equal(aimed.success, labels(net(), aimed.x_adv) == (y + 1) % 3)


def test_a_map_without_a_gradient_is_left_to_others() -> None:
    def coarse(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(t.view(-1, 1, 1, 1) > 0.5, 1 - x, x)

    threat = Through(coarse, fa.Linf(0.9, box=(-1, 1)), lambda x: x.new_zeros(len(x), 1))
    x, y = rows()
    with pytest.raises(NoGradientError, match=r"map: .* from Through coarse"):
        fa.attacks.pgd(net(), x, y, threat, steps=2)
    out = fa.attacks.grid(net(), x, y, threat, points=21)
    check(threat, out)
    assert out.success[1:].any()


def test_a_patch_on_a_linear_model_is_the_corner_by_the_signs_of_its_weights() -> None:
    x, weight = images(6, (1, 4, 5)), images(1, (20,), seed=7)[0] - 0.5

    def model(x: Tensor) -> Tensor:
        score = x.flatten(1) @ weight
        return torch.stack([torch.zeros_like(score) + 50, score], 1)

    corner, anywhere = (weight > 0).double().expand(6, 20).view(6, 1, 4, 5), fa.Patch((2, 3), "any")
    for threat in (fa.Patch((2, 3), place=(2, 2)), anywhere):
        out = fa.attacks.apgd(model, x, torch.zeros(6, dtype=torch.long), threat, steps=20)
        best = threat.still(corner, ids=torch.arange(6)) if threat is anywhere else corner[:, :, 2:, 2:]
        assert torch.equal(out.parameters, best)
