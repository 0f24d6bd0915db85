"""A random start depends on the seed, the sample's number and the restart, and on nothing else."""

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import AttackResult
from fastadv.threat import Threat

from .nets import Case, images, threat
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
