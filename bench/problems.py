"""The nets on which PGD is measured, with their images and budgets, by device."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

import fastadv as fa
from bench import nets
from bench.pgd import Problem, classes
from bench.session import Session


@dataclass(frozen=True)
class Net:
    """A net on which PGD is measured.

    label     as a case is called
    counts    images on a GPU, at tiny sizes and on a CPU; 0 where it is not measured
    shape     of an image
    """

    label: str
    make: Callable[..., nn.Module]
    counts: tuple[int, int, int]
    shape: tuple[int, int, int]
    radius: float
    step_size: float
    steps: int
    convolutions: bool = True


NETS = {
    "cnn": Net("MNIST CNN", nets.cnn, (1000, 4, 256), (1, 28, 28), 0.3, 0.01, 40),
    "mlp": Net("MLP 784-256-10", nets.mlp, (1024, 4, 1024), (1, 28, 28), 0.3, 0.01, 40, False),
    "small_cnn": Net("small CNN of width 32", partial(nets.small_net, width=32), (0, 0, 256), (3, 32, 32),
                     8 / 255, 2 / 255, 20),
    "resnet18": Net("ResNet-18", nets.resnet18, (512, 4, 64), (3, 32, 32), 8 / 255, 2 / 255, 10),
    "wrn": Net("WRN-28-10", nets.wrn, (0, 2, 0), (3, 32, 32), 8 / 255, 2 / 255, 10),
    "vit": Net("ViT-B/16", nets.vit, (0, 2, 0), (3, 224, 224), 4 / 255, 1 / 255, 10),
    "resnet50": Net("ResNet-50", nets.resnet50, (128, 2, 0), (3, 224, 224), 4 / 255, 1 / 255, 10),
}  # fmt: skip


def problem(session: Session, name: str, count: int = 0) -> Problem:
    """Make one of NETS, with its own count unless one is given; without data, the model labels the images."""
    net, count = NETS[name], count or session.size(*NETS[name].counts)
    tiny = {"tiny": True} if session.tiny and name in ("resnet18", "resnet50", "wrn", "vit") else {}
    side = session.size(net.shape[1], min(net.shape[1], 32))
    called, y = net.label, None
    if name == "cnn":
        called, model, x, y = mnist(session, count)
    else:
        model, x = net.make(**tiny), session.rand(count, net.shape[0], side, side)
    model = model.to(session.device).eval()
    steps = session.size(net.steps, 2)
    unit = session.conv_precision if net.convolutions else "fp32"
    y = classes(model, x) if y is None else y
    return Problem(called, model, x, y, net.radius, net.step_size, steps, unit)


def mnist(session: Session, count: int) -> tuple[str, nn.Module, Tensor, Tensor | None]:
    """Load the CNN of Schott et al. and MNIST where both are given, else make random ones."""
    if session.data_dir is None or session.weights is None:
        session.note("no --data-dir and --weights: the MNIST CNN has random weights and images")
        return "untrained CNN, random images", nets.cnn(), session.rand(count, 1, 28, 28), None
    images = fa.data.load("mnist", "test", data_dir=session.data_dir, limit=count)
    x, y, _ = next(iter(fa.data.batches(images, count)))
    published = fa.models.SchottCNN.from_official(session.weights)
    return "published vanilla CNN, MNIST test", published, x.to(session.device), y.to(session.device)


def what(given: Problem) -> str:
    return f"PGD-{given.steps} Linf {given.radius:.3g}, {len(given.x)} images, {given.name}"
