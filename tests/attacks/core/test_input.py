"""Bad input: an error that names the argument, what was expected and what came."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import core, last_iterate, mim, pgd
from fastadv.engine import freeze
from fastadv.errors import InputError
from fastadv.threat import Linf

from ..nets import Case, images, mlp

X, Y = images(4), torch.tensor([0, 1, 2, 0])

BAD: list[tuple[str, dict[str, Any]]] = [
    ("x: expected a floating", {"x": (X * 255).to(torch.int16)}),
    ("x: expected a floating", {"x": X.numpy()}),
    ("x: expected a floating", {"x": X.flatten()}),
    ("got AttackResult; pass its x_adv", {"x": pgd(mlp(), X, Y, Linf(0.1), steps=1)}),
    ("x: expected finite", {"x": X.masked_fill(X > 0.9, torch.nan)}),
    ("x: expected finite", {"x": X.masked_fill(X > 0.9, torch.inf)}),
    (r"x: expected values in the box \[0, 1\]", {"x": X + 1e-3 - X.min() - 2e-3}),
    ("box: expected ends that .* tells apart", {"x": 0 * X.half() + 1, "threat": Linf(0.1, (1.0, 1 + 1e-9))}),
    ("y: expected one integer", {"y": Y[:3]}),
    (r"y: expected one integer .* pass criterion=.*Signs\(\), for classes y\.long\(\)", {"y": Y > 0}),
    (r"for classes y\.squeeze\(1\)\.long\(\)", {"y": (Y > 0)[:, None]}),
    ("y: expected one integer", {"y": [0, 1, 2, 0]}),
    ("y: expected a tensor on cpu", {"y": Y.to("meta")}),
    ("y: expected classes 0 to 2", {"y": Y + 1}),
    ("y: expected classes 0 to 2", {"y": Y - 1}),
    ("targets: expected one integer", {"targets": Y[:2]}),
    ("targets: .* got label 2 as target of sample 2", {"targets": torch.tensor([1, 0, 2, 1])}),
    ("targets: expected classes 0 to 2", {"targets": Y + 3}),
    ("ids: expected one integer", {"ids": torch.arange(3)}),
    ("mask: expected a coordinate", {"mask": torch.arange(4).view(4, 1, 1, 1) > 0}),
    ("radius: expected a number or one for each of 4", {"threat": Linf(torch.ones(3))}),
    ("threat: expected fa.Linf, L2, L1 or L0, got None", {"threat": None}),
]

# options of any attack that has them
BAD_OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("steps: expected an integer >= 0", {"steps": -1}),
    ("restarts: expected an integer >= 1", {"restarts": 0}),
    ("step_size: expected a finite number", {"step_size": -0.1}),
    ("step_size: expected a finite number", {"step_size": float("inf")}),
    ("step_size: expected a finite number", {"step_size": "long"}),
    ("step_size: expected finite numbers", {"step_size": torch.ones(3)}),
    ("step_size: expected finite numbers", {"step_size": torch.tensor([0.1, 0.1, 0.1, -0.1])}),
    ("step_size: expected finite numbers", {"step_size": torch.ones(4, dtype=torch.bool)}),
    ("step_size: expected a positive number", {"step_size": 0.0}),
    ("step_size: expected a positive number", {"step_size": torch.tensor([0.1, 0.1, 0.1, 0.0])}),
    ("seed: expected an integer from 0", {"seed": -1}),
    ("loss: expected one of ce, margin, .*, ce_sharp, bce or a .*, got 'hinge'", {"loss": "hinge"}),
    ("loss: expected one value a sample", {"loss": lambda logits, y, targets: logits.sum()}),
    ("loss: expected one value a sample", {"loss": lambda logits, y, targets: 3.0}),
    ("decay: expected a finite number", {"decay": -1.0}),
]


@pytest.mark.parametrize(("message", "arguments"), [*BAD, *BAD_OPTIONS], ids=range(len(BAD + BAD_OPTIONS)))
def test_bad_input(message: str, arguments: dict[str, Any]) -> None:
    attack = mim if "decay" in arguments else pgd
    with pytest.raises(InputError, match=message):
        attack(**{"model": mlp(), "x": X, "y": Y, "threat": Linf(0.1), **arguments})


def test_bad_options_are_found_before_the_model_is_called(attack: Case) -> None:
    def model(x: Tensor) -> Tensor:
        raise AssertionError

    for options in ({"seed": -1}, {"loss": "hinge"}, {"restarts": 0}, {"step_size": 0.0}):
        if attack.takes(next(iter(options))):
            with pytest.raises(InputError):
                attack(model, X, Y, Linf(0.1), **options)
    with pytest.raises(TypeError, match="pgd: too many positional arguments"):
        pgd(model, X, Y, Linf(0.1), *[1] * 20)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("steps", {"steps": -1}),
        ("step_size", {"step_size": None}),
        ("step_size", {"step_size": 0.0}),
        ("loss", {"loss": "hinge"}),
        ("labels or targets", {"y": None}),
        ("threat", {"threat": 0.3}),
        ("x: expected", {"x": (X * 255).long()}),
        ("start: expected", {"start": X[:2]}),
        ("model: expected", {"model": 3}),
    ],
)
def test_bad_input_of_last_iterate(message: str, arguments: dict[str, Any]) -> None:
    keys = {"model": freeze(mlp()), "x": X, "y": Y, "threat": Linf(0.1), "steps": 2, "step_size": 0.1}
    with pytest.raises(InputError, match=message):
        last_iterate(**{**keys, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x", "threat", "targets"])
def test_a_task_is_handed_on_as_it_is_or_with_what_it_holds(name: str) -> None:
    """Or else what an attack changes would not count, and nothing would say so."""
    x, y = torch.full((3, 1, 1, 1), 0.2), torch.zeros(3, dtype=torch.long)

    def line(x: Tensor) -> Tensor:
        return torch.stack([0 * x, x - 0.5], 1).flatten(1)

    @core.takes_common
    def attack(model, x, y, threat, *, others: bool, **common):
        assert torch.equal(model(x), line(x))
        given = {"x": x, "y": y, "threat": threat}
        changed = {"x": x + 0.1, "threat": Linf(0.6), "targets": torch.ones_like(y)}
        given |= {name: changed[name]} if others else {}
        return core.run(model, rule=lambda search: search.decide(search.x + 0.1), **given, **common)

    assert attack(line, x, y, Linf(0.3), others=False).forwards
    with pytest.raises(InputError, match=r"^model: expected a task with the x, y and threat that it holds"):
        attack(line, x, y, Linf(0.3), others=True)
