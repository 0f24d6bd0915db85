"""`fastadv evaluate`: a model under several attacks, the worst case, accuracy against radius."""

import json as jsons
import math
import shlex
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions, NamedAttack, help_text, names_attacks, parse_attacks
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import BELOW, checks, ending, kept_in, parse_limits, print_results, write_summary
from fastadv.cli._output import finite, progress, say, say_where
from fastadv.cli._panels import Panel
from fastadv.cli._robustbench import RobustBench, write_entry
from fastadv.cli._shared import Images, Network, Search
from fastadv.cli._torchrun import together
from fastadv.evaluation import Curve, Table, accuracy_against_radius, report
from fastadv.evaluation import evaluate as measure
from fastadv.evaluation._parts import IDENTITY
from fastadv.evaluation.curve import check_radii
from fastadv.runs import processes
from fastadv.runs.card import card
from fastadv.runs.files import save_tensors
from fastadv.text import percent, several

OF_THE_DATA = ("name", "samples", "shape", "data_hash", "note")  # not the names of a thousand classes
OF_ALL = "is of all images: give it without --shard, after fastadv merge."
WHOLE = ("radii", "out", "report", "strict", "fail_under", "summary")


class Kept(Panel, title="Results"):
    radii: str | None = o.option(
        None, "Also the accuracy at each of these radii: 0,0.1,0.2.", metavar="NUMBERS"
    )
    out: Path | None = o.written(
        None,
        "Write x, the nearest x_adv of all attacks, y, ids, success, status, distance, by (which "
        "attack, -1 for none), component (which part of it, as for autoattack) and the distances of each "
        "attack here (safetensors). --resume writes it for an evaluation that is in --run-dir.",
    )
    report: Path | None = o.option(
        None,
        "Write all of it as one HTML file, with samples, the hardest of them, cost and provenance.",
        parser=o.parse_report, metavar="FILE",
    )  # fmt: skip
    run_dir: Path | None = o.folder(
        None,
        "Keep results and adversarial examples here, batch by batch; all but the --radii of attacks "
        "with a budget.",
    )
    resume: bool = o.option(False, "Resume the evaluation in --run-dir.", "--resume")
    shard: Any = o.option(
        None,
        "Do share I of N alone, I from 0 to N - 1, as an independent job. It needs "
        "--run-dir, one of all jobs or each its own. After fastadv merge the same command with --resume and "
        "without --shard gives the table.",
        parser=o.parse_shard, metavar="I/N",
    )  # fmt: skip
    draws: int = o.count(
        1, "Classify each image, and its x_adv, so many times: for a model that answers at random.", "--draws"
    )
    indicators: bool = o.option(
        True,
        "Look for signs of masked gradients on 8 to 200 images: as many as 5% more passes allow. "
        "The last line says whether the accuracies can be trusted.",
        "--indicators/--no-indicators",
    )
    strict: bool = o.option(False, "End with exit code 3 unless there is no sign of masking.", "--strict")
    fail_under: Any = o.option(
        None, "End with exit code 4 if an accuracy is below its share; robust is the worst of all attacks.",
        parser=parse_limits, metavar="robust=SHARE,clean=SHARE",
    )  # fmt: skip
    summary: Path | None = o.written(None, "Write a summary: JUnit if the name ends in .xml, else Markdown.")

    def check(self, named: dict[str, NamedAttack]) -> tuple[float, ...]:
        """Refuse what these attacks cannot give, before any work. Returns the radii."""
        tried = () if self.radii is None else tuple(check_radii(o.parse_numbers(self.radii)).tolist())
        if len({attack.norm for attack in named.values()}) > 1:
            why = "needs attacks of one norm; evaluate each norm separately."
            o.refuse_given(why, radii=self.radii, out=self.out)
        for attack in named.values():
            if attack.minimal and any(r > attack.radius for r in tried):
                o.refuse(
                    f"--radii goes beyond the radius {attack.radius:g} of {attack.label}: leave out --radius."
                )
        if "robust" in (self.fail_under or ()) and all(each.radius == math.inf for each in named.values()):
            o.refuse("--fail-under robust: no attack has a radius; give --radius.")
        if self.strict and not self.indicators:
            o.refuse("--strict is about the indicators: leave out --no-indicators.")
        if self.shard:
            if self.run_dir is None:
                o.refuse("--shard keeps its share in a folder: give --run-dir too.")
            whole = {name: getattr(self, name) or None for name in WHOLE}
            o.refuse_given(OF_ALL, **whole)
        o.check_run_dir(self.run_dir, self.resume, IDENTITY, "an evaluation")
        return tried


