"""latent_fit on a GPU: one CUDA graph of launches for a share of the images and all classes.

Each step is a launch a layer up, a launch a layer down and Adam; images are made only once, at the end. Under
`bf16` weights, activations and their gradients are narrow; sums, latents and losses are single.
"""

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops._graphs import Kept, Replay, bucket, current, nbytes, stream_of
from fastadv.ops.triton._common import start
from fastadv.ops.triton._latent import Layer, arranged, down, plan, storage, up
from fastadv.ops.triton.latent_decode import decode

WORKSPACE = 1 << 29  # bytes of activations held at once
_kept: "Kept[tuple[Fit, Replay]]" = Kept()  # buffers and graph, by stream and shapes of the call
BETA1, BETA2 = 0.9, 0.999
_EPSILON = tl.constexpr(1e-8)


@triton.jit(do_not_specialize=["rows"])
def adam_kernel(
    z, mean, square, grad, rows, latents, size, beta, step_size, max_norm,
    keep_mean, add_mean, keep_square, add_square, fix_mean, fix_square,
    ROWS: tl.constexpr, LATENTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, LATENTS)
    at = row[:, None] * latents + column[None, :]
    mask = (row < rows)[:, None] & (column < latents)[None, :]
    point = tl.load(z + at, mask=mask, other=0.0)
    gradient = (tl.load(grad + at, mask=mask, other=0.0) + beta * point) / size
    first = keep_mean * tl.load(mean + at, mask=mask, other=0.0) + add_mean * gradient
    second = keep_square * tl.load(square + at, mask=mask, other=0.0) + add_square * gradient * gradient
    point -= step_size * (first / fix_mean) / (tl.sqrt_rn(second / fix_square) + _EPSILON)
    norm = tl.sqrt_rn(tl.sum(tl.where(mask, point * point, 0.0), 1))[:, None]
    tl.store(z + at, tl.where(norm > max_norm, point * (max_norm / norm), point), mask=mask)
    tl.store(mean + at, first, mask=mask)
    tl.store(square + at, second, mask=mask)


