"""A model measured on a data set, without an attack and under attacks."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv._checks import check_count
from fastadv.attacks import ABS_ATTACKS, ATTACKS, AttackResult, Status
from fastadv.data import batches
from fastadv.engine import Frozen, freeze
from fastadv.engine.twin import device_of
from fastadv.errors import InputError
from fastadv.evaluation._parts import Parts
from fastadv.evaluation.table import Examples, Row, Samples, Table

Attack = Callable[..., AttackResult]
"""(model, x, y, ids=ids) -> AttackResult; such as partial(fa.attacks.pgd, threat=fa.Linf(0.3), steps=40)."""
Part = dict[str, Tensor]


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
    run_dir: a folder in which each attack's result on each batch is kept as soon as it is there. A stopped
        evaluation loses at most one batch of one attack.
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
    verdicts: list[Part] = []
    kept: list[Samples] = []
    with ExitStack() as stack:
        parts = Parts()
        if run_dir is not None:
            options = {"batch_size": batch_size, "limit": limit, "keep_examples": keep_examples}
            options["keep_samples"] = keep_samples
            parts = stack.enter_context(Parts.opened(run_dir, resume, frozen, dataset, attacks, options))
        for number, batch in enumerate(predictions(frozen, dataset, batch_size, limit)):
            told = {name: getattr(batch, name).cpu() for name in ("correct", "failed", "ids")}
            verdicts.append(told)
            for place, (name, attack) in enumerate(attacks.items()):
                wanted = keep_examples - sum(len(part.get("example.y", ())) for part in collected[name])
                make = partial(_outcome, name, attack, frozen, batch, wanted, keep_samples)
                collected[name].append(parts.get(f"{number:05d}-{place:02d}", told, make))
            if keep_samples:
                kept.append(_nearest(batch, [rows[-1] for rows in collected.values()]))
                for rows in collected.values():
                    rows[-1].pop("x_adv")
    correct, failed, numbers = (torch.cat([one[k] for one in verdicts]) for k in ("correct", "failed", "ids"))
    return Table(
        tuple(_row(name, correct, minimizes(attacks[name]), rows) for name, rows in collected.items()),
        correct,
        failed,
        numbers,
        time.perf_counter() - started + parts.seconds,
        Samples.together(kept) if keep_samples else None,
    )


def minimizes(attack: Any) -> bool:
    """Whether it is a minimum-norm attack of `fastadv.attacks`, with or without arguments bound to it."""
    known = [entry for entry in (*ATTACKS.values(), *ABS_ATTACKS.values()) if entry.minimal]
    while attack is not None and not any(entry.run is attack for entry in known):
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


class Batch(NamedTuple):
    """Samples with the model's verdict, on its device; `failed` marks logits that are not finite."""

    x: Tensor
    y: Tensor
    ids: Tensor
    prediction: Tensor
    failed: Tensor

    @property
    def correct(self) -> Tensor:
        """bool [B]."""
        return (self.prediction == self.y) & ~self.failed

    def take(self, kept: Tensor) -> "Batch":
        """The samples `kept`, an index of the batch."""
        return Batch(*(value[kept] for value in self))


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


def run_attack(name: str, attack: Attack, frozen: Frozen, x: Tensor, y: Tensor, ids: Tensor) -> AttackResult:
    """Call an attack, and check that it answered for every sample."""
    result = attack(frozen, x, y, ids=ids)
    for part in ("success", "status", "distance", "zero_gradient"):
        value = getattr(result, part, None)
        if not isinstance(value, Tensor) or value.shape != y.shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"attacks[{name!r}]: expected an AttackResult with {part} of shape ({len(y)},), got {got}"
            )
    return result


