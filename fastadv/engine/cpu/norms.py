"""Normalization of a single image whose memory is in another order than its gradient's.

There torch's backward mixes up the orders (PyTorch 2.13 on a CPU: wrong by 140% to 200% for one row, right
for two), as where attention over pixels follows. So the gradient is made contiguous before.
"""

from typing import Any

from torch import Tensor


def mend_graph(logits: Tensor) -> bool:
    """Let gradients come to normalizations behind the logits in that order; return whether there are any."""
    found, seen, waiting = False, set[Any](), [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        if "BatchNorm" in type(node).__name__:
            node.register_prehook(_contiguous)
            found = True
    return found


def _contiguous(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(each if each is None else each.contiguous() for each in gradients)
