"""Images in one precision, and a model with weights in another."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from fastadv.threat import THREATS

from ..nets import Case, images, labels, mlp

# formats of weights and of pixels
FORMATS = [
    (torch.float32, torch.float16),
    (torch.float32, torch.float64),
    (torch.float64, torch.float32),
    (torch.bfloat16, torch.float16),
    (torch.float16, torch.bfloat16),
]


class Preparing(nn.Module):
    """A net in one precision that takes images in any and scales them in that."""

    seen: ClassVar[set[torch.dtype]] = set()

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = mlp(dtype=dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(x.dtype)
        logits: Tensor = self.net(((x - 0.5) * 12 + 6).to(self.dtype))
        return logits.to(x.dtype)


KINDS: dict[str, Any] = {"cast": mlp, "as it is": Preparing}


@pytest.mark.covered("formats", [(*each, kind) for kind in KINDS for each in FORMATS])
def test_formats(case: Case, norm: str, formats: tuple[torch.dtype, torch.dtype, str]) -> None:
    """Points are images of the precision of x; ball and box hold in it, and a success is one of theirs."""
    weights, pixels, kind = formats
    model, x = KINDS[kind](dtype=weights), images(8, dtype=torch.float32).to(pixels)
    y = labels(model, x if kind == "as it is" else x.to(weights))
    # a ball that holds few numbers of half precision
    threat = THREATS[norm](3 if norm == "l0" else 8 / 255 * 4 ** (norm != "linf"))
    Preparing.seen.clear()
    out = case(model, x, y, threat)
    assert out.x_adv.dtype == pixels
    assert out.x_adv.isfinite().all()
    assert threat.contains(out.x_adv, x).all()
    assert (out.x_adv != x).any() or case.entry.minimal
    # a search in half precision goes on in float32
    assert kind == "cast" or pixels in Preparing.seen <= {pixels, torch.float32}
    shown = out.x_adv if kind == "as it is" else out.x_adv.to(weights)
    assert torch.equal(out.success, labels(model, shown) != y)
