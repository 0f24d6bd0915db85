"""Convolutions of a search twin with fewer multiplications, by Winograd's method (`fastadv.ops.winograd`).

Measured on one core of an AMD EPYC with AVX-512, 32 images, ms of a forward, which an input gradient takes as
well, by the library and so: in float32 96 channels at 16x16 6.2 and 4.4, 128 10.3 and 6.5, 256 at 8x8 10.1
and 4.5, 512 at 4x4 12.7 and 7.8, but 64 at 32x32 11.5 and 12.3; in bfloat16 256 channels 5.3 and 4.2, 512 8.0
and 3.9, but 128 5.3 and 5.5. A ResNet-18 takes 0.78 of its time in float32 and 0.88 in bfloat16.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from fastadv._library import CARDS, cpu_launcher
from fastadv.engine import onednn
from fastadv.engine.hasten import CoveringConv2d
from fastadv.engine.room import slices
from fastadv.engine.scratch import LARGEST
from fastadv.ops import winograd_image, winograd_kernels, winograd_tiles
from fastadv.ops.winograd import count_tiles

# elements of the result a tile and axis, and the channels from which it gains; tiles of 4 would round
# bfloat16 by 3% a layer, those of 2 by 0.5%, the library by 0.2%
SIZES = {torch.float32: 4, torch.bfloat16: 2}
LEAST_CHANNELS = {torch.float32: 96, torch.bfloat16: 256}
LEAST_TILES = 32  # with fewer, reading the transformed weights takes longer than multiplying
PACKED = 64  # tiles for which weights are packed; with fewer at once another packing is the fast one
BLOCK = 64  # outputs, which oneDNN computes together
MOST_PRODUCTS = 0.5  # of those that the plain sum takes; the edges of an image may waste them
BYTES = 8 << 20  # of the tiles that are multiplied together, so that they stay in the cache
MOST_BYTES = 512 << 20  # of all transformed weights of a model


@dataclass(frozen=True)
class Kernels:
    """The transformed weights of a convolution from C to O channels, packed as oneDNN reads them fastest."""

    packed: Tensor
    outputs: int
    size: int

    @classmethod
    def of(cls, weight: Tensor) -> tuple["Kernels", ...]:
        """Those of weight [O, C, 3, 3], by parts of its outputs whose memory is used again once freed."""
        an_output = (SIZES[weight.dtype] + 2) ** 2 * weight.shape[1] * weight.element_size()
        most = max(LARGEST // an_output // BLOCK, 1) * BLOCK
        return tuple(cls._of(part) for part in torch.split(weight, most))

    @classmethod
    def _of(cls, weight: Tensor) -> "Kernels":
        size = SIZES[weight.dtype]
        kernels = winograd_kernels(weight, size)
        places, outputs, channels = kernels.shape
        flat = kernels.reshape(places * outputs, channels, 1, 1).contiguous(memory_format=torch.channels_last)
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            flat, [0, 0], [1, 1], [1, 1], places, [1, places * channels, PACKED, 1]
        )
        return cls(packed, outputs, size)

    def __call__(self, tiles: Tensor) -> Tensor:
        """The products [T, P, O] of tiles [T, P, C]: a convolution of P groups with kernels of 1 by 1."""
        count, places, _ = tiles.shape
        if count < PACKED:
            tiles = nn.functional.pad(tiles, (0, 0, 0, 0, 0, PACKED - count))
        lines = tiles.flatten(1)[None, :, None].permute(0, 3, 1, 2)
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            lines, self.packed, None, [0, 0], [1, 1], [1, 1], places, "none", [], ""
        )
        return found.permute(0, 2, 3, 1).reshape(-1, places, self.outputs)[:count]


def convolve(x: Tensor, kernels: tuple[Kernels, ...], bias: Tensor | None, padding: int) -> Tensor:
    """conv2d of x [B, C, H, W] with those kernels; x and the result are channels-last."""
    images, size = x.permute(0, 2, 3, 1), kernels[0].size
    biases = [None] * len(kernels) if bias is None else torch.split(bias, [each.outputs for each in kernels])
    count, height, width, channels = images.shape
    tall, wide = height + 2 * padding - 2, width + 2 * padding - 2
    an_image = count_tiles(tall, wide, size)
    most = BYTES // (an_image * (size + 2) ** 2 * channels * x.element_size())
    parts = []
    for part in slices(count, max(most, -(-PACKED // an_image))):
        tiles, shape = winograd_tiles(images[part], size, padding), (len(images[part]), tall, wide)
        made = [
            winograd_image(each(tiles), added, shape, size)
            for each, added in zip(kernels, biases, strict=True)
        ]
        parts.append(_joined(made, 3))
    whole = _joined(parts, 0)
    # no view of another tensor, which an activation in place could not follow
    return whole.permute(0, 3, 1, 2).data


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: "WinogradConv2d") -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        ctx.save_for_backward(layer.weight)
        bias = None if layer.bias is None else layer.bias.detach()
        return convolve(x, layer.kernels(), bias, int(layer.padding[0]))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layer, (weight,) = ctx.layer, ctx.saved_tensors
        if torch.is_grad_enabled():  # it is to have a derivative itself
            found = conv2d_input(ctx.shape, weight, gradient, padding=layer.padding)  # type: ignore[no-untyped-call]
            return found, None
        dense = gradient.contiguous(memory_format=torch.channels_last)
        return convolve(dense, layer.kernels(backwards=True), None, 2 - int(layer.padding[0])), None


class WinogradConv2d(CoveringConv2d):
    """A convolution by that method in the dtype `searched` where it gains; weights get no gradient."""

    searched: torch.dtype
    _made: tuple[Any, Tensor, dict[bool, tuple[Kernels, ...]]] | None = None

    def kernels(self, backwards: bool = False) -> tuple[Kernels, ...]:
        """The transformed weights of one direction; made again where the weights have changed."""
        weight, made = self.weight.detach(), self._made
        known = weight.data_ptr(), weight._version, weight.dtype
        if made is None or made[0] != known:
            # the weights are held, lest others come to lie at the same address
            self._made = made = known, weight, {}
        if backwards not in made[2]:
            made[2][backwards] = Kernels.of(weight.flip(2, 3).transpose(0, 1) if backwards else weight)
        return made[2][backwards]

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, which makes its own transformed weights: packed ones cannot be copied."""
        return {name: value for name, value in vars(self).items() if name != "_made"}

    def forward(self, x: Tensor) -> Tensor:
        if not _gains(x, self):
            return super().forward(x)
        out: Tensor = _Convolution.apply(x, self)  # type: ignore[no-untyped-call]
        return out


