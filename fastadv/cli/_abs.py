"""`fastadv abs`: classify with an Analysis-by-Synthesis model, bound its decisions and attack them."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import typer

from fastadv.attacks import latent_descent
from fastadv.cli import _options as o
from fastadv.cli._abs_bound import bound
from fastadv.cli._abs_data import Synthesis, measure, print_measured
from fastadv.cli._abs_show import distal, show
from fastadv.cli._abs_train import train
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import make_device
from fastadv.cli._measure import NOTHING_KEPT, Watched, print_results
from fastadv.cli._output import progress, say, write_json
from fastadv.cli._panels import add
from fastadv.cli._shared import Images
from fastadv.evaluation import evaluate
from fastadv.evaluation.text import percent
from fastadv.runs.card import card
from fastadv.runs.files import save_tensors

LINE_SEARCH_STEPS = 51  # as in the authors' code

abs_app = typer.Typer(
    help="Analysis by Synthesis: one generative model for each class (Schott et al. 2018).",
    no_args_is_help=True,
)


class FewImages(Images):
    """The first images, unless all are asked for."""

    samples: o.Samples = 200


def infer(
    synthesis: Synthesis,
    images: Images,
    prune: bool = o.option(False, "Skip the descent of classes that can hardly win.", "--prune"),
    bf16: bool = o.option(False, "Descend in bfloat16.", "--bf16"),
    steps: int = o.count(50, "Steps of the latent descent."),
    out: Path | None = o.written(None, "Write loss, latents, confidence and y here (safetensors)."),
    batch_size: o.BatchSize = 100,
    json: o.Json = False,
) -> None:
    """Classify a data set: accuracy, confidence and time an image."""
    place = make_device(synthesis.device)
    options: dict[str, Any] = {"prune": prune, "precision": "bf16" if bf16 else "fp32", "steps": steps}
    with interruptible(NOTHING_KEPT):
        dataset = images.load()
        net = synthesis.load(place, **options)
        with o.usage():
            measured, kept = measure(net, dataset, "inferring", batch_size)
        if out is not None:
            save_tensors(out, kept)
    if json:
        config = {**synthesis.config, **options, "data": dataset.describe()}
        write_json(card("abs infer", config, **measured))
        return
    title = f"{synthesis.name}, on {dataset.name}, {len(dataset):,} images"
    print_measured(title, {"": measured}, dataset.note)


def attack(
    synthesis: Synthesis,
    images: FewImages,
    schedule: Literal["descent", "line_search"] = o.option(
        "descent", "The paper's descent, or the line search of the authors' code."
    ),
    threshold: float = o.option(1.5, "Also the accuracy when this L2 distance is allowed.", min=0.0),
    batch_size: o.BatchSize = 100,
    json: o.Json = False,
) -> None:
    """Latent descent: the L2 distance at which each decision is broken.

    In the median clean errors count as 0 and decisions that hold as infinite.
    """
    place = make_device(synthesis.device)
    options: dict[str, Any] = {"schedule": schedule}
    if schedule == "line_search":
        options["steps"] = LINE_SEARCH_STEPS
    label = "latent descent"
    with interruptible(NOTHING_KEPT):
        dataset = images.load()
        net = synthesis.load(place)
        with progress(label) as tick, o.usage():
            run = Watched(partial(latent_descent, **options), label, [0], len(dataset), tick)
            table = evaluate(net, dataset, {label: run}, batch_size=batch_size)
    row = table[label]
    allowed = float((row.distance > threshold).double().mean())
    if json:
        measured = {
            "median_distance": row.median_distance,
            "accuracy": allowed,
            "broken": float(row.broken.double().mean()),
            **table.to_dict(),
        }
        config = {**synthesis.config, "threshold": threshold, **options, "data": dataset.describe()}
        write_json(card("abs attack", config, **measured))
        return
    print_results(table, synthesis.name, dataset)
    say(f"accuracy where L2 {threshold:g} is allowed: {percent(allowed)}")


for _command, _example in (
    (train, "fastadv abs train --data digits --run-dir runs/abs"),
    (infer, "fastadv abs infer -m runs/abs/model.safetensors --data digits --binary"),
    (bound, "fastadv abs bound -m runs/abs/model.safetensors --data digits --samples 100 --figure band.png"),
    (attack, "fastadv abs attack -m runs/abs/model.safetensors --data digits --samples 50"),
    (show, "fastadv abs show -m runs/abs/model.safetensors --data digits --index 3 --out abs.png"),
    (distal, "fastadv abs distal -m runs/abs/model.safetensors --classes 0,1 --out distal.png"),
):
    add(abs_app, _command, _example)
