"""`fastadv construct`: build D_R, D_NR, D_rand or D_det into a folder."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data, load_model, make_device, to_search
from fastadv.cli._output import print_table, progress, say, write_json
from fastadv.cli._torchrun import together
from fastadv.data import construct as library
from fastadv.data import names
from fastadv.evaluation import figures
from fastadv.evaluation.text import number, percent
from fastadv.runs import processes


class Kind(StrEnum):
    """The constructions, by what they keep."""

    ROBUST = "robust"
    NON_ROBUST = "non-robust"
    RANDOM_TARGET = "random-target"
    FIXED_SHIFT = "fixed-shift"


# each construction's set in the paper
_PAPER_NAME = {
    Kind.ROBUST: "d_r",
    Kind.NON_ROBUST: "d_nr",
    Kind.RANDOM_TARGET: "d_rand",
    Kind.FIXED_SHIFT: "d_det",
}


class Storage(StrEnum):
    """How pixels are stored."""

    UINT8 = "uint8"
    FLOAT32 = "float32"


@together
def construct(
    kind: Annotated[Kind, typer.Argument(help="D_R, D_NR, D_rand or D_det of Ilyas et al. 2019.")],
    model: o.Model,
    data: o.Data,
    out: Annotated[
        Path,
        typer.Option(
            file_okay=False,
            help="Folder for the set; what is there already is kept and the rest is built.",
        ),
    ],
    option: o.Arguments = None,
    weights: o.Weights = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the search; 1000 to invert, 100 to push.")
    ] = None,
    step_size: o.StepSize = None,
    norm: o.NormOption = None,
    radius: o.Radius = None,
    module: Annotated[
        str | None,
        typer.Option(
            help="The representation to invert: the output of this module. By default the input of the last "
            "linear layer."
        ),
    ] = None,
    start: Annotated[str | None, typer.Option(help="Where an inversion starts: images or noise.")] = None,
    dtype: Annotated[
        Storage | None, typer.Option(help="How pixels are stored; by default as in --data.")
    ] = None,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Samples in a file; a stop loses at most that many.")
    ] = 1024,
    split: Annotated[o.Split | None, typer.Option(help="Part of the data set; by default train.")] = None,
    data_dir: o.DataDir = None,
    size: o.Size = None,
    samples: o.Samples = None,
    batch_size: o.SomeBatchSize = 256,
    precision: o.SearchPrecisionOption = None,
    bf16: o.Bf16 = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Verify the finished set, with base and model: see fastadv verify."),
    ] = False,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Build a data set from a model: robust and non-robust features kept, or labels that follow an adversary.

    Step sizes, steps and radius are those of the paper on CIFAR-10 unless given. The same command resumes
    after any stop. The folder also gets thumbnails.png: a few images of each class below their sources.

    Several processes share the work: torchrun --nproc-per-node 4 -m fastadv construct ...
    """
    inverts = kind in (Kind.ROBUST, Kind.NON_ROBUST)
    if not inverts and (module or start):
        raise typer.BadParameter(f"{kind.value} inverts no representation: leave out --module and --start.")
    if norm not in (None, "l2") and radius is None and not inverts:
        raise typer.BadParameter(f"--norm {norm} needs a --radius: the paper's budget is one in L2.")
    paper = library.CIFAR10_PAPER[_PAPER_NAME[kind]]
    budget = float(paper["threat"].radius) if radius is None else radius
    settings: dict[str, Any] = {
        "threat": o.make_threat(norm or "l2", budget),
        "steps": paper["steps"],
        "step_size": paper["step_size"] if inverts else None,
        "seed": seed,
    }
    settings |= {
        key: value
        for key, value in {"steps": steps, "step_size": step_size, "module": module, "start": start}.items()
        if value is not None
    }
    searched = o.one_precision(bf16, precision)
    place = make_device(device)
    build = getattr(library, kind.value.replace("-", "_"))

    def kept() -> str:
        shards = len(list(out.glob("shard-*.safetensors"))) if out.is_dir() else 0
        return f"{shards} finished shards are kept in {out}; run the same command to go on"

    with interruptible(kept):
        dataset = load_data(data, split, data_dir, size, samples, default=o.Split.TRAIN)
        net = to_search(load_model(model, option, weights, dataset, place, seed), searched)
        with progress(kind.value) as tick, o.usage():
            made = build(
                net,
                dataset,
                **settings,
                dtype=dtype and dtype.value,
                out_dir=out,
                shard_size=shard_size,
                batch_size=batch_size,
                progress=tick,
            )
    if processes.rank():
        return  # the first process draws and tells
    with interruptible(f"the set in {out} is finished"):
        if dataset.shape[0] in (1, 3):
            figures.thumbnails(made, dataset, out / "thumbnails.png")
        if verify:
            with progress("verify") as tick:
                size = 256 if batch_size == "auto" else batch_size
                library.verify_constructed(out, dataset, net, batch_size=size, progress=tick)
    if json:
        write_json({"out": str(out), **made.card})
        return
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
    notes = [made.note, "verified: the set is what its card says" if verify else ""]
    print_table(f"{made.name}: {len(made):,} images in {out}", cells, [note for note in notes if note])
    test = f" --test-data {data}" if data in names() else ""
    say(f"train on it with: fastadv train --data {out}{test} ...")
