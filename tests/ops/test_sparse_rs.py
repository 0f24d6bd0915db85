"""What sparse_rs refuses."""

from functools import partial

import torch

from fastadv.ops.sparse_rs import sparse_rs
from tests.refusals import refuses


def test_wrong_arguments() -> None:
    best, x = torch.rand(2, 2, 9)
    one = torch.ones(2).long()
    call = partial(sparse_rs, best, x)
    refuses("x: expected", sparse_rs, best, x[:, :8], one, one, one)
    refuses("count: expected", call, one, one, one.int())
    refuses("mask: expected bool", call, one, one, one, mask=x)
    refuses("box: expected a finite one", call, one, one, one, (0.0, torch.inf))
