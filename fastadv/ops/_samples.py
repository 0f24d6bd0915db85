"""Argument samples that tests and benchmarks share, and the comparisons the cards name."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv._library import Sample

SHAPES = ((0, 5), (1, 1), (3, 7), (1, 1031), (5, 3, 4, 4), (2, 3, 33), (4, 2, 3, 5, 2))
RADII = (0.0, 0.03, 1.5, float("inf"))


def batch(
    shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(x_adv, grad, x): x in [0, 1] with a third of it exactly on the box's edges, x_adv near x, grad with zeros and a NaN."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=draw, dtype=torch.float64)
    edge = torch.rand(shape, generator=draw)
    x = torch.where(edge < 1 / 6, 0.0, torch.where(edge > 5 / 6, 1.0, x))
    x_adv = (x + 0.2 * torch.randn(shape, generator=draw, dtype=torch.float64)).clamp(0, 1)
    grad = torch.randn(shape, generator=draw, dtype=torch.float64) * 10.0 ** torch.randint(
        -6, 7, shape[:1] + (1,) * (len(shape) - 1), generator=draw
    )
    grad = torch.where(torch.rand(shape, generator=draw) < 0.1, 0.0, grad)
    if shape[0] > 2:
        grad.flatten(1)[0, 0] = float("nan")
        grad[1] = 0.0
    return x_adv.to(device, dtype), grad.to(device, dtype), x.to(device, dtype)


def per_sample(shape: tuple[int, ...], device: torch.device, seed: int) -> Tensor:
    """One float64 radius a sample, the first zero and the last infinite."""
    draw = torch.Generator().manual_seed(seed)
    radius = torch.rand(shape[0], generator=draw, dtype=torch.float64)
    if shape[0] > 1:
        radius[0], radius[-1] = 0.0, float("inf")
    return radius.to(device)


def layouts(x_adv: Tensor, grad: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The same batch contiguous, channels-last, channels-last in one tensor only, and as a slice of a larger tensor."""
    yield x_adv, grad, x
    if x.dim() == 4:
        last = torch.channels_last
        yield (
            x_adv.contiguous(memory_format=last),
            grad.contiguous(memory_format=last),
            x.contiguous(memory_format=last),
        )
        yield x_adv, grad.contiguous(memory_format=last), x
    if x.dim() == 2 and x.shape[1] > 1:
        yield tuple(torch.stack([t, t], dim=2)[:, :, 0] for t in (x_adv, grad, x))  # type: ignore[misc]


def step_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    """Arguments of the step ops: every shape, radius, layout, and per-sample radii and steps."""
    for seed, shape in enumerate(SHAPES):
        tensors = batch(shape, device, dtype, seed)
        for layout in layouts(*tensors):
            yield (*layout, 0.3, 0.1, 0.0, 1.0)
        for radius in RADII:
            yield (*tensors, radius, 0.7, 0.0, 1.0)
        yield (
            *tensors,
            0.0,
            0.0,
            0.0,
            1.0,
            per_sample(shape, device, seed),
            per_sample(shape, device, seed + 100).nan_to_num(posinf=2.0),
        )
        yield (*tensors, 0.5, 1e6, float("-inf"), float("inf"))


def project_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    """Arguments of the projections, from those of the steps: points inside, on the edge and outside, some outside the box."""
    for x_adv, _, x, radius, step, lo, hi, *rows in step_samples(device, dtype):
        yield (x_adv, x, radius, lo, hi, *rows[:1])
        yield (x_adv + (x_adv - x) * min(step, 3.0), x, radius, lo, hi, *rows[:1])


def ordered(tensor: Tensor) -> Tensor:
    """Floats as integers in the same order, neighbours one apart: differences of these are distances in ulps."""
    bits = {
        torch.float64: torch.int64,
        torch.float32: torch.int32,
        torch.bfloat16: torch.int16,
        torch.float16: torch.int16,
    }[tensor.dtype]
    raw = tensor.contiguous().view(bits).to(torch.int64)
    lowest = torch.iinfo(bits).min
    return torch.where(raw < 0, lowest - raw, raw)


def assert_ulps(actual: Tensor, expected: Tensor, ulps: int, floor: float = 0.0) -> None:
    """Every element within `ulps` units in the last place of the expected one, or within `floor` absolutely; NaN only with NaN."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    apart = (ordered(actual) - ordered(expected)).abs()
    near = (
        (apart <= ulps)
        | ((actual.double() - expected.double()).abs() <= floor)
        | (actual.isnan() & expected.isnan())
    )
    assert bool(near.all()), (
        f"{int((~near).sum())} of {near.numel()} elements differ, by up to {int(apart[~near].max())} ulps"
    )
