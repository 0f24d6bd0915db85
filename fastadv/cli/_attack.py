"""`fastadv attack`: one attack on a model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data, load_model, make_device
from fastadv.cli._measure import Watched, results_table, title_of, watch
from fastadv.cli._output import console, progress, write_json

SHOWN = 8  # columns of the figure


def attack(
    model: o.Model,
    data: o.Data,
    radius: o.OptionalRadius = None,
    attack: Annotated[
        str,
        typer.Option(
            "--attack", "-a", help="fgsm, bim, pgd, mim; or with arguments, pgd:loss=dlr,steps=100."
        ),
    ] = "pgd",
    option: o.Arguments = None,
    weights: o.Weights = None,
    norm: o.NormOption = "linf",
    steps: o.Steps = 40,
    step_size: o.StepSize = None,
    restarts: o.Restarts = 1,
    samples: o.Samples = 1000,
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    data_dir: o.DataDir = None,
    size: o.Size = None,
    strongest: Annotated[
        bool, typer.Option("--strongest", help="Go on after the first success, to the largest loss.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write x, x_adv, y, success, status, distance and ids here, as safetensors."),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Draw clean images, adversarial ones and their difference here (png, pdf, svg)."),
    ] = None,
    batch_size: o.BatchSize = 256,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Attack a model, and say what became of it."""
    options = o.AttackOptions(norm, radius, steps, step_size, restarts, seed)
    named = o.parse_attack(attack, options, stop_early=not strongest)
    place = make_device(device)
    from fastadv._card import card
    from fastadv.evaluation import evaluate

    with interruptible("nothing was kept: run it again, with fewer --samples for a quicker look"):
        dataset = load_data(data, split, data_dir, size, samples)
        net = load_model(model, option, weights, dataset, place, seed)
        with progress(named.label) as tick:
            watched = watch({named.label: named}, len(dataset), tick, keep=out is not None)
            figures = evaluate(net, dataset, watched, batch_size=batch_size, keep_examples=SHOWN)
        config = {
            "model": model,
            "options": option,
            "weights": weights and str(weights),
            **named.config,
            "data": dataset.describe(),
            "batch_size": batch_size,
        }
        result = card("attack", config, **figures.to_dict())
        if out is not None:
            _write(out, watched[named.label], result)
        if figure is not None:
            _draw(figure, figures.rows[0].examples, dataset, f"{model} under {named.label}")
    if json:
        write_json(result)
        return
    screen = console()
    screen.print(results_table(figures, title_of(model, dataset, figures.n), dataset.note))
    for what, path in (("adversarial examples", out), ("figure", figure)):
        if path is not None:
            screen.print(f"{what} in {path}", soft_wrap=True)


def _write(path: Path, watched: Watched, result: dict[str, Any]) -> None:
    import json

    import torch

    from fastadv._files import save_tensors

    columns = zip(*watched.kept, strict=True)
    names = ("x", "x_adv", "y", "success", "status", "distance", "ids")
    save_tensors(
        path,
        {name: torch.cat(column) for name, column in zip(names, columns, strict=True)},
        {"card": json.dumps(result)},
    )


def _draw(path: Path, examples: Any, dataset: Any, title: str) -> None:
    from fastadv.errors import InputError
    from fastadv.evaluation import figures

    if examples is None:
        raise InputError(
            f"{path}: expected samples that the attack broke to draw, got none; use a larger radius"
        )
    kept = examples
    figures.examples(kept.x, kept.x_adv, kept.y, kept.prediction, path, classes=dataset.classes, title=title)
