"""Recipes that own their step: what one is given and keeps, free training and AWP by hand."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv.train import AWP, TRADES, Execution, FreeTraining, PGDTraining, Standard, fit
from fastadv.train.augment import make_augment
from tests.refusals import refuses
from tests.train.nets import images, net
from tests.train.recipes.hand import RADIUS, SEED, gradients, step_at, warm_net

SEEN = []


class Spy:
    def step(self, at):
        SEEN.append(at)
        with at.autocast():
            logits = at.model(at.x)
        loss = torch.nn.functional.cross_entropy(logits.float(), at.y)
        SEEN.append(logits.dtype)
        at.backward(loss)
        at.descend()
        return loss


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_step_is_given(precision):
    SEEN.clear()
    options = {"epochs": 2, "batch_size": 20, "augment": "shift", "execution": Execution(precision=precision)}
    fit(net(), images(), Spy(), **options)
    steps, dtypes = SEEN[::2], SEEN[1::2]
    assert [(at.epoch, len(at.x)) for at in steps] == [(1, 20), (1, 20), (1, 10), (2, 20), (2, 20), (2, 10)]
    assert [at.index for at in steps] == [0, 1, 2] * 2
    assert len({at.seed for at in steps}) == 2
    assert set(dtypes) == {torch.float32 if precision == "fp32" else torch.bfloat16}
    for at in steps:
        assert torch.equal(at.y, images().y[at.ids])
        moved = make_augment("shift")(images().x[at.ids], ids=at.ids, seed=0, epoch=at.epoch)
        assert torch.equal(at.x, moved)


def test_a_loss_that_is_no_number_is_told():
    class Failing(Spy):
        def step(self, at):
            return super().step(at).expand(3)

    refuses("recipe: expected one number", fit, net(), images(), Failing(), epochs=1)


RECIPE = FreeTraining(fa.Linf(RADIUS), replays=3, step_size=0.07, label_smoothing=0.2)


def by_hand(model, at, perturbation):
    """The perturbation after three replays, and their losses; the model descends in place."""
    losses = []
    for _ in range(3):
        x_adv = (at.x + perturbation).clamp(0, 1).requires_grad_()
        loss = cross_entropy(model(x_adv), at.y, label_smoothing=0.2)
        by_x, *by_weight = torch.autograd.grad(loss, [x_adv, *model.parameters()])
        with torch.no_grad():
            for weight, gradient in zip(model.parameters(), by_weight, strict=True):
                weight.sub_(0.1 * gradient)
        perturbation = (perturbation + 0.07 * by_x.sign()).clamp(-RADIUS, RADIUS)
        losses.append(loss.item())
    return perturbation, sum(losses) / 3


def test_weights_perturbation_and_loss_of_two_batches():
    model = warm_net()
    hand, at = copy.deepcopy(model), step_at(model)
    first, loss = by_hand(hand, at, torch.zeros_like(at.x))
    torch.testing.assert_close(RECIPE.step(at), torch.tensor(loss, dtype=torch.float64))
    torch.testing.assert_close(at.places["perturbation"], first)
    # a smaller batch, of other images, uses and changes the first rows
    smaller = step_at(model, 6, places=at.places)
    second, loss = by_hand(hand, smaller, first[:6])
    torch.testing.assert_close(RECIPE.step(smaller), torch.tensor(loss, dtype=torch.float64))
    torch.testing.assert_close(at.places["perturbation"], torch.cat([second, first[6:]]))
    torch.testing.assert_close(model.state_dict(), hand.state_dict())
    assert (second.abs() == RADIUS).any()
    assert ((smaller.x + second < 0) | (smaller.x + second > 1)).any()  # the box limits no perturbation
    assert all(part.training for part in model.modules())


INNER = PGDTraining(fa.Linf(RADIUS), 2)
PERTURBED = [INNER, TRADES(fa.Linf(RADIUS), 2)]


def perturbed_by_hand(model, at, inner, gamma):
    x_adv = inner.craft(model, at.x, at.y, ids=at.ids, seed=at.seed)
    probe = copy.deepcopy(model)
    at_w = gradients(inner.objective(probe, at.x, at.y, x_adv), probe)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for weight, gradient in zip(moved.parameters(), at_w, strict=True):
            if weight.ndim > 1:
                weight.add_(gamma * weight.norm() * gradient / gradient.norm())
    loss = inner.objective(moved, at.x, at.y, x_adv)
    by_weight = gradients(loss, moved)
    with torch.no_grad():
        for weight, gradient in zip(model.parameters(), by_weight, strict=True):
            weight.sub_(0.1 * gradient)
        for buffer, after in zip(model.buffers(), moved.buffers(), strict=True):
            buffer.copy_(after)
    return loss.detach()


@pytest.mark.parametrize("inner", PERTURBED, ids=["pgd", "trades"])
def test_weights_loss_and_statistics_of_one_batch(inner):
    model = warm_net()
    hand, plain = copy.deepcopy(model), copy.deepcopy(model)
    at = step_at(model)
    loss = AWP(inner, gamma=0.05).step(at)
    torch.testing.assert_close(loss.detach(), perturbed_by_hand(hand, at, inner, 0.05))
    torch.testing.assert_close(model.state_dict(), hand.state_dict())
    before = inner(plain, at.x, at.y, ids=at.ids, seed=SEED)
    assert loss > before + 0.01  # the perturbation raises the loss


def test_without_a_craft_of_its_own_a_recipe_runs_twice_with_the_same_noise():
    def recipe(model, x, y, *, ids, seed):
        return INNER(model, x, y, ids=ids, seed=seed)

    one, two = warm_net(), warm_net()
    AWP(Standard(), 0.01).step(step_at(one))
    AWP(lambda model, x, y, *, ids, seed: Standard()(model, x, y), 0.01).step(step_at(two))
    torch.testing.assert_close(one.state_dict(), two.state_dict())
    loss = AWP(recipe, 0.05).step(step_at(warm_net()))
    assert loss > INNER(warm_net(), *(getattr(step_at(warm_net()), name) for name in "xy"), seed=SEED)


def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were():
    class Broken(Exception):
        pass

    def check(loss):
        raise Broken

    model = warm_net()
    before = copy.deepcopy(dict(model.named_parameters()))
    with pytest.raises(Broken):
        AWP(INNER, 0.1).step(step_at(model, check=check))
    torch.testing.assert_close(dict(model.named_parameters()), before, rtol=0, atol=0)
