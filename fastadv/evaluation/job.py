"""The work of an evaluation: its batches, what each attack does to them, and the table of all."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv._checks import check_count
from fastadv.attacks.autoattack import EOT
from fastadv.attacks.core.common import planned
from fastadv.attacks.core.criterion import WRONG, Criterion, fitting
from fastadv.attacks.core.result import NOT_FINITE, Status
from fastadv.attacks.core.trial import TWO_ANSWERS, right_at_times
from fastadv.data._batches import batches
from fastadv.data.given import Data, as_dataset
from fastadv.data.imageset import UNIT, Boxes
from fastadv.data.sampling import first_samples, sample_count
from fastadv.engine import Prepared, prepare
from fastadv.engine.by_row import FEWER
from fastadv.engine.module import replaced
from fastadv.engine.search_copy import ROWS
from fastadv.errors import InputError
from fastadv.evaluation import _masking as masking
from fastadv.evaluation import _outcome as outcomes
from fastadv.evaluation._events import Events
from fastadv.evaluation._outcome import Batch, Part, Shelf, attempted, joined
from fastadv.evaluation._parts import Parts
from fastadv.evaluation.draws import ONE_DRAW, RANDOMIZED, Drawing
from fastadv.evaluation.named import Attack, Attacks, bound, boxes_of, criterion_of, labels_of, named
from fastadv.evaluation.row import Samples, component_of, told_apart
from fastadv.evaluation.sums import sums_at
from fastadv.evaluation.table import Table
from fastadv.runs import processes
from fastadv.runs.card import data_hash
from fastadv.runs.identity import describe
from fastadv.threat import Threat

REFUSALS = ("threat", "radius", "points")  # arguments of which an attack says that it does not serve a threat

T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """A model under attacks: every batch is measured and attacked, and all of them are judged."""

    frozen: Prepared
    dataset: Dataset[Any]
    attacks: Mapping[str, Attack]
    batch_size: int
    limit: int | None
    box: Boxes = UNIT
    criterion: Criterion = WRONG
    keep_samples: bool = False
    parts: Parts = field(default_factory=lambda: Parts(None))
    looked: bool = False  # whether signs of masking are looked for
    drawing: Drawing = ONE_DRAW
    share: Callable[[int], Sequence[int]] = range  # the batches to work on, of so many
    events: Events = field(default_factory=Events)
    shelf: Shelf = field(default_factory=Shelf)
    earlier: Sequence[int] = ()  # numbers of samples that the folder had before there were more

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

    def read(self, order: Tensor, size: int, **options: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the samples at these positions in batches, on the model's device."""
        labels = labels_of(self.criterion)
        for batch in batches(self.dataset, size, order=order, box=self.box, labels=labels, **options):
            x, y, ids = (tensor.to(device=self.frozen.device) for tensor in batch)
            yield x, y, ids

    def results(self, work: Callable[[Batch], T]) -> Iterator[T]:
        """Return what `work` makes of each batch, in their order and in every process; each makes some."""
        # whole batches, as one process would take them, since rounding may depend on the size
        parts = self.positions()
        with self.drawing.kept(self.frozen.device, 0):
            self._compare_first(torch.cat(parts))
        with processes.agreement():
            numbers = self.share(len(parts))
        batches = self._with_verdict(parts, processes.share_of(numbers))
        return processes.in_turn(len(numbers), map(work, batches))

    def _compare_first(self, positions: Tensor) -> None:
        """Compare the copy on the same samples in all processes, and before any attack counts its passes."""
        with processes.agreement():
            for x, _, _ in self.read(positions, ROWS, workers=0):
                if self.frozen.check(x):
                    return

    def _with_verdict(self, parts: Sequence[Tensor], numbers: Sequence[int]) -> Iterator[Batch]:
        """Yield the batches of these numbers with the verdict on them; of several draws that of its seed."""
        for alike in _of_one_size(parts, numbers):
            size = len(parts[alike[0]])
            samples = self.read(torch.cat([parts[number] for number in alike]), size)
            for number, (x, y, ids) in zip(alike, samples, strict=True):
                yield self._judged(number, x, y, ids, size)

    def _judged(self, number: int, x: Tensor, y: Tensor, ids: Tensor, size: int) -> Batch:
        """Return the batch `number` with the verdict on it; the last one may be below the `size`."""
        frozen, criterion = self.frozen, self.criterion
        classes = criterion.outputs == "classes"
        known = criterion.labels("dataset", None if y.shape[1:] == (0,) else y, len(x), x.device)
        frozen.begin(x, ids)
        try:
            with self.drawing.kept(frozen.device, number, 0):
                logits = frozen.verdict(x)
        except Exception as error:
            if len(x) == size:
                raise
            raise InputError(FEWER.format(error, len(x), size)) from error
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
        return Batch(number, frozen, x, y, ids, correct, failed, correct, seen)

    def table(self) -> Table:
        """Attack all batches, and put them together."""
        started, done = time.perf_counter(), list[list[Part]]()
        with self.drawing.kept(self.frozen.device):
            for clean, *attacked in self.results(self.measure):
                done.append([clean, *attacked])
                if processes.world() > 1:
                    for name, part in zip(self.attacks, attacked, strict=True):
                        self.events.finished(name, clean, part, self.drawing.count)
        return self.judge(done, started)

    def measure(self, batch: Batch) -> list[Part]:
        """Measure a batch without an attack, and under each."""
        verdict = {name: getattr(batch, name).cpu() for name in ("correct", "failed", "ids")}
        counted = self.count_at(batch.x, batch)
        if self.drawing.count > 1:
            drawn = batch.drawn | (counted["draws.right"] > 0).to(batch.x.device)
            batch = replace(batch, drawn=drawn)
        clean, attacked = Part({**verdict, **counted, "seen": batch.seen}), list[Part]()
        data = "" if self.parts.path is None else data_hash(batch.x, batch.y)
        for name in self.attacks:
            file = f"{batch.number:05d}-{self.parts.places.get(name, 0):02d}"
            part = self.parts.kept(file, verdict, data)
            if part is None:
                part = self.attack(name, batch)
                self.parts.add(file, verdict, part, data)
            attacked.append(part)
            if processes.world() == 1:
                self.events.finished(name, clean, part, self.drawing.count)
        if attacked and all("refused" in part.notes for part in attacked):
            raise InputError(attacked[0].notes["refused"])
        if self.keep_samples:
            kept = outcomes.nearest(batch, attacked)
            clean.tensors.update({f"samples.{name}": values for name, values in kept.items()})
        return [self.shelf.keep(part) for part in (clean, *attacked)]

    def count_at(self, x: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return what counts at points x [B, ...] of a batch: sums of the criterion, and draws."""
        frozen = batch.asked()
        with self.drawing.kept(x.device, batch.number, 0, 1):
            counted = {f"sums.{k}": v for k, v in sums_at(self.criterion, frozen, x, batch.y).items()}
        if self.drawing.count > 1:
            drawn = self.drawing.draw(frozen, x, batch.y, batch.ids, batch.number)
            counted |= {f"draws.{name}": value.cpu() for name, value in drawn.items()}
        return counted

    def attack(self, name: str, batch: Batch) -> Part:
        """Run an attack on a batch, or note why it does not serve the threat."""
        attack = self.events.begun(name, self.attacks[name])
        tensors = outcomes.untouched(batch, points=self.keep_samples or self.parts.path is not None)
        usable = (~batch.failed).nonzero().flatten()
        if not len(usable):
            return Part(tensors | self.count_at(batch.x, batch))
        some, claims, several = batch.take(usable), Counter[str](), self.drawing.count > 1
        started, compared = time.perf_counter(), self.frozen.compared
        # with several draws, all samples that are right in some of them are attacked
        token = right_at_times.set(some.ids[some.drawn] if several else None)
        try:
            with self.drawing.kept(batch.x.device, batch.number, 1 + crc32(name.encode())):
                result = attempted(name, attack, some, self.criterion, self.box, claims)
        except InputError as error:
            if error.argument not in REFUSALS:
                raise
            return Part(tensors | self.count_at(batch.x, batch), {"refused": str(error)})
        finally:
            right_at_times.reset(token)
        # reading the results waits for the device: the seconds are then the attack's own
        outcomes.write(tensors, result, some, usable.cpu())
        tensors["seconds"][0] = time.perf_counter() - started
        # passes that compare the copy at a process's first batches do not count: else more processes would
        # count more
        passes = zip((result.forwards, result.backwards), self.frozen.compared, compared, strict=True)
        cost = [int(total) - (now - then) for total, now, then in passes]
        tensors["cost"] = torch.tensor(cost, device="cpu")
        notes = outcomes.notes_of(result, claims)
        wrong = some.correct & (result.status == int(Status.ALREADY_WRONG))
        changed = len(usable) == len(batch.y) and bool(wrong.any())
        if (TWO_ANSWERS in notes["flags"] or changed) and not several:
            notes["flags"].append(RANDOMIZED)
        x_adv = batch.x.index_copy(0, usable, result.x_adv.to(batch.x))
        return Part(tensors | self.count_at(x_adv, batch), notes)

    def judge(self, done: Sequence[Sequence[Part]], started: float) -> Table:
        """Put the batches together, each without an attack and under each."""
        parts, *attacked = zip(*done, strict=True)
        correct, failed, ids = (joined(parts, name) for name in ("correct", "failed", "ids"))
        self.check_finite(len(failed), int(failed.sum()))
        clean = outcomes.draws_of(parts, correct, self.drawing.count)
        rows = told_apart([
            outcomes.row(name, attack, correct, own_parts, self.drawing.count, clean)
            for (name, attack), own_parts in zip(self.attacks.items(), attacked, strict=True)
        ])  # fmt: skip
        samples = None
        if self.keep_samples:
            values = outcomes.columns(parts, "samples")
            samples = Samples(**values, component=component_of(values["by"], rows))
        seen = torch.stack([part["seen"] for part in parts]).sum(0)
        remarks, signs = outcomes.remarks(correct, failed, seen), None
        if self.looked and rows:
            bindings = (bound(attack, "criterion") for attack in self.attacks.values())
            criteria = [criterion for criterion in bindings if criterion is not None]
            ran = [place for place, row in enumerate(rows) if not row.refused]
            look = partial(
                masking.indicators, self.frozen, self.dataset, [rows[place] for place in ran],
                [attacked[place] for place in ran], correct, ids, self.batch_size, self.parts,
                self.criterion, remarks, self._eot(), criteria,
            )  # fmt: skip
            signs = processes.from_first(look)
        # the clock of the first process, and the parts that all have read
        times = processes.tell((time.perf_counter() - started, self.parts.seconds))
        seconds = times[0][0] + sum(before for _, before in times)
        return Table(
            rows, correct, failed, ids, seconds, samples, replaced(self.frozen.model), signs, clean,
            criterion=self.criterion, sums=outcomes.columns(parts, "sums"), remarks=remarks,
        )  # fmt: skip

    def check_finite(self, samples: int, failed: int) -> None:
        """Raise InputError where no sample has finite logits, unless those of another share may have some."""
        with processes.agreement():
            if failed == samples == sample_count(self.dataset, self.limit):
                raise InputError(NOT_FINITE)

    def _eot(self) -> int:
        """Return the most passes over which an attack averages a gradient."""
        passes = [self.frozen.eot]
        for attack in self.attacks.values():
            passes.append(bound(attack, "eot") or EOT * (bound(attack, "version") == "rand"))
        return max(passes)


def prepared(
    model: nn.Module | Prepared, dataset: Data, attacks: Attacks | None, batch_size: int, limit: int | None,
    threat: Threat | None = None, criterion: Criterion | None = None, *, may_compile: bool = True,
    **options: Any,
) -> Evaluation:  # fmt: skip
    """Check what is evaluated, and prepare the model, with these options, for the work of the attacks."""
    attacks = named(attacks, threat, criterion=criterion)
    judged = criterion_of(attacks, criterion)
    dataset = as_dataset(dataset, labels=labels_of(judged))
    check_evaluation(dataset, batch_size, limit)
    box = boxes_of(attacks, threat, dataset=dataset)
    judged = for_data(judged, dataset, box)
    work = planned(*attacks.values()) * sample_count(dataset, limit)
    rows = (lambda: _first(dataset, box, judged)[0]) if may_compile else None
    frozen = prepare(model, work=work, rows=rows, outputs=judged.outputs, **options)
    return Evaluation(frozen, dataset, attacks, batch_size, limit, box, judged.meant_by(frozen.model))


def for_data(criterion: Criterion, dataset: Dataset[Any], box: Boxes) -> Criterion:
    """Return the criterion for labels like those of the data."""
    if criterion.outputs == "classes":
        return criterion
    return criterion.for_labels(_first(dataset, box, criterion)[1])


def _first(dataset: Dataset[Any], box: Boxes, criterion: Criterion) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first sample, with its label and number."""
    return next(batches(dataset, 1, workers=0, box=box, labels=labels_of(criterion)))


def _of_one_size(parts: Sequence[Tensor], numbers: Sequence[int]) -> list[list[int]]:
    """Return the numbers of parts in groups, in which only the last may be smaller than the first."""
    groups = list[list[int]]()
    for number in numbers:
        if groups and len(parts[groups[-1][0]]) == len(parts[groups[-1][-1]]) >= len(parts[number]):
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def description(job: Evaluation, identity: str | None = None) -> dict[str, Any]:
    """Describe what an evaluation is of, but for its data, as JSON."""
    model = describe(job.frozen.model, identity=identity)
    return {
        "model": dict(zip(("parts", "weights"), model, strict=True)) if isinstance(model, list) else model,
        "attacks": [[name, describe(attack, identity=identity)] for name, attack in job.attacks.items()],
        "identity": identity,
    }


def environment(job: Evaluation) -> dict[str, Any]:
    """Return what processes have alike, though a run may go on elsewhere."""
    return {"torch": torch.__version__, "frozen": job.frozen.describe()}


def check_evaluation(dataset: Dataset[Any], batch_size: int, limit: int | None) -> None:
    check_count("batch_size", batch_size, 1)
    first_samples(dataset, limit, tell=True)
