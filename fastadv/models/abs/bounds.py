"""Radii within which ABS provably keeps its decision, one a sample (Schott et al. 2018, section 4 and appendix).

With the code's scaling (2 sigma^2 = 1) and in units of squared distance: a perturbation of L2 norm e raises the true class's loss L_y to at most
(r + e)^2 + KL, if the clean image's latent z* is kept: r = ||G_y(z*) - x||, KL = beta/2 ||z*||^2, L_y = r^2 + KL. It lowers another class's to at
least (d_c - e)^2, d_c = min_z ||G_c(z) - x||. They meet at

    e = (d_c^2 - L_y) / (2 (d_c + r)).

The paper drops the other class's prior cost. With it kept, d_c^2 becomes L_c = min_z ||G_c(z) - x||^2 + KL(z), because for any share of L_c that is
misfit, (sqrt(L_c) - e)^2 is the least that remains; L_c >= d_c^2, so that this bound ("tight") is the larger one. Both hold as far as the minima
found are global: they are searched from the best prior sample of each of several parts of the prior.

Binary ABS sees only which pixels cross the threshold. Each crossing changes any reconstruction's squared misfit by at most 1, so n of them cannot
change the decision while gamma_y (L_y + n) < gamma_c (d_c^2 - n), and the cheapest way to have n is to take the n pixels nearest to the threshold.
"""

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.models.abs import inference
from fastadv.models.abs.generators import Generators
from fastadv.models.abs.gradient import adam_step, squared_misfit

BISECTIONS = 30
# descents on the clipped misfit, each at the radius that the last one's latents allow
ROUNDS = 3


def lower_bound(model: Generators, x: Tensor, y: Tensor, norm: str, starts: int, tight: bool) -> Tensor:
    """The radius [B]; see ABS.lower_bound."""
    if norm not in ("l2", "linf"):
        raise InputError(f"norm: expected l2 or linf, got {norm!r}")
    if not 1 <= starts <= len(model.prior_latents):
        raise InputError(f"starts: expected 1 to {len(model.prior_latents)}, the prior samples, got {starts}")
    if (
        y.shape != (len(x),)
        or y.dtype != torch.int64
        or (len(y) and not (int(y.min()) >= 0 and int(y.max()) < model.classes))
    ):
        raise InputError(
            f"y: expected int64 classes 0 to {model.classes - 1}, one for each of {len(x)} images, got {y.dtype} {tuple(y.shape)}"
        )
    with torch.no_grad():
        count = inference.CHUNK
        parts = zip(
            torch.split(x, count), torch.split(model.observed(x), count), torch.split(y, count), strict=True
        )
        return torch.cat([_bound(model, *part, norm, starts, tight) for part in parts])


def _bound(
    model: Generators, x: Tensor, seen: Tensor, y: Tensor, norm: str, starts: int, tight: bool
) -> Tensor:
    pixels = seen.shape[1:].numel()
    loss, latents = inference.infer_all(model, seen, model.steps, model.step_size)
    right = (loss * model.factors if model.binary else loss).argmin(1) == y
    own = torch.arange(len(y), device=y.device), y
    rivals, ends = _least(model, seen, latents, starts, model.beta if tight else 0.0)
    rivals[own] = torch.inf
    mine = loss[own] * pixels
    if model.binary:
        crossings = _crossings(model.factors, mine, rivals, y, pixels)
        radius = _cheapest(x, crossings, norm)
    elif norm == "l2":
        misfit = (mine - model.beta / 2 * latents[own].square().sum(1)).clamp_min(0.0).sqrt()
        radius = meeting_radius(rivals, mine, misfit)
    else:
        radius = _linf(model, seen, y, latents, ends)
    return torch.where(right, radius.clamp_min(0.0), 0.0).float()


def meeting_radius(rivals: Tensor, mine: Tensor, misfit: Tensor) -> Tensor:
    """The least e [B] over the classes from d_c^2 [B, K], infinite for y itself, L_y [B] and r [B], as the module's formula has it."""
    return ((rivals - mine[:, None]) / (2 * (rivals.sqrt() + misfit[:, None]))).nan_to_num(torch.inf).amin(1)


