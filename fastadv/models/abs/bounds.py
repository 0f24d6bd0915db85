"""Radii within which ABS provably keeps its decision (Schott et al. 2018, section 4 and appendix).

L2. In the code's scaling (2 sigma^2 = 1) and in units of squared distance, a perturbation of L2 norm e raises
the loss L_y of the true class to at most (r + e)^2 + KL, because the latent z* of the clean image may be
kept: r = ||G_y(z*) - x|| and KL = beta/2 ||z*||^2, so that L_y = r^2 + KL. It lowers the loss of another
class to at least (d_c - e)^2, where d_c = min_z ||G_c(z) - x||. The two meet at

    e = (d_c^2 - L_y) / (2 (d_c + r)).

The paper drops the prior's cost of the other class. With it ("tight"), d_c^2 becomes
L_c = min_z ||G_c(z) - x||^2 + KL(z): however L_c is split into misfit and prior, at least (sqrt(L_c) - e)^2
of it remains. L_c >= d_c^2, so the tight bound is the larger one.

L-infinity. The worst case adds e to every pixel of |G_y(z*) - x| and subtracts e, down to zero, from every
pixel of |G_c(z) - x|. The losses, with the prior's cost on both sides, are compared by bisection on e.

Binary ABS sees only on which side of the threshold each pixel lies. A crossing changes the squared misfit of
any reconstruction by at most 1, so n of them cannot change the decision while
gamma_y (L_y + n) < gamma_c (d_c^2 - n). The cheapest n crossings are those of the n pixels nearest to the
threshold. In L0 any n - 1 pixels may take any value.

All bounds hold if the minima over the other classes' latents are global. They are searched from the
best prior sample of each of several parts of the prior. Inference runs in single precision or wider, whatever
the model's own.
"""

import dataclasses

import torch
from torch import Tensor

from fastadv._checks import check_count
from fastadv.errors import InputError
from fastadv.models.abs import inference
from fastadv.models.abs.decoder import Decoders
from fastadv.models.abs.inference import LatentSearch, adam_step, check_labels, squared_misfit
from fastadv.models.wrappers import THRESHOLD

BISECTIONS = 30
# Descents on the clipped misfit, each at the radius that the latents so far allow.
ROUNDS = 3
# Single precision makes losses uncertain by about this share, which must not save Binary ABS a whole
# crossing.
ROUNDING = 1e-5


def lower_bound(search: LatentSearch, x: Tensor, y: Tensor, norm: str, starts: int, tight: bool) -> Tensor:
    norms = ("l2", "linf", "l0") if search.options.binary else ("l2", "linf")
    if norm not in norms:
        known = "l2, linf or, for Binary ABS, l0"
        raise InputError(f"norm: expected {known}, got {norm!r}")
    samples = len(search.prior.latents)
    if check_count("starts", starts, 1) > samples:
        raise InputError(f"starts: expected at most {samples}, the number of prior samples, got {starts}")
    x = x.detach()
    search.observed(x)  # reports a wrong x before a y that does not fit it
    check_labels(y, x, search.decoders.classes)
    with torch.no_grad():
        parts = zip(torch.split(x, inference.CHUNK), torch.split(y, inference.CHUNK), strict=True)
        return torch.cat([_bound(search, *part, norm, starts, tight) for part in parts])


def _bound(search: LatentSearch, x: Tensor, y: Tensor, norm: str, starts: int, tight: bool) -> Tensor:
    exact = dataclasses.replace(
        search, options=dataclasses.replace(search.options, precision="fp32", prune=False)
    )
    seen = exact.observed(x)
    values = seen.shape[1:].numel()
    loss, latents = exact.every_class(seen)
    right = _decided(exact.weighed(loss), y)
    if exact.options != search.options:  # the decision to keep is the model's own
        right &= _decided(search.weighed(search.best(seen)[0]), y)
    at_y = torch.arange(len(y), device=y.device), y
    mine = loss[at_y] * values
    rivals, ends = least_losses(exact, seen, latents, starts, exact.options.beta if tight else 0.0)
    rivals[at_y] = torch.inf
    if exact.options.binary:
        radius = _cheapest(x, _crossings(exact.factors, mine, rivals, y, values), norm)
    elif norm == "l2":
        misfit = squared_misfit(seen, exact.decoders(latents))[at_y].sqrt()
        # the least e over the other classes, from d_c^2 [B, K], L_y [B] and r [B]
        radius = (rivals - mine[:, None]) / (2 * (rivals.sqrt() + misfit[:, None]))
        radius = radius.scatter(1, y[:, None], torch.inf).amin(1)
    else:
        radius = _linf(exact, seen, y, latents, ends)
    return torch.where(right, radius.clamp_min(0.0), 0.0).float()


def _decided(losses: Tensor, y: Tensor) -> Tensor:
    """Return bool [B]: whether the losses [B, K] are finite and lowest for y."""
    return (losses.argmin(1) == y) & losses.isfinite().all(1)


