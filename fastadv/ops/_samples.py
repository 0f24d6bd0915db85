"""Argument samples that tests and benchmarks share, and the comparisons the cards name."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fastadv.ops.registration.library import Sample

SHAPES = ((0, 5), (1, 1), (3, 7), (1, 1031), (5, 3, 4, 4), (2, 3, 33), (4, 2, 3, 5, 2))
RADII = (0.0, 0.03, 1.5, float("inf"))


def batch(
    shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw (x_adv, grad, x): a third of x on the edges of [0, 1], x_adv near x, 0, NaN and inf in grad."""
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
        # in L-infinity each of these costs its coordinate a step, in the other norms its row
        grad.flatten(1)[0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
        grad[1] = 0.0
    return x_adv.to(device, dtype), grad.to(device, dtype), x.to(device, dtype)


def per_sample(shape: tuple[int, ...], device: torch.device, seed: int) -> Tensor:
    """Return one float64 radius per sample, the first zero and the last infinite."""
    draw = torch.Generator().manual_seed(seed)
    radius = torch.rand(shape[0], generator=draw, dtype=torch.float64)
    if shape[0] > 1:
        radius[0], radius[-1] = 0.0, float("inf")
    return radius.to(device)


def layouts(x_adv: Tensor, grad: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the batch contiguous, channels-last, channels-last in one tensor only, and as a slice."""
    yield x_adv, grad, x
    if x.dim() == 4:
        last = torch.channels_last
        yield tuple(t.contiguous(memory_format=last) for t in (x_adv, grad, x))  # type: ignore[misc]
        yield x_adv, grad.contiguous(memory_format=last), x
    if x.dim() == 2 and x.shape[1] > 1:
        yield tuple(torch.stack([t, t], dim=2)[:, :, 0] for t in (x_adv, grad, x))  # type: ignore[misc]


def step_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    """Yield arguments of the step ops: every shape, radius, layout, and per-sample radii and steps."""
    for seed, shape in enumerate(SHAPES):
        tensors = batch(shape, device, dtype, seed)
        for layout in layouts(*tensors):
            yield (*layout, 0.3, 0.1, 0.0, 1.0)
        for radius in RADII:
            yield (*tensors, radius, 0.7, 0.0, 1.0)
        steps = per_sample(shape, device, seed + 100).nan_to_num(posinf=2.0)
        yield (*tensors, 0.0, 0.0, 0.0, 1.0, per_sample(shape, device, seed), steps)
        yield (*tensors, 0.5, 1e6, float("-inf"), float("inf"))


def project_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    """Yield arguments of the projections: points inside, on and outside the ball, and outside the box."""
    for x_adv, _, x, radius, step, lo, hi, *rows in step_samples(device, dtype):
        yield (x_adv, x, radius, lo, hi, *rows[:1])
        yield (x_adv + (x_adv - x) * min(step, 3.0), x, radius, lo, hi, *rows[:1])


def random_decoder(
    draw: torch.Generator, classes: int, layers: Sequence[tuple[int, int, int, int]], device: torch.device,
    dtype: torch.dtype,
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """Draw weights of (cin, cout, kernel, stride) layers whose activations neither vanish nor saturate."""

    def drawn(scale: float, *shape: int) -> Tensor:
        return (scale * torch.randn(shape, generator=draw, dtype=torch.float64)).to(device, dtype)

    weights, biases = [], []
    for cin, cout, kernel, stride in layers:
        scale = 1.5 * stride / (cin * kernel * kernel) ** 0.5
        weights.append(drawn(scale, classes, cin, cout, kernel, kernel))
        biases.append(drawn(0.3, classes, cout))
    return weights, biases


MNIST = ((8, 32, 4, 1), (32, 16, 5, 2), (16, 16, 5, 2), (16, 1, 4, 1))
DECODERS = (
    # stride 3, more taps than a block, two planes and a rest, color
    (2, ((3, 5, 2, 2), (5, 21, 3, 3), (21, 33, 6, 2), (33, 3, 7, 1))),
    (3, ((5, 12, 3, 1), (12, 7, 2, 1), (7, 1, 5, 1))),  # 8x8 from odd rows
    (1, ((8, 20, 4, 1), (20, 16, 1, 1), (16, 2, 2, 2))),  # kernel 1, the last layer strided
    (2, ((4, 18, 3, 1), (18, 16, 1, 2), (16, 3, 1, 2))),  # strides above the kernel: some pixels get no input
    (2, ((6, 2, 4, 1),)),  # one layer
    (2, MNIST),
)


def sample_decoders(
    device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[torch.Generator, list[Tensor], list[Tensor], list[int]]]:
    """Yield (generator, weights, biases, strides) of each of DECODERS, for op samples."""
    for seed, (classes, layers) in enumerate(DECODERS):
        draw = torch.Generator().manual_seed(seed)
        weights, biases = random_decoder(draw, classes, layers, device, dtype)
        yield draw, weights, biases, [layer[3] for layer in layers]


def ordered(tensor: Tensor) -> Tensor:
    """Map floats to integers in the same order, neighbors one apart: differences are distances in ulps."""
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()]
    raw = tensor.contiguous().view(bits).to(torch.int64)
    lowest = torch.iinfo(bits).min
    return torch.where(raw < 0, lowest - raw, raw)


def assert_sums(actual: Tensor, expected: Tensor, args: Sample) -> None:
    """Assert, for a card, that sums of many terms differ by their order and a rounding alone."""
    loose = 1e-2 if actual.dtype == torch.bfloat16 else 1e-5
    scale = float(expected.double().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=loose * scale)


def assert_ulps(actual: Tensor, expected: Tensor, ulps: int, floor: float = 0.0) -> None:
    """Assert that elements are within `ulps` units in the last place, or within `floor`; NaN equals NaN."""
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


def within(ulps: int, floor: float = 0.0) -> Callable[[Tensor, Tensor, Sample], None]:
    """Return `assert_ulps` as the comparison of a card."""
    return lambda actual, expected, args: assert_ulps(actual, expected, ulps, floor)
