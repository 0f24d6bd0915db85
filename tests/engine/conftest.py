"""What tests of rewrites share."""

import pytest
import torch

from fastadv.engine import winograd


@pytest.fixture
def small_ones_too(search_copy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each rewrite serve layers and batches of any size."""
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", {torch.float32: 8, torch.bfloat16: 8})
    monkeypatch.setattr(winograd, "LEAST_TILES", 0)
