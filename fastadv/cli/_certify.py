"""`fastadv certify`: radii within which the decisions of a model under noise are proved."""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

from fastadv.certify import smooth
from fastadv.cli._interrupt import interruptible, together
from fastadv.cli._output import kept_in, print_table, progress, say
from fastadv.cli._shared import Images, Machine, Network
from fastadv.cli._signature import Front
from fastadv.runs import processes
from fastadv.text import percent, several

SMOOTH = Front(smooth, "sigma draws=n chosen_by=n0 alpha radii sequential sound run_dir resume batch_size")


@together
def certify(
    model: Network, images: Images, smoothing: Annotated[partial[Any], SMOOTH], machine: Machine
) -> Iterator[Any]:
    """Certify a model by randomized smoothing: radii within which no perturbation changes its decision.

    A certificate is of the smoothed model, which decides by the votes of noisy copies, not of the model
    itself. It is wrong with a probability of at most --alpha for each image.

    Several processes share the images: torchrun --nproc-per-node 4 -m fastadv certify ...
    """
    options = smoothing.keywords
    with interruptible(partial(kept_in, options["run_dir"])), progress("certificates") as tick:
        dataset = images()
        certificates = smoothing(model.load(dataset, machine), dataset, seed=machine.seed, progress=tick)
    if processes.rank():
        return  # the first process tells
    yield certificates.to_dict()
    radii = sorted(options["radii"] or certificates.noise.shown)
    rows = [[f"{radius:g}", percent(certificates.accuracy(radius))] for radius in radii]
    notes = [*certificates.card["measured"]["notes"], "of the smoothed model, not of the model itself"]
    title = f"{model.model} on {several(len(certificates.ids), 'image')} of {dataset.name}"
    print_table(title, [["radius", "certified accuracy"], *rows], notes)
    say(str(certificates).partition("\n")[0])
