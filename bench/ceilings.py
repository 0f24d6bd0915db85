"""Ceilings of a machine, measured in the same run as what is compared with them; exact settings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from bench.clock import Clock
from bench.records import Row
from fastadv.engine.cpu import onednn

# dtype and torch's float32_matmul_precision
PRODUCTS = {
    "fp32": (torch.float32, "highest"),
    "tf32": (torch.float32, "high"),
    "bf16": (torch.bfloat16, "highest"),
    "fp16": (torch.float16, "highest"),
}


@dataclass(frozen=True)
class Ceilings:
    """Gigabytes a second that a copy of `copied` floats moves, and matrix products by precision.

    On a CPU products are measured where they are asked for, in the precisions that gain there; in float32 the
    faster of torch's library and oneDNN counts.
    """

    copied: int
    copy_gb_per_s: float
    tflops: dict[str, float]

    @classmethod
    def measured(cls, clock: Clock, *, products: bool = False) -> "Ceilings":
        """Measure the device; `products` asks for those of a CPU, too."""

        def milliseconds(call: Callable[[], object]) -> float:
            call()
            call()
            return median(clock.times({"": call})[""])

        size = clock.size(1 << 28, 1 << 14, 1 << 26)  # 1 GiB of float32
        source, target = clock.rand(size), torch.empty(size, device=clock.device)
        copy = milliseconds(lambda: target.copy_(source))
        side, rates = clock.size(8192, 64, 2048), {}
        before = torch.get_float32_matmul_precision()
        names = clock.precisions if products else ()
        for name in names if clock.on_cpu else PRODUCTS:
            dtype, precision = PRODUCTS[name]
            left, right = (clock.randn(side, side, seed=seed).to(dtype) for seed in range(2))
            try:
                torch.set_float32_matmul_precision(precision)
                taken = min(map(milliseconds, _multiplied(clock, left, right)))
            finally:
                torch.set_float32_matmul_precision(before)
            rates[name] = 2 * side**3 / taken / 1e9
        return cls(size, 2 * source.nbytes / copy / 1e6, rates)

    def share_of_copy(self, moved: int, milliseconds: float) -> Row:
        rate = moved / milliseconds / 1e6
        return {"gb_per_s": _short(rate), "share_of_copy": round(rate / self.copy_gb_per_s, 3)}

    def share_of_products(self, flops: float, milliseconds: float, precision: str) -> Row:
        """Return the rate of `flops`, and its share of the matrix product's in `precision`."""
        rate = flops / milliseconds / 1e9
        share = round(rate / self.tflops[precision], 3)
        return {"tflop_per_s": _short(rate), f"share_of_{precision}_product": share}

    def rows(self) -> Iterator[Row]:
        copy = {"gb_per_s": _short(self.copy_gb_per_s)}
        yield {"what": "copy", "provider": "torch", "shape": [self.copied], **copy}
        for precision, rate in self.tflops.items():
            yield {"what": f"{precision} product", "provider": "torch", "tflop_per_s": _short(rate)}


def _multiplied(clock: Clock, left: Tensor, right: Tensor) -> Iterator[Callable[[], object]]:
    product = torch.empty_like(left)
    yield partial(torch.mm, left, right, out=product)
    if clock.on_cpu and left.dtype == torch.float32 and onednn.available():
        yield partial(onednn.product, left, right)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


@contextmanager
def repeatable() -> Iterator[None]:
    """Compute float32 convolutions in float32, and by the same algorithms in every run.

    Fresh memory is filled with NaN, which shows missing writes.
    """
    cudnn, strict = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    before, warn_only = (
        (cudnn.allow_tf32, cudnn.deterministic),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    cudnn.allow_tf32, cudnn.deterministic = False, True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic = before
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
