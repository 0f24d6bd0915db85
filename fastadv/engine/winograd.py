"""Convolutions of a search copy with fewer multiplications, by Winograd's method (`fastadv.ops.winograd`).

Measured on one core of an AMD EPYC with AVX-512, 32 images, ms of a forward, which an input gradient takes as
well, by the library and so: in float32 96 channels at 16x16 6.2 and 4.4, 128 10.3 and 6.5, 256 at 8x8 10.1
and 4.5, 512 at 4x4 12.7 and 7.8, but 64 at 32x32 11.5 and 12.3; in bfloat16 256 channels 5.3 and 4.2, 512 8.0
and 3.9, but 128 5.3 and 5.5. A ResNet-18 takes 0.78 of its time in float32 and 0.88 in bfloat16.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from fastadv._torch import has_onednn_ops, onednn_convolve, onednn_has_bfloat16, onednn_pack, version
from fastadv.engine.rewrite import Rewrite, Run, has_conv2d, on_cpu, unseen
from fastadv.ops.registration.library import CARDS, cpu_launcher
from fastadv.ops.winograd import count_tiles, winograd_image, winograd_kernels, winograd_tiles

# elements of the result a tile and axis, and the channels from which it gains; tiles of 4 would round
# bfloat16 by 3% a layer, those of 2 by 0.5%, the library by 0.2%
SIZES = {torch.float32: 4, torch.bfloat16: 2}
LEAST_CHANNELS = {torch.float32: 64, torch.bfloat16: 256}
LEAST_TILES = 32  # with fewer, reading the transformed weights takes longer than multiplying
PACKED = 64  # tiles for which weights are packed; with fewer at once another packing is the fast one
BLOCK = 64  # outputs, which oneDNN computes together
MOST_PRODUCTS = 0.5  # of those that the plain sum takes; the edges of an image may waste them
LARGEST = 31 << 20  # bytes of a block of transformed weights; glibc gives larger ones back, unless it is told
BYTES = 8 << 20  # of the tiles that are multiplied together, so that they stay in the cache
MOST_BYTES = 512 << 20  # of all transformed weights of a model

Two = tuple[int, int]


class Settings(NamedTuple):
    """Of a convolution in two dimensions without groups."""

    stride: Two
    padding: Two
    dilation: Two


def takes_settings(way: Callable[[Tensor, Tensor, Tensor | None, Settings], Any]) -> Run:
    """Turn `way` into a conv2d that declines what the kernels here do not take, such as groups."""

    @wraps(way)
    def conv2d(
        input: Tensor, weight: Tensor, bias: Tensor | None = None,
        stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    ) -> Any:  # fmt: skip
        fits = input.ndim == weight.ndim == 4 and input.shape[1] == weight.shape[1] and groups == 1
        fits = fits and input.device.type == weight.device.type == "cpu"
        fits = fits and not (weight.requires_grad or (bias is not None and bias.requires_grad))
        padding = 0 if padding == "valid" else padding
        if not fits or isinstance(padding, str) or torch.is_autocast_enabled("cpu"):
            return NotImplemented
        return way(input, weight, bias, Settings(_two(stride), _two(padding), _two(dilation)))

    return conv2d


def _two(value: Any) -> Two:
    first, second = (value, value) if isinstance(value, int) else (*value, *value)[:2]
    return first, second


@dataclass(frozen=True)
class Kernels:
    """The transformed weights of a convolution from C to O channels, packed as oneDNN reads them fastest."""

    packed: Tensor
    outputs: int
    size: int

    @classmethod
    def of(cls, weight: Tensor) -> tuple["Kernels", ...]:
        """Transform a weight [O, C, 3, 3], split along O so that the allocator can reuse each block."""
        an_output = (SIZES[weight.dtype] + 2) ** 2 * weight.shape[1] * weight.element_size()
        most = max(LARGEST // an_output // BLOCK, 1) * BLOCK
        blocks = []
        for part in torch.split(weight, most):
            kernels = winograd_kernels(part, SIZES[weight.dtype])
            places, outputs, channels = kernels.shape
            flat = kernels.reshape(-1, channels, 1, 1).contiguous(memory_format=torch.channels_last)
            packed = onednn_pack(flat, places, [1, places * channels, PACKED, 1])
            blocks.append(cls(packed, outputs, SIZES[weight.dtype]))
        return tuple(blocks)

    def __call__(self, tiles: Tensor) -> Tensor:
        """Return the products [T, P, O] of tiles [T, P, C]: a convolution by 1 in P groups."""
        count, places, _ = tiles.shape
        if count < PACKED:
            tiles = nn.functional.pad(tiles, (0, 0, 0, 0, 0, PACKED - count))
        lines = tiles.flatten(1)[None, :, None].permute(0, 3, 1, 2)
        products = onednn_convolve(lines, self.packed, places)
        return products.permute(0, 2, 3, 1).reshape(-1, places, self.outputs)[:count]


def convolve(x: Tensor, kernels: tuple[Kernels, ...], bias: Tensor | None, padding: int) -> Tensor:
    """Convolve x [B, C, H, W] with those kernels; x and the result are channels-last."""
    images, size = x.permute(0, 2, 3, 1), kernels[0].size
    sizes = [block.outputs for block in kernels]
    biases = [None] * len(kernels) if bias is None else torch.split(bias, sizes)
    count, height, width, channels = images.shape
    tall, wide = height + 2 * padding - 2, width + 2 * padding - 2
    an_image = count_tiles(tall, wide, size)
    most = BYTES // (an_image * (size + 2) ** 2 * channels * x.element_size())
    most, parts = max(most, -(-PACKED // an_image)), []
    for few in images.tensor_split(-(-count // most)) if count else [images]:
        tiles, shape = winograd_tiles(few, size, padding), (len(few), tall, wide)
        outputs = [
            winograd_image(block(tiles), added, shape, size)
            for block, added in zip(kernels, biases, strict=True)
        ]
        parts.append(_joined(outputs, 3))
    whole = _joined(parts, 0)
    # A view of another tensor would not do: an activation in place could not follow it
    return whole.permute(0, 3, 1, 2).data


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, winograd: "Winograd"
    ) -> Tensor:
        ctx.winograd, ctx.weight, ctx.shape, ctx.padding = winograd, weight, x.shape, padding
        ctx.save_for_backward(weight)  # which a change in place would deny
        return convolve(x, winograd.kernels(weight), None if bias is None else bias.detach(), padding)

    @staticmethod
    @unseen
    def backward(ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, padding = ctx.weight, ctx.padding
        if torch.is_grad_enabled():  # it is to have a derivative itself
            by_input = conv2d_input(ctx.shape, weight, gradient, padding=padding)  # type: ignore[no-untyped-call]
            return by_input, None, None, None, None
        dense = gradient.contiguous(memory_format=torch.channels_last)
        kernels = ctx.winograd.kernels(weight, backwards=True)
        return convolve(dense, kernels, None, 2 - padding), None, None, None, None


class Winograd:
    """Convolutions of one model in the dtype `searched`; keeps up to MOST_BYTES of transformed weights."""

    def __init__(self, searched: torch.dtype | None) -> None:
        self.searched = searched
        # A weight's id leads to the weight, its version, its tensor when it was transformed (kept, since
        # other weights could otherwise be allocated at the same address), and its kernels by direction
        self._kept: dict[int, tuple[Tensor, Any, Tensor, dict[bool, tuple[Kernels, ...]]]] = {}
        self._left = float(MOST_BYTES)

    def conv2d(self, input: Tensor, weight: Tensor, bias: Tensor | None, how: Settings) -> Any:
        """Replace `torch.nn.functional.conv2d` where Winograd's method gains."""
        if self._tiles(input, weight, how) < max(LEAST_TILES, 1) or not self._has_room(weight):
            return NotImplemented
        return _Convolution.apply(input, weight, bias, how.padding[0], self)  # type: ignore[no-untyped-call]

    def _tiles(self, input: Tensor, weight: Tensor, how: Settings) -> int:
        """Return the tiles of a batch; 0 where the method does not suit, or would lose by products."""
        # Weights that are computed for each pass, as by weight_norm, do not suit
        if not isinstance(weight, nn.Parameter) or not (input.dtype == weight.dtype == self.searched):
            return 0
        usual = how.padding in PADDINGS and how.stride == how.dilation == (1, 1)
        last = input.is_contiguous(memory_format=torch.channels_last)
        if not (usual and last and is_wide(weight)):
            return 0
        size, more = SIZES[input.dtype], 2 * how.padding[0] - 2
        height, width = (side + more for side in input.shape[2:])
        tiles = count_tiles(height, width, size)
        few = tiles * (size + 2) ** 2 <= MOST_PRODUCTS * 9 * height * width
        return len(input) * tiles if few else 0

    def _has_room(self, weight: Tensor) -> bool:
        if id(weight) not in self._kept:
            taken = 2 * (SIZES[weight.dtype] + 2) ** 2 * weight[:, :, 0, 0].numel() * weight.element_size()
            if taken > self._left:
                return False
            self._left -= taken
            self._kept[id(weight)] = weight, None, weight.detach(), {}
        return True

    def kernels(self, weight: Tensor, backwards: bool = False) -> tuple[Kernels, ...]:
        """Return the transformed weights of one direction, made again after the weights have changed."""
        known = weight.data_ptr(), version(weight), weight.dtype
        _, before, plain, kernels = self._kept[id(weight)]
        if before != known:
            plain, kernels = weight.detach(), {}
            self._kept[id(weight)] = weight, known, plain, kernels
        if backwards not in kernels:
            kernels[backwards] = Kernels.of(plain.flip(2, 3).transpose(0, 1) if backwards else plain)
        return kernels[backwards]


