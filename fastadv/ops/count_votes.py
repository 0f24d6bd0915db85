"""count_votes_: add the class of each row of logits to the votes of the image that the row belongs to."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv.ops._rows import check_tensor
from fastadv.ops.keep_best import WRITES
from fastadv.ops.registration.library import Sample, op, register


def reference(logits: Tensor, rows: Tensor, votes: Tensor) -> None:
    finite = logits.isfinite().all(1)
    votes.index_put_((rows, logits.argmax(1)), finite.to(votes.dtype), accumulate=True)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    draw = torch.Generator().manual_seed(8)
    for count, images, classes in ((40, 3, 10), (7, 7, 1), (130, 2, 1031), (0, 2, 4)):
        logits = torch.randint(4, (count, classes), generator=draw).to(dtype)  # with ties
        logits[: count // 5, -1] = float("nan")
        logits[count // 5 : count // 4, 0] = float("inf")
        rows = torch.randint(images, (count,), generator=draw)
        votes = torch.randint(100, (images, classes), generator=draw, dtype=torch.int32)
        yield logits.to(device), rows.to(device), votes.to(device)


register(
    name="count_votes_",
    schema="(Tensor logits, Tensor rows, Tensor(a!) votes) -> ()",
    summary="votes[row, argmax logits] += 1, the lower class among equals; none if not finite",
    reference=reference,
    samples=samples,
    bytes_moved=lambda logits, *rest: logits.nbytes,
    flops=lambda logits, *rest: logits.numel(),
    **WRITES,
)


def count_votes_(votes: Tensor, logits: Tensor, rows: Tensor) -> None:
    """Add one to votes int32 [B, K] for each row of logits [N, K], at its image, rows int64 [N], and class.

    Among equal logits the lower class wins. A row that is not finite votes for no class.
    """
    check_tensor("votes", votes, ("B", "K"), torch.int32)
    check_tensor("logits", logits, ("N", votes.shape[1]), None)
    check_tensor("rows", rows, logits.shape[:1], torch.int64)
    op("count_votes_")(logits, rows, votes)
