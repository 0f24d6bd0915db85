"""stencil against SciPy's sums over repeated edges, and what it refuses."""

import pytest
import torch

from fastadv.ops.stencil import stencil
from tests.refusals import refuses


def line(*taps: tuple[int, int]) -> torch.Tensor:
    return torch.tensor([taps], dtype=torch.int32)


def test_by_hand_at_the_edges():
    x = torch.tensor([[[[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]]])
    weights = torch.tensor([[1.0, 100.0]])
    assert stencil(x, line((0, -1), (1, 2)), weights).tolist() == [
        [[[3201.0, 3201.0, 3202.0], [3208.0, 3208.0, 3216.0]]]
    ]
    far = stencil(x, line((-(2**31), 2**31 - 1), (2**31 - 1, -(2**31))), weights)
    assert far.tolist() == [[[[804.0] * 3] * 2]]


@pytest.mark.parametrize("shape", [(2, 3, 40, 37), (1, 1, 130, 66), (3, 1, 5, 200), (1, 2, 1, 1)])
def test_equals_correlation_with_the_nearest_edge(shape):
    correlate = pytest.importorskip("scipy.ndimage").correlate
    draw = torch.Generator().manual_seed(shape[3])
    x, kernel = torch.rand(shape, generator=draw), torch.rand(9, 13, generator=draw)
    offsets = (torch.ones(9, 13).nonzero() - torch.tensor([4, 6])).int()[None]
    expected = correlate(x.double().numpy(), kernel.double().numpy()[None, None], mode="nearest")
    out = stencil(x, offsets, kernel.view(1, -1))
    torch.testing.assert_close(out.double(), torch.from_numpy(expected), rtol=117 * 2**-24, atol=0)
    wide = stencil(x.double(), offsets, kernel.double().view(1, -1))
    torch.testing.assert_close(wide, torch.from_numpy(expected), rtol=117 * 2**-53, atol=0)


def test_refusals():
    x, offsets, weights = torch.rand(2, 1, 4, 4), line((0, 0), (1, 1)), torch.ones(1, 2)
    refuses("x", stencil, x[0], offsets, weights)
    refuses("x", stencil, x.int(), offsets, weights)
    refuses("x", stencil, x[:, :, :0], offsets, weights)
    refuses("offsets", stencil, x, offsets.long(), weights)
    refuses("offsets", stencil, x, offsets[:, :0], weights[:, :0])
    refuses("offsets", stencil, x, offsets.expand(3, 2, 2), weights)
    refuses("weights", stencil, x, offsets, weights[0])
    refuses("weights", stencil, x, offsets, weights.int())
