"""A model measured on a data set, clean and under attacks."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv.attacks import AttackResult, Status
from fastadv.data import batches
from fastadv.engine import Frozen, freeze
from fastadv.engine.twin import device_of
from fastadv.errors import InputError
from fastadv.evaluation.table import Examples, Row, Table

Attack = Callable[..., AttackResult]
"""(model, x, y, ids=ids) -> AttackResult; for example functools.partial(fa.attacks.pgd, threat=fa.Linf(0.3), steps=40)."""


def evaluate(
    model: nn.Module | Frozen,
    dataset: Dataset[Any],
    attacks: Mapping[str, Attack] | None = None,
    *,
    batch_size: int = 256,
    limit: int | None = None,
    keep_examples: int = 0,
) -> Table:
    """Clean accuracy, and for each attack robust accuracy, success rate, distances and cost, over the first `limit` samples.

    The model is frozen once; every attack gets all samples of a batch with their ids, so results do not depend on `batch_size`.
    keep_examples keeps the first so many samples that each attack broke (`table[name].examples`).
    Raises InputError for an empty data set, labels the model has no class for, and logits that are not [B, K] or not finite.
    """
    attacks = dict(attacks or {})
    check_evaluation(dataset, attacks, batch_size, limit)
    started = time.perf_counter()
    frozen = freeze(model)
    collected: dict[str, list[_Outcome]] = {name: [] for name in attacks}
    correct, numbers = [], []
    for x, y, ids, prediction in predictions(frozen, dataset, batch_size, limit):
        right = prediction == y
        correct.append(right.cpu())
        numbers.append(ids.cpu())
        for name, attack in attacks.items():
            wanted = keep_examples - sum(len(outcome.kept.y) for outcome in collected[name] if outcome.kept)
            collected[name].append(_Outcome(name, attack, frozen, x, y, ids, prediction, wanted))
    all_correct = torch.cat(correct)
    rows = tuple(_row(name, all_correct, outcomes) for name, outcomes in collected.items())
    return Table(rows, all_correct, torch.cat(numbers), time.perf_counter() - started)


def check_evaluation(
    dataset: Dataset[Any], attacks: Mapping[str, Attack], batch_size: int, limit: int | None
) -> None:
    """InputError for an evaluation that cannot work."""
    if batch_size < 1 or (limit is not None and limit < 1):
        raise InputError(
            f"evaluate: expected batch_size and limit of at least 1, got batch_size={batch_size}, limit={limit}"
        )
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise InputError("dataset: expected at least one sample, got an empty data set")
    for name, attack in attacks.items():
        if not callable(attack):
            given = type(attack).__name__
            raise InputError(
                f"attacks[{name!r}]: expected a function (model, x, y, ids=ids), got {given}; functools.partial makes one"
            )


def predictions(
    frozen: Frozen, dataset: Dataset[Any], batch_size: int, limit: int | None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Batches (x, y, ids, predicted class) on the model's device, with labels and logits checked."""
    size = len(dataset)  # type: ignore[arg-type]
    order = None if limit is None or limit >= size else torch.arange(limit)
    device = device_of(frozen.model) if isinstance(frozen.model, nn.Module) else None
    for x, y, ids in batches(dataset, batch_size, order=order):
        x, y, ids = (tensor.to(device) if device else tensor for tensor in (x, y, ids))
        logits = frozen.verdict(x)
        if not torch.isfinite(logits).all():
            bad = ids[(~torch.isfinite(logits)).any(1)][:5].tolist()
            raise InputError(
                f"model: expected finite logits, got nan or inf for the samples {bad} (first five); look at the weights and images"
            )
        if y.min() < 0 or y.max() >= logits.shape[1]:
            got = f"{int(y.min())} to {int(y.max())}"
            raise InputError(
                f"dataset: expected labels from 0 to {logits.shape[1] - 1}, the model's classes, got {got}; map the labels"
            )
        yield x, y, ids, logits.argmax(1)


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

    def __init__(
        self,
        name: str,
        attack: Attack,
        frozen: Frozen,
        x: Tensor,
        y: Tensor,
        ids: Tensor,
        prediction: Tensor,
        wanted: int,
    ) -> None:
        started = time.perf_counter()
        result = run_attack(name, attack, frozen, x, y, ids)
        right = prediction == y
        broken = right & result.success
        distance = torch.where(broken, result.distance.to(torch.float64), torch.inf).masked_fill(~right, 0.0)
        # reading the results waits for the device, so that the seconds are the attack's own
        self.broken, self.distance = broken.cpu(), distance.cpu()
        self.failed = int((right & (result.status == int(Status.FAILED))).sum())
        self.unmoved = int((right & ~broken & result.zero_gradient).sum())
        self.seconds = time.perf_counter() - started
        self.forwards, self.backwards = int(result.forwards), int(result.backwards)
        self.kept: Examples | None = None
        if wanted > 0 and bool(broken.any()):
            pick = broken.nonzero().flatten()[:wanted]
            x_adv = result.x_adv[pick]
            turned = frozen.verdict(x_adv).argmax(1)
            self.kept = Examples(
                *(t.cpu() for t in (x[pick], x_adv, y[pick], prediction[pick], turned, ids[pick]))
            )


def _row(name: str, correct: Tensor, outcomes: list[_Outcome]) -> Row:
    kept = [outcome.kept for outcome in outcomes if outcome.kept]
    fields = ("x", "x_adv", "y", "clean_prediction", "prediction", "ids")
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
        examples=Examples(*(torch.cat([getattr(part, f) for part in kept]) for f in fields))
        if kept
        else None,
    )
