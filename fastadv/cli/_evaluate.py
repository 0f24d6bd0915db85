"""`fastadv evaluate`: a model under several attacks, the worst case, accuracy against radius."""

import json as jsons
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions, NamedAttack, help_text, names_attacks, parse_attacks
from fastadv.cli._external import judge
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import DOUBTFUL, NOTHING_KEPT, Watched, ending, plain_curves, print_results, watch
from fastadv.cli._output import finite, progress, say, say_where
from fastadv.cli._panels import Panel
from fastadv.cli._report import write_report
from fastadv.cli._robustbench import RobustBench, check_entry, entry_fields, write_entry
from fastadv.cli._shared import Attacked, Images, Search
from fastadv.cli._torchrun import together
from fastadv.errors import NoGradientError
from fastadv.evaluation import (
    Curve,
    Row,
    Table,
    accuracy_against_radius,
    figures,
    save_external,
)
from fastadv.evaluation import evaluate as measure
from fastadv.evaluation import optimality as compare
from fastadv.evaluation._parts import IDENTITY
from fastadv.runs import processes
from fastadv.runs.card import card
from fastadv.runs.files import read_json, save_tensors
from fastadv.text import percent

WHOLE = ("radii", "optimality", "out", "external", "report", "strict")


class Kept(Panel, title="Results"):
    """What is kept of an evaluation, and drawn of it."""

    radii: str | None = o.option(
        None, "Also the accuracy at each of these radii: 0,0.1,0.2.", metavar="NUMBERS"
    )
    figure: Path | None = o.picture(None, "Draw accuracy against --radii here")
    optimality: bool = o.option(
        False, "Also report each minimum-norm attack's optimality (AttackBench); 1 is best.", "--optimality"
    )
    draws: int = o.option(
        1, "Of a randomized model: classify each sample this often, and report the accuracy of one draw, of "
        "the majority, of the mean output and of the worst draw.", min=1, metavar="N",
    )  # fmt: skip
    out: Path | None = o.written(
        None,
        "Write x, the nearest x_adv of all attacks, y, ids, success, status, distance, by (which "
        "attack, -1 for none), component (which part of it, as for autoattack) and the distances of each "
        "attack here (safetensors). --resume writes it for an evaluation that is in --run-dir.",
    )
    external: Path | None = o.option(
        None,
        "Write x_adv of all samples in order here, x where no attack broke one: the one tensor (pt) that "
        "RobustBench takes as an external evaluation.",
        parser=o.parse_torch, metavar="FILE",
    )  # fmt: skip
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
    indicators: bool = o.option(
        True,
        "Look for signs of masked gradients, on 8 to 200 images; on more than 8 only within 5% of the passes "
        "reach; the last line says whether the accuracies can be trusted.",
        "--indicators/--no-indicators",
    )
    strict: bool = o.option(
        False, "End with exit code 3 unless there is no sign of masking, or all images of --judge are in the "
        "threat.", "--strict",
    )  # fmt: skip

    def check(self, named: dict[str, NamedAttack]) -> tuple[float, ...]:
        """Refuse what these attacks cannot give, before any work. Returns the radii."""
        tried = o.parse_radii(self.radii)
        if self.figure is not None and not any(tried):
            o.refuse("--figure draws accuracy against radius: give --radii too, such as 0,0.1,0.2.")
        several = len({attack.norm for attack in named.values()}) > 1
        if tried and several:
            o.refuse("--radii needs attacks of one norm; evaluate each norm separately.")
        for option, path in (("--out", self.out), ("--external", self.external)):
            if path is not None and several:
                o.refuse(f"{option} compares distances: give attacks of one norm.")
        if self.optimality:
            for attack in named.values():
                if not attack.minimal:
                    o.refuse(f"--optimality compares minimum-norm attacks; {attack.name} has a budget.")
            if any(attack.radius != math.inf for attack in named.values()):
                o.refuse("--optimality needs whole searches: leave out the radius.")
            if several:
                o.refuse("--optimality needs attacks of one norm; evaluate each norm separately.")
        for attack in named.values():
            if attack.minimal and any(r > attack.radius for r in tried):
                o.refuse(
                    f"--radii goes beyond the radius {attack.radius:g} of {attack.label}: leave out --radius."
                )
        if self.strict and not self.indicators:
            o.refuse("--strict is about the indicators: leave out --no-indicators.")
        if self.shard:
            self._check_share()
        o.check_run_dir(self.run_dir, self.resume, IDENTITY, "an evaluation")
        return tried

    def _check_share(self) -> None:
        """Refuse what is of all images."""
        if self.run_dir is None:
            o.refuse("--shard keeps its share in a folder: give --run-dir too.")
        whole = {name: getattr(self, name) or None for name in WHOLE}
        o.refuse_given("is of all images: give it without --shard, after fastadv merge.", **whole)