def _outcome(
    name: str, attack: Attack, frozen: Frozen, whole: Batch, wanted: int, keep_samples: bool
) -> Part:
    """What one attack did to one batch, on the CPU."""
    size = len(whole.y)
    broken, failed, unmoved = (torch.zeros(size, dtype=torch.bool) for _ in range(3))
    part = {
        "broken": broken,
        "distance": torch.full((size,), torch.nan, dtype=torch.float64),
        "failed.attack": failed,
        "unmoved": unmoved,
        "cost": torch.zeros(2, dtype=torch.int64),
        "seconds": torch.zeros(1, dtype=torch.float64),
    }
    if keep_samples:
        part["x_adv"] = whole.x.to("cpu", copy=True)
    usable = (~whole.failed).nonzero().flatten()
    if not len(usable):
        return part
    batch = whole.take(usable)
    started = time.perf_counter()
    result = run_attack(name, attack, frozen, batch.x, batch.y, batch.ids)
    right = batch.correct
    success = right & result.success
    distance = torch.where(success, result.distance.to(torch.float64), torch.inf).masked_fill(~right, 0.0)
    place = usable.cpu()
    # reading the results waits for the device: the seconds are then the attack's own
    broken[place], part["distance"][place] = success.cpu(), distance.cpu()
    failed[place] = (right & (result.status == int(Status.FAILED))).cpu()
    unmoved[place] = (right & ~success & result.zero_gradient).cpu()
    part["seconds"][0] = time.perf_counter() - started
    part["cost"] = torch.tensor([int(result.forwards), int(result.backwards)])
    if keep_samples:
        part["x_adv"][place] = result.x_adv.to("cpu", part["x_adv"].dtype)
    if wanted > 0 and bool(success.any()):
        pick = success.nonzero().flatten()[:wanted]
        x_adv = result.x_adv[pick]
        x, y, ids, prediction, _ = batch.take(pick)
        turned = frozen.verdict(x_adv).argmax(1)
        examples = Examples(*(value.cpu() for value in (x, x_adv, y, prediction, turned, ids)))
        part |= {f"example.{key}": value for key, value in vars(examples).items()}
    return part


def _nearest(batch: Batch, parts: list[Part]) -> Samples:
    """The samples of a batch, each with the nearest of its adversarial examples."""
    x, y, ids, correct, unusable = (
        v.cpu() for v in (batch.x, batch.y, batch.ids, batch.correct, batch.failed)
    )
    distances = (
        torch.stack([part["distance"] for part in parts]) if parts else torch.empty(0, len(y)).double()
    )
    broken = torch.stack([part["broken"] for part in parts]) if parts else torch.zeros(0, len(y)).bool()
    x_adv, by = x.clone(), torch.full_like(y, -1)
    distance = torch.where(correct | unusable, torch.inf, 0.0).double()
    status = torch.where(correct, int(Status.HELD), int(Status.ALREADY_WRONG))
    status[unusable] = int(Status.FAILED)
    for place, part in enumerate(parts):
        status[part["failed.attack"] & (by < 0)] = int(Status.FAILED)
        nearer = broken[place] & ((by < 0) | (distances[place] < distance))
        x_adv[nearer], distance[nearer] = part["x_adv"][nearer].to(x.dtype), distances[place][nearer]
        by[nearer], status[nearer] = place, int(Status.BROKEN)
    return Samples(
        x,
        x_adv,
        y,
        ids,
        (by >= 0) | (status == int(Status.ALREADY_WRONG)),
        status,
        distance,
        by,
        distances.T.contiguous(),
    )


def _row(name: str, correct: Tensor, minimum_norm: bool, parts: list[Part]) -> Row:
    kept = [
        {key.removeprefix("example."): value for key, value in part.items() if key.startswith("example.")}
        for part in parts
        if "example.y" in part
    ]
    whole = {key: torch.cat([part[key] for part in parts]) for key in ("broken", "distance")}
    forwards, backwards = torch.stack([part["cost"] for part in parts]).sum(0).tolist()
    return Row(
        name=name,
        correct=correct,
        **whole,
        failed=sum(int(part["failed.attack"].sum()) for part in parts),
        unmoved=sum(int(part["unmoved"].sum()) for part in parts),
        forwards=forwards,
        backwards=backwards,
        seconds=sum(float(part["seconds"]) for part in parts),
        examples=Examples(**{key: torch.cat([one[key] for one in kept]) for key in kept[0]})
        if kept
        else None,
        minimum_norm=minimum_norm,
    )
