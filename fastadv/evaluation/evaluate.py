"""A model measured on a data set, without an attack and under attacks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastadv._checks import OnEvent, check_on_event, knowing
from fastadv.answers import answers
from fastadv.attacks.core.criterion import Criterion
from fastadv.data.content import describe_data
from fastadv.data.corruption.card import SEVERITIES
from fastadv.data.given import Data
from fastadv.data.sampling import sample_count
from fastadv.engine import Frozen, Model, Prepared
from fastadv.engine.module import replaced
from fastadv.engine.precision import Options
from fastadv.errors import InputError
from fastadv.evaluation import _masking as masking
from fastadv.evaluation import _rows
from fastadv.evaluation._auditing import Auditing, auditors
from fastadv.evaluation._events import Events
from fastadv.evaluation._parts import IDENTITY, Parts
from fastadv.evaluation.audit import Audit
from fastadv.evaluation.corruption import Corruptions, measured, selected
from fastadv.evaluation.row import Samples, component_of, told_apart
from fastadv.evaluation.sums import sums_at
from fastadv.evaluation.table import UNSERVED, Table
from fastadv.hashes import data_hash
from fastadv.measure.attacks import Attacks
from fastadv.measure.batch import Batch
from fastadv.measure.bound import Threats
from fastadv.measure.drawing import Drawing
from fastadv.measure.job import Job, description, environment, prepared
from fastadv.measure.outcome import Part, attacked, check_some_ran, columns, joined
from fastadv.models._common import stated_accuracy
from fastadv.progress import Progress, check_progress, shown
from fastadv.runs import processes
from fastadv.runs.identity import ANSWERS, BY_NAME, FORMAT, describe

SEARCHED = ("x_adv", "success", "status", "distance", "by")  # of samples, what attacks in one norm decide


@knowing
def evaluate(
    model: nn.Module | Prepared, dataset: Data, attacks: Attacks | None = None, *,
    threat: Threats | None = None, batch_size: int = 256, limit: int | None = None,
    keep_samples: bool = False, draws: int = 1, seed: int = 0, run_dir: str | PathLike[str] | None = None,
    resume: bool = False, identity: str | None = None, indicators: bool = True, progress: Progress = False,
    on_event: OnEvent | None = None, freeze: bool | None = None, criterion: Criterion | None = None,
    grey_box: Model | Prepared | None = None, corruptions: str | Sequence[str] | None = None,
    severities: int | Sequence[int] = SEVERITIES, published: str | PathLike[str] | None = None,
    audit: int | Audit | None = None,
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
        attacks: a name or several, such as "pgd" or ["pgd", "autoattack:version=quick"], with arguments as
            commands have them; functions (model, x, y) -> AttackResult, which may take `ids`, as
            `partial(fa.attacks.pgd, threat=fa.Linf(8 / 255))`; or a dictionary of both, whose keys are the
            names of rows. None measures the clean accuracy alone. A row says why its attack does not serve
            the threat. A function of your own may return x_adv alone; of its successes those count that the
            model confirms, at points inside its threat and the box.
        threat: of the attacks that have none bound to them, and in which points of functions without one are
            judged; alone, its box is the data's. Of several, such as
            [fa.Linf(8 / 255), fa.L1(12)], each attack has a row for each, named like "apgd Linf", and
            `worst_case` is their union: the share of samples that are right under all.
        batch_size: samples attacked at once; where memory runs out, passes go in halves.
        limit: use the first samples only, this many. Of a sorted set, as of class folders, this many are
            drawn by class with a fixed seed, and a warning and the table say so. None uses all.
        keep_samples: keep every sample with its nearest adversarial example over all attacks
            (`table.samples`), and where these are of several norms, over those of each (`table.by_norm`).
        draws: for a randomized model, classify each sample this many times, and its x_adv after each attack.
            That is made for all that are right in any draw. Accuracies are those of one draw, beside those
            of the majority and the worst draw (`Table.draws`, `Row.draws`). These passes are not counted
            among those of an attack.
        seed: of corruptions, and of attacks to which none is bound; with several draws also of all that the
            model takes from the generators of torch, NumPy and Python, which are restored afterwards. A
            generator of the model's own is not seeded.
        run_dir: a folder in which each attack's result on each batch is kept as soon as it is there. A
            stopped evaluation loses at most one batch of one attack. None keeps nothing.
        resume: continue the evaluation of `run_dir`, which must be of the same model, data and arguments;
            there may be more attacks and more samples, which are added to what is there.
        identity: a text that represents your own model and attacks. Without it a model is known by its
            weights and its logits of 16 samples, an attack by its arguments and the source of its function:
            what that reads or calls in its module may change unnoticed. With a `run_dir` it is needed for a
            lambda, and for a function that holds objects.
        indicators: look for signs of masked gradients (`fastadv.attacks.indicators`) in the results of the
            attacks, and at eight samples in at most twelve passes. `table.verdict` is the conclusion. An
            attack that needs a gradient where the model has none breaks nothing, and a flag says so.
        progress: True shows a bar on stderr, with the attack and the robust accuracy so far, the most queries
            of an image, and the probes of the verdict at the end; a function is called with (samples done,
            samples) summed over the attacks.
        on_event: called in the first process with a dictionary as soon as an attack is done with a batch. Its
            "step" is the number of samples done, "attack" the name; "clean_accuracy", "robust_accuracy" and
            "seconds" are over these samples, the last two by name. What is read from `run_dir` is told, too.
            Where a corruption is done at a severity, it has "corruption", "severity" and "accuracy".
        freeze: whether to search on a frozen copy (`fastadv.freeze`), made once; None, the default, does so
            where the steps of the attacks times the samples are many. A Frozen is used as it is.
        criterion: of the attacks that have none bound to them, such as `fa.attacks.Signs()`: accuracy is then
            the share of samples that are right by it. It may add figures of its own to the table. Two
            indicators are of classes or one logit, several draws of classes alone.
        grey_box: the net inside, without its defense: x [B, ...] to logits [B, K]. One more row, "grey box",
            judges on the model what the first attack of `fastadv.attacks` makes of this net, to its last
            step. Where it leaves more than the attacks on the model do, the defense was not what resisted.
            Its passes are of that net, and are not counted; images that are wrong there stay as they are.
        corruptions: common corruptions, under which the accuracy is measured, too: "c15", "all", or names
            (`fa.data.corrupted`). `Table.corruption` has the figures.
        severities: of the corruptions, each from 1 to 5.
        published: folder of published files that were made of the data, such as CIFAR-10-C, whose images and
            labels are measured. None corrupts the data itself, by `seed`.
        audit: draw so many of the samples that hold, by `seed`, and attack them with AutoAttack; or an
            `Audit` with another attack, a limit of seconds, or a confidence. The attacks of the call are then
            a screen, and `Table.audit` bounds what they missed. With several threats each has an audit.

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
    kept = run_dir is not None
    with processes.agreement():
        drawing, asked = Drawing(draws, seed), Audit.of(audit)
        if asked is not None and draws > 1:
            raise InputError(f"audit: expected draws=1, got {draws}; leave out one of both")
        check_on_event(on_event)
        check_progress(progress)
        if resume and not kept:
            raise InputError("resume: expected the run_dir of an evaluation, got none; pass run_dir=")
        job = prepared(
            model, dataset, attacks, batch_size, limit, threat, criterion,
            freeze=freeze, grey_box=grey_box, seed=seed, beside=asked.work if asked else 0,
        )  # fmt: skip
        if job.criterion.outputs != "classes":
            _check_classes_alone(job.criterion, draws=draws > 1, corruptions=corruptions is not None)
        cells = selected(job, corruptions, severities, seed, published)
        count = sample_count(job.dataset, limit)
        config: dict[str, Any] = {"attacks": [[name, None] for name in job.attacks], "samples": [count]}
        code = identity if kept else BY_NAME
        if kept or processes.world() > 1:
            # options as asked for, not as the amount of work decides, which may grow
            options = model.options if isinstance(model, Frozen) else Options()
            config |= {"search": options.describe(), "batch_size": batch_size}
            config |= _config(job, drawing, criterion, identity, code)
        config["attacks"] += cells.describe()
        audits = auditors(job, asked, seed, criterion, code) if asked else ()
    if processes.world() > 1:
        alike = {"keep_samples": keep_samples, "run_dir": run_dir and str(run_dir), "resume": resume}
        alike["audit"] = repr((asked and replace(asked, attack=""), [one.about for one in audits]))
        processes.check_alike({**config, **alike, **environment(job)})
    showing = shown(progress, "evaluating")
    with job.frozen.in_eval(), drawing.patient(job.frozen), Parts(run_dir) as parts, showing as tick:
        parts.begun(IDENTITY, resume, "an evaluation", Path)
        parts.grow(config)
        earlier = [samples for samples in parts.samples if samples < count]
        job = replace(job, drawing=drawing, earlier=earlier)
        audited = asked.samples * len(audits) if asked else 0
        events = Events(on_event, tick, count * len(config["attacks"]) + audited)
        auditing = Auditing(job, asked, audits, seed, parts, events) if asked else None
        return Evaluation(job, keep_samples, parts, indicators, events, cells, auditing).table()


def _check_classes_alone(criterion: Criterion, **asked: bool) -> None:
    """Refuse what is of classes alone under a criterion of other outputs."""
    for name in (name for name, wanted in asked.items() if wanted):
        raise InputError(f"{name}: expected none with {criterion!r}, as they are of classes; leave it out")


def _config(
    job: Job, drawing: Drawing, criterion: Criterion | None, identity: str | None, code: str | None
) -> dict[str, Any]:
    """Describe what is evaluated, code as `code` says: a folder with another description is not resumed."""
    config: dict[str, Any] = {**FORMAT, **description(job, code), "identity": identity}
    config["data"] = describe_data(job.dataset)
    if criterion is not None:
        config["criterion"] = describe(criterion, identity=code)
    if drawing.count > 1:
        config |= {"draws": drawing.count, "seed": drawing.seed}
    if identity is None:
        size = min(job.batch_size, job.sizes[1])
        x, _, _ = next(job.read(torch.arange(size, device="cpu"), size, workers=0))
        config[ANSWERS] = answers(job.frozen, x)
    return config


@dataclass(frozen=True)
class Evaluation:
    """A job with what is kept and told of it."""

    job: Job
    keep_samples: bool
    parts: Parts
    indicators: bool  # whether signs of masking are looked for
    events: Events
    corruptions: Corruptions
    auditing: Auditing | None = None

    def table(self) -> Table:
        """Attack all batches, and put them together."""
        started, done = time.perf_counter(), list[list[Part]]()
        with self.job.drawing.kept(self.job.frozen.device):
            for clean, *parts in self.job.results(self.measure):
                done.append([clean, *parts])
                if processes.world() > 1:
                    for name, part in zip(self.job.attacks, parts, strict=True):
                        self.events.finished(name, clean, part, self.job.drawing.count)
            corruption = measured(self.job, self.corruptions, self.parts, self.events)
        return replace(self.judge(done, started), corruption=corruption)

    def measure(self, batch: Batch) -> list[Part]:
        """Measure a batch without an attack, and under each."""
        verdict = {name: getattr(batch, name).cpu() for name in ("correct", "failed", "ids")}
        counted = self.count_at(batch.x, batch)
        if self.job.drawing.count > 1:
            batch = batch.as_right((counted["draws.right"] > 0).to(batch.x.device))
        labels = {"y": batch.y.cpu()} if self.job.criterion.outputs == "classes" else {}
        clean, parts = Part({**verdict, **counted, **labels, "seen": batch.seen}), list[Part]()
        kept = self.parts.path is not None
        data, points = data_hash(batch.x, batch.y) if kept else "", kept or self.keep_samples
        for name in self.job.attacks:
            file = f"{batch.number:05d}-{self.parts.places[name]:02d}"
            part = self.parts.kept(file, verdict, data)
            if part is None:
                attack = self.events.begun(
                    name, self.job.attacks[name], batch.classifier.counts, len(batch.x)
                )
                part, x_adv = attacked(self.job, name, attack, batch, points)
                part.tensors.update(self.count_at(x_adv, batch))
                self.parts.add(file, verdict, part, data)
            parts.append(part)
            if processes.world() == 1:
                self.events.finished(name, clean, part, self.job.drawing.count)
        check_some_ran(parts)
        if self.keep_samples:
            whole = _rows.nearest(batch, parts)
            clean.tensors.update({f"samples.{name}": values for name, values in whole.items()})
            for number, places in enumerate(_rows.by_norm(self.job.attacks)):
                among = _rows.nearest(batch, parts, places)
                clean.tensors.update({f"norm {number}.{name}": among[name] for name in SEARCHED})
        for part in parts:
            part.tensors.pop("x_adv", None)  # points that nobody needs any more
        return [clean, *parts]

    def count_at(self, x: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return what counts at points x [B, ...] of a batch: sums of the criterion, and draws."""
        frozen = batch.classifier
        with self.job.drawing.kept(x.device, batch.number, 0, 1):
            counted = {f"sums.{k}": v for k, v in sums_at(self.job.criterion, frozen, x, batch.y).items()}
        if self.job.drawing.count > 1:
            drawn = self.job.drawing.draw(frozen, x, batch.y, batch.number)
            counted |= {f"draws.{name}": value.cpu() for name, value in drawn.items()}
        return counted

    def judge(self, done: Sequence[Sequence[Part]], started: float) -> Table:
        """Put the batches together, each without an attack and under each."""
        parts, *by_attack = zip(*done, strict=True)
        correct, failed, ids = (joined(parts, name) for name in ("correct", "failed", "ids"))
        self.job.check_finite(len(failed), int(failed.sum()))
        clean = _rows.draws_of(parts, correct, self.job.drawing.count)
        rows = told_apart([
            _rows.row(name, attack, correct, own_parts, self.job.drawing.count, clean)
            for (name, attack), own_parts in zip(self.job.attacks.items(), by_attack, strict=True)
        ])  # fmt: skip
        samples, by_norm = None, dict[str, Samples]()
        if self.keep_samples:
            values = columns(parts, "samples")
            samples = Samples(**values, component=component_of(values["by"], rows))
            for number, places in enumerate(_rows.by_norm(self.job.attacks)):
                values, ran = columns(parts, f"norm {number}"), [rows[k] for k in places if rows[k].threat]
                part = replace(samples, **values, component=component_of(values["by"], rows))
                by_norm |= {row.threat.metric: part for row in ran[:1] if row.threat}
        seen = torch.stack([part["seen"] for part in parts]).sum(0)
        stated, signs = stated_accuracy(self.job.frozen.source), None
        remarks = _rows.remarks(correct, failed, seen, stated)
        unserved = _rows.unserved(self.job.attacks.values(), rows)
        began = time.perf_counter()
        if self.indicators and rows:
            self.events.judging()
            look = partial(masking.indicators, self.job, self.parts, rows, by_attack, correct, ids)
            signs = processes.from_first(look)
            unseen = {**signs.unseen, **dict.fromkeys(unserved, UNSERVED)}
            signs = replace(signs, remarks=[*signs.remarks, *remarks], unseen=unseen)
        probing = time.perf_counter() - began if signs else 0.0
        audits = tuple(self.auditing.results(rows, ids)) if self.auditing else ()
        # the clock of the first process, and the parts that all have read
        times = processes.tell((time.perf_counter() - started, self.parts.seconds, probing))
        seconds = times[0][0] + sum(before for _, before, _ in times)
        return Table(
            rows, correct, failed, ids, seconds, samples, replaced(self.job.frozen.model), signs, clean,
            criterion=self.job.criterion, sums=columns(parts, "sums"), remarks=remarks,
            unserved=unserved, chosen=self.job.chosen, audits=audits, by_norm=by_norm,
            y=joined(parts, "y") if "y" in parts[0].tensors else None, probing=times[0][2],
        )  # fmt: skip
