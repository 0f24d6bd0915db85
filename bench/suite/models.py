"""The models and images that the attack suite is measured on.

The published CNN and "madry" come from files. The others are trained by this library on first use, in a few
minutes, and kept in runs/bench/.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import fastadv as fa

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / ".data"
WEIGHTS = ROOT.parent / "shared" / "data" / "abs_official" / "vanilla_cnn.net"
TRAINED = ROOT / "runs" / "bench"
ROBUST = ROOT / "tests" / "attacks" / "robust.safetensors"


def add_places(parser: argparse.ArgumentParser) -> None:
    """The options that say where the data and the published weights are."""
    parser.add_argument("--data-dir", type=Path, default=DATA, help="folder that holds MNIST/raw and cifar10")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="the published vanilla_cnn.net")


def images(count: int, dataset: str = "mnist", data_dir: Path = DATA) -> tuple[Tensor, Tensor]:
    """The first images of the test set, and their labels."""
    test = fa.data.load(dataset, "test", data_dir=data_dir, limit=count)
    x, y, _ = next(iter(fa.data.batches(test, count)))
    return x, y


def published_cnn(weights: Path = WEIGHTS) -> nn.Module:
    """The vanilla CNN of Schott et al., as they published it."""
    return fa.models.SchottCNN.from_official(weights).eval()


def small_robust(seed: int = 0) -> nn.Module:
    """The network "madry" before training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(8, 16, 4, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(784, 48), nn.ReLU(), nn.Linear(48, 10),
        )  # fmt: skip


def madry(weights: Path = ROBUST) -> nn.Module:
    """A small net trained at L-infinity 0.3 (Madry et al. 2018), as bench/suite/robust.py wrote it."""
    model = small_robust()
    fa.models.load_weights(model, weights)
    return model.eval()


def mlp(seed: int = 0) -> nn.Module:
    """784-256-10: a forward so cheap that the attack's own work shows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))


def robust() -> nn.Module:
    return fa.models.create("small_cnn", shape=(1, 28, 28), width=16)


def cifar() -> nn.Module:
    return fa.models.create("small_cnn", shape=(3, 32, 32), width=32)


# name: the net, its data, its recipe, epochs, images to train on
RECIPES: dict[str, tuple[Callable[[], nn.Module], str, fa.train.Recipe, int, int]] = {
    "mlp": (mlp, "mnist", fa.train.Standard(), 2, 60000),
    "robust": (robust, "mnist", fa.train.PGDTraining(fa.Linf(0.2), steps=5, step_size=0.06), 3, 20000),
    "robust_l2": (robust, "mnist", fa.train.PGDTraining(fa.L2(1.5), steps=5, step_size=0.5), 3, 20000),
    "cifar": (cifar, "cifar10", fa.train.Standard(), 5, 50000),
}
MODELS = ("cnn", "madry", *RECIPES)


def trained(name: str, data_dir: Path = DATA) -> nn.Module:
    """The net as this library trains it, from its file if that is there."""
    create, dataset, recipe, epochs, limit = RECIPES[name]
    model, folder = create(), TRAINED / name
    if not (folder / "model.safetensors").exists():
        train_set = fa.data.load(dataset, "train", data_dir=data_dir, limit=limit)
        fa.train.run(
            model, train_set, recipe, epochs=epochs, optimizer="adam", run_dir=folder, resume=folder.exists()
        )
    fa.models.load_weights(model, folder / "model.safetensors")
    return model.eval()


def problem(name: str, count: int, data_dir: Path, weights: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """The model, and the first test images of its data with their labels."""
    if name in RECIPES:
        return trained(name, data_dir), *images(count, RECIPES[name][1], data_dir)
    model = published_cnn(weights) if name == "cnn" else madry()
    return model, *images(count, data_dir=data_dir)
