"""accumulate=k: passes that make one step are a batch k times as large; drop_last; momentum of BatchNorm."""

import weakref

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.errors import InputError
from fastadv.train import AWP, TRADES, FreeTraining, Optimization, PGDTraining, Standard, fit
from fastadv.train._feed import Feed
from fastadv.train._share import Share

from .nets import assert_same, images, net


def linear() -> nn.Module:
    """A linear net of dyadic numbers: sums of few bits are exact in any order."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        model[1].weight.copy_((torch.arange(192).view(3, 64) % 7 - 3) / 8)
        model[1].bias.zero_()
    return model


def dyadic():
    data = images(32)
    return fa.data.ImageSet((data.x * 4).round() / 4, data.y, data.classes, "dyadic")


def logit(model, x, y, *, ids=None, seed=0):
    return -model(x).gather(1, y[:, None]).mean()


def smooth():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Softplus(), nn.Linear(8, 3)).double()


class Held(torch.autograd.Function):
    """The identity, which notes what its graph keeps alive."""

    @staticmethod
    def forward(ctx, loss, graphs):
        ctx.held = nn.Identity()
        graphs.append(weakref.ref(ctx.held))
        return loss.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def trained(model, batch_size, accumulate, *, data=None, recipe=None, **options):
    options = {"weight_decay": 0.0, "schedule": "constant", "momentum": 0.5} | options
    optimization = Optimization(accumulate=accumulate, **options)
    settings = {"epochs": 2, "batch_size": batch_size, "learning_rate": 0.125}
    reports = fit(model, data or images(26), recipe or Standard(), optimization=optimization, **settings)
    return model, reports


def test_it_has_the_bits_of_a_batch_so_many_times_as_large():
    whole, first = trained(linear(), 16, 1, data=dyadic(), recipe=logit)
    for batch_size, accumulate in ((8, 2), (4, 4), (1, 16)):
        parted, reports = trained(linear(), batch_size, accumulate, data=dyadic(), recipe=logit)
        assert_same(parted, whole)
        assert [each.loss for each in reports] == [each.loss for each in first]
    assert not torch.equal(whole[1].weight, linear()[1].weight)


RECIPES = {
    "pgd": PGDTraining(fa.Linf(0.1), 2), "trades": TRADES(fa.Linf(0.1), 2),
    "awp": AWP(TRADES(fa.Linf(0.1), 2)), "free": FreeTraining(fa.L2(0.5), 2),
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipes_train_what_they_do_on_the_large_batch_also_where_it_does_not_divide(recipe):
    """26 images: batches of 10, 10 and 6, or passes of 4, 4, 2 and so on."""
    whole, first = trained(smooth(), 10, 1, recipe=recipe)
    for batch_size, accumulate in ((5, 2), (2, 5)):
        parted, reports = trained(smooth(), batch_size, accumulate, recipe=recipe)
        torch.testing.assert_close(parted.state_dict(), whole.state_dict(), rtol=1e-9, atol=1e-9)
        assert [each.loss for each in reports] == pytest.approx([each.loss for each in first], abs=1e-9)


@pytest.mark.parametrize("gives", ["gradient", "report"])
def test_a_step_on_the_whole_batch_is_refused(gives):
    class Whole:
        def step(self, at):
            each = at.each(lambda part: Standard()(part.model, part.x, part.y))
            at.backward(Standard()(at.model, at.x, at.y) if gives == "gradient" else each)
            at.descend()
            return torch.stack(each).mean() if gives == "report" else each

    with pytest.raises(InputError, match=r"expected the losses of 2 parts .* got 1; take them with at\.each"):
        trained(linear(), 4, 2, recipe=Whole())
    trained(linear(), 8, 1, recipe=Whole())


def test_what_torch_draws_differs_between_passes():
    drawn = []

    def noted(model, x, y, *, ids, seed):
        drawn.append(torch.rand(4))
        return Standard()(model, x, y)

    trained(smooth(), 4, 4, recipe=AWP(noted), data=images(16))
    assert len(torch.stack(drawn).unique(dim=0)) == len(drawn) == 16  # 2 epochs of 4 passes, each twice


def test_what_one_pass_needs_is_gone_when_the_next_begins():
    alive, graphs = [], []

    class Watched(Standard):
        def __call__(self, model, x, y, *, ids=None, seed=0):
            alive.append(sum(graph() is not None for graph in graphs))
            return Held.apply(super().__call__(model, x, y), graphs)

    trained(smooth(), 4, 4, recipe=Watched(), data=images(16))
    assert max(alive) <= 1, "the one that is being dropped"


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 7, 12, 13])
def test_passes_hold_each_row_once_whoever_owns_it(world, size):
    rows, met, keys = torch.arange(size), [], set()
    for rank in range(world):
        share = Share(size, rank, world, rows=4)
        own = Share(size, rank, world).own(rows)
        parts = share.split(own)
        assert torch.equal(share.joined(parts), own)
        assert len(parts) == len(share.cut) == -(-size // 4)
        for number, (part, piece) in enumerate(zip(share.cut, parts, strict=True)):
            assert torch.equal(part.own(rows)[: part.count], piece[: part.count])
            assert len(piece) == max(part.count, 1)
            assert all(row // 4 == number for row in piece[: part.count].tolist())
            met += piece[: part.count].tolist()
            keys.add(tuple(part.key))
            weight = float(part.weighted(torch.tensor(1.0))) if share.is_cut else part.count / size
            assert weight == pytest.approx(part.count / size)
    assert sorted(met) == list(range(size))
    assert len(keys) == world * -(-size // 4)  # each draws of its own


def test_what_does_not_fill_a_step_is_left_out_and_is_another_in_each_epoch():
    left = []
    feed = Feed(images(26), 4, None, 0, torch.device("cpu"), passes=2, drop_last=True)
    assert (feed.steps, feed.epoch_size) == (3, 24)
    for epoch in (1, 2):
        ids = torch.cat([ids for _, _, ids in feed.batches(epoch)])
        assert len(ids) == len(set(ids.tolist())) == 24
        left.append(set(range(26)) - set(ids.tolist()))
    assert left[0] != left[1]
    with pytest.raises(InputError, match="drop_last: expected at least the 64 images of a step"):
        fit(net(), images(), Standard(), epochs=1, batch_size=64, optimization=Optimization(drop_last=True))


def test_the_momentum_of_batchnorm_is_that_asked_for_and_the_models_own_afterwards():
    model, other = net(), net()
    other[1].momentum = 0.01
    optimization = Optimization(batch_norm_momentum=0.01)
    fit(model, images(), Standard(), epochs=1, optimization=optimization)
    fit(other, images(), Standard(), epochs=1)
    assert_same(model, other)
    assert model[1].momentum == 0.1
    with pytest.raises(InputError, match="batch_norm_momentum: expected a model with BatchNorm"):
        fit(smooth(), images(), Standard(), epochs=1, optimization=optimization)
