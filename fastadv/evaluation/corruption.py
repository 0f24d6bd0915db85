"""Accuracy under common corruptions: which are asked for, how they are measured, and the figures."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fastadv.data.corruption.card import SEVERITIES, SMALL, check_severity, named
from fastadv.data.corruption.published import published_set
from fastadv.data.corruption.sets import corrupt
from fastadv.data.imageset import UNIT, to_unit
from fastadv.data.sampling import sample_count
from fastadv.errors import InputError
from fastadv.evaluation._events import Events
from fastadv.evaluation._outcome import Part
from fastadv.evaluation._parts import Parts
from fastadv.evaluation.job import Job
from fastadv.intervals import Interval, clopper_pearson
from fastadv.runs import processes
from fastadv.runs.card import data_hash
from fastadv.text import percent, several

# AlexNet's error under each corruption of ImageNet-C at 224 x 224, the mean over severities: Hendrycks and
# Dietterich's, from github.com/hendrycks/robustness, issue 10, and the code of AugMix
ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880,
    "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816,
    "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204,
    "elastic_transform": 0.646056, "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
TITLE = "accuracy under corruptions, by severity"
Cell = tuple[str, int]
"""A corruption and a severity."""


@dataclass(frozen=True)
class CorruptionTable:
    """Accuracy under each corruption at each severity.

    Attributes:
        names: of the corruptions.
        severities: from 1 to 5.
        right: int64 [names, severities], images classified correctly; with several draws summed over them.
        failed: int64 [names, severities], images with logits that are not all finite: they count as wrong.
        samples: images of each cell.
        source: where the images came from: regenerated ones, with seed and constants, or published files.
        draws: how often the model was drawn for each image.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test", size=32)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> table = fa.evaluate(model, digits, corruptions=["gaussian_noise"], severities=(1, 5), limit=50)
        >>> table.corruption.accuracy.shape, table.corruption.source
        (torch.Size([1, 2]), 'regenerated, seed 0, constants cifar')
    """

    names: tuple[str, ...]
    severities: tuple[int, ...]
    right: Tensor = field(repr=False)
    failed: Tensor = field(repr=False)
    samples: int
    source: str
    draws: int = 1

    @property
    def accuracy(self) -> Tensor:
        """float64 [names, severities]; of several draws the mean."""
        return self.right.double() / (self.samples * self.draws)

    @property
    def interval(self) -> Interval:
        """The ends of the exact 95% interval of each accuracy, [names, severities]."""
        right = (self.accuracy * self.samples).round().long().numpy()
        return clopper_pearson(right, self.samples)

    @property
    def mean_accuracy(self) -> float:
        """The mean over all corruptions and severities, which RobustBench reports."""
        return self.accuracy.mean().item()

    @property
    def by_name(self) -> dict[str, float]:
        """The accuracy under each corruption: the mean over severities."""
        return dict(zip(self.names, self.accuracy.mean(1).tolist(), strict=True))

    @property
    def note(self) -> str:
        """Where the images came from, and how many had no finite logits."""
        failed = int(self.failed.sum())
        wrong = f"; {several(failed, 'image')} without finite logits, which count as wrong" * bool(failed)
        return f"corrupted images: {self.source}{wrong}"

    def mce(self) -> float:
        """Return the mean corruption error in percent: errors relative to those of AlexNet.

        It is the mean over the fifteen corruptions of the error summed over severities, divided by that of
        AlexNet. AlexNet's errors are of ImageNet at 224 x 224: of other data the ratio has no meaning.
        Hendrycks and Dietterich 2019, section 4. InputError unless all fifteen are there, at all severities.
        """
        missing = [name for name in ALEXNET if name not in self.names]
        missing += [f"severity {level}" for level in SEVERITIES if level not in self.severities]
        if missing:
            raise InputError(
                "mce: expected the fifteen corruptions at severities 1 to 5, got a table without "
                f"{', '.join(missing)}; evaluate with corruptions='c15', or use mean_accuracy"
            )
        return float(100 * np.mean([(1 - self.by_name[name]) / error for name, error in ALEXNET.items()]))

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary for JSON; `of_dict` reads it."""
        lists = {"names": [*self.names], "severities": [*self.severities]}
        lists |= {name: getattr(self, name).tolist() for name in ("right", "failed", "accuracy")}
        return {**vars(self), **lists, "mean_accuracy": self.mean_accuracy}

    @classmethod
    def of_dict(cls, figures: Mapping[str, Any]) -> Self:
        """Return the table that `to_dict` wrote."""
        right, failed = (torch.tensor(figures[name], device="cpu") for name in ("right", "failed"))
        names, severities = tuple(figures["names"]), tuple(figures["severities"])
        return cls(names, severities, right, failed, *(figures[k] for k in ("samples", "source", "draws")))

    def cells(self, clean: float) -> list[list[str]]:
        """Return the table as text, with the clean accuracy in its last line."""
        means = [*self.accuracy.mean(0).tolist(), self.mean_accuracy]
        lines = zip(self.names, self.accuracy.tolist(), self.by_name.values(), strict=True)
        return [
            ["corruption", *map(str, self.severities), "mean"],
            *([name, *map(percent, shares), percent(mean)] for name, shares, mean in lines),
            ["mean accuracy", *map(percent, means)],
            ["clean accuracy", *["-"] * len(self.severities), percent(clean)],
        ]


