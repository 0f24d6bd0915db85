"""`fastadv certify`: radii within which the decisions of a model under noise are proved."""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

from fastadv._checks import check_choice
from fastadv.certify import smooth
from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible, together
from fastadv.cli._output import kept_in, print_table, progress, say
from fastadv.cli._shared import Images, Machine, Network
from fastadv.cli._signature import Front
from fastadv.runs import processes
from fastadv.text import percent, several
from fastadv.threat import L0, L1, L2

NORMS = {"l2": L2, "l1": L1, "l0": L0}
NORM = "l2 for Gaussian noise, l1 for uniform noise, l0 to hide coordinates."
Norm = Annotated[Any, o.text(lambda name: NORMS[check_choice("norm", name, NORMS)], "|".join(NORMS), NORM)]
SMOOTH = Front(
    smooth,
    "sigma norm draws=n chosen_by=n0 alpha radii sequential sound run_dir resume batch_size",
    types={"norm": Norm},
    defaults={"norm": "l2"},
)


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
