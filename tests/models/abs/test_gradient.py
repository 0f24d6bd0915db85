"""The two ways logits depend on the image."""

import pytest
import torch

from fastadv.models.abs import InferenceOptions
from fastadv.models.abs.decoder import Decoders
from fastadv.models.abs.inference import class_losses, unrolled

from .nets import STRIDES, decoders, gradient, images, tiny


@pytest.mark.slow
def test_envelope_is_the_gradient_of_the_converged_loss():
    model = tiny(prior_samples=500).double()
    model = model.with_options(steps=300, step_size=0.02)
    x, _ = images(model, 2)
    x = x.double().clamp(0.1, 0.9)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = 1e-3
    measured = (model(x + h * direction) - model(x - h * direction)) / (2 * h)
    derivatives = [(gradient(model, x, k) * direction).flatten(1).sum(1) for k in range(3)]
    torch.testing.assert_close(torch.stack(derivatives, 1), measured, rtol=2e-3, atol=1e-5)


def test_unrolled_is_the_gradient_of_the_procedure():
    """Far from convergence, finite differences of the steps agree with "unrolled" and not with "envelope"."""
    net = Decoders(*decoders(), STRIDES).double()
    options = InferenceOptions(steps=5, step_size=0.3, max_norm=1.5)
    start = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def run(x):
        return unrolled(x, start, net, options)[0].sum()

    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(run(leaf), leaf)
    direction, h = torch.randn_like(x), 1e-6
    measured = (run(x + h * direction) - run(x - h * direction)) / (2 * h)
    torch.testing.assert_close((found * direction).sum(), measured.detach(), rtol=1e-5, atol=1e-9)
    _, latents = unrolled(x, start, net, options)
    leaf = x.clone().requires_grad_()
    envelope = torch.autograd.grad(
        class_losses(leaf, net(latents.detach()), latents.detach(), 1.0).sum(), leaf
    )[0]
    assert (envelope - found).norm() > 0.01 * found.norm()
