"""A model measured on a data set, without an attack and under attacks."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
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
from fastadv.data.content import describe_shared
from fastadv.data.given import Data, as_dataset
from fastadv.data.imageset import UNIT, Boxes
from fastadv.data.sampling import first_samples, sample_count
from fastadv.engine import Frozen, Prepared, prepare
from fastadv.engine.by_row import FEWER
from fastadv.engine.module import replaced
from fastadv.engine.precision import Options, Precision
from fastadv.engine.search_copy import ROWS
from fastadv.errors import InputError
from fastadv.evaluation import _masking as masking
from fastadv.evaluation._events import Events
from fastadv.evaluation._outcome import (
    REFUSALS,
    Attack,
    Batch,
    Counted,
    Part,
    Shelf,
    all_draws,
    all_sums,
    bound,
    counted_at,
    nearest,
    outcome,
    remarks,
    row,
    untouched,
)  # fmt: skip
from fastadv.evaluation._parts import IDENTITY, Parts
from fastadv.evaluation.draws import ONE_DRAW, Drawing
from fastadv.evaluation.named import (
    Attacks,
    boxes_of,
    criterion_of,
    labels_of,
    minimizes,
    name_of,
    named,
)  # fmt: skip
from fastadv.evaluation.row import Samples, told_apart
from fastadv.evaluation.table import Table
from fastadv.progress import Progress, check_progress, shown
from fastadv.runs import processes
from fastadv.runs.card import data_hash
from fastadv.runs.description import check_described, describe
from fastadv.threat import Threat

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
        identity: a text that represents the code of your own model classes and attacks, which are otherwise
            known by their source; change it when that code changes. Needed where a source cannot be read.
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
        attacks = named(attacks, threat, criterion=criterion)
        judged = criterion_of(attacks, criterion)
        dataset = as_dataset(dataset, labels=labels_of(judged))
        check_evaluation(dataset, batch_size, limit)
        drawing = Drawing(draws, seed)
        if judged.outputs != "classes" and (draws > 1 or certificates is not None):
            given = "draws" if draws > 1 else "certificates"
            raise InputError(f"{given}: expected none with {judged!r}, as they are of classes; leave it out")
        check_on_event(on_event)
        check_progress(progress)
        if resume and run_dir is None:
            raise InputError("resume: expected the run_dir of an evaluation, got none; pass run_dir=")
        count = sample_count(dataset, limit)
        if apart := (rank, world_size) != (None, None):
            if run_dir is None:
                raise InputError("run_dir: expected a folder for a share of an evaluation, got None")
            # before the folder is that of an evaluation that cannot be
            least = -(-count // batch_size)
            processes.apart(least, rank, world_size, each="batches", size="batch_size")
        work = planned(*attacks.values()) * count
        size = batch_size if check_flag("whole_batches", whole_batches) else 0
        box = boxes_of(attacks, threat, dataset=dataset)
        judged = for_data(judged, dataset, box)
        frozen = prepare(
            model, work=work, freeze=freeze, size=size, precision=precision, compile=compile,
            rows=lambda: _first(dataset, box, judged)[0], outputs=judged.outputs,
        )  # fmt: skip
        config: dict[str, Any] = {"batch_size": batch_size, "samples": [count]}
        if criterion is not None:
            config["criterion"] = describe(criterion)
        if draws > 1:
            config |= {"draws": draws, "seed": seed}
        if run_dir is not None or processes.world() > 1:
            config |= description(frozen, attacks, identity)
            # as asked for, not as the amount of work decides, which may grow
            options = model.options if isinstance(model, Frozen) else Options()
            search = {"precision": precision or options.precision, "eot": frozen.eot}
            search["compile"] = bool(options.compile if compile is None else compile)
            config["search"] = {**search, "whole_batches": whole_batches}
        if run_dir is not None:
            check_described(config)
    if run_dir is not None or processes.world() > 1:
        config["data"] = describe_shared(dataset)
    if processes.world() > 1:
        asked = {"keep_samples": keep_samples, "run_dir": run_dir and str(run_dir), "resume": resume}
        machine = {"torch": torch.__version__, "frozen": frozen.describe()}
        processes.check_alike({**config, **asked, **machine})
    with Parts(run_dir, shared=apart) as parts, shown(progress, "evaluating") as tick:
        parts.begun(IDENTITY, resume, "an evaluation", Path)
        parts.grow({"attacks": [[name, None] for name in attacks], **config})
        earlier = [each for each in (parts.identity or config)["samples"] if each < count]
        own = partial(processes.apart, rank=rank, world_size=world_size, each="batches", size="batch_size")
        table = Evaluation(
            frozen,
            dataset,
            attacks,
            batch_size,
            limit,
            box,
            judged.meant_by(frozen.model),
            keep_samples=keep_samples or certificates is not None,
            parts=parts,
            looked=indicators and not apart,
            drawing=drawing,
            own=own,
            events=Events(on_event, tick, count * len(attacks)),
            earlier=earlier,
        ).table()
        if apart:
            number = len(in_batches(dataset, batch_size, limit, earlier))
            parts.finished(rank or 0, world_size or 1, number, len(parts.identity["attacks"]))
        return table if certificates is None else table.beside(certificates, frozen.source)


def for_data(criterion: Criterion, dataset: Dataset[Any], box: Boxes) -> Criterion:
    """Return the criterion for labels like those of the data."""
    if criterion.outputs == "classes":
        return criterion
    return criterion.for_labels(_first(dataset, box, criterion)[1])


def _first(dataset: Dataset[Any], box: Boxes, criterion: Criterion) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first sample, with its label and number."""
    return next(batches(dataset, 1, workers=0, box=box, labels=labels_of(criterion)))


