"""What made the figures: versions, machine, hashes, and the fields of RobustBench's entries."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from torch import nn

from fastadv.engine import Prepared
from fastadv.errors import InputError
from fastadv.evaluation.robustbench import FIELDS, entry
from fastadv.evaluation.table import Table
from fastadv.runs.card import data_hash, machine
from fastadv.threat import Threat


def lines(table: Table, model: Prepared | None, told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the caller told, then hashes of the samples and the weights, and what wrote the report."""
    found = [*_flat(told)]
    if table.samples is not None:
        found.append(("hash of the samples", data_hash(table.samples.x, table.samples.y)))
    if model is not None and isinstance(model.model, nn.Module):
        found.append(("hash of the weights", data_hash(*model.model.state_dict().values())))
    found += [(name, str(value)) for name, value in machine().items() if value]
    return [*found, ("report written", datetime.now(UTC).isoformat(timespec="seconds"))]


def _flat(told: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield names and values, those inside others by both names; nothing for None and for what is empty."""
    for key, value in told.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        elif value is not None and value != "" and value != []:
            yield name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def robustbench(table: Table, threat: Threat | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return RobustBench's fields: those measured, those given, and None for what nobody said.

    The accuracy under AutoAttack is among those that must be given: the table does not know its version.
    """
    if strange := sorted(given.keys() - set(FIELDS)):
        raise InputError(f"entry: expected fields among {', '.join(FIELDS)}, got {', '.join(strange)}")
    made = entry("", "", table.clean_accuracy, 0.0, threat if threat is not None and threat.finite else None)
    measured = {field: made[field] for field in ("eps", "clean_acc")}
    return {field: None for field in FIELDS if field != "corruptions_acc"} | measured | dict(given)
