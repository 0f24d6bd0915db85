"""`fastadv evaluate`: a model under several attacks, the worst case, accuracy against radius."""

import json as jsons
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from torch import nn

from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions, NamedAttack, help_text, names_attacks, parse_attacks
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data, load_model, load_substitute, make_device, to_search
from fastadv.cli._measure import NOTHING_KEPT, Watched, print_results, watch
from fastadv.cli._output import finite, progress, say, write_json
from fastadv.cli._robustbench import SAID, check_entry, parse_about, write_entry
from fastadv.cli._torchrun import together
from fastadv.evaluation import Curve, Table, accuracy_against_radius, bootstrap, figures
from fastadv.evaluation import evaluate as measure
from fastadv.evaluation import optimality as compare
from fastadv.evaluation._parts import IDENTITY
from fastadv.evaluation.text import percent
from fastadv.runs import processes
from fastadv.runs.card import card
from fastadv.runs.files import read_json, save_tensors


@names_attacks
@together
def evaluate(
    model: o.Model,
    data: o.Data,
    radius: o.Radius = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            "-a",
            help=f"{help_text('pgd:steps=100')} May be repeated; by default fgsm and pgd.",
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
    figure: Annotated[Path | None, o.picture("Draw accuracy against --radii here")] = None,
    optimality: Annotated[
        bool,
        typer.Option(
            "--optimality",
            help="Also how near each minimum-norm attack comes to the best of them; 1 is best.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        o.written(
            "Write x, the nearest x_adv of all attacks, y, ids, success, status, distance, by (which "
            "attack, -1 for none), component (which part of it, as for autoattack) and the distances of each "
            "attack here (safetensors). --resume writes it for an evaluation that is in --run-dir."
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Keep results and adversarial examples here, batch by batch; all but the --radii of attacks "
            "with a budget.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what --run-dir holds.")] = False,
    robustbench: Annotated[
        Path | None,
        o.written(
            "Write the result of -a autoattack on the whole test set as an entry of RobustBench here (json)."
        ),
    ] = None,
    about: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help=f"A field of that entry: {', '.join(SAID)}. May be repeated; null where not given.",
        ),
    ] = None,
    batch_size: o.SomeBatchSize = 256,
    precision: o.SearchPrecisionOption = None,
    bf16: o.Bf16 = False,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Measure a model clean, under each attack, and under the worst of them for each sample.

    Minimum-norm attacks need no --radius, which bounds their search. One run serves all --radii.

    Several processes share the work: torchrun --nproc-per-node 4 -m fastadv evaluate ...
    """
    options = AttackOptions(norm, radius, steps, step_size, restarts)
    named = parse_attacks(attack or ["fgsm", "pgd"], options, seed)
    tried = o.parse_radii(radii)
    if figure is not None and not any(tried):
        raise typer.BadParameter(
            "--figure draws accuracy against radius: give --radii too, such as 0,0.1,0.2."
        )
    norms = {attack.norm for attack in named.values()}
    if tried and len(norms) > 1:
        raise typer.BadParameter("--radii needs attacks of one norm; evaluate each norm by itself.")
    if out is not None and len(norms) > 1:
        raise typer.BadParameter("--out compares distances: give attacks of one norm.")
    if optimality:
        _check_optimality(named)
    for attack_ in named.values():
        if attack_.minimal and any(r > attack_.radius for r in tried):
            raise typer.BadParameter(
                f"--radii goes beyond the radius {attack_.radius:g} of {attack_.label}: leave out --radius."
            )
    o.check_run_dir(run_dir, resume, lambda folder: (folder / IDENTITY).exists(), "an evaluation")
    if about and robustbench is None:
        raise typer.BadParameter("--about says more about an entry: give --robustbench too.")
    if robustbench is not None:
        said, entered = parse_about(about or ()), check_entry(named, data, split, samples, size)
    searched = o.one_precision(bf16, precision)
    place = make_device(device)
    with interruptible(NOTHING_KEPT if run_dir is None else f"kept in {run_dir}: go on with --resume"):
        dataset = load_data(data, split, data_dir, size, samples)
        net = to_search(load_model(model, option, weights, dataset, place, seed), searched)

        def load(text: str) -> nn.Module:
            return load_substitute(text, model, option, dataset, place, seed)

        named = {label: one.with_sources(load) for label, one in named.items()}
        with progress("attacks") as tick, o.usage():
            kept = _kept(run_dir) if resume and run_dir is not None else 0
            watched = watch(named, len(dataset), tick, kept=kept)
            table = measure(
                net, dataset, watched, batch_size=batch_size, keep_samples=out is not None, run_dir=run_dir,
                resume=resume,
            )  # fmt: skip
        with o.usage():
            curves = {
                label: Curve.from_distances(table[label].distance, tried)
                if attack.minimal
                else _curve(net, dataset, attack, tried, batch_size)
                for label, attack in (named.items() if tried else ())
            }
        if processes.rank():
            return  # the first process tells and writes
        if figure is not None:
            exact = all(attack.minimal for attack in named.values())
            if exact:
                drawn = {label: Curve.from_distances(table[label].distance) for label in curves}
            figures.curves(
                _lines(drawn if exact else curves, named),
                figure,
                steps=exact,
                bands=_bands(table, curves, named, tried) if exact else None,
                right=max(tried),
                radius=f"{o.symbol(norms.pop())} radius",
                title=f"{model} on {dataset.name}",
                chance=1 / dataset.num_classes,
            )
    config = {
        "model": model,
        "options": option,
        "weights": weights and str(weights),
        "attacks": {label: attack.config for label, attack in named.items()},
        "data": dataset.describe(),
        "batch_size": batch_size,
        "precision": searched,
    }
    measured = table.to_dict()
    measured["curves"] = {
        label: {"radii": curve.radii.tolist(), "accuracy": curve.accuracy.tolist()}
        for label, curve in curves.items()
    }
    nearness = compare({row.name: row.distance for row in table.rows}) if optimality else {}
    if optimality:
        measured["optimality"] = nearness
    result = card("evaluation", config, **measured)
    if out is not None:
        save_tensors(out, vars(table.samples), {"card": jsons.dumps(finite(result))})
    if robustbench is not None:
        write_entry(robustbench, table, entered, data, model, said)
    if json:
        write_json(result)
        return
    print_results(table, model, dataset)
    for label, curve in curves.items():
        points = ", ".join(
            f"{radius:g}: {percent(share)}" for radius, share in zip(curve.radii, curve.accuracy, strict=True)
        )
        say(f"accuracy at each radius, {label}: {points}")
    for label, value in nearness.items():
        say(f"optimality of {label}: {value:.3f}")
    for what, path in (("adversarial examples", out), ("figure", figure), ("entry", robustbench)):
        if path is not None:
            say(f"{what} in {path}")


def _check_optimality(named: dict[str, NamedAttack]) -> None:
    """Refuse what --optimality cannot compare."""
    budget = [attack.name for attack in named.values() if not attack.minimal]
    if budget:
        raise typer.BadParameter(f"--optimality compares minimum-norm attacks; {budget[0]} has a budget.")
    if any(attack.radius != math.inf for attack in named.values()):
        raise typer.BadParameter("--optimality needs whole searches: leave out the radius.")
    if len({attack.norm for attack in named.values()}) > 1:
        raise typer.BadParameter("--optimality needs attacks of one norm; evaluate each norm by itself.")


def _bands(
    table: Table, curves: dict[str, Curve], named: dict[str, NamedAttack], radii: tuple[float, ...]
) -> dict[str, tuple[Curve, Curve]]:
    """The 95% bootstrap interval of each curve, on a grid up to the largest radius."""
    grid = np.linspace(0, max(radii), 101)
    bands = {}
    for label in curves:
        distance = table[label].distance.nan_to_num(0.0, math.inf).numpy()
        ends = bootstrap(distance, lambda part: Curve.from_distances(part, grid).accuracy)
        bands[label] = Curve(grid, ends.low), Curve(grid, ends.high)
    return _lines(bands, named)


def _kept(run_dir: Path) -> int:
    """How many samples went through an attack in the run that is to go on."""
    path = run_dir / IDENTITY
    size: int = read_json(path)["batch_size"] if path.exists() else 0
    return size * len(list(run_dir.glob("part-*.safetensors")))


def _curve(net: Any, dataset: Any, attack: NamedAttack, radii: tuple[float, ...], batch_size: Any) -> Curve:
    """The accuracy at each radius."""
    with progress(f"radii, {attack.label}") as tick, o.usage():
        done = [0]
        # a sample that was broken is not tried again, and the bar may end early
        total = len(dataset) * sum(radius > 0 for radius in radii)
        return accuracy_against_radius(
            net,
            dataset,
            lambda radius: Watched(attack.at(radius), f"radii, {attack.label}", done, total, tick),
            radii,
            batch_size=batch_size,
        )


def _lines(curves: dict[str, Any], named: dict[str, NamedAttack]) -> dict[str, Any]:
    """The curves by their names in the figure: without the radius where they stay distinct."""
    short = {label if ":" in label else named[label].name: curve for label, curve in curves.items()}
    return short if len(short) == len(curves) else curves
