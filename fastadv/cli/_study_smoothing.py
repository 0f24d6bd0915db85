"""`fastadv study smoothing`: what randomized smoothing and ABS certify on MNIST."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastadv.cli import _options as o
from fastadv.cli._interrupt import epochs_kept, interruptible
from fastadv.cli._output import print_table, progress, say, say_where
from fastadv.cli._shared import load_data, make_device
from fastadv.data._load import data_folder
from fastadv.models import ABS
from fastadv.studies import smoothing as study
from fastadv.studies.study import REPORT

OFFICIAL = "abs_official"  # the authors' weights, beside the data sets


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
