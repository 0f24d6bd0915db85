"""linf_step: edges to the last bit, and other boxes."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import few, pair, seeds
from fastadv.ops import linf_step


@few
@given(
    seeds, st.sampled_from([1 / 255, 8 / 255, 0.3, 1e-6]), st.sampled_from([torch.float32, torch.bfloat16])
)
def test_reaches_the_last_value_inside_the_ball(seed, radius, dtype):
    _, x = pair(seed, 2, 200, dtype=dtype)
    z = linf_step(x, torch.ones_like(x), x, radius, 1.0)
    assert bool(((z.double() - x.double()) <= radius).all())
    beyond = torch.nextafter(z, torch.full_like(z, 2.0))
    # a value further would leave the ball as float32 holds its radius, or the box
    held = float(torch.tensor(radius, dtype=torch.float32)) * (1 - 1e-6)
    assert bool(((beyond.double() - x.double() > held) | (beyond > 1)).all())


def test_equivariant_under_the_units_of_the_box():
    x_adv, x = pair(1, 4, 50)
    x_adv, grad = x_adv.clamp(0, 1), torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    unit = linf_step(x_adv, grad, x, 0.125, 0.0625)
    for scale, shift in ((2.0, -1.0), (256.0, 0.0)):
        points, center = x_adv * scale + shift, x * scale + shift
        moved = linf_step(points, grad, center, 0.125 * scale, 0.0625 * scale, (shift, scale + shift))
        assert torch.allclose((moved - shift) / scale, unit, rtol=0, atol=2e-7)
