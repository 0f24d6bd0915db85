"""An evaluation by AutoAttack as RobustBench writes it: one JSON file in model_info/DATASET/NORM/.

The fields are those of github.com/RobustBench/robustbench, shares as percentages in text.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastadv.cli import _options as o
from fastadv.cli._attacks import NamedAttack
from fastadv.cli._shared import Images
from fastadv.data import is_named
from fastadv.engine.replaced import in_words
from fastadv.evaluation import Table
from fastadv.runs.files import write_text

NORMS = ("linf", "l2")
# what the run cannot know: whoever submits the entry says it
TEXTS = ("link", "name", "authors", "venue", "architecture", "reported", "footnote")
SAID = (*TEXTS, "additional_data", "number_forward_passes")
# in the order of RobustBench
FIELDS = (
    "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue",
    "architecture", "eps", "clean_acc", "reported", "autoattack_acc", "footnote", "unreliable",
)  # fmt: skip


def parse_about(parts: Iterable[str]) -> dict[str, Any]:
    """Parse the fields that KEY=VALUE name. Wrong usage for other names and kinds of values."""
    values: dict[str, Any] = {}
    for part in parts:
        key, equals, text = part.partition("=")
        if not equals or key not in SAID:
            o.refuse(f"--about: expected KEY=VALUE with one of {', '.join(SAID)}, got {part!r}.")
        if key in values:
            o.refuse(f"--about: {key} is given twice; leave one out.")
        if key == "additional_data" and text not in ("true", "false"):
            o.refuse(f"--about: expected {key}=true or {key}=false, got {text!r}.")
        if key == "number_forward_passes" and not (text.isdecimal() and int(text)):
            o.refuse(f"--about: expected {key} to be a whole number from 1, got {text!r}.")
        values[key] = text if key in TEXTS else json.loads(text)
    return values


def check_entry(named: Mapping[str, NamedAttack], images: Images) -> NamedAttack:
    """Find the attack whose result is the entry. Wrong usage for what RobustBench does not list."""
    found = [attack for attack in named.values() if attack.name == "autoattack"]
    if len(found) != 1:
        o.refuse("--robustbench takes the result of autoattack: name it once, -a autoattack.")
    for key, value in {"version": "standard", "eot": 1}.items():
        if (given := found[0].config.get(key, value)) != value:
            o.refuse(f"--robustbench needs {key}={value} of autoattack, got {given}.")
    if found[0].norm not in NORMS:
        o.refuse(f"--robustbench lists {' and '.join(NORMS)}, not {found[0].norm}.")
    if not is_named(images.data):
        o.refuse("--robustbench lists test sets, and no constructed ones.")
    if images.split not in (None, "test"):
        o.refuse(f"--robustbench needs the test set: leave out --split {images.split}.")
    for option, number in {"--samples": images.samples, "--size": images.size}.items():
        if number is not None:
            o.refuse(f"--robustbench needs the test set whole, as it is: leave out {option}.")
    return found[0]


def write_entry(
    path: Path, table: Table, attack: NamedAttack, data: str, model: str, about: Mapping[str, Any]
) -> None:
    """Write the entry of the evaluation `table`; null stands for what nobody said.

    `unreliable` says whether AutoAttack raised a flag, and the footnote which gradients were replaced.
    """
    row = table[attack.label]
    measured = {
        "dataset": data,
        "architecture": model,
        "eps": _radius(attack),
        "clean_acc": _percentage(table.clean_accuracy),
        "autoattack_acc": _percentage(row.robust_accuracy),
        "unreliable": bool(row.flags),
    }
    entry = {**dict.fromkeys(FIELDS), **measured, **about}
    if table.replaced:
        entry["footnote"] = "; ".join(filter(None, (about.get("footnote"), in_words(table.replaced))))
    write_text(path, json.dumps(entry, indent=2) + "\n")


def _percentage(share: float) -> str:
    return f"{100 * share:.2f}"


def _radius(attack: NamedAttack) -> str:
    """Write the radius as the leaderboards do: 8/255 in Linf where it is a whole number of levels."""
    levels = attack.radius * 255
    whole = attack.norm == "linf" and 0 < levels < 255 and abs(levels - round(levels)) < 1e-6
    return f"{round(levels)}/255" if whole else f"{attack.radius:g}"
