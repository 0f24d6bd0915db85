"""`view` is what it is, and `reshape` where the layout alone forbids it."""

import pytest
import torch
from torch import Tensor, nn

from fastadv.engine import freeze
from fastadv.engine.layout import VIEWS
from tests.engine.rewritten import Seen


@pytest.mark.parametrize("shape", [(2, -1), ((2, -1),), (torch.Size((2, 60)),), (4, 30), (2, 3, 20)], ids=str)
def test_any_layout_has_a_view(shape: tuple[object, ...]) -> None:
    seen = Seen(lambda x: x.view(*shape), VIEWS)
    plain = torch.randn(2, 3, 4, 5)
    for x in (plain, plain.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(seen(x), plain.view(*shape))
    assert seen.used == ["views"]
    assert seen(plain).data_ptr() == plain.data_ptr()
    assert seen.used == []


def test_views_that_torch_allows_stay_views() -> None:
    seen = Seen(lambda x: x.view(2, 3, 20), VIEWS)
    x = torch.randn(2, 4, 5, 3).permute(0, 3, 1, 2)
    made = seen(x)
    made.zero_()
    assert not x.any()


def test_other_dtypes_and_wrong_sizes_are_torchs() -> None:
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert torch.equal(Seen(lambda x: x.view(torch.int32), VIEWS)(x), x.view(torch.int32))
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        Seen(lambda x: x.view(7, -1), VIEWS)(x)


class Flat(nn.Module):
    """Flattens by `view`, which a channels-last activation has not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(x).view(len(x), -1))
        return logits


def test_a_model_that_views_is_searched_channels_last() -> None:
    model, x = Flat().eval(), torch.rand(5, 3, 6, 6)
    frozen = freeze(model)
    assert "view as reshape" not in frozen.notes
    torch.testing.assert_close(frozen(x), model(x).detach(), rtol=1e-5, atol=1e-6)
    assert "view as reshape" in frozen.notes
    assert frozen.search.form.channels_last
    assert not any(note.startswith("not channels") for note in frozen.notes)