def _gains(x: Tensor, layer: WinogradConv2d) -> bool:
    fixed = not (layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad))
    alike = x.dtype == layer.weight.dtype == layer.searched and x.device == layer.weight.device
    fits = x.ndim == 4 and x.shape[1] == layer.in_channels
    if not (fixed and alike and fits) or torch.is_autocast_enabled("cpu"):
        return False
    size, more = SIZES[x.dtype], 2 * int(layer.padding[0]) - 2
    height, width = (side + more for side in x.shape[2:])
    tiles = count_tiles(height, width, size)
    few = 0 < tiles * (size + 2) ** 2 <= MOST_PRODUCTS * 9 * height * width
    return few and len(x) * tiles >= LEAST_TILES and x.is_contiguous(memory_format=torch.channels_last)


def available() -> bool:
    """Whether oneDNN gives access to its products, and the tiles have a compiled kernel."""
    return onednn.available() and cpu_launcher(CARDS["winograd_tiles"]) is not None


def by_winograd(model: nn.Module, dtype: torch.dtype | None) -> int:
    """Let the convolutions of a search twin that may gain in `dtype` be done so, in place; their number."""
    if dtype not in SIZES or not available():
        return 0
    if dtype == torch.bfloat16 and not onednn.has_bfloat16():
        return 0
    count, left = 0, float(MOST_BYTES)
    for part in model.modules():
        if not isinstance(part, nn.Conv2d) or type(part) not in (nn.Conv2d, CoveringConv2d):
            continue
        plain = part.groups == 1 and part.padding_mode == "zeros" and part.kernel_size == (3, 3)
        still = part.stride == part.dilation == (1, 1) and part.padding in ((0, 0), (1, 1), (2, 2))
        wide = min(part.in_channels, part.out_channels) >= LEAST_CHANNELS[dtype]
        # forwards and backwards
        taken = 2 * (SIZES[dtype] + 2) ** 2 * part.in_channels * part.out_channels * dtype.itemsize
        # not what a hook computes anew for each pass, as weight_norm does
        own = "weight" in part._parameters and part.weight.device.type == "cpu"
        if plain and still and wide and own and taken <= left:
            part.__class__, part.searched = WinogradConv2d, dtype  # type: ignore[assignment]
            count, left = count + 1, left - taken
    return count
