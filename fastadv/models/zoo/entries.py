"""Which net each entry of RobustBench's zoo is, what it does to images, and its published accuracies."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from fastadv.errors import InputError

SHAPE = (3, 32, 32)
CLASSES = {"cifar10": 10, "cifar100": 100}
RADIUS = {"Linf": 8 / 255, "L2": 0.5}


@dataclass(frozen=True)
class Net:
    """A built-in model with options, and how the zoo names its weights."""

    name: str
    create: str
    options: Mapping[str, Any]
    rename: tuple[tuple[str, str], ...]  # patterns over our names, and what the zoo has in their place
    unused: str | None = None  # a copy of `block1` in the file under this name, which the net never passes


@dataclass(frozen=True)
class Entry:
    """An entry of RobustBench's zoo."""

    dataset: str  # as in RobustBench, such as "cifar10"
    threat: str  # as in RobustBench, such as "Linf"
    name: str  # as in RobustBench, such as "Carmon2019Unlabeled"
    drive: str  # the name of the zoo's file at Google Drive
    net: Net
    # mean and deviation of each channel, by which it normalizes images in [0, 1]
    constants: tuple[list[float], list[float]] | None = None
    stored: bool = False  # whether its file holds them, as mu and sigma; these then count
    lenient: bool = False  # whether the zoo ignores what else the file holds
    nest: str | None = None  # the key of the state dict in the file
    radius: float | None = None  # of the leaderboard, in the units of images in [0, 1]
    clean: float | None = None  # published clean accuracy in percent
    robust: float | None = None  # published accuracy under AutoAttack in percent
    best_known: float | None = None  # under all attacks that are known, in percent, where that is less

    @property
    def path(self) -> str:
        """DATASET/THREAT/NAME, where the zoo keeps the file."""
        return f"{self.dataset}/{self.threat}/{self.name}"

    @property
    def url(self) -> str:
        """Where RobustBench keeps the file."""
        return f"https://drive.google.com/file/d/{self.drive}"

    @property
    def classes(self) -> int:
        """How many logits there are."""
        return CLASSES[self.dataset]


@cache
def robustbench_entries() -> tuple[Entry, ...]:
    """Return the entries of RobustBench's zoo that are built in: CIFAR-10 and CIFAR-100, Linf and L2."""
    table = json.loads(files("fastadv.models.zoo").joinpath("table.json").read_text(encoding="utf-8"))
    nets = {
        name: Net(name, **{**told, "rename": tuple(map(tuple, table["names"][told["rename"]]))})
        for name, told in table["nets"].items()
    }
    made = []
    for board, entries in table["entries"].items():
        dataset, threat = board.split("/")
        for name, told in entries.items():
            looked_up = {"net": nets[told["net"]], "constants": table["constants"].get(told.get("constants"))}
            made.append(Entry(dataset, threat, name, **{"radius": RADIUS[threat], **told, **looked_up}))
    return tuple(made)


def find(name: str) -> Entry:
    """Return the entry of that name, [DATASET/][THREAT/]NAME; InputError where none or several have it."""
    *boards, last = str(name).lower().split("/")
    known = robustbench_entries()
    found = [
        entry
        for entry in known
        if entry.name.lower() == last and {*boards} <= {entry.dataset, entry.threat.lower()}
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{name!r}: expected the name of one entry of RobustBench's zoo, got that of "
            f"{', '.join(entry.path for entry in found)}; give one of these"
        )
    paths = {text.lower(): entry.path for entry in known for text in (entry.name, entry.path)}
    near = dict.fromkeys(paths[text] for text in get_close_matches(str(name).lower(), paths, 6, 0.5))
    raise InputError(
        f"{name!r}: expected the name of an entry of RobustBench's zoo for CIFAR-10 or CIFAR-100, which "
        "fastadv.models.robustbench_entries() lists"
        + (f"; did you mean {' or '.join(repr(path) for path in [*near][:3])}?" if near else "")
    )
