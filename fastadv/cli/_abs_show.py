"""`fastadv abs show` and `fastadv abs distal`: pictures of what the model sees."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._abs_data import Binary, ModelPath, PriorSamples, load_abs
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data, make_device
from fastadv.cli._output import console, write_json

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 1.0  # inches
COLUMNS = 6
INK, CHOSEN, FAINT = "#222222", "#0072B2", "#CCCCCC"


def show(
    model: ModelPath,
    data: o.Data,
    out: Annotated[Path, typer.Option(help="Draw here (png, pdf, svg).")],
    index: Annotated[int, typer.Option(min=0, help="Number of the image in the data set.")] = 0,
    binary: Binary = False,
    prior_samples: PriorSamples = 8000,
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    data_dir: o.DataDir = None,
    size: o.Size = None,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Draw an image and each class's reconstruction of it, with loss and confidence; the chosen class in blue."""
    place = make_device(device)
    from fastadv.errors import InputError
    from fastadv.models.abs.calibrate import graded

    with interruptible("nothing was drawn"):
        dataset = load_data(data, split, data_dir, size, index + 1)
        if index >= len(dataset):
            raise InputError(
                f"--index: expected a number below {len(dataset)}, the images of {dataset.name}, got {index}"
            )
        image, label = dataset[index]
        net = load_abs(model, binary, prior_samples, seed, place)
        found = net.infer(image[None].to(place))
        confidence = graded(-found.loss, net.scale, net.floor)[0].tolist()
    losses, chosen = found.loss[0].tolist(), int(found.loss.argmin())
    seen = net.observed(image[None].to(place))[0].cpu()
    titles = [f"image: {dataset.classes[label]}"] + [
        f"{name}: {losses[k]:.4f}\n{100 * confidence[k]:.1f}%" for k, name in enumerate(dataset.classes)
    ]
    draw([seen, *found.reconstruction[0].cpu()], titles, out, chosen + 1)
    if json:
        write_json(
            {
                "index": index,
                "label": label,
                "prediction": chosen,
                "loss": losses,
                "confidence": confidence,
                "out": str(out),
            }
        )
        return
    verdict = f"image {index} ({dataset.classes[label]}) is taken for {dataset.classes[chosen]} with confidence {confidence[chosen]:.2f}"
    console().print(f"{verdict}; drawn in {out}", soft_wrap=True)


def distal(
    model: ModelPath,
    out: Annotated[Path, typer.Option(help="Draw here (png, pdf, svg).")],
    classes: Annotated[str, typer.Option(metavar="NUMBERS", help="Classes to make images of: 0,1,7.")] = "1",
    confidence: Annotated[float, typer.Option(min=0.0, max=1.0, help="Confidence to reach.")] = 0.9,
    steps: Annotated[int, typer.Option(min=0, help="Steps of gradient ascent.")] = 1000,
    binary: Binary = False,
    prior_samples: PriorSamples = 8000,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Start from noise and raise the confidence in a class: what the model takes for it when nothing asks for a likeness."""
    place = make_device(device)
    import torch

    from fastadv import attacks

    wanted = torch.tensor([int(value) for value in o.parse_numbers(classes)], device=place)
    with interruptible("nothing was drawn"):
        net = load_abs(model, binary, prior_samples, seed, place)
        with o.usage():
            found = attacks.distal(
                net, wanted, net.shape.image, steps=steps, confidence=confidence, seed=seed
            )
    reached, taken = found.confidence.tolist(), found.steps.tolist()
    titles = [f"class {k}: {100 * reached[i]:.1f}%\n{taken[i]} steps" for i, k in enumerate(wanted.tolist())]
    draw(list(found.x.cpu()), titles, out)
    if json:
        write_json({"classes": wanted.tolist(), "confidence": reached, "steps": taken, "out": str(out)})
        return
    console().print(
        f"{sum(found.success.tolist())} of {len(wanted)} images reached {confidence:g}; drawn in {out}",
        soft_wrap=True,
    )


def draw(images: "list[Tensor]", titles: list[str], path: Path, chosen: int | None = None) -> None:
    """Images [C, H, W] in rows, a title over each; the chosen one framed in blue."""
    from matplotlib.figure import Figure

    from fastadv._files import atomic_write

    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(
        figsize=(columns * (SIDE + 0.2), rows * (SIDE + 0.5)),
        dpi=200,
        facecolor="white",
        layout="constrained",
    )
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = grid.flat[i]
        axes.set_axis_on()
        axes.set_xticks([])
        axes.set_yticks([])
        pixels = image.permute(1, 2, 0).numpy()
        axes.imshow(pixels[..., 0] if len(image) == 1 else pixels, cmap="gray", vmin=0, vmax=1)
        axes.set_title(
            title,
            fontsize=6.5,
            color=CHOSEN if i == chosen else INK,
            fontweight="bold" if i == chosen else "normal",
        )
        for spine in axes.spines.values():
            spine.set_color(CHOSEN if i == chosen else FAINT)
            spine.set_linewidth(1.6 if i == chosen else 0.6)
    with atomic_write(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix(".") or "png")
