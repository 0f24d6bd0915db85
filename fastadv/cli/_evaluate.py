"""`fastadv evaluate`: a model under several attacks, the worst case, accuracy against radius."""

import json
import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import typer

from fastadv.card import card
from fastadv.cli import _options as o
from fastadv.cli._attack import ATTACK, NamedAttack, parse_attacks
from fastadv.cli._interrupt import interruptible, together
from fastadv.cli._output import (
    Limits,
    finite,
    kept_in,
    note,
    print_results,
    progress,
    say,
    say_where,
    too_low,
)
from fastadv.cli._shared import Budget, Images, Machine, Network, Search
from fastadv.cli._signature import Front
from fastadv.data.corruption.card import named
from fastadv.engine.module import in_words
from fastadv.evaluation import Audit, Curve, Table, accuracy_against_radius, report
from fastadv.evaluation import evaluate as measure
from fastadv.evaluation.curve import check_radii
from fastadv.evaluation.robustbench import RADII, entry, shortage
from fastadv.files import save_tensors, write_text
from fastadv.runs import processes
from fastadv.text import percent

OF_THE_DATA = ("name", "samples", "shape", "data_hash", "note")  # not the names of a thousand classes
DOUBTFUL, BELOW = 3, 4  # the exit codes of --strict and --fail-under
Suite = Literal["robustbench"]
PREPARED = {"imagenet": "preprocessing"}  # each of its models names its own
TABLES = ", ".join(f"--data {data} --norm {norm}" for data, norm in RADII)


MEASURE = Front(
    measure,
    "run_dir resume draws indicators corruptions severities",
    types={
        "corruptions": Annotated[Any, o.text(lambda t: named(t.split(",") if "," in t else t), "NAMES")],
        "severities": Sequence[float],
    },
    defaults={"severities": "1,2,3,4,5"},
)


@dataclass(frozen=True)
class Auditing:
    audit: Annotated[int | None, "Attack so many of the images that hold with AutoAttack, too."] = None
    audit_seconds: Annotated[float | None, "End the audit before it takes longer."] = None

    @property
    def asked(self) -> Audit | None:
        if self.audit is None:
            o.refuse_set("is of an audit: give --audit, too.", audit_seconds=self.audit_seconds)
            return None
        return Audit(samples=self.audit, seconds=self.audit_seconds)


@dataclass(frozen=True)
class Results:
    radii: Annotated[Sequence[float] | None, "Also the accuracy at each of these radii: 0,0.1,0.2."] = None
    out: o.Samples | None = None
    report: Annotated[o.Report | None, "Write one HTML file, with samples, cost and provenance."] = None
    strict: Annotated[bool, "End with exit code 3 unless there is no sign of masking."] = False
    fail_under: Annotated[Limits | None, "End with exit code 4 if an accuracy is below its share."] = None

    def check(self, named: dict[str, NamedAttack], indicators: bool) -> tuple[float, ...]:
        """Refuse what these attacks cannot give, before any work. Returns the radii."""
        radii = () if self.radii is None else tuple(check_radii(self.radii).tolist())
        if not named:
            o.refuse_set("needs an attack: give -a.", radii=self.radii, strict=self.strict or None)
        if len({attack.threat.norm for attack in named.values()}) > 1:
            why = "needs attacks of one norm; evaluate each norm separately."
            o.refuse_set(why, radii=self.radii, out=self.out)
        for attack in named.values():
            if attack.card.minimal and any(radius > attack.radius for radius in radii):
                o.refuse(
                    f"--radii goes beyond the radius {attack.radius:g} of {attack.label}: leave out --radius."
                )
        if "robust" in (self.fail_under or ()) and all(one.radius == math.inf for one in named.values()):
            o.refuse("--fail-under robust: no attack has a radius; give --radius.")
        if self.strict and not indicators:
            o.refuse("--strict is about the indicators: leave out --no-indicators.")
        return radii

    def judge(self, table: Table) -> None:
        """End the command with another exit code where an accuracy is too low, or in doubt."""
        if low := too_low(table, self.fail_under or {}):
            note(low)
            raise typer.Exit(BELOW)
        signs = table.indicators
        unsure = signs is not None and not (signs.clean or signs.black_box)
        if self.strict and (table.lead or unsure):
            raise typer.Exit(DOUBTFUL)


