"""`fastadv demo`: the library's main job on real images, in under two minutes on two cores."""

import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._output import console, note, progress, write_json


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for figures, nets, constructed sets and results.json.")
    ] = Path("demo"),
    size: Annotated[
        int, typer.Option(help="Side of the images: 8, as they are, or enlarged to 10, 16 or 28.")
    ] = 10,
    seed: o.Seed = 0,
    tiny: Annotated[bool, typer.Option("--tiny", hidden=True)] = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Train a standard and a robust net on the embedded digits, attack both, build D_R, D_NR, D_rand and D_det, and train on each; then an ABS.

    Prints one table of six nets and what came out, and draws five figures. A run that was stopped goes on; a finished one is done anew.
    """
    from fastadv.cli._study import SIZES, TINY

    if size not in SIZES:
        raise typer.BadParameter(f"--size is one of {', '.join(map(str, SIZES))}, got {size}.")
    settings = dataclasses.replace(TINY if tiny else SIZES[size], seed=seed)
    result = run(settings, out)
    if json:
        write_json(result)
    else:
        from fastadv.cli._demo_report import show

        show(result, console())


def run(settings: Any, out: Path) -> dict[str, Any]:
    """Do the study in `out`, draw its figures there, write results.json, and return what it holds."""
    from fastadv._card import card
    from fastadv._files import write_json as write_file
    from fastadv.cli._demo_figures import draw
    from fastadv.cli._demo_report import PAPER, rows
    from fastadv.cli._study import Study, as_json
    from fastadv.cli._study_abs import picture, synthesis

    _prepare(out, as_json(settings))
    started = time.perf_counter()
    with one_thread(), interruptible(f"finished parts are kept in {out}; run the same command to go on"):
        study = Study(settings, out)
        with progress("digits") as bar:
            nets = {net.name: net for net in study.nets(bar.named)}
            model, explained = synthesis(study, bar.named)
        figures = draw(study, nets, PAPER, out / "figures")
        figures["digits explained"] = picture(study, model, out / "figures" / "abs.png")
    config = {"settings": as_json(settings), "train": study.base.describe(), "test": study.test.describe()}
    result = card(
        "demo",
        config,
        nets=rows(nets.values()),
        abs=explained,
        figures=figures,
        folder=str(out),
        seconds=time.perf_counter() - started,
    )
    write_file(out / "results.json", result)
    return result


@contextmanager
def one_thread() -> Iterator[None]:
    """Work on one thread: nets and batches this small gain nothing from a second, lose much where others compute beside them, and so come
    out the same whatever the number of cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepare(out: Path, settings: dict[str, Any]) -> None:
    """Take up a run of these settings that was stopped; clear away one that is finished or had others. Only the demo's own are removed."""
    from fastadv._files import read_json
    from fastadv._files import write_json as write_file
    from fastadv.errors import CorruptFileError, InputError

    mark, finished, own = (
        out / "settings.json",
        out / "results.json",
        [out / part for part in ("nets", "sets", "abs")],
    )
    try:
        known = read_json(mark) if mark.exists() else None
    except CorruptFileError:
        known = {}
    if known is None and any(folder.exists() for folder in own):
        raise InputError(
            f"{out}: expected a new folder or one that a demo made, got one with other nets or sets; choose another --out"
        )
    if known == settings and not finished.exists() and any(folder.exists() for folder in own):
        note(f"going on with the run that was stopped in {out}")
        return
    finished.unlink(missing_ok=True)
    for folder in own:
        if folder.exists():
            shutil.rmtree(folder)
    write_file(mark, settings)
