"""`fastadv evaluate`: a model under several attacks, the worst case, accuracy against radius."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data, load_model, make_device
from fastadv.cli._measure import Watched, results_table, title_of, watch
from fastadv.cli._output import console, progress, write_json
from fastadv.threat import THREATS

if TYPE_CHECKING:
    from fastadv.evaluation import Curve


def evaluate(
    model: o.Model,
    data: o.Data,
    radius: o.OptionalRadius = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            "-a",
            help="fgsm, bim, pgd, mim, or pgd:steps=100,norm=l2,radius=0.5; may be repeated.",
        ),
    ] = None,
    option: o.Arguments = None,
    weights: o.Weights = None,
    norm: o.NormOption = "linf",
    steps: o.Steps = 40,
    step_size: o.StepSize = None,
    restarts: o.Restarts = 1,
    samples: o.Samples = None,
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    data_dir: o.DataDir = None,
    size: o.Size = None,
    radii: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="Also the accuracy at each of these radii: 0,0.1,0.2."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw accuracy against --radii here (png, pdf, svg).")
    ] = None,
    batch_size: o.BatchSize = 256,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Measure a model clean, under each attack, and under the worst of them for each sample."""
    options = o.AttackOptions(norm, radius, steps, step_size, restarts, seed)
    named = {
        found.label: found for found in (o.parse_attack(text, options) for text in attack or ["fgsm", "pgd"])
    }
    if figure is not None and radii is None:
        raise typer.BadParameter(
            "--figure draws accuracy against radius: give --radii too, such as 0,0.1,0.2."
        )
    tried = o.parse_numbers(radii) if radii else ()
    if tried and len({found.norm for found in named.values()}) > 1:
        raise typer.BadParameter("--radii needs attacks of one norm; evaluate each norm by itself.")
    place = make_device(device)
    from fastadv._card import card
    from fastadv.evaluation import evaluate as measure

    with interruptible("nothing was kept: run it again, with fewer --samples for a quicker look"):
        dataset = load_data(data, split, data_dir, size, samples)
        net = load_model(model, option, weights, dataset, place, seed)
        with progress("attacks") as tick:
            figures = measure(net, dataset, watch(named, len(dataset), tick), batch_size=batch_size)
        curves = _curves(net, dataset, named, tried, batch_size)
        if figure is not None:
            _draw(figure, curves, named, f"{model} on {dataset.name}", dataset.num_classes)
    if json:
        config = {
            "model": model,
            "options": option,
            "weights": weights and str(weights),
            "attacks": {k: v.config for k, v in named.items()},
            "data": dataset.describe(),
        }
        lines = {
            label: {"radii": curve.radii.tolist(), "accuracy": curve.accuracy.tolist()}
            for label, curve in curves.items()
        }
        write_json(card("evaluation", config, **figures.to_dict(), curves=lines))
        return
    screen = console()
    screen.print(results_table(figures, title_of(model, dataset, figures.n), dataset.note))
    for label, curve in curves.items():
        points = ", ".join(
            f"{radius:g}: {100 * share:.1f}%"
            for radius, share in zip(curve.radii, curve.accuracy, strict=True)
        )
        screen.print(f"accuracy at each radius, {label}: {points}", soft_wrap=True)
    if figure is not None:
        screen.print(f"figure in {figure}", soft_wrap=True)


def _curves(
    net: Any, dataset: Any, named: dict[str, o.NamedAttack], radii: tuple[float, ...], batch_size: int
) -> "dict[str, Curve]":
    """For each attack the accuracy at each radius."""
    from fastadv.evaluation import accuracy_against_radius

    curves = {}
    for label, attack in named.items() if radii else ():
        with progress(f"radii, {label}") as tick, o.usage():
            done, at = [0], attack.at
            # a sample that has fallen is not tried again, so the bar may end early
            total = len(dataset) * sum(radius > 0 for radius in radii)

            def watched(
                radius: float, at: Any = at, done: list[int] = done, total: int = total, tick: Any = tick
            ) -> Watched:
                return Watched(at(radius), done, total, tick)

            curves[label] = accuracy_against_radius(net, dataset, watched, radii, batch_size=batch_size)
    return curves


def _draw(
    path: Path, curves: "dict[str, Curve]", named: dict[str, o.NamedAttack], title: str, classes: int
) -> None:
    from fastadv.evaluation import figures

    # the radius in a label means nothing where the radius is the axis
    lines = {
        f"{named[label].config['attack']}" if ":" not in label else label: curve
        for label, curve in curves.items()
    }
    norm = next(iter(named.values())).norm
    figures.curves(
        lines if len(lines) == len(curves) else curves,
        path,
        radius=f"{THREATS[norm].symbol} radius",
        title=title,
        chance=1 / classes,
    )
