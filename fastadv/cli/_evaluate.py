"""`fastadv evaluate`: a model under several attacks, the worst case, accuracy against radius."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastadv._card import card
from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions, NamedAttack, help_text, parse_attacks
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data, load_model, make_device
from fastadv.cli._measure import NOTHING_KEPT, Watched, print_results, watch
from fastadv.cli._output import progress, say, write_json
from fastadv.evaluation import Curve, accuracy_against_radius, figures
from fastadv.evaluation import evaluate as measure


def evaluate(
    model: o.Model,
    data: o.Data,
    radius: o.Radius = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            "-a",
            help=f"{help_text('pgd:steps=100,norm=l2,radius=0.5')} May be repeated; by default fgsm and pgd.",
        ),
    ] = None,
    option: o.Arguments = None,
    weights: o.Weights = None,
    norm: o.NormOption = None,
    steps: o.Steps = None,
    step_size: o.StepSize = None,
    restarts: o.Restarts = None,
    samples: o.Samples = None,
    split: o.SplitOption = None,
    data_dir: o.DataDir = None,
    size: o.Size = None,
    radii: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="Also the accuracy at each of these radii: 0,0.1,0.2."),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            parser=o.parse_picture, metavar="FILE", help="Draw accuracy against --radii here (png, pdf, svg)."
        ),
    ] = None,
    batch_size: o.BatchSize = 256,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Measure a model clean, under each attack, and under the worst of them for each sample."""
    options = AttackOptions(norm, radius, steps, step_size, restarts)
    named = parse_attacks(attack or ["fgsm", "pgd"], options, seed)
    if figure is not None and radii is None:
        raise typer.BadParameter(
            "--figure draws accuracy against radius: give --radii too, such as 0,0.1,0.2."
        )
    tried = o.parse_numbers(radii) if radii is not None else ()
    norms = {attack.norm for attack in named.values()}
    if tried and len(norms) > 1:
        raise typer.BadParameter("--radii needs attacks of one norm; evaluate each norm by itself.")
    place = make_device(device)
    with interruptible(NOTHING_KEPT):
        dataset = load_data(data, split, data_dir, size, samples)
        net = load_model(model, option, weights, dataset, place, seed)
        with progress("attacks") as tick, o.usage():
            table = measure(net, dataset, watch(named, len(dataset), tick), batch_size=batch_size)
        curves = {
            label: _curve(net, dataset, attack, tried, batch_size)
            for label, attack in (named.items() if tried else ())
        }
        if figure is not None:
            figures.curves(
                _lines(curves, named),
                figure,
                radius=f"{o.symbol(norms.pop())} radius",
                title=f"{model} on {dataset.name}",
                chance=1 / dataset.num_classes,
            )
    if json:
        config = {
            "model": model,
            "options": option,
            "weights": weights and str(weights),
            "attacks": {label: attack.config for label, attack in named.items()},
            "data": dataset.describe(),
            "batch_size": batch_size,
        }
        lines = {
            label: {"radii": curve.radii.tolist(), "accuracy": curve.accuracy.tolist()}
            for label, curve in curves.items()
        }
        write_json(card("evaluation", config, **table.to_dict(), curves=lines))
        return
    print_results(table, model, dataset)
    for label, curve in curves.items():
        points = ", ".join(
            f"{radius:g}: {100 * share:.1f}%"
            for radius, share in zip(curve.radii, curve.accuracy, strict=True)
        )
        say(f"accuracy at each radius, {label}: {points}")
    if figure is not None:
        say(f"figure in {figure}")


def _curve(net: Any, dataset: Any, attack: NamedAttack, radii: tuple[float, ...], batch_size: int) -> Curve:
    """The accuracy at each radius."""
    with progress(f"radii, {attack.label}") as tick, o.usage():
        done = [0]
        # a sample that was broken is not tried again, and the bar may end early
        total = len(dataset) * sum(radius > 0 for radius in radii)
        return accuracy_against_radius(
            net,
            dataset,
            lambda radius: Watched(attack.at(radius), done, total, tick),
            radii,
            batch_size=batch_size,
        )


def _lines(curves: dict[str, Curve], named: dict[str, NamedAttack]) -> dict[str, Curve]:
    """The curves by their names in the figure: without the radius where they stay distinct."""
    short = {label if ":" in label else named[label].name: curve for label, curve in curves.items()}
    return short if len(short) == len(curves) else curves