def least_losses(
    search: LatentSearch, seen: Tensor, latents: Tensor, starts: int, beta: float
) -> tuple[Tensor, list[Tensor]]:
    """Search min_z ||G_c(z) - x||^2 + beta/2 ||z||^2: minima [B, K], latents [B, K, L]."""
    values = seen.shape[1:].numel()
    best = squared_misfit(seen, search.decoders(latents)) + beta / 2 * latents.square().sum(2)
    ends = [latents]
    for part in torch.arange(len(search.prior.latents), device="cpu").tensor_split(starts):
        _, start = search.prior.nearest(seen, search.decoders, beta, slice(int(part[0]), int(part[-1]) + 1))
        loss, end = search.descend(seen, start, beta=beta)
        best = torch.minimum(best, loss * values)
        ends.append(end)
    return best, ends


def _crossings(factors: Tensor, mine: Tensor, rivals: Tensor, y: Tensor, values: int) -> Tensor:
    """Return the least n [B] at which n crossings can change the decision: see the head of this file."""
    factors, mine, rivals = factors.double(), mine.double() * (1 + ROUNDING), rivals.double() * (1 - ROUNDING)
    factor = factors[y][:, None]
    needed = (factors * rivals - factor * mine[:, None]) / (factors + factor)
    return needed.amin(1).nan_to_num(0.0).clamp(0, values).ceil().long()


def _cheapest(x: Tensor, crossings: Tensor, norm: str) -> Tensor:
    """Return the norm [B] of the smallest perturbation that takes so many pixels to the threshold."""
    if norm == "l0":  # whole pixels: the largest number that does not
        return (crossings - 1).clamp_min(0).double()
    gaps = (x.flatten(1).double() - THRESHOLD).abs().sort(1).values
    cost = gaps.square().cumsum(1).sqrt() if norm == "l2" else gaps
    cost = torch.cat([cost.new_zeros(len(x), 1), cost], dim=1)
    return cost.gather(1, crossings[:, None]).squeeze(1)


def _linf(search: LatentSearch, seen: Tensor, y: Tensor, latents: Tensor, ends: list[Tensor]) -> Tensor:
    """Return the radius [B] at which the worst losses meet: descents and bisections take turns."""
    at_y = torch.arange(len(y), device=y.device), y
    decoders, beta = search.decoders, search.options.beta
    divergence = beta / 2 * latents[at_y].square().sum(1)
    misfit = (decoders(latents)[at_y] - seen).abs().flatten(1)
    rivals = [_gaps(decoders, beta, seen, end) for end in ends]
    radius = _largest_radius(misfit, divergence, rivals, y)
    end = latents
    for _ in range(ROUNDS):
        end = _clipped_descent(search, seen, end, radius)
        rivals.append(_gaps(decoders, beta, seen, end))
        radius = _largest_radius(misfit, divergence, rivals, y)
    return radius


def _gaps(decoders: Decoders, beta: float, seen: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return (|G_c(z) - x| [B, K, D], KL [B, K])."""
    return (decoders(latents) - seen[:, None]).abs().flatten(2), beta / 2 * latents.square().sum(2)


def _largest_radius(
    misfit: Tensor, divergence: Tensor, rivals: list[tuple[Tensor, Tensor]], y: Tensor
) -> Tensor:
    """Return the largest radius [B] up to 1 at which no rival gets below the true class, by bisection."""

    def holds(radius: Tensor) -> Tensor:
        mine = (misfit + radius[:, None]).square().sum(1) + divergence
        least = torch.full_like(mine, torch.inf)
        for gap, cost in rivals:
            theirs = (gap - radius[:, None, None]).clamp_min(0.0).square().sum(2) + cost
            least = torch.minimum(least, theirs.scatter(1, y[:, None], torch.inf).amin(1))
        return mine < least

    below, above = torch.zeros_like(divergence), torch.ones_like(divergence)
    for _ in range(BISECTIONS):
        middle = (below + above) / 2
        fits = holds(middle)
        below, above = torch.where(fits, middle, below), torch.where(fits, above, middle)
    return below


def _clipped_descent(search: LatentSearch, seen: Tensor, start: Tensor, radius: Tensor) -> Tensor:
    """Latents [B, K, L] that lower sum max(0, |G(z) - x| - e)^2 + KL, by the update rule of inference."""
    options, values = search.options, seen.shape[1:].numel()
    latents, moments = start, (torch.zeros_like(start), torch.zeros_like(start))
    for step in range(1, options.steps + 1):
        with torch.enable_grad():
            leaf = latents.detach().requires_grad_()
            gap, cost = _gaps(search.decoders, options.beta, seen, leaf)
            loss = ((gap - radius[:, None, None]).clamp_min(0.0).square().sum(2) + cost).sum() / values
            (gradient,) = torch.autograd.grad(loss, leaf)
        latents, moments = adam_step(latents, gradient, moments, step, options.step_size, options.max_norm)
    return latents
