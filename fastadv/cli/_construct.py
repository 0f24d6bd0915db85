"""`fastadv construct`: build D_R, D_NR, D_rand or D_det into a folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._output import print_table, progress, say
from fastadv.cli._shared import Budget, Images, Network, Search
from fastadv.cli._torchrun import together
from fastadv.data import construct as library
from fastadv.data import is_named
from fastadv.evaluation import figures
from fastadv.runs import processes
from fastadv.text import number, percent

Kind = Literal["robust", "non-robust", "random-target", "fixed-shift"]
# each construction's set in the paper
PAPER_NAMES = {"robust": "d_r", "non-robust": "d_nr", "random-target": "d_rand", "fixed-shift": "d_det"}


class BaseImages(Images):
    part = "train"

    split: o.Split | None = o.option(None, "Part of the data set; by default train.")


class Construction(Budget, title="Construction"):
    """How the images are searched. What is not given is the paper's on CIFAR-10."""

    steps: int | None = o.count(None, "Steps of the search; 1000 to invert, 100 to push.")

    def settings(self, kind: Kind, seed: int) -> dict[str, Any]:
        inverts = kind in ("robust", "non-robust")
        if self.norm not in (None, "l2") and self.radius is None and not inverts:
            o.refuse(f"--norm {self.norm} needs a --radius: the paper's budget is one in L2.")
        paper = library.CIFAR10_PAPER[PAPER_NAMES[kind]]
        budget = float(paper["threat"].radius) if self.radius is None else self.radius
        step_size = paper["step_size"] if inverts else None
        return {
            "threat": o.make_threat(self.norm or "l2", budget),
            "steps": self.steps or paper["steps"],
            "step_size": step_size if self.step_size is None else self.step_size,
            "seed": seed,
        }


@together
def construct(
    kind: Annotated[Kind, typer.Argument(help="D_R, D_NR, D_rand or D_det of Ilyas et al. 2019.")],
    network: Network,
    images: BaseImages,
    construction: Construction,
    machine: Search,
    out: Path = o.folder(..., "Folder for the set; what is there already is kept and the rest is built."),
    shard_size: int = o.count(
        1024, "Samples in a file. A process holds one file at a time; a kill loses at most that many."
    ),
    shard: Any = o.option(
        None,
        "Build share I of N alone, I from 0 to N - 1, as an independent job. Jobs may "
        "have one folder or each its own; fastadv merge puts those together, and writes the index.",
        parser=o.parse_shard,
        metavar="I/N",
    ),
) -> Iterator[Any]:
    """Build a data set from a model: with robust or non-robust features, or with labels of an attack.

    Step sizes, steps and radius default to those of the paper on CIFAR-10. The same command resumes after any
    interruption. The folder also gets thumbnails.png: a few images of each class below their sources.

    Several processes share the work: torchrun --nproc-per-node 4 -m fastadv construct ...
    Jobs of an array share it with --shard. What stops one loses at most --shard-size images.
    """
    settings, norm = construction.settings(kind, machine.seed), construction.norm
    batch_size, place = machine.batch_size, machine.place()
    rank, jobs = shard or (None, None)
    build = getattr(library, kind.replace("-", "_"))

    def kept() -> str:
        shards = len(list(out.glob("shard-*.safetensors"))) if out.is_dir() else 0
        return f"{shards} finished shards are kept in {out}; run the same command to resume"

    with interruptible(kept):
        dataset = images.load()
        net = machine.frozen(network.load(dataset, place, machine.seed))
        with progress(kind) as tick:
            made = build(
                net, dataset, **settings, out_dir=out, shard_size=shard_size,
                batch_size=batch_size, progress=tick, rank=rank, world_size=jobs,
            )  # fmt: skip
    if processes.rank():
        return  # the first process draws and tells
    with interruptible(f"the set in {out} is finished"):
        if dataset.shape[0] in (1, 3) and not shard:
            figures.thumbnails(made, dataset, out / "thumbnails.png")
    yield {"out": str(out), **made.card}
    measured = made.card["measured"]
    counts = made.labels.bincount(minlength=made.num_classes).tolist()
    distance = f"{o.symbol(norm or 'l2')} distance from the start"
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
    print_table(f"{made.name}: {len(made):,} images in {out}", cells, [made.note] if made.note else [])
    if len(made) < made.card["config"]["base"]["samples"]:
        say(f"share {rank} of {jobs} is kept in {out}; when all are done: fastadv merge {out} --out {out}")
        return
    test = f" --test-data {images.data}" if is_named(images.data) else ""
    say(f"train on it with: fastadv train --data {out}{test} ...")
