"""`fastadv abs`: train an Analysis-by-Synthesis model, classify, bound, attack and draw with it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from fastadv import attacks
from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._output import NOTHING_KEPT, kept_in, print_results, print_table, progress, say
from fastadv.cli._shared import BATCH_SIZE, DEVICE, IMAGES, Images, Machine, TrainImages, load_data
from fastadv.cli._signature import Front, add, taking
from fastadv.data import batches, is_named
from fastadv.evaluation import Curve, evaluate, figures
from fastadv.models import ABS
from fastadv.models.abs.options import InferenceOptions
from fastadv.runs.card import card
from fastadv.text import number, percent
from fastadv.threat import THREATS

PRIOR_SAMPLES = 8000
THRESHOLD = 1.5  # the L2 distance at which the paper compares accuracies
COLUMNS = 6  # images in a row of a picture

abs_app = typer.Typer(
    help="Analysis by Synthesis: one generative model for each class (Schott et al. 2018).",
    no_args_is_help=True,
)
abs_app.callback(add_help_option=False)(taking(lambda **_: None))


@dataclass(frozen=True)
class Synthesis:
    model: Annotated[
        Path,
        typer.Option(metavar="FILE", exists=True),
        "What `abs train` wrote, or the folder of the authors' ABS_0.net .. ABS_9.net.",
    ]
    binary: Annotated[bool, "Binary ABS: pixels set to 0 and 1 at 0.5, losses weighted by class."] = False
    seed: Annotated[o.Seed | None, "Seed of the prior samples for the authors' weights."] = None
    device: Annotated[str | None, DEVICE] = None

    @property
    def name(self) -> str:
        return "Binary ABS" if self.binary else "ABS"

    @property
    def config(self) -> dict[str, Any]:
        return {"model": str(self.model), "binary": self.binary, "seed": self.seed}

    def load(self, **options: Any) -> ABS:
        """Load the model from a file of `abs train` or the authors' folder, with these options."""
        place = Machine(device=self.device).place()
        if self.model.is_dir():
            model = ABS.from_official(self.model, prior_samples=PRIOR_SAMPLES, seed=self.seed or 0)
        else:
            o.refuse_set(
                f"has no effect on {self.model}, which has its own prior; leave it out.", seed=self.seed
            )
            model = ABS.load(self.model)
        return model.with_options(binary=self.binary, **options).to(place)


