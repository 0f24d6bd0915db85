"""The nets and images that attacks are compared on.

The small ones come from tests/attacks/weights/, where `python -m tools.parity_nets` wrote them, and the
published CNN from its authors' file.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import fastadv as fa
from tests.parity.nets import Mixer, Quantized, Scaled, gnres, segments, sp

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / ".data"
PUBLISHED = ROOT.parent / "shared" / "data" / "abs_official" / "vanilla_cnn.net"
WEIGHTS = ROOT / "tests" / "attacks" / "weights"
Radii = Mapping[str, float]


@dataclass(frozen=True)
class Net:
    """How a net is had, the radii at which it is neither untouched nor lost, and the data attacked."""

    load: Callable[[Path], nn.Module]
    radii: Radii
    dataset: str = "mnist"


def add_places(parser: argparse.ArgumentParser) -> None:
    """The options that say where the data and the published weights are."""
    parser.add_argument("--data-dir", type=Path, default=DATA, help="folder that holds MNIST/raw and cifar10")
    parser.add_argument("--weights", type=Path, default=PUBLISHED, help="the published vanilla_cnn.net")


def images(count: int, dataset: str = "mnist", data_dir: Path = DATA) -> tuple[Tensor, Tensor]:
    test = fa.data.load(dataset, "test", data_dir=data_dir, limit=count)
    x, y, _ = next(iter(fa.data.batches(test, count)))
    return x, y


def published_cnn(weights: Path = PUBLISHED) -> nn.Module:
    return fa.models.SchottCNN.from_official(weights).eval()


def small_cnn(normalized: bool) -> nn.Module:
    """8 and 16 channels, 48 units; with BatchNorm after each convolution where `normalized`."""
    layers: list[nn.Module] = []
    for inputs, channels in ((1, 8), (8, 16)):
        layers += [nn.Conv2d(inputs, channels, 4, stride=2, padding=1)]
        layers += [nn.BatchNorm2d(channels)] * normalized + [nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(784, 48), nn.ReLU(), nn.Linear(48, 10))


SMALL: dict[str, Callable[[], nn.Module]] = {
    "standard": partial(small_cnn, normalized=True),
    "linf": partial(small_cnn, normalized=False),
    "l2": partial(small_cnn, normalized=True),
    "trades": partial(small_cnn, normalized=True),
    "mart": partial(small_cnn, normalized=True),
    "elle": partial(small_cnn, normalized=True),
    "nuat": partial(small_cnn, normalized=True),
    "ssat": partial(small_cnn, normalized=True),
    "mixer": Mixer,
    "gnres": gnres,
    "sp": sp,
    "segments": segments,
}


def untrained(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SMALL[name]()


def small(name: str) -> nn.Module:
    model = untrained(name)
    fa.models.load_weights(model, WEIGHTS / f"{name}.safetensors")
    return model.eval()


LINF_TRAINED = {"linf": 0.3, "l2": 1.6, "l1": 6.0, "l0": 10.0}
L2_TRAINED = {"linf": 0.15, "l2": 2.0, "l1": 10.0, "l0": 10.0}
# the five that the table of docs/parity.md is about
WALL: dict[str, Net] = {
    "linf": Net(lambda _: small("linf"), LINF_TRAINED),
    "l2": Net(lambda _: small("l2"), L2_TRAINED),
    "saturated": Net(lambda _: Scaled(small("linf")), LINF_TRAINED),
    "quantized": Net(lambda _: Quantized(small("l2")), L2_TRAINED),
    "standard": Net(lambda _: small("standard"), {"linf": 0.05, "l2": 0.7, "l1": 4.0, "l0": 5.0}),
}
# three more in its columns: of each the first images that it gets right are attacked
KEPT: dict[str, Net] = {
    "mixer": Net(lambda _: small("mixer"), {"linf": 0.2, "l2": 1.2, "l1": 3.0, "l0": 3.0}),
    "gnres": Net(lambda _: small("gnres"), {"linf": 8 / 255, "l2": 1.0, "l1": 12.0, "l0": 16.0}, "cifar10"),
    "sp": Net(lambda _: small("sp"), {"linf": 0.15, "l2": 1.8, "l1": 10.0, "l0": 10.0}),
}
# so many; in a third of the runs, but at least in so many where there are
KEPT_IMAGES, KEPT_RUNS = 30, 4
# five more, by other recipes than that of "linf", for the frontier of AutoAttack
TRAINED: dict[str, Net] = {
    name: Net(lambda _, name=name: small(name), {"linf": 0.2, "l2": 1.6, "l1": 6.0})  # type: ignore[misc]
    for name in ("trades", "mart", "elle", "nuat", "ssat")
}
# nets of a class for each pixel, on which attacks are compared by the share of pixels that stay right
DENSE: dict[str, Net] = {"segments": Net(lambda _: small("segments"), {"linf": 0.1})}
NETS: dict[str, Net] = {
    "cnn": Net(published_cnn, {"linf": 0.1, "l2": 1.0, "l1": 5.0, "l0": 5.0}),
    **WALL,
    **KEPT,
    **TRAINED,
    **DENSE,
}


def ink(x: Tensor, y: Tensor) -> Tensor:
    """Return the class of each pixel of MNIST: y + 1 within four pixels of ink, 0 elsewhere."""
    near = nn.functional.max_pool2d(x[:, 0], 9, 1, 4) > 0.5  # where nearly all is paper, nothing is learned
    return near.long() * (y + 1)[:, None, None]


def problem(name: str, count: int, data_dir: Path, weights: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """The net, and the first test images of its data with their labels."""
    net = NETS[name]
    model = net.load(weights)
    if name not in KEPT:
        x, y = images(count, net.dataset, data_dir)
        return model, x, ink(x, y) if name in DENSE else y
    x, y = images(5 * KEPT_IMAGES, net.dataset, data_dir)
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero()[: min(count, KEPT_IMAGES), 0]
    return model, x[right], y[right]
