"""PGD in L-infinity without a random start: problems by net, and the calls of each provider.

A provider is fastadv, the loop of the papers, or another library, which comes with the extra `bench`.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import fastadv as fa
from bench import nets
from bench.clock import said

if TYPE_CHECKING:
    from bench.session import Session


@dataclass(frozen=True)
class Problem:
    """A net in eval mode, images in [0, 1] with labels, and the budget of PGD in L-infinity.

    `unit` is the precision in which the device takes the net's float32 products.
    """

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    radius: float
    step_size: float
    steps: int
    unit: str = "fp32"

    @property
    def threat(self) -> fa.Linf:
        return fa.Linf(self.radius)


def classes(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(x).argmax(1)
    return found


def plain(given: Problem, start: Tensor | None = None) -> Tensor:
    """The loop of the papers, written by hand: each step is a forward, an input gradient and a move."""
    x, x_adv = given.x, (given.x if start is None else start).clone()
    for _ in range(given.steps):
        x_adv.requires_grad_()
        loss = nn.functional.cross_entropy(given.model(x_adv), given.y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        moved = x_adv.detach() + given.step_size * grad.sign()
        x_adv = moved.clamp(x - given.radius, x + given.radius).clamp(0, 1)
    return x_adv


def ours(given: Problem, target: Any, *, stop_early: bool = False) -> Tensor:
    """fastadv's, at the model or a twin of it."""
    x_adv: Tensor = fa.attacks.pgd(
        target, given.x, given.y, given.threat, steps=given.steps, step_size=given.step_size,
        random_start=False, loss="ce", stop_early=stop_early,
    ).x_adv  # fmt: skip
    return x_adv


def passes(given: Problem, frozen: fa.Frozen) -> None:
    """What cannot be saved: the gradients of all steps, and the verdicts before and after."""
    frozen.verdict(given.x)
    for _ in range(given.steps):
        frozen.input_gradient(given.x, given.y, direction=True)
    frozen.verdict(given.x)


@dataclass(frozen=True)
class Net:
    """A net on which PGD is measured."""

    label: str  # as a case is called
    make: Callable[..., nn.Module]
    counts: tuple[int, int, int]  # images on a GPU, at tiny sizes and on a CPU; 0 where it is not measured
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


def problem(session: "Session", name: str, count: int = 0) -> Problem:
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


def mnist(session: "Session", count: int) -> tuple[str, nn.Module, Tensor, Tensor | None]:
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


Call = Callable[[], Tensor]


def torchattacks(given: Problem) -> Call:
    import torchattacks

    attack = torchattacks.PGD(
        given.model, eps=given.radius, alpha=given.step_size, steps=given.steps, random_start=False
    )
    return lambda: attack(given.x, given.y)


def foolbox(given: Problem) -> Call:
    import foolbox

    wrapped = foolbox.PyTorchModel(given.model, bounds=(0, 1), device=given.x.device)
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
        abs_stepsize=given.step_size, steps=given.steps, random_start=False
    )
    return lambda: attack(wrapped, given.x, given.y, epsilons=given.radius)[1]


def adv_lib(given: Problem) -> Call:
    """It gives the last point that fools the model instead of the last point."""
    import_module("fastadv._torchvision")  # adv-lib imports torchvision, which fails beside a CPU-only torch
    from adv_lib.attacks import pgd_linf

    return lambda: pgd_linf(
        given.model, given.x, given.y, given.radius, steps=given.steps, random_init=False,
        absolute_step_size=given.step_size,
    )  # fmt: skip


PEERS: dict[str, Callable[[Problem], Call]] = {
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "adv-lib": adv_lib,
}


def version_of(peer: str) -> str:
    """The version of a peer's package, or what its module says where it is not installed as a package."""
    try:
        return version(peer)
    except PackageNotFoundError:
        return str(getattr(import_module(peer), "__version__", "unknown"))


LOOP, COMPILED, EARLY = "plain loop", "torch.compile", "fastadv fp32, early stop"
FROZEN = tuple(f"fastadv {precision}, frozen once" for precision in ("fp32", "bf16"))
ALONE = "passes alone, "  # and the precision: no attack, but what an attack is measured by

Make = Callable[[Problem], Callable[[], Any]]


def compiled(given: Problem) -> Call:
    """Run the loop of the papers on a compiled model that needs no weight gradients."""
    model = copy.deepcopy(given.model).requires_grad_(False)
    return partial(plain, replace(given, model=torch.compile(model)))


def frozen(precision: Any, given: Problem, **options: Any) -> Call:
    """Run fastadv's on a model frozen beforehand, as for many batches."""
    return partial(ours, given, fa.freeze(given.model, precision), **options)


def alone(precision: Any, given: Problem) -> Callable[[], None]:
    return partial(passes, given, fa.freeze(given.model, precision))


# without early stop unless the name says so; a model is frozen within the call unless the name says so
PROVIDERS: dict[str, Make] = {
    LOOP: lambda given: partial(plain, given),
    COMPILED: compiled,
    "fastadv fp32": lambda given: partial(ours, given, given.model),
    "fastadv bf16": lambda given: lambda: ours(given, fa.freeze(given.model, precision="bf16")),
    EARLY: lambda given: partial(ours, given, given.model, stop_early=True),
    FROZEN[0]: partial(frozen, "fp32"),
    FROZEN[1]: partial(frozen, "bf16"),
    **PEERS,
}


def by_device(session: "Session") -> dict[str, Make]:
    """Choose the providers for the device: on a GPU none that compiles, which takes long."""
    if session.on_cpu:
        chosen = dict(PROVIDERS)
    else:
        chosen = {name: PROVIDERS[name] for name in (LOOP, "fastadv fp32")} | PEERS
        for name in session.precisions:
            chosen[f"fastadv {name}, frozen once"] = partial(frozen, name)
        chosen["fastadv bf16, early stop, frozen once"] = partial(frozen, "bf16", stop_early=True)
    return chosen | {f"{ALONE}{name}": partial(alone, name) for name in session.precisions}


def made(session: "Session", given: Problem, chosen: dict[str, Make]) -> dict[str, Callable[[], Any]]:
    """Make the calls of the providers that can run here, and note the others."""
    ways = {}
    for name, make in chosen.items():
        try:
            ways[name] = make(given)
        except ImportError as error:
            session.note(f"{name} is not installed or cannot run here; its rows are missing ({said(error)})")
    return ways