PADDINGS = ((0, 0), (1, 1), (2, 2))


def is_wide(weight: Tensor) -> bool:
    """Return whether weights [O, C, H, W] are those of a 3x3 convolution with channels enough to gain."""
    least = LEAST_CHANNELS.get(weight.dtype, math.inf)
    return weight.shape[2:] == (3, 3) and min(weight.shape[:2]) >= least


def gains_by_rows(model: nn.Module) -> bool:
    """Return whether a model convolves so in float32, where products gain by rows that pass together."""
    kernels = [part.weight for part in model.modules() if isinstance(part, nn.Conv2d)]
    return any(kernel.dtype == torch.float32 and is_wide(kernel) for kernel in kernels)


def available(dtype: torch.dtype | None) -> bool:
    """Return whether oneDNN gives access to its products in that dtype, and the tiles are compiled."""
    if dtype not in SIZES or not has_onednn_ops() or cpu_launcher(CARDS["winograd_tiles"]) is None:
        return False
    return dtype != torch.bfloat16 or onednn_has_bfloat16()


WINOGRAD = Rewrite(
    "winograd",
    lambda model, dtype: on_cpu(model) and has_conv2d(model) and available(dtype),
    lambda dtype: {F.conv2d: takes_settings(Winograd(dtype).conv2d)},
    "convolutions by Winograd's method",
)
