"""`fastadv study`: all studies; Schott et al. 2018, Goodfellow et al. 2014, and randomized smoothing."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import epochs_kept, interruptible
from fastadv.cli._output import print_table, progress, say, say_where
from fastadv.cli._panels import add
from fastadv.cli._shared import load_data, make_device
from fastadv.cli._study_ilyas import ilyas_app
from fastadv.data._load import data_folder
from fastadv.models import ABS
from fastadv.studies import smoothing as study
from fastadv.studies.goodfellow2014 import paper
from fastadv.studies.goodfellow2014.plan import SCALES
from fastadv.studies.schott2018 import paper as schott2018
from fastadv.studies.schott2018 import report
from fastadv.studies.schott2018.plan import MODELS, NORMS, THRESHOLDS, Settings
from fastadv.studies.schott2018.subjects import Subjects
from fastadv.studies.study import REPORT, RESULTS

OFFICIAL = "abs_official"  # the authors' weights, beside the data sets

study_app = typer.Typer()


def schott(
    samples: int = o.count(100, "Images, drawn from MNIST's test set.", "--samples", "-n"),
    models: str | None = o.option(None, f"Some of {', '.join(MODELS)}; by default all.", metavar="NAMES"),
    norms: str | None = o.option(None, f"Some of {', '.join(NORMS)}; by default all.", metavar="NAMES"),
    data_dir: Path | None = o.option(
        None, f"Folder of MNIST/ and {OFFICIAL}/, the authors' .net files; else FASTADV_DATA, else a cache."
    ),
    run_dir: Path = o.folder(Path("schott2018"), "Folder for all results; finished batches are kept there."),
    resume: bool = o.option(False, "Resume the run in --run-dir, or add to it.", "--resume"),
    seed: o.Seed = 0,
    device: o.Device = None,
) -> Iterator[Any]:
    """Schott et al. 2018: six models on MNIST under every attack of the paper and today's best.

    Reports the smallest perturbation of each image over all attacks, for each model and norm, next to the
    published figures. Writes curves, a gallery of adversarial images, results.json and report.md to
    --run-dir.
    """
    settings = Settings(samples, o.split_names(models) or MODELS, o.split_names(norms) or NORMS, seed)
    o.check_run_dir(run_dir, resume, schott2018.CELLS)
    place = make_device(device)
    kept = f"finished batches are kept in {run_dir}; add --resume to continue"
    with interruptible(kept), progress("study") as bar:
        subjects = Subjects(
            data_folder(data_dir) / OFFICIAL, run_dir, data_dir=data_dir, device=place, seed=seed,
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
    scale: str = o.option("cpu", f"{', '.join(SCALES)}; tiny takes the embedded digits.", metavar="NAME"),
    parts: str | None = o.option(None, f"Some of {', '.join(paper.PARTS)}; by default all.", metavar="NAMES"),
    data_dir: o.DataDir = None,
    run_dir: Path = o.folder(Path("goodfellow2014"), "Folder for all results; an interrupted run resumes."),
    seed: o.Seed = 0,
    device: o.Device = None,
) -> Iterator[Any]:
    """Goodfellow et al. 2014 on MNIST: FGSM, adversarial training, controls, agreement, rubbish.

    Prints every table next to the paper's, and writes results.json, report.md and figures to --run-dir. An
    interrupted command resumes.
    """
    o.look_up("scale", scale, SCALES)
    settings = replace(SCALES[scale], seed=seed)
    chosen = o.split_names(parts) or paper.PARTS
    place = make_device(device)
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
    recipes: str | None = o.option(None, f"Some of {', '.join(study.PUBLISHED)}.", metavar="NAMES"),
    sigmas: str | None = o.option(None, "Deviations of the noise: 0.25,0.5,1.", metavar="NUMBERS"),
    epochs: int | None = o.count(None, "Epochs of each training, by default 90."),
    samples: int | None = o.count(None, "Test images to certify, by default 1,000.", "--samples", "-n"),
    draws: int | None = o.count(None, "Draws for each of them, by default 100,000."),
    precision: str = o.option("fp32", "Of the networks that are certified: fp32 or bf16.", metavar="NAME"),
    tiny: bool = o.option(False, "Every part in seconds, on the embedded digits.", "--tiny"),
    data_dir: o.DataDir = None,
    run_dir: Path = o.folder(Path("smoothing"), "Folder for all results; an interrupted run resumes."),
    seed: o.Seed = 0,
    device: o.Device = None,
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
    }
    given = {name: value for name, value in asked.items() if value is not None}
    settings = replace(study.TINY if tiny else study.Settings(), seed=seed, precision=precision, **given)
    for name in settings.recipes:
        o.look_up("recipe", name, study.PUBLISHED)
    place, name = make_device(device), "digits" if tiny else "mnist"
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


add(study_app, schott, "fastadv study schott --data-dir data --samples 100 --run-dir runs/schott2018")
add(study_app, goodfellow, "fastadv study goodfellow --data-dir data --run-dir runs/goodfellow2014")
add(study_app, smoothing, "fastadv study smoothing --data-dir data --run-dir runs/smoothing")
study_app.add_typer(ilyas_app, name="ilyas")
