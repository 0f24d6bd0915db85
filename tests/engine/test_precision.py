"""Searches in bfloat16, rounding in TF32, which is a switch of torch, and cuDNN's switch."""

from types import SimpleNamespace

import pytest
import torch

import fastadv as fa
from fastadv.engine.precision import rounds_as, without_cudnn
from tests.engine.nets import convnet, images

GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("switch", "format", "device", "expected"),
    [
        ("tf32", torch.float32, GPU, "tf32"),
        ("ieee", torch.float32, GPU, torch.float32),
        ("tf32", torch.float32, torch.device("cpu"), torch.float32),
        ("tf32", torch.bfloat16, GPU, torch.bfloat16),
        ("tf32", None, GPU, "tf32"),
    ],
)
def test_float32_of_a_gpu_rounds_as_torch_lets_it(switch, format, device, expected, monkeypatch):
    of = [SimpleNamespace(fp32_precision=name) for name in ("none", switch)]
    monkeypatch.setattr(
        "fastadv.engine.precision.switches", lambda: [(each, "fp32_precision", "tf32") for each in of]
    )
    assert rounds_as(format, device) == expected


def test_what_threads_change_comes_back_when_the_last_one_leaves() -> None:
    first, second, before = without_cudnn(), without_cudnn(), torch.backends.cudnn.enabled
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.backends.cudnn.enabled != before
    second.__exit__(None, None, None)
    assert torch.backends.cudnn.enabled == before


def test_passes_without_a_gradient_stay_in_the_models_precision() -> None:
    """Attacks without gradients, such as Square, compare losses that half precision does not tell apart."""
    (x, y), frozen = images(64), fa.freeze(convnet().eval(), "bf16")
    frozen.input_gradient(x, y)
    assert torch.equal(frozen(x), frozen.verdict(x))
    assert frozen.search_dtype == torch.bfloat16
