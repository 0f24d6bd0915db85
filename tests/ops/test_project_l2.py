"""project_l2 against a bisection, and the closed form without a box."""

import torch
from hypothesis import given

from balls import INFINITE, few, pair, seeds, widths
from fastadv.ops import project_l2


@few
@given(seeds, widths)
def test_closed_form_without_a_box(seed, cols):
    x_adv, x = pair(seed, 4, cols)
    v = x_adv.double() - x.double()
    expected = x + v * (0.5 / v.norm(dim=1, keepdim=True)).clamp_max(1.0)
    assert torch.allclose(project_l2(x_adv, x, 0.5, INFINITE).double(), expected, rtol=0, atol=2e-7)
