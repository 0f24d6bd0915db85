"""pytest bench/test_throughput.py --benchmark-autosave, and later, or elsewhere, --benchmark-compare."""

import pytest
import torch

from fastadv.ops.registration.library import CARDS


@pytest.mark.parametrize("provider", ["reference", "fastadv"])
@pytest.mark.parametrize("name", CARDS)
def test_op(benchmark, name, provider):
    args = max(CARDS[name].samples(torch.device("cpu"), torch.float32), key=lambda args: args[0].numel())
    call = CARDS[name].reference if provider == "reference" else getattr(torch.ops.fastadv, name)
    benchmark.extra_info["shape"] = list(args[0].shape)
    benchmark(call, *args)
