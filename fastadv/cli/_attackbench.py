"""`fastadv attackbench`: an attack by the protocol of AttackBench, and a submission in its layout."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastadv.attacks.core.card import Attack
from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions, NamedAttack, help_text, parse_attack, registry
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import NOTHING_KEPT
from fastadv.cli._output import print_table, progress, say, say_where
from fastadv.cli._shared import Images, Machine, Network
from fastadv.evaluation import Submission, global_optimality, read_best
from fastadv.evaluation import attackbench as measure
from fastadv.evaluation.attackbench import BATCH_SIZE, PASSES
from fastadv.evaluation.submission import MODELS
from fastadv.runs.card import card
from fastadv.text import number, percent
from fastadv.threat import THREATS

# each of their steps costs a pass for every class, and theirs by default are as many as help
JACOBIANS = ("deepfool", "fab")
SEARCHES = 9  # of attacks whose default depends on the norm


def attackbench(
    network: Network,
    images: Images,
    machine: Machine,
    out: Path = o.folder(..., "Write results/ and compiled/ here, as that project lays them out."),
    attack: str = o.option(
        "fmn", f"{help_text('fmn:steps=1000', minimal=True)} Steps and queries follow from --passes unless "
        f"named; {' and '.join(JACOBIANS)} have their own.", "--attack", "-a",
    ),
    norm: str = o.option("l2", "Norm to minimize.", parser=o.parse_norm, metavar="|".join(THREATS)),
    best: Path | None = o.option(
        None, "Stored best distances of that project, by the hash of each image (json): gives the optimality."
    ),
    name: str | None = o.option(
        None, f"The model's name there: {', '.join(MODELS)}, or a new one; by default that of --model."
    ),
    passes: int = o.option(PASSES, "Forward and backward passes of each sample, together.", min=3),
    batch_size: o.BatchSize = BATCH_SIZE,
) -> Iterator[Any]:  # fmt: skip
    """Run a minimum-norm attack by the protocol of AttackBench, and write a submission.

    An attack may spend 2,000 forward and backward passes on each sample, and the best distance over all of
    them counts. With --best these distances are compared with the best of all attacks: optimality is 1 if
    they are equal for every sample.
    """
    named = _parse(attack, norm, passes, machine.seed)
    with interruptible(NOTHING_KEPT):
        stored = None if best is None else read_best(best)
        dataset = images.load()
        net = network.load(dataset, machine.place(), machine.seed)
        with progress(named.label) as tick:
            measured = measure(
                net, dataset, named.run, norm, passes=passes, batch_size=batch_size, limit=images.samples,
                progress=tick,
            )  # fmt: skip
        model = name or network.model.replace(":", "_").replace("/", "_")
        arguments = {
            key: value for key, value in named.config.items() if key not in ("attack", "norm", "radius")
        }
        made = Submission(measured, images.data.partition(":")[0], model, named.name, arguments)
        local = None if stored is None else made.optimality(stored)
        where = made.write(out, stored)
    mean, models = global_optimality(out, norm, named.name)
    forwards, backwards = (each.double().mean().item() for each in (measured.forwards, measured.backwards))
    found = {
        "success_rate": measured.success.double().mean().item(),
        "median_distance": float(np.median(measured.best[norm])),
        "forwards": forwards,
        "backwards": backwards,
        "seconds": sum(measured.seconds),
        "optimality": local,
        "global_optimality": mean,
        "models": models,
    }
    yield card("attackbench", {**network.config, **named.config, "data": dataset.describe()}, **found)
    cells = [
        ["attack", "broken or wrong", "median", "forwards", "backwards", "seconds", "optimality"],
        [
            named.label, percent(found["success_rate"]), number(found["median_distance"]), f"{forwards:.0f}",
            f"{backwards:.0f}", f"{found['seconds']:.1f}", "-" if local is None else f"{local:.4f}",
        ],
    ]  # fmt: skip
    print_table(f"{model} on {len(measured.hashes):,} images of {dataset.name}", cells)
    if local is None:
        say("no optimality without stored best distances: give --best")
    else:
        say(f"global optimality {mean:.4f}, over {models} model{'s' if models > 1 else ''} in {out}")
    say_where({"run": where})


def _parse(text: str, norm: str, passes: int, seed: int) -> NamedAttack:
    """Parse a minimum-norm attack, whose steps or queries fill the passes where it needs some."""
    name, _, tail = text.partition(":")
    known = registry().get(name)
    if known is not None:
        parts = [part for part in tail.split(",") if part] + _filling(known, tail, passes)
        text = f"{name}:{','.join(parts)}" if parts else name
    why = (
        f"attackbench takes attacks for the minimum norm, without a radius, got {text}; "
        "minimum_radius:attack=apgd,steps=98 searches for the radius of one with a budget."
    )
    if known is not None and not known.minimal:
        o.refuse(why)  # before it is asked for its radius
    named = parse_attack(text, AttackOptions(norm=norm), seed)
    if not named.minimal or named.radius != float("inf"):
        o.refuse(why)
    if named.norm != norm or named.sources or named.config.get("eot", 1) != 1:
        o.refuse(f"attackbench takes one norm, no source and no eot, got {text}.")
    return named


def _filling(attack: Attack, tail: str, passes: int) -> list[str]:
    """Return the steps or queries that fill the passes, where `tail` names neither."""
    given, takes = dict(part.partition("=")[::2] for part in tail.split(",")), attack.parameters
    count = next((key for key in ("queries", "steps") if key in takes), None)
    if not attack.minimal or attack.name in JACOBIANS or count is None or given.keys() & {"queries", "steps"}:
        return []
    if count == "queries":
        return [f"queries={passes}"]
    searches = given.get("searches") or takes["searches"].default or SEARCHES if "searches" in takes else 1
    return [f"steps={max(passes // 2 // int(searches), 1)}"] if str(searches).isdecimal() else []
