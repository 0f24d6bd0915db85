"""`fastadv abs`: train an Analysis-by-Synthesis model, classify, bound, attack and draw with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fastadv import attacks
from fastadv._checks import SEEDS
from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import NOTHING_KEPT, print_results
from fastadv.cli._output import print_table, progress, say
from fastadv.cli._panels import Panel, add, group
from fastadv.cli._shared import Images, Machine, RunFolder, Source, TrainImages, load_data, make_device
from fastadv.data import batches, is_named
from fastadv.errors import InputError
from fastadv.evaluation import evaluate, figures
from fastadv.models import ABS
from fastadv.models.abs.options import Precision
from fastadv.runs.card import card
from fastadv.text import number, percent

PRIOR_SAMPLES = 8000
THRESHOLD = 1.5  # the L2 distance at which the paper compares accuracies
COLUMNS = 5  # images in a row of a picture
NOTHING_DRAWN = "nothing was drawn"

abs_app = group("Analysis by Synthesis: one generative model for each class (Schott et al. 2018).")


class Synthesis(Panel, title="Model"):
    model: Path = o.option(
        ..., "What `abs train` wrote, or the folder of the authors' ABS_0.net .. ABS_9.net.", "--model", "-m"
    )
    binary: bool = o.option(
        False, "Binary ABS: pixels set to 0 and 1 at 0.5, losses weighted by class.", "--binary"
    )
    seed: int | None = o.option(
        None, "Draws the prior samples for the authors' weights. A trained model has its own.", min=0,
        max=SEEDS - 1,
    )  # fmt: skip
    device: o.Device = None

    @property
    def name(self) -> str:
        return "Binary ABS" if self.binary else "ABS"

    @property
    def config(self) -> dict[str, Any]:
        return {"model": str(self.model), "binary": self.binary, "seed": self.seed}

    def load(self, **options: Any) -> ABS:
        """Load the model from a file of `abs train` or the authors' folder, with these options."""
        path, seed, place = self.model, self.seed, make_device(self.device)
        if path.is_dir():
            model = ABS.from_official(path, prior_samples=PRIOR_SAMPLES, seed=seed or 0)
        elif path.is_file():
            why = f"has no effect on {path}, which has its own prior; leave it out."
            o.refuse_given(why, seed=seed)
            model = ABS.load(path)
        else:
            raise InputError(
                f"{path}: expected a model of `fastadv abs train` or a folder of ABS_0.net .. ABS_9.net, "
                "found neither; check the path"
            )
        return model.with_options(binary=self.binary, **options).to(place)


