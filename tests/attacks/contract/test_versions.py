"""Each version of AutoAttack on each sample alone: who else is in the batch decides nothing."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import AutoAttackResult, Status, autoattack
from fastadv.attacks.autoattack import VERSIONS

from ..nets import images, labels, mlp, threat


def attacked(results: list[AutoAttackResult]) -> Counter[str]:
    seen: Counter[str] = Counter()
    for out in results:
        seen.update({name: cost.samples for name, cost in out.costs.items()})
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_each_sample_gets_what_it_gets_alone(version: Any) -> None:
    """Each version leaves some samples; the net hides its gradient where the first pixel is bright."""
    net, x = mlp(5), images(60)

    def model(x: Tensor) -> Tensor:
        return net(torch.where(x[:, :1, :1, :1] > 0.8, (x * 50).round() / 50, x))

    y, inside = labels(model, x), threat("linf")

    def run(part: Tensor) -> AutoAttackResult:
        given: dict[str, Any] = {"indicators": False, "ids": part}
        given |= {"eot": 1} if version == "rand" else {}
        return autoattack(model, x[part], y[part], inside, version=version, **given)

    whole = run(torch.arange(60))
    assert 5 < int((whole.status == Status.HELD).sum()) < 55
    places = torch.randperm(60, generator=torch.Generator().manual_seed(0)).split([1, 4, 10, 45])
    parts = [run(part) for part in places]
    assert attacked(parts) == attacked([whole])
    for part, out in zip(places, parts, strict=True):
        assert torch.equal(out.status, whole.status[part])
        assert list(out.by) == [whole.by[place] for place in part.tolist()]
        torch.testing.assert_close(out.x_adv, whole.x_adv[part], rtol=1e-6, atol=1e-6)