def adam(
    z: Tensor, mean: Tensor, square: Tensor, grad: Tensor, size: int,
    beta: float, step: int, step_size: float, max_norm: float,
) -> None:  # fmt: skip
    """Update z, mean and square [..., L] by the gradient (grad + βz) / size at `step` >= 1; clip norms."""
    latents = z.shape[-1]
    block = triton.next_power_of_2(latents)
    rows = max(1, 256 // block)
    count = z.numel() // latents
    start(
        adam_kernel, triton.cdiv(count, rows), z, mean, square, grad, count, latents, size, beta, step_size,
        max_norm, BETA1, 1 - BETA1, BETA2, 1 - BETA2, 1 - BETA1**step, 1 - BETA2**step,
        ROWS=rows, LATENTS=block, num_warps=2,
    )  # fmt: skip


@triton.jit(do_not_specialize=["images"])
def loss_kernel(
    loss, decoded, x, z, images, classes, size, latents, beta, BLOCK: tl.constexpr, LATENTS: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    k = program // images
    image = program % images
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, size, BLOCK):
        at = first + tl.arange(0, BLOCK)
        apart = tl.load(decoded + program * size + at, mask=at < size, other=0.0) - tl.load(
            x + image * size + at, mask=at < size, other=0.0
        )
        total += apart * apart
    at = tl.arange(0, LATENTS)
    value = tl.load(z + program * latents + at, mask=at < latents, other=0.0)
    tl.store(loss + image * classes + k, (tl.sum(total) + beta / 2 * tl.sum(value * value)) / size)


def loss_of(loss: Tensor, decoded: Tensor, x: Tensor, z: Tensor, beta: float) -> None:
    """Write loss [B, K] = (‖decoded − x‖² + β/2 ‖z‖²) / D; [K, B, C, h, h], [B, C, h, h], [K, B, L] dense."""
    classes, images, latents = z.shape
    start(
        loss_kernel, classes * images, loss, decoded, x, z, images, classes, x[0].numel(), latents, beta,
        BLOCK=256, LATENTS=triton.next_power_of_2(latents), num_warps=2,
    )  # fmt: skip


class Fit:
    """Buffers for `count` images of K classes, and the launches over them; spare rows affect no other."""

    def __init__(
        self, layers: Sequence[Layer], classes: int, count: int, bf16: bool, device: torch.device
    ) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        kept, last = storage(bf16), layers[-1]
        self.layers, self.bf16 = layers, bf16
        self.x = zeros(count, last.width, last.out_side, last.out_side)
        self.z, self.mean, self.square, self.grad = (
            zeros(classes, count, layers[0].channels) for _ in range(4)
        )
        self.weights = [
            zeros(classes, layer.kernel, layer.kernel, layer.channels, layer.width, dtype=kept)
            for layer in layers
        ]
        self.biases = [zeros(classes, layer.width) for layer in layers]
        shapes = [(classes, count, layer.out_side, layer.out_side, layer.width) for layer in layers]
        self.hidden = [zeros(*shape, dtype=kept) for shape in shapes[:-1]]
        # gradients with respect to what each layer's activation takes, in two buffers used in turn
        pair = [zeros(max(map(prod, shapes)), dtype=kept) for _ in range(2)]
        self.gradients = [pair[number % 2][: prod(shape)].view(shape) for number, shape in enumerate(shapes)]
        self.images = zeros(classes, *self.x.shape)
        self.loss = zeros(count, classes)

    @property
    def nbytes(self) -> int:
        moments = self.mean, self.square, self.grad
        layers = *self.weights, *self.biases, *self.hidden, *self.gradients
        return nbytes((self.x, self.z, *moments, *layers, self.images, self.loss))

    def load(self, x: Tensor, z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        """Copy x [B, C, h, h] and z [B, K, L] into the buffers; B must fit."""
        self.x[: len(x)].copy_(x)
        self.z[:, : len(z)].copy_(z.transpose(0, 1))
        for mine, weight in zip(self.weights, weights, strict=True):
            mine.copy_(arranged(weight))
        for mine, bias in zip(self.biases, biases, strict=True):
            mine.copy_(bias)

    def run(self, beta: float, steps: int, step_size: float, max_norm: float) -> None:
        """Fit z, and write the loss at the result."""
        self.mean.zero_()
        self.square.zero_()
        sources, top = (self.z, *self.hidden), len(self.layers) - 1
        for step in range(1, steps):
            for number, layer in enumerate(self.layers):
                out = self.hidden[number] if number < top else self.gradients[top]
                kind, parameters = (
                    "elu" if number < top else "gradient",
                    (self.weights[number], self.biases[number]),
                )
                up(out, sources[number], *parameters, layer, kind, self.bf16, self.x)
            for number in range(top, -1, -1):
                out = self.gradients[number - 1] if number else self.grad
                hidden = self.hidden[number - 1] if number else None
                weight, layer = self.weights[number], self.layers[number]
                down(out, self.gradients[number], hidden, weight, layer, self.bf16)
            moments = self.mean, self.square, self.grad
            adam(self.z, *moments, self.x[0].numel(), beta, step, step_size, max_norm)
        decode(self.images, self.z, self.hidden, self.weights, self.biases, self.layers, self.bf16)
        loss_of(self.loss, self.images, self.x, self.z, beta)

    def save(self, loss: Tensor, latents: Tensor) -> None:
        """Write loss [B, K] and latents [B, K, L]."""
        loss.copy_(self.loss[: len(loss)])
        latents.copy_(self.z[:, : len(latents)].transpose(0, 1))


def share(layers: Sequence[Layer], classes: int, count: int, bf16: bool) -> int:
    """Return the images per launch: the most even split of `count` that fits the workspace."""
    sizes = [layer.out_side**2 * layer.width for layer in layers]
    held = classes * ((sum(sizes[:-1]) + 2 * max(sizes)) * storage(bf16).itemsize + 4 * sizes[-1])
    pieces = -(-count // max(1, WORKSPACE // held))
    return -(-count // pieces)


def _made(
    layers: Sequence[Layer], classes: int, count: int, bf16: bool, device: torch.device
) -> tuple[Fit, Replay]:
    with torch.inference_mode(False):  # later calls write these buffers in any mode
        fit = Fit(layers, classes, count, bf16, device)
    return fit, Replay(or_run=True)


def launch(
    loss: Tensor, latents: Tensor, x: Tensor, z: Tensor,
    weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int],
    beta: float, steps: int, step_size: float, max_norm: float, bf16: bool,
) -> None:  # fmt: skip
    if z.numel() == 0:
        return
    (images, classes, _), layers = z.shape, tuple(plan(weights, strides))
    numbers = beta, steps, step_size, max_norm
    count = share(layers, classes, images, bf16)
    graphed = z.is_cuda and not torch.cuda.is_current_stream_capturing()
    for first in range(0, images, count):
        part = slice(first, min(first + count, images))
        size = part.stop - first
        if graphed:
            with current(z.device):
                alike = layers, classes, bucket(size), bf16, z.device
                key = *alike, numbers, stream_of(z.device)
                fit, replay = _kept.take(key) or _made(*alike)
                fit.load(x[part], z[part], weights, biases)
                replay(partial(partial, fit.run, *numbers))
                fit.save(loss[part], latents[part])
                _kept.give_back(key, (fit, replay), fit.nbytes + replay.reserved)
        else:
            fit = Fit(layers, classes, size, bf16, z.device)
            fit.load(x[part], z[part], weights, biases)
            fit.run(*numbers)
            fit.save(loss[part], latents[part])
