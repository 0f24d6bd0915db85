"""Normalization of a single image, whatever the memory order of the image and of its gradient."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine import Plain
from tests.engine.nets import answers
from tests.logged import Logged

pytestmark = pytest.mark.usefixtures("search_copy")


class Attending(nn.Module):
    """Attention over the pixels of a convolution that a normalization follows."""

    def __init__(self, norm: Any = nn.BatchNorm2d) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.fc = nn.Conv2d(3, 32, 3, padding=1), norm(32), nn.Linear(32, 5)
        if norm is nn.InstanceNorm2d:
            return
        self.norm.running_mean.uniform_(-0.2, 0.2)
        self.norm.running_var.uniform_(0.2, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return self.fc(F.scaled_dot_product_attention(tokens, tokens, tokens).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("order", [(1, 8, 3), (8, 1, 16)])
def test_attention_after_batch_norm_stays_folded(order: tuple[int, ...], logged: Logged) -> None:
    net = Attending().eval()
    frozen = fa.freeze(net)
    for count in order:
        x, y = torch.rand(count, 3, 12, 12), torch.arange(count) % 5
        gradient = frozen.input_gradient(x, y)[2]
        # of two equal rows torch's gradient is right, as finite differences tell; of one it is not
        twice = answers(net, torch.cat([x, x]), torch.cat([y, y]))[1][:count]
        torch.testing.assert_close(gradient, twice, rtol=1e-3, atol=1e-5)
        logits, rows = frozen.jacobian(x, torch.eye(5).expand(count, 5, 5))
        assert rows.shape == (count, 5, 3, 12, 12)
        torch.testing.assert_close(logits, net(x).detach(), rtol=1e-3, atol=1e-5)
    assert {"folded 1 BatchNorm", "channels-last"} <= set(frozen.notes)
    assert not logged.records


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("prepared", [Plain, fa.freeze, lambda net: Plain(lambda x: net(x))])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_a_single_row_gets_the_gradient_it_gets_in_a_batch(norm: Any, prepared: Any, order: Any) -> None:
    net = Attending(norm).eval()
    x, y = torch.rand(1, 3, 12, 12).contiguous(memory_format=order), torch.tensor([1])
    expected = answers(net, torch.cat([x, x]), torch.cat([y, y]))[1][:1]
    model = prepared(net)
    torch.testing.assert_close(model.input_gradient(x, y)[2], expected, rtol=1e-3, atol=1e-5)
    identity = torch.eye(5).expand(1, 5, 5)
    rows = model.jacobian(x, identity)[1]
    twice = model.jacobian(torch.cat([x, x]), identity.expand(2, 5, 5))[1][:1]
    torch.testing.assert_close(rows, twice, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model(x), net(x).detach())
    ask = model.bind(x, y, "ce", None)
    for _ in range(3):  # the first passes are checked
        torch.testing.assert_close(*(F.normalize(g.flatten(), dim=0) for g in (ask(x)[2], expected)))


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="torch may have mended it")
def test_the_report_to_torch_shows_what_runs():
    report = Path(__file__).parents[2] / "examples" / "7_single_image_gradient.md"
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", report.read_text(), re.DOTALL)[0], names)
    torch.testing.assert_close(names["right"], names["gradient"], rtol=1e-4, atol=1e-4)
    assert (names["wrong"] - names["gradient"]).abs().max() > 1
