"""An evaluation as it runs: every batch is measured and attacked, and a table is made of all."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from zlib import crc32

import torch
from torch import Tensor

from fastadv.attacks.core.result import Status
from fastadv.attacks.core.trial import TWO_ANSWERS, right_at_times
from fastadv.engine.module import replaced
from fastadv.errors import InputError
from fastadv.evaluation import _masking as masking
from fastadv.evaluation import _outcome as outcomes
from fastadv.evaluation._events import Events
from fastadv.evaluation._outcome import Batch, Part, Shelf, attempted, joined
from fastadv.evaluation._parts import Parts
from fastadv.evaluation.draws import RANDOMIZED
from fastadv.evaluation.job import Job
from fastadv.evaluation.row import Samples, component_of, told_apart
from fastadv.evaluation.sums import sums_at
from fastadv.evaluation.table import Table
from fastadv.runs import processes
from fastadv.runs.card import data_hash

REFUSALS = ("threat", "radius", "points")  # arguments of which an attack says that it does not serve a threat


@dataclass(frozen=True)
class Evaluation:
    """A job with what is kept and told of it."""

    job: Job
    keep_samples: bool = False
    parts: Parts = field(default_factory=lambda: Parts(None))
    looked: bool = False  # whether signs of masking are looked for
    events: Events = field(default_factory=Events)
    shelf: Shelf = field(default_factory=Shelf)

    def table(self) -> Table:
        """Attack all batches, and put them together."""
        started, done = time.perf_counter(), list[list[Part]]()
        with self.job.drawing.kept(self.job.frozen.device):
            for clean, *attacked in self.job.results(self.measure):
                done.append([clean, *attacked])
                if processes.world() > 1:
                    for name, part in zip(self.job.attacks, attacked, strict=True):
                        self.events.finished(name, clean, part, self.job.drawing.count)
        return self.judge(done, started)

    def measure(self, batch: Batch) -> list[Part]:
        """Measure a batch without an attack, and under each."""
        verdict = {name: getattr(batch, name).cpu() for name in ("correct", "failed", "ids")}
        counted = self.count_at(batch.x, batch)
        if self.job.drawing.count > 1:
            drawn = batch.drawn | (counted["draws.right"] > 0).to(batch.x.device)
            batch = replace(batch, drawn=drawn)
        clean, attacked = Part({**verdict, **counted, "seen": batch.seen}), list[Part]()
        data = "" if self.parts.path is None else data_hash(batch.x, batch.y)
        for name in self.job.attacks:
            file = f"{batch.number:05d}-{self.parts.places.get(name, 0):02d}"
            part = self.parts.kept(file, verdict, data)
            if part is None:
                part = self.attack(name, batch)
                self.parts.add(file, verdict, part, data)
            attacked.append(part)
            if processes.world() == 1:
                self.events.finished(name, clean, part, self.job.drawing.count)
        if attacked and all("refused" in part.notes for part in attacked):
            raise InputError(attacked[0].notes["refused"])
        if self.keep_samples:
            kept = outcomes.nearest(batch, attacked)
            clean.tensors.update({f"samples.{name}": values for name, values in kept.items()})
        return [self.shelf.keep(part) for part in (clean, *attacked)]

    def count_at(self, x: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return what counts at points x [B, ...] of a batch: sums of the criterion, and draws."""
        frozen = batch.classifier
        with self.job.drawing.kept(x.device, batch.number, 0, 1):
            counted = {f"sums.{k}": v for k, v in sums_at(self.job.criterion, frozen, x, batch.y).items()}
        if self.job.drawing.count > 1:
            drawn = self.job.drawing.draw(frozen, x, batch.y, batch.number)
            counted |= {f"draws.{name}": value.cpu() for name, value in drawn.items()}
        return counted

    def attack(self, name: str, batch: Batch) -> Part:
        """Run an attack on a batch, or note why it does not serve the threat."""
        attack = self.events.begun(name, self.job.attacks[name])
        tensors = outcomes.untouched(batch, points=self.keep_samples or self.parts.path is not None)
        usable = (~batch.failed).nonzero().flatten()
        if not len(usable):
            return Part(tensors | self.count_at(batch.x, batch))
        some, claims, several = batch.take(usable), Counter[str](), self.job.drawing.count > 1
        started, compared = time.perf_counter(), self.job.frozen.compared
        # with several draws, all samples that are right in some of them are attacked
        token = right_at_times.set(some.ids[some.drawn] if several else None)
        try:
            with self.job.drawing.kept(batch.x.device, batch.number, 1 + crc32(name.encode())):
                result = attempted(name, attack, some, self.job.criterion, self.job.box, claims)
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
        passes = zip((result.forwards, result.backwards), self.job.frozen.compared, compared, strict=True)
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
        self.job.check_finite(len(failed), int(failed.sum()))
        clean = outcomes.draws_of(parts, correct, self.job.drawing.count)
        rows = told_apart([
            outcomes.row(name, attack, correct, own_parts, self.job.drawing.count, clean)
            for (name, attack), own_parts in zip(self.job.attacks.items(), attacked, strict=True)
        ])  # fmt: skip
        samples = None
        if self.keep_samples:
            values = outcomes.columns(parts, "samples")
            samples = Samples(**values, component=component_of(values["by"], rows))
        seen = torch.stack([part["seen"] for part in parts]).sum(0)
        remarks, signs = outcomes.remarks(correct, failed, seen), None
        if self.looked and rows:
            look = partial(masking.indicators, self.job, self.parts, rows, attacked, correct, ids)
            signs = processes.from_first(look)
            signs = replace(signs, remarks=[*signs.remarks, *remarks])
        # the clock of the first process, and the parts that all have read
        times = processes.tell((time.perf_counter() - started, self.parts.seconds))
        seconds = times[0][0] + sum(before for _, before in times)
        return Table(
            rows, correct, failed, ids, seconds, samples, replaced(self.job.frozen.model), signs, clean,
            criterion=self.job.criterion, sums=outcomes.columns(parts, "sums"), remarks=remarks,
        )  # fmt: skip
