"""`--model rb:NAME`: an entry of RobustBench's zoo."""

from pathlib import Path
from typing import Any

from torch import nn

from fastadv import data as sets
from fastadv import models
from fastadv.cli import _options as o
from fastadv.cli._output import note
from fastadv.models.zoo.entries import SHAPE, find, robustbench_entries

ZOO = "rb:"


def check_name(name: str) -> None:
    """Refuse an entry of the zoo that is named without rb: before it."""
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
    if tuple(dataset.shape) != SHAPE or dataset.num_classes != entry.classes or another:
        o.refuse(
            f"--model {name} takes images of {entry.dataset}, {list(SHAPE)} of {entry.classes} classes, got "
            f"{called}, {list(dataset.shape)} of {dataset.num_classes}; give those images, or another entry."
        )
    model = models.robustbench(entry.path, weights)
    if entry.clean is not None:
        note(
            f"RobustBench lists {entry.path} with {entry.clean:.2f}% clean and {entry.robust:.2f}% under "
            f"AutoAttack at {entry.threat} {entry.radius:.3g}"
        )
    return model
