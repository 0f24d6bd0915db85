"""What the tests of steps and projections share: strategies, exact membership, and independent solvers."""

import torch
from hypothesis import strategies as st

import fastadv.ops as ops
from fastadv.ops import _rows

PROJECT = {"l2": ops.project_l2, "l1": ops.project_l1, "l0": ops.project_l0}
STEP = {"linf": ops.linf_step, "l2": ops.l2_step, "l1": ops.l1_step}
ORDER = _rows.ORDERS
INFINITE = (float("-inf"), float("inf"))
EXACT = 1 + 1e-12

seeds = st.integers(0, 2**31)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
widths = st.sampled_from([1, 2, 3, 17, 64, 300])
radii = st.sampled_from([0.0, 1e-4, 0.03, 0.5, 3.0, 40.0, float("inf")])
scales = st.sampled_from([1e-9, 1e-3, 1.0, 1e4, 1e9])


def pair(seed, rows, cols, scale=1.0, dtype=torch.float32, spread=0.5):
    """(x_adv, x): x in [0, scale] with a third on its edges, x_adv around it, partly outside the box."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, cols, generator=draw, dtype=torch.float64)
    x = torch.where(torch.rand(rows, cols, generator=draw) < 0.3, x.round(), x)
    x_adv = x + spread * torch.randn(rows, cols, generator=draw, dtype=torch.float64)
    return (x_adv * scale).to(dtype), (x * scale).to(dtype).clamp(0, scale)


def step_batch(seed, cols, dtype=torch.float32, rows=3, spread=0.05):
    """(x_adv, grad, x), x_adv in the box."""
    x_adv, x = pair(seed, rows, cols, dtype=dtype, spread=spread)
    grad = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return x_adv.clamp(0, 1), grad.to(dtype), x


def norm(z, x, kind):
    return torch.linalg.vector_norm(z.double() - x.double(), ORDER[kind], dim=1)


def assert_inside(z, x, kind, radius, box=(0.0, 1.0)):
    """Box exactly, as the dtype rounds it; norm to the rounding of the float64 sum that measures it."""
    assert bool((norm(z, x, kind) <= torch.as_tensor(radius, dtype=torch.float64) * EXACT).all()), (
        norm(z, x, kind).max(),
        radius,
    )
    assert torch.equal(z.clamp(*box), z)


def solve(point, x, kind, radius, box):
    """The projection by plain bisection on the multiplier: shrink (L2) or soft-threshold (L1), then clamp."""
    point, x = point.double(), x.double()
    v, lo, hi = point - x, box[0] - x, box[1] - x

    def shifted(level):
        moved = v / (1 + level) if kind == "l2" else v.sign() * (v.abs() - level).clamp_min(0)
        return torch.minimum(torch.maximum(moved, lo), hi)

    order = ORDER[kind]
    low = torch.zeros(len(x), 1, dtype=torch.float64)
    high = low + 1e18
    for _ in range(200):
        middle = (low * high).sqrt() if bool((low > 0).all()) else (low + high) / 2
        fits = torch.linalg.vector_norm(shifted(middle), order, dim=1, keepdim=True) <= radius
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    inside = torch.linalg.vector_norm(shifted(torch.zeros_like(low)), order, dim=1, keepdim=True) <= radius
    return x + torch.where(inside, shifted(torch.zeros_like(low)), shifted(high))
