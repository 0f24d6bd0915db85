"""Normalization of a single image whose memory is in another order than its gradient's.

There torch's backward mixes up the orders (PyTorch 2.13 on a CPU: wrong by 140% to 200% for one row, right
for two), as where attention over pixels follows. So the gradient is made contiguous before.
"""

from torch import Tensor

from fastadv._torch import nodes_of


def mend_graph(logits: Tensor) -> bool:
    """Let gradients come to normalizations behind the logits in that order; return whether there are any."""
    norms = [node for node in nodes_of(logits.grad_fn) if "BatchNorm" in type(node).__name__]
    for node in norms:
        node.register_prehook(_contiguous)
    return bool(norms)


def _contiguous(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(each if each is None else each.contiguous() for each in gradients)
