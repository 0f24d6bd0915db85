"""FGSM-RS: where noise and step may lead."""

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv.train import FastTraining
from tests.refusals import refuses
from tests.train.recipes.hand import RADIUS, SEED, ascend, batch, warm_net

THREAT = fa.Linf(RADIUS)


def test_a_start_outside_the_box_leaves_black_pixels_between():
    """Wong's code for MNIST: the gradient is taken at x + noise as drawn, and only x_adv is clamped."""
    x, y, ids = batch()
    x, model = torch.where(x < 0.3, 0.0, x), warm_net()
    x_adv = FastTraining(THREAT, clamp_start=False).craft(model, x, y, ids=ids, seed=SEED)
    start = fa.Linf(RADIUS, (-1.0, 2.0)).random_start(x, seed=SEED, ids=ids)
    loss = partial(cross_entropy, target=y, reduction="none")
    wanted = ascend(model, x, loss, start, 1, 1.25 * RADIUS)
    torch.testing.assert_close(x_adv, wanted, rtol=0, atol=1e-6)
    black = FastTraining(THREAT).craft(model, x, y, ids=ids, seed=SEED)[x == 0]
    assert ((black < 1e-6) | (black > RADIUS - 1e-6)).all()
    assert ((x_adv[x == 0] > 1e-6) & (x_adv[x == 0] < RADIUS - 1e-6)).float().mean() > 0.1
    refuses("clamp_start: expected True for L0", FastTraining, fa.L0(3), clamp_start=False)


@pytest.mark.parametrize("threat", [fa.L1(1.0), fa.L2(0.5)], ids=["l1", "l2"])
def test_starts_are_of_every_length_in_l2_and_l1(threat):
    x, y, ids = batch()
    x_adv = FastTraining(threat, step_size=1e-6).craft(warm_net(), x, y, ids=ids, seed=SEED)
    start = threat.random_start(x, seed=SEED, ids=ids, length="uniform")
    torch.testing.assert_close(x_adv, start, rtol=0, atol=3e-6)
