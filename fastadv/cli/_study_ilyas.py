"""`fastadv study ilyas`: what Ilyas et al. 2019 say about features, measured and checked."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastadv.cli import _options as o
from fastadv.cli._interrupt import epochs_kept, interruptible
from fastadv.cli._measure import ending
from fastadv.cli._output import print_table, progress, say, say_where
from fastadv.cli._panels import add, group
from fastadv.cli._shared import make_device
from fastadv.studies.ilyas2019 import features as of_features
from fastadv.studies.ilyas2019 import pipeline as of_pipeline
from fastadv.studies.ilyas2019 import plan as of_plan
from fastadv.studies.ilyas2019 import report
from fastadv.studies.ilyas2019 import theory as of_theory
from fastadv.studies.study import REPORT, RESULTS, SIZES, TINY

ilyas_app = group("Ilyas et al. 2019: adversarial examples are not bugs, they are features.")


def features(
    radius: float | None = o.number(None, "The budget, in input units: 0.3, 8/255."),
    run_dir: Path = o.folder(Path("ilyas2019-features"), "Folder for networks, figure and results.json."),
    tiny: bool = o.option(False, "", "--tiny", hidden=True),
    seed: o.Seed = 0,
) -> Iterator[Any]:
    """Measure how useful the features of a standard and of a robust network are, with and without an attack.

    Trains both on the embedded digits, attacks every feature of every test digit in L2, and draws robust
    usefulness against usefulness. An interrupted command resumes.
    """
    nets = replace(TINY if tiny else SIZES[10], seed=seed)
    with interruptible(epochs_kept(run_dir)), progress("features") as bar:
        result = of_features.run(nets, run_dir, bar.named, radius)
    yield result
    print_table(
        "Features of two networks on the digits", of_features.table(result), of_features.notes(result)
    )
    say("")
    say(f"figure  {result['measured']['figures']['usefulness']}")


def theory(
    run_dir: Path = o.folder(Path("ilyas2019-theory"), "Folder for the figures and results.json."),
    seed: o.Seed = 0,
) -> Iterator[Any]:
    """Check the three theorems on two Gaussian classes numerically, each with a tolerance.

    Compares closed forms with computations that do not use them, and with adversarial training by the
    library. The exit code is 1 if a claim does not hold.
    """
    with interruptible("nothing is kept"), progress("theory") as bar:
        result = of_theory.run(of_theory.Settings(seed=seed), run_dir, bar.named)
    failed = not all(check["holds"] for check in result["measured"]["checks"])
    with ending(1 if failed else 0):
        yield result
        print_table("Two Gaussian classes", of_theory.table(result), of_theory.notes(result))
        say("")
        say_where(result["measured"]["figures"], width=18)


def pipeline(
    scale: str = o.option(
        "tiny", "tiny: the embedded digits; cpu: part of CIFAR-10 and narrow networks; paper: for a GPU."
    ),
    stages: str | None = o.option(
        None, f"Some of {', '.join(of_plan.STAGES)}; by default all.", metavar="NAMES"
    ),
    data_dir: o.DataDir = None,
    run_dir: Path = o.folder(
        Path("ilyas2019"), "Folder for networks, sets and results; a stopped run resumes."
    ),
    seed: o.Seed = 0,
    device: o.Device = None,
) -> Iterator[Any]:
    """Build D_R, D_NR, D_rand and D_det, and measure what networks learn from them (section 3).

    Trains a standard and a robust network, builds the sets with them, trains a new network on each set, and
    attacks all networks. Then come the controls of the discussion, a gallery of each set, and transfer to
    other architectures. A single stage uses what is in --run-dir. An interrupted command resumes.
    """
    names = o.split_names(stages)
    chosen = of_plan.check_stages(of_plan.STAGES if names is None else names)
    o.look_up("scale", scale, of_plan.SCALES)
    settings = replace(of_plan.SCALES[scale], seed=seed)
    base, test = of_pipeline.load(settings, data_dir)
    place = make_device(device)
    kept = f"finished epochs, shards and batches are kept in {run_dir}; the same command resumes"
    with interruptible(kept), progress("pipeline") as bar:
        result = of_pipeline.run(settings, base, test, run_dir, bar.named, stages=chosen, device=place)
    yield result
    for title, cells in report.tables(result).items():
        print_table(title, cells)
        say("")
    for line in report.notes(result):
        say(line, style="dim")
    say("")
    files = {**report.figures(result), "all numbers": RESULTS, "the report": REPORT}
    say_where({what: run_dir / file for what, file in files.items()}, width=26)


add(ilyas_app, features, "fastadv study ilyas features --run-dir runs/features")
add(ilyas_app, theory, "fastadv study ilyas theory --run-dir runs/theory")
add(ilyas_app, pipeline, "fastadv study ilyas pipeline --scale cpu --data-dir data --run-dir runs/ilyas2019")
