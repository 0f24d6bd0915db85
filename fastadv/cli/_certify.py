"""`fastadv certify`: radii within which the decisions of a model under noise are proved."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fastadv.certify import smooth
from fastadv.certify.smooth import IDENTITY
from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import kept_in
from fastadv.cli._output import print_table, progress, say
from fastadv.cli._panels import Panel
from fastadv.cli._shared import Images, Machine, Network
from fastadv.cli._torchrun import together
from fastadv.runs import processes
from fastadv.text import percent, several
from fastadv.threat import L0, L1, L2

NORMS = {"l2": L2, "l1": L1, "l0": L0}


class Smoothing(Panel, title="Smoothing"):
    sigma: float = o.number(
        ...,
        "Standard deviation of the noise, in input units, as 0.25; in l0 the share of hidden coordinates.",
    )
    norm: str = o.option(
        "l2", "l2 for Gaussian noise, l1 for uniform noise, l0 to hide coordinates.", metavar="l2|l1|l0"
    )
    draws: int = o.count(100_000, "Draws that bound a probability, at most, for each image.", "--draws")
    chosen_by: int = o.count(100, "Draws that choose the class.", "--chosen-by")
    alpha: float = o.number(1e-3, "Probability of a wrong certificate, for each image.")
    radii: str | None = o.option(
        None, "Radii to decide on: 0.25,0.5; a ladder by default.", metavar="NUMBERS"
    )
    sequential: bool = o.option(
        True, "Stop as soon as all radii are decided; else make all draws.", "--sequential/--all-draws"
    )
    sound: bool = o.option(
        True, "Refuse images off the grid of 1/255, as the digits are; or take the nearest points.",
        "--sound/--rounded",
    )  # fmt: skip


class Kept(Panel, title="Results"):
    run_dir: Path | None = o.folder(None, "Keep what is certified here, part by part.")
    resume: o.Resume = False
    batch_size: int = o.count(1024, "Noisy copies that pass at once.", "--batch-size")


@together
def certify(
    network: Network, images: Images, smoothing: Smoothing, results: Kept, machine: Machine
) -> Iterator[Any]:
    """Certify a model by randomized smoothing: radii within which no perturbation changes its decision.

    A certificate is of the smoothed model, which decides by the votes of noisy copies, not of the model
    itself. It is wrong with a probability of at most --alpha for each image.

    Several processes share the images: torchrun --nproc-per-node 4 -m fastadv certify ...
    """
    o.look_up("norm", smoothing.norm, NORMS)
    o.check_run_dir(results.run_dir, results.resume, IDENTITY, "certificates")
    radii = None if smoothing.radii is None else o.parse_numbers(smoothing.radii)
    place, run_dir = machine.place(), results.run_dir
    with interruptible(partial(kept_in, run_dir)):
        dataset = images.load()
        net = network.load(dataset, place, machine.seed)
        with progress("certificates") as tick:
            found = smooth(
                net, dataset, smoothing.sigma, NORMS[smoothing.norm], smoothing.chosen_by, smoothing.draws,
                smoothing.alpha, radii, sequential=smoothing.sequential, sound=smoothing.sound,
                seed=machine.seed, batch_size=results.batch_size, run_dir=run_dir, resume=results.resume,
                progress=tick,
            )  # fmt: skip
    if processes.rank():
        return  # the first process tells
    yield found.to_dict()
    at = radii or found.noise.shown
    cells = [["radius", "certified accuracy"], *([f"{r:g}", percent(found.accuracy(r))] for r in sorted(at))]
    notes = [*found.card["measured"]["notes"], "of the smoothed model, not of the model itself"]
    print_table(f"{network.model} on {several(len(found.ids), 'image')} of {dataset.name}", cells, notes)
    say(str(found).partition("\n")[0])
