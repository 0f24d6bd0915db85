"""Draw corruptions.png: a photograph under each of the nineteen common corruptions at severity 3.

The photograph is the cat (CC0) of scikit-image; frost comes from the photographs of imagecorruptions-imaug:

    pip install --no-deps scikit-image imagecorruptions-imaug
    python docs/figures/corruptions.py; python docs/figures/small.py docs/figures/corruptions.png
"""

import importlib.util
from pathlib import Path

import torch
from torch.nn.functional import interpolate

import fastadv as fa
from fastadv.card import telling
from fastadv.data.corruption.card import named
from fastadv.data.folder import read_image
from fastadv.evaluation.figures.images import draw_image
from fastadv.evaluation.figures.style import INK, new_figure, save

SIZE, SEVERITY, COLUMNS = 224, 3, 5
SIDE, BETWEEN, BELOW = 0.66, 0.05, 0.16  # inches


def photograph() -> torch.Tensor:
    """Cut the cat's face out, in 224 x 224 pixels: uint8 [1, 3, H, W]."""
    (package,) = importlib.util.find_spec("skimage").submodule_search_locations
    square = read_image(Path(package, "data", "chelsea.png"))[None, :, :280, 90:370]
    return interpolate(square, (SIZE, SIZE), mode="bilinear", antialias=True)


def main() -> None:
    x = photograph()
    images = {"clean": x[0] / 255}
    for name in named("all"):
        images[name] = fa.data.corrupted((x, torch.zeros(1, dtype=torch.long)), name, SEVERITY)[0][0]
    across, down = SIDE + BETWEEN, SIDE + BELOW
    width, height = COLUMNS * across, len(images) / COLUMNS * down
    figure = new_figure(width, height)
    for k, (name, image) in enumerate(images.items()):
        left, bottom = k % COLUMNS * across, height - (k // COLUMNS + 1) * down + BELOW
        axes = figure.add_axes((left / width, bottom / height, SIDE / width, SIDE / height))
        axes.set_axis_off()
        draw_image(axes, image, None, (0, SIDE, SIDE, 0))
        place = (left + SIDE / 2) / width, (bottom - 0.02) / height
        figure.text(*place, name.replace("_", " "), fontsize=5, color=INK, ha="center", va="top")
    with telling(command="python docs/figures/corruptions.py", seed=0):
        save(figure, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
