"""Images in one precision, and a model with weights in another."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.threat import THREATS

from ..nets import Case, images, labeled, labels, mlp

# of weights and of pixels
FORMATS = [
    (torch.float32, torch.float16),
    (torch.float32, torch.float64),
    (torch.float64, torch.float32),
    (torch.bfloat16, torch.float16),
    (torch.float16, torch.bfloat16),
]


@pytest.mark.covered("formats", FORMATS)
def test_formats(case: Case, norm: str, formats: tuple[torch.dtype, torch.dtype]) -> None:
    """Points are images of the precision of x; ball and box hold in it, and a success is one of theirs."""
    weights, pixels = formats
    model, x = mlp(dtype=weights), images(8, dtype=torch.float32).to(pixels)
    y = labels(model, x.to(weights))
    # whose ball holds few numbers of half precision
    threat = THREATS[norm](3 if norm == "l0" else 8 / 255 * 4 ** (norm != "linf"))
    out = case(model, x, y, threat)
    assert out.x_adv.dtype == pixels
    assert out.x_adv.isfinite().all()
    assert threat.contains(out.x_adv, x).all()
    assert (out.x_adv != x).any() or case.entry.minimal
    assert torch.equal(out.success, labels(model, out.x_adv.to(weights)) != y)


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


@pytest.mark.covered("formats", FORMATS)
def test_images_reach_a_model_that_takes_them_as_they_are(
    case: Case, norm: str, formats: tuple[torch.dtype, torch.dtype]
) -> None:
    """Rounded to the precision of its weights first, they would be other images than the caller's."""
    weights, pixels = formats
    model, x, y = labeled(Preparing(weights), images(8, dtype=torch.float32).to(pixels))
    threat = THREATS[norm](3 if norm == "l0" else 8 / 255 * 4 ** (norm != "linf"))
    model.seen.clear()
    out = case(model, x, y, threat)
    # a search in half precision goes on in float32
    assert pixels in model.seen <= {pixels, torch.float32}
    assert threat.contains(out.x_adv, x).all()
    assert torch.equal(out.success, labels(model, out.x_adv) != y)


class OneSize(Preparing):
    """Takes batches of one size alone, as exported programs do."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 8:
            raise ValueError(f"8 rows, got {len(x)}")
        return super().forward(x + (x.dtype == torch.float32))


def test_images_reach_a_model_of_one_batch_size_as_they_are() -> None:
    model, x = OneSize(torch.float64), images(8, dtype=torch.float32)
    frozen = fa.freeze(model)
    assert torch.equal(frozen.verdict(x), model(x))
    assert frozen.forwards == 8 + 2 + 2 + 8
    cast = OneSize(torch.float64)
    cast.forward = lambda x: cast.net(x) if len(x) == 8 else 1 / 0  # type: ignore[method-assign]
    assert torch.equal(fa.freeze(cast).verdict(x), cast(x.double()))
