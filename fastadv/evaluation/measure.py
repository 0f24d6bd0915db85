"""A model measured on a data set, without an attack and under attacks."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv._checks import OnEvent, check_count, check_flag, check_on_event, knowing
from fastadv.attacks.autoattack import EOT
from fastadv.attacks.core.common import planned
from fastadv.attacks.core.criterion import WRONG, Criterion, fitting
from fastadv.attacks.core.result import NOT_FINITE
from fastadv.certify import Certificates
from fastadv.data._batches import batches
from fastadv.data.content import describe_data
from fastadv.data.given import Data, as_dataset
from fastadv.data.imageset import UNIT, Boxes
from fastadv.data.sampling import first_samples, sample_count
from fastadv.engine import Frozen, Prepared, prepare
from fastadv.engine.by_row import FEWER
from fastadv.engine.mode import evaluated
from fastadv.engine.module import replaced
from fastadv.engine.precision import Options, Precision
from fastadv.engine.prepare import answers
from fastadv.engine.search_copy import ROWS
from fastadv.errors import InputError
from fastadv.evaluation import _masking as masking
from fastadv.evaluation import _outcome as outcomes
from fastadv.evaluation._events import Events
from fastadv.evaluation._outcome import Batch, Part, Shelf, joined, outcome
from fastadv.evaluation._parts import IDENTITY, Parts
from fastadv.evaluation.draws import ONE_DRAW, Drawing
from fastadv.evaluation.named import Attack, Attacks, bound, boxes_of, criterion_of, labels_of, named
from fastadv.evaluation.row import Samples, component_of, told_apart
from fastadv.evaluation.sums import sums_at
from fastadv.evaluation.table import Table
from fastadv.progress import Progress, check_progress, shown
from fastadv.runs import processes
from fastadv.runs.card import data_hash
from fastadv.runs.identity import ANSWERS, FORMAT, agree, describe
from fastadv.threat import Threat

REFUSALS = ("threat", "radius", "points")  # arguments of which an attack says that it does not serve a threat

T = TypeVar("T")


@knowing
def evaluate(
    model: nn.Module | Prepared, dataset: Data, attacks: Attacks | None = None, *,
    threat: Threat | None = None, batch_size: int = 256, limit: int | None = None, keep_samples: bool = False,
    draws: int = 1, seed: int = 0, run_dir: str | PathLike[str] | None = None, resume: bool = False,
    identity: str | None = None, indicators: bool = True, rank: int | None = None,
    world_size: int | None = None, progress: Progress = False, on_event: OnEvent | None = None,
    freeze: bool | None = None, precision: Precision | None = None, compile: bool | None = None,
    whole_batches: bool = False, certificates: Certificates | None = None,
    criterion: Criterion | None = None,
) -> Table:  # fmt: skip
    """Measure clean accuracy and, for each attack, robust accuracy, success rate, distances and cost.

    Every attack gets the samples of a batch with their ids, so results do not depend on `batch_size`, but
    with several draws, whose random numbers are those of a batch. Samples for which the model's logits are
    not finite count as not correct and are not attacked; `Table.failed` marks them.

    The processes of a process group, as under torchrun, take the batches in turn, and all return the table of
    one process; the seconds of an attack are those of all together. An evaluation resumes with any number of
    processes.

    Args:
        model: a module or Frozen; x [B, ...] to logits [B, K].
        dataset: of pairs (image, label), such as an `ImageSet`; the tensors (x [N, ...], y int [N]); a
            DataLoader; or batches of such tensors. Labels are classes of the model, or what the criterion
            takes; where it needs none, images alone will do. Values of float32 lie in the box of each threat,
            in [0, 1] where none says another; images of uint8 become [0, 1].
        attacks: a name or several, such as "pgd" or ["pgd", "autoattack"]; functions (model, x, y)
            -> AttackResult, which may take `ids`, as `partial(fa.attacks.pgd, threat=fa.Linf(8 / 255))`; or a
            dictionary of both, whose keys are the names of rows. None measures the clean accuracy alone. A
            row says why its attack does not serve the threat. A function of your own may return x_adv alone;
            of its successes those count that the model confirms, at points inside its threat and the box.
        threat: of the attacks that have none bound to them; alone, its box is the data's.
        batch_size: samples attacked at once; where memory runs out, passes go in halves.
        limit: use the first samples only, this many. Of a sorted set, whose first samples lack classes, this
            many are drawn by class with a fixed seed, and a warning and the table say so. None uses all.
        keep_samples: keep every sample with its nearest adversarial example over all attacks, which should be
            of one norm (`table.samples`).
        draws: for a randomized model, classify each sample this many times, and its x_adv after each attack.
            That is made for all that are right in any draw. Accuracies are those of one draw, beside those
            of the majority and the worst draw (`Table.draws`, `Row.draws`). These passes are not counted
            among those of an attack.
        seed: with several draws, of all that the model takes from the generators of torch, NumPy and Python,
            also under attack. The generators are restored afterwards. A generator of the model's own is not
            seeded. That of an attack is bound to it: partial(fa.attacks.pgd, seed=1).
        run_dir: a folder in which each attack's result on each batch is kept as soon as it is there. A
            stopped evaluation loses at most one batch of one attack. None keeps nothing.
        resume: continue the evaluation of `run_dir`, which must be of the same model, data and arguments;
            there may be more attacks and more samples, which are added to what is there.
        identity: a text that represents your own model and attacks. Without it a model is known by its
            weights and its logits of 16 samples, an attack by its arguments and code.
        indicators: look for signs of masked gradients (`fastadv.attacks.indicators`) in the results of the
            attacks, and on 8 to 200 samples: as many as 5% of the attacks' passes allow.
            `table.verdict` is the conclusion. An attack that needs a gradient where the model has none breaks
            nothing, and a flag says so.
        rank: for processes that do not communicate, such as the jobs of an array: this one works on the
            batches k with k % world_size == rank, returns the table of these, without indicators, and records
            in `run_dir`, its own or a common one, that it is done. With all shares, put together by
            `fastadv.evaluation.merge`, `resume` without a rank gives the whole table.
        world_size: the number of such processes.
        progress: True shows a bar on stderr, with the attack and the robust accuracy so far; a function is
            called with (samples done, samples) summed over the attacks.
        on_event: called in the first process with a dictionary as soon as an attack is done with a batch. Its
            "step" is the number of samples done, "attack" the name; "clean_accuracy", "robust_accuracy" and
            "seconds" are over these samples, the last two by name. What is read from `run_dir` is told, too.
        freeze: whether to search on a frozen copy (`fastadv.freeze`), made once; None, the default, does so
            where the steps of the attacks times the samples are many. A Frozen is used as it is.
        precision: of the search, as in `fastadv.freeze`; None is the model's own, or that of a Frozen.
        compile: whether to compile the search, as in `fastadv.freeze`; None decides by the work.
        whole_batches: whether each pass has `batch_size` rows in their places, also of the last batch, for a
            model that takes batches of one size; False is the default.
        certificates: of the same images (`fastadv.certify.smooth`): a column of the table. Where an attack
            found a point within a certified radius, the smoothed model decides there, too, and a decision
            for another class contradicts the certificate; the verdict says so. It keeps the samples.
        criterion: of the attacks that have none bound to them, such as `fa.attacks.Signs()`: accuracy is then
            the share of samples that are right by it. It may add figures of its own to the table. Indicators
            are of classes or one logit, several draws of classes alone.

    Returns:
        A `Table`; `print(table)` shows it.

    Raises:
        InputError: the data set is empty, labels are not classes of the model, logits are not [B, K], or
            finite for no sample; the folder already holds an evaluation, or another one; or processes were
            called with different arguments.
        CorruptFileError: a file in the folder is damaged.
        LostProcessError: another process of the group is gone.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test")
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> table = fa.evaluate(model, digits, "fgsm", threat=fa.Linf(0.1), limit=50)
        >>> table["fgsm"].robust_accuracy <= table.clean_accuracy
        True
    """
    with processes.agreement():
        drawing = Drawing(draws, seed)
        check_on_event(on_event)
        check_progress(progress)
        check_flag("whole_batches", whole_batches)
        if resume and run_dir is None:
            raise InputError("resume: expected the run_dir of an evaluation, got none; pass run_dir=")
        job = prepared(
            model, dataset, attacks, batch_size, limit, threat, criterion,
            freeze=freeze, precision=precision, compile=compile, size=batch_size if whole_batches else 0,
        )  # fmt: skip
        if job.criterion.outputs != "classes" and (draws > 1 or certificates is not None):
            name = "draws" if draws > 1 else "certificates"
            raise InputError(
                f"{name}: expected none with {job.criterion!r}, as they are of classes; leave it out"
            )
        count = sample_count(job.dataset, limit)
        share = partial(processes.apart, rank=rank, world_size=world_size, each="batches", size="batch_size")
        if apart := (rank, world_size) != (None, None):
            if run_dir is None:
                raise InputError("run_dir: expected a folder for a share of an evaluation, got None")
            share(-(-count // batch_size))  # before the folder is that of an evaluation that cannot be
        config: dict[str, Any] = {**FORMAT, "attacks": [[name, None] for name in job.attacks]}
        config |= {"batch_size": batch_size, "samples": [count]}
        if criterion is not None:
            config["criterion"] = describe(criterion)
        if draws > 1:
            config |= {"draws": draws, "seed": seed}
        if run_dir is not None or processes.world() > 1:
            config |= description(job, identity)
            # options as asked for, not as the amount of work decides, which may grow
            options = model.options if isinstance(model, Frozen) else Options()
            search = {"precision": precision or options.precision, "eot": job.frozen.eot}
            search["compile"] = bool(options.compile if compile is None else compile)
            config["search"] = {**search, "whole_batches": whole_batches}
            config["data"] = describe_data(job.dataset)
            if identity is None:
                size = min(batch_size, count)
                x, _, ids = next(job.read(torch.arange(size, device="cpu"), size, workers=0))
                config[ANSWERS] = answers(job.frozen, x, ids)
    if processes.world() > 1:
        asked = {"keep_samples": keep_samples, "run_dir": run_dir and str(run_dir), "resume": resume}
        processes.check_alike({**config, **asked, **environment(job)}, agree)
    showing = shown(progress, "evaluating")
    with evaluated(job.frozen), Parts(run_dir, shared=apart) as parts, showing as tick:
        parts.begun(IDENTITY, resume, "an evaluation", Path)
        parts.grow(config)
        job = replace(
            job,
            keep_samples=keep_samples or certificates is not None,
            parts=parts,
            looked=indicators and not apart,
            drawing=drawing,
            share=share,
            events=Events(on_event, tick, count * len(job.attacks)),
            earlier=[before for before in (parts.identity or config)["samples"] if before < count],
        )
        table = job.table()
        if apart:
            number = len(job.positions())
            parts.finished(rank or 0, world_size or 1, number, len(parts.identity["attacks"]))
        return table if certificates is None else table.beside(certificates, job.frozen.source)


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

    def over_batches(self, work: Callable[[int, Batch], T]) -> Iterator[T]:
        """Yield what `work` makes of the number of a batch and the batch, for each of them in their order."""
        # whole batches, as one process would take them, since rounding may depend on the size
        parts = self.positions()
        with self.drawing.kept(self.frozen.device, 0):
            self._compare_first(torch.cat(parts))
        with processes.agreement():
            numbers = self.share(len(parts))
        read = self._with_verdict(parts, numbers[processes.rank() :: processes.world()])

        def make(place: int) -> tuple[bool, T]:
            batch = next(read)
            return not bool(batch.failed.all()), work(numbers[place], batch)

        usable = len(numbers) < len(parts)  # others may have finite logits
        for finite, result in processes.in_turn(len(numbers), make):
            usable = usable or finite
            yield result
        with processes.agreement():
            if not usable:
                raise InputError(NOT_FINITE)

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
        right, failed = criterion.right(logits, y), ~logits.isfinite().all(1)
        logits = logits if criterion.outputs == "classes" else logits.new_zeros(len(x), 1)
        return Batch(x, y, ids, right, failed, logits, right)

    def table(self) -> Table:
        """Attack all batches, and put them together."""
        started, done = time.perf_counter(), list[list[Part]]()
        with self.drawing.kept(self.frozen.device):
            for clean, *attacked in self.over_batches(self.measure):
                done.append([clean, *attacked])
                if processes.world() > 1:
                    for name, part in zip(self.attacks, attacked, strict=True):
                        self.events.finished(name, clean, part, self.drawing.count)
        return self.judge(done, started)

    def measure(self, number: int, batch: Batch) -> list[Part]:
        """Measure the batch `number` without an attack, and under each."""
        at = partial(self.count_at, batch=batch, number=number)
        counted = at(batch.x)
        if self.drawing.count > 1:
            batch = batch._replace(drawn=(counted["draws.right"] > 0).to(batch.x.device))
        verdict = {name: getattr(batch, name).cpu() for name in ("correct", "failed", "ids")}
        seen = batch.logits[~batch.failed].argmax(1).cpu().bincount(minlength=batch.logits.shape[1])
        counted["seen"] = seen if self.criterion.outputs == "classes" else seen[:0]
        clean, attacked = Part(verdict | counted), list[Part]()
        data = "" if self.parts.path is None else data_hash(batch.x, batch.y)
        for name in self.attacks:
            make = partial(self.attack, number, name, batch, at)
            place = self.parts.places.get(name, 0)
            attacked.append(self.parts.get(f"{number:05d}-{place:02d}", verdict, make, data))
            if processes.world() == 1:
                self.events.finished(name, clean, attacked[-1], self.drawing.count)
        if attacked and all("refused" in part.notes for part in attacked):
            raise InputError(attacked[0].notes["refused"])
        if self.keep_samples:
            kept = outcomes.nearest(batch, attacked)
            clean.tensors.update({f"samples.{name}": values for name, values in kept.items()})
        return [self.shelf.keep(part) for part in (clean, *attacked)]

    def count_at(self, x: Tensor, batch: Batch, number: int) -> dict[str, Tensor]:
        """Return what counts at points x [B, ...] of the batch `number`: sums of the criterion, and draws."""
        self.frozen.asks_for(batch.ids)
        with self.drawing.kept(x.device, number, 0, 1):
            counted = {f"sums.{k}": v for k, v in sums_at(self.criterion, self.frozen, x, batch.y).items()}
        if self.drawing.count > 1:
            drawn = self.drawing.draw(self.frozen, x, batch.y, batch.ids, number)
            counted |= {f"draws.{name}": value.cpu() for name, value in drawn.items()}
        return counted

    def attack(self, number: int, name: str, batch: Batch, at: outcomes.Counted) -> Part:
        """Run an attack on a batch, or note why it does not serve the threat."""
        points = self.keep_samples or self.parts.path is not None
        with self.drawing.kept(batch.x.device, number, 1 + crc32(name.encode())):
            attack = self.events.begun(name, self.attacks[name])
            several = self.drawing.count > 1
            try:
                return outcome(
                    name, attack, self.frozen, batch, points, several, at, self.criterion, self.box
                )
            except InputError as error:
                if error.argument not in REFUSALS:
                    raise
                refused = {"refused": str(error)}
        return Part(outcomes.untouched(batch, points) | at(batch.x), refused)

    def judge(self, done: Sequence[Sequence[Part]], started: float) -> Table:
        """Put the batches together, each without an attack and under each."""
        parts, *attacked = zip(*done, strict=True)
        correct, failed, ids = (joined(parts, name) for name in ("correct", "failed", "ids"))
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
