"""logit_loss against cross_entropy, losses written out, and autograd in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import seeds
from fastadv.ops import logit_loss
from fastadv.ops.logit_loss import ENTROPIES, KINDS, LEAST, LIKE_MARGIN
from tests.refusals import refuses

classes = st.sampled_from([2, 3, 4, 7, 10, 33, 1000])
sizes = st.sampled_from([0.01, 1.0, 20.0])


def rows(seed, count, size, dtype=torch.float64, batch=6):
    draw = torch.Generator().manual_seed(seed)
    z = (size * torch.randn(batch, count, generator=draw, dtype=torch.float64)).to(dtype)
    y = torch.randint(count, (batch,), generator=draw)
    return z, y, (y + 1 + torch.randint(count - 1, (batch,), generator=draw)) % count


def written_out(z, y, kind, t):
    """The definitions, differentiable, row by row."""
    losses = []
    for row in range(len(z)):
        aim = int(y[row] if t is None else t[row])
        others = torch.cat([z[row, :aim], z[row, aim + 1 :]])
        top = z[row].sort(descending=True).values
        if kind in ("margin", "cw") or (z.shape[1] == 2 and kind in LIKE_MARGIN):
            loss = others.max() - z[row, aim]
        elif kind in ("ce", "ce_sharp"):
            span = (top[0] - torch.minimum(top[:3][-1], z[row, aim])).detach()
            unit = {"ce": torch.ones_like(span), "ce_sharp": (span / 4).clamp(LEAST, 1)}[kind]
            loss = torch.nn.functional.cross_entropy(z[row : row + 1] / unit, torch.tensor([aim]))
        elif t is None:
            loss = (others.max() - z[row, aim]) / (top[0] - top[2])
        else:
            loss = (z[row, t[row]] - z[row, y[row]]) / (top[0] - (top[2] + top[min(3, z.shape[1] - 1)]) / 2)
        if t is not None and not (kind == "dlr" and z.shape[1] > 2):
            loss = -loss
        losses.append(loss.clamp(max=0.0) if kind == "cw" else loss)
    return torch.stack(losses)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@given(seeds, classes, sizes, st.booleans(), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_equals_the_definition_and_autograd(kind, seed, count, size, targeted, dtype):
    z, y, t = rows(seed, count, size, dtype)
    t = t if targeted else None
    leaf = z.double().requires_grad_()
    expected = written_out(leaf, y, kind, t)
    (gradient,) = torch.autograd.grad(expected.sum(), leaf)
    loss, grad = logit_loss(z, y, kind, t)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert grad.dtype == dtype
    exact, near = {torch.float64: (1e-10, 1e-10), torch.float32: (1e-5, 1e-5), torch.bfloat16: (1e-5, 2**-7)}[
        dtype
    ]
    assert torch.allclose(loss.double(), expected, rtol=exact, atol=exact * max(size, 1))
    if dtype == torch.bfloat16 and kind != "ce":  # ties leave gradients to choose among
        apart = torch.tensor([len(row.unique()) == count for row in z])
        grad, gradient = grad[apart], gradient[apart]
    # the gradient of a ratio grows as its denominator shrinks
    if kind == "ce_sharp":
        size = gradient.abs().amax(1, keepdim=True).clamp_min(1)
        grad, gradient = grad.double() / size, gradient / size
    assert torch.allclose(
        grad.double(), gradient, rtol=near, atol=near * (1 / min(size, 1) if kind == "dlr" else 1)
    )


def test_equal_logits_have_the_least_scale():
    loss, grad = logit_loss(z := torch.ones(1, 4), y := torch.tensor([2]), "ce_sharp")
    wanted, by_logits = logit_loss(0 * z, y, "ce")
    torch.testing.assert_close((loss, grad), (wanted, by_logits / LEAST))


@given(seeds, classes, st.booleans(), st.sampled_from(ENTROPIES))
def test_direction_is_the_gradient_up_to_a_positive_factor(seed, count, targeted, kind):
    z, y, t = rows(seed, count, 2.0, torch.float32)
    t = t if targeted else None
    grad, direction = (logit_loss(z, y, kind, t, along)[1].double() for along in (False, True))
    factor = (grad * direction).sum(1, keepdim=True) / direction.square().sum(1, keepdim=True)
    assert bool((factor > 0).all())
    assert torch.allclose(grad, factor * direction, rtol=1e-4, atol=1e-7)


def test_confident_rows_keep_their_direction_and_their_digits():
    z = torch.tensor([[300.0, 0.0, 1.0], [30.0, 0.0, 0.0]])
    y = torch.zeros(2, dtype=torch.int64)
    loss, grad = logit_loss(z, y, "ce", direction=True)
    assert torch.allclose(grad[0], torch.tensor([-1.0, 0.2689414, 0.7310586]))
    assert float(loss[1]) == pytest.approx(
        1.8715246e-13, rel=1e-5
    )  # log(1 + 2 exp(-30)), which 1 - p cannot show
    assert float(logit_loss(z, y, "ce")[1][1, 1]) == pytest.approx(9.3576e-14, rel=1e-4)


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"ce_sharp"}))  # which takes its unit as given
def test_differentiable(kind):
    z, y, t = rows(3, 5, 1.0)
    assert torch.autograd.gradcheck(lambda s: logit_loss(s, y, kind, t)[0], (z.requires_grad_(),))


def test_refusals():
    z, y, _ = rows(4, 5, 1.0, torch.float32)
    refuses("loss: expected one of ce", logit_loss, z, y, "hinge")
    refuses("K >= 2", logit_loss, z[:, :1], y * 0, "ce")
    refuses("logits: expected", logit_loss, z[0], y, "ce")
    refuses("labels: expected int64", logit_loss, z, y.int(), "ce")
    refuses("targets: expected int64", logit_loss, z, y, "ce", y.float())
    refuses("labels: expected classes in", logit_loss, z, y + 5, "ce")
    refuses("targets: expected classes in", logit_loss, z, y, "dlr", y + 5)
