"""Outputs that say the same in two ways are attacked alike."""

from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import ATTACKS, AttackResult, Beyond, Criterion, Share, Signs, Unless, bim
from fastadv.threat import THREATS
from tests.attacks.contract.cases import NAMED, Brief, norm_of, wide
from tests.attacks.contract.conftest import few_steps_of_autoattack, pytest_generate_tests  # noqa: F401
from tests.attacks.criteria.kinds import IGNORE, kinds
from tests.attacks.nets import Case, images, labeled, linear, mlp, threat

Model = Callable[[Tensor], Tensor]
Question = tuple[Model, Tensor | None, Criterion | None]


def alike(out: AttackResult, plain: AttackResult, what: str, near: float = 1e-6) -> None:
    assert torch.equal(out.status, plain.status), what
    torch.testing.assert_close(out.x_adv, plain.x_adv, rtol=0, atol=near, msg=lambda text: f"{what}: {text}")


# losses that know no scale, for attacks that ascend cross-entropy, which does where logits are large
LOSSES = {"linf": "dlr", "l2": "margin", "l1": "dlr", "l0": "dlr"}
# how much farther or nearer successes may be, by the median, where an attack itself weighs the margin or
# cross-entropy, as published, or runs one that does
WITHIN = {"minimum_norm": 1.1, "pdgd": 1.1, "pdpgd": 1.1}


def scaled(case: Case, norm: str, factor: float, **options: Any) -> AttackResult:
    model, x, y = labeled(mlp(4), images(12))
    return case(lambda x: factor * model(x), x, y, wide(case, norm, scale=0.4), **options)


def ascending(case: Case, norm: str) -> dict[str, Any]:
    """A loss that knows no scale, for the attacks that ascend cross-entropy otherwise."""
    if case.name == "minimum_radius":
        return {"attack": partial(bim, steps=4, loss=LOSSES[norm])}
    loss = case.entry.parameters.get("loss")
    return {"loss": LOSSES[norm]} if case.name == "ddn" or (loss and loss.default == "ce_sharp") else {}


@pytest.mark.slow
def test_order_constants_factors_and_classes_that_never_come_change_nothing(case, norm):
    (model, x, y), within = labeled(mlp(4), images(12)), wide(case, norm, scale=0.4)
    order, turn = torch.tensor([2, 0, 3, 1]), len(case.name) % 3  # each attack meets one
    count, value = (1, 4, 30)[turn], (-20.0, -200.0, -1e30)[(turn + [*THREATS].index(norm)) % 3]

    def wider(x: Tensor) -> Tensor:
        z = model(x)
        return torch.cat([z, z[:, :1] - 30, z.new_full((len(x), count), value)], 1)

    plain = scaled(case, norm, 1.0)
    alike(case(lambda x: model(x)[:, order] - 1000, x, order.argsort()[y], within), plain, "order")
    out = case(wider, x, y, within)
    if case.name == "autoattack":  # which aims at each class
        assert torch.equal(out.success, plain.success)
    else:
        alike(out, plain, f"{count} of {value}")
    if case.entry.knowledge == "gradient":
        a_factor_changes_nothing(case, norm, plain)


def a_factor_changes_nothing(case: Case, norm: str, plain: AttackResult) -> None:
    """Powers of two change no bit. AutoAttack, of which cross-entropy is a part, finds one more or less."""
    options, within = ascending(case, norm), WITHIN.get(case.name)
    plain = scaled(case, norm, 1.0, **options) if options else plain
    assert plain.success.any()
    for factor in (0.003, 3000.0) if within or case.name == "autoattack" else (2.0**66, 2.0**-66):
        out = scaled(case, norm, factor, **options)
        if case.name == "autoattack":
            assert abs(int(out.success.sum()) - int(plain.success.sum())) <= 1
        elif within:
            assert torch.equal(out.success, plain.success)
            assert 1 / within <= float(out.distance.median() / plain.distance.median()) <= within
        else:
            alike(out, plain, f"times {factor}", 0.0)
    model, x, y = labeled(linear(2), images(12, dtype=torch.float32))
    sure = case(lambda x: 1e5 * model(x), x, y, threat(norm))  # probabilities are 0 and 1 in float32
    assert not sure.zero_gradient.any()
    alike(sure, case(model, x, y, threat(norm)), "1e5 in float32", 1e-4)


