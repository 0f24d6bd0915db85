"""Bad input: an error that names the argument, what was expected and what came."""

from typing import Any

import pytest
import torch

from fastadv.attacks import pgd
from fastadv.errors import InputError
from fastadv.threat import L2, Linf

from .nets import Case, images, labels, mlp

X, Y = images(4), torch.tensor([0, 1, 2, 0])

BAD: list[tuple[str, dict[str, Any]]] = [
    ("x: expected a floating", {"x": (X * 255).to(torch.uint8)}),
    ("x: expected a floating", {"x": X.numpy()}),
    ("x: expected a floating", {"x": X.flatten()}),
    ("x: expected finite", {"x": X.masked_fill(X > 0.9, torch.nan)}),
    ("x: expected finite", {"x": X.masked_fill(X > 0.9, torch.inf)}),
    (r"x: expected values in the box \[0, 1\]", {"x": X + 1e-3 - X.min() - 2e-3}),
    ("y: expected one integer", {"y": Y[:3]}),
    ("y: expected one integer", {"y": Y.float()}),
    ("y: expected one integer", {"y": Y > 0}),
    ("y: expected one integer", {"y": [0, 1, 2, 0]}),
    ("y: expected a tensor on cpu", {"y": Y.to("meta")}),
    ("y: expected classes 0 to 2", {"y": Y + 1}),
    ("y: expected classes 0 to 2", {"y": Y - 1}),
    ("targets: expected one integer", {"targets": Y[:2]}),
    (
        "targets: expected a class other than the label, got label 2 as target of sample 2",
        {"targets": torch.tensor([1, 0, 2, 1])},
    ),
    ("targets: expected classes 0 to 2", {"targets": Y + 3}),
    ("ids: expected one integer", {"ids": torch.arange(3)}),
    ("radius: expected a number or one for each of 4", {"threat": Linf(torch.ones(3))}),
    ("threat: expected one of", {"threat": 0.3}),
]


@pytest.mark.parametrize(("message", "given"), BAD, ids=range(len(BAD)))
def test_bad_input(attack: Case, message: str, given: dict[str, Any]) -> None:
    arguments = {"x": X, "y": Y, "threat": Linf(0.1), **given}
    with pytest.raises(InputError, match=message):
        attack(mlp(), **arguments)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("steps: expected an integer >= 0", {"steps": -1}),
        ("steps: expected an integer >= 0", {"steps": 2.5}),
        ("restarts: expected an integer >= 1", {"restarts": 0}),
        ("step_size: expected a finite number", {"step_size": -0.1}),
        ("step_size: expected a finite number", {"step_size": float("nan")}),
        ("step_size: expected finite numbers", {"step_size": torch.ones(3)}),
        ("loss: expected one of", {"loss": "hinge"}),
        ("loss: expected one value a sample", {"loss": lambda logits, y, targets: logits.sum()}),
    ],
)
def test_bad_options(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=message):
        pgd(mlp(), X, labels(mlp(), X), Linf(0.1), **{"steps": 3, **options})


def test_infinite_radius(attack: Case) -> None:
    x, y = X, labels(mlp(), X)
    if attack.entry.minimal:
        pytest.skip("has no radius")
    with pytest.raises(InputError, match="infinite"):
        attack(mlp(), x, y, L2(float("inf")))
    if attack.takes("step_size"):
        out = attack(mlp(), x, y, L2(float("inf")), step_size=0.2, random_start=False)
        assert L2(float("inf")).contains(out.x_adv, x).all()


def test_a_threat_is_checked_when_it_is_made() -> None:
    with pytest.raises(InputError, match="radius"):
        Linf(-0.1)
