"""The kernels of Analysis by Synthesis beyond the contract's samples."""

import numpy as np
import pytest
import torch

from fastadv.ops._samples import random_decoder
from fastadv.ops.latent_decode import image_size
from fastadv.ops.registration.library import CARDS
from test_triton import DEVICE, _interpreter, run  # noqa: F401  (pytest finds it by name)
from test_triton import pytestmark as usual

pytestmark = [*usual, pytest.mark.in_full]

INF, NAN = float("inf"), float("nan")


def nearest(x, prototypes, bias):
    if prototypes.dim() == 2:
        prototypes, bias = prototypes[None], bias[None]
    card, args = CARDS["nearest_prototype"], tuple(t.to(DEVICE) for t in (x, prototypes, bias))
    actual, expected = run(card, *args), card.reference(*args)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.slow
def test_nearest_of_special_values():
    draw = torch.Generator().manual_seed(0)
    x, prototypes, bias = (torch.rand(shape, generator=draw) for shape in ((7, 5), (2, 140, 5), (2, 140)))
    x[0, 1], x[1, 2], x[2] = NAN, INF, 3e19  # a square beyond float32
    nearest(x, prototypes, bias)
    prototypes[0, 3, 0], prototypes[0, 70, 2], bias[0, 100] = INF, 1.9e19, INF
    bias[1, 130], bias[1, 65] = -INF, -1e30
    nearest(x, prototypes, bias)
    prototypes[0, 90, 1], bias[1, 77], bias[1, 12] = NAN, NAN, NAN
    nearest(x, prototypes, bias)
    nearest(x, prototypes, torch.full_like(bias, INF))


def test_nearest_where_the_product_form_holds_no_digit():
    # at an offset of 1e6 squares are off by 1e6, the distances differ by one or so; half of them tie
    draw = torch.Generator().manual_seed(2)
    x, prototypes = (torch.randint(0, 4, (count, 12), generator=draw).float() + 1e6 for count in (2, 150))
    nearest(x, torch.cat([prototypes, prototypes]), torch.zeros(300))


def problem(batch=3, layers=((3, 4, 2, 1), (4, 2, 3, 2)), classes=2):
    """x [B, C, h, h], z [B, K, L], weights, biases and strides."""
    draw = torch.Generator().manual_seed(3)
    weights, biases = random_decoder(draw, classes, layers, DEVICE, torch.float32)
    strides = [layer[3] for layer in layers]
    side = image_size(weights, strides)
    x = torch.rand(batch, layers[-1][1], side, side, generator=draw).to(DEVICE)
    z = torch.randn(batch, classes, layers[0][0], generator=draw).to(DEVICE)
    return x, z, weights, biases, strides


NUMBERS = 1.0, 2, 0.05, 5.0


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    "layers", [((19, 35, 3, 1), (35, 1, 4, 2)), ((6, 2, 4, 1),)], ids=["odd", "one layer"]
)
def test_tiles_of_a_gpu(layers, bf16, monkeypatch):
    """More than one tile of rows, columns, depth and latents, all odd; a single layer is first and last."""
    monkeypatch.undo()  # the tiles of the interpreter
    args = *problem(2, layers, 1), 1.0, 2, 0.05, 5.0, bf16
    card = CARDS["latent_fit"]
    card.compare(run(card, *args), card.reference(*args), args)


@pytest.mark.slow
def test_shares_equal_the_whole(monkeypatch):
    from fastadv.ops.triton import latent_decode, latent_fit

    # The interpreter multiplies by NumPy, which sums a row in another order at another place of the tile.
    # The order of einsum depends on the shapes alone, as a GPU's does.
    monkeypatch.setattr(np, "matmul", lambda a, b, dtype: np.einsum("ij,jk->ik", a, b, dtype=dtype))

    x, z, *decoder = problem()
    fit, decode = CARDS["latent_fit"], CARDS["latent_decode"]
    loss, latents = run(fit, x, z, *decoder, *NUMBERS, True)
    images = run(decode, z.transpose(0, 1), *decoder)
    for module, room in ((latent_decode, 300), (latent_fit, 2000)):  # bytes of two images
        monkeypatch.setattr(module, "WORKSPACE", room)
    again, moved = run(fit, x, z, *decoder, *NUMBERS, True)
    assert torch.equal(again, loss)
    assert torch.equal(moved, latents)
    assert torch.equal(run(decode, z.transpose(0, 1), *decoder), images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replays_take_new_images_and_decoders():
    card = CARDS["latent_fit"]
    for call in range(4):  # launched, captured, replayed twice
        x, z, weights, biases, strides = problem(5, ((8, 32, 4, 1), (32, 16, 5, 2), (16, 1, 4, 1)))
        weights = [weight * (1 - 0.1 * call) for weight in weights]
        args = x.roll(call, 0), z + 0.1 * call, weights, biases, strides, *NUMBERS, False
        card.compare(run(card, *args), card.reference(*args), args)
