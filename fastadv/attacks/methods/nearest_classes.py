"""Which classes are the nearest, if the model is taken to be linear (MALT, Melamed et al. 2024)."""

import torch
from torch import Tensor

from fastadv.attacks.core import Search
from fastadv.attacks.methods.geometry import norm
from fastadv.attacks.methods.hyperplane import DUAL, gains, largest_others

CANDIDATES = 100  # classes with the largest logits, among which the nearest are looked for
CHUNK = 1 << 22  # values of the directions in which gradients are taken at once


def nearest_classes(search: Search) -> Tensor:
    """Return int64 [n, C]: classes other than y, the nearest boundary first, for C = min(100, K - 1).

    They are in the order of (z_top - z_c) / |d(z_c - z_y)/dx|, where the norm is the dual of the threat's.
    """
    problem, order = search.problem, DUAL[search.threat.order]
    assert problem.clean is not None
    clean, y = problem.clean, search.y
    candidates = largest_others(clean, y, CANDIDATES)

    def sizes(part: Tensor) -> Tensor:
        """Return [m, C], the norms of the gradients of the samples `part` int64 [m]."""
        mask = None if problem.mask is None else problem.mask[part]

        def size(gradient: Tensor) -> Tensor:
            given = gradient if mask is None else gradient.where(mask, 0.0)
            return norm(given.nan_to_num(0.0, 0.0, 0.0), order)

        x = search.x[part]
        # norms of gradients in half precision would be 0 or infinite where the logits are of another scale
        x = x if search.classifier.dtype else x.to(search.dtype)
        return search.classifier.jacobian(x, lambda logits: gains(logits, y[part], candidates[part]), size)[1]

    rows = max(1, CHUNK // candidates[:1].numel() // clean.shape[1])
    each = torch.arange(len(y), device=y.device)
    size = torch.cat([sizes(part) for part in torch.split(each, rows)])
    gap = (clean.amax(1, keepdim=True) - clean.gather(1, candidates)).to(size)
    distance = torch.where(gap > 0, gap / size, 0.0)
    return candidates.gather(1, distance.argsort(dim=1, stable=True))
