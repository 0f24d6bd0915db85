"""`fastadv evaluate --judge`: adversarial images that others made."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import DOUBTFUL, NOTHING_KEPT, ending, print_results
from fastadv.cli._output import say
from fastadv.cli._robustbench import RobustBench, refuse_results
from fastadv.cli._shared import Attacked, Images, Search
from fastadv.evaluation import external
from fastadv.runs.card import card

SHOWN = 10  # numbers of images outside


def judge(
    path: Path, texts: list[str] | None, options: AttackOptions, results: Any, benchmark: RobustBench,
    network: Attacked, images: Images, machine: Search,
) -> Iterator[Any]:  # fmt: skip
    """Judge the images of a file; exit code 3 with --strict where one is outside the threat."""
    named = benchmark.attacks(texts, options, images)[1]
    other = {name: value for name, value in options.given.items() if name not in ("norm", "radius")}
    refuse_results(
        "has no effect with --judge; leave it out.", replace(results, strict=False), attack=texts or None,
        robustbench=benchmark.robustbench, about=benchmark.about, bpda=network.bpda,
        precision=machine.precision, **other,
    )  # fmt: skip
    if named.radius is None:
        o.refuse("--judge needs the threat: give --radius, or --suite robustbench.")
    threat = o.make_threat(named.norm or "linf", named.radius)
    with interruptible(NOTHING_KEPT):
        dataset = images.load()
        net = network.load(dataset, machine.place(), machine.seed)
        found = external(net, path, dataset, threat, batch_size=machine.batch_size)
    outside, count = found.outside.tolist(), found.table.n
    lacks = benchmark.lacks(images, count)
    measured = {
        "clean_accuracy": found.clean_accuracy,
        "robust_accuracy": found.robust_accuracy,
        "images": count,
        "outside": outside,
        "largest_distance": found.distances.max().item(),
        "lacks": lacks,
    }
    config = {
        **network.config,
        "external": str(path),
        "threat": threat.describe(),
        "data": dataset.describe(),
    }
    with ending(DOUBTFUL if results.strict and outside else 0):
        yield card("external evaluation", config, **measured)
        print_results(found.table, network.model, dataset)
        say(f"the farthest lies {measured['largest_distance']:.7g} from its clean image, in {threat.symbol}")
        shown = ", ".join(map(str, outside[:SHOWN])) + (" ..." if len(outside) > SHOWN else "")
        say(f"{len(outside)} outside the ball or the box break nothing: {shown}" if outside else
            "all are in the ball and the box")  # fmt: skip
        if lacks:
            say(lacks)
