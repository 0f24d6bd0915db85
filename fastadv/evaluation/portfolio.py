"""Which attacks to run, and in which order: greedily, by the samples that each still breaks in a second."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks import AutoAttackResult, Status
from fastadv.errors import InputError
from fastadv.evaluation._parts import IDENTITY
from fastadv.evaluation.groups import counted
from fastadv.evaluation.row import Row
from fastadv.evaluation.table import Table
from fastadv.runs.files import load_tensors, read_json
from fastadv.text import aligned, percent

Result = Table | Row | AutoAttackResult | str | PathLike[str]


@dataclass(frozen=True)
class Choice:
    """An attack of a portfolio.

    Attributes:
        name: of the attack.
        broken: the samples that it breaks after those before it.
        robust_accuracy: the share of all samples that still hold afterwards.
        seconds: of all attacks up to it, each on what was left.
    """

    name: str
    broken: int
    robust_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Portfolio:
    """Attacks in the order that breaks the most samples in the least time; `str(portfolio)` is a table.

    Attributes:
        choices: the attacks in their order.
        superfluous: names of attacks that break nothing that those do not.
    """

    choices: tuple[Choice, ...]
    superfluous: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dictionary for JSON.

        Returns:
            The choices, and the names of superfluous attacks.
        """
        return {"choices": [asdict(choice) for choice in self.choices], "superfluous": [*self.superfluous]}

    def __str__(self) -> str:
        lines = [["portfolio", "broken", "accuracy", "seconds"]]
        for one in self.choices:
            lines.append([one.name, str(one.broken), percent(one.robust_accuracy), f"{one.seconds:.1f}"])
        more = f"\nbreak nothing more: {', '.join(self.superfluous)}" if self.superfluous else ""
        return aligned(lines) + more


@dataclass(frozen=True)
class _Run:
    """What is needed of an attack: bool [n] each; ids int64 [n], or None where they are not known."""

    name: str
    correct: Tensor
    broken: Tensor
    seconds: float
    ids: Tensor | None = None


def portfolio(results: Result | Iterable[Result]) -> Portfolio:
    """Order attacks greedily: the next one breaks the most remaining samples in a second.

    The seconds of an attack are those that it took for all samples, in proportion to what is left.

    Args:
        results: a table of `evaluate`, its rows, the `run_dir` of an evaluation, a file that `fastadv
            evaluate --out` wrote, what `autoattack(individual=True)` returned, or several of these: on the
            same samples of the same model, and with names that differ.

    Returns:
        A `Portfolio`.

    Raises:
        InputError: there are no attacks, two have one name, they are of other samples, or a path holds
            neither an evaluation nor a table.
    """
    several = (
        [results] if isinstance(results, Table | Row | AutoAttackResult | str | PathLike) else list(results)
    )
    runs = [run for result in several for run in _runs(result)]
    _check_alike(runs)
    left, waiting = runs[0].correct.clone(), list(runs)
    count, right, seconds = len(left), int(left.sum()), 0.0
    choices: list[Choice] = []
    while waiting:
        new = [int((run.broken & left).sum()) for run in waiting]
        rates = [broken / max(run.seconds, 1e-9) for broken, run in zip(new, waiting, strict=True)]
        place = max(range(len(waiting)), key=rates.__getitem__)
        if not new[place]:
            break
        best = waiting.pop(place)
        seconds += best.seconds * int(left.sum()) / right
        left &= ~best.broken
        choices.append(Choice(best.name, new[place], int(left.sum()) / count, seconds))
    return Portfolio(tuple(choices), tuple(run.name for run in waiting))


def _check_alike(runs: Sequence[_Run]) -> None:
    if not runs:
        raise InputError("results: expected the results of attacks, got none")
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"results: expected attacks of different names, got {', '.join(twice)} more than once"
        )
    first = runs[0]
    for run in runs:
        known = first.ids is not None and run.ids is not None
        if not torch.equal(run.correct, first.correct) or (known and not torch.equal(run.ids, first.ids)):  # type: ignore[arg-type]
            raise InputError(
                f"results: expected attacks on the same samples of one model, got {run.name} on others than "
                f"{first.name}"
            )


def _runs(result: Result) -> Iterator[_Run]:
    if isinstance(result, Row):
        yield _Run(result.name, result.correct, result.broken, result.seconds)
    elif isinstance(result, Table):
        for row in result.rows:
            yield _Run(row.name, row.correct, counted(row, result.rows), row.seconds, result.ids)
    elif isinstance(result, str | PathLike):
        path = Path(result)
        if not path.exists():
            raise InputError(
                f"results: expected a run folder or a file of an evaluation, got {path}, which is not there"
            )
        yield from _of_folder(path) if path.is_dir() else _of_file(path)
    elif isinstance(result, AutoAttackResult) and result.broken:
        correct = result.correct.cpu()
        for name, broken in result.broken.items():
            cost = result.costs.get(name)  # none where no sample was right
            yield _Run(name, correct, broken.cpu() & correct, cost.seconds if cost else 0.0)
    else:
        raise InputError(
            "results: expected tables, rows, paths or individual results of autoattack, "
            f"got {type(result).__name__}"
        )


def _of_folder(path: Path) -> Iterator[_Run]:
    """Read the parts of a finished evaluation."""
    if not (path / IDENTITY).is_file():
        raise InputError(f"results: expected the run folder of an evaluation, got {path} without {IDENTITY}")
    told = read_json(path / IDENTITY)
    attacks = told.get("attacks")
    if attacks is None:
        raise InputError(f"results: expected the run folder of an evaluation, got lower bounds in {path}")
    size = int(told["data"].split()[0])  # the length of the data set comes first
    count = size if told["limit"] is None else min(size, told["limit"])
    names = [name for name, _ in attacks]
    for place, name in enumerate(names):
        parts = [load_tensors(part)[0] for part in sorted(path.glob(f"part-*-{place:02d}.safetensors"))]
        found = sum(len(part["ids"]) for part in parts)
        if found != count:
            raise InputError(
                f"results: expected a finished evaluation of {count} samples, got {path} with {found} of "
                f"{name}; finish it with --resume, and merge its shares"
            )
        whole = {
            key: torch.cat([part[key] for part in parts]) for key in ("correct", "broken", "ids", "seconds")
        }
        yield _Run(name, whole["correct"], whole["broken"], float(whole["seconds"].sum()), whole["ids"])


def _of_file(path: Path) -> Iterator[_Run]:
    """Read what `fastadv evaluate --out` wrote."""
    tensors, metadata = load_tensors(path)
    attacks = json.loads(metadata.get("card", "{}")).get("measured", {}).get("attacks")
    if attacks is None or "distances" not in tensors:
        raise InputError(f"results: expected a file of fastadv evaluate --out, got {path} of another kind")
    distances = tensors["distances"]
    correct = (tensors["status"] != int(Status.ALREADY_WRONG)) & ~distances.isnan().any(1)
    for place, (name, told) in enumerate(attacks.items()):
        broken = correct & (distances[:, place] < torch.inf)
        yield _Run(name, correct, broken, told["seconds"], tensors["ids"])
