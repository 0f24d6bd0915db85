"""nearest_prototype: for each row of x, min and argmin over s of ‖x − p_s‖² + bias_s.

The result is that of float64 differences; of equal ones the lower index wins, and NaN is the least. The
kernels' matrix product only leaves out, by a bound on its rounding, the prototypes that cannot win.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.ops._rows import check_kind
from fastadv.ops.registration.library import Sample, op, register

CHUNK = 1 << 22  # float64 differences the reference holds at once


def reference(x: Tensor, prototypes: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    pairs = [_nearest(x, bank, offset) for bank, offset in zip(prototypes, bias, strict=True)]
    distance, index = zip(*pairs, strict=True)
    return torch.stack(distance, dim=1), torch.stack(index, dim=1)


def _nearest(x: Tensor, prototypes: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return (distance [B], index [B]) of the nearest of the prototypes [S, D] of one class."""
    least = x.new_full((len(x),), torch.inf, dtype=torch.float64)
    which = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    rows = max(1, CHUNK // max(1, x.numel()))
    for first in range(0, len(prototypes), rows):
        part = prototypes[first : first + rows].double()
        distance = (x.double()[:, None] - part).square().sum(2) + bias[first : first + rows].double()
        value, place = distance.min(dim=1)
        better = (value < least) | (value.isnan() & ~least.isnan())
        least, which = torch.where(better, value, least), torch.where(better, place + first, which)
    return least.to(x.dtype), which


def fake(x: Tensor, prototypes: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    shape = len(x), len(prototypes)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, (batch, size, lead) in enumerate((
        (0, 5, (1, 3)), (1, 1, (1, 1)), (3, 7, (2, 5)), (5, 33, (1, 301)),
        (2, 2050, (3, 9)), (130, 16, (2, 600)), (2, 784, (10, 64)),
    )):  # fmt: skip
        draw = torch.Generator().manual_seed(seed)
        x = torch.rand(batch, size, generator=draw, dtype=torch.float64)
        prototypes = torch.rand(*lead, size, generator=draw, dtype=torch.float64)
        bias = torch.rand(lead, generator=draw, dtype=torch.float64)
        if lead[-1] > 2:
            prototypes[..., -1, :], bias[..., -1] = prototypes[..., 0, :], bias[..., 0]  # ties
            if batch:
                x[0] = prototypes.reshape(-1, size)[0]
        yield tuple(t.to(device, dtype) for t in (x, prototypes, bias))
        # large common offset: the product form alone would lose every digit of the distances
        yield tuple(t.to(device, dtype) for t in (x + 100, prototypes + 100, torch.zeros_like(bias)))
        if lead[0] > 1:
            yield tuple(t.to(device, dtype) for t in (x, prototypes[:, 1:], bias[:, 1:]))


def compare(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], args: Sample) -> None:
    assert torch.equal(actual[1], expected[1])
    torch.testing.assert_close(
        actual[0], expected[0], rtol=1e-6 if args[0].dtype == torch.float32 else 1e-12, atol=0, equal_nan=True
    )


register(
    name="nearest_prototype",
    schema="(Tensor x, Tensor prototypes, Tensor bias) -> (Tensor distance, Tensor index)",
    summary="min and argmin over s of ‖x − p_s‖² + bias_s, exact; the lower index among equals",
    reference=reference,
    fake=fake,
    samples=samples,
    compare=compare,
    strided=("prototypes",),
    dtypes=(torch.float32,),
    no_gradient="it is 2(x − p) at the nearest prototype, which the caller can compute",
    bytes_moved=lambda x, prototypes, bias: 4 * (x.numel() + prototypes.numel() + bias.numel()),
    flops=lambda x, prototypes, bias: 2 * len(x) * prototypes.numel(),
)


def nearest_prototype(x: Tensor, prototypes: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the least ‖x − p_s‖² + bias_s and its s, for each row of x [B, D] and each class.

    prototypes [S, D] and bias [S], zero by default, give [B]; [K, S, D] and [K, S] give [B, K].
    """
    if x.dim() != 2 or not x.is_floating_point():
        raise InputError(
            f"x: expected floating rows [B, D], got {x.dtype} {tuple(x.shape)}; flatten the samples"
        )
    if prototypes.dim() not in (2, 3) or prototypes.shape[-1] != x.shape[1] or prototypes.shape[-2] == 0:
        raise InputError(
            f"prototypes: expected [S, {x.shape[1]}] or [K, S, {x.shape[1]}] with S >= 1, "
            f"got {tuple(prototypes.shape)}"
        )
    if bias is None:
        bias = prototypes.new_zeros(prototypes.shape[:-1])
    if bias.shape != prototypes.shape[:-1]:
        raise InputError(
            f"bias: expected {tuple(prototypes.shape[:-1])}, one for each prototype, got {tuple(bias.shape)}"
        )
    check_kind("x", x, prototypes=prototypes, bias=bias)
    if prototypes.dim() == 2:
        distance, index = nearest_prototype(x, prototypes[None], bias[None])
        return distance[:, 0], index[:, 0]
    distance, index = op("nearest_prototype")(x, prototypes, bias)
    return distance, index
