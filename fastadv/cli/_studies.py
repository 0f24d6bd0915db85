"""`fastadv study`: papers run again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from fastadv import models
from fastadv._checks import check_some
from fastadv.cli import _options as o
from fastadv.cli._interrupt import epochs_kept, interruptible
from fastadv.cli._measure import ending
from fastadv.cli._output import print_table, progress, say, say_where
from fastadv.cli._panels import add, group
from fastadv.cli._shared import Machine, load_data
from fastadv.data._load import data_folder
from fastadv.models import ABS
from papers.goodfellow2014 import paper
from papers.goodfellow2014.plan import SCALES
from papers.ilyas2019 import features as of_features
from papers.ilyas2019 import pipeline as of_pipeline
from papers.ilyas2019 import plan as of_plan
from papers.ilyas2019 import report as of_report
from papers.ilyas2019 import theory as of_theory
from papers.schott2018 import paper as schott2018
from papers.schott2018 import report
from papers.schott2018.plan import MODELS, NORMS, THRESHOLDS, Settings
from papers.schott2018.subjects import Subjects
from papers.smoothing import paper as study
from papers.study import REPORT, RESULTS, SIZES, TINY
from papers.training import paper as of_training

BUDGET = "Seconds after which the run stops as if interrupted, and says what is left."
OFFICIAL = "abs_official"  # the authors' weights, beside the data sets

study_app = typer.Typer()
ilyas_app = group("Ilyas et al. 2019: adversarial examples are not bugs, they are features.")


def schott(
    machine: Machine,
    samples: int = o.count(100, "Images, drawn from MNIST's test set.", "--samples", "-n"),
    models: str | None = o.option(None, f"Some of {', '.join(MODELS)}; by default all.", metavar="NAMES"),
    norms: str | None = o.option(None, f"Some of {', '.join(NORMS)}; by default all.", metavar="NAMES"),
    data_dir: Path | None = o.option(
        None,
        f"Folder of MNIST/ and {OFFICIAL}/, the authors' .net files; else FASTADV_DATA, else a cache.",
        metavar="FOLDER",
    ),
    run_dir: Path = o.folder(Path("schott2018"), "Folder for all results; finished batches are kept there."),
    resume: bool = o.option(False, "Resume the run in --run-dir, or add to it.", "--resume"),
) -> Iterator[Any]:
    """Schott et al. 2018: six models on MNIST under every attack of the paper and today's best.

    Reports the smallest perturbation of each image over all attacks, for each model and norm, next to the
    published figures. Writes curves, a gallery of adversarial images, results.json and report.md to
    --run-dir.
    """
    settings = Settings(samples, o.split_names(models) or MODELS, o.split_names(norms) or NORMS, machine.seed)
    o.check_run_dir(run_dir, resume, schott2018.CELLS)
    place = machine.place()
    kept = f"finished batches are kept in {run_dir}; add --resume to continue"
    with interruptible(kept), progress("study") as bar:
        subjects = Subjects(
            data_folder(data_dir) / OFFICIAL, run_dir, data_dir=data_dir, device=place, seed=machine.seed,
            watch=bar.named,
        )  # fmt: skip
        subjects.check(settings.models)
        test = load_data("mnist", data_dir=data_dir)
        result = schott2018.run(settings, subjects, test, run_dir, bar.named, resume=resume)
    measured = result["measured"]
    yield result
    cells = report.overview(measured)
    lines = [line[0] for line in cells[1:]]
    breaks = [place for place in range(1, len(lines)) if lines[place] != lines[place - 1]]
    title = f"Schott et al. 2018 on {result['config']['samples']} test images"
    print_table(title, cells, report.notes(measured), breaks=breaks)
    for norm in dict.fromkeys(line["norm"] for line in measured["cells"]):
        say("")
        title = f"{o.symbol(norm)}: median distance / accuracy at {THRESHOLDS[norm]:g}"
        print_table(title, report.attacks(measured, norm))
    say("")
    files = {"all figures as JSON": run_dir / RESULTS, "the report": run_dir / REPORT}
    say_where({**measured["figures"], **files}, width=42)


def goodfellow(
    machine: Machine,
    scale: str = o.option("cpu", f"{', '.join(SCALES)}; tiny takes the embedded digits.", metavar="NAME"),
    parts: str | None = o.option(None, f"Some of {', '.join(paper.PARTS)}; by default all.", metavar="NAMES"),
    data_dir: o.DataDir = None,
    run_dir: Path = o.folder(Path("goodfellow2014"), "Folder for all results; an interrupted run resumes."),
) -> Iterator[Any]:
    """Goodfellow et al. 2014 on MNIST: FGSM, adversarial training, controls, agreement, rubbish.

    Prints every table next to the paper's, and writes results.json, report.md and figures to --run-dir. An
    interrupted command resumes.
    """
    o.look_up("scale", scale, SCALES)
    settings = replace(SCALES[scale], seed=machine.seed)
    chosen = o.split_names(parts) or paper.PARTS
    place = machine.place()
    with interruptible(epochs_kept(run_dir)), progress("study") as bar:
        name = "digits" if scale == "tiny" else "mnist"
        train_set, test_set = (load_data(name, part, data_dir) for part in ("train", "test"))
        result = paper.run(settings, train_set, test_set, run_dir, bar.named, parts=chosen, device=place)
    yield result
    for part in result["config"]["parts"]:
        print_table(part.capitalize(), paper.table(result, part))
    print_table("Networks", paper.networks(result), paper.notes(result))
    say("")
    say_where({**result["measured"]["figures"], "the report": run_dir / REPORT}, width=36)


def smoothing(
    machine: Machine,
    recipes: str | None = o.option(None, f"Some of {', '.join(study.PUBLISHED)}.", metavar="NAMES"),
    sigmas: str | None = o.option(None, "Deviations of the noise: 0.25,0.5,1.", metavar="NUMBERS"),
    epochs: int | None = o.count(None, "Epochs of each training, by default 90."),
    samples: int | None = o.count(None, "Test images to certify, by default 1,000.", "--samples", "-n"),
    draws: int | None = o.count(None, "Draws for each of them, by default 100,000."),
    precision: str = o.option("fp32", "Of the networks that are certified: fp32 or bf16.", metavar="NAME"),
    tiny: bool = o.option(False, "Every part in seconds, on the embedded digits.", "--tiny"),
    data_dir: o.DataDir = None,
    run_dir: Path = o.folder(Path("smoothing"), "Folder for all results; an interrupted run resumes."),
) -> Iterator[Any]:
    """Certify networks on MNIST, trained by three recipes for randomized smoothing, beside published radii.

    Where the folder of the data sets holds abs_official/, the bounds of ABS stand beside them.
    """
    o.look_up("precision", precision, ("fp32", "bf16"))
    asked: dict[str, Any] = {
        "recipes": o.split_names(recipes) or None,
        "sigmas": None if sigmas is None else o.parse_numbers(sigmas),
        "epochs": epochs,
        "samples": samples,
        "draws": draws,
        "precision": precision,
        "seed": machine.seed,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    settings = replace(study.TINY if tiny else study.Settings(), **given)
    for name in settings.recipes:
        o.look_up("recipe", name, study.PUBLISHED)
    place, name = machine.place(), "digits" if tiny else "mnist"
    with interruptible(epochs_kept(run_dir)), progress("study") as bar:
        train_set, test_set = (load_data(name, part, data_dir) for part in ("train", "test"))
        weights = data_folder(data_dir) / OFFICIAL
        synthesis = ABS.from_official(weights) if not tiny and weights.is_dir() else None
        result = study.run(
            settings, train_set, test_set, run_dir, bar.named, synthesis=synthesis, device=place
        )
    yield result
    print_table("Average certified radius, and certified accuracy", study.table(result))
    say("")
    say_where({**result["measured"]["figures"], "the report": run_dir / REPORT}, width=24)


def training(
    machine: Machine,
    scale: str = o.option(
        "tiny",
        "tiny: the embedded digits; cpu: part of CIFAR-10 and a narrow network; gpu: ResNet-18.",
    ),
    data_dir: o.DataDir = None,
    run_dir: Path = o.folder(Path("training"), "Folder for all results; an interrupted run resumes."),
    budget: int | None = o.count(None, BUDGET),
) -> Iterator[Any]:
    """Adversarial training on CIFAR-10 by PGD-10, N-FGSM and TRADES, judged by AutoAttack.

    Prints accuracy and seconds of each recipe beside published rows. Where the package autoattack of its
    authors is installed, it attacks the same images. An interrupted command resumes.
    """
    o.look_up("scale", scale, of_training.SCALES)
    settings, place = replace(of_training.SCALES[scale], seed=machine.seed), machine.place()
    with interruptible(epochs_kept(run_dir)), progress("study") as bar:
        train_set = load_data(settings.data, "train", data_dir, settings.images)
        test_set = load_data(settings.data, "test", data_dir)
        result = of_training.run(
            settings, train_set, test_set, run_dir, bar.named, device=place, budget=budget
        )
    yield result
    print_table("Adversarial training", of_training.table(result), of_training.notes(result))
    say("")
    say_where({"all figures as JSON": run_dir / RESULTS, "the report": run_dir / REPORT}, width=24)


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
    machine: Machine,
    scale: str = o.option(
        "tiny",
        "tiny: the embedded digits; cpu: part of CIFAR-10 and narrow networks; gpu: ResNet-18 at "
        "full width, in minutes; paper: the paper's own settings, in days.",
    ),
    architecture: str | None = o.option(
        None, "A built-in network instead of the scale's, with images of CIFAR-10: resnet50.", metavar="NAME"
    ),
    stages: str | None = o.option(
        None, f"Some of {', '.join(of_plan.STAGES)}; by default all.", metavar="NAMES"
    ),
    data_dir: o.DataDir = None,
    run_dir: Path = o.folder(
        Path("ilyas2019"), "Folder for networks, sets and results; a stopped run resumes."
    ),
    budget: int | None = o.count(None, BUDGET),
) -> Iterator[Any]:
    """Build D_R, D_NR, D_rand and D_det, and measure what networks learn from them (section 3).

    Trains a standard and a robust network, builds the sets with them, trains a new network on each set, and
    attacks all networks. Then come the controls of the discussion, a gallery of each set, and transfer to
    other architectures. A single stage uses what is in --run-dir. An interrupted command resumes.
    """
    chosen = check_some("stages", o.split_names(stages) or of_plan.STAGES, of_plan.STAGES)
    o.look_up("scale", scale, of_plan.SCALES)
    settings = replace(of_plan.SCALES[scale], seed=machine.seed)
    if architecture is not None:
        o.look_up("network", architecture, models.names())
        settings = replace(settings, architecture=of_plan.on_cifar10(architecture, architecture))
    base, test = of_pipeline.load(settings, data_dir)
    place = machine.place()
    kept = f"finished epochs, shards and batches are kept in {run_dir}; the same command resumes"
    with interruptible(kept), progress("pipeline") as bar:
        result = of_pipeline.run(
            settings, base, test, run_dir, bar.named, stages=chosen, device=place, budget=budget
        )
    yield result
    for title, cells in of_report.tables(result).items():
        print_table(title, cells)
        say("")
    for line in of_report.notes(result):
        say(line, style="dim")
    say("")
    files = {**of_report.figures(result), "all numbers": RESULTS, "the report": REPORT}
    say_where({what: run_dir / file for what, file in files.items()}, width=26)


add(study_app, schott, "fastadv study schott --data-dir data --samples 100 --run-dir runs/schott2018")
add(study_app, goodfellow, "fastadv study goodfellow --data-dir data --run-dir runs/goodfellow2014")
add(study_app, smoothing, "fastadv study smoothing --data-dir data --run-dir runs/smoothing")
add(study_app, training, "fastadv study training --scale gpu --data-dir data --run-dir runs/training")
add(ilyas_app, features, "fastadv study ilyas features --run-dir runs/features")
add(ilyas_app, theory, "fastadv study ilyas theory --run-dir runs/theory")
add(ilyas_app, pipeline, "fastadv study ilyas pipeline --scale cpu --data-dir data --run-dir runs/ilyas2019")
study_app.add_typer(ilyas_app, name="ilyas")
