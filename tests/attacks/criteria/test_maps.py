"""Criteria of other outputs in maps of parameters."""

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import Beyond, Share, Signs

X = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1))
torch.manual_seed(2)
DENSE, TAGS = nn.Conv2d(1, 3, 3, padding=1), nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
ONE = nn.Sequential(nn.Flatten(), nn.Linear(36, 1))
MAPS = {
    "moved": fa.Moved(1, 20),
    "patch": fa.Patch((3, 3), place="any"),
    "scaled": fa.Scaled(torch.linspace(0, 0.4, 36).view(1, 6, 6)),
}


def share_of(z: Tensor, y: Tensor) -> Tensor:
    return (z.argmax(1) != y).flatten(1).double().mean(1) >= 0.2


CASES = {
    "share": (DENSE, DENSE(X).argmax(1), Share(0.2), share_of),
    "signs": (TAGS, (TAGS(X) > 0).long(), Signs(), lambda z, y: ((z > 0) != y).any(1)),
    "one logit": (ONE, (ONE(X) > 0).float(), Signs(), lambda z, y: ((z > 0) != y)[:, 0]),
    "beyond": (TAGS, None, Beyond(0.1), lambda z, y: (z - TAGS(X)).norm(dim=1) > 0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("case", CASES)
def test_a_success_is_one_of_the_image(case: str, name: str, freeze: bool) -> None:
    (model, y, criterion, met), threat = CASES[case], MAPS[name]
    out = fa.attacks.pgd(model, X, y, threat, criterion=criterion, steps=5, freeze=freeze)
    assert torch.equal(out.success, met(model(out.x_adv), y))
    assert torch.equal(threat.image(out.parameters, X), out.x_adv)
    assert out.correct.all()
    table = fa.evaluate(model, (X, y), {"pgd": fa.attacks.pgd}, threat=threat, criterion=criterion)
    assert table.clean_accuracy == 1
    assert table["pgd"].threat.text == threat.text
