"""What latent_fit and latent_decode refuse."""

from functools import partial

import pytest
import torch

from fastadv.ops import latent_fit
from fastadv.ops.latent_decode import latent_decode
from tests.refusals import refuses

STRIDES = [1, 2]


def problem():
    """x [B, 1, 7, 7], z [B, K, L], weights, biases of a decoder 1 -> 3 -> 7."""
    weights = [torch.randn(2, 4, 10, 3, 3), torch.randn(2, 10, 1, 3, 3)]
    biases = [torch.randn(2, 10), torch.randn(2, 1)]
    return torch.rand(3, 1, 7, 7), torch.randn(3, 2, 4), weights, biases


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, z, w, b, s: (x[:, :, 1:], z, w, b, s), r"x: expected floating \["),
        (lambda x, z, w, b, s: (x, z[0], w, b, s), r"z: expected floating \[B, K, L\]"),
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


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda z, w, b, s: (z[0], w, b, s), "K, N, L"),
        (lambda z, w, b, s: (z.double(), w, b, s), "float64"),
        (lambda z, w, b, s: (z.long(), w, b, s), "floating"),
    ],
)
def test_codes_that_do_not_fit_are_said(change, word):
    _, z, *decoder = problem()
    refuses(word, latent_decode, *change(z.transpose(0, 1), *decoder, STRIDES))
