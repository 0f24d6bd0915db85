"""project_l1 against a bisection, and by sorting (Duchi et al. 2008) without a box."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import INFINITE, few, pair, seeds, widths
from fastadv.ops import project_l1


def by_sorting(v, radius):
    """Duchi et al. 2008, figure 1, on the sizes of v."""
    if np.abs(v).sum() <= radius:
        return v
    size = np.sort(np.abs(v))[::-1]
    excess = size.cumsum() - radius
    last = np.nonzero(size > excess / np.arange(1, len(v) + 1))[0][-1]
    return np.sign(v) * np.maximum(np.abs(v) - excess[last] / (last + 1), 0)


@few
@given(seeds, widths, st.sampled_from([0.3, 2.0]))
def test_closed_form_without_a_box(seed, cols, radius):
    x_adv, x = pair(seed, 4, cols)
    v = (x_adv.double() - x.double()).numpy()
    expected = x.double() + torch.from_numpy(np.stack([by_sorting(row, radius) for row in v]))
    # rounded towards x, so off by less than a unit in the last place
    unit = torch.from_numpy(np.spacing(expected.float().abs().numpy())).double()
    assert ((project_l1(x_adv, x, radius, INFINITE).double() - expected).abs() <= unit + 1e-12).all()
