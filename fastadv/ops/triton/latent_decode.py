"""latent_decode on a GPU: one launch for each layer, over all classes (see ops/latent_decode.py)."""

from collections.abc import Sequence

from torch import Tensor

from fastadv.ops.triton._latent import Layer, arranged, plan, up

WORKSPACE = 1 << 28  # bytes of activations held at once


def decode(
    images: Tensor, z: Tensor, hidden: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor],
    layers: Sequence[Layer], bf16: bool,
) -> None:  # fmt: skip
    """Write images [K, B, C, H, H] of z [K, B, L], and each layer's output on the way."""
    outputs = (z, *hidden, images)
    for number, layer in enumerate(layers):
        kind = "elu" if number < len(layers) - 1 else "sigmoid"
        up(outputs[number + 1], outputs[number], weights[number], biases[number], layer, kind, bf16)


def launch(
    images: Tensor, z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]
) -> None:
    if z.numel() == 0:
        return
    layers, (classes, count) = plan(weights, strides), z.shape[:2]
    dense = [arranged(weight).contiguous() for weight in weights]
    biases = [bias.contiguous() for bias in biases]
    sizes = [(layer.out_side, layer.out_side, layer.width) for layer in layers[:-1]]
    held = 4 * classes * sum(h * w * width for h, w, width in sizes)
    share = max(1, min(count, WORKSPACE // max(held, 1)))
    hidden = [z.new_empty(classes * share * h * w * width) for h, w, width in sizes]
    for first in range(0, count, share):
        part = z[:, first : first + share].contiguous()
        used = [
            whole[: part.shape[1] * classes * size[0] ** 2 * size[2]].view(*part.shape[:2], *size)
            for whole, size in zip(hidden, sizes, strict=True)
        ]
        decode(images[:, first : first + share], part, used, dense, biases, layers, False)