@names_attacks
@together
def evaluate(
    network: Attacked,
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

    With --strict the exit code is 3 if gradients may be masked, or if that could not be checked. torchrun
    turns it into 1, like every code except 0: read "verdict" in the output of --json.

    --judge FILE runs no attack. It reports which adversarial images in a file are within --norm and --radius,
    with distances in float64, and the accuracy on them.

    --suite robustbench evaluates as RobustBench does; --data and --norm choose the table.

    Several processes share the work: torchrun --nproc-per-node 4 -m fastadv evaluate ...
    Jobs of an array share it with --shard.
    """
    if results.shard:
        whole = {"suite": benchmark.suite, "robustbench": benchmark.robustbench}
        o.refuse_given("is of all images: give it without --shard, after fastadv merge.", **whole)
    if benchmark.on_corruptions(images):
        yield from benchmark.run_corruptions(attack, options, results, network, images, machine)
        return
    if benchmark.judge is not None:
        yield from judge(benchmark.judge, attack, options, results, benchmark, network, images, machine)
        return
    named = parse_attacks(*benchmark.attacks(attack, options, images), machine.seed)
    tried, said = results.check(named), benchmark.said
    if benchmark.robustbench is not None:
        entered = check_entry(named, images)
    searched, place, run_dir = machine.searched, machine.place(), results.run_dir
    with interruptible(NOTHING_KEPT if run_dir is None else f"kept in {run_dir}: add --resume to continue"):
        dataset = images.load()
        lacks = benchmark.lacks(images, len(dataset))
        net = machine.twin(network.load(dataset, place, machine.seed))

        def load(text: str) -> nn.Module:
            return network.substitute(text, dataset, place, machine.seed)

        named = {label: one.with_sources(load) for label, one in named.items()}
        with progress("attacks") as tick:
            rank, jobs = results.shard or (None, None)
            kept = _kept(run_dir) if results.resume and run_dir is not None and not jobs else 0
            watched = watch(named, len(dataset) // (jobs or 1), tick, kept=kept)
            table = measure(
                net, dataset, watched, batch_size=machine.batch_size, run_dir=run_dir, resume=results.resume,
                keep_samples=bool(results.out or results.external or results.report),
                indicators=results.indicators,
                draws=results.draws, seed=machine.seed, rank=rank, world_size=jobs,
            )  # fmt: skip
        if jobs:
            yield {"shard": [rank, jobs], "run_dir": str(run_dir), "samples": len(table.ids)}
            say(f"share {rank} of {jobs}, {len(table.ids):,} images, is kept in {run_dir}")
            return
        curves = {
            label: Curve.from_distances(table[label].distance, tried)
            if attack.minimal
            else _curve(net, dataset, attack, table[label], tried, machine.batch_size)
            for label, attack in (named.items() if tried else ())
        }
        if processes.rank():
            return  # the first process tells and writes
        if results.figure is not None:
            _draw(results.figure, table, curves, named, tried, f"{network.model} on {dataset.name}", dataset)
    config = {
        **network.config,
        "attacks": {label: attack.config for label, attack in named.items()},
        "data": dataset.describe(),
        "batch_size": machine.batch_size,
        "precision": searched,
        "draws": results.draws,
    }
    measured = table.to_dict()
    measured["curves"] = plain_curves(curves)
    if benchmark.suite is not None:
        measured["lacks"] = lacks
    nearness = compare({row.name: row.distance for row in table.rows}) if results.optimality else {}
    if results.optimality:
        measured["optimality"] = nearness
    result = card("evaluation", config, **measured)
    if results.out is not None:
        save_tensors(results.out, vars(table.samples), {"card": jsons.dumps(finite(result))})
    if results.external is not None and table.samples is not None:
        save_external(results.external, table.samples.x_adv)
    about = said, dataset.note
    if benchmark.robustbench is not None:
        write_entry(benchmark.robustbench, table, entered, images.data, network.model, *about)
    if results.report is not None:
        fields = entry_fields(table, named, images.data, network.model, *about)
        write_report(results.report, table, net, dataset, network.model, curves, fields, machine.seed, config)
    doubt = table.indicators is not None and not table.indicators.clean
    with ending(DOUBTFUL if results.strict and doubt else 0):
        yield result
        print_results(table, network.model, dataset)
        if lacks:
            say(lacks)
        for label, curve in curves.items():
            shares = zip(curve.radii, curve.accuracy, strict=True)
            points = ", ".join(f"{radius:g}: {percent(share)}" for radius, share in shares)
            say(f"accuracy at each radius, {label}: {points}")
        for label, value in nearness.items():
            say(f"optimality of {label}: {value:.3f}")
        files = {"adversarial examples": results.out, "adversarial images": results.external}
        say_where(
            {**files, "figure": results.figure, "entry": benchmark.robustbench, "report": results.report}
        )


def _draw(
    path: Path, table: Table, curves: dict[str, Curve], named: dict[str, NamedAttack],
    radii: tuple[float, ...], title: str, dataset: Any,
) -> None:  # fmt: skip
    """Draw accuracy against radius: as steps where minimum-norm attacks give every radius."""
    exact = all(attack.minimal for attack in named.values())
    drawn = {label: Curve.from_distances(table[label].distance) for label in curves} if exact else curves
    norm = next(iter(named.values())).norm
    bands = _bands(table, curves, named, radii) if exact else None
    figures.curves(
        _lines(drawn, named), path, steps=exact, bands=bands, right=max(radii),
        radius=f"{o.symbol(norm)} radius", title=title, chance=1 / dataset.num_classes,
    )  # fmt: skip


def _bands(
    table: Table, curves: dict[str, Curve], named: dict[str, NamedAttack], radii: tuple[float, ...]
) -> dict[str, tuple[Curve, Curve]]:
    """Compute the exact 95% interval of each curve, on a grid up to the largest radius."""
    grid = np.linspace(0, max(radii), 101)
    known = {label: table[label].distance for label in curves}
    return _lines(
        {label: Curve.from_distances(each, grid).band(len(each)) for label, each in known.items()}, named
    )


def _kept(run_dir: Path) -> int:
    """Return how many samples went through an attack in the run that is to go on."""
    path = run_dir / IDENTITY
    size: int = read_json(path)["batch_size"] if path.exists() else 0
    return size * len(list(run_dir.glob("part-*.safetensors")))


def _curve(
    net: Any, dataset: Any, attack: NamedAttack, row: Row, radii: tuple[float, ...], batch_size: Any
) -> Curve:
    """Measure the accuracy at each radius; without a gradient, an attack breaks nothing at any."""
    with progress(f"radii, {attack.label}") as tick:
        done = [0]
        # a sample that was broken is not tried again, and the bar may end early
        total = len(dataset) * sum(radius > 0 for radius in radii)

        def at(radius: float) -> Watched:
            return Watched(attack.at(radius), f"radii, {attack.label}", done, total, tick)

        try:
            return accuracy_against_radius(net, dataset, at, radii, batch_size=batch_size)
        except NoGradientError:
            return Curve.from_distances(row.distance, radii)


def _lines(curves: dict[str, Any], named: dict[str, NamedAttack]) -> dict[str, Any]:
    """Name the curves for the figure: without the radius where the names stay distinct."""
    short = {label if ":" in label else named[label].name: curve for label, curve in curves.items()}
    return short if len(short) == len(curves) else curves
