"""A model measured on a data set, without an attack and under attacks."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv._checks import OnEvent, check_count, check_on_event
from fastadv.attacks import ABS_ATTACKS, ATTACKS, SUBSTITUTE_ATTACKS
from fastadv.attacks.core.common import planned
from fastadv.data._batches import device_for
from fastadv.data.sampling import first_samples, sample_count
from fastadv.engine import Prepared, prepare
from fastadv.engine.replaced import replaced
from fastadv.errors import InputError
from fastadv.evaluation import _masking as masking
from fastadv.evaluation._events import Events
from fastadv.evaluation._outcome import Attack, Batch, Part, all_draws, nearest, outcome, row
from fastadv.evaluation._parts import IDENTITY, Parts, check_apart
from fastadv.evaluation._shelf import Shelf
from fastadv.evaluation._turns import in_turn
from fastadv.evaluation.draws import ONE_DRAW, Drawing
from fastadv.evaluation.samples import Samples
from fastadv.evaluation.table import Table
from fastadv.runs import processes
from fastadv.runs.description import check_described, describe, describe_shared
from fastadv.runs.files import read_json


def evaluate(
    model: nn.Module | Prepared,
    dataset: Dataset[Any],
    attacks: Mapping[str, Attack] | None = None,
    *,
    batch_size: int = 256,
    limit: int | None = None,
    keep_examples: int = 0,
    keep_samples: bool = False,
    draws: int = 1,
    seed: int = 0,
    run_dir: str | PathLike[str] | None = None,
    resume: bool = False,
    identity: str | None = None,
    indicators: bool = True,
    rank: int | None = None,
    world_size: int | None = None,
    on_event: OnEvent | None = None,
    freeze: bool | None = None,
) -> Table:
    """Measure clean accuracy and, for each attack, robust accuracy, success rate, distances and cost.

    Every attack gets the samples of a batch with their ids, so results do not
    depend on `batch_size`. Samples for which the model's logits are not finite count as not correct and are
    not attacked; `Table.failed` marks them.

    Where a process group is initialized, as under torchrun, its processes take the batches in turn, each
    keeps in `run_dir` what it finishes, and all return the table of one process; the seconds of an attack are
    those of all processes together. An evaluation resumes with any number of them. Where one is lost, the
    others raise LostProcessError.

    Args:
        model: a module or Frozen; x [B, ...] to logits [B, K].
        dataset: of pairs (x, y), such as an `ImageSet`; y are classes of the model.
        attacks: by name, functions (model, x, y, ids=...) -> AttackResult, such as
            `functools.partial(fa.attacks.pgd, threat=fa.Linf(8 / 255))`. None measures the clean accuracy
            alone.
        batch_size: samples attacked at once. Where memory runs out, passes go in halves, and nothing is lost.
        limit: use the first samples only, this many. Of a sorted set, whose first samples lack classes, this
            many are drawn by class with a fixed seed, and a warning and the table say so. None uses all.
        keep_examples: keep the first samples that each attack broke, at most this many
            (`table[name].examples`).
        keep_samples: keep every sample with its nearest adversarial example over all attacks, which should be
            of one norm (`table.samples`).
        draws: for a randomized model, classify each sample this many times, and its x_adv after each attack:
            the table reports the accuracy of one draw, of the majority, of the mean output and of the worst
            draw (`Table.draws`, `Row.draws`). These passes are not counted among those of an attack.
        seed: with several draws, of all that the model takes from the generators of torch, NumPy and Python,
            also under attack, batch by batch. The generators are restored afterwards. A generator of the
            model's own is not seeded.
        run_dir: a folder in which each attack's result on each batch is kept as soon as it is there, with its
            adversarial examples. A stopped evaluation loses at most one batch of one attack. None keeps
            nothing.
        resume: continue the evaluation of `run_dir`, which must be of the same model, data and arguments.
        identity: a text that represents the code of your own model classes and attacks, which are otherwise
            known by their source; change it when that code changes. Needed where a source cannot be read.
        indicators: look for signs of masked gradients (`fastadv.attacks.indicators`) in the results of the
            attacks, and on 8 to 200 samples, on more than 8 as far as 5% of their passes reach.
            `table.verdict` is the conclusion. An attack that needs a gradient where the model has none breaks
            nothing, and a flag says that it was not possible.
        rank: for processes that do not communicate, such as the jobs of an array: this one works on the
            batches k with k % world_size == rank, returns the table of these, without indicators, and records
            in `run_dir`, its own or a common one, that it is done. With all shares, put together by
            `fastadv.evaluation.merge`, `resume` without a rank gives the whole table.
        world_size: the number of such processes.
        on_event: called with a dictionary as soon as an attack is done with a batch. Its "step" is the number
            of samples done; "attack" is the name; "clean_accuracy", "robust_accuracy" and "seconds" are over
            these samples, the last two by name. Batches that are read from `run_dir` are told, too. Of
            several processes the first one tells the batches of all, each when it is whole.
        freeze: whether to search on a frozen copy (`fastadv.freeze`), made once; None, the default, does so
            where the steps of the attacks times the samples are many. A Frozen is used as it is.

    Returns:
        A `Table`; `print(table)` shows it.

    Raises:
        InputError: the data set is empty, labels are not classes of the model, logits are not [B, K], or
            finite for no sample; `resume` is given without a folder; the folder already holds an evaluation,
            or another one; on_event is no function; or processes were called with different arguments.
        CorruptFileError: a file in the folder is damaged.

    Example:
        >>> from functools import partial
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test")
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> attacks = {"FGSM": partial(fa.attacks.fgsm, threat=fa.Linf(0.1))}
        >>> table = fa.evaluate(model, digits, attacks, limit=50)
        >>> table["FGSM"].robust_accuracy <= table.clean_accuracy
        True
    """
    with processes.agreement():
        attacks = dict(attacks or {})
        check_evaluation(dataset, attacks, batch_size, limit)
        check_count("keep_examples", keep_examples, 0)
        drawing = Drawing(draws, seed)
        events = Events(check_on_event(on_event))
        if resume and run_dir is None:
            raise InputError("resume: expected a run_dir to go on with, got none; pass run_dir as well")
        if apart := (rank, world_size) != (None, None):
            check_apart(run_dir)
            # before the folder is that of an evaluation that cannot be
            batches = -(-sample_count(dataset, limit) // batch_size)
            processes.apart(batches, rank, world_size, each="batches", size="batch_size")
        work = planned(*attacks.values()) * sample_count(dataset, limit)
        frozen = prepare(model, work=work, freeze=freeze)
        config: dict[str, Any] = {"batch_size": batch_size, "limit": limit, "keep_examples": keep_examples}
        if draws > 1:
            config |= {"draws": draws, "seed": seed}
        if run_dir is not None or processes.world() > 1:
            config |= description(frozen, attacks, identity)
        if run_dir is not None:
            check_described(config)
    if run_dir is not None or processes.world() > 1:
        config["data"] = describe_shared(dataset)
    if processes.world() > 1:
        asked = {"keep_samples": keep_samples, "run_dir": run_dir and str(run_dir), "resume": resume}
        processes.check_alike({**config, **asked, "torch": torch.__version__})
    with Parts(run_dir, shared=apart) as parts:
        parts.begun(IDENTITY, resume, "an evaluation", read_json)
        parts.identity = parts.identify(IDENTITY, config)
        own = partial(processes.apart, rank=rank, world_size=world_size, each="batches", size="batch_size")
        table = table_of(
            frozen, dataset, attacks, batch_size, limit, keep_examples=keep_examples,
            keep_samples=keep_samples, parts=parts, looked=indicators and not apart, drawing=drawing, own=own,
            events=events,
        )  # fmt: skip
        if apart:
            parts.finished(rank or 0, world_size or 1, batches, len(attacks))
        return table


def table_of(
    frozen: Prepared,
    dataset: Dataset[Any],
    attacks: Mapping[str, Attack],
    batch_size: int,
    limit: int | None,
    *,
    keep_examples: int = 0,
    keep_samples: bool = False,
    parts: Parts | None = None,
    looked: bool = False,
    drawing: Drawing = ONE_DRAW,
    own: Callable[[int], Sequence[int]] = range,
    events: Events | None = None,
) -> Table:
    """Return `evaluate` with arguments that were checked, in processes that are known to be called alike."""
    started = time.perf_counter()
    kept = Parts(None) if parts is None else parts
    points = keep_samples or kept.path is not None
    events = events or Events(None)
    alone, shelf = processes.world() == 1, Shelf()

    def attacked(number: int, place: int, name: str, batch: Batch) -> Part:
        with drawing.kept(batch.x.device, number, place + 1):
            return outcome(name, attacks[name], frozen, batch, keep_examples, points, drawing)

    def work(
        number: int, batch: Batch
    ) -> tuple[dict[str, Tensor], list[Part], Samples | None, dict[str, Tensor]]:
        batch, drawn = _drawn(frozen, drawing, number, batch)
        told = {name: getattr(batch, name).cpu() for name in ("correct", "failed", "ids")}
        found = []
        for place, name in enumerate(attacks):
            make = partial(attacked, number, place, name, batch)
            found.append(kept.get(f"{number:05d}-{place:02d}", told, make))
            if alone:
                events.finished(name, told, found[-1])
        samples = nearest(batch, found) if keep_samples else None
        for part in found:
            part.tensors.pop("x_adv", None)
            part.tensors = shelf.keep(part.tensors)
        return shelf.keep(told), found, samples, shelf.keep(drawn)

    with drawing.kept(device_for(frozen) or torch.device("cpu")):
        done = []
        for made in in_turn(frozen, dataset, batch_size, limit, work, own):
            done.append(made)
            if not alone:
                for name, part in zip(attacks, made[1], strict=True):
                    events.finished(name, made[0], part)
    verdicts, found, samples, drawn = zip(*done, strict=True)
    correct, failed, ids = (torch.cat([one[k] for one in verdicts]) for k in ("correct", "failed", "ids"))
    rows = tuple(
        row(name, correct, minimizes(attack), [each[place] for each in found], keep_examples, drawing)
        for place, (name, attack) in enumerate(attacks.items())
    )
    together = Samples.together(samples) if keep_samples else None
    if together is not None:
        together.add_components([one.components for one in rows])
    signs = None
    if looked and rows:
        each = [[one[place] for one in found] for place in range(len(rows))]
        signs = processes.from_first(
            lambda: masking.indicators(frozen, dataset, attacks, rows, each, correct, ids, batch_size, kept)
        )
    # the clock of the first process, and the parts that all have read
    seconds, before = zip(*processes.tell((time.perf_counter() - started, kept.seconds)), strict=True)
    told = replaced(frozen.model)
    clean = all_draws(drawn, correct, drawing)
    return Table(rows, correct, failed, ids, seconds[0] + sum(before), together, told, signs, clean)


def _drawn(frozen: Prepared, drawing: Drawing, number: int, batch: Batch) -> tuple[Batch, dict[str, Tensor]]:
    """Return the batch `number` and its clean draws: with several, its verdict follows from the seed, too."""
    if drawing.count == 1:
        return batch, {}
    with drawing.kept(batch.x.device, number, 0):
        logits = frozen.verdict(batch.x)
        drawn = drawing.draw(frozen, batch.x, batch.y)
    batch = batch._replace(prediction=logits.argmax(1), failed=~logits.isfinite().all(1))
    return batch, {f"draws.{key}": value.cpu() for key, value in drawn.items()}


def description(
    frozen: Prepared, attacks: Mapping[str, Attack], identity: str | None = None
) -> dict[str, Any]:
    """Describe what an evaluation is of, but for its data, as JSON."""
    return {
        "model": describe(frozen, identity=identity),
        "attacks": [[name, describe(attack, identity=identity)] for name, attack in attacks.items()],
        "identity": identity,
    }


def minimizes(attack: Any) -> bool:
    """Return whether it is a minimum-norm attack, perhaps with arguments bound to it: one of
    `fastadv.attacks`, or one with a `minimum` that says so.
    """
    entries = (ATTACKS, ABS_ATTACKS, SUBSTITUTE_ATTACKS)
    known = [entry.run for each in entries for entry in each.values() if entry.minimal]
    while attack is not None and not any(attack is one for one in known):
        if isinstance(says := getattr(attack, "minimum", None), bool):
            return says
        attack = getattr(attack, "func", getattr(attack, "__wrapped__", None))
    return attack is not None


def check_evaluation(
    dataset: Dataset[Any], attacks: Mapping[str, Attack], batch_size: int, limit: int | None
) -> None:
    """Raise InputError for an evaluation that cannot work."""
    check_count("batch_size", batch_size, 1)
    first_samples(dataset, limit, tell=True)
    for name, attack in attacks.items():
        if not callable(attack):
            raise InputError(
                f"attacks[{name!r}]: expected a function (model, x, y, ids=ids), "
                f"got {type(attack).__name__}; functools.partial makes one"
            )
