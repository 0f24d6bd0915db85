"""`fastadv models`: what `--model` takes, and the entries of RobustBench's zoo."""

from collections.abc import Iterator
from typing import Any, Literal

from fastadv.cli import _options as o
from fastadv.cli._output import print_table, say
from fastadv.cli._zoo import ZOO
from fastadv.models.registry import names
from fastadv.models.zoo.entries import Entry, robustbench_entries


def models(
    data: Literal["cifar10", "cifar100"] | None = o.option(
        None, "Only entries for this data set.", "--data", "-d"
    ),
    norm: Literal["linf", "l2"] | None = o.option(None, "Only entries ranked in this norm."),
) -> Iterator[Any]:
    """List the models that -m takes: the built-in ones, and the entries of RobustBench's zoo as rb:NAME.

    Each entry has its published accuracies in percent: clean, under AutoAttack, and under all known attacks
    if that is lower. --json also reports its network, and where RobustBench keeps its weights.
    """
    found = [
        entry
        for entry in robustbench_entries()
        if data in (None, entry.dataset) and norm in (None, entry.threat.lower())
    ]
    if not found:
        o.refuse(f"no entries for {data} in {norm}: leave out --data or --norm.")
    found.sort(key=lambda entry: (entry.dataset, entry.threat != "Linf", -(entry.robust or 0)))
    built_in = {} if data or norm else {"built_in": names()}
    yield {**built_in, "zoo": {entry.path: _told(entry) for entry in found}}
    if built_in:
        say(f"-m {', '.join(names())}, or your own as package.module:function")
    cells = [["-m", "clean", "AutoAttack", "best known"]]
    for entry in found:
        shares = (entry.clean, entry.robust, entry.best_known)
        cells.append([ZOO + entry.path, *("" if share is None else f"{share:.2f}" for share in shares)])
    print_table(f"{len(found)} entries of RobustBench's zoo", cells)


def _told(entry: Entry) -> dict[str, Any]:
    """Return what is published of an entry, JSON-able."""
    names = ("dataset", "threat", "radius", "clean", "robust", "best_known", "url")
    net = {"name": entry.net.create, "options": entry.net.options}
    return {**{name: getattr(entry, name) for name in names}, "net": net}
