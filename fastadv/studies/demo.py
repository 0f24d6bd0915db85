"""The demo: the studies of two papers on the embedded digits, in under two minutes on two cores."""

import shutil
import time
from pathlib import Path
from typing import Any

from fastadv.errors import CorruptFileError, InputError
from fastadv.runs.card import card
from fastadv.runs.files import read_json, write_json
from fastadv.studies import ilyas2019, schott2018
from fastadv.studies.results import RESULTS
from fastadv.studies.study import Settings, Study, Watch, one_thread, unwatched

PARTS = ("nets", "sets", "abs")


def run(settings: Settings, folder: Path, watch: Watch = unwatched) -> dict[str, Any]:
    """Do both studies in `folder`, draw their figures there, write results.json, and return what it holds.

    A run of the same settings that was stopped goes on; a finished one, or one of other settings, is done
    anew. Raises InputError where the folder holds nets or sets that no demo made.
    """
    _prepare(folder, settings)
    started = time.perf_counter()
    with one_thread():
        study = Study(settings, folder)
        nets = {net.name: net for net in ilyas2019.nets(study, watch)}
        model, synthesis = schott2018.synthesis(study, watch)
        drawn = ilyas2019.draw(study, nets, folder / "figures")
        drawn |= schott2018.draw(study, model, folder / "figures")
    result = card(
        "demo",
        {
            "settings": settings.as_json(),
            "train": study.base.describe(),
            "test": study.test.describe(),
        },
        nets={name: ilyas2019.measured(net) for name, net in nets.items()},
        abs=synthesis,
        figures=drawn,
        folder=str(folder),
        seconds=time.perf_counter() - started,
    )
    write_json(folder / RESULTS, result)
    return result


def unfinished(settings: Settings, folder: Path) -> bool:
    """Return whether `folder` holds a run of these settings that was stopped, which `run` would go on
    with.
    """
    started = any((folder / part).exists() for part in PARTS)
    return started and not (folder / RESULTS).exists() and _settings(folder) == settings.as_json()


def cells(result: dict[str, Any]) -> list[list[str]]:
    """Return the six nets as text, head first: accuracy clean and under each attack, beside the paper's."""
    nets = result["measured"]["nets"]
    attacks = list(nets["standard"]["robust"])
    measures = ["clean", *attacks, "paper*: clean", "paper*: PGD L2"]
    head = ["net", "learned from", *(measure.replace(" ", "\n", 1) for measure in measures)]
    lines = [head]
    for name, net in nets.items():
        clean, robust = net["paper_cifar10"].values()
        shares = [net["clean"], *(net["robust"][attack] for attack in attacks)]
        paper = [f"{100 * clean:.4g}%", f"{100 * robust:.4g}%" if robust else "~0%"]
        lines.append([name, ilyas2019.LEARNED[name], *(f"{share:.1%}" for share in shares), *paper])
    return lines


def title(result: dict[str, Any]) -> str:
    """Return the title of the table."""
    side, count = result["config"]["settings"]["size"], result["config"]["test"]["samples"]
    return f"Six nets on {count} held-out digits of {side}x{side}: accuracy clean and under attack"


def notes(result: dict[str, Any]) -> list[str]:
    """Return what came out, in words."""
    measured = result["measured"]
    attack = list(measured["nets"]["standard"]["robust"])[-1]
    return [*ilyas2019.findings(measured["nets"], attack), *schott2018.findings(measured["abs"], attack)]


def _prepare(folder: Path, settings: Settings) -> None:
    """Clear away a run that is finished or had other settings. Only what a demo made is removed."""
    if unfinished(settings, folder):
        return
    own = [folder / part for part in PARTS if (folder / part).exists()]
    if own and not (folder / "settings.json").exists():
        raise InputError(
            f"{folder}: expected a new folder or one that a demo made, got one with other nets or sets; "
            "choose another folder"
        )
    (folder / RESULTS).unlink(missing_ok=True)
    for part in own:
        shutil.rmtree(part)
    write_json(folder / "settings.json", settings.as_json())


def _settings(folder: Path) -> Any:
    """Return the settings of the run in `folder`; None where there is none, or where they do not read."""
    try:
        return read_json(folder / "settings.json")
    except (FileNotFoundError, CorruptFileError):
        return None