@pytest.mark.parametrize("name", ["bim", "pgd", "mim"])
def test_of_large_logits_cross_entropy_is_the_margin(name: str) -> None:
    """No probability but 0 and 1 is left, and yet nothing is lost."""
    case = NAMED[name]
    alike(scaled(case, "linf", 2.0**14), scaled(case, "linf", 1.0, loss="margin"), name, 0.0)


def with_one_more(net: Model) -> Model:
    def model(x: Tensor) -> Tensor:
        z = net(x)
        return torch.cat([z, -z[..., :1]], -1)

    return model


def two(net: Model) -> Model:
    def model(x: Tensor) -> Tensor:
        z = net(x)
        return torch.cat([torch.zeros_like(z), z], 1)

    return model


ONE = "one logit is two"  # z is as good as (0, z), to the bit, for labels of any kind


def questions(turn: int) -> dict[str, tuple[Question, Question]]:
    of, one = kinds(), linear(1).double()
    yes = (one(images(6)) > 0).long().squeeze(1)
    tags, dense = of["signs"].model, of["share"].model
    held, y = of["signs"].y, of["share"].y.flatten(1)
    order, shuffled = torch.tensor([2, 0, 1]), torch.randperm(16, generator=torch.Generator().manual_seed(1))
    new = torch.where(y == IGNORE, IGNORE, order.argsort()[y.clamp_max(2)])
    none, void = torch.full_like(held[:, :1], -1), torch.full_like(y[:, :1], IGNORE)
    share, third, numbers = Share(0.5, ignore=IGNORE), of["numbers"], Share(0.5)
    flat: Model = lambda x: dense(x).flatten(2)  # noqa: E731
    return {
        ONE: ((two(one), yes, None), (one, (yes, yes.bool(), yes[:, None].double())[turn % 3], Signs())),
        "a tag that is ignored": (
            (tags, held, Signs()), (with_one_more(tags), torch.cat([held, none], 1), Signs()),
        ),
        "a position that is ignored": (
            (flat, y, share), (with_one_more(flat), torch.cat([y, void], 1), share),
        ),
        "a map in a row": ((dense, of["share"].y, share), (flat, y, share)),
        "positions in another order": (
            (flat, y, share), (lambda x: flat(x)[..., shuffled], y[:, shuffled], share),
        ),
        "classes of positions in another order": (
            (flat, y, share), (lambda x: flat(x)[:, order], new, share),
        ),
        "one channel is two": (
            (tags, held.abs(), numbers),
            (lambda x: torch.stack([0 * tags(x), tags(x)], 1), held.abs(), numbers),
        ),
        "no labels are what the model says": (
            (third.model, None, Beyond(0.3)), (third.model, third.model(third.x).detach(), Beyond(0.3)),
        ),
        "a class from the end": ((tags, of["unless"].y, Unless(3)), (tags, of["unless"].y, Unless(-1))),
    }  # fmt: skip


# each attack with one of the pairs, or that of classes, each pair with several attacks
CASES = [Brief(name, card) for name, card in ATTACKS.items()]
SERVING = [case for case in CASES if case.entry.needs != "classes"]
ASKED = [
    pytest.param(case, told, id=f"{case.name}-{told}")
    for case, told in (
        *((case, ONE) for case in CASES if case not in SERVING),
        *zip(SERVING, cycle(questions(0)), strict=False),
    )
]


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "question"), ASKED)
def test_outputs_of_other_kinds(attack: Case, question: str) -> None:
    x, within = images(6), wide(attack, norm_of(attack, question), scale=2)
    outs = [
        attack(model, x, y, within, criterion=criterion)
        for model, y, criterion in questions(len(attack.name))[question]
    ]
    assert outs[0].success.any() or attack.name == "fgsm"  # whose one step is too short
    alike(outs[1], outs[0], question, 0.0 if question == ONE else 1e-6)
    assert question != ONE or torch.equal(outs[1].loss, outs[0].loss)