def _least(
    model: Generators, seen: Tensor, latents: Tensor, starts: int, beta: float
) -> tuple[Tensor, list[Tensor]]:
    """(min_z ||G_c(z) - x||^2 + beta/2 ||z||^2 [B, K], the latents [B, K, L] each descent ended at), among them those of inference."""
    pixels = seen.shape[1:].numel()
    best, ends = squared_misfit(seen, model.decode(latents)) + beta / 2 * latents.square().sum(2), [latents]
    for part in torch.arange(len(model.prior_latents)).tensor_split(starts):
        _, start = inference.search_prior(model, seen, beta, slice(int(part[0]), int(part[-1]) + 1))
        loss, end = inference.descend(
            model, seen, start, steps=model.steps, step_size=model.step_size, beta=beta
        )
        best = torch.minimum(best, loss * pixels)
        ends.append(end)
    return best, ends


def _crossings(factors: Tensor, mine: Tensor, rivals: Tensor, y: Tensor, pixels: int) -> Tensor:
    """The least number of pixels [B] that must cross the threshold: gamma_y (mine + n) >= gamma_c (rival - n) for some c."""
    own = factors[y][:, None].double()
    needed = (factors * rivals - own * mine[:, None]) / (factors + own)
    return needed.amin(1).clamp(0, pixels).ceil().long()


def _cheapest(x: Tensor, crossings: Tensor, norm: str) -> Tensor:
    """The norm [B] of the smallest perturbation that takes so many pixels to the threshold."""
    gaps = (x.flatten(1).double() - 0.5).abs().sort(1).values
    cost = gaps.square().cumsum(1).sqrt() if norm == "l2" else gaps
    cost = torch.cat([cost.new_zeros(len(x), 1), cost], dim=1)
    return cost.gather(1, crossings[:, None]).squeeze(1)


def _linf(model: Generators, seen: Tensor, y: Tensor, latents: Tensor, ends: list[Tensor]) -> Tensor:
    """Per pixel the worst case adds e to |G_y - x| and takes e from |G_c - x|; bisection finds the e at which the losses meet.

    What minimises the other classes' clipped misfit depends on e, so descents at the e found and bisections take turns.
    """
    own = torch.arange(len(y), device=y.device), y
    divergence = model.beta / 2 * latents[own].square().sum(1)
    misfit = (model.decode(latents)[own] - seen).abs().flatten(1)
    found = [_gaps(model, seen, end) for end in ends]
    radius = _meet(misfit, divergence, found, y)
    end = latents
    for _ in range(ROUNDS):
        end = _clipped_descent(model, seen, end, radius)
        found.append(_gaps(model, seen, end))
        radius = _meet(misfit, divergence, found, y)
    return radius


def _gaps(model: Generators, seen: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """(|G_c(z) - x| [B, K, D], KL [B, K])."""
    return (model.decode(latents) - seen[:, None]).abs().flatten(2), model.beta / 2 * latents.square().sum(2)


def _meet(misfit: Tensor, divergence: Tensor, found: list[tuple[Tensor, Tensor]], y: Tensor) -> Tensor:
    def holds(radius: Tensor) -> Tensor:
        mine = (misfit + radius[:, None]).square().sum(1) + divergence
        least = torch.full_like(mine, torch.inf)
        for gap, cost in found:
            theirs = (gap - radius[:, None, None]).clamp_min(0.0).square().sum(2) + cost
            least = torch.minimum(least, theirs.scatter(1, y[:, None], torch.inf).amin(1))
        return mine < least

    below, above = torch.zeros_like(divergence), torch.ones_like(divergence)
    for _ in range(BISECTIONS):
        middle = (below + above) / 2
        fits = holds(middle)
        below, above = torch.where(fits, middle, below), torch.where(fits, above, middle)
    return below


def _clipped_descent(model: Generators, seen: Tensor, start: Tensor, radius: Tensor) -> Tensor:
    """Latents [B, K, L] that lower sum max(0, |G(z) - x| - e)^2 + KL, by the descent of inference."""
    latents, moments = start, (torch.zeros_like(start), torch.zeros_like(start))
    for step in range(1, model.steps + 1):
        with torch.enable_grad():
            leaf = latents.detach().requires_grad_()
            gap, cost = _gaps(model, seen, leaf)
            loss = ((gap - radius[:, None, None]).clamp_min(0.0).square().sum(2) + cost).sum() / seen.shape[
                1:
            ].numel()
            (slope,) = torch.autograd.grad(loss, leaf)
        latents, moments = adam_step(latents, slope, moments, step, model.step_size, model.max_norm)
    return latents
