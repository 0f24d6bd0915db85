"""The L2 bound of Analysis by Synthesis in several forms, on the authors' weights and MNIST test images.

    python bench/abs_bounds.py --official DIR --data-dir DIR [--samples 1000] [--seed 0]

The bound is (d_c^2 - L_y) / (2 (d_c + r)), the least over the classes c (Schott et al. 2018, section 4). It
holds where d_c is the least distance between the image and class c's images. The forms differ in where d_c
comes from, in whether L_y holds the prior's cost, and in how the norm of latents is clipped: the authors'
code loses the signs of clipped latents.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

import fastadv as fa
from bench import records
from fastadv import rng
from fastadv.models.abs.bounds import least_losses, meeting_radius
from fastadv.models.abs.inference import LatentSearch, adam_step, class_losses, squared_misfit
from fastadv.ops.latent_fit import _evaluate


def signless(search: LatentSearch, x: Tensor) -> tuple[Tensor, Tensor]:
    """(loss [B, K], latents) by a descent whose clip loses the signs of latents, as the authors' does."""
    decoders, options = search.decoders, search.options
    z = search.start(x)[1]
    moments = torch.zeros_like(z), torch.zeros_like(z)
    for step in range(1, options.steps):
        gradient = _evaluate(z, x, decoders.weights, decoders.biases, decoders.shape.strides, options.beta)[1]
        free, moments = adam_step(z, gradient, moments, step, options.step_size, float("inf"))
        norm = free.norm(dim=2, keepdim=True)
        z = torch.where(norm > options.max_norm, (free * (options.max_norm / norm)).abs(), free)
    return class_losses(x, decoders(z), z, options.beta), z


def bound(squares: Tensor, own_loss: Tensor, own_misfit: Tensor, y: Tensor, right: Tensor) -> Tensor:
    """The radius [B] from d_c^2 [B, K], L_y and r [B]."""
    return torch.where(right, meeting_radius(squares, own_loss, own_misfit, y).clamp_min(0.0), 0.0)


def forms(search: LatentSearch, x: Tensor, y: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(what, radius [B])."""
    own, values, beta = (torch.arange(len(y)), y), x[0].numel(), search.options.beta
    for clip, (loss, latents) in {
        "": search.every_class(x),
        ", the authors' clip": signless(search, x),
    }.items():
        whole, right = loss[own] * values, loss.argmin(1) == y
        misfit = squared_misfit(x, search.decoders(latents))
        r = misfit[own].sqrt()
        yield f"d_c at the latents of inference{clip}", bound(misfit, whole, r, y, right)
        if clip:
            continue
        for starts in (1, 4):
            least = least_losses(search, x, latents, starts, 0.0)[0]
            yield (
                f"d_c the least distance known, {starts} starts (lower_bound)",
                bound(least, whole, r, y, right),
            )
        yield "the same, without the prior's cost in L_y", bound(least, r.square(), r, y, right)
        tight = least_losses(search, x, latents, 4, beta)[0]
        yield "the prior's cost kept on both sides (tight=True)", bound(tight, whole, r, y, right)


def main() -> None:
    parser = records.parser(__doc__)
    parser.add_argument(
        "--official", type=Path, required=True, help="folder of the authors' ABS_0.net to ABS_9.net"
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with MNIST/raw")
    parser.add_argument("--samples", type=int, default=1000, help="random test images")
    parser.add_argument("--seed", type=int, default=0, help="chooses the images and the prior samples")
    options = parser.parse_args()
    model = fa.models.ABS.from_official(options.official, seed=options.seed)
    test = fa.data.load("mnist", split="test", data_dir=options.data_dir)
    chosen = test.subset(rng.permutation(len(test), options.seed)[: options.samples])
    search = LatentSearch(model.decoders, model.prior, model.options, model.factors)
    radii: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for x, y, _ in fa.data.batches(chosen, 50):
            for name, radius in forms(search, x, y):
                radii.setdefault(name, []).append(radius)
    for name, parts in radii.items():
        radius = torch.cat(parts)
        print(
            f"{name:<60} mean {radius.mean():.3f} +- {radius.std() / len(radius) ** 0.5:.3f}  "
            f"median {radius.median():.3f}"
        )


if __name__ == "__main__":
    main()