def over_batches(
    frozen: Prepared, dataset: Dataset[Any], batch_size: int, limit: int | None, box: Boxes,
    criterion: Criterion, work: Callable[[int, Batch], T], own: Callable[[int], Sequence[int]] = range,
    earlier: Sequence[int] = (), drawing: Drawing = ONE_DRAW,
) -> Iterator[T]:  # fmt: skip
    """Yield what `work` makes of the number of a batch and the batch, for each of them in their order."""
    # whole batches, as one process would take them, since rounding may depend on the size
    parts = in_batches(dataset, batch_size, limit, earlier)
    with drawing.kept(frozen.device, 0):
        _compare_first(frozen, dataset, torch.cat(parts), box, labels_of(criterion))
    with processes.agreement():
        numbers = own(len(parts))
    taken = numbers[processes.rank() :: processes.world()]
    seeded = (partial(drawing.kept, frozen.device, number, 0) for number in taken)
    read = chain.from_iterable(
        _with_verdict(frozen, dataset, alike, box, criterion, seeded)
        for alike in _of_one_size([parts[number] for number in taken])
    )

    def make(place: int) -> tuple[bool, T]:
        batch = next(read)
        return not bool(batch.failed.all()), work(numbers[place], batch)

    usable = len(numbers) < len(parts)  # others may have finite logits
    for finite, made in processes.in_turn(len(numbers), make):
        usable = usable or finite
        yield made
    with processes.agreement():
        if not usable:
            raise InputError(NOT_FINITE)


