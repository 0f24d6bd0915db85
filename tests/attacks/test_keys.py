"""A random start depends on the seed, the sample's number and the restart, and on nothing else."""

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import AttackResult, mim
from fastadv.threat import Threat

from .nets import Case, images, labels, mlp, threat
from .watched import watched


def starts(attack: Case, x: Tensor, inside: Threat, **options: object) -> list[Tensor]:
    """The first point of each restart, recorded by a model of constant gradient that nothing breaks."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 2).to(x.dtype))
    with torch.no_grad():
        net[1].weight.zero_()[0] = 1e-6
        net[1].bias.copy_(torch.tensor([9.0, 0.0]))
    model, seen = watched(net)
    y = torch.zeros(len(x), dtype=torch.long)
    options = {"stop_early": False, **options}
    out: AttackResult = attack(model, x, y, inside, **options)
    steps = attack.quick.get("steps", 1)
    # the clean batch, then steps gradients and one forward a restart, then the verdict
    batches = [points for points in seen if len(points) == len(x)][1:-1]
    assert not out.success.any()
    return batches[:: steps + 1]


@pytest.mark.slow
def test_every_restart_starts_elsewhere(attack: Case, norm: str) -> None:
    """Where the threat draws it for this seed, sample and restart; without, the first restart is at x."""
    if not attack.takes("random_start"):
        pytest.skip("no random start of the threat")
    x, inside = images(8), threat(norm, 2)
    for seed, ids in ((0, torch.arange(8)), (2**40, torch.arange(8) + 2**40)):
        keys = {"restarts": 3, "seed": seed, "ids": ids}
        points = starts(attack, x, inside, random_start=True, **keys)
        assert len(points) == 3
        for r, point in enumerate(points):
            assert torch.equal(point, inside.random_start(x, seed=seed, ids=ids, draw=r))
        plain = starts(attack, x, inside, random_start=False, **keys)
        assert torch.equal(plain[0], x)
        for point, other in zip(plain[1:], points[1:], strict=True):
            assert torch.equal(point, other)


def test_each_restart_begins_with_no_momentum() -> None:
    """A restart of mim at a point is a run of mim from there, by hand."""
    model, x = mlp(), images(10)
    y, inside = labels(model, x), threat("l2")
    recorder, both = watched(model)
    options = {"steps": 3, "stop_early": False, "random_start": True, "loss": "ce", "decay": 0.7}
    mim(recorder, x, y, inside, restarts=2, **options)
    both = both[1:-1]
    z, momentum = both[4], 0.0
    for k in range(3):
        leaf = z.clone().requires_grad_()
        gradient = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)[0]
        momentum = 0.7 * momentum + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
        z = inside.step(z, momentum, x, 0.25 / 3)
        torch.testing.assert_close(both[5 + k], z, rtol=0, atol=1e-9)
