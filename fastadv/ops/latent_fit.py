"""latent_fit: for each image and class, the latents whose decoded image is nearest, by Adam.

The objective is (‖G_k(z) − x‖² + β/2 ‖z‖²) / D, with D the number of values of an image (Schott et al. 2018,
section 3, in the scaling of the authors' code, where 2σ² = 1). After each update z is rescaled to norm
`max_norm` where it is longer. The last of the `steps` iterations only evaluates.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastadv._checks import check_count, check_number
from fastadv.errors import InputError
from fastadv.ops._rows import check_tensor
from fastadv.ops._samples import sample_decoders
from fastadv.ops.latent_decode import check_decoders, forward, image_size, products
from fastadv.ops.registration.library import Sample, op, register

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def _evaluate(
    z: Tensor, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int],
    beta: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the loss [B, K] and its gradient [B, K, L] with respect to the latents."""
    *hidden, images = forward(z, weights, biases, strides)
    apart = images - x.repeat(1, z.shape[1], 1, 1)
    loss = apart.reshape(*z.shape[:2], -1).square().sum(2) + beta / 2 * z.square().sum(2)
    grad = 2 * apart * images * (1 - images)
    for layer in range(len(weights) - 1, -1, -1):
        grad = F.conv2d(grad, weights[layer].flatten(0, 1), stride=strides[layer], groups=z.shape[1])
        if layer:
            grad = grad * (hidden[layer].clamp(max=0) + 1)  # elu's derivative, from its value
    return loss / x[0].numel(), (grad.reshape(z.shape) + beta * z) / x[0].numel()


def reference(
    x: Tensor, z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int],
    beta: float, steps: int, step_size: float, max_norm: float, bf16: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if not z.numel():
        return z.new_empty(z.shape[:2]), z.clone()
    z, mean, square = z.clone(), torch.zeros_like(z), torch.zeros_like(z)
    for step in range(1, steps):
        grad = _evaluate(z, x, weights, biases, strides, beta)[1]
        mean = BETA1 * mean + (1 - BETA1) * grad
        square = BETA2 * square + (1 - BETA2) * grad.square()
        z = z - step_size * (mean / (1 - BETA1**step)) / ((square / (1 - BETA2**step)).sqrt() + EPSILON)
        norm = z.norm(dim=2, keepdim=True)
        z = torch.where(norm > max_norm, z * (max_norm / norm), z)
    return _evaluate(z, x, weights, biases, strides, beta)[0], z


def fake(x: Tensor, z: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape[:2]), torch.empty_like(z, memory_format=torch.contiguous_format)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for draw, weights, biases, strides in sample_decoders(device, dtype):
        decoder = weights, biases, strides
        (classes, latents), channels = weights[0].shape[:2], weights[-1].shape[2]
        size = image_size(weights, strides)
        for batch, steps, beta, max_norm in ((2, 1, 1.0, 5.0), (3, 4, 0.5, 1.2), (0, 3, 1.0, 5.0)):
            x = torch.rand(batch, channels, size, size, generator=draw, dtype=torch.float64)
            z = 1.2 * torch.randn(batch, classes, latents, generator=draw, dtype=torch.float64)
            x, z = x.to(device, dtype), z.to(device, dtype)
            yield x, z, *decoder, beta, steps, 0.05, max_norm, False
            strided = z.transpose(1, 2).contiguous().transpose(1, 2)
            yield x, strided, *decoder, beta, steps, 0.05, max_norm, True


def compare(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], args: Sample) -> None:
    bounds = (3e-3, 2e-2) if args[-1] else (2e-5, 2e-5)  # bfloat16 products: 2⁻⁸ each, averaged over an image
    if args[0].dtype == torch.float64:
        bounds = 1e-10, 1e-10
    for mine, theirs, bound in zip(actual, expected, bounds, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=bound, atol=bound)


register(
    name="latent_fit",
    schema="(Tensor x, Tensor z, Tensor[] weights, Tensor[] biases, int[] strides, float beta, "
    "int steps, float step_size, float max_norm, bool bf16) -> (Tensor loss, Tensor latents)",
    summary="min over z of (‖G_k(z) − x‖² + β/2 ‖z‖²) / D by Adam, for each image and class",
    reference=reference,
    fake=fake,
    samples=samples,
    compare=compare,
    dtypes=(torch.float32,),
    no_gradient="at the optimum the model gives the envelope gradient 2(x − G(z))/D",
    bytes_moved=lambda x, z, weights, biases, *rest: (
        4 * (x.numel() + 3 * z.numel() + sum(part.numel() for part in (*weights, *biases)))
    ),
    flops=lambda x, z, weights, biases, strides, beta, steps, *rest: (
        2 * products(weights, strides) * (2 * steps - 1) * z.shape[0] * z.shape[1]
    ),
)


def latent_fit(
    x: Tensor, z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int],
    *, beta: float = 1.0, steps: int = 50, step_size: float = 0.05, max_norm: float = 5.0, bf16: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Fit latents to images for all classes at once; return loss [B, K] and latents [B, K, L].

    x [B, C, H, H] in [0, 1]; z [B, K, L], the starting points; weights [K, cin, cout, k, k], biases [K, cout]
    and a stride for each layer. `bf16` multiplies in bfloat16 with single sums where the processor can.
    """
    check_tensor("z", z, ("B", "K", "L"), None)
    check_count("steps", steps, 1)
    check_number("beta", beta)
    check_number("step_size", step_size)
    if not check_number("max_norm", max_norm, 0, finite=False) > 0:
        raise InputError(f"max_norm: expected a number > 0, got {max_norm}")
    check_decoders(z, z.shape[1], weights, biases, strides, x=x)
    size = image_size(weights, strides)
    check_tensor("x", x, (len(z), weights[-1].shape[2], size, size), None)
    loss, latents = op("latent_fit")(
        x, z, list(weights), list(biases), list(strides), beta, steps, step_size, max_norm, bf16
    )
    return loss, latents
