"""`make gpu`, stage ops: each op on sizes that fill a GPU, and the launch widths of the row kernels tuned.

Each row gives the share of the copy bandwidth, or of the matrix product's rate, measured in the same run. The
bytes and operations are the least that the op's card counts. An op whose check fails is not measured.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import ops as eager_ops
from bench.gpu.correctness import checked, kernel_of, samples
from bench.gpu.session import Case, Row, Session, Skip, exact_convolutions, median, said
from bench.timing import quantiles, ratio
from fastadv.ops._samples import MNIST, random_decoder
from fastadv.ops.registration.library import CARDS

Args = tuple[Any, ...]
IMAGES = {
    "MNIST": ((1000, 1, 28, 28), (4, 1, 4, 4)),
    "CIFAR": ((4096, 3, 32, 32), (4, 3, 4, 4)),
    "ImageNet": ((128, 3, 224, 224), (2, 3, 8, 8)),
}
# radius and step size: a batch on its ball, and one inside a ball that it never leaves
STEPS = {
    "linf_step": {"": (8 / 255, 2 / 255)},
    "l2_step": {"on the ball": (0.5, 0.1), "inside": (1e3, 0.1)},
    "l1_step": {"": (12.0, 1.0)},
}
WIDTHS = ((256, 2), (512, 4), (1024, 4), (1024, 8), (2048, 8), (4096, 16))
OWN_GRAPHS = (
    "latent_fit",
    "latent_decode",
)  # too large for several sets; the first keeps a CUDA graph itself
NOISE = 0.98  # of the default's time; a smaller gain is none
TUNABLE = (
    "linf_step", "l2_step", "l1_step", "project_l2", "project_l1", "project_l0", "random_start",
    "quantize_in_ball", "keep_best_", "distance", "largest", "to_hyperplane", "square_linf", "square_l2",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One measurement: fresh arguments by seed, and the unit whose rate is the ceiling."""

    op: str
    label: str
    make: Callable[[int], Args]
    products: str = ""  # the precision of the matrix products that bound it; else bytes do


def problems(session: Session) -> Iterator[Problem]:
    """The sizes measured."""
    for images, sizes in session.size(IMAGES, {"CIFAR": IMAGES["CIFAR"]}).items():
        shape = session.size(*sizes)
        for dtype in (torch.float32, torch.bfloat16):
            yield from on_images(session, images, shape, dtype)
    count, classes = session.size((65_536, 10), (4, 3))
    for kind in ("ce", "margin", "dlr"):
        for width in (classes, session.size(1000, 5)):
            yield Problem(
                "logit_loss",
                f"{kind} {count}x{width}",
                lambda seed, kind=kind, width=width: (
                    session.randn(count, width, seed=seed),
                    torch.arange(count, device=session.device) % width,
                    kind,
                    None,
                    True,
                ),
            )
    for kind in ("uniform", "normal"):
        yield Problem(
            "philox",
            f"{kind} {session.size(4096, 4)}x3072",
            lambda seed, kind=kind: (
                torch.arange(session.size(4096, 4), device=session.device), 3072, kind, seed, 0,
            ),
        )  # fmt: skip
    yield from of_abs(session)