@dataclass(frozen=True)
class RobustBench:
    suite: Annotated[Suite | None, "Run AutoAttack at this benchmark's radius on the whole test set."] = None
    robustbench: Annotated[o.Written | None, "Write the result of --suite as an entry (json)."] = None

    def lacks(self, images: Mapping[str, Any], count: int) -> str:
        """Return what a result of the suite on `count` images is not; an entry on too few is refused."""
        text = "" if self.suite is None else shortage(images["data"].partition(":")[0], count)
        if text and self.robustbench is not None:
            folder = "--data-dir names the folder that holds them"
            o.refuse(f"--robustbench: {text}; {'leave out --samples' if images['samples'] else folder}.")
        return text and f"not a result of RobustBench: {text}"

    def attacks(
        self, texts: list[str] | None, budget: Budget, images: Mapping[str, Any], default: list[str]
    ) -> tuple[list[str], Budget]:
        """Return which attacks to run in which budget: those of the options, or those of the suite."""
        if self.suite is None:
            why = "writes the result of --suite robustbench: give that, too."
            o.refuse_set(why, robustbench=self.robustbench)
            return texts or default, budget
        fixed = {"attack": texts, "size": images["size"]} | budget.chosen
        o.refuse_set("is set by --suite robustbench; leave it out.", **fixed | {"norm": None})
        (data, _, prepared), norm = images["data"].partition(":"), budget.norm or "linf"
        if (data, norm) not in RADII:
            o.refuse(f"--suite robustbench has no table for {data} in {norm}; it has {TABLES}.")
        if "," in prepared or prepared.partition("=")[0] != PREPARED.get(data, ""):
            o.refuse(
                f"--suite robustbench has its own images: expected --data {data} alone, or of ImageNet with "
                f"the preprocessing of the model, imagenet:preprocessing=Res256Crop224; got {images['data']}."
            )
        return ["autoattack"], replace(budget, norm=norm, radius=RADII[data, norm])

    def write(self, table: Table, data: str, model: str, note: str | None) -> None:
        """Write the entry of the suite's result, with replaced gradients and `note` in its footnote."""
        if self.robustbench is None:
            return
        row: Any = table.rows[0]
        footnote = "; ".join(filter(None, (in_words(table.replaced), note)))
        fields = entry(
            data.partition(":")[0], model, table.clean_accuracy, row.robust_accuracy, row.threat,
            unreliable=bool(row.flags), about={"footnote": footnote} if footnote else None,
        )  # fmt: skip
        write_text(self.robustbench, json.dumps(fields, indent=2) + "\n")


