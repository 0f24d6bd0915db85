"""Sets whose labels are probabilities: what recipes minimize, who takes them, and resume bit for bit."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import fastadv as fa
from fastadv.errors import InputError
from fastadv.train import (
    AWP,
    MART,
    SCORE,
    TRADES,
    Execution,
    FastTraining,
    FGSMTraining,
    FreeTraining,
    GradAlign,
    PGDTraining,
    Standard,
    fit,
)
from fastadv.train.recipes._common import of_soft

from .nets import assert_same, images, net, stopped

THREAT = fa.Linf(0.1)
TAKING = [
    Standard(0.1),
    PGDTraining(THREAT, 2),
    FastTraining(THREAT),
    FreeTraining(THREAT, 2),
    TRADES(THREAT, 2),
]


def linear(dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).to(dtype)


def taught(n=50):
    """The bands, labeled by a teacher that is rarely sure."""
    data = images(n)
    noise = torch.randn(n, 3, generator=torch.Generator().manual_seed(5))
    return data.relabeled((3 * one_hot(data.y, 3) + noise).softmax(1))


class Listed(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, k):
        return self.data[k]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_is_the_cross_entropy_of_the_probabilities(dtype):
    data, model = taught(12), linear(dtype)
    logits = model(data.x.to(dtype))
    wanted = -(data.probabilities * logits.log_softmax(1)).sum(1).mean()
    (report,) = fit(model, data, Standard(), epochs=1, batch_size=12, test_set=data)
    assert report.loss == pytest.approx(wanted.item(), rel=20 * torch.finfo(dtype).eps)
    right = (model(data.x.to(dtype)).argmax(1) == data.probabilities.argmax(1)).float().mean()
    assert report.clean_accuracy == pytest.approx(right.item())


@pytest.mark.parametrize("recipe", TAKING, ids=lambda recipe: type(recipe).__name__)
def test_certain_probabilities_are_labels(recipe):
    data, losses = images(24), []
    for given in (data, data.relabeled(one_hot(data.y, 3).double())):
        losses.append(fit(linear(torch.float64), given, recipe, epochs=2, batch_size=8)[-1].loss)
    # 24 images of 64 pixels by 3 classes, in 6 steps of the rate 0.05
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.parametrize(
    "recipe",
    [*TAKING, FGSMTraining(THREAT), AWP(TRADES(THREAT, 2)), GradAlign(FGSMTraining(THREAT))],
    ids=lambda recipe: type(recipe).__name__,
)
def test_recipes_learn_from_them(recipe):
    losses = [r.loss for r in fit(net(), taught(48), recipe, epochs=3, batch_size=16)]
    assert losses[-1] < losses[0]


def test_of_certain_labels_the_loss_to_ascend_is_the_cross_entropy():
    logits, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1, 0])
    soft = torch.full((5, 3), 0.1).scatter(1, y[:, None], 0.8)
    loss, labels = of_soft("ce", soft)
    assert torch.equal(labels, y)
    torch.testing.assert_close(loss(logits, y, None), cross_entropy(logits, soft, reduction="none"))
    with pytest.raises(InputError, match="loss: expected 'ce'"):
        of_soft("margin", soft)


def test_every_kind_of_set_trains_alike():
    data = taught(24)
    whole = fit(linear(), data, Standard(), epochs=1, batch_size=24)
    listed = fit(linear(), Listed(data), Standard(), epochs=1, batch_size=24, execution=Execution(workers=1))
    assert listed[0].loss == whole[0].loss


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "listed"])
def test_a_run_resumes_bit_for_bit(tmp_path, kind):
    data = taught() if kind == "memory" else Listed(taught())
    options = {"batch_size": 8, "epochs": 2, "augment": "shift", "execution": Execution(checkpoint_every=2)}

    def trained(folder, **more):
        model = net()
        fit(model, data, PGDTraining(THREAT, 2), run_dir=folder, **options, **more)
        return model

    whole = trained(tmp_path / "whole")
    stopped(11, trained, tmp_path / "stopped")
    assert_same(whole, trained(tmp_path / "stopped", resume=True))
    with pytest.raises(InputError, match="another data"):
        fit(net(), images(), PGDTraining(THREAT, 2), run_dir=tmp_path / "whole", resume=True, **options)


@pytest.mark.parametrize(
    "recipe",
    [
        *(MART(THREAT, 2), Standard(loss="bce")),
        *(AWP(MART(THREAT, 2)), GradAlign(SCORE(THREAT, 2))),
    ],
)
def test_who_cannot_take_them_is_refused_before_the_first_step(recipe):
    match = r"train_set: expected classes as labels for .*, got probabilities; take one of .*label.argmax"
    for given in (taught(), Listed(taught())):
        with pytest.raises(InputError, match=match):
            fit(net(), given, recipe, epochs=1)


def test_a_recipe_of_ones_own_gets_them():
    seen = []

    def own(model, x, y, *, ids=None, seed=0):
        seen.append(y)
        return (model(x) ** 2).mean()

    data = taught(8)
    fit(net(), data, own, epochs=1, batch_size=8)
    assert seen[0].sort(0).values.equal(data.probabilities.sort(0).values)
