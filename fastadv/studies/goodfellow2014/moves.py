"""Where the gradient leads: far along it, by that of another image, and by a rotation towards it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.errors import InputError
from fastadv.studies.goodfellow2014 import trace
from fastadv.studies.goodfellow2014.measure import Bench, Line

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
    traced, shown = trace.trace(model, bench.x[int(places[0])], TRACED)
    trace.draw(traced, shown, bench.figure("trace", "logits along the direction of FGSM"))
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
    """Return the share of errors when each image takes the FGSM step of another one, drawn at random.

    Each image x [N, ...] gets the steps of OTHERS, drawn by seed and its place. The step of one image ascends
    the loss of that image's own label. 46.2% in a line that the paper's source leaves out.

    error       the mean over all pairs of image and direction
    draws       the error of each of the draws
    same, other   over the pairs whose labels are equal, and over the others; None without any
    own, clean  with the image's own direction, and without any
    pairs       how many there are

    InputError for fewer than two images.
    """
    if len(x) < 2:
        raise InputError(f"x: expected two images or more, whose directions can be exchanged, got {len(x)}")
    frozen, size = fa.freeze(model), threat.default_step_size(1)
    gradient = frozen.input_gradient(x, y, direction=True)[2]

    def wrong(of: Tensor) -> Tensor:
        return frozen.verdict(threat.step(x, gradient[of], x, size)).argmax(1) != y

    places = torch.arange(len(x), device=x.device)
    drawn, alike = [], []
    for draw in range(OTHERS):
        away = fa.rng.integers(len(x) - 1, fa.rng.derive(seed, "reuse"), places, draw) + 1
        of = (places + away) % len(x)
        drawn.append(wrong(of))
        alike.append(y[of] == y)
    broken, same = torch.stack(drawn), torch.stack(alike)
    return {
        "norm": threat.norm,
        "radius": threat.radius,
        "pairs": broken.numel(),
        "error": _share(broken),
        "draws": [_share(each) for each in broken],
        "same": _share(broken[same]),
        "other": _share(broken[~same]),
        "own": _share(wrong(places)),
        "clean": _share(frozen.verdict(x).argmax(1) != y),
    }


def _share(wrong: Tensor) -> float | None:
    return float(wrong.double().mean()) if wrong.numel() else None


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
    """Return the errors of `model` on x [N, ...] rotated by each angle towards the gradient of the loss.

    The results leave the box of the images. `linf` is the mean over the images of the largest change of a
    pixel, for comparison with the radius of FGSM.
    """
    frozen = fa.freeze(model)
    gradient = frozen.input_gradient(x, y, direction=True)[2]
    errors, reach = [], []
    for angle in degrees:
        moved = rotated(x, gradient, math.radians(angle))
        errors.append(_share(frozen.verdict(moved).argmax(1) != y))
        reach.append(float((moved - x).abs().flatten(1).amax(1).double().mean()))
    return {"degrees": list(degrees), "error": errors, "linf": reach}
