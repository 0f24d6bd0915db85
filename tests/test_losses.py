"""losses: names and callables give the same thing, and wrong ones are refused by name."""

from functools import partial

import pytest
import torch

import fastadv as fa
from fastadv import losses
from tests.refusals import refuses


def batch(count=10):
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(6, count, generator=draw) * 3
    y = torch.randint(count, (6,), generator=draw)
    return z, y, (y + 1) % count


def cross_entropy(logits, y, targets):
    if targets is None:
        return torch.nn.functional.cross_entropy(logits, y, reduction="none")
    return -torch.nn.functional.cross_entropy(logits, targets, reduction="none")


@pytest.mark.parametrize("targeted", [False, True])
@torch.no_grad()
def test_a_callable_equals_its_name(targeted):
    z, y, t = batch()
    t = t if targeted else None
    for mine, theirs in zip(
        losses.loss_and_grad(z, y, cross_entropy, t), losses.loss_and_grad(z, y, "ce", t), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-6)
        assert not mine.requires_grad
    assert losses.check_loss(cross_entropy) is cross_entropy
    assert torch.allclose(
        losses.loss_value(z, y, cross_entropy, t), losses.loss_value(z, y, "ce", t), atol=1e-6
    )


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("targeted", [False, True])
def test_bce_is_the_sum_of_a_yes_or_no_for_each_class(targeted, count):
    z, y, t = batch(count)
    z = z.double().requires_grad_()
    right = torch.nn.functional.one_hot(t if targeted else y, count).double()
    chance = 1 / (1 + (-z).exp())
    wanted = -(right * chance.log() + (1 - right) * (1 - chance).log()).sum(1) * (-1 if targeted else 1)
    loss, grad = losses.loss_and_grad(z, y, "bce", t if targeted else None)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(grad, torch.autograd.grad(wanted.sum(), z, retain_graph=True)[0])
    if not targeted:
        smooth = losses.binary_cross_entropy(z, y, 0.3)
        right = 0.7 * right + 0.3 / count
        torch.testing.assert_close(smooth, -(right * chance.log() + (1 - right) * (1 - chance).log()).sum(1))


def test_bce_of_rows_that_are_sure_or_not_finite():
    z = torch.tensor([[300.0, -200.0, -250.0], [torch.inf, 0.0, 0.0], [torch.nan, 0.0, 0.0], [1.0, 2.0, 3.0]])
    y = torch.tensor([0, 1, 2, 0])
    loss, grad = losses.loss_and_grad(z, y, "bce", direction=True)
    assert loss.isnan().tolist() == grad.isnan().all(1).tolist() == [False, True, True, False]
    assert float(loss[0]) == 0
    torch.testing.assert_close(grad[0], torch.tensor([0.0, 1.0, 0.0]))  # the nearest to a mistake
    plain = losses.loss_and_grad(z, y, "bce")[1][3]
    torch.testing.assert_close(grad[3] / grad[3].norm(), plain / plain.norm())


@pytest.mark.parametrize("loss", losses.LOSSES)
@pytest.mark.parametrize("count", [2, 3, 4, 10])
def test_value_is_the_first_of_both(loss, count):
    z, y, t = batch(count)
    for aim in (None, t):
        assert torch.equal(losses.loss_value(z, y, loss, aim), losses.loss_and_grad(z, y, loss, aim)[0])


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        ("hinge", "loss: expected one of ce, margin, cw, dlr, ce_sharp, bce or a function .*, got 'hinge'"),
        (None, "loss: expected one of .*, got None"),
        (["ce"], "loss: expected one of"),
        (
            lambda z, y, t: torch.nn.functional.cross_entropy(z, y),
            r"expected one value a sample.*got \(\); do not average",
        ),
        (lambda z, y, t: 3.0, "expected one value a sample.*got float"),
        (lambda z, y, t: z.detach().sum(1), "expected a differentiable function"),
        (lambda z, y, t: z, r"expected one value a sample.*got \(\d+, 10\)"),
        (lambda z, y, t: None, "expected one value a sample.*got NoneType"),
        (lambda z, y, t: z.argmax(1), "expected one value a sample.*got torch.int64"),
        (lambda z, y: z.sum(1), r"expected a function \(logits, y, targets\).*pass loss='ce'"),
        (torch.nn.CrossEntropyLoss(), "got CrossEntropyLoss.*takes 3 .*pass loss='ce'"),
        (torch.nn.NLLLoss(reduction="none"), "got NLLLoss"),
        (torch.nn.functional.cross_entropy, "expected one value a sample.*reduction='none'"),
        (torch.nn.functional.nll_loss, "expected one value a sample"),
    ],
)
def test_refusals(loss, text):
    z, y, _ = batch()
    refuses(text, losses.loss_and_grad, z, y, loss)
    if not (callable(loss) and "differentiable" in text):
        refuses(text, losses.loss_value, z, y, loss)
    if not callable(loss):
        refuses(text, losses.check_loss, loss)


def test_a_loss_that_sees_more_than_the_logits_is_refused_on_every_road():
    net, head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), torch.nn.Linear(10, 1)
    x = torch.rand(6, 1, 8, 8)
    seen, leaf, y = {}, x.clone().requires_grad_(), net(x).argmax(1)  # all of which are attacked
    net[0].register_forward_hook(lambda part, given, made: seen.update(features=made))
    seeing = {
        "features": lambda z, y, t: seen["features"].sum(1),
        "both": lambda z, y, t: z.sum(1) + seen["features"][: len(z)].sum(1),
        "x": lambda z, y, t: (leaf[: len(z)].flatten(1) ** 2).sum(1),
        "no graph": lambda z, y, t: x[: len(z)].flatten(1).sum(1),
    }
    for name, loss in seeing.items():
        roads = (
            lambda loss: fa.attacks.pgd(net, x, y, fa.Linf(0.1), steps=2, loss=loss),
            lambda loss: fa.attacks.apgd(fa.freeze(net), x, y, fa.L2(0.1), steps=2, loss=loss),
            lambda loss: fa.freeze(net).input_gradient(x, y, loss),
            lambda loss: fa.train.PGDTraining(fa.Linf(0.1), steps=2, loss=loss)(net, x, y),
        )
        for road in roads:
            got = "without a graph" if name == "no graph" else "of x or of features"
            refuses(f"{got}; a loss sees .*detached from the model", road, loss)
    for loss in (lambda z, y, t: head(z)[:, 0], partial(torch.nn.functional.cross_entropy, reduction="none")):
        fa.attacks.pgd(net, x, y, fa.Linf(0.1), steps=2, loss=loss)
