"""Certify networks on MNIST, trained by three recipes, beside published radii.

These and the settings are those of Jeong and Shin 2020 (arXiv 2006.04062), table 1. Where the folder of the
data sets holds abs_official/, the bounds of ABS stand beside them.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastadv as fa
from fastadv.certify import Certificates, smooth
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.evaluation import Curve
from fastadv.hashes import data_hash, seal
from fastadv.runs.work import Keeper
from papers import command as c
from papers.study import REPORT, Watch, load_images, publish, some_of, trained, unwatched
from papers.text import in_markdown, percent

PUBLISHED = {  # average certified radii, by recipe and sigma
    "gaussian": {0.25: 0.911, 0.5: 1.558, 1.0: 1.619},
    "smoothadv": {0.25: 0.932, 0.5: 1.687, 1.0: 1.779},
    "consistency": {0.25: 0.928, 0.5: 1.655, 1.0: 1.738},
}
AGREEMENT = {0.25: 10.0, 0.5: 5.0, 1.0: 5.0}  # the weight of the consistency, by sigma
RADII = (0.25, 0.5, 0.75, 1.0)  # at which sequential decisions are compared with those of all draws
COMPARED = 0.5  # the sigma of that comparison
POINTS = 33  # of a curve
SIGMAS = 5  # and the bound of ABS are the lines of a figure, at most
COPIES, ON_GPU = 1024, 16_384  # that pass at once; fewer do not fill a GPU
ABS_BOUND = "ABS, its own bound"
SHOWN = (0.0, 0.5, 1.0, 1.5, 2.0)
TRAINING: dict[str, Any] = {
    "momentum": 0.9, "weight_decay": 1e-4, "schedule": "step", "schedule_by": "epoch",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """All that the study depends on; the defaults are the paper's, on a part of the test set."""

    recipes: tuple[str, ...] = tuple(PUBLISHED)
    sigmas: tuple[float, ...] = (0.25, 0.5, 1.0)
    epochs: int = 90
    samples: int = 1000  # test images that are certified
    draws: int = 100_000  # for each of them
    alpha: float = 1e-3
    compared: int = 100  # images on which sequential decisions are compared
    abs_samples: int = 100  # images whose bound ABS computes
    model: str = "lenet"
    precision: str = "fp32"  # of what is certified: "bf16" is a net of its own, and on some processors faster
    seed: int = 0


TINY = Settings(  # every part in seconds; the figures mean nothing
    recipes=("gaussian", "consistency"), sigmas=(0.5,), epochs=1, samples=6, draws=200, compared=4,
    abs_samples=2, model="softmax",
)  # fmt: skip


