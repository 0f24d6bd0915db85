"""What an attack of the caller's own says counts where the model and the threat confirm it, on every road."""

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.attacks import AttackResult
from fastadv.attacks.core.criterion import Goal
from fastadv.errors import InputError
from fastadv.evaluation import Row, evaluate
from tests.evaluation.nets import DATA, Threshold

BALL = fa.Linf(0.25)  # in which the first two of four samples break, at 0.1 and 0.2
BROKEN = [True, True, False, False, False, False]


def across(x: Tensor, past: float = 0.02) -> Tensor:
    """The nearest points of the other class, of which two lie in the ball."""
    return torch.where(x > 0.5, 0.5 - past, 0.5 + past)


def claims(x_adv: Tensor, **parts: Any) -> AttackResult:
    every = torch.ones(len(x_adv), dtype=torch.bool)
    lies = {"success": every, "status": every.long(), "loss": every.float(), "distance": every * 1e-3}
    return AttackResult(
        **{"x_adv": x_adv, "forwards": 3, "backwards": 1, "zero_gradient": ~every} | lies | parts
    )


Points = Callable[[Tensor], Any]


def own(points: Points, **bound: Any) -> Any:
    def attack(model: Any, x: Tensor, y: Tensor, threat: fa.Threat | None = None, **more: Any) -> Any:
        return points(x)

    return partial(attack, **bound) if bound else attack


def row(points: Points, model: Any = None, threat: fa.Threat | None = BALL, **options: Any) -> Row:
    bound = options.pop("bound", {})
    table = evaluate(model or Threshold(), DATA, {"own": own(points, **bound)}, threat=threat,
                     **{"indicators": False, "batch_size": 4} | options)  # fmt: skip
    return table["own"]


FAR = "2 outside of L∞ 0.25"
LIES: dict[str, tuple[Points, list[bool], str]] = {
    "x itself": (claims, [False] * 6, "4 of 4 points of the attack are no success: 4 denied by the model"),
    "NaN": (lambda x: claims(x * math.nan), [False] * 6, "4 of 4 points of the attack are no success: 4 not"),
    "far": (lambda x: claims(across(x)), BROKEN, f"2 of 4 points of the attack are no success: {FAR}"),
    "box": (lambda x: claims(across(x) - 1.0 * (x > 0.5)), [True] + [False] * 5, "3 outside of L∞ 0.25"),
    "wider threat": (lambda x: claims(across(x), threat=fa.Linf(0.5)), BROKEN, FAR),
    "own goal": (lambda x: claims(across(x), goal=Goal(fa.attacks.WrongBy(9.0))), [False] * 6, "2 denied by"),
    "status": (lambda x: claims(across(x), status=torch.zeros(len(x)).long()), BROKEN, FAR),
}


@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize("lie", LIES)
def test_a_claim_that_model_or_threat_deny_is_no_success(lie: str, batch_size: int) -> None:
    points, broken, why = LIES[lie]
    found = row(points, batch_size=batch_size)
    assert found.broken.tolist() == broken
    assert any(flag.startswith("claims: ") and why in flag for flag in found.flags), found.flags
    assert found.failed == (4 if lie == "NaN" else 0)
    assert found.threat is not None
    assert repr(found.threat) == repr(BALL)
    # measured, whatever was claimed
    assert found.distance[found.broken].tolist() == pytest.approx([0.12, 0.22][: sum(broken)])


