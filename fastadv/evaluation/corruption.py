"""Accuracy under common corruptions: which are asked for, how they are measured, and the figures."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product, starmap
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from fastadv.data.corruption.card import SEVERITIES, check_severities, constants_for, named
from fastadv.data.corruption.published import published_set
from fastadv.data.corruption.sets import corrupt
from fastadv.data.imageset import UNIT, ImageSet, to_unit
from fastadv.data.sampling import first_samples, known_labels, sample_count
from fastadv.errors import InputError
from fastadv.evaluation._events import Events
from fastadv.evaluation._parts import Parts
from fastadv.evaluation.export import Exported
from fastadv.hashes import data_hash
from fastadv.intervals import Interval, clopper_pearson
from fastadv.measure.job import Job
from fastadv.measure.outcome import Part
from fastadv.runs import processes
from fastadv.text import Cells, percent, several

# AlexNet's error under each corruption of ImageNet-C at 224 x 224, the mean over severities: Hendrycks and
# Dietterich's, from github.com/hendrycks/robustness, issue 10, and the code of AugMix
ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880,
    "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816,
    "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204,
    "elastic_transform": 0.646056, "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
Cell = tuple[str, int]
"""A corruption and a severity."""


@dataclass(frozen=True)
class CorruptionTable(Exported):
    """Accuracy under each corruption at each severity."""

    names: Sequence[str]  # in the paper's order
    severities: Sequence[int]
    right: Tensor  # int64 [names, severities], images classified correctly; several draws are summed
    failed: Tensor  # int64 [names, severities], images without finite logits, which count as wrong
    samples: int  # of each cell
    source: str  # of the images: regenerated ones, with seed and constants, or published files
    draws: int = 1

    @property
    def accuracy(self) -> Tensor:
        """float64 [names, severities]; of several draws the mean."""
        return self.right.double() / (self.samples * self.draws)

    @property
    def interval(self) -> Interval:
        """The exact 95% interval of each accuracy: two arrays [names, severities]."""
        return clopper_pearson((self.accuracy * self.samples).round().long().numpy(), self.samples)

    @property
    def mean_accuracy(self) -> float:
        """The mean over all corruptions and severities, which RobustBench reports."""
        return self.accuracy.mean().item()

    @property
    def by_name(self) -> dict[str, float]:
        """The mean accuracy over severities."""
        return dict(zip(self.names, self.accuracy.mean(1).tolist(), strict=True))

    @property
    def title(self) -> str:
        """What the figures are of, and how many images have no finite logits."""
        failed, of = int(self.failed.sum()), self.samples * self.failed.numel()
        wrong = f"; without finite logits, counted as wrong: {failed} of {several(of, 'image')}"
        return f"accuracy by corruption and severity, {self.source}{wrong * bool(failed)}"

    def mce(self) -> float:
        """Return the mean corruption error in percent, relative to AlexNet's errors on ImageNet at 224 x 224.

        mean over the fifteen of (sum of errors over severities) / (AlexNet's sum); Hendrycks and Dietterich
        2019, section 4. Of other data the ratios mean little. InputError for a table that lacks some.
        """
        missing = [name for name in ALEXNET if name not in self.names]
        missing += [f"severity {level}" for level in SEVERITIES if level not in self.severities]
        if missing:
            raise InputError(
                "mce: expected the fifteen corruptions at severities 1 to 5, got a table without "
                f"{', '.join(missing)}; evaluate with corruptions='c15', or use mean_accuracy"
            )
        return sum(100 * (1 - self.by_name[name]) / error for name, error in ALEXNET.items()) / len(ALEXNET)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary for JSON; `of_dict` reads it."""
        lists = {name: getattr(self, name).tolist() for name in ("right", "failed", "accuracy")}
        lists["interval"] = [end.tolist() for end in self.interval]
        return {**vars(self), **lists, "mean_accuracy": self.mean_accuracy}

    @classmethod
    def of_dict(cls, figures: Mapping[str, Any]) -> Self:
        tensors = {name: torch.tensor(figures[name], device="cpu") for name in ("right", "failed")}
        return cls(**{field.name: figures[field.name] for field in fields(cls)} | tensors)

    def records(self) -> list[dict[str, Any]]:
        """Return the accuracy under each corruption at each severity."""
        figures = [one.flatten().tolist() for one in (self.accuracy, *self.interval)]
        shares = zip(product(self.names, self.severities), *figures, strict=True)
        return [
            {"attack": f"{name}, severity {level}", "accuracy": share, "95%": ends}
            for (name, level), share, *ends in shares
        ]

    def contents(self) -> list[str | Cells]:
        return [self.title, self.paper_cells()]

    def paper_cells(self) -> list[list[str]]:
        return self.cells(math.nan)[:-1]

    def cells(self, clean: float) -> list[list[str]]:
        """Return the table as text, with the clean accuracy in its last line."""
        lines = [["corruption", *map(str, self.severities), "mean"]]
        means = [*self.by_name.items(), ("mean accuracy", self.mean_accuracy)]
        for (name, mean), shares in zip(means, [*self.accuracy, self.accuracy.mean(0)], strict=True):
            lines.append([name, *map(percent, shares.tolist()), percent(mean)])
        return [*lines, ["clean accuracy", *["-"] * len(self.severities), percent(clean)]]


@dataclass(frozen=True)
class Corruptions:
    """Which corruptions to measure, at which severities, and where the images come from."""

    names: tuple[str, ...] = ()
    severities: tuple[int, ...] = ()
    source: str = ""
    seed: int = 0
    published: Path | None = None  # the folder

    def describe(self) -> list[list[str]]:
        """Return what a run keeps of each cell; published images are known by their hash."""
        of = "published files" if self.published else self.source
        return [[_key(cell), of] for cell in product(self.names, self.severities)]

    def passes(self, job: Job) -> Iterator[tuple[Job, list[Cell]]]:
        """Yield what is read, and the cells that it is for: the data for all, or each published set."""
        if self.published is None:
            yield replace(job, box=UNIT), [*product(self.names, self.severities)]
            return
        for cell in product(self.names, self.severities):
            yield replace(job, box=UNIT, dataset=published_set(self.published, *cell)), [cell]

    def images(self, cell: Cell, x: Tensor, ids: Tensor) -> Tensor:
        """Return the images of a pass as the cell has them."""
        return x if self.published else to_unit(corrupt(x, *cell, self.seed, ids))


def selected(
    job: Job, corruptions: str | Sequence[str] | None, severities: int | Sequence[int], seed: int,
    published: str | PathLike[str] | None,
) -> Corruptions:  # fmt: skip
    """Return what to measure; InputError before any work for what cannot be."""
    levels = check_severities(severities)
    if corruptions is None and (published is not None or levels != SEVERITIES):
        raise InputError("severities, published: expected none without corruptions; pass corruptions='c15'")
    if corruptions is None:
        return Corruptions()
    names = tuple(sorted(named(corruptions), key=lambda name: [*ALEXNET, name].index(name)))
    x, _, ids = next(replace(job, box=UNIT).read(torch.arange(1, device="cpu"), 1, workers=0))
    for name in names:
        if published is None:
            corrupt(x, name, levels[-1], seed, ids)
        else:
            _check_files(job, x, published_set(Path(published), name, levels[-1]))
    if published is not None:
        return Corruptions(names, levels, f"published files in {published}", seed, Path(published))
    return Corruptions(names, levels, f"regenerated, seed {seed}, constants {constants_for(x)}", seed)


def _check_files(job: Job, x: Tensor, other: ImageSet) -> None:
    """Refuse published files that were not made of the data: of another number, shape or labels."""
    count, size = (sample_count(one, job.limit) for one in (job.dataset, other))
    if size != count:
        raise InputError(
            f"published: expected as many images as of the data, {count}, got {size} of {other.name}; pass "
            f"the data they were made of, or limit={min(count, size)}"
        )
    labels = known_labels(job.dataset)
    y = None if labels is None else labels[first_samples(job.dataset, job.limit)].sort().values
    same = y is None or torch.equal(y, other.labels[:count].sort().values)
    if other.shape != x.shape[1:] or not same:
        raise InputError(
            f"published: expected images {[*x.shape[1:]]} with the labels of the data, got {other.name} with "
            f"images {[*other.shape]}{' and other labels' * (not same)}; pass the data they were made of"
        )


def measured(job: Job, corruptions: Corruptions, parts: Parts, events: Events) -> CorruptionTable | None:
    """Classify the images of each cell as those of the data are, and count; None for no cell."""

    def count(number: int, x: Tensor, y: Tensor, ids: Tensor, size: int) -> Tensor:
        data, known = "" if parts.path is None else data_hash(x, y), {"ids": ids.cpu()}
        rows = []
        for cell in cells:
            file = f"{number:05d}-{parts.places[_key(cell)]:02d}"
            part = parts.kept(file, known, data)
            if part is None:
                batch = job.judged(number, corruptions.images(cell, x, ids), y, ids, size)
                part = Part({"right": job.right(batch).cpu(), "failed": batch.failed.cpu()})
                parts.add(file, known, part, data)
            rows.append([len(ids), int(part["right"].sum()), int(part["failed"].sum())])
            events.went_on(_key(cell), len(ids) * (processes.world() == 1))
        return torch.tensor(rows, device="cpu")

    if not corruptions.names:
        return None
    counts, draws = list[Tensor](), job.drawing.count
    for one, cells in corruptions.passes(job):
        total = torch.zeros(len(cells), 3, dtype=torch.int64, device="cpu")
        numbers, batches = one.batches()
        for counted in processes.in_turn(numbers, starmap(count, batches)):
            total += counted
            events.went_on(_key(cells[-1]), int(counted[:, 0].sum()) * (processes.world() > 1))
        counts.append(total)
        for (name, severity), (samples, right, _) in zip(cells, total.tolist(), strict=True):
            event = {"corruption": name, "severity": severity, "accuracy": right / samples / draws}
            events.went_on(_key((name, severity)), 0, {"step": samples, **event})
    names, severities = corruptions.names, corruptions.severities
    samples, right, failed = torch.cat(counts).T.reshape(3, len(names), len(severities))
    return CorruptionTable(names, severities, right, failed, int(samples[0, 0]), corruptions.source, draws)


def _key(cell: Cell) -> str:
    """Return the name of a cell, among those of attacks."""
    return f"corruption {cell[0]} {cell[1]}"
