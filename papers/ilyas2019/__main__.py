"""Ilyas et al. 2019: adversarial examples are not bugs, they are features."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from papers import command as c
from papers.ilyas2019 import features, pipeline, plan, report, theory
from papers.ilyas2019.maker import find_parts, join_weights
from papers.study import REPORT, RESULTS, WEIGHTS, Watch, some_of


def do_features(asked: Namespace, watch: Watch) -> Iterator[Any]:
    """Measure how useful the features of a standard and of a robust network are, with and without an attack.

    Trains both on the embedded digits, attacks every feature of every test digit in L2, and draws robust
    usefulness against usefulness. An interrupted command resumes.
    """
    settings = replace(
        features.TINY if asked.tiny else features.Settings(), seed=asked.seed, radius=asked.radius
    )
    result = features.run(settings, asked.run_dir, watch)
    yield result
    c.print_table("Features of two networks on the digits", features.table(result), features.notes(result))
    c.say_where({"figure": result["measured"]["figures"]["usefulness"]})


def do_theory(asked: Namespace, watch: Watch) -> Iterator[Any]:
    """Check the three theorems on two Gaussian classes numerically, each with a tolerance.

    Compares closed forms with computations that do not use them, and with adversarial training by the
    library. The exit code is 1 if a claim does not hold.
    """
    result = theory.run(theory.Settings(seed=asked.seed), asked.run_dir, watch)
    yield result
    c.print_table("Two Gaussian classes", theory.table(result), theory.notes(result))
    c.say_where(result["measured"]["figures"])
    yield int(not all(check["holds"] for check in result["measured"]["checks"]))


def do_pipeline(asked: Namespace, watch: Watch) -> Iterator[Any]:
    """Build D_R, D_NR, D_rand and D_det, and measure what networks learn from them (section 3).

    Trains a standard and a robust network, builds the sets with them, trains a new network on each set, and
    attacks all networks. Then come the controls of the discussion, a gallery of each set, and transfer to
    other architectures. A single stage uses what is in --run-dir. An interrupted command resumes.
    """
    stages = some_of("stages", asked.stages, plan.STAGES)
    settings = replace(plan.SCALES[asked.scale], seed=asked.seed)
    if (name := asked.architecture) is not None:
        (name,) = some_of("architecture", [name], fa.models.names())
        settings = replace(settings, architecture=plan.on_cifar10(name, name))
    if asked.scale == "tiny":  # nets this small gain nothing from a second thread
        torch.set_num_threads(1)
    base, test = pipeline.load(settings, asked.data_dir)
    result = pipeline.run(
        settings, base, test, asked.run_dir, watch, stages=stages, device=c.device_of(asked),
        budget=asked.budget,
    )  # fmt: skip
    yield result
    for title, cells in report.tables(result).items():
        c.print_table(title, cells)
    print(*report.notes(result), "", sep="\n")
    files = {**report.figures(result), "all numbers": RESULTS, "the report": REPORT}
    c.say_where({what: asked.run_dir / file for what, file in files.items()})


def do_merge(asked: Namespace, watch: Watch) -> Iterator[Any]:
    """Join weights in parts, as the pipeline keeps them in weights/, to NAME/model.safetensors in --run-dir.

    With nets/ in the folder of a run as --run-dir, the pipeline then goes on with them.
    """
    parts = find_parts(asked.folders)
    joined = {name: asked.run_dir / name / WEIGHTS for name in parts}
    for name, paths in parts.items():
        join_weights(paths, joined[name])
    yield {"weights": {name: str(path) for name, path in joined.items()}}
    c.say_where(joined)


def parser() -> c.Parser:
    made = c.Parser("ilyas2019", description=__doc__)
    some = made.add_subparsers(required=True, metavar="features | theory | pipeline | merge")

    def add(name: str, work: c.Work, run_dir: str, kept: str = c.EPOCHS) -> Any:
        one = some.add_parser(name, description=work.__doc__, help=(work.__doc__ or "").partition("\n")[0])
        c.command(one, work, run_dir, kept)
        return one

    one = add("features", do_features, "ilyas2019-features")
    one.add_argument("--radius", type=float, default=0.2, help="of the L2 budget, in input units (0.2)")
    one.add_argument("--tiny", action="store_true", help="every part in seconds")
    add("theory", do_theory, "ilyas2019-theory", "nothing is kept")
    kept = "finished epochs, shards and batches are kept in {run_dir}; the same command resumes"
    one = add("pipeline", do_pipeline, "ilyas2019", kept)
    told = "the embedded digits; part of CIFAR-10 and narrow networks; ResNet-18; the paper's, in days"
    c.scales(one, plan.SCALES, "tiny", told)
    told = "a built-in network instead of the scale's, with images of CIFAR-10: resnet50"
    one.add_argument("--architecture", help=told)
    told = f"some of {', '.join(plan.STAGES)}; by default all"
    one.add_argument("--stages", type=c.names, default=plan.STAGES, help=told)
    one.add_argument("--budget", type=c.count, help=c.BUDGET)
    c.on_data(one)
    one = add("merge", do_merge, "nets", "the same command starts again")
    one.add_argument("folders", type=Path, nargs="+", help="folders of parts")
    return made


if __name__ == "__main__":
    sys.exit(c.main(parser()))
