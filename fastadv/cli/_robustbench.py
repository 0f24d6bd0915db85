"""`fastadv evaluate` for RobustBench: its suite and its entries."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions, NamedAttack
from fastadv.cli._panels import Panel
from fastadv.cli._shared import Images
from fastadv.data import is_named
from fastadv.engine.replaced import in_words
from fastadv.evaluation import Table
from fastadv.evaluation.robustbench import RADII, SAID, TEXTS, entry, shortage
from fastadv.runs.files import write_text

STANDARD = {"version": "standard", "eot": 1}  # of autoattack, for an entry
TABLES = ", ".join(f"--data {data} --norm {norm}" for data, norm in RADII)


class RobustBench(Panel, title="RobustBench"):
    suite: Literal["robustbench"] | None = o.option(
        None,
        "Evaluate as this benchmark does: AutoAttack standard at its radius on the whole test set.",
    )
    robustbench: Path | None = o.written(
        None,
        "Write the result of -a autoattack on the whole test set as an entry of RobustBench here (json).",
    )
    about: list[str] | None = o.option(
        None,
        f"A field of that entry: {', '.join(SAID)}. May be repeated; null where not given.",
        metavar="KEY=VALUE",
    )

    @property
    def said(self) -> dict[str, Any]:
        """The fields of the entry that --about names."""
        if self.about and self.robustbench is None:
            o.refuse("--about says more about an entry: give --robustbench too.")
        return parse_about(self.about or ())

    def lacks(self, images: Images, count: int) -> str:
        """Return what a result of the suite on `count` images is not; an entry on too few is refused."""
        text = shortage(images.data.partition(":")[0], count)
        if text and self.robustbench is not None:
            o.refuse(f"--robustbench: {text}; --data-dir names the folder that holds them.")
        return f"not a result of RobustBench: {text}" if text and self.suite is not None else ""

    def attacks(
        self, texts: list[str] | None, options: AttackOptions, images: Images
    ) -> tuple[list[str], AttackOptions]:
        """Return which attacks to run with which options: those given, or those of the suite."""
        if self.suite is None:
            return texts or ["fgsm", "pgd"], options
        o.refuse_given("is set by --suite robustbench; leave it out.", split=images.split)
        if "ids=" in images.data:
            o.refuse("--suite robustbench has its own list of images: leave out ids.")
        if texts:
            o.refuse("--suite robustbench runs autoattack: leave out --attack.")
        for name in options.given.keys() - {"norm"}:
            o.refuse(f"--suite robustbench sets the budget: leave out --{name.replace('_', '-')}.")
        data, norm = images.data.partition(":")[0], options.norm or "linf"
        if (data, norm) not in RADII:
            o.refuse(f"--suite robustbench has no table for {data} in {norm}; it has {TABLES}.")
        if data == "imagenet" and "preprocessing=" not in images.data:
            o.refuse(
                "--suite robustbench: each model of ImageNet names its preprocessing: give "
                "--data imagenet:preprocessing=Res256Crop224, or another one."
            )
        return ["autoattack"], replace(options, norm=norm, radius=RADII[data, norm])

    def _check_images(self, images: Images) -> None:
        o.refuse_given("is set by --suite robustbench; leave it out.", split=images.split)
        if "ids=" in images.data:
            o.refuse("--suite robustbench has its own list of images: leave out ids.")


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
    for key, value in STANDARD.items():
        if (given := found[0].config.get(key, value)) != value:
            o.refuse(f"--robustbench needs {key}={value} of autoattack, got {given}.")
    if found[0].norm not in ("linf", "l2"):
        o.refuse(f"--robustbench lists linf and l2, not {found[0].norm}.")
    if not is_named(images.data):
        o.refuse("--robustbench lists test sets, and no constructed ones.")
    if images.split not in (None, "test"):
        o.refuse(f"--robustbench needs the test set: leave out --split {images.split}.")
    if "ids=" in images.data:
        o.refuse("--robustbench needs the images that RobustBench names: leave out ids.")
    if images.samples is not None:
        o.refuse("--robustbench needs the test set whole: leave out --samples.")
    return found[0]


def write_entry(
    path: Path, table: Table, attack: NamedAttack, data: str, model: str, about: Mapping[str, Any],
    note: str | None,
) -> None:  # fmt: skip
    """Write the entry of the evaluation `table`.

    The footnote says which gradients were replaced, and the `note` of the data set.
    """
    row, threat = table[attack.label], o.make_threat(attack.norm, attack.radius)
    accuracies = table.clean_accuracy, row.robust_accuracy
    notes = (about.get("footnote"), in_words(table.replaced) if table.replaced else None, note)
    if footnote := "; ".join(filter(None, notes)):
        about = {**about, "footnote": footnote}
    dataset = data.partition(":")[0]
    made = entry(dataset, model, *accuracies, threat, unreliable=bool(row.flags), about=about)
    write_text(path, json.dumps(made, indent=2) + "\n")
