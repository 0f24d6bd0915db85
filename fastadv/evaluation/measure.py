"""A model measured on a data set, without an attack and under attacks."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv._checks import check_count
from fastadv.attacks import AttackResult, Status
from fastadv.data import batches
from fastadv.engine import Frozen, freeze
from fastadv.engine.twin import device_of
from fastadv.errors import InputError
from fastadv.evaluation.table import Examples, Row, Table

Attack = Callable[..., AttackResult]
"""(model, x, y, ids=ids) -> AttackResult; such as partial(fa.attacks.pgd, threat=fa.Linf(0.3), steps=40)."""


def evaluate(
    model: nn.Module | Frozen,
    dataset: Dataset[Any],
    attacks: Mapping[str, Attack] | None = None,
    *,
    batch_size: int = 256,
    limit: int | None = None,
    keep_examples: int = 0,
) -> Table:
    """Clean accuracy, and for each attack robust accuracy, success rate, distances and cost.

    They are those of the first `limit` samples. The model is frozen once. Every attack gets the samples of a
    batch with their ids, so results do not depend on `batch_size`. Samples for which the model's logits are
    not finite count as not correct and are not attacked; `Table.failed` says which they are. keep_examples:
    keep the first samples that each attack broke, at most that many (`table[name].examples`).

    Raises InputError for an empty data set, labels that are not classes of the model, logits that are not [B,
    K], and a model without finite logits for any sample.
    """
    attacks = dict(attacks or {})
    check_evaluation(dataset, attacks, batch_size, limit)
    check_count("keep_examples", keep_examples, 0)
    started = time.perf_counter()
    frozen = freeze(model)
    collected: dict[str, list[_Outcome]] = {name: [] for name in attacks}
    correct, failed, numbers = [], [], []
    for batch in predictions(frozen, dataset, batch_size, limit):
        correct.append(batch.correct.cpu())
        failed.append(batch.failed.cpu())
        numbers.append(batch.ids.cpu())
        for name, attack in attacks.items():
            wanted = keep_examples - sum(len(outcome.kept.y) for outcome in collected[name] if outcome.kept)
            collected[name].append(_Outcome(name, attack, frozen, batch, wanted))
    right = torch.cat(correct)
    rows = tuple(_row(name, right, outcomes) for name, outcomes in collected.items())
    return Table(rows, right, torch.cat(failed), torch.cat(numbers), time.perf_counter() - started)


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


class _Outcome:
    """What one attack did to one batch, on the CPU."""

    def __init__(self, name: str, attack: Attack, frozen: Frozen, whole: Batch, wanted: int) -> None:
        self.broken = torch.zeros(len(whole.y), dtype=torch.bool)
        self.distance = torch.full((len(whole.y),), torch.nan, dtype=torch.float64)
        self.failed = self.unmoved = self.forwards = self.backwards = 0
        self.seconds = 0.0
        self.kept: Examples | None = None
        usable = (~whole.failed).nonzero().flatten()
        if not len(usable):
            return
        batch = whole.take(usable)
        started = time.perf_counter()
        result = run_attack(name, attack, frozen, batch.x, batch.y, batch.ids)
        right = batch.correct
        broken = right & result.success
        distance = torch.where(broken, result.distance.to(torch.float64), torch.inf).masked_fill(~right, 0.0)
        # reading the results waits for the device: the seconds are then the attack's own
        self.broken[usable.cpu()], self.distance[usable.cpu()] = broken.cpu(), distance.cpu()
        self.failed = int((right & (result.status == int(Status.FAILED))).sum())
        self.unmoved = int((right & ~broken & result.zero_gradient).sum())
        self.seconds = time.perf_counter() - started
        self.forwards, self.backwards = int(result.forwards), int(result.backwards)
        if wanted > 0 and bool(broken.any()):
            pick = broken.nonzero().flatten()[:wanted]
            x_adv = result.x_adv[pick]
            x, y, ids, prediction, _ = batch.take(pick)
            turned = frozen.verdict(x_adv).argmax(1)
            self.kept = Examples(*(part.cpu() for part in (x, x_adv, y, prediction, turned, ids)))


def _row(name: str, correct: Tensor, outcomes: list[_Outcome]) -> Row:
    kept = [vars(outcome.kept) for outcome in outcomes if outcome.kept]
    return Row(
        name=name,
        correct=correct,
        broken=torch.cat([outcome.broken for outcome in outcomes]),
        distance=torch.cat([outcome.distance for outcome in outcomes]),
        failed=sum(outcome.failed for outcome in outcomes),
        unmoved=sum(outcome.unmoved for outcome in outcomes),
        forwards=sum(outcome.forwards for outcome in outcomes),
        backwards=sum(outcome.backwards for outcome in outcomes),
        seconds=sum(outcome.seconds for outcome in outcomes),
        examples=Examples(**{part: torch.cat([one[part] for one in kept]) for part in kept[0]})
        if kept
        else None,
    )
