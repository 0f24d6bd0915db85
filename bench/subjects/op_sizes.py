"""The sizes at which each op is measured: batches of images that users have, by device."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.session import Session
from fastadv.ops._samples import MNIST, random_decoder
from fastadv.ops.registration.library import CARDS

Args = tuple[Any, ...]
Shape = tuple[int, ...]
# by name: shapes on a GPU, in float32 and bfloat16, and at tiny sizes
IMAGES: dict[str, tuple[Shape, Shape]] = {
    "MNIST": ((1000, 1, 28, 28), (4, 1, 4, 4)),
    "CIFAR": ((4096, 3, 32, 32), (4, 3, 4, 4)),
    "ImageNet": ((128, 3, 224, 224), (2, 3, 8, 8)),
}
# on a CPU: of the steps, and of all other ops
STEP_SHAPES: tuple[Shape, ...] = ((1000, 3, 32, 32), (4000, 3, 32, 32), (64, 3, 224, 224), (1, 8))
SHAPE: Shape = (256, 3, 32, 32)
# radius and step size: a batch on its ball, and one inside a ball that it never leaves
STEPS: dict[str, dict[str, tuple[float, float]]] = {
    "linf_step": {"": (8 / 255, 2 / 255)},
    "l2_step": {"on the ball": (0.5, 0.1), "inside": (1e3, 0.1)},
    "l1_step": {"": (12.0, 1.0)},
}
STEPS_ON_CPU = {op: {"": next(iter(budgets.values()))} for op, budgets in STEPS.items()}
# too large for several sets; the first keeps a CUDA graph itself
OWN_GRAPHS = ("latent_fit", "latent_decode")
IN_ABS = ("latent_fit", "nearest_prototype")  # on a CPU bench/subjects/abs.py measures them


@dataclass(frozen=True)
class Problem:
    """One measurement of an op: fresh arguments by seed."""

    op: str
    variant: str  # what tells it from others of the op, apart from the shape
    label: str
    make: Callable[[int], Args]
    images: str = ""  # a key of IMAGES
    products: str = ""  # the precision of the matrix products that bound it; else bytes do

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.op, self.variant, self.label)))

    @property
    def what(self) -> str:
        """The name in rows, beside the shape."""
        op = f"{self.op}_" if CARDS[self.op].in_place else self.op
        return f"{op}, {self.variant}" if self.variant else op


def problems(session: Session) -> Iterator[Problem]:
    if session.on_cpu:
        yield from on_cpu(session)
        return
    for images, sizes in session.size(IMAGES, {"CIFAR": IMAGES["CIFAR"]}).items():
        shape = session.size(*sizes)
        for dtype in (torch.float32, torch.bfloat16):
            yield from steps(session, images, shape, dtype, STEPS)
            yield from on_images(session, images, shape, dtype)
    yield from on_rows(session)
    yield from of_abs(session)
    yield from unsized(session, {"noisy_copies", "count_votes_"})


def on_cpu(session: Session) -> Iterator[Problem]:
    """Yield problems in float32; an op without a size here gets the largest sample of its card."""
    for shape in STEP_SHAPES:
        yield from steps(session, "", shape, torch.float32, STEPS_ON_CPU)
    others = [*on_images(session, "", SHAPE, torch.float32), *on_rows(session)]
    yield from others
    known = {problem.op for problem in others} | STEPS.keys() | set(IN_ABS)
    yield from unsized(session, CARDS.keys() - known)


def unsized(session: Session, names: set[str]) -> Iterator[Problem]:
    for name, card in ((name, CARDS[name]) for name in sorted(names)):
        largest = max(card.samples(session.device, card.dtypes[0]), key=lambda args: args[0].numel())
        yield Problem(name, "", "a sample of its card", lambda seed, args=largest: args)


def _label(images: str, shape: Shape, dtype: torch.dtype) -> str:
    return f"{images} {'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}".strip()


def near(session: Session, shape: Shape, dtype: torch.dtype, seed: int) -> Args:
    x = session.rand(*shape, seed=seed)
    x_adv = (x + 0.03 * session.randn(*shape, seed=seed + 1000)).clamp(0, 1)
    return x_adv.to(dtype), session.randn(*shape, seed=seed + 2000).to(dtype), x.to(dtype)


def steps(
    session: Session, images: str, shape: Shape, dtype: torch.dtype, budgets: dict[str, Any]
) -> Iterator[Problem]:
    for op, regimes in budgets.items():
        for regime, budget in regimes.items():
            yield Problem(
                op, regime, _label(images, shape, dtype),
                lambda seed, b=budget: (*near(session, shape, dtype, seed), *b, 0.0, 1.0), images,
            )  # fmt: skip


def on_images(session: Session, images: str, shape: Shape, dtype: torch.dtype) -> Iterator[Problem]:
    def arguments(seed: int, shape: Shape) -> dict[tuple[str, str], Callable[[], Args]]:
        return of_points(session, *near(session, shape, dtype, seed), seed)

    for op, variant in arguments(0, (1, *shape[1:])):
        if dtype in CARDS[op].dtypes:
            make = partial(lambda key, seed: arguments(seed, shape)[key](), (op, variant))
            yield Problem(op, variant, _label(images, shape, dtype), make, images)


def of_points(
    session: Session, x_adv: Tensor, grad: Tensor, x: Tensor, seed: int
) -> dict[tuple[str, str], Callable[[], Args]]:
    """Return what makes arguments of points, gradients, images and a seed, by op and variant.

    The hyperplanes of FAB are a hundredth away in Linf, the windows of Square a tenth of the image. With the
    scores every row wins, however often the op is called.
    """
    count, image, box, whole = len(x), x.shape[1:], (0.0, 1.0), x[0].numel()
    window = tuple(max(round(side * 0.1**0.5), 1) for side in image[1:])
    radii = {"linf": 8 / 255, "l2": 0.5, "l1": 12.0, "l0": 24.0}
    ids = torch.arange(count, device=session.device)
    none, lowest = (
        torch.zeros_like(ids, dtype=torch.bool),
        torch.full_like(ids, -math.inf, dtype=torch.float32),
    )

    def words(each: int) -> Tensor:
        return (session.rand(count, each, seed=seed) * 2.0**32).long()

    def at_ends() -> Args:
        lower, upper = ((x + far).clamp(*box) for far in (-8 / 255, 8 / 255))
        return x_adv, lower, upper, words(3 + image[0]), *image, *window

    def bumps(norm: str, power: int, radius: float) -> Args:
        each = session.rand(2, *window, seed=seed)
        each = each / each.flatten(1).norm(power, dim=1)[:, None, None]
        return x_adv, x, words(5 + image[0]), each.to(x.dtype), *image, norm, radius, *box

    def exchanged() -> Args:
        few = session.rand(*x.shape, seed=seed) < 0.01
        leaving, differ = (torch.full_like(ids, int(share * whole)) for share in (0.002, 0.01))
        return torch.where(few, x_adv, x), x, ids, leaving, differ, *box, seed, 1

    def stepped() -> Args:
        ranks, logits = lowest[:, None].repeat(1, 12), session.rand(count, 10, seed=seed)
        known = x.clone(), lowest, none, none.clone(), lowest.clone(), ranks, none.clone()
        return (
            *known, x_adv, grad, logits, session.rand(count), torch.zeros_like(ids), None, True, False, x,
            8 / 255, 2 / 255, *box,
        )  # fmt: skip

    def across(taps: int) -> Args:
        right = torch.arange(taps, device=session.device, dtype=torch.int32) - taps // 2
        return torch.stack([0 * right, right], 1)[None], session.rand(1, taps)

    def led(norm: str) -> Args:
        return x_adv, grad, 0.01 * grad.double().abs().flatten(1).sum(1), norm, *box

    made: dict[tuple[str, str], Callable[[], Args]] = {
        ("square_linf", ""): at_ends,
        ("square_bumps", "l2"): lambda: bumps("l2", 2, 0.5),
        ("square_bumps", "l1"): lambda: bumps("l1", 1, 12.0),
        ("sparse_rs", ""): exchanged,
        ("stencil", "13 taps"): lambda: (x, *across(13)),
        ("keep_best_", ""): lambda: (x, lowest, none, x_adv, session.rand(count), none.clone()),
        ("judge_", ""): stepped,
        ("keep_nearest_", ""): lambda: (
            x.clone(), lowest, none, lowest[:, None].clone(), x, x_adv[:, None], ~none[:, None], 2.0,
        ),
        ("largest", ""): lambda: (grad,),
        ("distance", "linf"): lambda: (x_adv, x, math.inf, *box),
        ("distance", "l2"): lambda: (x_adv, x, 2.0, *box),
    }  # fmt: skip
    for norm, radius in radii.items():
        if norm != "linf":
            made[f"project_{norm}", ""] = partial(tuple, (x_adv, x, radius, *box))
        made["random_start", norm] = partial(tuple, (x, ids, norm, radius, *box, seed, 0))
        if norm != "l0":
            made["to_hyperplane", norm] = partial(led, norm)
    return made


def on_rows(session: Session) -> Iterator[Problem]:
    count, classes = session.size((65_536, 10), (4, 3), (1000, 10))

    def logits(seed: int, kind: str, width: int) -> Args:
        labels = torch.arange(count, device=session.device) % width
        return session.randn(count, width, seed=seed), labels, kind, None, True

    for kind in ("ce", "margin", "dlr"):
        for width in (classes, session.size(1000, 5)):
            yield Problem(
                "logit_loss", kind, f"{count}x{width}",
                lambda seed, kind=kind, width=width: logits(seed, kind, width),
            )  # fmt: skip
    rows = session.size(4096, 4, 256)
    yield Problem(
        "glass_shuffle", "", f"{rows}x3x32x32",
        lambda seed: (
            (256 * session.rand(rows, 3, 32, 32, seed=seed)).byte(),
            torch.arange(rows, device=session.device), 1, 2, seed,
        ),
    )  # fmt: skip
    for kind in ("uniform", "normal", "sign"):
        yield Problem(
            "philox", kind, f"{rows}x3072",
            lambda seed, kind=kind: (torch.arange(rows, device=session.device), 3072, kind, seed, 0),
        )  # fmt: skip


def of_abs(session: Session) -> Iterator[Problem]:
    """Yield the ops of Analysis by Synthesis, at the sizes of its MNIST model."""
    batch, prior, descent = session.size((1000, 8000, 50), (2, 20, 2))
    decoder = random_decoder(torch.Generator().manual_seed(0), 10, MNIST, session.device, torch.float32)
    strides = [layer[3] for layer in MNIST]
    yield Problem(
        "nearest_prototype", "", f"{batch} x 10 x {prior} x 784",
        lambda seed: (
            session.rand(batch, 784, seed=seed), session.rand(10, prior, 784), session.rand(10, prior),
        ),
        products="fp32",
    )  # fmt: skip
    yield Problem(
        "latent_decode", "", f"10 x {prior}",
        lambda seed: (session.randn(10, prior, 8, seed=seed), *decoder, strides), products="fp32",
    )  # fmt: skip
    for precision in ("fp32", "bf16"):
        yield Problem(
            "latent_fit", precision, f"{batch} x 10 x {descent} steps",
            lambda seed, bf16=precision == "bf16": (
                session.rand(batch, 1, 28, 28, seed=seed), session.randn(batch, 10, 8, seed=seed), *decoder,
                strides, 1.0, descent, 0.05, 5.0, bf16,
            ),
            products=precision,
        )  # fmt: skip
