"""`fastadv evaluate --suite robustbench`: RobustBench's tables, and the entry of a model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions, NamedAttack
from fastadv.cli._panels import Panel
from fastadv.cli._shared import Images
from fastadv.engine.module import in_words
from fastadv.evaluation import Table
from fastadv.evaluation.robustbench import RADII, entry, shortage
from fastadv.runs.files import write_text

TABLES = ", ".join(f"--data {data} --norm {norm}" for data, norm in RADII)


class RobustBench(Panel, title="RobustBench"):
    suite: Literal["robustbench"] | None = o.option(
        None, "Evaluate as this benchmark does: AutoAttack standard at its radius on the whole test set."
    )
    robustbench: Path | None = o.written(
        None, "Write the result of --suite robustbench as an entry of RobustBench here (json)."
    )

    def lacks(self, images: Images, count: int) -> str:
        """Return what a result of the suite on `count` images is not; an entry on too few is refused."""
        text = "" if self.suite is None else shortage(images.data.partition(":")[0], count)
        if text and self.robustbench is not None:
            todo = "leave out --samples" if images.samples else "--data-dir names the folder that holds them"
            o.refuse(f"--robustbench: {text}; {todo}.")
        return text and f"not a result of RobustBench: {text}"

    def attacks(
        self, texts: list[str] | None, options: AttackOptions, images: Images
    ) -> tuple[list[str], AttackOptions]:
        """Return which attacks to run with which options: those given, or those of the suite."""
        if self.suite is None:
            o.refuse_given(
                "writes the result of --suite robustbench: give that, too.", robustbench=self.robustbench
            )
            return texts or ["fgsm", "pgd"], options
        o.refuse_given("is set by --suite robustbench; leave it out.", split=images.split, size=images.size)
        for own in ("ids=", "size="):
            if own in images.data:
                o.refuse(f"--suite robustbench has its own images: leave out {own}")
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


def write_entry(
    path: Path, table: Table, attack: NamedAttack, data: str, model: str, note: str | None
) -> None:
    """Write the entry of the suite's result, with replaced gradients and `note` in its footnote."""
    row, threat = table[attack.label], o.make_threat(attack.norm, attack.radius)
    accuracies = table.clean_accuracy, row.robust_accuracy
    footnote = "; ".join(filter(None, (in_words(table.replaced) if table.replaced else None, note)))
    about = {"footnote": footnote} if footnote else None
    dataset = data.partition(":")[0]
    made = entry(dataset, model, *accuracies, threat, unreliable=bool(row.flags), about=about)
    write_text(path, json.dumps(made, indent=2) + "\n")
