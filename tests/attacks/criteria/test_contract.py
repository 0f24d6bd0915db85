"""Every attack serves every criterion, or says which attacks do."""

from functools import partial

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.attacks import ATTACKS, DENSE_ATTACKS, Status
from fastadv.errors import InputError
from fastadv.threat import THREATS, Threat
from tests.threat.test_through import MAPS

from ..contract.cases import Brief, wide
from ..nets import Case
from .kinds import Kind, kinds

ALL = [Brief(name, card) for name, card in ATTACKS.items()]
SERVING = [case for case in ALL if case.entry.needs != "classes"]
OF_CLASSES = [case for case in ALL if case.entry.needs == "classes"]
DENSE = [Brief(name, card) for name, card in DENSE_ATTACKS.items()]
KINDS = ["signs", "all signs", "share", "numbers", "embeddings", "unless"]
OF_ONE = ["sure", "top 2"]
PAIRS = [(case, KINDS[(2 * index + turn) % 6]) for index, case in enumerate(SERVING) for turn in range(2)]
PAIRS += [(case, OF_ONE[index % 2]) for index, case in enumerate(SERVING)] + [
    (case, "share") for case in DENSE
]
PAIRS += [(case, kind) for case in OF_CLASSES for kind in OF_ONE]

pytestmark = pytest.mark.slow


def threat_of(case: Case, kind: str, scale: float = 2) -> Threat:
    return wide(case, case.entry.norms[[*KINDS, *OF_ONE].index(kind) % len(case.entry.norms)], scale=scale)


def outputs(kind: Kind, x_adv: Tensor) -> Tensor:
    with torch.no_grad():
        answers: Tensor = kind.model(x_adv)
    return answers


@pytest.mark.parametrize(("case", "name"), PAIRS, ids=[f"{case.name}-{kind}" for case, kind in PAIRS])
def test_a_success_is_a_fact_and_a_sample_stands_alone(case: Case, name: str) -> None:
    """Each attack with two kinds, each kind with several attacks."""
    kind, threat = kinds()[name], threat_of(case, name)
    run = partial(case, kind.model, criterion=kind.criterion)
    out, already = run(kind.x, kind.y, threat), kind.met(outputs(kind, kind.x), kind.y)
    assert torch.equal(out.success, kind.met(outputs(kind, out.x_adv), kind.y))
    assert threat.contains(out.x_adv, kind.x).all()
    assert torch.equal(out.status == Status.ALREADY_WRONG, already)
    assert out.success.any() or (name in OF_ONE and case.entry.knowledge != "gradient")
    for part in (torch.tensor([4]), torch.tensor([5, 0, 3, 1])):
        some = run(kind.x[part], kind.labels(part), threat, ids=part)
        torch.testing.assert_close(some.x_adv, out.x_adv[part], rtol=1e-6, atol=1e-6)
        assert torch.equal(some.success, out.success[part])
    if case.entry.kind == "budget" and name not in ("unless", *OF_ONE):
        still = run(kind.x, kind.y, THREATS[threat.norm](0.0))
        assert torch.equal(still.x_adv, kind.x)
        assert torch.equal(still.success, already)
    if case.entry.targeted and kind.reached is not None:
        # one long step goes beyond numbers that are near
        threat = threat_of(case, name, 0.2 if (case.name, name) == ("fgsm", "numbers") else 2)
        aimed = run(kind.x, kind.y, threat, targets=kind.targets)
        assert torch.equal(aimed.success, kind.reached(outputs(kind, aimed.x_adv), kind.targets))
        assert aimed.success.any() or case.entry.knowledge != "gradient"
        assert threat.contains(aimed.x_adv, kind.x).all()


@pytest.mark.parametrize("name", ["signs", "share", "numbers", None])
def test_what_an_attack_needs_is_named(name: str | None) -> None:
    """Attacks of classes name those that serve, those of positions ask for a share."""
    kind = kinds()[name or "share"]
    classes = r"one of classes, which {} needs, .*served by apgd, .*ddn, .*pgd, .*square"
    share = r"Share\(least\), as {} .*or attack other"
    refused = [(case, classes, threat_of(case, name)) for case in OF_CLASSES if name]
    refused += [(case, share, fa.Linf(0.1)) for case in DENSE if name != "share"]
    for case, message, threat in refused:
        with pytest.raises(InputError, match=f"criterion: expected {message.format(case.name)}"):
            case(kind.model, kind.x, kind.y, threat, criterion=kind.criterion if name else None)


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize(
    ("name", "map"),
    [("share", "moved"), ("signs", "patch anywhere"), ("numbers", "scaled"), ("embeddings", "moved"),
     ("unless", "scaled")],
)  # fmt: skip
def test_a_success_in_a_map_is_one_of_the_image(name: str, map: str, freeze: bool) -> None:
    kind, whole = kinds()[name], MAPS[map]((1, 4, 4))
    given = {"criterion": kind.criterion, "steps": 5, "freeze": freeze}
    out = fa.attacks.pgd(kind.model, kind.x, kind.y, whole, **given)
    assert torch.equal(out.success, kind.met(outputs(kind, out.x_adv), kind.y))
    assert torch.equal(whole.image(out.parameters, kind.x), out.x_adv)
    assert out.success.any()
