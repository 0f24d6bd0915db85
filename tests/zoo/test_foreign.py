"""Models of torchvision, timm and Hugging Face: gradients, verdicts and state, as of any net of the zoo."""

import copy

import pytest
import torch

import fastadv as fa

from .judge import Answer, check_directions, check_rows
from .net import Net, lent
from .nets.foreign import FOREIGN
from .state import State


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of libraries about one another
@pytest.mark.parametrize("net", lent(FOREIGN))
def test_a_model_of_a_library(net: Net) -> None:
    model = net.build()
    before = State.of(model)
    frozen, narrow = fa.freeze(model), fa.freeze(model, "bf16")
    given = [net.images(batch) for batch in net.batches]
    verdicts = [frozen.verdict(x) for x, _ in given]
    found = [Answer(*frozen.input_gradient(x, y)) for x, y in given]
    found_narrow = [Answer(*narrow.input_gradient(x, y)) for x, y in given]
    before.check(model)
    # torch chooses another product of matrices where weights want a gradient, even when none is taken
    still = copy.deepcopy(model).requires_grad_(False)
    for (x, y), verdict, answer, directed in zip(given, verdicts, found, found_narrow, strict=True):
        with torch.no_grad():
            own = still(x)
        assert own.abs().max() < 1e3
        off = float((verdict - own).abs().max())
        assert off == 0, f"verdict off by {off}"
        check_rows(model, x, y, answer)
        check_directions(lambda: copy.deepcopy(model), x, y, directed)
