"""Passes of a model under noise: copies of several images share a batch, and their classes are counted."""

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fastadv._waiting import waits
from fastadv.certify.noise import Noise
from fastadv.engine import Prepared
from fastadv.ops.count_votes import count_votes_
from fastadv.ops.noisy_copies import noisy_copies


class Smoothed:
    """A model under noise: it passes copies of images and counts the classes they are given."""

    def __init__(self, prepared: Prepared, noise: Noise, seed: int, batch_size: int, sound: bool) -> None:
        self.prepared, self.noise, self.seed = prepared, noise, seed
        self.batch_size, self.sound = batch_size, sound
        self.dtype = prepared.dtype or torch.float32
        self.waits = prepared.device is not None and waits(prepared.device)

    def levels(self, x: Tensor) -> Tensor:
        """Return images as whole numbers of the grid's steps, where the model is."""
        return self.noise.levels(x.to(device=self.prepared.device), self.sound)

    def votes(self, levels: Tensor, ids: Tensor, n: int) -> Tensor:
        """Return how often each image [B] is given each class in the first n draws, int32 [B, K]."""
        wanted = dict.fromkeys(range(len(levels)), n)
        cast = dict(self.passes(levels, ids, torch.zeros_like(ids), wanted))
        return torch.stack([cast[image] for image in wanted]) if cast else ids.new_zeros(0, 2).int()

    def passes(
        self, levels: Tensor, ids: Tensor, drawn: Tensor, wanted: dict[int, int]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield an image and its votes, int32 [K] on the host, as soon as the draws wanted are counted."""
        # drawn [B], where each image's draws begin, moves on; what is then wanted of an image comes last
        table = self.noise.table.entries.to(levels.device)
        queue, votes = deque(wanted), levels.new_zeros(0)
        counting = deque[tuple[list[int], Callable[[], Tensor]]]()
        while queue:
            taken, room = dict[int, int](), self.batch_size
            while queue and room:
                image = queue[0]
                taken[image] = min(wanted[image], room)
                wanted[image] -= taken[image]
                room -= taken[image]
                if not wanted[image]:
                    queue.popleft()
            images, counts = torch.tensor([[*taken], [*taken.values()]], device="cpu")
            numbers = torch.stack([images, counts, ids[images], drawn[images]])
            if levels.is_cuda:
                numbers = numbers.pin_memory()  # so that its transfer waits for nothing
            here, many, which, first = numbers.to(levels.device, non_blocking=True)
            copies, rows = noisy_copies(
                levels[here], many, which, first, table, self.noise.table.center, self.noise.step, self.seed,
                dtype=self.dtype, total=self.batch_size - room,
            )  # fmt: skip
            logits = self.prepared(copies)
            votes = votes if votes.numel() else levels.new_zeros(len(levels), logits.shape[1])
            count_votes_(votes, logits, here[rows])
            drawn[images] += counts
            if counted := [image for image in taken if not wanted[image]]:
                counting.append((counted, read_later(votes)))
            # a GPU passes other images while these are read
            while len(counting) > (bool(queue) and self.waits):
                counted, read = counting.popleft()
                known = read()
                for image in counted:
                    yield image, known[image]
                    if wanted[image]:
                        queue.append(image)


def read_later(values: Tensor) -> Callable[[], Tensor]:
    """Copy values, as they are now, to the host; the result waits for them and returns them."""
    if not values.is_cuda:
        copied = values.to("cpu", copy=True)
        return lambda: copied
    pinned = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
    pinned.copy_(values, non_blocking=True)
    there = torch.cuda.Event()  # type: ignore[no-untyped-call]
    there.record()

    def read() -> Tensor:
        there.synchronize()
        return pinned

    return read
