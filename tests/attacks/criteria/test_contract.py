"""Every attack serves every criterion within its budget, or says which attacks do."""

from collections import Counter
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.attacks import ATTACKS, DENSE_ATTACKS, AttackResult, Beyond, Status
from fastadv.attacks.core.common import passes
from fastadv.errors import InputError
from fastadv.threat import THREATS
from tests.threat.test_through import MAPS

from ..contract.cases import Brief, options, wide
from ..nets import Case, images
from .kinds import kinds

ALL = [Brief(name, card) for name, card in ATTACKS.items()]
OF_CLASSES = [case for case in ALL if case.entry.needs == "classes"]
DENSE = [Brief(name, card) for name, card in DENSE_ATTACKS.items()]
OF_ONE = ("unless", "sure", "top 2")
# attacks whose steps have several gradients each, that run others, or whose number the data decides
OWN_COUNT = ("autoattack", "deepfool", "superdeepfool", "fab", "minimum_radius", *DENSE_ATTACKS)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*ALL, *DENSE], ids=lambda case: case.name)
def test_promises(case: Case) -> None:
    """Under every kind that it serves; parts of the batch, a radius of 0, and targets in turn."""
    served = ("share",) if case in DENSE else OF_ONE if case in OF_CLASSES else kinds()
    for place, name in enumerate(served, len(case.name)):
        keeps_them(case, name, place)
    if case in ALL and case.entry.serves_all and case.entry.knowledge != "none" and case.name != "fgsm":
        leads_up_and_down(case)  # which takes more than one step


def keeps_them(case: Case, name: str, place: int) -> None:
    kind, spent = kinds()[name], Counter[str]()
    gradient, norm = case.entry.knowledge == "gradient", case.entry.norms[place % len(case.entry.norms)]
    threat = wide(case, norm, scale=2)

    def model(x: Tensor) -> Tensor:
        answers: Tensor = kind.model(x)
        spent.update(forwards=len(x), backwards=len(x) * answers.requires_grad)
        return answers

    def run(rows: Any = slice(None), threat: fa.threat.Threat = threat, **given: Any) -> AttackResult:
        x, ids, targets = kind.x[rows], torch.arange(6)[rows], given.get("targets")
        out = case(model, x, kind.labels(rows), threat, criterion=kind.criterion, ids=ids, **given)
        if targets is None:
            met = kind.broken(out.x_adv, rows)
        else:
            assert kind.reached is not None
            met = kind.reached(kind.says(out.x_adv), targets)
        assert torch.equal(out.success, met), name
        assert threat.contains(out.x_adv, x).all(), name
        return out

    # those that stay after a success spend all of the budget
    stays = options(case, stop_early=place % 3 == 0)
    out, already = run(**stays), kind.broken(kind.x)
    assert torch.equal(out.status == Status.ALREADY_WRONG, already), name
    forwards, backwards = (count / len(kind.x) for count in (spent["forwards"], spent["backwards"]))
    if "queries" in case.quick:
        assert forwards <= case.quick["queries"] * case.quick.get("restarts", 1) + 3, name
    elif gradient and case.name not in OWN_COUNT:
        defaults = {key: one.default for key, one in case.entry.parameters.items()}
        assert backwards <= passes({**defaults, **case.quick}) + 1, name
    if case in DENSE or place % 3 == 0:
        rows = torch.tensor(([4], [5, 0, 3, 1])[place % 2])
        some = run(rows, **stays)
        torch.testing.assert_close(some.x_adv, out.x_adv[rows], rtol=1e-6, atol=1e-6)
        assert torch.equal(some.success, out.success[rows]), name
    if case.entry.kind == "budget" and name not in OF_ONE and place % 3 != 0:
        still = run(threat=THREATS[norm](0.0))
        assert torch.equal(still.x_adv, kind.x), name
        assert torch.equal(still.success, already), name
    if case.entry.targeted and kind.reached is not None and place % 3 != 1:
        # one long step goes beyond numbers that are near
        near = (case.name, name) == ("fgsm", "numbers")
        aimed = run(threat=wide(case, norm, scale=0.2 if near else 2), targets=kind.targets)
        assert aimed.success.any() or not gradient, name
    assert out.success.any() or (not gradient and name in OF_ONE), name


def leads_up_and_down(case: Case) -> None:
    """One number of pixels near 1, whose mean can fall alone."""
    norm, x = case.entry.norms[0], 1 - images(4) / 50
    far = inf if case.entry.minimal else {"linf": 0.3, "l2": 1.2, "l1": 4.8, "l0": 8}[norm]
    more = {"queries": 4040} if case.entry.knowledge == "score" else {}
    for side, shift in ((1, None), (1, 0.03), (-1, 0.0)):

        def mean(x: Tensor, side: int = side) -> Tensor:
            return side * x.flatten(1).mean(1, keepdim=True)

        y = None if shift is None else mean(x) + shift
        assert case(mean, x, y, THREATS[norm](far), criterion=Beyond(0.1), **more).success.all(), (side, y)


@pytest.mark.parametrize("name", ["signs", "share", "numbers", None])
def test_what_an_attack_needs_is_named(name: str | None) -> None:
    """Attacks of classes name those that serve, those of positions ask for a share."""
    kind = kinds()[name or "share"]
    classes = r"one of classes, which {} needs, .*served by apgd, .*ddn, .*pgd, .*square"
    share = r"Share\(least\), as {} .*or attack other"
    refused = [(case, classes, wide(case, case.entry.norms[0])) for case in OF_CLASSES if name]
    refused += [(case, share, fa.Linf(0.1)) for case in DENSE if name != "share"]
    for case, message, threat in refused:
        with pytest.raises(InputError, match=f"criterion: expected {message.format(case.name)}"):
            case(kind.model, kind.x, kind.y, threat, criterion=kind.criterion if name else None)


MAPPED = ("share", "moved"), ("signs", "patch anywhere"), ("numbers", "scaled"), ("embeddings", "moved")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "map"), [*MAPPED, ("unless", "scaled")])
def test_a_success_in_a_map_is_one_of_the_image(name: str, map: str) -> None:
    kind, whole = kinds()[name], MAPS[map]((1, 4, 4))
    for freeze in (False, True):
        given = {"criterion": kind.criterion, "steps": 5, "freeze": freeze}
        out = fa.attacks.pgd(kind.model, kind.x, kind.y, whole, **given)
        assert torch.equal(out.success, kind.broken(out.x_adv))
        assert torch.equal(whole.image(out.parameters, kind.x), out.x_adv)
        assert out.success.any()
