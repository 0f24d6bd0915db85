"""`fastadv study schott`: Schott et al. 2018 on the authors' weights; and the group of all studies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._output import print_table, progress, say, say_where
from fastadv.cli._panels import add
from fastadv.cli._shared import load_data, make_device
from fastadv.cli._study_goodfellow import goodfellow
from fastadv.cli._study_ilyas import ilyas_app
from fastadv.cli._study_smoothing import OFFICIAL, smoothing
from fastadv.data._load import data_folder
from fastadv.studies.schott2018 import paper, report
from fastadv.studies.schott2018.plan import MODELS, NORMS, THRESHOLDS, Settings
from fastadv.studies.schott2018.subjects import Subjects
from fastadv.studies.study import REPORT, RESULTS

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
    o.check_run_dir(run_dir, resume, paper.CELLS)
    place = make_device(device)
    kept = f"finished batches are kept in {run_dir}; add --resume to continue"
    with interruptible(kept), progress("study") as bar:
        subjects = Subjects(
            data_folder(data_dir) / OFFICIAL, run_dir, data_dir=data_dir, device=place, seed=seed,
            watch=bar.named,
        )  # fmt: skip
        subjects.check(settings.models)
        test = load_data("mnist", data_dir=data_dir)
        result = paper.run(settings, subjects, test, run_dir, bar.named, resume=resume)
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


add(study_app, schott, "fastadv study schott --data-dir data --samples 100 --run-dir runs/schott2018")
add(study_app, goodfellow, "fastadv study goodfellow --data-dir data --run-dir runs/goodfellow2014")
add(study_app, smoothing, "fastadv study smoothing --data-dir data --run-dir runs/smoothing")
study_app.add_typer(ilyas_app, name="ilyas")
