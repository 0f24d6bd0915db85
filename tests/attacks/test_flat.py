"""Models without a gradient, and with a huge one: no division fails, and noise helps where it can."""

from math import inf

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import ATTACKS, Status, ddn
from fastadv.attacks.methods.geometry import norm as length
from fastadv.threat import L2, THREATS
from tests.defenses import Quantize

from .nets import RADIUS, Case, images, labeled, labels, mlp, seed_cpu
from .watched import watched

pytestmark = pytest.mark.slow
LONG = {"steps": 60, "searches": 3, "queries": 130, "directions": 1, "levels": 6, "repetitions": 2}
PAIRS = [
    pytest.param(Case(name, entry), norm, id=f"{name}-{norm}")
    for name, entry in ATTACKS.items()
    if entry.knowledge == "gradient" and name not in ("autoattack", "minimum_radius")
    for norm in entry.norms
]


@pytest.mark.parametrize(("case", "norm"), PAIRS)
def test_a_flat_model_is_held(case: Case, norm: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    x, options = images(3, (64,), dtype=torch.float32), {k: v for k, v in LONG.items() if case.takes(k)}
    threat = THREATS[norm](inf if case.entry.minimal else 3 * RADIUS[norm])
    out = case.entry.run(model, x, labels(model, x), threat, **options)
    assert (out.status == Status.HELD).all()
    assert out.zero_gradient.all()
    assert out.x_adv.isfinite().all()


def test_ddn_looks_around_where_the_gradient_is_zero() -> None:
    """Noise of growing norm, drawn afresh at each step, by the seed and the sample's number alone."""
    # a model of a few levels of each pixel: flat nearly everywhere
    stairs = nn.Sequential(Quantize(2), mlp(inputs=64, dtype=torch.float32))
    model, x, y = labeled(stairs, images(8, (64,), dtype=torch.float32))
    out, other = (ddn(model, x, y, L2(inf), steps=60, seed=seed) for seed in (0, 1))
    assert int((out.status == Status.BROKEN).sum()) >= 6
    assert out.zero_gradient.all()
    assert not torch.equal(out.x_adv, other.x_adv)
    part = torch.tensor([5, 2])
    some = ddn(model, x[part], y[part], L2(inf), steps=60, ids=part)
    torch.testing.assert_close(some.x_adv, out.x_adv[part])
    mask = torch.arange(64) < 40
    function, seen = watched(model)
    ddn(function, x, y, L2(inf), steps=10, mask=mask)
    away = torch.stack([z - x for z in seen if len(z) == len(x)])[2:11]
    assert not away[:, :, 40:].any()
    assert (torch.stack([length(a, 2) for a in away]) > 0.3).all()
    assert float(torch.nn.functional.cosine_similarity(away[1:], away[:-1], dim=2).abs().median()) < 0.4


def test_ddn_stays_at_a_point_where_nothing_may_move() -> None:
    """A gradient that is not finite counts as none, and the sample fails as it did; the others go on."""
    seed_cpu(0)
    net, x = mlp(inputs=64, dtype=torch.float32), images(4, (64,), dtype=torch.float32)

    def hole(z: Tensor) -> Tensor:
        return net(z) + (z[:, :1] < -1).float() / (z[:, :1] - x[0, 0]).abs().sqrt()

    out = ddn(hole, x, net(x).argmax(1), L2(inf), steps=60)
    assert out.x_adv.isfinite().all()
    assert (out.status[1:] == Status.BROKEN).all()