def recipe_of(name: str, sigma: float, epochs: int = 90) -> tuple[Any, int, fa.train.Optimization]:
    usual = fa.train.Optimization(**TRAINING)
    if name == "gaussian":
        return fa.train.GaussianTraining(sigma), 256, usual
    if name == "consistency":
        agreement = fa.train.Consistency(sigma, weight=AGREEMENT.get(sigma, 5.0), entropy=0.5, noises=2)
        return agreement, 128, usual
    adversarial = fa.train.SmoothAdv(fa.L2(255 / 256), sigma, noises=4, steps=10)
    return adversarial, 64, fa.train.Optimization(ramp=epochs // 10 or None, **TRAINING)


def run(
    settings: Settings,
    train_set: ImageSet,
    test_set: ImageSet,
    folder: Path,
    watch: Watch = unwatched,
    *,
    synthesis: Any = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Train, certify, compare and draw; the folder keeps what is done. synthesis: an ABS, or None."""
    if not (settings.recipes and 1 <= len(settings.sigmas) <= SIGMAS):
        raise InputError(f"sigmas: expected 1 to {SIGMAS} and a recipe, the lines of figures, got {settings}")
    lines, curves, comparison = list[dict[str, Any]](), dict[tuple[str, float], Curve](), dict[str, Any]()
    gpu = device is not None and device.type == "cuda"
    for name in settings.recipes:
        for sigma in settings.sigmas:
            place = folder / f"{name}-{sigma:g}"
            recipe, batch_size, optimization = recipe_of(name, sigma, settings.epochs)
            net = trained(
                settings.model, train_set, recipe, place, seed=settings.seed, epochs=settings.epochs,
                batch_size=batch_size, learning_rate=0.01, optimization=optimization, device=device,
                execution=fa.train.Execution(cuda_graph=gpu),
                progress=partial(watch, f"training {name}, sigma {sigma:g}"),
            )  # fmt: skip
            if half := settings.precision == "bf16":  # already in its fastest form
                net = net.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
            certified = partial(
                _certified, net, test_set, sigma, alpha=settings.alpha, n=settings.draws, seed=settings.seed,
                progress=partial(watch, f"certifying {name}, sigma {sigma:g}"),
                sound=settings.model == "lenet",  # pixels of the embedded digits are sixteenths
                freeze=False if half else None, batch_size=ON_GPU if gpu else COPIES,
            )  # fmt: skip
            started = time.perf_counter()
            found = certified(place / "certificates", limit=settings.samples, sequential=False)
            lines.append(_line(name, sigma, found, time.perf_counter() - started))
            shown = np.linspace(0, 4 * sigma, POINTS)
            curves[name, sigma] = Curve.from_certificates(found.radius, found.correct, shown)
            if not comparison and (sigma == COMPARED or len(settings.sigmas) == 1):
                few, where = min(settings.compared, settings.samples), place / "sequential"
                quick = certified(where, limit=few, radii=RADII)
                comparison = {"recipe": name, "sigma": sigma, **_compared(found, quick)}
    bound = None if synthesis is None else _bound(synthesis, test_set, settings.abs_samples, watch)
    proved = None if bound is None else bound.pop("radius")
    with Keeper(folder) as keeper:
        return publish(
            keeper, "smoothing", {**asdict(settings), "data": test_set.describe()}, report, lines=lines,
            comparison=comparison, synthesis=bound, figures=_figures(curves, proved, folder),
        )  # fmt: skip


def _certified(
    net: torch.nn.Module, images: ImageSet, sigma: float, folder: Path, *, progress: Any, **options: Any
) -> Certificates:
    """Certify, or read what the folder keeps of the same network, images and options."""
    known = {"weights": data_hash(*net.state_dict().values()), "data": images.describe()}
    with Keeper(folder) as keeper:
        seal_of = seal(keeper.identify("certificates.json", known | {"sigma": sigma} | options))
        kept = keeper.part("certificates.safetensors", seal_of)
        if kept is None:
            found = smooth(net, images, sigma, progress=progress, **options)
            rows = {name: rows for name, rows in vars(found).items() if isinstance(rows, torch.Tensor)}
            keeper.keep("certificates.safetensors", seal_of, rows, {"card": found.card})
            return found
    rows, about = kept
    return Certificates(**rows, radii=tuple(options.get("radii", ())), card=about["card"])


def _figures(
    curves: Mapping[tuple[str, float], Curve], proved: torch.Tensor | None, folder: Path
) -> dict[str, str]:
    """Draw the recipes of each sigma, the sigmas of each recipe, and the bound of ABS. Returns the paths."""
    figures: dict[str, str] = {}

    def draw(name: str, title: str, lines: dict[str, Curve]) -> None:
        if proved is not None:
            widest = max((line.radii for line in lines.values()), key=max)
            lines[ABS_BOUND] = Curve.from_certificates(proved, proved > 0, widest)
        figures[title] = str(path := folder / f"certified-{name}.png")
        fa.figures.curves(lines, path, title=f"Certified accuracy on MNIST, {title}", radius="L2 radius")

    recipes, sigmas = map(dict.fromkeys, zip(*curves, strict=True))
    for sigma in sigmas:
        draw(f"{sigma:g}", f"noise of σ {sigma:g}", {name: curves[name, sigma] for name in recipes})
    for name in recipes if len(sigmas) > 1 else ():
        draw(name, f"{name} training", {f"σ {sigma:g}": curves[name, sigma] for sigma in sigmas})
    return figures


def _line(name: str, sigma: float, found: Certificates, seconds: float) -> dict[str, Any]:
    return {
        "recipe": name,
        "sigma": sigma,
        "average_radius": found.average_radius,
        "published": PUBLISHED[name].get(sigma),
        "accuracy": {f"{radius:g}": found.accuracy(radius) for radius in SHOWN},
        "abstained": int(found.abstained.sum()),
        "draws": int(found.draws.sum()),
        # not of certificates that a folder held already
        "ms_a_pass": 1000 * seconds / made if (made := found.card["measured"]["forwards"]) else None,
    }


def _compared(whole: Certificates, quick: Certificates) -> dict[str, Any]:
    """Compare the decisions of a sequential run with those of all draws on the same images."""
    own = whole.radius[torch.isin(whole.ids, quick.ids)]
    decisions = [(quick.radius >= radius, own >= radius) for radius in RADII]
    return {
        "images": len(quick.ids),
        "decisions": len(RADII) * len(quick.ids),
        "different": sum(int((a != b).sum()) for a, b in decisions),
        "draws": float(quick.draws.double().mean()),
        "all_draws": int(whole.draws[0]),
    }


def _bound(synthesis: Any, test_set: ImageSet, count: int, watch: Watch) -> dict[str, Any]:
    x, y, _ = next(fa.data.batches(test_set, count))
    started, radii = time.perf_counter(), list[torch.Tensor]()
    for place in range(0, len(x), 10):
        watch("bounding ABS", place, len(x))
        radii.append(synthesis.lower_bound(x[place : place + 10], y[place : place + 10]))
    radius = torch.cat(radii)
    return {
        "images": len(x),
        "average_radius": float(radius.mean()),
        "accuracy": {f"{r:g}": float((radius >= max(r, 1e-9)).double().mean()) for r in SHOWN},
        "seconds_each": (time.perf_counter() - started) / len(x),
        "radius": radius,
    }


def table(result: Mapping[str, Any]) -> list[list[str]]:
    measured = result["measured"]
    cells = [["training", "σ", "average radius", "published", *(f"at {r:g}" for r in SHOWN), "ms a pass"]]
    for line in measured["lines"]:
        known = line["published"]
        shares = [percent(line["accuracy"][f"{radius:g}"]) for radius in SHOWN]
        cells.append(
            [line["recipe"], f"{line['sigma']:g}", f"{line['average_radius']:.3f}",
             "-" if known is None else f"{known:.3f}", *shares,
             "-" if line["ms_a_pass"] is None else f"{line['ms_a_pass']:.3f}"]
        )  # fmt: skip
    if bound := measured["synthesis"]:
        shares = [percent(bound["accuracy"][f"{radius:g}"]) for radius in SHOWN]
        cells.append([ABS_BOUND, "-", f"{bound['average_radius']:.3f}", "-", *shares, "-"])
    return cells


def report(result: Mapping[str, Any]) -> str:
    measured, config = result["measured"], result["config"]
    lines = [
        "# Randomized smoothing\n",
        f"{config['samples']} test images, {config['draws']:,} draws each, alpha {config['alpha']:g}, "
        f"passes in {config['precision']}.\n",
        in_markdown(table(result)),
    ]
    if told := measured["comparison"]:
        lines.append(
            f"\nSequential decisions at the radii {', '.join(f'{r:g}' for r in RADII)} ({told['recipe']}, "
            f"σ {told['sigma']:g}, {told['images']} images): {told['draws']:,.0f} draws an image instead of "
            f"{told['all_draws']:,}; {told['different']} of {told['decisions']} decisions differ."
        )
    return "\n".join(lines) + "\n"


GIVEN = ("recipes", "sigmas", "epochs", "samples", "draws", "precision", "seed")


def do(asked: Namespace, watch: Watch) -> Iterator[Any]:
    given = {name: value for name in GIVEN if (value := getattr(asked, name)) is not None}
    settings = replace(TINY if asked.tiny else Settings(), **given)
    some_of("recipes", settings.recipes, PUBLISHED)
    name, weights = "digits" if asked.tiny else "mnist", c.official(asked.data_dir)
    train_set, test_set = (load_images(name, part, data_dir=asked.data_dir) for part in ("train", "test"))
    synthesis = fa.models.ABS.from_official(weights) if not asked.tiny and weights.is_dir() else None
    result = run(
        settings, train_set, test_set, asked.run_dir, watch, synthesis=synthesis, device=c.device_of(asked)
    )
    yield result
    c.print_table("Average certified radius, and certified accuracy", table(result))
    c.say_where({**result["measured"]["figures"], "the report": asked.run_dir / REPORT})


def numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, c.names(text)))


def parser() -> c.Parser:
    made = c.Parser("smoothing", description=__doc__)
    made.add_argument("--recipes", type=c.names, help=f"some of {', '.join(PUBLISHED)}")
    made.add_argument("--sigmas", type=numbers, help="deviations of the noise: 0.25,0.5,1")
    made.add_argument("--epochs", type=c.count, help="epochs of each training (90)")
    made.add_argument("--samples", "-n", type=c.count, help="test images to certify (1,000)")
    made.add_argument("--draws", type=c.count, help="draws for each of them (100,000)")
    told = "of the networks that are certified (fp32)"
    made.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help=told)
    made.add_argument("--tiny", action="store_true", help="every part in seconds, on the embedded digits")
    c.on_data(made)
    c.command(made, do, "smoothing")
    return made


if __name__ == "__main__":
    sys.exit(c.main(parser()))
