"""What public calls find, and in how many passes, is what it was: see `python -m tests.goldens --help`."""

import json
from math import inf, nan

import pytest
import torch

from tests.goldens.__main__ import KEPT, difference
from tests.goldens.calls import CALLS, counts, names


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("call", CALLS)
def test_counts_are_as_they_were(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastadv.engine.frozen.FEW", 1 << 13)  # as users have it
    kept = json.loads(KEPT.read_text())
    # a fifth of calls that make many others: each net and each set of options
    for name in names(f"{call} ")[:: 5 if call in ("autoattack", "minimum_norm-l2") else 1]:
        counted = [None if was is None else now for was, now in zip(kept[name], counts(name), strict=True)]
        assert counted == kept[name], f"{name}: successes, samples of each status, forwards, backwards"


def test_a_difference_is_one_of_bits() -> None:
    ours = torch.tensor([[0.0, nan], [1.0, inf], [2.0, 3.0]])
    assert difference(ours, ours.clone()) is None
    assert difference(ours[:, :1], torch.tensor([[-0.0], [1.0], [2.5]])) == (2, 0.5)
