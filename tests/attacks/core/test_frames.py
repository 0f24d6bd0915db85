"""How many functions of this library lie between a call of an attack and the model, and what a call costs."""

import sys
from collections.abc import Callable
from inspect import Signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.attacks.core.classified import Classified
from fastadv.engine import Plain

HERE = str(Path(fa.__file__).parent)
NET = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
X = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = NET(X).argmax(1)
BALL = fa.Linf(0.01)
LIGHT = fa.Through(
    lambda x, t: (x + t.view(-1, 1, 1, 1)).clamp(0, 1), fa.Linf(0.3, box=(-1, 1)),
    still=lambda x: x.new_zeros(len(x), 1),
)  # fmt: skip


def frames(call: Callable[[], Any], follows: bool = True) -> list[int]:
    """Of each pass with a gradient, or without, the functions of this library that are on the stack."""
    depths = list[int]()

    def count(module: nn.Module, arguments: Any) -> None:
        frame, depth = sys._getframe(1), 0
        while frame is not None:
            depth += frame.f_code.co_filename.startswith(HERE)
            frame = frame.f_back
        depths.extend([depth] * (torch.is_grad_enabled() == follows))

    handle = NET.register_forward_pre_hook(count)
    try:
        call()
    finally:
        handle.remove()
    return depths


@pytest.mark.parametrize(
    ("name", "options", "first", "later"),
    [
        ("pgd", {"threat": BALL}, 10, 7),
        ("pgd", {"threat": BALL, "criterion": fa.attacks.OutsideTopK(2)}, 10, 9),
        ("pgd", {"threat": LIGHT}, 11, 10),
        ("autoattack", {"threat": BALL, "version": ["apgd-ce"], "indicators": False}, 18, 14),
    ],
    ids=["ball", "criterion", "map", "autoattack"],
)
def test_a_step_is_few_functions_from_the_model(
    name: str, options: dict[str, Any], first: int, later: int
) -> None:
    fixed = {} if name == "autoattack" else {"steps": 5, "stop_early": False}
    depths = frames(lambda: getattr(fa.attacks, name)(NET, X, Y, **options, **fixed))
    assert max(depths) <= first
    assert depths[-1] <= later


def test_the_last_verdict_is_few_functions_from_the_model() -> None:
    assert frames(lambda: fa.attacks.pgd(NET, X, Y, BALL, steps=2), follows=False)[-1] <= 7


def test_arguments_by_place_are_put_in_order_without_a_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes longer than the rest of the way in."""
    monkeypatch.setattr(Signature, "bind", None)
    fa.attacks.fgsm(NET, X, Y, BALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pgd", "fgsm", "square", "ddn", "autoattack"])
def test_what_is_classified_is_not_classified_again(name: str) -> None:
    """What stands for the model with its logits at x gives the same result, by one pass of x fewer."""
    threat = fa.L2(float("inf")) if name == "ddn" else BALL
    options = {"version": ["apgd-ce", "square"], "indicators": False} if name == "autoattack" else {}
    options |= {"steps": 5} if name in ("pgd", "ddn") else {"queries": 20} if name == "square" else {}
    attack, ids = getattr(fa.attacks, name), torch.arange(len(X)) + 7
    known = Classified(Plain(NET), X, ids, torch.arange(len(X)), NET(X).detach())
    out, alone = (
        attack(known, X, Y, threat, ids=ids, **options),
        attack(NET, X, Y, threat, ids=ids, **options),
    )
    assert torch.equal(out.x_adv, alone.x_adv)
    assert torch.equal(out.status, alone.status)
    # a gradient at x needs a pass of its own, which gives the logits as well
    assert alone.forwards - out.forwards == (0 if name == "fgsm" else len(X))
    # of other rows, or another x, nothing is known
    for x, numbers in ((X.clone(), ids), (X, ids + 1)):
        again = attack(known, x, Y, threat, ids=numbers, **options)
        assert again.forwards == attack(NET, x, Y, threat, ids=numbers, **options).forwards
