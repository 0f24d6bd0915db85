"""Another machine in a bottle: `pytest --other-machine SEED` sums in another order than this one's libraries.

Libraries for other processors add the products of a convolution or a matrix product in another order, and the
last bits differ. Here each is computed in two parts: both are linear in their first tensor, of which each
part holds some elements and zeros for the others. The parts' sums are then added. What is exact in any order,
such as a sum of small whole numbers, stays exact, and what cancels loses as many digits as it does elsewhere.

Which elements come first is drawn from the seed and the shape, so a row's bits depend on its batch, as they
do in the libraries. It stands below autograd: it holds forward and back, in every thread and mode of torch,
not in compiled code and fastadv's own kernels. Processes that tests start by `tests/processes.py` move along.
"""

import functools
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# since torch 2.7
kernel_of = getattr(torch._C, "_dispatch_get_computed_kernel_for_dispatch_key", None)

# each op with the place of a tensor in which it is linear, and how to leave out what is added to the products
PRODUCTS: dict[str, tuple[int, dict[int | str, Any]]] = {
    "aten::convolution": (0, {2: None}),
    "aten::convolution_backward": (0, {}),
    "aten::mm": (0, {}),
    "aten::addmm": (1, {"beta": 0}),
    "aten::bmm": (0, {}),
    "aten::baddbmm": (1, {"beta": 0}),
    "aten::addmv": (1, {"beta": 0}),
    "aten::mv": (0, {}),
    "aten::dot": (0, {}),
    "mkldnn::_convolution_pointwise": (0, {2: None}),
}


@functools.lru_cache(maxsize=256)
def first_half(seed: int, shape: torch.Size) -> Tensor:
    """Which elements of a tensor of `shape` are summed first: about half of them."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((seed, tuple(shape))).encode()))
    return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") < 0.5


def in_two_parts(kernel: Any, place: int, without: dict[int | str, Any], seed: int) -> Callable[..., Any]:
    """`kernel` with its sums in another order."""

    def product(keys: torch.DispatchKeySet, *args: Any, **options: Any) -> Any:
        x = args[place]
        if not (x.is_floating_point() and x.layout == torch.strided):
            return kernel.call_boxed(keys, *args, **options)
        with torch._C._AutoDispatchBelowAutograd(), torch._C.DisableTorchFunction():
            first = first_half(seed, x.shape)
            head, tail = list(args), list(args)
            head[place], tail[place] = _without(x, ~first), _without(x, first)
            rest = dict(options)
            for where, nothing in without.items():
                if isinstance(where, int):
                    tail[where] = nothing
                else:
                    rest[where] = nothing
            found = kernel.call_boxed(keys, *head, **options), kernel.call_boxed(keys, *tail, **rest)
            return _sum(*found)

    return product


def _without(x: Tensor, left_out: Tensor) -> Tensor:
    """x with zeros, in the same layout: libraries choose their way by it, even by strides of length 1."""
    if torch._debug_has_internal_overlap(x):
        return x.masked_fill(left_out, 0)
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(x).masked_fill_(left_out, 0)


def _sum(head: Any, tail: Any) -> Any:
    if isinstance(head, tuple | list):
        return tuple(_sum(one, other) for one, other in zip(head, tail, strict=True))
    return None if head is None else head.add_(tail)


class OtherMachine:
    """This process sums in another order, until `close`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.libraries = {name: torch.library.Library(name, "IMPL") for name in ("aten", "mkldnn")}
        with warnings.catch_warnings(action="ignore"):  # of kernels that are replaced
            for op, (place, without) in PRODUCTS.items():
                space, name = op.split("::")
                for key in ("CPU", "MkldnnCPU") if space == "mkldnn" else ("CPU",):
                    own = kernel_of(op, torch._C._dispatch_key_parse(key))
                    other = in_two_parts(own, place, without, seed)
                    self.libraries[space].impl(name, other, key, with_keyset=True)
        MOVED.append(self)

    def close(self) -> None:
        for library in self.libraries.values():
            library._destroy()
        MOVED.remove(self)


MOVED: list[OtherMachine] = []  # whose kernels this process has, each over those before
