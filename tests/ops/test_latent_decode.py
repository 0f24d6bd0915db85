"""latent_decode: against torch's transposed convolution, agreement with latent_fit, invariance, bad input."""

import pytest
import torch
from torch.nn import functional as F

from fastadv.errors import InputError
from fastadv.ops._samples import DECODERS, random_decoder
from fastadv.ops.latent_decode import latent_decode


def problem(layers, classes=3, count=5, dtype=torch.float32, seed=1):
    """z [K, N, L], weights, biases and strides."""
    draw = torch.Generator().manual_seed(seed)
    decoder = random_decoder(draw, classes, layers, torch.device("cpu"), dtype)
    z = torch.randn(classes, count, layers[0][0], generator=draw, dtype=torch.float64).to(dtype)
    return z, *decoder, [layer[3] for layer in layers]


@pytest.mark.parametrize("layers", [layers for _, layers in DECODERS], ids=str)
def test_equals_a_chain_of_transposed_convolutions(layers):
    z, weights, biases, strides = problem(layers)
    images = latent_decode(z, weights, biases, strides)
    for k in range(len(z)):
        out = z[k, :, :, None, None].double()
        for i, stride in enumerate(strides):
            out = F.conv_transpose2d(out, weights[i][k].double(), biases[i][k].double(), stride=stride)
            out = F.elu(out) if i < len(strides) - 1 else out.sigmoid()
        torch.testing.assert_close(images[k].double(), out, rtol=2e-6, atol=2e-6)


def test_an_image_does_not_depend_on_its_batch():
    z, *decoder = problem(DECODERS[-1][1], count=9)
    whole = latent_decode(z, *decoder)
    parts = [latent_decode(part, *decoder) for part in z.split(4, dim=1)]
    assert torch.equal(whole, torch.cat(parts, dim=1))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda z, w, b, s: (z[0], w, b, s), "K, N, L"),
        (lambda z, w, b, s: (z[:2], w, b, s), "layer 0"),
        (lambda z, w, b, s: (z.double(), w, b, s), "float64"),
        (lambda z, w, b, s: (z.long(), w, b, s), "floating"),
    ],
)
def test_what_does_not_fit_is_said(change, word):
    with pytest.raises(InputError, match=word):
        latent_decode(*change(*problem(DECODERS[1][1])))
