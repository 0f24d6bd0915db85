"""`fastadv construct`: build D_R, D_NR, D_rand or D_det into a folder."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fastadv._checks import check_choice
from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible, together
from fastadv.cli._output import print_table, progress, say
from fastadv.cli._shared import Budget, Images, Machine, Network, Search
from fastadv.data import construct as library
from fastadv.data._load import has_test
from fastadv.evaluation import figures
from fastadv.runs import processes
from fastadv.text import number, percent
from fastadv.threat import THREATS

# The set of a construction in the paper
PAPER_NAMES = {"robust": "d_r", "non-robust": "d_nr", "random-target": "d_rand", "fixed-shift": "d_det"}
KIND = "D_R, D_NR, D_rand or D_det of Ilyas et al. 2019."


@o.usage()
def parse_kind(text: str) -> str:
    """Check the name of a construction, also as Python has it: random_target."""
    return check_choice("kind", text.replace("_", "-"), PAPER_NAMES)


Kind = Annotated[str, typer.Argument(parser=parse_kind, metavar="|".join(PAPER_NAMES), help=KIND)]


def _settings(kind: str, budget: Budget, seed: int) -> dict[str, Any]:
    """Return how the images are searched: by the options, else as in the paper on CIFAR-10."""
    inverts = kind in ("robust", "non-robust")
    if budget.norm not in (None, "l2") and budget.radius is None and not inverts:
        o.refuse(f"--norm {budget.norm} needs a --radius: the paper's budget is one in L2.")
    paper = library.CIFAR10_PAPER[PAPER_NAMES[kind]]
    radius = float(paper["threat"].radius) if budget.radius is None else budget.radius
    step_size = paper["step_size"] if inverts else None
    return {
        "threat": THREATS[budget.norm or "l2"](radius),
        "steps": budget.steps or paper["steps"],
        "step_size": step_size if budget.step_size is None else budget.step_size,
        "seed": seed,
    }


@together
def construct(
    kind: Kind,
    model: Network,
    images: Images,
    construction: Budget,
    search: Search,
    machine: Machine,
    out: Annotated[o.Folder, "Folder for the set; what is there already is kept and the rest is built."],
) -> Iterator[Any]:
    """Build a data set from a model: with robust or non-robust features, or with labels of an attack.

    Step sizes, steps and radius default to those of the paper on CIFAR-10. The same command resumes after any
    interruption. The folder also gets thumbnails.png: a few images of each class below their sources.

    Several processes share the work: torchrun --nproc-per-node 4 -m fastadv construct ...
    """
    settings = _settings(kind, construction, machine.seed)
    build = getattr(library, kind.replace("-", "_"))
    kept = f"finished shards are kept in {out}; run the same command to resume"
    with interruptible(kept), progress(kind) as tick:
        dataset = images(part="train")
        net = search.frozen(model.load(dataset, machine))
        built = build(net, dataset, **settings, out_dir=out, batch_size=search.batch_size, progress=tick)
    if processes.rank():
        return  # the first process draws and tells
    with interruptible(f"the set in {out} is finished"):
        if dataset.shape[0] in (1, 3):
            figures.thumbnails(built, dataset, out / "thumbnails.png")
    yield {"out": str(out), **built.card}
    measured = built.card["measured"]
    counts = built.labels.bincount(minlength=built.num_classes).tolist()
    distance = f"{settings['threat'].symbol} distance from the start"
    cells = [
        ["measured", "value"],
        ["labels as in the base", percent(measured["kept_label"])],
        ["the source model predicts the label", percent(measured["fooling_rate"])],
        ["objective before the search", number(measured["objective_before"])],
        ["objective after it", number(measured["objective_after"])],
        [f"{distance}, mean", number(measured["distance_mean"])],
        [f"{distance}, largest", number(measured["distance_max"])],
        ["images of a label", f"{min(counts):,} to {max(counts):,}"],
    ]
    print_table(f"{built.name}: {len(built):,} images in {out}", cells, [built.note])
    data = images.keywords["data"]
    test = f" --test-data {data}" if has_test(data) else ""
    say(f"train on it with: fastadv train --data {out}{test} ...")
