"""Schott et al. 2018: six models on MNIST under every attack of the paper and today's best.

Reports the smallest perturbation of each image over all attacks, for each model and norm, next to the
published figures. Writes curves, a gallery of adversarial images, results.json and report.md to --run-dir.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from fastadv.errors import InputError
from fastadv.threat import THREATS
from papers import command as c
from papers.schott2018 import paper, report
from papers.schott2018.plan import MODELS, NORMS, THRESHOLDS, Settings
from papers.schott2018.subjects import Subjects
from papers.study import REPORT, RESULTS, Watch, load_images


def work(asked: Namespace, watch: Watch) -> Iterator[Any]:
    settings, folder = Settings(asked.samples, asked.models, asked.norms, asked.seed), asked.run_dir
    if (folder / paper.CELLS).exists() and not asked.resume:
        raise InputError(
            f"--run-dir {folder} already holds a run: add --resume to continue it, or choose another folder"
        )
    subjects = Subjects(
        c.official(asked.data_dir), folder, data_dir=asked.data_dir, device=c.device_of(asked),
        seed=asked.seed, watch=watch,
    )  # fmt: skip
    subjects.check(settings.models)
    test = load_images("mnist", "test", data_dir=asked.data_dir)
    result = paper.run(settings, subjects, test, folder, watch, resume=asked.resume)
    yield result
    measured = result["measured"]
    title = f"Schott et al. 2018 on {result['config']['samples']} test images"
    c.print_table(title, report.overview(measured), report.notes(measured))
    for norm in dict.fromkeys(line["norm"] for line in measured["cells"]):
        title = f"{THREATS[norm].symbol}: median distance / accuracy at {THRESHOLDS[norm]:g}"
        c.print_table(title, report.attacks(measured, norm))
    files = {"all figures as JSON": folder / RESULTS, "the report": folder / REPORT}
    c.say_where({**measured["figures"], **files})


def parser() -> c.Parser:
    made = c.Parser("schott2018", description=__doc__)
    made.add_argument("--samples", "-n", type=c.count, default=100, help="images of MNIST's test set (100)")
    for name, known in (("models", MODELS), ("norms", NORMS)):
        told = f"some of {', '.join(known)}; by default all"
        made.add_argument(f"--{name}", type=c.names, default=known, help=told)
    made.add_argument("--resume", action="store_true", help="resume the run in --run-dir, or add to it")
    c.on_data(made)
    kept = "finished batches are kept in {run_dir}; add --resume to continue"
    c.command(made, work, "schott2018", kept)
    return made


if __name__ == "__main__":
    sys.exit(c.main(parser()))
