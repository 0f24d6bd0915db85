"""Single rows whose gradient torch itself gets wrong cost larger batches nothing, and the search is right."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from tests.engine.rewritten import answers
from tests.logged import Logged


class Attending(nn.Module):
    """Attention over the pixels of a convolution that a BatchNorm follows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.fc = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.Linear(32, 5)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-0.2, 0.2)
            self.norm.running_var.uniform_(0.2, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        logits: Tensor = self.fc(F.scaled_dot_product_attention(tokens, tokens, tokens).mean(1))
        return logits


@pytest.mark.slow
@pytest.mark.parametrize("order", [(1, 8, 3), (8, 1, 16)])
def test_attention_after_batch_norm_stays_folded(order: tuple[int, ...], logged: Logged) -> None:
    net = Attending().eval()
    frozen = fa.freeze(net)
    names: Any = None
    for count in order:
        x, y = torch.rand(count, 3, 12, 12), torch.arange(count) % 5
        found = frozen.input_gradient(x, y)[2]
        # of two equal rows torch's gradient is right, as finite differences tell; of one it is not
        twice = answers(net, torch.cat([x, x]), torch.cat([y, y]))[1][:count]
        torch.testing.assert_close(found, twice, rtol=1e-3, atol=1e-5)
        logits, rows = frozen.jacobian(x, torch.eye(5).expand(count, 5, 5))
        assert rows.shape == (count, 5, 3, 12, 12)
        torch.testing.assert_close(logits, net(x).detach(), rtol=1e-3, atol=1e-5)
        names = frozen.search.form.rewriting.names
    assert {"fold", "channels-last"} <= set(names)
    assert not logged.records
