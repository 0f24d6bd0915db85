"""Where the gradient leads: far along it, by that of another image, and by a rotation towards it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.errors import InputError
from fastadv.studies.goodfellow2014 import figures
from fastadv.studies.goodfellow2014.bench import Bench, Line
from fastadv.studies.goodfellow2014.figures import POINTS, RADIUS, shown

TRACED = 4  # the class of the image in the paper's figure 4
DEGREES = (5.0, 10.0, 15.0, 20.0)
OTHERS = 10  # whose steps each image gets
ROUNDING = 1e-6  # what is left of a gradient along x, beside it


def directions(bench: Bench) -> Iterator[Line]:
    """Yield the FGSM direction far out, on other images, and as a rotation; all of the maxout network."""
    model, settings = bench.nets["maxout"], bench.settings
    places = (bench.y == TRACED).nonzero()
    if not len(places):
        raise InputError(f"tested: expected a test image of class {TRACED}, got none; take more images")
    traced, images = trace(model, bench.x[int(places[0])], TRACED)
    figures.trace(traced, images, bench.figure("trace", "logits along the direction of FGSM"))
    exchanged = reuse(model, bench.x, bench.y, settings.threat, seed=settings.seed)
    yield Line("the step of another image", exchanged["error"], None, (0.462, None))
    turned = rotation(model, bench.x, bench.y, DEGREES)
    for angle, error in zip(DEGREES, turned["error"], strict=True):
        yield Line(f"turned by {angle:g} degrees towards the gradient", error)
    bench.details["directions"] = {
        "trace": {name: traced[name] for name in ("label", "right", "straight")},  # the figure has the curve
        "reuse": exchanged,
        "rotation": turned,
    }


def reuse(model: nn.Module, x: Tensor, y: Tensor, threat: fa.Threat, *, seed: int = 0) -> dict[str, Any]:
    """Return the share of errors when each image takes the FGSM steps of OTHERS others, drawn by its place.

    The step of one image ascends the loss of that image's own label. 46.2% in a line that the paper's source
    leaves out. `own` and `clean` are the errors with the image's own step, and without any.
    """
    frozen, size = fa.freeze(model), threat.default_step_size(1)
    gradient = frozen.input_gradient(x, y, direction=True)[2]

    def wrong(of: Tensor) -> Tensor:
        return frozen.verdict(threat.step(x, gradient[of], x, size)).argmax(1) != y

    places = torch.arange(len(x), device=x.device)
    draws = []
    for draw in range(OTHERS):
        away = fa.rng.integers(len(x) - 1, fa.rng.derive(seed, "reuse"), places, draw) + 1
        draws.append(_share(wrong((places + away) % len(x))))
    return {
        "norm": threat.norm,
        "radius": threat.radius,
        "error": sum(draws) / OTHERS,
        "draws": draws,
        "own": _share(wrong(places)),
        "clean": _share(frozen.verdict(x).argmax(1) != y),
    }


def _share(wrong: Tensor) -> float:
    return float(wrong.double().mean())


def rotated(x: Tensor, gradient: Tensor, angle: float) -> Tensor:
    """Return x [B, ...] turned by `angle`, in radians, in the plane of x and its gradient, towards that.

    Each sample keeps its L2 norm. One whose gradient is zero, or along x, stays.
    """
    flat, way = x.flatten(1), gradient.flatten(1)
    length = flat.norm(dim=1, keepdim=True)
    # scaled first, since a gradient may be too small to be squared
    way = way / way.abs().amax(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    along = flat / length.clamp(min=torch.finfo(x.dtype).tiny)
    across = way - (way * along).sum(1, keepdim=True) * along
    size = across.norm(dim=1, keepdim=True)
    turned = math.cos(angle) * flat + math.sin(angle) * length * across / size
    return torch.where(size > ROUNDING * way.norm(dim=1, keepdim=True), turned, flat).view_as(x)


def rotation(model: nn.Module, x: Tensor, y: Tensor, degrees: Sequence[float]) -> dict[str, Any]:
    """Return the errors of `model` on x [N, ...] rotated by each angle towards the gradient of the loss."""
    frozen = fa.freeze(model)
    gradient = frozen.input_gradient(x, y, direction=True)[2]
    errors, changes = [], []
    for angle in degrees:
        moved = rotated(x, gradient, math.radians(angle))
        errors.append(_share(frozen.verdict(moved).argmax(1) != y))
        changes.append(float((moved - x).abs().flatten(1).amax(1).double().mean()))
    return {"degrees": list(degrees), "error": errors, "linf": changes}


def trace(model: nn.Module, x: Tensor, y: int) -> tuple[dict[str, Any], Tensor]:
    """Return how the logits of `model` change as x [C, H, W] moves along its FGSM direction, in no box.

    These numbers, and the images [N, C, H, W] that the figure shows.

    label     y, whose loss the direction ascends
    radii     where: 0, and POINTS on each side of it
    logits    [2 · POINTS + 1][K]
    right     the radii around 0 between which the model stays with the label y; None where it is wrong at 0
    straight  the share of the logits' variance that two straight lines explain, one for each side of 0:
              1 for a linear model, 15/16 for a parabola
    """
    frozen, label = fa.freeze(model), torch.full((1,), y, device=x.device)
    sign = frozen.input_gradient(x[None], label, direction=True)[2].sign()
    radii = RADIUS * torch.arange(-POINTS, POINTS + 1, dtype=torch.float64) / POINTS
    images = x + radii.to(x).view(-1, 1, 1, 1) * sign
    logits = frozen.verdict(images).cpu().double()
    found = {
        "label": y,
        "radii": radii.tolist(),
        "logits": logits.tolist(),
        "right": _right(radii, logits.argmax(1) == y),
        "straight": straight(radii, logits),
    }
    return found, images[shown(radii)]


def straight(radii: Tensor, logits: Tensor) -> float:
    """Return the share of the variance of logits [N, K] that a line for each side of 0 explains."""
    left = 0.0
    for side in (radii <= 0, radii >= 0):
        across = torch.stack([torch.ones_like(radii[side]), radii[side]], 1)
        line = torch.linalg.lstsq(across, logits[side]).solution
        left += float((logits[side] - across @ line).square().sum())
    all_ = float((logits - logits.mean(0)).square().sum())
    return 1 - left / all_ if all_ > 0 else 1.0


def _right(radii: Tensor, right: Tensor) -> list[float] | None:
    """Return the ends of the stretch around 0 in which the decision is right."""
    start = len(radii) // 2
    if not right[start]:
        return None
    wrong = (~right).nonzero()[:, 0]
    low = int(wrong[wrong < start].max()) + 1 if bool((wrong < start).any()) else 0
    high = int(wrong[wrong > start].min()) - 1 if bool((wrong > start).any()) else len(radii) - 1
    return [float(radii[low]), float(radii[high])]
