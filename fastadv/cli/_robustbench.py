"""`fastadv evaluate --suite robustbench`: RobustBench's tables, and the entry of a model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from fastadv.cli import _options as o
from fastadv.cli._attacks import NamedAttack
from fastadv.cli._shared import Budget
from fastadv.engine.module import in_words
from fastadv.evaluation import Table
from fastadv.evaluation.robustbench import RADII, entry, shortage
from fastadv.runs.files import write_text
from fastadv.threat import THREATS

TABLES = ", ".join(f"--data {data} --norm {norm}" for data, norm in RADII)


@dataclass(frozen=True)
class RobustBench:
    suite: Annotated[
        Literal["robustbench"] | None,
        "Evaluate as this benchmark does: AutoAttack standard at its radius on the whole test set.",
    ] = None
    robustbench: Annotated[
        o.Written | None, "Write the result of --suite robustbench as an entry of RobustBench here (json)."
    ] = None

    def lacks(self, images: Mapping[str, Any], count: int) -> str:
        """Return what a result of the suite on `count` images is not; an entry on too few is refused."""
        text = "" if self.suite is None else shortage(images["data"].partition(":")[0], count)
        if text and self.robustbench is not None:
            folder = "--data-dir names the folder that holds them"
            o.refuse(f"--robustbench: {text}; {'leave out --samples' if images['samples'] else folder}.")
        return text and f"not a result of RobustBench: {text}"

    def attacks(
        self, texts: list[str] | None, budget: Budget, images: Mapping[str, Any]
    ) -> tuple[list[str], Budget]:
        """Return which attacks to run in which budget: those of the options, or those of the suite."""
        if self.suite is None:
            o.refuse_set(
                "writes the result of --suite robustbench: give that, too.", robustbench=self.robustbench
            )
            return texts or ["fgsm", "pgd"], budget
        o.refuse_set(
            "is set by --suite robustbench; leave it out.", split=images["split"], size=images["size"]
        )
        for option in ("ids=", "size="):
            if option in images["data"]:
                o.refuse(f"--suite robustbench has its own images: leave out {option}")
        if texts:
            o.refuse("--suite robustbench runs autoattack: leave out --attack.")
        for name in budget.chosen.keys() - {"norm"}:
            o.refuse(f"--suite robustbench sets the budget: leave out --{name.replace('_', '-')}.")
        data, norm = images["data"].partition(":")[0], budget.norm or "linf"
        if (data, norm) not in RADII:
            o.refuse(f"--suite robustbench has no table for {data} in {norm}; it has {TABLES}.")
        if data == "imagenet" and "preprocessing=" not in images["data"]:
            o.refuse(
                "--suite robustbench: each model of ImageNet names its preprocessing: give "
                "--data imagenet:preprocessing=Res256Crop224, or another one."
            )
        return ["autoattack"], replace(budget, norm=norm, radius=RADII[data, norm])


def write_entry(
    path: Path, table: Table, attack: NamedAttack, data: str, model: str, note: str | None
) -> None:
    """Write the entry of the suite's result, with replaced gradients and `note` in its footnote."""
    row, threat = table[attack.label], THREATS[attack.norm](attack.radius)
    accuracies = table.clean_accuracy, row.robust_accuracy
    footnote = "; ".join(filter(None, (in_words(table.replaced) if table.replaced else None, note)))
    about = {"footnote": footnote} if footnote else None
    dataset = data.partition(":")[0]
    fields = entry(dataset, model, *accuracies, threat, unreliable=bool(row.flags), about=about)
    write_text(path, json.dumps(fields, indent=2) + "\n")
