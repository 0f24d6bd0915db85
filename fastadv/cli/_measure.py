"""What the commands that measure share: attacks with a progress bar, and the table of an evaluation."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import typer
from torch import Tensor

from fastadv.attacks import AttackResult
from fastadv.cli._attacks import NamedAttack
from fastadv.cli._output import Bar, note, print_table, say
from fastadv.evaluation import Table
from fastadv.runs import processes
from fastadv.runs.description import describe

DOUBTFUL = 3  # the exit code of --strict where an accuracy is in doubt
NOTHING_KEPT = "nothing was kept: run it again, with fewer --samples for a first impression"
KEPT = ("success", "status", "distance", "loss", "zero_gradient")


def kept_in(run_dir: Path | None) -> str:
    """Return what a command that is stopped now says of its results."""
    if run_dir is None:
        return NOTHING_KEPT
    if not any(run_dir.rglob("*.safetensors")):
        return f"nothing was finished yet: add --resume to begin again in {run_dir}"
    return f"kept in {run_dir}: add --resume to continue"


class Watched:
    """An attack that reports its progress to `bar`, and keeps its samples and results where asked.

    done: how many samples are through, in a list of one number, which several attacks may share.
    """

    def __init__(
        self, run: Callable[..., AttackResult], label: str, done: list[int], total: int, bar: Bar,
        *, keep: bool = False,
    ) -> None:  # fmt: skip
        self.run, self.label, self.done, self.total, self.bar, self.keep = run, label, done, total, bar, keep
        self.kept: list[dict[str, Tensor]] = []
        self.by: list[str] = []  # of the samples kept, which component broke each
        takes = inspect.signature(run).parameters
        self.staged = "on_progress" in takes
        # the evaluation looks for its own, over all attacks
        self.fixed = {"indicators": False} if "indicators" in takes else {}
        self.__wrapped__ = run  # what the attack is, to those who ask

    def describe(self) -> Any:
        """Describe the attack itself: a run is resumed whatever its progress bar."""
        return describe(self.run)

    def __call__(self, model: Any, x: Tensor, y: Tensor, *, ids: Tensor) -> AttackResult:
        more = {"on_progress": partial(self._stage, len(y))} if self.staged else {}
        result = self.run(model, x, y, ids=ids, **self.fixed, **more)
        if self.keep:
            parts = {"x": x, "x_adv": result.x_adv, "y": y, "ids": ids}
            parts |= {name: getattr(result, name) for name in KEPT}
            self.kept.append({name: part.cpu() for name, part in parts.items()})
            self.by += getattr(result, "by", ())
        # of several processes that share the samples, each takes the others to be as far
        self.done[0] = min(self.done[0] + len(y) * processes.world(), self.total)
        self.bar.named(self.label, self.done[0], self.total)
        return result

    def _stage(self, size: int, component: str, left: int) -> None:
        """Report a component of an attack on `size` samples: those broken already are through."""
        text = f"{self.label}: {component} on {left} of {size}"
        self.bar.named(text, self.done[0] + size - left, self.total)


def watch(
    attacks: Mapping[str, NamedAttack], samples: int, bar: Bar, *, kept: int = 0, keep: bool = False
) -> dict[str, Watched]:
    """Let attacks on so many samples report to one bar; `kept` were through in a run that is resumed."""
    done, total = [kept], samples * len(attacks)
    return {name: Watched(one.run, name, done, total, bar, keep=keep) for name, one in attacks.items()}


def print_results(table: Table, model: str, dataset: Any) -> None:
    """Print the table of an evaluation, with what must be known to read it."""
    notes = [*table.notes(), dataset.note] if dataset.note else table.notes()
    print_table(f"{model} on {table.n:,} images of {dataset.name}", table.cells(), notes)
    for name, cells in table.details().items():
        print_table(name, cells)
    if table.indicators is not None:
        say(table.verdict)


@contextmanager
def ending(code: int, why: str = "") -> Iterator[None]:
    """End the command with an exit code, also where only its document was asked for, and say why."""
    with suppress(GeneratorExit):
        yield
    if why:
        note(why)
    if code:
        raise typer.Exit(code)
