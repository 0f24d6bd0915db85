"""What the commands that measure share: attacks with a progress bar, and the table of an evaluation."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from fastadv._description import describe
from fastadv.attacks import AttackResult
from fastadv.cli._attacks import NamedAttack
from fastadv.cli._output import Tick, print_table
from fastadv.evaluation import Table

NOTHING_KEPT = "nothing was kept: run it again, with fewer --samples for a first impression"
KEPT = ("success", "status", "distance", "loss", "zero_gradient")


class Watched:
    """An attack that reports every batch to `tick`, and keeps its samples and results where asked."""

    def __init__(
        self,
        run: Callable[..., AttackResult],
        done: list[int],
        total: int,
        tick: Tick,
        *,
        keep: bool = False,
    ) -> None:
        self.run, self.done, self.total, self.tick, self.keep = run, done, total, tick, keep
        self.kept: list[dict[str, Tensor]] = []
        self.__wrapped__ = run  # what the attack is, to those who ask

    def describe(self) -> Any:
        """The attack itself: a run is resumed whatever its progress bar."""
        return describe(self.run)

    def __call__(self, model: Any, x: Tensor, y: Tensor, *, ids: Tensor) -> AttackResult:
        result = self.run(model, x, y, ids=ids)
        if self.keep:
            parts = {"x": x, "x_adv": result.x_adv, "y": y, "ids": ids}
            parts |= {name: getattr(result, name) for name in KEPT}
            self.kept.append({name: part.cpu() for name, part in parts.items()})
        self.done[0] += len(y)
        self.tick(self.done[0], self.total)
        return result


def watch(
    attacks: Mapping[str, NamedAttack], samples: int, tick: Tick, *, keep: bool = False
) -> dict[str, Watched]:
    """The attacks of an evaluation of `samples` samples, which report to one `tick`."""
    done = [0]
    return {
        label: Watched(attack.run, done, samples * len(attacks), tick, keep=keep)
        for label, attack in attacks.items()
    }


def print_results(table: Table, model: str, dataset: Any) -> None:
    """The table of an evaluation on stdout, with what must be known to read it."""
    notes = [*table.notes(), dataset.note] if dataset.note else table.notes()
    print_table(f"{model} on {table.n:,} images of {dataset.name}", table.cells(), notes)
