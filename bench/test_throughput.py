"""pytest bench/test_throughput.py --benchmark-autosave, and later, or elsewhere, --benchmark-compare."""

import pytest
import torch

from fastadv.ops.registration.library import CARDS, OpCard, Sample


def largest_sample(card: OpCard) -> Sample:
    dtype = torch.float32 if torch.float32 in card.dtypes else card.dtypes[0]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return max(card.samples(device, dtype), key=lambda args: args[0].numel())


@pytest.mark.parametrize("provider", ["reference", "fastadv"])
@pytest.mark.parametrize("name", CARDS)
def test_op(benchmark, name, provider):
    card = CARDS[name]
    args = largest_sample(card)
    call = card.reference if provider == "reference" else getattr(torch.ops.fastadv, name)
    benchmark.extra_info["shape"] = list(args[0].shape)

    def run() -> None:
        call(*args)
        if args[0].is_cuda:
            torch.cuda.synchronize()

    benchmark(run)