def in_batches(
    dataset: Dataset[Any], batch_size: int, limit: int | None, earlier: Sequence[int] = ()
) -> list[Tensor]:
    """Return the positions of each batch; those of `earlier` numbers of samples first, as they were."""
    parts, seen = list[Tensor](), torch.zeros(0, dtype=torch.long, device="cpu")
    for count in (*earlier, limit):
        positions = first_samples(dataset, count)
        missing, new = len(positions) - len(seen), positions[~torch.isin(positions, seen)]
        # of a sorted set, of which others were drawn before, some of each class
        parts += torch.split(new[torch.arange(missing, device="cpu") * len(new) // missing], batch_size)
        seen = torch.cat(parts)
    return parts


def _compare_first(
    frozen: Prepared, dataset: Dataset[Any], positions: Tensor, box: Boxes, labels: str
) -> None:
    """Compare the copy on the same samples in all processes, and before any attack counts its passes."""
    with processes.agreement():
        for part in torch.split(positions, ROWS):
            x, _, _ = next(batches(dataset, ROWS, order=part, workers=0, box=box, labels=labels))
            if frozen.check(x.to(device=frozen.device)):
                return


def _of_one_size(parts: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the parts in groups, in which only the last may be smaller than the first."""
    groups = list[list[Tensor]]()
    for part in parts:
        if groups and len(groups[-1][0]) == len(groups[-1][-1]) >= len(part):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _with_verdict(
    frozen: Prepared, dataset: Dataset[Any], parts: Sequence[Tensor], box: Boxes, criterion: Criterion,
    seeded: Iterator[Callable[[], AbstractContextManager[None]]],
) -> Iterator[Batch]:  # fmt: skip
    """Yield batches with the verdict on them; of several draws that of the seed of each."""
    order, labels = torch.cat(list(parts)), labels_of(criterion)
    for batch in batches(dataset, len(parts[0]), order=order, box=box, labels=labels):
        x, y, ids = (tensor.to(device=frozen.device) for tensor in batch)
        known = criterion.labels("dataset", None if y.shape[1:] == (0,) else y, len(x), x.device)
        frozen.begin(x, ids)
        try:
            with next(seeded)():
                logits = frozen.verdict(x)
        except Exception as error:
            if len(x) == len(parts[0]):
                raise
            raise InputError(FEWER.format(error, len(x), len(parts[0]))) from error
        if criterion.outputs != "any" and (y.min() < 0 or y.max() >= logits.shape[1]):
            raise InputError(
                f"dataset: expected labels from 0 to {logits.shape[1] - 1}, the model's classes, "
                f"got {int(y.min())} to {int(y.max())}; map the labels"
            )
        y = fitting(criterion, logits, frozen.output_shape, known, None)
        right, failed = criterion.right(logits, y), ~logits.isfinite().all(1)
        logits = logits if criterion.outputs == "classes" else logits.new_zeros(len(x), 1)
        yield Batch(x, y, ids, right, failed, logits, right)


Measured = tuple[dict[str, Tensor], dict[str, Tensor], list[Part], Samples | None]
"""Of a batch: its verdict, draws of the clean x, what each attack did, its samples."""


@dataclass
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
    own: Callable[[int], Sequence[int]] = range  # of all batches, which are worked on
    events: Events = field(default_factory=Events)
    shelf: Shelf = field(default_factory=Shelf)
    earlier: Sequence[int] = ()  # numbers of samples that the folder had before there were more

    def table(self) -> Table:
        started, done = time.perf_counter(), list[Measured]()
        with self.drawing.kept(self.frozen.device):
            asked = self.frozen, self.dataset, self.batch_size, self.limit, self.box, self.criterion
            for measured in over_batches(*asked, self.measure, self.own, self.earlier, self.drawing):
                done.append(measured)
                if processes.world() > 1:
                    verdict, draws, attacked, _ = measured
                    for name, part in zip(self.attacks, attacked, strict=True):
                        self.events.finished(name, verdict | draws, part, self.drawing.count)
        return self.judge(done, started)

    def measure(self, number: int, batch: Batch) -> Measured:
        """Measure the batch `number` without an attack, and under each."""
        at = partial(
            counted_at, frozen=self.frozen, y=batch.y, ids=batch.ids, criterion=self.criterion,
            drawing=self.drawing, number=number,
        )  # fmt: skip
        draws = at(batch.x)
        if self.drawing.count > 1:
            batch = batch._replace(drawn=(draws["draws.right"] > 0).to(batch.x.device))
        verdict = {name: getattr(batch, name).cpu() for name in ("correct", "failed", "ids")}
        attacked = []
        data = "" if self.parts.path is None else data_hash(batch.x, batch.y)
        for name in self.attacks:
            attacked.append(self.attack(number, name, batch, verdict, at, data))
            if processes.world() == 1:
                self.events.finished(name, verdict | draws, attacked[-1], self.drawing.count)
        if attacked and all("refused" in part.told for part in attacked):
            raise InputError(attacked[0].told["refused"])
        seen = batch.logits[~batch.failed].argmax(1).cpu().bincount(minlength=batch.logits.shape[1])
        draws["seen"] = seen if self.criterion.outputs == "classes" else seen[:0]
        samples = nearest(batch, attacked) if self.keep_samples else None
        for part in attacked:
            part.tensors.pop("x_adv", None)
            part.tensors = self.shelf.keep(part.tensors)
        return self.shelf.keep(verdict), self.shelf.keep(draws), attacked, samples

    def attack(
        self, number: int, name: str, batch: Batch, verdict: dict[str, Tensor], at: Counted, data: str
    ) -> Part:
        """Run an attack on a batch, unless the folder holds what it did."""
        points = self.keep_samples or self.parts.path is not None

        def make() -> Part:
            with self.drawing.kept(batch.x.device, number, 1 + crc32(name.encode())):
                attack = self.events.begun(name, self.attacks[name])
                several, box = self.drawing.count > 1, self.box
                try:
                    return outcome(name, attack, self.frozen, batch, points, several, at, self.criterion, box)
                except InputError as error:
                    if error.argument not in REFUSALS:
                        raise
                    refused = {"refused": str(error)}
            return Part(untouched(batch, points).tensors | at(batch.x), refused)

        place = self.parts.places.get(name, 0)
        return self.parts.get(f"{number:05d}-{place:02d}", verdict, make, data)

    def judge(self, done: Sequence[Measured], started: float) -> Table:
        """Put the batches together."""
        frozen, drawing = self.frozen, self.drawing
        verdicts, draws, attacked, samples = zip(*done, strict=True)
        correct, failed, ids = (
            torch.cat([one[name] for one in verdicts]) for name in ("correct", "failed", "ids")
        )
        found = [*zip(*attacked, strict=True)]
        clean = all_draws(draws, correct, drawing)
        titles = [getattr(attack, "title", "") for attack in self.attacks.values()]
        rows = told_apart([
            replace(row(name, correct, minimizes(one), parts, drawing, clean),
                    attack=name_of(one), heading=title)
            for (name, one), title, parts in zip(self.attacks.items(), titles, found, strict=True)
        ])  # fmt: skip
        together = None
        if self.keep_samples:
            together = Samples.together(samples)
            together.add_components([one.components for one in rows])
        said, signs = remarks(correct, failed, draws), None
        if self.looked and rows:
            ran = [place for place, one in enumerate(rows) if not one.refused]
            both = [rows[place] for place in ran], [found[place] for place in ran]
            given = frozen, self.dataset, *both, correct, ids, self.batch_size, self.parts
            eots = [
                bound(each, "eot") or EOT * (bound(each, "version") == "rand")
                for each in self.attacks.values()
            ]
            asked = [each for one in self.attacks.values() if (each := bound(one, "criterion")) is not None]
            signs = processes.from_first(
                lambda: masking.indicators(*given, self.criterion, said, max(frozen.eot, *eots), asked)
            )
        # the clock of the first process, and the parts that all have read
        times = processes.tell((time.perf_counter() - started, self.parts.seconds))
        seconds = times[0][0] + sum(before for _, before in times)
        told = replaced(frozen.model)
        return Table(
            rows, correct, failed, ids, seconds, together, told, signs, clean, criterion=self.criterion,
            sums=all_sums(draws), remarks=said,
        )  # fmt: skip


def description(
    frozen: Prepared, attacks: Mapping[str, Attack], identity: str | None = None
) -> dict[str, Any]:
    """Describe what an evaluation is of, but for its data, as JSON."""
    model = describe(frozen.model, identity=identity)
    return {
        "model": dict(zip(("code", "weights"), model, strict=True)) if isinstance(model, list) else model,
        "attacks": [[name, describe(attack, identity=identity)] for name, attack in attacks.items()],
        "identity": identity,
    }


def check_evaluation(dataset: Dataset[Any], batch_size: int, limit: int | None) -> None:
    check_count("batch_size", batch_size, 1)
    first_samples(dataset, limit, tell=True)