@names_attacks
@together
def evaluate(
    network: Network,
    images: Images,
    options: AttackOptions,
    results: Kept,
    benchmark: RobustBench,
    machine: Search,
    attack: list[str] | None = o.option(
        None, f"{help_text('pgd:steps=100')} May be repeated; by default fgsm and pgd.", "--attack", "-a"
    ),
) -> Iterator[Any]:
    """Measure a model without an attack, under each attack, and under the worst of them for each sample.

    Minimum-norm attacks need no --radius; it limits which successes count. One run serves all --radii.

    With --strict the exit code is 3 if gradients may be masked, or if that could not be checked; with
    --fail-under it is 4 if an accuracy is too low, doubt or not. Under torchrun both codes become 1:
    read "verdict" in the output of --json.

    --suite robustbench evaluates as RobustBench does; --data and --norm choose the table.

    Several processes share the work: torchrun --nproc-per-node 4 -m fastadv evaluate ...
    Jobs of an array share it with --shard.
    """
    if results.shard:
        o.refuse_given(OF_ALL, suite=benchmark.suite)
    named = parse_attacks(*benchmark.attacks(attack, options, images), machine.seed)
    radii, run_dir, place = results.check(named), results.run_dir, machine.place()
    with interruptible(partial(kept_in, run_dir)):
        dataset = images.load()
        lacks = benchmark.lacks(images, len(dataset))
        net = machine.frozen(network.load(dataset, place, machine.seed))
        table = _table(net, dataset, named, results, machine)
        curves = {
            label: _curve(net, dataset, one, table[label].distance, radii, machine.batch_size)
            for label, one in named.items()
            if radii
        }
    if results.shard:
        rank, jobs = results.shard
        yield {"shard": [rank, jobs], "run_dir": str(run_dir), "samples": len(table.ids)}
        say(f"share {rank} of {jobs}, {several(len(table.ids), 'image')}, is kept in {run_dir}")
        return
    if processes.rank():
        return  # the first process tells and writes
    config = {
        **network.config,
        "attacks": [{"label": label, **one.config} for label, one in named.items()],
        "data": dataset.describe(),
        "batch_size": machine.batch_size,
        "precision": machine.searched,
    }
    measured = table.to_dict() | {
        "curves": [
            {**told, "radii": curve.radii.tolist(), "accuracy": curve.accuracy.tolist()}
            for told, curve in zip(config["attacks"], curves.values(), strict=False)
        ]
    }
    if benchmark.suite is not None:
        measured["lacks"] = lacks
    document, title = card("evaluation", config, **measured), f"{network.model} on {dataset.name}"
    passed = checks(table, results.fail_under or {}, results.strict)
    if results.out is not None:
        save_tensors(results.out, vars(table.samples), {"card": jsons.dumps(finite(document))})
    if benchmark.robustbench is not None:
        (only,) = named.values()
        write_entry(benchmark.robustbench, table, only, images.data, network.model, dataset.note)
    if results.summary is not None:
        write_summary(results.summary, table, f"{title}: {table.setting}", passed)
    if results.report is not None:
        report(
            table, results.report, title=title, model=net, class_names=dataset.classes, curves=curves,
            provenance=_provenance(config, named, machine.seed),
        )  # fmt: skip
    low = "; ".join(found for _, found, code in passed if code == BELOW)
    with ending(max((code for *_, code in passed), default=0), low):
        yield document
        print_results(table, network.model, dataset)
        if lacks:
            say(lacks)
        for label, curve in curves.items():
            shares = zip(curve.radii, curve.accuracy, strict=True)
            points = ", ".join(f"{radius:g}: {percent(share)}" for radius, share in shares)
            say(f"accuracy at each radius, {label}: {points}")
        written = {"adversarial examples": results.out, "entry": benchmark.robustbench}
        say_where(written | {"report": results.report, "summary": results.summary})


def _table(net: Any, dataset: Any, named: dict[str, NamedAttack], results: Kept, machine: Search) -> Table:
    rank, jobs = results.shard or (None, None)
    attacks = {label: one.run for label, one in named.items()}
    with progress("attacks") as tick:
        return measure(
            net, dataset, attacks, batch_size=machine.batch_size, run_dir=results.run_dir,
            resume=results.resume, keep_samples=bool(results.out or results.report), draws=results.draws,
            indicators=results.indicators, seed=machine.seed, rank=rank, world_size=jobs, progress=tick,
        )  # fmt: skip


def _curve(
    net: Any, dataset: Any, attack: NamedAttack, distance: Tensor, radii: tuple[float, ...], batch_size: int
) -> Curve:
    if attack.minimal:
        return Curve.from_distances(distance, radii)
    with progress(f"radii, {attack.label}") as tick:
        return accuracy_against_radius(net, dataset, attack.at, radii, batch_size=batch_size, progress=tick)


def _provenance(config: dict[str, Any], named: dict[str, NamedAttack], seed: int) -> dict[str, Any]:
    attacks = {
        label: ", ".join(f"{key}={value}" for key, value in one.config.items())
        for label, one in named.items()
    }
    data = {key: config["data"].get(key) for key in OF_THE_DATA}
    command = shlex.join(["fastadv", *sys.argv[1:]])
    return {"command": command, "seed": seed, **config, "attacks": attacks, "data": data}
