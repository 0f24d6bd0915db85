"""Figures of a criterion beside the accuracy: sums over samples, such as those of a mean IoU."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastadv.attacks.core.criterion import ERRORS, Criterion
from fastadv.engine import Prepared
from fastadv.text import number, percent

Sums = Mapping[str, Tensor]  # by name, float64 [n, 2, C] on the CPU: two sums of each sample in C columns


def sums_at(criterion: Criterion, frozen: Prepared, x: Tensor, y: Tensor) -> Sums:
    """Return what a criterion counts at x [B, ...]; those that are not finite are wrong, or in no error."""
    if type(criterion).figures is Criterion.figures:
        return {}
    logits = frozen.verdict(x)
    finite = logits.isfinite().all(1)[:, None]
    sums = {}
    for name, (first, second) in criterion.figures(logits, y).items():
        pair = first.where(finite, 0), second * (finite | (name not in ERRORS))
        sums[name] = torch.stack(pair, 1).to("cpu").double()
    return sums


def ratio(sums: Tensor) -> float:
    """Return the mean, over columns whose second sum is not 0, of the ratio of both sums over all samples."""
    first, second = sums.sum(0)
    counts = second > 0
    return float((first[counts] / second[counts]).mean())


def figure(name: str, sums: Tensor) -> float:
    """Return the figure of that name."""
    return float(ratio(sums) ** ERRORS.get(name, 1.0))


def figure_text(name: str, value: float) -> str:
    """Write the figure of that name."""
    return number(value) if name in ERRORS else percent(value)


def worst(attacks: Sequence[Tensor], name: str = "") -> float:
    """Return the worst figure where each sample may have been attacked by any of several attacks."""
    if name in ERRORS:  # of one column, where it is the worst of each sample
        sums = torch.stack(list(attacks))
        return figure(name, sums.gather(0, sums[:, :, :1].argmax(0)[None].expand(1, -1, 2, -1))[0])
    # One sample after the other takes the attack that lowers the ratio most; so do Croce et al. 2024 (arXiv
    # 2306.12941) for a mean IoU.
    sums = torch.stack(list(attacks), 1)  # [n, attacks, 2, C]
    total = sums[:, 0].sum(0)
    for sample in sums:
        tried = total - sample[0] + sample  # [attacks, 2, C]
        counts = tried[:, 1] > 0
        ratios = torch.where(counts, tried[:, 0] / tried[:, 1], 0.0).sum(1) / counts.sum(1)
        total = tried[int(ratios.argmin())]
    return ratio(total[None])
