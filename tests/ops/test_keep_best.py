"""What keep_best_ and keep_nearest_ refuse."""

import torch

from fastadv.ops.keep_best import keep_best_
from fastadv.ops.keep_nearest import keep_nearest_
from tests.refusals import refuses


def test_refusals():
    x, loss, success = torch.rand(20, 3, 2, 2), torch.rand(20), torch.rand(20) < 0.4
    refuses("x_adv: expected", keep_best_, x, loss, success, x[:, :2], loss, success)
    refuses("best_loss: expected", keep_best_, x, loss[:3], success, x, loss, success)
    refuses("loss: expected", keep_best_, x, loss, success, x, loss.double(), success)
    refuses("best_success: expected", keep_best_, x, loss, success.float(), x, loss, success)


def test_refusals_of_the_nearest():
    x, points, success = torch.rand(3, 4), torch.rand(3, 2, 4), torch.ones(3, 2) > 0
    best = x.clone(), torch.zeros(3), torch.zeros(3, dtype=torch.bool)
    refuses("x: expected", keep_nearest_, best, x[:2], points, success, 2.0)
    refuses("points: expected", keep_nearest_, best, x, points[:, :1], success, 2.0)
    refuses("points: expected", keep_nearest_, best, x, points.double(), success, 2.0)
    refuses("success: expected", keep_nearest_, best, x, points, success.float(), 2.0)
    refuses("best_rank: expected", keep_nearest_, (x, best[1].double(), best[2]), x, points, success, 2.0)
