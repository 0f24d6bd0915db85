"""`fastadv abs bound`: certified radii, and the band between them and the nearest adversarial examples."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fastadv.attacks import AttackResult, latent_descent
from fastadv.cli import _options as o
from fastadv.cli._abs_data import Synthesis, batched, print_measured
from fastadv.cli._attacks import AttackOptions, NamedAttack, help_text, parse_attack
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import NOTHING_KEPT, Watched, plain_curves
from fastadv.cli._output import progress, say
from fastadv.cli._shared import Images, make_device
from fastadv.evaluation import Curve, evaluate, figures
from fastadv.intervals import median
from fastadv.models import ABS
from fastadv.runs.card import card
from fastadv.text import percent

# single precision makes radii and distances uncertain by this share
ROUNDING = 1e-5


def bound(
    synthesis: Synthesis,
    images: Images,
    norm: Literal["l2", "linf", "l0"] = o.option("l2", "Norm of the radius; l0 with --binary."),
    tight: bool = o.option(
        False, "Keep the prior's cost of the other classes, which the paper's bound drops.", "--tight"
    ),
    starts: int = o.count(4, "Prior samples from which each class's minimum is searched."),
    attack: list[str] | None = o.option(
        None,
        "Also the nearest adversarial examples that latent descent and this minimum-norm attack "
        f"find: {help_text('ddn:steps=200')} May be repeated.",
        "--attack",
        "-a",
    ),
    radii: str | None = o.option(
        None,
        "Also the accuracy at each of these radii, from the bound and under attack: 0,0.5,1.",
        metavar="NUMBERS",
    ),
    figure: Path | None = o.picture(
        None, "Draw accuracy against radius here, as the band from the bound to the accuracy under attack"
    ),
    batch_size: o.BatchSize = 100,
) -> Iterator[Any]:
    """Bound the radius of every image within which the model keeps its decision: mean, median and quartiles.

    --attack, --radii and --figure also measure the distances at which attacks break the decision. The robust
    accuracy lies between bound and attack.
    """
    place = make_device(synthesis.device)
    named = [_parsed(text, norm) for text in attack or []]
    tried = o.parse_radii(radii)
    with interruptible(NOTHING_KEPT):
        dataset = images.load()
        net = synthesis.load(place)
        found = [
            net.lower_bound(x, y, norm=norm, starts=starts, tight=tight).cpu()
            for x, y in batched("bounding", dataset, place, batch_size)
        ]
        radius = torch.cat(found)
        attacked = named or tried or figure is not None
        distance = _nearest(net, dataset, norm, named, batch_size) if attacked else None
    name = synthesis.name
    measured: dict[str, Any] = _summary(radius)
    band = {}
    if distance is not None:
        band = {
            "certified": Curve.from_certificates(radius, distance > 0, tried or None),
            "under attack": Curve.from_distances(distance, tried or None),
        }
        measured["median_distance"] = median(distance.numpy())
        measured["broken_within_the_bound"] = int((distance < radius * (1 - ROUNDING)).sum())
        if figure is not None:
            low = Curve.from_certificates(radius, distance > 0)
            high = Curve.from_distances(distance)
            figures.curves(
                {"under attack": high, "certified": low}, figure, bands={"under attack": (low, high)},
                radius=f"{o.symbol(norm)} radius", title=f"{name} on {dataset.name}", steps=True,
                right=max(tried, default=0.0) or None,
            )  # fmt: skip
    attacks = {one.label: one.config for one in named}
    config = {**synthesis.config, "norm": norm, "tight": tight, "starts": starts, "attacks": attacks}
    curves = {"curves": plain_curves(band)} if band else {}
    yield card("abs bound", config | {"data": dataset.describe()}, **measured, **curves)
    title = f"{name}, {o.symbol(norm)} lower bound on {dataset.name}, {len(dataset):,} images"
    print_measured(title, {"": measured}, dataset.note)
    if tried:
        low, high = band.values()
        points = zip(high.radii, low.accuracy, high.accuracy, strict=True)
        shares = ", ".join(
            f"{radius:g}: {percent(least)} to {percent(most)}" for radius, least, most in points
        )
        say(f"accuracy at each radius, certified to under attack: {shares}")
    if measured.get("broken_within_the_bound"):
        say("images were broken within their bound, which a search of the latents missed: give more --starts")
    if figure is not None:
        say(f"figure in {figure}")


def _parsed(text: str, norm: str) -> NamedAttack:
    """Parse an attack. Wrong usage unless it looks for the minimum in that norm."""
    named = parse_attack(text, AttackOptions(norm=norm), 0)
    if not named.minimal:
        o.refuse(f"--attack {text}: expected an attack for the minimum norm; {named.name} has a budget.")
    if named.sources:
        o.refuse(f"--attack {text}: {named.name} needs substitutes, which --data has none of.")
    if named.norm != norm or named.radius != math.inf:
        o.refuse(f"--attack {text}: expected the norm of the bound, {norm}, and no radius.")
    return named


def _summary(radius: Tensor) -> dict[str, float]:
    low, median, high = (float(value) for value in radius.quantile(torch.tensor([0.25, 0.5, 0.75])))
    return {
        "mean": float(radius.mean()),
        "standard_error": float(radius.std()) / len(radius) ** 0.5 if len(radius) > 1 else 0.0,
        "lower_quartile": low,
        "median": median,
        "upper_quartile": high,
        "above_zero": float((radius > 0).double().mean()),
    }


def _nearest(model: ABS, dataset: Any, norm: str, named: list[NamedAttack], batch_size: int) -> Tensor:
    """Measure the distance [N] of the nearest adversarial example that latent descent and attacks find."""
    attacks: dict[str, Callable[..., AttackResult]] = {one.label: one.run for one in named}
    attacks["latent descent"] = partial(latent_descent, threat=o.make_threat(norm, math.inf))
    done, total = [0], len(attacks) * len(dataset)
    with progress("attacks") as tick:
        runs = {label: Watched(run, label, done, total, tick) for label, run in attacks.items()}
        table = evaluate(model, dataset, runs, batch_size=batch_size, indicators=False)
    return torch.stack([row.distance for row in table.rows]).amin(0)
