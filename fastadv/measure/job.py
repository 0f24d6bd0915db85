"""What is evaluated: a model, data and attacks, read in batches with the verdict on each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, starmap
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv._checks import check_count
from fastadv.attacks.core.common import planned
from fastadv.attacks.core.criterion import WRONG, Criterion, fitting
from fastadv.attacks.core.result import NOT_FINITE
from fastadv.data._batches import batches
from fastadv.data.given import Data, as_dataset
from fastadv.data.imageset import UNIT, Boxes
from fastadv.data.sampling import BY_CLASS, first_samples, sample_count
from fastadv.engine import Model, Prepared, prepare
from fastadv.engine.search_copy import ROWS
from fastadv.errors import InputError
from fastadv.measure.attacks import Attacks, named
from fastadv.measure.batch import Batch
from fastadv.measure.bound import Attack, Threats
from fastadv.measure.drawing import ONE_DRAW, Drawing
from fastadv.measure.reading import boxes_of, criterion_of, for_data, labels_of
from fastadv.runs import processes
from fastadv.runs.identity import BY_NAME, describe

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """A model, the data, and the attacks, with what reads the samples in batches."""

    frozen: Prepared
    dataset: Dataset[Any]
    attacks: Mapping[str, Attack]
    batch_size: int
    limit: int | None
    box: Boxes = UNIT
    criterion: Criterion = WRONG
    drawing: Drawing = ONE_DRAW
    earlier: Sequence[int] = ()  # numbers of samples that the folder had before there were more

    @property
    def sizes(self) -> tuple[int, int]:
        """How many samples the data set has, and how many of these are evaluated."""
        return sample_count(self.dataset), sample_count(self.dataset, self.limit)

    def positions(self) -> list[Tensor]:
        """Return the positions of each batch; those of earlier numbers of samples first, as they were."""
        parts, seen = list[Tensor](), torch.zeros(0, dtype=torch.long, device="cpu")
        for count in (*self.earlier, self.limit):
            positions = first_samples(self.dataset, count)
            missing, new = len(positions) - len(seen), positions[~torch.isin(positions, seen)]
            # some of each class of a sorted set, of which others were drawn before
            more = new[torch.arange(missing, device="cpu") * len(new) // missing]
            parts += torch.split(more, self.batch_size)
            seen = torch.cat(parts)
        return parts

    @property
    def chosen(self) -> str:
        """Say which samples are evaluated, where they are not the first ones."""
        count, asked = self.sizes[1], first_samples(self.dataset, self.limit)
        return f"not the first samples, but {BY_CLASS}, as the set is sorted" * int(asked[-1] >= count)

    def read(self, order: Tensor, size: int, **options: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the samples at these positions in batches, on the model's device."""
        labels = labels_of(self.criterion)
        for batch in batches(self.dataset, size, order=order, box=self.box, labels=labels, **options):
            x, y, ids = (tensor.to(device=self.frozen.device) for tensor in batch)
            yield x, y, ids

    def labels(self, y: Tensor) -> Tensor | None:
        """Return labels that were read as the criterion takes them; None where there are none."""
        return self.criterion.labels("dataset", None if y.shape[1:] == (0,) else y, len(y), y.device)

    def results(self, work: Callable[[Batch], T]) -> Iterator[T]:
        """Return what `work` makes of each batch, in their order and in every process; each makes some."""
        count, batches = self.batches()
        return processes.in_turn(count, map(work, starmap(self.judged, batches)))

    def batches(self) -> tuple[int, Iterator[tuple[int, Tensor, Tensor, Tensor, int]]]:
        """Return the number of batches, and those of this process: number, x, y, ids, size of the first."""
        # whole batches, as one process would take them, since rounding may depend on the size
        parts = self.positions()
        with self.drawing.kept(self.frozen.device, 0):
            self._compare_first(torch.cat(parts))
        return len(parts), self._numbered(parts, processes.share_of(range(len(parts))))

    def _compare_first(self, positions: Tensor) -> None:
        """Compare the copy on the same samples in all processes, and before any attack counts its passes."""
        with processes.agreement():
            x, _, _ = next(self.read(positions[:ROWS], ROWS, workers=0))
            self.frozen.compare(x)

    def _numbered(
        self, parts: Sequence[Tensor], numbers: Sequence[int]
    ) -> Iterator[tuple[int, Tensor, Tensor, Tensor, int]]:
        """Yield the batches of these numbers, as `batches` has them."""
        for size, alike in groupby(numbers, lambda number: len(parts[number])):
            same = [*alike]
            samples = self.read(torch.cat([parts[number] for number in same]), size)
            for number, (x, y, ids) in zip(same, samples, strict=True):
                yield number, x, y, ids, len(parts[0])

    def judged(self, number: int, x: Tensor, y: Tensor, ids: Tensor, size: int) -> Batch:
        """Return the batch `number` with the verdict on it, of several draws that of its seed."""
        frozen, criterion = self.frozen, self.criterion
        classes = criterion.outputs == "classes"
        known = self.labels(y)
        try:
            with self.drawing.kept(frozen.device, number, 0):
                logits = frozen.verdict(x)
        except Exception as error:
            if len(x) >= size:
                raise
            raise InputError(
                f"model: expected one that takes any number of rows, got {error} at {len(x)} of {size}; "
                "let a module around it pad them (docs/guides/attacks.md, A model of one batch size)"
            ) from error
        if criterion.outputs != "any" and (y.min() < 0 or y.max() >= logits.shape[1]):
            raise InputError(
                f"dataset: expected labels from 0 to {logits.shape[1] - 1}, the model's classes, "
                f"got {int(y.min())} to {int(y.max())}; map the labels"
            )
        y = fitting(criterion, logits, frozen.output_shape, known, None)
        failed = ~logits.isfinite().all(1)
        correct = criterion.right(logits, y) & ~failed
        predicted = logits[~failed].argmax(1).cpu() if classes else ids[:0].cpu()
        seen = predicted.bincount(minlength=logits.shape[1] * classes)
        rows = torch.arange(len(x), device=x.device)
        return Batch(frozen, x, ids, rows, logits, number, y, correct, failed, seen)

    def right(self, batch: Batch) -> Tensor:
        """Return which images of a batch are right, or in how many of several draws: [B]."""
        if self.drawing.count == 1:
            return batch.correct
        return self.drawing.draw(batch.classifier, batch.x, batch.y, batch.number)["right"]

    def check_finite(self, samples: int, failed: int) -> None:
        """Raise InputError where no sample has finite logits."""
        with processes.agreement():
            if failed == samples:
                raise InputError(NOT_FINITE)


