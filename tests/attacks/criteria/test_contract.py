"""Every attack serves every criterion, or says which attacks do."""

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.attacks import ATTACKS, DENSE_ATTACKS, Status
from fastadv.errors import InputError
from fastadv.threat import THREATS, Threat

from ..contract.cases import Brief, wide
from ..nets import Case
from .kinds import Kind, kinds

ALL = [Brief(name, card) for name, card in ATTACKS.items()]
DENSE = [Brief(name, card) for name, card in DENSE_ATTACKS.items()]
KINDS = ["signs", "all signs", "share", "numbers", "embeddings", "unless"]
PAIRS = [(case, kind) for case in ALL for kind in KINDS if case.entry.needs != "classes"]
PAIRS += [(case, "share") for case in DENSE]
NAMED = [pytest.param(case, kind, id=f"{case.name}-{kind}") for case, kind in PAIRS]

pytestmark = pytest.mark.slow


def threat_of(case: Case, kind: str, scale: float = 2) -> Threat:
    """In another norm for each kind."""
    return wide(case, case.entry.norms[KINDS.index(kind) % len(case.entry.norms)], scale=scale)


def outputs(kind: Kind, x_adv: Tensor) -> Tensor:
    with torch.no_grad():
        answers: Tensor = kind.model(x_adv)
    return answers


@pytest.mark.parametrize(("case", "name"), NAMED)
def test_a_success_is_a_fact_and_a_sample_stands_alone(case: Case, name: str) -> None:
    kind = kinds()[name]
    threat = threat_of(case, name)
    out = case(kind.model, kind.x, kind.y, threat, criterion=kind.criterion)
    assert torch.equal(out.success, kind.met(outputs(kind, out.x_adv), kind.y))
    assert threat.contains(out.x_adv, kind.x).all()
    already = kind.met(outputs(kind, kind.x), kind.y)
    assert torch.equal(out.status == Status.ALREADY_WRONG, already)
    assert out.success.any()
    for part in (torch.tensor([4]), torch.tensor([5, 0, 3, 1])):
        y = kind.labels(part)
        some = case(kind.model, kind.x[part], y, threat, criterion=kind.criterion, ids=part)
        torch.testing.assert_close(some.x_adv, out.x_adv[part], rtol=1e-6, atol=1e-6)
        assert torch.equal(some.success, out.success[part])


@pytest.mark.parametrize(
    ("case", "name"), [p for p in NAMED if p.values[0].entry.kind == "budget" and p.values[1] != "unless"]
)
def test_a_ball_of_radius_0_breaks_nothing(case: Case, name: str) -> None:
    kind = kinds()[name]
    norm = threat_of(case, name).norm
    out = case(kind.model, kind.x, kind.y, THREATS[norm](0.0), criterion=kind.criterion)
    assert torch.equal(out.x_adv, kind.x)
    assert torch.equal(out.success, kind.met(outputs(kind, kind.x), kind.y))


@pytest.mark.parametrize(
    ("case", "name"), [p for p in NAMED if p.values[0].entry.targeted and kinds()[p.values[1]].reached]
)
def test_targets_are_reached(case: Case, name: str) -> None:
    kind = kinds()[name]
    assert kind.reached is not None
    # one long step goes beyond numbers that are near
    threat = threat_of(case, name, 0.2 if (case.name, name) == ("fgsm", "numbers") else 2)
    out = case(kind.model, kind.x, kind.y, threat, criterion=kind.criterion, targets=kind.targets)
    assert torch.equal(out.success, kind.reached(outputs(kind, out.x_adv), kind.targets))
    assert out.success.any()
    assert threat.contains(out.x_adv, kind.x).all()


@pytest.mark.parametrize(
    "case", [case for case in ALL if case.entry.needs == "classes"], ids=lambda c: c.name
)
@pytest.mark.parametrize("name", ["signs", "share", "numbers"])
def test_attacks_of_classes_name_those_that_serve(case: Case, name: str) -> None:
    kind = kinds()[name]
    served = "served by apgd, .*ddn, .*pgd, .*square"
    with pytest.raises(
        InputError, match=f"criterion: expected one of classes, which {case.name} needs, .*{served}"
    ):
        case(kind.model, kind.x, kind.y, threat_of(case, name), criterion=kind.criterion)


@pytest.mark.parametrize("case", DENSE, ids=lambda case: case.name)
@pytest.mark.parametrize("name", [None, "signs", "unless"])
def test_attacks_of_positions_ask_for_a_share(case: Case, name: str | None) -> None:
    kind = kinds()[name or "share"]
    criterion = kind.criterion if name else None
    with pytest.raises(
        InputError, match=rf"criterion: expected Share\(least\), as {case.name} .*or attack other"
    ):
        case(kind.model, kind.x, kind.y, fa.Linf(0.1), criterion=criterion)
