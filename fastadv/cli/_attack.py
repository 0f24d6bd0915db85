"""`fastadv attack`: one attack on a model."""

import json as jsons
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from fastadv.cli import _options as o
from fastadv.cli._attack_list import list_attacks, print_markdown
from fastadv.cli._attacks import AttackOptions, help_text, names_attacks, parse_attacks
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data, load_model, load_substitute, make_device, to_search
from fastadv.cli._measure import NOTHING_KEPT, Watched, print_results, watch
from fastadv.cli._output import finite, progress, say, write_json
from fastadv.errors import InputError
from fastadv.evaluation import Row, evaluate, figures
from fastadv.runs.card import card
from fastadv.runs.files import save_tensors

SHOWN = 8  # columns of the figure


@names_attacks
def attack(
    model: o.Model,
    data: o.Data,
    radius: o.Radius = None,
    attack: Annotated[str, typer.Option("--attack", "-a", help=help_text("pgd:steps=100"))] = "pgd",
    option: o.Arguments = None,
    weights: o.Weights = None,
    norm: o.NormOption = None,
    steps: o.Steps = None,
    step_size: o.StepSize = None,
    restarts: o.Restarts = None,
    samples: o.Samples = 1000,
    split: o.SplitOption = None,
    data_dir: o.DataDir = None,
    size: o.Size = None,
    strongest: Annotated[
        bool, typer.Option("--strongest", help="Go on after the first success, to the largest loss.")
    ] = False,
    out: Annotated[
        Path | None,
        o.written(
            "Write x, x_adv, y, ids, success, status, distance, loss and zero_gradient of the samples "
            "with finite logits here, for autoattack also which component broke each sample, -1 for none "
            "(safetensors)."
        ),
    ] = None,
    figure: Annotated[
        Path | None, o.picture("Draw clean images, adversarial ones and their difference here")
    ] = None,
    batch_size: o.SomeBatchSize = 256,
    precision: o.SearchPrecisionOption = None,
    bf16: o.Bf16 = False,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
    known: Annotated[
        bool, typer.Option("--list", callback=list_attacks, help="List the attacks, and what each supports.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", callback=print_markdown, help="The same as a page in Markdown.")
    ] = False,
) -> None:
    """Attack a model, and say which samples it broke and at which distance.

    A minimum-norm attack needs no --radius, which bounds its search.
    """
    options = AttackOptions(norm, radius, steps, step_size, restarts, False if strongest else None)
    (named,) = parse_attacks([attack], options, seed).values()
    searched = o.one_precision(bf16, precision)
    place = make_device(device)
    with interruptible(NOTHING_KEPT):
        dataset = load_data(data, split, data_dir, size, samples)
        net = to_search(load_model(model, option, weights, dataset, place, seed), searched)
        named = named.with_sources(lambda text: load_substitute(text, model, option, dataset, place, seed))
        with progress(named.label) as tick, o.usage():
            watched = watch({named.label: named}, len(dataset), tick, keep=out is not None)
            table = evaluate(net, dataset, watched, batch_size=batch_size, keep_examples=SHOWN)
        config = {
            "model": model,
            "options": option,
            "weights": weights and str(weights),
            **named.config,
            "data": dataset.describe(),
            "batch_size": batch_size,
            "precision": searched,
        }
        result = card("attack", config, **table.to_dict())
        if out is not None:
            _write(out, watched[named.label], table.rows[0], result)
        if figure is not None:
            _draw(figure, table.rows[0].examples, dataset, f"{model} under {named.label}")
    if json:
        write_json(result)
        return
    print_results(table, model, dataset)
    for what, path in (("adversarial examples", out), ("figure", figure)):
        if path is not None:
            say(f"{what} in {path}")


def _write(path: Path, watched: Watched, row: Row, result: dict[str, Any]) -> None:
    tensors = {name: torch.cat([kept[name] for kept in watched.kept]) for name in watched.kept[0]}
    if row.components is not None:
        places = {name: place for place, name in enumerate(row.components.costs)}
        tensors["component"] = torch.tensor([places.get(name, -1) for name in watched.by])
    save_tensors(path, tensors, {"card": jsons.dumps(finite(result))})


def _draw(path: Path, examples: Any, dataset: Any, title: str) -> None:
    if examples is None:
        raise InputError(
            f"{path}: expected samples that the attack broke to draw, got none; use a larger radius"
        )
    figures.examples(
        examples.x,
        examples.x_adv,
        examples.y,
        examples.prediction,
        path,
        classes=dataset.classes,
        title=title,
    )