@together
def evaluate(
    model: Network,
    images: Images,
    budget: Budget,
    evaluation: Annotated[partial[Any], MEASURE],
    auditing: Auditing,
    results: Results,
    benchmark: RobustBench,
    search: Search,
    machine: Machine,
    attack: Annotated[list[str] | None, f"{ATTACK} May be repeated; by default fgsm and pgd."] = None,
) -> Iterator[Any]:
    """Measure a model without an attack, under each attack, and under the worst of them for each sample.

    Minimum-norm attacks need no --radius; it limits which successes count. One run serves all --radii.

    With --strict the exit code is 3 if gradients may be masked, or if that could not be checked; with
    --fail-under it is 4 if an accuracy is too low, doubt or not; robust is the worst of all attacks. Under
    torchrun both codes become 1: read "verdict" in the output of --json.

    --corruptions c15 measures common corruptions; without -a and a budget, only these:
    fastadv evaluate -m small_cnn -w w.safetensors -d digits:size=32 --corruptions c15 --severities 1,3,5

    --suite robustbench evaluates as RobustBench does; --data and --norm choose the table.

    Several processes share the work: torchrun --nproc-per-node 4 -m fastadv evaluate ...

    An attack is named alone, or with its arguments: pgd:steps=100,norm=l2,radius=0.5,loss=dlr. Of attacks in
    several norms, as -a pgd:norm=linf,radius=8/255 -a pgd:norm=l2,radius=0.5, the union is counted, too.

    -a autoattack:version=quick --audit 500 bounds what the whole of AutoAttack would leave, at a fraction of
    its cost.
    """
    default = [] if evaluation.keywords["corruptions"] and not budget.chosen else ["fgsm", "pgd"]
    texts, budget = benchmark.attacks(attack, budget, images.keywords, default)
    named = parse_attacks(texts, budget, machine.seed)
    run_dir, batch_size = evaluation.keywords["run_dir"], search.batch_size
    radii = results.check(named, evaluation.keywords["indicators"])
    attacks, audit = {label: attack.run for label, attack in named.items()}, auditing.asked
    with interruptible(partial(kept_in, run_dir)), progress("attacks") as tick:
        dataset = images()
        lacks = benchmark.lacks(images.keywords, len(dataset))
        net = search.frozen(model.load(dataset, machine))
        table = evaluation(
            net, dataset, attacks, batch_size=batch_size, seed=machine.seed,
            keep_samples=bool(results.out or results.report), progress=tick, audit=audit,
        )  # fmt: skip
        curves = {}
        for label, one in named.items() if radii else ():
            tick.text = f"radii, {label}"
            if one.card.minimal:
                curves[label] = Curve.from_distances(table[label].broken_at, radii)
                continue
            curves[label] = accuracy_against_radius(
                net, dataset, one.at, radii, batch_size=batch_size, progress=tick
            )
    if processes.rank():
        return  # the first process tells and writes
    config = {
        **model.config,
        "attacks": [{"label": label, **one.config} for label, one in named.items()],
        "data": dataset.describe(),
        "batch_size": batch_size,
        "precision": search.precision or "fp32",
        "audit": audit and asdict(audit),
    }
    measured = table.to_dict() | {
        "curves": [
            {**row, "radii": curve.radii.tolist(), "accuracy": curve.accuracy.tolist()}
            for row, curve in zip(config["attacks"], curves.values(), strict=False)
        ]
    }
    if benchmark.suite is not None:
        measured["lacks"] = lacks
    document, title = card("evaluation", config, **measured), f"{model.model} on {dataset.name}"
    if results.out is not None:
        save_tensors(results.out, vars(table.samples), {"card": json.dumps(finite(document))})
    benchmark.write(table, images.keywords["data"], model.model, dataset.note)
    if results.report is not None:
        arguments = {
            label: ", ".join(f"{key}={value}" for key, value in one.config.items())
            for label, one in named.items()
        }
        about = {**config, "attacks": arguments}
        about["data"] = {key: config["data"].get(key) for key in OF_THE_DATA}
        command = shlex.join(["fastadv", *sys.argv[1:]])
        report(
            table, results.report, title=title, model=net, class_names=dataset.classes, curves=curves,
            provenance={"command": command, "seed": machine.seed, **about},
        )  # fmt: skip
    try:
        yield document
        print_results(table, model.model, dataset)
        if lacks:
            say(lacks)
        for label, curve in curves.items():
            shares = zip(curve.radii, curve.accuracy, strict=True)
            points = ", ".join(f"{radius:g}: {percent(share)}" for radius, share in shares)
            say(f"accuracy at each radius, {label}: {points}")
        written = {"adversarial examples": results.out, "entry": benchmark.robustbench}
        say_where(written | {"report": results.report})
    finally:  # also where only the document was asked for
        results.judge(table)
