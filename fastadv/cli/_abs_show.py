"""`fastadv abs show` and `fastadv abs distal`: pictures of what the model sees."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv import attacks
from fastadv.cli import _options as o
from fastadv.cli._abs_data import Synthesis
from fastadv.cli._interrupt import interruptible
from fastadv.cli._output import say
from fastadv.cli._shared import Source, make_device
from fastadv.evaluation import figures

COLUMNS = 5
EXPLAINED = "class: 1,000 × its loss; below, its confidence"
NOTHING_DRAWN = "nothing was drawn"


class SeededSynthesis(Synthesis):
    """An ABS for a command that draws by itself, too."""

    seed: o.Seed = 0


class OneImage(Source):
    """An image of a data set, by its number."""

    index: int = o.option(0, "Number of the image in the data set.", min=0)
    split: o.SplitOption = None

    @property
    def samples(self) -> int:
        """How many images must be there."""
        return self.index + 1


def show(synthesis: Synthesis, images: OneImage, out: Path = o.picture(..., "Draw here")) -> Iterator[Any]:
    """Draw an image and each class's reconstruction, with loss and confidence; the chosen class in blue."""
    place = make_device(synthesis.device)
    with interruptible(NOTHING_DRAWN):
        dataset, index = images.load(), images.index
        if index >= len(dataset):
            o.refuse(
                f"--index: expected a number below {len(dataset)}, the images of {dataset.name}, got {index}."
            )
        image, label = dataset[index]
        net = synthesis.load(place)
        x = image[None].to(place)
        inferred = net.infer(x)
        confidence = inferred.confidence[0].tolist()
        losses, chosen = inferred.loss[0].tolist(), int(inferred.loss.argmin())
        titles = [
            f"{name}: {1000 * losses[k]:.1f}\n{100 * confidence[k]:.1f}%"
            for k, name in enumerate(dataset.classes)
        ]
        clean = figures.Strip("image", net.observed(x), [dataset.classes[label]])
        title = f"Image {index} of {dataset.name} as each class draws it"
        draw(inferred.reconstruction[0], titles, out, title, EXPLAINED, chosen, first=clean)
    told = {"index": index, "label": label, "prediction": chosen, "loss": losses}
    yield {**told, "confidence": confidence, "out": str(out)}
    verdict = f"image {index} ({dataset.classes[label]}) is taken for {dataset.classes[chosen]}"
    say(f"{verdict} with confidence {confidence[chosen]:.2f}; drawn in {out}")


def distal(
    synthesis: SeededSynthesis,
    out: Path = o.picture(..., "Draw here"),
    classes: str = o.option("1", "Classes to make images of: 0,1,7.", metavar="NUMBERS"),
    confidence: float = o.option(0.9, "Confidence at which to stop.", min=0.0, max=1.0),
    steps: int = o.option(1000, "Steps of gradient ascent.", min=0),
) -> Iterator[Any]:
    """Start from noise and raise the confidence in a class, to see what the model takes for it."""
    place = make_device(synthesis.device)
    numbers = o.parse_numbers(classes)
    if not all(value.is_integer() for value in numbers):
        o.refuse(f"--classes: expected numbers of classes such as 0,1,7, got {classes!r}.")
    wanted = torch.tensor([int(value) for value in numbers], device=place)
    with interruptible(NOTHING_DRAWN):
        net = synthesis.load(place, seed_used=True)
        result = attacks.distal(
            net, wanted, net.shape.image, steps=steps, confidence=confidence, seed=synthesis.seed
        )
        confidences, taken = result.confidence.tolist(), result.steps.tolist()
        titles = [
            f"{k}: {100 * confidences[i]:.1f}%\n{taken[i]} steps" for i, k in enumerate(wanted.tolist())
        ]
        told = f"from uniform noise to a confidence of {confidence:.0%}, by gradient ascent"
        draw(result.x, titles, out, "What the model takes for each class", told)
    yield {"classes": wanted.tolist(), "confidence": confidences, "steps": taken, "out": str(out)}
    count = int(result.success.sum())
    say(f"{count} of {len(wanted)} images have a confidence of {confidence:g}; drawn in {out}")


def draw(
    images: Tensor, titles: list[str], path: Path, title: str, subtitle: str, chosen: int | None = None,
    first: figures.Strip | None = None,
) -> None:  # fmt: skip
    """Draw images [N, C, H, W] in rows of five below `first`; the caption of the chosen one is blue."""
    marked = torch.arange(len(images)) == (-1 if chosen is None else chosen)
    cuts = [slice(start, start + COLUMNS) for start in range(0, len(images), COLUMNS)]
    rows = [figures.Strip("", images[c], titles[c], marked[c], figures.BLUE, apart=0.05) for c in cuts]
    figures.strips([first, *rows] if first else rows, path, title=title, subtitle=subtitle)
