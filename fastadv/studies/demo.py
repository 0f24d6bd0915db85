"""The demo: the studies of two papers on the embedded digits."""

import shutil
import time
from pathlib import Path
from typing import Any

from fastadv._extras import need
from fastadv.errors import CorruptFileError, InputError
from fastadv.runs.card import card
from fastadv.runs.files import read_json, write_json
from fastadv.studies.ilyas2019 import digits as ilyas
from fastadv.studies.ilyas2019.plan import printed
from fastadv.studies.schott2018 import digits as schott
from fastadv.studies.study import RESULTS, Settings, Study, Watch, one_thread, unwatched

PARTS, SETTINGS = ("nets", "sets", "abs"), "settings.json"


def run(settings: Settings, folder: Path, watch: Watch = unwatched) -> dict[str, Any]:
    """Do both studies, draw their figures, and write results.json."""
    need("matplotlib")
    _prepare(folder, settings)
    started = time.perf_counter()
    with one_thread():
        study = Study(settings, folder)
        nets = {net.name: net for net in ilyas.nets(study, watch)}
        model, synthesis = schott.synthesis(study, watch)
        drawn = ilyas.draw(study, nets, folder / "figures")
        drawn |= schott.draw(study, model, folder / "figures")
    sets = {"train": study.base.describe(), "test": study.test.describe()}
    result = card(
        "demo",
        {"settings": settings.as_json(), **sets},
        nets={name: ilyas.measured(net) for name, net in nets.items()},
        abs=synthesis,
        figures=drawn,
        folder=str(folder),
        seconds=time.perf_counter() - started,
    )
    write_json(folder / RESULTS, result)
    return result


def unfinished(settings: Settings, folder: Path) -> bool:
    """Tell whether `run` would resume an interrupted run."""
    if (folder / RESULTS).exists() or not any((folder / part).exists() for part in PARTS):
        return False
    try:
        return bool(read_json(folder / SETTINGS) == settings.as_json())
    except (FileNotFoundError, CorruptFileError):
        return False


def cells(result: dict[str, Any]) -> list[list[str]]:
    nets = result["measured"]["nets"]
    attacks = list(nets["standard"]["robust"])
    measures = ["clean", *attacks, "paper*: clean", "paper*: PGD L2"]
    lines = [["net", "learned from", *(measure.replace(" ", "\n", 1) for measure in measures)]]
    for name, net in nets.items():
        shares = [net["clean"], *(net["robust"][attack] for attack in attacks)]
        paper = map(printed, net["paper_cifar10"].values())
        lines.append([name, ilyas.LEARNED[name], *(f"{share:.1%}" for share in shares), *paper])
    return lines


def title(result: dict[str, Any]) -> str:
    side, count = result["config"]["settings"]["size"], result["config"]["test"]["samples"]
    return f"Six nets on {count} held-out digits of {side}x{side}: accuracy clean and under attack"


def notes(result: dict[str, Any]) -> list[str]:
    measured = result["measured"]
    attack = list(measured["nets"]["standard"]["robust"])[-1]
    return [*ilyas.findings(measured["nets"], attack), *schott.findings(measured["abs"], attack)]


def _prepare(folder: Path, settings: Settings) -> None:
    """Clear away a run that is finished or had other settings. Only what a demo made is removed."""
    if unfinished(settings, folder):
        return
    own = [folder / part for part in PARTS if (folder / part).exists()]
    if own and not (folder / SETTINGS).exists():
        raise InputError(
            f"{folder}: expected a new folder or one that a demo made, got one with other nets or sets; "
            "choose another folder"
        )
    (folder / RESULTS).unlink(missing_ok=True)
    for part in own:
        shutil.rmtree(part)
    write_json(folder / SETTINGS, settings.as_json())
