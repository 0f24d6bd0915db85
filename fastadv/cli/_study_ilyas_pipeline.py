"""`fastadv study ilyas pipeline`: the constructed sets, the nets they teach, controls and transfer."""

from pathlib import Path
from typing import Annotated

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import make_device
from fastadv.cli._output import note, print_table, progress, say, say_where, write_json
from fastadv.studies.clock import in_words
from fastadv.studies.ilyas2019 import pipeline as study
from fastadv.studies.ilyas2019 import plan as of_plan
from fastadv.studies.ilyas2019 import report
from fastadv.studies.results import REPORT, RESULTS

Count = typer.Option(min=1, help="Instead of the scale's.")


def pipeline(
    scale: str = o.option(
        "tiny", "tiny: the embedded digits; cpu: some of CIFAR-10 and narrow nets; paper: for a GPU."
    ),
    stages: str | None = o.option(
        None, f"Some of {', '.join(of_plan.STAGES)}; by default all.", metavar="NAMES"
    ),
    images: int | None = o.count(None, "Train on the first images alone."),
    tested: int | None = o.count(None, "Test images under attack.", "--samples", "-n"),
    epochs: Annotated[int | None, Count] = None,
    invert_steps: Annotated[int | None, Count] = None,
    push_steps: Annotated[int | None, Count] = None,
    attack_steps: Annotated[int | None, Count] = None,
    plan: bool = o.option(False, "Only say what would run, and about how long.", "--plan"),
    data_dir: o.DataDir = None,
    run_dir: Path = o.folder(Path("ilyas2019"), "Folder for nets, sets and results; what was begun goes on."),
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Build the sets D_R, D_NR, D_rand and D_det of the paper, and what nets learn from them (section 3).

    Trains a standard and a robust net, builds the sets with them, trains a fresh net on each, and attacks
    all; then the controls of the discussion, a gallery of each set, and transfer to other architectures. A
    stage by itself takes what is in --run-dir. A command that was stopped goes on where it was.
    """
    names = None if stages is None else [part.strip() for part in stages.split(",") if part.strip()]
    with o.usage():
        chosen = of_plan.check_stages(of_plan.STAGES if names is None else names)
        settings = of_plan.choose(
            scale, images=images, tested=tested, epochs=epochs, invert_steps=invert_steps,
            push_steps=push_steps, attack_steps=attack_steps, seed=seed,
        )  # fmt: skip
        base, test = study.load(settings, data_dir)
    place = make_device(device)
    seconds = {name: of_plan.estimate(settings, len(base), len(test), [name]) for name in chosen}
    _, machine = of_plan.PASS[scale]
    told = f"{in_words(sum(seconds.values()))} on {machine}, if nothing of it is there yet"
    if plan:
        if json:
            write_json({"settings": settings.as_json(), "seconds": seconds, "machine": machine})
            return
        rows = [["stage", "time"], *([name, in_words(each)] for name, each in seconds.items())]
        print_table(f"Stages at the scale {scale}", rows, [told])
        return
    note(f"{'made for a GPU: ' if scale == 'paper' else ''}{told}")
    kept = f"finished epochs, shards and batches are kept in {run_dir}; the same command goes on"
    with interruptible(kept), progress("pipeline") as bar, o.usage():
        result = study.run(settings, base, test, run_dir, bar.named, stages=chosen, device=place)
    if json:
        write_json(result)
        return
    for title, cells in report.tables(result).items():
        print_table(title, cells)
        say("")
    for line in report.notes(result):
        say(line, style="dim")
    say("")
    files = {**report.figures(result), "all numbers": RESULTS, "the report": REPORT}
    say_where({what: run_dir / file for what, file in files.items()}, width=26)
