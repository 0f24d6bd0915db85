"""Several threats in one recipe: each choice by hand, what a run keeps of it, what is refused."""

import copy
import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv import rng
from fastadv.errors import InputError
from fastadv.runs.identity import describe
from fastadv.train import AWP, PGDTraining, craft, fit
from fastadv.train.recipes.several import CHOICES, drawn
from tests.train.nets import images, net
from tests.train.recipes.hand import SEED, batch, evaluated, step_at, warm_net

THREATS = (fa.Linf(0.05), fa.L1(1.0))
ALONE = [PGDTraining(threat, steps=2) for threat in THREATS]


def several(choose, **options):
    return PGDTraining(THREATS, steps=2, choose=choose, **options)


def examples(model, at):
    return [craft(one, model, at.x, at.y, ids=at.ids, seed=at.seed) for one in ALONE]


def loss_by_hand(choose, model, at):
    both, eval_net = examples(model, at), evaluated(model)
    if choose == "mean":
        return sum(cross_entropy(model(x_adv), at.y) for x_adv in both) / 2
    by = torch.stack([cross_entropy(eval_net(x_adv), at.y, reduction="none") for x_adv in both]).argmax(0)
    assert 0 < by.sum() < len(by), "one threat is the worst for all: the data show nothing"
    return cross_entropy(model(torch.stack(both)[by, torch.arange(len(by))]), at.y)


@pytest.mark.parametrize("choose", ["worst", "mean"])
def test_two_steps_by_hand(choose):
    model = warm_net()
    hand = copy.deepcopy(model)
    for seed in (SEED, SEED + 1):
        at, other = step_at(model, seed=seed), step_at(hand, seed=seed)
        wanted = loss_by_hand(choose, hand, other)
        loss = several(choose)(model, at.x, at.y, ids=at.ids, seed=seed)
        torch.testing.assert_close(loss, wanted, rtol=1e-9, atol=1e-12)
        for step, value in ((at, loss), (other, wanted)):
            step.backward(value)
            step.descend()
        torch.testing.assert_close(model.state_dict(), hand.state_dict())


def test_each_sample_has_one_example():
    at = step_at(model := warm_net())
    both = torch.stack(examples(model, at))
    losses = [cross_entropy(evaluated(model)(x_adv), at.y, reduction="none") for x_adv in both]
    worst = both[torch.stack(losses).argmax(0), torch.arange(len(at.x))]
    for choose in CHOICES:
        x_adv = craft(several(choose), model, at.x, at.y, ids=at.ids, seed=at.seed)
        torch.testing.assert_close(x_adv, worst, rtol=0, atol=0)


def test_the_worst_is_that_of_the_loss_that_is_trained():
    at, own = step_at(model := warm_net()), lambda z, y, _: z[:, 0]
    recipes = [several("worst", loss=own), *(PGDTraining(one, steps=2, loss=own) for one in THREATS)]
    worst, *each = (craft(one, model, at.x, at.y, ids=at.ids, seed=at.seed) for one in recipes)
    by = torch.stack([evaluated(model)(x_adv)[:, 0] for x_adv in each]).argmax(0)
    assert torch.equal(worst, torch.stack(each)[by, torch.arange(len(by))])


@pytest.mark.parametrize("choose", ["random", "harder"])
def test_two_drawn_steps_by_hand(choose):
    model, kept, counts = warm_net(), {}, torch.zeros(2, 2)
    hand = copy.deepcopy(model)
    for index in range(2):
        at, other = step_at(model, index=index, state=kept), step_at(hand, index=index)
        weights = (counts[0] + 1) / (counts[1] + 1) if counts[1].all() else torch.ones(2)
        share = rng.uniform(1, rng.derive(SEED, "threat", index), torch.zeros(1, dtype=torch.int64))
        place = int(share * weights.sum() >= weights[0])
        x_adv = examples(hand, other)[place]
        wrong = evaluated(hand)(x_adv).argmax(1) != other.y
        counts[:, place] += torch.tensor([wrong.sum(), len(wrong)]) * (choose == "harder")
        loss = cross_entropy(hand(x_adv), other.y)
        torch.testing.assert_close(several(choose).step(at), loss.detach(), rtol=1e-9, atol=1e-12)
        other.backward(loss)
        other.descend()
        torch.testing.assert_close(model.state_dict(), hand.state_dict())
    assert torch.equal(kept["errors"], counts.long())


@pytest.mark.parametrize(("errors", "share"), [([[0, 0], [99, 0]], 0.5), ([[79, 19], [99, 99]], 0.8)])
def test_threats_are_drawn_alike_until_each_was_seen_and_then_by_their_errors(errors, share):
    at = step_at(warm_net())
    places = [drawn(dataclasses.replace(at, index=index), torch.tensor(errors)) for index in range(200)]
    assert abs(places.count(0) - 200 * share) < 4 * (200 * share * (1 - share)) ** 0.5


def test_errors_are_counted_anew_in_each_epoch():
    at = step_at(warm_net(), index=0, state={"errors": torch.tensor([[79, 19], [99, 99]])})
    several("harder").step(at)
    assert at.state["errors"][1].sum() == len(at.x)


def test_each_threat_has_its_step_size_and_the_criterion():
    each = several("mean", step_size=[0.03, 0.5]).each()
    assert [(one.threat, one.step_size) for one in each] == [*zip(THREATS, [0.03, 0.5], strict=True)]
    signs = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1))  # cross-entropy needs classes
    torch.nn.init.normal_(signs[1].weight, generator=torch.Generator().manual_seed(0))
    for choose in CHOICES:
        recipe = several(choose, criterion=fa.attacks.Signs())
        assert len(fit(signs, (images().x, images().labels.clamp_max(1)), recipe, epochs=1)) == 1


def test_one_threat_is_as_before():
    one = PGDTraining(THREATS[0], steps=2)
    assert PGDTraining([THREATS[0]], steps=2, choose="mean") == one
    assert PGDTraining([THREATS[0]], 2, step_size=[0.1]) == PGDTraining(THREATS[0], 2, step_size=0.1)
    assert not callable(one.step)
    assert "choose" not in describe(one)
    assert describe(several("mean")) != describe(several("worst"))


def test_what_is_refused():
    cases = [
        ("choose", lambda: several("first")), ("choose", lambda: PGDTraining(fa.L2(1), choose="worst")),
        ("threat", lambda: PGDTraining([])), ("threat", lambda: PGDTraining([fa.L2(1), 0.1])),
        ("threat", lambda: PGDTraining([fa.L2(1), fa.L2(1, box=(-1, 1))])),
        ("step_size", lambda: several("mean", step_size=0.1)),
        ("step_size", lambda: several("mean", step_size=[0.1])),
        ("step_size", lambda: PGDTraining([fa.L2(1)], step_size=[0.1, 0.2])),
        ("steps", lambda: PGDTraining(THREATS, steps=0)), ("recipe", lambda: AWP(several("random"))),
        ("choose", lambda: several("harder")(net(), *batch()[:2])),
    ]  # fmt: skip
    for name, call in cases:
        with pytest.raises(InputError, match=f"^{name}: expected"):
            call()