def on_images(session: Session, images: str, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[Problem]:
    """Ops on a batch of images."""
    label = f"{images} {'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"

    def near(seed: int) -> Args:
        x = session.rand(*shape, seed=seed)
        x_adv = (x + 0.03 * session.randn(*shape, seed=seed + 1000)).clamp(0, 1)
        return x_adv.to(dtype), session.randn(*shape, seed=seed + 2000).to(dtype), x.to(dtype)

    for op, regimes in STEPS.items():
        for regime, budget in regimes.items():
            yield Problem(op, f"{label} {regime}".strip(), lambda seed, b=budget: (*near(seed), *b, 0.0, 1.0))
    for op, radius in (("project_l2", 0.5), ("project_l1", 12.0), ("project_l0", 24.0)):
        yield Problem(op, label, lambda seed, r=radius: (*near(seed)[::2], r, 0.0, 1.0))
    for norm, radius in (("linf", 8 / 255), ("l2", 0.5), ("l1", 12.0), ("l0", 24.0)):
        yield Problem(
            "random_start",
            f"{norm} {label}",
            lambda seed, n=norm, r=radius: (
                near(seed)[2], torch.arange(shape[0], device=session.device), n, r, 0.0, 1.0, seed, 0,
            ),
        )  # fmt: skip
    if dtype in CARDS["quantize_in_ball"].dtypes:
        for norm, radius in (("linf", 8 / 255), ("l2", 2.0)):
            yield Problem(
                "quantize_in_ball",
                f"{norm} {label}",
                lambda seed, n=norm, r=radius: (*near(seed)[::2], n, r, 0.0, 1.0, 255),
            )

    yield from of_searches(session, label, shape, near)

    def scores(seed: int) -> Args:
        x_adv, _, best = near(seed)
        # every row wins, however often it is called
        return (
            best, torch.full(shape[:1], -math.inf, device=session.device),
            torch.zeros(shape[0], dtype=torch.bool, device=session.device), x_adv,
            session.rand(shape[0]), torch.zeros(shape[0], dtype=torch.bool, device=session.device),
        )  # fmt: skip

    yield Problem("keep_best_", label, scores)
    yield Problem("largest", label, lambda seed: near(seed)[1:2])
    for norm, order in (("linf", math.inf), ("l2", 2.0)):
        yield Problem("distance", f"{norm} {label}", lambda seed, p=order: (*near(seed)[::2], p, 0.0, 1.0))


def of_searches(
    session: Session, label: str, shape: tuple[int, ...], near: Callable[[int], Args]
) -> Iterator[Problem]:
    """The moves of FAB and Square: a hyperplane a hundredth away in Linf, windows of a tenth of the image."""

    def hyperplane(seed: int, norm: str) -> Args:
        x_adv, normal, _ = near(seed)
        return x_adv, normal, 0.01 * normal.double().abs().flatten(1).sum(1), norm, 0.0, 1.0

    for norm in ("linf", "l2", "l1"):
        yield Problem("to_hyperplane", f"{norm} {label}", lambda seed, norm=norm: hyperplane(seed, norm))
    count, image = shape[0], shape[1:]
    window = tuple(max(round(side * 0.1**0.5), 1) for side in image[1:])

    def words(seed: int, each: int) -> torch.Tensor:
        return (session.rand(count, each, seed=seed) * 2.0**32).long()

    def at_ends(seed: int) -> Args:
        best, _, x = near(seed)
        lower, upper = ((x + far).clamp(0, 1) for far in (-8 / 255, 8 / 255))
        return best, lower, upper, words(seed, 2 + image[0]), *image, *window

    def bumps(seed: int) -> Args:
        best, _, x = near(seed)
        each = session.rand(2, *window, seed=seed)
        each = each / each.flatten(1).norm(dim=1)[:, None, None]
        return best, x, words(seed, 5 + image[0]), each.to(x.dtype), *image, 0.5, 0.0, 1.0

    yield Problem("square_linf", label, at_ends)
    yield Problem("square_l2", label, bumps)


def of_abs(session: Session) -> Iterator[Problem]:
    """The ops of Analysis by Synthesis, at the sizes of its MNIST model."""
    batch, prior, steps = session.size((1000, 8000, 50), (2, 20, 2))
    decoder = random_decoder(torch.Generator().manual_seed(0), 10, MNIST, session.device, torch.float32)
    strides = [layer[3] for layer in MNIST]
    yield Problem(
        "nearest_prototype",
        f"{batch} x 10 x {prior} x 784",
        lambda seed: (
            session.rand(batch, 784, seed=seed), session.rand(10, prior, 784), session.rand(10, prior),
        ),
        "fp32",
    )  # fmt: skip
    yield Problem(
        "latent_decode",
        f"10 x {prior}",
        lambda seed: (session.randn(10, prior, 8, seed=seed), *decoder, strides),
        "fp32",
    )
    for precision in ("fp32", "bf16"):
        yield Problem(
            "latent_fit",
            f"{batch} x 10 x {steps} steps, {precision}",
            lambda seed, bf16=precision == "bf16": (
                session.rand(batch, 1, 28, 28, seed=seed), session.randn(batch, 10, 8, seed=seed), *decoder,
                strides, 1.0, steps, 0.05, 5.0, bf16,
            ),
            precision,
        )  # fmt: skip


def cases(session: Session) -> Iterator[Case]:
    for problem in problems(session):
        yield Case(f"{problem.op} {problem.label}", lambda p=problem: measured(session, p), needs=3)
    for name in TUNABLE:
        yield Case(f"tune {name}", lambda name=name: tuned(session, name), needs=30)


def gate(session: Session, name: str) -> None:
    """Raise unless the op equals its reference on a few samples: no figure of a wrong kernel."""
    if name in session.passed:
        return
    card = CARDS[name]
    with exact_convolutions():
        for dtype in card.dtypes:
            for args in samples(session, card, dtype)[:: session.size(7, 1)]:
                checked(card, kernel_of(session, card) if session.cuda else None, args)
    session.passed.add(name)


@dataclass(frozen=True)
class Way:
    """One provider's call, the arguments it takes in turn, and whether one CUDA graph can hold them all."""

    call: Callable[..., object]
    sets: list[Args]
    captured: bool = True


def measured(session: Session, problem: Problem) -> Iterator[Row]:
    """The op against the usual eager code, and that code compiled; times are of one call."""
    gate(session, problem.op)
    card = CARDS[problem.op]
    first = problem.make(0)
    moved, flops = card.bytes_moved(*first), card.flops(*first)
    sets = [first] if problem.op in OWN_GRAPHS else session.sets(problem.make, moved)
    ways = {"fastadv": fastadv(problem.op, sets), **eager(session, problem, sets)}
    runs: dict[str, Callable[[], object]] = {}
    calls: dict[str, int] = {}
    memory: dict[str, Row] = {}
    for name, way in ways.items():
        try:
            memory[name] = session.warmed(lambda way=way: way.call(*way.sets[0]))
            runs[name], calls[name] = session.rotating(way.call, way.sets, way.captured)
        except Exception as error:
            if session.dead():
                raise
            yield {"provider": name, "error": said(error)}
    if not runs:
        return
    taken = {name: [value / calls[name] for value in times] for name, times in session.times(runs).items()}
    base = "eager" if "eager" in taken else "reference"
    for name, values in taken.items():
        row: Row = {"provider": name, "sets": len(ways[name].sets), **quantiles(values), **memory[name]}
        if base in taken:
            row[f"times_{base}"] = round(ratio(taken[base], values), 2)
        if name == "fastadv":
            row |= (
                session.ceilings.share_of_products(flops, median(values), problem.products)
                if problem.products
                else session.ceilings.share_of_copy(moved, median(values))
            )
        yield row | {"turns": len(values)}


def fastadv(name: str, sets: list[Args]) -> Way:
    op = getattr(torch.ops.fastadv, f"{name}_" if CARDS[name].in_place else name)
    if name == "keep_best_":
        # a new best in every call: one small write more
        return Way(lambda *args: (args[1].fill_(-math.inf), op(*args)), sets)
    return Way(op, sets, name not in OWN_GRAPHS)


def eager(session: Session, problem: Problem, sets: list[Args]) -> dict[str, Way]:
    """The usual eager code of a step, plain and compiled; the op's own reference where there is none."""
    if problem.op == "latent_fit":
        from bench.abs import eager as descent

        x, z, weights, biases, strides, _, steps, *_ = sets[0]
        return {"eager": Way(descent, [(x, z, weights, biases, strides, steps)], captured=False)}
    # the usual L1 step takes a quantile, which bfloat16 lacks
    if problem.op not in eager_ops.STEPS or (problem.op == "l1_step" and "bfloat16" in problem.label):
        # references may wait for the device, and some are slow
        return {"reference": Way(CARDS[problem.op].reference, sets[:2], captured=False)}
    usual = eager_ops.STEPS[problem.op][0]
    radius = sets[0][3]
    if problem.op == "linf_step":  # the edges of its ball are given
        inputs = [(x_adv, grad, x - radius, x + radius) for x_adv, grad, x, *_ in sets]
    else:
        inputs = [args[:3] for args in sets]
    ways = {"eager": Way(usual, inputs)}
    # compiling takes seconds, and the rate is much the same for every size
    if session.cuda and "CIFAR" in problem.label and "float32" in problem.label:
        ways["torch.compile"] = Way(torch.compile(usual, dynamic=False), inputs)
    return ways


def tuned(session: Session, name: str) -> Iterator[Row]:
    """Every launch width on large batches; the one with the least product of times, as `winner`."""
    try:
        from fastadv.ops.triton._tuned import Width, trying
    except ImportError as error:
        raise Skip(f"Triton is not installed ({error})") from error
    if not session.cuda:
        raise Skip("widths are tuned on a GPU alone")
    gate(session, name)
    card, kernel = CARDS[name], f"{name.rstrip('_')}_kernel"
    own = [problem for problem in problems(session) if problem.op == name]
    chosen = [problem for problem in own if "float32" in problem.label and "MNIST" not in problem.label]
    sets = [session.sets(p.make, card.bytes_moved(*p.make(0))) for p in chosen]
    expected = [_result(name, p) for p in chosen]
    default = [_time(session, name, part) for part in sets]
    best, winner = 1.0, None
    for block, warps in WIDTHS:
        row: Row = {"provider": f"{block}/{warps}"}
        if session.left() <= 0:
            session.note(f"tune {name}: the stage's time was used up before {block}/{warps}")
            break
        with trying(kernel, Width(block, warps)):
            try:
                for problem, wanted in zip(chosen, expected, strict=True):
                    result = _result(name, problem)
                    if card.signature.written:
                        assert torch.equal(result, wanted), f"{problem.label}: another result"
                    else:
                        card.compare(result, wanted, problem.make(0))
                taken = [_time(session, name, part) for part in sets]
            except Exception as error:
                if session.dead():
                    raise
                yield row | {"error": said(error)}
                continue
        relative = math.exp(sum(math.log(t / d) for t, d in zip(taken, default, strict=True)) / len(chosen))
        yield row | {"times_default": round(1 / relative, 3)}
        if relative < best:
            best, winner = relative, {"BLOCK": block, "num_warps": warps}
    if best > NOISE:
        best, winner = 1.0, None
    yield {"provider": "winner", "kernel": kernel, "width": winner, "times_default": round(1 / best, 3)}


def _result(name: str, problem: Problem) -> Any:
    """What the op gives on the problem's first arguments."""
    args = problem.make(0)
    made = getattr(torch.ops.fastadv, name)(*args)
    return args[0] if made is None else made


def _time(session: Session, name: str, sets: list[Args]) -> float:
    """Milliseconds of one call, the median of a few."""
    way = fastadv(name, sets)
    run, calls = session.rotating(way.call, way.sets, way.captured)
    return median([session.timed(run) for _ in range(7)]) / calls


def write_tuned(path: Path, rows: list[Row]) -> bool:
    """Put the winners among `rows` into the table at `path`; whether there were any."""
    winners = [row for row in rows if row.get("provider") == "winner" and row.get("gpu")]
    table = json.loads(path.read_text()) if path.exists() else {}
    for row in winners:
        kernels = table.setdefault(row["gpu"], {})
        kernels.pop(row["kernel"], None)
        if row["width"]:
            kernels[row["kernel"]] = row["width"]
    if winners:
        path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")
    return bool(winners)