def batched(text: str, dataset: Any, model: ABS, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    done, device = 0, model.weights[0].device
    with progress(text) as tick:
        tick(0, len(dataset))
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
    sure = float(torch.cat(confidence).median())
    return {"accuracy": right / len(dataset), "median_confidence": sure}


def print_measured(title: str, measured: dict[str, dict[str, float]], caption: str) -> None:
    cells = [["", "measured", "value"]]
    for part, values in measured.items():
        for name, value in values.items():
            share = name.endswith("accuracy") or name == "above_zero"
            cells.append([part, name.replace("_", " "), percent(value) if share else number(value)])
    if not any(line[0] for line in cells):
        cells = [line[1:] for line in cells]
    print_table(title, cells, [caption] if caption else [])


class NeededFolder(RunFolder):
    run_dir: Path = o.folder(..., "Folder for checkpoint, report.jsonl and model.safetensors.")


def train(
    images: TrainImages,
    folder: NeededFolder,
    machine: Machine,
    epochs: o.Epochs = 20,
    beta: str | None = o.option(
        None,
        "Weight of the KL term, annealed over the first half of the epochs; by default an image's "
        "values / 784 throughout.",
        metavar="FROM,TO",
    ),
    precision: Precision = o.option("fp32", "Precision of training."),
    prior_samples: int = o.option(PRIOR_SAMPLES, "Latents of the prior among which a search starts.", min=2),
    test_samples: int | None = o.count(None, "Test on the first N samples; by default on all."),
) -> Iterator[Any]:
    """Train one VAE for each class, all at once, and measure the model on the test split.

    The same command with --resume continues bit for bit after any stop.
    """
    folder.check()
    weights = None if beta is None else o.parse_numbers(beta)
    if weights is not None and len(weights) != 2:
        o.refuse(f"--beta: expected FROM,TO such as 10,1, got {beta!r}.")
    if test_samples is not None and not is_named(images.data):
        o.refuse(f"--test-samples has no effect: {images.data} has no test split; leave it out.")
    place, run_dir = machine.place(), folder.run_dir
    with interruptible(folder.kept):
        dataset = images.load()
        with progress("training") as tick:
            model = ABS.fit(
                dataset, epochs=epochs, run_dir=run_dir, resume=folder.resume, seed=machine.seed,
                beta=None if weights is None else (weights[0], weights[1]), device=place, progress=tick,
                training_precision=precision, prior_samples=prior_samples,
            )  # fmt: skip
        measured: dict[str, Any] = {"training": model.card["measured"]}
        if is_named(images.data):
            test_set = load_data(images.data, None, images.data_dir, test_samples, size=images.size)
            for name, binary in (("abs", False), ("binary_abs", True)):
                measured[name] = measure(model.with_options(binary=binary), test_set, f"testing {name}")
    yield card("abs", {**model.card["config"], "run_dir": str(run_dir)}, **measured)
    print_measured(f"ABS on {dataset.name}, {epochs} epochs", measured, dataset.note)
    say(f"model in {run_dir / 'model.safetensors'}")


class FewImages(Images):
    samples: o.Samples = 200


def infer(
    synthesis: Synthesis,
    images: Images,
    prune: bool = o.option(False, "Skip the descent of classes that can hardly win.", "--prune"),
    precision: Precision = o.option("fp32", "Precision of the descent."),
    batch_size: o.BatchSize = 100,
) -> Iterator[Any]:
    """Classify a data set: accuracy and confidence."""
    options: dict[str, Any] = {"prune": prune, "precision": precision}
    with interruptible(NOTHING_KEPT):
        net, dataset = synthesis.load(**options), images.load()
        measured = measure(net, dataset, "inferring", batch_size)
    yield card("abs infer", {**synthesis.config, **options, "data": dataset.describe()}, **measured)
    title = f"{synthesis.name}, on {dataset.name}, {len(dataset):,} images"
    print_measured(title, {"": measured}, dataset.note)


def bound(
    synthesis: Synthesis,
    images: Images,
    norm: Literal["l2", "linf", "l0"] = o.option("l2", "Norm of the radius; l0 with --binary."),
    tight: bool = o.option(
        False, "Keep the prior's cost of the other classes, which the paper's bound drops.", "--tight"
    ),
    batch_size: o.BatchSize = 100,
) -> Iterator[Any]:
    """Bound the radius of every image within which the model keeps its decision, and sum the radii up."""
    with interruptible(NOTHING_KEPT):
        net, dataset = synthesis.load(), images.load()
        parts = batched("bounding", dataset, net, batch_size)
        radius = torch.cat([net.lower_bound(x, y, norm=norm, tight=tight).cpu() for x, y in parts])
    measured = {
        "mean": float(radius.mean()),
        "standard_error": float(radius.std()) / len(radius) ** 0.5 if len(radius) > 1 else 0.0,
        "median": float(radius.quantile(0.5)),
        "above_zero": float((radius > 0).double().mean()),
    }
    config = {**synthesis.config, "norm": norm, "tight": tight, "data": dataset.describe()}
    yield card("abs bound", config, **measured)
    title = f"{synthesis.name}, {o.symbol(norm)} lower bound on {dataset.name}, {len(dataset):,} images"
    print_measured(title, {"": measured}, dataset.note)


def attack(synthesis: Synthesis, images: FewImages, batch_size: o.BatchSize = 100) -> Iterator[Any]:
    """Run latent descent, which looks for the nearest L2 point that changes each decision.

    In the median distance, images that are misclassified count 0, and decisions that hold count as infinite.
    """
    label = "latent descent"
    with interruptible(NOTHING_KEPT):
        net, dataset = synthesis.load(), images.load()
        with progress(label) as tick:
            run = {label: attacks.latent_descent}
            table = evaluate(net, dataset, run, batch_size=batch_size, indicators=False, progress=tick)
    row = table[label]
    allowed = float((row.distance > THRESHOLD).double().mean())
    measured = {
        "median_distance": row.median_distance,
        "accuracy": allowed,
        "broken": float(row.broken.double().mean()),
        **table.to_dict(),
    }
    config = {**synthesis.config, "threshold": THRESHOLD, "data": dataset.describe()}
    yield card("abs attack", config, **measured)
    print_results(table, synthesis.name, dataset)
    say(f"accuracy where L2 {THRESHOLD:g} is allowed: {percent(allowed)}")


class OneImage(Source):
    index: int = o.option(0, "Number of the image in the data set.", min=0)
    split: o.SplitOption = None

    @property
    def samples(self) -> int:
        return self.index + 1


def show(synthesis: Synthesis, images: OneImage, out: Path = o.picture(..., "Draw here")) -> Iterator[Any]:
    """Draw an image and each class's reconstruction, with loss and confidence; the chosen class in blue."""
    with interruptible(NOTHING_DRAWN):
        net, dataset, index = synthesis.load(), images.load(), images.index
        if index >= len(dataset):
            o.refuse(
                f"--index: expected a number below {len(dataset)}, the images of {dataset.name}, got {index}."
            )
        image, label = dataset[index]
        x = image[None].to(net.weights[0].device)
        inferred = net.infer(x)
        confidence = inferred.confidence[0].tolist()
        losses, chosen = inferred.loss[0].tolist(), int(inferred.loss.argmin())
        titles = [
            f"{name}: {1000 * losses[k]:.1f}\n{100 * confidence[k]:.1f}%"
            for k, name in enumerate(dataset.classes)
        ]
        seen = torch.cat([net.observed(x), inferred.reconstruction[0]])
        titles.insert(0, f"a {dataset.classes[label]}\n")
        rows = strips(seen, titles, chosen + 1, COLUMNS + 1)
        title = f"Image {index} of {dataset.name} as each class draws it"
        subtitle = "class: 1,000 × its loss; below, its confidence; equal ones lie on its floor, eta"
        figures.strips(rows, out, title=title, subtitle=subtitle)
    told = {"index": index, "label": label, "prediction": chosen, "loss": losses}
    yield {**told, "confidence": confidence, "out": str(out)}
    verdict = f"image {index} ({dataset.classes[label]}) is taken for {dataset.classes[chosen]}"
    say(f"{verdict} with confidence {confidence[chosen]:.2f}; drawn in {out}")


def strips(images: Tensor, titles: list[str], chosen: int = -1, wide: int = COLUMNS) -> list[figures.Strip]:
    marked = torch.arange(len(images)) == chosen
    cuts = [slice(start, start + wide) for start in range(0, len(images), wide)]
    return [figures.Strip("", images[c], titles[c], marked[c], figures.BLUE, apart=0.05) for c in cuts]


for _command, _example in (
    (train, "fastadv abs train --data digits --run-dir runs/abs"),
    (infer, "fastadv abs infer -m runs/abs/model.safetensors --data digits --binary"),
    (bound, "fastadv abs bound -m runs/abs/model.safetensors --data digits --samples 100"),
    (attack, "fastadv abs attack -m runs/abs/model.safetensors --data digits --samples 50"),
    (show, "fastadv abs show -m runs/abs/model.safetensors --data digits --index 3 --out abs.png"),
):
    add(abs_app, _command, _example)
