"""BatchNorm over the whole batch: alone, a process computes what torch does; see processes/ for several."""

import copy

import pytest
import torch
from torch import nn

from fastadv.train._share import Share, _WholeBatch

NETS = {
    "images": nn.BatchNorm2d(3, eps=0.3, momentum=0.2),
    "rows": nn.BatchNorm1d(3, momentum=None),
    "bare": nn.BatchNorm1d(3, affine=False, track_running_stats=False),
    "volumes": nn.BatchNorm3d(3, momentum=0.0),
}
SHAPES = {"images": (5, 3, 2, 4), "rows": (5, 3), "bare": (2, 3, 4), "volumes": (1, 3, 2, 1, 2)}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [True, False])
def test_values_gradients_and_running_statistics(name, training):
    plain = copy.deepcopy(NETS[name]).double().train(training)
    for weight in plain.parameters():
        nn.init.normal_(weight)
    whole = copy.deepcopy(plain)
    x = (3 * torch.randn(SHAPES[name], dtype=torch.float64) + 100).requires_grad_()
    way, results = torch.randn_like(x), []
    for model, share in ((plain, None), (whole, Share(5))):
        for _ in range(2):
            if share is None:
                y = model(x)
            else:
                with _WholeBatch(share):
                    y = model(x)
        results.append([y, *torch.autograd.grad((y * way).sum(), [x, *model.parameters()])])
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(whole.state_dict(), plain.state_dict(), rtol=1e-12, atol=0)


def test_half_precision_and_a_single_value():
    x, rows = torch.randn(6, 3).bfloat16(), copy.deepcopy(NETS["rows"])
    with _WholeBatch(Share(6)):
        y = rows(x)
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            rows(x[:1].float())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, rows(x), rtol=0, atol=0.02)
