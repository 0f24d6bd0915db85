"""What an attack of the caller's own says counts where the model and the threat confirm it, on every road."""

import math
import re
from collections.abc import Callable
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.attacks import AttackResult, Criterion, WrongBy, core
from fastadv.attacks.core.criterion import Goal
from fastadv.errors import InputError
from fastadv.evaluation import Row, evaluate
from fastadv.evaluation.report import verdict
from fastadv.evaluation.row import groups
from fastadv.measure.outcome import ELSEWHERE
from tests.evaluation.nets import DATA, Threshold, pgd
from tests.refusals import refuses

Points = Callable[[Tensor], Any]
NARROWER = "a success is the target; samples that are wrong otherwise count as robust"
BALL = fa.Linf(0.25)  # in which the first two of four samples break, at 0.1 and 0.2
NONE, BROKEN = [False] * 6, [True, True, False, False, False, False]


def across(x: Tensor, past: float = 0.02) -> Tensor:
    """The nearest points of the other class, of which two lie in the ball."""
    return torch.where(x > 0.5, 0.5 - past, 0.5 + past)


def claims(x_adv: Tensor, **parts: Any) -> AttackResult:
    every = torch.ones(len(x_adv), dtype=torch.bool)
    lies = {"success": every, "status": every.long(), "loss": every.float(), "distance": every * 1e-3}
    costs = {"forwards": 3, "backwards": 1, "zero_gradient": ~every}
    return AttackResult(**{"x_adv": x_adv} | lies | costs | parts)


class Lax(Criterion):
    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return logits[:, 0].isfinite()


def attack_of(points: Points, **bound: Any) -> Any:
    def attack(model: Any, x: Tensor, y: Tensor, threat: fa.Threat | None = None, **more: Any) -> Any:
        return points(x)

    return partial(attack, **bound)


def test_an_argument_that_an_attack_does_not_have_is_named() -> None:
    says = re.escape("attacks['pgd']: no argument 'step'; did you mean 'steps' or 'step_size'?")
    refuses(says, evaluate, Threshold(), DATA, partial(pgd(1), step=3), threat=BALL)


