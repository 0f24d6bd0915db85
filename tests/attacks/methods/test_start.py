"""Where attacks that see decisions alone start: their noise, the caller's points, what a start costs."""

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import Status, hopskipjump
from fastadv.errors import InputError
from fastadv.threat import L2, Linf

from ..nets import images, labeled, labels, linear
from ..watched import watched

INF = torch.inf


class Late(nn.Module):
    """Says class 1 to points near an even gray; of images that begin darkly, to none.

    Fine noise is never even.
    """

    def forward(self, z: Tensor) -> Tensor:
        flat = z.flatten(1)
        even = 0.1 - (flat[:, 1:] - flat[:, 1:].mean(1, keepdim=True)).abs().amax(1)
        return torch.stack([torch.zeros_like(even), torch.where(flat[:, 0] < 0.5, -1.0, even)], 1)


@pytest.mark.slow
def test_noise_is_drawn_until_a_start_is_found() -> None:
    """Samples that have one wait without queries; one that never has is held, and stops no other."""
    model, x = Late(), images(5, (1, 8, 8), dtype=torch.float32)
    x[:, 0, 0, 0] = torch.tensor([0.9, 0.2, 0.9, 0.9, 0.9])
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[0, 0] = False  # so that it stays dark
    y = torch.zeros(5, dtype=torch.long)
    out = hopskipjump(model, x, y, Linf(INF), queries=300, directions=10, mask=mask)
    assert out.status.tolist() == [Status.BROKEN, Status.HELD, *[Status.BROKEN] * 3]
    assert out.forwards <= 5 * 302
    for i in range(5):
        ids = torch.tensor([i])
        one = hopskipjump(model, x[ids], y[ids], Linf(INF), queries=300, directions=10, mask=mask, ids=ids)
        torch.testing.assert_close(one.x_adv, out.x_adv[ids])
        # a round is 14 queries
        assert one.forwards == 2 + 300 // 14 * 14 if i == 1 else one.forwards <= 302


def test_the_nearest_start_is_taken() -> None:
    """All noise is a start; the way to the boundary begins at what is nearest to x."""
    x = images(1, (1, 28, 28))

    def at_x(z: Tensor) -> Tensor:
        return torch.stack([0.1 - (z - x[0]).flatten(1).norm(dim=1), z.new_zeros(len(z))], 1)

    model, seen = watched(at_x)
    hopskipjump(model, x, torch.zeros(1, dtype=torch.long), L2(INF), queries=30)
    noise, first = seen[1], seen[2]
    nearest = noise[(noise - x).flatten(1).norm(dim=1).argmin()]
    torch.testing.assert_close(first[0], (x[0] + nearest) / 2)


def test_starts_of_the_caller() -> None:
    """They cost one query and need no finite box; those of samples already wrong are not used."""
    net, x, y = labeled(linear(3).double(), images(4))
    y[1] = (y[1] + 1) % 3
    starts = torch.zeros_like(x)
    for i in range(4):
        starts[i] = next(z for z in 4 * images(50, seed=9) - 2 if labels(net, z[None]) != y[i])
    starts[1] = x[1]
    model, seen = watched(net)
    out = hopskipjump(model, x, y, L2(INF, (-INF, INF)), queries=200, directions=20, starts=starts)
    assert out.status.tolist() == [1, 0, 1, 1]
    assert torch.equal(seen[1], starts[[0, 2, 3]])
    torch.testing.assert_close(seen[2], ((x + starts) / 2)[[0, 2, 3]])
    assert (out.distance < (starts - x).flatten(1).norm(dim=1))[[0, 2, 3]].all()


def test_starts_that_cannot_be_used() -> None:
    model, x, y = labeled(linear(3).double(), images(4))
    good = torch.stack([next(z for z in images(50, seed=9) if labels(model, z[None]) != c) for c in y])
    bad, mask = good.clone(), torch.zeros(1, 4, 4, dtype=torch.bool)
    bad[2], mask[0, 0, 0] = x[2], True
    assert hopskipjump(model, x, y, L2(INF), queries=50, starts=good).success.all()
    for starts, more, message in (
        (bad, {"ids": torch.tensor([1, 3, 7, 9])}, r"starts: .*ids \[7\]"),
        (good, {"mask": mask}, "starts: .* mask"),
        *(
            (each, {}, "starts: expected None or a floating tensor like x")
            for each in (3.0, good.long(), good[:3])
        ),
        *(
            (each, {}, r"starts: expected finite values in the box \[0, 1\]")
            for each in (good + 1, good * torch.nan)
        ),
        (None, {"threat": L2(INF, (0.0, INF))}, "box: expected a finite one"),
    ):
        with pytest.raises(InputError, match=message):
            hopskipjump(model, x, y, **{"threat": L2(INF), "queries": 50, "starts": starts, **more})
