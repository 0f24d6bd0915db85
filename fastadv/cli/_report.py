"""`fastadv evaluate --report`: what the page is told besides the table."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fastadv.engine import Prepared
from fastadv.evaluation import Curve, Table, report

OF_THE_DATA = ("name", "samples", "shape", "data_hash", "note")  # not the names of a thousand classes


def write_report(
    path: Path, table: Table, net: nn.Module | Prepared, dataset: Any, model: str, curves: Mapping[str, Curve],
    entry: Mapping[str, Any], seed: int, config: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the report of an evaluation, `config` being that of its card."""
    attacks = {
        label: ", ".join(f"{key}={value}" for key, value in each.items())
        for label, each in config["attacks"].items()
    }
    told = {
        "command": shlex.join(["fastadv", *sys.argv[1:]]),
        "seed": seed,
        **config,
        "attacks": attacks,
        "data": {key: config["data"].get(key) for key in OF_THE_DATA},
    }
    report(
        table, path, title=f"{model} on {dataset.name}", model=net, class_names=dataset.classes,
        curves=curves, provenance=told, entry=entry,
    )  # fmt: skip