class Gap(Threshold):
    """Without an answer at some points in the ball."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.where(x < 0.95, math.nan))


def row(points: Points, threat: fa.Threat | None = BALL, batch_size: int = 4, **bound: Any) -> Row:
    attacks = {"own": attack_of(points, **bound)}
    return evaluate(Gap(), DATA, attacks, threat=threat, indicators=False, batch_size=batch_size)["own"]


LIES: dict[str, tuple[Points, list[bool]]] = {
    "x itself": (claims, NONE),
    "NaN": (lambda x: claims(x * math.nan), NONE),
    "gap": (lambda x: claims(torch.where(x > 0.8, 0.97, across(x))), BROKEN),
    "far": (lambda x: claims(across(x)), BROKEN),
    "box": (lambda x: claims(across(x) - 1.0 * (x > 0.5)), [True, *NONE[1:]]),
    "wider threat": (lambda x: claims(across(x), threat=fa.Linf(0.5)), BROKEN),
    "lax goal": (lambda x: claims(x, goal=Goal(Lax())), NONE),
    "status": (lambda x: claims(across(x), status=torch.zeros(len(x)).long()), BROKEN),
}


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("lie", LIES)
def test_a_claim_that_model_or_threat_deny_is_no_success(lie: str, batch_size: int) -> None:
    points, broken = LIES[lie]
    attacked = row(points, batch_size=batch_size)
    assert attacked.broken.tolist() == broken
    assert any(flag.startswith(f"claims: {4 - sum(broken)} of 4 points") for flag in attacked.flags)
    assert attacked.failed == {"NaN": 4, "gap": 1}.get(lie, 0)
    assert repr(attacked.threat) == repr(BALL)
    # measured, whatever was claimed
    assert attacked.distance[attacked.broken].tolist() == pytest.approx([0.12, 0.22][: sum(broken)])


@pytest.mark.parametrize(
    "points",
    [
        across,
        lambda x: across(x).double(),
        lambda x: across(x).half(),
        lambda x: (across(x, 0.03) * 255).byte(),
        lambda x: across(x).requires_grad_(),
        lambda x: SimpleNamespace(x_adv=across(x), success=None),
        lambda x: x.copy_(across(x)),
        lambda x: claims(across(x), success=x.flatten() < 2),
    ],
)
def test_finished_points_are_taken_whatever_they_come_in(points: Points) -> None:
    attacked = row(points)
    assert attacked.broken.tolist() == BROKEN
    assert attacked.distance[:2].tolist() == pytest.approx([0.12, 0.22], abs=0.02)
    assert [flag.partition(" points")[0] for flag in attacked.flags] == [ELSEWHERE, "claims: 2 of 4"]
    free = row(points, threat=None)
    assert free.broken.tolist() == [True] * 4 + [False] * 2
    assert (free.flags, free.threat) == ((ELSEWHERE,), None)


class Held:
    def __init__(self, threat: Any) -> None:
        self.threat = threat

    def __call__(self, model: Any, x: Tensor, y: Tensor) -> Tensor:
        return across(x)


def test_a_function_is_called_with_what_it_takes_and_judged_in_its_threat_or_in_that_of_the_call() -> None:
    def inner(model: Any, x: Tensor, y: Tensor, *, ids: Tensor, seed: int = 0) -> Tensor:
        return across(x)

    @wraps(inner)
    def outer(model: Any, x: Tensor, y: Tensor) -> Tensor:
        return across(x)

    small, each = fa.Linf(0.125), fa.Linf(torch.tensor([0.05, 0.25, 0.4, 0.25, 0.3, 0.3]))
    attacks: dict[str, Any] = {"outer": outer, "free": Held(None), "own": Held(small), "pgd": "pgd"}
    attacks["says"] = lambda model, x, y: SimpleNamespace(x_adv=across(x), threat=small)
    for threat, broken in ((BALL, BROKEN), (each, [False, True, True, *NONE[3:]])):
        for size in (2, 6):
            table = evaluate(
                Threshold(), DATA, attacks, threat=threat, batch_size=size, seed=1, indicators=False
            )
            for name in ("outer", "free"):
                assert table[name].broken.tolist() == broken
                assert any(flag.startswith("claims: 2 of 4") for flag in table[name].flags)
            for name in ("own", "says"):
                assert table[name].broken.tolist() == [True, *NONE[1:]]
                assert float(table[name].threat.radius) == 0.125
    several = evaluate(Threshold(), DATA, inner, threat=[BALL, fa.Linf(0.15)])
    counts = {row.name: int(row.broken.sum()) for row in several.rows}
    assert counts == {"inner Linf 0.25": 2, "inner Linf 0.15": 1}


def test_points_of_a_function_without_a_threat_are_judged_in_that_of_the_attacks_beside() -> None:
    small = fa.Linf(0.125)

    @wraps(fa.attacks.pgd)
    def own(model: Any, x: Tensor, y: Tensor, **more: Any) -> Tensor:
        return across(x)

    def says(model: Any, x: Tensor, y: Tensor, threat: fa.Threat = small) -> Tensor:
        return across(x)

    free, scaled = [True] * 4 + [False] * 2, fa.Scaled(torch.full((1, 1, 1), 0.25))
    words = "own, takes: its threat is not known, so that any point in the box is a success; pass threat="
    more = {"own": partial(own, boost=1), "takes": attack_of(across), "near": pgd(0.25)}
    for beside, wanted in (
        ({}, BROKEN), ({"wide": pgd(0.3)}, free), ({"says": says}, free),
        ({"near": partial(fa.attacks.apgd, threat=scaled)}, free),
    ):  # fmt: skip
        table = evaluate(Threshold(), DATA, more | beside, indicators=False)
        assert table["own"].broken.tolist() == table["takes"].broken.tolist() == wanted
        assert (words in str(table)) == (wanted is free)
        assert "says" not in beside or table["says"].broken.tolist() == [True] + [False] * 5
    curve = partial(fa.accuracy_against_radius, Threshold(), DATA)
    plain = lambda model, x, y: across(x)  # noqa: E731
    assert curve(lambda r: plain, [0.15, 0.25], threat=fa.Linf(0.1)).accuracy * 6 == pytest.approx([3, 2])
    refuses("threat: expected that in which points of your", curve, lambda r: plain, [0.15])
    refuses("threat: expected fa.Linf, L2, L1 or L0, got 0.3", curve, lambda r: plain, [0.15], threat=0.3)
    near = partial(fa.attacks.fmn, steps=5)
    refuses("radii: expected at most 0.4", curve, minimum_norm=near, radii=[0.5], threat=fa.Linf(0.4))
    assert curve(lambda r: plain, [0.15], threat=fa.Linf(1, box=(0, 255))).accuracy[0] == pytest.approx(3 / 6)


def test_images_alone_are_no_success_of_a_map() -> None:
    def up(model: Any, x: Tensor, y: Tensor) -> Any:
        return SimpleNamespace(x_adv=x + 0.12, parameters=torch.ones_like(x))

    attacks = {"up": up, "alone": lambda model, x, y: up(model, x, y).x_adv}
    table = evaluate(Threshold(), DATA, attacks, threat=fa.Scaled(torch.full((1, 1, 1), 0.12)))
    assert [row.broken.tolist() for row in table.rows] == [[True, *NONE[1:]], NONE]
    assert any(flag.startswith("claims: 4 of 4") for flag in table["alone"].flags)


def test_a_loop_in_plain_pytorch_treats_the_model_as_a_module() -> None:
    def loop(model: Any, x: Tensor, y: Tensor) -> Tensor:
        assert not model.training
        assert [one.device for one in model.parameters()] == [x.device]
        model.eval().zero_grad()
        points = x.clone().requires_grad_()
        model(points).gather(1, y[:, None]).sum().backward()
        return (x - 0.25 * points.grad.sign()).clamp(0, 1)

    for freeze in (False, True):
        net = torch.nn.Sequential(Threshold())
        table = evaluate(net, DATA, loop, threat=BALL, freeze=freeze, indicators=False)
        assert table["loop"].broken.tolist() == BROKEN


def test_what_is_no_result_is_refused_in_one_sentence() -> None:
    for points, says in ((lambda x: x[:2], r"\(2, 1, 1, 1\)"), (lambda x: (x, x), "tuple")):
        with pytest.raises(InputError, match=rf"attacks\['own'\]: expected .*, got {says}"):
            row(points)


def test_a_norm_of_the_callers_is_measured_by_its_own_distance() -> None:
    class Double(fa.Linf):
        def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
            return 2 * super().distance(x_adv, x)

    assert row(across, Double(0.25)).broken.tolist() == [True, *NONE[1:]]
    assert fa.attacks.pgd(Threshold(), DATA.x, DATA.y, Double(0.25)).distance.isfinite().sum() <= 3


@pytest.mark.slow
def test_what_is_bound_to_an_attack_is_what_it_is_asked() -> None:
    targets, first, batch_size = torch.tensor([1, 1, 0, 0, 0, 0]), [True, *NONE[1:]], 2
    for bound, broken in (
        ({"criterion": WrongBy(0.1)}, NONE),
        ({"criterion": WrongBy(0.03)}, BROKEN),
        ({"targets": targets}, first),
        ({"targets": 1}, first),
        ({"targets": 0}, [False, True, *NONE[2:]]),
        ({"mask": torch.ones(1, 1, 1, 1, dtype=torch.bool)}, BROKEN),
        # words of an attack's own
        *(({"targets": word}, BROKEN) for word in ("likeliest", None, (1,), 9.0)),
        *(({"mask": word}, BROKEN) for word in (8, (3, 3))),
    ):
        attacked = row(lambda x: claims(across(x)), batch_size=batch_size, **bound)
        assert attacked.broken.tolist() == broken
        assert bool(attacked.remarks) == (broken is not BROKEN or "criterion" in bound)
    # nobody leads a sample to the class that it has
    assert row(claims, batch_size=batch_size, targets=1).broken.tolist() == NONE
    turned = partial(attack_of(lambda x: claims(across(x)), threat=BALL), targets=targets.flip(0))
    table = evaluate(Threshold(), (DATA.x.flip(0), DATA.y.flip(0)), {"own": turned}, batch_size=batch_size)
    assert table["own"].broken.tolist() == [*NONE[1:], True]


NET = fa.models.create("softmax", shape=(1, 8, 8), classes=10)


def moved(x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
    return (x + t * (1 - 2 * (ids % 2)).view(-1, 1, 1, 1)).clamp(0, 1)


X = fa.data.load("digits", "test").x[:12]
ROADS: dict[str, dict[str, Any]] = {
    "ball": {},
    "mask": {"mask": torch.arange(8).view(1, 1, 1, 8).expand(1, 1, 8, 8) > 1},
    "criterion": {"criterion": WrongBy(0.01)},
    "map of ids": {"threat": fa.Through(moved, fa.Linf(0.02, (-1, 1)), torch.zeros_like)},
    "map": {"threat": fa.Through(lambda x, t: (x + t).clamp(0, 1), fa.Linf(0.02, (-1, 1)), torch.zeros_like)},
}


@pytest.mark.slow
@pytest.mark.parametrize("road", ROADS)
def test_a_librarys_attack_is_told_alike_under_the_claim_of_an_own(road: str) -> None:
    def claimed(model: Any, x: Tensor, y: Tensor, ids: Tensor, **bound: Any) -> AttackResult:
        out = fa.attacks.pgd(model, x, y, ids=ids, **bound)
        fa.attacks.fgsm(model, x, y, fa.Linf(0.1), ids=ids.flip(0))  # it leaves the model at other samples
        return claims(out.x_adv, parameters=out.parameters)

    def wide(model: Any, x: Tensor, y: Tensor, ids: Tensor, **bound: Any) -> AttackResult:
        ball = fa.Linf(0.02 if "mask" in bound else 0.2)  # of which the mask is left out
        return claims(fa.attacks.pgd(model, x, y, ball, ids=ids).x_adv, parameters=x * math.inf)

    attacks = {
        kind.__name__: partial(kind, **{"threat": fa.Linf(0.02), "steps": 3} | ROADS[road])
        for kind in (fa.attacks.pgd, claimed, wide)
    }
    y = NET(X).argmax(1)
    options = {"indicators": False, "freeze": False, "batch_size": 3}
    library, other, far = evaluate(NET, (X, y), attacks, **options).rows
    assert 0 < int(library.broken.sum()) < 12
    assert torch.equal(library.broken, other.broken)
    assert torch.equal(library.distance, other.distance)
    assert other.flags[-1].startswith(f"claims: {int((~library.broken).sum())} of 12 points")
    assert not bool(far.broken.any())


def test_curves_and_bisections_count_what_is_proved() -> None:
    def curve(points: Points, **bound: Any) -> list[float]:
        def of_radius(radius: float) -> Any:
            return attack_of(points, threat=fa.Linf(radius), **bound)

        return fa.accuracy_against_radius(Threshold(), DATA, of_radius, [0, 0.15, 0.25]).accuracy.tolist()

    with pytest.warns(UserWarning, match="claims: 8 of 8 points"):
        assert curve(claims) == [4 / 6] * 3
    with pytest.warns(UserWarning, match="claims: 5 of 7 points"):
        assert curve(lambda x: claims(across(x))) == [4 / 6, 3 / 6, 2 / 6]
    with pytest.warns(UserWarning, match="claims: 6 of 7 points"):
        assert curve(lambda x: claims(across(x)), targets=1) == [4 / 6, 3 / 6, 3 / 6]
    x, y = DATA.x[:4], DATA.y[:4]
    for points, broken in ((claims, 0), (across, 4), (lambda x: claims(across(x)), 4)):
        out = fa.attacks.minimum_radius(Threshold(), x, y, fa.Linf(1.0), attack=attack_of(points), searches=3)
        assert int(out.success.sum()) == broken
        assert any(flag.startswith("claims: ") for flag in out.flags)


@pytest.mark.parametrize("off", [3e-6, 1e-3])
def test_a_norm_that_is_off_by_rounding_is_no_model_of_two_answers(off: float) -> None:
    class Off(fa.Linf):
        def step_(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: Any) -> Tensor:
            wide = fa.Linf(float(self.radius) * (1 + off), self.box)
            return x_adv.copy_(wide.step(x_adv.clone(), grad, x, step_size))

    net, y = NET, NET(X).argmax(1)
    exact, out = (fa.attacks.pgd(net, X, y, ball(0.02), steps=3) for ball in (fa.Linf, Off))
    assert torch.equal(exact.success, out.success) == (off < 1e-5)
    assert [flag.partition(" points")[0] for flag in out.flags] == ["outside: 7 of 12"] * (off > 1e-5)
    assert all("L∞ 0.02" in flag and "project()" in flag for flag in out.flags)
    over = core.run(net, X, y, fa.Linf(1), lambda search: search.finish(torch.full_like(search.x, 1 + 1e-7)))
    assert float(over.x_adv.max()) == 1
    assert "outside" not in str(over)


RADII = BALL.with_radius(torch.tensor([0.05, 0.25, 0.3, 0.5, 0.0, 0.25]))


@pytest.mark.parametrize(
    ("name", "values"),
    [("targets", 1 - DATA.y), ("mask", DATA.x >= 0), ("threat", RADII)],
)
def test_what_is_of_all_data_goes_by_the_number_of_a_sample(name, values):
    attack = partial(fa.attacks.pgd, **{"threat": BALL, "random_start": False, name: values})
    results = [
        evaluate(Threshold(), DATA, {"pgd": attack}, indicators=False, batch_size=size, limit=limit)["pgd"]
        for size, limit in ((len(DATA.y), None), (4, None), (3, None), (3, 5))
    ]
    whole = results[0].distance
    assert 0 < results[0].broken.sum() < len(DATA.y)
    for row in results[1:3]:
        assert torch.equal(row.distance, whole)
    order = evaluate(Threshold(), DATA, limit=5).ids
    assert torch.equal(results[3].distance, whole[order])
    of = {count: (values.take if name == "threat" else values.__getitem__)(torch.arange(count) % 6)
          for count in (2, 4, 7)}  # fmt: skip
    for count in (4, 7):
        with pytest.raises(InputError, match=rf"^{name.replace('threat', 'radius')}: .*of the \d+ samples"):
            evaluate(Threshold(), DATA, {"pgd": partial(attack, **{name: of[count]})}, batch_size=4)
    two = evaluate(Threshold(), DATA, {"pgd": partial(attack, **{name: of[2]})}, indicators=False, limit=2)
    assert torch.equal(two["pgd"].distance, whole[:2])
    own = wraps(attack)(lambda model, x, y, ids: attack(model, x, y, ids=ids))
    assert torch.equal(evaluate(Threshold(), DATA, {"own": own}, indicators=False)["own"].distance, whole)


@pytest.mark.slow
def test_the_page_says_what_was_asked_and_counts_one_sample_as_one() -> None:
    one = DATA.subset([2])
    for attack, data, says in (
        (pgd(0.25), DATA, "2 of 6 samples stay correct under pgd."),
        (pgd(0.25), one, "1 of 1 sample stays correct under pgd."),
        (partial(pgd(0.25), targets=1 - DATA.y), DATA, f"2 of 6 samples hold under pgd; {NARROWER}."),
        (partial(pgd(0.25), targets=1 - one.y), one, f"1 of 1 sample holds under pgd; {NARROWER}."),
        (partial(fa.attacks.ddn, threat=fa.L2(math.inf), targets=1 - DATA.y), DATA, f"by pgd; {NARROWER}."),
    ):
        table = evaluate(Threshold(), data, {"pgd": attack}, indicators=False)
        (group,) = groups(table.rows)
        assert verdict.sentence(table, group, None).endswith(says)
    assert verdict.plainly(evaluate(Threshold(), one, {"pgd": pgd(0.25)}), group) == ""
    lone = evaluate(Threshold(), one, {"own": attack_of(claims, threat=BALL)}, keep_samples=True)
    assert lone["own"].flags[0].startswith("claims: 1 of 1 point of the attack is no success")
    plain = "1 of 1 image (100%) stays correct when each pixel may change by 0.25 (25% of its range)."
    assert verdict.plainly(lone, groups(lone.rows)[0]) == plain
