"""`--model rb:NAME`, an entry of RobustBench's zoo, and `fastadv models`, which lists them all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import nn

from fastadv import data as sets
from fastadv import models as library
from fastadv.cli import _options as o
from fastadv.cli._output import note, print_table, say
from fastadv.models.registry import SOURCES
from fastadv.models.zoo import find, robustbench_entries

ZOO = "rb:"
FIELDS = ("dataset", "threat", "radius", "preprocessing", "clean", "robust", "best_known", "url")


def check_name(name: str) -> None:
    known = {text.lower() for entry in robustbench_entries() for text in (entry.name, entry.path)}
    if name.lower() in known:
        o.refuse(f"--model {name}: expected {ZOO} before an entry of RobustBench's zoo; give {ZOO}{name}.")


def load_entry(name: str, options: dict[str, Any], weights: Path | None, dataset: Any) -> nn.Module:
    """Load an entry for the images of `dataset`, and say what it is published with."""
    if options:
        o.refuse(f"--option: {name} says all about the model; leave it out.")
    entry = find(name.removeprefix(ZOO))
    called = getattr(dataset, "name", "images").partition(" ")[0]
    another = called in sets.names() and not called.startswith(entry.dataset)
    images = entry.dataset + (f":preprocessing={entry.preprocessing}" if entry.preprocessing else "")
    if tuple(dataset.shape) != entry.shape or dataset.num_classes != entry.classes or another:
        o.refuse(
            f"--model {name} takes images of {entry.dataset}, {[*entry.shape]} of {entry.classes} classes, "
            f"got {called}, {list(dataset.shape)} of {dataset.num_classes}; give --data {images}."
        )
    model = library.robustbench(entry.path, weights)
    if entry.clean is not None:
        note(
            f"RobustBench lists {entry.path} with {entry.clean:.2f}% clean and {entry.robust:.2f}% under "
            f"AutoAttack at {entry.threat} {entry.radius:.3g}"
        )
    if (prepared := getattr(dataset, "preprocessing", None)) != entry.preprocessing:
        note(f"RobustBench's images are {images}, these have preprocessing {prepared or 'unknown'}")
    return model


def models(
    data: Annotated[Literal["cifar10", "cifar100", "imagenet"] | None, "Only entries for this set."] = None,
    norm: Annotated[Literal["linf", "l2"] | None, "Only entries ranked in this norm."] = None,
) -> Iterator[Any]:
    """List the models that -m takes: built-in, from timm and torchvision, and RobustBench's zoo as rb:NAME.

    Each entry of the zoo has its published accuracies in percent: clean, under AutoAttack, and under all
    known attacks if that is lower. --json also reports its network, the preprocessing of ImageNet's
    images, and where RobustBench keeps its weights.
    """
    entries = [
        entry
        for entry in robustbench_entries()
        if data in (None, entry.dataset) and norm in (None, entry.threat.lower())
    ]
    entries.sort(key=lambda entry: (entry.dataset, entry.threat != "Linf", -(entry.robust or 0)))
    built_in = {} if data or norm else {"built_in": library.names()}
    zoo = {entry.path: {name: getattr(entry, name) for name in FIELDS} for entry in entries}
    for entry in entries:
        zoo[entry.path]["net"] = {"name": entry.net.create, "options": entry.net.options}
    yield {**built_in, "zoo": zoo}
    if built_in:
        others = ", ".join(f"{source}:NAME" for source in SOURCES)
        say(f"-m {', '.join(library.names())}, {others}, or your own as package.module:function")
    cells = [["-m", "clean", "AutoAttack", "best known"]]
    for entry in entries:
        shares = (entry.clean, entry.robust, entry.best_known)
        cells.append([ZOO + entry.path, *("" if share is None else f"{share:.2f}" for share in shares)])
    print_table(f"{len(entries)} entries of RobustBench's zoo", cells)
