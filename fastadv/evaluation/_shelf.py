"""Where the small results of many batches lie side by side."""

import math

import torch
from torch import Tensor

BLOCK = 1 << 20  # bytes
LINE = 64  # bytes, to which each tensor is aligned


class Shelf:
    """Copies tensors into blocks of their own.

    A small result that stays where a batch made it splits the memory which the pass of that batch leaves, so
    that the next passes need more: what a long stream takes then grows with it.
    """

    def __init__(self) -> None:
        """Begin without a block."""
        self._block, self._used = torch.empty(0, dtype=torch.uint8), 0

    def keep(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return them as copies, on the CPU; large ones as they are."""
        return {name: self._kept(tensor) for name, tensor in tensors.items()}

    def _kept(self, tensor: Tensor) -> Tensor:
        size = tensor.numel() * tensor.element_size()
        if size > BLOCK // 4:
            return tensor
        if self._used + size > len(self._block):
            self._block, self._used = torch.empty(BLOCK, dtype=torch.uint8), 0
        place = self._block[self._used : self._used + size]
        self._used += math.ceil(size / LINE) * LINE
        return place.view(tensor.dtype).view(tensor.shape).copy_(tensor)
