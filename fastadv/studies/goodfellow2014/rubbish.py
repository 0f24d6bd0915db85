"""Rubbish: noise of no class, how many models call it one with confidence, and how easily they are led to.

Appendix A of the paper. Images are N(0, 1) in every pixel and leave the box of real images on purpose.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine.copying.twin import device_of
from fastadv.ops._rows import NO_BOX
from fastadv.studies.goodfellow2014.measure import Bench, Line, Paper

FOOLED = 1000  # images of noise that are led to each class
STEP = 0.25  # of each of their pixels; the paper names none
SURE = 0.5  # a model that is surer than this of a class is wrong
BATCH = 1000
SHOWN = 10  # images of each class in the picture
REACH = 3.0  # standard deviations that a picture shows


def noises(bench: Bench) -> Iterator[Line]:
    """Gaussian noise: how often it is taken for a class, and led to one."""
    paper: dict[str, Paper] = {
        "maxout": (0.9835, 0.928), "sigmoids": (0.68, 0.879), "softmax": (0.598, 0.708), "rbf": (0.0, None),
        "rubbish": (0.0, None),
    }  # fmt: skip
    settings, shape, names = bench.settings, bench.test_set.shape, bench.test_set.classes
    details = bench.details["rubbish"] = {}
    for name, printed in paper.items():
        found = rubbish(bench.nets[name], shape, samples=settings.rubbish, seed=settings.seed)
        details[name] = found
        yield Line(name, found["error"], found["confidence"], printed)
    threat, samples = fa.Linf(STEP, box=NO_BOX), min(FOOLED, settings.rubbish)
    for name in ("maxout", "softmax"):
        led = fooling(
            bench.nets[name], shape, threat, classes=len(names), samples=samples, seed=settings.seed
        )
        details[f"{name}, led"] = led
        yield Line(f"{name}, led to a class by a step of {STEP:g}", led["mean"])
    fa.figures.strips(
        rows(bench.nets["maxout"], shape, threat, names, settings.seed),
        bench.figure("rubbish", "noise led to each class"), title="Noise, one step towards each class",
        subtitle=f"below each image the probability of the class at the left; orange: {SURE:.0%} or more",
    )  # fmt: skip


def noise(shape: Sequence[int], ids: Tensor, seed: int = 0) -> Tensor:
    """Return x [B, *shape] from N(0, I), by seed and the numbers `ids` int64 [B]."""
    return fa.rng.normal(math.prod(shape), fa.rng.derive(seed, "rubbish images"), ids).view(-1, *shape)


def rubbish(model: nn.Module, shape: Sequence[int], *, samples: int, seed: int = 0) -> dict[str, Any]:
    """Return how often `model` is more than half sure of some class of noise, which has none.

    error       the share of images for which it is
    confidence  the mean of the largest probability over these images; None without any
    classes     the share of each class among them
    """
    frozen, parts = fa.freeze(model), torch.split(_ids(model, samples), BATCH)
    chances = torch.cat([frozen.confidence(noise(shape, ids, seed)) for ids in parts])
    surest, chosen = chances.max(1)
    wrong = surest > SURE
    number = int(wrong.sum())
    counts = chosen[wrong].bincount(minlength=chances.shape[1]).tolist()
    return {
        "samples": samples,
        "error": number / samples,
        "confidence": float(surest[wrong].double().mean()) if number else None,
        "classes": [count / max(number, 1) for count in counts],
    }


def fooling(
    model: nn.Module, shape: Sequence[int], threat: fa.Threat, *, classes: int, samples: int, seed: int = 0
) -> dict[str, Any]:
    """Return how often one step in `threat` from noise makes `model` call it class i with probability 1/2.

    The step raises log p(i): `fa.Linf` goes along the sign of its gradient, `fa.L2` along the gradient, both
    as far as the radius. The box must hold the noise: (-inf, inf).

    success  the share for each class, [K]; `mean` over them
    at_once  the share of the noise itself that the model calls that class, for each class
    """
    ids = _ids(model, samples)
    x = noise(shape, ids, seed)
    shares, at_once = [], []
    for target in range(classes):
        out = _fooled(model, x, target, threat, ids)
        shares.append(float(out.success.double().mean()))
        at_once.append(float((out.status == fa.attacks.Status.ALREADY_WRONG).double().mean()))
    return {
        "norm": threat.norm,
        "radius": threat.radius,
        "samples": samples,
        "success": shares,
        "mean": sum(shares) / classes,
        "at_once": at_once,
    }


def _ids(model: nn.Module, samples: int) -> Tensor:
    return torch.arange(samples, device=device_of(model))


def _fooled(
    model: nn.Module, x: Tensor, target: int, threat: fa.Threat, ids: Tensor
) -> fa.attacks.AttackResult:
    frozen = fa.freeze(model)
    targets = torch.full_like(ids, target)

    def likelier(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        assert targets is not None
        return fa.engine.log_confidence(frozen.model, logits).gather(1, targets[:, None]).squeeze(1)

    # noise has no label, and an attack asks for one that is not the target
    attack = partial(fa.attacks.fgsm, threat=threat, loss=likelier, ids=ids)
    return attack(
        frozen, x, (targets == 0).long(), targets=targets, criterion=fa.attacks.ConfidentlyWrong(SURE)
    )


def rows(
    model: nn.Module, shape: Sequence[int], threat: fa.Threat, classes: Sequence[str], seed: int = 0
) -> list[fa.figures.Strip]:
    """Fooling images: a row for each of `classes`, with the probability of that class after the step.

    Pixels from -3 to 3 are shown as black to white.
    """
    ids = _ids(model, SHOWN)
    x = noise(shape, ids, seed)
    made = []
    for target, name in enumerate(classes):
        out = _fooled(model, x, target, threat, ids)
        chances = fa.freeze(model).confidence(out.x_adv)[:, target].tolist()
        images = (out.x_adv / (2 * REACH) + 0.5).clamp(0, 1)
        made.append(fa.figures.Strip(name, images, [f"{p:.0%}" for p in chances], out.success))
    return made
