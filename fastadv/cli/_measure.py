"""What `attack` and `evaluate` share: attacks run on a model with a progress bar, and their table."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fastadv.cli._options import NamedAttack
from fastadv.cli._output import Tick, number, percent, table

if TYPE_CHECKING:
    from fastadv.attacks import AttackResult
    from fastadv.evaluation import Table as Figures


class Watched:
    """An attack that reports every batch to `tick`, and keeps its results when asked."""

    def __init__(
        self,
        run: "Callable[..., AttackResult]",
        done: list[int],
        total: int,
        tick: Tick,
        *,
        keep: bool = False,
    ) -> None:
        self.run, self.done, self.total, self.tick, self.keep = run, done, total, tick, keep
        self.kept: list[tuple[Any, ...]] = []

    def __call__(self, model: Any, x: Any, y: Any, *, ids: Any) -> "AttackResult":
        result = self.run(model, x, y, ids=ids)
        if self.keep:
            self.kept.append(
                tuple(
                    t.cpu() for t in (x, result.x_adv, y, result.success, result.status, result.distance, ids)
                )
            )
        self.done[0] += len(y)
        self.tick(self.done[0], self.total)
        return result


def watch(
    attacks: Mapping[str, NamedAttack], samples: int, tick: Tick, *, keep: bool = False
) -> dict[str, Watched]:
    """The attacks of an evaluation of `samples` samples, each reporting to one `tick`."""
    done = [0]
    return {
        label: Watched(attack.run, done, samples * len(attacks), tick, keep=keep)
        for label, attack in attacks.items()
    }


def results_table(figures: "Figures", title: str, note: str = "") -> Table:
    """An evaluation as a rich table."""
    caption = "accuracy over all samples, broken over the initially correct; median distance over all, mean over the broken"
    made = table(
        title,
        "attack",
        "accuracy",
        "broken",
        "median",
        "mean",
        "forwards",
        "backwards",
        "seconds",
        caption=f"{caption}{note and '. '}{note}",
    )
    made.add_row("none", percent(figures.clean_accuracy))
    for row in figures.rows:
        spent = (f"{row.forwards:,}", f"{row.backwards:,}", f"{row.seconds:.1f}")
        shares = (percent(row.robust_accuracy), percent(row.success_rate))
        made.add_row(row.name, *shares, number(row.median_distance), number(row.mean_distance), *spent)
        if row.failed:
            made.add_row(f"  [yellow]{row.failed} samples met non-finite numbers[/]")
    if len(figures.rows) > 1:
        made.add_row("[bold]worst of all[/]", f"[bold]{percent(figures.worst_case)}[/]")
    return made


def title_of(model: str, dataset: Any, samples: int) -> str:
    """What was measured, in a line."""
    return f"{model} on {samples:,} images of {dataset.name}"