TAKEN: dict[str, Points] = {
    "tensor": across,
    "float64": lambda x: across(x).double(),
    "float16": lambda x: across(x, 0.02).half(),
    "integers": lambda x: (x < 0.5).long(),
    "bytes": lambda x: (across(x, 0.03) * 255).byte(),
    "with a graph": lambda x: across(x).requires_grad_(),
    "x_adv alone": lambda x: SimpleNamespace(x_adv=across(x)),
    "none": lambda x: SimpleNamespace(x_adv=across(x), success=None, status=None, distance=None),
    "in place": lambda x: x.copy_(across(x)),
    "half a claim": lambda x: claims(across(x), success=x.flatten() < 2),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_finished_points_are_taken_whatever_they_come_in(kind: str) -> None:
    found = row(TAKEN[kind], keep_samples=True)
    assert found.broken.tolist() == BROKEN
    assert found.distance[:2].tolist() == pytest.approx([0.12, 0.22], abs=0.02)
    assert [flag.partition(" points")[0] for flag in found.flags] == ["claims: 2 of 4"]
    free = row(TAKEN[kind], threat=None)
    assert free.broken.tolist() == [True] * 4 + [False] * 2
    assert (free.flags, free.threat) == ((), None)


@pytest.mark.parametrize(
    ("points", "told"),
    [
        (lambda x: x[:2], "x_adv of shape (4, 1, 1, 1), got (2, 1, 1, 1)"),
        (lambda x: x.numpy(), "got ndarray"),
        (lambda x: None, "got NoneType"),
        (lambda x: (x, x), "got tuple"),
        (lambda x: claims(x, success=x), "success of shape (4,), got (4, 1, 1, 1)"),
    ],
)
def test_what_is_no_result_is_refused_in_one_sentence(points: Points, told: str) -> None:
    with pytest.raises(InputError, match=r"attacks\['own'\]: expected") as error:
        row(points)
    assert told in str(error.value)


def test_rounding_puts_no_point_outside() -> None:
    """Of a ball whose radius is a few units of the last place, and of the box."""
    x = torch.linspace(0.9, 1, 64).view(-1, 1, 1, 1)
    ball = fa.Linf(1e-4)
    near = x + 1e-4
    assert not bool(ball.contains(near, x).any())  # the box, and the ball, by rounding
    assert bool(fa.Linf(1e-4, box=(0, 2)).holds(near, x).all())
    assert not bool(fa.Linf(1e-4, box=(0, 2)).holds(near + 1e-6, x).any())
    ends = x[-1:] * (1 + 1e-7)
    assert float(ends) > 1
    assert bool(ball.holds(ends, x[-1:]))
    assert not bool(fa.L0(0).holds(near, x).any())
    assert not bool(fa.Linf(math.inf, (-math.inf, math.inf)).holds(x * math.inf, x).any())


def test_the_librarys_own_attacks_cost_no_pass_more_and_a_wrapped_one_says_the_same() -> None:
    pgd = partial(fa.attacks.pgd, threat=BALL, steps=3)
    seen: list[int] = []

    class Counted(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return super().forward(x)

    counts = []
    for attack in (pgd, lambda *args, **more: pgd(*args, **more)):
        seen.clear()
        table = evaluate(Counted(), DATA, {"one": attack}, indicators=False, freeze=False)
        counts.append((sum(seen), table["one"]))
    (library, one), (wrapped, other) = counts
    assert wrapped == library + len(DATA.x)
    assert (one.forwards, one.backwards, one.flags) == (other.forwards, other.backwards, other.flags)
    assert torch.equal(one.broken, other.broken)
    assert torch.equal(one.distance, other.distance)


ASKED: dict[str, tuple[dict[str, Any], list[bool]]] = {
    "criterion": ({"criterion": fa.attacks.WrongBy(0.1)}, [False] * 6),
    "met": ({"criterion": fa.attacks.WrongBy(0.03)}, BROKEN),
    "targets of the data": ({"targets": torch.tensor([1, 1, 0, 0, 0, 0])}, [True] + [False] * 5),
    "mask": ({"mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool)}, [False] * 6),
}


@pytest.mark.parametrize("batch_size", [2, 6])
def test_what_is_bound_to_an_attack_is_what_it_is_asked(batch_size: int) -> None:
    for bound, broken in ASKED.values():
        if "mask" in bound:
            bound = {"mask": torch.ones(6, 1, 1, 1, dtype=torch.bool).index_fill(0, torch.tensor([1]), True)}
            broken = BROKEN
        assert row(lambda x: claims(across(x)), bound=bound, batch_size=batch_size).broken.tolist() == broken