def prepared(
    model: nn.Module | Prepared, dataset: Data, attacks: Attacks | None, batch_size: int, limit: int | None,
    threat: Threats | None = None, criterion: Criterion | None = None, *,
    grey_box: Model | Prepared | None = None, seed: int = 0, beside: int = 0, **options: Any,
) -> Job:  # fmt: skip
    """Check what is evaluated, and prepare the model, with these options, for the work of the attacks.

    `beside`: the passes that are planned beside theirs.
    """
    attacks = named(attacks, threat, criterion=criterion, grey_box=grey_box, seed=seed)
    # What is right says which labels are read, the threat in which box; the labels then say of what kind the
    # outputs are, and the model what it means by them.
    criterion = criterion_of(attacks, criterion)
    dataset = as_dataset(dataset, labels=labels_of(criterion))
    check_evaluation(dataset, batch_size, limit)
    box = boxes_of(attacks, threat, dataset=dataset)
    criterion = for_data(criterion, dataset, box)
    work = planned(*attacks.values()) * sample_count(dataset, limit) + beside
    frozen = prepare(model, work=work, outputs=criterion.outputs, **options)
    return Job(frozen, dataset, attacks, batch_size, limit, box, criterion.meant_by(frozen.model))


def description(job: Job, identity: str | None = BY_NAME) -> dict[str, Any]:
    """Describe what an evaluation is of, but for its data, as JSON; code as `identity` says."""
    model = describe(job.frozen.model, identity=BY_NAME)  # whose answers tell the rest
    return {
        "model": dict(zip(("parts", "weights"), model, strict=True)) if isinstance(model, list) else model,
        "attacks": [[name, describe(one, identity=identity)] for name, one in job.attacks.items()],
    }


def environment(job: Job) -> dict[str, Any]:
    """Return what processes have alike, though a run may go on elsewhere."""
    return {"torch": torch.__version__, "frozen": job.frozen.describe()}


def check_evaluation(dataset: Dataset[Any], batch_size: int, limit: int | None) -> None:
    check_count("batch_size", batch_size, 1)
    first_samples(dataset, limit, tell=True)
