"""How well adversarial examples made on some models fool others."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv._checks import check_count
from fastadv.data._batches import batches, device_for
from fastadv.data.sampling import first_samples
from fastadv.engine import Prepared, prepare
from fastadv.errors import InputError
from fastadv.evaluation._outcome import Attack, run_attack
from fastadv.text import aligned, in_markdown, percent

Models = Mapping[str, nn.Module | Prepared]
Wanted = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """How often points made on each source fool each target: the result of `transfer_matrix`.

    Attributes:
        sources: names of S models.
        targets: names of T models.
        n: the number of samples.
        fooled: int64 [S, T]; of the samples that the target gets right, those that it gets wrong (or takes
            for the wanted class) once they are attacked on the source.
        correct: int64 [T]; all samples that the target gets right.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    n: int
    fooled: Tensor
    correct: Tensor

    @property
    def shares(self) -> Tensor:
        """Fooled over correct, float64 [S, T]; NaN where a target gets nothing right."""
        return self.fooled.double() / self.correct.double()

    def cells(self) -> list[list[str]]:
        """Return the table as text.

        Returns:
            A list of lines of cells, the head first and the counts last.
        """
        lines = [
            [name, *map(percent, row)] for name, row in zip(self.sources, self.shares.tolist(), strict=True)
        ]
        return [["source", *self.targets], *lines, ["correct samples", *map(str, self.correct.tolist())]]

    def note(self) -> str:
        """Return what the figures are shares of.

        Returns:
            One sentence.
        """
        return f"{self.n} samples; each share is of those that the target of its column gets right"

    def __str__(self) -> str:
        return f"{aligned(self.cells())}\n{self.note()}"

    def markdown(self) -> str:
        """Return the same as a Markdown table.

        Returns:
            Markdown text.
        """
        return f"{in_markdown(self.cells())}\n\n- {self.note()}"

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as a dictionary for JSON.

        Returns:
            The figures; None for a share of nothing.
        """
        return {
            "n": self.n,
            "correct": dict(zip(self.targets, self.correct.tolist(), strict=True)),
            "shares": {
                source: {
                    target: None if math.isnan(share) else share
                    for target, share in zip(self.targets, row, strict=True)
                }
                for source, row in zip(self.sources, self.shares.tolist(), strict=True)
            },
        }


def transfer_matrix(
    sources: Models,
    targets: Models,
    dataset: Dataset[Any],
    attack: Attack,
    *,
    wanted: Wanted | None = None,
    batch_size: int = 256,
    limit: int | None = None,
) -> TransferMatrix:
    """Attack samples once on each source, and test each target on all the points.

    A success is a sample that the target gets right, and gets wrong at the point made on the source. Whether
    the point fooled the source does not matter. A sample that the source already gets wrong is not moved. The
    same model may be a source and a target: its share is then the plain success rate. It runs in one process.

    Args:
        sources: models by name, with the same classes. They are not changed.
        targets: models by name, with the same classes. They are not changed.
        dataset: of pairs (x, y), such as an `ImageSet`.
        attack: as in `evaluate`, such as `partial(fa.attacks.mim, threat=fa.Linf(0.1), steps=10,
            stop_early=False, gradient=[fa.attacks.DiverseInput()])`. With `stop_early` a point only just
            fools its source, and rarely another model.
        wanted: a function from labels [B] to the classes [B] that a targeted attack aims at: the attack is
            called with `targets`, and a success is a decision for these. None of them may be the label
            itself. Without it, any wrong class is a success.
        batch_size: samples attacked at once.
        limit: use this many samples only, as in `evaluate`; None uses all.

    Returns:
        A `TransferMatrix`.

    Raises:
        InputError: there is no model, the data set is empty, models have different numbers of classes, labels
            are not classes, or wanted classes are no int64 [B].
    """
    chosen = first_samples(dataset, limit, tell=True)
    check_count("batch_size", batch_size, 1)
    if not callable(attack):
        raise InputError(f"attack: expected a function (model, x, y, ids=ids), got {type(attack).__name__}")
    makers, judges = _frozen("sources", sources), _frozen("targets", targets)
    fooled = torch.zeros(len(makers), len(judges), dtype=torch.int64)
    correct = torch.zeros(len(judges), dtype=torch.int64)
    for batch in batches(dataset, batch_size, order=chosen):
        x, y, ids = batch
        _check_classes([*makers.items(), *judges.items()], x, y)
        aims = None if wanted is None else _aims(wanted, y)
        clean = [_predictions(judge, x) for judge in judges.values()]
        right = torch.stack([one == y for one in clean])
        correct += right.sum(1)
        for row, (name, maker) in enumerate(makers.items()):
            where = device_for(maker)
            given = [part.to(device=where) for part in (x, y, ids)]
            result = run_attack(name, _towards(attack, aims), maker, *given)
            for column, judge in enumerate(judges.values()):
                said = _predictions(judge, result.x_adv)
                success = (said != y) & (said >= 0) if aims is None else said == aims
                fooled[row, column] += (success & right[column]).sum()
    return TransferMatrix(tuple(sources), tuple(targets), len(chosen), fooled, correct)


def _frozen(name: str, models: Models) -> dict[str, Prepared]:
    if not isinstance(models, Mapping) or not models:
        raise InputError(f"{name}: expected models by their names, such as {{'net': net}}, got {models!r}")
    return {each: prepare(model, freeze=True) for each, model in models.items()}


def _predictions(judge: Prepared, x: Tensor) -> Tensor:
    """Return int64 [B] on the CPU; -1 where the logits are not finite."""
    logits = judge.verdict(x.to(device=device_for(judge)))
    return logits.argmax(1).where(logits.isfinite().all(1), -1).cpu()


def _check_classes(models: Sequence[tuple[str, Prepared]], x: Tensor, y: Tensor) -> None:
    found = [(name, model.verdict(x[:1].to(device=device_for(model))).shape[1]) for name, model in models]
    classes = found[0][1]
    if any(other != classes for _, other in found):
        told = ", ".join(f"{name} {count}" for name, count in found)
        raise InputError(
            f"sources, targets: expected models with the same classes, got {told}; "
            "a label must mean the same to all"
        )
    if y.min() < 0 or y.max() >= classes:
        raise InputError(
            f"dataset: expected labels from 0 to {classes - 1}, the models' classes, got {int(y.min())} to "
            f"{int(y.max())}; map the labels"
        )


def _aims(wanted: Wanted, y: Tensor) -> Tensor:
    aims = wanted(y)
    if not isinstance(aims, Tensor) or aims.dtype != torch.int64 or aims.shape != y.shape:
        raise InputError(
            f"wanted: expected a function from labels to int64 ({len(y)},), got {aims!r} from it"
        )
    return aims.cpu()


def _towards(attack: Attack, aims: Tensor | None) -> Attack:
    """Return the attack with targets, if any."""
    if aims is None:
        return attack
    return lambda model, x, y, **options: attack(model, x, y, targets=aims.to(device=y.device), **options)