def batched(text: str, dataset: Any, model: ABS, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    done, device = 0, model.weights[0].device
    with progress(text) as tick:
        for x, y, _ in batches(dataset, size):
            yield x.to(device), y.to(device)
            done += len(x)
            tick(done, len(dataset))


def measure(model: ABS, dataset: Any, text: str, size: int = 100) -> dict[str, float]:
    right, confidence = 0, list[Tensor]()
    for x, y in batched(text, dataset, model, size):
        inferred = model.infer(x)
        right += int((inferred.loss.argmin(1) == y).sum())
        confidence.append(inferred.confidence.amax(1))
    return {"accuracy": right / len(dataset), "median_confidence": float(torch.cat(confidence).median())}


def print_measured(title: str, measured: dict[str, float], caption: str) -> None:
    cells = [["measured", "value"]]
    for name, value in measured.items():
        share = name.endswith("accuracy") or name == "above_zero"
        cells.append([name.replace("_", " "), percent(value) if share else number(value)])
    print_table(title, cells, [caption])


def results(
    what: str, model: Synthesis, options: dict[str, Any], dataset: Any, measured: dict[str, float], title: str
) -> Iterator[Any]:
    yield card(f"abs {what}", {**model.config, **options, "data": dataset.describe()}, **measured)
    print_measured(f"{model.name}, {title}on {dataset.name}, {len(dataset):,} images", measured, dataset.note)


TRAINING = Front(
    ABS.fit, "epochs beta precision=training_precision run_dir resume", defaults={"run_dir": Parameter.empty}
)


def train(
    images: TrainImages,
    machine: Machine,
    training: Annotated[partial[Any], TRAINING],
    prior_samples: Annotated[int, "Latents of the prior among which a search starts."] = PRIOR_SAMPLES,
    test_samples: Annotated[int | None, "Test on N samples, as --samples takes them; by default all."] = None,
) -> Iterator[Any]:
    """Train one VAE for each class, all at once, and measure the model on the test split.

    The same command with --resume continues bit for bit after any stop.
    """
    options, run_dir = images.keywords, training.keywords["run_dir"]
    if test_samples is not None and not is_named(options["data"]):
        o.refuse(f"--test-samples has no effect: {options['data']} has no test split; leave it out.")
    place = machine.place()
    with interruptible(partial(kept_in, run_dir)), progress("training") as tick:
        dataset = images(part="train")
        rest: dict[str, Any] = {
            "seed": machine.seed,
            "device": place,
            "prior_samples": prior_samples,
            "progress": tick,
        }
        model = ABS.fit(dataset, **training.keywords, **rest)
        measured: dict[str, Any] = {"training": model.card["measured"]}
        if is_named(options["data"]):
            test_set = load_data(**options | {"samples": test_samples})
            for name, binary in (("abs", False), ("binary_abs", True)):
                measured[name] = measure(model.with_options(binary=binary), test_set, f"testing {name}")
    yield card("abs", {**model.card["config"], "run_dir": str(run_dir)}, **measured)
    named = {f"{part} {name}": value for part in measured for name, value in measured[part].items()}
    print_measured(f"ABS on {dataset.name}, {training.keywords['epochs']} epochs", named, dataset.note)
    say(f"model in {run_dir / 'model.safetensors'}")


def infer(
    model: Synthesis,
    images: Images,
    inference: Annotated[InferenceOptions, Front(InferenceOptions, "prune precision")],
    batch_size: Annotated[int, BATCH_SIZE] = 100,
) -> Iterator[Any]:
    """Classify a data set: accuracy and confidence."""
    options = {"prune": inference.prune, "precision": inference.precision}
    with interruptible(NOTHING_KEPT):
        net, dataset = model.load(**options), images()
        measured = measure(net, dataset, "inferring", batch_size)
    yield from results("infer", model, options, dataset, measured, "")


def bound(
    model: Synthesis,
    images: Images,
    radius: Annotated[partial[Any], Front(ABS.lower_bound, "norm tight")],
    batch_size: Annotated[int, BATCH_SIZE] = 100,
) -> Iterator[Any]:
    """Bound the radius of every image within which the model keeps its decision, and sum the radii up."""
    options = radius.keywords
    with interruptible(NOTHING_KEPT):
        net, dataset = model.load(), images()
        parts = batched("bounding", dataset, net, batch_size)
        radii = torch.cat([net.lower_bound(x, y, **options).cpu() for x, y in parts])
    measured = {
        "mean": float(radii.mean()),
        "standard_error": float(radii.std()) / len(radii) ** 0.5 if len(radii) > 1 else 0.0,
        "median": float(radii.quantile(0.5)),
        "above_zero": float((radii > 0).double().mean()),
    }
    title = f"{THREATS[options['norm']].symbol} lower bound "
    yield from results("bound", model, options, dataset, measured, title)


def attack(
    model: Synthesis,
    images: Annotated[partial[Any], replace(IMAGES, defaults={"samples": 200})],
    batch_size: Annotated[int, BATCH_SIZE] = 100,
) -> Iterator[Any]:
    """Run latent descent, which looks for the nearest L2 point that changes each decision.

    In the median distance, images that are misclassified count 0, and decisions that hold count as infinite.
    """
    label = "latent descent"
    with interruptible(NOTHING_KEPT), progress(label) as tick:
        net, dataset = model.load(), images()
        run = {label: attacks.latent_descent}
        table = evaluate(net, dataset, run, batch_size=batch_size, indicators=False, progress=tick)
    row = table[label]
    allowed = float(Curve.from_distances(row.distance, [THRESHOLD]).accuracy[0])
    measured = {
        "median_distance": row.median_distance,
        "accuracy": allowed,
        "broken": float(row.broken.double().mean()),
        **table.to_dict(),
    }
    config = {**model.config, "threshold": THRESHOLD, "data": dataset.describe()}
    yield card("abs attack", config, **measured)
    print_results(table, model.name, dataset)
    say(f"accuracy where L2 {THRESHOLD:g} is allowed: {percent(allowed)}")


def show(
    model: Synthesis,
    images: Annotated[partial[Any], replace(IMAGES, names="data data_dir size split")],
    out: Annotated[o.Picture, "Draw here (png, pdf, svg)."],
    index: Annotated[o.FromZero, "Number of the image in the data set."] = 0,
) -> Iterator[Any]:
    """Draw an image and each class's reconstruction, with loss and confidence; the chosen class in blue."""
    with interruptible("nothing was drawn"):
        net, dataset = model.load(), images()
        if index >= len(dataset):
            o.refuse(
                f"--index: expected a number below {len(dataset)}, the images of {dataset.name}, got {index}."
            )
        image, label = dataset[index]
        x = image[None].to(net.weights[0].device)
        inferred = net.infer(x)
        confidence = inferred.confidence[0].tolist()
        losses, chosen = inferred.loss[0].tolist(), int(inferred.loss.argmin())
        shares = zip(dataset.classes, losses, confidence, strict=True)
        titles = [f"{name}: {1000 * loss:.1f}\n{100 * share:.1f}%" for name, loss, share in shares]
        titles = [f"a {dataset.classes[label]}\n", *titles]
        seen = torch.cat([net.observed(x), inferred.reconstruction[0]])
        marked = torch.arange(len(seen)) == chosen + 1
        cuts = [slice(start, start + COLUMNS) for start in range(0, len(seen), COLUMNS)]
        rows = [figures.Strip("", seen[c], titles[c], marked[c], figures.BLUE, apart=0.05) for c in cuts]
        title = f"Image {index} of {dataset.name} as each class draws it"
        subtitle = "class: 1,000 × its loss; below, its confidence; equal ones lie on its floor, eta"
        figures.strips(rows, out, title=title, subtitle=subtitle)
    decision = {"index": index, "label": label, "prediction": chosen, "loss": losses}
    yield {**decision, "confidence": confidence, "out": str(out)}
    verdict = f"image {index} ({dataset.classes[label]}) is taken for {dataset.classes[chosen]}"
    say(f"{verdict} with confidence {confidence[chosen]:.2f}; drawn in {out}")


for _command, _example in (
    (train, "fastadv abs train --data digits --run-dir runs/abs"),
    (infer, "fastadv abs infer -m runs/abs/model.safetensors --data digits --binary"),
    (bound, "fastadv abs bound -m runs/abs/model.safetensors --data digits --samples 100"),
    (attack, "fastadv abs attack -m runs/abs/model.safetensors --data digits --samples 50"),
    (show, "fastadv abs show -m runs/abs/model.safetensors --data digits --index 3 --out abs.png"),
):
    add(abs_app, _command, _example)
