"""A model measured on a data set, without an attack and under attacks."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv._checks import check_count
from fastadv.attacks import ABS_ATTACKS, ATTACKS, SUBSTITUTE_ATTACKS
from fastadv.data import batches
from fastadv.engine import Frozen, freeze
from fastadv.engine.twin import device_of
from fastadv.errors import InputError
from fastadv.evaluation._outcome import Attack, Batch, Part, nearest, outcome, row
from fastadv.evaluation._parts import Parts
from fastadv.evaluation.samples import Samples
from fastadv.evaluation.table import Table


def evaluate(
    model: nn.Module | Frozen,
    dataset: Dataset[Any],
    attacks: Mapping[str, Attack] | None = None,
    *,
    batch_size: int = 256,
    limit: int | None = None,
    keep_examples: int = 0,
    keep_samples: bool = False,
    run_dir: str | PathLike[str] | None = None,
    resume: bool = False,
) -> Table:
    """Clean accuracy, and for each attack robust accuracy, success rate, distances and cost.

    They are those of the first `limit` samples. The model is frozen once. Every attack gets the samples of a
    batch with their ids, so results do not depend on `batch_size`. Samples for which the model's logits are
    not finite count as not correct and are not attacked; `Table.failed` says which they are.

    keep_examples: keep the first samples that each attack broke, at most that many (`table[name].examples`).
    keep_samples: keep every sample with its nearest adversarial example over all attacks, which should be of
        one norm (`table.samples`).
    run_dir: a folder in which each attack's result on each batch is kept as soon as it is there, with its
        adversarial examples. A stopped evaluation loses at most one batch of one attack.
    resume: go on with the evaluation of `run_dir`, which must be of the same model, data and arguments.

    Raises InputError for an empty data set, labels that are not classes of the model, logits that are not [B,
    K], a model without finite logits for any sample, `resume` without a folder, and a folder that holds an
    evaluation already or that of another; CorruptFileError for a damaged file in it.
    """
    attacks = dict(attacks or {})
    check_evaluation(dataset, attacks, batch_size, limit)
    check_count("keep_examples", keep_examples, 0)
    if resume and run_dir is None:
        raise InputError("resume: expected a run_dir to go on with, got none; pass run_dir as well")
    started = time.perf_counter()
    frozen = freeze(model)
    collected: dict[str, list[Part]] = {name: [] for name in attacks}
    verdicts: list[dict[str, Tensor]] = []
    kept: list[Samples] = []
    with ExitStack() as stack:
        parts = Parts()
        if run_dir is not None:
            options = {"batch_size": batch_size, "limit": limit, "keep_examples": keep_examples}
            parts = stack.enter_context(Parts.opened(run_dir, resume, frozen, dataset, attacks, options))
        for number, batch in enumerate(predictions(frozen, dataset, batch_size, limit)):
            told = {name: getattr(batch, name).cpu() for name in ("correct", "failed", "ids")}
            verdicts.append(told)
            for place, (name, attack) in enumerate(attacks.items()):
                wanted = keep_examples - sum(len(p.tensors.get("example.y", ())) for p in collected[name])
                make = partial(outcome, name, attack, frozen, batch, wanted, keep_samples or parts.kept)
                collected[name].append(parts.get(f"{number:05d}-{place:02d}", told, make))
            now = [rows[-1] for rows in collected.values()]
            if keep_samples:
                kept.append(nearest(batch, now))
            for part in now:
                part.tensors.pop("x_adv", None)
    correct, failed, numbers = (torch.cat([one[k] for one in verdicts]) for k in ("correct", "failed", "ids"))
    rows = tuple(row(name, correct, minimizes(attacks[name]), found) for name, found in collected.items())
    samples = Samples.together(kept) if keep_samples else None
    if samples is not None:
        samples.add_components([one.components for one in rows])
    seconds = time.perf_counter() - started + parts.seconds
    return Table(rows, correct, failed, numbers, seconds, samples)


def minimizes(attack: Any) -> bool:
    """Whether it is a minimum-norm attack of `fastadv.attacks`, with or without arguments bound to it."""
    entries = (ATTACKS, ABS_ATTACKS, SUBSTITUTE_ATTACKS)
    known = [entry.run for each in entries for entry in each.values() if entry.minimal]
    while attack is not None and not any(attack is one for one in known):
        attack = getattr(attack, "func", getattr(attack, "__wrapped__", None))
    return attack is not None


def check_evaluation(
    dataset: Dataset[Any], attacks: Mapping[str, Attack], batch_size: int, limit: int | None
) -> None:
    """Raise InputError for an evaluation that cannot work."""
    check_count("batch_size", batch_size, 1)
    if limit is not None:
        check_count("limit", limit, 1)
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise InputError("dataset: expected at least one sample, got an empty data set")
    for name, attack in attacks.items():
        if not callable(attack):
            raise InputError(
                f"attacks[{name!r}]: expected a function (model, x, y, ids=ids), "
                f"got {type(attack).__name__}; functools.partial makes one"
            )


def predictions(frozen: Frozen, dataset: Dataset[Any], batch_size: int, limit: int | None) -> Iterator[Batch]:
    """The data set batch by batch, with labels and logits checked."""
    size = len(dataset)  # type: ignore[arg-type]
    order = None if limit is None or limit >= size else torch.arange(limit)
    device = device_of(frozen.model) if isinstance(frozen.model, nn.Module) else None
    usable = False
    for x, y, ids in batches(dataset, batch_size, order=order):
        x, y, ids = (tensor.to(device) if device else tensor for tensor in (x, y, ids))
        logits = frozen.verdict(x)
        if y.min() < 0 or y.max() >= logits.shape[1]:
            raise InputError(
                f"dataset: expected labels from 0 to {logits.shape[1] - 1}, the model's classes, "
                f"got {int(y.min())} to {int(y.max())}; map the labels"
            )
        failed = ~logits.isfinite().all(1)
        usable = usable or not bool(failed.all())
        yield Batch(x, y, ids, logits.argmax(1), failed)
    if not usable:
        raise InputError(
            "model: expected finite logits, got NaN or infinity for every sample; "
            "check its weights and input scale"
        )
