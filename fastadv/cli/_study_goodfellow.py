"""`fastadv study goodfellow`: FGSM, and what it does to networks and their training."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastadv.cli import _options as o
from fastadv.cli._interrupt import epochs_kept, interruptible
from fastadv.cli._output import print_table, progress, say, say_where
from fastadv.cli._shared import load_data, make_device
from fastadv.studies.goodfellow2014 import paper
from fastadv.studies.goodfellow2014.plan import SCALES
from fastadv.studies.study import REPORT


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
        train_set = load_data(name, "train", data_dir)
        test_set = load_data(name, "test", data_dir)
        result = paper.run(settings, train_set, test_set, run_dir, bar.named, parts=chosen, device=place)
    yield result
    for part in result["config"]["parts"]:
        print_table(part.capitalize(), paper.table(result, part))
    print_table("Networks", paper.networks(result), paper.notes(result))
    say("")
    say_where({**result["measured"]["figures"], "the report": run_dir / REPORT}, width=36)