@dataclass(frozen=True)
class Corruptions:
    """Which corruptions to measure, at which severities, and where the images come from."""

    names: tuple[str, ...]
    severities: tuple[int, ...]
    seed: int
    published: Path | None
    constants: str = ""  # of regenerated images

    @property
    def cells(self) -> list[Cell]:
        return [*product(self.names, self.severities)]

    @property
    def source(self) -> str:
        if self.published is not None:
            return f"published files in {self.published}"
        return f"regenerated, seed {self.seed}, constants {self.constants}"

    def describe(self) -> list[list[Any]]:
        """Return what a run keeps of each cell; the images of published files are known by their hash."""
        seed, constants = (self.seed, self.constants) if self.published is None else (None, "published")
        return [[_key(cell), {"seed": seed, "constants": constants}] for cell in self.cells]

    def ready(self, job: Job) -> Self:
        """Return the corruptions with their constants; InputError before any work where they cannot be."""
        x, _, ids = next(replace(job, box=UNIT).read(torch.arange(1, device="cpu"), 1, workers=0))
        count = sample_count(job.dataset, job.limit)
        for name in self.names:
            if self.published is None:
                corrupt(x, name, self.severities[-1], self.seed, ids)
                continue
            others = sample_count(published_set(self.published, name, self.severities[-1]), job.limit)
            if others != count:
                raise InputError(
                    f"published: expected as many images of {name} as of the data, {count}, got {others}; "
                    f"pass the data they were made of, or limit={min(count, others)}"
                )
        constants = "" if self.published else "cifar" if min(x.shape[2:]) < SMALL else "imagenet"
        return replace(self, constants=constants)

    def passes(self, job: Job) -> Iterator[tuple[Job, list[Cell]]]:
        """Yield what is read once, and the cells that it is for: the data, or a published set for each."""
        if self.published is None:
            yield replace(job, box=UNIT), self.cells
            return
        for cell in self.cells:
            yield replace(job, dataset=published_set(self.published, *cell), box=UNIT), [cell]

    def images(self, cell: Cell, x: Tensor, ids: Tensor) -> Tensor:
        """Return images of a pass as the cell has them."""
        if self.published is not None:
            return x
        return to_unit(corrupt(x, *cell, self.seed, ids, self.constants))


def selected(
    corruptions: str | Sequence[str] | None, severities: int | Sequence[int], seed: int,
    published: str | PathLike[str] | None,
) -> Corruptions | None:  # fmt: skip
    """Return the corruptions of these arguments, checked; None for none."""
    levels = [severities] if isinstance(severities, int) else [*severities]
    if corruptions is None:
        if published is not None or tuple(levels) != SEVERITIES:
            name = "severities" if published is None else "published"
            raise InputError(f"{name}: expected none without corruptions; pass corruptions='c15', too")
        return None
    if not levels or len(set(map(check_severity, levels))) < len(levels):
        raise InputError(f"severities: expected some of 1, 2, 3, 4, 5, each once, got {levels}")
    return Corruptions(
        named(corruptions), tuple(levels), seed, None if published is None else Path(published)
    )


def measured(job: Job, corruptions: Corruptions, parts: Parts, events: Events) -> CorruptionTable:
    """Classify the images of each cell as those of the data are, and count."""
    counts = list[Tensor]()
    for one, cells in corruptions.passes(job):
        done = list[Tensor]()
        for counted in one.each(partial(_counted, one, corruptions, cells, parts, events)):
            done.append(counted)
            if processes.world() > 1:
                for cell, (samples, _, _) in zip(cells, counted.tolist(), strict=True):
                    events.classified(_key(cell), samples)
        counts.append(torch.stack(done).sum(0))
        for cell, (samples, right, failed) in zip(cells, counts[-1].tolist(), strict=True):
            events.corrupted(*cell, samples, right / (samples * job.drawing.count), failed)
    shape = len(corruptions.names), len(corruptions.severities)
    samples, right, failed = torch.cat(counts).T.reshape(3, *shape)
    return CorruptionTable(
        corruptions.names, corruptions.severities, right, failed, int(samples[0, 0]), corruptions.source,
        job.drawing.count,
    )  # fmt: skip


def _counted(
    job: Job, corruptions: Corruptions, cells: Sequence[Cell], parts: Parts, events: Events,
    number: int, x: Tensor, y: Tensor, ids: Tensor, size: int,
) -> Tensor:  # fmt: skip
    """Return the images, those that are right and those that failed of each cell in a batch: [cells, 3]."""
    data = "" if parts.path is None else data_hash(x, y)
    known, counts = {"ids": ids.cpu()}, list[list[int]]()
    for cell in cells:
        file = f"{number:05d}-{parts.places[_key(cell)]:02d}"
        part = parts.kept(file, known, data)
        if part is None:
            part = _classified(job, number, corruptions.images(cell, x, ids), y, ids, size)
            parts.add(file, known, part, data)
        counts.append([len(ids), int(part["right"].sum()), int(part["failed"].sum())])
        if processes.world() == 1:
            events.classified(_key(cell), len(ids))
    return torch.tensor(counts, device="cpu")


def _classified(job: Job, number: int, x: Tensor, y: Tensor, ids: Tensor, size: int) -> Part:
    """Return which images of a batch are right, or in how many draws, and which failed."""
    started = time.perf_counter()
    batch = job.judged(number, x, y, ids, size)
    right = batch.correct
    if job.drawing.count > 1:
        right = job.drawing.draw(batch.classifier, batch.x, batch.y, number)["right"]
    tensors = {"right": right.cpu(), "failed": batch.failed.cpu()}
    seconds = torch.tensor([time.perf_counter() - started], dtype=torch.float64, device="cpu")
    return Part({**tensors, "seconds": seconds})


def _key(cell: Cell) -> str:
    """Return the name of a cell, among those of attacks."""
    return f"corruption {cell[0]} {cell[1]}"
