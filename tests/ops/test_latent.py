"""latent_fit against Adam under autograd, latent_decode against torch's convolutions; and bad input."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from fastadv.ops import latent_fit
from fastadv.ops._samples import DECODERS, random_decoder
from fastadv.ops.latent_decode import latent_decode
from tests.refusals import refuses

STRIDES, ENDS = [1, 2], (F.elu, F.sigmoid)


def problem(batch=3, classes=2, latents=4, dtype=torch.float32, seed=0):
    """x [B, 1, 7, 7], z [B, K, L], weights, biases of a decoder 1 -> 3 -> 7."""
    draw = torch.Generator().manual_seed(seed)
    shapes = (latents, 10, 3), (10, 1, 3)
    weights = [
        torch.randn(classes, cin, cout, k, k, generator=draw, dtype=torch.float64) * 0.4
        for cin, cout, k in shapes
    ]
    biases = [torch.randn(classes, cout, generator=draw, dtype=torch.float64) * 0.2 for _, cout, _ in shapes]
    x = torch.rand(batch, 1, 7, 7, generator=draw, dtype=torch.float64)
    z = torch.randn(batch, classes, latents, generator=draw, dtype=torch.float64)
    return x.to(dtype), z.to(dtype), [w.to(dtype) for w in weights], [b.to(dtype) for b in biases]


def by_autograd(x, z, weights, biases, beta, steps, step_size, max_norm):
    """The same fit, one image and class at a time, through torch.optim.Adam."""
    loss, latents = torch.empty(z.shape[:2], dtype=z.dtype), torch.empty_like(z)
    for b in range(z.shape[0]):
        for k in range(z.shape[1]):
            point = z[b, k].clone().requires_grad_()
            optimizer = torch.optim.Adam([point], lr=step_size)
            for step in range(steps):
                image = point[None, :, None, None]
                for weight, bias, stride, end in zip(
                    weights, biases, STRIDES, (F.elu, F.sigmoid), strict=True
                ):
                    image = end(F.conv_transpose2d(image, weight[k], bias[k], stride=stride))
                value = ((image[0] - x[b]).square().sum() + beta / 2 * point.square().sum()) / x[b].numel()
                if step == steps - 1:
                    loss[b, k], latents[b, k] = value.detach(), point.detach()
                    break
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                with torch.no_grad():
                    if point.norm() > max_norm:
                        point.mul_(max_norm / point.norm())
    return loss, latents


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("steps", "max_norm"), [(1, 5.0), (2, 5.0), (30, 5.0), (30, 1.0)])
def test_equals_adam_under_autograd(steps, max_norm, dtype):
    x, z, weights, biases = problem(dtype=dtype)
    loss, latents = latent_fit(
        x, z, weights, biases, STRIDES, beta=0.7, steps=steps, step_size=0.05, max_norm=max_norm
    )
    expected = by_autograd(*problem(dtype=torch.float64), 0.7, steps, 0.05, max_norm)
    bound = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(loss.double(), expected[0], rtol=bound, atol=0)
    torch.testing.assert_close(latents.double(), expected[1], rtol=0, atol=10 * bound)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, z, w, b, s: (x[:, :, 1:], z, w, b, s), "x: expected the decoder's images"),
        (lambda x, z, w, b, s: (x, z[0], w, b, s), "z: expected floating latents"),
        (lambda x, z, w, b, s: (x, z, w[:1], b, s), "a weight, a bias and a stride a layer"),
        (lambda x, z, w, b, s: (x, z, w, b, [1, 0]), "stride >= 1"),
        (lambda x, z, w, b, s: (x.double(), z, w, b, s), "x: expected torch.float32"),
    ],
)
def test_bad_input_is_named(change, message):
    x, z, weights, biases = problem()
    refuses(message, latent_fit, *change(x, z, weights, biases, STRIDES))


def test_bad_settings_are_named():
    x, z, *decoder = problem()
    call = partial(latent_fit, x, z, *decoder, STRIDES)
    refuses("steps: expected an integer >= 1, got 0", call, steps=0)
    refuses("max_norm: expected a number > 0", call, max_norm=0.0)
    refuses("step_size: expected a finite number", call, step_size=float("nan"))


def codes(layers, dtype=torch.float32):
    """z [K, N, L], weights, biases and strides."""
    draw = torch.Generator().manual_seed(1)
    decoder = random_decoder(draw, 3, layers, torch.device("cpu"), dtype)
    z = torch.randn(3, 5, layers[0][0], generator=draw, dtype=torch.float64).to(dtype)
    return z, *decoder, [layer[3] for layer in layers]


@pytest.mark.parametrize("layers", [layers for _, layers in DECODERS], ids=str)
def test_equals_a_chain_of_transposed_convolutions(layers):
    z, weights, biases, strides = codes(layers)
    images = latent_decode(z, weights, biases, strides)
    for k in range(len(z)):
        out = z[k, :, :, None, None].double()
        for i, stride in enumerate(strides):
            out = F.conv_transpose2d(out, weights[i][k].double(), biases[i][k].double(), stride=stride)
            out = F.elu(out) if i < len(strides) - 1 else out.sigmoid()
        torch.testing.assert_close(images[k].double(), out, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda z, w, b, s: (z[0], w, b, s), "K, N, L"),
        (lambda z, w, b, s: (z.double(), w, b, s), "float64"),
        (lambda z, w, b, s: (z.long(), w, b, s), "floating"),
    ],
)
def test_codes_that_do_not_fit_are_said(change, word):
    refuses(word, latent_decode, *change(*codes(DECODERS[1][1])))
