"""Many decisions at once: the margin of as many as are asked for, and outputs that one function squashed."""

import torch
from torch import Tensor

from fastadv._waiting import waits

SOFT = 0.3  # how far from its boundary a decision still counts, over the mean distance of those needed


def lead(margins: Tensor, counts: Tensor, needed: Tensor) -> Tensor:
    """Return [B], positive where at least `needed` int64 [B] of the margins [B, P] that count are."""
    # elsewhere the mean of what they lack. The gradient is that of all of them, less of those that are wrong
    # by much: without these they would turn back as the others turn
    order = margins.where(counts, -torch.inf).sort(1, descending=True).values
    last = order.gather(1, needed[:, None] - 1).squeeze(1)
    among = torch.arange(order.shape[1], device=order.device) < needed[:, None]
    order = order.where(among, 0.0)
    value = torch.where(last > 0, last, order.clamp_max(0).sum(1) / needed)
    if not margins.requires_grad:
        return value
    at = order.detach()
    width = SOFT * at.abs().sum(1, keepdim=True) / needed[:, None]
    weight = torch.sigmoid(-at / width.clamp_min(torch.finfo(at.dtype).tiny)).where(among, 0.0)
    weight = weight / weight.amax(1, keepdim=True) / torch.where(last > 0, 1, needed)[:, None]
    soft = (weight * order).sum(1)
    return value.detach() + (soft - soft.detach())


END, CROWD = 0.05, 0.1  # of the range: what is near an end; and the share of outputs that must be
# logits have up to 0.07 there, and 0.12 to 0.95 behind a sigmoid, tanh, arctangent, softsign, softplus, clamp
FEWEST, MOST = 64, 4096  # values of an image by which it is told
PIECES = 32  # of the curve from ranks to places
ROUNDED = 1e-3  # how far a sum of probabilities may be from 1
FLAT = 1e-7  # of the range: the least distance between two knots of the curve
LEAST = 1e-30


def straightened(z: Tensor) -> Tensor:
    """Return [B, K, P] in the same order, whose images do not crowd at the ends of their range."""
    # A sigmoid or tanh of each output leaves all decisions as they were, but bends every loss of their
    # differences: where it saturates, a position falls out of the gradient. Probabilities that add up to 1
    # become their logarithms; in [0, 1] and [-1, 1] outputs become those before a sigmoid or tanh; others
    # take the places of as many values of a normal distribution, which no function that rises changes.
    # of two classes the second one tells: the first may be the 0 of one channel
    wide = z.detach()[:, 1:] if z.shape[1] == 2 else z.detach()
    values = wide.flatten(1)
    if values.shape[1] < FEWEST:
        return z
    values = values[:, :: -(-values.shape[1] // MOST)].sort(1).values
    low, high = values[:, :1], values[:, -1:]
    near = END * (high - low)
    crowd = ((values <= low + near) | (values >= high - near)).float().mean(1) >= CROWD
    known = ((z.detach().exp().sum(1) - 1).abs() <= ROUNDED).all(1)  # log probabilities are logits
    crowd = crowd & (high > low)[:, 0] & ~known
    if not waits(z.device) and not bool(crowd.any()):
        return z
    least, most = z.detach().amin((1, 2), keepdim=True), z.detach().amax((1, 2), keepdim=True)
    unit, symmetric = (least >= 0) & (most <= 1), (least >= -1) & (most <= 1)
    shares = unit & ((z.detach().sum(1, keepdim=True) - 1).abs() <= ROUNDED).all(2, keepdim=True)
    inside = torch.where(unit, z, (z + 1) / 2).clamp(LEAST, 1 - torch.finfo(z.dtype).eps / 2)
    logits = inside.log() - torch.where(shares, torch.zeros_like(z), (-inside).log1p())
    return torch.where(crowd[:, None, None], torch.where(symmetric, logits, _placed(z, values)), z)


def _placed(z: Tensor, values: Tensor) -> Tensor:
    """Return z in the places that a normal distribution gives the ranks among sorted values [B, n]."""
    spots = torch.linspace(0, values.shape[1] - 1, PIECES + 1, device=z.device).round().long()
    rank = torch.linspace(0, 1, PIECES + 1, dtype=z.dtype, device=z.device)
    places = torch.special.ndtri(rank.clamp(0.5 / PIECES, 1 - 0.5 / PIECES))
    knots = values[:, spots]
    flat = (FLAT * (knots[:, -1:] - knots[:, :1])).clamp_min(LEAST)
    slopes = places.diff() / knots.diff(dim=1).maximum(flat)
    rows = z.flatten(1)
    piece = torch.searchsorted(knots, rows.detach(), right=True).sub(1).clamp(0, PIECES - 1)
    image: Tensor = places[piece] + (rows - knots.gather(1, piece)) * slopes.gather(1, piece)
    return image.view_as(z)
